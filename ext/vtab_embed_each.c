/* vtab_embed_each.c: a vector for each row of a query, a batch at a time.
**     CREATE TABLE embed_each(key, vector, n_tokens, error, query HIDDEN, options HIDDEN)
**     SELECT key, vector FROM embed_each('SELECT id, body FROM note');
** Rows come in the query's order. A NULL text gives a NULL vector; a text that fails gives one too, with the reason in
** error. The batch is the next BATCH rows: LIMIT takes effect when it is through, and memory is a batch's. */
#include "ext.h"

enum { COL_KEY, COL_VECTOR, COL_N_TOKENS, COL_ERROR, COL_QUERY, COL_OPTIONS };
enum { BATCH = 256 };

typedef struct {
    lm_each each;
    lm_vector_options options;
    sqlite3_value *keys[BATCH], *texts[BATCH];
    lm_err errs[BATCH];
    lm_shared *model;
    float *vectors;                     /* (BATCH, size) */
    int n_tokens[BATCH], size, n, at;
    sqlite3_int64 n_before;             /* rows of the batches before */
} each_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    info->estimatedCost = 1e12;
    info->estimatedRows = 1000000;
    return lm_vtab_take_args(vtab, info, "query", COL_QUERY, COL_OPTIONS);
}

static void clear_batch(each_cursor *cur) {
    for (int i = 0; i < cur->n; i++) {
        sqlite3_value_free(cur->keys[i]);
        sqlite3_value_free(cur->texts[i]);
    }
    cur->n_before += cur->n;
    cur->n = cur->at = 0;
}

static void clear(sqlite3_vtab_cursor *base) {
    each_cursor *cur = (each_cursor *)base;
    clear_batch(cur);
    sqlite3_finalize(cur->each.query);
    lm_vector_options_clear(&cur->options);
    lm_share_end(cur->model);
    lm_free(cur->vectors);
}

/* Take the next rows of the query and compute their vectors. No engine lock is held while the query runs. */
static void next_batch(each_cursor *cur, lm_err *err) {
    lm_conn *c = ((lm_vtab *)cur->each.base.pVtab)->c;
    lm_text texts[BATCH] = {{0}};
    clear_batch(cur);
    while (cur->n < BATCH && lm_each_read(&cur->each, &cur->keys[cur->n], &cur->texts[cur->n], err)) cur->n++;
    if (!cur->n || err->code) return;
    if (!cur->model) {                  /* for all batches: what is the default may change meanwhile */
        cur->model = lm_share_begin_adapted(c, cur->options.model, cur->options.adapter, "embed", err);
        cur->size = cur->model ? lm_vector_size(cur->model, &cur->options, err) : 0;
        cur->vectors = err->code ? NULL : lm_alloc((size_t)BATCH * (size_t)cur->size * sizeof *cur->vectors, err);
    }
    for (int i = 0; i < cur->n && !err->code; i++) {
        lm_err own = {0};
        if (!lm_value_text(cur->texts[i], &texts[i], "text", &own)) texts[i].text = NULL;
        if (own.code == LM_NOMEM) *err = own;
    }
    if (!err->code) lm_vectors(c, cur->model, &cur->options, texts, cur->n, cur->vectors, cur->n_tokens, cur->errs, err);
    for (int i = 0; i < cur->n && !err->code; i++) {
        lm_text unused;
        if (!texts[i].text) lm_value_text(cur->texts[i], &unused, "text", &cur->errs[i]);
    }
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text;
    each_cursor *cur = (each_cursor *)base;
    lm_err err = {0};
    lm_each_open(&cur->each, "embed_each", args[0], "key, text", &err);
    if (!err.code) lm_vector_options_read(&cur->options, n_args > 1 ? args[1] : NULL, &err);
    if (!err.code) next_batch(cur, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    each_cursor *cur = (each_cursor *)base;
    if (++cur->at == cur->n && !cur->each.at_end) next_batch(cur, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((each_cursor *)base)->at >= ((each_cursor *)base)->n; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const each_cursor *cur = (const each_cursor *)base;
    const lm_err *err = &cur->errs[cur->at];
    int has_vector = !err->code && sqlite3_value_type(cur->texts[cur->at]) != SQLITE_NULL;
    size_t size = (size_t)cur->size;
    switch (i) {
    case COL_KEY: sqlite3_result_value(ctx, cur->keys[cur->at]); break;
    case COL_VECTOR:
        if (has_vector) lm_result_vector(ctx, cur->vectors + (size_t)cur->at * size, size * sizeof *cur->vectors);
        break;
    case COL_N_TOKENS: if (has_vector) sqlite3_result_int(ctx, cur->n_tokens[cur->at]); break;
    case COL_ERROR: if (err->code) lm_result_text(ctx, err->msg, strlen(err->msg)); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((each_cursor *)base)->n_before + ((each_cursor *)base)->at;
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "embed_each", "CREATE TABLE embed_each(key, vector, n_tokens, error, query HIDDEN, options HIDDEN)",
    1, sizeof(each_cursor), clear,
};

int lm_vtab_embed_each_register(lm_conn *c) { return lm_table_register(c, &table); }

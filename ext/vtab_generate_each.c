/* vtab_generate_each.c: an answer for each row of a query, many at a time.
**     CREATE TABLE generate_each(key, text, n_prompt, n_tokens, finish, error, query HIDDEN, options HIDDEN)
**     SELECT key, text FROM generate_each('SELECT id, body FROM note', '{"max_tokens":40}');
** Rows come in the query's order. A NULL prompt gives a NULL text; a prompt that fails gives one too, with the reason in
** error. One batch goes on from row to row: rows are read as slots come free, at most WINDOW beyond the row that is
** given next. LIMIT ends the work; memory is a window's. No engine lock is held while the query runs. */
#include "ext.h"

enum { COL_KEY, COL_TEXT, COL_N_PROMPT, COL_N_TOKENS, COL_FINISH, COL_ERROR, COL_QUERY, COL_OPTIONS };
enum { WINDOW = 256, OPEN_MAX = 64 };   /* rows that are held; of them, those that are not answered yet */

typedef struct {
    sqlite3_value *key, *prompt;
    lm_buf text;
    int n_prompt, n_tokens, finish;     /* finish LM_FINISH_NONE: NULL, or failed */
    int is_done;
    lm_err err;
} row;

typedef struct {
    lm_each each;
    lm_generate_options options;
    lm_shared *model;
    lm_batch *batch;
    row rows[WINDOW]; int first, n, n_open;     /* a ring */
    int row_of[OPEN_MAX];               /* by sequence */
    sqlite3_int64 n_before;             /* rows given before the first */
} each_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    info->estimatedCost = 1e12;
    info->estimatedRows = 1000000;
    return lm_vtab_take_args(vtab, info, "query", COL_QUERY, COL_OPTIONS);
}

static void drop_first(each_cursor *cur) {
    row *r = &cur->rows[cur->first];
    sqlite3_value_free(r->key);
    sqlite3_value_free(r->prompt);
    lm_buf_clear(&r->text);
    cur->first = (cur->first + 1) % WINDOW;
    cur->n--;
    cur->n_before++;
}

static void clear(sqlite3_vtab_cursor *base) {
    each_cursor *cur = (each_cursor *)base;
    while (cur->n) drop_first(cur);
    sqlite3_finalize(cur->each.query);
    lm_batch_free(cur->batch);
    lm_share_end(cur->model);
    lm_generate_options_clear(&cur->options);
}

/* The row's sequence has ended. */
static void end_row(each_cursor *cur, row *r, int seq, int finish) {
    r->finish = finish;
    r->is_done = 1;
    cur->n_open--;
    lm_batch_drop(cur->batch, seq);
}

/* Put a row that was just read into the batch; an error in its prompt is its own. */
static void start_row(lm_conn *c, each_cursor *cur, int i, lm_err *err) {
    row *r = &cur->rows[i];
    lm_text prompt;
    if (!cur->model) cur->model = lm_share_begin_adapted(c, cur->options.model, cur->options.adapter, "generate", err);
    if (cur->model && !cur->batch) cur->batch = lm_batch_new(cur->model->model, err);
    if (err->code) return;
    int seq = -1;
    if (lm_value_text(r->prompt, &prompt, "prompt", &r->err)) {
        seq = lm_prompt_add(c, cur->model, &cur->options, prompt, 0, cur->batch, &r->n_prompt, &r->err);
    }
    r->is_done = seq < 0;
    if (r->err.code && r->err.code != LM_ERROR) *err = r->err;
    if (seq < 0) return;
    cur->row_of[seq] = i;
    cur->n_open++;
    if (lm_batch_finish(cur->batch, seq)) end_row(cur, r, seq, lm_batch_finish(cur->batch, seq));
}

static void read_rows(lm_conn *c, each_cursor *cur, lm_err *err) {
    while (cur->n < WINDOW && cur->n_open < OPEN_MAX && !err->code) {
        int i = (cur->first + cur->n) % WINDOW;
        cur->rows[i] = (row){0};
        if (!lm_each_read(&cur->each, &cur->rows[i].key, &cur->rows[i].prompt, err)) return;
        cur->n++;
        start_row(c, cur, i, err);
    }
}

/* Go on until the first row is done. */
static void finish_first(each_cursor *cur, lm_err *err) {
    lm_conn *c = ((lm_vtab *)cur->each.base.pVtab)->c;
    lm_token token;
    read_rows(c, cur, err);
    while (cur->n && !cur->rows[cur->first].is_done && !err->code
           && lm_batch_next(cur->batch, lm_conn_stop(c), &token, err) > 0) {
        row *r = &cur->rows[cur->row_of[token.seq]];
        lm_buf_append(&r->text, token.piece, token.piece_n, err);
        r->n_tokens++;
        if (!token.finish) continue;
        end_row(cur, r, token.seq, token.finish);
        read_rows(c, cur, err);
    }
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text;
    each_cursor *cur = (each_cursor *)base;
    lm_err err = {0};
    lm_each_open(&cur->each, "generate_each", args[0], "key, prompt", &err);
    if (!err.code) lm_generate_options_read(&cur->options, n_args > 1 ? args[1] : NULL, 0, &err);
    finish_first(cur, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    each_cursor *cur = (each_cursor *)base;
    lm_err err = {0};
    drop_first(cur);
    finish_first(cur, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return !((each_cursor *)base)->n; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const each_cursor *cur = (const each_cursor *)base;
    const row *r = &cur->rows[cur->first];
    const char *finish = lm_finish_name(r->finish);
    switch (i) {
    case COL_KEY: sqlite3_result_value(ctx, r->key); break;
    case COL_TEXT: if (r->finish) lm_result_text(ctx, r->text.data, r->text.n); break;
    case COL_N_PROMPT: if (r->finish) sqlite3_result_int(ctx, r->n_prompt); break;
    case COL_N_TOKENS: if (r->finish) sqlite3_result_int(ctx, r->n_tokens); break;
    case COL_FINISH: if (r->finish) lm_result_text(ctx, finish, strlen(finish)); break;
    case COL_ERROR: if (r->err.code) lm_result_text(ctx, r->err.msg, strlen(r->err.msg)); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((each_cursor *)base)->n_before;
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "generate_each", "CREATE TABLE generate_each(key, text, n_prompt, n_tokens, finish, error, query HIDDEN, options HIDDEN)",
    1, sizeof(each_cursor), clear,
};

int lm_vtab_generate_each_register(lm_conn *c) { return lm_table_register(c, &table); }

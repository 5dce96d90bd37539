/* vtab_vocab.c: the tokens a model knows, one row each.
**     CREATE TABLE lm_vocab(id, piece, score, kind, of_model HIDDEN)
**     SELECT id, piece FROM lm_vocab('gemma3') WHERE kind = 'user' LIMIT 5;
** piece is the vocabulary's own spelling; score is NULL where it has none. Rows come out in id order, and one id is
** found without the others. */
#include "ext.h"

#include <math.h>

enum { COL_ID, COL_PIECE, COL_SCORE, COL_KIND, COL_OF_MODEL };
enum { HAS_MODEL = 1, HAS_ID = 2 };

typedef struct {
    sqlite3_vtab_cursor base;
    lm_found f;
    lm_shared *model;
    const lm_tok *tok;
    int id, end;
} vocab_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    (void)vtab;
    int n_args = 0, no_model = 0, no_id = 0;
    if (lm_vtab_take_arg(info, COL_OF_MODEL, 1, &n_args, &no_model)) info->idxNum |= HAS_MODEL;
    if (lm_vtab_take_arg(info, COL_ID, 0, &n_args, &no_id)) info->idxNum |= HAS_ID;
    /* A plan without the model that is asked for has the default's rows only: never the cheaper way. */
    info->estimatedCost = (info->idxNum & HAS_ID ? 10 : 1e5) * (info->idxNum & HAS_MODEL ? 1 : 1e6);
    info->estimatedRows = info->idxNum & HAS_ID ? 1 : 100000;
    lm_vtab_ordered(info, COL_ID);
    return no_model && !(info->idxNum & HAS_MODEL) ? SQLITE_CONSTRAINT : SQLITE_OK;
}

static void clear(sqlite3_vtab_cursor *base) {
    vocab_cursor *cur = (vocab_cursor *)base;
    lm_share_end(cur->model);
    lm_found_clear(&cur->f);
    *cur = (vocab_cursor){ .base = cur->base };
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan_text;
    vocab_cursor *cur = (vocab_cursor *)base;
    lm_err err = {0};
    lm_text name = {0};
    clear(base);
    int has_name = plan & HAS_MODEL && lm_value_text(args[0], &name, "model", &err);
    lm_conn *c = ((lm_vtab *)base->pVtab)->c;
    if (!err.code) lm_store_find(c, has_name ? name.text : NULL, "generate|embed", &cur->f, &err);
    if (!err.code) cur->model = lm_share_begin(c, has_name ? name.text : NULL, "generate|embed", &err);
    if (cur->model) cur->tok = lm_model_tok(cur->model->model);
    if (cur->tok) cur->end = lm_tok_count(cur->tok);
    if (cur->tok && plan & HAS_ID && sqlite3_value_type(args[n_args - 1]) == SQLITE_INTEGER) {
        sqlite3_int64 id = sqlite3_value_int64(args[n_args - 1]);
        int known = id >= 0 && id < cur->end;
        cur->id = known ? (int)id : 0;
        cur->end = known ? (int)id + 1 : 0;
    }
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    ((vocab_cursor *)base)->id++;
    return SQLITE_OK;
}

static int eof(sqlite3_vtab_cursor *base) { return ((vocab_cursor *)base)->id >= ((vocab_cursor *)base)->end; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    static const char *const kinds[] = { "", "normal", "unknown", "control", "user", "unused", "byte" };
    const vocab_cursor *cur = (const vocab_cursor *)base;
    lm_err err = {0};
    lm_buf repaired = {0};
    size_t n;
    const char *text = lm_tok_text(cur->tok, cur->id, &n);
    double score = lm_tok_score(cur->tok, cur->id);
    switch (i) {
    case COL_ID: sqlite3_result_int(ctx, cur->id); break;
    case COL_PIECE:
        lm_utf8_repair(&repaired, text, n, &err);
        if (err.code) lm_result_error(ctx, &err);
        else lm_result_text(ctx, repaired.data, repaired.n);
        lm_buf_clear(&repaired);
        break;
    case COL_SCORE: if (!isnan(score)) sqlite3_result_double(ctx, score); break;
    case COL_KIND: sqlite3_result_text(ctx, kinds[lm_tok_type(cur->tok, cur->id)], -1, SQLITE_STATIC); break;
    case COL_OF_MODEL: lm_result_model(ctx, cur->f.schema, cur->f.name); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    const vocab_cursor *cur = (const vocab_cursor *)base;
    sqlite3_int64 first = (sqlite3_int64)((sqlite3_uint64)cur->f.id << 32);
    *out = lm_vtab_rowid(((lm_vtab *)base->pVtab)->c, cur->f.schema, first + cur->id);
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "lm_vocab", "CREATE TABLE lm_vocab(id INTEGER, piece, score, kind, of_model HIDDEN)",
    0, sizeof(vocab_cursor), clear,
};

int lm_vtab_vocab_register(lm_conn *c) {
    return lm_table_register(c, &table);
}

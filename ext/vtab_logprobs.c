/* vtab_logprobs.c: how a model reads a text, one row a token.
**     CREATE TABLE lm_logprobs(pos, id, piece, logprob, rank, entropy, top, text HIDDEN, options HIDDEN)
**     SELECT piece, logprob, rank, top FROM lm_logprobs('The capital of France is Paris');
** What the model puts before every text is read, not listed; where it puts nothing, nothing precedes the first token, and
** logprob to top are NULL. Rows come out in pos order, as they are computed, so LIMIT stops the work. */
#include "ext.h"

enum { COL_POS, COL_ID, COL_PIECE, COL_LOGPROB, COL_RANK, COL_ENTROPY, COL_TOP, COL_TEXT, COL_OPTIONS };

typedef struct {
    sqlite3_vtab_cursor base;
    lm_shared *model;
    lm_scorer *scorer;
    lm_ids ids; size_t lead, at;
    lm_score score; int is_scored;      /* of this row */
    lm_pieces pieces;
} logprobs_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    info->estimatedCost = 1e12;
    info->estimatedRows = 100;
    lm_vtab_ordered(info, COL_POS);
    return lm_vtab_take_args(vtab, info, "text", COL_TEXT, COL_OPTIONS);
}

static void clear(sqlite3_vtab_cursor *base) {
    logprobs_cursor *cur = (logprobs_cursor *)base;
    lm_scorer_free(cur->scorer);
    lm_share_end(cur->model);
    lm_ids_clear(&cur->ids);
    lm_pieces_clear(&cur->pieces);
    *cur = (logprobs_cursor){ .base = cur->base };
}

/* Take the row at `at`, if there is one. */
static void take_row(logprobs_cursor *cur, lm_err *err) {
    lm_conn *c = ((lm_vtab *)cur->base.pVtab)->c;
    if (cur->at >= cur->ids.n || err->code) return;
    lm_pieces_take(&cur->pieces, lm_model_tok(cur->model->model), &cur->ids, cur->at, err);
    cur->is_scored = cur->at > 0 && lm_scorer_next(cur->scorer, lm_conn_stop(c), &cur->score, err) > 0;
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text;
    logprobs_cursor *cur = (logprobs_cursor *)base;
    lm_conn *c = ((lm_vtab *)base->pVtab)->c;
    lm_err err = {0};
    lm_text text;
    lm_raw_options o;
    clear(base);
    lm_raw_options_read(&o, n_args > 1 ? args[1] : NULL, &err);
    if (lm_value_text(args[0], &text, "text", &err) && !err.code) {
        cur->model = lm_share_begin_adapted(c, o.model, o.adapter, "generate", &err);
        if (cur->model) cur->scorer = lm_raw_start(c, cur->model, &o, text, 1, &cur->ids, &cur->lead, &err);
        cur->at = cur->lead;
        take_row(cur, &err);
    }
    lm_raw_options_clear(&o);
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    logprobs_cursor *cur = (logprobs_cursor *)base;
    cur->at++;
    take_row(cur, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((logprobs_cursor *)base)->at >= ((logprobs_cursor *)base)->ids.n; }

/* What the most probable token would have added to the text. */
static void result_top(sqlite3_context *ctx, const logprobs_cursor *cur) {
    const lm_tok *tok = lm_model_tok(cur->model->model);
    lm_err err = {0};
    lm_buf text = {0};
    size_t n = 0;
    int32_t id = cur->score.top;
    if (id >= lm_tok_count(tok)) return;        /* the output may have more rows than the vocabulary has tokens */
    const char *bytes = lm_tok_bytes(tok, id, &n);
    int drop = lm_tok_drops_space(tok, cur->ids.data[cur->at - 1], id);
    lm_utf8_repair(&text, bytes + drop, n - (size_t)drop, &err);
    if (err.code) lm_result_error(ctx, &err);
    else lm_result_text(ctx, text.data, text.n);
    lm_buf_clear(&text);
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const logprobs_cursor *cur = (const logprobs_cursor *)base;
    switch (i) {
    case COL_POS: sqlite3_result_int64(ctx, (sqlite3_int64)(cur->at - cur->lead)); break;
    case COL_ID: sqlite3_result_int(ctx, cur->ids.data[cur->at]); break;
    case COL_PIECE: lm_result_text(ctx, cur->pieces.piece.data, cur->pieces.piece.n); break;
    case COL_LOGPROB: if (cur->is_scored) sqlite3_result_double(ctx, cur->score.logprob); break;
    case COL_RANK: if (cur->is_scored) sqlite3_result_int(ctx, cur->score.rank); break;
    case COL_ENTROPY: if (cur->is_scored) sqlite3_result_double(ctx, cur->score.entropy); break;
    case COL_TOP: if (cur->is_scored) result_top(ctx, cur); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = (sqlite3_int64)((logprobs_cursor *)base)->at;
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "lm_logprobs", "CREATE TABLE lm_logprobs(pos, id, piece, logprob, rank, entropy, top, text HIDDEN, options HIDDEN)",
    0, sizeof(logprobs_cursor), clear,
};

int lm_vtab_logprobs_register(lm_conn *c) {
    return lm_table_register(c, &table);
}

/* vtab_stream.c: an answer as it comes, one row a token.
**     CREATE TABLE generate_stream(step, token, piece, logprob, prompt HIDDEN, options HIDDEN)
**     SELECT piece, logprob FROM generate_stream('Write one sentence about the sea.') LIMIT 10;
** A token is computed when its row is asked for, so LIMIT stops the work. piece is empty while a character
** is incomplete or a stop text may be on its way. */
#include "ext.h"

enum { COL_STEP, COL_TOKEN, COL_PIECE, COL_LOGPROB, COL_PROMPT, COL_OPTIONS };

typedef struct {
    sqlite3_vtab_cursor base;
    lm_generate_options options;
    lm_shared *model;
    lm_batch *batch;
    lm_token token;
    sqlite3_int64 step;
    int done;
} stream_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    info->estimatedCost = 1e12;
    info->estimatedRows = 256;
    return lm_vtab_take_args(vtab, info, "prompt", COL_PROMPT, COL_OPTIONS);
}

static void clear(sqlite3_vtab_cursor *base) {
    stream_cursor *cur = (stream_cursor *)base;
    lm_batch_free(cur->batch);
    lm_share_end(cur->model);
    lm_generate_options_clear(&cur->options);
    *cur = (stream_cursor){ .base = cur->base, .done = 1 };
}

static void advance(stream_cursor *cur, lm_err *err) {
    lm_conn *c = ((lm_vtab *)cur->base.pVtab)->c;
    cur->step++;
    cur->done = err->code || lm_batch_next(cur->batch, lm_conn_stop(c), &cur->token, err) <= 0;
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text;
    stream_cursor *cur = (stream_cursor *)base;
    lm_conn *c = ((lm_vtab *)base->pVtab)->c;
    lm_err err = {0};
    lm_text prompt;
    clear(base);
    lm_generate_options_read(&cur->options, n_args > 1 ? args[1] : NULL, 0, &err);
    if (lm_value_text(args[0], &prompt, "prompt", &err) && !err.code) {
        cur->model = lm_share_begin_adapted(c, cur->options.model, cur->options.adapter, "generate", &err);
        if (cur->model) cur->batch = lm_prompt_start(c, cur->model, &cur->options, prompt, 1, &err);
        if (cur->batch) advance(cur, &err);
    }
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    advance((stream_cursor *)base, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((stream_cursor *)base)->done; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const stream_cursor *cur = (const stream_cursor *)base;
    switch (i) {
    case COL_STEP: sqlite3_result_int64(ctx, cur->step - 1); break;
    case COL_TOKEN: sqlite3_result_int(ctx, cur->token.id); break;
    case COL_PIECE: lm_result_text(ctx, cur->token.piece, cur->token.piece_n); break;
    case COL_LOGPROB: sqlite3_result_double(ctx, cur->token.logprob); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((stream_cursor *)base)->step - 1;
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "generate_stream", "CREATE TABLE generate_stream(step, token, piece, logprob, prompt HIDDEN, options HIDDEN)",
    0, sizeof(stream_cursor), clear,
};

int lm_vtab_stream_register(lm_conn *c) {
    return lm_table_register(c, &table);
}

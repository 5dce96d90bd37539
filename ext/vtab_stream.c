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

static int connect(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error) {
    (void)n_args, (void)args, (void)error;
    return lm_vtab_new(db, aux, "CREATE TABLE generate_stream(step, token, piece, logprob, prompt HIDDEN, options HIDDEN)", sizeof(lm_vtab), out);
}

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    (void)vtab;
    info->estimatedCost = 1e12;
    info->estimatedRows = 256;
    return lm_vtab_take_args(info, COL_PROMPT, COL_OPTIONS);
}

static int open_cursor(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
    (void)vtab;
    stream_cursor *cur = sqlite3_malloc64(sizeof *cur);
    if (!cur) return SQLITE_NOMEM;
    *cur = (stream_cursor){ .done = 1 };
    *out = &cur->base;
    return SQLITE_OK;
}

static void clear(stream_cursor *cur) {
    lm_batch_free(cur->batch);
    lm_share_end(cur->model);
    lm_generate_options_clear(&cur->options);
    *cur = (stream_cursor){ .base = cur->base, .done = 1 };
}

static int close_cursor(sqlite3_vtab_cursor *base) {
    clear((stream_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
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
    clear(cur);
    lm_generate_options_read(&cur->options, n_args > 1 ? args[1] : NULL, 0, &err);
    if (lm_value_text(args[0], &prompt, "prompt", &err) && !err.code) {
        cur->model = lm_share_begin_adapted(c, cur->options.model, cur->options.adapter, &err);
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

static const sqlite3_module module = {
    .xConnect = connect, .xBestIndex = best_index, .xDisconnect = lm_vtab_free, .xOpen = open_cursor, .xClose = close_cursor,
    .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid,
};

int lm_vtab_stream_register(lm_conn *c) {
    return lm_register_table(c, "generate_stream", &module);
}

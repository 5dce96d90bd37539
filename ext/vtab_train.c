/* vtab_train.c: training, one row a step.
**     CREATE TABLE lm_train(step, epoch, tokens, loss, val_loss, lr, grad_norm, tokens_per_s, seconds, event, options HIDDEN)
**     SELECT step, loss, val_loss, event FROM lm_train('{"model":"mood","query":"SELECT text, label FROM review"}');
** A step is taken when its row is asked for. The last row comes when what was learnt is written; whoever asks for fewer
** (LIMIT) leaves a run that can be resumed from its last checkpoint, and the model as it was. */
#include "train.h"

enum { COL_STEP, COL_EPOCH, COL_TOKENS, COL_LOSS, COL_VAL_LOSS, COL_LR, COL_GRAD_NORM, COL_TOKENS_PER_S, COL_SECONDS, COL_EVENT, COL_OPTIONS };

typedef struct {
    sqlite3_vtab_cursor base;
    lm_run run;
    int was_filtered, at_end;
} train_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    info->estimatedCost = 1e12;
    info->estimatedRows = 1000000;
    return lm_vtab_take_args(vtab, info, "options", COL_OPTIONS, -1);
}

static void clear(sqlite3_vtab_cursor *base) { lm_run_close(&((train_cursor *)base)->run); }

/* Training that failed is over. */
static int advance(train_cursor *cur, lm_err *err) {
    if (!err->code) lm_run_next(&cur->run, err);
    cur->at_end = err->code || cur->run.is_done;
    return lm_vtab_fail(cur->base.pVtab, err);
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text, (void)n_args;
    train_cursor *cur = (train_cursor *)base;
    lm_err err = {0};
    lm_text options;
    if (cur->was_filtered) {
        lm_err_set(
            &err, LM_ERROR,
            "lm_train would run again for each row of a join: WITH t AS MATERIALIZED (SELECT * FROM lm_train(…)) SELECT …");
    }
    cur->was_filtered = cur->at_end = 1;
    if (!err.code && !lm_value_text(args[0], &options, "options", &err)) return lm_vtab_fail(base->pVtab, &err);
    if (!err.code) lm_run_open(&cur->run, ((lm_vtab *)base->pVtab)->c, options, &err);
    return advance(cur, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    return advance((train_cursor *)base, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((train_cursor *)base)->at_end; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const lm_run_row *row = &((train_cursor *)base)->run.row;
    switch (i) {
    case COL_STEP: sqlite3_result_int64(ctx, row->step); break;
    case COL_EPOCH: sqlite3_result_int64(ctx, row->epoch); break;
    case COL_TOKENS: sqlite3_result_int64(ctx, row->tokens); break;
    case COL_LOSS: sqlite3_result_double(ctx, row->loss); break;
    case COL_VAL_LOSS: if (row->has_val) sqlite3_result_double(ctx, row->val_loss); break;
    case COL_LR: sqlite3_result_double(ctx, row->lr); break;
    case COL_GRAD_NORM: sqlite3_result_double(ctx, row->grad_norm); break;
    case COL_TOKENS_PER_S: sqlite3_result_double(ctx, row->tokens_per_s); break;
    case COL_SECONDS: sqlite3_result_double(ctx, row->seconds); break;
    case COL_EVENT: if (*row->event) lm_result_text(ctx, row->event, strlen(row->event)); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((train_cursor *)base)->run.row.step;
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "lm_train", "CREATE TABLE lm_train(step, epoch, tokens, loss, val_loss, lr, grad_norm, tokens_per_s, seconds, event, options HIDDEN)",
    1, sizeof(train_cursor), clear,
};

int lm_vtab_train_register(lm_conn *c) { return lm_table_register(c, &table); }

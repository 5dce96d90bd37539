/* vtab_tokens.c: the tokens of a text, one row each.
**     CREATE TABLE lm_tokens(pos, id, piece, text HIDDEN, options HIDDEN)
**     SELECT pos, id, piece FROM lm_tokens('Hello, world');
** piece is what the token adds to the text, empty while a character is incomplete: joined, the pieces are
** the text. Rows come out in pos order. */
#include "ext.h"

enum { COL_POS, COL_ID, COL_PIECE, COL_TEXT, COL_OPTIONS };

typedef struct {
    sqlite3_vtab_cursor base;
    lm_shared *model;
    lm_ids ids;
    size_t at;
    lm_pieces pieces;
} tokens_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    info->estimatedCost = 1000;
    info->estimatedRows = 100;
    lm_vtab_ordered(info, COL_POS);
    return lm_vtab_take_args(vtab, info, "text", COL_TEXT, COL_OPTIONS);
}

static void clear(sqlite3_vtab_cursor *base) {
    tokens_cursor *cur = (tokens_cursor *)base;
    lm_share_end(cur->model);
    lm_ids_clear(&cur->ids);
    lm_pieces_clear(&cur->pieces);
    *cur = (tokens_cursor){ .base = cur->base };
}

static void set_piece(tokens_cursor *cur, lm_err *err) {
    if (cur->at < cur->ids.n) lm_pieces_take(&cur->pieces, lm_model_tok(cur->model->model), &cur->ids, cur->at, err);
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text;
    tokens_cursor *cur = (tokens_cursor *)base;
    lm_conn *c = ((lm_vtab *)base->pVtab)->c;
    lm_err err = {0};
    lm_text text;
    clear(base);
    if (lm_value_text(args[0], &text, "text", &err)) {
        cur->model = lm_tokens_begin(c, text, n_args > 1 ? args[1] : NULL, &cur->ids, &err);
        if (cur->model) set_piece(cur, &err);
    }
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    tokens_cursor *cur = (tokens_cursor *)base;
    cur->at++;
    set_piece(cur, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((tokens_cursor *)base)->at >= ((tokens_cursor *)base)->ids.n; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const tokens_cursor *cur = (const tokens_cursor *)base;
    switch (i) {
    case COL_POS: sqlite3_result_int64(ctx, (sqlite3_int64)cur->at); break;
    case COL_ID: sqlite3_result_int(ctx, cur->ids.data[cur->at]); break;
    case COL_PIECE: lm_result_text(ctx, cur->pieces.piece.data, cur->pieces.piece.n); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = (sqlite3_int64)((tokens_cursor *)base)->at;
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "lm_tokens", "CREATE TABLE lm_tokens(pos, id, piece, text HIDDEN, options HIDDEN)",
    0, sizeof(tokens_cursor), clear,
};

int lm_vtab_tokens_register(lm_conn *c) {
    return lm_table_register(c, &table);
}

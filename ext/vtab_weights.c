/* vtab_weights.c: the numbers of one tensor, one row each: a model's dials.
**     CREATE TABLE lm_weights(row INTEGER, col INTEGER, value REAL, model HIDDEN, tensor HIDDEN)
**     SELECT row, col, value FROM lm_weights('tiny', 'blk.0.ffn_up.weight') WHERE row = 3;
**     UPDATE lm_weights SET value = value * 1.1 WHERE model = 'tiny' AND tensor = 'blk.0.ffn_up.weight' AND row = 3;
** The tensor must be given; the model may be left out where one is meant anyway. Conditions on row and col bound what
** is read. Every format reads; f32, f16 and bf16 in main can be written. A change is part of the transaction, as
** that of any row. A rowid is which database, the tensor's id and the element's index, in 8, 20 and 36 bits. */
#include "ext.h"

enum { COL_ROW, COL_COL, COL_VALUE, COL_MODEL, COL_TENSOR };
enum { INDEX_BITS = 36, TENSOR_BITS = 20, NO_TENSOR = 1 };

typedef struct { lm_vtab base; lm_cells cells; } weights_vtab;      /* cells: of the last write */

typedef struct {
    sqlite3_vtab_cursor base;
    lm_cells cells;
    int64_t low[2], high[2];            /* of row and col: the first, and one past the last */
    int64_t row, col;
    sqlite3_int64 first_rowid;          /* of element 0 */
} weights_cursor;

static int connect(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error) {
    (void)n_args, (void)args, (void)error;
    int rc = lm_vtab_new(db, aux,
                         "CREATE TABLE lm_weights(row INTEGER, col INTEGER, value REAL, model HIDDEN, tensor HIDDEN)",
                         sizeof(weights_vtab), out);
    return rc == SQLITE_OK ? sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY) : rc;
}

/* A condition that filter can use becomes two letters of the plan's text: which column, which comparison. */
static const char *usable(const struct sqlite3_index_constraint *k) {
    static const char *const columns[] = { "r", "c", NULL, "m", "t" };
    if (k->iColumn < 0 || k->iColumn > COL_TENSOR || !columns[k->iColumn]) return NULL;
    switch (k->op) {
    case SQLITE_INDEX_CONSTRAINT_EQ: return "=";
    case SQLITE_INDEX_CONSTRAINT_GT: return k->iColumn < COL_MODEL ? ">" : NULL;
    case SQLITE_INDEX_CONSTRAINT_GE: return k->iColumn < COL_MODEL ? "g" : NULL;
    case SQLITE_INDEX_CONSTRAINT_LT: return k->iColumn < COL_MODEL ? "<" : NULL;
    case SQLITE_INDEX_CONSTRAINT_LE: return k->iColumn < COL_MODEL ? "l" : NULL;
    default: return NULL;
    }
}

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    (void)vtab;
    char *plan = sqlite3_malloc64(2 * (sqlite3_uint64)info->nConstraint + 1);
    int n = 0, has_tensor = 0, has_model = 0, has_row = 0, has_col = 0, unusable = 0;
    if (!plan) return SQLITE_NOMEM;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *k = &info->aConstraint[i];
        const char *op = usable(k);
        int is_name = k->iColumn >= COL_MODEL;
        int *seen = k->iColumn == COL_TENSOR  ? &has_tensor
                    : k->iColumn == COL_MODEL ? &has_model
                    : k->iColumn == COL_ROW   ? &has_row
                                              : &has_col;
        if (!op) continue;
        if (!k->usable) {
            unusable |= is_name;
            continue;
        }
        if (is_name && *seen) continue;
        if (*op == '=') *seen = 1;
        plan[2 * n] = "rc-mt"[k->iColumn];
        plan[2 * n + 1] = *op;
        info->aConstraintUsage[i].argvIndex = ++n;
        info->aConstraintUsage[i].omit = (unsigned char)is_name;
    }
    plan[2 * n] = 0;
    info->idxStr = plan;
    info->needToFreeIdxStr = 1;
    info->idxNum = has_tensor ? 0 : NO_TENSOR;
    /* A plan without a tensor can only fail, one without a model may: never the cheaper way. */
    info->estimatedRows = 1000000 / (has_row ? 1000 : 1) / (has_col ? 1000 : 1);
    info->estimatedCost = (double)info->estimatedRows * (has_tensor ? 1 : 1e12) * (has_model ? 1 : 1e3);
    int in_order = info->nOrderBy >= 1 && info->nOrderBy <= 2;
    for (int i = 0; i < info->nOrderBy && in_order; i++)
        in_order = info->aOrderBy[i].iColumn == i && !info->aOrderBy[i].desc;
    info->orderByConsumed = in_order;
    return unusable ? SQLITE_CONSTRAINT : SQLITE_OK;
}

static int disconnect(sqlite3_vtab *vtab) {
    lm_cells_close(&((weights_vtab *)vtab)->cells);
    return lm_vtab_free(vtab);
}

static int open_cursor(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
    (void)vtab;
    return lm_cursor_new(sizeof(weights_cursor), out);
}

static int close_cursor(sqlite3_vtab_cursor *base) {
    lm_cells_close(&((weights_cursor *)base)->cells);
    sqlite3_free(base);
    return SQLITE_OK;
}

static void open_tensor(lm_cells *cells, lm_conn *c, const char *model, const char *tensor, lm_err *err) {
    lm_found f;
    lm_store_find(c, model, "generate|embed", &f, err);
    if (!err->code) lm_cells_open(cells, c, &f, tensor, err);
    if (!err->code && (cells->tensor >> TENSOR_BITS || cells->t.n_params >> INDEX_BITS)) {
        lm_err_set(err, LM_ERROR, "tensor %s: its id or size is beyond what a rowid holds", tensor);
    }
}

static sqlite3_int64 first_rowid(const lm_cells *s) {
    return lm_vtab_rowid(s->c, s->f.schema, s->tensor << INDEX_BITS);
}

/* Narrow the range of row (0) or col (1). SQLite checks again what is not whole. */
static void narrow(weights_cursor *cur, int which, char op, sqlite3_value *value, lm_err *err) {
    int type = sqlite3_value_type(value);
    int64_t count = which ? cur->cells.cols : cur->cells.rows, *low = &cur->low[which], *high = &cur->high[which];
    if (type == SQLITE_NULL) *high = 0;
    if (type != SQLITE_INTEGER && type != SQLITE_FLOAT) return;
    double x = sqlite3_value_double(value);
    if (op == '=' && (x < 0 || x >= (double)count)) {
        lm_err_set(err, LM_ERROR, "tensor %s: no %s %.15g (has %lld x %lld: rows 0 to %lld, cols 0 to %lld)",
                   cur->cells.t.name, which ? "col" : "row", x, (long long)cur->cells.rows,
                   (long long)cur->cells.cols, (long long)cur->cells.rows - 1, (long long)cur->cells.cols - 1);
        return;
    }
    int64_t at = x < 0 ? -1 : x >= (double)count ? count : (int64_t)x;
    if ((op == '=' || op == '>' || op == 'g') && at > *low) *low = at;
    if ((op == '=' || op == '<' || op == 'l') && at + 1 < *high) *high = at + 1;
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    weights_cursor *cur = (weights_cursor *)base;
    lm_err err = {0};
    lm_text model = {0}, tensor = {0};
    int has_tensor = 0, has_model = 0, model_null = 0;
    lm_cells_close(&cur->cells);
    if (plan == NO_TENSOR)
        lm_err_set(&err, LM_ERROR,
                   "lm_weights: which tensor? Give it as lm_weights('model', 'tensor') or by WHERE tensor = …");
    for (int i = 0; i < n_args && !err.code; i++) {
        if (plan_text[2 * i] == 't') has_tensor = lm_value_text(args[i], &tensor, "tensor", &err);
        if (plan_text[2 * i] == 'm') has_model = lm_value_text(args[i], &model, "model", &err), model_null = !has_model;
    }
    cur->row = cur->high[0] = 0;
    if (!has_tensor || model_null || err.code) return lm_vtab_fail(base->pVtab, &err);
    open_tensor(&cur->cells, ((lm_vtab *)base->pVtab)->c, has_model ? model.text : NULL, tensor.text, &err);
    if (err.code) return lm_vtab_fail(base->pVtab, &err);
    cur->first_rowid = first_rowid(&cur->cells);
    cur->low[0] = cur->low[1] = 0;
    cur->high[0] = cur->cells.rows;
    cur->high[1] = cur->cells.cols;
    for (int i = 0; i < n_args && !err.code; i++) {
        if (plan_text[2 * i] == 'r' || plan_text[2 * i] == 'c')
            narrow(cur, plan_text[2 * i] == 'c', plan_text[2 * i + 1], args[i], &err);
    }
    if (cur->low[1] >= cur->high[1]) cur->high[0] = 0;
    cur->row = cur->low[0];
    cur->col = cur->low[1];
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    weights_cursor *cur = (weights_cursor *)base;
    if (++cur->col < cur->high[1]) return SQLITE_OK;
    cur->col = cur->low[1];
    cur->row++;
    return SQLITE_OK;
}

static int eof(sqlite3_vtab_cursor *base) { return ((weights_cursor *)base)->row >= ((weights_cursor *)base)->high[0]; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    weights_cursor *cur = (weights_cursor *)base;
    lm_cells *s = &cur->cells;
    lm_err err = {0};
    const float *value;
    switch (i) {
    case COL_ROW: sqlite3_result_int64(ctx, cur->row); break;
    case COL_COL: sqlite3_result_int64(ctx, cur->col); break;
    case COL_VALUE:
        if (sqlite3_vtab_nochange(ctx)) return SQLITE_OK;
        if (lm_cells_read(s, cur->row * s->cols + cur->col, &value, &err)) sqlite3_result_double(ctx, (double)*value);
        else lm_result_error(ctx, &err);
        break;
    case COL_MODEL: lm_result_model(ctx, s->f.schema, s->f.name); break;
    case COL_TENSOR: lm_result_text(ctx, s->t.name, strlen(s->t.name)); break;
    }
    return err.code ? lm_error_code(&err) : SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    weights_cursor *cur = (weights_cursor *)base;
    *out = cur->first_rowid + cur->row * cur->cells.cols + cur->col;
    return SQLITE_OK;
}

/* Open for writing the tensor that the names mean, unless it is still open from the last write: then nobody else
** has edited the model since. */
static void reopen(lm_cells *s, lm_conn *c, const char *model, const char *tensor, lm_err *err) {
    lm_found f;
    lm_store_find(c, model, "generate|embed", &f, err);
    if (err->code) return;
    int same = s->f.schema && s->f.id == f.id && !strcmp(s->f.schema, f.schema)
               && !memcmp(s->f.edit, f.edit, sizeof f.edit) && !strcmp(s->t.name, tensor);
    lm_found_clear(&f);
    if (same) return;
    lm_cells_close(s);
    open_tensor(s, c, model, tensor, err);
    if (err->code) lm_cells_close(s);
}

static void write_value(weights_vtab *v, sqlite3_value **args, lm_err *err) {
    sqlite3_int64 id = sqlite3_value_int64(args[0]), index = id & (((sqlite3_int64)1 << INDEX_BITS) - 1);
    sqlite3_value **columns = args + 2;
    lm_cells *s = &v->cells;
    lm_text model, tensor;
    int type = sqlite3_value_type(columns[COL_VALUE]);
    if (!lm_value_text(columns[COL_MODEL], &model, "model", err)
        || !lm_value_text(columns[COL_TENSOR], &tensor, "tensor", err)) {
        lm_err_set(err, LM_ERROR, "lm_weights: only value can be set");
        return;
    }
    reopen(s, v->base.c, model.text, tensor.text, err);
    if (err->code) return;
    if (first_rowid(s) != id - index || sqlite3_value_int64(args[1]) != id
        || sqlite3_value_int64(columns[COL_ROW]) != index / s->cols
        || sqlite3_value_int64(columns[COL_COL]) != index % s->cols) {
        lm_err_set(err, LM_ERROR, "lm_weights: only value can be set");
    } else if (sqlite3_value_nochange(columns[COL_VALUE])) {
        lm_write_ignored(err);
    } else if (type != SQLITE_INTEGER && type != SQLITE_FLOAT) {
        lm_err_set(err, LM_ERROR, "tensor %s, row %lld, col %lld: value: expected a finite number, got %s", s->t.name,
                   (long long)(index / s->cols), (long long)(index % s->cols),
                   type == SQLITE_NULL ? "NULL" : "text or a BLOB");
    } else {
        lm_cells_write(s, index, sqlite3_value_double(columns[COL_VALUE]), err);
    }
}

static int update(sqlite3_vtab *vtab, int n_args, sqlite3_value **args, sqlite3_int64 *new_rowid) {
    (void)new_rowid;
    lm_err err = {0};
    if (n_args == 1 || sqlite3_value_type(args[0]) == SQLITE_NULL) {
        lm_err_set(&err, LM_ERROR, "lm_weights: a model's numbers can be set (UPDATE), not added or removed");
    } else {
        write_value((weights_vtab *)vtab, args, &err);
    }
    return lm_vtab_fail(vtab, &err);
}

static const sqlite3_module module = {
    .xConnect = connect, .xBestIndex = best_index, .xDisconnect = disconnect, .xOpen = open_cursor,
    .xClose = close_cursor, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid,
    .xUpdate = update,
};

int lm_vtab_weights_register(lm_conn *c) {
    return lm_register_table(c, "lm_weights", &module);
}

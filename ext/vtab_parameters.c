/* vtab_parameters.c: the tensors of one model or of all, one row each, with statistics of their numbers.
**     CREATE TABLE lm_parameters(model, tensor, layer, shape, dtype, n_params, n_bytes, min, max, mean, std, zeros,
**                                of_model HIDDEN)
**     SELECT tensor, n_params, std FROM lm_parameters('smollm2') ORDER BY n_params DESC LIMIT 5;
** The statistics are computed, in one walk through the tensor, when a row's first one is asked for: a query that
** does not ask reads no weights. A tensor with a number in it that is not finite has no mean and std. */
#include "ext.h"

#include <math.h>

enum { COL_MODEL, COL_TENSOR, COL_LAYER, COL_SHAPE, COL_DTYPE, COL_N_PARAMS, COL_N_BYTES, COL_MIN, COL_MAX, COL_MEAN, COL_STD,
       COL_ZEROS, COL_OF_MODEL };

typedef struct { double min, max, mean, std; sqlite3_int64 zeros; } statistics;

typedef struct {
    sqlite3_vtab_cursor base;
    lm_found only;                      /* the model asked for; no name: all */
    int schema;                         /* whose rows are being stepped */
    sqlite3_stmt *rows;
    lm_tensor t;                        /* this row's */
    int done, has_statistics;
    statistics s;
} parameters_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    (void)vtab;
    int n_args = 0, unusable = 0, has_model = lm_vtab_take_arg(info, COL_OF_MODEL, 1, &n_args, &unusable);
    info->estimatedCost = has_model ? 1e3 : 1e4;
    info->estimatedRows = has_model ? 300 : 1000;
    info->idxNum = has_model;
    return unusable && !has_model ? SQLITE_CONSTRAINT : SQLITE_OK;
}

static void clear(sqlite3_vtab_cursor *base) {
    parameters_cursor *cur = (parameters_cursor *)base;
    sqlite3_finalize(cur->rows);
    lm_found_clear(&cur->only);
    *cur = (parameters_cursor){ .base = cur->base };
}

/* Begin with the next schema that has models. */
static void open_schema(parameters_cursor *cur, lm_conn *c, lm_err *err) {
    const char *schema = NULL;
    for (; !cur->rows && !err->code && (schema = sqlite3_db_name(c->db, cur->schema)) != NULL; cur->schema++) {
        if (cur->only.schema && strcmp(cur->only.schema, schema)) continue;
        if (!lm_store_exists(c, schema, err)) continue;
        cur->rows = lm_conn_prepare(
            c, err,
            "SELECT t.id, t.name, t.dtype, t.shape, t.n_params, t.n_bytes, m.name, m.id FROM \"%w\".lm_model m JOIN \"%w\".lm_tensor t"
            " ON t.model = m.id WHERE ?1 IS NULL OR m.id = ?1 ORDER BY m.id, t.id",
            schema, schema);
        if (cur->rows && cur->only.schema) sqlite3_bind_int64(cur->rows, 1, cur->only.id);
    }
}

static const char *schema_of(const parameters_cursor *cur, lm_conn *c) {
    return sqlite3_db_name(c->db, cur->schema - 1);
}

static void advance(parameters_cursor *cur, lm_conn *c, lm_err *err) {
    cur->has_statistics = 0;
    for (;;) {
        if (!cur->rows) open_schema(cur, c, err);
        cur->done = !cur->rows;
        if (cur->done) return;
        if (lm_conn_step(c, cur->rows, err)) break;
        sqlite3_finalize(cur->rows);
        cur->rows = NULL;
        if (err->code) return;
    }
    lm_tensor_row_read(&cur->t, lm_column_text(cur->rows, 6, err), cur->rows, 1, err);
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan_text, (void)n_args;
    parameters_cursor *cur = (parameters_cursor *)base;
    lm_conn *c = ((lm_vtab *)base->pVtab)->c;
    lm_err err = {0};
    lm_text name;
    clear(base);
    if (plan && lm_value_text(args[0], &name, "model", &err)) lm_store_find(c, name.text, "", &cur->only, &err);
    if (!err.code) advance(cur, c, &err);
    if (cur->done && cur->only.schema) lm_err_set(&err, LM_ERROR, "model %.60s has no tensors", cur->only.name);
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    advance((parameters_cursor *)base, ((lm_vtab *)base->pVtab)->c, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((parameters_cursor *)base)->done; }

/* One walk: least, most, sums of what differs from the first number, so that a large mean costs no precision. */
static void compute(parameters_cursor *cur, lm_conn *c, lm_err *err) {
    lm_found f;
    lm_cells cells;
    double sum = 0, squares = 0, base = 0;
    statistics s = { .min = INFINITY, .max = -INFINITY };
    lm_found_set(&f, schema_of(cur, c), lm_column_text(cur->rows, 6, err), sqlite3_column_int64(cur->rows, 7), err);
    lm_cells_open_row(&cells, c, &f, cur->rows, 0, err);
    for (int64_t i = 0, n; !err->code && i < cells.t.n_params; i += n) {
        const float *x;
        n = lm_cells_read(&cells, i, &x, err);
        for (int64_t j = 0; j < n; j++) {
            double v = (double)x[j];
            if (i + j == 0) base = v;
            s.min = v < s.min ? v : s.min;
            s.max = v > s.max ? v : s.max;
            sum += v - base;
            squares += (v - base) * (v - base);
            s.zeros += v == 0;
        }
    }
    double n = (double)cur->t.n_params;
    double offset = sum / n, variance = squares / n - offset * offset;
    s.mean = base + offset;
    s.std = sqrt(variance > 0 ? variance : 0);
    if (!isfinite(sum)) s.mean = s.std = NAN;
    lm_cells_close(&cells);
    cur->s = s;
    cur->has_statistics = 1;
}

/* "blk.<n>." names a layer. */
static void result_layer(sqlite3_context *ctx, const char *name) {
    int layer = 0, i = 4;
    if (strncmp(name, "blk.", 4)) return;
    for (; name[i] >= '0' && name[i] <= '9' && i < 10; i++) layer = layer * 10 + name[i] - '0';
    if (name[i] == '.' && i > 4) sqlite3_result_int(ctx, layer);
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    parameters_cursor *cur = (parameters_cursor *)base;
    lm_err err = {0};
    char shape[128];
    if (i >= COL_MIN && i <= COL_ZEROS && !cur->has_statistics) compute(cur, ((lm_vtab *)base->pVtab)->c, &err);
    if (err.code) {
        lm_result_error(ctx, &err);
        return lm_error_code(&err);
    }
    switch (i) {
    case COL_MODEL:
    case COL_OF_MODEL:
        lm_result_model(ctx, schema_of(cur, ((lm_vtab *)base->pVtab)->c),
                        (const char *)sqlite3_column_text(cur->rows, 6));
        break;
    case COL_TENSOR: lm_result_text(ctx, cur->t.name, strlen(cur->t.name)); break;
    case COL_LAYER: result_layer(ctx, cur->t.name); break;
    case COL_SHAPE:
        lm_shape_json(&cur->t, shape, sizeof shape);
        lm_result_text(ctx, shape, strlen(shape));
        break;
    case COL_DTYPE: sqlite3_result_text(ctx, lm_dtype_find(cur->t.dtype)->name, -1, SQLITE_STATIC); break;
    case COL_N_PARAMS: sqlite3_result_int64(ctx, cur->t.n_params); break;
    case COL_N_BYTES: sqlite3_result_int64(ctx, cur->t.n_bytes); break;
    case COL_MIN: sqlite3_result_double(ctx, cur->s.min); break;
    case COL_MAX: sqlite3_result_double(ctx, cur->s.max); break;
    case COL_MEAN: sqlite3_result_double(ctx, cur->s.mean); break;
    case COL_STD: sqlite3_result_double(ctx, cur->s.std); break;
    case COL_ZEROS: sqlite3_result_int64(ctx, cur->s.zeros); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    const parameters_cursor *cur = (const parameters_cursor *)base;
    lm_conn *c = ((lm_vtab *)base->pVtab)->c;
    *out = lm_vtab_rowid(c, schema_of(cur, c), sqlite3_column_int64(cur->rows, 0));
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "lm_parameters", "CREATE TABLE lm_parameters(model, tensor, layer, shape, dtype, n_params, n_bytes, min, max, mean,"
                " std, zeros, of_model HIDDEN)",
    0, sizeof(parameters_cursor), clear,
};

int lm_vtab_parameters_register(lm_conn *c) {
    return lm_table_register(c, &table);
}

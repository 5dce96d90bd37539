/* vtab_loaded.c: the models in memory, one row each.
**     CREATE TABLE lm_loaded(model, digest, bytes, connections, kernels, adapter)
**     SELECT model, bytes FROM lm_loaded;
** Its connecting and disconnecting also mark when a connection may keep statements (conn.c). model is the
** name under which this connection uses it or, of an adapted one, its base; NULL if it does not. */
#include "ext.h"

#include <stdio.h>

enum { COL_MODEL, COL_DIGEST, COL_BYTES, COL_CONNECTIONS, COL_KERNELS, COL_ADAPTER };

typedef struct { char name[208], adapter[208], digest[2 * LM_DIGEST_BYTES + 1]; sqlite3_int64 bytes; int connections; } loaded_row;
typedef struct { sqlite3_vtab_cursor base; loaded_row *rows; int n, at; lm_err err; } loaded_cursor;

static int connect(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error) {
    (void)n_args, (void)args, (void)error;
    int rc = lm_vtab_new(db, aux, "CREATE TABLE lm_loaded(model, digest, bytes, connections, kernels, adapter)",
                         sizeof(lm_vtab), out);
    if (rc == SQLITE_OK) ((lm_conn *)aux)->anchored = 1;
    return rc;
}

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    (void)vtab;
    info->estimatedCost = 10;
    info->estimatedRows = 4;
    return SQLITE_OK;
}

static int disconnect(sqlite3_vtab *vtab) {
    lm_conn *c = ((lm_vtab *)vtab)->c;
    c->anchored = 0;
    lm_conn_finalise(c);
    return lm_vtab_free(vtab);
}

static int open_cursor(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
    (void)vtab;
    return lm_cursor_new(sizeof(loaded_cursor), out);
}

static int close_cursor(sqlite3_vtab_cursor *base) {
    lm_free(((loaded_cursor *)base)->rows);
    sqlite3_free(base);
    return SQLITE_OK;
}

static void collect(void *arg, const lm_shared *s) {
    loaded_cursor *cur = arg;
    loaded_row *rows = lm_realloc(cur->rows, sizeof *rows * (size_t)(cur->n + 1), &cur->err);
    if (!rows) return;
    cur->rows = rows;
    loaded_row *row = &rows[cur->n++];
    *row = (loaded_row){ .bytes = (sqlite3_int64)lm_model_bytes(s->model), .connections = s->connections };
    lm_hex(s->digest, row->digest);
    const lm_conn *c = ((lm_vtab *)cur->base.pVtab)->c;
    for (int i = 0; i < c->n_uses; i++) {
        if (c->uses[i].model == (s->base ? s->base : s)) snprintf(row->name, sizeof row->name, "%s", c->uses[i].name);
    }
    snprintf(row->adapter, sizeof row->adapter, "%.*s", (int)s->adapter.n, s->adapter.n ? s->adapter.data : "");
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text, (void)n_args, (void)args;
    loaded_cursor *cur = (loaded_cursor *)base;
    cur->n = cur->at = 0;
    lm_share_each(collect, cur);
    return cur->err.code ? SQLITE_NOMEM : SQLITE_OK;
}

static int next(sqlite3_vtab_cursor *base) {
    ((loaded_cursor *)base)->at++;
    return SQLITE_OK;
}

static int eof(sqlite3_vtab_cursor *base) { return ((loaded_cursor *)base)->at >= ((loaded_cursor *)base)->n; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const loaded_cursor *cur = (const loaded_cursor *)base;
    const loaded_row *row = &cur->rows[cur->at];
    switch (i) {
    case COL_MODEL: if (*row->name) lm_result_text(ctx, row->name, strlen(row->name)); break;
    case COL_DIGEST: lm_result_text(ctx, row->digest, strlen(row->digest)); break;
    case COL_BYTES: sqlite3_result_int64(ctx, row->bytes); break;
    case COL_CONNECTIONS: sqlite3_result_int(ctx, row->connections); break;
    case COL_ADAPTER: if (*row->adapter) lm_result_text(ctx, row->adapter, strlen(row->adapter)); break;
    case COL_KERNELS: sqlite3_result_text(ctx, lm_kernels(), -1, SQLITE_STATIC); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((loaded_cursor *)base)->at;
    return SQLITE_OK;
}

static const sqlite3_module module = {
    .xConnect = connect, .xBestIndex = best_index, .xDisconnect = disconnect, .xOpen = open_cursor,
    .xClose = close_cursor, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid,
};

int lm_vtab_loaded_register(lm_conn *c) {
    return lm_register_table(c, "lm_loaded", &module);
}

/* vtab.c: what the virtual tables share: taking arguments, reporting errors. */
#include "ext.h"

int lm_vtab_new(sqlite3 *db, lm_conn *c, const char *sql, size_t size, sqlite3_vtab **out) {
    int rc = sqlite3_declare_vtab(db, sql);
    lm_vtab *v = rc == SQLITE_OK ? sqlite3_malloc64(size) : NULL;
    if (!v) return rc == SQLITE_OK ? SQLITE_NOMEM : rc;
    memset(v, 0, size);
    v->c = c;
    *out = &v->base;
    return SQLITE_OK;
}

int lm_vtab_free(sqlite3_vtab *vtab) {
    sqlite3_free(vtab->zErrMsg);        /* SQLite (3.40) takes no message from xDestroy */
    sqlite3_free(vtab);
    return SQLITE_OK;
}

int lm_cursor_new(size_t size, sqlite3_vtab_cursor **out) {
    *out = sqlite3_malloc64(size);
    if (*out) memset(*out, 0, size);
    return *out ? SQLITE_OK : SQLITE_NOMEM;
}

/* xConnect's aux; SQLite has the module, hence the table, in reach everywhere else. */
typedef struct { lm_conn *c; const lm_table *table; } table_use;

int lm_table_connect(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error) {
    (void)n_args, (void)args, (void)error;
    const table_use *u = aux;
    if (u->table->is_direct) sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY);
    return lm_vtab_new(db, u->c, u->table->sql, sizeof(lm_vtab), out);
}

static const lm_table *table_of(const sqlite3_vtab *vtab) { return (const lm_table *)(const void *)vtab->pModule; }

int lm_table_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
    return lm_cursor_new(table_of(vtab)->cursor_size, out);
}

int lm_table_close(sqlite3_vtab_cursor *cur) {
    table_of(cur->pVtab)->clear(cur);
    sqlite3_free(cur);
    return SQLITE_OK;
}

static void drop_use(void *arg) {
    lm_conn_unref(((table_use *)arg)->c);
    sqlite3_free(arg);
}

int lm_table_register(lm_conn *c, const lm_table *table) {
    table_use *u = sqlite3_malloc64(sizeof *u);
    if (!u) return SQLITE_NOMEM;
    *u = (table_use){ c, table };
    lm_conn_ref(c);
    return sqlite3_create_module_v2(c->db, table->name, &table->module, u, drop_use);
}

sqlite3_int64 lm_vtab_rowid(lm_conn *c, const char *schema, sqlite3_int64 in_schema) {
    const char *name;
    sqlite3_int64 place = 0;
    while (schema && (name = sqlite3_db_name(c->db, (int)place)) != NULL && strcmp(name, schema)) place++;
    return (sqlite3_int64)((sqlite3_uint64)place << 56 ^ (sqlite3_uint64)in_schema);
}

void lm_vtab_ordered(sqlite3_index_info *info, int column) {
    if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn == column && !info->aOrderBy[0].desc)
        info->orderByConsumed = 1;
}

int lm_vtab_take_arg(sqlite3_index_info *info, int column, int omit, int *n_args, int *unusable) {
    int taken = 0;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *k = &info->aConstraint[i];
        if (k->iColumn != column || k->op != SQLITE_INDEX_CONSTRAINT_EQ) continue;
        if (!k->usable) {
            *unusable = 1;
        } else if (!taken) {
            info->aConstraintUsage[i].argvIndex = ++*n_args;
            info->aConstraintUsage[i].omit = (unsigned char)omit;
            taken = 1;
        }
    }
    return taken;
}

/* SQLite can join, by OR, rows of two arguments, and takes rows of one rowid for one: without an argument for all there is no plan. */
int lm_vtab_take_args(sqlite3_vtab *vtab, sqlite3_index_info *info, const char *name, int needed, int optional) {
    int n_args = 0, unusable = 0, is_given = lm_vtab_take_arg(info, needed, 1, &n_args, &unusable);
    if (is_given && optional >= 0) lm_vtab_take_arg(info, optional, 1, &n_args, &unusable);
    if (is_given || unusable) return unusable ? SQLITE_CONSTRAINT : SQLITE_OK;
    const char *table = table_of(vtab)->name;
    lm_err err = {0};
    lm_err_set(&err, LM_ERROR, "%s: expected an argument: %s(%s)", table, table, name);
    return lm_vtab_fail(vtab, &err);
}

int lm_register_table(lm_conn *c, const char *name, const sqlite3_module *module) {
    lm_conn_ref(c);
    return sqlite3_create_module_v2(c->db, name, module, c, lm_conn_unref);
}

int lm_vtab_fail(sqlite3_vtab *vtab, const lm_err *err) {
    if (!err->code) return SQLITE_OK;
    sqlite3_free(vtab->zErrMsg);
    vtab->zErrMsg = sqlite3_mprintf("%s", err->msg);
    return lm_error_code(err);
}

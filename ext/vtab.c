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
    sqlite3_free(vtab);
    return SQLITE_OK;
}

int lm_cursor_new(size_t size, sqlite3_vtab_cursor **out) {
    *out = sqlite3_malloc64(size);
    if (*out) memset(*out, 0, size);
    return *out ? SQLITE_OK : SQLITE_NOMEM;
}

int lm_vtab_take_args(sqlite3_index_info *info, int required, int optional) {
    int first = -1, second = -1, unusable = 0;
    for (int i = 0; i < info->nConstraint; i++) {
        int column = info->aConstraint[i].iColumn;
        if (info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ || (column != required && column != optional)) continue;
        if (!info->aConstraint[i].usable) unusable = 1;
        else if (column == required) first = i;
        else second = i;
    }
    if (unusable || first < 0) return SQLITE_CONSTRAINT;
    info->aConstraintUsage[first].argvIndex = 1;
    info->aConstraintUsage[first].omit = 1;
    if (second >= 0) {
        info->aConstraintUsage[second].argvIndex = 2;
        info->aConstraintUsage[second].omit = 1;
    }
    return SQLITE_OK;
}

int lm_vtab_fail(sqlite3_vtab *vtab, const lm_err *err) {
    if (!err->code) return SQLITE_OK;
    sqlite3_free(vtab->zErrMsg);
    vtab->zErrMsg = sqlite3_mprintf("%s", err->msg);
    return lm_error_code(err);
}

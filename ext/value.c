/* value.c: between sqlite3_value and the engine, and from engine errors to SQL errors. */
#include "ext.h"

int lm_error_code(const lm_err *err) {
    switch (err->code) {
    case LM_NOMEM: return SQLITE_NOMEM;
    case LM_INTERRUPT: return SQLITE_INTERRUPT;
    default: return err->code > LM_SQLITE ? err->code - LM_SQLITE : SQLITE_ERROR;
    }
}

void lm_result_error(sqlite3_context *ctx, const lm_err *err) {
    sqlite3_result_error(ctx, err->msg, -1);
    if (err->code != LM_ERROR) sqlite3_result_error_code(ctx, lm_error_code(err));
}

int lm_value_text(sqlite3_value *value, lm_text *out, const char *what, lm_err *err) {
    *out = (lm_text){ "", 0 };
    switch (sqlite3_value_type(value)) {
    case SQLITE_NULL: return 0;
    case SQLITE_BLOB: lm_err_set(err, LM_ERROR, "%s: expected text, got a BLOB", what); return 0;
    default: break;
    }
    out->text = (const char *)sqlite3_value_text(value);
    out->n = (size_t)sqlite3_value_bytes(value);
    if (!out->text) lm_err_set(err, LM_NOMEM, "out of memory");
    return out->text != NULL;
}

const void *lm_value_blob(sqlite3_value *value, lm_err *err) {
    int n = sqlite3_value_bytes(value);
    const void *bytes = sqlite3_value_blob(value);
    if (!bytes && n) lm_err_set(err, LM_NOMEM, "out of memory");        /* a zeroblob() takes none until it is looked at */
    return bytes;
}

const void *lm_column_stamp(sqlite3_stmt *stmt, int i) {
    return sqlite3_column_bytes(stmt, i) == 8 ? sqlite3_column_blob(stmt, i) : NULL;
}

const char *lm_column_text(sqlite3_stmt *stmt, int i, lm_err *err) {
    int is_null = sqlite3_column_type(stmt, i) == SQLITE_NULL;
    const char *text = (const char *)sqlite3_column_text(stmt, i);
    if (!text && !is_null) lm_err_set(err, LM_NOMEM, "out of memory");
    return text;
}

char *lm_text_copy(const char *text, lm_err *err) {
    char *copy = err->code ? NULL : sqlite3_mprintf("%s", text);
    if (!copy) lm_err_set(err, LM_NOMEM, "out of memory");
    return copy;
}

void lm_result_text(sqlite3_context *ctx, const char *text, size_t n) {
    sqlite3_result_text64(ctx, n ? text : "", n, SQLITE_TRANSIENT, SQLITE_UTF8);
}

void lm_result_model(sqlite3_context *ctx, const char *schema, const char *name) {
    char *whole = strcmp(schema, "main") ? sqlite3_mprintf("%s.%s", schema, name) : sqlite3_mprintf("%s", name);
    if (whole) sqlite3_result_text(ctx, whole, -1, sqlite3_free);
    else sqlite3_result_error_nomem(ctx);
}

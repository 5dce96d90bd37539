/* func_model.c: lm_import, lm_export, lm_check, lm_unload. */
#include "ext.h"

#include <stddef.h>

typedef struct { char *name, *schema, *dtype; } import_options;

static const lm_option import_table[] = {
    { "name", LM_OPT_TEXT, offsetof(import_options, name), 0, 0, NULL },
    { "schema", LM_OPT_TEXT, offsetof(import_options, schema), 0, 0, NULL },
    { "dtype", LM_OPT_TEXT, offsetof(import_options, dtype), 0, 0, "f32|f16|bf16|q8_0" },
    { NULL, 0, 0, 0, 0, NULL },
};

/* A file's name without its folder and its .gguf; or a folder's. */
static char *stem(const char *path) {
    size_t n;
    const char *base = lm_path_tail(path, &n);
    if (n > 5 && !sqlite3_strnicmp(base + n - 5, ".gguf", 5)) n -= 5;
    return sqlite3_mprintf("%.*s", (int)n, base);
}

static void import(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text path;
    import_options o = {0};
    lm_options_read(import_table, &o, n_args > 1 ? args[1] : NULL, NULL, &err);
    if (lm_value_text(args[0], &path, "path", &err) && !err.code) {
        const char *schema = o.schema ? o.schema : "main";
        char *by_file = o.name ? NULL : stem(path.text);
        const char *name = o.name ? o.name : by_file;
        if (strlen(path.text) != path.n) lm_err_set(&err, LM_ERROR, "path: a NUL stands inside it");
        lm_store_check_schema(c, schema, &err);
        if (!name) lm_err_set(&err, LM_NOMEM, "out of memory");
        if (!err.code) lm_result_text(ctx, name, strlen(name));
        if (!err.code) lm_import(c, path.text, schema, name, o.dtype, &err);
        sqlite3_free(by_file);
    }
    lm_options_clear(import_table, &o);
    if (err.code) lm_result_error(ctx, &err);
}

typedef struct { int overwrite; } export_options;

static const lm_option export_table[] = {
    { "overwrite", LM_OPT_BOOL, offsetof(export_options, overwrite), 0, 0, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};

static void export(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text name, path;
    lm_found f = {0};
    export_options o = {0};
    lm_options_read(export_table, &o, n_args > 2 ? args[2] : NULL, NULL, &err);
    int has_name = lm_value_text(args[0], &name, "model", &err);
    if (lm_value_text(args[1], &path, "path", &err) && !err.code) {
        if (strlen(path.text) != path.n) lm_err_set(&err, LM_ERROR, "path: a NUL stands inside it");
        lm_conn_alone(c, "lm_export", &err);
        lm_store_find(c, has_name ? name.text : NULL, "generate|embed", &f, &err);
        lm_result_text(ctx, path.text, path.n);
        if (!err.code) lm_export(c, &f, path.text, o.overwrite, &err);
        lm_found_clear(&f);
    }
    if (err.code) lm_result_error(ctx, &err);
}

/* Run call on the model that the argument names, or on every model when it is NULL or left out. */
static void each_model(lm_conn *c, int n_args, sqlite3_value **args,
                       void (*call)(lm_conn *, const lm_found *, lm_err *), lm_err *err) {
    lm_text name;
    lm_found f;
    if (n_args && lm_value_text(args[0], &name, "model", err)) {
        lm_store_find(c, name.text, "", &f, err);
        if (!err->code) call(c, &f, err);
        lm_found_clear(&f);
        return;
    }
    const char *schema;
    for (int i = 0; !err->code && (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        if (!lm_store_exists(c, schema, err)) continue;
        sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT id, name FROM \"%w\".lm_model ORDER BY id", schema);
        while (stmt && lm_conn_step(c, stmt, err)) {
            lm_found_set(&f, schema, lm_column_text(stmt, 1, err), sqlite3_column_int64(stmt, 0), err);
            if (!err->code) call(c, &f, err);
            lm_found_clear(&f);
        }
        sqlite3_finalize(stmt);
    }
}

static void check_one(lm_conn *c, const lm_found *f, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    lm_store_read(c, f, digest, err);
    lm_adapter_check_all(c, f, err);
}

/* Rows that belong to nothing: no model, no tensor, no chunk has their id. */
static void check_orphans(lm_conn *c, lm_err *err) {
    static const struct { const char *table, *column, *owner; int is_training; } g_links[] = {
        { "lm_tensor", "model", "lm_model", 0 }, { "lm_tokenizer", "model", "lm_model", 0 },
        { "lm_chunk", "tensor", "lm_tensor", 0 }, { "lm_digest", "chunk", "lm_chunk", 0 },
        { "lm_run", "model", "lm_model", 1 }, { "lm_run_step", "run", "lm_run", 1 }, { "lm_checkpoint", "run", "lm_run", 1 },
        { "lm_adapter", "model", "lm_model", 1 }, { "lm_adapter_tensor", "adapter", "lm_adapter", 1 },
    };
    const char *schema;
    for (int i = 0; !err->code && (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        if (!lm_store_exists(c, schema, err)) continue;
        int has_training = lm_store_has_training(c, schema, err);
        for (int k = 0; k < LM_COUNT(g_links) && !err->code; k++) {
            if (g_links[k].is_training && !has_training) continue;
            sqlite3_stmt *stmt = lm_conn_prepare(
                c, err, "SELECT %s FROM \"%w\".%s WHERE %s NOT IN (SELECT id FROM \"%w\".%s) LIMIT 1", g_links[k].column, schema,
                g_links[k].table, g_links[k].column, schema, g_links[k].owner);
            if (stmt && lm_conn_step(c, stmt, err)) {
                lm_err_set(err, LM_ERROR, "%.60s.%s: a row with %s %.20s: %s has no such id", schema, g_links[k].table, g_links[k].column,
                           lm_column_text(stmt, 0, err), g_links[k].owner);
            }
            sqlite3_finalize(stmt);
        }
    }
}

static void check(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    each_model(c, n_args, args, check_one, &err);
    if (!n_args || sqlite3_value_type(args[0]) == SQLITE_NULL) check_orphans(c, &err);
    if (err.code) lm_result_error(ctx, &err);
    else sqlite3_result_text(ctx, "ok", -1, SQLITE_STATIC);
}

static void unload(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text name;
    lm_found f = {0};
    int one = n_args && lm_value_text(args[0], &name, "model", &err);
    lm_conn_alone(c, "lm_unload", &err);
    if (one) lm_store_find(c, name.text, "", &f, &err);
    if (err.code) lm_result_error(ctx, &err);
    else sqlite3_result_int(ctx, lm_share_unload(c, one ? &f : NULL));
    if (one) lm_found_clear(&f);
}

int lm_func_model_register(lm_conn *c) {
    int rc = lm_register(c, "lm_import", 1, 2, SQLITE_DIRECTONLY, import);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_export", 2, 3, SQLITE_DIRECTONLY, export);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_check", 0, 1, 0, check);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_unload", 0, 1, SQLITE_DIRECTONLY, unload);
    return rc;
}

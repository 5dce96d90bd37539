/* func_info.c: lm_config, lm_version, lm_debug. */
#include "ext.h"

#include <stdio.h>

/* The process's settings are never read from a database; the defaults for tasks live in main.lm_setting. */
static int is_default(const char *key) { return !strcmp(key, "generate_model") || !strcmp(key, "embed_model"); }

static void result_default(sqlite3_context *ctx, lm_conn *c, const char *key, lm_err *err) {
    if (!lm_store_exists(c, "main", err)) return;
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT value FROM main.lm_setting WHERE key = ?");
    if (stmt) sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
    if (stmt && lm_conn_step(c, stmt, err)) sqlite3_result_value(ctx, sqlite3_column_value(stmt, 0));
    sqlite3_finalize(stmt);
}

/* Any model can embed; not any can generate. */
static void check_generates(lm_conn *c, const lm_found *f, lm_err *err) {
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT 1 FROM \"%w\".lm_model WHERE id = ? AND task = 'generate'", f->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, f->id);
    if (stmt && !lm_conn_step(c, stmt, err))
        lm_err_set(err, LM_ERROR, "lm_config: generate_model: %.60s makes embeddings: it cannot generate", f->name);
    sqlite3_finalize(stmt);
}

/* Set the default model of a task, and answer with it; NULL removes it. */
static void set_default(sqlite3_context *ctx, lm_conn *c, const char *key, sqlite3_value *value, lm_err *err) {
    lm_write w;
    lm_text name;
    lm_found f;
    int is_set = lm_value_text(value, &name, key, err);
    if (is_set) {
        lm_store_find(c, name.text, "", &f, err);
        if (!err->code && !strcmp(key, "generate_model")) check_generates(c, &f, err);
        lm_found_clear(&f);
        if (err->code) return;
    }
    if (!is_set && !lm_store_exists(c, "main", err)) return;
    lm_write_begin(&w, c, "lm_config", "main", err);
    if (is_set) lm_result_text(ctx, name.text, name.n);
    sqlite3_stmt *stmt = lm_conn_prepare(
        c, err,
        is_set ? "INSERT INTO main.lm_setting VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2 RETURNING value = ?2"
               : "DELETE FROM main.lm_setting WHERE key = ?1");
    if (stmt) {
        sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
        if (is_set) sqlite3_bind_text(stmt, 2, name.text, (int)name.n, SQLITE_STATIC);
        if (is_set) lm_write_sure(c, stmt, err);
        else lm_write_step(c, stmt, err);
    }
    sqlite3_finalize(stmt);
    lm_write_end(&w, err);
}

static sqlite3_int64 whole_number(sqlite3_value *value, const char *key, sqlite3_int64 max, lm_err *err) {
    sqlite3_int64 n = sqlite3_value_int64(value);
    if (sqlite3_value_type(value) != SQLITE_INTEGER || n < 0 || n > max) {
        lm_err_set(err, LM_ERROR, "lm_config: %s: expected a whole number from 0 to %lld", key, (long long)max);
    }
    return n;
}

static void config(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text key;
    int there = lm_value_text(args[0], &key, "key", &err);
    if (n_args > 1) lm_conn_alone(c, "lm_config", &err);
    if (!there || err.code) {
        if (err.code) lm_result_error(ctx, &err);
        return;
    }
    if (is_default(key.text)) {
        if (n_args > 1) set_default(ctx, c, key.text, args[1], &err);
        else result_default(ctx, c, key.text, &err);
    } else if (!strcmp(key.text, "threads")) {
        sqlite3_int64 n = n_args > 1 ? whole_number(args[1], "threads", 64, &err) : 0;
        if (n_args > 1 && !err.code) lm_threads_set((int)n);
        sqlite3_result_int(ctx, lm_threads());
    } else if (!strcmp(key.text, "memory_limit")) {
        sqlite3_int64 n = n_args > 1 ? whole_number(args[1], "memory_limit", INT64_MAX, &err) : 0;
        if (n_args > 1 && !err.code) lm_mem_limit_set((uint64_t)n);
        sqlite3_result_int64(ctx, (sqlite3_int64)lm_mem_limit());
    } else {
        lm_err_set(&err, LM_ERROR,
                   "lm_config: no setting %.60s (have: threads, memory_limit, generate_model, embed_model)",
                   key.text);
    }
    if (err.code) lm_result_error(ctx, &err);
}

static void version(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    (void)n_args, (void)args;
    sqlite3_result_text(ctx, LM_VERSION, -1, SQLITE_STATIC);
}

/* The processor's own name, where the system tells it. */
static void cpu_name(char out[128]) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    snprintf(out, 128, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !value) continue;
        snprintf(out, 128, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
        break;
    }
    if (f) fclose(f);
}

static void debug(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    (void)n_args, (void)args;
    lm_err err = {0};
    lm_buf json = {0};
    char cpu[128];
    cpu_name(cpu);
    lm_buf_print(&json, &err, "{\"version\":\"%s\",\"commit\":\"%s\",\"sqlite\":\"%s\",\"cpu\":", LM_VERSION,
                 LM_COMMIT, sqlite3_libversion());
    lm_json_quote(&json, cpu, strlen(cpu), &err);
    lm_buf_print(&json, &err,
                 ",\"kernels\":\"%s\",\"threads\":%d,\"memory\":%llu,\"memory_peak\":%llu,\"libraries\":[",
                 lm_kernels(), lm_threads(), (unsigned long long)lm_mem_used(), (unsigned long long)lm_mem_peak());
    for (const char *const *name = lm_libraries(); *name; name++)
        lm_buf_print(&json, &err, "%s\"%s\"", name == lm_libraries() ? "" : ",", *name);
    lm_buf_print(&json, &err, "]}");
    if (err.code) lm_result_error(ctx, &err);
    else lm_result_text(ctx, json.data, json.n);
    lm_buf_clear(&json);
}

int lm_func_info_register(lm_conn *c) {
    int rc = lm_register(c, "lm_config", 1, 2, SQLITE_DIRECTONLY, config);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_version", 0, 0, SQLITE_INNOCUOUS, version);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_debug", 0, 0, 0, debug);
    return rc;
}

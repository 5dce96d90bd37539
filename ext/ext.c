/* ext.c: the entry point and the list of what is registered. */
#include "ext.h"
#include "../include/sqlite_lm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#ifndef SQLITE_CORE
SQLITE_EXTENSION_INIT1
#endif

static void *host_alloc(uint64_t n) { return sqlite3_malloc64(n); }
static void host_free(void *p) { sqlite3_free(p); }

int lm_register(lm_conn *c, const char *name, int min_args, int max_args, int flags,
                void (*call)(sqlite3_context *, int, sqlite3_value **)) {
    int rc = SQLITE_OK;
    for (int n = min_args; n <= max_args && rc == SQLITE_OK; n++) {
        lm_conn_ref(c);
        rc = sqlite3_create_function_v2(c->db, name, n, SQLITE_UTF8 | flags, c, call, NULL, NULL, lm_conn_unref);
    }
    return rc;
}

static int (*const registers[])(lm_conn *) = {
    lm_vtab_loaded_register,        lm_vtab_stream_register,   lm_vtab_tokens_register,   lm_vtab_parameters_register,
    lm_vtab_weights_register,       lm_vtab_vocab_register,    lm_vtab_index_register,    lm_vtab_embed_each_register,
    lm_vtab_generate_each_register, lm_vtab_split_register,    lm_vtab_train_register,    lm_window_register,
    lm_func_score_register,         lm_func_quantize_register, lm_vtab_logprobs_register, lm_func_merge_register,
    lm_func_generate_register,      lm_func_embed_register,    lm_func_token_register,    lm_func_model_register,
    lm_func_create_register,        lm_func_info_register,
};

#ifndef SQLITE_CORE
/* sqlite3_api is one pointer for the whole library: a second SQLite in the process would be given the first
** one's functions. */
static const sqlite3_api_routines *_Atomic g_first;

static int is_foreign(const sqlite3_api_routines *api) {
    const sqlite3_api_routines *none = NULL;
    return !atomic_compare_exchange_strong(&g_first, &none, api) && none->libversion != api->libversion;
}
#endif

/* Once: other connections may be at work when one more is opened. */
static void begin_process(void) {
    static const lm_mem_hook hook = { host_alloc, host_free };
#ifndef SQLITE_CORE
    SQLITE_EXTENSION_INIT2(g_first);
#endif
    lm_mem_hook_set(&hook);
}

/* Has this connection the functions of this build? Its modules could not be made anew while statements run: load_extension()
** is one itself. */
static int is_loaded(sqlite3 *db) {
    sqlite3_stmt *stmt = NULL;
    int found = 0;
    if (sqlite3_prepare_v2(db, "SELECT lm_version()", -1, &stmt, NULL) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        found = text && !strcmp(text, LM_VERSION);
    }
    sqlite3_finalize(stmt);
    /* An error that is left standing would fail sqlite3_open, of which this is a part where we are an automatic extension. */
    if (!found && sqlite3_prepare_v2(db, "SELECT 1", -1, &stmt, NULL) == SQLITE_OK) sqlite3_finalize(stmt);
    return found;
}

static int register_all(sqlite3 *db) {
    lm_conn *c = lm_conn_new(db);
    int rc = SQLITE_OK;
    if (!c) return SQLITE_NOMEM;
    lm_conn_ref(c);
    for (int i = 0; i < LM_COUNT(registers) && rc == SQLITE_OK; i++) rc = registers[i](c);
    lm_conn_unref(c);
    return rc;
}

__attribute__((visibility("default")))
int sqlite3_lm_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
#ifndef SQLITE_CORE
    if (is_foreign(api)) {
        if (error) *error = api->mprintf("sqlite-lm is already loaded by another SQLite in this process");
        return SQLITE_ERROR;
    }
#else
    (void)api;
#endif
    pthread_once(&once, begin_process);
    int rc = is_loaded(db) ? SQLITE_OK : register_all(db);
    if (rc != SQLITE_OK && error) *error = sqlite3_mprintf("sqlite-lm: %s", sqlite3_errmsg(db));
#ifndef SQLITE_CORE
    if (rc == SQLITE_OK) rc = SQLITE_OK_LOAD_PERMANENTLY;
#endif
    return rc;
}

/* conn.c: what a connection keeps between calls.
**
** The cached statements must be gone before sqlite3_close counts what is left, or it answers BUSY. SQLite
** disconnects virtual tables first, so they belong to the eponymous table lm_loaded: before the first one
** is prepared, lm_loaded is connected, and its xDisconnect finalises them all. */
#include "ext.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <time.h>

enum { ASK_NS = 1000000, ASK_LONG_NS = 10000000, DEPTH_MAX = 8 };

/* About 2,000 operations of the virtual machine: enough for a progress handler to be called. */
static const char long_sql[] =
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 150) SELECT max(i) FROM c";

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

lm_conn *lm_conn_new(sqlite3 *db) {
    static _Atomic uint64_t serial;
    lm_err err = {0};
    lm_conn *c = lm_calloc(1, sizeof *c, &err);
    if (!c) return NULL;
    c->db = db;
    c->serial = ++serial;
    return c;
}

void lm_conn_ref(lm_conn *c) { c->refs++; }

void lm_conn_unref(void *p) {
    lm_conn *c = p;
    if (--c->refs > 0) return;
    lm_conn_finalise(c);
    lm_share_forget(c);
    lm_memo_free(c->memo);
    lm_free(c);
}

void lm_conn_finalise(lm_conn *c) {
    sqlite3_finalize(c->ask);
    sqlite3_finalize(c->ask_long);
    c->ask = c->ask_long = NULL;
    lm_conn_forget(c);
}

void lm_conn_forget(lm_conn *c) {
    for (int i = 0; i < c->n_lookups; i++) {
        sqlite3_finalize(c->lookups[i].model);
        sqlite3_finalize(c->lookups[i].setting);
        sqlite3_free(c->lookups[i].schema);
    }
    lm_free(c->lookups);
    c->lookups = NULL;
    c->n_lookups = 0;
}

int lm_conn_code(int rc) {
    switch (rc & 0xff) {
    case SQLITE_NOMEM: return LM_NOMEM;
    case SQLITE_INTERRUPT: return LM_INTERRUPT;
    case SQLITE_IOERR: return rc == SQLITE_IOERR_NOMEM ? LM_NOMEM : LM_SQLITE + rc;
    case SQLITE_OK: case SQLITE_ERROR: case SQLITE_ROW: case SQLITE_DONE: return LM_ERROR;
    default: return LM_SQLITE + rc;
    }
}

void lm_conn_fail(lm_conn *c, lm_err *err) {
    int code = lm_conn_code(sqlite3_extended_errcode(c->db));
    lm_err_set(err, code, "%s",
               code == LM_NOMEM       ? "out of memory"
               : code == LM_INTERRUPT ? "interrupted"
                                      : sqlite3_errmsg(c->db));
}

static sqlite3_stmt *prepare(lm_conn *c, const char *sql, lm_err *err) {
    sqlite3_stmt *stmt = NULL;
    if (err->code) return NULL;
    if (sqlite3_prepare_v2(c->db, sql, -1, &stmt, NULL) != SQLITE_OK) lm_conn_fail(c, err);
    return stmt;
}

sqlite3_stmt *lm_conn_prepare(lm_conn *c, lm_err *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *sql = sqlite3_vmprintf(format, args);
    va_end(args);
    if (!sql) lm_err_set(err, LM_NOMEM, "out of memory");
    sqlite3_stmt *stmt = prepare(c, sql, err);
    sqlite3_free(sql);
    return stmt;
}

sqlite3_stmt *lm_conn_keep(lm_conn *c, sqlite3_stmt **kept, const char *sql, lm_err *err) {
    if (*kept) return *kept;
    if (!c->anchored) sqlite3_finalize(prepare(c, "SELECT 1 FROM lm_loaded", err));
    if (!c->anchored) lm_err_set(err, LM_ERROR, "a table named lm_loaded hides the extension's own");
    if (!err->code && sqlite3_prepare_v3(c->db, sql, -1, SQLITE_PREPARE_PERSISTENT, kept, NULL) != SQLITE_OK) {
        lm_conn_fail(c, err);
    }
    return *kept;
}

int lm_conn_step(lm_conn *c, sqlite3_stmt *stmt, lm_err *err) {
    if (c->depth == DEPTH_MAX) lm_err_set(err, LM_ERROR, "what is read calls for what reads it, %d deep", DEPTH_MAX);
    if (err->code) return 0;
    c->depth++;
    int rc = sqlite3_step(stmt);
    c->depth--;
    if (rc == SQLITE_ROW) return 1;
    if (rc != SQLITE_DONE) lm_conn_fail(c, err);
    return 0;
}

void lm_conn_exec(lm_conn *c, lm_err *err, const char *format, ...) {
    va_list args;
    if (err->code) return;
    va_start(args, format);
    char *sql = sqlite3_vmprintf(format, args);
    va_end(args);
    if (!sql) lm_err_set(err, LM_NOMEM, "out of memory");
    else if (sqlite3_exec(c->db, sql, NULL, NULL, NULL) != SQLITE_OK) lm_conn_fail(c, err);
    sqlite3_free(sql);
}

/* dqlite replicates what an exec request writes, a COMMIT included. What a query request has written outside of a transaction
** stays behind in its VFS, and the next write ends the process: "Assertion `wal->n_tx == 0' failed". */
int lm_conn_must_begin(lm_conn *c, const char *schema) {
    sqlite3_vfs *vfs = NULL;
    if (!sqlite3_get_autocommit(c->db) || !sqlite3_stricmp(schema, "temp")) return 0;
    sqlite3_file_control(c->db, schema, SQLITE_FCNTL_VFS_POINTER, &vfs);
    return vfs && !strncmp(vfs->zName, "dqlite", 6);
}

void lm_conn_check_begun(lm_conn *c, const char *function, const char *schema, lm_err *err) {
    if (!lm_conn_must_begin(c, schema)) return;
    lm_err_set(err, LM_ERROR, "%s: on dqlite a SELECT can write only between BEGIN and COMMIT", function);
}

sqlite3_stmt *lm_conn_next_busy(lm_conn *c, sqlite3_stmt *before) {
    sqlite3_stmt *stmt = sqlite3_next_stmt(c->db, before);
    while (stmt && !sqlite3_stmt_busy(stmt)) stmt = sqlite3_next_stmt(c->db, stmt);
    return stmt;
}

void lm_conn_alone(lm_conn *c, const char *function, lm_err *err) {
    for (sqlite3_stmt *stmt = NULL; (stmt = lm_conn_next_busy(c, stmt));) {
        if (!sqlite3_stmt_readonly(stmt)) lm_err_set(err, LM_ERROR, "%s: call it in a SELECT of its own", function);
    }
}

/*----------------------------------------------------------------------
** The stop signal. Stepping any statement tells whether the connection was interrupted; a longer one, now and
** then, gives a progress handler its turn. Works on every version of SQLite. */
static int interrupted(lm_conn *c, sqlite3_stmt **kept, const char *sql) {
    lm_err err = {0};
    sqlite3_stmt *stmt = lm_conn_keep(c, kept, sql, &err);
    if (!stmt) return err.code == LM_INTERRUPT;
    int rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    return rc == SQLITE_INTERRUPT;
}

static int ask(void *arg) {
    lm_conn *c = arg;
    int64_t now = now_ns();
    if (now - c->asked_ns < ASK_NS) return 0;
    c->asked_ns = now;
    if (interrupted(c, &c->ask, "SELECT 1")) return 1;
    if (now - c->asked_long_ns < ASK_LONG_NS) return 0;
    c->asked_long_ns = now;
    return interrupted(c, &c->ask_long, long_sql);
}

lm_stop lm_conn_stop(lm_conn *c) { return (lm_stop){ ask, c }; }

/* sql.h: what the fuzz targets share that go through SQL: a database, values out of an input's bytes, an end to each call. */
#ifndef LM_FUZZ_SQL_H
#define LM_FUZZ_SQL_H

#include "fuzz.h"
#include "../../include/sqlite_lm.h"

#include <time.h>

enum { SQL_MS = 400 };          /* what a call may take before it is interrupted */

/* Bytes yet to be read of an input; past its end they are zeros. */
typedef struct { const uint8_t *at; size_t n; } feed;

static inline uint64_t feed_number(feed *f, int n_bytes) {
    uint64_t x = 0;
    for (int i = 0; i < n_bytes && f->n; i++, f->at++, f->n--) x |= (uint64_t)*f->at << 8 * i;
    return x;
}

/* So many bytes as the next two say, or as there are. */
static inline const char *feed_bytes(feed *f, size_t *n) {
    const char *at;
    size_t wanted = (size_t)feed_number(f, 2);
    *n = wanted < f->n ? wanted : f->n;
    at = (const char *)f->at;
    f->at += *n;
    f->n -= *n;
    return at;
}

enum { VALUE_NULL, VALUE_INT, VALUE_SMALL_INT, VALUE_REAL, VALUE_TEXT, VALUE_BLOB, VALUE_ZEROS, VALUE_KINDS };

static inline void feed_bind(feed *f, sqlite3_stmt *stmt, int i) {
    size_t n;
    const char *bytes;
    double real;
    uint64_t bits;
    switch (feed_number(f, 1) % VALUE_KINDS) {
    case VALUE_INT: sqlite3_bind_int64(stmt, i, (sqlite3_int64)feed_number(f, 8)); break;
    case VALUE_SMALL_INT: sqlite3_bind_int(stmt, i, (int8_t)feed_number(f, 1)); break;
    case VALUE_REAL: bits = feed_number(f, 8); memcpy(&real, &bits, 8); sqlite3_bind_double(stmt, i, real); break;
    case VALUE_TEXT: bytes = feed_bytes(f, &n); sqlite3_bind_text(stmt, i, bytes, (int)n, SQLITE_TRANSIENT); break;
    case VALUE_BLOB: bytes = feed_bytes(f, &n); sqlite3_bind_blob(stmt, i, bytes, (int)n, SQLITE_TRANSIENT); break;
    case VALUE_ZEROS: sqlite3_bind_zeroblob(stmt, i, (int)(feed_number(f, 2) << 3)); break;
    default: sqlite3_bind_null(stmt, i);
    }
}

static struct timespec g_end;

static inline int sql_late(void *arg) {
    struct timespec now;
    (void)arg;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > g_end.tv_sec || (now.tv_sec == g_end.tv_sec && now.tv_nsec > g_end.tv_nsec);
}

static inline void sql_begin(void) {
    clock_gettime(CLOCK_MONOTONIC, &g_end);
    g_end.tv_nsec += SQL_MS * 1000000L;
    g_end.tv_sec += g_end.tv_nsec / 1000000000;
    g_end.tv_nsec %= 1000000000;
}

/* Step a statement to its end, or for some rows, reading every value. An error must have words. */
static inline int sql_drain(sqlite3 *db, sqlite3_stmt *stmt, int rows) {
    int rc = SQLITE_DONE;
    unsigned sum = 0;
    sql_begin();
    while (stmt && rows-- > 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(stmt); i++) {
            const uint8_t *bytes = sqlite3_column_blob(stmt, i);
            for (int k = 0; k < sqlite3_column_bytes(stmt, i); k++) sum += bytes[k];
        }
    }
    MUST(rc != SQLITE_MISUSE && rc != SQLITE_INTERNAL && sum != 1, "%s", sqlite3_errmsg(db));
    MUST(rc == SQLITE_ROW || rc == SQLITE_DONE || *sqlite3_errmsg(db), "an error without words");
    return rc;
}

/* Run one statement that must succeed, or any. */
static inline void sql_must(sqlite3 *db, const char *sql) {
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    MUST(rc == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
}

static inline void sql_try(sqlite3 *db, const char *sql, int rows) {
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK) sql_drain(db, stmt, rows);
    sqlite3_finalize(stmt);
}

/* A database with a model, a table of texts and, where sqlite-vec is there, an index. */
static inline sqlite3 *sql_open(void) {
    sqlite3 *db = NULL;
    MUST(sqlite3_open(":memory:", &db) == SQLITE_OK && sqlite3_lm_init(db, NULL, NULL) == SQLITE_OK, "no database");
    sqlite3_hard_heap_limit64(400 << 20);
    sqlite3_progress_handler(db, 1000, sql_late, NULL);
    sqlite3_enable_load_extension(db, 1);
    sqlite3_load_extension(db, "models/vec0", NULL, NULL);
    sqlite3_enable_load_extension(db, 0);
    sql_begin();
    sql_must(db, "SELECT lm_config('threads', 1); PRAGMA max_page_count = 20000; CREATE TABLE note(id INTEGER PRIMARY KEY, body);"
             "INSERT INTO note(body) VALUES ('the sea'), ('a ship'), (NULL), ('a longer text about the sea');"
             "SELECT lm_create('m', '{\"n_layers\":1,\"n_embd\":8,\"n_heads\":2,\"n_ff\":8,\"n_ctx\":64}');");
    sqlite3_exec(db, "CREATE VIRTUAL TABLE i USING lm_index(content = note, column = body, model = m); INSERT INTO i(i) VALUES ('sync')", NULL, NULL, NULL);
    return db;
}

#endif

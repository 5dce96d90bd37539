/* query.c: a query that was given as an argument, run for its rows.
**
** It is prepared only as SELECT * FROM (query): so a PRAGMA, a COMMIT, an ATTACH or a write is a syntax error, and a
** second statement would be a tail, which is refused. */
#include "ext.h"

sqlite3_stmt *lm_query_open(lm_conn *c, const char *name, lm_text query, int n_columns, const char *columns, lm_err *err) {
    sqlite3_stmt *stmt = NULL;
    const char *tail = NULL;
    if (strlen(query.text) != query.n) lm_err_set(err, LM_ERROR, "%s: the query has a NUL inside it", name);
    while (query.n && strchr(" \t\r\n;", query.text[query.n - 1])) query.n--;
    char *sql = err->code ? NULL : sqlite3_mprintf("SELECT * FROM (\n%.*s\n)", (int)query.n, query.text);
    if (!sql) lm_err_set(err, LM_NOMEM, "out of memory");
    if (!err->code && sqlite3_prepare_v2(c->db, sql, -1, &stmt, &tail) != SQLITE_OK) {
        if (sqlite3_errcode(c->db) == SQLITE_ERROR) lm_err_set(err, LM_ERROR, "%s: the query: %s", name, sqlite3_errmsg(c->db));
        lm_conn_fail(c, err);
    }
    if (!err->code && (!stmt || tail[strspn(tail, " \t\r\n;")] || !sqlite3_stmt_readonly(stmt))) {
        lm_err_set(err, LM_ERROR, "%s: the query must be one SELECT", name);
    }
    if (!err->code && sqlite3_column_count(stmt) != n_columns) {
        lm_err_set(err, LM_ERROR, "%s: the query gives %d columns, expected %d: %s", name, sqlite3_column_count(stmt), n_columns, columns);
    }
    sqlite3_free(sql);
    if (!err->code) return stmt;
    sqlite3_finalize(stmt);
    return NULL;
}

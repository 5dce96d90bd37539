/* query.c: a query that was given as an argument, run for its rows; and what embed_each and generate_each do alike with one.
**
** It is prepared only as SELECT * FROM (query): so a PRAGMA, a COMMIT, an ATTACH or a write is a syntax error, and a
** second statement would be a tail, which is refused. */
#include "ext.h"

sqlite3_stmt *lm_query_open(lm_conn *c, const char *name, lm_text query, int n_columns, const char *columns,
                            lm_err *err) {
    sqlite3_stmt *stmt = NULL;
    const char *tail = NULL;
    if (strlen(query.text) != query.n) lm_err_set(err, LM_ERROR, "%s: the query has a NUL inside it", name);
    while (query.n && strchr(" \t\r\n;", query.text[query.n - 1])) query.n--;
    char *sql = err->code ? NULL : sqlite3_mprintf("SELECT * FROM (\n%.*s\n)", (int)query.n, query.text);
    if (!sql) lm_err_set(err, LM_NOMEM, "out of memory");
    if (!err->code && sqlite3_prepare_v2(c->db, sql, -1, &stmt, &tail) != SQLITE_OK) {
        if (sqlite3_errcode(c->db) == SQLITE_ERROR)
            lm_err_set(err, LM_ERROR, "%s: the query: %s", name, sqlite3_errmsg(c->db));
        lm_conn_fail(c, err);
    }
    if (!err->code && (!stmt || tail[strspn(tail, " \t\r\n;")] || !sqlite3_stmt_readonly(stmt))) {
        lm_err_set(err, LM_ERROR, "%s: the query must be one SELECT", name);
    }
    if (!err->code && sqlite3_bind_parameter_count(stmt)) {
        lm_err_set(err, LM_ERROR,
                   "%s: the query has a parameter, and nobody to bind it: write its value into the text, with quote()",
                   name);
    }
    if (!err->code && n_columns && sqlite3_column_count(stmt) != n_columns) {
        lm_err_set(err, LM_ERROR, "%s: the query gives %d columns, expected %d: %s", name, sqlite3_column_count(stmt),
                   n_columns, columns);
    }
    sqlite3_free(sql);
    if (!err->code) return stmt;
    sqlite3_finalize(stmt);
    return NULL;
}

void lm_each_open(lm_each *e, const char *name, sqlite3_value *query, const char *columns, lm_err *err) {
    lm_text text;
    if (e->was_filtered) {
        lm_err_set(err, LM_ERROR,
                   "%s would run again for each row of a join: WITH e AS MATERIALIZED (SELECT * FROM %s(…)) SELECT …",
                   name, name);
    }
    e->was_filtered = 1;
    e->at_end = 1;
    if (err->code || !lm_value_text(query, &text, "query", err)) return;
    e->query = lm_query_open(((lm_vtab *)e->base.pVtab)->c, name, text, 2, columns, err);
    e->at_end = e->query == NULL;
}

int lm_each_read(lm_each *e, sqlite3_value **key, sqlite3_value **text, lm_err *err) {
    if (e->at_end || !lm_conn_step(((lm_vtab *)e->base.pVtab)->c, e->query, err)) {
        e->at_end = 1;
        return 0;
    }
    *key = sqlite3_value_dup(sqlite3_column_value(e->query, 0));
    *text = sqlite3_value_dup(sqlite3_column_value(e->query, 1));
    if (*key && *text) return 1;
    sqlite3_value_free(*key);
    sqlite3_value_free(*text);
    return lm_err_set(err, LM_NOMEM, "out of memory"), 0;
}

/* write.c: what functions that write have in common: all or nothing, whether or not the caller has a transaction open, and
** an ear for interrupts. */
#include "ext.h"

void lm_write_begin(lm_write *w, lm_conn *c, const char *function, const char *schema, lm_err *err) {
    *w = (lm_write){ .c = c, .is_outermost = sqlite3_get_autocommit(c->db) };
    int exists = lm_store_exists(c, schema, err);
    w->abandon = lm_conn_prepare(c, err,
                                 exists ? "UPDATE \"%w\".lm_setting SET value = value WHERE 0"
                                        : "CREATE TABLE \"%w\".lm_abandoned(x)",
                                 schema);
    lm_conn_check_begun(c, function, schema, err);
    lm_conn_alone(c, function, err);
    int may_open = !err->code;
    lm_conn_exec(c, err, "SAVEPOINT lm_work; RELEASE lm_work; SAVEPOINT lm_work");      /* were it ignored, there is none to release */
    /* A progress handler is asked once more when a statement has done its work. */
    w->is_open = may_open && (!err->code || (w->is_outermost && !sqlite3_get_autocommit(c->db)));
    if (exists) lm_write_step(c, w->abandon, err);
    else lm_store_lay(c, schema, err);
}

/* Undo what was done since the savepoint. While an interrupt is pending SQLite runs no statement, not even
** ROLLBACK TO; but a write that it interrupts rolls the whole transaction back, as an interrupted INSERT of
** the caller's would. abandon is such a write; it never gets to do anything. A transaction of our own that another
** connection did not let commit must end here: RELEASE would try to commit again. */
static void undo(lm_write *w) {
    const char *sql = w->is_outermost ? "ROLLBACK" : "ROLLBACK TO lm_work; RELEASE lm_work";
    if (sqlite3_exec(w->c->db, sql, NULL, NULL, NULL) != SQLITE_INTERRUPT) return;
    int rc = sqlite3_step(w->abandon);
    sqlite3_reset(w->abandon);
    if (rc == SQLITE_DONE) sqlite3_exec(w->c->db, sql, NULL, NULL, NULL);
}

void lm_write_end(lm_write *w, lm_err *err) {
    if (w->is_open) {
        int works = !err->code;
        lm_conn_exec(w->c, err, "RELEASE lm_work");
        if (works && err->code == LM_INTERRUPT && w->is_outermost && sqlite3_get_autocommit(w->c->db)) *err = (lm_err){0};
        else if (err->code) undo(w);
    }
    sqlite3_finalize(w->abandon);
    w->abandon = NULL;
    w->is_open = 0;
}

/* To an authorizer's SQLITE_IGNORE SQLite does not object: it leaves an INSERT out, a column as it was, a row unfound. */
void lm_write_ignored(lm_err *err) { lm_err_set(err, LM_ERROR, "an authorizer ignores what is to be written"); }

void lm_write_step(lm_conn *c, sqlite3_stmt *stmt, lm_err *err) {
    lm_poll(lm_conn_stop(c), err);
    if (stmt && sqlite3_stmt_readonly(stmt)) lm_write_ignored(err);
    if (stmt) lm_conn_step(c, stmt, err);
    sqlite3_reset(stmt);
}

void lm_write_sure(lm_conn *c, sqlite3_stmt *stmt, lm_err *err) {
    lm_poll(lm_conn_stop(c), err);
    if (stmt && (!lm_conn_step(c, stmt, err) || !sqlite3_column_int(stmt, 0))) lm_write_ignored(err);
    sqlite3_reset(stmt);
}

/* database_rows.c: a database whose rows are anything, where no trigger, constraint or digest has noticed. An input is a list
** of edits: which table, row and column, how, and what with. */
#include "sql.h"

enum { EDITS_MAX = 8, PLACES_MAX = 128 };
enum { EDIT_SET, EDIT_FLIP, EDIT_CUT, EDIT_APPEND, EDIT_COPY, EDIT_DELETE, EDIT_KINDS };

static sqlite3 *g_db;
static struct { char table[40], column[40]; } g_places[PLACES_MAX];
static int g_n_places;

static void open_database(void) {
    sqlite3_stmt *stmt;
    g_db = sql_open();
    sql_must(g_db, "SELECT step FROM lm_train('{\"model\":\"m\",\"adapter\":\"a\",\"lora\":{\"rank\":2},\"query\":\"SELECT body FROM note\",\"max_steps\":1}');"
             "SELECT step FROM lm_train('{\"model\":\"m\",\"query\":\"SELECT body FROM note\",\"epochs\":4,\"val_fraction\":0.3}') LIMIT 2");
    /* "schema RESET" reads the tables again, without their constraints and triggers. */
    sql_must(g_db, "PRAGMA writable_schema = 1; DELETE FROM sqlite_master WHERE type = 'trigger';"
             "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name LIKE 'lm\\_%' ESCAPE '\\'; PRAGMA writable_schema = RESET");
    MUST(sqlite3_prepare_v2(g_db, "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' AND"
                            " (t.name LIKE 'lm\\_%' ESCAPE '\\' OR t.name IN ('i_config', 'i_outbox'))"
                            " AND t.sql NOT LIKE 'CREATE VIRTUAL%'"
                            " ORDER BY 1, c.cid", -1, &stmt, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(g_db));
    while (sqlite3_step(stmt) == SQLITE_ROW && g_n_places < PLACES_MAX) {
        snprintf(g_places[g_n_places].table, 40, "%s", sqlite3_column_text(stmt, 0));
        snprintf(g_places[g_n_places++].column, 40, "%s", sqlite3_column_text(stmt, 1));
    }
    sqlite3_finalize(stmt);
}

static void edit(feed *f) {
    const char *table, *column;
    char sql[700], where[300];
    sqlite3_stmt *stmt = NULL;
    int place = (int)(feed_number(f, 1) % (unsigned)g_n_places), row = (int)feed_number(f, 1), how = (int)(feed_number(f, 1) % EDIT_KINDS);
    table = g_places[place].table;
    column = g_places[place].column;
    snprintf(where, sizeof where, "WHERE %s IS (SELECT %s FROM \"%s\" LIMIT 1 OFFSET %d %% (SELECT count(*) FROM \"%s\"))", column, column, table, row, table);
    switch (how) {
    case EDIT_DELETE: snprintf(sql, sizeof sql, "DELETE FROM \"%s\" %s", table, where); break;
    case EDIT_COPY: snprintf(sql, sizeof sql, "UPDATE OR IGNORE \"%s\" SET %s = (SELECT %s FROM \"%s\" LIMIT 1 OFFSET abs(?1)) %s", table, column, column, table, where); break;
    case EDIT_CUT: snprintf(sql, sizeof sql, "UPDATE OR IGNORE \"%s\" SET %s = substr(%s, 1, max(0, length(%s) - abs(?1))) %s", table, column, column, column, where); break;
    case EDIT_APPEND: snprintf(sql, sizeof sql, "UPDATE OR IGNORE \"%s\" SET %s = CAST(%s || ?1 AS BLOB) %s", table, column, column, where); break;
    case EDIT_FLIP:
        snprintf(sql, sizeof sql, "UPDATE OR IGNORE \"%s\" SET %s = CAST(CAST(substr(CAST(%s AS BLOB), 1, %d) AS BLOB) || char(?1) || substr(CAST(%s AS BLOB), %d) AS BLOB) %s",
                 table, column, column, (int)feed_number(f, 2) % 4096, column, row + 2, where);
        break;
    default: snprintf(sql, sizeof sql, "UPDATE OR IGNORE \"%s\" SET %s = ?1 %s", table, column, where);
    }
    MUST(sqlite3_prepare_v2(g_db, sql, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(g_db));
    if (sqlite3_bind_parameter_count(stmt)) feed_bind(f, stmt, 1);
    sql_drain(g_db, stmt, 1);
    sqlite3_finalize(stmt);
}

FUZZ(database_rows)(const uint8_t *data, size_t n) {
    static const char *const asks[] = {
        "SELECT lm_check()", "SELECT generate('the s', '{\"max_tokens\":3}')", "SELECT embed('the sea', '{\"model\":\"m\"}')",
        "SELECT generate('the s', '{\"adapter\":\"a\",\"max_tokens\":2}')", "SELECT lm_merge('m', 'a', 'both')",
        "SELECT * FROM lm_train('{\"adapter\":\"a\",\"query\":\"SELECT body FROM note\",\"max_steps\":1}')", "SELECT * FROM lm_train('{\"resume\":true}')",
        "SELECT lm_chat('[{\"role\":\"user\",\"content\":\"a\"}]', '{\"max_tokens\":2}')", "SELECT * FROM lm_tokens('the sea')",
        "SELECT * FROM lm_parameters('m')", "SELECT * FROM lm_weights WHERE model = 'm' AND tensor = 'blk.0.attn_q.weight'", "SELECT * FROM lm_vocab('m')",
        "UPDATE lm_weights SET value = 0.5 WHERE model = 'm' AND tensor = 'output_norm.weight' AND col = 3", "SELECT lm_config('generate_model')",
        "SELECT rowid, * FROM i WHERE body MATCH 'sea' AND k = 3", "INSERT INTO i(i) VALUES ('integrity-check')", "INSERT INTO note(body) VALUES ('more')",
        "INSERT INTO i(i) VALUES ('sync')", "INSERT INTO i(i) VALUES ('rebuild')", "SELECT count(*) FROM lm_loaded", "SELECT lm_create('n', '{\"vocab\":{\"model\":\"m\"},\"n_layers\":1,\"n_embd\":4,\"n_heads\":1}')",
        "DELETE FROM lm_model",
    };
    static uint64_t serial;
    feed f = { data, n };
    char sql[200];
    if (!g_db) open_database();
    sql_begin();
    sql_must(g_db, "BEGIN");
    if (feed_number(&f, 1) & 1) {       /* all that would tell on the edits is gone */
        snprintf(sql, sizeof sql, "DELETE FROM lm_digest; UPDATE lm_model SET digest = NULL, edit = x'%016llx'", (unsigned long long)++serial);
        sql_must(g_db, sql);
    }
    for (int i = 0; i < EDITS_MAX && f.n; i++) edit(&f);
    for (size_t i = 0; i < sizeof asks / sizeof *asks && !sqlite3_get_autocommit(g_db); i++) sql_try(g_db, asks[i], 300);
    sql_begin();
    sqlite3_exec(g_db, "SELECT lm_unload()", NULL, NULL, NULL);
    if (!sqlite3_get_autocommit(g_db)) {
        sql_must(g_db, "ROLLBACK");
    } else {        /* an interrupt inside a write of SQLite's ended the transaction */
        MUST(sqlite3_close(g_db) == SQLITE_OK, "cannot close");
        g_db = NULL;
        g_n_places = 0;
    }
    MUST(lm_mem_peak() < FUZZ_MEMORY, "a peak of %llu bytes", (unsigned long long)lm_mem_peak());
    return 0;
}

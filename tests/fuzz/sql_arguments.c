/* sql_arguments.c: every function and table-valued function of ours, with any arguments. Byte 0 says how, byte 1 which. */
#include "sql.h"

enum { NAMES_MAX = 128, ARGS_MAX = 4 };

static sqlite3 *g_db;
static char g_functions[NAMES_MAX][40], g_windows[NAMES_MAX][40], g_tables[NAMES_MAX][40];
static int g_n_functions, g_n_windows, g_n_tables;

static void list(char names[NAMES_MAX][40], int *n, const char *sql) {
    sqlite3_stmt *stmt;
    MUST(sqlite3_prepare_v2(g_db, sql, -1, &stmt, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(g_db));
    while (sqlite3_step(stmt) == SQLITE_ROW && *n < NAMES_MAX) snprintf(names[(*n)++], 40, "%s", sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
}

#define OURS "(name LIKE 'lm\\_%' ESCAPE '\\' OR name LIKE 'embed%' OR name LIKE 'generate%')"

static void open_database(void) {
    g_db = sql_open();
    list(g_functions, &g_n_functions, "SELECT DISTINCT name FROM pragma_function_list WHERE type = 's' AND " OURS " ORDER BY 1");
    list(g_windows, &g_n_windows, "SELECT DISTINCT name FROM pragma_function_list WHERE type = 'w' AND " OURS " ORDER BY 1");
    list(g_tables, &g_n_tables, "SELECT name FROM pragma_module_list WHERE " OURS " AND name <> 'lm_index' ORDER BY 1");
    MUST(g_n_functions > 10 && g_n_windows >= 2 && g_n_tables > 8, "%d functions", g_n_functions);
}

static void call(unsigned how, unsigned which, feed *f) {
    static const char *const args[] = { "", "?1", "?1, ?2", "?1, ?2, ?3", "?1, ?2, ?3, ?4" };
    const char *list_of = args[how >> 4 & 3], *name = "";
    char sql[300];
    sqlite3_stmt *stmt = NULL;
    switch (how & 3) {
    case 0: case 1:
        name = g_functions[which % (unsigned)g_n_functions];
        if (!strcmp(name, "lm_export")) list_of = "?1, '/proc/nowhere', ?2";       /* no file is to be written */
        snprintf(sql, sizeof sql, "SELECT %s(%s)", name, list_of);
        break;
    case 2:
        name = g_windows[which % (unsigned)g_n_windows];
        snprintf(sql, sizeof sql, "SELECT %s(%s || id, ?2) OVER (ROWS BETWEEN CURRENT ROW AND %u FOLLOWING) FROM note", name, "?1", how >> 4);
        break;
    default:
        name = g_tables[which % (unsigned)g_n_tables];
        snprintf(sql, sizeof sql, "SELECT * FROM %s%s%s%s", name, *list_of ? "(" : "", list_of, *list_of ? ")" : "");
    }
    if (sqlite3_prepare_v2(g_db, sql, -1, &stmt, NULL) != SQLITE_OK) return;
    for (int i = 1; i <= sqlite3_bind_parameter_count(stmt); i++) feed_bind(f, stmt, i);
    sql_drain(g_db, stmt, 40);
    sqlite3_finalize(stmt);
}

/* CREATE VIRTUAL TABLE takes its arguments as text. */
static void create_index(feed *f) {
    size_t n;
    const char *bytes = feed_bytes(f, &n);
    char *sql = sqlite3_mprintf("CREATE VIRTUAL TABLE j USING lm_index(%.*s)", (int)n, bytes);
    sql_try(g_db, sql, 1);
    sql_try(g_db, "SELECT * FROM j", 5);
    sqlite3_free(sql);
}

FUZZ(sql_arguments)(const uint8_t *data, size_t n) {
    feed f = { data, n };
    if (!g_db) open_database();
    unsigned how = (unsigned)feed_number(&f, 1), which = (unsigned)feed_number(&f, 1);
    sql_begin();
    sql_must(g_db, "SAVEPOINT s");
    if (how == 0xFF) create_index(&f);
    else call(how, which, &f);
    sql_begin();
    if (!sqlite3_get_autocommit(g_db)) sqlite3_exec(g_db, "ROLLBACK TO s; RELEASE s", NULL, NULL, NULL);
    lm_mem_limit_set(0);
    lm_threads_set(1);
    MUST(sqlite3_get_autocommit(g_db), "%s", sqlite3_errmsg(g_db));
    MUST(lm_mem_peak() < FUZZ_MEMORY, "a peak of %llu bytes", (unsigned long long)lm_mem_peak());
    return 0;
}

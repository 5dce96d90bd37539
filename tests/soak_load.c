/* soak_load.c: the loadable form, loaded into a connection and closed again, a thousand times: memory stays flat.
**
**     build/soak_load LM.so [TIMES] */
#include <sqlite3.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WARM = 100 /* rounds until everything that is kept is there */, SLACK_KB = 512 };

static long resident_kb(void) {
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &pages, &resident) != 2) resident = 0;
    if (f) fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static int load_once(const char *lib, const char *file) {
    sqlite3 *db = NULL;
    char *error = NULL;
    int rc = sqlite3_open(file, &db);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_load_extension(db, lib, "sqlite3_lm_init", &error);
    if (rc == SQLITE_OK) rc = sqlite3_exec(db, "SELECT generate('Once', '{\"max_tokens\":3}'), lm_check(); SELECT count(*) FROM lm_tokens('the sea')", NULL, NULL, &error);
    if (rc != SQLITE_OK) printf("%s\n", error ? error : sqlite3_errmsg(db));
    sqlite3_free(error);
    return sqlite3_close(db) == SQLITE_OK && rc == SQLITE_OK;
}

int main(int argc, char **argv) {
    const char *lib = argc > 1 ? argv[1] : "build/lm", *file = "build/soak_load.db";
    int times = argc > 2 ? atoi(argv[2]) : 1000, ok = 1;
    long before = 0;
    sqlite3_int64 used = 0;
    sqlite3 *db = NULL;
    remove(file);
    sqlite3_open(file, &db);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    ok = sqlite3_load_extension(db, lib, "sqlite3_lm_init", NULL) == SQLITE_OK
      && sqlite3_exec(db, "SELECT lm_import('tests/golden/tiny.gguf')", NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(db);
    for (int i = 0; i < times && ok; i++) {
        if (i == WARM) before = resident_kb(), used = sqlite3_memory_used();
        ok = load_once(lib, file);
    }
    long grown = resident_kb() - before;
    long long used_grown = sqlite3_memory_used() - used;
    printf("loaded and closed %d times: after the first %d the process grew by %ld kB, what SQLite and the extension hold by %lld bytes\n", times, WARM,
           grown, used_grown);
#ifdef __SANITIZE_ADDRESS__
    printf("skipped: what the process grew by: AddressSanitizer keeps what is freed for a while\n");
    grown = 0;
#endif
    ok = ok && (times <= WARM || (grown < SLACK_KB && used_grown == 0));
    remove(file);
    printf("%d passed, %d failed\n", ok, !ok);
    return !ok;
}

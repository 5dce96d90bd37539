/* threads_test.c: connections in threads of their own get the answers that they get alone, and a child after
** fork works. Linked with SQLite and the static-link form, as a program would. */
#include "../include/sqlite_lm.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 20, SHARED_ROUNDS = 3000 };

static const char ask[] = "SELECT group_concat(generate(x, '{\"template\":\"none\",\"temperature\":1,\"seed\":5,\"max_tokens\":24}'), '|')"
                          " FROM (SELECT 'Once ' || ?1 AS x UNION ALL SELECT 'the')";
static char alone[THREADS][4096];
static int n_passed, n_failed;

static void check(int ok, const char *what) {
    if (ok) n_passed++;
    else n_failed++, printf("tests/threads_test.c: %s\n", what);
}

/* Answer for number i on a connection of its own. Return 0 when something fails. */
static int answer(int i, char *out, size_t n) {
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    int ok = sqlite3_open("build/threads_test.db", &db) == SQLITE_OK && sqlite3_lm_init(db, NULL, NULL) == SQLITE_OK
          && sqlite3_prepare_v2(db, ask, -1, &stmt, NULL) == SQLITE_OK && sqlite3_bind_int(stmt, 1, i) == SQLITE_OK
          && sqlite3_step(stmt) == SQLITE_ROW;
    if (ok) snprintf(out, n, "%s", sqlite3_column_text(stmt, 0));
    else printf("%s\n", sqlite3_errmsg(db));
    sqlite3_finalize(stmt);
    return sqlite3_close(db) == SQLITE_OK && ok;
}

static void *work(void *arg) {
    int i = (int)(size_t)arg, same = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char out[4096];
        same += answer(i, out, sizeof out) && !strcmp(out, alone[i]);
    }
    return (void *)(size_t)(same == ROUNDS);
}

/*----------------------------------------------------------------------
** A shared cache has a lock of SQLite's own, held while a statement runs: two threads each take that and the extension's. */
static sqlite3 *open_shared(void) {
    sqlite3 *db = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI | SQLITE_OPEN_FULLMUTEX;
    check(sqlite3_open_v2("file:build/threads_shared.db?cache=shared", &db, flags, NULL) == SQLITE_OK
          && sqlite3_lm_init(db, NULL, NULL) == SQLITE_OK, "open a shared cache");
    return db;
}

static void *ask_anew(void *arg) {
    size_t fine = 0;
    sqlite3 *db = open_shared();
    for (int i = 0; i < SHARED_ROUNDS; i++)
        fine += sqlite3_exec(db, "SELECT lm_unload(); SELECT lm_token_count('x')", NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(db);
    __atomic_store_n((int *)arg, 1, __ATOMIC_RELEASE);
    return (void *)fine;
}

static void test_shared_cache(void) {
    pthread_t other;
    int is_done = 0;
    void *fine;
    remove("build/threads_shared.db");
    sqlite3 *db = open_shared();
    check(sqlite3_exec(db, "SELECT lm_import('tests/golden/tiny.gguf'); CREATE TABLE t(b); INSERT INTO t WITH RECURSIVE c(i) AS"
                       " (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 50) SELECT 'x' FROM c", NULL, NULL, NULL) == SQLITE_OK, "fill a shared cache");
    alarm(900);                         /* a deadlock ends here */
    pthread_create(&other, NULL, ask_anew, &is_done);
    while (!__atomic_load_n(&is_done, __ATOMIC_ACQUIRE)) sqlite3_exec(db, "SELECT sum(lm_token_count(b)) FROM t", NULL, NULL, NULL);
    pthread_join(other, &fine);
    alarm(0);
    check((size_t)fine == SHARED_ROUNDS, "a model is found anew beside a reader of a shared cache");
    sqlite3_close(db);
    remove("build/threads_shared.db");
}

int main(void) {
    sqlite3 *db = NULL;
    pthread_t threads[THREADS];
    void *same;
    remove("build/threads_test.db");
    check(sqlite3_open("build/threads_test.db", &db) == SQLITE_OK && sqlite3_lm_init(db, NULL, NULL) == SQLITE_OK
          && sqlite3_exec(db, "SELECT lm_import('tests/golden/tiny.gguf')", NULL, NULL, NULL) == SQLITE_OK, "import");
    for (int i = 0; i < THREADS; i++) check(answer(i, alone[i], sizeof alone[i]), "alone");
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)(size_t)i);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &same);
        check(same != NULL, "a thread's answer differs from the one it gets alone");
    }
    check(sqlite3_close(db) == SQLITE_OK, "close");
    pid_t child = fork();
    if (child == 0) {
        char out[4096];
        _exit(answer(1, out, sizeof out) && !strcmp(out, alone[1]) ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    check(status == 0, "a child after fork");
    for (int i = 0; i < THREADS; i++) {
        char out[4096];
        check(answer(i, out, sizeof out) && !strcmp(out, alone[i]), "the parent after fork");
    }
    test_shared_cache();
    /* Every connection has it from its opening on. */
    check(sqlite3_auto_extension((void (*)(void))sqlite3_lm_init) == SQLITE_OK && sqlite3_open(":memory:", &db) == SQLITE_OK
          && sqlite3_exec(db, "SELECT lm_version()", NULL, NULL, NULL) == SQLITE_OK, "an automatic extension");
    sqlite3_close(db);
    sqlite3_reset_auto_extension();
    remove("build/threads_test.db");
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

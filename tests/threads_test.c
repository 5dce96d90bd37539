/* threads_test.c: connections in threads of their own get the answers that they get alone, and a child after
** fork works. Linked with SQLite and the static-link form, as a program would. */
#include "../include/sqlite_lm.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 20 };

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
    /* Every connection has it from its opening on. */
    check(sqlite3_auto_extension((void (*)(void))sqlite3_lm_init) == SQLITE_OK && sqlite3_open(":memory:", &db) == SQLITE_OK
          && sqlite3_exec(db, "SELECT lm_version()", NULL, NULL, NULL) == SQLITE_OK, "an automatic extension");
    sqlite3_close(db);
    sqlite3_reset_auto_extension();
    remove("build/threads_test.db");
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

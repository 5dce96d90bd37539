/* connections_bench.c: connections that generate at once, each in a thread of its own, in tokens a second altogether.
**
**     connections_bench LM.so DATABASE N...
**
** Each connection answers PROMPTS prompts of its own with TOKENS tokens each, one after the other, on the one model of the
** process. For each N a figure connections_N. */
#define _POSIX_C_SOURCE 200809L
#include <sqlite3.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CONNECTIONS_MAX = 16, PROMPTS = 2, TOKENS = 64 };

typedef struct { sqlite3 *db; int id, tokens, rc; } client;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ask(client *c, int prompt, int n_tokens) {
    char *sql = sqlite3_mprintf("SELECT count(*) FROM generate_stream('Once upon a time, %d and %d years ago,', "
                                "'{\"template\":\"none\",\"max_tokens\":%d}')", 10 + c->id, 20 + prompt, n_tokens);
    sqlite3_stmt *s = NULL;
    c->rc = sqlite3_prepare_v2(c->db, sql, -1, &s, NULL);
    if (c->rc == SQLITE_OK && (c->rc = sqlite3_step(s)) == SQLITE_ROW) c->rc = SQLITE_OK, c->tokens += sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    sqlite3_free(sql);
    return c->rc;
}

static void *ask_all(void *arg) {
    client *c = arg;
    for (int i = 0; i < PROMPTS && c->rc == SQLITE_OK; i++) ask(c, i, TOKENS);
    return NULL;
}

static int open_client(client *c, const char *lib, const char *database, int id) {
    *c = (client){ .id = id };
    c->rc = sqlite3_open_v2(database, &c->db, SQLITE_OPEN_READONLY, NULL);
    if (c->rc == SQLITE_OK) c->rc = sqlite3_enable_load_extension(c->db, 1);
    if (c->rc == SQLITE_OK) c->rc = sqlite3_load_extension(c->db, lib, NULL, NULL);
    if (c->rc == SQLITE_OK) ask(c, -1, 1);      /* the model is read and checked before the clock runs */
    c->tokens = 0;
    return c->rc;
}

int main(int argc, char **argv) {
    client clients[CONNECTIONS_MAX];
    int rc = argc > 3 ? SQLITE_OK : SQLITE_MISUSE;
    if (rc) fprintf(stderr, "usage: connections_bench LM.so DATABASE N...\n");
    for (int i = 3; i < argc && !rc; i++) {
        int n = atoi(argv[i]), tokens = 0, open = 0;
        pthread_t threads[CONNECTIONS_MAX];
        if (n < 1 || n > CONNECTIONS_MAX) n = 1;
        while (open < n && !rc) {
            rc = open_client(&clients[open], argv[1], argv[2], 100 * i + open);
            open++;
        }
        double start = now();
        for (int c = 0; c < n && !rc; c++) pthread_create(&threads[c], NULL, ask_all, &clients[c]);
        for (int c = 0; c < n && !rc; c++) pthread_join(threads[c], NULL);
        double seconds = now() - start;
        for (int c = 0; c < open; c++) {
            if (!rc && clients[c].rc) rc = clients[c].rc;
            if (clients[c].rc) fprintf(stderr, "connections_bench: %s\n", sqlite3_errmsg(clients[c].db));
            tokens += clients[c].tokens;
            sqlite3_close(clients[c].db);
        }
        if (!rc) printf("{\"connections_%d\": %.1f}\n", n, tokens / seconds);
    }
    return rc != 0;
}

/* stop_test.c: stopping. Every kind of long work is interrupted at moments drawn from a seed, by sqlite3_interrupt from another
** thread and by a progress handler; how long each then takes to return is counted.
**
**     build/stop_test [TIMES [BOUND_MS [JOB]]]
**
** A time is judged only where a bound is given: what else the machine does is not known here.
**
** What is stopped leaves nothing behind: no model, no file, no transaction. Then busy timeouts: who must wait for another's
** lock waits as long as that says, and gets SQLITE_BUSY. */
#include "host.h"

#include <math.h>
#include <pthread.h>

enum { TIMES = 4 /* with a small model */ };

static const char path[] = "build/host/stop.db";

/* ?1 is another number each time, so that nothing is remembered from before; ?2 a long text. */
typedef struct { const char *name, *before, *sql; } work;

#define BIG "'{\"model\":\"big\",\"template\":\"none\""
static const work works[] = {
    { "load", "SELECT lm_unload()", "SELECT lm_token_count('x', '{\"model\":\"heavy\"}')" },
    { "prefill", NULL, "SELECT generate(?1 || substr(?2, 1, 1900), " BIG ",\"max_tokens\":1}')" },
    { "decode", NULL, "SELECT generate(?1 || ' once', " BIG ",\"max_tokens\":400}')" },
    { "generate_batch", NULL, "SELECT length(generate_batch(?1 || body, " BIG ",\"max_tokens\":16}') OVER (ROWS BETWEEN CURRENT ROW AND 63 FOLLOWING)) FROM note LIMIT 64" },
    { "generate_each", NULL, "SELECT count(*) FROM generate_each('SELECT id, ' || ?1 || '||body FROM note LIMIT 64', " BIG ",\"max_tokens\":16}')" },
    { "embed", NULL, "SELECT length(embed(?1 || substr(?2, 1, 1900), '{\"model\":\"big\"}'))" },
    { "embed_batch", NULL, "SELECT length(embed_batch(?1 || body, '{\"model\":\"big\"}') OVER (ROWS BETWEEN CURRENT ROW AND 255 FOLLOWING)) FROM note" },
    { "tokenise", NULL, "SELECT lm_token_count(?1 || ?2, '{\"model\":\"words\"}')" },
    { "lm_split", NULL, "SELECT count(*) FROM lm_split(?1 || substr(?2, 1, 300000), '{\"model\":\"words\",\"max_tokens\":100}')" },
    { "lm_check", NULL, "SELECT lm_check('heavy')" },
    { "statistics", NULL, "SELECT max(std) FROM lm_parameters('heavy')" },
    { "import", NULL, "SELECT lm_import('build/host/stop.gguf', '{\"name\":\"new\"}')" },
    { "import converted", NULL, "SELECT lm_import('build/host/stop.gguf', '{\"name\":\"new\",\"dtype\":\"q8_0\"}')" },
    { "export", NULL, "SELECT lm_export('heavy', 'build/host/stop_out.gguf')" },
    { "lm_create", NULL, "SELECT lm_create('new', '{\"n_layers\":6,\"n_embd\":384,\"n_heads\":6}')" },
    { "learn a vocabulary", NULL, "SELECT lm_create('new', '{\"n_layers\":1,\"n_embd\":32,\"n_heads\":1,\"vocab\":{\"query\":\"SELECT text FROM long\",\"size\":3000}}')" },
    { "lm_quantize", NULL, "SELECT lm_quantize('big', 'q4_0', 'new')" },
    { "lm_train", NULL, "SELECT max(step) FROM lm_train('{\"model\":\"pupil\",\"query\":\"SELECT body FROM note\",\"epochs\":4}')" },
    { "perplexity", NULL, "SELECT lm_perplexity(?1 || substr(?2, 1, 3000), '{\"model\":\"big\"}')" },
    { "lm_choose", NULL, "SELECT lm_choose(?1 || substr(?2, 1, 1500), '[\" a\",\" b\",\" c\"]', " BIG "}')" },
    { "index build", "DELETE FROM note_idx_vec; INSERT OR IGNORE INTO note_idx_outbox SELECT id FROM note", "INSERT INTO note_idx(note_idx) VALUES ('sync')" },
    { "index search", "DELETE FROM note_idx_vec; INSERT OR IGNORE INTO note_idx_outbox SELECT id FROM note", "SELECT count(*) FROM note_idx WHERE body MATCH ?1 AND k = 5" },
};

static sqlite3 *db;
static char *long_text;
static int n_calls, n_rows;

static int run(const work *w) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, w->sql, -1, &stmt, NULL);
    sqlite3_bind_int(stmt, 1, ++n_calls);
    if (sqlite3_bind_parameter_count(stmt) > 1) sqlite3_bind_text(stmt, 2, long_text, -1, SQLITE_STATIC);
    n_rows = 0;
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(stmt);
        n_rows += rc == SQLITE_ROW;
    }
    sqlite3_finalize(stmt);
    return rc;
}

/* Make it as it was, and see that it is. */
static void tidy(const work *w, int rc) {
    answer a = {0};
    CHECK(sqlite3_get_autocommit(db), "%s: a transaction was left open", w->name);
    if (rc != SQLITE_DONE && !n_rows) {     /* whoever has its row has been told that it is done */
        query(db, "SELECT count(*) FROM lm_model WHERE name = 'new'", &a);
        CHECK(a.data && !strcmp(a.data, "0|"), "%s: a model was left behind", w->name);
        CHECK(access("build/host/stop_out.gguf", F_OK) != 0, "%s: a file was left behind", w->name);
    }
    clear(&a);
    unlink("build/host/stop_out.gguf");
    if (query(db, "DELETE FROM lm_model WHERE name = 'new'", NULL) != SQLITE_OK) CHECK(0, "%s: %s", w->name, sqlite3_errmsg(db));
    if (w->before && query(db, w->before, NULL) != SQLITE_OK) CHECK(0, "%s: %s", w->name, sqlite3_errmsg(db));
}

/*----------------------------------------------------------------------
** Interrupts */
static double moment;                   /* when to stop, by the clock */
static _Atomic int is_over;

static void *interrupt_then(void *arg) {
    (void)arg;
    while (now() < moment && !is_over) usleep(50);
    if (!is_over) sqlite3_interrupt(db);
    return NULL;
}

static int progress(void *arg) {
    (void)arg;
    return now() >= moment;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void stop(const work *w, int by_progress, int times, double bound_ms, uint64_t *random) {
    double *late = malloc(sizeof *late * (size_t)times);
    int n = 0;
    tidy(w, SQLITE_DONE);
    double since = now();
    int rc = run(w);
    double seconds = now() - since;
    CHECK(rc == SQLITE_DONE, "%s: %s", w->name, sqlite3_errmsg(db));
    for (int tries = 0; rc == SQLITE_DONE && n < times && tries < 20 * times; tries++) {
        pthread_t thread;
        tidy(w, SQLITE_DONE);
        is_over = 0;
        moment = now() + seconds * (double)(next_random(random) >> 11) * 0x1p-53;
        if (by_progress) sqlite3_progress_handler(db, 500, progress, NULL);
        else pthread_create(&thread, NULL, interrupt_then, NULL);
        int stopped = run(w);
        double end = now();
        is_over = 1;
        if (by_progress) sqlite3_progress_handler(db, 0, NULL, NULL);
        else pthread_join(thread, NULL);
        tidy(w, stopped);
        if (stopped == SQLITE_DONE) continue;
        CHECK(stopped == SQLITE_INTERRUPT, "%s: stopped: %s", w->name, sqlite3_errstr(stopped));
        late[n++] = (end - moment) * 1e3;
    }
    qsort(late, (size_t)n, sizeof *late, compare);
    if (n) {
        double p99 = late[(n * 99 + 99) / 100 - 1];
        printf("%-20s %-16s %4d of %.2f s: median %5.1f ms, p99 %5.1f ms, worst %5.1f ms\n", w->name, by_progress ? "progress handler" : "interrupt", n,
               seconds, late[n / 2], p99, late[n - 1]);
        CHECK(p99 < bound_ms, "%s: p99 %.1f ms, expected %.0f at most", w->name, p99, bound_ms);
    }
    CHECK(n == times, "%s: only %d of %d were in time", w->name, n, times);
    free(late);
}

/*----------------------------------------------------------------------
** Another's lock */
static void *release_later(void *other) {
    usleep(150000);
    query(other, "COMMIT", NULL);
    return NULL;
}

#define TRAIN "SELECT step FROM lm_train('{\"model\":\"pupil\",\"query\":\"SELECT body FROM note LIMIT 8\",\"max_steps\":1}')"

static void wait_for_lock(void) {
    static const char *const writes[] = {
        "SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"new\"}')", "SELECT lm_create('new', '{\"n_layers\":1,\"n_embd\":32,\"n_heads\":1}')",
        "UPDATE lm_weights SET value = 1 WHERE model = 'tiny' AND tensor = 'output_norm.weight' AND col = 1", "SELECT lm_config('embed_model', 'tiny')",
        "SELECT lm_quantize('tiny', 'q8_0', 'small')", "DELETE FROM lm_model WHERE name = 'new'",
        "BEGIN IMMEDIATE; " TRAIN "; COMMIT",
        "INSERT INTO note_idx(note_idx) VALUES ('sync')",
    };
    sqlite3 *other = open_plain(path);
    for (int i = 0; i < LM_COUNT(writes) - !has_vec; i++) {
        pthread_t thread;
        query(db, "DELETE FROM lm_model WHERE name = 'new'", NULL);
        sqlite3_busy_timeout(db, 100);
        query(other, "BEGIN IMMEDIATE", NULL);
        double since = now();
        int rc = query(db, writes[i], NULL);
        CHECK((rc & 0xff) == SQLITE_BUSY && now() - since > 0.09, "%s: %s after %.3f s", writes[i], sqlite3_errmsg(db), now() - since);
        CHECK(sqlite3_get_autocommit(db), "%s: a transaction was left open", writes[i]);
        sqlite3_busy_timeout(db, 5000);
        since = now();
        pthread_create(&thread, NULL, release_later, other);
        rc = query(db, writes[i], NULL);
        CHECK(rc == SQLITE_OK && now() - since > 0.1, "%s: %s after %.3f s", writes[i], sqlite3_errmsg(db), now() - since);
        pthread_join(thread, NULL);
    }
    query(other, "BEGIN IMMEDIATE", NULL);
    CHECK(query(db, TRAIN, NULL) == SQLITE_BUSY && strstr(sqlite3_errmsg(db), "BEGIN IMMEDIATE waits for it"), "%s", sqlite3_errmsg(db));
    close_db(other);
}

int main(int argc, char **argv) {
    int times = argc > 1 ? atoi(argv[1]) : TIMES;
    double bound = argc > 2 ? atof(argv[2]) : HUGE_VAL;
    const char *only = argc > 3 ? argv[3] : "";
    uint64_t random = 7;
    static const char word[][8] = { "sea ", "train ", "bread ", "moon. ", "letter ", "river, ", "12 ", "blue " };
    start("stop_test");
    remove_db(path);
    unlink("build/host/stop.gguf");
    db = open_plain(path);
    long_text = calloc(1, 4000020);
    for (size_t n = 0; n < 4000000;) n += (size_t)sprintf(long_text + n, "%s", word[next_random(&random) % 8]);
    char *sql = sqlite3_mprintf("SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"tiny\"}'),"
        " lm_create('big', '{\"n_layers\":%d,\"n_embd\":%d,\"n_heads\":6,\"n_ctx\":2048}'),"
        " lm_create('heavy', '{\"n_layers\":4,\"n_embd\":384,\"n_heads\":6}'), lm_export('heavy', 'build/host/stop.gguf');"
        " SELECT lm_create('pupil', '{\"n_layers\":2,\"n_embd\":96,\"n_heads\":3,\"n_ctx\":128}');"
        " CREATE TABLE note(id INTEGER PRIMARY KEY, body);"
        " WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 400) INSERT INTO note SELECT i, 'note ' || i || ' of the sea' FROM c;"
        " CREATE TABLE long(text); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 2000)"
        " INSERT INTO long SELECT hex(randomblob(200)) || ' ' || i FROM c;"
        " SELECT lm_create('words', '{\"n_layers\":1,\"n_embd\":32,\"n_heads\":1,\"vocab\":{\"query\":\"SELECT body FROM note\",\"size\":400}}');%s", times > TIMES ? 4 : 2, times > TIMES ? 288 : 192,
        has_vec ? " CREATE VIRTUAL TABLE note_idx USING lm_index(content='note', column='body', model='big');" : "");
    CHECK(query(db, sql, NULL) == SQLITE_OK, "setup: %s", sqlite3_errmsg(db));
    sqlite3_free(sql);
    for (int i = 0; i < LM_COUNT(works); i++) {
        if ((*only && strcmp(works[i].name, only)) || (!has_vec && !strncmp(works[i].name, "index", 5))) continue;
        stop(&works[i], 0, times, bound, &random);
        stop(&works[i], 1, times, bound, &random);
    }
    if (!*only) wait_for_lock();
    CHECK(is_sound(db), "the database is not sound");
    close_db(db);
    remove_db(path);
    unlink("build/host/stop.gguf");
    free(long_text);
    return finish_tests();
}

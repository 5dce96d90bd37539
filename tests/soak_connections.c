/* soak_connections.c: many connections at once, in threads and processes, on one database: generating, embedding, importing,
** creating, training, turning dials, searching, dropping the model that others use. What each gets is what it gets alone.
**
**     build/soak_connections SECONDS [DATABASE]       the run; DATABASE: as one of its processes
**     build/soak_connections latency SECONDS          an unrelated query's p99, idle and while a long generation runs
**
** The right answers are computed first, by one connection, and stand in a table. At the end every byte has been given back. */
#include "host.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 8, PROCESSES = 4, THREADS_BESIDE = 2 /* of the other processes */, ANSWERS = 8 };

static const char path[] = "build/host/soak.db";
static double until;
static _Atomic long n_actions, n_busy, n_wrong;
static char answers[ANSWERS][1 << 14];  /* by row of right[] */

enum { TINY, TINY_EMBED, DIAL_A, DIAL_B, TINY_DIGEST, NEW_DIGEST, LEARNT_DIGEST, TINY_ADAPTED };

#define ASK(model) "SELECT group_concat(generate(x, '{\"model\":\"" model "\",\"template\":\"none\",\"temperature\":1,\"seed\":5,\"max_tokens\":12}'), '|')" \
                   " FROM prompt"        /* a table: that keeps one time's rows for the whole statement */
#define ASK_ADAPTED "SELECT group_concat(generate(x, '{\"model\":\"tiny\",\"adapter\":\"sailor\",\"template\":\"none\",\"temperature\":1,\"seed\":5,\"max_tokens\":12}'), '|') FROM prompt"
#define DIAL(value) "UPDATE lm_weights SET value = " value " WHERE model = 'dial' AND tensor = 'output_norm.weight' AND col < 20"
#define CREATE(name) "SELECT lm_create(" name ", '{\"n_layers\":2,\"n_embd\":32,\"n_heads\":2,\"n_ctx\":64,\"seed\":3}')"
#define TRAIN(name) "SELECT max(step) FROM lm_train(json_object('model', " name ", 'query', 'SELECT x FROM prompt', 'max_steps', 2, 'lr', 0.01, 'checkpoint_every', 1))"
#define DIGEST(name) "SELECT digest FROM lm_model WHERE name = " name

static const char *const right[ANSWERS] = {
    ASK("tiny"), "SELECT group_concat(hex(embed(x, '{\"model\":\"tiny\",\"dimensions\":8}')), '|') FROM prompt",
    DIAL("0.5") "; " ASK("dial"), DIAL("2") "; " ASK("dial"), DIGEST("'tiny'"),
    CREATE("'new'") "; " DIGEST("'new'") "; DELETE FROM lm_model WHERE name = 'new'",
    CREATE("'new'") "; " TRAIN("'new'") "; " DIGEST("'new'") "; DELETE FROM lm_model WHERE name = 'new'", ASK_ADAPTED,
};

/*----------------------------------------------------------------------
** What a thread does */
typedef struct { sqlite3 *db; int number; uint64_t random; char name[40]; answer got; } client;

static void wrong(client *c, const char *what) {
    if (n_wrong++ < 20) printf("%s: %s: got %.300s; %s\n", c->name, what, c->got.data ? c->got.data : "", sqlite3_errmsg(c->db));
}

/* Run SQL in which ?1 is the client's own name. SQLITE_BUSY is an answer: to be tried again. */
static int run(client *c, const char *sql) {
    int rc = SQLITE_OK;
    clear(&c->got);
    while (*sql && rc == SQLITE_OK) {
        sqlite3_stmt *stmt = NULL;
        rc = sqlite3_prepare_v2(c->db, sql, -1, &stmt, &sql);
        if (sqlite3_bind_parameter_count(stmt)) sqlite3_bind_text(stmt, 1, c->name, -1, SQLITE_STATIC);
        while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) add_row(&c->got, stmt), rc = SQLITE_OK;
        if (rc == SQLITE_DONE) rc = SQLITE_OK;
        sqlite3_finalize(stmt);
    }
    if ((rc & 0xff) == SQLITE_BUSY) n_busy++;
    if (!c->got.data) add_text(&c->got, "");
    return rc;
}

static int is_answer(const client *c, int which) { return strstr(c->got.data, answers[which]) != NULL; }

/* Run something that must succeed, or find the database busy; say what it is when it does not. */
static int must(client *c, const char *sql) {
    int rc = run(c, sql);
    if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY) wrong(c, sql);
    return rc == SQLITE_OK;
}

static void turn_dial(client *c) {
    int to_b = (int)(next_random(&c->random) & 1), keep = (int)(next_random(&c->random) & 1);
    if (!must(c, "BEGIN IMMEDIATE")) return;
    if (must(c, to_b ? DIAL("2") : DIAL("0.5")) && must(c, ASK("dial")) && !is_answer(c, to_b ? DIAL_B : DIAL_A)) wrong(c, "inside the transaction");
    must(c, keep ? "COMMIT" : "ROLLBACK");
    if (!sqlite3_get_autocommit(c->db)) run(c, "ROLLBACK");
}

static void import_own(client *c) {
    if (must(c, "SELECT lm_import('tests/golden/tiny.gguf', json_object('name', ?1))") && must(c, DIGEST("?1")) && !is_answer(c, TINY_DIGEST)) wrong(c, "import");
    for (int i = 0; i < 20 && !must(c, "DELETE FROM lm_model WHERE name = ?1"); i++) {}
}

static void create_own(client *c) {
    if (must(c, CREATE("?1")) && must(c, DIGEST("?1")) && !is_answer(c, NEW_DIGEST)) wrong(c, "create");
    for (int i = 0; i < 20 && !must(c, "DELETE FROM lm_model WHERE name = ?1"); i++) {}
}

/* Learning what everybody learns: in a transaction, or in autocommit, where others' writes end it. */
static void train_own(client *c) {
    int at_once = (int)(next_random(&c->random) & 1);
    if (at_once && !must(c, "BEGIN IMMEDIATE")) return;
    if (must(c, CREATE("?1")) && must(c, TRAIN("?1")) && must(c, DIGEST("?1")) && !is_answer(c, LEARNT_DIGEST)) wrong(c, "train");
    if (at_once) must(c, next_random(&c->random) & 1 ? "COMMIT" : "ROLLBACK");
    if (!sqlite3_get_autocommit(c->db)) run(c, "ROLLBACK");
    for (int i = 0; i < 20 && !must(c, "DELETE FROM lm_model WHERE name = ?1"); i++) {}
}

/* The victim comes and goes while others use it. */
static void use_victim(client *c) {
    int rc = run(c, ASK("victim"));
    if (rc == SQLITE_OK ? !is_answer(c, TINY) : (rc & 0xff) != SQLITE_BUSY && !strstr(sqlite3_errmsg(c->db), "no such model: victim")) wrong(c, "victim");
}

static void bring_victim(client *c) {
    int rc = run(c, "SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"victim\"}')");
    if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY && !strstr(sqlite3_errmsg(c->db), "exists already")) wrong(c, "bring the victim");
}

static void search_own(client *c) {
    if (!has_vec || !must(c, "INSERT INTO note(body) VALUES (?1 || ' saw the sea')")) return;
    int rc = run(c, "SELECT n.body FROM note_idx i JOIN note n ON n.id = i.rowid WHERE i.body MATCH ?1 || ' saw the sea' AND i.k = 1");
    if (rc != SQLITE_OK ? (rc & 0xff) != SQLITE_BUSY : strncmp(c->got.data, c->name, strlen(c->name))) wrong(c, "search");
    for (int i = 0; i < 20 && !must(c, "DELETE FROM note WHERE body = ?1 || ' saw the sea'"); i++) {}
}

/* A copy, page by page, while others write. */
static void back_up(client *c) {
    sqlite3 *copy = open_plain(":memory:");
    sqlite3_backup *b = sqlite3_backup_init(copy, "main", c->db, "main");
    int rc = SQLITE_OK;
    while (b && (rc == SQLITE_OK || rc == SQLITE_BUSY || rc == SQLITE_LOCKED) && now() < until) rc = sqlite3_backup_step(b, 50);
    sqlite3_backup_finish(b);
    if (rc == SQLITE_DONE && !is_sound(copy)) wrong(c, "backup");
    sqlite3_close(copy);
}

static void act(client *c) {
    switch (next_random(&c->random) % 19) {
    case 0: case 1: case 2: if (must(c, ASK("tiny")) && !is_answer(c, TINY)) wrong(c, "generate"); break;
    case 3: case 4: if (must(c, right[TINY_EMBED]) && !is_answer(c, TINY_EMBED)) wrong(c, "embed"); break;
    case 5: case 6: if (must(c, ASK("dial")) && !is_answer(c, DIAL_A) && !is_answer(c, DIAL_B)) wrong(c, "dial"); break;
    case 7: turn_dial(c); break;
    case 8: import_own(c); break;
    case 9: create_own(c); break;
    case 10: must(c, "DELETE FROM lm_model WHERE name = 'victim'"); break;
    case 11: bring_victim(c); break;
    case 12: use_victim(c); break;
    case 13: search_own(c); break;
    case 14: if (must(c, "SELECT lm_check()") && strcmp(c->got.data, "ok|")) wrong(c, "check"); break;
    case 15:
        if (next_random(&c->random) % 8 == 0) back_up(c);
        else must(c, "SELECT count(*) FROM lm_loaded; SELECT max(std) FROM lm_parameters('tiny'); SELECT lm_unload()");
        break;
    case 16: train_own(c); break;
    case 17: case 18: if (must(c, ASK_ADAPTED) && !is_answer(c, TINY_ADAPTED)) wrong(c, "adapted"); break;
    }
}

static void *work(void *arg) {
    client c = { .number = (int)(size_t)arg, .random = (uint64_t)getpid() << 8 | (uint64_t)(size_t)arg };
    snprintf(c.name, sizeof c.name, "p%d t%d", (int)getpid(), c.number);
    while (now() < until) {
        c.db = open_plain(path);
        sqlite3_busy_timeout(c.db, 30000);
        for (int i = 0; i < 40 && now() < until; i++, n_actions++) act(&c);
        clear(&c.got);
        if (sqlite3_close(c.db) != SQLITE_OK) wrong(&c, "close");
    }
    return NULL;
}

static void read_answers(void) {
    sqlite3 *db = open_plain(path);
    for (int i = 0; i < ANSWERS; i++) {
        answer a = {0};
        char sql[80];
        snprintf(sql, sizeof sql, "SELECT text FROM answer WHERE id = %d", i);
        int rc = query(db, sql, &a);
        for (int tries = 0; (rc & 0xff) == SQLITE_BUSY && tries < 1000; tries++) {      /* the other processes write by now */
            clear(&a);
            usleep(10000);
            rc = query(db, sql, &a);
        }
        CHECK(rc == SQLITE_OK && a.data, "answer %d: %s", i, sqlite3_errmsg(db));
        snprintf(answers[i], sizeof answers[i], "%s", a.data ? a.data : "");
        clear(&a);
    }
    close_db(db);
}

/* One process's part. Return what is to be its exit status. */
static int run_threads(int n) {
    pthread_t threads[THREADS];
    read_answers();
    uint64_t engine = lm_mem_used();
    sqlite3_int64 all = sqlite3_memory_used();
    for (int i = 0; i < n; i++) pthread_create(&threads[i], NULL, work, (void *)(size_t)i);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    close_db(open_plain(path));
    if (lm_mem_used() != engine || sqlite3_memory_used() != all) {
        printf("memory: %lld and %lld bytes at the end, %lld and %lld at the start\n", (long long)lm_mem_used(), (long long)sqlite3_memory_used(),
               (long long)engine, (long long)all);
        n_wrong++;
    }
    printf("process %d: %d threads, %ld actions, %ld found the database busy, %ld wrong\n", (int)getpid(), n, n_actions, n_busy, n_wrong);
    return n_wrong > 0 || n_failed > 0;
}

static void set_up(void) {
    remove_db(path);
    sqlite3 *db = open_plain(path);
    CHECK(query(db, "PRAGMA journal_mode = wal; SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"tiny\"}'), lm_import('tests/golden/tiny.gguf', '{\"name\":\"dial\"}');"
                    " CREATE TABLE prompt(x); INSERT INTO prompt VALUES ('Once'), ('the sea'); CREATE TABLE answer(id INTEGER PRIMARY KEY, text); CREATE TABLE note(id INTEGER PRIMARY KEY, body);"
                    " INSERT INTO note(body) VALUES ('the moon'), ('a late train')", NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    CHECK(query(db, "SELECT step FROM lm_train('{\"model\":\"tiny\",\"adapter\":\"sailor\",\"lora\":{\"rank\":4},\"query\":\"SELECT body FROM note\",\"max_steps\":2,\"lr\":0.3}')",
                NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    if (has_vec) query(db, "CREATE VIRTUAL TABLE note_idx USING lm_index(content='note', column='body', model='tiny')", NULL);
    for (int i = 0; i < ANSWERS; i++) {
        answer a = {0};
        CHECK(query(db, right[i], &a) == SQLITE_OK, "%s: %s", right[i], sqlite3_errmsg(db));
        const char *last = i == NEW_DIGEST || i == LEARNT_DIGEST ? a.data + a.n - 2 * LM_DIGEST_BYTES - 1 : a.data;
        char *sql = sqlite3_mprintf("INSERT INTO answer VALUES (%d, rtrim(%Q, '|'))", i, last);
        query(db, sql, NULL);
        sqlite3_free(sql);
        clear(&a);
    }
    read_answers();
    CHECK(strcmp(answers[TINY], answers[TINY_ADAPTED]) && strcmp(answers[NEW_DIGEST], answers[LEARNT_DIGEST]), "the adapter or the training changes nothing");
    close_db(db);
}

/*----------------------------------------------------------------------
** Latency */
static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *generate_long(void *db) {
    CHECK(query(db, "SELECT count(*) FROM generate_stream('Once upon a time', '{\"template\":\"none\",\"max_tokens\":100000}')", NULL) == SQLITE_INTERRUPT,
          "%s", sqlite3_errmsg(db));
    return NULL;
}

/* p50 and p99 of a query of some tenths of a millisecond, asked every few milliseconds. */
static void ask_for(sqlite3 *db, double seconds, double out[2]) {
    static double times[100000];
    int n = 0;
    for (double end = now() + seconds; now() < end && n < LM_COUNT(times); n++) {
        double since = now();
        query(db, "SELECT sum(id * id % 7) FROM numbers", NULL);
        times[n] = (now() - since) * 1e3;
        usleep(2000);
    }
    qsort(times, (size_t)n, sizeof *times, compare);
    out[0] = times[n / 2];
    out[1] = times[(n * 99 + 99) / 100 - 1];
}

static int measure_latency(double seconds) {
    double idle[2], busy[2];
    pthread_t thread;
    remove_db(path);
    sqlite3 *db = open_plain(path), *other = open_plain(path);
    int real = access("models/SmolLM2-135M-Instruct.Q4_1.gguf", R_OK) == 0;
    if (!real) printf("skipped: SmolLM2 is not there (make fetch): a model made here stands in\n");
    CHECK(query(db, real ? "SELECT lm_import('models/SmolLM2-135M-Instruct.Q4_1.gguf')" : "SELECT lm_create('big', '{\"n_layers\":8,\"n_embd\":512,\"n_heads\":8,\"n_ctx\":8192}')",
                NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    query(db, "CREATE TABLE numbers(id INTEGER PRIMARY KEY); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 3000) INSERT INTO numbers SELECT i FROM c", NULL);
    query(db, "SELECT lm_token_count('x')", NULL);
    ask_for(other, seconds, idle);
    pthread_create(&thread, NULL, generate_long, db);
    usleep(500000);
    ask_for(other, seconds, busy);
    sqlite3_interrupt(db);
    pthread_join(thread, NULL);
    printf("an unrelated query, %d threads generating: idle median %.3f ms, p99 %.3f ms; beside a long generation median %.3f ms, p99 %.3f ms (%.2f x)\n",
           lm_threads(), idle[0], idle[1], busy[0], busy[1], busy[1] / idle[1]);
    CHECK(busy[1] < 2 * idle[1], "the other query waits %.2f times as long", busy[1] / idle[1]);
    close_db(db);
    close_db(other);
    remove_db(path);
    return finish_tests();
}

int main(int argc, char **argv) {
    start("soak_connections");
    if (argc > 2 && !strcmp(argv[1], "latency")) return measure_latency(atof(argv[2]));
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    until = now() + seconds;
    if (argc > 2) return run_threads(THREADS_BESIDE);
    set_up();
    pid_t others[PROCESSES - 1];
    for (int i = 0; i < PROCESSES - 1; i++) {
        fflush(stdout);
        others[i] = fork();
        if (!others[i]) {
            execl(argv[0], argv[0], argc > 1 ? argv[1] : "5", path, (char *)NULL);
            _exit(127);
        }
    }
    until = now() + seconds;
    CHECK(run_threads(THREADS) == 0, "this process");
    for (int i = 0; i < PROCESSES - 1; i++) {
        int status = 1;
        waitpid(others[i], &status, 0);
        CHECK(status == 0, "another process: status %d", status);
    }
    sqlite3 *db = open_plain(path);
    CHECK(is_sound(db), "the database is not sound");
    answer a = {0};
    query(db, "SELECT name FROM lm_model WHERE name <> 'victim' ORDER BY name", &a);
    CHECK(!strcmp(a.data, "dial|tiny|"), "models that are left: %s", a.data);
    clear(&a);
    close_db(db);
    remove_db(path);
    return finish_tests();
}

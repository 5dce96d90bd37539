/* fault_test.c: no memory. Every allocation of every job fails in turn, once and for good; then the budgets shrink, and what a
** connection may have (sqlite3_limit).
**
**     build/fault_test [STRIDE [JOB]]        1: every allocation; else every STRIDE-th, beginning somewhere else in each job
**
** SQLite's allocator is wrapped (SQLITE_CONFIG_MALLOC), so what fails are SQLite's allocations and the engine's alike. A job
** then gives the right answer or SQLITE_NOMEM, all memory comes back, and the database holds what it held before, or
** what the job was to leave. */
#include "host.h"

#include <dlfcn.h>
#include <execinfo.h>

enum { STRIDE = 61, STEPS = 24, SHOWN = 20 };

static const char image[] = "build/host/fault_image.db", path[] = "build/host/fault.db";

static sqlite3_mem_methods real;
static sqlite3_int64 held, n_allocations;
static sqlite3_int64 fail_at;           /* the number of the one that fails; 0: none */
static int for_good, has_failed;
static sqlite3_int64 n_faults, n_limits;

/* sqlite-vec (0.1.9) crashes when it gets no memory: what it asks for, it gets. */
static int is_for_vec(void) {
    void *frames[64];
    Dl_info info;
    int found = 0, n = has_vec ? backtrace(frames, LM_COUNT(frames)) : 0;
    for (int i = 0; i < n && !found; i++) found = dladdr(frames[i], &info) && info.dli_fname && strstr(info.dli_fname, "vec0");
    return found;
}

static int is_to_fail(void) {
    if (is_reading) return 0;
    n_allocations++;
    if (!fail_at || n_allocations < fail_at || (has_failed && !for_good) || is_for_vec()) return 0;
    return has_failed = 1;
}

static void *fault_malloc(int n) {
    void *p = is_to_fail() ? NULL : real.xMalloc(n);
    if (p) held += real.xSize(p);
    return p;
}

static void fault_free(void *p) {
    held -= real.xSize(p);
    real.xFree(p);
}

static void *fault_realloc(void *p, int n) {
    sqlite3_int64 before = real.xSize(p);
    void *q = is_to_fail() ? NULL : real.xRealloc(p, n);
    if (q) held += real.xSize(q) - before;
    return q;
}

static void arm(sqlite3_int64 n, int forever) {
    n_allocations = 0;
    has_failed = 0;
    for_good = forever;
    fail_at = n;
}

/*----------------------------------------------------------------------
** One try */
typedef struct {
    const job *j;
    const char *encoding;
    answer right, before, after;        /* its answer; what is stored before and after it */
    sqlite3_int64 n_allocations, peak;
    uint64_t engine_peak;
} trial;

static void say(const trial *t, const char *how, long long n, const char *what, sqlite3 *db) {
    n_failed++;
    if (n_failed <= SHOWN) printf("%s, %s %lld: %s%s%s\n", t->j->name, how, n, what, db ? ": " : "", db ? sqlite3_errmsg(db) : "");
}

/* What the job left must be all or nothing. */
static void check_database(const trial *t, int rc, const char *how, long long n) {
    answer state = {0};
    sqlite3 *db = open_plain(path);
    if (!is_sound(db)) say(t, how, n, "the database is not sound", NULL);
    read_state(db, &state);
    int is_done = is_same(&state, &t->after), is_undone = is_same(&state, &t->before);
    if (rc == SQLITE_OK ? !is_done : !is_undone && !(is_done && t->j->flags & EITHER)) say(t, how, n, rc ? "something was left behind" : "done, but not done", NULL);
    clear(&state);
    close_db(db);
}

/* What is compared with memory_limit before it begins is refused in words: SQLITE_NOMEM would end the user's transaction. */
static int is_refusal(int rc, sqlite3 *db) {
    return rc == SQLITE_ERROR && strstr(sqlite3_errmsg(db), "memory_limit");
}

static void check_outcome(const trial *t, int rc, const answer *a, sqlite3 *db, const char *how, long long n) {
    if (rc == SQLITE_OK && !(t->j->flags & VARIES) && !is_same(a, &t->right)) say(t, how, n, "another answer", NULL);
    else if (rc != SQLITE_OK && rc != SQLITE_NOMEM && !is_refusal(rc, db)) say(t, how, n, sqlite3_errstr(rc), db);
    else n_passed++;
    if (access("build/host/host_out.gguf", F_OK) == 0 && rc != SQLITE_OK) say(t, how, n, "a file was left behind", NULL);
}

/* Put a fresh copy of the database there, where the job writes. */
static void renew(const trial *t) {
    unlink("build/host/host_out.gguf");
    if (!(t->j->flags & WRITES)) return;
    remove_db(path);
    copy_file(image, path);
}

/* Where there is memory again, the connection is as good as before. */
static void ask_again(const trial *t, sqlite3 *db, const char *how, long long n) {
    answer a = {0};
    int rc = query(db, t->j->sql, &a);
    if (rc != SQLITE_OK || !is_same(&a, &t->right)) say(t, how, n, "asked again", db);
    else n_passed++;
    unlink("build/host/host_out.gguf");
    clear(&a);
}

static void try_allocation(const trial *t, sqlite3_int64 n, int forever) {
    answer a = {0};
    const char *how = forever ? "without memory from allocation" : "without allocation";
    renew(t);
    sqlite3 *db = open_plain(path);
    arm(n, forever);
    int rc = query(db, t->j->sql, &a), failed = has_failed;
    arm(0, 0);
    if (failed) {
        n_faults++;
        check_outcome(t, rc, &a, db, how, n);
        if (rc != SQLITE_OK && !(t->j->flags & (WRITES | VARIES))) ask_again(t, db, how, n);
    }
    clear(&a);
    close_db(db);
    if (failed && t->j->flags & WRITES) check_database(t, rc, how, n);
    if (held) say(t, how, n, "memory was not given back", NULL), held = 0;
}

/* Opening a connection, to its first statement. */
static void try_opening(const trial *t, sqlite3_int64 n, int forever) {
    int rc, vec = has_vec;
    has_vec = 0;
    arm(n, forever);
    sqlite3 *db = open_db(path, NULL, &rc);
    int failed = has_failed;
    if (db) rc = query(db, "SELECT lm_version()", NULL);
    arm(0, 0);
    if (failed) n_faults++;
    if (failed && rc != SQLITE_OK && rc != SQLITE_NOMEM) say(t, "opening without allocation", n, sqlite3_errstr(rc), NULL);
    else n_passed++;
    if (db) close_db(db);
    has_vec = vec;
    if (held) say(t, "opening without allocation", n, "memory was not given back", NULL), held = 0;
}

/* Less and less of a budget: SQLite's own limit for the process, and ours. */
static void try_budget(const trial *t, int is_ours, int step) {
    answer a = {0};
    const char *how = is_ours ? "with memory_limit" : "with hard_heap_limit";
    renew(t);
    sqlite3 *db = open_plain(path);
    long long limit = is_ours ? (long long)lm_mem_used() + (long long)t->engine_peak * step / STEPS : sqlite3_memory_used() + t->peak * step / STEPS;
    if (is_ours) lm_mem_limit_set((uint64_t)limit + 1);
    else sqlite3_hard_heap_limit64(limit + 1);
    int rc = query(db, t->j->sql, &a);
    lm_mem_limit_set(0);
    sqlite3_hard_heap_limit64(0);
    check_outcome(t, rc, &a, db, how, limit);
    clear(&a);
    close_db(db);
    if (t->j->flags & WRITES) check_database(t, rc, how, limit);
    if (held) say(t, how, limit, "memory was not given back", NULL), held = 0;
}

/* Less than it wants of what a connection may have (sqlite3_limit): done, or an error in words. */
static void try_limit(const trial *t, int id, int value) {
    if (id == SQLITE_LIMIT_VDBE_OP && t->j->flags & NEEDS_VEC) return;         /* sqlite-vec (0.1.9) leaks a message */
    answer a = {0};
    renew(t);
    sqlite3 *db = open_plain(path);
    int before = sqlite3_limit(db, id, value), rc = query(db, t->j->sql, &a);
    sqlite3_limit(db, id, before);
    if (rc == SQLITE_OK && !(t->j->flags & VARIES) && !is_same(&a, &t->right)) say(t, "with sqlite3_limit", id, "another answer", NULL);
    else if ((rc == SQLITE_NOMEM && id != SQLITE_LIMIT_VDBE_OP) || (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_INTERNAL) say(t, "with sqlite3_limit", id, sqlite3_errstr(rc), db);
    else n_passed++;
    n_limits++;
    clear(&a);
    close_db(db);
    if (t->j->flags & WRITES) check_database(t, rc, "with sqlite3_limit", id);
    if (held) say(t, "with sqlite3_limit", id, "memory was not given back", NULL), held = 0;
}

static void try_limits(const trial *t) {
    static const int lengths[] = { 40, 200, 1000, 5000, 20000, 100000 }, few[] = { 0, 1, 2, 5, 20 };
    static const int others[] = { SQLITE_LIMIT_COLUMN, SQLITE_LIMIT_EXPR_DEPTH, SQLITE_LIMIT_COMPOUND_SELECT, SQLITE_LIMIT_FUNCTION_ARG,
                                  SQLITE_LIMIT_VARIABLE_NUMBER, SQLITE_LIMIT_TRIGGER_DEPTH, SQLITE_LIMIT_LIKE_PATTERN_LENGTH };
    for (int i = 0; i < LM_COUNT(lengths); i++) {
        try_limit(t, SQLITE_LIMIT_LENGTH, lengths[i]);
        try_limit(t, SQLITE_LIMIT_SQL_LENGTH, lengths[i]);
        try_limit(t, SQLITE_LIMIT_VDBE_OP, lengths[i] / 20);
    }
    for (int i = 0; i < LM_COUNT(others); i++) for (int k = 0; k < LM_COUNT(few); k++) try_limit(t, others[i], few[k]);
}

/* Nothing fails: the right answer, and what it takes. */
static int measure(trial *t) {
    sqlite3_int64 current;
    if (!make_db(image, t->j, "PRAGMA journal_mode = delete", t->encoding)) return 0;
    remove_db(path);
    copy_file(image, path);
    sqlite3 *db = open_plain(path);
    uint64_t engine_before = lm_mem_used();
    sqlite3_int64 before = sqlite3_memory_used();
    read_state(db, &t->before);
    close_db(db);
    db = open_plain(path);
    sqlite3_status64(SQLITE_STATUS_MEMORY_USED, &current, &t->peak, 1);
    arm(0, 0);
    int rc = query(db, t->j->sql, &t->right);
    t->n_allocations = n_allocations;
    CHECK(rc == SQLITE_OK, "%s: %s", t->j->name, sqlite3_errmsg(db));
    sqlite3_status64(SQLITE_STATUS_MEMORY_USED, &current, &t->peak, 0);
    t->peak -= before;
    t->engine_peak = lm_mem_peak() - engine_before;
    read_state(db, &t->after);
    close_db(db);
    CHECK(held == 0, "%s: %lld bytes were not given back", t->j->name, (long long)held);
    unlink("build/host/host_out.gguf");
    return rc == SQLITE_OK;
}

static void sweep(const job *j, const char *encoding, int stride, int number) {
    trial t = { .j = j, .encoding = encoding };
    if (measure(&t)) {
        for (sqlite3_int64 n = 1 + number % stride; n <= t.n_allocations; n += stride) {
            try_allocation(&t, n, 0);
            try_allocation(&t, n, 1);
        }
        for (int step = 0; step < STEPS; step += stride > 1 ? 6 : 1) {
            if (!(j->flags & NEEDS_VEC)) try_budget(&t, 0, step);
            try_budget(&t, 1, step);
        }
        if (stride == 1 || number % 4 == 0) try_limits(&t);
        if (number == 0) for (sqlite3_int64 n = 1; n <= 2000; n += stride) try_opening(&t, n, 0), try_opening(&t, n, 1);
    }
    clear(&t.right);
    clear(&t.before);
    clear(&t.after);
}

int main(int argc, char **argv) {
    int stride = argc > 1 ? atoi(argv[1]) : STRIDE;
    const char *only = argc > 2 ? argv[2] : NULL;
    double since = now();
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real);
    sqlite3_mem_methods shim = real;
    shim.xMalloc = fault_malloc;
    shim.xFree = fault_free;
    shim.xRealloc = fault_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &shim);
    sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0);      /* it would answer in the allocator's place */
    start("fault_test");
    if (has_vec) printf("skipped: fault_test: hard_heap_limit in jobs of indexes: sqlite-vec (0.1.9) crashes without memory\n");
    for (int i = 0; i < LM_COUNT(jobs); i++) {
        if (jobs[i].flags & NEEDS_VEC && !has_vec) continue;
        if (only && strcmp(jobs[i].name, only)) continue;
        if (stride == 1 || i % 2 == 0) sweep(&jobs[i], "UTF-8", stride, i);
        if (stride == 1 || i % 2) sweep(&jobs[i], "UTF-16le", stride, i + 100);
    }
    remove_db(path);
    remove_db(image);
    printf("%lld failed allocations, %lld tries under a limit, %.0f s\n", (long long)n_faults, (long long)n_limits, now() - since);
    return finish_tests();
}

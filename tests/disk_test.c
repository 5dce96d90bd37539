/* disk_test.c: no disk. The n-th read, write, sync, truncate, lock, open or delete fails, or the disk is full from the n-th
** write on; then kill -9 strikes.
**
**     build/disk_test [STRIDE [KILLS [JOB]]]
**
** A shim VFS counts what SQLite asks of the disk and fails it. A job then does all of its work or none: after a new opening,
** which rolls back what a journal has, pages and digests are sound, the rows are those from before or those that the job leaves, and
** a second try leaves the latter. Killed is a child process, at an operation or after a time, both drawn from a seed. */
#include "host.h"

#include <signal.h>

enum { READ, WRITE, SYNC, TRUNCATE, LOCK, OPEN, DELETE, FULL, KINDS, KILL = KINDS };
static const char *const kind_names[] = { "read", "write", "sync", "truncate", "lock", "open", "delete", "full disk" };

enum { STRIDE = 97, KILLS = 3, SHOWN = 20 };

static const char image[] = "build/host/disk_image.db", path[] = "build/host/disk.db";

static int fail_kind;
static long long fail_at, n_operations[KINDS + 1], n_faults[KINDS], n_kills;
static int for_good, has_failed;

static void arm(int kind, long long n, int forever) {
    memset(n_operations, 0, sizeof n_operations);
    has_failed = 0;
    for_good = forever;
    fail_kind = kind;
    fail_at = n;
}

/* Count one operation; is it to fail? */
static int is_to_fail(int kind) {
    long long n = ++n_operations[kind];
    int is_it = kind == fail_kind || (kind == WRITE && fail_kind == FULL);
    if (kind == WRITE) n_operations[FULL] = n;
    if (++n_operations[KILL] == fail_at && fail_kind == KILL) kill(getpid(), SIGKILL);
    if (!fail_at || !is_it || n < fail_at || (n > fail_at && !for_good)) return 0;
    return has_failed = 1;
}

/*----------------------------------------------------------------------
** The VFS: what the default one does, unless it fails. A write fails half done. Nothing is really synced: it takes time, and
** only a power cut could tell. */
typedef struct { sqlite3_file base; sqlite3_file *real; } file;

static sqlite3_file *real(sqlite3_file *f) { return ((file *)f)->real; }

static int f_close(sqlite3_file *f) { return real(f)->pMethods->xClose(real(f)); }
static int f_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at) {
    return is_to_fail(READ) ? SQLITE_IOERR_READ : real(f)->pMethods->xRead(real(f), to, n, at);
}
static int f_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at) {
    if (!is_to_fail(WRITE)) return real(f)->pMethods->xWrite(real(f), from, n, at);
    real(f)->pMethods->xWrite(real(f), from, n / 2, at);
    return fail_kind == FULL ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}
static int f_truncate(sqlite3_file *f, sqlite3_int64 n) { return is_to_fail(TRUNCATE) ? SQLITE_IOERR_TRUNCATE : real(f)->pMethods->xTruncate(real(f), n); }
static int f_sync(sqlite3_file *f, int flags) { return (void)f, (void)flags, is_to_fail(SYNC) ? SQLITE_IOERR_FSYNC : SQLITE_OK; }
static int f_size(sqlite3_file *f, sqlite3_int64 *n) { return real(f)->pMethods->xFileSize(real(f), n); }
static int f_lock(sqlite3_file *f, int level) { return is_to_fail(LOCK) ? SQLITE_IOERR_LOCK : real(f)->pMethods->xLock(real(f), level); }
static int f_unlock(sqlite3_file *f, int level) { return real(f)->pMethods->xUnlock(real(f), level); }
static int f_is_reserved(sqlite3_file *f, int *is) { return real(f)->pMethods->xCheckReservedLock(real(f), is); }
static int f_control(sqlite3_file *f, int op, void *arg) { return real(f)->pMethods->xFileControl(real(f), op, arg); }
static int f_sector(sqlite3_file *f) { return real(f)->pMethods->xSectorSize(real(f)); }
static int f_device(sqlite3_file *f) { return real(f)->pMethods->xDeviceCharacteristics(real(f)); }
static int f_shm_map(sqlite3_file *f, int page, int n, int extend, void volatile **out) {
    return real(f)->pMethods->xShmMap(real(f), page, n, extend, out);
}
static int f_shm_lock(sqlite3_file *f, int at, int n, int flags) {
    return !(flags & SQLITE_SHM_UNLOCK) && is_to_fail(LOCK) ? SQLITE_IOERR_SHMLOCK : real(f)->pMethods->xShmLock(real(f), at, n, flags);
}
static void f_shm_barrier(sqlite3_file *f) { real(f)->pMethods->xShmBarrier(real(f)); }
static int f_shm_unmap(sqlite3_file *f, int remove) { return real(f)->pMethods->xShmUnmap(real(f), remove); }

static const sqlite3_io_methods methods = {
    2, f_close, f_read, f_write, f_truncate, f_sync, f_size, f_lock, f_unlock, f_is_reserved, f_control, f_sector, f_device,
    f_shm_map, f_shm_lock, f_shm_barrier, f_shm_unmap, NULL, NULL,
};

static sqlite3_vfs *below(sqlite3_vfs *v) { return v->pAppData; }

static int v_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    *(file *)f = (file){ .real = (sqlite3_file *)((file *)f + 1) };
    real(f)->pMethods = NULL;
    if (is_to_fail(OPEN)) return SQLITE_CANTOPEN;
    int rc = below(v)->xOpen(below(v), name, real(f), flags, out);
    if (rc == SQLITE_OK) f->pMethods = &methods;
    return rc;
}
static int v_delete(sqlite3_vfs *v, const char *name, int sync) { return is_to_fail(DELETE) ? SQLITE_IOERR_DELETE : below(v)->xDelete(below(v), name, sync); }
static int v_access(sqlite3_vfs *v, const char *name, int flags, int *out) { return below(v)->xAccess(below(v), name, flags, out); }
static int v_full(sqlite3_vfs *v, const char *name, int n, char *out) { return below(v)->xFullPathname(below(v), name, n, out); }

static void register_shim(void) {
    static sqlite3_vfs shim;
    sqlite3_vfs *plain = sqlite3_vfs_find(NULL);
    shim = *plain;
    shim.szOsFile += (int)sizeof(file);
    shim.zName = "shim";
    shim.pAppData = plain;
    shim.xOpen = v_open;
    shim.xDelete = v_delete;
    shim.xAccess = v_access;
    shim.xFullPathname = v_full;
    sqlite3_vfs_register(&shim, 0);
}

/*----------------------------------------------------------------------
** One try. The third kind of database has its files cut short, which the others never have. */
typedef struct { const char *name, *made, *opened; } setup;      /* pragmas: of the database, of a connection */

static const setup by_delete = { "delete journal", "PRAGMA journal_mode = delete", "" }, by_wal = { "wal", "PRAGMA journal_mode = wal", "" },
                   by_truncate = { "truncated journal", "PRAGMA auto_vacuum = full", "PRAGMA journal_mode = truncate" };

typedef struct {
    const job *j;
    const setup *as;
    answer right, before, after;
    long long n[KINDS + 1];             /* operations that it takes */
    double seconds;
} trial;

static void say(const trial *t, int kind, long long n, const char *what, const char *why) {
    n_failed++;
    if (n_failed <= SHOWN) printf("%s, %s, %s %lld: %s%s%s\n", t->j->name, t->as->name, kind == KILL ? "killed at" : kind_names[kind], n, what, why ? ": " : "", why ? why : "");
}

/* A cache so small that pages are written before the end. */
static sqlite3 *open_shim(const setup *as, int *rc) {
    sqlite3 *db = open_db(path, "shim", rc);
    if (db) *rc = query(db, "PRAGMA cache_size = 8", NULL);
    if (db && *rc == SQLITE_OK) *rc = query(db, as->opened, NULL);
    return db;
}

static void renew(void) {
    remove_db(path);
    copy_file(image, path);
}

/* After the failure: sound, all or nothing, and good for a second try. */
static void check_after(const trial *t, int rc, int kind, long long n) {
    answer state = {0};
    sqlite3 *db = open_plain(path);
    if (!is_sound(db)) say(t, kind, n, "the database is not sound", NULL);
    read_state(db, &state);
    int is_done = is_same(&state, &t->after);
    if (!is_done && !is_same(&state, &t->before)) say(t, kind, n, "neither done nor undone", NULL);
    else if (rc == SQLITE_OK && !is_done) say(t, kind, n, "said to be done, and is not", NULL);
    else n_passed++;
    if (!is_done && t->j->flags & WRITES) {
        clear(&state);
        if (query(db, t->j->sql, NULL) != SQLITE_OK) say(t, kind, n, "the second try", sqlite3_errmsg(db));
        read_state(db, &state);
        if (!is_same(&state, &t->after) || !is_sound(db)) say(t, kind, n, "the second try left something else", NULL);
    }
    clear(&state);
    close_db(db);
}

/* What the disk did is said by code, not only in words. (sqlite-vec 0.1.9 has words of its own.) */
static int is_told(const job *j, int rc) {
    switch (rc & 0xff) {
    case SQLITE_ERROR: return j->flags & NEEDS_VEC;
    case SQLITE_IOERR: case SQLITE_FULL: case SQLITE_CANTOPEN: case SQLITE_BUSY: case SQLITE_LOCKED: case SQLITE_PROTOCOL: case SQLITE_READONLY: return 1;
    default: return 0;
    }
}

static void try_operation(const trial *t, int kind, long long n, int forever) {
    answer a = {0};
    int rc;
    renew();
    sqlite3 *db = open_shim(t->as, &rc);
    arm(kind, n, forever);
    rc = query(db, t->j->sql, &a);
    int failed = has_failed;
    if (failed) {
        n_faults[kind]++;
        if (rc == SQLITE_OK && !is_same(&a, &t->right)) say(t, kind, n, "another answer", a.data);
        else if (rc != SQLITE_OK && !is_told(t->j, rc)) say(t, kind, n, sqlite3_errstr(rc), sqlite3_errmsg(db));
        else n_passed++;
    }
    sqlite3_close(db);                  /* with the disk as it is */
    arm(0, 0, 0);
    if (failed) check_after(t, rc, kind, n);
    clear(&a);
}

/* Kill a child at its n-th operation, or after some seconds. */
static void try_kill(const trial *t, long long n, double seconds) {
    int rc, status;
    renew();
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        sqlite3 *db = open_shim(t->as, &rc);
        arm(KILL, n, 0);
        if (db) rc = query(db, t->j->sql, NULL);
        _exit(rc != SQLITE_OK);
    }
    if (!n) {
        usleep((useconds_t)(seconds * 1e6));
        kill(child, SIGKILL);
    }
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status)) say(t, KILL, n, "the child failed", NULL);
    n_kills += WIFSIGNALED(status);
    check_after(t, WIFEXITED(status) ? SQLITE_OK : SQLITE_ABORT, KILL, n);
}

static int measure(trial *t) {
    int rc;
    if (!make_db(image, t->j, t->as->made, "UTF-8")) return 0;
    renew();
    sqlite3 *db = open_shim(t->as, &rc);
    read_state(db, &t->before);
    close_db(db);
    db = open_shim(t->as, &rc);
    arm(0, 0, 0);
    double since = now();
    rc = query(db, t->j->sql, &t->right);
    t->seconds = now() - since;
    memcpy(t->n, n_operations, sizeof t->n);
    CHECK(rc == SQLITE_OK, "%s: %s", t->j->name, sqlite3_errmsg(db));
    read_state(db, &t->after);
    close_db(db);
    return rc == SQLITE_OK;
}

static void sweep(const job *j, const setup *as, int stride, int kills, int number) {
    trial t = { .j = j, .as = as };
    uint64_t random = (uint64_t)number;
    if (measure(&t)) {
        for (int kind = 0; kind < KINDS; kind++) {
            long long step = t.n[kind] < 2 ? 1 : LM_MIN(stride, t.n[kind] / 2);      /* of what is rare, too, something fails */
            for (long long n = 1 + number % step; n <= t.n[kind]; n += step) {
                try_operation(&t, kind, n, 0);
                try_operation(&t, kind, n, 1);
            }
        }
        for (int i = 0; i < kills && j->flags & WRITES; i++) {
            double part = (double)(next_random(&random) >> 11) * 0x1p-53;
            if (i % 2) try_kill(&t, 1 + (long long)(part * (double)t.n[KILL]), 0);
            else try_kill(&t, 0, part * t.seconds);
        }
    }
    clear(&t.right);
    clear(&t.before);
    clear(&t.after);
}

int main(int argc, char **argv) {
    int stride = argc > 1 ? atoi(argv[1]) : STRIDE, kills = argc > 2 ? atoi(argv[2]) : KILLS;
    const char *only = argc > 3 ? argv[3] : NULL;
    double since = now();
    start("disk_test");
    register_shim();
    for (int i = 0; i < LM_COUNT(jobs); i++) {
        if ((jobs[i].flags & NEEDS_VEC && !has_vec) || jobs[i].flags & VARIES || (only && strcmp(jobs[i].name, only))) continue;
        if (stride == 1 || i % 3) sweep(&jobs[i], &by_delete, stride, kills, i);
        if (stride == 1 || i % 3 == 0) sweep(&jobs[i], &by_wal, stride, kills, i + 100);
        if (stride == 1 || (i % 3 == 1 && jobs[i].flags & WRITES)) sweep(&jobs[i], &by_truncate, stride, kills, i + 200);
    }
    remove_db(path);
    remove_db(image);
    long long all = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        CHECK(n_faults[kind] || only, "no %s has failed", kind_names[kind]);
        all += n_faults[kind];
    }
    CHECK(n_kills || only, "nobody was killed");
    printf("%lld failed operations (%lld of them truncates), %lld kills, %.0f s\n", all, n_faults[TRUNCATE], n_kills, now() - since);
    return finish_tests();
}

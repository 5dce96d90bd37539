/* pool.c: one set of worker threads for the process.
**
** A section is a function run over items 0..n-1. Each thread has a share of neighbouring items, from which it goes on to
** what is left of the others': what it reads lies in a row for the prefetchers, and nobody waits for a slow thread's
** share. The caller takes items like any worker, so a section ends even when no worker wakes up. Sections come one at a
** time, callers queue for the pool in order of arrival and hold it only while items run: a caller whose section lasts
** longer than SLICE_NS closes it, gives the pool up, asks its stop signal, queues again and goes on with what is left.
** So no lock is held around stop (which may run the host's code), and a long generation cannot starve another connection.
**
** gate = (section number << 16) | (OPEN) | workers inside. A worker enters by adding one while OPEN is set;
** the caller closes by clearing OPEN and waits for the count to reach 0; the fields of the section are
** only written while the gate is closed and empty. Who waits looks often at first (a layer has a dozen sections of some
** microseconds); soon it yields between looks, as the one it waits for may want this very cpu; an idle worker then sleeps
** on a condition.
**
** After a fork the child has no workers and perhaps locked locks: a handler, registered with the first
** worker, starts it anew. */
#define _GNU_SOURCE
#include "../lmint.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { THREADS_MAX = 64, OPEN = 0x8000, INSIDE = 0x7FFF };
enum { SLICE_NS = 4000000, ASK_NS = 2000000, YIELD_NS = 20000, SPIN_NS = 200000, SPINS = 64, STACK_BYTES = 256 * 1024 };

/* A thread's share of a section, on a line of its own. */
typedef struct { _Alignas(64) _Atomic int next; int end; } share;

typedef struct { int next, end; } rest;         /* what is left of one between slices */
typedef struct waiter { struct waiter *next; } waiter;

static struct {
    pthread_mutex_t lock;           /* guards the queue and started */
    pthread_cond_t turn, wake;
    waiter *head, *tail;            /* callers in order; the head holds the pool */
    int started;                    /* workers */
    _Atomic int sleeping;           /* of them */
    _Atomic int wanted;             /* threads a section uses, 0 until known */
    _Atomic uint64_t gate;
    void (*fn)(void *, int);
    void *arg;
    int n_shares;
    share shares[THREADS_MAX];
} g_pool = { .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

int lm_threads(void) {
    if (!g_pool.wanted) lm_threads_set(0);
    return g_pool.wanted;
}

void lm_threads_set(int n) {
    cpu_set_t set;
    if (n <= 0) n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    g_pool.wanted = LM_MAX(1, LM_MIN(n, THREADS_MAX));
}

/* Run items, of the own share first, until none is left or the time is up. */
static void run_items(int number, int64_t until) {
    for (int k = 0; k < g_pool.n_shares; k++) {
        share *s = &g_pool.shares[(number + k) % g_pool.n_shares];
        for (int i; (i = atomic_fetch_add(&s->next, 1)) < s->end;) {
            g_pool.fn(g_pool.arg, i);
            if (until && now_ns() > until) return;
        }
    }
}

/* Enter the section if one is open that this worker has not served. Return 0 when there is none. */
static int enter_gate(uint64_t *served) {
    uint64_t gate = g_pool.gate;
    while ((gate & OPEN) && (gate >> 16) != *served) {
        if (atomic_compare_exchange_weak(&g_pool.gate, &gate, gate + 1)) {
            *served = gate >> 16;
            return 1;
        }
    }
    return 0;
}

static void *worker(void *arg) {
    int number = (int)(intptr_t)arg;
    uint64_t served = 0;
    int64_t idle_since = 0;
    unsigned spins = 0;
    lm_fp_enter();
    for (;;) {
        if (number < lm_threads() && enter_gate(&served)) {
            run_items(number, 0);
            atomic_fetch_sub(&g_pool.gate, 1);
            idle_since = 0;
            continue;
        }
        relax();
        if (++spins % SPINS) continue;
        if (!idle_since) idle_since = now_ns();
        int64_t idle = now_ns() - idle_since;
        if (idle > YIELD_NS) sched_yield();
        if (idle < SPIN_NS) continue;
        pthread_mutex_lock(&g_pool.lock);
        g_pool.sleeping++;
        if (!(g_pool.gate & OPEN)) pthread_cond_wait(&g_pool.wake, &g_pool.lock);
        g_pool.sleeping--;
        pthread_mutex_unlock(&g_pool.lock);
        idle_since = 0;
    }
    return NULL;
}

static void renew_after_fork(void) {
    static const pthread_mutex_t fresh_lock = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t fresh_cond = PTHREAD_COND_INITIALIZER;
    g_pool.lock = fresh_lock;
    g_pool.turn = g_pool.wake = fresh_cond;
    g_pool.head = g_pool.tail = NULL;
    g_pool.started = 0;
    g_pool.sleeping = 0;
    g_pool.gate = 0;
}

/* Start workers up to the wanted number (the lock is held). Signals stay with the host's threads. A thread
** that cannot be had is done without. */
static void start_workers(void) {
    static int watching_forks;
    sigset_t all, saved;
    pthread_attr_t attr;
    pthread_t thread;
    if (g_pool.started >= lm_threads() - 1) return;
    if (!watching_forks) watching_forks = pthread_atfork(NULL, NULL, renew_after_fork) == 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    while (g_pool.started < lm_threads() - 1) {
        if (pthread_create(&thread, &attr, worker, (void *)(intptr_t)(g_pool.started + 1))) break;
        g_pool.started++;
    }
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

/* Wait for our turn. Every few milliseconds stop is asked, without the lock. Return 0 to give up. */
static int acquire(waiter *self, lm_stop stop) {
    int go_on = 1;
    pthread_mutex_lock(&g_pool.lock);
    *self = (waiter){0};
    if (g_pool.tail) g_pool.tail->next = self;
    else g_pool.head = self;
    g_pool.tail = self;
    while (g_pool.head != self && go_on) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += ASK_NS;
        if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&g_pool.turn, &g_pool.lock, &t);
        if (g_pool.head == self || !stop.ask) continue;
        pthread_mutex_unlock(&g_pool.lock);
        go_on = !stop.ask(stop.arg);
        pthread_mutex_lock(&g_pool.lock);
    }
    if (!go_on) {
        waiter **at = &g_pool.head, *last = NULL;
        while (*at != self) last = *at, at = &last->next;
        *at = self->next;
        if (!self->next) g_pool.tail = last;
        if (!last) pthread_cond_broadcast(&g_pool.turn);
    } else {
        start_workers();
    }
    pthread_mutex_unlock(&g_pool.lock);
    return go_on;
}

static void release(void) {
    pthread_mutex_lock(&g_pool.lock);
    g_pool.head = g_pool.head->next;
    if (g_pool.head) pthread_cond_broadcast(&g_pool.turn);
    else g_pool.tail = NULL;
    pthread_mutex_unlock(&g_pool.lock);
}

static void open_gate(void) {
    uint64_t gate = ((g_pool.gate >> 16) + 1) << 16;
    g_pool.gate = gate | OPEN;
    if (!g_pool.sleeping) return;
    pthread_mutex_lock(&g_pool.lock);
    pthread_cond_broadcast(&g_pool.wake);
    pthread_mutex_unlock(&g_pool.lock);
}

static void close_gate(void) {
    atomic_fetch_and(&g_pool.gate, ~(uint64_t)OPEN);
    for (int spins = 0; g_pool.gate & INSIDE; spins++) {
        if (spins < 16 * SPINS) relax();
        else sched_yield();
    }
}

/* Run items until none is left or the slice is over; the pool is ours. Return how many are left. */
static int run_slice(void (*fn)(void *, int), void *arg, rest *left, int n_shares, int64_t until) {
    int n = 0;
    g_pool.fn = fn;
    g_pool.arg = arg;
    g_pool.n_shares = n_shares;
    for (int k = 0; k < n_shares; k++) {
        g_pool.shares[k].next = left[k].next;
        g_pool.shares[k].end = left[k].end;
    }
    if (n_shares > 1) open_gate();
    run_items(0, until);
    for (int k = 0; k < n_shares; k++) {        /* nothing more is handed out in this slice */
        int next = atomic_exchange(&g_pool.shares[k].next, left[k].end);
        left[k].next = LM_MIN(next, left[k].end);
        n += left[k].end - left[k].next;
    }
    if (n_shares > 1) close_gate();
    return n;
}

void lm_pool_run(void (*fn)(void *arg, int i), void *arg, int n, lm_stop stop, lm_err *err) {
    waiter self;
    rest left[THREADS_MAX];
    int n_shares = LM_MIN(lm_threads(), n);
    for (int k = 0; k < n_shares; k++)
        left[k] = (rest){ (int)((int64_t)n * k / n_shares), (int)((int64_t)n * (k + 1) / n_shares) };
    while (n > 0 && !err->code) {
        if (!acquire(&self, stop)) {
            lm_err_set(err, LM_INTERRUPT, "interrupted");
            return;
        }
        n = run_slice(fn, arg, left, n_shares, stop.ask ? now_ns() + SLICE_NS : 0);
        release();
        lm_poll(stop, err);
    }
}

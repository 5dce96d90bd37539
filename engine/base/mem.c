/* mem.c: all memory of the engine, through the host's hook, counted, 64-byte aligned.
**
** Each block carries its size and the hook's own pointer in the 16 bytes before it. The limit is checked
** before the hook is asked, so a host learns of it as LM_NOMEM with both figures, not as a failed malloc.
** For large blocks the kernel is asked for huge pages: weights are read from end to end for every token, and with small
** ones the look-ups of addresses take a third of that time (measured in a virtual machine, where they cost most). */
#define _GNU_SOURCE
#include "../lmint.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, HUGE_PAGE = 2 << 20, HUGE_FROM = 16 << 20 };

typedef struct { uint64_t n; void *base; } header;

static void *system_alloc(uint64_t n) { return malloc(n); }
static lm_mem_hook g_hook = { system_alloc, free };
static _Atomic uint64_t g_used, g_peak, g_limit;

void lm_mem_hook_set(const lm_mem_hook *hook) { g_hook = *hook; }
uint64_t lm_mem_used(void) { return g_used; }
uint64_t lm_mem_peak(void) { return g_peak; }
void lm_mem_limit_set(uint64_t n_bytes) { g_limit = n_bytes; }
uint64_t lm_mem_limit(void) { return g_limit; }
int lm_mem_is_short(void) { return g_limit && g_used > g_limit - g_limit / 16; }

/* A hint about the huge pages that lie in a block wholly: where it is refused, nothing is lost. */
static void hint_huge(uintptr_t p, size_t n) {
#ifdef MADV_HUGEPAGE
    uintptr_t from = (p + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1), to = (p + n) & ~(uintptr_t)(HUGE_PAGE - 1);
    if (n >= HUGE_FROM) madvise((void *)from, to - from, MADV_HUGEPAGE);
#endif
}

static header *header_of(void *p) { return (header *)p - 1; }

/* Count n bytes as used, behind *used of before; 0 where there may not be so many. What is refused is never counted: it would
** have other threads refused too. */
static int reserve(size_t n, uint64_t limit, uint64_t *used) {
    *used = g_used;
    do {
        if (n >= SIZE_MAX / 2 || (limit && (*used > limit || n > limit - *used))) return 0;
    } while (!atomic_compare_exchange_weak(&g_used, used, *used + n));
    return 1;
}

void *lm_alloc(size_t n, lm_err *err) {
    if (err->code) return NULL;
    uint64_t limit = g_limit, used;
    int fits = reserve(n, limit, &used);
    void *base = fits ? g_hook.alloc((uint64_t)n + sizeof(header) + ALIGN - 1) : NULL;
    if (!base) {
        if (fits) atomic_fetch_sub(&g_used, n);
        if (limit && !fits) {
            lm_err_set(err, LM_NOMEM, "memory_limit %llu bytes: %llu in use, %llu more wanted",
                       (unsigned long long)limit, (unsigned long long)used, (unsigned long long)n);
        } else {
            lm_err_set(err, LM_NOMEM, "out of memory: no room for %llu bytes", (unsigned long long)n);
        }
        return NULL;
    }
    uint64_t peak = g_peak;
    used += n;
    while (used > peak && !atomic_compare_exchange_weak(&g_peak, &peak, used)) {}
    uintptr_t p = ((uintptr_t)base + sizeof(header) + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    *header_of((void *)p) = (header){ n, base };
    hint_huge(p, n);
    return (void *)p;
}

void *lm_calloc(size_t n, size_t size, lm_err *err) {
    if (size && n > SIZE_MAX / size) return lm_err_set(err, LM_NOMEM, "out of memory"), NULL;
    void *p = lm_alloc(n * size, err);
    return p ? memset(p, 0, n * size) : NULL;
}

void *lm_realloc(void *p, size_t n, lm_err *err) {
    void *q = lm_alloc(n, err);
    if (!q || !p) return q;
    size_t old = (size_t)header_of(p)->n;
    memcpy(q, p, old < n ? old : n);
    lm_free(p);
    return q;
}

void lm_free(void *p) {
    if (!p) return;
    header h = *header_of(p);
    atomic_fetch_sub(&g_used, h.n);
    g_hook.free(h.base);
}

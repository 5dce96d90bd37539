/* kern.c: which set of kernels this process runs. Nothing else looks at the cpu. */
#define _GNU_SOURCE
#include "kern.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const lm_kern *const sets[] = { &lm_amx_kern, &lm_vnni_kern, &lm_avx2_kern, &lm_scalar_kern };   /* best first */
static const lm_kern *_Atomic g_chosen;

#if defined(__x86_64__)
/* Tile registers are 8 KiB a thread, which Linux (5.16 and later) saves for a process that has asked, and may refuse. From then
** on it wants signal stacks to have room for them: so a process is not made to ask where LM_CPU names another set. */
static int has_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, TILE = 1 << 24, INT8 = 1 << 25 };
    unsigned a, b, c, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & TILE) || !(d & INT8)) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

int lm_kern_supported(const lm_kern *kern) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned a, b, c = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (c & bit_F16C);
    if (kern == &lm_avx2_kern) return avx2;
    if (kern == &lm_amx_kern) return lm_kern_supported(&lm_vnni_kern) && has_amx();
    if (kern == &lm_vnni_kern) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vnni");
    }
#endif
    return kern == &lm_scalar_kern;
}

/* LM_CPU is the engine's one environment variable: the suite runs whole processes under each set by it, hosts that cannot call
** the engine (sqlite3, Tcl) included. It is read once, at first use, and not in a process that has more rights than its user. It can
** do no harm: a name that this cpu cannot run, or that is unknown, changes nothing, and every set gives the same bytes. A host that
** calls setenv in another thread meanwhile has that race already: SQLite reads SQLITE_TMPDIR and TMPDIR in the same way. */
const lm_kern *lm_kern_get(void) {
    if (g_chosen) return g_chosen;
    const char *wanted = secure_getenv("LM_CPU");
    const lm_kern *best = NULL;
    for (int i = 0; wanted && i < LM_COUNT(sets); i++) {
        if (!strcmp(wanted, sets[i]->name) && lm_kern_supported(sets[i])) best = sets[i];
    }
    for (int i = 0; !best && i < LM_COUNT(sets); i++) {
        if (lm_kern_supported(sets[i])) best = sets[i];
    }
    g_chosen = best;
    return best;
}

const lm_train_kern *lm_train_kern_get(void) {
    const lm_kern *kern = lm_kern_get();
    return kern == &lm_scalar_kern ? &lm_scalar_train : kern == &lm_avx2_kern ? &lm_avx2_train : &lm_vnni_train;
}

const char *lm_kernels(void) { return lm_kern_get()->name; }

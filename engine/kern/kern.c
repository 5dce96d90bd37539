/* kern.c: which set of kernels this process runs. Nothing else looks at the cpu. */
#include "kern.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const lm_kern *const sets[] = { &lm_vnni_kern, &lm_avx2_kern, &lm_scalar_kern };   /* best first */
static const lm_kern *_Atomic g_chosen;

int lm_kern_supported(const lm_kern *kern) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned a, b, c = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (c & bit_F16C);
    if (kern == &lm_avx2_kern) return avx2;
    if (kern == &lm_vnni_kern) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vnni");
    }
#endif
    return kern == &lm_scalar_kern;
}

/* LM_CPU is the engine's one environment variable: it lets the tests force a set. A name that this cpu
** cannot run, or that is unknown, changes nothing. */
const lm_kern *lm_kern_get(void) {
    if (g_chosen) return g_chosen;
    const char *wanted = getenv("LM_CPU");
    const lm_kern *best = NULL;
    for (int i = 0; i < LM_COUNT(sets); i++) {
        if (!lm_kern_supported(sets[i])) continue;
        if (!best) best = sets[i];
        if (wanted && !strcmp(wanted, sets[i]->name)) best = sets[i];
    }
    g_chosen = best;
    return best;
}

const char *lm_kernels(void) { return lm_kern_get()->name; }

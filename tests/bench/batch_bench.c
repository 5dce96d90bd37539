/* batch_bench.c: many sequences at once. Usage: batch_bench MODEL.gguf [ROUNDS]
**
**     decode32      32 sequences of one prefix of 128 ids and one of their own decode 64 tokens each: tokens a second, prefill aside
**     batch64       64 prompts of 200 common ids and 20 of their own, 32 tokens out, added together: seconds
**     scan64        the same prompts, a batch of one each, one after the other; the model keeps what they share
**     loop          one such prompt with nothing kept, 1/64 of what 64 calls would take: seconds
**
** Best and median of the rounds; every round starts with nothing kept. */
#define _GNU_SOURCE
#include "../harness.h"

#include <time.h>

enum { ROUNDS_MAX = 99, COMMON = 200, OWN = 20, OUT = 32, ROWS = 64 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int32_t id_of(const lm_model *m, int row, int i) {
    return (int32_t)((unsigned)(i + 1) * 2654435761u * (unsigned)(row + 1) % (unsigned)m->h.n_vocab);
}

static void add(lm_batch *b, const lm_model *m, int row, int common, int own, int out, lm_err *err) {
    int32_t ids[COMMON + OWN];
    lm_gen_options o = { .max_tokens = out, .top_p = 1, .repeat_penalty = 1, .ignore_eog = 1 };
    for (int i = 0; i < common + own; i++) ids[i] = id_of(m, i < common ? 0 : row + 1, i);
    lm_batch_add(b, ids, (size_t)(common + own), &o, err);
}

static void forget(lm_model *m) { while (lm_prefix_shrink(m)) {} }

/* Seconds of n prompts in one batch; *decode gets those after every sequence's first token. */
static double run(lm_model *m, int first, int n, int common, int own, int out, double *decode, lm_err *err) {
    lm_token token;
    int seen = 0;
    lm_batch *b = lm_batch_new(m, err);
    for (int row = first; row < first + n; row++) add(b, m, row, common, own, out, err);
    double start = now(), middle = start;
    while (lm_batch_next(b, (lm_stop){0}, &token, err) == 1) {
        if (++seen == 2 * n) middle = now();    /* the last first tokens come beside the first's second */
    }
    double end = now();
    if (decode) *decode = (end - middle) / (n * out - 2 * n);
    lm_batch_free(b);
    return end - start;
}

static int compare(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static void report(const char *what, double *x, int n, int is_rate) {
    qsort(x, (size_t)n, sizeof *x, compare);
    printf(", \"%s\": {\"best\": %.3f, \"median\": %.3f}", what, is_rate ? 1 / x[0] : x[0], is_rate ? 1 / x[n / 2] : x[n / 2]);
}

int main(int argc, char **argv) {
    lm_model *m = argc > 1 ? open_model(argv[1]) : NULL;
    int rounds = argc > 2 ? LM_MIN(atoi(argv[2]), ROUNDS_MAX) : 5;
    double decode[ROUNDS_MAX], batch[ROUNDS_MAX], scan[ROUNDS_MAX], loop[ROUNDS_MAX];
    lm_err err = {0};
    if (!m || rounds < 1) return printf("usage: batch_bench MODEL.gguf [ROUNDS]\n"), 1;
    lm_threads_set(2);
    for (int r = 0; r < rounds && !err.code; r++) {
        forget(m);
        run(m, 0, 32, 128, 1, 64, &decode[r], &err);
        forget(m);
        batch[r] = run(m, 0, ROWS, COMMON, OWN, OUT, NULL, &err);
        forget(m);
        scan[r] = 0;
        for (int row = 0; row < ROWS; row++) scan[r] += run(m, row, 1, COMMON, OWN, OUT, NULL, &err);
        forget(m);
        loop[r] = run(m, 0, 1, COMMON, OWN, OUT, NULL, &err);
    }
    if (err.code) return printf("%s\n", err.msg), 1;
    printf("{\"kernels\": \"%s\"", lm_kernels());
    report("decode32", decode, rounds, 1);
    report("batch64", batch, rounds, 0);
    report("scan64", scan, rounds, 0);
    report("loop", loop, rounds, 0);
    printf(", \"peak_mb\": %.1f}\n", (double)lm_mem_peak() / 1e6);
    lm_model_free(m);
    return 0;
}

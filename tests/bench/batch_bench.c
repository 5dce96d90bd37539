/* batch_bench.c: many sequences at once, in tokens a second. Usage: batch_bench MODEL.gguf OUT ROWS...
**
** ROWS sequences of one prefix of 128 ids, which has been read before, and an id of their own yield OUT tokens each: for each
** ROWS a figure rows_N, of all their tokens over all the time. Nothing else is kept from one ROWS to the next. */
#define _GNU_SOURCE
#include "../harness.h"

#include <time.h>

enum { COMMON = 128, THREADS = 2 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int32_t id_of(const lm_model *m, int row, int i) {
    return (int32_t)((unsigned)(i + 1) * 2654435761u * (unsigned)(row + 1) % (unsigned)m->h.n_vocab);
}

/* Seconds of the sequences first .. first + n - 1. */
static double run(lm_model *m, int first, int n, int out, lm_err *err) {
    lm_gen_options o = { .max_tokens = out, .top_p = 1, .repeat_penalty = 1, .ignore_eog = 1 };
    lm_token token;
    lm_batch *b = lm_batch_new(m, err);
    for (int row = first; row < first + n && !err->code; row++) {
        int32_t ids[COMMON + 1];
        for (int i = 0; i <= COMMON; i++) ids[i] = id_of(m, i < COMMON ? 0 : row, i);
        lm_batch_add(b, ids, COMMON + 1, &o, err);
    }
    double start = now();
    while (!err->code && lm_batch_next(b, (lm_stop){0}, &token, err) == 1) {}
    double seconds = now() - start;
    lm_batch_free(b);
    return seconds;
}

int main(int argc, char **argv) {
    lm_model *m = argc > 3 ? open_model(argv[1]) : NULL;
    int out = argc > 3 ? atoi(argv[2]) : 0;
    lm_err err = {0};
    if (!m || out < 1) return printf("usage: batch_bench MODEL.gguf OUT ROWS...\n"), 1;
    lm_threads_set(THREADS);
    printf("{\"kernels\": \"%s\"", lm_kernels());
    for (int i = 3; i < argc && !err.code; i++) {
        int n = LM_MAX(atoi(argv[i]), 1);
        while (lm_prefix_shrink(m)) {}
        run(m, 0, 1, 1, &err);
        printf(", \"rows_%d\": %.1f", n, n * out / run(m, 1, n, out, &err));
    }
    printf(", \"peak_mb\": %.1f}\n", (double)lm_mem_peak() / 1e6);
    if (err.code) printf("%s\n", err.msg);
    lm_model_free(m);
    return err.code != 0;
}

/* lm_bench.c: prefill of 512 ids and decoding of 128 tokens, in tokens a second. Usage: lm_bench MODEL.gguf */
#define _GNU_SOURCE
#include "../harness.h"

#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds to the first token after n ids, and for the n_more that follow. */
static void measure(lm_model *m, int n, int n_more, double *first, double *more) {
    lm_err err = {0};
    lm_ids ids = {0};
    lm_token token;
    lm_gen_options o = { .max_tokens = n_more + 1, .top_p = 1, .repeat_penalty = 1, .ignore_eog = 1 };
    for (int i = 0; i < n; i++) lm_ids_append(&ids, (int32_t)((unsigned)i * 2654435761u % (unsigned)m->h.n_vocab), &err);
    lm_batch *b = lm_batch_new(m, &err);
    lm_batch_add(b, ids.data, ids.n, &o, &err);
    double start = now();
    lm_batch_next(b, (lm_stop){0}, &token, &err);
    *first = now() - start;
    start = now();
    for (int i = 0; i < n_more && lm_batch_next(b, (lm_stop){0}, &token, &err) == 1; i++) {}
    *more = now() - start;
    if (err.code) printf("%s\n", err.msg);
    lm_batch_free(b);
    lm_ids_clear(&ids);
}

int main(int argc, char **argv) {
    lm_model *m = argc > 1 ? open_model(argv[1]) : NULL;
    double first, more;
    if (!m) return printf("usage: lm_bench MODEL.gguf\n"), 1;
    lm_threads_set(2);
    measure(m, 64, 16, &first, &more);
    measure(m, 512, 0, &first, &more);
    printf("{\"pp512\": %.1f", 512 / first);
    measure(m, 1, 128, &first, &more);
    printf(", \"tg128\": %.1f, \"kernels\": \"%s\", \"peak_mb\": %.1f}\n", 128 / more, lm_kernels(), (double)lm_mem_peak() / 1e6);
    lm_model_free(m);
    return 0;
}

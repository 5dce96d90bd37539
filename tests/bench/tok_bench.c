/* tok_bench.c: how fast a tokenizer is built, and how fast it encodes a text.
**
**     tok_bench MODEL.gguf TEXT [ROUNDS]
**
** One thread. The median of the rounds is printed, with the fastest and the slowest. */
#define _POSIX_C_SOURCE 200809L
#include "../../include/lm.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS_MAX = 99 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    lm_err err = { 0 };
    FILE *f = argc > 2 ? fopen(argv[2], "rb") : NULL;
    lm_gguf *g = f ? lm_gguf_open(argv[1], &err) : NULL;
    int rounds = argc > 3 ? atoi(argv[3]) : 9;
    if (!g || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: tok_bench MODEL.gguf TEXT [ROUNDS]\n%s\n", err.msg);
        return 2;
    }
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(n + 1);
    n = fread(text, 1, n, f);
    fclose(f);

    double built[ROUNDS_MAX], encoded[ROUNDS_MAX];
    size_t n_ids = 0;
    uint64_t bytes = 0;
    for (int i = 0; i < rounds && !err.code; i++) {
        lm_ids ids = { 0 };
        lm_tok_options options = { 0 };
        uint64_t before = lm_mem_used();
        double start = seconds();
        lm_tok *t = lm_tok_new(lm_gguf_meta(g), lm_gguf_meta(g), &err);
        built[i] = seconds() - start;
        bytes = lm_mem_used() - before;
        if (!t) break;
        start = seconds();
        lm_tok_encode(t, text, n, &options, 0, (lm_stop){ 0 }, &ids, &err);
        encoded[i] = seconds() - start;
        n_ids = ids.n;
        lm_ids_clear(&ids);
        lm_tok_free(t);
    }
    lm_gguf_close(g);
    free(text);
    if (err.code) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    double mb = (double)n * 1e-6;
    qsort(built, (size_t)rounds, sizeof *built, compare);
    qsort(encoded, (size_t)rounds, sizeof *encoded, compare);
    printf("build   %.1f ms (%.1f to %.1f), %.1f MB\n", built[rounds / 2] * 1e3, built[0] * 1e3,
           built[rounds - 1] * 1e3, (double)bytes * 1e-6);
    printf("encode  %.1f MB/s (%.1f to %.1f), %.1f MB in %zu ids\n", mb / encoded[rounds / 2],
           mb / encoded[rounds - 1], mb / encoded[0], mb, n_ids);
    return 0;
}

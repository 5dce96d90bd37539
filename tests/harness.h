/* harness.h: what the C tests share: counting, and opening a model straight from a GGUF file. */
#ifndef LM_HARNESS_H
#define LM_HARNESS_H

#include "../engine/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int n_passed, n_failed;

#define CHECK(condition, ...)                                           \
    do {                                                                \
        if (condition) {                                                \
            n_passed++;                                                 \
        } else {                                                        \
            n_failed++;                                                 \
            printf("%s:%d: ", __FILE__, __LINE__);                      \
            printf(__VA_ARGS__);                                        \
            printf("\n");                                               \
        }                                                               \
    } while (0)

/* Seconds that this process has computed for: unlike the clock, they do not pass while others have the machine. */
static inline double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static inline int finish_tests(void) {
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

/* A file's text, up to a MiB of it, with a NUL behind it; to be freed. */
static inline char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    *n = f ? fread(text, 1, (1 << 20) - 1, f) : 0;
    if (f) fclose(f);
    CHECK(*n, "%s: cannot be read", path);
    return text;
}

static inline void read_gguf_tensor(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    lm_gguf_read(arg, i, offset, dst, n, err);
}

/* Open a model from a file; print why not and return NULL. */
static inline lm_model *open_model(const char *path) {
    lm_err err = {0};
    lm_buf hparams = {0};
    lm_model *m = NULL;
    lm_gguf *g = lm_gguf_open(path, &err);
    if (g) {
        int n = lm_gguf_n_tensors(g);
        lm_tensor *tensors = malloc(sizeof *tensors * (size_t)n);
        for (int i = 0; i < n; i++) tensors[i] = *lm_gguf_tensor(g, i);
        const char *arch = lm_arch_import(lm_gguf_meta(g), tensors, n, &hparams, &err);
        lm_source src = { arch, hparams.data, hparams.n, tensors, n, read_gguf_tensor, g };
        lm_tok *tok = lm_tok_new(lm_gguf_meta(g), lm_gguf_meta(g), &err);
        if (!err.code) m = lm_model_open(&src, tok, (lm_stop){0}, &err);
        if (!m) lm_tok_free(tok);
        free(tensors);
    }
    lm_gguf_close(g);
    lm_buf_clear(&hparams);
    if (!m) printf("%s: %s\n", path, err.msg);
    return m;
}

#endif

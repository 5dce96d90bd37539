/* sources.h: what the tests of training share: a trainer's source from a GGUF file, a Hugging Face folder or memory. */
#ifndef LM_SOURCES_H
#define LM_SOURCES_H

#include "harness.h"

#include "../engine/train/train.h"

typedef struct {
    lm_gguf *g; lm_hf *hf;
    lm_tensor *tensors;
    lm_buf hparams;
    lm_source src;
} opened;

static inline void read_hf_tensor(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) { lm_hf_read(arg, i, offset, dst, n, err); }

static inline int open_source(opened *o, const char *path) {
    lm_err err = {0};
    *o = (opened){0};
    size_t length = strlen(path);
    int is_gguf = length > 5 && !strcmp(path + length - 5, ".gguf");
    if (is_gguf) o->g = lm_gguf_open(path, &err);
    else o->hf = lm_hf_open(path, &err);
    int n = err.code ? 0 : is_gguf ? lm_gguf_n_tensors(o->g) : lm_hf_n_tensors(o->hf);
    o->tensors = calloc((size_t)n + 1, sizeof *o->tensors);
    for (int i = 0; i < n; i++) o->tensors[i] = is_gguf ? *lm_gguf_tensor(o->g, i) : *lm_hf_tensor(o->hf, i);
    const char *arch = err.code ? NULL : lm_arch_import(is_gguf ? lm_gguf_meta(o->g) : lm_hf_meta(o->hf), o->tensors, n, &o->hparams, &err);
    o->src = (lm_source){ arch, o->hparams.data, o->hparams.n, o->tensors, n, is_gguf ? read_gguf_tensor : read_hf_tensor,
                          is_gguf ? (void *)o->g : (void *)o->hf };
    CHECK(!err.code, "%s: %s", path, err.msg);
    return !err.code;
}

static inline void close_source(opened *o) {
    lm_gguf_close(o->g);
    lm_hf_close(o->hf);
    free(o->tensors);
    lm_buf_clear(&o->hparams);
}

static const lm_train_options plain = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .batch_tokens = 256 };

static inline lm_trainer *new_trainer(const opened *o, const lm_train_options *options) {
    lm_err err = {0};
    lm_trainer *t = lm_trainer_new(&o->src, options, (lm_stop){0}, &err);
    CHECK(t, "%s", err.msg);
    return t;
}

static inline int find_tensor(const lm_trainer *t, const char *name) {
    for (int i = 0; i < lm_trainer_n_tensors(t); i++) {
        if (!strcmp(lm_trainer_tensor(t, i)->name, name)) return i;
    }
    return -1;
}

static inline uint32_t random_bits(void) {
    static uint64_t state = 42;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}
static inline float random_float(void) { return (float)(random_bits() % 2000001) / 1e6f - 1.0f; }

#endif

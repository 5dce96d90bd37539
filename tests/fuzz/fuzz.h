/* fuzz.h: what the fuzz targets share. A target is one function over an input, as libFuzzer calls it; tests/fuzz_test.c
** runs the same functions over the inputs that the tree keeps. Whatever the input is: no crash, nothing that a sanitizer
** sees, every byte given back, and under 64 MB at any moment. */
#ifndef LM_FUZZ_H
#define LM_FUZZ_H

#define _GNU_SOURCE
#include "../../include/lm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef FUZZ_TEST
#define FUZZ(name) int fuzz_##name
extern int fuzz_opened, fuzz_shallow;   /* was the last input what it should be? Is it not to be put to use? */
#else
#define FUZZ(name) int LLVMFuzzerTestOneInput
static int fuzz_opened, fuzz_shallow;
#endif

#define MUST(condition, ...)                                            \
    do {                                                                \
        if (condition) break;                                           \
        fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
        fprintf(stderr, __VA_ARGS__);                                   \
        fprintf(stderr, "\n");                                          \
        abort();                                                        \
    } while (0)

enum { FUZZ_MEMORY = 64000000, FUZZ_IDS = 24, FUZZ_TOKENS = 3 };

/*----------------------------------------------------------------------
** Memory. lm_alloc asks for 79 bytes more than its caller and rounds up to 64 behind a 16-byte head; from a base of 49 modulo
** 64 the caller's block ends where ours does, so that a sanitizer sees one byte past it. */
static inline void *fuzz_alloc(uint64_t n) {
    void *base = NULL;
    return posix_memalign(&base, 64, (size_t)n + 49) ? NULL : (char *)base + 49;
}

static inline void fuzz_free(void *p) { free((char *)p - 49); }

/* Before an input, and behind it, with what was held before. */
static inline uint64_t fuzz_begin(void) {
    static const lm_mem_hook hook = { fuzz_alloc, fuzz_free };
    if (!lm_mem_used()) lm_mem_hook_set(&hook);
    lm_threads_set(1);
    return lm_mem_used();
}

static inline int fuzz_end(uint64_t used) {
    MUST(lm_mem_used() == used, "%llu bytes held, %llu before", (unsigned long long)lm_mem_used(), (unsigned long long)used);
    MUST(lm_mem_peak() < FUZZ_MEMORY, "a peak of %llu bytes", (unsigned long long)lm_mem_peak());
    return 0;
}

/*----------------------------------------------------------------------
** An input as a file. */
static inline const char *fuzz_file(const uint8_t *data, size_t n) {
    static char path[32];
    static int fd = -1;
    if (fd < 0) fd = memfd_create("input", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    MUST(fd >= 0 && !ftruncate(fd, 0) && pwrite(fd, data, n, 0) == (ssize_t)n, "no file in memory");
    return path;
}

/* A tokenizer.json as metadata. */
static inline lm_meta *fuzz_json_meta(const void *json, uint64_t n, lm_err *err) {
    static const char key[] = "tokenizer.huggingface.json";
    const uint64_t key_n = sizeof key - 1;
    const uint32_t type = LM_META_TEXT;
    lm_buf b = {0};
    lm_buf_append(&b, &key_n, 8, err);
    lm_buf_append(&b, key, key_n, err);
    lm_buf_append(&b, &type, 4, err);
    lm_buf_append(&b, &n, 8, err);
    lm_buf_append(&b, json, n, err);
    lm_meta *meta = lm_meta_new(b.data, b.n, err);
    lm_buf_clear(&b);
    return meta;
}

/*----------------------------------------------------------------------
** What an input turned out to hold is put to use. */
static inline void fuzz_error(const lm_err *err) {
    MUST(!err->code == !*err->msg && strlen(err->msg) < sizeof err->msg, "an error of code %d says '%s'", err->code, err->msg);
}

static inline void fuzz_tokenizer(const lm_tok *t, const char *text, size_t n, lm_ids *ids, lm_err *err) {
    unsigned sum = 0;
    for (unsigned way = 0; way < 4; way++) {
        lm_tok_options o = { .add_special = way & 1, .parse_special = way >> 1 };
        ids->n = 0;
        lm_tok_encode(t, text, n, &o, 0, (lm_stop){0}, ids, err);
        for (size_t i = 0, size; i < ids->n; i++) {
            MUST(ids->data[i] >= 0 && ids->data[i] < lm_tok_count(t), "id %d of %d", ids->data[i], lm_tok_count(t));
            const char *bytes = lm_tok_bytes(t, ids->data[i], &size);
            for (size_t k = 0; k < size; k++) sum += (uint8_t)bytes[k];
            MUST(lm_tok_drops_space(t, i ? ids->data[i - 1] : -1, ids->data[i]) <= (int)size, "more spaces dropped than there are");
        }
    }
    for (int32_t id = -1; id <= lm_tok_count(t); id++) {
        size_t size;
        const char *piece = lm_tok_text(t, id, &size);
        for (size_t k = 0; k < size; k++) sum += (uint8_t)piece[k];
        sum += (unsigned)lm_tok_type(t, id) + (unsigned)lm_tok_is_eog(t, id) + (lm_tok_score(t, id) > 0);
    }
    MUST(sum != 1, "unlikely");
}

static inline void fuzz_generate(lm_model *m, const lm_ids *ids, lm_err *err) {
    lm_gen_options o = { .max_tokens = FUZZ_TOKENS, .top_p = 1, .repeat_penalty = 1, .want_logprob = 1 };
    lm_batch *b = lm_batch_new(m, err);
    lm_token token;
    if (b) lm_batch_add(b, ids->data, ids->n, &o, err);
    for (int count = 0; b && !err->code && lm_batch_next(b, (lm_stop){0}, &token, err) == 1; count++) {
        MUST(count < FUZZ_TOKENS && token.id >= 0, "token %d has id %d", count, token.id);
    }
    lm_batch_free(b);
}

static inline void fuzz_embed(lm_model *m, const lm_ids *ids, lm_err *err) {
    lm_embed_options o = { .pooling = lm_model_pooling(m), .normalize = 1 };
    float *out = malloc((size_t)lm_model_n_embd(m) * sizeof *out);
    if ((int)ids->n <= lm_model_n_text(m)) lm_embed(m, ids, 1, &o, out, (lm_stop){0}, err);
    free(out);
}

/* Make a model of metadata and tensors, and let it read and write. */
static inline void fuzz_model(const lm_meta *meta, const lm_tensor *tensors, int n_tensors,
                              void (*read)(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err), void *arg, lm_err *err) {
    static const char text[] = "Once upon  a time, <s>[CLS]<|endoftext|>\xC3\xA9\xFF 3.14";
    lm_buf hparams = {0};
    lm_ids ids = {0};
    const char *arch = lm_arch_import(meta, tensors, n_tensors, &hparams, err);
    lm_tok *tok = lm_tok_new(meta, meta, err);
    lm_source src = { arch, hparams.data, hparams.n, tensors, n_tensors, read, arg };
    MUST(lm_arch_n_active(meta, tensors, n_tensors) >= 0 && lm_arch_task(meta), "less than no parameters");
    if (tok && !fuzz_shallow) fuzz_tokenizer(tok, text, sizeof text - 1, &ids, err);
    lm_model *m = err->code || fuzz_shallow ? NULL : lm_model_open(&src, tok, (lm_stop){0}, err);
    if (!m) lm_tok_free(tok);
    if (m) {
        ids.n = ids.n < FUZZ_IDS ? ids.n : FUZZ_IDS;
        if (!ids.n) lm_ids_append(&ids, 0, err);
        if (!lm_model_is_encoder(m)) fuzz_generate(m, &ids, err);
        lm_err own = {0};
        fuzz_embed(m, &ids, &own);
        fuzz_error(&own);
    }
    lm_model_free(m);
    lm_ids_clear(&ids);
    lm_buf_clear(&hparams);
}

#endif

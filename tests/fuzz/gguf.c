/* gguf.c: a GGUF file: opened, every tensor and entry read, its tokenizer built, its model run. */
#include "fuzz.h"

static void read_gguf(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) { lm_gguf_read(arg, i, offset, dst, n, err); }

static void read_all(lm_gguf *g, size_t n, lm_err *err) {
    uint8_t *bytes = malloc(n);
    unsigned sum = 0;
    const lm_meta *m = lm_gguf_meta(g);
    for (int i = 0; i < lm_gguf_n_tensors(g); i++) {
        const lm_tensor *t = lm_gguf_tensor(g, i);
        MUST(t->n_bytes > 0 && (size_t)t->n_bytes <= n, "%s: %lld bytes of %zu", t->name, (long long)t->n_bytes, n);
        lm_gguf_read(g, i, 0, bytes, (size_t)t->n_bytes, err);
    }
    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const lm_meta_entry *e = lm_meta_at(m, i);
        const char *text;
        for (size_t k = 0; k < e->n_bytes; k++) sum += e->data[k];
        for (size_t pos = 0, size; lm_meta_next_text(e, &pos, &text, &size);) sum += size ? (uint8_t)text[size - 1] : 0;
    }
    MUST(sum != 1, "unlikely");
    free(bytes);
}

FUZZ(gguf)(const uint8_t *data, size_t n) {
    uint64_t used = fuzz_begin();
    lm_err err = {0};
    lm_gguf *g = lm_gguf_open(fuzz_file(data, n), &err);
    fuzz_opened = g != NULL;
    if (g) {
        int count = lm_gguf_n_tensors(g);
        lm_tensor *tensors = malloc(sizeof *tensors * (size_t)(count + 1));
        for (int i = 0; i < count; i++) tensors[i] = *lm_gguf_tensor(g, i);
        read_all(g, n, &err);
        MUST(!err.code, "%s", err.msg);
        fuzz_model(lm_gguf_meta(g), tensors, count, read_gguf, g, &err);
        free(tensors);
    }
    fuzz_error(&err);
    lm_gguf_close(g);
    return fuzz_end(used);
}

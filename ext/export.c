/* export.c: a model's rows become a GGUF file: tensors bit for bit and in the order of their rows, metadata as it came
** in. Every digest is checked on the way; a model that fails leaves no file. */
#include "ext.h"

typedef struct {
    const char *path;
    int overwrite;
    lm_gguf_writer *writer;
} export;

static void begin(void *arg, const void *meta, size_t meta_n, const void *arrays, size_t arrays_n, const lm_tensor *tensors,
                  int n_tensors, lm_err *err) {
    export *e = arg;
    lm_gguf_content content = { { meta, arrays }, { meta_n, arrays_n }, tensors, n_tensors };
    if (!err->code) e->writer = lm_gguf_create(e->path, e->overwrite, &content, err);
}

static void append(void *arg, int tensor, const void *bytes, size_t n, lm_err *err) {
    (void)tensor;
    lm_gguf_append(((export *)arg)->writer, bytes, n, err);
}

void lm_export(lm_conn *c, const lm_found *f, const char *path, int overwrite, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    export e = { path, overwrite, NULL };
    lm_sink sink = { begin, append, &e };
    lm_store_read(c, f, &sink, digest, err);
    if (e.writer) lm_gguf_commit(e.writer, err);
    lm_gguf_writer_free(e.writer);
}

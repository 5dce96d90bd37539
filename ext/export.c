/* export.c: a model's rows become a GGUF file: tensors bit for bit and in the order of their rows, metadata as it came
** in. Every digest is checked on the way; a model that fails leaves no file. */
#include "ext.h"

#include <sys/stat.h>

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

/* A database that this connection has open must not be what is replaced. */
static void check_path(lm_conn *c, const char *path, lm_err *err) {
    struct stat target, database;
    const char *schema;
    if (stat(path, &target)) return;
    for (int i = 0; (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        const char *file = sqlite3_db_filename(c->db, schema);
        if (!file || !*file || stat(file, &database) || database.st_dev != target.st_dev || database.st_ino != target.st_ino) continue;
        lm_err_set(err, LM_ERROR, "%.100s is the open database %.60s", path, schema);
    }
}

void lm_export(lm_conn *c, const lm_found *f, const char *path, int overwrite, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    export e = { path, overwrite, NULL };
    lm_sink sink = { begin, append, &e };
    check_path(c, path, err);
    if (!err->code) lm_store_read(c, f, &sink, digest, err);
    if (e.writer) lm_gguf_commit(e.writer, err);
    lm_gguf_writer_free(e.writer);
}

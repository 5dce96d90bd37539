/* export.c: a model's rows become a GGUF file: tensors bit for bit and in the order of their rows, metadata as it came
** in, and the form of its labels (LM_LABEL_KEY), which other programs pass over. Every digest is checked on the way; a model
** that fails leaves no file. */
#include "ext.h"

#include <sys/stat.h>

enum { PIECE = 1 << 20 };

typedef struct { const char *path; int overwrite; lm_buf own; lm_gguf_writer *writer; } export;

static void write_file(void *arg, const lm_stored *m, lm_err *err) {
    export *e = arg;
    const lm_source *src = &m->source;
    lm_gguf_content content = { { m->meta, m->arrays->data, e->own.data }, { m->meta_n, m->arrays->n, e->own.n },
                                src->tensors, src->n_tensors };
    e->writer = lm_gguf_create(e->path, e->overwrite, &content, err);
    uint8_t *piece = lm_alloc(PIECE, err);
    for (int i = 0; i < src->n_tensors && !err->code; i++) {
        int64_t left = src->tensors[i].n_bytes;
        for (size_t n; left && !err->code; left -= (int64_t)n) {
            n = left < PIECE ? (size_t)left : PIECE;
            src->read(src->arg, i, src->tensors[i].n_bytes - left, piece, n, err);
            if (!err->code) lm_gguf_append(e->writer, piece, n, err);
        }
    }
    lm_free(piece);
}

/* A database that this connection has open must not be what is replaced, nor its journals. */
static void check_path(lm_conn *c, const char *path, lm_err *err) {
    struct stat target, database;
    const char *schema;
    if (stat(path, &target)) return;
    for (int i = 0; (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        const char *file = sqlite3_db_filename(c->db, schema);
        if (!file || !*file) continue;
        const char *const files[] = { file, sqlite3_filename_wal(file), sqlite3_filename_journal(file) };
        for (int k = 0; k < LM_COUNT(files); k++) {
            if (stat(files[k], &database) || database.st_dev != target.st_dev || database.st_ino != target.st_ino) continue;
            lm_err_set(err, LM_ERROR, "%.100s is the open database %.60s%s", path, schema, k ? "'s journal" : "");
        }
    }
}

static void put_label_format(lm_conn *c, const lm_found *f, lm_buf *own, lm_err *err) {
    sqlite3_stmt *stmt = lm_conn_prepare(c, err,
                                         "SELECT json_extract(info, '$.label_format') FROM \"%w\".lm_model"
                                         " WHERE id = ? AND json_valid(info)",
                                         f->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, f->id);
    if (stmt && lm_conn_step(c, stmt, err) && sqlite3_column_type(stmt, 0) == SQLITE_TEXT) {
        const char *text = lm_column_text(stmt, 0, err);
        if (text) lm_meta_put_text(own, LM_LABEL_KEY, text, (size_t)sqlite3_column_bytes(stmt, 0), err);
    }
    sqlite3_finalize(stmt);
}

void lm_export(lm_conn *c, const lm_found *f, const char *path, int overwrite, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    export e = { .path = path, .overwrite = overwrite };
    check_path(c, path, err);
    put_label_format(c, f, &e.own, err);
    if (!err->code) lm_store_use(c, f, write_file, &e, digest, err);
    if (e.writer) lm_gguf_commit(e.writer, err);
    lm_gguf_writer_free(e.writer);
    lm_buf_clear(&e.own);
}

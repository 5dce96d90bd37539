/* import.c: a GGUF file or a Hugging Face folder, or a model made here, becomes rows, as one transaction. Tensors are
** stored bit for bit; or, where a dtype is asked for, every matrix is decoded and stored in that: plain numbers, which
** lm_weights can then write, or q8_0. */
#include "ext.h"

#include <stdio.h>
#include <sys/stat.h>

/*----------------------------------------------------------------------
** What is imported: a file or a folder, of which one is open. */
typedef struct { lm_gguf *gguf; lm_hf *hf; const lm_made *made; } source;

static source open_source(const char *path, lm_err *err) {
    struct stat st;
    const char *tail = strrchr(path, '.');
    if (!stat(path, &st) && S_ISDIR(st.st_mode)) return (source){ .hf = lm_hf_open(path, err) };
    if (tail && (!strcmp(tail, ".safetensors") || !strcmp(tail, ".json"))) {
        lm_err_set(err, LM_ERROR, "%.150s: give the folder that it is in", path);
    }
    return (source){ .gguf = lm_gguf_open(path, err) };
}

static void close_source(source *f) {
    lm_gguf_close(f->gguf);
    lm_hf_close(f->hf);
}

static const lm_meta *source_meta(const source *f) {
    return f->made ? f->made->meta : f->hf ? lm_hf_meta(f->hf) : lm_gguf_meta(f->gguf);
}
static int source_n_tensors(const source *f) {
    return f->made ? f->made->n_tensors : f->hf ? lm_hf_n_tensors(f->hf) : lm_gguf_n_tensors(f->gguf);
}
static const lm_tensor *source_tensor(const source *f, int i) {
    return f->made ? &f->made->tensors[i] : f->hf ? lm_hf_tensor(f->hf, i) : lm_gguf_tensor(f->gguf, i);
}

static void source_read(const source *f, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    if (f->made) f->made->read(f->made->arg, i, offset, dst, n, err);
    else if (f->hf) lm_hf_read(f->hf, i, offset, dst, n, err);
    else lm_gguf_read(f->gguf, i, offset, dst, n, err);
}

/*----------------------------------------------------------------------
** Rows */

/* The bulk of a tokenizer, which has a table of its own. */
static int is_tokenizer_data(const lm_meta_entry *e) {
    static const char arrays[] = "tokenizer.ggml.", json[] = "tokenizer.huggingface.json";
    if (e->key_n == sizeof json - 1 && !memcmp(e->key, json, e->key_n)) return 1;
    return e->type == LM_META_ARRAY && e->key_n >= sizeof arrays - 1 && !memcmp(e->key, arrays, sizeof arrays - 1);
}

/* Copy the entries that are, or are not, the tokenizer's arrays; the form of labels is info's. */
static void copy_entries(const lm_meta *meta, int arrays, lm_buf *out, lm_err *err) {
    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const lm_meta_entry *e = lm_meta_at(meta, i);
        int is_label = e->key_n == strlen(LM_LABEL_KEY) && !memcmp(e->key, LM_LABEL_KEY, e->key_n);
        if (is_tokenizer_data(e) == arrays && !is_label) lm_buf_append(out, e->raw, e->raw_n, err);
    }
}

enum { STRETCH = 65536 };               /* elements converted at a time: whole blocks of every format */

typedef struct {
    lm_conn *c;
    const char *schema, *name, *path;   /* the model's; where it is from */
    const lm_dtype *as;                 /* what matrices become; NULL: they stay */
    source from;
    sqlite3_int64 model;
    sqlite3_stmt *add_tensor, *add_chunk, *add_digest;
    lm_digest root;
    uint8_t *buffer;                    /* LM_CHUNK_BYTES */
    uint8_t *raw; float *floats;        /* STRETCH elements on their way */
    int64_t n_params, n_active, n_bytes;
} import;

/* How many bytes of t a chunk holds. */
static int64_t chunk_bytes(const lm_tensor *t) {
    int64_t group = t->n_bytes / (t->n_params / t->ne[0]) * 16;
    return group > LM_CHUNK_BYTES ? LM_CHUNK_BYTES : LM_CHUNK_BYTES / group * group;
}

/* What tensor i is stored as: a width that is no multiple of a format's block falls back on halfs. The routers of experts
** stay: a little noise there sends a token to another expert. */
static lm_tensor stored_tensor(const import *im, int i, lm_err *err) {
    lm_tensor t = *source_tensor(&im->from, i);
    if (im->as && t.n_dims > 1 && !strstr(t.name, ".ffn_gate_inp."))
        t.dtype = t.ne[0] % im->as->block ? LM_F16 : im->as->id;
    lm_tensor_measure(&t, err);
    return t;
}

/* Read bytes [offset, offset + n) of tensor i as it is to be stored, converting. */
static void convert(import *im, int i, const lm_tensor *to, int64_t offset, int64_t n, lm_err *err) {
    const lm_tensor *from = source_tensor(&im->from, i);
    const lm_dtype *type = lm_dtype_find(from->dtype), *as = lm_dtype_find(to->dtype);
    int64_t at = offset / as->bytes * as->block, end = (offset + n) / as->bytes * as->block;
    for (uint8_t *out = im->buffer; at < end && !err->code; at += STRETCH) {
        int64_t count = end - at < STRETCH ? end - at : STRETCH;
        source_read(&im->from, i, at / type->block * type->bytes, im->raw,
                    (size_t)(count / type->block * type->bytes), err);
        if (!err->code)
            lm_tensor_check(from, at / type->block * type->bytes, im->raw, count / type->block * type->bytes, err);
        if (err->code) return;
        lm_poll(lm_conn_stop(im->c), err);
        type->decode(im->raw, im->floats, count);
        lm_tensor_check_range(to, at, im->floats, count, as->limit, err);
        if (!err->code) as->encode(im->floats, out, count);
        out += count / as->block * as->bytes;
    }
}

static void import_chunk(import *im, int i, const lm_tensor *t, sqlite3_int64 tensor, int64_t offset, int64_t n,
                         int seq, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    if (t->dtype == source_tensor(&im->from, i)->dtype) source_read(&im->from, i, offset, im->buffer, (size_t)n, err);
    else convert(im, i, t, offset, n, err);
    if (!err->code) lm_tensor_check(t, offset, im->buffer, n, err);
    if (err->code) return;
    lm_hash(im->buffer, (size_t)n, digest);
    lm_digest_add(&im->root, digest, sizeof digest);
    sqlite3_bind_int64(im->add_chunk, 1, tensor);
    sqlite3_bind_int(im->add_chunk, 2, seq);
    if (sqlite3_bind_blob(im->add_chunk, 3, im->buffer, (int)n, SQLITE_STATIC) == SQLITE_TOOBIG)
        lm_err_set(err, LM_ERROR,
                   "tensor %s: a chunk of %lld bytes is more than SQLITE_LIMIT_LENGTH lets a value have", t->name,
                   (long long)n);
    lm_write_step(im->c, im->add_chunk, err);
    sqlite3_bind_int64(im->add_digest, 1, sqlite3_last_insert_rowid(im->c->db));
    sqlite3_bind_blob(im->add_digest, 2, digest, sizeof digest, SQLITE_STATIC);
    lm_write_step(im->c, im->add_digest, err);
}

static void import_tensor(import *im, int i, lm_err *err) {
    lm_tensor t = stored_tensor(im, i, err);
    char shape[128];
    if (err->code) return;
    lm_shape_json(&t, shape, sizeof shape);
    sqlite3_bind_int64(im->add_tensor, 1, im->model);
    sqlite3_bind_text(im->add_tensor, 2, t.name, -1, SQLITE_STATIC);
    sqlite3_bind_text(im->add_tensor, 3, lm_dtype_find(t.dtype)->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(im->add_tensor, 4, shape, -1, SQLITE_STATIC);
    sqlite3_bind_int64(im->add_tensor, 5, t.n_params);
    sqlite3_bind_int64(im->add_tensor, 6, t.n_bytes);
    lm_write_step(im->c, im->add_tensor, err);
    lm_root_tensor(&im->root, &t);
    sqlite3_int64 tensor = sqlite3_last_insert_rowid(im->c->db);
    int64_t step = chunk_bytes(&t);
    int seq = 0;
    for (int64_t offset = 0; offset < t.n_bytes && !err->code; offset += step, seq++) {
        import_chunk(im, i, &t, tensor, offset, step < t.n_bytes - offset ? step : t.n_bytes - offset, seq, err);
    }
    im->n_params += t.n_params;
    im->n_bytes += t.n_bytes;
}

const char *lm_path_tail(const char *path, size_t *n) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start && path[start - 1] != '/') start--;
    *n = end - start;
    return path + start;
}

/* Every token must have a row of the embeddings. */
static void check_vocabulary(const import *im, const lm_tok *tok, lm_err *err) {
    for (int i = 0; tok && i < source_n_tensors(&im->from); i++) {
        const lm_tensor *t = source_tensor(&im->from, i);
        if (strcmp(t->name, "token_embd.weight") || lm_tok_count(tok) <= t->ne[1]) continue;
        lm_err_set(err, LM_ERROR, "the tokenizer has %d tokens, token_embd.weight only %lld rows", lm_tok_count(tok),
                   (long long)t->ne[1]);
    }
}

/* Which file it was; a folder's files are named where they are read. */
static void blame(const import *im, lm_err *err) {
    if (err->code == LM_ERROR && im->from.gguf) lm_err_blame(err, "%.150s: ", im->path);
}

/* Insert the model's own row, its digest still NULL, and its tokenizer. */
static void import_model(import *im, const char *name, const char *path, const char *arch, const lm_buf *hparams,
                         lm_err *err) {
    const lm_meta *meta = source_meta(&im->from);
    lm_buf scalars = {0}, arrays = {0};
    size_t license_n = 0, base_n;
    const char *license = NULL, *base = lm_path_tail(path, &base_n);
    lm_tok *tok = lm_tok_new(meta, meta, err);
    check_vocabulary(im, tok, err);
    blame(im, err);
    copy_entries(meta, 0, &scalars, err);
    copy_entries(meta, 1, &arrays, err);
    lm_meta_text(meta, "general.license", &license, &license_n, err);
    sqlite3_stmt *stmt =
        lm_conn_prepare(im->c, err,
                        "INSERT INTO \"%w\".lm_model(name, arch, task, hparams, meta, n_params, n_active,"
                        " n_bytes, license, source) VALUES (?, ?, ?, ?, ?, 0, 0, 0, ?, ?)",
                        im->schema);
    if (stmt) {
        sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 2, arch, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 3, lm_arch_task(meta), -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 4, hparams->data, (int)hparams->n, SQLITE_STATIC);
        sqlite3_bind_blob(stmt, 5, scalars.data, (int)scalars.n, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 6, license, (int)license_n, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 7, base, (int)base_n, SQLITE_STATIC);
        lm_write_step(im->c, stmt, err);
        im->model = sqlite3_last_insert_rowid(im->c->db);
    }
    sqlite3_finalize(stmt);
    lm_root_text(&im->root, arch);
    lm_root_part(&im->root, hparams->data, hparams->n);
    lm_root_part(&im->root, scalars.data, scalars.n);
    const char *kind = tok ? lm_tok_kind(tok) : arrays.n ? "none" : "";
    lm_root_text(&im->root, kind);
    lm_root_part(&im->root, arrays.data, arrays.n);
    if (arrays.n) {
        stmt = lm_conn_prepare(im->c, err, "INSERT INTO \"%w\".lm_tokenizer(model, kind, data) VALUES (?, ?, ?)",
                               im->schema);
        if (stmt) {
            sqlite3_bind_int64(stmt, 1, im->model);
            sqlite3_bind_text(stmt, 2, kind, -1, SQLITE_STATIC);
            sqlite3_bind_blob(stmt, 3, arrays.data, (int)arrays.n, SQLITE_STATIC);
            lm_write_step(im->c, stmt, err);
        }
        sqlite3_finalize(stmt);
    }
    lm_tok_free(tok);
    lm_buf_clear(&scalars);
    lm_buf_clear(&arrays);
}

/* With every row there, write the counts and, past the triggers, the digest. */
static void import_finish(import *im, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    char text[2 * LM_DIGEST_BYTES + 1];
    const char *label = NULL;
    size_t label_n = 0;
    lm_digest_end(&im->root, digest);
    lm_hex(digest, text);
    lm_meta_text(source_meta(&im->from), LM_LABEL_KEY, &label, &label_n, err);
    sqlite3_stmt *stmt =
        lm_conn_prepare(im->c, err,
                        "UPDATE \"%w\".lm_model SET n_params = ?1, n_active = ?5, n_bytes = ?2, digest = ?3,"
                        " edit = randomblob(8), info = json_patch(json_object('bits_per_weight', round(?2 * 8.0 / ?1, 3)),"
                        " iif(json_valid(?6), json_object('label_format', json(?6)), '{}')) WHERE id = ?4"
                        " RETURNING n_params = ?1 AND n_active = ?5 AND n_bytes = ?2 AND digest = ?3 AND length(edit) = 8",
                        im->schema);
    if (!stmt) return;
    sqlite3_bind_int64(stmt, 1, im->n_params);
    sqlite3_bind_int64(stmt, 2, im->n_bytes);
    sqlite3_bind_text(stmt, 3, text, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, im->model);
    sqlite3_bind_int64(stmt, 5, im->n_active);
    sqlite3_bind_text(stmt, 6, label, (int)label_n, SQLITE_STATIC);
    lm_write_sure(im->c, stmt, err);
    sqlite3_finalize(stmt);
}

static void check_name(lm_conn *c, const char *schema, const char *name, lm_err *err) {
    size_t n = strlen(name);
    lm_buf sound = {0};
    if (n == 0 || n > 200) lm_err_set(err, LM_ERROR, "a model's name must have 1 to 200 bytes, not %d", (int)n);
    lm_utf8_repair(&sound, name, n, err);
    if (!err->code && (sound.n != n || memcmp(sound.data, name, n)))
        lm_err_set(err, LM_ERROR, "a model's name must be UTF-8");
    lm_buf_clear(&sound);
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT 1 FROM \"%w\".lm_model WHERE name = ?", schema);
    if (stmt) sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    if (stmt && lm_conn_step(c, stmt, err)) {
        lm_err_set(err, LM_ERROR, "model %.60s exists already (DELETE FROM lm_model WHERE name = '%.60s' removes it)",
                   name, name);
    }
    sqlite3_finalize(stmt);
}

static void import_tensors(import *im, int n, lm_err *err) {
    for (int i = 0; i < n && !err->code; i++) import_tensor(im, i, err);
    blame(im, err);
}

static void import_all(import *im, lm_err *err) {
    lm_buf hparams = {0};
    int n = source_n_tensors(&im->from);
    lm_tensor *tensors = lm_alloc(sizeof *tensors * (size_t)(n ? n : 1), err);
    for (int i = 0; i < n && tensors; i++) tensors[i] = *source_tensor(&im->from, i);
    const char *arch = tensors ? lm_arch_import(source_meta(&im->from), tensors, n, &hparams, err) : NULL;
    blame(im, err);
    if (arch) im->n_active = lm_arch_n_active(source_meta(&im->from), tensors, n);
    lm_free(tensors);
    if (arch) {
        lm_root_init(&im->root);
        lm_store_create(im->c, im->schema, err);
        check_name(im->c, im->schema, im->name, err);
        if (!err->code) import_model(im, im->name, im->path, arch, &hparams, err);
        im->add_tensor = lm_conn_prepare(im->c, err,
                                         "INSERT INTO \"%w\".lm_tensor(model, name, dtype, shape, n_params, n_bytes)"
                                         " VALUES (?, ?, ?, ?, ?, ?)",
                                         im->schema);
        im->add_chunk = lm_conn_prepare(im->c, err, "INSERT INTO \"%w\".lm_chunk(tensor, seq, data) VALUES (?, ?, ?)",
                                        im->schema);
        im->add_digest = lm_conn_prepare(im->c, err, "INSERT INTO \"%w\".lm_digest(chunk, digest) VALUES (?, ?)",
                                         im->schema);
        im->buffer = lm_alloc(LM_CHUNK_BYTES, err);
        if (im->as) im->raw = lm_alloc(STRETCH * sizeof(float), err);       /* no format needs more */
        if (im->as) im->floats = lm_alloc(STRETCH * sizeof(float), err);
        if (!err->code) import_tensors(im, n, err);
        if (!err->code) import_finish(im, err);
    }
    sqlite3_finalize(im->add_tensor);
    sqlite3_finalize(im->add_chunk);
    sqlite3_finalize(im->add_digest);
    lm_free(im->buffer);
    lm_free(im->raw);
    lm_free(im->floats);
    lm_buf_clear(&hparams);
}

void lm_import_check(lm_conn *c, const char *function, const char *schema, const char *name, lm_err *err) {
    lm_conn_check_begun(c, function, schema, err);
    lm_conn_alone(c, function, err);
    if (lm_store_exists(c, schema, err)) check_name(c, schema, name, err);
}

static void import_whole(import *im, const char *function, lm_err *err) {
    lm_write w;
    lm_write_begin(&w, im->c, function, im->schema, err);
    if (!err->code) import_all(im, err);
    lm_write_end(&w, err);
}

void lm_import(lm_conn *c, const char *path, const char *schema, const char *name, const char *dtype, lm_err *err) {
    import im = { .c = c, .schema = schema, .name = name, .path = path, .as = dtype ? lm_dtype_find_name(dtype) : NULL };
    im.from = open_source(path, err);
    import_whole(&im, "lm_import", err);
    close_source(&im.from);
}

void lm_import_made(lm_conn *c, const lm_made *made, const char *schema, const char *name, lm_err *err) {
    import im = { .c = c, .schema = schema, .name = name, .path = made->function, .from = { .made = made } };
    import_whole(&im, made->function, err);
}

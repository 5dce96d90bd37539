/* store.c: models as rows.
**
** A tensor's bytes stand in lm_chunk, each chunk at most 4 MiB and, where they fit, whole multiples of 16
** rows, which is what the packer takes at a time. A chunk's BLAKE2b-256 stands in lm_digest. The root digest
** in lm_model covers, each part preceded by its length: the format number, arch, hparams, meta, the
** tokenizer's kind and data, and per tensor its name, dtype and shape and its chunks' digests.
**
** Reading trusts none of it: bytes from a database are as hostile as bytes from a file. Whatever is read is
** hashed; a chunk that differs from its own digest, or a model from its root, is an error that says where. */
#include "ext.h"

#include <stdio.h>

/*======================================================================
** The root digest. */

void lm_root_part(lm_digest *root, const void *bytes, size_t n) {
    uint64_t length = n;
    lm_digest_add(root, &length, sizeof length);
    lm_digest_add(root, bytes, n);
}

void lm_root_text(lm_digest *root, const char *text) { lm_root_part(root, text, strlen(text)); }

void lm_root_init(lm_digest *root) {
    uint64_t format = LM_FORMAT;
    lm_digest_init(root);
    lm_root_part(root, &format, sizeof format);
}

void lm_root_tensor(lm_digest *root, const lm_tensor *t) {
    lm_root_text(root, t->name);
    lm_root_text(root, lm_dtype_find(t->dtype)->name);
    lm_root_part(root, t->ne, sizeof t->ne);
}

void lm_hash(const void *bytes, size_t n, uint8_t out[LM_DIGEST_BYTES]) {
    lm_digest d;
    lm_digest_init(&d);
    lm_digest_add(&d, bytes, n);
    lm_digest_end(&d, out);
}

void lm_hex(const uint8_t digest[LM_DIGEST_BYTES], char out[2 * LM_DIGEST_BYTES + 1]) {
    for (int i = 0; i < LM_DIGEST_BYTES; i++) snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void lm_shape_json(const lm_tensor *t, char *out, size_t n) {
    int at = 0;
    for (int d = t->n_dims - 1; d >= 0; d--) {
        at += snprintf(out + at, n - (size_t)at, "%s%lld", at ? "," : "[", (long long)t->ne[d]);
    }
    snprintf(out + at, n - (size_t)at, "]");
}

/*======================================================================
** Schemas. */

static const char schema_sql[] =
#include "schema.h"
    ;

int lm_store_exists(lm_conn *c, const char *schema, lm_err *err) {
    if (sqlite3_table_column_metadata(c->db, schema, "lm_model", NULL, NULL, NULL, NULL, NULL, NULL) != SQLITE_OK) {
        /* The connection may not have seen yet what another one created: a query looks. */
        sqlite3_stmt *look =
            lm_conn_prepare(c, err, "SELECT 1 FROM \"%w\".sqlite_master WHERE type = 'table' AND name = 'lm_model'",
                            schema);
        int there = look && lm_conn_step(c, look, err);
        sqlite3_finalize(look);
        if (!there) return 0;
    }
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT value FROM \"%w\".lm_setting WHERE key = 'format'", schema);
    sqlite3_int64 format = stmt && lm_conn_step(c, stmt, err) ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    if (!err->code && format != LM_FORMAT) {
        lm_err_set(err, LM_ERROR,
                   "%.60s: models are stored in format %lld, this version of sqlite-lm knows format %d", schema,
                   (long long)format, LM_FORMAT);
    }
    return !err->code;
}

void lm_store_check_schema(lm_conn *c, const char *schema, lm_err *err) {
    const char *name;
    for (int i = 0; (name = sqlite3_db_name(c->db, i)) != NULL; i++) {
        if (!sqlite3_stricmp(name, schema)) return;
    }
    lm_err_set(err, LM_ERROR, "option \"schema\": no database %.60s is attached", schema);
}

int lm_store_has_training(lm_conn *c, const char *schema, lm_err *err) {
    sqlite3_stmt *look =
        lm_conn_prepare(c, err, "SELECT 1 FROM \"%w\".sqlite_master WHERE type = 'table' AND name = 'lm_run'",
                        schema);
    int there = look && lm_conn_step(c, look, err);
    sqlite3_finalize(look);
    return there;
}

void lm_store_create(lm_conn *c, const char *schema, lm_err *err) {
    if (!lm_store_exists(c, schema, err) || !lm_store_has_training(c, schema, err)) lm_store_lay(c, schema, err);
}

void lm_store_lay(lm_conn *c, const char *schema, lm_err *err) {
    lm_buf sql = {0};
    if (err->code) return;
    char *prefix = sqlite3_mprintf("\"%w\".", schema);
    for (const char *at = schema_sql, *next; prefix && *at; at = next) {
        next = strstr(at, "main.");
        size_t n = next ? (size_t)(next - at) : strlen(at);
        lm_buf_append(&sql, at, n, err);
        if (next) lm_buf_append(&sql, prefix, strlen(prefix), err);
        next = next ? next + 5 : at + n;
    }
    lm_buf_append(&sql, "", 1, err);
    if (!prefix) lm_err_set(err, LM_NOMEM, "out of memory");
    if (!err->code && sqlite3_exec(c->db, sql.data, NULL, NULL, NULL) != SQLITE_OK) lm_conn_fail(c, err);
    lm_buf_clear(&sql);
    sqlite3_free(prefix);
}

/*======================================================================
** Finding. */

void lm_found_set(lm_found *f, const char *schema, const char *name, sqlite3_int64 id, lm_err *err) {
    *f = (lm_found){ .schema = sqlite3_mprintf("%s", schema), .name = sqlite3_mprintf("%s", name), .id = id };
    if (!f->schema || !f->name) lm_err_set(err, LM_NOMEM, "out of memory");
}

void lm_found_clear(lm_found *f) {
    sqlite3_free(f->schema);
    sqlite3_free(f->name);
    *f = (lm_found){0};
}

/* The kept statements of a schema. NULL without an error: it holds no models. */
static lm_lookup *get_lookup(lm_conn *c, const char *schema, lm_err *err) {
    for (int i = 0; i < c->n_lookups; i++) {
        if (!strcmp(c->lookups[i].schema, schema)) return &c->lookups[i];
    }
    if (!lm_store_exists(c, schema, err)) return NULL;
    lm_lookup l = { .schema = sqlite3_mprintf("%s", schema) };
    char *model =
        sqlite3_mprintf("SELECT id, edit, name FROM \"%w\".lm_model WHERE name = ?1 UNION ALL"
                        " SELECT id, edit, name FROM \"%w\".lm_model WHERE ?1 IS NULL AND task = ?2 LIMIT 2",
                        schema, schema);
    char *setting = sqlite3_mprintf("SELECT value FROM \"%w\".lm_setting WHERE key = ?1 || '_model'", schema);
    lm_lookup *grown = lm_realloc(c->lookups, sizeof *grown * (size_t)(c->n_lookups + 1), err);
    if (grown) c->lookups = grown;
    if (!model || !setting || !l.schema) lm_err_set(err, LM_NOMEM, "out of memory");
    if (!err->code) lm_conn_keep(c, &l.model, model, err);
    if (!err->code) lm_conn_keep(c, &l.setting, setting, err);
    sqlite3_free(model);
    sqlite3_free(setting);
    if (!err->code) {
        c->lookups[c->n_lookups] = l;
        return &c->lookups[c->n_lookups++];
    }
    sqlite3_finalize(l.model);
    sqlite3_finalize(l.setting);
    sqlite3_free(l.schema);
    return NULL;
}

/* Step a kept statement. Its tables may be gone (a DETACH, a DROP): then there is nothing to find, and the
** statements are made anew next time. */
static int step_lookup(lm_conn *c, lm_lookup *l, sqlite3_stmt *stmt, lm_err *err) {
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) return 1;
    if (rc == SQLITE_ERROR || rc == SQLITE_SCHEMA) {
        sqlite3_finalize(l->model);
        sqlite3_finalize(l->setting);
        sqlite3_free(l->schema);
        *l = c->lookups[--c->n_lookups];
    } else {
        if (rc != SQLITE_DONE) lm_conn_fail(c, err);
        sqlite3_reset(stmt);
    }
    return 0;
}

/* Look name (NULL: any model for task) up in one schema, into *out if that is still empty. Return how many
** there are, 2 for more. */
static int find_in(lm_conn *c, const char *schema, const char *name, const char *task, lm_found *out, lm_err *err) {
    int count = 0;
    lm_lookup *l = get_lookup(c, schema, err);
    if (!l) return 0;
    sqlite3_stmt *stmt = l->model;
    if (name) sqlite3_bind_text(stmt, 1, name, -1, SQLITE_TRANSIENT);
    else sqlite3_bind_null(stmt, 1);
    sqlite3_bind_text(stmt, 2, task, -1, SQLITE_STATIC);
    while (step_lookup(c, l, stmt, err)) {
        if (count++ || out->schema) continue;
        const void *edit = lm_column_stamp(stmt, 1);
        out->id = sqlite3_column_int64(stmt, 0);
        out->schema = lm_text_copy(schema, err);
        out->name = lm_text_copy(lm_column_text(stmt, 2, err), err);
        if (sqlite3_column_type(stmt, 0) != SQLITE_INTEGER) lm_err_set(err, LM_ERROR, "lm_model: a row has no id");
        if (edit) memcpy(out->edit, edit, 8);
        else lm_err_set(err, LM_ERROR, "model %.60s: edit: expected 8 bytes", out->name ? out->name : "?");
    }
    return count;
}

/* The name that a schema's lm_setting gives as the default for task (to be sqlite3_freed), or NULL. */
static char *find_default(lm_conn *c, const char *task, lm_err *err) {
    const char *schema;
    char *name = NULL;
    for (int i = 0; !name && !err->code && (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        lm_lookup *l = get_lookup(c, schema, err);
        if (!l) continue;
        sqlite3_stmt *stmt = l->setting;
        sqlite3_bind_text(stmt, 1, task, -1, SQLITE_STATIC);
        if (!step_lookup(c, l, stmt, err)) continue;
        name = lm_text_copy(lm_column_text(stmt, 0, err), err);
        sqlite3_reset(stmt);
    }
    return name;
}

/* Say which models there are. */
static void list_models(lm_conn *c, lm_buf *out, lm_err *err) {
    const char *schema;
    for (int i = 0; (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        if (!lm_store_exists(c, schema, err)) continue;
        sqlite3_stmt *stmt =
            lm_conn_prepare(c, err, "SELECT name FROM \"%w\".lm_model WHERE name IS NOT NULL ORDER BY name LIMIT 20",
                            schema);
        while (stmt && lm_conn_step(c, stmt, err)) {
            lm_buf_print(out, err, "%s%s%s%.60s", out->n ? ", " : "", i ? schema : "", i ? "." : "",
                         sqlite3_column_text(stmt, 0));
        }
        sqlite3_finalize(stmt);
    }
}

static void not_found(lm_conn *c, const char *name, const char *task, int several, lm_err *err) {
    lm_buf have = {0};
    list_models(c, &have, err);
    if (name) {
        lm_err_set(err, LM_ERROR, "no such model: %.60s (have: %.*s)", name, have.n ? (int)have.n : 4,
                   have.n ? have.data : "none");
    } else if (several) {
        lm_err_set(
            err, LM_ERROR,
            "which model? Name one in the options, {\"model\":\"…\"}, or set lm_config('%s_model', …) (have: %.*s)",
            task, (int)have.n, have.data);
    } else if (!strcmp(task, "embed") && have.n) {
        lm_err_set(
            err, LM_ERROR,
            "no model for embeddings: import one with lm_import('folder/'), or name a generating one in the options,"
            " {\"model\":\"…\"} (have: %.*s)",
            (int)have.n, have.data);
    } else {
        lm_err_set(err, LM_ERROR, "no model to %s with: import one with lm_import('%s') (have: %.*s)", task,
                   strcmp(task, "embed") ? "file.gguf" : "folder/", have.n ? (int)have.n : 4,
                   have.n ? have.data : "none");
    }
    lm_buf_clear(&have);
}

/* Look name, or task's default, or the only model for task, up in every schema. Return how many there are. */
static int find_for(lm_conn *c, const char *name, const char *task, lm_found *out, lm_err *err) {
    const char *schema;
    char *by_default = name ? NULL : find_default(c, task, err);
    int count = 0;
    if (by_default) name = by_default;
    for (int i = 0; !err->code && (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        count += find_in(c, schema, name, task, out, err);
        if (name && count) break;
    }
    for (int i = 0; name && !count && !err->code && (schema = sqlite3_db_name(c->db, i)) != NULL; i++) {
        size_t n = strlen(schema);
        if (!sqlite3_strnicmp(schema, name, (int)n) && name[n] == '.')
            count += find_in(c, schema, name + n + 1, task, out, err);
    }
    if (!count && by_default) not_found(c, name, task, 0, err);
    sqlite3_free(by_default);
    return count;
}

/* What the statements kept from before do not find, new ones may: SQLite does not make kept ones anew when an authorizer goes that
** had them read NULLs. */
void lm_store_find(lm_conn *c, const char *name, const char *tasks, lm_found *out, lm_err *err) {
    char first[16];
    const char *bar = strchr(tasks, '|');
    int is_kept = c->n_lookups > 0;
    snprintf(first, sizeof first, "%.*s", bar ? (int)(bar - tasks) : 15, tasks);
    *out = (lm_found){0};
    if (c->is_finding) lm_err_set(err, LM_ERROR, "where models are looked up, a view calls for a model");
    if (err->code) return;
    c->is_finding = 1;
    int count = find_for(c, name, first, out, err);
    if (!count && bar && !name && !err->code) count = find_for(c, name, bar + 1, out, err);
    if (is_kept && (err->code == LM_ERROR || (!err->code && !count))) {
        *err = (lm_err){0};
        lm_found_clear(out);
        lm_conn_forget(c);
        c->is_finding = 0;
        lm_store_find(c, name, tasks, out, err);
        return;
    }
    if (!err->code && count != 1) not_found(c, name, first, count > 1, err);
    c->is_finding = 0;
    if (err->code) lm_found_clear(out);
}

/*======================================================================
** Reading. */

typedef struct {
    lm_conn *c;
    const lm_found *f;
    lm_tensor *tensors;
    sqlite3_int64 *ids;
    int n_tensors, capacity;
    sqlite3_stmt *chunks;               /* one tensor's, in order */
    int tensor;                         /* whose chunks they are, -1: none */
    int seq;
    const uint8_t *data; size_t n, at;  /* the current chunk, and how far it is used */
    lm_digest root;
    void (*use)(void *arg, const lm_stored *m, lm_err *err);    /* NULL: the rows are only checked */
    void *use_arg;
} reader;

static void corrupt(const reader *r, const lm_tensor *t, const char *what, lm_err *err) {
    lm_err_set(err, LM_ERROR, "model %.60s: tensor %s, chunk %d: %s", r->f->name, t->name, r->seq, what);
}

/* Put the model's name, and what part of it was read, in front of a message that does not begin with it. */
static void blame(const lm_found *f, const char *part, lm_err *err) {
    if (err->code == LM_ERROR && strncmp(err->msg, "model ", 6)) lm_err_blame(err, "model %.60s: %s", f->name, part);
}

/* Step to the next chunk of tensor i, of which `at` bytes are read; check and hash it. */
static void next_chunk(reader *r, int i, int64_t at, lm_err *err) {
    const lm_tensor *t = &r->tensors[i];
    uint8_t digest[LM_DIGEST_BYTES];
    lm_poll(lm_conn_stop(r->c), err);
    if (r->tensor != i) {
        sqlite3_reset(r->chunks);
        sqlite3_bind_int64(r->chunks, 1, r->ids[i]);
        lm_root_tensor(&r->root, t);
        r->tensor = i;
        r->seq = -1;
    }
    r->seq++;
    r->n = r->at = 0;
    if (!lm_conn_step(r->c, r->chunks, err)) {
        lm_err_set(err, LM_ERROR, "model %.60s: tensor %s, chunk %d: missing: those before it have %lld of %lld bytes", r->f->name,
                   t->name, r->seq, (long long)at, (long long)t->n_bytes);
    } else if (sqlite3_column_type(r->chunks, 1) != SQLITE_BLOB || sqlite3_column_int64(r->chunks, 0) != r->seq) {
        corrupt(r, t, "not the BLOB that was expected", err);
    } else {
        r->data = sqlite3_column_blob(r->chunks, 1);
        r->n = (size_t)sqlite3_column_bytes(r->chunks, 1);
        if (!r->n || r->n > LM_CHUNK_BYTES) corrupt(r, t, "a chunk has 1 byte to 4 MiB", err);
    }
    if (err->code) return;
    lm_hash(r->data, r->n, digest);
    const void *stored = sqlite3_column_blob(r->chunks, 2);
    if (stored && (sqlite3_column_bytes(r->chunks, 2) != LM_DIGEST_BYTES || memcmp(stored, digest, sizeof digest))) {
        corrupt(r, t, "does not match its digest: the bytes were changed behind SQL's back", err);
    }
    lm_digest_add(&r->root, digest, sizeof digest);
}

/* lm_source's read; dst NULL passes over the bytes, hashing them. */
static void read_tensor(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    reader *r = arg;
    const lm_tensor *t = &r->tensors[i];
    for (size_t done = 0; done < n && !err->code;) {
        if (r->tensor != i || r->at == r->n) next_chunk(r, i, offset + (int64_t)done, err);
        if (err->code) return;
        size_t some = r->n - r->at < n - done ? r->n - r->at : n - done;
        if (dst) memcpy((uint8_t *)dst + done, r->data + r->at, some);
        r->at += some;
        done += some;
    }
    if (offset + (int64_t)n < t->n_bytes || err->code) return;
    if (r->at < r->n || lm_conn_step(r->c, r->chunks, err)) corrupt(r, t, "more bytes than the tensor has", err);
}

void lm_shape_read(lm_tensor *t, const char *text, size_t n, lm_err *err) {
    lm_json j;
    int64_t dims[LM_DIMS_MAX];
    int n_dims = 0, kind;
    lm_json_init(&j, text, n);
    if (lm_json_next(&j, err) != LM_JSON_ARRAY) lm_err_set(err, LM_ERROR, "expected a JSON array");
    while ((kind = lm_json_next(&j, err)) != LM_JSON_END) {
        if (kind != LM_JSON_INT || n_dims == LM_DIMS_MAX) lm_err_set(err, LM_ERROR, "expected 1 to 4 whole numbers");
        else dims[n_dims++] = j.integer;
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
    t->n_dims = n_dims;
    for (int d = 0; d < LM_DIMS_MAX; d++) t->ne[d] = d < n_dims ? dims[n_dims - 1 - d] : 1;
}

void lm_tensor_row_read(lm_tensor *t, const char *model, sqlite3_stmt *stmt, int at, lm_err *err) {
    const char *name = lm_column_text(stmt, at, err), *dtype = lm_column_text(stmt, at + 1, err),
               *shape = lm_column_text(stmt, at + 2, err);
    size_t name_n = (size_t)sqlite3_column_bytes(stmt, at);
    int is_name = name && name_n && name_n <= LM_NAME_MAX && lm_tensor_is_name(name, name_n);
    if (!is_name || !dtype || !shape || !lm_dtype_find_name(dtype)) {
        lm_err_set(err, LM_ERROR, "model %.60s: tensor %.60s: bad %s", model, is_name ? name : "?",
                   !is_name ? "name"
                   : !shape ? "shape"
                            : "dtype");
        return;
    }
    *t = (lm_tensor){ .dtype = lm_dtype_find_name(dtype)->id };
    memcpy(t->name, name, name_n);
    lm_shape_read(t, shape, (size_t)sqlite3_column_bytes(stmt, at + 2), err);
    lm_tensor_measure(t, err);
    if (err->code == LM_ERROR) {
        char what[160];
        snprintf(what, sizeof what, "%.159s", err->msg);
        *err = (lm_err){0};
        lm_err_set(err, LM_ERROR, "model %.60s: tensor %s: shape: %s", model, name, what);
    }
    if (!err->code
        && (sqlite3_column_int64(stmt, at + 3) != t->n_params || sqlite3_column_int64(stmt, at + 4) != t->n_bytes)) {
        lm_err_set(err, LM_ERROR,
                   "model %.60s: tensor %s: n_params or n_bytes is not what its shape and dtype make: %lld, %lld",
                   model, name, (long long)t->n_params, (long long)t->n_bytes);
    }
}

static void read_tensor_rows(reader *r, lm_err *err) {
    sqlite3_stmt *stmt = lm_conn_prepare(
        r->c, err,
        "SELECT id, name, dtype, shape, n_params, n_bytes FROM \"%w\".lm_tensor WHERE model = ? ORDER BY id",
        r->f->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, r->f->id);
    while (stmt && lm_conn_step(r->c, stmt, err)) {
        if (r->n_tensors == r->capacity) {
            int capacity = r->capacity ? 2 * r->capacity : 64;
            lm_tensor *tensors = lm_realloc(r->tensors, sizeof *tensors * (size_t)capacity, err);
            if (tensors) r->tensors = tensors;
            sqlite3_int64 *ids = lm_realloc(r->ids, sizeof *ids * (size_t)capacity, err);
            if (ids) r->ids = ids;
            if (err->code) break;
            r->capacity = capacity;
        }
        lm_tensor_row_read(&r->tensors[r->n_tensors], r->f->name, stmt, 1, err);
        r->ids[r->n_tensors++] = sqlite3_column_int64(stmt, 0);
    }
    sqlite3_finalize(stmt);
    if (!r->n_tensors) lm_err_set(err, LM_ERROR, "model %.60s has no tensors", r->f->name);
}

/* Read the tokenizer's row into the root digest and append its arrays to out. */
static void read_tokenizer(reader *r, lm_buf *out, lm_err *err) {
    sqlite3_stmt *stmt = lm_conn_prepare(r->c, err, "SELECT kind, data FROM \"%w\".lm_tokenizer WHERE model = ?",
                                         r->f->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, r->f->id);
    int there = stmt && lm_conn_step(r->c, stmt, err);
    const char *kind = there ? lm_column_text(stmt, 0, err) : "";
    if (there) lm_buf_append(out, sqlite3_column_blob(stmt, 1), (size_t)sqlite3_column_bytes(stmt, 1), err);
    if (!err->code) {
        lm_root_text(&r->root, kind ? kind : "");
        lm_root_part(&r->root, out->data, out->n);
    }
    sqlite3_finalize(stmt);
}

static lm_tok *build_tokenizer(const lm_found *f, const void *meta_bytes, size_t meta_n, const lm_buf *arrays_bytes,
                               lm_err *err) {
    lm_tok *tok = NULL;
    if (!arrays_bytes->n) return NULL;
    lm_meta *meta = lm_meta_new(meta_bytes, meta_n, err);
    blame(f, "meta: ", err);
    lm_meta *arrays = lm_meta_new(arrays_bytes->data, arrays_bytes->n, err);
    blame(f, "lm_tokenizer.data: ", err);
    if (!err->code) tok = lm_tok_new(meta, arrays, err);
    lm_meta_free(meta);
    lm_meta_free(arrays);
    return tok;
}

/* The counts in the model's row are no part of the digest: they follow from what is. */
static void check_totals(const reader *r, sqlite3_stmt *row, const void *meta_bytes, size_t meta_n, lm_err *err) {
    int64_t n_params = 0, n_bytes = 0;
    lm_meta *meta = lm_meta_new(meta_bytes, meta_n, err);
    blame(r->f, "meta: ", err);
    for (int i = 0; i < r->n_tensors; i++) {
        n_params += r->tensors[i].n_params;
        n_bytes += r->tensors[i].n_bytes;
    }
    int64_t n_active = meta ? lm_arch_n_active(meta, r->tensors, r->n_tensors) : 0;
    if (sqlite3_column_int64(row, 4) != n_params || sqlite3_column_int64(row, 5) != n_active
        || sqlite3_column_int64(row, 6) != n_bytes) {
        lm_err_set(err, LM_ERROR,
                   "model %.60s: n_params, n_active or n_bytes is not what its tensors make: %lld, %lld, %lld",
                   r->f->name, (long long)n_params, (long long)n_active, (long long)n_bytes);
    }
    lm_meta_free(meta);
}

static void read_rows(reader *r, sqlite3_stmt *row, uint8_t digest[LM_DIGEST_BYTES], lm_err *err) {
    lm_buf arrays = {0};
    const char *arch = lm_column_text(row, 0, err), *hparams = lm_column_text(row, 1, err);
    const void *meta = sqlite3_column_blob(row, 2);
    size_t hparams_n = (size_t)sqlite3_column_bytes(row, 1), meta_n = (size_t)sqlite3_column_bytes(row, 2);
    const char *stored = lm_column_text(row, 3, err);
    if (!arch || !hparams || !meta) {
        lm_err_set(err, LM_ERROR, "model %.60s: arch, hparams and meta must not be empty", r->f->name);
        return;
    }
    lm_root_init(&r->root);
    lm_root_text(&r->root, arch);
    lm_root_part(&r->root, hparams, hparams_n);
    lm_root_part(&r->root, meta, meta_n);
    read_tokenizer(r, &arrays, err);
    read_tensor_rows(r, err);
    r->chunks = lm_conn_prepare(
        r->c, err,
        "SELECT c.seq, c.data, d.digest FROM \"%w\".lm_chunk c LEFT JOIN \"%w\".lm_digest d ON d.chunk = c.id"
        " WHERE c.tensor = ? ORDER BY c.seq",
        r->f->schema, r->f->schema);
    if (!err->code && r->use) {
        lm_stored stored_rows = { { arch, hparams, hparams_n, r->tensors, r->n_tensors, read_tensor, r },
                                  meta, meta_n, &arrays };
        r->use(r->use_arg, &stored_rows, err);
    } else {
        for (int i = 0; i < r->n_tensors && !err->code; i++)
            read_tensor(r, i, 0, NULL, (size_t)r->tensors[i].n_bytes, err);
    }
    lm_buf_clear(&arrays);
    if (err->code) return;
    check_totals(r, row, meta, meta_n, err);
    char text[2 * LM_DIGEST_BYTES + 1];
    lm_digest_end(&r->root, digest);
    lm_hex(digest, text);
    if (stored && strcmp(stored, text)) {
        lm_err_set(err, LM_ERROR,
                   "model %.60s: its rows do not match its digest: they were changed behind SQL's back", r->f->name);
    }
}

static void read_model(lm_conn *c, const lm_found *f, reader r, uint8_t digest[LM_DIGEST_BYTES], lm_err *err) {
    r.c = c;
    r.f = f;
    r.tensor = -1;
    /* This statement stays open throughout: it holds the read transaction that keeps all the rows of one time. */
    sqlite3_stmt *row = lm_conn_prepare(
        c, err, "SELECT arch, hparams, meta, digest, n_params, n_active, n_bytes FROM \"%w\".lm_model WHERE id = ?",
        f->schema);
    if (row) sqlite3_bind_int64(row, 1, f->id);
    if (row && lm_conn_step(c, row, err)) read_rows(&r, row, digest, err);
    else lm_err_set(err, LM_ERROR, "model %.60s is gone", f->name);
    blame(f, "", err);
    sqlite3_finalize(r.chunks);
    sqlite3_finalize(row);
    lm_free(r.tensors);
    lm_free(r.ids);
}

void lm_store_read(lm_conn *c, const lm_found *f, uint8_t digest[LM_DIGEST_BYTES], lm_err *err) {
    read_model(c, f, (reader){0}, digest, err);
}

void lm_store_use(lm_conn *c, const lm_found *f, void (*use)(void *arg, const lm_stored *m, lm_err *err), void *arg,
                  uint8_t digest[LM_DIGEST_BYTES], lm_err *err) {
    read_model(c, f, (reader){ .use = use, .use_arg = arg }, digest, err);
}

typedef struct { lm_conn *c; const lm_found *f; lm_model *model; } builder;

static void build(void *arg, const lm_stored *m, lm_err *err) {
    builder *b = arg;
    lm_tok *tok = build_tokenizer(b->f, m->meta, m->meta_n, m->arrays, err);
    if (!err->code) b->model = lm_model_open(&m->source, tok, lm_conn_stop(b->c), err);
    if (!b->model) lm_tok_free(tok);
}

lm_model *lm_store_build(lm_conn *c, const lm_found *f, uint8_t digest[LM_DIGEST_BYTES], lm_err *err) {
    builder b = { c, f, NULL };
    lm_store_use(c, f, build, &b, digest, err);
    if (!err->code) return b.model;
    lm_model_free(b.model);
    return NULL;
}

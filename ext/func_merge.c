/* func_merge.c: lm_merge(model, adapter, new_name[, options]): a model with an adapter worked into its weights. What the
** adapter does not change is stored bit for bit; a matrix that it does change becomes plain numbers where it was blocks. */
#include "ext.h"

#include <stddef.h>
#include <stdio.h>

typedef struct { char *schema, *dtype; } merge_options;

#define AT(field) offsetof(merge_options, field)
static const lm_option table[] = {
    { "schema", LM_OPT_TEXT, AT(schema), 0, 0, NULL },
    { "dtype", LM_OPT_TEXT, AT(dtype), 0, 0, "f32|f16|bf16" },
    { NULL, 0, 0, 0, 0, NULL },
};
#undef AT

enum { STRETCH = 65536 };               /* elements at a time: whole blocks of every format */

typedef struct {
    lm_conn *c;
    const char *schema, *name;
    const lm_dtype *as;                 /* what changed matrices of blocks become */
    lm_adapter_rows rows;
    const lm_source *from;
    lm_tensor *tensors;                 /* as they will be stored */
    uint8_t *raw; float *floats;        /* a stretch of them */
} merge;

/* lm_made's read: tensor i of the new model. */
static void read_tensor(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    merge *m = arg;
    const lm_tensor *from = &m->from->tensors[i], *to = &m->tensors[i];
    const lm_dtype *type = lm_dtype_find(from->dtype), *as = lm_dtype_find(to->dtype);
    if (!lm_adapter_has(&m->rows.a, from->name)) {
        m->from->read(m->from->arg, i, offset, dst, n, err);
        return;
    }
    int64_t at = offset / as->bytes, end = (offset + (int64_t)n) / as->bytes, count;
    for (uint8_t *out = dst; at < end && !err->code; at += count, out += count * as->bytes) {
        count = end - at < STRETCH ? end - at : STRETCH;
        lm_poll(lm_conn_stop(m->c), err);
        m->from->read(m->from->arg, i, at / type->block * type->bytes, m->raw,
                      (size_t)(count / type->block * type->bytes), err);
        if (err->code) return;
        type->decode(m->raw, m->floats, count);
        lm_adapter_add(&m->rows.a, from->name, at, count, m->floats);
        lm_tensor_check_range(to, at, m->floats, count, as->limit, err);
        if (!err->code) as->encode(m->floats, out, count);
    }
}

static void plan_tensors(merge *m, lm_err *err) {
    for (int i = 0; i < m->from->n_tensors && !err->code; i++) {
        lm_tensor *t = &m->tensors[i];
        *t = m->from->tensors[i];
        if (!lm_adapter_has(&m->rows.a, t->name)) continue;
        if (lm_dtype_find(t->dtype)->block > 1 || m->as) t->dtype = m->as ? m->as->id : LM_F16;
        lm_tensor_measure(t, err);
    }
}

static void build(void *arg, const lm_stored *stored, lm_err *err) {
    merge *m = arg;
    lm_buf all = {0};
    m->from = &stored->source;
    lm_buf_append(&all, stored->meta, stored->meta_n, err);
    lm_buf_append(&all, stored->arrays->data, stored->arrays->n, err);
    lm_meta *meta = err->code ? NULL : lm_meta_new(all.data, all.n, err);
    m->tensors = lm_alloc((size_t)m->from->n_tensors * sizeof *m->tensors, err);
    m->raw = lm_alloc(STRETCH * sizeof(float), err);        /* no format needs more */
    m->floats = lm_alloc(STRETCH * sizeof(float), err);
    lm_adapter_check(m->from, &m->rows.a, err);
    if (!err->code) plan_tensors(m, err);
    if (!err->code)
        lm_import_made(m->c, &(lm_made){ "lm_merge", meta, m->tensors, m->from->n_tensors, read_tensor, m },
                       m->schema, m->name, err);
    lm_meta_free(meta);
    lm_buf_clear(&all);
    lm_free(m->tensors);
    lm_free(m->raw);
    lm_free(m->floats);
}

/* What it was made of, and the adapter's format of labels. */
static void write_info(const merge *m, const lm_found *base, const char *adapter, lm_err *err) {
    const lm_buf *info = &m->rows.info;
    sqlite3_stmt *stmt = lm_conn_prepare(
        m->c, err,
        "UPDATE \"%w\".lm_model SET info = json_patch(json_set(info, '$.base', ?1, '$.adapter', ?2), coalesce(?3, '{}')),"
        " source = 'lm_merge' WHERE name = ?4",
        m->schema);
    if (stmt) {
        sqlite3_bind_text(stmt, 1, base->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 2, adapter, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 3, info->n ? info->data : NULL, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 4, m->name, -1, SQLITE_STATIC);
    }
    lm_write_step(m->c, stmt, err);
    sqlite3_finalize(stmt);
}

static void merge_all(merge *m, const lm_found *base, const char *adapter, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    char text[2 * LM_DIGEST_BYTES + 1];
    lm_write w;
    if (!lm_adapter_find(m->c, base, adapter, &m->rows, err)) lm_adapter_missing(m->c, base, adapter, err);
    if (!err->code) lm_adapter_read(m->c, base, &m->rows, err);
    if (!err->code) lm_write_begin(&w, m->c, "lm_merge", m->schema, err);
    else w = (lm_write){0};
    if (!err->code) lm_store_use(m->c, base, build, m, digest, err);
    if (!err->code) {
        lm_hex(digest, text);
        if (strcmp(text, m->rows.base_digest)) {
            lm_err_set(err, LM_ERROR,
                       "adapter %.60s: model %.60s is not the one that it was trained for: its digest is another",
                       adapter, base->name);
        }
    }
    if (!err->code) write_info(m, base, adapter, err);
    lm_write_end(&w, err);
    lm_adapter_clear(&m->rows);
}

static void call(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text model, adapter, name;
    lm_found f = {0};
    merge_options o = {0};
    lm_options_read(table, &o, n_args > 3 ? args[3] : NULL, NULL, &err);
    int has_model = lm_value_text(args[0], &model, "model", &err);
    if (lm_value_text(args[1], &adapter, "adapter", &err) && lm_value_text(args[2], &name, "new_name", &err)
        && !err.code) {
        merge m = { .c = c,
                    .schema = o.schema ? o.schema : "main",
                    .name = name.text,
                    .as = o.dtype ? lm_dtype_find_name(o.dtype) : NULL };
        if (strlen(name.text) != name.n) lm_err_set(&err, LM_ERROR, "new_name: a NUL stands inside it");
        lm_store_check_schema(c, m.schema, &err);
        if (!err.code) lm_store_find(c, has_model ? model.text : NULL, "generate", &f, &err);
        if (!err.code) lm_import_check(c, "lm_merge", m.schema, m.name, &err);
        lm_result_text(ctx, name.text, name.n);
        if (!err.code) merge_all(&m, &f, adapter.text, &err);
        lm_found_clear(&f);
    }
    lm_options_clear(table, &o);
    if (err.code) lm_result_error(ctx, &err);
}

int lm_func_merge_register(lm_conn *c) { return lm_register(c, "lm_merge", 3, 4, SQLITE_DIRECTONLY, call); }

/* adapter.c: adapters as rows: lm_adapter says what one is and for which model, lm_adapter_tensor has its numbers. Rows are
** checked for form here; lm_model_adapt checks names and shapes against the model. */
#include "ext.h"

#include <math.h>
#include <stdio.h>

enum { TENSORS_MAX = 1 << 14 };

static void corrupt(const lm_adapter_rows *r, const char *what, lm_err *err) {
    lm_err_set(err, LM_ERROR, "lm_adapter, id %lld: %s", (long long)r->id, what);
}

int lm_adapter_find(lm_conn *c, const lm_found *model, const char *name, lm_adapter_rows *out, lm_err *err) {
    *out = (lm_adapter_rows){0};
    if (err->code || !lm_store_has_training(c, model->schema, err)) return 0;
    sqlite3_stmt *stmt = lm_conn_prepare(
        c, err,
        "SELECT id, edit, base_digest, rank, alpha, targets, info FROM \"%w\".lm_adapter WHERE model = ? AND name = ?",
        model->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, model->id);
    if (stmt) sqlite3_bind_text(stmt, 2, name, -1, SQLITE_STATIC);
    int there = stmt && lm_conn_step(c, stmt, err);
    if (there) {
        const void *edit = lm_column_stamp(stmt, 1);
        const char *digest = (const char *)sqlite3_column_text(stmt, 2),
                   *targets = (const char *)sqlite3_column_text(stmt, 5);
        const char *info = (const char *)sqlite3_column_text(stmt, 6);
        double rank = sqlite3_column_double(stmt, 3), alpha = sqlite3_column_double(stmt, 4);
        out->id = sqlite3_column_int64(stmt, 0);
        if (!edit) corrupt(out, "edit: expected 8 bytes", err);
        else memcpy(out->edit, edit, 8);
        if (!digest || strlen(digest) != 2 * LM_DIGEST_BYTES)
            corrupt(out, "base_digest: expected 64 hexadecimal digits", err);
        else memcpy(out->base_digest, digest, sizeof out->base_digest);
        if (!(rank >= 1 && rank <= 1024 && rank == floor(rank)))
            corrupt(out, "rank: expected a whole number from 1 to 1024", err);
        else out->a.rank = (int)rank;
        if (!(alpha > 0 && alpha <= 1e6)) corrupt(out, "alpha: expected more than 0, at most 1e6", err);
        out->a.alpha = alpha;
        if (targets) lm_buf_append(&out->targets, targets, strlen(targets) + 1, err);
        if (info) lm_buf_append(&out->info, info, strlen(info) + 1, err);
    }
    sqlite3_finalize(stmt);
    return there;
}

void lm_adapter_missing(lm_conn *c, const lm_found *model, const char *name, lm_err *err) {
    lm_buf have = {0};
    sqlite3_stmt *stmt =
        lm_store_has_training(c, model->schema, err)
            ? lm_conn_prepare(c, err, "SELECT name FROM \"%w\".lm_adapter WHERE model = ? ORDER BY name LIMIT 10",
                              model->schema)
            : NULL;
    if (stmt) sqlite3_bind_int64(stmt, 1, model->id);
    while (stmt && lm_conn_step(c, stmt, err))
        lm_buf_print(&have, err, "%s%.60s", have.n ? ", " : "", sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    lm_err_set(err, LM_ERROR, "model %.60s has no adapter %.60s (have: %.*s)", model->name, name,
               have.n ? (int)have.n : 4, have.n ? have.data : "none");
    lm_buf_clear(&have);
}

/* Add a tensor to the arrays. */
static void add_tensor(lm_adapter_rows *r, sqlite3_stmt *stmt, lm_err *err) {
    lm_adapter *a = &r->a;
    const char *name = (const char *)sqlite3_column_text(stmt, 0), *shape = (const char *)sqlite3_column_text(stmt, 1);
    lm_tensor t = { .dtype = LM_F32 };
    if (!name || !shape || strlen(name) > LM_NAME_MAX) corrupt(r, "a tensor has a bad name or shape", err);
    if (a->n_tensors == TENSORS_MAX) corrupt(r, "there are too many tensors", err);
    if (err->code) return;
    memcpy(t.name, name, strlen(name) + 1);
    lm_shape_read(&t, shape, (size_t)sqlite3_column_bytes(stmt, 1), err);
    lm_tensor_measure(&t, err);
    lm_err_blame(err, "lm_adapter, id %lld: tensor %s: shape: ", (long long)r->id, t.name);
    const void *data = sqlite3_column_blob(stmt, 2);
    if (!err->code
        && (!data || sqlite3_column_type(stmt, 2) != SQLITE_BLOB || sqlite3_column_bytes(stmt, 2) != t.n_bytes)) {
        lm_err_set(err, LM_ERROR, "lm_adapter, id %lld: tensor %s: expected a BLOB of %lld bytes", (long long)r->id,
                   t.name, (long long)t.n_bytes);
    }
    if (err->code) return;
    lm_tensor *tensors = lm_realloc((void *)a->tensors, sizeof *tensors * (size_t)(a->n_tensors + 1), err);
    if (tensors) a->tensors = tensors;
    float **all = lm_realloc((void *)a->data, sizeof *all * (size_t)(a->n_tensors + 1), err);
    if (all) a->data = all;
    float *copy = lm_alloc((size_t)t.n_bytes, err);
    if (err->code) return;
    memcpy(copy, data, (size_t)t.n_bytes);
    tensors[a->n_tensors] = t;
    all[a->n_tensors++] = copy;
    for (int64_t i = 0; i < t.n_params && !err->code; i++) {
        if (!isfinite(copy[i]))
            lm_err_set(err, LM_ERROR, "lm_adapter, id %lld: tensor %s: element %lld is not finite", (long long)r->id,
                       t.name, (long long)i);
    }
}

void lm_adapter_read(lm_conn *c, const lm_found *model, lm_adapter_rows *r, lm_err *err) {
    sqlite3_stmt *stmt =
        lm_conn_prepare(c, err,
                        "SELECT name, shape, data FROM \"%w\".lm_adapter_tensor WHERE adapter = ? ORDER BY name",
                        model->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, r->id);
    while (stmt && lm_conn_step(c, stmt, err)) {
        lm_poll(lm_conn_stop(c), err);
        add_tensor(r, stmt, err);
    }
    sqlite3_finalize(stmt);
    if (!r->a.n_tensors) corrupt(r, "it has no tensors", err);
}

void lm_adapter_check_all(lm_conn *c, const lm_found *model, lm_err *err) {
    if (err->code || !lm_store_has_training(c, model->schema, err)) return;
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT name FROM \"%w\".lm_adapter WHERE model = ? ORDER BY id", model->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, model->id);
    while (stmt && lm_conn_step(c, stmt, err)) {
        lm_adapter_rows rows;
        const char *name = lm_column_text(stmt, 0, err);
        if (name && lm_adapter_find(c, model, name, &rows, err)) {
            lm_adapter_read(c, model, &rows, err);
            lm_adapter_clear(&rows);
        }
    }
    sqlite3_finalize(stmt);
}

void lm_adapter_clear(lm_adapter_rows *r) {
    for (int i = 0; i < r->a.n_tensors; i++) lm_free(r->a.data[i]);
    lm_free((void *)r->a.data);
    lm_free((void *)r->a.tensors);
    lm_buf_clear(&r->targets);
    lm_buf_clear(&r->info);
    *r = (lm_adapter_rows){0};
}

/* An existing row stays, with its info; so does its id. */
static sqlite3_int64 write_row(lm_conn *c, const lm_found *model, const char *name, const lm_adapter_rows *r,
                               lm_err *err) {
    sqlite3_int64 n_params = 0, id = 0;
    for (int i = 0; i < r->a.n_tensors; i++) n_params += r->a.tensors[i].n_params;
    sqlite3_stmt *stmt = lm_conn_prepare(
        c, err,
        "INSERT INTO \"%w\".lm_adapter(model, name, base_digest, rank, alpha, targets, n_params, edit)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, randomblob(8)) ON CONFLICT(model, name) DO UPDATE SET base_digest = excluded.base_digest,"
        " rank = excluded.rank, alpha = excluded.alpha, targets = excluded.targets, n_params = excluded.n_params RETURNING length(edit) = 8",
        model->schema);
    if (stmt) {
        sqlite3_bind_int64(stmt, 1, model->id);
        sqlite3_bind_text(stmt, 2, name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 3, r->base_digest, -1, SQLITE_STATIC);
        sqlite3_bind_int(stmt, 4, r->a.rank);
        sqlite3_bind_double(stmt, 5, r->a.alpha);
        sqlite3_bind_text(stmt, 6, r->targets.n ? r->targets.data : "", -1, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 7, n_params);
    }
    lm_write_sure(c, stmt, err);
    sqlite3_finalize(stmt);
    stmt = lm_conn_prepare(c, err, "SELECT id FROM \"%w\".lm_adapter WHERE model = ? AND name = ?", model->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, model->id);
    if (stmt) sqlite3_bind_text(stmt, 2, name, -1, SQLITE_STATIC);
    if (stmt && lm_conn_step(c, stmt, err)) id = sqlite3_column_int64(stmt, 0);
    if (!id) lm_err_set(err, LM_ERROR, "adapter %.60s: its row is not there", name);
    sqlite3_finalize(stmt);
    return id;
}

void lm_adapter_write(lm_conn *c, const lm_found *model, const char *name, const lm_adapter_rows *r, lm_err *err) {
    sqlite3_int64 id = write_row(c, model, name, r, err);
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "DELETE FROM \"%w\".lm_adapter_tensor WHERE adapter = ?",
                                         model->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, id);
    lm_write_step(c, stmt, err);
    sqlite3_finalize(stmt);
    stmt = lm_conn_prepare(c, err, "INSERT INTO \"%w\".lm_adapter_tensor VALUES (?, ?, ?, ?)", model->schema);
    for (int i = 0; i < r->a.n_tensors && !err->code; i++) {
        char shape[128];
        lm_shape_json(&r->a.tensors[i], shape, sizeof shape);
        sqlite3_bind_int64(stmt, 1, id);
        sqlite3_bind_text(stmt, 2, r->a.tensors[i].name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 3, shape, -1, SQLITE_STATIC);
        sqlite3_bind_blob(stmt, 4, r->a.data[i], (int)r->a.tensors[i].n_bytes, SQLITE_STATIC);
        lm_write_step(c, stmt, err);
    }
    sqlite3_finalize(stmt);
}

void lm_adapter_digest(const lm_adapter_rows *r, const uint8_t base[LM_DIGEST_BYTES], uint8_t out[LM_DIGEST_BYTES]) {
    lm_digest d;
    lm_digest_init(&d);
    lm_root_part(&d, base, LM_DIGEST_BYTES);
    lm_root_part(&d, &r->a.alpha, sizeof r->a.alpha);
    for (int i = 0; i < r->a.n_tensors; i++) {
        lm_root_tensor(&d, &r->a.tensors[i]);
        lm_root_part(&d, r->a.data[i], (size_t)r->a.tensors[i].n_bytes);
    }
    lm_digest_end(&d, out);
}

/* train_write.c: what a run learnt, as rows: the model's own, or an adapter's. The best weights are what stays. */
#include "train.h"

typedef struct {
    lm_run *r;
    sqlite3_stmt *find_tensor, *find_chunk, *set_chunk, *set_digest;
} writer;

/* Write n floats, t's from `first` on, as t's dtype. */
static void write_chunk(writer *w, const lm_tensor *t, const lm_dtype *type, sqlite3_int64 id, const float *x,
                        int64_t first, int64_t n, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    int bytes = (int)(n * type->bytes);
    lm_tensor_check_range(t, first, x + first, n, type->limit, err);
    if (err->code) return;
    type->encode(x + first, w->r->buffer, n);
    lm_hash(w->r->buffer, (size_t)bytes, digest);
    sqlite3_bind_blob(w->set_chunk, 1, w->r->buffer, bytes, SQLITE_STATIC);
    sqlite3_bind_int64(w->set_chunk, 2, id);
    lm_write_sure(w->r->c, w->set_chunk, err);
    sqlite3_bind_int64(w->set_digest, 1, id);
    sqlite3_bind_blob(w->set_digest, 2, digest, sizeof digest, SQLITE_STATIC);
    lm_write_step(w->r->c, w->set_digest, err);
}

static void write_tensor(writer *w, int i, lm_err *err) {
    lm_run *r = w->r;
    lm_tensor t = *lm_trainer_tensor(r->trainer, i);
    const float *values = lm_trainer_data(r->trainer, i, LM_TRAIN_VALUE);
    sqlite3_bind_int64(w->find_tensor, 1, r->model.id);
    sqlite3_bind_text(w->find_tensor, 2, t.name, -1, SQLITE_STATIC);
    int there = lm_conn_step(r->c, w->find_tensor, err);
    sqlite3_int64 id = there ? sqlite3_column_int64(w->find_tensor, 0) : 0;
    const char *dtype = there ? (const char *)sqlite3_column_text(w->find_tensor, 1) : NULL;
    const lm_dtype *type = dtype ? lm_dtype_find_name(dtype) : NULL;
    sqlite3_reset(w->find_tensor);
    if (!type || !type->encode || type->block > 1)
        lm_err_set(err, LM_ERROR, "lm_train: model %.60s was changed during training", r->model.name);
    if (!err->code) t.dtype = type->id;
    for (int64_t at = 0, seq = 0, n; at < t.n_params && !err->code; at += n, seq++) {
        sqlite3_bind_int64(w->find_chunk, 1, id);
        sqlite3_bind_int64(w->find_chunk, 2, seq);
        there = lm_conn_step(r->c, w->find_chunk, err);
        sqlite3_int64 chunk = there ? sqlite3_column_int64(w->find_chunk, 0) : 0;
        n = there ? sqlite3_column_int64(w->find_chunk, 1) / type->bytes : 0;
        sqlite3_reset(w->find_chunk);
        if (n <= 0 || n * type->bytes > LM_CHUNK_BYTES || n > t.n_params - at)
            lm_err_set(err, LM_ERROR, "lm_train: model %.60s was changed during training", r->model.name);
        else write_chunk(w, &t, type, chunk, values, at, n, err);
    }
}

/* With every chunk there, compute the root digest anew; that also checks what was not trained. */
static void write_root(lm_run *r, lm_err *err) {
    char text[2 * LM_DIGEST_BYTES + 1];
    lm_store_read(r->c, &r->model, r->model_digest, err);
    if (err->code) return;
    lm_hex(r->model_digest, text);
    memcpy(r->base_digest, text, sizeof text);
    uint8_t edit[8];
    sqlite3_randomness(sizeof edit, edit);
    sqlite3_stmt *stmt = lm_conn_prepare(r->c, err,
                                         "UPDATE \"%w\".lm_model SET digest = ?1, edit = ?3 WHERE id = ?2"
                                         " RETURNING digest = ?1 AND edit = ?3",
                                         r->model.schema);
    if (stmt) sqlite3_bind_text(stmt, 1, text, -1, SQLITE_STATIC);
    if (stmt) sqlite3_bind_int64(stmt, 2, r->model.id);
    if (stmt) sqlite3_bind_blob(stmt, 3, edit, sizeof edit, SQLITE_STATIC);
    lm_write_sure(r->c, stmt, err);
    sqlite3_finalize(stmt);
}

static void write_model(lm_run *r, lm_err *err) {
    const char *schema = r->model.schema;
    writer w = { .r = r };
    w.find_tensor = lm_conn_prepare(r->c, err, "SELECT id, dtype FROM \"%w\".lm_tensor WHERE model = ? AND name = ?",
                                    schema);
    w.find_chunk = lm_conn_prepare(r->c, err,
                                   "SELECT id, length(data) FROM \"%w\".lm_chunk WHERE tensor = ? AND seq = ?",
                                   schema);
    w.set_chunk = lm_conn_prepare(r->c, err, "UPDATE \"%w\".lm_chunk SET data = ? WHERE id = ? RETURNING 1", schema);
    w.set_digest = lm_conn_prepare(r->c, err, "INSERT OR REPLACE INTO \"%w\".lm_digest VALUES (?, ?)", schema);
    for (int i = 0; i < lm_trainer_n_tensors(r->trainer) && !err->code; i++) write_tensor(&w, i, err);
    sqlite3_finalize(w.find_tensor);
    sqlite3_finalize(w.find_chunk);
    sqlite3_finalize(w.set_chunk);
    sqlite3_finalize(w.set_digest);
    if (!err->code) write_root(r, err);
}

/* How labels were asked for, for who will ask again. */
static void write_labels(lm_run *r, lm_err *err) {
    lm_buf json = {0};
    lm_buf_print(&json, err, "{\"before\":");
    lm_json_quote(&json, LM_LABEL_BEFORE, strlen(LM_LABEL_BEFORE), err);
    lm_buf_print(&json, err, ",\"after\":");
    lm_json_quote(&json, LM_LABEL_AFTER, strlen(LM_LABEL_AFTER), err);
    lm_buf_print(&json, err, ",\"labels\":");
    for (int i = 0; i < r->data.labels.n; i++) {
        lm_buf_print(&json, err, i ? "," : "[");
        lm_json_quote(&json, r->data.labels.items[i], r->data.labels.ns[i], err);
    }
    lm_buf_print(&json, err, "]}");
    sqlite3_stmt *stmt = lm_conn_prepare(
        r->c, err,
        r->is_whole
            ? "UPDATE \"%w\".lm_model SET info = json_set(coalesce(info, '{}'), '$.label_format', json(?1)) WHERE id = ?2"
            : "UPDATE \"%w\".lm_adapter SET info = json_set(coalesce(info, '{}'), '$.label_format', json(?1))"
              " WHERE model = ?2 AND name = ?3",
        r->model.schema);
    if (stmt) sqlite3_bind_text(stmt, 1, json.data, (int)json.n, SQLITE_STATIC);
    if (stmt) sqlite3_bind_int64(stmt, 2, r->model.id);
    if (stmt && !r->is_whole) sqlite3_bind_text(stmt, 3, r->o.adapter, -1, SQLITE_STATIC);
    lm_write_step(r->c, stmt, err);
    sqlite3_finalize(stmt);
    lm_buf_clear(&json);
}

/* What is trained becomes what it was at the lowest validation loss, if there was any yet. */
static void take_best(lm_run *r) {
    int is_earlier = r->best && r->state.best_step && r->state.best_step != r->state.step;
    for (int i = 0; is_earlier && i < lm_trainer_n_tensors(r->trainer); i++) {
        memcpy(lm_trainer_data(r->trainer, i, LM_TRAIN_VALUE), r->best[i],
               (size_t)lm_trainer_tensor(r->trainer, i)->n_params * sizeof(float));
    }
}

void lm_run_write_learnt(lm_run *r, lm_err *err) {
    take_best(r);
    if (r->is_whole) write_model(r, err);
    else lm_run_write_adapter(r, err);
    if (!err->code && r->data.labels.n) write_labels(r, err);
}

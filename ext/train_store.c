/* train_store.c: a run's rows in lm_run, lm_run_step and lm_checkpoint.
**
** Whatever is written is one savepoint, so a kill leaves the last checkpoint or the next. The run's row has a stamp that each
** write renews; one that is not there, or is not what was written last, tells that a ROLLBACK took something away. In
** autocommit each write commits, and a read transaction stays open in between: in WAL what another connection writes then
** shows as SQLITE_BUSY_SNAPSHOT, elsewhere nobody else can write. */
#include "train.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

enum { PIECE = LM_CHUNK_BYTES / (int)sizeof(float) };

static const char *const parts[] = { "value", "m", "v", "best" };
static const int whats[] = { LM_TRAIN_VALUE, LM_TRAIN_M, LM_TRAIN_V };

/*----------------------------------------------------------------------
** The run's row */
/* The counters, all but the last brace. */
static void print_state(const lm_run_state *s, lm_buf *out, lm_err *err) {
    lm_buf_print(
        out, err,
        "{\"tokens\":%lld,\"seconds\":%.9g,\"best_step\":%lld,\"best_loss\":%.9g,\"n_worse\":%lld,\"sum\":%.9g,\"n_sum\":%lld,"
        "\"last_mean\":%.9g,\"last_loss\":%.9g",
        (long long)s->tokens, s->seconds, (long long)s->best_step, (double)s->best_loss, (long long)s->n_worse,
        (double)s->sum, (long long)s->n_sum, (double)s->last_mean, (double)s->last_loss);
}

/* The digest of all that decides how the run goes on: what its row says, but for the seconds, and the checkpoint's numbers. */
static void hash_run(const lm_run *r, char out[2 * LM_DIGEST_BYTES + 1], lm_err *err) {
    lm_buf counters = {0};
    lm_run_state state = r->state;
    lm_digest d;
    uint8_t digest[LM_DIGEST_BYTES];
    state.seconds = 0;
    print_state(&state, &counters, err);
    lm_digest_init(&d);
    lm_root_text(&d, r->o.adapter ? r->o.adapter : "");
    lm_root_part(&d, r->options.data, r->options.n);
    lm_root_text(&d, r->data_digest);
    lm_root_text(&d, r->base_digest);
    lm_root_part(&d, &state.step, sizeof state.step);
    lm_root_part(&d, counters.data, counters.n);
    lm_root_part(&d, r->numbers_digest, sizeof r->numbers_digest);
    lm_digest_end(&d, digest);
    lm_hex(digest, out);
    lm_buf_clear(&counters);
}

/* Read a state that was printed, and the run's digest behind it. */
static void read_state(lm_run *r, const char *text, size_t n, lm_err *err) {
    lm_run_state *s = &r->state;
    lm_json j;
    double best_loss = 0, sum = 0, last_mean = 0, last_loss = 0;
    sqlite3_int64 *integers[] = { &s->tokens, &s->best_step, &s->n_worse, &s->n_sum };
    static const char *const integer_names[] = { "tokens", "best_step", "n_worse", "n_sum" };
    double *reals[] = { &s->seconds, &best_loss, &sum, &last_mean, &last_loss };
    static const char *const real_names[] = { "seconds", "best_loss", "sum", "last_mean", "last_loss" };
    int n_seen = 0;
    lm_json_init(&j, text, n);
    if (lm_json_next(&j, err) != LM_JSON_OBJECT) lm_err_set(err, LM_ERROR, "expected an object");
    for (int kind; (kind = lm_json_next(&j, err)) != LM_JSON_END;) {
        for (int i = 0; i < LM_COUNT(integers); i++) {
            if (strcmp(j.key.data, integer_names[i]) || kind != LM_JSON_INT) continue;
            *integers[i] = j.integer;
            n_seen += j.integer >= 0 && j.integer < INT64_MAX / 2;
        }
        for (int i = 0; i < LM_COUNT(reals); i++) {
            if (strcmp(j.key.data, real_names[i]) || (kind != LM_JSON_INT && kind != LM_JSON_REAL)) continue;
            *reals[i] = j.real;
            n_seen += j.real >= -FLT_MAX && j.real <= FLT_MAX;
        }
        if (!strcmp(j.key.data, "digest") && kind == LM_JSON_TEXT && j.string.n + 1 == sizeof r->digest) {
            memcpy(r->digest, j.string.data, sizeof r->digest);
            n_seen++;
        }
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
    if (n_seen != LM_COUNT(integers) + LM_COUNT(reals) + 1)
        lm_err_set(err, LM_ERROR, "a counter or the digest is missing");
    if (err->code) return;
    s->best_loss = (float)best_loss;
    s->sum = (float)sum;
    s->last_mean = (float)last_mean;
    s->last_loss = (float)last_loss;
}

static void bind_text(sqlite3_stmt *stmt, int i, const char *text) {
    sqlite3_bind_text(stmt, i, text, -1, SQLITE_STATIC);
}

/* Take the run's place: a read transaction that lasts, and a statement that looks at its row. */
static void watch(lm_run *r, lm_err *err) {
    const char *sql = "SELECT edit FROM \"%w\".lm_run WHERE id = ?";
    r->hold = lm_conn_prepare(r->c, err, sql, r->model.schema);
    r->look = lm_conn_prepare(r->c, err, sql, r->model.schema);
    if (err->code) return;
    sqlite3_bind_int64(r->hold, 1, r->id);
    sqlite3_bind_int64(r->look, 1, r->id);
    lm_conn_step(r->c, r->hold, err);
}

/* The last run; one before it would write over what the last has learnt. */
void lm_run_find(lm_run *r, lm_err *err) {
    int there = !err->code && lm_store_has_training(r->c, r->model.schema, err);
    sqlite3_stmt *stmt =
        !there ? NULL
               : lm_conn_prepare(
                   r->c, err,
                   "SELECT id, options, state, step, edit, base_digest, math, data_digest FROM \"%w\".lm_run"
                   " WHERE model = ?1 AND adapter IS ?2 AND status <> 'done'"
                   " AND id = (SELECT max(id) FROM \"%w\".lm_run WHERE model = ?1 AND adapter IS ?2)",
                   r->model.schema, r->model.schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, r->model.id);
    if (stmt) bind_text(stmt, 2, r->o.adapter);
    if (!stmt || !lm_conn_step(r->c, stmt, err)) {
        lm_err_set(err, LM_ERROR, "lm_train: option \"resume\": model %.60s has no run that could be resumed",
                   r->model.name);
    } else {
        const char *texts[] = { (const char *)sqlite3_column_text(stmt, 1), (const char *)sqlite3_column_text(stmt, 2),
                                (const char *)sqlite3_column_text(stmt, 5), (const char *)sqlite3_column_text(stmt, 6),
                                (const char *)sqlite3_column_text(stmt, 7) };
        const void *edit = lm_column_stamp(stmt, 4);
        r->id = sqlite3_column_int64(stmt, 0);
        r->durable = r->state.step = sqlite3_column_int64(stmt, 3);
        if (!texts[0] || !texts[1] || !texts[2] || !texts[3] || !texts[4] || !edit || r->state.step < 0)
            lm_err_set(err, LM_ERROR, "a column has no value");
        if (!err->code) memcpy(r->edit, edit, 8);
        if (!err->code) read_state(r, texts[1], strlen(texts[1]), err);
        if (err->code) lm_err_blame(err, "lm_run, id %lld: ", (long long)r->id);
        else lm_learn_options_resume(&r->o, (lm_text){ texts[0], strlen(texts[0]) }, err);
        if (!err->code && r->o.resume != LM_OPT_WORD && strcmp(texts[3], lm_train_math())) {
            lm_err_set(
                err, LM_ERROR,
                "lm_train: the run was computed with %.60s, here it is %.60s: it could not go on bit for bit (\"resume\":\"any\" goes on)",
                texts[3], lm_train_math());
        }
        lm_buf_append(&r->options, texts[0] ? texts[0] : "", texts[0] ? strlen(texts[0]) : 0, err);
        if (!err->code) snprintf(r->base_digest, sizeof r->base_digest, "%s", texts[2]);
        if (!err->code) snprintf(r->data_digest, sizeof r->data_digest, "%s", texts[4]);
    }
    sqlite3_finalize(stmt);
}

/* Renew the stamp, and write where the run stands. */
static void write_run(lm_run *r, const char *status, lm_err *err) {
    lm_buf state = {0};
    uint8_t edit[8];
    char digest[2 * LM_DIGEST_BYTES + 1];
    hash_run(r, digest, err);
    print_state(&r->state, &state, err);
    lm_buf_print(&state, err, ",\"digest\":\"%s\"}", digest);
    sqlite3_randomness(sizeof edit, edit);
    sqlite3_stmt *stmt = lm_conn_prepare(
        r->c, err,
        "UPDATE \"%w\".lm_run SET step = ?1, status = ?2, state = ?3, edit = ?4, base_digest = ?5 WHERE id = ?6"
        " RETURNING step = ?1 AND status = ?2 AND state = ?3 AND edit = ?4 AND base_digest = ?5",
        r->model.schema);
    if (stmt) {
        sqlite3_bind_int64(stmt, 1, r->state.step);
        bind_text(stmt, 2, status);
        sqlite3_bind_text(stmt, 3, state.data, (int)state.n, SQLITE_STATIC);
        sqlite3_bind_blob(stmt, 4, edit, sizeof edit, SQLITE_STATIC);
        bind_text(stmt, 5, r->base_digest);
        sqlite3_bind_int64(stmt, 6, r->id);
        lm_write_sure(r->c, stmt, err);
    }
    sqlite3_finalize(stmt);
    lm_buf_clear(&state);
    if (!err->code) memcpy(r->edit, edit, sizeof edit);
}

static void write_steps(lm_run *r, lm_err *err) {
    sqlite3_stmt *stmt =
        lm_conn_prepare(r->c, err,
                        "INSERT OR REPLACE INTO \"%w\".lm_run_step VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        r->model.schema);
    for (size_t i = 0; i < r->n_rows && !err->code; i++) {
        const lm_run_row *row = &r->rows[i];
        sqlite3_bind_int64(stmt, 1, r->id);
        sqlite3_bind_int64(stmt, 2, row->step);
        sqlite3_bind_int64(stmt, 3, row->epoch);
        sqlite3_bind_int64(stmt, 4, row->tokens);
        sqlite3_bind_double(stmt, 5, row->loss);
        if (row->has_val) sqlite3_bind_double(stmt, 6, row->val_loss);
        else sqlite3_bind_null(stmt, 6);
        sqlite3_bind_double(stmt, 7, row->lr);
        sqlite3_bind_double(stmt, 8, row->grad_norm);
        sqlite3_bind_double(stmt, 9, row->tokens_per_s);
        sqlite3_bind_double(stmt, 10, row->seconds);
        bind_text(stmt, 11, *row->event ? row->event : NULL);
        lm_write_step(r->c, stmt, err);
    }
    sqlite3_finalize(stmt);
}

/*----------------------------------------------------------------------
** Checkpoints */
static float *numbers(lm_run *r, int part, int i) {
    return part == 3 ? r->best[i] : lm_trainer_data(r->trainer, i, whats[part]);
}

/* How many parts a checkpoint has. */
static int n_parts(const lm_run *r) { return r->best && r->state.best_step ? 4 : 3; }

static void hash_numbers(lm_run *r, lm_err *err) {
    lm_digest d;
    lm_digest_init(&d);
    for (int part = 0; part < n_parts(r); part++) {
        for (int i = 0; i < lm_trainer_n_tensors(r->trainer); i++) {
            int64_t n_params = lm_trainer_tensor(r->trainer, i)->n_params;
            for (int64_t at = 0; at < n_params && !err->code; at += PIECE) {
                lm_poll(lm_conn_stop(r->c), err);
                lm_digest_add(&d, numbers(r, part, i) + at,
                              (size_t)(n_params - at < PIECE ? n_params - at : PIECE) * sizeof(float));
            }
        }
    }
    lm_digest_end(&d, r->numbers_digest);
}

void lm_run_write_checkpoint(lm_run *r, lm_err *err) {
    hash_numbers(r, err);
    sqlite3_stmt *stmt = lm_conn_prepare(r->c, err, "INSERT INTO \"%w\".lm_checkpoint VALUES (?, ?, ?, ?, ?)"
                                         " ON CONFLICT DO UPDATE SET data = excluded.data", r->model.schema);
    for (int part = 0; part < (r->best_is_new ? 4 : 3) && !err->code; part++) {
        for (int i = 0; i < lm_trainer_n_tensors(r->trainer) && !err->code; i++) {
            const lm_tensor *t = lm_trainer_tensor(r->trainer, i);
            for (int64_t at = 0; at < t->n_params && !err->code; at += PIECE) {
                int64_t n = t->n_params - at < PIECE ? t->n_params - at : PIECE;
                sqlite3_bind_int64(stmt, 1, r->id);
                bind_text(stmt, 2, parts[part]);
                bind_text(stmt, 3, t->name);
                sqlite3_bind_int64(stmt, 4, at / PIECE);
                sqlite3_bind_blob(stmt, 5, numbers(r, part, i) + at, (int)(n * (int64_t)sizeof(float)), SQLITE_STATIC);
                lm_write_step(r->c, stmt, err);
            }
        }
    }
    sqlite3_finalize(stmt);
}

static void load_piece(lm_run *r, sqlite3_stmt *stmt, int part, int i, int64_t at, lm_err *err) {
    const lm_tensor *t = lm_trainer_tensor(r->trainer, i);
    int64_t n = t->n_params - at < PIECE ? t->n_params - at : PIECE;
    lm_poll(lm_conn_stop(r->c), err);
    sqlite3_bind_int64(stmt, 1, r->id);
    bind_text(stmt, 2, parts[part]);
    bind_text(stmt, 3, t->name);
    sqlite3_bind_int64(stmt, 4, at / PIECE);
    int there = lm_conn_step(r->c, stmt, err);
    const void *data = there ? sqlite3_column_blob(stmt, 0) : NULL;
    if (!data || sqlite3_column_bytes(stmt, 0) != n * (int64_t)sizeof(float)) {
        lm_err_set(err, LM_ERROR, "lm_checkpoint, run %lld: %s of %s, piece %lld: expected a BLOB of %lld bytes",
                   (long long)r->id, parts[part], t->name, (long long)(at / PIECE),
                   (long long)n * (long long)sizeof(float));
    }
    if (!err->code) memcpy(numbers(r, part, i) + at, data, (size_t)n * sizeof(float));
    for (int64_t k = at; k < at + n && !err->code; k++) {
        if (!isfinite(numbers(r, part, i)[k]))
            lm_err_set(err, LM_ERROR, "lm_checkpoint, run %lld: %s of %s: not finite", (long long)r->id, parts[part],
                       t->name);
    }
    sqlite3_reset(stmt);
}

static void load_numbers(lm_run *r, lm_err *err) {
    sqlite3_stmt *stmt =
        lm_conn_prepare(r->c, err,
                        "SELECT data FROM \"%w\".lm_checkpoint WHERE run = ? AND part = ? AND name = ? AND seq = ?",
                        r->model.schema);
    for (int part = 0; part < n_parts(r); part++) {
        for (int i = 0; i < lm_trainer_n_tensors(r->trainer); i++) {
            for (int64_t at = 0; at < lm_trainer_tensor(r->trainer, i)->n_params && !err->code; at += PIECE)
                load_piece(r, stmt, part, i, at, err);
        }
    }
    sqlite3_finalize(stmt);
    if (!err->code) hash_numbers(r, err);
    if (!err->code) lm_trainer_step_count_set(r->trainer, r->state.step);
}

void lm_run_load(lm_run *r, lm_err *err) {
    char digest[2 * LM_DIGEST_BYTES + 1];
    watch(r, err);
    sqlite3_stmt *any = lm_conn_prepare(r->c, err, "SELECT 1 FROM \"%w\".lm_checkpoint WHERE run = ?", r->model.schema);
    if (any) sqlite3_bind_int64(any, 1, r->id);
    int there = any && lm_conn_step(r->c, any, err);
    sqlite3_finalize(any);
    if (there || r->state.step > 0) load_numbers(r, err);       /* else it goes on from what it began with */
    if (err->code) return;
    hash_run(r, digest, err);
    if (strcmp(digest, r->digest))
        lm_err_set(
            err, LM_ERROR,
            "lm_run, id %lld: it or its checkpoint does not match its digest: rows were changed behind SQL's back",
            (long long)r->id);
}

/*----------------------------------------------------------------------
** Transactions. */

/* Say what is durable when a write was refused for another connection's sake. */
static void blame_other(lm_run *r, lm_err *err) {
    int code = err->code, is_locked = code == LM_SQLITE + SQLITE_BUSY;
    const char *what = is_locked ? "holds the database locked" : "wrote to the database meanwhile";
    if (code < LM_SQLITE || ((code - LM_SQLITE) & 0xFF) != SQLITE_BUSY) return;
    *err = (lm_err){0};
    if (r->durable < 0) lm_err_set(err, code, "lm_train: another connection %s: nothing of this run is kept", what);
    else
        lm_err_set(err, code,
                   "lm_train: another connection %s: step %lld is durable, \"resume\":true goes on from there", what,
                   (long long)r->durable);
}

void lm_run_check(lm_run *r, lm_err *err) {
    if (err->code) return;
    int changed = sqlite3_get_autocommit(r->c->db) != r->autocommit;
    int there = lm_conn_step(r->c, r->look, err);
    const void *edit = there ? lm_column_stamp(r->look, 0) : NULL;
    int same = edit && !memcmp(edit, r->edit, sizeof r->edit);
    sqlite3_reset(r->look);
    int rc = err->code >= LM_SQLITE ? (err->code - LM_SQLITE) & 0xFF : 0;
    int is_gone = rc == SQLITE_ERROR || rc == SQLITE_ABORT || rc == SQLITE_SCHEMA;      /* the row's table, or its transaction */
    if (err->code == LM_INTERRUPT || err->code == LM_NOMEM || (rc && !is_gone) || (same && !changed)) return;
    *err = (lm_err){0};
    int code = LM_SQLITE + SQLITE_ABORT;
    if (!same) lm_err_set(err, code, "lm_train: transaction was rolled back during training");
    else if (r->autocommit)
        lm_err_set(err, code, "lm_train: a transaction was begun during training: step %lld is durable",
                   (long long)r->durable);
    else
        lm_err_set(
            err, code,
            "lm_train: transaction was committed during training: step %lld is durable, \"resume\":true goes on from there",
            (long long)r->durable);
}

static void write_all(lm_run *r, void (*what)(lm_run *r, lm_err *err), const char *status, lm_err *err) {
    lm_write w;
    uint8_t edit[8];
    memcpy(edit, r->edit, sizeof edit);
    lm_write_begin(&w, r->c, "lm_train", r->model.schema, err);
    if (!err->code && what) what(r, err);
    if (!err->code) write_steps(r, err);
    if (!err->code) write_run(r, status, err);
    lm_write_end(&w, err);
    if (err->code) memcpy(r->edit, edit, sizeof edit);
    else r->n_rows = 0;
    blame_other(r, err);
}

void lm_run_checkpoint(lm_run *r, lm_err *err) {
    lm_run_check(r, err);
    if (err->code) return;
    write_all(r, lm_run_write_checkpoint, "running", err);
    if (err->code) return;
    r->durable = r->state.step;
    r->best_is_new = 0;
}

static void insert_run(lm_run *r, lm_err *err) {
    lm_store_create(r->c, r->model.schema, err);
    sqlite3_stmt *stmt = lm_conn_prepare(
        r->c, err,
        "INSERT INTO \"%w\".lm_run(model, adapter, options, data_digest, base_digest, math, n_rows, n_nulls, step, status,"
        " state, edit) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 'running', '', x'')",
        r->model.schema);
    if (!stmt) return;
    sqlite3_bind_int64(stmt, 1, r->model.id);
    bind_text(stmt, 2, r->o.adapter);
    sqlite3_bind_text(stmt, 3, r->options.data, (int)r->options.n, SQLITE_STATIC);
    bind_text(stmt, 4, r->data_digest);
    bind_text(stmt, 5, r->base_digest);
    bind_text(stmt, 6, lm_train_math());
    sqlite3_bind_int64(stmt, 7, r->data.n_rows);
    sqlite3_bind_int64(stmt, 8, r->data.n_nulls);
    lm_write_step(r->c, stmt, err);
    sqlite3_finalize(stmt);
    r->id = sqlite3_last_insert_rowid(r->c->db);
}

void lm_run_begin(lm_run *r, lm_err *err) {
    if (err->code) return;
    write_all(r, insert_run, "running", err);
    if (!err->code) r->durable = 0;
    watch(r, err);
}

/* Nobody may have changed the model between steps. */
static void check_model(lm_run *r, lm_err *err) {
    sqlite3_stmt *stmt = lm_conn_prepare(r->c, err, "SELECT edit FROM \"%w\".lm_model WHERE id = ?", r->model.schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, r->model.id);
    const void *edit = stmt && lm_conn_step(r->c, stmt, err) ? lm_column_stamp(stmt, 0) : NULL;
    if (!edit || memcmp(edit, r->model.edit, sizeof r->model.edit))
        lm_err_set(err, LM_ERROR, "lm_train: model %.60s was changed during training", r->model.name);
    sqlite3_finalize(stmt);
}

/* Write what was learnt. Other runs of the same parameters, which are no longer what those left, can not be taken up again:
** their checkpoints go, and this run's own when it is done. */
static void write_end(lm_run *r, int is_done, lm_err *err) {
    lm_run_write_learnt(r, err);
    sqlite3_stmt *stmt = lm_conn_prepare(r->c, err, "DELETE FROM \"%w\".lm_checkpoint WHERE run IN"
                                         " (SELECT id FROM \"%w\".lm_run WHERE model = ?1 AND adapter IS ?2) AND (run <> ?3 OR ?4)",
                                         r->model.schema, r->model.schema);
    if (stmt) {
        sqlite3_bind_int64(stmt, 1, r->model.id);
        bind_text(stmt, 2, r->o.adapter);
        sqlite3_bind_int64(stmt, 3, r->id);
        sqlite3_bind_int(stmt, 4, is_done);
    }
    lm_write_step(r->c, stmt, err);
    sqlite3_finalize(stmt);
}

static void finish_done(lm_run *r, lm_err *err) { write_end(r, 1, err); }

static void finish_stopped(lm_run *r, lm_err *err) {
    lm_run_write_checkpoint(r, err);
    write_end(r, 0, err);
}

void lm_run_finish(lm_run *r, int is_done, lm_err *err) {
    lm_run_check(r, err);
    check_model(r, err);
    if (!err->code) write_all(r, is_done ? finish_done : finish_stopped, is_done ? "done" : "stopped", err);
    if (!err->code) r->durable = r->state.step;
}

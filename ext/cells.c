/* cells.c: the numbers of one stored tensor, by place.
**
** Elements count row by row. They are read through incremental blob handles, a window at a time, whatever the format;
** and written one by one where the format is of plain numbers. A write takes away the chunk's digest and the model's,
** and gives the model a new edit stamp, as the triggers do for changes by hand (they do not see blob writes). */
#include "ext.h"

#include <math.h>

enum { WINDOW = 8192 };                 /* elements: whole blocks of every format */

struct lm_piece { sqlite3_int64 id; int64_t at, n; };  /* a chunk, and which of the tensor's bytes it has */

static void read_pieces(lm_cells *s, lm_err *err) {
    int64_t total = 0;
    sqlite3_stmt *stmt =
        lm_conn_prepare(s->c, err,
                        "SELECT id, CASE typeof(data) WHEN 'blob' THEN length(data) END FROM \"%w\".lm_chunk"
                        " WHERE tensor = ? ORDER BY seq",
                        s->f.schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, s->tensor);
    while (stmt && lm_conn_step(s->c, stmt, err)) {
        if ((s->n_pieces & (s->n_pieces - 1)) == 0) {
            struct lm_piece *grown = lm_realloc(s->pieces,
                                                sizeof *grown * (size_t)(s->n_pieces ? 2 * s->n_pieces : 1), err);
            if (!grown) break;
            s->pieces = grown;
        }
        int64_t n = sqlite3_column_int64(stmt, 1);
        s->pieces[s->n_pieces++] = (struct lm_piece){ sqlite3_column_int64(stmt, 0), total, n };
        total += n;
    }
    sqlite3_finalize(stmt);
    if (!err->code && total != s->t.n_bytes) {
        lm_err_set(err, LM_ERROR, "model %.60s: tensor %s: its chunks have %lld bytes, expected %lld", s->f.name,
                   s->t.name, (long long)total, (long long)s->t.n_bytes);
    }
}

void lm_cells_open_row(lm_cells *s, lm_conn *c, lm_found *f, sqlite3_stmt *row, int at, lm_err *err) {
    *s = (lm_cells){ .c = c, .f = *f, .open_piece = -1 };
    *f = (lm_found){0};
    if (err->code) return;
    s->tensor = sqlite3_column_int64(row, at);
    lm_tensor_row_read(&s->t, s->f.name, row, at + 1, err);
    if (err->code) return;
    s->type = lm_dtype_find(s->t.dtype);
    s->cols = s->t.ne[0];
    s->rows = s->t.n_params / s->cols;
    read_pieces(s, err);
    s->raw = lm_alloc(WINDOW * sizeof(float), err);     /* no format needs more */
    s->floats = lm_alloc(WINDOW * sizeof(float), err);
}

/* Say which tensor may have been meant. */
static void unknown(const lm_cells *s, const char *name, lm_err *err) {
    char nearest[LM_NAME_MAX + 1] = "";
    int least = 99, count = 0;
    sqlite3_stmt *stmt = lm_conn_prepare(s->c, err, "SELECT name FROM \"%w\".lm_tensor WHERE model = ? ORDER BY id",
                                         s->f.schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, s->f.id);
    for (; stmt && lm_conn_step(s->c, stmt, err); count++) {
        const char *other = lm_column_text(stmt, 0, err);
        if (!other || strlen(other) > LM_NAME_MAX || lm_distance(name, other) >= least) continue;
        least = lm_distance(name, other);
        strcpy(nearest, other);
    }
    sqlite3_finalize(stmt);
    lm_err_set(err, LM_ERROR, "model %.60s has no tensor %.63s: %s%s%s (SELECT tensor FROM lm_parameters lists its %d)",
               s->f.name, name, *nearest ? "did you mean " : "no name is near", nearest, *nearest ? "?" : "", count);
}

void lm_cells_open(lm_cells *s, lm_conn *c, lm_found *f, const char *tensor, lm_err *err) {
    sqlite3_stmt *stmt = lm_conn_prepare(
        c, err, "SELECT id, name, dtype, shape, n_params, n_bytes FROM \"%w\".lm_tensor WHERE model = ? AND name = ?",
        f->schema);
    *s = (lm_cells){ .open_piece = -1 };
    if (stmt) {
        sqlite3_bind_int64(stmt, 1, f->id);
        sqlite3_bind_text(stmt, 2, tensor, -1, SQLITE_STATIC);
    }
    if (stmt && lm_conn_step(c, stmt, err)) {
        lm_cells_open_row(s, c, f, stmt, 0, err);
    } else {
        *s = (lm_cells){ .c = c, .f = *f, .open_piece = -1 };
        *f = (lm_found){0};
        if (!err->code) unknown(s, tensor, err);
    }
    sqlite3_finalize(stmt);
}

void lm_cells_close(lm_cells *s) {
    sqlite3_blob_close(s->blob);
    sqlite3_finalize(s->may_write);
    sqlite3_finalize(s->drop_digest);
    sqlite3_finalize(s->set_edit);
    sqlite3_finalize(s->is_set);
    lm_free(s->pieces);
    lm_free(s->raw);
    lm_free(s->floats);
    lm_found_clear(&s->f);
    *s = (lm_cells){ .open_piece = -1 };
}

/*----------------------------------------------------------------------
** Reading */

static int piece_of(const lm_cells *s, int64_t offset) {
    int low = 0, high = s->n_pieces - 1;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (s->pieces[middle].at <= offset) low = middle;
        else high = middle - 1;
    }
    return low;
}

static int open_piece(lm_cells *s, int piece, lm_err *err) {
    sqlite3_blob_close(s->blob);
    s->blob = NULL;
    s->open_piece = -1;
    if (sqlite3_blob_open(s->c->db, s->f.schema, "lm_chunk", "data", s->pieces[piece].id, 0, &s->blob) != SQLITE_OK) {
        lm_conn_fail(s->c, err);
        return 0;
    }
    s->open_piece = piece;
    return 1;
}

static void read_bytes(lm_cells *s, int64_t offset, uint8_t *dst, int64_t n, lm_err *err) {
    while (n && !err->code) {
        int piece = piece_of(s, offset), fresh = piece != s->open_piece;
        const struct lm_piece *p = &s->pieces[piece];
        int64_t some = p->at + p->n - offset < n ? p->at + p->n - offset : n;
        if (fresh && !open_piece(s, piece, err)) return;
        int rc = sqlite3_blob_read(s->blob, dst, (int)some, (int)(offset - p->at));
        /* A write to the row since it was opened makes the handle stale. */
        if (rc == SQLITE_ABORT && !fresh) {
            s->open_piece = -1;
            continue;
        }
        if (rc != SQLITE_OK)
            lm_err_set(err, lm_conn_code(rc), "model %.60s: tensor %s: %s", s->f.name, s->t.name, sqlite3_errstr(rc));
        dst += some;
        offset += some;
        n -= some;
    }
}

int64_t lm_cells_read(lm_cells *s, int64_t index, const float **values, lm_err *err) {
    if (index < s->first || index >= s->end) {
        lm_poll(lm_conn_stop(s->c), err);
        int64_t first = index / WINDOW * WINDOW, end = s->t.n_params - first < WINDOW ? s->t.n_params : first + WINDOW;
        int64_t at = first / s->type->block * s->type->bytes, n = (end - first) / s->type->block * s->type->bytes;
        s->first = s->end = 0;
        read_bytes(s, at, s->raw, n, err);
        if (err->code) return 0;
        s->type->decode(s->raw, s->floats, end - first);
        s->first = first;
        s->end = end;
    }
    *values = s->floats + (index - s->first);
    return s->end - index;
}

/*----------------------------------------------------------------------
** Writing */

/* No authorizer is asked about writes through a handle, so one is asked about an UPDATE, which data's NOT NULL keeps from doing
** anything. Where the authorizer has it leave data out, the row counts as changed. */
static void ask_authorizer(lm_cells *s, sqlite3_int64 chunk, lm_err *err) {
    if (!s->may_write)
        s->may_write = lm_conn_prepare(s->c, err, "UPDATE OR IGNORE \"%w\".lm_chunk SET data = NULL WHERE id = ?",
                                       s->f.schema);
    if (!s->may_write) return;
    sqlite3_bind_int64(s->may_write, 1, chunk);
    lm_write_step(s->c, s->may_write, err);
    if (!err->code && sqlite3_changes(s->c->db)) lm_write_ignored(err);
}

static void write_bytes(lm_cells *s, const struct lm_piece *p, int64_t offset, const void *bytes, lm_err *err) {
    sqlite3_blob *blob = NULL;
    ask_authorizer(s, p->id, err);
    if (err->code) return;
    int rc = sqlite3_blob_open(s->c->db, s->f.schema, "lm_chunk", "data", p->id, 1, &blob);
    if (rc == SQLITE_OK) rc = sqlite3_blob_write(blob, bytes, s->type->bytes, (int)(offset - p->at));
    if (rc != SQLITE_OK) lm_conn_fail(s->c, err);
    sqlite3_blob_close(blob);
    if (!s->drop_digest)
        s->drop_digest = lm_conn_prepare(s->c, err, "DELETE FROM \"%w\".lm_digest WHERE chunk = ?", s->f.schema);
    if (!s->drop_digest) return;
    sqlite3_bind_int64(s->drop_digest, 1, p->id);
    lm_write_step(s->c, s->drop_digest, err);
}

/* As the triggers do, and make sure that it is done (not by RETURNING, which takes a table for its row). */
static void stamp(lm_cells *s, sqlite3_int64 chunk, lm_err *err) {
    if (!s->set_edit)
        s->set_edit = lm_conn_prepare(s->c, err, "UPDATE \"%w\".lm_model SET digest = NULL, edit = ? WHERE id = ?",
                                      s->f.schema);
    if (!s->is_set)
        s->is_set = lm_conn_prepare(s->c, err,
                                    "SELECT digest IS NULL AND edit = ?1 AND ?3 NOT IN (SELECT chunk FROM \"%w\".lm_digest)"
                                    " FROM \"%w\".lm_model WHERE id = ?2",
                                    s->f.schema, s->f.schema);
    if (err->code) return;
    sqlite3_randomness(sizeof s->f.edit, s->f.edit);
    sqlite3_bind_blob(s->set_edit, 1, s->f.edit, sizeof s->f.edit, SQLITE_STATIC);
    sqlite3_bind_int64(s->set_edit, 2, s->f.id);
    lm_write_step(s->c, s->set_edit, err);
    sqlite3_bind_blob(s->is_set, 1, s->f.edit, sizeof s->f.edit, SQLITE_STATIC);
    sqlite3_bind_int64(s->is_set, 2, s->f.id);
    sqlite3_bind_int64(s->is_set, 3, chunk);
    lm_write_sure(s->c, s->is_set, err);
}

void lm_cells_write(lm_cells *s, int64_t index, double value, lm_err *err) {
    float x = (float)value;
    uint8_t bytes[sizeof(float)];
    if (sqlite3_stricmp(s->f.schema, "main")) {
        lm_err_set(err, LM_ERROR, "model %.60s is in %.60s: only weights of models in main can be written", s->f.name,
                   s->f.schema);
    } else if (s->type->block > 1) {
        lm_err_set(err, LM_ERROR,
                   "tensor %s is %s: only f32, f16 and bf16 can be written (lm_import takes \"dtype\":\"f16\")",
                   s->t.name, s->type->name);
    } else if (index < 0 || index >= s->t.n_params) {
        lm_err_set(err, LM_ERROR, "tensor %s has no element %lld", s->t.name, (long long)index);
    }
    if (err->code) return;
    s->type->encode(&x, bytes, 1);
    if (!isfinite(value)) lm_err_set(err, LM_ERROR, "tensor %s: expected a finite number", s->t.name);
    lm_tensor_check_range(&s->t, index, &x, 1, s->type->limit, err);
    lm_err_blame(err, "value %g: ", value);
    int64_t offset = index * s->type->bytes;
    const struct lm_piece *p = &s->pieces[piece_of(s, offset)];
    if (!err->code) write_bytes(s, p, offset, bytes, err);
    if (!err->code) stamp(s, p->id, err);
}

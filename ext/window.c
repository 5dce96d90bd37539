/* window.c: embed_batch(text[, options]) OVER (ROWS BETWEEN CURRENT ROW AND n FOLLOWING): a frame of rows at once.
**
** For such a frame SQLite steps n rows ahead before it asks for the first value, so that value computes the whole frame as
** one batch, and the values that follow are there already. Any other frame would pair values with the wrong rows: before
** the k-th value exactly k rows must have left the frame. Memory is a frame's, however many rows there are. */
#include "ext.h"

enum { FRAME_MAX = 1024 };

static const char shape[] = "OVER (ROWS BETWEEN CURRENT ROW AND n FOLLOWING)";

typedef struct {
    char *text; size_t n;               /* NULL: the value is NULL */
    int is_done;
    float *vector;
    lm_err err;                         /* of this row */
} row;

typedef struct {
    row rows[FRAME_MAX]; int first, n;  /* a ring: those that are in the frame */
    sqlite3_int64 n_steps, n_gone, n_values;
    lm_vector_options options; int has_options;
    char *options_text;                 /* NULL: none were given */
    int size;                           /* of a vector */
} frame;

static row *at(frame *f, int i) { return &f->rows[(f->first + i) % FRAME_MAX]; }

static void clear_row(row *r) {
    lm_free(r->text);
    lm_free(r->vector);
    *r = (row){0};
}

/* The frame of this partition, made when wanted. */
static frame *frame_of(sqlite3_context *ctx, int make, lm_err *err) {
    frame **kept = sqlite3_aggregate_context(ctx, make ? sizeof *kept : 0);
    if (kept && !*kept && make) *kept = lm_calloc(1, sizeof **kept, err);
    if (make && (!kept || !*kept)) lm_err_set(err, LM_NOMEM, "out of memory");
    return kept ? *kept : NULL;
}

static void free_frame(frame *f) {
    if (!f) return;
    for (int i = 0; i < f->n; i++) clear_row(at(f, i));
    lm_vector_options_clear(&f->options);
    lm_free(f->options_text);
    lm_free(f);
}

static char *copy_text(lm_text text, lm_err *err) {
    char *copy = lm_alloc(text.n + 1, err);
    if (copy) memcpy(copy, text.text, text.n);
    if (copy) copy[text.n] = 0;
    return copy;
}

/* The options of the first row are the partition's. */
static void take_options(frame *f, sqlite3_value *value, lm_err *err) {
    lm_text text;
    int there = value && lm_value_text(value, &text, "options", err);
    if (err->code) return;
    if (f->has_options) {
        if (there != (f->options_text != NULL) || (there && strcmp(text.text, f->options_text))) {
            lm_err_set(err, LM_ERROR, "embed_batch: the options must be the same in every row");
        }
        return;
    }
    lm_vector_options_read(&f->options, value, err);
    if (there) f->options_text = copy_text(text, err);
    f->has_options = !err->code;
}

static void step(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_err err = {0};
    lm_text text;
    frame *f = frame_of(ctx, 1, &err);
    if (f) take_options(f, n_args > 1 ? args[1] : NULL, &err);
    if (f && f->n == FRAME_MAX) lm_err_set(&err, LM_ERROR, "embed_batch: a frame may have %d rows", FRAME_MAX);
    if (!err.code) {
        row *r = at(f, f->n++);
        *r = (row){0};
        f->n_steps++;
        if (lm_value_text(args[0], &text, "text", &r->err)) r->text = copy_text(text, &err);
        r->n = r->text ? text.n : 0;
    }
    if (err.code) lm_result_error(ctx, &err);
}

static void inverse(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    (void)n_args, (void)args;
    lm_err err = {0};
    frame *f = frame_of(ctx, 0, &err);
    if (!f || !f->n) return;
    clear_row(at(f, 0));
    f->first = (f->first + 1) % FRAME_MAX;
    f->n--;
    f->n_gone++;
}

/* Compute every row of the frame that is not yet. */
static void compute(lm_conn *c, frame *f, lm_err *err) {
    lm_text *texts = lm_alloc(sizeof *texts * (size_t)f->n, err);
    lm_err *errs = lm_calloc((size_t)f->n, sizeof *errs, err);
    lm_shared *s = err->code ? NULL : lm_share_begin(c, f->options.model, "embed", err);
    f->size = s ? lm_vector_size(s, &f->options, err) : 0;
    float *vectors = err->code ? NULL : lm_alloc((size_t)f->n * (size_t)f->size * sizeof *vectors, err);
    for (int i = 0; i < f->n && vectors; i++) {
        const row *r = at(f, i);
        texts[i] = r->is_done || !r->text ? (lm_text){0} : (lm_text){ r->text, r->n };
    }
    if (vectors) lm_vectors(c, s, &f->options, texts, f->n, vectors, NULL, errs, err);
    for (int i = 0; i < f->n && !err->code; i++) {
        row *r = at(f, i);
        if (texts[i].text && errs[i].code) r->err = errs[i];
        else if (texts[i].text) r->vector = lm_alloc((size_t)f->size * sizeof *vectors, err);
        if (r->vector && texts[i].text) memcpy(r->vector, vectors + (size_t)i * (size_t)f->size, (size_t)f->size * sizeof *vectors);
        r->is_done = 1;
    }
    lm_share_end(s);
    lm_free(texts);
    lm_free(errs);
    lm_free(vectors);
}

/* Is there a running statement that names the function and no frame that could be right? */
static int is_over_partition(sqlite3 *db) {
    for (sqlite3_stmt *stmt = sqlite3_next_stmt(db, NULL); stmt; stmt = sqlite3_next_stmt(db, stmt)) {
        const char *sql = sqlite3_stmt_busy(stmt) ? sqlite3_sql(stmt) : NULL;
        if (sql && !sqlite3_strlike("%embed_batch%", sql, 0) && sqlite3_strlike("%following%", sql, 0)) return 1;
    }
    return 0;
}

static void value(sqlite3_context *ctx) {
    lm_err err = {0};
    frame *f = frame_of(ctx, 0, &err);
    int is_whole = f && !f->n_values && f->n_steps > 1 && is_over_partition(sqlite3_context_db_handle(ctx));
    if (!f || !f->n || f->n_gone != f->n_values || is_whole) {
        lm_err_set(&err, LM_ERROR, "embed_batch: the frame must start at CURRENT ROW: %s", shape);
    } else {
        row *r = at(f, 0);
        f->n_values++;
        if (!r->is_done) compute(sqlite3_user_data(ctx), f, &err);
        lm_err_set(&err, r->err.code, "%s", r->err.msg);
        if (!err.code && r->vector) lm_result_vector(ctx, r->vector, (size_t)f->size * sizeof *r->vector);
    }
    if (err.code && !(f && lm_vector_options_null(&f->options, &err))) lm_result_error(ctx, &err);
}

static void final(sqlite3_context *ctx) {
    lm_err err = {0};
    frame *f = frame_of(ctx, 0, &err);
    if (f && f->n_steps && !f->n_values) {
        lm_err_set(&err, LM_ERROR, "embed_batch is a window function: embed_batch(text) %s", shape);
        lm_result_error(ctx, &err);
    }
    free_frame(f);
}

int lm_window_register(lm_conn *c) {
    int rc = SQLITE_OK;
    for (int n = 1; n <= 2 && rc == SQLITE_OK; n++) {
        lm_conn_ref(c);
        rc = sqlite3_create_window_function(c->db, "embed_batch", n, SQLITE_UTF8 | LM_RESULT_SUBTYPE, c, step, final, value, inverse, lm_conn_unref);
    }
    return rc;
}

/* window.c: embed_batch(text[, options]) and generate_batch(prompt[, options]) OVER (ROWS BETWEEN CURRENT ROW AND n
** FOLLOWING): a frame of rows at once.
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
    lm_buf answer;                      /* text, or floats */
    lm_err err;                         /* of this row */
} row;

typedef struct {
    const struct verb *verb;
    row rows[FRAME_MAX]; int first, n;  /* a ring: those that are in the frame */
    int n_alone;                        /* of so many rows each is computed alone: one of them failed */
    sqlite3_int64 n_steps, n_gone, n_values;
    union { lm_vector_options vector; lm_generate_options generate; } options;
    int has_options;
    char *options_text;                 /* NULL: none were given */
} frame;

/* What tells the functions apart. */
typedef struct verb {
    const char *name, *what;            /* what: its first argument, for messages */
    void (*read)(frame *f, sqlite3_value *options, lm_err *err);
    void (*clear)(frame *f);
    int (*is_null)(const frame *f, const lm_err *err);              /* is this error to be NULL? */
    void (*compute)(lm_conn *c, frame *f, int n, lm_err *err);      /* of the first n rows those that have a text and are not done */
    void (*result)(sqlite3_context *ctx, const lm_buf *answer);
} verb;

/* The functions' user data. */
typedef struct { lm_conn *c; const verb *verb; } function;

static row *at(frame *f, int i) { return &f->rows[(f->first + i) % FRAME_MAX]; }

static void clear_row(row *r) {
    lm_free(r->text);
    lm_buf_clear(&r->answer);
    *r = (row){0};
}

static const verb *verb_of(sqlite3_context *ctx) { return ((const function *)sqlite3_user_data(ctx))->verb; }

/* The frame of this partition, made when wanted. */
static frame *frame_of(sqlite3_context *ctx, int make, lm_err *err) {
    frame **kept = sqlite3_aggregate_context(ctx, make ? sizeof(frame *) : 0);
    if (kept && !*kept && make) *kept = lm_calloc(1, sizeof **kept, err);
    if (make && (!kept || !*kept)) lm_err_set(err, LM_NOMEM, "out of memory");
    if (make && !err->code) (*kept)->verb = verb_of(ctx);
    return kept ? *kept : NULL;
}

static void free_frame(frame *f) {
    if (!f) return;
    for (int i = 0; i < f->n; i++) clear_row(at(f, i));
    f->verb->clear(f);
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
            lm_err_set(err, LM_ERROR, "%s: the options must be the same in every row", f->verb->name);
        }
        return;
    }
    f->verb->read(f, value, err);
    if (there) f->options_text = copy_text(text, err);
    f->has_options = !err->code;
}

static void step(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_err err = {0};
    lm_text text;
    frame *f = frame_of(ctx, 1, &err);
    if (f) take_options(f, n_args > 1 ? args[1] : NULL, &err);
    if (f && f->n == FRAME_MAX) lm_err_set(&err, LM_ERROR, "%s: a frame may have %d rows", f->verb->name, FRAME_MAX);
    if (!err.code) {
        row *r = at(f, f->n++);
        *r = (row){0};
        f->n_steps++;
        if (lm_value_text(args[0], &text, f->verb->what, &r->err)) r->text = copy_text(text, &err);
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

/*----------------------------------------------------------------------
** The verbs. */
static void read_vector(frame *f, sqlite3_value *options, lm_err *err) {
    lm_vector_options_read(&f->options.vector, options, err);
}
static void clear_vector(frame *f) { lm_vector_options_clear(&f->options.vector); }
static int null_vector(const frame *f, const lm_err *err) { return lm_options_null(f->options.vector.on_error, err); }
static void result_vector(sqlite3_context *ctx, const lm_buf *answer) {
    lm_result_vector(ctx, answer->data, answer->n);
}

static void compute_vectors(lm_conn *c, frame *f, int n, lm_err *err) {
    const lm_vector_options *o = &f->options.vector;
    lm_text *texts = lm_alloc(sizeof *texts * (size_t)n, err);
    lm_err *errs = lm_calloc((size_t)n, sizeof *errs, err);
    lm_shared *s = err->code ? NULL : lm_share_begin_adapted(c, o->model, o->adapter, "embed", err);
    size_t size = s ? (size_t)lm_vector_size(s, o, err) : 0;
    float *vectors = err->code ? NULL : lm_alloc((size_t)n * size * sizeof *vectors, err);
    for (int i = 0; i < n && vectors; i++) {
        const row *r = at(f, i);
        texts[i] = r->is_done || !r->text ? (lm_text){0} : (lm_text){ r->text, r->n };
    }
    if (vectors) lm_vectors(c, s, o, texts, n, vectors, NULL, errs, err);
    for (int i = 0; i < n && !err->code; i++) {
        row *r = at(f, i);
        if (texts[i].text && errs[i].code) r->err = errs[i];
        else if (texts[i].text) lm_buf_append(&r->answer, vectors + (size_t)i * size, size * sizeof *vectors, err);
    }
    lm_share_end(s);
    lm_free(texts);
    lm_free(errs);
    lm_free(vectors);
}

static void read_generate(frame *f, sqlite3_value *options, lm_err *err) {
    lm_generate_options_read(&f->options.generate, options, 0, err);
}
static void clear_generate(frame *f) { lm_generate_options_clear(&f->options.generate); }
static int null_generate(const frame *f, const lm_err *err) {
    return lm_options_null(f->options.generate.on_error, err);
}
static void result_text(sqlite3_context *ctx, const lm_buf *answer) { lm_result_text(ctx, answer->data, answer->n); }

static void compute_texts(lm_conn *c, frame *f, int n, lm_err *err) {
    const lm_generate_options *o = &f->options.generate;
    lm_token token;
    int row_of[FRAME_MAX];              /* by sequence */
    lm_shared *s = lm_share_begin_adapted(c, o->model, o->adapter, "generate", err);
    lm_batch *b = s ? lm_batch_new(s->model, err) : NULL;
    for (int i = 0; i < n && !err->code; i++) {
        row *r = at(f, i);
        if (r->is_done || !r->text) continue;
        int seq = lm_prompt_add(c, s, o, (lm_text){ r->text, r->n }, 0, b, NULL, &r->err);
        if (seq >= 0) row_of[seq] = i;
        else if (r->err.code != LM_ERROR) *err = r->err;
    }
    while (!err->code && lm_batch_next(b, lm_conn_stop(c), &token, err) > 0) {
        lm_buf_append(&at(f, row_of[token.seq])->answer, token.piece, token.piece_n, err);
    }
    lm_batch_free(b);
    lm_share_end(s);
}

static const verb verbs[] = {
    { "embed_batch", "text", read_vector, clear_vector, null_vector, compute_vectors, result_vector },
    { "generate_batch", "prompt", read_generate, clear_generate, null_generate, compute_texts, result_text },
};

/* Compute the first n rows of the frame; where that fails they are as before. */
static void compute(const function *fn, frame *f, int n, lm_err *err) {
    fn->verb->compute(fn->c, f, n, err);
    for (int i = 0; i < n; i++) {
        row *r = at(f, i);
        if (!err->code) r->is_done = 1;
        else if (!r->is_done) r->answer.n = 0;
    }
}

/* Compute every row of the frame or, where one of them failed, each when it is the first: an error is its own row's. */
static void compute_frame(const function *fn, frame *f, lm_err *err) {
    if (!f->n_alone) {
        compute(fn, f, f->n, err);
        if (err->code != LM_ERROR || f->n == 1) return;
        *err = (lm_err){0};
        f->n_alone = f->n;
    }
    f->n_alone--;
    compute(fn, f, 1, err);
}

/* The value of the frame's first row; the first that is asked for has every row of the frame computed. */
static void value(sqlite3_context *ctx) {
    const function *fn = sqlite3_user_data(ctx);
    lm_err err = {0};
    frame *f = frame_of(ctx, 0, &err);
    int is_wrong = f && !f->n_values && f->n_steps > 1 && lm_window_is_for_peers(fn->c, fn->verb->name, &err);
    if (!f || !f->n || f->n_gone != f->n_values || is_wrong) {
        lm_err_set(&err, LM_ERROR, "%s: the frame must start at CURRENT ROW: %s", fn->verb->name, shape);
    } else {
        row *r = at(f, 0);
        f->n_values++;
        if (!r->is_done) compute_frame(fn, f, &err);
        lm_err_set(&err, r->err.code, "%s", r->err.msg);
        if (!err.code && r->text) fn->verb->result(ctx, &r->answer);
    }
    if (err.code && !(f && fn->verb->is_null(f, &err))) lm_result_error(ctx, &err);
}

static void final(sqlite3_context *ctx) {
    lm_err err = {0};
    frame *f = frame_of(ctx, 0, &err);
    if (f && f->n_steps && !f->n_values) {
        lm_err_set(&err, LM_ERROR, "%s is a window function: %s(%s) %s", f->verb->name, f->verb->name, f->verb->what,
                   shape);
        lm_result_error(ctx, &err);
    }
    free_frame(f);
}

static void free_function(void *fn) {
    lm_conn_unref(((function *)fn)->c);
    sqlite3_free(fn);
}

int lm_window_register(lm_conn *c) {
    int rc = SQLITE_OK;
    for (int i = 0; i < 2 * LM_COUNT(verbs) && rc == SQLITE_OK; i++) {
        const verb *v = &verbs[i / 2];
        int flags = v->result == result_vector ? LM_RESULT_SUBTYPE : 0;
        function *fn = sqlite3_malloc64(sizeof *fn);
        if (!fn) return SQLITE_NOMEM;
        lm_conn_ref(c);
        *fn = (function){ c, v };
        rc = sqlite3_create_window_function(c->db, v->name, 1 + i % 2, SQLITE_UTF8 | flags, fn, step, final, value,
                                            inverse, free_function);
    }
    return rc;
}

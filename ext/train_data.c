/* train_data.c: what a query's rows teach: sequences of token ids in memory, and a digest of them.
**
** The sequences are what the functions that answer will give the model: a text is tokenised as a prompt without a template, a
** prompt as generate does it, a completion or label alone; an end token closes each. Rows with a NULL are passed over. */
#include "train.h"

static const char name[] = "lm_train";

typedef struct {
    lm_samples *d;
    lm_conn *c;
    const lm_shared *s;
    const lm_tok *tok;
    sqlite3_stmt *stmt;
    int most;                               /* ids of a sample */
    const char *most_is;                    /* and what sets that */
    lm_ids ids;                             /* of the row */
} row_reader;

/*----------------------------------------------------------------------
** Rows */

static void column_text(row_reader *r, int i, lm_text *out, lm_err *err) {
    *out = (lm_text){ "", 0 };
    if (sqlite3_column_type(r->stmt, i) == SQLITE_BLOB) {
        lm_err_set(err, LM_ERROR, "%s: row %lld: %s is a BLOB, expected a text", name, (long long)r->d->n_rows,
                   sqlite3_column_name(r->stmt, i));
    }
    if (err->code) return;
    out->text = (const char *)sqlite3_column_text(r->stmt, i);
    out->n = (size_t)sqlite3_column_bytes(r->stmt, i);
    if (!out->text) lm_err_set(err, LM_NOMEM, "out of memory");
}

static void encode(row_reader *r, lm_text text, int add_special, lm_err *err) {
    lm_tok_options how = { .add_special = add_special };
    lm_tok_encode(r->tok, text.text, text.n, &how, 0, lm_conn_stop(r->c), &r->ids, err);
}

static void append_end(row_reader *r, lm_err *err) {
    int32_t eos = lm_tok_eos(r->tok);
    if (eos >= 0 && (!r->ids.n || r->ids.data[r->ids.n - 1] != eos)) lm_ids_append(&r->ids, eos, err);
}

/* A sample needs a target: an id that another precedes. */
static void add_sample(row_reader *r, const int32_t *ids, size_t n, size_t n_given, int label, lm_err *err) {
    lm_samples *d = r->d;
    if (n < 2 || err->code) return;
    if (!lm_grow((void **)&d->samples, d->n, &d->cap, 1, sizeof *d->samples, err)) return;
    d->samples[d->n++] = (lm_sample){ d->ids.n, (int)n, (int)n_given, label };
    for (size_t i = 0; i < n; i++) lm_ids_append(&d->ids, ids[i], err);
    if ((int)n > d->longest) d->longest = (int)n;
}

/* The row's ids must be one sample. */
static void add_row(row_reader *r, size_t n_given, int label, lm_err *err) {
    if (r->ids.n > (size_t)r->most) {
        lm_err_set(err, LM_ERROR, "%s: row %lld has %llu tokens, %s is %d", name, (long long)r->d->n_rows,
                   (unsigned long long)r->ids.n, r->most_is, r->most);
    }
    add_sample(r, r->ids.data, r->ids.n, n_given, label, err);
}

/* A long text is learnt in pieces. */
static void read_text(row_reader *r, lm_err *err) {
    lm_text text;
    column_text(r, 0, &text, err);
    encode(r, text, 1, err);
    append_end(r, err);
    for (size_t at = 0, n; at < r->ids.n; at += n) {
        n = r->ids.n - at < (size_t)r->most ? r->ids.n - at : (size_t)r->most;
        add_sample(r, r->ids.data + at, n, 0, -1, err);
    }
}

/* A prompt and its answer, as they are tokenised where answers are scored: in one go. What the prompt alone begins with is given. */
static void add_answered(row_reader *r, lm_text prompt, lm_text answer, int label, lm_err *err) {
    static const lm_generate_options plain = { .max_tokens = 256, .top_p = 1, .repeat_penalty = 1 };
    lm_ids alone = {0};
    size_t n_given = 0;
    lm_prompt_ids(r->c, r->s, &plain, prompt, (lm_text){ "", 0 }, &alone, err);
    lm_prompt_ids(r->c, r->s, &plain, prompt, answer, &r->ids, err);
    while (n_given < alone.n && n_given < r->ids.n && alone.data[n_given] == r->ids.data[n_given]) n_given++;
    lm_ids_clear(&alone);
    append_end(r, err);
    add_row(r, n_given, label, err);
}

static void read_completion(row_reader *r, lm_err *err) {
    lm_text prompt, completion;
    column_text(r, 0, &prompt, err);
    column_text(r, 1, &completion, err);
    add_answered(r, prompt, completion, -1, err);
}

static int label_number(lm_samples *d, lm_text label, lm_err *err) {
    lm_texts *l = &d->labels;
    for (int i = 0; i < l->n; i++) {
        if (l->ns[i] == label.n && !memcmp(l->items[i], label.text, label.n)) return i;
    }
    if (l->n == 4096)
        lm_err_set(err, LM_ERROR, "%s: more than %d different labels: is %.40s one?", name, l->n, label.text);
    lm_texts_append(l, label, err);
    return l->n - 1;
}

static void read_label(row_reader *r, lm_err *err) {
    lm_text text, label;
    lm_buf whole = {0};
    column_text(r, 0, &text, err);
    column_text(r, 1, &label, err);
    if (!label.n) lm_err_set(err, LM_ERROR, "%s: row %lld: the label is empty", name, (long long)r->d->n_rows);
    lm_buf_append(&whole, LM_LABEL_BEFORE, strlen(LM_LABEL_BEFORE), err);
    lm_buf_append(&whole, text.text, text.n, err);
    lm_buf_append(&whole, LM_LABEL_AFTER, strlen(LM_LABEL_AFTER), err);
    int number = err->code ? -1 : label_number(r->d, label, err);
    add_answered(r, (lm_text){ whole.data, whole.n }, label, number, err);
    lm_buf_clear(&whole);
}

/* One text of a pair, as it is embedded: cut where it is longer than that allows. */
static size_t encode_text(row_reader *r, int i, lm_err *err) {
    lm_frame frame = {0};
    lm_text text;
    size_t start = r->ids.n;
    column_text(r, i, &text, err);
    lm_frame_find(r->c, r->s, &frame, err);
    if ((size_t)r->most <= frame.ids.n) {
        lm_err_set(err, LM_ERROR, "%s: option \"batch_tokens\": expected at least %zu: %d pairs of texts of a token and %zu special ones",
                   name, 2 * LM_PAIRS_MIN * (frame.ids.n + 1), LM_PAIRS_MIN, frame.ids.n);
    }
    for (size_t k = 0; k < frame.lead && !err->code; k++) lm_ids_append(&r->ids, frame.ids.data[k], err);
    size_t first = r->ids.n, room = (size_t)r->most - frame.ids.n;
    encode(r, text, 0, err);
    if (r->ids.n - first > room) r->ids.n = first + room;
    for (size_t k = frame.lead; k < frame.ids.n && !err->code; k++) lm_ids_append(&r->ids, frame.ids.data[k], err);
    lm_frame_clear(&frame);
    return r->ids.n - start;
}

static void read_pair(row_reader *r, lm_err *err) {
    size_t n_given = encode_text(r, 0, err), n = encode_text(r, 1, err);
    if (n_given && n) add_sample(r, r->ids.data, r->ids.n, n_given, -1, err);
}

static void read_ids(row_reader *r, lm_err *err) {
    lm_text text;
    lm_json j;
    int kind;
    column_text(r, 0, &text, err);
    if (err->code) return;
    lm_json_init(&j, text.text, text.n);
    if (lm_json_next(&j, err) != LM_JSON_ARRAY) lm_err_set(err, LM_ERROR, "expected a JSON array of token ids");
    while ((kind = lm_json_next(&j, err)) != LM_JSON_END) {
        if (kind == LM_JSON_INT && j.integer >= 0 && j.integer < lm_tok_count(r->tok)) lm_ids_append(&r->ids, (int32_t)j.integer, err);
        else lm_err_set(err, LM_ERROR, "expected whole numbers from 0 to %d", lm_tok_count(r->tok) - 1);
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
    if (err->code == LM_ERROR) lm_err_blame(err, "%s: row %lld: ", name, (long long)r->d->n_rows);
    add_row(r, 0, -1, err);
}

/*----------------------------------------------------------------------
** Kinds of rows. */
typedef struct {
    const char *kind;
    int n_columns;
    const char *columns;
    void (*read)(row_reader *r, lm_err *err);
} row_kind;

static const row_kind kinds[] = {
    { "text", 1, "text", read_text },
    { "completion", 2, "prompt, completion", read_completion },
    { "label", 2, "text, label", read_label },
    { "ids", 1, "ids", read_ids },
    { "pair", 2, "text, text that belongs to it", read_pair },
};

static const row_kind *find_kind(const char *kind) {
    for (int i = 0; i < LM_COUNT(kinds); i++) {
        if (!strcmp(kinds[i].kind, kind)) return &kinds[i];
    }
    return NULL;
}

static int is_named(const char *column, const char *const names[3]) {
    for (int i = 0; column && i < 3; i++) {
        if (!sqlite3_stricmp(column, names[i])) return 1;
    }
    return 0;
}

/* What rows are meant to be, by their columns' number and names. */
static const row_kind *guess(sqlite3_stmt *stmt, int is_encoder, lm_err *err) {
    static const char *const labels[] = { "label", "class", "category" };
    static const char *const completions[] = { "completion", "answer", "response" };
    int n = sqlite3_column_count(stmt);
    const char *last = sqlite3_column_name(stmt, n - 1);
    if (is_encoder && n == 2) return find_kind("pair");
    if (n == 1) return find_kind(last && !sqlite3_stricmp(last, "ids") ? "ids" : "text");
    if (n == 2 && is_named(last, labels)) return find_kind("label");
    if (n == 2 && is_named(last, completions)) return find_kind("completion");
    lm_err_set(
        err, LM_ERROR,
        "%s: what are the query's %d columns? Name them text; text, label; or prompt, completion; or give option \"rows\"",
        name, n);
    return NULL;
}

static void check_model(const row_reader *r, const lm_learn_options *o, lm_err *err) {
    if (!r->tok) lm_err_set(err, LM_ERROR, "%s: the model has no tokenizer", name);
    if (!o->query) lm_err_set(err, LM_ERROR, "%s: option \"query\": which rows is it to learn from?", name);
}

static int has_null(sqlite3_stmt *stmt) {
    for (int i = 0; i < sqlite3_column_count(stmt); i++) {
        if (sqlite3_column_type(stmt, i) == SQLITE_NULL) return 1;
    }
    return 0;
}

static void hash_samples(lm_samples *d, lm_stop stop, lm_err *err) {
    lm_digest h;
    lm_digest_init(&h);
    lm_digest_add(&h, d->kind, strlen(d->kind) + 1);
    for (size_t i = 0; i < d->n; i++) {
        if (i % 65536 == 65535 && lm_poll(stop, err)) return;
        int32_t about[3] = { d->samples[i].n, d->samples[i].n_given, d->samples[i].label };
        lm_digest_add(&h, about, sizeof about);
    }
    lm_digest_add(&h, d->ids.data, d->ids.n * sizeof *d->ids.data);
    for (int i = 0; i < d->labels.n; i++) lm_digest_add(&h, d->labels.items[i], d->labels.ns[i] + 1);
    lm_digest_end(&h, d->digest);
}

void lm_samples_read(lm_samples *d, lm_conn *c, const lm_shared *s, const lm_learn_options *o, lm_err *err) {
    row_reader r = { .d = d, .c = c, .s = s, .tok = lm_model_tok(s->model), .most = lm_model_n_ctx(s->model),
                     .most_is = "the model's context" };
    const row_kind *kind = o->rows ? find_kind(o->rows) : NULL;
    int is_encoder = lm_model_is_encoder(s->model);
    *d = (lm_samples){0};
    if (is_encoder) r.most = lm_model_n_text(s->model);
    if (o->batch_tokens < r.most) r.most = o->batch_tokens, r.most_is = "batch_tokens";
    check_model(&r, o, err);
    if (!err->code)
        r.stmt = lm_query_open(c, name, (lm_text){ o->query, strlen(o->query) }, kind ? kind->n_columns : 0,
                               kind ? kind->columns : "", err);
    if (r.stmt && !kind) kind = guess(r.stmt, is_encoder, err);
    if (kind) d->kind = kind->kind;
    d->is_pair = kind && kind->read == read_pair;
    if (kind && is_encoder && !d->is_pair) {
        lm_err_set(
            err, LM_ERROR,
            "%s: the model is an encoder, which predicts no next token: give pairs of texts that belong together (rows \"pair\")",
            name);
    }
    if (d->is_pair && o->batch_tokens < 2 * (LM_PAIRS_MIN + 1))     /* where one is left over, there are so many in a batch */
        lm_err_set(err, LM_ERROR, "%s: option \"batch_tokens\": expected at least %d for %d pairs", name,
                   2 * (LM_PAIRS_MIN + 1), LM_PAIRS_MIN + 1);
    if (d->is_pair && o->batch_tokens / (2 * LM_PAIRS_MIN) < r.most) r.most = o->batch_tokens / (2 * LM_PAIRS_MIN);
    while (kind && lm_conn_step(c, r.stmt, err)) {
        d->n_rows++;
        r.ids.n = 0;
        lm_poll(lm_conn_stop(c), err);
        if (has_null(r.stmt)) d->n_nulls++;
        else kind->read(&r, err);
    }
    sqlite3_finalize(r.stmt);
    lm_ids_clear(&r.ids);
    if (!err->code && !d->n) {
        lm_err_set(err, LM_ERROR, "%s: the query gives nothing to learn from (%lld rows, %lld with a NULL)", name,
                   (long long)d->n_rows, (long long)d->n_nulls);
    }
    if (d->n > UINT32_MAX) lm_err_set(err, LM_ERROR, "%s: more than %u sequences", name, UINT32_MAX);
    if (!err->code) hash_samples(d, lm_conn_stop(c), err);
}

void lm_samples_clear(lm_samples *d) {
    lm_ids_clear(&d->ids);
    lm_free(d->samples);
    lm_texts_clear(&d->labels);
    lm_free(d->train);
    lm_free(d->val);
    *d = (lm_samples){0};
}

/* func_score.c: how probable texts are: lm_logprob, lm_perplexity, lm_choose, lm_classify.
**
** A completion is tokenised together with its prompt, as the whole text would be; scored are the tokens from where that
** departs from the prompt's own. Choices are compared from where the first of them departs, all in one scorer, so that the
** prompt is read once. */
#include "ext.h"

#include <stddef.h>
#include <stdio.h>

typedef struct {
    lm_generate_options g;                  /* of these what says how a prompt is read */
    char *normalize, *prior, *output;
} score_options;

#define AT(field) offsetof(score_options, field)
#define PROMPT_OPTIONS                                                                                                     \
    { "model", LM_OPT_TEXT, AT(g.model), 0, 0, NULL }, { "adapter", LM_OPT_TEXT, AT(g.adapter), 0, 0, NULL },              \
    { "template", LM_OPT_TEXT, AT(g.template), 0, 0, NULL },                                                               \
    { "system", LM_OPT_TEXT, AT(g.system), 0, 0, NULL }, { "parse_special", LM_OPT_BOOL, AT(g.parse_special), 0, 0, NULL }, \
    { "on_error", LM_OPT_TEXT, AT(g.on_error), 0, 0, "error|null" }

static const lm_option logprob_table[] = { PROMPT_OPTIONS, { NULL, 0, 0, 0, 0, NULL } };
static const lm_option choose_table[] = {
    PROMPT_OPTIONS,
    { "normalize", LM_OPT_TEXT, AT(normalize), 0, 0, "none|tokens|bytes" },
    { "prior", LM_OPT_TEXT, AT(prior), 0, 0, NULL },
    { "output", LM_OPT_TEXT, AT(output), 0, 0, "probabilities|label" },
    { NULL, 0, 0, 0, 0, NULL },
};
#undef AT

/*----------------------------------------------------------------------
** Prompts with completions */
enum { CHOICES_MAX = 1000 };

typedef struct {
    lm_conn *c;
    const lm_shared *s;
    const lm_generate_options *o;
    const lm_texts *completions;
    lm_scorer *scorer;
    double *sums; int *counts;              /* by sequence: of the logprobs, of the tokens */
} job;

/* Begin texts that nothing begins: something must stand before a token for it to have a probability. */
static void put_start(const job *j, lm_ids *ids, lm_err *err) {
    const lm_tok *tok = lm_model_tok(j->s->model);
    int32_t start = lm_tok_bos(tok) >= 0 ? lm_tok_bos(tok) : lm_tok_eos(tok);
    if (start < 0)
        lm_err_set(err, LM_ERROR,
                   "nothing stands before the completion, and the model has no token that begins a text");
    lm_ids_append(ids, start, err);
    if (err->code) return;
    memmove(ids->data + 1, ids->data, (ids->n - 1) * sizeof *ids->data);
    ids->data[0] = start;
}

/* Add every completion of a prompt to the scorer. */
static void add_prompt(job *j, lm_text prompt, lm_err *err) {
    int n = j->completions->n, n_ctx = lm_model_n_ctx(j->s->model);
    lm_ids alone = {0}, *ids = lm_calloc((size_t)n, sizeof *ids, err);
    lm_prompt_ids(j->c, j->s, j->o, prompt, (lm_text){ "", 0 }, &alone, err);
    size_t first = alone.n;
    for (int i = 0; i < n && !err->code; i++) {
        size_t alike = 0;
        lm_prompt_ids(j->c, j->s, j->o, prompt, (lm_text){ j->completions->items[i], j->completions->ns[i] }, &ids[i],
                      err);
        while (alike < first && alike < ids[i].n && ids[i].data[alike] == alone.data[alike]) alike++;
        first = alike;
    }
    int is_bare = first == 0;
    for (int i = 0; i < n && !err->code; i++) {
        if (is_bare) put_start(j, &ids[i], err);
        if (ids[i].n > (size_t)n_ctx) {
            lm_err_set(err, LM_ERROR, "the prompt and the completion have %zu tokens, the model's context is %d",
                       ids[i].n, n_ctx);
        }
        if (!err->code) lm_scorer_add(j->scorer, ids[i].data, ids[i].n, 0, first + (size_t)is_bare, err);
    }
    for (int i = 0; i < n && ids; i++) lm_ids_clear(&ids[i]);
    lm_free(ids);
    lm_ids_clear(&alone);
}

/* The completions' ln p behind each of n prompts, prompt by prompt; the job's sums and counts are to be lm_freed. */
static void score_prompts(job *j, const lm_text *prompts, int n, lm_err *err) {
    const lm_score_options o = {0};
    lm_score r;
    size_t n_sequences = (size_t)n * (size_t)j->completions->n;
    j->scorer = lm_scorer_new(j->s->model, &o, err);
    j->sums = lm_calloc(n_sequences, sizeof *j->sums, err);
    j->counts = lm_calloc(n_sequences, sizeof *j->counts, err);
    for (int i = 0; i < n && !err->code; i++) add_prompt(j, prompts[i], err);
    while (!err->code && lm_scorer_next(j->scorer, lm_conn_stop(j->c), &r, err) > 0) {
        j->sums[r.seq] += r.logprob;
        j->counts[r.seq]++;
    }
    lm_scorer_free(j->scorer);
}

static void clear_job(job *j) {
    lm_free(j->sums);
    lm_free(j->counts);
}

static void key_text(lm_buf *key, lm_text text, lm_err *err) {
    lm_buf_append(key, text.text, text.n, err);
    lm_buf_append(key, &text.n, sizeof text.n, err);
}

static void finish(sqlite3_context *ctx, score_options *o, lm_shared *s, lm_buf *key, lm_err *err) {
    lm_share_end(s);
    if (err->code && !lm_options_null(o->g.on_error, err)) lm_result_error(ctx, err);
    lm_buf_clear(key);
    lm_options_clear(choose_table, o);
}

static void logprob(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text prompt, completion;
    score_options o = {0};
    lm_buf key = {0};
    lm_shared *s = NULL;
    sqlite3_value *options = n_args > 2 ? args[2] : NULL;
    size_t n;
    lm_options_read(logprob_table, &o, options, NULL, &err);
    int there = lm_value_text(args[0], &prompt, "prompt", &err)
                & lm_value_text(args[1], &completion, "completion", &err);
    if (there && !err.code) s = lm_share_begin_adapted(c, o.g.model, o.g.adapter, "generate", &err);
    if (s) {
        double sum = 0;
        lm_memo_key(&key, s, 'l', options, prompt, &err);
        key_text(&key, completion, &err);
        const char *known = err.code ? NULL : lm_memo_find(c, key.data, key.n, &n);
        if (known) {
            memcpy(&sum, known, sizeof sum);
        } else {
            lm_texts one = { (char *[]){ (char *)completion.text }, &completion.n, 1 };
            job j = { .c = c, .s = s, .o = &o.g, .completions = &one };
            score_prompts(&j, &prompt, 1, &err);
            if (!err.code) sum = j.sums[0];
            if (!err.code) lm_memo_add(c, key.data, key.n, (const char *)&sum, sizeof sum);
            clear_job(&j);
        }
        if (!err.code) sqlite3_result_double(ctx, sum);
    }
    finish(ctx, &o, s, &key, &err);
}

/*----------------------------------------------------------------------
** Choices */

/* Read a JSON array of different texts, none of them empty. */
static void read_choices(lm_texts *out, lm_text json, const char *what, lm_err *err) {
    lm_json j;
    int kind;
    lm_json_init(&j, json.text, json.n);
    if (lm_json_next(&j, err) != LM_JSON_ARRAY) lm_err_set(err, LM_ERROR, "%s: expected a JSON array of texts", what);
    while (!err->code && (kind = lm_json_next(&j, err)) != LM_JSON_END) {
        char number[24];
        lm_text item = { j.string.data, j.string.n };
        if (kind == LM_JSON_INT)            /* labels of a table may be whole numbers */
            item = (lm_text){ number, (size_t)snprintf(number, sizeof number, "%lld", (long long)j.integer) };
        if (kind != LM_JSON_TEXT && kind != LM_JSON_INT) lm_err_set(err, LM_ERROR, "%s: expected a JSON array of texts", what);
        else if (!item.n) lm_err_set(err, LM_ERROR, "%s: number %d is empty", what, out->n + 1);
        else if (out->n == CHOICES_MAX) lm_err_set(err, LM_ERROR, "%s: over %d of them", what, CHOICES_MAX);
        for (int i = 0; i < out->n && !err->code; i++) {
            if (out->ns[i] == item.n && !memcmp(out->items[i], item.text, item.n))
                lm_err_set(err, LM_ERROR, "%s: \"%.60s\" stands there twice", what, item.text);
        }
        if (!err->code) lm_texts_append(out, item, err);
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
    if (!out->n) lm_err_set(err, LM_ERROR, "%s: there are none", what);
}

/* Choose among choices by the ln p of their completions behind the first prompt, less that behind the second if there are two. */
static void choose(job *j, const score_options *o, const lm_text *prompts, int n_prompts, const lm_texts *choices,
                   lm_buf *out, lm_err *err) {
    int n = choices->n, best = 0;
    score_prompts(j, prompts, n_prompts, err);
    if (err->code) return;
    for (int i = 0; i < n; i++) {
        double by = 1;
        if (n_prompts > 1) j->sums[i] -= j->sums[n + i];
        if (o->normalize && !strcmp(o->normalize, "tokens")) by = j->counts[i];
        if (o->normalize && !strcmp(o->normalize, "bytes")) by = (double)choices->ns[i];
        j->sums[i] /= by;
        if (j->sums[i] > j->sums[best]) best = i;
    }
    if (o->output && !strcmp(o->output, "label")) {
        lm_buf_append(out, choices->items[best], choices->ns[best], err);
        return;
    }
    lm_softmax(j->sums, n);
    for (int i = 0; i < n; i++) {
        lm_buf_append(out, i ? "," : "{", 1, err);
        lm_json_quote(out, choices->items[i], choices->ns[i], err);
        lm_buf_print(out, err, ":%.6g", j->sums[i]);
    }
    lm_buf_append(out, "}", 1, err);
}

/*----------------------------------------------------------------------
** Labels: what stands about a text that is to be classified. */
typedef struct {
    lm_buf before, after;
    int is_own;                             /* it is the model's own format, from its training */
    lm_texts completions;                   /* the labels as they stand behind it */
} frame;

/* The members of a label_format that has just begun. Return how many of the two texts are there. */
static int read_texts(lm_json *j, frame *f, lm_err *err) {
    int n = 0;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        int is_before = !strcmp(j->key.data, "before"),
            is_text = kind == LM_JSON_TEXT && (is_before || !strcmp(j->key.data, "after"));
        if (is_text) lm_buf_append(is_before ? &f->before : &f->after, j->string.data, j->string.n, err);
        else lm_json_skip(j, kind, err);
        n += is_text;
    }
    return n;
}

/* The format that training left in lm_model.info, or of an adapter in lm_adapter.info. (SQLite's json_valid calls a text
** invalid when it has no memory to read it.) */
static void read_label_format(lm_conn *c, const char *model, const char *adapter, frame *f, lm_err *err) {
    lm_found found;
    lm_err own = {0};
    lm_store_find(c, model, "generate", &found, err);
    sqlite3_stmt *stmt =
        lm_conn_prepare(c, err,
                        adapter
                            ? "SELECT info FROM \"%w\".lm_adapter WHERE model = ?1 AND name = ?2 AND info IS NOT NULL"
                            : "SELECT info FROM \"%w\".lm_model WHERE id = ?1 AND info IS NOT NULL",
                        found.schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, found.id);
    if (stmt && adapter) sqlite3_bind_text(stmt, 2, adapter, -1, SQLITE_STATIC);
    const char *text = stmt && lm_conn_step(c, stmt, err) ? lm_column_text(stmt, 0, err) : NULL;
    if (text) {
        lm_json j;
        int n_texts = 2;
        lm_json_init(&j, text, (size_t)sqlite3_column_bytes(stmt, 0));
        int kind = lm_json_next(&j, &own), is_object = kind == LM_JSON_OBJECT;
        if (!is_object) lm_json_skip(&j, kind, &own);
        while (is_object && (kind = lm_json_next(&j, &own)) != LM_JSON_END) {
            f->is_own |= !strcmp(j.key.data, "label_format");
            if (strcmp(j.key.data, "label_format")) lm_json_skip(&j, kind, &own);
            else if (kind == LM_JSON_OBJECT) n_texts = read_texts(&j, f, &own);
            else n_texts = 0, lm_json_skip(&j, kind, &own);
        }
        lm_json_next(&j, &own);
        lm_json_clear(&j);
        if (own.code == LM_ERROR) lm_err_set(err, LM_ERROR, "model %.60s: info is not JSON", found.name);
        else if (own.code) *err = own;
        else if (n_texts < 2)
            lm_err_set(err, LM_ERROR, "model %.60s: info: label_format: before and after must be texts", found.name);
    }
    sqlite3_finalize(stmt);
    lm_found_clear(&found);
}

/* The sentence for models that were trained on no labels. */
static void make_frame(const lm_texts *labels, frame *f, lm_err *err) {
    static const char start[] = "Choose the label that fits the text: ", middle[] = ".\nText: ", end[] = "\nLabel:";
    lm_buf_append(&f->before, start, sizeof start - 1, err);
    for (int i = 0; i < labels->n; i++) {
        if (i) lm_buf_append(&f->before, ", ", 2, err);
        lm_buf_append(&f->before, labels->items[i], labels->ns[i], err);
    }
    lm_buf_append(&f->before, middle, sizeof middle - 1, err);
    lm_buf_append(&f->after, end, sizeof end - 1, err);
}

/* Completions: the labels, each behind a space if is_spaced. */
static void make_completions(const lm_texts *labels, int is_spaced, lm_texts *out, lm_err *err) {
    lm_buf item = {0};
    for (int i = 0; i < labels->n && !err->code; i++) {
        item.n = 0;
        if (is_spaced) lm_buf_append(&item, " ", 1, err);
        lm_buf_append(&item, labels->items[i], labels->ns[i], err);
        if (!err->code) lm_texts_append(out, (lm_text){ item.data, item.n }, err);
    }
    lm_buf_clear(&item);
}

static void clear_frame(frame *f) {
    lm_buf_clear(&f->before);
    lm_buf_clear(&f->after);
    lm_texts_clear(&f->completions);
}

static void put_in_frame(const frame *f, lm_text text, lm_buf *out, lm_err *err) {
    lm_buf_append(out, f->before.data, f->before.n, err);
    lm_buf_append(out, text.text, text.n, err);
    lm_buf_append(out, f->after.data, f->after.n, err);
}

/* lm_choose, or with a frame lm_classify: text is what is asked about, prior what stands in its place for comparison. */
static void answer(lm_conn *c, const lm_shared *s, const score_options *o, const frame *f, lm_text text,
                   const lm_texts *choices, lm_buf *out, lm_err *err) {
    lm_buf asked[2] = {{0}};
    lm_generate_options g = o->g;
    lm_text prompts[2] = { text, { o->prior ? o->prior : "", o->prior ? strlen(o->prior) : 0 } };
    job j = { .c = c, .s = s, .o = &g, .completions = f ? &f->completions : choices };
    if (f && f->is_own) g.template = "none", g.system = NULL;
    for (int i = 0; i < 2 && f; i++) {
        put_in_frame(f, prompts[i], &asked[i], err);
        prompts[i] = (lm_text){ asked[i].data, asked[i].n };
    }
    if (!err->code) choose(&j, o, prompts, o->prior ? 2 : 1, choices, out, err);
    clear_job(&j);
    lm_buf_clear(&asked[0]);
    lm_buf_clear(&asked[1]);
}

static void answer_call(sqlite3_context *ctx, int n_args, sqlite3_value **args, int is_classify) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text text, json;
    score_options o = {0};
    lm_texts choices = {0};
    frame f = {0};
    lm_buf key = {0}, out = {0};
    lm_shared *s = NULL;
    sqlite3_value *options = n_args > 2 ? args[2] : NULL;
    const char *known = NULL, *what = is_classify ? "labels" : "choices";
    size_t n = 0;
    lm_options_read(choose_table, &o, options, NULL, &err);
    int there = lm_value_text(args[0], &text, is_classify ? "text" : "prompt", &err)
                & lm_value_text(args[1], &json, what, &err);
    if (there && !err.code) read_choices(&choices, json, what, &err);
    if (there && !err.code) s = lm_share_begin_adapted(c, o.g.model, o.g.adapter, "generate", &err);
    if (s && is_classify) {
        read_label_format(c, o.g.model, o.g.adapter, &f, &err);
        if (!f.is_own && !err.code) make_frame(&choices, &f, &err);
        if (!err.code) make_completions(&choices, !f.is_own && !lm_prompt_is_chat(s, &o.g, &err), &f.completions, &err);
    }
    if (s && !err.code) {
        lm_memo_key(&key, s, is_classify ? 'k' : 'o', options, text, &err);
        key_text(&key, json, &err);
        key_text(&key, (lm_text){ f.before.data, f.before.n }, &err);
        key_text(&key, (lm_text){ f.after.data, f.after.n }, &err);
        if (!err.code) known = lm_memo_find(c, key.data, key.n, &n);
        if (!known) answer(c, s, &o, is_classify ? &f : NULL, text, &choices, &out, &err);
        if (!known && !err.code) lm_memo_add(c, key.data, key.n, out.data, out.n);
        if (!err.code) lm_result_text(ctx, known ? known : out.data, known ? n : out.n);
    }
    lm_texts_clear(&choices);
    clear_frame(&f);
    lm_buf_clear(&out);
    finish(ctx, &o, s, &key, &err);
}

static void choose_call(sqlite3_context *ctx, int n_args, sqlite3_value **args) { answer_call(ctx, n_args, args, 0); }
static void classify_call(sqlite3_context *ctx, int n_args, sqlite3_value **args) { answer_call(ctx, n_args, args, 1); }

/*----------------------------------------------------------------------
** Texts as they stand */
static const lm_option raw_table[] = {
    { "model", LM_OPT_TEXT, offsetof(lm_raw_options, model), 0, 0, NULL },
    { "adapter", LM_OPT_TEXT, offsetof(lm_raw_options, adapter), 0, 0, NULL },
    { "window", LM_OPT_INT, offsetof(lm_raw_options, window), 2, 1 << 24, NULL },
    { "stride", LM_OPT_INT, offsetof(lm_raw_options, stride), 1, 1 << 24, NULL },
    { "parse_special", LM_OPT_BOOL, offsetof(lm_raw_options, parse_special), 0, 0, NULL },
    { "on_error", LM_OPT_TEXT, offsetof(lm_raw_options, on_error), 0, 0, "error|null" },
    { NULL, 0, 0, 0, 0, NULL },
};

void lm_raw_options_read(lm_raw_options *o, sqlite3_value *json, lm_err *err) {
    *o = (lm_raw_options){0};
    lm_options_read(raw_table, o, json, NULL, err);
}

void lm_raw_options_clear(lm_raw_options *o) { lm_options_clear(raw_table, o); }

lm_scorer *lm_raw_start(lm_conn *c, const lm_shared *s, const lm_raw_options *o, lm_text text, int details,
                        lm_ids *ids, size_t *lead, lm_err *err) {
    lm_score_options so = { .window = o->window, .stride = o->stride, .details = details };
    lm_tok_options how = { .parse_special = o->parse_special };
    lm_scorer *scorer = lm_scorer_new(s->model, &so, err);
    lm_frame around = {0};
    if (!err->code) lm_frame_find(c, s, &around, err);
    *lead = around.lead;
    for (size_t i = 0; i < around.lead; i++) lm_ids_append(ids, around.ids.data[i], err);
    if (!err->code) lm_tok_encode(lm_model_tok(s->model), text.text, text.n, &how, 0, lm_conn_stop(c), ids, err);
    if (!err->code) lm_scorer_add(scorer, ids->data, ids->n, *lead, *lead ? *lead : 1, err);
    lm_frame_clear(&around);
    if (!err->code) return scorer;
    lm_scorer_free(scorer);
    return NULL;
}

static void perplexity(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text text;
    lm_raw_options o;
    lm_buf key = {0};
    lm_shared *s = NULL;
    sqlite3_value *options = n_args > 1 ? args[1] : NULL;
    size_t n, lead;
    lm_raw_options_read(&o, options, &err);
    if (lm_value_text(args[0], &text, "text", &err) && !err.code) s = lm_share_begin_adapted(c, o.model, o.adapter, "generate", &err);
    if (s) {
        lm_memo_key(&key, s, 'p', options, text, &err);
        const char *known = err.code ? NULL : lm_memo_find(c, key.data, key.n, &n);
        double sum = 0, value = 0;
        sqlite3_int64 count = 0;
        if (known) {
            memcpy(&value, known, sizeof value);
        } else {
            lm_ids ids = {0};
            lm_score r;
            lm_scorer *scorer = err.code ? NULL : lm_raw_start(c, s, &o, text, 0, &ids, &lead, &err);
            for (; scorer && lm_scorer_next(scorer, lm_conn_stop(c), &r, &err) > 0; count++) sum += r.logprob;
            if (!err.code && count) value = lm_exp(-sum / (double)count);
            if (!err.code && count) lm_memo_add(c, key.data, key.n, (const char *)&value, sizeof value);
            lm_scorer_free(scorer);
            lm_ids_clear(&ids);
        }
        if (!err.code && (known || count)) sqlite3_result_double(ctx, value);
    }
    lm_share_end(s);
    if (err.code && !lm_options_null(o.on_error, &err)) lm_result_error(ctx, &err);
    lm_buf_clear(&key);
    lm_raw_options_clear(&o);
}

int lm_func_score_register(lm_conn *c) {
    int rc = lm_register(c, "lm_logprob", 2, 3, 0, logprob);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_choose", 2, 3, 0, choose_call);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_classify", 2, 3, 0, classify_call);
    return rc == SQLITE_OK ? lm_register(c, "lm_perplexity", 1, 2, 0, perplexity) : rc;
}

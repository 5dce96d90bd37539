/* train_options.c: lm_train's options, as a struct and as the JSON that lm_run keeps of them. */
#include "train.h"

#include <stddef.h>

#define AT(field) offsetof(lm_learn_options, field)
#define INT_MAX_REAL 2147483647.0
static const lm_option table[] = {
    { "model", LM_OPT_TEXT, AT(model), 0, 0, NULL },
    { "query", LM_OPT_TEXT, AT(query), 0, 0, NULL },
    { "rows", LM_OPT_TEXT, AT(rows), 0, 0, "text|completion|label|pair|ids" },
    { "adapter", LM_OPT_TEXT, AT(adapter), 0, 0, NULL },
    { "lora", LM_OPT_JSON, AT(lora_json), 0, 0, NULL },
    { "epochs", LM_OPT_INT, AT(epochs), 1, 1000000, NULL },
    { "max_steps", LM_OPT_INT, AT(max_steps), 1, INT_MAX_REAL, NULL },
    { "max_seconds", LM_OPT_REAL, AT(max_seconds), 0, 1e9, NULL },
    { "batch_tokens", LM_OPT_INT, AT(batch_tokens), 2, 1 << 24, NULL },
    { "lr", LM_OPT_REAL, AT(lr), 0, 1e12, NULL },
    { "warmup", LM_OPT_REAL, AT(warmup), 0, 1, NULL },
    { "weight_decay", LM_OPT_REAL, AT(weight_decay), 0, 1000, NULL },
    { "decay", LM_OPT_TEXT, AT(decay), 0, 0, "matrices|all" },
    { "schedule", LM_OPT_TEXT, AT(schedule), 0, 0, "cosine|constant" },
    { "beta1", LM_OPT_REAL, AT(beta1), 0, 0.9999, NULL },
    { "beta2", LM_OPT_REAL, AT(beta2), 0, 0.99999, NULL },
    { "eps", LM_OPT_REAL, AT(eps), 1e-30, 1, NULL },
    { "clip", LM_OPT_REAL, AT(clip), 0, 1e30, NULL },
    { "dropout", LM_OPT_REAL, AT(dropout), 0, 0.95, NULL },
    { "val_fraction", LM_OPT_REAL, AT(val_fraction), 0, 0.9, NULL },
    { "patience", LM_OPT_INT, AT(patience), 0, INT_MAX_REAL, NULL },
    { "eval_every", LM_OPT_INT, AT(eval_every), 0, INT_MAX_REAL, NULL },
    { "checkpoint_every", LM_OPT_INT, AT(checkpoint_every), 0, INT_MAX_REAL, NULL },
    { "seed", LM_OPT_INT, AT(seed), -9007199254740992.0, 9007199254740992.0, NULL },
    { "recompute", LM_OPT_BOOL, AT(recompute), 0, 0, NULL },
    { "resume", LM_OPT_BOOL, AT(resume), 0, 0, "any" },
    { NULL, 0, 0, 0, 0, NULL },
};

/* Those that are a call's: they do not decide what a run computes. */
static int is_of_call(const lm_option *o) { return o->at == AT(max_seconds) || o->at == AT(recompute) || o->at == AT(resume); }

/* And those that may differ when a run is taken up again: the rows' digest tells, and a model may have a new name. */
static int is_free(const lm_option *o) {
    return is_of_call(o) || o->at == AT(query) || o->at == AT(model) || o->at == AT(checkpoint_every);
}

static int is_given(const lm_learn_options *o, size_t at) { return lm_options_given(table, o->given, at); }
#undef AT

#define AT(field) offsetof(lm_lora_options, field)
static const lm_option lora_table[] = {
    { "rank", LM_OPT_INT, AT(rank), 1, 1024, NULL },
    { "alpha", LM_OPT_REAL, AT(alpha), 1e-6, 1e6, NULL },
    { "targets", LM_OPT_TEXTS, AT(targets), 0, 0, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};
#undef AT

static void read_lora(lm_learn_options *o, lm_err *err) {
    lm_lora_options *l = &o->lora;
    l->rank = 8;
    if (o->lora_json && *o->lora_json != '{')
        lm_err_set(err, LM_ERROR, "option \"lora\": expected an object such as {\"rank\":8}");
    else if (o->lora_json) lm_options_parse(lora_table, l, (lm_text){ o->lora_json, strlen(o->lora_json) }, NULL, err);
    if (l->alpha == 0) l->alpha = l->rank;
    for (int i = 0; i < l->targets.n; i++) lm_buf_print(&o->targets, err, "%s%s", i ? "," : "", l->targets.items[i]);
    if (o->targets.n) lm_buf_append(&o->targets, "", 1, err);
    if (o->lora_json && !o->adapter)
        lm_err_set(err, LM_ERROR, "option \"lora\": which adapter is it to be? Name it in option \"adapter\"");
}

static void default_word(char **at, const char *word, lm_err *err) {
    size_t n = strlen(word) + 1;
    if (*at) return;
    *at = lm_alloc(n, err);
    if (*at) memcpy(*at, word, n);
}

void lm_learn_options_read(lm_learn_options *o, lm_text json, lm_err *err) {
    *o = (lm_learn_options){ .batch_tokens = 4096, .lr = 3e-4, .warmup = 0.05, .weight_decay = 0.1, .beta1 = 0.9,
                             .beta2 = 0.95, .eps = 1e-8, .clip = 1, .checkpoint_every = -1 };
    lm_options_parse(table, o, json, &o->given, err);
    default_word(&o->decay, "matrices", err);
    default_word(&o->schedule, "cosine", err);
    if (!o->epochs && !o->max_steps) o->epochs = 3;
    if (o->patience && o->val_fraction == 0)
        lm_err_set(err, LM_ERROR, "option \"patience\" needs \"val_fraction\": which part of the rows is to judge");
    if (o->eval_every && o->val_fraction == 0)
        lm_err_set(err, LM_ERROR, "option \"eval_every\" needs \"val_fraction\": which part of the rows is to judge");
    if (!err->code) read_lora(o, err);
}

void lm_learn_options_clear(lm_learn_options *o) {
    lm_options_clear(lora_table, &o->lora);
    lm_options_clear(table, o);
    lm_buf_clear(&o->targets);
}

static void print_value(const lm_option *row, const lm_learn_options *o, lm_buf *out, lm_err *err) {
    const void *at = (const char *)o + row->at;
    const char *text = row->type == LM_OPT_TEXT || row->type == LM_OPT_JSON ? *(char *const *)at : NULL;
    switch (row->type) {
    case LM_OPT_INT:
        lm_buf_print(out, err, "%lld",
                     row->max > INT32_MAX ? (long long)*(const sqlite3_int64 *)at : *(const int *)at);
        break;
    case LM_OPT_REAL: lm_buf_print(out, err, "%.17g", *(const double *)at); break;
    case LM_OPT_TEXT: lm_json_quote(out, text, strlen(text), err); break;
    default:
        lm_buf_print(out, err, "{\"rank\":%d,\"alpha\":%.17g%s%s%s}", o->lora.rank, o->lora.alpha,
                     o->targets.n ? ",\"targets\":\"" : "", o->targets.n ? o->targets.data : "",
                     o->targets.n ? "\"" : "");
        break;
    }
}

/* Is there something to print? Numbers that stand for "none" are out of their range. */
static int is_set(const lm_option *row, const lm_learn_options *o) {
    const void *at = (const char *)o + row->at;
    if (is_of_call(row)) return 0;
    if (row->type == LM_OPT_JSON) return o->adapter != NULL;
    if (row->type == LM_OPT_TEXT) return *(char *const *)at != NULL;
    return row->type != LM_OPT_INT || row->max > INT32_MAX || *(const int *)at >= row->min;
}

void lm_learn_options_print(const lm_learn_options *o, lm_buf *out, lm_err *err) {
    size_t start = out->n;
    for (const lm_option *row = table; row->name; row++) {
        if (!is_set(row, o)) continue;
        lm_buf_print(out, err, "%c\"%s\":", out->n == start ? '{' : ',', row->name);
        print_value(row, o, out, err);
    }
    lm_buf_append(out, "}", 1, err);
}

static void check_same(const lm_option *row, const lm_learn_options *now, const lm_learn_options *had, lm_err *err) {
    lm_buf a = {0}, b = {0};
    if (is_set(row, now)) print_value(row, now, &a, err);
    if (is_set(row, had)) print_value(row, had, &b, err);
    if (!err->code && (a.n != b.n || (a.n && memcmp(a.data, b.data, a.n)))) {
        lm_err_set(err, LM_ERROR, "option \"%s\": %.*s, but the run that is to be resumed has %.*s", row->name,
                   a.n ? (int)(a.n < 60 ? a.n : 60) : 4, a.n ? a.data : "none", b.n ? (int)(b.n < 60 ? b.n : 60) : 4,
                   b.n ? b.data : "none");
    }
    lm_buf_clear(&a);
    lm_buf_clear(&b);
}

static void swap(char **a, char **b) {
    char *was = *a;
    *a = *b;
    *b = was;
}

void lm_learn_options_resume(lm_learn_options *o, lm_text text, lm_err *err) {
    lm_learn_options had;
    lm_learn_options_read(&had, text, err);
    for (const lm_option *row = table; row->name && !err->code; row++) {
        if (!is_free(row) && is_given(o, row->at)) check_same(row, o, &had, err);
    }
    had.resume = o->resume;
    had.max_seconds = o->max_seconds;
    had.recompute = o->recompute;
    if (is_given(o, offsetof(lm_learn_options, checkpoint_every))) had.checkpoint_every = o->checkpoint_every;
    if (o->query) swap(&o->query, &had.query);
    if (o->model) swap(&o->model, &had.model);
    lm_learn_options_clear(o);
    *o = had;
}

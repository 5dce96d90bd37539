/* prompt.c: from a prompt and its options to token ids, and to a batch that continues them. */
#include "ext.h"

#include <stddef.h>

#define AT(field) offsetof(lm_generate_options, field)
static const lm_option table[] = {
    { "model", LM_OPT_TEXT, AT(model), 0, 0, NULL },
    { "max_tokens", LM_OPT_INT, AT(max_tokens), 0, 1 << 24, NULL },
    { "temperature", LM_OPT_REAL, AT(temperature), 0, 100, NULL },
    { "top_k", LM_OPT_INT, AT(top_k), 0, 1 << 24, NULL },
    { "top_p", LM_OPT_REAL, AT(top_p), 0, 1, NULL },
    { "min_p", LM_OPT_REAL, AT(min_p), 0, 1, NULL },
    { "repeat_penalty", LM_OPT_REAL, AT(repeat_penalty), 0.01, 100, NULL },
    { "seed", LM_OPT_INT, AT(seed), -9223372036854775808.0, 9223372036854775807.0, NULL },
    { "stop", LM_OPT_TEXTS, AT(stop), 0, 0, NULL },
    { "template", LM_OPT_TEXT, AT(template), 0, 0, NULL },
    { "system", LM_OPT_TEXT, AT(system), 0, 0, NULL },
    { "parse_special", LM_OPT_BOOL, AT(parse_special), 0, 0, NULL },
    { "on_error", LM_OPT_TEXT, AT(on_error), 0, 0, "error|null" },
    { NULL, 0, 0, 0, 0, NULL },
};

enum { SEED_ROW = 7 };

void lm_generate_options_read(lm_generate_options *o, sqlite3_value *json, lm_err *err) {
    uint64_t given;
    *o = (lm_generate_options){ .max_tokens = 256, .top_p = 1, .repeat_penalty = 1 };
    lm_options_read(table, o, json, &given, err);
    o->has_seed = given >> SEED_ROW & 1;
    for (int i = 0; i < o->stop.n && !err->code; i++) {
        if (!o->stop.ns[i]) lm_err_set(err, LM_ERROR, "option \"stop\": an empty text stops nothing");
    }
}

void lm_generate_options_clear(lm_generate_options *o) { lm_options_clear(table, o); }

/* The chat family that the options ask for; NULL for raw text. */
static const lm_chat *choose_chat(const lm_shared *s, const lm_generate_options *o, lm_err *err) {
    const lm_chat *chat = s->chat;
    if (o->template && !strcmp(o->template, "none")) {
        chat = NULL;
    } else if (o->template && strcmp(o->template, "auto")) {
        chat = lm_chat_find(o->template);
        if (!chat) lm_err_set(err, LM_ERROR, "option \"template\": no family %.40s (have: auto, none, %s)", o->template, lm_chat_families());
    } else if (!chat && s->chat_template.n) {
        lm_err_set(err, LM_ERROR, "the model's chat template is of no known family: give option \"template\" (none, %s)", lm_chat_families());
    }
    if (!chat && o->system) lm_err_set(err, LM_ERROR, "option \"system\" needs a chat template, and there is none");
    return chat;
}

void lm_prompt_ids(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, lm_ids *ids, lm_err *err) {
    const lm_chat *chat = choose_chat(s, o, err);
    const lm_tok *tok = lm_model_tok(s->model);
    /* Far more than any context, so that the error for a text that is too long can count it. */
    enum { COUNT_MAX = 1 << 24 };
    lm_tok_options how = { .add_special = 1, .parse_special = o->parse_special };
    lm_buf text = {0};
    lm_spans spans = {0};
    if (!tok) lm_err_set(err, LM_ERROR, "the model has no tokenizer");
    if (err->code) return;
    if (chat) {
        lm_message messages[2];
        int n = 0;
        if (o->system) messages[n++] = (lm_message){ "system", o->system, 6, strlen(o->system) };
        messages[n++] = (lm_message){ "user", prompt.text, 4, prompt.n };
        lm_chat_render(chat, s->chat_template.data, s->chat_template.n, messages, (size_t)n, &text, &spans, err);
        how.specials = spans.data;
        how.n_specials = spans.n;
        prompt = (lm_text){ text.data, text.n };
    }
    lm_tok_encode(tok, prompt.text, prompt.n, &how, COUNT_MAX, lm_conn_stop(c), ids, err);
    lm_buf_clear(&text);
    lm_spans_clear(&spans);
}

lm_batch *lm_prompt_start(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, int want_logprob,
                          lm_err *err) {
    lm_ids ids = {0};
    lm_batch *b = NULL;
    lm_gen_options g = { .max_tokens = o->max_tokens, .temperature = o->temperature, .top_k = o->top_k, .top_p = o->top_p,
                         .min_p = o->min_p, .repeat_penalty = o->repeat_penalty, .seed = (uint64_t)o->seed,
                         .stops = (const char *const *)o->stop.items, .stop_ns = o->stop.ns, .n_stops = o->stop.n,
                         .want_logprob = want_logprob };
    if (!o->has_seed) sqlite3_randomness(sizeof g.seed, &g.seed);
    lm_prompt_ids(c, s, o, prompt, &ids, err);
    if (!err->code) b = lm_batch_new(s->model, err);
    if (b && lm_batch_add(b, ids.data, ids.n, &g, err) < 0) {
        lm_batch_free(b);
        b = NULL;
    }
    lm_ids_clear(&ids);
    return b;
}

/* prompt.c: from a prompt, or a conversation, and its options to token ids, and to a batch that continues them. */
#include "ext.h"

#include <stddef.h>

#define AT(field) offsetof(lm_generate_options, field)
#define OPTIONS                                                                                             \
    { "model", LM_OPT_TEXT, AT(model), 0, 0, NULL }, { "max_tokens", LM_OPT_INT, AT(max_tokens), 0, 1 << 24, NULL }, \
    { "temperature", LM_OPT_REAL, AT(temperature), 0, 100, NULL },                                          \
    { "top_k", LM_OPT_INT, AT(top_k), 0, 1 << 24, NULL }, { "top_p", LM_OPT_REAL, AT(top_p), 0, 1, NULL },  \
    { "min_p", LM_OPT_REAL, AT(min_p), 0, 1, NULL },                                                        \
    { "repeat_penalty", LM_OPT_REAL, AT(repeat_penalty), 0.01, 100, NULL },                                 \
    { "seed", LM_OPT_INT, AT(seed), -9223372036854775808.0, 9223372036854775807.0, NULL },                  \
    { "stop", LM_OPT_TEXTS, AT(stop), 0, 0, NULL }, { "template", LM_OPT_TEXT, AT(template), 0, 0, NULL },  \
    { "system", LM_OPT_TEXT, AT(system), 0, 0, NULL },                                                      \
    { "parse_special", LM_OPT_BOOL, AT(parse_special), 0, 0, NULL },                                        \
    { "on_error", LM_OPT_TEXT, AT(on_error), 0, 0, "error|null" }, { "adapter", LM_OPT_TEXT, AT(adapter), 0, 0, NULL }

static const lm_option generate_table[] = { OPTIONS, { NULL, 0, 0, 0, 0, NULL } };
static const lm_option chat_table[] = { OPTIONS,
                                        { "render", LM_OPT_BOOL, AT(render), 0, 0, NULL },
                                        { NULL, 0, 0, 0, 0, NULL } };

void lm_generate_options_read(lm_generate_options *o, sqlite3_value *json, int is_chat, lm_err *err) {
    uint64_t given;
    *o = (lm_generate_options){ .max_tokens = 256, .top_p = 1, .repeat_penalty = 1, .is_chat = is_chat };
    const lm_option *table = is_chat ? chat_table : generate_table;
    lm_options_read(table, o, json, &given, err);
    o->has_seed = lm_options_given(table, given, offsetof(lm_generate_options, seed));
    for (int i = 0; i < o->stop.n && !err->code; i++) {
        if (!o->stop.ns[i]) lm_err_set(err, LM_ERROR, "option \"stop\": an empty text stops nothing");
    }
}

void lm_generate_options_clear(lm_generate_options *o) { lm_options_clear(chat_table, o); }

/* The chat family that the options ask for; NULL for raw text. */
static const lm_chat *choose_chat(const lm_shared *s, const lm_generate_options *o, lm_err *err) {
    const lm_chat *chat = s->chat;
    if (o->template && !strcmp(o->template, "none")) {
        chat = NULL;
        if (o->is_chat)
            lm_err_set(err, LM_ERROR, "option \"template\": messages need one (have: auto, %s)", lm_chat_families());
    } else if (o->template && strcmp(o->template, "auto")) {
        chat = lm_chat_find(o->template);
        if (!chat)
            lm_err_set(err, LM_ERROR, "option \"template\": no family %.40s (have: auto, none, %s)", o->template,
                       lm_chat_families());
    } else if (!chat && s->chat_template.n) {
        lm_err_set(err, LM_ERROR,
                   "the model's chat template is of no known family: give option \"template\" (none, %s)",
                   lm_chat_families());
    }
    if (!chat && o->is_chat)
        lm_err_set(err, LM_ERROR, "the model has no chat template: give option \"template\" (%s)",
                   lm_chat_families());
    if (!chat && o->system) lm_err_set(err, LM_ERROR, "option \"system\" needs a chat template, and there is none");
    return chat;
}

int lm_prompt_is_chat(const lm_shared *s, const lm_generate_options *o, lm_err *err) {
    return choose_chat(s, o, err) != NULL;
}

/*----------------------------------------------------------------------
** Conversations: an array of {"role", "content"}. */
typedef struct { lm_message *items; size_t n, cap, n_before; lm_buf texts; } conversation;    /* n_before: the option's */

/* While it is read a message has places in texts; point_messages makes them pointers. */
static void add_message(conversation *t, size_t role, size_t role_n, size_t content, size_t content_n, lm_err *err) {
    if (!lm_grow((void **)&t->items, t->n, &t->cap, 1, sizeof *t->items, err)) return;
    t->items[t->n++] = (lm_message){ (const char *)role, (const char *)content, role_n, content_n };
}

static void point_messages(conversation *t) {
    for (size_t i = 0; i < t->n; i++) {
        t->items[i].role = t->texts.data + (size_t)t->items[i].role;
        t->items[i].content = t->texts.data + (size_t)t->items[i].content;
    }
}

static size_t add_text(conversation *t, const char *text, size_t n, lm_err *err) {
    size_t at = t->texts.n;
    lm_buf_append(&t->texts, text, n, err);
    return at;
}

/* A JSON string may have a NUL in it. */
static int is_word(const lm_buf *text, const char *word) {
    return text->n == strlen(word) && !memcmp(text->data, word, text->n);
}

static void read_message(conversation *t, lm_json *j, lm_err *err) {
    size_t role = 0, role_n = 0, content = 0, content_n = 0;
    int has_role = 0, has_content = 0, index = (int)(t->n - t->n_before);
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        int is_role = is_word(&j->key, "role"), is_content = is_word(&j->key, "content");
        if (!is_role && !is_content)
            lm_err_set(err, LM_ERROR, "messages: message %d: unknown key \"%.40s\" (have: role, content)", index,
                       j->key.data);
        else if (kind != LM_JSON_TEXT)
            lm_err_set(err, LM_ERROR, "messages: message %d: %s: expected a text", index, j->key.data);
        if (err->code) return;
        size_t at = add_text(t, j->string.data, j->string.n, err);
        if (is_role) has_role = 1, role = at, role_n = j->string.n;
        else has_content = 1, content = at, content_n = j->string.n;
        if (is_role && !is_word(&j->string, "system") && !is_word(&j->string, "user")
            && !is_word(&j->string, "assistant")) {
            lm_err_set(err, LM_ERROR, "messages: message %d: role \"%.40s\": expected system, user or assistant",
                       index, j->string.data);
        }
    }
    if (!has_role || !has_content)
        lm_err_set(err, LM_ERROR, "messages: message %d: %s is missing", index, has_role ? "content" : "role");
    add_message(t, role, role_n, content, content_n, err);
}

static void read_messages(conversation *t, lm_text json, lm_err *err) {
    lm_json j;
    int kind;
    t->n_before = t->n;
    lm_json_init(&j, json.text, json.n);
    if (lm_json_next(&j, err) != LM_JSON_ARRAY)
        lm_err_set(err, LM_ERROR, "messages: expected a JSON array of {\"role\", \"content\"}");
    while ((kind = lm_json_next(&j, err)) != LM_JSON_END) {
        if (kind != LM_JSON_OBJECT)
            lm_err_set(err, LM_ERROR, "messages: expected a JSON array of {\"role\", \"content\"}");
        else read_message(t, &j, err);
    }
    lm_json_next(&j, err);
    if (t->n == t->n_before) lm_err_set(err, LM_ERROR, "messages: there are none");
    lm_json_clear(&j);
}

/* The messages that a prompt stands for, the system option's before them. */
static void gather_messages(conversation *t, const lm_generate_options *o, lm_text prompt, lm_err *err) {
    if (o->system) {
        size_t role = add_text(t, "system", 6, err), content = add_text(t, o->system, strlen(o->system), err);
        add_message(t, role, 6, content, strlen(o->system), err);
    }
    if (o->is_chat) {
        read_messages(t, prompt, err);
    } else {
        size_t role = add_text(t, "user", 4, err), content = add_text(t, prompt.text, prompt.n, err);
        add_message(t, role, 4, content, prompt.n, err);
    }
    if (err->code) return;
    point_messages(t);
    if (o->system && t->n > 1 && !strncmp(t->items[1].role, "system", 6)) {
        lm_err_set(err, LM_ERROR, "option \"system\": the messages begin with a system message of their own");
    }
}

static void clear_messages(conversation *t) {
    lm_free(t->items);
    lm_buf_clear(&t->texts);
}

/*----------------------------------------------------------------------
** Prompts */

/* Write out a conversation in the form of chat. */
static void render(const lm_shared *s, const lm_chat *chat, const lm_generate_options *o, lm_text prompt,
                   lm_buf *text, lm_spans *spans, lm_err *err) {
    const lm_tok *tok = lm_model_tok(s->model);
    conversation t = {0};
    lm_chat_talk talk = { .template_text = s->chat_template.data,
                          .template_n = s->chat == chat ? s->chat_template.n : 0 };
    talk.bos = lm_tok_text(tok, lm_tok_bos(tok), &talk.bos_n);
    talk.eos = lm_tok_text(tok, lm_tok_eos(tok), &talk.eos_n);
    gather_messages(&t, o, prompt, err);
    talk.messages = t.items;
    talk.n_messages = t.n;
    if (!err->code) lm_chat_render(chat, &talk, text, spans, err);
    clear_messages(&t);
}

void lm_prompt_text(const lm_shared *s, const lm_generate_options *o, lm_text prompt, lm_buf *text, lm_err *err) {
    const lm_chat *chat = choose_chat(s, o, err);
    lm_spans spans = {0};
    if (!err->code && !lm_model_tok(s->model)) lm_err_set(err, LM_ERROR, "the model has no tokenizer");
    if (!err->code) render(s, chat, o, prompt, text, &spans, err);
    lm_spans_clear(&spans);
}

void lm_prompt_ids(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, lm_text answer,
                   lm_ids *ids, lm_err *err) {
    const lm_chat *chat = choose_chat(s, o, err);
    const lm_tok *tok = lm_model_tok(s->model);
    /* Far more than any context, so that the error for a text that is too long can count it. */
    enum { COUNT_MAX = 1 << 24 };
    lm_tok_options how = { .add_special = 1, .parse_special = o->parse_special };
    lm_buf text = {0};
    lm_spans spans = {0};
    if (!tok) lm_err_set(err, LM_ERROR, "the model has no tokenizer");
    if (err->code) return;
    if (chat) render(s, chat, o, prompt, &text, &spans, err);
    else if (answer.n) lm_buf_append(&text, prompt.text, prompt.n, err);
    lm_buf_append(&text, answer.text, answer.n, err);
    how.specials = spans.data;
    how.n_specials = spans.n;
    if (chat || answer.n) prompt = (lm_text){ text.data, text.n };
    lm_tok_encode(tok, prompt.text, prompt.n, &how, COUNT_MAX, lm_conn_stop(c), ids, err);
    lm_buf_clear(&text);
    lm_spans_clear(&spans);
}

int lm_prompt_add(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, int want_logprob,
                  lm_batch *b, int *n_prompt, lm_err *err) {
    lm_ids ids = {0};
    int seq = -1;
    lm_gen_options g = { .max_tokens = o->max_tokens, .temperature = o->temperature, .top_k = o->top_k,
                         .top_p = o->top_p, .min_p = o->min_p, .repeat_penalty = o->repeat_penalty,
                         .seed = (uint64_t)o->seed, .stops = (const char *const *)o->stop.items,
                         .stop_ns = o->stop.ns, .n_stops = o->stop.n, .want_logprob = want_logprob };
    if (!o->has_seed) sqlite3_randomness(sizeof g.seed, &g.seed);
    lm_prompt_ids(c, s, o, prompt, (lm_text){ "", 0 }, &ids, err);
    lm_poll(lm_conn_stop(c), err);
    if (!err->code) seq = lm_batch_add(b, ids.data, ids.n, &g, err);
    if (n_prompt) *n_prompt = (int)ids.n;
    lm_ids_clear(&ids);
    return seq;
}

lm_batch *lm_prompt_start(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt,
                          int want_logprob, lm_err *err) {
    lm_batch *b = lm_batch_new(s->model, err);
    if (b && lm_prompt_add(c, s, o, prompt, want_logprob, b, NULL, err) >= 0) return b;
    lm_batch_free(b);
    return NULL;
}

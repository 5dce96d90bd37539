/* chat_test.c: what each family's rows write, against the text that the real Jinja templates give (golden/chat.json). */
#include "harness.h"

/*----------------------------------------------------------------------
** Golden */
typedef struct { char *text; size_t n; } string;

static string take(const lm_json *j) {
    string s = { malloc(j->string.n + 1), j->string.n };
    memcpy(s.text, j->string.data, j->string.n + 1);
    return s;
}

static void drop(string *s) {
    free(s->text);
    *s = (string){ NULL, 0 };
}

typedef struct { string name, family, bos, eos, template_text; } source;
enum { MESSAGES_MAX = 12 };
typedef struct { string roles[MESSAGES_MAX], contents[MESSAGES_MAX]; int n; string text, error; } conversation;

static void read_messages(lm_json *j, conversation *c, lm_err *err) {
    while (lm_json_next(j, err) == LM_JSON_OBJECT) {
        for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
            if (!strcmp(j->key.data, "role") && kind == LM_JSON_TEXT) c->roles[c->n] = take(j);
            else if (kind == LM_JSON_TEXT) c->contents[c->n] = take(j);
        }
        if (c->n < MESSAGES_MAX - 1) c->n++;
    }
}

/* A span must be a token's spelling, never a message's text: no content may lie in one. */
static void check_spans(const source *src, const lm_buf *out, const lm_spans *spans, int number) {
    size_t end = 0;
    for (size_t i = 0; i < spans->n; i++) {
        const lm_span *s = &spans->data[i];
        CHECK(s->start >= end && s->start + s->n <= out->n && s->n >= 3 && s->n <= 20, "%s, case %d: span %zu", src->name.text, number, i);
        end = s->start + s->n;
    }
}

static void check_case(const source *src, const conversation *c, int number) {
    lm_err err = {0};
    lm_buf out = {0};
    lm_spans spans = {0};
    lm_message messages[MESSAGES_MAX];
    for (int i = 0; i < c->n; i++) messages[i] = (lm_message){ c->roles[i].text, c->contents[i].text, c->roles[i].n, c->contents[i].n };
    const lm_chat *chat = lm_chat_recognise(src->template_text.text, src->template_text.n);
    if (!chat) return;
    int has_system = c->n && !strcmp(c->roles[0].text, "system"), refused = c->error.text != NULL;
    for (int i = 0; i < c->n; i++) {
        if (strcmp(c->roles[i].text, "system") && strcmp(c->roles[i].text, "user") && strcmp(c->roles[i].text, "assistant")) return;
    }
    /* Where we do otherwise: no default system message with today's date, and no system message dropped without a word. */
    if (!strcmp(src->name.text, "mistral-v7-tekken") && !has_system && !refused) return;
    for (int i = 0; i < c->n && !strcmp(src->name.text, "phi3-old"); i++) refused |= !strcmp(c->roles[i].text, "system");
    lm_chat_talk talk = { src->template_text.text, src->template_text.n, src->bos.text, src->eos.text, src->bos.n, src->eos.n, messages, (size_t)c->n };
    lm_chat_render(chat, &talk, &out, &spans, &err);
    if (refused) {
        CHECK(err.code, "%s, case %d: '%.*s', wanted an error: %s", src->name.text, number, (int)out.n, out.data,
              c->error.text ? c->error.text : "no place for a system message");
    } else {
        CHECK(!err.code && out.n == c->text.n && (!out.n || !memcmp(out.data, c->text.text, out.n)), "%s, case %d: %s'%.*s', wanted '%s'", src->name.text,
              number, err.msg, (int)out.n, out.n ? out.data : "", c->text.text);
        check_spans(src, &out, &spans, number);
    }
    lm_buf_clear(&out);
    lm_spans_clear(&spans);
}

static int read_case(lm_json *j, const source *src, int number, lm_err *err) {
    conversation c = {0};
    int wanted = 1;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        if (!strcmp(j->key.data, "messages")) read_messages(j, &c, err);
        else if (!strcmp(j->key.data, "text") && kind == LM_JSON_TEXT) c.text = take(j);
        else if (!strcmp(j->key.data, "error") && kind == LM_JSON_TEXT) c.error = take(j);
        else if (!strcmp(j->key.data, "add_generation_prompt")) wanted = (int)j->integer;
        else lm_json_skip(j, kind, err);
    }
    if (wanted) check_case(src, &c, number);
    for (int i = 0; i < MESSAGES_MAX; i++) drop(&c.roles[i]), drop(&c.contents[i]);
    drop(&c.text);
    drop(&c.error);
    return wanted;
}

static int read_template(lm_json *j, lm_err *err) {
    source src = {0};
    int cases = 0;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        string *into = !strcmp(j->key.data, "name") ? &src.name : !strcmp(j->key.data, "family") ? &src.family
                     : !strcmp(j->key.data, "bos_token") ? &src.bos : !strcmp(j->key.data, "eos_token") ? &src.eos
                     : !strcmp(j->key.data, "template") ? &src.template_text : NULL;
        if (into && kind == LM_JSON_TEXT) {
            *into = take(j);
        } else if (!strcmp(j->key.data, "cases")) {
            const lm_chat *chat = lm_chat_recognise(src.template_text.text, src.template_text.n);
            CHECK(chat && !strcmp(lm_chat_name(chat), src.family.text), "%s: recognised as %s, wanted %s", src.name.text,
                  chat ? lm_chat_name(chat) : "nothing", src.family.text);
            while (lm_json_next(j, err) == LM_JSON_OBJECT) cases += read_case(j, &src, cases, err);
        } else {
            lm_json_skip(j, kind, err);
        }
    }
    drop(&src.name), drop(&src.family), drop(&src.bos), drop(&src.eos), drop(&src.template_text);
    return cases;
}

static void test_golden(void) {
    size_t n;
    char *text = read_file("tests/golden/chat.json", &n);
    int cases = 0;
    lm_err err = {0};
    lm_json j;
    lm_json_init(&j, text, n);
    CHECK(lm_json_next(&j, &err) == LM_JSON_OBJECT, "tests/golden/chat.json: %s", err.msg);
    for (int kind; (kind = lm_json_next(&j, &err)) != LM_JSON_END;) {
        if (strcmp(j.key.data, "templates")) lm_json_skip(&j, kind, &err);
        else while (lm_json_next(&j, &err) == LM_JSON_OBJECT) cases += read_template(&j, &err);
    }
    CHECK(!err.code && cases > 100, "tests/golden/chat.json: %d cases: %s", cases, err.msg);
    lm_json_clear(&j);
    free(text);
}

/*----------------------------------------------------------------------
** ChatML's default system message, however it is spelled. */

#define LOOP "{% for message in messages %}"
#define BODY "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define GUARD "{% if loop.first and messages[0]['role'] != 'system' %}"

/* What a conversation is given with. */
static lm_chat_talk talk_of(const char *template_text, const lm_message *messages, size_t n) {
    return (lm_chat_talk){ .template_text = template_text, .template_n = template_text ? strlen(template_text) : 0, .bos = "<s>", .bos_n = 3,
                           .eos = "</s>", .eos_n = 4, .messages = messages, .n_messages = n };
}

static lm_message message(const char *role, const char *content) {
    return (lm_message){ role, content, strlen(role), strlen(content) };
}

static void check_render(int line, const char *template_text, const lm_message *messages, size_t n, const char *want) {
    lm_err err = { 0 };
    lm_buf out = { 0 };
    lm_spans spans = { 0 };
    const lm_chat *chat = lm_chat_recognise(template_text, strlen(template_text));
    CHECK(chat, "(from line %d) not recognised", line);
    if (!chat) return;
    lm_chat_talk talk = talk_of(template_text, messages, n);
    lm_chat_render(chat, &talk, &out, &spans, &err);
    CHECK(!err.code && out.n == strlen(want) && !memcmp(out.data, want, out.n), "(from line %d) '%.*s', wanted '%s'", line,
          (int)out.n, out.data, want);
    for (size_t i = 0; i < spans.n; i++) {
        const char *at = out.data + spans.data[i].start;
        CHECK((spans.data[i].n == 12 && !memcmp(at, "<|im_start|>", 12)) || (spans.data[i].n == 10 && !memcmp(at, "<|im_end|>", 10)),
              "(from line %d) span %zu is '%.*s'", line, i, (int)spans.data[i].n, at);
    }
    lm_spans_clear(&spans);
    lm_buf_clear(&out);
}

static void test_chatml(void) {
    /* SmolLM2's own template, and the same with escapes. */
    static const char smol[] = LOOP GUARD "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n' }}{% endif %}" BODY;
    static const char escaped[] = LOOP GUARD "{{ '<|im_start|>system\\nIt\\'s \\\"so\\\\\\n<|im_end|>\\n' }}{% endif %}" BODY;
    static const char bare[] = "{%- if messages[0]['role'] != 'system' -%}\n<|im_start|>system\nYou're 'it'<|im_end|>\n{%- endif -%}" LOOP BODY;
    static const char joined[] = "{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
        "{{ \"<|im_start|>system\nBe 'kind'.<|im_end|>\n\" }}" LOOP BODY;
    static const char holed[] = "<|im_start|>system\n{{ prompt }}<|im_end|>\n" LOOP BODY;
    lm_message talk[] = { message("user", "Hi"), message("assistant", "Hello <|im_end|>"), message("user", "Bye\n") };
    lm_message told[] = { message("system", "Be brief."), message("user", "Hi") };
#define TURNS "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello <|im_end|><|im_end|>\n" \
    "<|im_start|>user\nBye\n<|im_end|>\n<|im_start|>assistant\n"
#define SMOL_SYSTEM "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    check_render(__LINE__, smol, talk, 3, SMOL_SYSTEM TURNS);
    check_render(__LINE__, smol, talk, 1, SMOL_SYSTEM "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    check_render(__LINE__, smol, told, 2, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    check_render(__LINE__, smol, NULL, 0, "<|im_start|>assistant\n");
    check_render(__LINE__, escaped, talk, 3, "<|im_start|>system\nIt's \"so\\\n<|im_end|>\n" TURNS);
    check_render(__LINE__, bare, talk, 3, "<|im_start|>system\nYou're 'it'<|im_end|>\n" TURNS);
    check_render(__LINE__, joined, talk, 3, "<|im_start|>system\nBe 'kind'.<|im_end|>\n" TURNS);
    check_render(__LINE__, holed, talk, 3, TURNS);
    check_render(__LINE__, LOOP BODY, talk, 3, TURNS);
    check_render(__LINE__, "<|im_end|><|im_start|>system", talk, 3, TURNS);

    /* Every beginning of a template is read without running over its end. */
    for (size_t n = 0; n < sizeof escaped; n++) {
        lm_err err = { 0 };
        lm_buf out = { 0 };
        lm_spans spans = { 0 };
        char *copy = malloc(n + 1);
        memcpy(copy, escaped, n);
        copy = realloc(copy, n ? n : 1);
        lm_chat_recognise(copy, n);
        lm_chat_talk cut = talk_of(NULL, talk, 1);
        cut.template_text = copy;
        cut.template_n = n;
        lm_chat_render(lm_chat_find("chatml"), &cut, &out, &spans, &err);
        CHECK(!err.code, "%s", err.msg);
        free(copy);
        lm_buf_clear(&out);
        lm_spans_clear(&spans);
    }
    CHECK(!lm_chat_recognise(NULL, 0) && !lm_chat_recognise("{{ '<|user|>' }}", 16), "recognised what it should not");
    CHECK(lm_chat_find("chatml") && !lm_chat_find("esperanto"), "lm_chat_find");
    CHECK(!strcmp(lm_chat_name(lm_chat_find("chatml")), "chatml") && strstr(lm_chat_families(), "chatml"), "names");
}

int main(void) {
    test_golden();
    test_chatml();
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
    return finish_tests();
}

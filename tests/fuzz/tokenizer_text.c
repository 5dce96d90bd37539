/* tokenizer_text.c: texts, for tokenizers of every kind and for chat templates. Byte 0 says which tokenizer, byte 1 how. */
#include "fuzz.h"

#include <glob.h>

enum { TOKS_MAX = 32, TINY = 0 };

static lm_tok *g_toks[TOKS_MAX];
static int g_n_toks;

static lm_tok *tok_of_gguf(const char *path) {
    lm_err err = {0};
    lm_gguf *g = lm_gguf_open(path, &err);
    lm_tok *t = g ? lm_tok_new(lm_gguf_meta(g), lm_gguf_meta(g), &err) : NULL;
    MUST(t, "%s: %s", path, err.msg);
    lm_gguf_close(g);
    return t;
}

static lm_tok *tok_of_json(const char *path) {
    static char json[1 << 20];
    lm_err err = {0};
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(json, 1, sizeof json, f) : 0;
    if (f) fclose(f);
    lm_meta *meta = fuzz_json_meta(json, n, &err);
    lm_tok *t = lm_tok_new(meta, NULL, &err);
    MUST(t, "%s: %s", path, err.msg);
    lm_meta_free(meta);
    return t;
}

static void open_all(void) {
    static const char *const ggufs[] = { "tests/golden/tiny.gguf", "tests/golden/tok_small.gguf", "tests/golden/spm_small.gguf" };
    glob_t found;
    for (int i = 0; i < 3; i++) g_toks[g_n_toks++] = tok_of_gguf(ggufs[i]);
    MUST(!glob("tests/golden/hf_tok/*.json", 0, NULL, &found), "run from the top folder");
    for (size_t i = 0; i < found.gl_pathc && g_n_toks < TOKS_MAX; i++) {
        if (!strstr(found.gl_pathv[i], "cases.json")) g_toks[g_n_toks++] = tok_of_json(found.gl_pathv[i]);
    }
    globfree(&found);
}

/* Encode all, and then only the beginning: that must be the same ids. Where every byte is a token nothing may be lost. */
static void encode(int which, unsigned how, const char *text, size_t n) {
    lm_err err = {0};
    const lm_tok *t = g_toks[which];
    lm_tok_options o = { .add_special = how & 1, .parse_special = how >> 1 & 1 };
    lm_span span = { n / 3, n / 3 };
    lm_ids all = {0}, some = {0};
    lm_buf back = {0}, repaired = {0};
    size_t limit = (how >> 4) + 1, size;
    if (how & 4 && span.n) o.specials = &span, o.n_specials = 1;
    lm_tok_encode(t, text, n, &o, 0, (lm_stop){0}, &all, &err);
    lm_tok_encode(t, text, n, &o, limit, (lm_stop){0}, &some, &err);
    MUST(!err.code, "%s", err.msg);
    MUST(all.n <= limit ? some.n == all.n : some.n > limit, "%zu ids, with a limit of %zu %zu", all.n, limit, some.n);
    for (size_t i = 0; i < some.n && i <= limit; i++) MUST(i < all.n && all.data[i] == some.data[i], "id %zu differs with a limit", i);
    for (size_t i = 0; i < all.n; i++) {
        const char *bytes = lm_tok_bytes(t, all.data[i], &size);
        lm_buf_append(&back, bytes, size, &err);
    }
    lm_utf8_repair(&repaired, text, n, &err);
    MUST(which != TINY || o.add_special || (back.n == repaired.n && (!n || !memcmp(back.data, repaired.data, n))), "the text is not what its tokens are");
    lm_ids_clear(&all);
    lm_ids_clear(&some);
    lm_buf_clear(&back);
    lm_buf_clear(&repaired);
}

/* The text is a template, and then what is said in one of every family. */
static void chat(unsigned how, const char *text, size_t n) {
    static const char *const roles[] = { "system", "user", "assistant", "tool" };
    char families[512], *at = families;
    lm_message m[3];
    snprintf(families, sizeof families, "%s", lm_chat_families());
    for (int i = 0; i < 3; i++) m[i] = (lm_message){ roles[how >> 2 * i & 3], text + n / 3 * (size_t)i, strlen(roles[how >> 2 * i & 3]), n / 3 };
    lm_chat_recognise(text, n);
    for (char *family; (family = strtok_r(at, ", ", &at));) {
        lm_err err = {0};
        lm_buf out = {0};
        lm_spans spans = {0};
        const lm_chat *c = lm_chat_find(family);
        lm_chat_talk talk = { text, n, "<s>", "</s>", 3, 4, m, how >> 6 };
        MUST(c, "no family %s", family);
        lm_chat_render(c, &talk, &out, &spans, &err);
        fuzz_error(&err);
        for (size_t i = 0; i < spans.n; i++) {
            MUST(spans.data[i].start + spans.data[i].n <= out.n && (!i || spans.data[i].start >= spans.data[i - 1].start), "a span outside the prompt");
        }
        lm_buf_clear(&out);
        lm_spans_clear(&spans);
    }
}

FUZZ(tokenizer_text)(const uint8_t *data, size_t n) {
    fuzz_begin();
    if (!g_n_toks) open_all();
    uint64_t used = lm_mem_used();
    if (n < 2) return 0;
    char *text = malloc(n - 2);     /* exactly as long as it is */
    if (n > 2) memcpy(text, data + 2, n - 2);
    int which = data[0] % (g_n_toks + 1);
    if (which < g_n_toks) encode(which, data[1], text, n - 2);
    else chat(data[1], text, n - 2);
    free(text);
    return fuzz_end(used);
}

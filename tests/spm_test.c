/* spm_test.c: SentencePiece BPE, held against llama.cpp's ids and a plain reimplementation. */
#define _POSIX_C_SOURCE 200809L
#include "tok_harness.h"

static const char g_small[] = "tests/golden/spm_small.gguf", g_real[] = "models/gemma-3-270m-q4_k_m.gguf";

/* The small vocabulary, with or without the space before a text. */
static lm_tok *open_small(int add_space_prefix) {
    lm_err err = { 0 };
    maker m = { 0 };
    add_text(&m, "model", "llama");
    add_int(&m, "bos_token_id", 2);
    add_int(&m, "eos_token_id", 1);
    add_int(&m, "unknown_token_id", 3);
    add_bool(&m, "add_space_prefix", add_space_prefix);
    lm_meta *meta = lm_meta_new(m.b.data, m.b.n, &err);
    lm_gguf *g = lm_gguf_open(g_small, &err);
    lm_tok *t = lm_tok_new(meta, g ? lm_gguf_meta(g) : NULL, &err);
    CHECK(t, "%s: %s", g_small, err.msg);
    lm_gguf_close(g);
    lm_meta_free(meta);
    lm_buf_clear(&m.b);
    return t;
}

/* What the ids add to a text, without the spaces that the tokenizer put there. */
static lm_buf decode_plain(const lm_tok *t, const lm_ids *ids) {
    lm_err err = { 0 };
    lm_buf out = { 0 };
    for (size_t i = 0, n; i < ids->n; i++) {
        const char *bytes = lm_tok_bytes(t, ids->data[i], &n);
        int drop = lm_tok_drops_space(t, i ? ids->data[i - 1] : -1, ids->data[i]);
        lm_buf_append(&out, bytes + drop, n - (size_t)drop, &err);
    }
    return out;
}

/* U+2581 comes back as a space: a vocabulary spells spaces so. */
static size_t respace(char *text, size_t n) {
    size_t out = 0;
    for (size_t i = 0; i < n;) {
        int is_space = n - i >= 3 && !memcmp(text + i, "\xE2\x96\x81", 3);
        text[out++] = is_space ? ' ' : text[i];
        i += is_space ? 3 : 1;
    }
    return out;
}

/*----------------------------------------------------------------------
** llama.cpp's ids: tests/golden/spm_fuzz.txt */
enum { N_TOKS = 4 };
static const char *const g_names[N_TOKS] = { "small", "small, space before", "gemma3", "small, space before, special" };

static void check_line(const lm_tok *const *toks, char *line, char *end, int number) {
    unsigned want[N_TOKS];
    for (int i = 0; i < N_TOKS; i++) {
        want[i] = i && *line == '=' ? want[i - 1] : (unsigned)strtoul(line, NULL, 16);
        line = strchr(line, ' ') + 1;
    }
    size_t n = unescape(line, end);
    lm_err err = { 0 };
    lm_buf repaired = { 0 };
    lm_utf8_repair(&repaired, line, n, &err);
    repaired.n = respace(repaired.data, repaired.n);
    for (int i = 0; i < N_TOKS; i++) {
        if (!toks[i]) continue;
        lm_ids ids = encode(toks[i], line, n, i == 3 ? &g_parse : &g_plain);
        CHECK(fold(&ids) == want[i], "spm_fuzz.txt:%d: %s: %zu ids that hash to %04x, wanted %04x", number, g_names[i], ids.n,
              fold(&ids), want[i]);
        lm_buf back = decode_plain(toks[i], &ids);
        back.n = respace(back.data, back.n);
        CHECK(back.n == repaired.n && (!back.n || !memcmp(back.data, repaired.data, back.n)),
              "spm_fuzz.txt:%d: %s: decoded to '%.*s'", number, g_names[i], (int)back.n, back.data);
        lm_buf_clear(&back);
        lm_ids_clear(&ids);
    }
    lm_buf_clear(&repaired);
}

static void test_fuzz_golden(const lm_tok *real) {
    size_t n;
    char *file = read_whole("tests/golden/spm_fuzz.txt", &n);
    CHECK(file, "tests/golden/spm_fuzz.txt cannot be read (run from the top folder)");
    if (!file) return;
    lm_tok *bare = open_small(0), *prefixed = open_small(1);
    const lm_tok *toks[N_TOKS] = { bare, prefixed, real, prefixed };
    int number = 0;
    for (char *line = file, *end; (end = strchr(line, '\n')); line = end + 1) check_line(toks, line, end, ++number);
    CHECK(number > 7000, "spm_fuzz.txt has %d texts, wanted over 7000", number);
    lm_tok_free(bare);
    lm_tok_free(prefixed);
    free(file);
}

/*----------------------------------------------------------------------
** Pieces long and short, cut or whole, give what the definition does: symbols joined by plain search. */
static void check_definition(const lm_tok *t, const char *text, size_t n) {
    static char symbols[600][64];
    int count = 0;
    lm_ids ids = encode(t, text, n, &g_plain);
    for (size_t i = 0, step; i < n; i += step) {
        const char *from = text[i] == ' ' ? "\xE2\x96\x81" : text + i;
        step = (uint8_t)text[i] < 0x80 ? 1 : (uint8_t)text[i] < 0xE0 ? 2 : 3;
        size_t bytes = text[i] == ' ' ? 3 : step;
        memcpy(symbols[count], from, bytes);
        symbols[count++][bytes] = 0;
    }
    for (;;) {
        int best = -1;
        double highest = -INFINITY;
        for (int i = 0; i + 1 < count; i++) {
            char pair[128] = { 0 };
            memcpy(pair, symbols[i], strlen(symbols[i]));
            memcpy(pair + strlen(pair), symbols[i + 1], strlen(symbols[i + 1]));
            for (int32_t id = 0; id < lm_tok_count(t); id++) {
                size_t len;
                const char *spelling = lm_tok_text(t, id, &len);
                int type = lm_tok_type(t, id);
                if (len != strlen(pair) || memcmp(spelling, pair, len) || type == LM_TOK_CONTROL || type == LM_TOK_BYTE) continue;
                if (type == LM_TOK_UNKNOWN || lm_tok_score(t, id) <= highest) continue;
                highest = lm_tok_score(t, id);
                best = i;
            }
        }
        if (best < 0) break;
        memcpy(symbols[best] + strlen(symbols[best]), symbols[best + 1], strlen(symbols[best + 1]) + 1);
        memmove(symbols[best + 1], symbols[best + 2], (size_t)(--count - best - 1) * sizeof symbols[0]);
    }
    int same = ids.n == (size_t)count;
    for (int i = 0; same && i < count; i++) {
        size_t len;
        const char *spelling = lm_tok_text(t, ids.data[i], &len);
        same = len == strlen(symbols[i]) && !memcmp(spelling, symbols[i], len);
    }
    CHECK(same, "'%.*s': %zu ids, wanted %d or other ones", (int)n, text, ids.n, count);
    lm_ids_clear(&ids);
}

static void test_definition(void) {
    lm_tok *t = open_small(0);
    uint32_t seed = 1;
    for (int round = 0; round < 12 && t; round++) {
        char text[200];
        size_t n = (size_t)(20 + 12 * round);
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = "e t=,aoinshr"[(seed >> 24) % (round % 3 ? 12 : 4)];
            if (i > 1 && text[i - 1] == ' ' && text[i - 2] == ' ') text[i] = 'e';   /* three are a token of their own */
        }
        check_definition(t, text, n);
    }
    lm_tok_free(t);
}

/*----------------------------------------------------------------------
** A vocabulary made by hand, to be seen through. Ids: 0 <unk> 1 <s> 2 </s> 3 ▁ 4 a 5 b 6 ▁a 7 ab 8 ▁ab 9 <0x0A> */
static lm_tok *make_hand(const char *types, const float *scores, size_t n_scores, int with_bytes, lm_err *err) {
    maker m = { 0 };
    add_text(&m, "model", "llama");
    add_int(&m, "bos_token_id", 1);
    add_int(&m, "eos_token_id", 2);
    add_int(&m, "unknown_token_id", 0);
    add_texts(&m, "tokens", with_bytes ? "<unk>|<s>|</s>|\xE2\x96\x81|a|b|\xE2\x96\x81" "a|ab|\xE2\x96\x81" "ab|<0x0A>"
                                       : "<unk>|<s>|</s>|\xE2\x96\x81|a|b|\xE2\x96\x81" "a|ab|\xE2\x96\x81" "ab|<0x0B>");
    if (types) add_types(&m, types);
    if (n_scores) {
        put_key(&m, "scores", LM_META_ARRAY);
        put_le(&m, LM_META_F32, 4);
        put_le(&m, n_scores, 8);
        put(&m, scores, 4 * n_scores);
    }
    return make(&m, err);
}

static void test_by_hand(void) {
    static const float scores[] = { 0, 0, 0, -9, -8, -7, -2, -1, -3, 0 }, tied[] = { 0, 0, 0, -9, -8, -7, -2, -2, -3, 0 };
    lm_err err = { 0 };
    lm_tok_options whole = { .add_special = 1 };
    lm_tok *t = make_hand("2331111116", scores, 10, 1, &err);
    CHECK(t, "%s", err.msg);
    if (!t) return;
    CHECK_IDS(t, "ab", &g_plain, 8);                /* ▁ a b: ab first, then ▁ab */
    CHECK_IDS(t, "a", &g_plain, 6);
    CHECK_IDS(t, " a", &g_plain, 3, 6);
    CHECK_IDS(t, "ba\n", &g_plain, 3, 5, 4, 9);
    CHECK_IDS(t, "a\xC3\xA9", &g_plain, 6, 0, 0);   /* no byte tokens: unknown, one a byte */
    CHECK_IDS(t, "", &g_plain, -1);
    CHECK_IDS(t, "a", &whole, 1, 6);                /* BOS unless told otherwise, no EOS */
    CHECK_IDS(t, "<s>a", &g_parse, 1, 6);           /* a space before each stretch */
    CHECK(lm_tok_score(t, 7) == -1 && lm_tok_bos(t) == 1 && !strcmp(lm_tok_kind(t), "llama"), "asking");
    lm_tok_free(t);
    t = make_hand("2331111136", scores, 10, 1, &err);
    CHECK_IDS(t, "ab", &g_plain, 3, 7);             /* the higher score; what both would make is a control token */
    lm_tok_free(t);
    t = make_hand("2331111136", tied, 10, 1, &err);
    CHECK_IDS(t, "ab", &g_plain, 6, 5);             /* of equals the leftmost */
    lm_tok_free(t);
    t = make_hand("2331111336", scores, 10, 1, &err);
    CHECK_IDS(t, "ab", &g_plain, 6, 5);             /* ab is a control token here */
    lm_tok_free(t);
}

static void refused(int line, lm_tok *t, const lm_err *err, const char *want) {
    CHECK(!t && strstr(err->msg, want), "(from line %d) '%s', wanted '%s'", line, err->msg, want);
    lm_tok_free(t);
}

static void test_refusals(void) {
    float scores[10] = { 0 };
    lm_err err = { 0 };
    refused(__LINE__, make_hand("2331111116", scores, 0, 1, &err), &err, "tokenizer.ggml.scores: missing");
    err = (lm_err){ 0 };
    refused(__LINE__, make_hand("2331111116", scores, 9, 1, &err), &err, "9 scores for 10 tokens");
    err = (lm_err){ 0 };
    scores[4] = NAN;
    refused(__LINE__, make_hand("2331111116", scores, 10, 1, &err), &err, "token 4 has no number");
}

/*----------------------------------------------------------------------
** Time: linear in the text, whatever it is. */
static void test_long_texts(void) {
    static const char *const units[] = { "a", " ", "e t", "\xE4\xB8\xAD", "the ", "\n" };
    lm_tok *t = open_small(1);
    for (int i = 0; i < LM_COUNT(units) && t; i++) {
        size_t unit = strlen(units[i]), n = (1 << 20) / unit * unit;
        char *text = malloc(n);
        for (size_t at = 0; at < n; at += unit) memcpy(text + at, units[i], unit);
        lm_ids ids = encode(t, text, n, &g_plain);
        lm_buf back = decode_plain(t, &ids);
        CHECK(back.n == n && !memcmp(back.data, text, n), "a long text of '%s' came back as %zu bytes", units[i], back.n);
        lm_buf_clear(&back);
        lm_ids_clear(&ids);
        free(text);
    }
    lm_tok_free(t);
}

int main(void) {
    lm_err err = { 0 };
    lm_gguf *g = lm_gguf_open(g_real, &err);
    lm_tok *real = g ? lm_tok_new(lm_gguf_meta(g), lm_gguf_meta(g), &err) : NULL;
    lm_gguf_close(g);
    if (real) {
        CHECK(lm_tok_count(real) == 262144 && lm_tok_bos(real) == 2, "Gemma 3's vocabulary");
        test_tokenize_json(real, "gemma3");
    } else {
        printf("skipped: Gemma 3's own vocabulary: %s\n", err.msg);
    }
    test_fuzz_golden(real);
    lm_tok_free(real);
    test_definition();
    test_by_hand();
    test_refusals();
    test_long_texts();
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
    return finish_tests();
}

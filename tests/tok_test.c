/* tok_test.c: text to ids and back, held against llama.cpp's ids, a plain reimplementation, and lies. */
#define _POSIX_C_SOURCE 200809L
#include "tok_harness.h"

#include <pthread.h>

static const char g_small[] = "tests/golden/tok_small.gguf", g_real[] = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
/* Make a tokenizer out of the arrays of a file and a pre-tokenizer of our choice. */
static lm_tok *open_with(const char *path, const char *pre) {
    lm_err err = { 0 };
    maker m = { 0 };
    add_text(&m, "model", "gpt2");
    add_text(&m, "pre", pre);
    add_int(&m, "bos_token_id", 1);
    add_int(&m, "eos_token_id", 2);
    lm_meta *meta = lm_meta_new(m.b.data, m.b.n, &err);
    lm_gguf *g = lm_gguf_open(path, &err);
    lm_tok *t = lm_tok_new(meta, g ? lm_gguf_meta(g) : NULL, &err);
    CHECK(t, "%s with pre %s: %s", path, pre, err.msg);
    lm_gguf_close(g);
    lm_meta_free(meta);
    lm_buf_clear(&m.b);
    return t;
}

/*----------------------------------------------------------------------
** llama.cpp's ids: tests/golden/tok_fuzz.txt */

enum { N_PRES = 5, N_TOKS = 6 };
static const char *const g_pres[N_PRES] = { "gpt-2", "smollm", "llama-bpe", "qwen2", "default" };

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
    for (int i = 0; i < N_TOKS; i++) {
        if (!toks[i]) continue;
        lm_ids ids = encode(toks[i], line, n, &g_plain);
        CHECK(fold(&ids) == want[i], "tok_fuzz.txt:%d: %s: %zu ids that hash to %04x, wanted %04x", number,
              i < N_PRES ? g_pres[i] : "SmolLM2", ids.n, fold(&ids), want[i]);
        lm_buf back = decode(toks[i], &ids);
        CHECK(i == N_PRES || (back.n == repaired.n && (!back.n || !memcmp(back.data, repaired.data, back.n))),
              "tok_fuzz.txt:%d: decoded to other text", number);
        lm_buf_clear(&back);
        lm_ids_clear(&ids);
    }
    lm_buf_clear(&repaired);
}

static void test_fuzz_golden(const lm_tok *real) {
    size_t n;
    char *file = read_whole("tests/golden/tok_fuzz.txt", &n);
    CHECK(file, "tests/golden/tok_fuzz.txt cannot be read (run from the top folder)");
    if (!file) return;
    const lm_tok *toks[N_TOKS] = { 0 };
    for (int i = 0; i < N_PRES; i++) toks[i] = open_with(g_small, g_pres[i]);
    toks[N_PRES] = real;
    int number = 0;
    for (char *line = file, *end; (end = strchr(line, '\n')); line = end + 1) check_line(toks, line, end, ++number);
    CHECK(number > 10000, "tok_fuzz.txt has %d texts, wanted over 10000", number);
    for (int i = 0; i < N_PRES; i++) lm_tok_free((lm_tok *)toks[i]);
    free(file);
}

/*----------------------------------------------------------------------
** The heap for long pieces gives what the definition does */

/* The rank of a pair of spellings among the merges of a file: plain search, as the definition reads. */
static int rank_of(const lm_meta_entry *merges, const char *left, const char *right) {
    const char *text;
    size_t pos = 0, n, left_n = strlen(left), right_n = strlen(right);
    for (int rank = 0; lm_meta_next_text(merges, &pos, &text, &n); rank++) {
        if (n == left_n + 1 + right_n && !memcmp(text, left, left_n) && text[left_n] == ' ' &&
            !memcmp(text + left_n + 1, right, right_n)) return rank;
    }
    return -1;
}

static void test_long_piece(void) {
    lm_err err = { 0 };
    lm_gguf *g = lm_gguf_open(g_small, &err);
    lm_tok *t = open_with(g_small, "gpt-2");
    if (!g || !t) return;
    const lm_meta_entry *merges = lm_meta_find(lm_gguf_meta(g), "tokenizer.ggml.merges");
    uint32_t seed = 1;
    for (int round = 0; round < 12; round++) {
        static char symbols[400][64];
        char text[401];
        int n = 60 + 25 * round;
        for (int i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = "etaoinshrldcumfpgwybvk"[(seed >> 24) % (round % 2 ? 22 : 3)];
            symbols[i][0] = text[i];
            symbols[i][1] = 0;
        }
        lm_ids ids = encode(t, text, (size_t)n, &g_plain);
        for (;;) {
            int best = -1, at = 0;
            for (int i = 0; i + 1 < n; i++) {
                int rank = rank_of(merges, symbols[i], symbols[i + 1]);
                if (rank >= 0 && (best < 0 || rank < best)) {
                    best = rank;
                    at = i;
                }
            }
            if (best < 0) break;
            memcpy(symbols[at] + strlen(symbols[at]), symbols[at + 1], strlen(symbols[at + 1]) + 1);
            memmove(symbols[at + 1], symbols[at + 2], (size_t)(--n - at - 1) * sizeof symbols[0]);
        }
        int same = ids.n == (size_t)n;
        for (int i = 0; same && i < n; i++) {
            size_t len;
            const char *spelling = lm_tok_text(t, ids.data[i], &len);
            same = len == strlen(symbols[i]) && !memcmp(spelling, symbols[i], len);
        }
        CHECK(same, "round %d: %zu ids, wanted %d or other ones", round, ids.n, n);
        lm_ids_clear(&ids);
    }
    lm_tok_free(t);
    lm_gguf_close(g);
}

/*----------------------------------------------------------------------
** Long runs take linear time, can be stopped, and stop at the limit */

typedef struct { int asked, stop_at; } asking;

static int count_asks(void *arg) {
    asking *a = arg;
    return ++a->asked == a->stop_at;
}

static void test_runs(void) {
    enum { MB = 1 << 20 };
    static const char *const units[] = { "a", " ", "1", "\n", ".", " \n", "\r\n", "\t ", "'", "e ", "\xE4\xB8\xAD",
                                         "\xE3\x80\x80", "a1", "\xCC\x81", "'s", "\x80", "<|im_", "  x" };
    char *text = malloc(MB + 8);
    for (int p = 0; p < N_PRES; p++) {
        lm_tok *t = open_with(g_small, g_pres[p]);
        for (int u = 0; t && u < LM_COUNT(units); u++) {
            lm_err err = { 0 };
            lm_ids ids = { 0 }, few = { 0 };
            asking a = { 0 };
            size_t unit_n = strlen(units[u]), n = u < 5 ? MB : MB / 8;
            for (size_t i = 0; i < n; i++) text[i] = units[u][i % unit_n];
            double start = cpu_seconds();
            lm_tok_encode(t, text, n, &g_plain, 0, (lm_stop){ count_asks, &a }, &ids, &err);
            double took = cpu_seconds() - start;
            CHECK(!err.code && ids.n >= n / 512, "%s: %zu bytes of '%s': %zu ids, %s", g_pres[p], n, units[u], ids.n, err.msg);
            /* Generous: under valgrind or a sanitizer it is slow, and quadratic would be hours. */
            CHECK(took < 30, "%s: %zu bytes of '%s' took %.1f s", g_pres[p], n, units[u], took);
            CHECK((size_t)a.asked >= n / 65536, "%s: %zu bytes of '%s': stop asked %d times", g_pres[p], n, units[u], a.asked);

            asking b = { .stop_at = a.asked / 2 };
            lm_tok_encode(t, text, n, &g_plain, 0, (lm_stop){ count_asks, &b }, &few, &err);
            CHECK(err.code == LM_INTERRUPT && b.asked == b.stop_at, "%s: '%s': asked %d times to stop at %d: %s", g_pres[p],
                  units[u], b.asked, b.stop_at, err.msg);
            lm_ids_clear(&few);
            lm_ids_clear(&ids);
        }
        lm_tok_free(t);
    }
    free(text);
}

static void test_limit(void) {
    lm_tok *t = open_with(g_small, "smollm");
    char text[4000];
    memset(text, 0, sizeof text);
    for (int i = 0; i < 500; i++) strcat(text, i % 7 ? " the" : " x.");
    lm_ids all = encode(t, text, strlen(text), &g_plain);
    for (size_t limit = 1; limit < all.n + 3; limit += 97) {
        lm_err err = { 0 };
        lm_ids ids = { 0 };
        lm_tok_encode(t, text, strlen(text), &g_plain, limit, g_never, &ids, &err);
        /* More than limit, of which the last piece may bring several. */
        int enough = ids.n >= LM_MIN(limit + 1, all.n) && ids.n <= limit + 4;
        CHECK(!err.code && enough && !memcmp(ids.data, all.data, 4 * ids.n), "limit %zu of %zu: %zu ids", limit, all.n, ids.n);
        lm_ids_clear(&ids);
    }
    lm_ids_clear(&all);
    lm_tok_free(t);
}

/*----------------------------------------------------------------------
** Special tokens. The vocabulary: ids in the order written. */

static void add_letters(maker *m) {
    add_text(m, "model", "gpt2");
    add_text(m, "pre", "gpt-2");
    /*                    0  1 2 3 4  5  6     7    8     9      10   11   12  13  */
    add_texts(m, "tokens", "a|b|c|<|>|\xC4\xA0|ab|<s>|</s>|<s><s>|<u>|<uv>|v|abc");
    add_types(m, "11111113334411");
    add_texts(m, "merges", "a b|ab c");
    add_int(m, "bos_token_id", 7);
    add_int(m, "eos_token_id", 8);
}

static void test_specials(void) {
    lm_err err = { 0 };
    maker m = { 0 };
    add_letters(&m);
    lm_tok *t = make(&m, &err);
    CHECK(t, "%s", err.msg);
    if (!t) return;
    CHECK_IDS(t, "ab<s>c", &g_plain, 6, 3, 4, 2);               /* 's' has no token and yields nothing */
    CHECK_IDS(t, "ab<s>c", &g_parse, 6, 7, 2);
    CHECK_IDS(t, "<s><s><s>", &g_parse, 9, 7);                  /* the longest first */
    CHECK_IDS(t, "a<u>b<uv><u", &g_plain, 0, 10, 1, 11, 3);     /* USER tokens need no asking; <u is text */
    CHECK_IDS(t, "abc", &g_plain, 13);
    CHECK_IDS(t, " a<<s>", &g_parse, 5, 0, 3, 7);

    lm_tok_options add = { .add_special = 1 };
    CHECK_IDS(t, "a", &add, 0);                                 /* the metadata asks for neither */
    lm_span spans[] = { { 0, 3 }, { 4, 3 }, { 8, 1 } };
    lm_tok_options marked = { .specials = spans, .n_specials = 3 };
    CHECK_IDS(t, "<s>a<s><b<s>", &marked, 7, 0, 7, 3, 1, 3, 4); /* a marked spelling that is no special is text */

    CHECK(lm_tok_special(t, "<s>", 3) == 7 && lm_tok_special(t, "ab", 2) == -1 && lm_tok_special(t, "<x>", 3) == -1,
          "lm_tok_special");
    CHECK(lm_tok_bos(t) == 7 && lm_tok_eos(t) == 8 && lm_tok_count(t) == 14, "bos, eos, count");
    CHECK(lm_tok_is_eog(t, 8) && !lm_tok_is_eog(t, 7) && !lm_tok_is_eog(t, -1) && !lm_tok_is_eog(t, 14), "is_eog");
    CHECK(lm_tok_type(t, 7) == LM_TOK_CONTROL && lm_tok_type(t, 10) == LM_TOK_USER && lm_tok_type(t, 0) == LM_TOK_NORMAL,
          "types");
    CHECK(!strcmp(lm_tok_kind(t), "gpt2"), "kind");
    size_t n;
    CHECK(!memcmp(lm_tok_text(t, 5, &n), "\xC4\xA0", 2) && n == 2, "text of the space");
    CHECK(!memcmp(lm_tok_bytes(t, 5, &n), " ", 1) && n == 1, "bytes of the space");
    CHECK(!memcmp(lm_tok_bytes(t, 9, &n), "<s><s>", 6) && n == 6, "bytes of a special");
    lm_tok_text(t, 14, &n);
    CHECK(n == 0, "text of an id outside the vocabulary");
    lm_tok_free(t);

    add_letters(&m);
    add_bool(&m, "add_bos_token", 1);
    add_bool(&m, "add_eos_token", 1);
    t = make(&m, &err);
    CHECK(t, "%s", err.msg);
    if (t) CHECK_IDS(t, "a", &add, 7, 0, 8);
    if (t) CHECK_IDS(t, "a", &g_plain, 0);
    lm_tok_free(t);
}

/* llama-bpe takes a whole piece that is a token as that token; no merge leads to "cb" here. */
static void test_whole_words(void) {
    for (int whole = 0; whole < 2; whole++) {
        lm_err err = { 0 };
        maker m = { 0 };
        add_text(&m, "model", "gpt2");
        add_text(&m, "pre", whole ? "llama-bpe" : "dbrx");
        add_texts(&m, "tokens", "a|b|c|cb|ac|<s>");
        add_types(&m, "111133");
        add_texts(&m, "merges", "a c");
        add_int(&m, "bos_token_id", 5);
        lm_tok *t = make(&m, &err);
        CHECK(t, "%s", err.msg);
        if (!t) continue;
        if (whole) CHECK_IDS(t, "cb", &g_plain, 3);
        else CHECK_IDS(t, "cb", &g_plain, 2, 1);
        CHECK_IDS(t, "ac", &g_plain, 0, 2);                     /* text never turns into a control token */
        lm_tok_options add = { .add_special = 1 };
        if (whole) CHECK_IDS(t, "a", &add, 5, 0);
        else CHECK_IDS(t, "a", &add, 0);
        lm_tok_free(t);
    }
}

/*----------------------------------------------------------------------
** Metadata that lies */

/* Seconds of processor time to build a vocabulary: of any spellings, or of such as a hash of 8 bytes a step, by xor and
** multiplication, makes one of, whatever it begins with: what the top bit of one step changes the next changes back. */
static double build_vocabulary(uint32_t n_tokens, int are_chosen) {
    enum { STEPS = 15 };
    lm_err err = { 0 };
    maker m = { 0 };
    add_text(&m, "model", "gpt2");
    add_texts(&m, "merges", "");
    put_key(&m, "tokens", LM_META_ARRAY);
    put_le(&m, LM_META_TEXT, 4);
    put_le(&m, n_tokens, 8);
    for (uint32_t k = 0; k < n_tokens; k++) {
        char text[8 * STEPS + 1] = "";
        for (uint32_t i = 0; i < STEPS; i++) {
            int here = i + 1 < STEPS && k >> i & 1, before = i && k >> (i - 1) & 1;
            snprintf(text + 8 * i, 9, are_chosen ? "abcdefgh" : "%08x", k * 2654435761u + i);
            if (!are_chosen) continue;
            text[8 * i + 7] ^= (char)((here ^ before) << 7);
            text[8 * i + 3] ^= (char)(before << 7);
        }
        put_le(&m, 8 * STEPS, 8);
        put(&m, text, 8 * STEPS);
    }
    double start = cpu_seconds();
    lm_tok *t = make(&m, &err);
    double took = cpu_seconds() - start;
    CHECK(t, "%s", err.msg);
    lm_tok_free(t);
    return took;
}

static void test_chosen_spellings(void) {
    double any = build_vocabulary(16000, 0), chosen = build_vocabulary(16000, 1);
    CHECK(chosen < 4 * any + 0.2, "16,000 chosen spellings took %.3f s, others %.3f", chosen, any);
}

static void check_refused(int line, maker *m, const char *want) {
    lm_err err = { 0 };
    lm_tok *t = make(m, &err);
    CHECK(!t && err.code == LM_ERROR && strstr(err.msg, want), "(from line %d) '%s', wanted '%s'", line, err.msg, want);
    CHECK(lm_mem_used() == 0, "(from line %d) %llu bytes leaked", line, (unsigned long long)lm_mem_used());
    lm_tok_free(t);
}

static void test_refusals(void) {
    static const struct { const char *pre, *tokens, *types, *merges, *want; } cases[] = {
        { "gpt-2", "a|b|a", NULL, "", "'a' is both token 0 and token 2" },
        { "gpt-2", "a|b|ab", "11", "a b", "2 types for 3 tokens" },
        { "gpt-2", "a|b|ab", "1111", "a b", "4 types for 3 tokens" },
        { "gpt-2", "a|b", NULL, "a b", "merge 0 'a b': the vocabulary lacks what it makes" },
        { "gpt-2", "a|b|ab", NULL, "a b|a c", "merge 1 'a c': the vocabulary lacks one" },
        { "gpt-2", "a|b|ab", NULL, "ab", "merge 0 'ab': wanted two tokens" },
        { "gpt-2", "a|b|ab", NULL, "a ", "wanted two tokens" },
        { "gpt-2", "a|b|ab", NULL, " ", "wanted two tokens" },
        { "gpt-2", "a|b|ab", NULL, "|a b", "wanted two tokens" },
        { "gpt-2", "", NULL, "", "tokens: missing or empty" },
        { "gpt-2", NULL, NULL, "", "tokens: missing or empty" },
        { "gpt-2", "a", NULL, NULL, "merges: missing" },
        { "klingon", "a", NULL, "", "unknown pre-tokenizer 'klingon' (known: default, gpt-2, smollm, llama-bpe, qwen2)" },
    };
    static const char *const ids[] = { "bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id",
                                       "padding_token_id" };
    lm_err err = { 0 };
    maker m = { 0 };
    for (int i = 0; i < LM_COUNT(cases); i++) {
        add_text(&m, "model", "gpt2");
        add_text(&m, "pre", cases[i].pre);
        if (cases[i].tokens) add_texts(&m, "tokens", cases[i].tokens);
        if (cases[i].types) add_types(&m, cases[i].types);
        if (cases[i].merges) add_texts(&m, "merges", cases[i].merges);
        check_refused(__LINE__, &m, cases[i].want);
    }
    for (int i = 0; i < LM_COUNT(ids); i++) {
        add_text(&m, "model", "gpt2");
        add_texts(&m, "tokens", "a");
        add_texts(&m, "merges", "");
        add_int(&m, ids[i], i % 2 ? 1 : UINT32_MAX);
        check_refused(__LINE__, &m, ids[i]);
    }
    add_text(&m, "model", "gpt2");
    add_texts(&m, "tokens", "a");
    add_texts(&m, "merges", "");
    add_bool(&m, "add_eos_token", 1);
    check_refused(__LINE__, &m, "add_eos_token is true, but there is no tokenizer.ggml.eos_token_id");
    add_text(&m, "model", "gpt2");
    add_text(&m, "tokens", "a");
    check_refused(__LINE__, &m, "tokenizer.ggml.tokens: wanted an array of texts");
    add_text(&m, "model", "abacus");
    check_refused(__LINE__, &m, "no tokenizer of kind 'abacus' (have: gpt2, llama, bert)");

    add_text(&m, "pre", "gpt-2");
    lm_tok *none = make(&m, &err);
    CHECK(!none && !err.code, "no tokenizer.ggml.model: %s", err.msg);

    /* Holes in the numbering are no duplicates, and a missing pre is "default". */
    add_text(&m, "model", "gpt2");
    add_texts(&m, "tokens", "a||b||");
    add_texts(&m, "merges", "");
    lm_tok *t = make(&m, &err);
    CHECK(t, "holes: %s", err.msg);
    if (t) CHECK_IDS(t, "ab", &g_plain, 0, 2);
    lm_tok_free(t);
}

/* Damage the bytes of good metadata at random: whatever comes of it, nothing crashes or leaks. */
static void test_mutations(void) {
    static const char text[] = "ab <s>abc<u>  \xC3\xA9 abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc \xFF";
    uint32_t seed = 7;
    int built = 0;
    for (int round = 0; round < 20000; round++) {
        maker m = { 0 };
        lm_err err = { 0 };
        add_letters(&m);
        add_bool(&m, "add_bos_token", 1);
        for (int k = round % 4; k >= 0; k--) {
            seed = seed * 1664525 + 1013904223;
            size_t at = (seed >> 8) % m.b.n;
            seed = seed * 1664525 + 1013904223;
            m.b.data[at] = (char)(round % 3 ? m.b.data[at] ^ 1 << (seed >> 29) : (int)(seed >> 24));
        }
        lm_tok *t = make(&m, &err);
        if (t) {
            built++;
            lm_err failed = { 0 };
            lm_ids ids = { 0 };
            lm_tok_options all = { .add_special = 1, .parse_special = 1 };
            lm_tok_encode(t, text, sizeof text, &all, 0, g_never, &ids, &failed);
            for (size_t i = 0; i < ids.n; i++) {
                if (ids.data[i] < 0 || ids.data[i] >= lm_tok_count(t)) CHECK(0, "round %d: id %d", round, ids.data[i]);
            }
            lm_ids_clear(&ids);
        }
        lm_tok_free(t);
    }
    CHECK(built > 1000 && lm_mem_used() == 0, "%d of 20000 built, %llu bytes leaked", built,
          (unsigned long long)lm_mem_used());
}

/*----------------------------------------------------------------------
** No memory: the n-th allocation fails, for every n */

static int g_left = -1;

static void *failing_alloc(uint64_t n) {
    if (!g_left) return NULL;
    if (g_left > 0) g_left--;
    return malloc(n);
}

static void test_no_memory(void) {
    lm_mem_hook_set(&(lm_mem_hook){ failing_alloc, free });
    char text[3000];
    memset(text, 'a', sizeof text);
    memcpy(text, "ab \xFF", 4);
    int done = 0, n = 0;
    for (; n < 500 && !done; n++) {
        lm_err err = { 0 };
        maker m = { 0 };
        lm_ids ids = { 0 };
        add_letters(&m);
        lm_meta *meta = lm_meta_new(m.b.data, m.b.n, &err);
        g_left = n;
        lm_tok *t = lm_tok_new(meta, meta, &err);
        if (t) lm_tok_encode(t, text, sizeof text, &g_parse, 0, g_never, &ids, &err);
        g_left = -1;
        /* PCRE2 does without its machine code when there is no memory for it: that n succeeds, and rightly. */
        CHECK(err.code ? err.code == LM_NOMEM : ids.n == sizeof text - 2, "allocation %d: %zu ids, %s", n, ids.n, err.msg);
        done = !err.code && n > 60;
        lm_ids_clear(&ids);
        lm_tok_free(t);
        lm_meta_free(meta);
        lm_buf_clear(&m.b);
        CHECK(lm_mem_used() == 0, "allocation %d: %llu bytes leaked", n, (unsigned long long)lm_mem_used());
    }
    CHECK(done, "still failing after %d allocations", n);
}

/*----------------------------------------------------------------------
** Threads share a tokenizer, on stacks of 256 KiB */

typedef struct { const lm_tok *t; const char *text; size_t n; unsigned hash; } job;

static void *run_job(void *arg) {
    job *j = arg;
    for (int i = 0; i < 3; i++) {
        lm_err err = { 0 };
        lm_ids ids = { 0 };
        lm_tok_encode(j->t, j->text, j->n, &g_parse, 0, g_never, &ids, &err);
        j->hash = err.code ? 0 : fold(&ids);
        lm_ids_clear(&ids);
    }
    return NULL;
}

static void test_threads(void) {
    lm_tok *t = open_with(g_small, "qwen2");
    size_t n;
    char *text = read_whole("tests/golden/tok_fuzz.txt", &n);
    if (!t || !text) return;
    lm_ids ids = encode(t, text, n, &g_parse);
    pthread_attr_t attr;
    pthread_t threads[4];
    job jobs[4];
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 << 10);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (job){ t, text, n, 0 };
        pthread_create(&threads[i], &attr, run_job, &jobs[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK(jobs[i].hash == fold(&ids), "thread %d got other ids", i);
    }
    pthread_attr_destroy(&attr);
    lm_ids_clear(&ids);
    lm_tok_free(t);
    free(text);
}

int main(void) {
    lm_err err = { 0 };
    lm_gguf *g = lm_gguf_open(g_real, &err);
    lm_tok *real = NULL;
    double start = cpu_seconds();
    if (g) real = lm_tok_new(lm_gguf_meta(g), lm_gguf_meta(g), &err);
    double took = cpu_seconds() - start;
    lm_gguf_close(g);
    if (real) {
        CHECK(took < 2, "building SmolLM2's tokenizer took %.0f ms", took * 1e3);
        CHECK(lm_tok_count(real) == 49152 && lm_tok_is_eog(real, 2) && lm_tok_eos(real) == 2, "SmolLM2's vocabulary");
        test_tokenize_json(real, "smollm2");
    } else {
        printf("skipped: SmolLM2's own vocabulary: %s\n", err.msg);
    }
    test_fuzz_golden(real);
    lm_tok_free(real);
    test_long_piece();
    test_runs();
    test_limit();
    test_specials();
    test_whole_words();
    test_refusals();
    test_chosen_spellings();
    test_mutations();
    test_no_memory();
    test_threads();
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
    return finish_tests();
}

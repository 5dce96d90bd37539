/* vocab_test.c: learning a vocabulary. Its merges are those of `tokenizers` (tests/golden/vocab.json, by make_vocab.py)
** and of counting by hand, whatever the order of the texts; what is learnt is a tokenizer that gives every text back;
** memory is bounded; it can be stopped; and every allocation may fail. */
#include "harness.h"

enum { TEXTS_MAX = 300 };

typedef struct { lm_buf all; size_t end[TEXTS_MAX]; int n; } corpus;   /* texts end to end */

static void add_text(corpus *c, const char *text, size_t n, lm_err *err) {
    lm_buf_append(&c->all, text, n, err);
    if (c->n < TEXTS_MAX) c->end[c->n++] = c->all.n;
}

static lm_vocab *learn(const corpus *c, int backwards, int size, lm_err *err) {
    lm_vocab *v = lm_vocab_new(err);
    for (int k = 0; k < c->n; k++) {
        int i = backwards ? c->n - 1 - k : k;
        size_t from = i ? c->end[i - 1] : 0;
        lm_vocab_add(v, c->all.data + from, c->end[i] - from, (lm_stop){0}, err);
    }
    lm_vocab_train(v, size, (lm_stop){0}, err);
    return v;
}

/* Append "left right", in hexadecimal or as it is. */
static void print_merge(const lm_vocab *v, int i, const char *format, lm_buf *out, lm_err *err) {
    int32_t side[2];
    lm_vocab_merge(v, i, &side[0], &side[1]);
    for (int k = 0; k < 2; k++) {
        size_t n;
        const char *bytes = lm_vocab_piece(v, side[k], &n);
        if (k) lm_buf_append(out, " ", 1, err);
        for (size_t b = 0; b < n; b++) lm_buf_print(out, err, format, (uint8_t)bytes[b]);
    }
}

/*----------------------------------------------------------------------
** By hand */
static void check_merges(const char *text, int size, const char *want) {
    lm_err err = {0};
    lm_buf got = {0};
    corpus c = {0};
    add_text(&c, text, strlen(text), &err);
    lm_vocab *v = learn(&c, 0, size, &err);
    for (int i = 0; i < lm_vocab_n_merges(v); i++) {
        if (i) lm_buf_append(&got, ", ", 2, &err);
        print_merge(v, i, "%c", &got, &err);
    }
    lm_buf_append(&got, "", 1, &err);
    CHECK(!err.code && !strcmp(got.data, want), "'%s': merges are '%s', wanted '%s' %s", text, got.data, want, err.msg);
    lm_vocab_free(v);
    lm_buf_clear(&got);
    lm_buf_clear(&c.all);
}

static void test_by_hand(void) {
    check_merges("", 300, "");
    check_merges("x y z", 300, "");                                     /* no pair occurs twice */
    check_merges("aaa aaa", 300, "a a, aa a");                          /* four pairs a a, of which two can become a token */
    check_merges("zz\nzz\naa\naa\n", 258, "a a");                       /* equals: the lowest ids; and room for one */
    check_merges("hug pug pun bun hugs hug", 300, "u g, h ug, u n,   p,   hug");     /* 4, 3, 2, 2, 2: a space has a high id */
}

/*----------------------------------------------------------------------
** Against `tokenizers` */
static void add_file(corpus *c, const char *path, lm_err *err) {
    static char line[65536];
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s is missing", path);
    while (f && fgets(line, sizeof line, f)) {
        lm_json j;
        lm_json_init(&j, line, strlen(line));
        if (lm_json_next(&j, err) == LM_JSON_TEXT) add_text(c, j.string.data, j.string.n, err);
        lm_json_clear(&j);
    }
    if (f) fclose(f);
}

static void check_golden(int number, const corpus *c, int size, const lm_buf *want, lm_err *err) {
    for (int backwards = 0; backwards < 2; backwards++) {
        lm_buf got = {0};
        lm_vocab *v = learn(c, backwards, size + 1, err);
        for (int i = 0; i < lm_vocab_n_merges(v); i++) {
            print_merge(v, i, "%02x", &got, err);
            lm_buf_append(&got, "\n", 1, err);
        }
        size_t same = 0;
        while (same < got.n && same < want->n && got.data[same] == want->data[same]) same++;
        CHECK(got.n == want->n && same == got.n, "vocab.json, case %d: other merges from byte %zu of %zu on", number, same, want->n);
        lm_vocab_free(v);
        lm_buf_clear(&got);
    }
}

static void test_golden(void) {
    size_t n;
    char *text = read_file("tests/golden/vocab.json", &n);
    int cases = 0;
    lm_err err = {0};
    lm_json j;
    lm_json_init(&j, text, n);
    CHECK(lm_json_next(&j, &err) == LM_JSON_ARRAY, "tests/golden/vocab.json: %s", err.msg);
    for (; lm_json_next(&j, &err) == LM_JSON_OBJECT; cases++) {
        corpus c = {0};
        lm_buf want = {0};
        int size = 0;
        while (lm_json_next(&j, &err) != LM_JSON_END) {
            if (!strcmp(j.key.data, "file")) add_file(&c, j.string.data, &err);
            else if (!strcmp(j.key.data, "texts")) while (lm_json_next(&j, &err) == LM_JSON_TEXT) add_text(&c, j.string.data, j.string.n, &err);
            else if (!strcmp(j.key.data, "size")) size = (int)j.integer;
            else while (lm_json_next(&j, &err) == LM_JSON_TEXT) lm_buf_print(&want, &err, "%s\n", j.string.data);
        }
        check_golden(cases, &c, size, &want, &err);
        lm_buf_clear(&want);
        lm_buf_clear(&c.all);
    }
    CHECK(!err.code && cases >= 13, "tests/golden/vocab.json: %d cases: %s", cases, err.msg);
    lm_json_clear(&j);
    free(text);
}

/*----------------------------------------------------------------------
** As a tokenizer */
static uint32_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void check_round_trip(const lm_tok *t, const char *text, size_t n, lm_err *err) {
    lm_ids ids = {0};
    lm_buf back = {0}, want = {0};
    lm_tok_encode(t, text, n, &(lm_tok_options){0}, 0, (lm_stop){0}, &ids, err);
    for (size_t i = 0; i < ids.n; i++) {
        size_t piece_n;
        const char *piece = lm_tok_bytes(t, ids.data[i], &piece_n);
        lm_buf_append(&back, piece, piece_n, err);
    }
    lm_utf8_repair(&want, text, n, err);
    CHECK(!err->code && back.n == want.n && (!back.n || !memcmp(back.data, want.data, back.n)), "a text of %zu bytes comes back as %zu: %s", n,
          back.n, err->msg);
    lm_ids_clear(&ids);
    lm_buf_clear(&back);
    lm_buf_clear(&want);
}

static void test_tokenizer(void) {
    enum { SIZE = 500 };
    lm_err err = {0};
    corpus c = {0};
    lm_buf raw = {0};
    add_file(&c, "tests/bench/texts.jsonl", &err);
    lm_vocab *v = learn(&c, 0, SIZE, &err);
    lm_vocab_write(v, &raw, &err);
    lm_meta *meta = lm_meta_new(raw.data, raw.n, &err);
    lm_tok *t = lm_tok_new(meta, meta, &err);
    CHECK(t && lm_tok_count(t) == SIZE && lm_vocab_count(v) == SIZE, "the vocabulary is no tokenizer: %s", err.msg);
    for (int32_t id = 0; t && id < SIZE; id++) {
        size_t a_n, b_n;
        const char *a = lm_vocab_piece(v, id, &a_n), *b = lm_tok_bytes(t, id, &b_n);
        CHECK(a_n == b_n && !memcmp(a, b, a_n), "token %d adds other bytes", id);
    }
    CHECK(t && lm_tok_eos(t) == SIZE - 1 && lm_tok_is_eog(t, SIZE - 1) && lm_tok_type(t, SIZE - 1) == LM_TOK_CONTROL, "no end token");
    uint64_t state = 7;
    for (int round = 0; t && round < 300; round++) {
        char text[200];
        size_t n = draw(&state) % sizeof text;
        for (size_t i = 0; i < n; i++) text[i] = round % 2 ? (char)draw(&state) : ("aeinrst \n.'"[draw(&state) % 11]);
        check_round_trip(t, text, n, &err);
    }
    for (int i = 0; t && i < c.n; i++) check_round_trip(t, c.all.data, c.end[i], &err);
    lm_tok_free(t);
    lm_meta_free(meta);
    lm_vocab_free(v);
    lm_buf_clear(&raw);
    lm_buf_clear(&c.all);
}

/*----------------------------------------------------------------------
** Bounds: memory, lengths, stopping */
static int count_down(void *left) { return (*(int *)left)-- <= 0; }

static void test_bounds(void) {
    enum { N = 6 << 20 };
    lm_err err = {0};
    char *text = malloc(N);
    uint64_t state = 1;
    uint64_t before = lm_mem_used();
    CHECK(text, "no memory for the test");
    for (size_t i = 0; text && i < N; i++) text[i] = (char)('a' + draw(&state) % 26);
    lm_vocab *v = lm_vocab_new(&err);
    for (int i = 0; i < 4; i++) {               /* 24 MB, all different: one word without end, counted by pieces of 256 bytes */
        lm_vocab_add(v, text, N - 1 - (size_t)i, (lm_stop){0}, &err);
        for (size_t k = 0; k < N; k += 13) text[k] = (char)('a' + draw(&state) % 26);
    }
    CHECK(!err.code && lm_vocab_n_words(v) == (8 << 20) / 256, "%zu words, wanted %d: %s", lm_vocab_n_words(v), (8 << 20) / 256, err.msg);
    CHECK(lm_mem_used() - before < 24 << 20, "%llu bytes for 8 MiB of words", (unsigned long long)(lm_mem_used() - before));
    lm_vocab_free(v);

    for (int asks = 0, stopped = 1; stopped && asks < 4000; asks = 2 * asks + 1) {
        int left = asks;
        lm_stop stop = { count_down, &left };
        err = (lm_err){0};
        v = lm_vocab_new(&err);
        lm_vocab_add(v, text, 1 << 18, stop, &err);
        lm_vocab_train(v, 300, stop, &err);
        stopped = err.code == LM_INTERRUPT;
        CHECK(stopped || (!err.code && asks > 100), "%d asks: %s", asks, err.msg);
        lm_vocab_free(v);
    }

    err = (lm_err){0};
    v = lm_vocab_new(&err);
    lm_vocab_train(v, 256, (lm_stop){0}, &err);
    CHECK(strstr(err.msg, "a vocabulary of 256 tokens: expected 257 to"), "%s", err.msg);
    lm_vocab_free(v);
    free(text);
}


/*----------------------------------------------------------------------
** Every allocation fails once: of learning, of writing it down, of a design's tensors. */
static int64_t allocs_left = INT64_MAX;

static void *failing_alloc(uint64_t n) { return allocs_left-- > 0 ? malloc(n) : NULL; }

static void test_no_memory(void) {
    static const lm_mem_hook hook = { failing_alloc, free };
    int failed = 0, done = 0;
    lm_mem_hook_set(&hook);
    for (int at = 0; !done && at < 10000; at++) {
        lm_err err = {0};
        lm_buf meta = {0};
        int n = 0;
        lm_design d = { .arch = "llama", .n_layers = 3, .n_embd = 32, .n_heads = 2, .n_ctx = 8, .n_vocab = 300, .n_experts = 3 };
        allocs_left = at;
        lm_vocab *v = lm_vocab_new(&err);
        for (int i = 0; v && i < 3; i++) lm_vocab_add(v, "a text \xFF of words, of words\n", 29, (lm_stop){0}, &err);
        if (v) lm_vocab_train(v, 300, (lm_stop){0}, &err);
        if (!err.code) lm_vocab_write(v, &meta, &err);
        lm_tensor *tensors = lm_design_list(&d, &meta, &n, &err);
        done = !err.code;
        failed += err.code == LM_NOMEM;
        CHECK(done ? n == 3 + 3 * 10 : err.code == LM_NOMEM && !tensors, "allocation %d: %d tensors: %s", at, n, err.msg);
        lm_free(tensors);
        lm_vocab_free(v);
        lm_buf_clear(&meta);
        CHECK(lm_mem_used() == 0, "allocation %d: %llu bytes left", at, (unsigned long long)lm_mem_used());
    }
    CHECK(done && failed > 20, "%d allocations failed", failed);
    allocs_left = INT64_MAX;
}

int main(void) {
    test_by_hand();
    test_golden();
    test_tokenizer();
    test_bounds();
    test_no_memory();
    CHECK(lm_mem_used() == 0, "%llu bytes left", (unsigned long long)lm_mem_used());
    return finish_tests();
}

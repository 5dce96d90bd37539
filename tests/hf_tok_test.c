/* hf_tok_test.c: tokenizer.json files, held against what Hugging Face's tokenizers gives, and lies. */
#define _POSIX_C_SOURCE 200809L
#include "tok_harness.h"

enum { N_FILES = 14 };
static const char *const g_files[N_FILES] = { "bert", "bert_cased", "gpt2", "roberta", "llama2", "llama3", "qwen2_5", "mistral_nemo",
                                              "gemma3", "deepseek_v3", "xlmr", "t5", "albert", "unigram_bytes" };

/* Make a tokenizer of a tokenizer.json's text; what was added to m goes along. */
static lm_tok *make_json(maker *m, const char *json, size_t n, lm_err *err) {
    put_text(m, "tokenizer.huggingface.json");
    put_le(m, LM_META_TEXT, 4);
    put_le(m, n, 8);
    put(m, json, n);
    return make(m, err);
}

static lm_tok *open_file(const char *path) {
    lm_err err = { 0 };
    maker m = { 0 };
    size_t n;
    char *json = read_whole(path, &n);
    lm_tok *t = json ? make_json(&m, json, n, &err) : NULL;
    CHECK(t, "%s: %s", path, json ? err.msg : "cannot be read (run from the top folder)");
    free(json);
    return t;
}

static lm_tok *open_golden(const char *name) {
    char path[80];
    snprintf(path, sizeof path, "tests/golden/hf_tok/%s.json", name);
    return open_file(path);
}

/*----------------------------------------------------------------------
** The ids of Hugging Face's tokenizers: tests/golden/hf_tok_fuzz.txt */

static void check_line(lm_tok *const *toks, char *line, char *end, int number) {
    unsigned want[N_FILES];
    for (int i = 0; i < N_FILES; i++) {
        want[i] = i && *line == '=' ? want[i - 1] : (unsigned)strtoul(line, NULL, 16);
        line = strchr(line, ' ') + 1;
    }
    size_t n = unescape(line, end);
    for (int i = 0; i < N_FILES; i++) {
        if (!toks[i]) continue;
        lm_ids ids = encode(toks[i], line, n, &g_parse);
        CHECK(fold(&ids) == want[i], "hf_tok_fuzz.txt:%d: %s: %zu ids that hash to %04x, wanted %04x", number, g_files[i], ids.n,
              fold(&ids), want[i]);
        lm_ids_clear(&ids);
    }
}

static void test_fuzz_golden(lm_tok *const *toks) {
    size_t n;
    int number = 0;
    char *file = read_whole("tests/golden/hf_tok_fuzz.txt", &n);
    CHECK(file, "tests/golden/hf_tok_fuzz.txt cannot be read (run from the top folder)");
    for (char *line = file, *end; line && (end = memchr(line, '\n', n - (size_t)(line - file))); line = end + 1) check_line(toks, line, end, ++number);
    CHECK(number > 6000, "hf_tok_fuzz.txt has %d texts, wanted over 6000", number);
    free(file);
}

/* cases.json: ids with what the post-processor adds, and the text they decode to. */
static void check_case(const lm_tok *t, const char *name, const lm_buf *text, const lm_ids *want, const lm_buf *decoded) {
    lm_err err = { 0 };
    lm_tok_options options = { .add_special = 1, .parse_special = 1 };
    lm_ids ids = encode(t, text->data, text->n, &options);
    CHECK(ids.n == want->n && !memcmp(ids.data, want->data, 4 * ids.n), "cases.json: %s: '%.*s': other ids", name, (int)text->n, text->data);
    lm_buf back = { 0 }, repaired = { 0 };
    for (size_t i = 0, n; i < ids.n; i++) {
        const char *bytes = lm_tok_bytes(t, ids.data[i], &n);
        size_t drop = (size_t)lm_tok_drops_space(t, i ? ids.data[i - 1] : -1, ids.data[i]);
        lm_buf_append(&back, bytes + drop, n - drop, &err);
    }
    lm_utf8_repair(&repaired, back.data, back.n, &err);
    CHECK(repaired.n == decoded->n && !memcmp(repaired.data, decoded->data, repaired.n), "cases.json: %s: decoded to '%.*s', wanted '%.*s'",
          name, (int)repaired.n, repaired.data, (int)decoded->n, decoded->data);
    lm_buf_clear(&back);
    lm_buf_clear(&repaired);
    lm_ids_clear(&ids);
}

static void test_cases(lm_tok *const *toks) {
    lm_err err = { 0 };
    lm_json j;
    size_t n;
    int kind, count = 0;
    char *file = read_whole("tests/golden/hf_tok/cases.json", &n);
    if (!file) return;
    lm_json_init(&j, file, n);
    lm_json_next(&j, &err);
    while ((kind = lm_json_next(&j, &err)) == LM_JSON_ARRAY) {
        int i = 0;
        while (i < N_FILES && strcmp(g_files[i], j.key.data)) i++;
        if (i == N_FILES) {
            lm_json_skip(&j, kind, &err);
            continue;
        }
        while (lm_json_next(&j, &err) == LM_JSON_OBJECT) {
            lm_buf text = { 0 }, decoded = { 0 };
            lm_ids want = { 0 };
            while ((kind = lm_json_next(&j, &err)) != LM_JSON_END) {
                if (kind == LM_JSON_ARRAY) want = read_ids(&j, &err);
                else lm_buf_append(strcmp(j.key.data, "text") ? &decoded : &text, j.string.data, j.string.n, &err);
            }
            if (toks[i]) check_case(toks[i], g_files[i], &text, &want, &decoded);
            count++;
            lm_buf_clear(&text);
            lm_buf_clear(&decoded);
            lm_ids_clear(&want);
        }
    }
    CHECK(!err.code && count == 10 * N_FILES, "cases.json: %d cases: %s", count, err.msg);
    lm_json_clear(&j);
    free(file);
}

int main(void) {
    lm_tok *toks[N_FILES];
    for (int i = 0; i < N_FILES; i++) toks[i] = open_golden(g_files[i]);
    test_fuzz_golden(toks);
    test_cases(toks);
    for (int i = 0; i < N_FILES; i++) lm_tok_free(toks[i]);
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
    return finish_tests();
}

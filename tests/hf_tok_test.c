/* hf_tok_test.c: tokenizer.json files, held against what Hugging Face's tokenizers gives, and lies. */
#define _POSIX_C_SOURCE 200809L
#include "tok_harness.h"

#include <pthread.h>

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
    CHECK(ids.n == want->n && (!ids.n || !memcmp(ids.data, want->data, 4 * ids.n)), "cases.json: %s: '%.*s': other ids", name, (int)text->n, text->data);
    lm_buf back = { 0 }, repaired = { 0 };
    for (size_t i = 0, n; i < ids.n; i++) {
        const char *bytes = lm_tok_bytes(t, ids.data[i], &n);
        size_t drop = (size_t)lm_tok_drops_space(t, i ? ids.data[i - 1] : -1, ids.data[i]);
        lm_buf_append(&back, bytes + drop, n - drop, &err);
    }
    lm_utf8_repair(&repaired, back.data, back.n, &err);
    CHECK(repaired.n == decoded->n && (!repaired.n || !memcmp(repaired.data, decoded->data, repaired.n)), "cases.json: %s: decoded to '%.*s', wanted '%.*s'",
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

/*----------------------------------------------------------------------
** A BERT vocabulary in GGUF's form: word-initial pieces begin with U+2581, the others have lost their ## */

static lm_tok *open_gguf_bert(void) {
    lm_err err = { 0 };
    maker m = { 0 }, types = { 0 };
    lm_tok *hf = open_golden("bert");
    if (!hf) return NULL;
    add_text(&m, "model", "bert");
    put_key(&m, "tokens", LM_META_ARRAY);
    put_le(&m, LM_META_TEXT, 4);
    put_le(&m, (uint64_t)lm_tok_count(hf), 8);
    for (int32_t id = 0; id < lm_tok_count(hf); id++) {
        size_t n;
        const char *text = lm_tok_text(hf, id, &n);
        int is_special = lm_tok_type(hf, id) != LM_TOK_NORMAL, goes_on = n > 2 && !memcmp(text, "##", 2);
        put_le(&m, is_special ? n : goes_on ? n - 2 : n + 3, 8);
        if (!is_special && !goes_on) put(&m, "\xE2\x96\x81", 3);
        put(&m, text + (goes_on ? 2 : 0), n - (goes_on ? 2 : 0));
        put_le(&types, is_special ? LM_TOK_CONTROL : LM_TOK_NORMAL, 4);
    }
    put_key(&m, "token_type", LM_META_ARRAY);
    put_le(&m, LM_META_I32, 4);
    put_le(&m, (uint64_t)lm_tok_count(hf), 8);
    put(&m, types.b.data, types.b.n);
    add_int(&m, "unknown_token_id", (uint32_t)lm_tok_special(hf, "[UNK]", 5));
    add_int(&m, "cls_token_id", (uint32_t)lm_tok_special(hf, "[CLS]", 5));
    add_int(&m, "seperator_token_id", (uint32_t)lm_tok_special(hf, "[SEP]", 5));
    lm_buf_clear(&types.b);
    lm_tok_free(hf);
    lm_tok *t = make(&m, &err);
    CHECK(t && !strcmp(lm_tok_kind(t), "bert"), "GGUF's BERT: %s", err.msg);
    return t;
}

static void test_gguf_bert(const lm_tok *hf) {
    lm_tok *t = open_gguf_bert();
    size_t n;
    char *file = read_whole("tests/golden/hf_tok_fuzz.txt", &n);
    lm_tok_options add = { .add_special = 1, .parse_special = 1 };
    for (char *line = file, *end; t && line && (end = memchr(line, '\n', n - (size_t)(line - file))); line = end + 1) {
        for (int i = 0; i < N_FILES; i++) line = strchr(line, ' ') + 1;
        size_t text_n = unescape(line, end);
        lm_ids want = encode(hf, line, text_n, &add), got = encode(t, line, text_n, &add);
        CHECK(got.n == want.n && !memcmp(got.data, want.data, 4 * got.n), "GGUF's BERT: '%.*s': %zu ids, wanted %zu or other ones",
              (int)text_n, line, got.n, want.n);
        lm_ids_clear(&got);
        lm_ids_clear(&want);
    }
    if (t) {
        lm_ids ids = encode(t, "Hello, unaffable world!", 23, &g_plain);
        lm_err err = { 0 };
        lm_buf back = { 0 };
        for (size_t i = 0; i < ids.n; i++) {
            const char *bytes = lm_tok_bytes(t, ids.data[i], &n);
            size_t drop = (size_t)lm_tok_drops_space(t, i ? ids.data[i - 1] : -1, ids.data[i]);
            lm_buf_append(&back, bytes + drop, n - drop, &err);
        }
        CHECK(back.n == 25 && !memcmp(back.data, "hello , unaffable world !", 25), "decoded to '%.*s'", (int)back.n, back.data);
        lm_buf_clear(&back);
        lm_ids_clear(&ids);
    }
    lm_tok_free(t);
    free(file);
}

/*----------------------------------------------------------------------
** Files made by hand */

/* A file of a model and more members; ' is written for ". */
static lm_tok *make_file(const char *text, lm_err *err) {
    maker m = { 0 };
    size_t n = strlen(text);
    char *json = malloc(n + 1);
    for (size_t i = 0; i <= n; i++) json[i] = text[i] == '\'' ? '"' : text[i];
    lm_tok *t = make_json(&m, json, n, err);
    free(json);
    return t;
}

#define LETTERS "'model':{'type':'BPE','vocab':{'a':0,'b':1,'c':2,' ':3,'ab':4,'<s>':5,'\\u2581':6,'-':7,'1':8,'.':9},'merges':['a b']}"
#define WORDS "'model':{'type':'WordPiece','unk_token':'?','vocab':{'?':0,'ab':1,'##c':2,'c':3,'[X]':4,'.':5,'1':6,'##1':7}}"
#define PIECES "'model':{'type':'Unigram','unk_id':0,'vocab':[['?',0],['a',-1],['b',-1],['ab',-1.5],['<s>',0],['<',-9],['s',-9],['>',-9]]}"

static void test_small(void) {
    static const struct { const char *file, *text; int parse; int ids[12]; } cases[] = {
        { "{" LETTERS "}", "abc", 0, { 4, 2, -1 } },
        { "{" LETTERS "}", "azb", 0, { 4, -1 } },                           /* what is unknown vanishes, its neighbours meet */
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'b'},'behavior':'Isolated'}}", "abc", 0, { 0, 1, 2, -1 } },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'String':'-'},'behavior':'Removed'}}", "a-b", 0, { 0, 1, -1 } },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[^-]'},'behavior':'Removed','invert':true}}", "a-b", 0, { 0, 1, -1 } },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Digits','individual_digits':true}}", "a1b", 0, { 0, 8, 1, -1 } },
        { "{" LETTERS ",'pre_tokenizer':{'type':'CharDelimiterSplit','delimiter':'.'}}", "a.b", 0, { 0, 1, -1 } },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Whitespace'}}", "a- b", 0, { 0, 7, 1, -1 } },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Metaspace','replacement':'\\u2581'}}", "ab a", 0, { 6, 4, 6, 0, -1 } },
        { "{" LETTERS ",'normalizer':{'type':'Sequence','normalizers':[{'type':'Strip'},{'type':'Lowercase'}]}}", " AB ", 0, { 4, -1 } },
        { "{" LETTERS ",'normalizer':{'type':'Replace','pattern':{'Regex':'(?=b)'},'content':'c'}}", "ab", 0, { 0, 2, 1, -1 } },
        /* A special token is found only where asked for; one that is not special always is. */
        { "{" LETTERS ",'added_tokens':[{'id':5,'content':'<s>','special':true}]}", "a<s>b", 1, { 0, 5, 1, -1 } },
        { "{" LETTERS ",'added_tokens':[{'id':5,'content':'<s>','special':true}]}", "a<s>b", 0, { 4, -1 } },
        { "{" LETTERS ",'added_tokens':[{'id':5,'content':'<s>','special':false}]}", "a<s>b", 0, { 0, 5, 1, -1 } },
        { "{" LETTERS ",'added_tokens':[{'id':77,'content':'bb'}]}", "abb", 0, { 0, 10, -1 } },     /* its id is the next, 77 or not */
        { "{" LETTERS ",'added_tokens':[{'content':'c','lstrip':true,'rstrip':true}]}", "a  c  b", 0, { 0, 2, 1, -1 } },
        { "{" WORDS "}", "abc", 0, { 1, 2, -1 } },
        { "{" WORDS "}", "abz", 0, { 0, -1 } },
        { "{" WORDS ",'added_tokens':[{'content':'[X]','special':true}]}", "[X]", 0, { 0, -1 } },   /* spelled in the vocabulary, yet text */
        { "{" WORDS ",'added_tokens':[{'content':'[X]','special':true}]}", "[X]", 1, { 4, -1 } },
        { "{" PIECES "}", "ab", 0, { 3, -1 } },
        { "{" PIECES "}", "azzb", 0, { 1, 0, 2, -1 } },                     /* unknowns are one */
        { "{" PIECES "}", "<s>", 0, { 4, -1 } },
        { "{" PIECES ",'added_tokens':[{'content':'<s>','special':true}]}", "a<s>", 0, { 1, 5, 6, 7, -1 } },
        { "{" PIECES ",'added_tokens':[{'content':'<s>','special':true}]}", "a<s>", 1, { 1, 4, -1 } },
    };
    for (int i = 0; i < LM_COUNT(cases); i++) {
        lm_err err = { 0 };
        lm_tok *t = make_file(cases[i].file, &err);
        CHECK(t, "case %d: %s", i, err.msg);
        if (t) check_ids(1000 + i, t, cases[i].text, cases[i].parse ? &g_parse : &g_plain, cases[i].ids);
        lm_tok_free(t);
    }
}

/* What stands around a file: ids from the metadata, marked spans, invalid UTF-8. */
static void test_asking(void) {
    lm_err err = { 0 };
    maker m = { 0 };
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\xEF\xBF\xBD\":2,\" \":5},\"merges\":[]},"
        "\"added_tokens\":[{\"content\":\"<|im_end|>\",\"special\":true,\"rstrip\":true},{\"content\":\"<u>\"}],"
        "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":\"BertProcessing\","
        "\"cls\":[\"b\",1],\"sep\":[\"a\",0]}]},\"truncation\":{\"max_length\":1},\"padding\":{\"length\":9}}";
    lm_tok *t = make_json(&m, json, sizeof json - 1, &err);
    CHECK(!t && strstr(err.msg, "'<|im_end|>': its id falls among the vocabulary's"), "%s", err.msg);
    err = (lm_err){ 0 };
    char *dense = strdup(json);
    memcpy(strstr(dense, "\":5}"), "\":3}", 4);
    add_int(&m, "bos_token_id", 1);
    add_int(&m, "eos_token_id", 0);
    put_key(&m, "eog_token_ids", LM_META_ARRAY);
    put_le(&m, LM_META_U32, 4);
    put_le(&m, 1, 8);
    put_le(&m, 2, 4);
    t = make_json(&m, dense, sizeof json - 1, &err);
    free(dense);
    CHECK(t, "%s", err.msg);
    if (!t) return;
    lm_tok_options add = { .add_special = 1 };
    CHECK_IDS(t, "ab", &add, 1, 0, 1, 0);
    CHECK_IDS(t, "a\xFF" "b\xE2\x82", &g_plain, 0, 2, 1, 2);
    lm_span spans[] = { { 1, 10 }, { 13, 1 } };
    lm_tok_options marked = { .specials = spans, .n_specials = 2 };
    CHECK_IDS(t, "a<|im_end|>  b<|im_end|>", &marked, 0, 4, 1);     /* the white space goes with the token, as said */
    CHECK_IDS(t, "a<|im_end|>  b<|im_end|>a<u>", &g_parse, 0, 4, 1, 4, 0, 5);
    CHECK(lm_tok_count(t) == 6 && lm_tok_bos(t) == 1 && lm_tok_eos(t) == 0, "count, bos, eos");
    CHECK(lm_tok_is_eog(t, 0) && lm_tok_is_eog(t, 2) && lm_tok_is_eog(t, 4) && !lm_tok_is_eog(t, 1), "is_eog");
    CHECK(lm_tok_type(t, 4) == LM_TOK_CONTROL && lm_tok_type(t, 5) == LM_TOK_USER && lm_tok_type(t, 0) == LM_TOK_NORMAL, "types");
    CHECK(lm_tok_special(t, "<|im_end|>", 10) == 4 && lm_tok_special(t, "a", 1) == -1, "special");
    CHECK(!strcmp(lm_tok_kind(t), "bpe") && isnan(lm_tok_score(t, 0)), "kind, score");
    lm_tok_free(t);
}

/* Oniguruma's dialect: what a pattern matches is removed. */
static void test_dialect(void) {
    static const struct { const char *regex, *text; int ids[8]; } cases[] = {
        { "\\\\u0062", "abc", { 0, 2, -1 } }, { "\\\\x{62}", "abc", { 0, 2, -1 } }, { "\\\\u62", "", { -2 } },
        { "[[:alpha:]]", "a1", { 8, -1 } }, { "[[:digit:][:punct:]]", "a1.b", { 0, 1, -1 } }, { "[^[:alnum:]]", "a-b", { 0, 1, -1 } },
        { "[[:nope:]]", "", { -2 } }, { "[[:alpha", "", { -2 } }, { "[a[b]]", "", { -2 } }, { "[a&&b]", "", { -2 } }, { "[a&b]", "a-b", { 7, -1 } },
        { "\\\\h", "ab-1", { 7, -1 } }, { "\\\\H", "a-b", { 0, 1, -1 } }, { "[\\\\h]", "a-", { 7, -1 } }, { "[\\\\H]", "", { -2 } },
        { "\\\\w", "a-", { 7, -1 } }, { "\\\\W", "a-b", { 0, 1, -1 } }, { "[\\\\w]", "a-", { 7, -1 } }, { "[\\\\W]", "", { -2 } },
        { "[\\\\s]", "a b", { 0, 1, -1 } }, { "\\\\S", "a b", { 3, -1 } }, { "[\\\\S]", "a b", { 3, -1 } },
        { "[\\\\b]", "ab", { 4, -1 } }, { "\\\\bb", "a b", { 0, 3, -1 } }, { "b\\\\B", "bc b", { 2, 3, 1, -1 } }, { "[\\\\B]", "", { -2 } },
        { "[]b]", "abc", { 0, 2, -1 } }, { "[^]b]", "abc", { 1, -1 } }, { "(?i:B)", "abc", { 0, 2, -1 } }, { "(?m:a.)", "a1b", { 1, -1 } },
        { "\\\\p{Latin}", "a1", { 8, -1 } }, { "\\\\P{Latin}", "a1b", { 0, 1, -1 } }, { "\\\\p{L}", "a1", { 8, -1 } }, { "\\\\p{Nope}", "", { -2 } },
        { "a\\\\", "", { -2 } }, { "", "ab", { 0, 1, -1 } },
    };
    for (int i = 0; i < LM_COUNT(cases); i++) {
        char file[600];
        lm_err err = {0};
        lm_ids ids = {0};
        int want = 0, is_same = 1;
        lm_tok_options o = {0};
        snprintf(file, sizeof file, "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'%s'},'behavior':'Removed'}}", cases[i].regex);
        lm_tok *t = make_file(file, &err);
        CHECK((t != NULL) == (cases[i].ids[0] != -2), "%s: %s", cases[i].regex, err.msg);
        CHECK(t || strstr(err.msg, "regex '"), "%s: %s", cases[i].regex, err.msg);
        if (!t) continue;
        lm_tok_encode(t, cases[i].text, strlen(cases[i].text), &o, 0, (lm_stop){0}, &ids, &err);
        while (cases[i].ids[want] >= 0) is_same &= want < (int)ids.n && ids.data[want] == cases[i].ids[want], want++;
        CHECK(is_same && ids.n == (size_t)want && !err.code, "%s in '%s': %zu ids, the first %d %s", cases[i].regex, cases[i].text, ids.n, ids.n ? ids.data[0] : -1, err.msg);
        lm_ids_clear(&ids);
        lm_tok_free(t);
    }
}

/*----------------------------------------------------------------------
** What is not supported is named; what lies is refused, soon and in little memory */

static void test_refusals(void) {
    static const struct { const char *file, *want; } cases[] = {
        { "", "tokenizer.json: " },
        { "[]", "wanted an object" },
        { "{}", "tokenizer.json: no model" },
        { "{" LETTERS ",'version':1,'version':2}", "duplicate key \"version\"" },
        { "{'model':{'type':'BPE','vocab':{'a':0,'a':1},'merges':[]}}", "duplicate key \"a\"" },
        { "{'model':{'type':'WordLevel','vocab':{'a':0}}}", "a model of type WordLevel is not supported" },
        { "{" LETTERS ",'normalizer':{'type':'Nmt'}}", "a normalizer of type Nmt is not supported" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'UnicodeScripts'}]}}", "a pre-tokenizer of type UnicodeScripts" },
        { "{" LETTERS ",'decoder':{'type':'CTC'}}", "a decoder of type CTC" },
        { "{" LETTERS ",'post_processor':{'type':'Other'}}", "a post-processor of type Other" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'String':'a'},'behavior':'Sideways'}}", "behavior 'Sideways'" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'('},'behavior':'Removed'}}", "regex '(': missing closing" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[a[b]]'},'behavior':'Removed'}}", "a class in a class" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'ab{1001}'},'behavior':'Removed'}}", "regex 'ab{1001}': over 1000 repeats at byte 2" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'\\\\C'},'behavior':'Removed'}}", "regex '\\C'" },
        { "{" LETTERS ",'normalizer':{'type':'Precompiled','precompiled_charsmap':'AAA?'}}", "byte 3 is not base64" },
        { "{" LETTERS ",'normalizer':{'type':'Precompiled','precompiled_charsmap':'/wAAAA=='}}", "no map of characters" },
        { "{" LETTERS ",'post_processor':{'type':'BertProcessing','cls':['a',99],'sep':['a',0]}}", "an id is not one of 10 tokens" },
        { "{" LETTERS ",'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'q'}}],'special_tokens':{}}}", "lacks 'q'" },
        { "{" LETTERS ",'post_processor':{'type':'TemplateProcessing','single':[],'special_tokens':{}}}", "wanted Sequence A once" },
        { "{'model':{'type':'BPE','vocab':{'a':0,'b':4000000000},'merges':[]}}", "'b' has id 4000000000" },
        { "{'model':{'type':'BPE','vocab':{'a':0,'b':2000000000},'merges':[]}}", "'b' has id 2000000000" },
        { "{'model':{'type':'BPE','vocab':{'a':0,'b':-1},'merges':[]}}", "'b' has id -1" },
        { "{'model':{'type':'BPE','vocab':{'a':0,'b':0},'merges':[]}}", "two tokens have id 0" },
        { "{'model':{'type':'BPE','vocab':{'a':'0'},'merges':[]}}", "an id that is no whole number" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':['a a']}}", "merge 0 'a a': the vocabulary lacks what it makes" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':['a']}}", "merge 0: wanted two texts" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[['a']]}}", "merge 0: wanted two texts" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[],'unk_token':'x'}}", "unk_token 'x' is not in the vocabulary" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[],'end_of_word_suffix':'x'}}", "BPE with end_of_word_suffix" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[],'dropout':0.1}}", "BPE with dropout" },
        { "{'model':{'type':'WordPiece','vocab':{'a':0}}}", "unk_token is missing" },
        { "{'model':{'type':'Unigram','vocab':[['a',0],['a',1]]}}", "'a' is both token 0 and token 1" },
        { "{'model':{'type':'Unigram','vocab':[['a']]}}", "wanted [text, number]" },
        { "{'model':{'type':'Unigram','unk_id':7,'vocab':[['a',1]]}}", "unk_id 7 of 1 tokens" },
        { "{" LETTERS ",'added_tokens':[{'id':1}]}", "content: wanted a text" },
        { "{" LETTERS ",'added_tokens':7}", "added_tokens: wanted an array" },
        { "{" LETTERS ",'added_tokens':[{'id':1,'content':'a','lstrip':1}]}", "lstrip: wanted true or false" },
        { "{" LETTERS ",'added_tokens':[{'id':1,'content':7}]}", "?: content: wanted a text" },
        { "{" LETTERS ",'added_tokens':[7]}", "content: wanted a text" },
        { "{" LETTERS ",'normalizer':{'type':7}}", "a normalizer of type ? is not supported" },
        { "{" LETTERS ",'normalizer':[]}", "a normalizer of type ? is not supported" },
        { "{" LETTERS ",'normalizer':{'type':'Sequence'}}", "Sequence: normalizers: wanted an array" },
        { "{" LETTERS ",'normalizer':{'type':'Sequence','normalizers':{}}}", "Sequence: normalizers: wanted an array" },
        { "{" LETTERS ",'normalizer':{'type':'Sequence','z':[1],'normalizers':[{'type':'Lowercase'},{'type':'Odd'}]}}", "a normalizer of type Odd" },
        { "{" LETTERS ",'normalizer':{'type':'Replace','content':'b'}}", "Replace: pattern: wanted a String or a Regex" },
        { "{" LETTERS ",'normalizer':{'type':'Replace','pattern':{'String':7},'content':'b'}}", "Replace: pattern: wanted a String or a Regex" },
        { "{" LETTERS ",'normalizer':{'type':'Replace','pattern':{'String':'a'}}}", "Replace: content: wanted a text" },
        { "{" LETTERS ",'normalizer':{'type':'Prepend'}}", "Prepend: prepend: wanted a text" },
        { "{'model':7}", "model: wanted an object" },
        { "{'model':{'type':'BPE','vocab':7,'merges':[]}}", "vocab: wanted an object or an array" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':7}}", "merges: wanted an array" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':['']}}", "merge 0: wanted two texts" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[7]}}", "merge 0: wanted two texts" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[[7]]}}", "merge 0: wanted two texts" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[['a',7]]}}", "merge 0: wanted two texts" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[['a','a','a']]}}", "merge 0: wanted two texts" },
        { "{'model':{'type':'Unigram','vocab':[7]}}", "wanted [text, number]" },
        { "{'model':{'type':'Unigram','vocab':[['a','b']]}}", "wanted [text, number]" },
        { "{'model':{'type':'Unigram','vocab':[['a',1,2]]}}", "wanted [text, number]" },
        { "{'model':{'type':'Unigram','vocab':[[7,1]]}}", "wanted [text, number]" },
        { "{'model':{'type':'Unigram','vocab':[['a',1]],'unk_id':'x'}}", "unk_id: wanted a whole number" },
        { "{'model':{'type':'WordPiece','vocab':{'a':0},'unk_token':'a','continuing_subword_prefix':7}}", "continuing_subword_prefix: wanted a text" },
        { "{'model':{'type':'WordPiece','vocab':{'a':0},'unk_token':'a','max_input_chars_per_word':'x'}}", "max_input_chars_per_word: wanted a whole number" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[['a','a']", "tokenizer.json: JSON" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]}} x", "tokenizer.json: JSON" },
    };
    for (int i = 0; i < LM_COUNT(cases); i++) {
        lm_err err = { 0 };
        lm_tok *t = make_file(cases[i].file, &err);
        CHECK(!t && err.code == LM_ERROR && strstr(err.msg, cases[i].want), "case %d: '%s', wanted '%s'", i, err.msg, cases[i].want);
        lm_tok_free(t);
    }
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
}

/* Long things, of a count each. */
static void test_hostile(void) {
    static const struct { const char *head, *unit, *tail; int count; const char *want; } cases[] = {
        { "{'normalizer':", "[", "", 100000, "nested too deep" },
        { "{" LETTERS ",'added_tokens':[{'id':30,'content':'<x>','normalized':true}],'normalizer':{'type':'Prepend','prepend':'", "a", "'}}",
          40000, "added token '<x>': over 1024 bytes when it is normalized" },
        { "{'normalizer':", "{'type':'Sequence','normalizers':[", "", 100000, "nested too deep" },
        { "{'model':", "[", "", 100000, "model: wanted an object" },
        { "{" LETTERS ",'normalizer':{'type':'Sequence','normalizers':[", "{'type':'NFC'},", "{'type':'NFC'}]}}", 100000, "over 64 normalizers" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Sequence','pretokenizers':[", "{'type':'Digits'},", "{'type':'Digits'}]}}", 100000, "over 8 pre-tokenizers" },
        { "{" LETTERS ",'decoder':{'type':'Sequence','decoders':[", "{'type':'Fuse'},", "{'type':'Fuse'}]}}", 100000, "over 64 decoders" },
        { "{" LETTERS ",'post_processor':{'type':'Sequence','processors':[", "{'type':'BertProcessing','cls':['a',0],'sep':['a',0]},",
          "{'type':'ByteLevel'}]}}", 50000, "over 64 post-processors" },
        { "{" LETTERS ",'post_processor':{'type':'TemplateProcessing','special_tokens':{},'single':[", "{'Sequence':{'id':'B'}},", "1]}}", 50000, "over 64 parts" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'", "(a", "'}}}", 5000, "regex '(a(a" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'", "a?", "'}}}", 50000, "a regex of 100000 bytes" },
        { "{" LETTERS ",'added_tokens':[{'content':'", "a", "'}]}", 100000, "over 1024 bytes" },
        { "{'model':{'type':'BPE','vocab':{'a':0},'merges':[", "'a b',", "'a b']}}", 300000, "merge 0 'a b': the vocabulary lacks one" },
        { "{" LETTERS ",'decoder':{'type':'Replace','pattern':{'String':'a'},'content':'", "a", "'}}", 100000, "decoder makes over" },
    };
    for (int i = 0; i < LM_COUNT(cases); i++) {
        lm_err err = { 0 };
        lm_buf file = { 0 };
        lm_buf_append(&file, cases[i].head, strlen(cases[i].head), &err);
        for (int k = 0; k < cases[i].count; k++) lm_buf_append(&file, cases[i].unit, strlen(cases[i].unit), &err);
        lm_buf_append(&file, cases[i].tail, strlen(cases[i].tail) + 1, &err);
        char *text = strdup(file.data);
        lm_buf_clear(&file);
        lm_mem_limit_set(64 << 20);
        double start = cpu_seconds();
        lm_tok *t = make_file(text, &err);
        double took = cpu_seconds() - start;
        lm_mem_limit_set(0);
        CHECK(!t && err.code == LM_ERROR && strstr(err.msg, cases[i].want), "case %d: '%s', wanted '%s'", i, err.msg, cases[i].want);
        CHECK(took < 10, "case %d took %.1f s", i, took);       /* generous: a sanitizer is slow */
        lm_tok_free(t);
        free(text);
    }
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
}

/* Ten looks ahead over the same text, of which none finds anything. */
#define LOOKS "(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|(?=[^!]*1)|"

/* Regexes and replacements that would go on for ever end in an error that says so. */
static void test_endless(void) {
    static const struct { const char *file, *want; } cases[] = {
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'(a+)+c'}}}", "takes too many steps" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'(a|aa)+$'}}}", "takes too many steps" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'(.*)*c1'}}}", "takes too many steps" },
        { "{" LETTERS ",'normalizer':{'type':'Replace','pattern':{'Regex':'(a?){20}a{20}b'},'content':''}}", "takes too many steps" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'[^b]*[^b]*[^b]*c'}}}", "takes too many steps" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'" LOOKS LOOKS LOOKS LOOKS "'}}}",
          "takes too many steps" },
        { "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'" LOOKS "'}}}", "takes too many steps" },
        { "{" LETTERS ",'normalizer':{'type':'Sequence','normalizers':[{'type':'Replace','pattern':{'String':'a'},'content':"
          "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'},{'type':'Replace','pattern':{'String':'a'},'content':"
          "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}]}}", "normalizer or decoder makes over" },
    };
    static char text[100000];
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 6, "!b!c!1", 6);
    for (int i = 0; i < LM_COUNT(cases); i++) {
        lm_err err = { 0 };
        lm_ids ids = { 0 };
        lm_tok *t = make_file(cases[i].file, &err);
        CHECK(t, "case %d: %s", i, err.msg);
        double start = cpu_seconds();
        if (t) lm_tok_encode(t, text, sizeof text, &g_plain, 0, g_never, &ids, &err);
        CHECK(err.code == LM_ERROR && strstr(err.msg, cases[i].want), "case %d: '%s', wanted '%s'", i, err.msg, cases[i].want);
        CHECK(cpu_seconds() - start < 10, "case %d took %.1f s", i, cpu_seconds() - start);
        lm_ids_clear(&ids);
        lm_tok_free(t);
    }
}

/*----------------------------------------------------------------------
** Long runs take linear time, can be stopped, and stop at the limit */

typedef struct {
    int asked, stop_at;
    const lm_ids *ids; size_t before, gap;      /* what grows meanwhile (may be NULL), and the most between two asks */
} asking;

static int count_asks(void *arg) {
    asking *a = arg;
    if (a->ids && a->ids->n - a->before > a->gap) a->gap = a->ids->n - a->before;
    if (a->ids) a->before = a->ids->n;
    return ++a->asked == a->stop_at;
}

static void test_runs(lm_tok *const *toks) {
    enum { MB = 1 << 20 };
    static const char *const units[] = { "a", " ", "1", "\n", ".", "e ", "\xE4\xB8\xAD", "\xCC\x81", "\xCC\x81\xCC\xA3", "a\xCC\xA3", "<mask>  ",
                                         "\xEA\xB0\x80", "\xE1\x84\x80", "\xE2\x96\x81", "\xEF\xB7\xBA", "'s", "\x80", "\xF0\x9F\x87\xA6", "a." };
    char *text = malloc(MB + 8);
    for (int f = 0; f < N_FILES; f++) {
        for (int u = 0; toks[f] && u < LM_COUNT(units); u++) {
            lm_err err = { 0 };
            lm_ids ids = { 0 }, few = { 0 };
            asking a = { .ids = &ids };
            size_t unit_n = strlen(units[u]), n = u < 3 ? MB : MB / 8;
            for (size_t i = 0; i < n; i++) text[i] = units[u][i % unit_n];
            double start = cpu_seconds();
            lm_tok_encode(toks[f], text, n, &g_plain, 0, (lm_stop){ count_asks, &a }, &ids, &err);
            double took = cpu_seconds() - start;
            CHECK(!err.code, "%s: %zu bytes of '%s': %s", g_files[f], n, units[u], err.msg);
            CHECK(took < 30, "%s: %zu bytes of '%s' took %.1f s", g_files[f], n, units[u], took);
            CHECK((size_t)a.asked >= n / 65536, "%s: %zu bytes of '%s': stop asked %d times", g_files[f], n, units[u], a.asked);
            count_asks(&a);
            CHECK(a.gap <= 65536, "%s: %zu bytes of '%s': %zu ids without asking", g_files[f], n, units[u], a.gap);

            asking b = { .stop_at = a.asked / 2 };
            lm_tok_encode(toks[f], text, n, &g_plain, 0, (lm_stop){ count_asks, &b }, &few, &err);
            CHECK(err.code == LM_INTERRUPT && b.asked == b.stop_at, "%s: '%s': asked %d times to stop at %d: %s", g_files[f], units[u],
                  b.asked, b.stop_at, err.msg);
            lm_ids_clear(&few);
            lm_ids_clear(&ids);
        }
    }
    free(text);
}

/* A regex's looks behind and ahead are not long without asking: what many small matches took counts together. */
static void test_stopping_regexes(void) {
    static const char *const regexes[] = { LOOKS LOOKS LOOKS LOOKS, "[^!]*[^!]*[^!]*[^!]*1", "(?<=1.{900})|(?<=1.{900})|(?<=1.{900})|(?<=1.{900})|" };
    static char text[100000], file[2000];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '1';
    for (int i = 0; i < LM_COUNT(regexes); i++) {
        lm_err err = { 0 };
        lm_ids ids = { 0 };
        asking a = { .stop_at = 3 };
        snprintf(file, sizeof file, "{" LETTERS ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'%s'}}}", regexes[i]);
        lm_tok *t = make_file(file, &err);
        CHECK(t, "%s", err.msg);
        double start = cpu_seconds();
        if (t) lm_tok_encode(t, text, sizeof text, &g_plain, 0, (lm_stop){ count_asks, &a }, &ids, &err);
        CHECK(err.code == LM_INTERRUPT && cpu_seconds() - start < 5, "regex %d: %.2f s, %s", i, cpu_seconds() - start, err.msg);
        lm_ids_clear(&ids);
        lm_tok_free(t);
    }
}

/* Long beginnings of an added token: what is compared counts, not where. */
static void test_long_added(void) {
    lm_err err = { 0 };
    lm_ids ids = { 0 };
    asking a = { 0 };
    static char file[4000], begin[1001], text[50000];
    memset(begin, 'a', sizeof begin - 1);
    memset(text, 'a', sizeof text);
    snprintf(file, sizeof file, "{" LETTERS ",'added_tokens':[{'content':'%sz','normalized':false},{'content':'%sy'}]}", begin, begin);
    lm_tok *t = make_file(file, &err);
    CHECK(t, "%s", err.msg);
    if (t) lm_tok_encode(t, text, sizeof text, &g_plain, 0, (lm_stop){ count_asks, &a }, &ids, &err);
    CHECK(!err.code && ids.n == sizeof text && a.asked > 2000, "%zu ids, stop asked %d times: %s", ids.n, a.asked, err.msg);
    lm_ids_clear(&ids);
    lm_tok_free(t);
}

static void test_limit(lm_tok *const *toks) {
    char text[40000] = "";
    for (int i = 0; i < 4000; i++) strcat(text, i % 7 ? " the" : " x.");
    for (int f = 0; f < N_FILES; f++) {
        if (!toks[f]) continue;
        lm_ids all = encode(toks[f], text, strlen(text), &g_plain);
        for (size_t limit = 1; limit < all.n + 3; limit += 1297) {
            lm_err err = { 0 };
            lm_ids ids = { 0 };
            asking a = { 0 };
            lm_tok_encode(toks[f], text, strlen(text), &g_plain, limit, (lm_stop){ count_asks, &a }, &ids, &err);
            CHECK(!err.code && ids.n >= LM_MIN(limit + 1, all.n) && !memcmp(ids.data, all.data, 4 * ids.n), "%s: limit %zu of %zu: %zu ids",
                  g_files[f], limit, all.n, ids.n);
            lm_ids_clear(&ids);
        }
        lm_ids_clear(&all);
    }
}

/*----------------------------------------------------------------------
** Threads share a tokenizer, on stacks of 256 KiB */

typedef struct { const lm_tok *t; const char *text; size_t n; unsigned hash; } job;

static void *run_job(void *arg) {
    job *j = arg;
    lm_err err = { 0 };
    lm_ids ids = { 0 };
    lm_tok_encode(j->t, j->text, j->n, &g_parse, 0, g_never, &ids, &err);
    j->hash = err.code ? 0 : fold(&ids);
    lm_ids_clear(&ids);
    return NULL;
}

static void test_threads(lm_tok *const *toks) {
    size_t n;
    char *text = read_whole("tests/golden/hf_tok_fuzz.txt", &n);
    for (int f = 0; f < N_FILES && text; f++) {
        pthread_attr_t attr;
        pthread_t threads[4];
        job jobs[4];
        lm_ids ids = toks[f] ? encode(toks[f], text, n, &g_parse) : (lm_ids){ 0 };
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 256 << 10);
        for (int i = 0; i < 4 && toks[f]; i++) {
            jobs[i] = (job){ toks[f], text, n, 0 };
            pthread_create(&threads[i], &attr, run_job, &jobs[i]);
        }
        for (int i = 0; i < 4 && toks[f]; i++) {
            pthread_join(threads[i], NULL);
            CHECK(jobs[i].hash == fold(&ids), "%s: thread %d got other ids", g_files[f], i);
        }
        pthread_attr_destroy(&attr);
        lm_ids_clear(&ids);
    }
    free(text);
}

/*----------------------------------------------------------------------
** Damaged files neither crash nor leak, and every allocation may fail */

static void test_mutations(void) {
    static const char text[] = "Hello, <s>[MASK] caf\xC3\xA9 \xE4\xB8\xAD\xE6\x96\x87 <mask>  'n \xEF\xAC\x81 \xCC\x81\xCC\xA3 <a><b> New York \xFF";
    uint32_t seed = 7;
    int built = 0;
    for (int f = 0; f < N_FILES; f++) {
        char path[80];
        size_t n;
        snprintf(path, sizeof path, "tests/golden/hf_tok/%s.json", g_files[f]);
        char *json = read_whole(path, &n);
        for (int round = 0; json && n < 100000 && round < 60; round++) {
            lm_err err = { 0 };
            maker m = { 0 };
            char *damaged = malloc(n);
            memcpy(damaged, json, n);
            for (int k = round % 3; k >= 0; k--) {
                seed = seed * 1664525 + 1013904223;
                size_t at = (size_t)(seed >> 4) % (round % 2 ? n : LM_MIN(n, 4000));
                seed = seed * 1664525 + 1013904223;
                /* Digits and letters for one another: what is still JSON goes further. */
                int is_digit = damaged[at] >= '0' && damaged[at] <= '9', is_letter = (damaged[at] | 32) >= 'a' && (damaged[at] | 32) <= 'z';
                damaged[at] = is_digit ? (char)('0' + (seed >> 24) % 10) : is_letter ? (char)('A' + (seed >> 24) % 26) : damaged[at];
            }
            lm_tok *t = make_json(&m, damaged, n, &err);
            lm_err failed = { 0 };
            lm_ids ids = { 0 };
            lm_tok_options all = { .add_special = 1, .parse_special = 1 };
            if (t) lm_tok_encode(t, text, sizeof text, &all, 0, g_never, &ids, &failed);
            for (size_t i = 0; i < ids.n; i++) {
                if (ids.data[i] < 0 || ids.data[i] >= lm_tok_count(t)) CHECK(0, "%s: round %d: id %d", g_files[f], round, ids.data[i]);
            }
            built += t != NULL;
            lm_ids_clear(&ids);
            lm_tok_free(t);
            free(damaged);
        }
        free(json);
    }
    CHECK(built > 100 && lm_mem_used() == 0, "%d built, %llu bytes leaked", built, (unsigned long long)lm_mem_used());
}

static int g_left = -1;

static void *failing_alloc(uint64_t n) {
    if (!g_left) return NULL;
    if (g_left > 0) g_left--;
    return malloc(n);
}

static void test_no_memory(void) {
    static const char *const files[] = {
        "{" LETTERS ",'added_tokens':[{'content':'<s>','special':true},{'content':'zz'}],'normalizer':{'type':'Sequence','normalizers':["
        "{'type':'NFKC'},{'type':'Replace','pattern':{'Regex':'x+'},'content':''}]},'pre_tokenizer':{'type':'Sequence','pretokenizers':["
        "{'type':'Split','behavior':'Isolated','pattern':{'Regex':'[-]'}},{'type':'Metaspace','replacement':'\\u2581'}]},"
        "'decoder':{'type':'Metaspace','replacement':'\\u2581'}}",
        "{" WORDS ",'normalizer':{'type':'BertNormalizer'},'pre_tokenizer':{'type':'BertPreTokenizer'},'decoder':{'type':'WordPiece','prefix':'##'}}",
        "{" PIECES ",'pre_tokenizer':{'type':'ByteLevel'},'post_processor':{'type':'BertProcessing','cls':['a',0],'sep':['a',0]}}",
        /* A merge is the first text there is to keep. */
        "{'model':{'type':'BPE','merges':['a b'],'vocab':{'a':0,'b':1,'ab':2,'c':3,'x':4,'-':5}}}",
        /* Two regexes want one room. */
        "{" LETTERS ",'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','behavior':'Isolated',"
        "'pattern':{'Regex':'x+'}},{'type':'Split','behavior':'Isolated','pattern':{'Regex':'y+'}}]}}",
    };
    lm_mem_hook_set(&(lm_mem_hook){ failing_alloc, free });
    static const char text[] = "ab<s> ac\xCC\x81\xCC\xA3-xxzz \xEF\xAC\x81 ab \xFF";
    for (int f = 0; f < LM_COUNT(files); f++) {
        int done = 0, n = 0;
        for (; n < 1000 && !done; n++) {
            lm_err err = { 0 };
            lm_ids ids = { 0 };
            g_left = n;
            lm_tok *t = make_file(files[f], &err);
            if (t) lm_tok_encode(t, text, sizeof text, &g_parse, 0, g_never, &ids, &err);
            g_left = -1;
            /* PCRE2 does without its machine code when there is no memory for it: that n succeeds, and rightly. */
            CHECK(err.code ? err.code == LM_NOMEM : ids.n > 3, "file %d: allocation %d: %zu ids, %s", f, n, ids.n, err.msg);
            done = !err.code && n > 200;
            lm_ids_clear(&ids);
            lm_tok_free(t);
            CHECK(lm_mem_used() == 0, "file %d: allocation %d: %llu bytes leaked", f, n, (unsigned long long)lm_mem_used());
        }
        CHECK(done, "file %d: still failing after %d allocations", f, n);
    }
    lm_mem_hook_set(&(lm_mem_hook){ failing_alloc, free });
}

int main(void) {
    lm_tok *toks[N_FILES];
    for (int i = 0; i < N_FILES; i++) toks[i] = open_golden(g_files[i]);
    test_fuzz_golden(toks);
    test_cases(toks);
    if (toks[0]) test_gguf_bert(toks[0]);
    test_runs(toks);
    test_limit(toks);
    test_threads(toks);
    for (int i = 0; i < N_FILES; i++) lm_tok_free(toks[i]);
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
    test_small();
    test_asking();
    test_dialect();
    test_refusals();
    test_hostile();
    test_endless();
    test_stopping_regexes();
    test_long_added();
    test_mutations();
    test_no_memory();
    return finish_tests();
}

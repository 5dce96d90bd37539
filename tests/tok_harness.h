/* tok_harness.h: what the tests of tokenizers share: encoding, metadata made by hand, golden files. */
#ifndef LM_TOK_HARNESS_H
#define LM_TOK_HARNESS_H

#include "harness.h"

static const lm_stop g_never = { 0 };
static const lm_tok_options g_plain = { 0 }, g_parse = { .parse_special = 1 };

/*----------------------------------------------------------------------
** Helpers */

static inline lm_ids encode(const lm_tok *t, const void *text, size_t n, const lm_tok_options *options) {
    lm_err err = { 0 };
    lm_ids ids = { 0 };
    lm_tok_encode(t, text, n, options, 0, g_never, &ids, &err);
    CHECK(!err.code, "encode: %s", err.msg);
    return ids;
}

static inline lm_buf decode(const lm_tok *t, const lm_ids *ids) {
    lm_err err = { 0 };
    lm_buf out = { 0 };
    for (size_t i = 0, n; i < ids->n; i++) {
        const char *bytes = lm_tok_bytes(t, ids->data[i], &n);
        lm_buf_append(&out, bytes, n, &err);
    }
    return out;
}

/* Hold ids against a list that ends with -1. */
static inline void check_ids(int line, const lm_tok *t, const char *text, const lm_tok_options *options, const int *want) {
    lm_ids ids = encode(t, text, strlen(text), options);
    size_t n = 0;
    while (want[n] >= 0) n++;
    int same = ids.n == n;
    for (size_t i = 0; same && i < n; i++) same = ids.data[i] == want[i];
    CHECK(same, "(from line %d) '%s': %zu ids, the first %d; wanted %zu, the first %d", line, text, ids.n,
          ids.n ? ids.data[0] : -1, n, want[0]);
    lm_ids_clear(&ids);
}
#define CHECK_IDS(t, text, options, ...) check_ids(__LINE__, t, text, options, (const int[]){ __VA_ARGS__, -1 })

/* Metadata under construction. */
typedef struct { lm_buf b; lm_err err; } maker;

static inline void put(maker *m, const void *bytes, size_t n) { lm_buf_append(&m->b, bytes, n, &m->err); }
static inline void put_le(maker *m, uint64_t x, int n) {
    for (int i = 0; i < n; i++) put(m, &(uint8_t){ (uint8_t)(x >> 8 * i) }, 1);
}
static inline void put_text(maker *m, const char *text) {
    put_le(m, strlen(text), 8);
    put(m, text, strlen(text));
}
static inline void put_key(maker *m, const char *name, int type) {
    char key[80];
    snprintf(key, sizeof key, "tokenizer.ggml.%s", name);
    put_text(m, key);
    put_le(m, (uint64_t)type, 4);
}
static inline void add_text(maker *m, const char *name, const char *value) {
    put_key(m, name, LM_META_TEXT);
    put_text(m, value);
}
static inline void add_int(maker *m, const char *name, uint32_t value) {
    put_key(m, name, LM_META_U32);
    put_le(m, value, 4);
}
static inline void add_bool(maker *m, const char *name, int value) {
    put_key(m, name, LM_META_BOOL);
    put_le(m, (uint64_t)value, 1);
}
/* Texts between '|'; "" is an array of none. */
static inline void add_texts(maker *m, const char *name, const char *list) {
    uint64_t n = *list != 0;
    for (const char *s = list; *s; s++) n += *s == '|';
    put_key(m, name, LM_META_ARRAY);
    put_le(m, LM_META_TEXT, 4);
    put_le(m, n, 8);
    while (n--) {
        size_t item_n = strcspn(list, "|");
        put_le(m, item_n, 8);
        put(m, list, item_n);
        list += item_n + (list[item_n] != 0);
    }
}
static inline void add_types(maker *m, const char *digits) {
    put_key(m, "token_type", LM_META_ARRAY);
    put_le(m, LM_META_I32, 4);
    put_le(m, strlen(digits), 8);
    for (; *digits; digits++) put_le(m, (uint64_t)(*digits - '0'), 4);
}

/* Make a tokenizer of what was added, and begin anew. */
static inline lm_tok *make(maker *m, lm_err *err) {
    lm_meta *meta = lm_meta_new(m->b.data, m->b.n, err);
    lm_tok *t = lm_tok_new(meta, meta, err);
    lm_meta_free(meta);
    lm_buf_clear(&m->b);
    return t;
}

static inline char *read_whole(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*n + 1);
    *n = fread(bytes, 1, *n, f);
    bytes[*n] = 0;
    fclose(f);
    return bytes;
}

static inline unsigned fold(const lm_ids *ids) {
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < ids->n; i++) {
        for (int j = 0; j < 4; j++) h = (h ^ (uint8_t)((uint32_t)ids->data[i] >> 8 * j)) * 0x100000001B3u;
    }
    return (unsigned)((h ^ h >> 16 ^ h >> 32 ^ h >> 48) & 0xFFFF);
}

static inline size_t unescape(char *text, const char *end) {
    char *out = text;
    for (const char *s = text; s < end; s++) {
        unsigned byte = (uint8_t)*s;
        if (*s == '\\') {
            sscanf(s + 2, "%2x", &byte);
            s += 3;
        }
        *out++ = (char)byte;
    }
    return (size_t)(out - text);
}

/* Read an array of ids where a JSON reader stands before it. */
static inline lm_ids read_ids(lm_json *j, lm_err *err) {
    lm_ids ids = { 0 };
    while (lm_json_next(j, err) == LM_JSON_INT) lm_ids_append(&ids, (int32_t)j->integer, err);
    return ids;
}

/* The ids of one model in tokenize.json. */
static inline void test_tokenize_json(const lm_tok *real, const char *model) {
    size_t n;
    char *file = read_whole("tests/golden/tokenize.json", &n);
    lm_err err = { 0 };
    lm_json j;
    CHECK(file, "tests/golden/tokenize.json cannot be read");
    if (!file) return;
    lm_json_init(&j, file, n);
    lm_json_next(&j, &err);
    int texts = 0;
    while (lm_json_next(&j, &err) == LM_JSON_OBJECT) {
        lm_ids got = { 0 };
        for (int kind; (kind = lm_json_next(&j, &err)) != LM_JSON_END;) {
            if (!strcmp(j.key.data, "text")) {
                got = encode(real, j.string.data, j.string.n, &g_plain);
            } else if (!strcmp(j.key.data, model)) {
                lm_ids want = read_ids(&j, &err);
                CHECK(got.n == want.n && (!got.n || !memcmp(got.data, want.data, 4 * got.n)), "tokenize.json: text %d", texts);
                lm_ids_clear(&want);
            } else {
                lm_json_skip(&j, kind, &err);
            }
        }
        lm_ids_clear(&got);
        texts++;
    }
    CHECK(!err.code && texts >= 17, "tokenize.json: %d texts read: %s", texts, err.msg);
    lm_json_clear(&j);
    free(file);
}

#endif

/* gguf_test.c: GGUF files and metadata, well and ill formed.
**
** Files are built in memory, byte by byte, so that each can lie about one thing. Every refusal must say the
** stated word, give all memory back and have stayed under 64 MB. The test's allocator places blocks so that
** ASan and valgrind see a read or write one byte past what was asked for. */
#define _XOPEN_SOURCE 700
#include "harness.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char g_path[] = "/tmp/gguf_test_XXXXXX";
static int g_fd;

/*----------------------------------------------------------------------
** The allocator: lm_alloc asks for 79 bytes more than its caller and rounds up to 64 behind a 16-byte head;
** from a base of 49 modulo 64 the caller's block ends where ours does. */

static int g_allocs_left = -1;          /* that still succeed; -1: all */

static void *tight_alloc(uint64_t n) {
    void *base = NULL;
    if (!g_allocs_left) return NULL;
    if (g_allocs_left > 0) g_allocs_left--;
    return posix_memalign(&base, 64, (size_t)n + 49) ? NULL : (char *)base + 49;
}

static void tight_free(void *p) { free((char *)p - 49); }

/*----------------------------------------------------------------------
** Building files */

typedef struct { uint8_t *data; size_t n, cap; } bytes;

static void put(bytes *b, const void *data, size_t n) {
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n) + 256;
        b->data = realloc(b->data, b->cap);
    }
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_le(bytes *b, uint64_t x, int n) {
    for (int i = 0; i < n; i++) put(b, &(uint8_t){ (uint8_t)(i < 8 ? x >> 8 * i : 0) }, 1);
}

static void put_text(bytes *b, const char *text) {
    put_le(b, strlen(text), 8);
    put(b, text, strlen(text));
}

static bytes begin(uint32_t version, uint64_t n_tensors, uint64_t n_kv) {
    bytes b = { 0 };
    put(&b, "GGUF", 4);
    put_le(&b, version, 4);
    put_le(&b, n_tensors, 8);
    put_le(&b, n_kv, 8);
    return b;
}

static void put_number(bytes *b, const char *key, int type, uint64_t x, int n_bytes) {
    put_text(b, key);
    put_le(b, (uint64_t)type, 4);
    put_le(b, x, n_bytes);
}

static void put_array(bytes *b, const char *key, uint32_t elem, uint64_t n) {
    put_text(b, key);
    put_le(b, LM_META_ARRAY, 4);
    put_le(b, elem, 4);
    put_le(b, n, 8);
}

static void put_tensor(bytes *b, const char *name, int n_dims, uint64_t a, uint64_t c, uint64_t d, uint64_t type,
                       uint64_t offset) {
    const uint64_t ne[] = { a, c, d, 1 };
    put_text(b, name);
    put_le(b, (uint64_t)n_dims, 4);
    for (int i = 0; i < n_dims; i++) put_le(b, i < 4 ? ne[i] : 1, 8);
    put_le(b, type, 4);
    put_le(b, offset, 8);
}

static void put_data(bytes *b, size_t align, size_t n) {
    while (b->n % align) put_le(b, 0, 1);
    for (size_t i = 0; i < n; i++) put_le(b, i * 37 + 11, 1);
}

/*----------------------------------------------------------------------
** Trying them */

static void write_file(const uint8_t *data, size_t n) {
    size_t done = 0;
    if (ftruncate(g_fd, 0)) abort();
    while (done < n) {
        ssize_t wrote = pwrite(g_fd, data + done, n - done, (off_t)done);
        if (wrote <= 0) abort();
        done += (size_t)wrote;
    }
}

/* Open a path. Where that fails, expect the word in the message, and nothing left behind. */
static void refuse_path(int line, const char *path, const char *word) {
    uint64_t used = lm_mem_used();
    lm_err err = { 0 };
    lm_gguf *g = lm_gguf_open(path, &err);
    CHECK(!g && err.code == LM_ERROR, "line %d: opened, wanted an error about '%s'", line, word);
    CHECK(strstr(err.msg, word), "line %d: message '%s', wanted '%s' in it", line, err.msg, word);
    lm_gguf_close(g);
    CHECK(lm_mem_used() == used, "line %d: %llu bytes held, %llu before", line, (unsigned long long)lm_mem_used(),
          (unsigned long long)used);
    CHECK(lm_mem_peak() < 64000000, "line %d: peak of %llu bytes", line, (unsigned long long)lm_mem_peak());
}

#define REFUSE(b, word) refuse(__LINE__, b, word)

static void refuse(int line, bytes *b, const char *word) {
    write_file(b->data, b->n);
    refuse_path(line, g_path, word);
    free(b->data);
    *b = (bytes){ 0 };
}

/* Open whatever it is; if it opens, use all of it. Return whether it did. */
static int visit(const uint8_t *data, size_t n) {
    lm_err err = { 0 };
    write_file(data, n);
    lm_gguf *g = lm_gguf_open(g_path, &err);
    if (!g) return 0;
    for (int i = 0; i < lm_gguf_n_tensors(g); i++) {
        const lm_tensor *t = lm_gguf_tensor(g, i);
        uint8_t *copy = malloc((size_t)t->n_bytes);
        lm_gguf_read(g, i, 0, copy, (size_t)t->n_bytes, &err);
        free(copy);
    }
    const lm_meta *m = lm_gguf_meta(g);
    unsigned sum = 0;
    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const lm_meta_entry *e = lm_meta_at(m, i);
        for (size_t k = 0; k < e->raw_n; k++) sum += e->raw[k];
        for (size_t k = 0; k < e->n_bytes; k++) sum += e->data[k];
        const char *text;
        for (size_t pos = 0, text_n; lm_meta_next_text(e, &pos, &text, &text_n);) {
            sum += text_n ? (uint8_t)text[0] : 0;
        }
    }
    CHECK(!err.code, "%s", err.msg);
    CHECK(sum != 1, "unlikely");
    lm_gguf_close(g);
    return 1;
}

/*----------------------------------------------------------------------
** Good files */

/* One entry of every type, arrays of most, three tensors with gaps between them. */
static bytes good_file(uint32_t version, size_t *header_n) {
    bytes b = begin(version, 3, 16);
    float f = 1.5f;
    double d = -2.25;
    uint32_t f_bits;
    uint64_t d_bits;
    memcpy(&f_bits, &f, 4);
    memcpy(&d_bits, &d, 8);
    put_number(&b, "u8", LM_META_U8, 200, 1);
    put_number(&b, "i8", LM_META_I8, (uint64_t)-100, 1);
    put_number(&b, "u16", LM_META_U16, 60000, 2);
    put_number(&b, "i16", LM_META_I16, (uint64_t)-30000, 2);
    put_number(&b, "u32", LM_META_U32, 4000000000, 4);
    put_number(&b, "i32", LM_META_I32, (uint64_t)-2000000000, 4);
    put_number(&b, "f32", LM_META_F32, f_bits, 4);
    put_number(&b, "bool", LM_META_BOOL, 1, 1);
    put_number(&b, "u64", LM_META_U64, UINT64_MAX, 8);
    put_number(&b, "i64", LM_META_I64, (uint64_t)INT64_MIN, 8);
    put_number(&b, "f64", LM_META_F64, d_bits, 8);
    put_text(&b, "gr\xC3\xBC\xC3\x9F" "e");
    put_le(&b, LM_META_TEXT, 4);
    put_text(&b, "hello");
    put_array(&b, "texts", LM_META_TEXT, 3);
    put_text(&b, "one");
    put_text(&b, "");
    put_text(&b, "three");
    put_array(&b, "floats", LM_META_F32, 2);
    put_le(&b, f_bits, 8);
    put_array(&b, "bools", LM_META_BOOL, 3);
    put_le(&b, 0x010001, 3);
    put_array(&b, "none", LM_META_U64, 0);
    put_tensor(&b, "second.weight", 2, 64, 3, 0, LM_Q4_1, 64);
    put_tensor(&b, "first", 1, 5, 0, 0, LM_F32, 0);
    put_tensor(&b, "t\xC3\xA4il.bias", 3, 1, 2, 3, LM_F16, 256);
    *header_n = b.n;
    put_data(&b, 32, 268);
    return b;
}

static void check_values(const lm_meta *m) {
    lm_err err = { 0 };
    int64_t i = 7;
    double r = 7;
    int flag = 7;
    const char *text = NULL;
    size_t n = 0;
    static const struct { const char *key; int64_t value; } ints[] = {
        { "u8", 200 }, { "i8", -100 }, { "u16", 60000 }, { "i16", -30000 }, { "u32", 4000000000 },
        { "i32", -2000000000 }, { "i64", INT64_MIN },
    };
    for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
        CHECK(lm_meta_int(m, ints[k].key, &i, &err) == 1 && i == ints[k].value, "%s is %lld", ints[k].key,
              (long long)i);
        CHECK(lm_meta_real(m, ints[k].key, &r, &err) == 1 && r == (double)ints[k].value, "%s is %g", ints[k].key,
              r);
    }
    CHECK(lm_meta_real(m, "u64", &r, &err) == 1 && r == 18446744073709551616.0, "u64 is %g", r);
    CHECK(lm_meta_real(m, "f32", &r, &err) == 1 && r == 1.5, "f32 is %g", r);
    CHECK(lm_meta_real(m, "f64", &r, &err) == 1 && r == -2.25, "f64 is %g", r);
    CHECK(lm_meta_bool(m, "bool", &flag, &err) == 1 && flag == 1, "bool is %d", flag);
    CHECK(lm_meta_text(m, "gr\xC3\xBC\xC3\x9F" "e", &text, &n, &err) == 1 && n == 5 && !memcmp(text, "hello", 5),
          "text");
    i = 7;
    CHECK(!lm_meta_int(m, "absent", &i, &err) && i == 7 && !err.code, "absent key: %s", err.msg);
    CHECK(!lm_meta_int(m, "u6", &i, &err) && !lm_meta_int(m, "u644", &i, &err) && !err.code,
          "a key's prefix was found");
    CHECK(!lm_meta_find(NULL, "u8"), "found in nothing");

    const lm_meta_entry *e = lm_meta_find(m, "texts");
    static const char *const want[] = { "one", "", "three" };
    size_t pos = 0;
    CHECK(e && e->type == LM_META_ARRAY && e->elem == LM_META_TEXT && e->n == 3, "array of texts");
    for (int k = 0; e && k < 3; k++) {
        CHECK(lm_meta_next_text(e, &pos, &text, &n) && n == strlen(want[k]) && !memcmp(text, want[k], n), "text %d",
              k);
    }
    CHECK(e && !lm_meta_next_text(e, &pos, &text, &n), "a fourth text");
    e = lm_meta_find(m, "floats");
    CHECK(e && e->elem == LM_META_F32 && e->n == 2 && e->n_bytes == 8, "array of floats");
    e = lm_meta_find(m, "none");
    CHECK(e && e->n == 0 && e->n_bytes == 0, "empty array");
    CHECK(lm_meta_count(m) == 16 && lm_meta_at(m, 1)->type == LM_META_I8, "entries in file order");

    static const struct { const char *key; int getter; const char *found, *wanted; } wrong[] = {
        { "f32", 'i', "f32", "integer" }, { "bool", 'i', "bool", "integer" },
        { "u64", 'i', "18446744073709551615", "over" }, { "texts", 'i', "array of text", "integer" },
        { "bool", 'r', "bool", "number" }, { "u8", 'b', "u8", "bool" },
        { "f64", 't', "f64", "text" }, { "bools", 'b', "array of bool", "bool" },
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        lm_err e2 = { 0 };
        int got = wrong[k].getter == 'i' ? lm_meta_int(m, wrong[k].key, &i, &e2)
                : wrong[k].getter == 'r' ? lm_meta_real(m, wrong[k].key, &r, &e2)
                : wrong[k].getter == 'b' ? lm_meta_bool(m, wrong[k].key, &flag, &e2)
                : lm_meta_text(m, wrong[k].key, &text, &n, &e2);
        CHECK(!got && e2.code == LM_ERROR && strstr(e2.msg, wrong[k].key) && strstr(e2.msg, wrong[k].found)
              && strstr(e2.msg, wrong[k].wanted), "%s as '%c': '%s'", wrong[k].key, wrong[k].getter, e2.msg);
        CHECK(!lm_meta_int(m, "u8", &i, &e2), "a getter went on after an error");
    }
}

static void test_good(uint32_t version) {
    size_t header_n;
    uint64_t used = lm_mem_used();
    bytes b = good_file(version, &header_n);
    lm_err err = { 0 };
    write_file(b.data, b.n);
    lm_gguf *g = lm_gguf_open(g_path, &err);
    CHECK(g && !err.code, "version %u: %s", version, err.msg);
    if (!g) return;
    check_values(lm_gguf_meta(g));
    CHECK(lm_gguf_n_tensors(g) == 3, "%d tensors", lm_gguf_n_tensors(g));
    const lm_tensor *t = lm_gguf_tensor(g, 0);
    CHECK(!strcmp(t->name, "second.weight") && t->dtype == LM_Q4_1 && t->n_dims == 2 && t->ne[0] == 64 && t->ne[1] == 3
          && t->ne[2] == 1 && t->n_params == 192 && t->n_bytes == 120, "first entry: %s", t->name);

    uint8_t part[120];
    size_t data = (header_n + 31) / 32 * 32;
    lm_gguf_read(g, 0, 0, part, 120, &err);
    CHECK(!err.code && !memcmp(part, b.data + data + 64, 120), "bytes of tensor 0: %s", err.msg);
    lm_gguf_read(g, 1, 5, part, 15, &err);
    CHECK(!err.code && !memcmp(part, b.data + data + 5, 15), "a part of tensor 1: %s", err.msg);
    lm_gguf_read(g, 2, 12, part, 0, &err);
    CHECK(!err.code, "no bytes at the end: %s", err.msg);
    static const struct { int i; int64_t offset; size_t n; } outside[] = {
        { 2, 12, 1 }, { 2, 13, 0 }, { 2, -1, 1 }, { 1, 5, 16 }, { 1, 1, SIZE_MAX }, { 3, 0, 1 }, { -1, 0, 1 },
        { 0, INT64_MAX, 120 },
    };
    for (size_t k = 0; k < sizeof outside / sizeof *outside; k++) {
        lm_err e2 = { 0 };
        lm_gguf_read(g, outside[k].i, outside[k].offset, part, outside[k].n, &e2);
        CHECK(e2.code == LM_ERROR && strstr(e2.msg, "wanted"), "read %zu outside: '%s'", k, e2.msg);
    }
    if (ftruncate(g_fd, (off_t)data + 100)) abort();
    lm_gguf_read(g, 0, 0, part, 120, &err);
    CHECK(err.code == LM_ERROR && strstr(err.msg, "shrank"), "shrunk file: '%s'", err.msg);
    lm_gguf_close(g);
    lm_gguf_close(NULL);
    CHECK(lm_mem_used() == used, "memory left behind");
    CHECK(!lm_gguf_open(g_path, &err), "opened with an error set");
    free(b.data);
}

/* A database's blob holds the same entries, without a file around them. */
static void test_meta_alone(void) {
    size_t header_n;
    uint64_t used = lm_mem_used();
    bytes b = good_file(3, &header_n);
    lm_err err = { 0 };
    write_file(b.data, b.n);
    lm_gguf *g = lm_gguf_open(g_path, &err);
    const lm_meta_entry *first = lm_meta_at(lm_gguf_meta(g), 0), *last = lm_meta_at(lm_gguf_meta(g), 15);
    size_t n = (size_t)(last->raw + last->raw_n - first->raw);
    uint8_t *blob = malloc(n);
    memcpy(blob, first->raw, n);
    lm_gguf_close(g);

    lm_meta *m = lm_meta_new(blob, n, &err);
    CHECK(m && !err.code, "%s", err.msg);
    check_values(m);
    lm_meta_free(m);
    size_t cuts_kept = 0;
    for (size_t cut = 0; cut < n; cut++) {
        lm_err e2 = { 0 };
        m = lm_meta_new(blob, cut, &e2);
        cuts_kept += m != NULL;
        CHECK(m || strstr(e2.msg, "past the end"), "cut at %zu: '%s'", cut, e2.msg);
        lm_meta_free(m);
    }
    CHECK(cuts_kept == 16, "%zu cuts fall between entries, wanted 16", cuts_kept);
    for (size_t i = 0; i < n; i++) {
        uint8_t was = blob[i];
        for (int k = 1; k < 256; k += 2) {
            lm_err e2 = { 0 };
            blob[i] = (uint8_t)(was + k);
            m = lm_meta_new(blob, n, &e2);
            if (!m && (!e2.code || !e2.msg[0])) CHECK(0, "byte %zu + %d: neither result nor error", i, k);
            lm_meta_free(m);
        }
        blob[i] = was;
    }
    CHECK(lm_mem_used() == used, "memory left behind");
    free(blob);
    free(b.data);
}

static void test_many_keys(void) {
    enum { N = 100000 };
    char key[32];
    lm_err err = { 0 };
    bytes b = begin(3, 0, N);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "key.%d", (int)(i * 7919LL % N));
        put_number(&b, key, LM_META_U32, (uint64_t)i, 4);
    }
    write_file(b.data, b.n);
    double start = cpu_seconds();
    lm_gguf *g = lm_gguf_open(g_path, &err);
    double took = cpu_seconds() - start;
    CHECK(g, "100,000 keys: %s", err.msg);
    CHECK(took < 2, "100,000 keys took %.3f s", took);
    int64_t x = 0;
    if (g) CHECK(lm_meta_int(lm_gguf_meta(g), "key.7919", &x, &err) && x == 1, "key.7919 is %lld", (long long)x);
    lm_gguf_close(g);
    free(b.data);

    b = begin(3, 0, N);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "key.%d", i == N - 1 ? 4321 : i);
        put_number(&b, key, LM_META_U32, (uint64_t)i, 4);
    }
    REFUSE(&b, "duplicate");
}

/*----------------------------------------------------------------------
** What is no file, or no GGUF file */

static void test_paths(void) {
    char fifo[64], folder[300] = "/tmp/";
    snprintf(fifo, sizeof fifo, "%s.fifo", g_path);
    if (mkfifo(fifo, 0600)) abort();
    refuse_path(__LINE__, fifo, "is a FIFO");
    unlink(fifo);
    refuse_path(__LINE__, "/tmp", "is a directory");
    refuse_path(__LINE__, "/dev/null", "is a character device");
    refuse_path(__LINE__, "/nowhere/at/all.gguf", "/nowhere/at/all.gguf: cannot open: No such file or directory");
    refuse_path(__LINE__, "", "No such file");
    for (int i = 0; i < 120; i++) strcat(folder, "\xC3\xA9");
    refuse_path(__LINE__, folder, "...\xC3\xA9");
    refuse_path(__LINE__, folder, "\xC3\xA9: cannot open");
}

static void test_beginnings(void) {
    bytes b = { 0 };
    REFUSE(&b, "past the end");
    put(&b, "GGU", 3);
    REFUSE(&b, "past the end");
    b = begin(3, 0, 0);
    b.data[0] = 'g';
    REFUSE(&b, "not a GGUF file");
    put(&b, "PK\3\4 something else altogether", 20);
    REFUSE(&b, "50 4b 03 04");
    b = begin(0, 0, 0);
    REFUSE(&b, "version 0");
    b = begin(1, 0, 0);
    REFUSE(&b, "version 1");
    b = begin(99, 0, 0);
    REFUSE(&b, "version 99");
    b = begin(0x02000000, 0, 0);
    REFUSE(&b, "version 2 in big-endian");
    b = begin(0x03000000, 0, 0);
    REFUSE(&b, "version 3 in big-endian");

    static const uint64_t many[] = { UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, (uint64_t)1 << 60, (uint64_t)1 << 40,
                                     (uint64_t)1 << 32, 1000 };
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        b = begin(3, 0, many[i]);
        put_data(&b, 1, 1000);
        REFUSE(&b, "metadata entries do not fit");
        b = begin(3, many[i], 0);
        put_data(&b, 1, 1000);
        REFUSE(&b, "tensors");
    }
}

/*----------------------------------------------------------------------
** Metadata that lies */

static void test_bad_keys(void) {
    bytes b = begin(3, 0, 1);
    put_le(&b, UINT64_MAX, 8);
    put_data(&b, 1, 100);
    REFUSE(&b, "key of 18446744073709551615 bytes");
    b = begin(3, 0, 1);
    put_le(&b, 65536, 8);
    put_data(&b, 1, 70000);
    REFUSE(&b, "key of 65536 bytes");
    b = begin(3, 0, 1);
    put_le(&b, 40, 8);
    put_data(&b, 1, 39);
    REFUSE(&b, "past the end");
    b = begin(3, 0, 1);
    put_number(&b, "", LM_META_U8, 0, 100);
    REFUSE(&b, "key of 0 bytes");
    b = begin(3, 0, 1);
    put_number(&b, "a key", LM_META_U8, 0, 1);
    b.data[24 + 8 + 1] = 0;
    REFUSE(&b, "without NUL");
    static const char *const bad[] = { "\xFF", "ab\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\x80 a" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        b = begin(3, 0, 1);
        put_number(&b, bad[i], LM_META_U32, 1, 4);
        REFUSE(&b, "UTF-8");
    }
    b = begin(3, 0, 3);
    put_number(&b, "twice", LM_META_U8, 0, 1);
    put_number(&b, "other", LM_META_U8, 0, 1);
    put_number(&b, "twice", LM_META_U32, 0, 4);
    REFUSE(&b, "twice, byte 60: duplicate of the key at byte 24");
}

static void test_bad_values(void) {
    bytes b;
    static const uint64_t types[] = { 13, 14, 255, UINT32_MAX };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char word[40];
        snprintf(word, sizeof word, "type %llu", (unsigned long long)types[i]);
        b = begin(3, 0, 1);
        put_number(&b, "the.key", (int)types[i], 0, 64);
        REFUSE(&b, word);
        b = begin(3, 0, 1);
        put_array(&b, "the.key", (uint32_t)types[i], 0);
        put_data(&b, 1, 64);
        REFUSE(&b, word);
    }
    b = begin(3, 0, 1);
    put_number(&b, "the.key", LM_META_BOOL, 2, 1);
    REFUSE(&b, "the.key, byte 43: bool is 2");
    b = begin(3, 0, 1);
    put_array(&b, "the.key", LM_META_BOOL, 4);
    put_le(&b, 0xFF000101, 4);
    REFUSE(&b, "the.key, byte 58: bool is 255");
    b = begin(3, 0, 1);
    put_number(&b, "the.key", LM_META_TEXT, 5, 12);
    REFUSE(&b, "the.key, byte 51: text of 5 bytes runs past the end (4 are left)");
    b = begin(3, 0, 1);
    put_number(&b, "the.key", LM_META_TEXT, UINT64_MAX, 100);
    REFUSE(&b, "past the end");
    b = begin(3, 0, 1);
    put_number(&b, "the.key", LM_META_F64, 0, 7);
    REFUSE(&b, "the.key, byte 43: f64 of 8 bytes runs past the end");
    b = begin(3, 0, 1);
    put_array(&b, "the.key", LM_META_ARRAY, 1);
    put_data(&b, 1, 64);
    REFUSE(&b, "nested array");

    static const struct { uint32_t elem; uint64_t n; } sizes[] = {
        { LM_META_U64, (uint64_t)1 << 61 }, { LM_META_F32, (uint64_t)1 << 62 }, { LM_META_U16, (uint64_t)1 << 63 },
        { LM_META_TEXT, (uint64_t)1 << 61 }, { LM_META_U8, UINT64_MAX }, { LM_META_TEXT, 1 << 30 }, { LM_META_F64, 257 },
        { LM_META_TEXT, UINT64_MAX },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        b = begin(3, 0, 1);
        put_array(&b, "the.key", sizes[i].elem, sizes[i].n);
        put_data(&b, 1, 2048);
        REFUSE(&b, "the.key, byte 43: array of");
    }
    b = begin(3, 0, 1);
    put_array(&b, "the.key", LM_META_TEXT, 3);
    put_text(&b, "fine");
    put_le(&b, UINT64_MAX - 3, 8);
    put_data(&b, 1, 64);
    REFUSE(&b, "the.key, byte 75: text in array of 18446744073709551612 bytes");
}

static void test_alignment(void) {
    bytes b;
    static const uint64_t bad[] = { 0, 1, 4, 13, 24, 1 << 21, (uint64_t)1 << 31, UINT32_MAX };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        b = begin(3, 0, 1);
        put_number(&b, "general.alignment", LM_META_U32, bad[i], 4);
        REFUSE(&b, "byte 24: general.alignment: ");
    }
    b = begin(3, 0, 1);
    put_number(&b, "general.alignment", LM_META_U64, 64, 8);
    REFUSE(&b, "u32");
    b = begin(3, 0, 1);
    put_number(&b, "general.alignment", LM_META_F32, 64, 4);
    REFUSE(&b, "f32");
    for (size_t align = 8; align <= 1 << 20; align *= 4) {
        lm_err err = { 0 };
        uint8_t part[4];
        b = begin(3, 2, 1);
        put_number(&b, "general.alignment", LM_META_U32, align, 4);
        put_tensor(&b, "a", 1, 1, 0, 0, LM_F32, 0);
        put_tensor(&b, "b", 1, 1, 0, 0, LM_F32, align);
        put_data(&b, align, align + 4);
        write_file(b.data, b.n);
        lm_gguf *g = lm_gguf_open(g_path, &err);
        CHECK(g, "alignment %zu: %s", align, err.msg);
        if (g) lm_gguf_read(g, 1, 0, part, 4, &err);
        CHECK(!err.code && !memcmp(part, b.data + b.n - 4, 4), "alignment %zu: wrong bytes", align);
        lm_gguf_close(g);
        free(b.data);
    }
}

/*----------------------------------------------------------------------
** Tensor lists that lie */

static void test_bad_names(void) {
    bytes b;
    char longest[65];
    memset(longest, 'x', 64);
    longest[64] = 0;
    static const char *const bad[] = { "it's", "\"q\"", "`q`", "../up", "a/b", "a\\b", "a..b", "tab\t", "nl\n", "\x7F",
        "\xC2\x85", "\xFF", "\xC3", "\x01" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        b = begin(3, 1, 0);
        put_tensor(&b, bad[i], 1, 4, 0, 0, LM_F32, 0);
        put_data(&b, 32, 64);
        REFUSE(&b, "bad tensor name");
    }
    b = begin(3, 1, 0);
    put_tensor(&b, "a b", 1, 4, 0, 0, LM_F32, 0);
    b.data[24 + 8 + 1] = 0;
    put_data(&b, 32, 64);
    REFUSE(&b, "bad tensor name");
    b = begin(3, 1, 0);
    put_tensor(&b, longest, 1, 4, 0, 0, LM_F32, 0);
    put_data(&b, 32, 64);
    REFUSE(&b, "tensor name of 64 bytes");
    b = begin(3, 1, 0);
    put_tensor(&b, "", 1, 4, 0, 0, LM_F32, 0);
    put_data(&b, 32, 64);
    REFUSE(&b, "tensor name of 0 bytes");
    b = begin(3, 1, 0);
    put_le(&b, UINT64_MAX, 8);
    put_data(&b, 32, 64);
    REFUSE(&b, "tensor name of 18446744073709551615 bytes");
    b = begin(3, 3, 0);
    put_tensor(&b, "same", 1, 4, 0, 0, LM_F32, 0);
    put_tensor(&b, "sane", 1, 4, 0, 0, LM_F32, 32);
    put_tensor(&b, "same", 1, 4, 0, 0, LM_F32, 64);
    put_data(&b, 32, 96);
    REFUSE(&b, "byte 96: same: duplicate of the tensor at byte 24");
}

static void refuse_tensor(int line, int n_dims, uint64_t a, uint64_t c, uint64_t d, uint64_t type, uint64_t offset,
                          const char *word) {
    bytes b = begin(3, 1, 0);
    put_tensor(&b, "the.tensor", n_dims, a, c, d, type, offset);
    put_data(&b, 32, 1024);
    refuse(line, &b, word);
}

static void test_bad_tensors(void) {
    refuse_tensor(__LINE__, 0, 0, 0, 0, LM_F32, 0, "0 dimensions");
    refuse_tensor(__LINE__, 5, 1, 1, 1, LM_F32, 0, "5 dimensions");
    bytes b = begin(3, 1, 0);
    put_text(&b, "the.tensor");
    put_le(&b, UINT32_MAX, 4);
    put_data(&b, 1, 1000);
    REFUSE(&b, "4294967295 dimensions");
    refuse_tensor(__LINE__, 2, 0, 1, 1, LM_F32, 0, "at least 1");
    refuse_tensor(__LINE__, 2, 1, 0, 1, LM_F32, 0, "at least 1");
    refuse_tensor(__LINE__, 2, 1, (uint64_t)-1, 1, LM_F32, 0, "over 2^63");
    refuse_tensor(__LINE__, 3, 1, 1, (uint64_t)1 << 63, LM_F32, 0, "over 2^63");
    refuse_tensor(__LINE__, 3, 4194305, 4194305, 211106198978564, LM_F32, 0, "multiply");
    refuse_tensor(__LINE__, 2, (uint64_t)1 << 32, (uint64_t)1 << 32, 1, LM_F32, 0, "multiply");
    refuse_tensor(__LINE__, 1, (uint64_t)1 << 62, 1, 1, LM_F32, 0, "bytes");
    refuse_tensor(__LINE__, 2, 48, 2, 1, LM_Q8_0, 0, "multiple");
    refuse_tensor(__LINE__, 2, 128, 2, 1, LM_Q6_K, 0, "multiple");
    static const int removed[] = { 4, 5, 9, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 26, 27, 28, 29, 31, 32, 33, 34, 35,
        36, 37, 38, 39, 40, 41, 100, INT32_MAX };
    for (size_t i = 0; i < sizeof removed / sizeof *removed; i++) {
        char word[40];
        snprintf(word, sizeof word, "format %d is unknown", removed[i]);
        refuse_tensor(__LINE__, 1, 256, 1, 1, (uint64_t)removed[i], 0, word);
    }
    refuse_tensor(__LINE__, 1, 256, 1, 1, UINT32_MAX, 0, "format 4294967295 is unknown");
    refuse_tensor(__LINE__, 1, 4, 1, 1, LM_F32, 1, "alignment");
    refuse_tensor(__LINE__, 1, 4, 1, 1, LM_F32, 16, "alignment");
    refuse_tensor(__LINE__, 1, 4, 1, 1, LM_F32, 1024, "past the end");
    refuse_tensor(__LINE__, 1, 4, 1, 1, LM_F32, (uint64_t)-32, "past the end");
    refuse_tensor(__LINE__, 1, 4, 1, 1, LM_F32, (uint64_t)1 << 63, "past the end");
    refuse_tensor(__LINE__, 1, 257, 1, 1, LM_F32, 0, "past the end");
    refuse_tensor(__LINE__, 1, (uint64_t)1 << 60, 1, 1, LM_F32, 0, "past the end");
    refuse_tensor(__LINE__, 1, 249, 1, 1, LM_F32, 32, "past the end");

    /* Sizes that each are below 2^63 and together pass 2^64 are never added up: the file's end bounds each. */
    b = begin(3, 3, 0);
    put_tensor(&b, "a", 1, (uint64_t)1 << 60, 0, 0, LM_F32, 0);
    put_tensor(&b, "b", 1, (uint64_t)1 << 60, 0, 0, LM_F32, (uint64_t)1 << 62);
    put_tensor(&b, "c", 1, ((uint64_t)1 << 61) - 1, 0, 0, LM_F32, (uint64_t)1 << 63);
    put_data(&b, 32, 1024);
    REFUSE(&b, "byte 24: a: 4611686018427387904 bytes at offset 0 run past the end of the file");

    b = begin(3, 3, 0);
    put_tensor(&b, "a", 1, 16, 0, 0, LM_F32, 64);
    put_tensor(&b, "b", 1, 9, 0, 0, LM_F32, 0);
    put_tensor(&b, "c", 1, 9, 0, 0, LM_F32, 32);
    put_data(&b, 32, 128);
    REFUSE(&b, "byte 90: c: overlaps b: its data begin at byte 160, inside 36 bytes from byte 128 on");
    b = begin(3, 2, 0);
    put_tensor(&b, "a", 1, 8, 0, 0, LM_F32, 0);
    put_tensor(&b, "b", 1, 8, 0, 0, LM_F32, 0);
    put_data(&b, 32, 64);
    REFUSE(&b, "overlaps");

    b = begin(3, 1, 0);
    put_tensor(&b, "a", 1, 8, 0, 0, LM_F32, 0);
    put_data(&b, 32, 31);
    REFUSE(&b, "byte 24: a: 32 bytes at offset 0 run past the end of the file (31 bytes of data)");
    b = begin(3, 1, 0);
    put_tensor(&b, "a", 1, 1, 0, 0, LM_F32, 0);
    REFUSE(&b, "past the end");
}

/*----------------------------------------------------------------------
** A good file spoilt everywhere */

static void test_spoilt(void) {
    size_t header_n;
    bytes b = good_file(3, &header_n);
    uint64_t used = lm_mem_used();
    for (size_t cut = 0; cut < b.n; cut++) CHECK(!visit(b.data, cut), "opened when cut at byte %zu", cut);
    CHECK(visit(b.data, b.n), "no longer opens when whole");
    for (size_t i = 0; i < header_n; i++) {
        static const int flips[] = { 0x01, 0x02, 0x04, 0x08, 0x10, 0x40, 0x80, 0xFF };
        uint8_t was = b.data[i];
        for (size_t k = 0; k < sizeof flips / sizeof *flips; k++) {
            b.data[i] = (uint8_t)(was ^ flips[k]);
            visit(b.data, b.n);
        }
        b.data[i] = 0;
        visit(b.data, b.n);
        b.data[i] = 0xFF;
        visit(b.data, b.n);
        b.data[i] = was;
    }
    CHECK(lm_mem_used() == used, "memory left behind");
    CHECK(lm_mem_peak() < 64000000, "peak of %llu bytes", (unsigned long long)lm_mem_peak());
    free(b.data);
}

static void test_no_memory(void) {
    size_t header_n;
    bytes b = good_file(3, &header_n);
    write_file(b.data, b.n);
    for (int n = 0;; n++) {
        uint64_t used = lm_mem_used();
        lm_err err = { 0 };
        g_allocs_left = n;
        lm_gguf *g = lm_gguf_open(g_path, &err);
        g_allocs_left = -1;
        lm_gguf_close(g);
        CHECK(lm_mem_used() == used, "memory left behind after %d allocations", n);
        if (g) {
            CHECK(n > 5, "only %d allocations", n);
            break;
        }
        CHECK(err.code == LM_NOMEM, "after %d allocations: code %d, '%s'", n, err.code, err.msg);
    }
    free(b.data);
}

/* Headers are read up to 64 MiB and no further, however large the file. */
static void test_long_header(void) {
    lm_err err = { 0 };
    bytes b = begin(3, 0, 1);
    put_number(&b, "long", LM_META_TEXT, 3 << 20, 8);
    write_file(b.data, b.n);
    if (ftruncate(g_fd, 4 << 20)) abort();
    lm_gguf *g = lm_gguf_open(g_path, &err);
    CHECK(g && lm_meta_find(lm_gguf_meta(g), "long")->n == 3 << 20, "3 MB of text: %s", err.msg);
    lm_gguf_close(g);
    b.n -= 8;
    put_le(&b, 100 << 20, 8);
    write_file(b.data, b.n);
    if (ftruncate(g_fd, 200 << 20)) abort();
    g = lm_gguf_open(g_path, &err);
    CHECK(!g && strstr(err.msg, "header is longer"), "100 MB of text: '%s'", err.msg);
    CHECK(lm_mem_peak() < (80 << 20), "peak of %llu bytes", (unsigned long long)lm_mem_peak());
    free(b.data);
}

int main(void) {
    lm_mem_hook_set(&(lm_mem_hook){ tight_alloc, tight_free });
    g_fd = mkstemp(g_path);
    if (g_fd < 0) return perror(g_path), 1;
    test_good(2);
    test_good(3);
    test_meta_alone();
    test_many_keys();
    test_paths();
    test_beginnings();
    test_bad_keys();
    test_bad_values();
    test_alignment();
    test_bad_names();
    test_bad_tensors();
    test_spoilt();
    test_no_memory();
    test_long_header();
    CHECK(!lm_mem_used(), "%llu bytes still held at the end", (unsigned long long)lm_mem_used());
    close(g_fd);
    unlink(g_path);
    return finish_tests();
}

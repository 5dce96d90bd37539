/* quant_test.c: the reference decoders against tests/golden/quant.bin, and the table they stand in. */
#include "harness.h"

static uint8_t *read_whole(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    uint8_t *bytes = malloc(1 << 20);
    *n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

/* The same number, or both no number. */
static int same(float a, float b) { return !memcmp(&a, &b, 4) || (a != a && b != b); }

/* Decode one format's blocks, placed shift bytes off alignment, and count the floats that differ. */
static int n_wrong(const lm_dtype *type, const uint8_t *blocks, size_t n_blocks, const uint8_t *want, size_t shift) {
    size_t n = n_blocks * (size_t)type->block, n_bytes = n_blocks * (size_t)type->bytes;
    /* Exact allocations: a decoder that reads or writes past its end is caught by ASan and valgrind. */
    uint8_t *moved = malloc(n_bytes + shift);
    float *out = malloc(n * sizeof *out);
    memcpy(moved + shift, blocks, n_bytes);
    type->decode(moved + shift, out, (int64_t)n);
    int wrong = 0;
    for (size_t i = 0; i < n; i++) {
        float w;
        memcpy(&w, want + 4 * i, 4);
        if (!same(out[i], w) && !wrong++) {
            printf("%s: first difference in block %zu, element %zu: %.9g, wanted %.9g\n", type->name,
                   i / (size_t)type->block, i % (size_t)type->block, (double)out[i], (double)w);
        }
    }
    free(moved);
    free(out);
    return wrong;
}

static void test_golden(void) {
    size_t n = 0, at = 0;
    int n_types = 0;
    uint8_t *file = read_whole("tests/golden/quant.bin", &n);
    CHECK(file, "tests/golden/quant.bin cannot be read (run from the top folder)");
    while (at + 20 <= n) {
        char name[9] = { 0 };
        uint32_t head[3];
        memcpy(name, file + at, 8);
        memcpy(head, file + at + 8, 12);
        size_t n_bytes = (size_t)head[1] * head[2], n_floats = (size_t)head[0] * head[2];
        const uint8_t *blocks = file + at + 20, *want = blocks + n_bytes;
        at += 20 + n_bytes + 4 * n_floats;
        const lm_dtype *type = lm_dtype_find_name(name);
        CHECK(type, "no number format named %s", name);
        if (!type) continue;
        CHECK(type->block == (int)head[0] && type->bytes == (int)head[1], "%s: block %d of %d bytes, wanted %u of %u",
              name, type->block, type->bytes, head[0], head[1]);
        CHECK(lm_dtype_find(type->id) == type, "%s: not found by its number %d", name, type->id);
        for (size_t shift = 0; shift < 4; shift++) {
            int wrong = n_wrong(type, blocks, head[2], want, shift);
            CHECK(!wrong, "%s: %d of %zu floats differ from golden at shift %zu", name, wrong, n_floats, shift);
        }
        n_types++;
    }
    CHECK(at == n, "quant.bin ends in the middle of a format");
    CHECK(n_types == 14, "%d formats in quant.bin, wanted 14", n_types);
    free(file);
}

static void test_table(void) {
    static const int absent[] = { -1, 4, 5, 9, 15, 16, 19, 21, 23, 24, 29, 31, 33, 36, 38, 41, 1 << 30 };
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        CHECK(!lm_dtype_find(absent[i]), "type %d is in the table", absent[i]);
    }
    CHECK(!lm_dtype_find_name("Q4_1") && !lm_dtype_find_name("") && !lm_dtype_find_name("q4"),
          "name found by resemblance");
}

/* Measure a x b x c; expect n_bytes, or where a word is given an error that says it. */
static void measure(int line, int dtype, int n_dims, int64_t a, int64_t b, int64_t c, int64_t n_bytes,
                    const char *word) {
    lm_err err = { 0 };
    lm_tensor t = { .name = "t", .dtype = dtype, .n_dims = n_dims, .ne = { a, b, c, 7 } };
    lm_tensor_measure(&t, &err);
    if (word) CHECK(err.code && strstr(err.msg, word), "line %d: '%s', wanted '%s'", line, err.msg, word);
    else CHECK(!err.code && t.n_bytes == n_bytes && t.ne[3] == 1, "line %d: %s%lld bytes", line, err.msg,
               (long long)t.n_bytes);
}

static void test_measure(void) {
    measure(__LINE__, LM_F32, 2, 3, 5, 9, 60, NULL);
    measure(__LINE__, LM_Q4_1, 1, 64, 0, 0, 40, NULL);
    measure(__LINE__, LM_Q6_K, 3, 512, 3, 2, 2 * 210 * 6, NULL);
    measure(__LINE__, LM_F32, 1, INT64_MAX / 4, 0, 0, INT64_MAX / 4 * 4, NULL);
    measure(__LINE__, LM_F32, 1, INT64_MAX / 4 + 1, 0, 0, 0, "bytes");
    measure(__LINE__, LM_F32, 0, 1, 1, 1, 0, "dimensions");
    measure(__LINE__, LM_F32, 5, 1, 1, 1, 0, "dimensions");
    measure(__LINE__, LM_F32, 2, 0, 1, 1, 0, "at least 1");
    measure(__LINE__, LM_F32, 2, 1, -1, 1, 0, "at least 1");
    measure(__LINE__, LM_F32, 2, 1, INT64_MIN, 1, 0, "at least 1");
    measure(__LINE__, LM_F16, 3, 4194305, 4194305, 211106198978564, 0, "multiply");
    measure(__LINE__, LM_Q8_0, 2, 48, 2, 1, 0, "multiple");
    measure(__LINE__, LM_Q4_K, 1, 128, 1, 1, 0, "multiple");
    measure(__LINE__, 31, 1, 32, 1, 1, 0, "unknown");
}

int main(void) {
    test_golden();
    test_table();
    test_measure();
    return finish_tests();
}

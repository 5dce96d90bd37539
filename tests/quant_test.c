/* quant_test.c: the reference decoders against tests/golden/quant.bin, and the table they stand in; encoding with searched
** scales against plain rounding to nearest and other programs' encoders. */
#include "harness.h"
#include "../engine/kern/kern.h"

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

/*----------------------------------------------------------------------
** Encoding */
static float half(float x) { return lm_f16_to_f32(lm_f32_to_f16(x)); }

static float clamped(float q, float low, float high) { return q < low ? low : q > high ? high : q; }

/* The squared error of a sub-block as scale * q - min with rounded q. */
static double rounding_error(const float *x, int n, float scale, float min, float low, float high) {
    double error = 0;
    for (int i = 0; i < n; i++) {
        float q = scale != 0 ? clamped(rintf((x[i] + min) / scale), low, high) : 0;
        double e = (double)x[i] - ((double)(scale * q) - (double)min);
        error += e * e;
    }
    return error;
}

/* Plain rounding to nearest: every scale is what spreads its numbers over all levels. */
static double plain_error(const lm_format *f, const float *x) {
    int n = f->block / f->sub, bits = 1 << f->bits;
    float low = f->has_min ? 0 : f->bits == 8 ? -127 : (float)-f->offset, high = f->has_min ? (float)(bits - 1) : f->bits == 8 ? 127 : low + (float)(bits - 1);
    float scale[16], min[16] = {0}, most = 0, most_min = 0;
    double error = 0;
    for (int j = 0; j < n; j++) {
        const float *at = x + j * f->sub;
        float extreme = 0, least = f->is_k ? 0 : at[0], largest = least;
        for (int i = 0; i < f->sub; i++) {
            if (fabsf(at[i]) > fabsf(extreme)) extreme = at[i];
            least = fminf(least, at[i]), largest = fmaxf(largest, at[i]);
        }
        scale[j] = f->has_min ? (largest - least) / high : f->bits == 8 ? fabsf(extreme) / 127 : extreme / low;
        min[j] = f->has_min ? -least : 0;
        if (fabsf(scale[j]) > fabsf(most)) most = scale[j];
        most_min = fmaxf(most_min, min[j]);
    }
    float d = half(f->is_k ? most / (f->has_min ? 63 : -128) : scale[0]), m = half(f->is_k ? most_min / 63 : min[0]);
    for (int j = 0; j < n; j++) {
        float s = !f->is_k ? d : d != 0 ? d * clamped(rintf(scale[j] / d), f->has_min ? 0 : -128, f->has_min ? 63 : 127) : 0;
        float least = !f->is_k ? m : m != 0 ? m * clamped(rintf(min[j] / m), 0, 63) : 0;
        error += rounding_error(x + j * f->sub, f->sub, s, f->has_min ? least : 0, low, high);
    }
    return error;
}

enum { SHAPES = 14 };

static void fill(float *x, int n, int shape, uint64_t seed) {
    for (int i = 0; i < n; i++) {
        double bell = -2, u = lm_uniform(seed + 100, (uint64_t)i);
        for (int k = 0; k < 4; k++) bell += lm_uniform(seed, 4 * (uint64_t)i + (uint64_t)k);
        switch (shape) {
        case 0: x[i] = (float)bell * 0.03f; break;
        case 1: x[i] = (float)(bell * bell * bell); break;              /* long tails */
        case 2: x[i] = (float)u; break;                                 /* all above 0 */
        case 3: x[i] = (float)-u - 3; break;                            /* all below */
        case 4: x[i] = 0; break;
        case 5: x[i] = -0.7f; break;
        case 6: x[i] = i % 37 ? 0 : 5; break;
        case 7: x[i] = i == 100 ? 60000.0f : (float)bell; break;        /* one far out */
        case 8: x[i] = (float)bell * 1e-7f; break;                      /* scales that are subnormal halfs */
        case 9: x[i] = (float)bell * 1e-38f; break;
        case 10: x[i] = (float)bell * 30000.0f; break;
        case 11: x[i] = (float)(int)(u * 3 - 1); break;                 /* -1, 0, 1 */
        case 12: x[i] = u < 0.5 ? -65503.0f : 65503.0f; break;
        default: x[i] = (float)bell * ldexpf(1, -(i / 16 % 20));        /* sub-blocks of many sizes */
        }
    }
}

/* Never worse than plain rounding, block by block; the same bytes from one thread and two. */
static void test_encode(void) {
    static const char *const names[] = { "q8_0", "q6_k", "q5_0", "q5_1", "q5_k", "q4_0", "q4_k" };
    enum { N = 20480 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    uint8_t *out = malloc(N * 2), *again = malloc(N * 2);
    for (int t = 0; t < LM_COUNT(names); t++) {
        const lm_dtype *type = lm_dtype_find_name(names[t]);
        const lm_format *f = lm_format_find(type->id);
        for (int shape = 0; shape < SHAPES; shape++) {
            lm_err err = {0};
            double all = 0, plain_all = 0;
            int n_worse = 0;
            fill(x, N, shape, (uint64_t)(t + 5));
            lm_threads_set(1);
            lm_encode_blocks(type, x, out, N, (lm_stop){0}, &err);
            lm_threads_set(2);
            lm_encode_blocks(type, x, again, N, (lm_stop){0}, &err);
            CHECK(!err.code && !memcmp(out, again, (size_t)(N / type->block * type->bytes)), "%s, shape %d: 1 and 2 threads differ: %s", names[t], shape, err.msg);
            type->decode(out, y, N);
            for (int i = 0; i < N; i += f->block) {
                double error = 0, squares = 0, plain = plain_error(f, x + i);
                for (int e = i; e < i + f->block; e++) {
                    error += ((double)x[e] - (double)y[e]) * ((double)x[e] - (double)y[e]);
                    squares += (double)x[e] * (double)x[e];
                }
                n_worse += !(error <= plain * (1 + 1e-4) + squares * 1e-12);
                all += error;
                plain_all += plain;
            }
            CHECK(n_worse == 0, "%s, shape %d: %d blocks are worse than plain rounding", names[t], shape, n_worse);
            if (shape == 0) CHECK(all < 0.95 * plain_all, "%s: an error of %g, plain rounding %g", names[t], all, plain_all);
        }
    }
    lm_threads_set(0);
    free(x);
    free(y);
    free(out);
    free(again);
}

/* What other encoders leave of the same numbers (check_quantize.py errors): the gguf package's, 0 where it has none, and llama.cpp's. */
static void test_others(void) {
    static const struct { const char *name; double package, llama; } others[] = {
        { "q8_0", 7.923e-09, 7.923e-09 }, { "q6_k", 0, 8.863e-08 }, { "q5_0", 5.001e-07, 5.001e-07 }, { "q5_1", 4.058e-07, 4.058e-07 },
        { "q5_k", 0, 3.686e-07 }, { "q4_0", 2.008e-06, 2.008e-06 }, { "q4_k", 0, 1.44e-06 },
    };
    enum { N = 16384 };
    static float x[N], y[N];
    static uint8_t out[N * 2];
    fill(x, N, 0, 3);
    for (int t = 0; t < LM_COUNT(others); t++) {
        const lm_dtype *type = lm_dtype_find_name(others[t].name);
        lm_err err = {0};
        double error = 0;
        lm_encode_blocks(type, x, out, N, (lm_stop){0}, &err);
        type->decode(out, y, N);
        for (int i = 0; i < N; i++) error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]) / N;
        CHECK(error < others[t].llama && (others[t].package == 0 || error < others[t].package), "%s: mean squared error %g, gguf %g, llama.cpp %g",
              others[t].name, error, others[t].package, others[t].llama);
    }
    static const char *const absent[] = { "q4_1", "q2_k", "q3_k", "iq4_nl" };
    for (int t = 0; t < LM_COUNT(absent); t++) {
        lm_err err = {0};
        lm_encode_blocks(lm_dtype_find_name(absent[t]), x, out, N, (lm_stop){0}, &err);
        CHECK(err.code && strstr(err.msg, "cannot be written"), "%s: '%s'", absent[t], err.msg);
    }
}

int main(void) {
    test_golden();
    test_encode();
    test_others();
    test_table();
    test_measure();
    return finish_tests();
}

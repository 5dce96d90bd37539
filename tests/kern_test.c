/* kern_test.c: every kernel set against the definition in kern.h, computed here from the file's blocks, on
** random and extreme numbers: equal bits. */
#define _GNU_SOURCE
#include "harness.h"

static const lm_kern *const sets[] = { &lm_scalar_kern, &lm_avx2_kern, &lm_vnni_kern, &lm_amx_kern };
enum { ROWS_MAX = 150, COLS_MAX = 768, COLUMNS_MAX = 70, BLOCKS_MAX = COLS_MAX / LM_BLOCK };

static uint64_t state = 42;
static uint32_t random_bits(void) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}
static float random_float(void) { return (float)(random_bits() % 2000001) / 1e6f - 1.0f; }

static uint8_t weights[ROWS_MAX * COLS_MAX * 4];
static float x[COLUMNS_MAX * COLS_MAX], want[COLUMNS_MAX * ROWS_MAX], got[COLUMNS_MAX * ROWS_MAX];
static _Alignas(64) uint8_t packed[(ROWS_MAX + LM_TILE) * COLS_MAX * 4];

/* Quantised columns, one copy a set. */
typedef struct {
    int8_t q[COLUMNS_MAX * COLS_MAX * 2];
    float d[COLUMNS_MAX * BLOCKS_MAX];
    int32_t sum[COLUMNS_MAX * BLOCKS_MAX * LM_SUMS];
    float dsum[COLUMNS_MAX * BLOCKS_MAX * LM_SUMS];
} columns;
static columns first, other;

/* Where a format's halfs d and m stand in its block. */
static int halfs_at(int dtype) {
    return dtype == LM_Q2_K ? 80 : dtype == LM_Q3_K ? 108 : dtype == LM_Q6_K ? 208 : 0;
}

static void fill_weights(int dtype, size_t n_bytes, int how) {
    const lm_dtype *t = lm_dtype_find(dtype);
    const lm_format *f = lm_format_find(dtype);
    for (size_t i = 0; i < n_bytes; i++) weights[i] = how == 1 ? 0xFF : how == 2 ? 0 : (uint8_t)random_bits();
    for (size_t i = 0; !f && i < n_bytes; i += (size_t)t->bytes) t->encode(&(float){ random_float() }, weights + i, 1);
    /* Finite scales: random, largest, or subnormal. */
    for (size_t i = 0; f && i < n_bytes; i += (size_t)t->bytes) {
        for (int s = 0; s < 1 + f->has_min; s++) {
            uint16_t half = how == 1 ? 0x7BFF : how == 2 ? 1 : (uint16_t)(random_bits() & 0xBBFF);
            memcpy(weights + i + halfs_at(dtype) + 2 * s, &half, 2);
        }
    }
}

static void fill_columns(int n, int k, int how) {
    for (int i = 0; i < n * k; i++) {
        switch (how) {
        case 1: x[i] = 3e4f; break;
        case 2: x[i] = i / LM_BLOCK % 2 ? 1e-31f : -1e-40f; break;
        case 3: x[i] = i % 2 ? -1.0f : 1.0f; break;
        default: x[i] = random_float() * (i % 37 ? 1.0f : 50.0f);
        }
    }
}

/* A row by a column as kern.h defines it, from the blocks as quant.c reads them (which quant_test.c holds
** against golden). */
static float dot(int dtype, const uint8_t *row, const float *column, int k) {
    const lm_dtype *t = lm_dtype_find(dtype);
    const lm_format *f = lm_format_find(dtype);
    lm_levels levels = {0};
    float acc = 0;
    for (int i = 0; !f && i < k; i++) {
        float w;
        t->decode(row + i * t->bytes, &w, 1);
        acc = fmaf(w, column[i], acc);
    }
    for (int b = 0; f && b < k; b += LM_BLOCK) {
        float amax = 0;
        if (b % f->block == 0) lm_format_read(f, row + b / f->block * f->bytes, &levels);
        for (int i = 0; i < LM_BLOCK; i++) amax = LM_MAX(amax, fabsf(column[b + i]));
        float dx = amax < 1e-30f ? 0 : amax / 16256.0f;
        for (int e = b; e < b + LM_BLOCK; e += f->sub) {
            int s = 0, sum = 0, at = e % f->block;
            for (int i = 0; i < f->sub; i++) {
                int q = amax < 1e-30f ? 0 : (int)rintf(column[e + i] * (16256.0f / amax));
                s += q * lm_format_value(f, levels.q[at + i]);
                sum += q;
            }
            float d = f->is_k ? levels.d * (float)levels.scale[at / f->sub] : levels.d;
            float min = f->is_k ? -(levels.m * (float)levels.min[at / f->sub]) : levels.m;
            acc = fmaf((float)s, d * dx, acc);
            if (f->has_min) acc = fmaf(min, dx * (float)sum, acc);
        }
    }
    return acc;
}

/* All rows by all columns, whole and cut in four. */
static void check_products(int dtype, int how, int rows, int k, int n) {
    const lm_dtype *t = lm_dtype_find(dtype);
    lm_err err = {0};
    lm_mat m;
    size_t row_bytes = (size_t)(k / t->block * t->bytes);
    fill_weights(dtype, row_bytes * (size_t)rows, how);
    fill_columns(n, k, how ? how : (int)(random_bits() % 5));
    lm_mat_init(&m, dtype, rows, k, &err);
    m.data = packed;
    for (int r = 0; r < rows; r += LM_TILE) lm_mat_pack(&m, r, LM_MIN(LM_TILE, rows - r), weights + (size_t)r * row_bytes);
    for (int c = 0; c < n; c++) {
        for (int r = 0; r < rows; r++) want[c * rows + r] = dot(dtype, weights + (size_t)r * row_bytes, x + c * k, k);
    }
    for (int s = 0; s < LM_COUNT(sets); s++) {
        if (!lm_kern_supported(sets[s])) continue;
        columns *in = s ? &other : &first;
        lm_columns columns_in = { k, x, in->q, in->d, in->sum, in->dsum };
        int finite = 1;
        for (int c = 0; c < n && m.format; c++) finite &= sets[s]->quantise(&columns_in, c);
        sets[s]->multiply(&m, 0, m.n_tiles, &columns_in, 0, n, got, (size_t)rows);
        CHECK(finite && !memcmp(got, want, sizeof *got * (size_t)(n * rows)), "%s, %s: %d rows, %d elements, %d columns, how %d",
              sets[s]->name, t->name, rows, k, n, how);
        int tile = (int)(random_bits() % (unsigned)(m.n_tiles + 1)), column = (int)(random_bits() % (unsigned)(n + 1));
        memset(got, 0, sizeof got);
        for (int i = 0; i < 4; i++) {
            int tile0 = i < 2 ? 0 : tile, c0 = i % 2 ? column : 0;
            sets[s]->multiply(&m, tile0, i < 2 ? tile : m.n_tiles, &columns_in, c0, i % 2 ? n : column, got, (size_t)rows);
        }
        CHECK(!memcmp(got, want, sizeof *got * (size_t)(n * rows)), "%s, %s: %d rows cut at tile %d, %d elements, %d columns cut at %d",
              sets[s]->name, t->name, rows, tile, k, n, column);
    }
}

static void check_random_products(int dtype, int how) {
    int is_float = !lm_format_find(dtype), unit = is_float ? 1 : LM_MAX(lm_dtype_find(dtype)->block, LM_BLOCK);
    int k = unit * (1 + (int)(random_bits() % (unsigned)(COLS_MAX / unit)));
    check_products(dtype, how, 1 + (int)(random_bits() % ROWS_MAX), k, 1 + (int)(random_bits() % COLUMNS_MAX));
}

static void check_elements(void) {
    int n = 1 + (int)(random_bits() % COLS_MAX);
    float a[COLS_MAX], b[COLS_MAX], out[COLS_MAX], scratch[COLS_MAX];
    for (int i = 0; i < n; i++) a[i] = random_float() * 20, b[i] = random_float();
    for (int s = 0; s < LM_COUNT(sets); s++) {
        if (!lm_kern_supported(sets[s])) continue;
        const lm_kern *kern = sets[s];
        CHECK(kern->rms_norm(a, b, 1e-5f, n, out), "%s: rms_norm", kern->name);
        lm_scalar_kern.rms_norm(a, b, 1e-5f, n, scratch);
        CHECK(!memcmp(out, scratch, sizeof *a * (size_t)n), "%s: rms_norm, %d", kern->name, n);
        memcpy(out, a, sizeof a);
        memcpy(scratch, a, sizeof a);
        kern->silu_mul(out, b, n);
        lm_scalar_kern.silu_mul(scratch, b, n);
        CHECK(!memcmp(out, scratch, sizeof *a * (size_t)n), "%s: silu_mul, %d", kern->name, n);
        for (int i = 0; i < n; i++) {
            double silu = (double)a[i] / (1 + exp(-(double)a[i])) * (double)b[i];
            CHECK(fabs((double)out[i] - silu) <= 1e-6 * fabs(silu) + 1e-12, "%s: silu(%g)", kern->name, (double)a[i]);
        }
        memcpy(out, a, sizeof a);
        memcpy(scratch, a, sizeof a);
        kern->gelu_mul(out, b, n);
        lm_scalar_kern.gelu_mul(scratch, b, n);
        CHECK(!memcmp(out, scratch, sizeof *a * (size_t)n), "%s: gelu_mul, %d", kern->name, n);
        for (int i = 0; i < n; i++) {
            double g = (double)a[i], gelu = 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * (double)b[i];
            CHECK(fabs((double)out[i] - gelu) <= 3e-5 * fabs(gelu) + 1e-12, "%s: gelu(%g)", kern->name, g);
        }
        for (int erf_form = 0; erf_form < 2; erf_form++) {
            memcpy(out, a, sizeof a);
            memcpy(scratch, a, sizeof a);
            kern->act(out, n, erf_form);
            lm_scalar_kern.act(scratch, n, erf_form);
            CHECK(!memcmp(out, scratch, sizeof *a * (size_t)n), "%s: act %d, %d", kern->name, erf_form, n);
            for (int i = 0; i < n && erf_form; i++) {
                double gelu = 0.5 * (double)a[i] * (1 + erf((double)a[i] / sqrt(2.0)));
                CHECK(fabs((double)out[i] - gelu) <= 4e-7 * fabs((double)a[i]) + 1e-7, "%s: gelu(%g) is %g", kern->name, (double)a[i], (double)out[i]);
            }
        }
        CHECK(kern->layer_norm(a, b, b, 1e-5f, n, out), "%s: layer_norm", kern->name);
        lm_scalar_kern.layer_norm(a, b, b, 1e-5f, n, scratch);
        CHECK(!memcmp(out, scratch, sizeof *a * (size_t)n), "%s: layer_norm, %d", kern->name, n);
        double mean = 0, variance = 0;
        for (int i = 0; i < n; i++) mean += (double)a[i] / n;
        for (int i = 0; i < n; i++) variance += ((double)a[i] - mean) * ((double)a[i] - mean) / n;
        for (int i = 0; i < n; i++) {
            double y = ((double)a[i] - mean) / sqrt(variance + 1e-5) * (double)b[i] + (double)b[i];
            CHECK(fabs((double)out[i] - y) <= 1e-4, "%s: layer_norm, element %d of %d: %g, wanted %g", kern->name, i, n, (double)out[i], y);
        }
        CHECK(kern->sum_exp(a, n, 20) == lm_scalar_kern.sum_exp(a, n, 20), "%s: sum_exp", kern->name);
        CHECK(kern->sum_exp_gap(a, n, 20) == lm_scalar_kern.sum_exp_gap(a, n, 20), "%s: sum_exp_gap", kern->name);
        memcpy(scratch, a, sizeof a);
        scratch[n / 2] = scratch[n - 1] = 99;
        CHECK(kern->argmax(scratch, n) == n / 2, "%s: argmax", kern->name);
    }
}

/* Non-finite values anywhere are seen. */
static void check_finite(void) {
    for (int s = 0; s < LM_COUNT(sets); s++) {
        if (!lm_kern_supported(sets[s])) {
            printf("skipped: kernels %s: this cpu lacks them\n", sets[s]->name);
            continue;
        }
        for (int i = 0; i < 64; i++) {
            fill_columns(1, 64, 0);
            x[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
            CHECK(!sets[s]->quantise(&(lm_columns){ 64, x, first.q, first.d, first.sum, first.dsum }, 0), "%s: quantise, %d", sets[s]->name, i);
            CHECK(!sets[s]->rms_norm(x, x, 1e-5f, 64, got), "%s: rms_norm, %d", sets[s]->name, i);
        }
    }
}

int main(void) {
    static const int dtypes[] = { LM_F32, LM_F16, LM_BF16, LM_Q4_0, LM_Q4_1, LM_Q5_0, LM_Q5_1, LM_Q8_0, LM_Q2_K, LM_Q3_K,
                                  LM_Q4_K, LM_Q5_K, LM_Q6_K, LM_IQ4_NL };
    for (int i = 0; i < 200; i++) {
        for (int d = 0; d < LM_COUNT(dtypes); d++) check_random_products(dtypes[d], i < 12 ? i % 4 : 0);
        check_elements();
    }
    for (int n = 1; n <= COLUMNS_MAX; n++) {        /* every width, with odd rows and elements */
        for (int d = 0; d < LM_COUNT(dtypes); d++) {
            int k = lm_format_find(dtypes[d]) ? LM_MAX(lm_dtype_find(dtypes[d])->block, LM_BLOCK) : 1 + n * 7 % 61;
            check_products(dtypes[d], 0, 1 + n * 13 % 67, k, n);
        }
    }
    check_finite();
    return finish_tests();
}

/* elem.h: what is done to vectors rather than with matrices: norms, activations, attention, quantising. One
** source, compiled for each set of kernels by scalar.c, avx2.c and vnni.c; the order of every sum is fixed
** by the sixteen lanes (kern.h). */
#include "simd.h"

static int quantise(const lm_columns *columns, int c) {
    size_t k = (size_t)columns->k, n = k / LM_BLOCK, at = (size_t)c * n;
    const float *x = columns->x + (size_t)c * k;
    int8_t *q = columns->q + 2 * (size_t)c * k;
    float *d = columns->d + at, *dsum = columns->dsum + LM_SUMS * at;
    int32_t *sum = columns->sum + LM_SUMS * at;
    for (size_t b = 0; b < n; b++, x += LM_BLOCK, q += 2 * LM_BLOCK, sum++, dsum++) {
        v16 low = v16_load(x), high = v16_load(x + 16);
        uint32_t bits = v16_max_bits(low, high);
        float amax;
        memcpy(&amax, &bits, 4);
        if (bits >= 0x7F800000) return 0;
        if (amax < 1e-30f) {
            memset(q, 0, 2 * LM_BLOCK);
            d[b] = 0;
            for (size_t i = 0; i < LM_SUMS; i++) sum[i * n] = 0, dsum[i * n] = 0;
        } else {
            v16 inverse = v16_set((float)LM_LEVELS / amax);
            sum[0] = v16_store_quants(q, 0, v16_mul(low, inverse));
            sum[n] = v16_store_quants(q, 1, v16_mul(high, inverse));
            sum[2 * n] = sum[0] + sum[n];
            d[b] = amax / (float)LM_LEVELS;
            for (size_t i = 0; i < LM_SUMS; i++) dsum[i * n] = d[b] * (float)sum[i * n];
        }
    }
    return 1;
}

/* The part of a vector from i on, up to 16 of it; what is beyond the end counts as rest. */
INLINE v16 load_from(const float *x, int i, int n) {
    return i + 16 <= n ? v16_load(x + i) : v16_load_part(x + i, n - i);
}
INLINE void store_from(float *x, v16 a, int i, int n) {
    if (i + 16 <= n) v16_store(x + i, a);
    else v16_store_part(x + i, a, n - i);
}

INLINE float mean_of(const float *x, int n) {
    v16 sums = v16_set(0);
    for (int i = 0; i < n; i += 16) sums = v16_add(sums, load_from(x, i, n));
    return v16_sum(sums) / (float)n;
}

/* The sum of (x - mean)^2; what is beyond the end counts for nothing. */
INLINE float squares_about(const float *x, const float mean, int n) {
    v16 squares = v16_set(0);
    for (int i = 0; i + 16 <= n; i += 16) {
        v16 a = v16_sub(v16_load(x + i), v16_set(mean));
        squares = v16_fma(a, a, squares);
    }
    if (n % 16) {
        float rest[16] = {0};
        for (int i = n & ~15; i < n; i++) rest[i & 15] = x[i] - mean;
        squares = v16_fma(v16_load(rest), v16_load(rest), squares);
    }
    return v16_sum(squares);
}

static int rms_norm(const float *x, const float *weight, float eps, int n, float *out) {
    float sum = squares_about(x, 0, n);
    v16 scale = v16_set(1.0f / sqrtf(sum / (float)n + eps));
    for (int i = 0; i < n; i += 16)
        store_from(out, v16_mul(v16_mul(load_from(x, i, n), scale), load_from(weight, i, n)), i, n);
    return sum - sum == 0;
}

static int layer_norm(const float *x, const float *weight, const float *bias, float eps, int n, float *out) {
    float mean = mean_of(x, n), variance = squares_about(x, mean, n) / (float)n;
    v16 scale = v16_set(1.0f / sqrtf(variance + eps));
    for (int i = 0; i < n; i += 16) {
        v16 a = v16_mul(v16_sub(load_from(x, i, n), v16_set(mean)), scale);
        store_from(out, v16_fma(a, load_from(weight, i, n), load_from(bias, i, n)), i, n);
    }
    return variance - variance == 0;
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i++) x[i] += y[i];
}

/* gate / (1 + exp(-x)) * up: silu with x = gate (Elfwing et al. 2017); with x = 2 sqrt(2/pi) (gate + 0.044715 gate^3)
** gelu in its tanh form (Hendrycks and Gimpel 2016), as tanh(y) = 2 / (1 + exp(-2y)) - 1. */
INLINE v16 glu_lanes(v16 gate, v16 up, const int is_gelu) {
    v16 x = gate;
    if (is_gelu) {
        v16 cube = v16_mul(v16_mul(gate, gate), gate);
        x = v16_mul(v16_fma(cube, v16_set(0.044715f), gate), v16_set(1.59576912f));
    }
    v16 negative = v16_min(v16_sub(v16_set(0), x), v16_set(88.0f));
    return v16_mul(v16_div(gate, v16_add(v16_set(1.0f), v16_exp(negative))), up);
}

INLINE void glu(float *gate, const float *up, int n, const int is_gelu) {
    int i = 0;
    for (; i + 16 <= n; i += 16) v16_store(gate + i, glu_lanes(v16_load(gate + i), v16_load(up + i), is_gelu));
    if (i < n)
        v16_store_part(gate + i, glu_lanes(v16_load_part(gate + i, n - i), v16_load_part(up + i, n - i), is_gelu),
                       n - i);
}

/* The normal distribution's integral, (1 + erf(x / sqrt 2)) / 2, erf by Abramowitz and Stegun's 7.1.26 (within 2e-7). */
INLINE v16 normal_lanes(v16 x) {
    v16 y = v16_mul(x, v16_set(0.70710678f)), size = v16_max(y, v16_sub(v16_set(0), y));
    v16 t = v16_div(v16_set(1.0f), v16_fma(size, v16_set(0.3275911f), v16_set(1.0f)));
    v16 p = v16_fma(t, v16_set(1.061405429f), v16_set(-1.453152027f));
    p = v16_fma(p, t, v16_set(1.421413741f));
    p = v16_fma(p, t, v16_set(-0.284496736f));
    p = v16_fma(p, t, v16_set(0.254829592f));
    p = v16_mul(v16_mul(p, t), v16_exp(v16_sub(v16_set(0), v16_mul(y, y))));      /* 1 - erf(|y|) */
    v16 above = v16_sub(v16_set(2.0f), p);      /* where y > 0 */
    v16 both = v16_add(v16_zero_below(above, y, 0), v16_sub(p, v16_zero_below(p, y, 0)));
    return v16_mul(both, v16_set(0.5f));
}

/* gelu's first form */
INLINE v16 gelu_erf_lanes(v16 x) { return v16_mul(x, normal_lanes(x)); }

static void act(float *x, int n, int is_erf) {
    for (int i = 0; i < n; i += 16) {
        v16 a = load_from(x, i, n);
        store_from(x, is_erf ? gelu_erf_lanes(a) : glu_lanes(a, v16_set(1.0f), 1), i, n);
    }
}

static void silu_mul(float *gate, const float *up, int n) { glu(gate, up, n, 0); }
static void gelu_mul(float *gate, const float *up, int n) { glu(gate, up, n, 1); }

/*----------------------------------------------------------------------
** Attention over one page of 64 keys, carried from page to page as (max, sum, out): the online softmax of
** Milakov and Gimelshein (2018), with blocks at fixed absolute positions. Keys are lanes for the scores,
** the head's dimensions are lanes for the values; n queries share each load. */

/* Ask for what lies at the same place of the next page: the machine's own prefetchers do not know where that is. */
INLINE void ask_next(const lm_page *page, const void *p, size_t n) {
    if (!page->next) return;
    const uint8_t *at = page->next + ((const uint8_t *)p - (const uint8_t *)page->k);
    for (size_t i = 0; i < n; i += 64) __builtin_prefetch(at + i, 0, 2);
}

INLINE v16 load_any(const void *p, size_t at, int exact) {
    return exact ? v16_load((const float *)p + at) : v16_load_half((const uint16_t *)p + at);
}

/* Queries and the vectors of 16 that each works on side by side: n * wide running sums hide the latency of
** the additions, whether there are many queries or one. */
INLINE void score(const lm_page *page, const lm_query *queries, const int n, const int wide, const int exact,
                  float scores[][LM_PAGE]) {
    for (int key = 0; key < LM_PAGE; key += 16 * wide) {
        v16 sum[SUMS];
        for (int i = 0; i < n * wide; i++) sum[i] = v16_set(0);
        for (int d = 0; d < page->head_dim; d++) {
            ask_next(page, (const uint8_t *)page->k + (size_t)(d * LM_PAGE + key) * (exact ? 4 : 2),
                     (size_t)(16 * wide) * (exact ? 4 : 2));
            for (int j = 0; j < wide; j++) {
                v16 k = load_any(page->k, (size_t)(d * LM_PAGE + key + 16 * j), exact);
                for (int i = 0; i < n; i++) sum[i * wide + j] = v16_fma(v16_set(queries[i].q[d]), k, sum[i * wide + j]);
            }
        }
        for (int i = 0; i < n * wide; i++) v16_store(scores[i / wide] + key + 16 * (i % wide), sum[i]);
    }
}

/* Turn a query's scores into weights exp(score - max) and update max and sum. Return exp(old max - max). */
INLINE float soften(lm_query *query, float *scores) {
    for (int key = 0; key < query->first; key++) scores[key] = -INFINITY;
    for (int key = query->end; key < LM_PAGE; key++) scores[key] = -INFINITY;
    v16 s[4], most;
    for (int i = 0; i < 4; i++) s[i] = v16_load(scores + 16 * i);
    most = v16_max(v16_max(s[0], s[1]), v16_max(s[2], s[3]));
    float max = v16_most(most), lanes[16];
    if (query->max > max) max = query->max;
    for (int i = 0; i < 4; i++) {
        s[i] = v16_exp(v16_sub(s[i], v16_set(max)));
        v16_store(scores + 16 * i, s[i]);
    }
    v16_store(lanes, v16_exp(v16_sub(v16_set(query->max), v16_set(max))));
    query->sum = query->sum * lanes[0] + v16_sum(v16_add(v16_add(v16_add(s[0], s[1]), s[2]), s[3]));
    query->max = max;
    return lanes[0];
}

INLINE void gather_part(const lm_page *page, lm_query *queries, const int n, const int wide, const int exact,
                        int d, int part, int first, int end, float weights[][LM_PAGE], const float *carry) {
    v16 out[SUMS];
    for (int i = 0; i < n * wide; i++) {
        out[i] = v16_mul(v16_load_part(queries[i / wide].out + d + 16 * (i % wide), part), v16_set(carry[i / wide]));
    }
    for (int key = first; key < end; key++) {
        ask_next(page, (const uint8_t *)page->v + (size_t)(key * page->v_stride + d) * (exact ? 4 : 2),
                 (size_t)(16 * wide) * (exact ? 4 : 2));
        for (int j = 0; j < wide; j++) {
            v16 v = load_any(page->v, (size_t)(key * page->v_stride + d + 16 * j), exact);
            for (int i = 0; i < n; i++) out[i * wide + j] = v16_fma(v16_set(weights[i][key]), v, out[i * wide + j]);
        }
    }
    for (int i = 0; i < n * wide; i++) v16_store_part(queries[i / wide].out + d + 16 * (i % wide), out[i], part);
}

INLINE void attend_some(const lm_page *page, lm_query *queries, const int n, const int wide, const int exact) {
    float weights[SUMS][LM_PAGE], carry[SUMS];
    int first = LM_PAGE, end = 0, d = 0;
    score(page, queries, n, wide, exact, weights);
    for (int i = 0; i < n; i++) {
        carry[i] = soften(&queries[i], weights[i]);
        first = LM_MIN(first, queries[i].first);
        end = LM_MAX(end, queries[i].end);
    }
    for (; d + 16 * wide <= page->head_dim; d += 16 * wide) {
        gather_part(page, queries, n, wide, exact, d, 16, first, end, weights, carry);
    }
    for (; d < page->head_dim; d += 16) {
        gather_part(page, queries, n, 1, exact, d, LM_MIN(page->head_dim - d, 16), first, end, weights, carry);
    }
}

INLINE void attend_all(const lm_page *page, lm_query *queries, int n, const int exact) {
    for (; n >= SUMS; n -= SUMS, queries += SUMS) attend_some(page, queries, SUMS, 1, exact);
    if (SUMS > 4 && n >= 4) {
        attend_some(page, queries, 4, SUMS / 4, exact);
        n -= 4, queries += 4;
    }
    if (n >= 2) {
        attend_some(page, queries, 2, SUMS / 2, exact);
        n -= 2, queries += 2;
    }
    if (n) attend_some(page, queries, 1, 4, exact);
}

static void attend(const lm_page *page, lm_query *queries, int n) {
    if (page->exact) attend_all(page, queries, n, 1);
    else attend_all(page, queries, n, 0);
}

static void attend_end(lm_query *query, int head_dim) {
    for (int d = 0; d < head_dim; d++) query->out[d] /= query->sum;
}

static void to_half(const float *x, uint16_t *out, int n) {
    int i = 0;
    for (; i + 16 <= n; i += 16) v16_store_half(out + i, v16_load(x + i));
    for (; i < n; i++) out[i] = lm_f32_to_f16(x[i]);
}

/*----------------------------------------------------------------------
** Over logits. */

static int argmax(const float *x, int n) {
    v16 most = v16_set(-INFINITY);
    int i = 0;
    for (; i + 16 <= n; i += 16) most = v16_max(v16_load(x + i), most);
    float max = v16_most(most);
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (i = 0; i < n - 1 && x[i] != max; i++) {}
    return i;
}

static double sum_exp(const float *x, int n, float max) {
    double sum = 0;
    float lanes[16];
    for (int i = 0; i < n; i += 16) {
        int part = LM_MIN(n - i, 16);
        v16_store(lanes, v16_exp(v16_sub(v16_load_part(x + i, part), v16_set(max))));
        for (int j = 0; j < part; j++) sum += (double)lanes[j];
    }
    return sum;
}

static double sum_exp_gap(const float *x, int n, float max) {
    double sum = 0;
    float lanes[16];
    for (int i = 0; i < n; i += 16) {
        int part = LM_MIN(n - i, 16);
        v16_store(lanes, v16_exp(v16_sub(v16_load_part(x + i, part), v16_set(max))));
        for (int j = 0; j < part; j++) {
            if (lanes[j] > 0) sum += (double)lanes[j] * ((double)max - (double)x[i + j]);     /* x may be -infinity */
        }
    }
    return sum;
}

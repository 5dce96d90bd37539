/* simd.h: sixteen float lanes, spelled for AVX-512, for AVX2 and in plain C.
**
** elem.h is written once in these words and compiled for each set of kernels. Every word is defined lane by
** lane with IEEE arithmetic, so the spellings give the same bits; max is "a > b ? a : b", as the machines
** have it. */
#ifndef LM_SIMD_H
#define LM_SIMD_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")     /* where arrays must become registers */

#if defined(__AVX512F__)
/*---------------------------------------------------------------------- */
#include <immintrin.h>

enum { SUMS = 8 };              /* running sums that fit the registers beside what feeds them */

typedef __m512 v16;

INLINE v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
INLINE v16 v16_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void v16_store_part(float *p, v16 a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a); }
INLINE v16 v16_load_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void v16_store_half(uint16_t *p, v16 a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE v16 v16_set(float x) { return _mm512_set1_ps(x); }
INLINE v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
INLINE v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
INLINE v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE v16 v16_round(v16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* 2^n for whole n in -126..127 */
INLINE v16 v16_pow2(v16 n) {
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
/* 0 where x < limit, else a */
INLINE v16 v16_zero_below(v16 a, v16 x, float limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), a);
}
/* The largest of the lanes' magnitudes as bits: NaN counts as more than infinity. */
INLINE uint32_t v16_max_bits(v16 a, v16 b) {
    __m512i mask = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i m = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), mask), _mm512_and_si512(_mm512_castps_si512(b), mask));
    return (uint32_t)_mm512_reduce_max_epi32(m);
}
/* Round the lanes to integers q in -16256..16256 and store them as two bytes, q = 128 high + low with low in
** -64..63; return their sum. */
INLINE int v16_store_quants(int8_t *block, int half, v16 a) {
    int8_t *high = block + 16 * half, *low = high + 32;
    __m512i q = _mm512_cvtps_epi32(a);
    __m512i h = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7);
    _mm_storeu_si128((__m128i *)high, _mm512_cvtepi32_epi8(h));
    _mm_storeu_si128((__m128i *)low, _mm512_cvtepi32_epi8(_mm512_sub_epi32(q, _mm512_slli_epi32(h, 7))));
    return _mm512_reduce_add_epi32(q);
}

#elif defined(__AVX2__)
/*---------------------------------------------------------------------- */
#include <immintrin.h>

enum { SUMS = 4 };

typedef struct { __m256 a, b; } v16;

INLINE v16 v16_load(const float *p) { return (v16){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) }; }
INLINE void v16_store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
INLINE v16 v16_load_part(const float *p, int n) {
    float all[16] = {0};
    memcpy(all, p, (size_t)n * sizeof *p);
    return v16_load(all);
}
INLINE void v16_store_part(float *p, v16 x, int n) {
    float all[16];
    v16_store(all, x);
    memcpy(p, all, (size_t)n * sizeof *p);
}
INLINE v16 v16_load_half(const uint16_t *p) {
    return (v16){ _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))) };
}
INLINE void v16_store_half(uint16_t *p, v16 x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE v16 v16_set(float x) { return (v16){ _mm256_set1_ps(x), _mm256_set1_ps(x) }; }
#define PAIRWISE(name, op) INLINE v16 name(v16 x, v16 y) { return (v16){ op(x.a, y.a), op(x.b, y.b) }; }
PAIRWISE(v16_add, _mm256_add_ps)
PAIRWISE(v16_sub, _mm256_sub_ps)
PAIRWISE(v16_mul, _mm256_mul_ps)
PAIRWISE(v16_div, _mm256_div_ps)
PAIRWISE(v16_max, _mm256_max_ps)
PAIRWISE(v16_min, _mm256_min_ps)
#undef PAIRWISE
INLINE v16 v16_fma(v16 x, v16 y, v16 z) { return (v16){ _mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b) }; }
INLINE v16 v16_round(v16 x) {
    return (v16){ _mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                  _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) };
}
INLINE __m256 pow2_half(__m256 n) {
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
INLINE v16 v16_pow2(v16 n) { return (v16){ pow2_half(n.a), pow2_half(n.b) }; }
INLINE v16 v16_zero_below(v16 y, v16 x, float limit) {
    __m256 l = _mm256_set1_ps(limit);
    return (v16){ _mm256_and_ps(_mm256_cmp_ps(x.a, l, _CMP_NLT_UQ), y.a), _mm256_and_ps(_mm256_cmp_ps(x.b, l, _CMP_NLT_UQ), y.b) };
}
INLINE __m256i bits_of(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF)); }
INLINE uint32_t v16_max_bits(v16 x, v16 y) {
    __m256i m = _mm256_max_epi32(_mm256_max_epi32(bits_of(x.a), bits_of(x.b)), _mm256_max_epi32(bits_of(y.a), bits_of(y.b)));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4E));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(h);
}
INLINE int v16_store_quants(int8_t *block, int half, v16 x) {
    __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    words = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xD8), 0xD8);
    _mm256_storeu_si256((__m256i *)(block + 32 * half), words);
    __m256i s = _mm256_add_epi32(a, b);
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4E));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xB1));
    return _mm_cvtsi128_si32(h);
}

#else
/*---------------------------------------------------------------------- */
#include <math.h>

enum { SUMS = 4 };

typedef struct { float f[16]; } v16;

#define LANES for (int i = 0; i < 16; i++)
INLINE v16 v16_load(const float *p) { v16 r; memcpy(&r, p, sizeof r); return r; }
INLINE void v16_store(float *p, v16 a) { memcpy(p, &a, sizeof a); }
INLINE v16 v16_load_part(const float *p, int n) { v16 r = {{0}}; memcpy(&r, p, (size_t)n * sizeof *p); return r; }
INLINE void v16_store_part(float *p, v16 a, int n) { memcpy(p, &a, (size_t)n * sizeof *p); }
INLINE v16 v16_load_half(const uint16_t *p) { v16 r; LANES r.f[i] = lm_f16_to_f32(p[i]); return r; }
INLINE void v16_store_half(uint16_t *p, v16 a) { LANES p[i] = lm_f32_to_f16(a.f[i]); }
INLINE v16 v16_set(float x) { v16 r; LANES r.f[i] = x; return r; }
INLINE v16 v16_add(v16 a, v16 b) { LANES a.f[i] += b.f[i]; return a; }
INLINE v16 v16_sub(v16 a, v16 b) { LANES a.f[i] -= b.f[i]; return a; }
INLINE v16 v16_mul(v16 a, v16 b) { LANES a.f[i] *= b.f[i]; return a; }
INLINE v16 v16_div(v16 a, v16 b) { LANES a.f[i] /= b.f[i]; return a; }
INLINE v16 v16_max(v16 a, v16 b) { LANES a.f[i] = a.f[i] > b.f[i] ? a.f[i] : b.f[i]; return a; }
INLINE v16 v16_min(v16 a, v16 b) { LANES a.f[i] = a.f[i] < b.f[i] ? a.f[i] : b.f[i]; return a; }
INLINE v16 v16_fma(v16 a, v16 b, v16 c) { LANES c.f[i] = fmaf(a.f[i], b.f[i], c.f[i]); return c; }
INLINE v16 v16_round(v16 a) { LANES a.f[i] = rintf(a.f[i]); return a; }
INLINE v16 v16_pow2(v16 n) {
    LANES {
        uint32_t bits = n.f[i] == n.f[i] ? (uint32_t)((int)n.f[i] + 127) << 23 : 0;
        memcpy(&n.f[i], &bits, 4);
    }
    return n;
}
INLINE v16 v16_zero_below(v16 a, v16 x, float limit) { LANES a.f[i] = x.f[i] < limit ? 0 : a.f[i]; return a; }
INLINE uint32_t v16_max_bits(v16 a, v16 b) {
    uint32_t most = 0, bits[32];
    memcpy(bits, &a, sizeof a);
    memcpy(bits + 16, &b, sizeof b);
    for (int i = 0; i < 32; i++) most = LM_MAX(most, bits[i] & 0x7FFFFFFF);
    return most;
}
INLINE int v16_store_quants(int8_t *block, int half, v16 a) {
    int8_t *high = block + 16 * half, *low = high + 32;
    int sum = 0;
    LANES {
        int q = (int)rintf(a.f[i]), h = (q + 64 + 32768) / 128 - 256;     /* floor((q + 64) / 128) */
        high[i] = (int8_t)h;
        low[i] = (int8_t)(q - 128 * h);
        sum += q;
    }
    return sum;
}
#undef LANES
#endif

/*---------------------------------------------------------------------- */
/* The sum of the lanes, folded 8, 4, 2, 1. */
INLINE float v16_sum(v16 a) {
    float f[16];
    v16_store(f, a);
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; i++) f[i] += f[i + half];
    }
    return f[0];
}

INLINE float v16_most(v16 a) {
    float f[16];
    v16_store(f, a);
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; i++) f[i] = f[i] > f[i + half] ? f[i] : f[i + half];
    }
    return f[0];
}

/* exp by its series to the 7th power on |r| <= ln2 / 2 (cut off at 6e-9 of the result); 0 below e^-87; x is at
** most 88; NaN stays NaN. */
INLINE v16 v16_exp(v16 x) {
    v16 bounded = v16_max(v16_set(-87.0f), x);
    v16 n = v16_round(v16_mul(bounded, v16_set(1.44269504f)));
    v16 r = v16_fma(n, v16_set(-0.693359375f), bounded);
    r = v16_fma(n, v16_set(2.12194440e-4f), r);
    v16 p = v16_set(1.0f / 5040);
    p = v16_fma(p, r, v16_set(1.0f / 720));
    p = v16_fma(p, r, v16_set(1.0f / 120));
    p = v16_fma(p, r, v16_set(1.0f / 24));
    p = v16_fma(p, r, v16_set(1.0f / 6));
    p = v16_fma(p, r, v16_set(0.5f));
    p = v16_fma(v16_mul(p, r), r, r);
    return v16_zero_below(v16_mul(v16_add(p, v16_set(1.0f)), v16_pow2(n)), x, -87.0f);
}

#endif

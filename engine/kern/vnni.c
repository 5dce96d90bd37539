/* vnni.c: AVX-512 with VNNI (Ice Lake, Sapphire Rapids, Zen 4 and later). vpdpbusd multiplies unsigned by
** signed bytes, so weights are unsigned and what their offset adds is taken off again by the sum of x. */
#if defined(__x86_64__)
#include "kern.h"
#include "elem.h"

enum { LANES = 16, COLUMNS = 8 };

typedef __m512 vf;
typedef __m512i vb;

INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE vf vf_load_part(const float *p, int n) { return v16_load_part(p, n); }
INLINE void vf_store_part(float *p, vf a, int n) { v16_store_part(p, a, n); }
INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_half(const uint8_t *p) { return v16_load_half((const uint16_t *)p); }
INLINE vf vf_bf16(const uint8_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE vf vf_byte(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
INLINE vb vb_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE vb vb_or(vb a, vb b) { return _mm512_or_si512(a, b); }
#define vb_bits(v, shift, mask)                                                                                  \
    _mm512_and_si512((shift) > 0 ? _mm512_srli_epi16(v, (shift) & 15) : (shift) < 0 ? _mm512_slli_epi16(v, -(shift) & 15) : (v), \
                     _mm512_set1_epi8(mask))
INLINE vb vb_level(vb codes) {
    __m128i levels = _mm_xor_si128(_mm_loadu_si128((const __m128i *)lm_iq4_levels), _mm_set1_epi8(-128));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), codes);
}

INLINE __m512i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm512_set1_epi32(bytes);
}

/* The high bytes, times 128, and the low ones; two chains each halve the latency of a single column. */
INLINE vf dot(const vb *w, const int n, const int bits, const int8_t *x, int sum) {
    (void)bits;
    __m512i a = _mm512_setzero_si512(), b = a, c = _mm512_set1_epi32(-sum), d = a;
    for (int j = 0; j < n; j += 2) {
        a = _mm512_dpbusd_epi32(a, w[j], four(x + 4 * j));
        b = _mm512_dpbusd_epi32(b, w[j + 1], four(x + 4 * j + 4));
        c = _mm512_dpbusd_epi32(c, w[j], four(x + 4 * j + 32));
        d = _mm512_dpbusd_epi32(d, w[j + 1], four(x + 4 * j + 36));
    }
    __m512i high = _mm512_slli_epi32(_mm512_add_epi32(a, b), 7);
    return _mm512_cvtepi32_ps(_mm512_add_epi32(high, _mm512_add_epi32(c, d)));
}

#include "gemm.h"

const lm_kern lm_vnni_kern = { "vnni", multiply, quantise, rms_norm, layer_norm, add, silu_mul, gelu_mul, act, attend, attend_end, to_half, argmax,
                               sum_exp };
#endif

/* avx512.h: the vector words that gemm.h and blocks.h want, in AVX-512; vnni.c and amx.c share them. */
#include "simd.h"

enum { LANES = 16 };

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

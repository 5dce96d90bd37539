/* avx2.c: AVX2 with FMA and F16C (Haswell, Zen and later). vpmaddubsw adds pairs of products in 16 bits:
** nibbles leave room to add a whole block there (8 * 2 * 15 * 127 = 30480); bytes do so only as magnitude
** by signed value (2 * 128 * 127 = 32512), one pair at a time. */
#if defined(__x86_64__)
#include "kern.h"
#include "elem.h"

enum { LANES = 8, COLUMNS = 4 };

typedef __m256 vf;
typedef __m256i vb;

INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE vf vf_load_part(const float *p, int n) { return v16_load_part(p, n).a; }
INLINE void vf_store_part(float *p, vf a, int n) {
    if (n == LANES) _mm256_storeu_ps(p, a);
    else v16_store_part(p, (v16){ a, a }, n);
}
INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_half(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE vb vb_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE vb vb_low(vb a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
INLINE vb vb_high(vb a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }

INLINE __m256i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

INLINE __m256i add_u4(const vb w[8], const int8_t *x) {
    __m256i words = _mm256_maddubs_epi16(w[0], four(x));
    for (int j = 1; j < 8; j++) words = _mm256_add_epi16(words, _mm256_maddubs_epi16(w[j], four(x + 4 * j)));
    return _mm256_madd_epi16(words, _mm256_set1_epi16(1));
}

INLINE vf dot_u4(const vb w[8], const int8_t *x, int correction) {
    __m256i s = _mm256_add_epi32(_mm256_slli_epi32(add_u4(w, x), 7), add_u4(w, x + 32));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(s, _mm256_set1_epi32(correction)));
}

INLINE vf dot_s8(const vb w[8], const int8_t *x, int sum) {
    (void)sum;
    __m256i high = _mm256_setzero_si256(), low = high, ones = _mm256_set1_epi16(1);
    for (int j = 0; j < 8; j++) {
        __m256i v = _mm256_xor_si256(w[j], _mm256_set1_epi8(-128)), size = _mm256_abs_epi8(v);
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(four(x + 4 * j), v)), ones));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(four(x + 4 * j + 32), v)), ones));
    }
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(high, 7), low));
}

#include "gemm.h"

const lm_kern lm_avx2_kern = { "avx2", multiply, quantise, rms_norm, add, silu_mul, attend, attend_end, to_half, argmax,
                               sum_exp };
#endif

/* avx2.c: AVX2 with FMA and F16C (Haswell, Zen and later). vpmaddwd multiplies words and adds pairs in 32 bits: nothing is
** ever too large for it, a column's whole 15 bits go in at once, and the bytes of weights are words after a mask or a shift. A
** column's quants are words here, of every four the second and third changed about, as masked and shifted weights come. */
#if defined(__x86_64__)
#include "kern.h"
#include "elem.h"

enum { LANES = 8, COLUMNS = 4, FLOAT_COLUMNS = 6, HALF_BYTES = 32 };

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
INLINE vf vf_bf16(const uint8_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
INLINE vf vf_byte(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE vb vb_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE vb vb_or(vb a, vb b) { return _mm256_or_si256(a, b); }
#define vb_bits(v, shift, mask)                                                                                  \
    _mm256_and_si256((shift) > 0 ? _mm256_srli_epi16(v, (shift) & 15) : (shift) < 0 ? _mm256_slli_epi16(v, -(shift) & 15) : (v), \
                     _mm256_set1_epi8(mask))
INLINE vb vb_level(vb codes) {
    __m128i levels = _mm_xor_si128(_mm_loadu_si128((const __m128i *)lm_iq4_levels), _mm_set1_epi8(-128));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), codes);
}

/* A loop that stays one: unrolled it asks for more registers than there are. */
#define ROLLED _Pragma("GCC unroll 1")

INLINE __m256i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

/* Even bytes by their quants, then odd ones: four columns are chains enough to hide each other's latency, fewer are split. */
INLINE void dots(const vb *w, const int groups, const int offset, const lm_quants x, const int n, vf *out) {
    const int parts = n >= 4 ? 1 : 2;
    __m256i s[2 * COLUMNS], even_bytes = _mm256_set1_epi16(255);
    UNROLL for (int i = 0; i < parts * n; i++) {
        s[i] = i < n && offset ? _mm256_set1_epi32(-offset * x.sum[(size_t)i * x.sum_step]) : _mm256_setzero_si256();
    }
    ROLLED for (int j = 0; j < groups; j++) {
        __m256i even = _mm256_and_si256(w[j], even_bytes), odd = _mm256_srli_epi16(w[j], 8);
        UNROLL for (int c = 0; c < n; c++)
            s[c] = _mm256_add_epi32(s[c], _mm256_madd_epi16(even, four(x.q + (size_t)c * x.step + 8 * j)));
        UNROLL for (int c = 0; c < n; c++) {
            const int i = parts == 2 ? c + n : c;
            s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(odd, four(x.q + (size_t)c * x.step + 8 * j + 4)));
        }
    }
    UNROLL for (int c = 0; c < n; c++)
        out[c] = _mm256_cvtepi32_ps(parts == 2 ? _mm256_add_epi32(s[c], s[c + n]) : s[c]);
}

#include "gemm.h"
#include "grads.h"

const lm_kern lm_avx2_kern = {
    "avx2", multiply, quantise, rms_norm, layer_norm, add, silu_mul, gelu_mul, act, attend, attend_end, to_half, argmax,
    sum_exp, sum_exp_gap,
};
const lm_train_kern lm_avx2_train = TRAIN_KERN;
#endif

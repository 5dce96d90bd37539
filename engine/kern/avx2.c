/* avx2.c: AVX2 with FMA and F16C (Haswell, Zen and later). vpmaddubsw adds pairs of products in 16 bits, where
** products of 4 bits by a signed byte leave room for 8 pairs (8 * 2 * 15 * 127 = 30480), of 5 bits for 4
** (31496), of 6 bits for 2 (32004); full bytes have it only as magnitude by signed value, one pair at a time
** (2 * 128 * 127 = 32512). */
#if defined(__x86_64__)
#include "kern.h"
#include "elem.h"

enum { LANES = 8, COLUMNS = 4, FLOAT_COLUMNS = 6 };

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

INLINE __m256i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

/* n groups of 4 bytes by one plane of x. */
INLINE __m256i plane(const vb *w, const int n, const int bits, const int8_t *x) {
    const int room = bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    __m256i sum = _mm256_setzero_si256(), words = sum, ones = _mm256_set1_epi16(1);
    for (int j = 0; j < n; j++) {
        __m256i v = w[j], xj = four(x + 4 * j);
        if (bits == 8) {
            v = _mm256_xor_si256(v, _mm256_set1_epi8(-128));
            xj = _mm256_sign_epi8(xj, v);
            v = _mm256_abs_epi8(v);
        }
        __m256i pairs = _mm256_maddubs_epi16(v, xj);
        words = j % room ? _mm256_add_epi16(words, pairs) : pairs;
        if (j % room == room - 1 || j == n - 1) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, ones));
    }
    return sum;
}

INLINE void dots(const vb *w, const int groups, const int bits, const int offset, const lm_planes x, const int n, vf *out) {
    for (int c = 0; c < n; c++) {
        const int8_t *q = x.q + (size_t)c * x.step;
        __m256i s = _mm256_add_epi32(_mm256_slli_epi32(plane(w, groups, bits, q), 7), plane(w, groups, bits, q + 32));
        if (bits < 8 && offset) s = _mm256_sub_epi32(s, _mm256_set1_epi32(offset * x.sum[(size_t)c * x.sum_step]));
        out[c] = _mm256_cvtepi32_ps(s);
    }
}

#include "gemm.h"
#include "grads.h"

const lm_kern lm_avx2_kern = { "avx2", multiply, quantise, rms_norm, layer_norm, add, silu_mul, gelu_mul, act, attend, attend_end, to_half, argmax,
                               sum_exp, sum_exp_gap };
const lm_train_kern lm_avx2_train = TRAIN_KERN;
#endif

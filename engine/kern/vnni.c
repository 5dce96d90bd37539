/* vnni.c: AVX-512 with VNNI (Ice Lake, Sapphire Rapids, Zen 4 and later). vpdpbusd multiplies unsigned by
** signed bytes, so weights are unsigned and what their offset adds is taken off again by the sum of x. */
#if defined(__x86_64__)
#include "kern.h"
#include "elem.h"
#include "avx512.h"

enum { COLUMNS = 8, FLOAT_COLUMNS = 10, HALF_BYTES = 16 };

INLINE __m512i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm512_set1_epi32(bytes);
}

/* The high bytes, times 128, and the low ones. Eight columns are chains of additions enough to hide each other's latency,
** and the 128 on full bytes is taken off before the shift, as the sum once; fewer columns are split. */
INLINE void dots(const vb *w, const int groups, const int offset, const lm_quants x, const int n, vf *out) {
    const int parts = n >= 8 ? 1 : n >= 2 ? 2 : 4, early = parts == 1 && offset == 128;
    __m512i s[2 * COLUMNS];
    UNROLL for (int i = 0; i < parts * n; i++) {
        s[i] = early ? _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(x.sum[(size_t)i * x.sum_step]))
                     : _mm512_setzero_si512();
    }
    UNROLL for (int step = 0; step < 2 * groups; step++) {
        const int low = parts == 1 ? step / groups : step % 2, j = parts == 1 ? step % groups : step / 2;
        if (parts == 1 && step == groups) UNROLL for (int i = 0; i < n; i++) s[i] = _mm512_slli_epi32(s[i], 7);
        UNROLL for (int c = 0; c < n; c++) {
            const int i = c + (parts == 1 ? 0 : parts == 2 ? low : 2 * (j % 2) + low) * n;
            s[i] = _mm512_dpbusd_epi32(s[i], w[j], four(x.q + (size_t)c * x.step + 32 * low + 4 * j));
        }
    }
    UNROLL for (int c = 0; c < n; c++) {
        if (parts == 4)
            s[c] = _mm512_add_epi32(s[c], s[c + 2 * n]), s[c + n] = _mm512_add_epi32(s[c + n], s[c + 3 * n]);
        if (parts > 1) s[c] = _mm512_add_epi32(_mm512_slli_epi32(s[c], 7), s[c + n]);
        if (offset && !early) s[c] = _mm512_sub_epi32(s[c], _mm512_set1_epi32(offset * x.sum[(size_t)c * x.sum_step]));
        out[c] = _mm512_cvtepi32_ps(s[c]);
    }
}

#include "gemm.h"
#include "grads.h"

const lm_kern lm_vnni_kern = {
    "vnni", multiply, quantise, rms_norm, layer_norm, add, silu_mul, gelu_mul, act, attend, attend_end, to_half, argmax,
    sum_exp, sum_exp_gap,
};
const lm_kern lm_amx_kern = {
    "amx", lm_amx_multiply, quantise, rms_norm, layer_norm, add, silu_mul, gelu_mul, act, attend, attend_end, to_half, argmax,
    sum_exp, sum_exp_gap,
};
const lm_train_kern lm_vnni_train = TRAIN_KERN;
#endif

/* quant.c: the number formats of tensors, each with its reference decoder.
**
** A tensor's row is a string of blocks, each of `block` elements in `bytes` bytes. Beside each decoder stands
** its block: fields in the order of their bytes, all numbers little-endian, d and m (or dmin) as f16. Byte
** offsets are in brackets; q[e] is the stored integer of element e, x[e] its value. The float32 arithmetic
** is fixed: one multiplication for the scale of a sub-block, then as written, no contraction.
**
** These decoders are the definition that packing and kernels are tested against; they accept blocks at any
** address. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md has the type codes. */
#include "../lmint.h"

#include <string.h>

static float f16_at(const uint8_t *p) { return lm_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

/* x[0]: f32 */
static void decode_f32(const void *blocks, float *out, int64_t n) { memcpy(out, blocks, (size_t)n * 4); }

/* x[0]: f16 */
static void decode_f16(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t i = 0; i < n; i++) out[i] = f16_at(b + 2 * i);
}

/* x[0]: the upper half of an f32 */
static void decode_bf16(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)b[2 * i] << 16 | (uint32_t)b[2 * i + 1] << 24;
        memcpy(&out[i], &bits, 4);
    }
}

/*----------------------------------------------------------------------
** Blocks of 32. Nibbles: byte j holds q[j] in its low and q[j + 16] in its high half.
**
**            bit 7     4 3      0
**     qs[j]    q[j + 16] | q[j]                                   j = 0 .. 15 */

/*  [0] d   [2] qs: 16 bytes                    x = d * (q - 8) */
static void decode_q4_0(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 18, out += 32, n -= 32) {
        float d = f16_at(b);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)((b[2 + j] & 15) - 8);
            out[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
        }
    }
}

/*  [0] d   [2] m   [4] qs: 16 bytes            x = d * q + m */
static void decode_q4_1(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 20, out += 32, n -= 32) {
        float d = f16_at(b), m = f16_at(b + 2);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)(b[4 + j] & 15) + m;
            out[j + 16] = d * (float)(b[4 + j] >> 4) + m;
        }
    }
}

/* Five-bit blocks keep the fifth bits apart: bit e of the 32-bit number qh belongs to q[e]. */
static int five_bits(const uint8_t *qh, const uint8_t *qs, int e) {
    int low = qs[e & 15] >> (e < 16 ? 0 : 4) & 15, high = qh[e >> 3] >> (e & 7) & 1;
    return low | high << 4;
}

/*  [0] d   [2] qh: 4 bytes   [6] qs: 16 bytes              x = d * (q - 16) */
static void decode_q5_0(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 22, out += 32, n -= 32) {
        float d = f16_at(b);
        for (int e = 0; e < 32; e++) out[e] = d * (float)(five_bits(b + 2, b + 6, e) - 16);
    }
}

/*  [0] d   [2] m   [4] qh: 4 bytes   [8] qs: 16 bytes      x = d * q + m */
static void decode_q5_1(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 24, out += 32, n -= 32) {
        float d = f16_at(b), m = f16_at(b + 2);
        for (int e = 0; e < 32; e++) out[e] = d * (float)five_bits(b + 4, b + 8, e) + m;
    }
}

/*  [0] d   [2] q: 32 signed bytes              x = d * q */
static void decode_q8_0(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 34, out += 32, n -= 32) {
        float d = f16_at(b);
        for (int e = 0; e < 32; e++) out[e] = d * (float)(int8_t)b[2 + e];
    }
}

/*  [0] d   [2] qs: 16 bytes                    x = d * level[q], a table instead of even steps */
static void decode_iq4_nl(const void *blocks, float *out, int64_t n) {
    static const int8_t level[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
    for (const uint8_t *b = blocks; n > 0; b += 18, out += 32, n -= 32) {
        float d = f16_at(b);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)level[b[2 + j] & 15];
            out[j + 16] = d * (float)level[b[2 + j] >> 4];
        }
    }
}

/*----------------------------------------------------------------------
** Blocks of 256 ("k-quants"): sub-blocks of 16 or 32 elements have small integer scales of their own.
** Two-bit fields lie in planes: each half of the block (128 elements) has 32 bytes, and
**
**            bit 7      6 5      4 3      2 1     0
**     byte l   q[l + 96] | q[l + 64] | q[l + 32] | q[l]           l = 0 .. 31, within the half */

/* The two bits of element e. */
static int two_bits(const uint8_t *planes, int e) { return planes[(e >> 7) * 32 + (e & 31)] >> (e >> 5 & 3) * 2 & 3; }

/*  [0] scales: 16 bytes, low half scale, high half minimum of sub-block s (16 elements)
**  [16] qs: 64 bytes of planes   [80] d   [82] dmin
**                                              x = (d * scale) * q - (dmin * minimum) */
static void decode_q2_k(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 84, out += 256, n -= 256) {
        float d = f16_at(b + 80), dmin = f16_at(b + 82);
        for (int s = 0; s < 16; s++) {
            float scale = d * (float)(b[s] & 15), minimum = dmin * (float)(b[s] >> 4);
            for (int e = 16 * s; e < 16 * s + 16; e++) out[e] = scale * (float)two_bits(b + 16, e) - minimum;
        }
    }
}

/*  [0] hmask: 32 bytes, bit i of byte l is the third bit of q[32 i + l]
**  [32] qs: 64 bytes of planes, the lower two bits   [96] scales: 12 bytes   [108] d
**                                              x = (d * (scale - 32)) * (q - 4)
**
**  The scale of sub-block s (16 elements) has six bits, four in a half of bytes 0 .. 7, two in bytes 8 .. 11:
**
**            bit 7     4 3     0                     bit 7   6 5   4 3   2 1   0
**     byte s  low[s + 8] | low[s]  s = 0 .. 7   byte 8 + s  high[s + 12] | [s + 8] | [s + 4] | [s]  s = 0 .. 3 */
static void decode_q3_k(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 110, out += 256, n -= 256) {
        const uint8_t *scales = b + 96;
        float d = f16_at(b + 108);
        for (int s = 0; s < 16; s++) {
            int low = scales[s & 7] >> (s < 8 ? 0 : 4) & 15, high = scales[8 + (s & 3)] >> (s >> 2) * 2 & 3;
            float scale = d * (float)((low | high << 4) - 32);
            for (int e = 16 * s; e < 16 * s + 16; e++) {
                int third = b[e & 31] >> (e >> 5) & 1;
                out[e] = scale * (float)((two_bits(b + 32, e) | third << 2) - 4);
            }
        }
    }
}

/* q4_k and q5_k share 12 bytes of six-bit scales and minima for their 8 sub-blocks of 32 elements:
**
**            bit 7         6 5           0
**     byte s      high2(scale[s + 4]) | scale[s]                  s = 0 .. 3
**     byte s + 4  high2(min[s + 4])   | min[s]
**     byte s + 8  low4(min[s + 4]) in bits 7 .. 4, low4(scale[s + 4]) in bits 3 .. 0 */
static void six_bits(const uint8_t *packed, int s, float *scale, float *minimum) {
    int a, b;
    if (s < 4) {
        a = packed[s] & 63;
        b = packed[s + 4] & 63;
    } else {
        a = (packed[s + 4] & 15) | packed[s - 4] >> 6 << 4;
        b = packed[s + 4] >> 4 | packed[s] >> 6 << 4;
    }
    *scale = (float)a;
    *minimum = (float)b;
}

/*  [0] d   [2] dmin   [4] scales: 12 bytes, as above   [16] qs: 128 bytes
**                                              x = (d * scale) * q - (dmin * min)
**  Each quarter of the block (64 elements) has 32 bytes: byte l holds q[l] low and q[l + 32] high. */
static void decode_q4_k(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 144, out += 256, n -= 256) {
        float d = f16_at(b), dmin = f16_at(b + 2), scale, minimum;
        for (int s = 0; s < 8; s++) {
            six_bits(b + 4, s, &scale, &minimum);
            scale *= d;
            minimum *= dmin;
            const uint8_t *qs = b + 16 + (s >> 1) * 32;
            for (int l = 0; l < 32; l++) out[32 * s + l] = scale * (float)(qs[l] >> (s & 1) * 4 & 15) - minimum;
        }
    }
}

/*  [0] d   [2] dmin   [4] scales: 12 bytes, as above   [16] qh: 32 bytes   [48] qs: 128 bytes, as in q4_k
**                                              x = (d * scale) * q - (dmin * min)
**  Bit s of byte l of qh is the fifth bit of q[32 s + l]. */
static void decode_q5_k(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 176, out += 256, n -= 256) {
        float d = f16_at(b), dmin = f16_at(b + 2), scale, minimum;
        for (int s = 0; s < 8; s++) {
            six_bits(b + 4, s, &scale, &minimum);
            scale *= d;
            minimum *= dmin;
            const uint8_t *qh = b + 16, *qs = b + 48 + (s >> 1) * 32;
            for (int l = 0; l < 32; l++) {
                int q = (qs[l] >> (s & 1) * 4 & 15) | (qh[l] >> s & 1) << 4;
                out[32 * s + l] = scale * (float)q - minimum;
            }
        }
    }
}

/*  [0] ql: 128 bytes   [128] qh: 64 bytes of planes, the upper two bits   [192] scales: 16 signed bytes
**  [208] d                                     x = (d * scale) * (q - 32)
**  Each half of the block (128 elements) has 64 bytes of ql: byte l holds the lower four bits of q[l] low
**  and of q[l + 64] high. Scale s belongs to elements 16 s .. 16 s + 15. */
static void decode_q6_k(const void *blocks, float *out, int64_t n) {
    for (const uint8_t *b = blocks; n > 0; b += 210, out += 256, n -= 256) {
        float d = f16_at(b + 208);
        for (int s = 0; s < 16; s++) {
            float scale = d * (float)(int8_t)b[192 + s];
            for (int e = 16 * s; e < 16 * s + 16; e++) {
                int low = b[(e >> 7) * 64 + (e & 63)] >> (e >> 6 & 1) * 4 & 15;
                out[e] = scale * (float)((low | two_bits(b + 128, e) << 4) - 32);
            }
        }
    }
}

/*----------------------------------------------------------------------
** The table */

static const lm_dtype g_dtypes[] = {
    { LM_F32, "f32", 1, 4, decode_f32 },            { LM_F16, "f16", 1, 2, decode_f16 },
    { LM_BF16, "bf16", 1, 2, decode_bf16 },         { LM_Q4_0, "q4_0", 32, 18, decode_q4_0 },
    { LM_Q4_1, "q4_1", 32, 20, decode_q4_1 },       { LM_Q5_0, "q5_0", 32, 22, decode_q5_0 },
    { LM_Q5_1, "q5_1", 32, 24, decode_q5_1 },       { LM_Q8_0, "q8_0", 32, 34, decode_q8_0 },
    { LM_Q2_K, "q2_k", 256, 84, decode_q2_k },      { LM_Q3_K, "q3_k", 256, 110, decode_q3_k },
    { LM_Q4_K, "q4_k", 256, 144, decode_q4_k },     { LM_Q5_K, "q5_k", 256, 176, decode_q5_k },
    { LM_Q6_K, "q6_k", 256, 210, decode_q6_k },     { LM_IQ4_NL, "iq4_nl", 32, 18, decode_iq4_nl },
};

const lm_dtype *lm_dtype_find(int id) {
    for (int i = 0; i < LM_COUNT(g_dtypes); i++) {
        if (g_dtypes[i].id == id) return &g_dtypes[i];
    }
    return NULL;
}

const lm_dtype *lm_dtype_find_name(const char *name) {
    for (int i = 0; i < LM_COUNT(g_dtypes); i++) {
        if (!strcmp(g_dtypes[i].name, name)) return &g_dtypes[i];
    }
    return NULL;
}

void lm_tensor_measure(lm_tensor *t, lm_err *err) {
    if (err->code) return;
    const lm_dtype *type = lm_dtype_find(t->dtype);
    if (!type) {
        lm_err_set(err, LM_ERROR, "%s: number format %d is unknown (have f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 "
                   "q2_k q3_k q4_k q5_k q6_k iq4_nl)", t->name, t->dtype);
        return;
    }
    if (t->n_dims < 1 || t->n_dims > LM_DIMS_MAX) {
        lm_err_set(err, LM_ERROR, "%s: %d dimensions, wanted 1 to %d", t->name, t->n_dims, LM_DIMS_MAX);
        return;
    }
    t->n_params = 1;
    for (int i = 0; i < LM_DIMS_MAX; i++) {
        if (i >= t->n_dims) t->ne[i] = 1;
        if (t->ne[i] < 1) {
            lm_err_set(err, LM_ERROR, "%s: dimension %d is %lld, wanted at least 1", t->name, i, (long long)t->ne[i]);
            return;
        }
        if (__builtin_mul_overflow(t->n_params, t->ne[i], &t->n_params)) {
            lm_err_set(err, LM_ERROR, "%s: its dimensions multiply to over 2^63 elements", t->name);
            return;
        }
    }
    if (t->ne[0] % type->block) {
        lm_err_set(err, LM_ERROR, "%s: dimension 0 is %lld, not a multiple of %s's block of %d", t->name,
                   (long long)t->ne[0], type->name, type->block);
        return;
    }
    if (__builtin_mul_overflow(t->n_params / type->block, (int64_t)type->bytes, &t->n_bytes)) {
        lm_err_set(err, LM_ERROR, "%s: %lld elements of %s are over 2^63 bytes", t->name, (long long)t->n_params,
                   type->name);
    }
}

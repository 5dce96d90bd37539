/* quant.c: the number formats of tensors.
**
** A tensor's row is a string of blocks, each of `block` elements in `bytes` bytes. A quantised format is a row of
** the table lm_format: how wide its stored integers are, what is taken off them, and a reader that unpacks one
** block into integers and scales (lm_levels). Beside each reader stands its block: fields in the order of
** their bytes, all numbers little-endian, d and m (or dmin) as f16. Byte offsets are in brackets; q[e] is the
** stored integer of element e, x[e] its value.
**
** Decoding, packing and the tests of the kernels all start from these readers; they accept blocks at any
** address. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md has the type codes. */
#include "kern.h"

#include <string.h>

static float f16_at(const uint8_t *p) { return lm_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

/*----------------------------------------------------------------------
** Plain numbers. */

/* x[0]: f32 */
static void decode_f32(const void *blocks, float *out, int64_t n) { memcpy(out, blocks, (size_t)n * 4); }
static void encode_f32(const float *x, void *out, int64_t n) { memcpy(out, x, (size_t)n * 4); }

/* x[0]: f16 */
static void decode_f16(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t i = 0; i < n; i++) out[i] = f16_at(b + 2 * i);
}

static void put_half(uint8_t *p, uint16_t h) {
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static void encode_f16(const float *x, void *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) put_half((uint8_t *)out + 2 * i, lm_f32_to_f16(x[i]));
}

/* x[0]: the upper half of an f32 */
static void decode_bf16(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)b[2 * i] << 16 | (uint32_t)b[2 * i + 1] << 24;
        memcpy(&out[i], &bits, 4);
    }
}

static void encode_bf16(const float *x, void *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) put_half((uint8_t *)out + 2 * i, lm_f32_to_bf16(x[i]));
}

/*----------------------------------------------------------------------
** Fields of stored integers. Loading a model spends its time here: eight bytes at a time, in a form that compilers make
** vectors of. */

/* q[i] = (bytes[i] >> from & (1 << bits) - 1) << to, i = 0 .. n - 1, put on what is there when `add`; n is a multiple of 8. */
static inline void fields(const uint8_t *bytes, int from, int bits, int to, uint8_t *q, int n, int add) {
    const uint64_t mask = 0x0101010101010101u * ((1u << bits) - 1);
    for (int i = 0; i < n; i += 8) {
        uint64_t all = 0, some;
        memcpy(&some, bytes + i, 8);
        if (add) memcpy(&all, q + i, 8);
        all |= (some >> from & mask) << to;
        memcpy(q + i, &all, 8);
    }
}

/*----------------------------------------------------------------------
** Blocks of 32: one d, and one m or none. Nibbles: byte j holds q[j] in its low and q[j + n] in its high half.
**
**            bit 7     4 3      0
**     qs[j]    q[j + n] | q[j]                                    j = 0 .. n - 1, n = 16 */
static inline void read_nibbles(const uint8_t *qs, uint8_t *q, int n) {
    fields(qs, 0, 4, 0, q, n, 0);
    fields(qs, 4, 4, 0, q + n, n, 0);
}

/* Five-bit blocks keep the fifth bits apart: bit e of the 32-bit number qh belongs to q[e]. A byte of it is repeated eight
** times, each of which keeps a bit of its own and carries it to the top. */
static void read_five_bits(const uint8_t *qh, const uint8_t *qs, uint8_t *q) {
    read_nibbles(qs, q, 16);
    for (int e = 0; e < 32; e += 8) {
        uint64_t all, own = qh[e / 8] * 0x0101010101010101u & 0x8040201008040201u;
        memcpy(&all, q + e, 8);
        all |= (own + 0x7F7F7F7F7F7F7F7Fu) >> 3 & 0x1010101010101010u;
        memcpy(q + e, &all, 8);
    }
}

/*  [0] d   [2] qs: 16 bytes                    x = d * (q - 8) */
static void read_q4_0(const uint8_t *b, lm_levels *out) {
    read_nibbles(b + 2, out->q, 16);
}

/*  [0] d   [2] m   [4] qs: 16 bytes            x = d * q + m */
static void read_q4_1(const uint8_t *b, lm_levels *out) {
    read_nibbles(b + 4, out->q, 16);
}

/*  [0] d   [2] qh: 4 bytes   [6] qs: 16 bytes              x = d * (q - 16) */
static void read_q5_0(const uint8_t *b, lm_levels *out) {
    read_five_bits(b + 2, b + 6, out->q);
}

/*  [0] d   [2] m   [4] qh: 4 bytes   [8] qs: 16 bytes      x = d * q + m */
static void read_q5_1(const uint8_t *b, lm_levels *out) {
    read_five_bits(b + 4, b + 8, out->q);
}

/*  [0] d   [2] q: 32 signed bytes              x = d * q, here with 128 put on q */
static void read_q8_0(const uint8_t *b, lm_levels *out) {
    for (int e = 0; e < 32; e++) out->q[e] = b[2 + e] ^ 128;
}

/* d is what the half nearest to amax/127 holds, and q counts in that. Infinities and NaN have no place here. */
static void encode_q8_0(const float *x, void *out, int64_t n) {
    for (uint8_t *b = out; n > 0; n -= 32, x += 32, b += 34) {
        float most = 0;
        for (int e = 0; e < 32; e++) most = fmaxf(most, fabsf(x[e]));
        put_half(b, lm_f32_to_f16(most / 127));
        float d = f16_at(b);
        for (int e = 0; e < 32; e++) {
            float q = d > 0 ? x[e] / d : 0;
            q = q + 0x1.8p23f - 0x1.8p23f;              /* to the nearest integer, ties to even */
            b[2 + e] = (uint8_t)(int8_t)LM_MAX(LM_MIN(q, 127.0f), -127.0f);
        }
    }
}

/*  [0] d   [2] qs: 16 bytes                    x = d * lm_iq4_levels[q], a table instead of even steps */
const int8_t lm_iq4_levels[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

/*----------------------------------------------------------------------
** Blocks of 256 ("k-quants"): sub-blocks of 16 or 32 elements have small integer scales of their own, and
** perhaps minima: x = (d * scale) * q - (dmin * min). Two-bit fields lie in planes: each half of the block (128
** elements) has 32 bytes, and
**
**            bit 7      6 5      4 3      2 1     0
**     byte l   q[l + 96] | q[l + 64] | q[l + 32] | q[l]           l = 0 .. 31, within the half */
static inline void read_two_bits(const uint8_t *planes, int to, uint8_t *q, int add) {
    for (int s = 0; s < 8; s++) fields(planes + (s >> 2) * 32, (s & 3) * 2, 2, to, q + 32 * s, 32, add);
}

/* Bit s of byte l is one of q[32 s + l]. */
static inline void add_bits(const uint8_t *bits, int to, uint8_t *q) {
    for (int s = 0; s < 8; s++) fields(bits, s, 1, to, q + 32 * s, 32, 1);
}

/*  [0] scales: 16 bytes, low half scale, high half minimum of sub-block s (16 elements)
**  [16] qs: 64 bytes of planes   [80] d   [82] dmin */
static void read_q2_k(const uint8_t *b, lm_levels *out) {
    for (int s = 0; s < 16; s++) {
        out->scale[s] = (int8_t)(b[s] & 15);
        out->min[s] = (int8_t)(b[s] >> 4);
    }
    read_two_bits(b + 16, 0, out->q, 0);
}

/*  [0] hmask: 32 bytes, bit s of byte l is the third bit of q[32 s + l]
**  [32] qs: 64 bytes of planes, the lower two bits   [96] scales: 12 bytes   [108] d
**                                              x = (d * (scale - 32)) * (q - 4)
**
**  The scale of sub-block s (16 elements) has six bits, four in a half of bytes 0 .. 7, two in bytes 8 .. 11:
**
**            bit 7     4 3     0                     bit 7   6 5   4 3   2 1   0
**     byte s  low[s + 8] | low[s]  s = 0 .. 7   byte 8 + s  high[s + 12] | [s + 8] | [s + 4] | [s]  s = 0 .. 3 */
static void read_q3_k(const uint8_t *b, lm_levels *out) {
    const uint8_t *scales = b + 96;
    for (int i = 0; i < 4; i++) {           /* four scales at a time */
        uint32_t four, high;
        memcpy(&four, scales + i % 2 * 4, 4);
        memcpy(&high, scales + 8, 4);
        four = (four >> i / 2 * 4 & 0x0F0F0F0F) | (high >> 2 * i & 0x03030303) << 4;
        four = ((four | 0x80808080) - 0x20202020) ^ 0x80808080;
        memcpy(out->scale + 4 * i, &four, 4);
    }
    read_two_bits(b + 32, 0, out->q, 0);
    add_bits(b, 2, out->q);
}

/* q4_k and q5_k share 12 bytes of six-bit scales and minima for their 8 sub-blocks of 32 elements:
**
**            bit 7         6 5           0
**     byte s      high2(scale[s + 4]) | scale[s]                  s = 0 .. 3
**     byte s + 4  high2(min[s + 4])   | min[s]
**     byte s + 8  low4(min[s + 4]) in bits 7 .. 4, low4(scale[s + 4]) in bits 3 .. 0 */
static void read_six_bits(const uint8_t *packed, lm_levels *out) {
    for (int s = 0; s < 4; s++) {
        out->scale[s] = (int8_t)(packed[s] & 63);
        out->min[s] = (int8_t)(packed[s + 4] & 63);
        out->scale[s + 4] = (int8_t)((packed[s + 8] & 15) | packed[s] >> 6 << 4);
        out->min[s + 4] = (int8_t)(packed[s + 8] >> 4 | packed[s + 4] >> 6 << 4);
    }
}

/* Each quarter of the block (64 elements) has 32 bytes: byte l holds q[l] low and q[l + 32] high. */
static void read_quarters(const uint8_t *qs, uint8_t *q) {
    for (int quarter = 0; quarter < 4; quarter++) read_nibbles(qs + 32 * quarter, q + 64 * quarter, 32);
}

/*  [0] d   [2] dmin   [4] scales: 12 bytes, as above   [16] qs: 128 bytes, as above */
static void read_q4_k(const uint8_t *b, lm_levels *out) {
    read_six_bits(b + 4, out);
    read_quarters(b + 16, out->q);
}

/*  [0] d   [2] dmin   [4] scales: 12 bytes, as above   [16] qh: 32 bytes   [48] qs: 128 bytes, as in q4_k
**  Bit s of byte l of qh is the fifth bit of q[32 s + l]. */
static void read_q5_k(const uint8_t *b, lm_levels *out) {
    read_six_bits(b + 4, out);
    read_quarters(b + 48, out->q);
    add_bits(b + 16, 4, out->q);
}

/*  [0] ql: 128 bytes   [128] qh: 64 bytes of planes, the upper two bits   [192] scales: 16 signed bytes
**  [208] d                                     x = (d * scale) * (q - 32)
**  Each half of the block (128 elements) has 64 bytes of ql: byte l holds the lower four bits of q[l] low
**  and of q[l + 64] high. Scale s belongs to elements 16 s .. 16 s + 15. */
static void read_q6_k(const uint8_t *b, lm_levels *out) {
    memcpy(out->scale, b + 192, 16);
    for (int half = 0; half < 2; half++) read_nibbles(b + 64 * half, out->q + 128 * half, 64);
    read_two_bits(b + 128, 4, out->q, 1);
}

/*----------------------------------------------------------------------
** The tables */

static const lm_format g_formats[] = {
    /*  dtype  block bytes bits offset sub k min level, read, d_at m_at */
    { LM_Q4_0, 32, 18, 4, 8, 32, 0, 0, NULL, read_q4_0, 0, 0 },
    { LM_Q4_1, 32, 20, 4, 0, 32, 0, 1, NULL, read_q4_1, 0, 2 },
    { LM_Q5_0, 32, 22, 5, 16, 32, 0, 0, NULL, read_q5_0, 0, 0 },
    { LM_Q5_1, 32, 24, 5, 0, 32, 0, 1, NULL, read_q5_1, 0, 2 },
    { LM_Q8_0, 32, 34, 8, 128, 32, 0, 0, NULL, read_q8_0, 0, 0 },
    { LM_IQ4_NL, 32, 18, 4, 0, 32, 0, 0, lm_iq4_levels, read_q4_0, 0, 0 },
    { LM_Q2_K, 256, 84, 2, 0, 16, 1, 1, NULL, read_q2_k, 80, 82 },
    { LM_Q3_K, 256, 110, 3, 4, 16, 1, 0, NULL, read_q3_k, 108, 108 },
    { LM_Q4_K, 256, 144, 4, 0, 32, 1, 1, NULL, read_q4_k, 0, 2 },
    { LM_Q5_K, 256, 176, 5, 0, 32, 1, 1, NULL, read_q5_k, 0, 2 },
    { LM_Q6_K, 256, 210, 6, 32, 16, 1, 0, NULL, read_q6_k, 208, 208 },
};

const lm_format *lm_format_find(int dtype) {
    for (int i = 0; i < LM_COUNT(g_formats); i++) {
        if (g_formats[i].dtype == dtype) return &g_formats[i];
    }
    return NULL;
}

void lm_format_read(const lm_format *f, const uint8_t *block, lm_levels *out) {
    f->read(block, out);
    out->d = f16_at(block + f->d_at);
    out->m = f16_at(block + f->m_at);
}

int lm_format_value(const lm_format *f, int q) { return f->level ? f->level[q] : q - f->offset; }

/* The float32 arithmetic is fixed: one multiplication for the scale of a sub-block, one for its minimum, then one
** multiplication and one addition an element, no contraction. */
static void decode_blocks(int dtype, const uint8_t *b, float *out, int64_t n) {
    const lm_format *f = lm_format_find(dtype);
    lm_levels block;
    for (; n > 0; b += f->bytes, out += f->block, n -= f->block) {
        lm_format_read(f, b, &block);
        for (int s = 0; s < f->block / f->sub; s++) {
            float d = f->is_k ? block.d * (float)block.scale[s] : block.d;
            float min = f->is_k ? block.m * (float)block.min[s] : -block.m;
            for (int i = s * f->sub; i < (s + 1) * f->sub; i++) {
                float x = d * (float)lm_format_value(f, block.q[i]);
                out[i] = f->has_min ? x - min : x;
            }
        }
    }
}

#define DECODE(name, dtype) \
    static void decode_##name(const void *blocks, float *out, int64_t n) { decode_blocks(dtype, blocks, out, n); }
DECODE(q4_0, LM_Q4_0)
DECODE(q4_1, LM_Q4_1)
DECODE(q5_0, LM_Q5_0)
DECODE(q5_1, LM_Q5_1)
DECODE(q8_0, LM_Q8_0)
DECODE(iq4_nl, LM_IQ4_NL)
DECODE(q2_k, LM_Q2_K)
DECODE(q3_k, LM_Q3_K)
DECODE(q4_k, LM_Q4_K)
DECODE(q5_k, LM_Q5_K)
DECODE(q6_k, LM_Q6_K)

static const lm_dtype g_dtypes[] = {
    { LM_F32, "f32", 1, 4, decode_f32, encode_f32, INFINITY }, { LM_F16, "f16", 1, 2, decode_f16, encode_f16, 65520 },
    { LM_BF16, "bf16", 1, 2, decode_bf16, encode_bf16, 0x1.FFp127f },
    { LM_Q4_0, "q4_0", 32, 18, decode_q4_0, NULL, 0 },  { LM_Q4_1, "q4_1", 32, 20, decode_q4_1, NULL, 0 },
    { LM_Q5_0, "q5_0", 32, 22, decode_q5_0, NULL, 0 },  { LM_Q5_1, "q5_1", 32, 24, decode_q5_1, NULL, 0 },
    { LM_Q8_0, "q8_0", 32, 34, decode_q8_0, encode_q8_0, 8319008 }, { LM_Q2_K, "q2_k", 256, 84, decode_q2_k, NULL, 0 },
    { LM_Q3_K, "q3_k", 256, 110, decode_q3_k, NULL, 0 }, { LM_Q4_K, "q4_k", 256, 144, decode_q4_k, NULL, 0 },
    { LM_Q5_K, "q5_k", 256, 176, decode_q5_k, NULL, 0 }, { LM_Q6_K, "q6_k", 256, 210, decode_q6_k, NULL, 0 },
    { LM_IQ4_NL, "iq4_nl", 32, 18, decode_iq4_nl, NULL, 0 },
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

static int is_finite(const uint8_t *p, int dtype) {
    uint32_t bits = (uint32_t)p[0] | (uint32_t)p[1] << 8, exponent = dtype == LM_BF16 ? 0x7F80 : 0x7C00;
    if (dtype == LM_F32) bits = (uint32_t)p[2] | (uint32_t)p[3] << 8, exponent = 0x7F80;
    return (bits & exponent) != exponent;
}

void lm_tensor_check(const lm_tensor *t, int64_t offset, const void *bytes, int64_t n_bytes, lm_err *err) {
    const lm_dtype *type = lm_dtype_find(t->dtype);
    const lm_format *f = lm_format_find(t->dtype);
    const uint8_t *b = bytes;
    int d_at = f ? f->d_at : 0, m_at = f ? f->m_at : 0;
    for (int64_t i = 0; i < n_bytes && !err->code; i += type->bytes) {
        if (is_finite(b + i + d_at, t->dtype) && is_finite(b + i + m_at, t->dtype)) continue;
        lm_err_set(err, LM_ERROR, "%s: byte %lld: the %s of %s %lld is not finite", t->name, (long long)(offset + i),
                   f ? "scale" : "value", f ? "block" : "element", (long long)((offset + i) / type->bytes));
    }
}

void lm_tensor_check_range(const lm_tensor *t, int64_t first, const float *x, int64_t n, float limit, lm_err *err) {
    for (int64_t i = 0; i < n && !err->code; i++) {
        if (fabsf(x[i]) < limit) continue;
        lm_err_set(err, LM_ERROR, "tensor %s: element %lld is %g, %s holds numbers under %g", t->name,
                   (long long)(first + i), (double)x[i], lm_dtype_find(t->dtype)->name, (double)limit);
    }
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

void lm_tensor_blame(const lm_tensor *t, lm_err *err) {
    if (t->at) lm_err_blame(err, "byte %lld: ", (long long)t->at);
}

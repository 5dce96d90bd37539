/* blocks.h: the formats as constants to the compiler, and what a tile's block holds, unpacked in the vector words of the
** including file (gemm.h lists them). */

/* lm_format, as constants to the compiler. */
typedef struct { int bits, offset, sub, is_k, has_min, has_level; } format;

#define LOW_VECTORS(bits) ((bits) == 8 ? 8 : (bits) >= 4 ? 4 : 2)
#define HIGH_VECTORS(bits) ((bits) == 6 ? 2 : (bits) == 5 || (bits) == 3 ? 1 : 0)

/* Spelled out word by word, so that every shift is a constant. */
#define QUARTER(w, v, j, shift, mask) (w)[j] = vb_bits(v, shift, mask)
#define HIGHER(w, v, j, shift, mask) (w)[j] = vb_or((w)[j], vb_bits(v, shift, mask))

INLINE void unpack(const format f, const uint8_t *block, vb w[8]) {
    const uint8_t *high = block + 64 * LOW_VECTORS(f.bits);
    if (f.bits == 8) {
        for (int j = 0; j < 8; j++) w[j] = vb_load(block + 64 * j);
    } else if (f.bits >= 4) {
        for (int j = 0; j < 4; j++) {
            vb v = vb_load(block + 64 * j);
            w[j] = vb_bits(v, 0, 15);
            w[j + 4] = vb_bits(v, 4, 15);
        }
    } else {
        for (int j = 0; j < 8; j += 4) {
            vb v = vb_load(block + 16 * j);
            QUARTER(w, v, j, 0, 3), QUARTER(w, v, j + 1, 2, 3), QUARTER(w, v, j + 2, 4, 3), QUARTER(w, v, j + 3, 6, 3);
        }
    }
    if (f.bits == 6) {
        for (int j = 0; j < 8; j += 4) {
            vb v = vb_load(high + 16 * j);
            HIGHER(w, v, j, -4, 48), HIGHER(w, v, j + 1, -2, 48), HIGHER(w, v, j + 2, 0, 48), HIGHER(w, v, j + 3, 2, 48);
        }
    } else if (f.bits == 5) {
        vb v = vb_load(high);
        HIGHER(w, v, 0, -4, 16), HIGHER(w, v, 1, -3, 16), HIGHER(w, v, 2, -2, 16), HIGHER(w, v, 3, -1, 16);
        HIGHER(w, v, 4, 0, 16), HIGHER(w, v, 5, 1, 16), HIGHER(w, v, 6, 2, 16), HIGHER(w, v, 7, 3, 16);
    } else if (f.bits == 3) {
        vb v = vb_load(high);
        HIGHER(w, v, 0, -2, 4), HIGHER(w, v, 1, -1, 4), HIGHER(w, v, 2, 0, 4), HIGHER(w, v, 3, 1, 4);
        HIGHER(w, v, 4, 2, 4), HIGHER(w, v, 5, 3, 4), HIGHER(w, v, 6, 4, 4), HIGHER(w, v, 7, 5, 4);
    }
    for (int j = 0; f.has_level && j < 8; j++) w[j] = vb_level(w[j]);
}

/* d and minimum of a block's sub-blocks, from the head's and the scales that stand after its vectors. */
INLINE void scale(const format f, const uint8_t *block, int half, vf head_d, vf head_m, vf d[2], vf min[2]) {
    const int subs = LM_BLOCK / f.sub;
    const size_t vectors = 64 * (size_t)(LOW_VECTORS(f.bits) + HIGH_VECTORS(f.bits));
    for (int s = 0; s < subs; s++) {
        const uint8_t *at = block + vectors + LM_TILE * s + LANES * half;
        d[s] = f.is_k ? vf_mul(head_d, vf_byte(at)) : head_d;
        min[s] = f.is_k && f.has_min ? vf_mul(vf_mul(head_m, vf_set(-1)), vf_byte(at + LM_TILE * subs)) : head_m;
    }
}

/*      name    dtype   bits offset sub k min level */
#define FORMATS(ROW)                           \
    ROW(q4_0, LM_Q4_0, 4, 8, 32, 0, 0, 0)      \
    ROW(q4_1, LM_Q4_1, 4, 0, 32, 0, 1, 0)      \
    ROW(q5_0, LM_Q5_0, 5, 16, 32, 0, 0, 0)     \
    ROW(q5_1, LM_Q5_1, 5, 0, 32, 0, 1, 0)      \
    ROW(q8_0, LM_Q8_0, 8, 128, 32, 0, 0, 0)    \
    ROW(iq4_nl, LM_IQ4_NL, 4, 0, 32, 0, 0, 1)  \
    ROW(q2_k, LM_Q2_K, 2, 0, 16, 1, 1, 0)      \
    ROW(q3_k, LM_Q3_K, 3, 4, 16, 1, 0, 0)      \
    ROW(q4_k, LM_Q4_K, 4, 0, 32, 1, 1, 0)      \
    ROW(q5_k, LM_Q5_K, 5, 0, 32, 1, 1, 0)      \
    ROW(q6_k, LM_Q6_K, 6, 32, 16, 1, 0, 0)

/* gemm.h: matrices by columns, once for every format and set. The including file (avx2.c, vnni.c) gives the
** vector words:
**
**     LANES                        rows a float vector holds: 16, or 8 with the tile done in two halves
**     COLUMNS                      columns whose sums stay in registers: 4 or 8
**     vf, vb                       LANES floats; LANES groups of 4 bytes
**     vf_load vf_load_part vf_store_part vf_set vf_mul vf_fma vf_half(16-bit halfs)
**     vb_load vb_low vb_high       bytes; the low and the high nibbles
**     dot_u4(w, x, correction)     32 elements, w in 0..15: LANES exact sums less correction, as floats
**     dot_s8(w, x, sum)            32 elements, w stored plus 128, sum = the sum of x; the same
**
** A format is a row of constants; the loop over blocks and columns, blocks_tile, stands here once. */

enum { HALVES = LM_TILE / LANES, DEPTH = 256 };

typedef struct {
    int groups;                 /* vectors of quants in a block: 4 of nibbles, or 8 of bytes */
    int offset;                 /* subtracted from each 4-bit value */
    int has_min;
} format;

INLINE void unpack(const format f, const uint8_t *quants, vb w[8]) {
    for (int j = 0; j < f.groups; j++) {
        vb v = vb_load(quants + 64 * j);
        w[j] = f.groups == 8 ? v : vb_low(v);
        if (f.groups == 4) w[j + 4] = vb_high(v);
    }
}

/* Rows of one half of a tile by n columns; n is a constant to the compiler. */
INLINE void blocks_tile(const format f, const lm_mat *m, const uint8_t *block, int half, int rows, const lm_columns *x,
                        int c0, const int n, float *out, size_t stride) {
    size_t n_blocks = (size_t)(m->cols / LM_BLOCK), at = (size_t)c0 * n_blocks;
    vf acc[COLUMNS];
    for (int c = 0; c < n; c++) acc[c] = vf_set(0);
    for (size_t b = 0; b < n_blocks; b++, at++, block += m->block_bytes) {
        const uint8_t *scales = block + 64 * f.groups + 2 * LANES * half;
        vb w[8];
        unpack(f, block + 4 * LANES * half, w);
        vf d = vf_half(scales), min = f.has_min ? vf_half(scales + 2 * LM_TILE) : d;
        for (int c = 0; c < n; c++) {
            size_t i = at + (size_t)c * n_blocks;
            const int8_t *q = x->q + i * 2 * LM_BLOCK;
            vf dx = vf_set(x->d[i]);
            vf s = f.groups == 8 ? dot_s8(w, q, x->isum[i]) : dot_u4(w, q, f.offset ? f.offset * x->isum[i] : 0);
            acc[c] = vf_fma(s, vf_mul(d, dx), acc[c]);
            if (f.has_min) acc[c] = vf_fma(vf_mul(min, dx), vf_set(x->fsum[i]), acc[c]);
        }
    }
    for (int c = 0; c < n; c++) vf_store_part(out + (size_t)(c0 + c) * stride, acc[c], rows);
}

/* The same with float weights (k, 16) for elements k0..k1-1; from k0 > 0 on the sums so far are in out. */
INLINE void floats_tile(const float *w, int k0, int k1, int rows, const lm_columns *x, int c0, const int n, float *out,
                        size_t stride) {
    const float *columns = x->x + (size_t)c0 * (size_t)x->k;
    vf acc[COLUMNS];
    for (int c = 0; c < n; c++) acc[c] = k0 ? vf_load_part(out + (size_t)(c0 + c) * stride, rows) : vf_set(0);
    for (int k = k0; k < k1; k++, w += LM_TILE) {
        vf wk = vf_load(w);
        for (int c = 0; c < n; c++) acc[c] = vf_fma(wk, vf_set(columns[(size_t)c * (size_t)x->k + (size_t)k]), acc[c]);
    }
    for (int c = 0; c < n; c++) vf_store_part(out + (size_t)(c0 + c) * stride, acc[c], rows);
}

/* Call CALL(c, n) over columns c0..c1-1 in the widths that are compiled. */
#define IN_GROUPS(CALL)                                       \
    do {                                                      \
        int c = c0;                                           \
        for (; COLUMNS == 8 && c + 8 <= c1; c += 8) CALL(c, COLUMNS); \
        for (; c + 4 <= c1; c += 4) CALL(c, 4);               \
        for (; c + 2 <= c1; c += 2) CALL(c, 2);               \
        for (; c < c1; c++) CALL(c, 1);                       \
    } while (0)

#define BLOCKS(name, ...)                                                                                          \
    static void name(const lm_mat *m, const uint8_t *data, int half, int rows, const lm_columns *x, int c0, int c1, \
                     float *out, size_t stride) {                                                                  \
        static const format f = { __VA_ARGS__ };                                                                   \
        IN_GROUPS(BLOCKS_CALL);                                                                                    \
    }
#define BLOCKS_CALL(c, n) blocks_tile(f, m, data, half, rows, x, c, n, out, stride)
BLOCKS(q4_0, .groups = 4, .offset = 8)
BLOCKS(q4_1, .groups = 4, .has_min = 1)
BLOCKS(q8_0, .groups = 8)

static void floats(const lm_mat *m, int t, const uint8_t *data, int half, int rows, const lm_columns *x, int c0, int c1,
                   float *out, size_t stride) {
    float decoded[DEPTH * LM_TILE];
    int depth = m->dtype == LM_F32 ? m->cols : DEPTH;
    for (int k = 0; k < m->cols; k += depth) {
        int end = LM_MIN(k + depth, m->cols);
        const float *w = m->dtype == LM_F32 ? (const float *)data : decoded;
        if (w == decoded) lm_mat_floats(m, t, k, end, decoded);
#define FLOATS_CALL(c, n) floats_tile(w + LANES * half, k, end, rows, x, c, n, out, stride)
        IN_GROUPS(FLOATS_CALL);
    }
}

static void multiply(const lm_mat *m, int first, int end, const lm_columns *x, int c0, int c1, float *out, size_t stride) {
    for (int t = first; t < end; t++) {
        const uint8_t *data = m->data + (size_t)t * m->tile_bytes;
        for (int half = 0; half < HALVES; half++) {
            int row = t * LM_TILE + half * LANES, rows = LM_MIN(m->rows - row, LANES);
            if (rows <= 0) break;
            if (!x->q || m->dtype == LM_F32) floats(m, t, data, half, rows, x, c0, c1, out + row, stride);
            else if (m->dtype == LM_Q4_0) q4_0(m, data, half, rows, x, c0, c1, out + row, stride);
            else if (m->dtype == LM_Q4_1) q4_1(m, data, half, rows, x, c0, c1, out + row, stride);
            else q8_0(m, data, half, rows, x, c0, c1, out + row, stride);
        }
    }
}

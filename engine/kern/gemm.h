/* gemm.h: matrices by columns, once for every format and set. The including file (avx2.c, vnni.c) gives the
** vector words:
**
**     HALF_BYTES                   from the quants of a block's first half to those of its second
**     LANES                        rows a float vector holds: 16, or 8 with the tile done in two halves
**     COLUMNS, FLOAT_COLUMNS       columns whose sums stay in registers, of blocks; of floats, two vectors of rows each
**     vf, vb                       LANES floats; LANES groups of 4 bytes
**     vf_load vf_load_part vf_store_part vf_set vf_mul vf_fma
**     vf_half vf_bf16 vf_byte      LANES floats from 16-bit numbers, from signed bytes
**     vb_load vb_or                bytes
**     vb_bits(v, shift, mask)      every byte shifted right (left when negative) and masked
**     vb_level(codes)              lm_iq4_levels of the codes, 128 put on
**     dots(w, groups, offset, x, n, out)     groups of 4 unsigned bytes by n columns: LANES exact sums each, as floats, with
**                                  offset taken off every w
**
** A format is a row of constants (blocks.h); the loop over blocks and columns, blocks_tile, stands here once. */

#include "blocks.h"

/* Float products take two vectors of rows at a time: a broadcast number of x serves both. */
enum { HALVES = LM_TILE / LANES, VECTORS = 2, TOGETHER = VECTORS / HALVES, DEPTH = 256 };

/* Tiles are asked for so many bytes before they are read, into the second-level cache: the machine's own prefetchers stop
** at every 4 KiB. One column reads 18 to 22 GB/s with it where it read 16 (two Sapphire Rapids cores, huge pages). */
enum { AHEAD = 3584 };

/* Rows of one half of a tile by n columns; n is a constant to the compiler. */
INLINE void blocks_tile(const format f, const lm_mat *m, const uint8_t *data, int half, int rows, const lm_columns *x,
                        int c0, const int n, float *out, size_t stride) {
    const int subs = LM_BLOCK / f.sub, groups = 8 / subs;
    const int offset = f.has_level ? 128 : f.offset, blocks_a_head = f.is_k ? 8 : 1;
    size_t n_blocks = (size_t)(m->cols / LM_BLOCK), at = (size_t)c0 * n_blocks, sum_step = LM_SUMS * n_blocks;
    vf acc[COLUMNS], d[2], min[2], head_d = vf_set(0), head_m = head_d;
    UNROLL for (int c = 0; c < n; c++) acc[c] = vf_set(0);
    for (size_t b = 0; b < n_blocks; b++, at++, data += m->block_bytes) {
        vb w[8];
        if (b % (size_t)blocks_a_head == 0) {
            head_d = vf_half(data + 2 * LANES * half);
            if (f.has_min) head_m = vf_half(data + 2 * LM_TILE + 2 * LANES * half);
            data += m->head_bytes;
        }
        for (int i = 0; i <= LOW_VECTORS(f.bits) + HIGH_VECTORS(f.bits) && !half; i++)
            __builtin_prefetch(data + AHEAD + 64 * i, 0, 2);
        unpack(f, data + 4 * LANES * half, w);
        scale(f, data, half, head_d, head_m, d, min);
        for (int i = 0; i < subs; i++) {
            size_t sums_at = (size_t)c0 * sum_step + (size_t)(subs == 2 ? i : LM_SUMS - 1) * n_blocks + b;
            lm_quants columns = { x->q + at * 2 * LM_BLOCK + HALF_BYTES * i, n_blocks * 2 * LM_BLOCK,
                                  x->sum + sums_at, sum_step };
            vf products[COLUMNS];
            dots(w + groups * i, groups, offset, columns, n, products);
            UNROLL for (int c = 0; c < n; c++) {
                acc[c] = vf_fma(products[c], vf_mul(d[i], vf_set(x->d[at + (size_t)c * n_blocks])), acc[c]);
                if (f.has_min) acc[c] = vf_fma(min[i], vf_set(x->dsum[sums_at + (size_t)c * sum_step]), acc[c]);
            }
        }
    }
    UNROLL for (int c = 0; c < n; c++) vf_store_part(out + (size_t)(c0 + c) * stride, acc[c], rows);
}

/* The same with weights that are floats (k, 16), for elements k0..k1-1; from k0 > 0 on the sums so far are in out. w is the
** first of `vectors` vectors of rows; tiles stand tile_bytes apart. */
INLINE void floats_tile(const int dtype, const uint8_t *w, size_t tile_bytes, const int vectors, int k0, int k1,
                        int rows, const lm_columns *x, int c0, const int n, float *out, size_t stride) {
    const size_t size = dtype == LM_F32 ? sizeof(float) : sizeof(uint16_t), step = (size_t)x->k;
    const float *columns = x->x + (size_t)c0 * step + k0;
    vf acc[VECTORS * FLOAT_COLUMNS], wk[VECTORS];
    out += (size_t)c0 * stride;
    for (int i = 0; i < vectors * n; i++) {
        int row = i / n * LANES, lanes = LM_MAX(LM_MIN(rows - row, LANES), 0);
        acc[i] = k0 ? vf_load_part(out + (size_t)(i % n) * stride + row, lanes) : vf_set(0);
    }
    for (int k = k0; k < k1; k++, w += LM_TILE * size, columns++) {
        for (int v = 0; v < vectors; v++) {
            const uint8_t *at = w + (size_t)(v / HALVES) * tile_bytes + (size_t)(v % HALVES * LANES) * size;
            wk[v] = dtype == LM_F32 ? vf_load((const float *)at) : dtype == LM_F16 ? vf_half(at) : vf_bf16(at);
        }
        for (int c = 0; c < n; c++) {
            vf xk = vf_set(columns[(size_t)c * step]);
            for (int v = 0; v < vectors; v++) acc[v * n + c] = vf_fma(wk[v], xk, acc[v * n + c]);
        }
    }
    for (int i = 0; i < vectors * n; i++) {
        int row = i / n * LANES, lanes = LM_MAX(LM_MIN(rows - row, LANES), 0);
        vf_store_part(out + (size_t)(i % n) * stride + row, acc[i], lanes);
    }
}

/* Call CALL(c, n) over columns c0..c1-1 in the widths that are compiled, at most most. */
#define IN_GROUPS(CALL, most)                             \
    do {                                                  \
        int c = c0;                                       \
        for (; c + most <= c1; c += most) CALL(c, most);  \
        for (; c + 4 <= c1; c += 4) CALL(c, 4);           \
        for (; c + 2 <= c1; c += 2) CALL(c, 2);           \
        for (; c < c1; c++) CALL(c, 1);                   \
    } while (0)

typedef void (*blocks_call)(const lm_mat *m, const uint8_t *data, int half, int rows, const lm_columns *x, int c0,
                            int c1, float *out, size_t stride);

#define BLOCKS(name, dtype, ...)                                                                                   \
    static void name(const lm_mat *m, const uint8_t *data, int half, int rows, const lm_columns *x, int c0, int c1, \
                     float *out, size_t stride) {                                                                  \
        static const format f = { __VA_ARGS__ };                                                                   \
        IN_GROUPS(BLOCKS_CALL, COLUMNS);                                                                           \
    }
#define BLOCKS_CALL(c, n) blocks_tile(f, m, data, half, rows, x, c, n, out, stride)
FORMATS(BLOCKS)

#define BLOCKS_ROW(name, dtype, ...) [dtype] = name,
static const blocks_call g_blocks[] = { FORMATS(BLOCKS_ROW) };

typedef void (*floats_call)(const uint8_t *w, size_t tile_bytes, int k0, int k1, int rows, const lm_columns *x,
                            int c0, int c1, float *out, size_t stride);

#define FLOATS(name, dtype, vectors)                                                                                \
    static void name(const uint8_t *w, size_t tile_bytes, int k0, int k1, int rows, const lm_columns *x, int c0, int c1, \
                     float *out, size_t stride) {                                                                   \
        static const int type = dtype, many = vectors;                                                              \
        IN_GROUPS(FLOATS_CALL, FLOAT_COLUMNS);                                                                      \
    }
#define FLOATS_CALL(c, n) floats_tile(type, w, tile_bytes, many, k0, k1, rows, x, c, n, out, stride)
FLOATS(f32, LM_F32, VECTORS)
FLOATS(f16, LM_F16, VECTORS)
FLOATS(bf16, LM_BF16, VECTORS)
FLOATS(f32_last, LM_F32, HALVES)        /* a tile that has no other beside it */
FLOATS(f16_last, LM_F16, HALVES)
FLOATS(bf16_last, LM_BF16, HALVES)

/* Any matrix by float columns: floats as they are, blocks decoded a stretch at a time (the exact path). */
static void multiply_floats(const lm_mat *m, int first, int end, const lm_columns *x, int c0, int c1, float *out,
                            size_t stride) {
    floats_call pair = m->dtype == LM_F16 ? f16 : m->dtype == LM_BF16 ? bf16 : f32;
    floats_call last = m->dtype == LM_F16 ? f16_last : m->dtype == LM_BF16 ? bf16_last : f32_last;
    for (int t = first, step; t < end; t += step) {
        const uint8_t *data = m->data + (size_t)t * m->tile_bytes;
        int row = t * LM_TILE, rows = m->rows - row;
        float decoded[DEPTH * LM_TILE];
        step = m->format || t + TOGETHER > end ? 1 : TOGETHER;
        if (!m->format) (step == 1 ? last : pair)(data, m->tile_bytes, 0, m->cols, rows, x, c0, c1, out + row, stride);
        for (int k = 0; m->format && k < m->cols; k += DEPTH) {
            int stop = LM_MIN(k + DEPTH, m->cols);
            lm_mat_floats(m, t, k, stop, decoded);
            f32_last((const uint8_t *)decoded, 0, k, stop, rows, x, c0, c1, out + row, stride);
        }
    }
}

static void multiply(const lm_mat *m, int first, int end, const lm_columns *x, int c0, int c1, float *out,
                     size_t stride) {
    if (!x->q || !m->format) {
        multiply_floats(m, first, end, x, c0, c1, out, stride);
        return;
    }
    for (int half = first * HALVES; half < end * HALVES && half * LANES < m->rows; half++) {
        const uint8_t *data = m->data + (size_t)(half / HALVES) * m->tile_bytes;
        int row = half * LANES;
        g_blocks[m->dtype](m, data, half % HALVES, LM_MIN(m->rows - row, LANES), x, c0, c1, out + row, stride);
    }
}

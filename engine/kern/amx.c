/* amx.c: AVX-512 with AMX (Sapphire Rapids and later): products of 16 columns and more by blocks. The rest is vnni.c's.
**
** A tile register holds 16 rows of 64 bytes. The packed layout is what tdpbssd wants of its second operand (16 rows of weights,
** 4 elements each, to a register's row), the columns' planes stand as its first wants them, so a block's exact sums of 16
** columns by 16 rows are two instructions, for the high bytes and for the low. They leave by way of memory and are then scaled
** and added a column a vector, as anywhere. A stretch of blocks is unpacked once for all columns, and some tiles at once share
** what is loaded of a column.
**
** Measured on a Granite Rapids, GFLOP/s of one core at 256 columns, vnni.c beside it: q8_0 437 and 227, q5_0 449 and 203,
** q4_1 404 and 217, q4_k 390 and 214, q6_k 224 and 154. Loading the columns takes a quarter, storing the sums a third, scaling
** and adding them the rest (each left out in turn): they hardly overlap, however the steps are staggered. */
#if defined(__x86_64__)
#include "kern.h"
#include "avx512.h"
#include "blocks.h"

enum { GROUP = 16, STRETCH = 8, TILES = 4 };    /* columns, blocks and tiles taken at once */

/* Tile registers, which are named by digits. */
#define HIGH_SUMS 0
#define LOW_SUMS 1
#define WEIGHTS 2
#define HIGH 3
#define LOW 4

/* gcc's words for them do not tell it that they read memory. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

/* Some blocks of a tile: signed bytes; d and minimum of each sub-block. */
typedef struct {
    _Alignas(64) int8_t w[STRETCH][LM_BLOCK * LM_TILE];
    float d[STRETCH][2][LM_TILE], min[STRETCH][2][LM_TILE];
} stretch;

/* What belongs to them of a group of columns: side by side, at addresses that are constants. */
typedef struct { float d[GROUP][STRETCH], dsum[2][GROUP][STRETCH]; } scales;

typedef struct { _Alignas(64) int32_t high[GROUP][LM_TILE], low[GROUP][LM_TILE]; } products;

INLINE void unpack_stretch(const format f, const lm_mat *m, const uint8_t *data, int n, stretch *s) {
    const __m512i offset = _mm512_set1_epi8((char)(f.has_level ? 128 : f.offset));
    vf head_d = vf_set(0), head_m = head_d, d[2], min[2];
    for (int b = 0; b < n; b++, data += m->block_bytes) {
        vb w[8];
        if (!f.is_k || b == 0) {
            head_d = vf_half(data);
            if (f.has_min) head_m = vf_half(data + 2 * LM_TILE);
            data += m->head_bytes;
        }
        unpack(f, data, w);
        for (int j = 0; j < 8; j++) _mm512_store_si512(s->w[b] + 64 * j, _mm512_sub_epi8(w[j], offset));
        scale(f, data, 0, head_d, head_m, d, min);
        for (int i = 0; i < LM_BLOCK / f.sub; i++) {
            v16_store(s->d[b][i], d[i]);
            if (f.has_min) v16_store(s->min[b][i], min[i]);
        }
    }
}

INLINE void gather_scales(const format f, const lm_columns *x, int c0, int b, int n, scales *out) {
    size_t n_blocks = (size_t)(x->k / LM_BLOCK);
    const float *d = x->d + (size_t)c0 * n_blocks + (size_t)b,
                *dsum = x->dsum + LM_SUMS * (size_t)c0 * n_blocks + (size_t)b;
    __mmask8 some = (__mmask8)((1 << n) - 1);
    if (f.sub == LM_BLOCK) dsum += (LM_SUMS - 1) * n_blocks;
    for (int c = 0; c < GROUP; c++, d += n_blocks, dsum += LM_SUMS * n_blocks) {
        _mm256_storeu_ps(out->d[c], _mm256_maskz_loadu_ps(some, d));
        for (int i = 0; f.has_min && i < LM_BLOCK / f.sub; i++) {
            _mm256_storeu_ps(out->dsum[i][c], _mm256_maskz_loadu_ps(some, dsum + (size_t)i * n_blocks));
        }
    }
}

INLINE void dots(const int8_t *w, const int8_t *q, size_t step) {
    _tile_zero(HIGH_SUMS);
    _tile_zero(LOW_SUMS);
    _tile_loadd(WEIGHTS, w, 64);
    _tile_loadd(HIGH, q, step);
    _tile_loadd(LOW, q + LM_BLOCK, step);
    _tile_dpbssd(HIGH_SUMS, HIGH, WEIGHTS);
    _tile_dpbssd(LOW_SUMS, LOW, WEIGHTS);
}

/* dx and dsum: of the first column. */
INLINE void add_up(const format f, const float *d, const float *min, const float *dx, const float *dsum,
                   const products *p, vf acc[GROUP]) {
    vf dw = v16_load(d), mw = f.has_min ? v16_load(min) : dw;
    UNROLL for (int c = 0; c < GROUP; c++) {
        __m512i s = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(p->high[c]), 7), _mm512_load_si512(p->low[c]));
        acc[c] = vf_fma(_mm512_cvtepi32_ps(s), vf_mul(dw, vf_set(dx[c * STRETCH])), acc[c]);
        if (f.has_min) acc[c] = vf_fma(mw, vf_set(dsum[c * STRETCH]), acc[c]);
    }
}

/* A tile's stretch by a group; with more, it continues what stands in out. The sums of a sub-block are added up while the next
** one's are made. */
INLINE void group(const format f, const stretch *s, int n, const scales *x, const int8_t *q, size_t step, int more,
                  int rows, float *out, size_t stride) {
    const int subs = LM_BLOCK / f.sub;
    products p;
    vf acc[GROUP];
    UNROLL for (int c = 0; c < GROUP; c++) acc[c] = more ? v16_load_part(out + (size_t)c * stride, rows) : vf_set(0);
    for (int i = 0; i <= n * subs; i++) {
        int b = (i - 1) / subs, sub = (i - 1) % subs;
        if (i < n * subs)
            dots(s->w[0] + (size_t)(i * f.sub * LM_TILE), q + i / subs * 2 * LM_BLOCK + i % subs * 16, step);
        if (i) add_up(f, s->d[b][sub], s->min[b][sub], &x->d[0][b], &x->dsum[sub][0][b], &p, acc);
        if (i < n * subs) {
            _tile_stored(HIGH_SUMS, p.high, 64);
            _tile_stored(LOW_SUMS, p.low, 64);
        }
    }
    UNROLL for (int c = 0; c < GROUP; c++) v16_store_part(out + (size_t)c * stride, acc[c], rows);
}

/* Ask for one part of some of what comes next, into the second-level cache, while columns are worked on. */
INLINE void ask_ahead(const uint8_t *data, size_t bytes, int part, int parts) {
    for (size_t at = 64 * (size_t)part; at < bytes; at += 64 * (size_t)parts) __builtin_prefetch(data + at, 0, 2);
}

/* Whole groups of columns. */
INLINE void groups(const format f, const lm_mat *m, int first, int end, const lm_columns *x, int c0, int c1,
                   float *out, size_t stride) {
    stretch s[TILES];
    scales columns;
    int n_blocks = m->cols / LM_BLOCK, n_groups = (c1 - c0) / GROUP;
    for (int t = first; t < end; t += TILES) {
        int n_tiles = LM_MIN(TILES, end - t);
        const uint8_t *tiles = m->data + (size_t)t * m->tile_bytes, *data = tiles;
        for (int b = 0; b < n_blocks; b += STRETCH) {
            int n = LM_MIN(STRETCH, n_blocks - b);
            size_t bytes = (size_t)n * m->block_bytes + (size_t)(f.is_k ? 1 : n) * m->head_bytes;
            for (int i = 0; i < n_tiles; i++) unpack_stretch(f, m, data + (size_t)i * m->tile_bytes, n, &s[i]);
            data = b + n < n_blocks ? data + bytes : tiles + TILES * m->tile_bytes;
            WRITTEN();
            for (int g = 0; g < n_groups; g++) {
                int c = c0 + g * GROUP;
                size_t at = (size_t)c * (size_t)n_blocks + (size_t)b;
                gather_scales(f, x, c, b, n, &columns);
                for (int i = 0; i < n_tiles; i++) {
                    int row = (t + i) * LM_TILE;
                    ask_ahead(data + (size_t)i * m->tile_bytes, bytes, g, n_groups);
                    group(f, &s[i], n, &columns, x->q + at * 2 * LM_BLOCK, (size_t)x->k * 2, b > 0,
                          LM_MIN(m->rows - row, LM_TILE), out + (size_t)c * stride + row, stride);
                }
            }
        }
    }
}

typedef void (*groups_call)(const lm_mat *m, int first, int end, const lm_columns *x, int c0, int c1, float *out,
                            size_t stride);

#define GROUPS(name, dtype, ...)                                                                                          \
    static void name(const lm_mat *m, int first, int end, const lm_columns *x, int c0, int c1, float *out, size_t stride) { \
        static const format f = { __VA_ARGS__ };                                                                          \
        groups(f, m, first, end, x, c0, c1, out, stride);                                                                 \
    }
FORMATS(GROUPS)

#define GROUPS_ROW(name, dtype, ...) [dtype] = name,
static const groups_call g_groups[] = { FORMATS(GROUPS_ROW) };

/* The registers' shapes are set for the call and given up at its end, so no thread carries 8 KiB of state about. */
void lm_amx_multiply(const lm_mat *m, int first, int end, const lm_columns *x, int c0, int c1, float *out,
                     size_t stride) {
    int rest = x->q && m->format ? c1 - (c1 - c0) % GROUP : c0;
    if (c0 < rest) {
        struct {
            uint8_t palette, start_row, zero[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        } shapes = { .palette = 1 };
        for (int i = 0; i <= LOW; i++) {
            shapes.row_bytes[i] = (uint16_t)(i < HIGH ? 64 : m->format->sub);
            shapes.rows[i] = (uint8_t)(i == WEIGHTS ? m->format->sub / 4 : GROUP);
        }
        WRITTEN();
        _tile_loadconfig(&shapes);
        g_groups[m->dtype](m, first, end, x, c0, rest, out, stride);
        _tile_release();
    }
    if (rest < c1) lm_vnni_kern.multiply(m, first, end, x, rest, c1, out, stride);
}
#endif

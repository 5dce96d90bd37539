/* kern.h: matrices as the kernels read them, and the table of kernels.
**
** A matrix multiplies columns (the vectors of several tokens). Its rows stand in tiles of 16, interleaved so
** that 16 rows sit in the 16 lanes of a vector; a dot product then never crosses lanes, and one column
** costs the same memory traffic as many. A quantised tile is a string of groups, of 1 block of 32 elements, or
** of 8 in the k-quants:
**
**     d        16 halfs, one a row; then 16 for m (or dmin) in the formats with a minimum
**     and per block of 32
**     low      vectors of 64 bytes, 4 a row: byte i of vector j holds
**              8 bits   element 4j+i                                                  j = 0 .. 7
**              4 bits   elements 4j+i (low nibble) and 4j+i+16 (high)                 j = 0 .. 3
**              2 bits   elements 16j+i, 16j+i+4, 16j+i+8, 16j+i+12, from bit 0 on     j = 0, 1
**     high     what a stored integer has beyond those bits, likewise: 2 bits (q6_k) in two vectors, or one bit
**              (q5_*, q3_k) in one, whose bit j of byte i belongs to element 4j+i
**     scale    k-quants: 16 bytes, one a row, for each sub-block; then as many for the minima
**
** and for f32, f16, bf16: for each k, 16 numbers. Rows beyond the last are zeros. The order of additions is
** part of the contract (DESIGN: same bytes), so every set of kernels gives the same bits:
**
**     x per 32: d_x = amax/16256, q = rint(x * (16256/amax)), amax < 1e-30: zeros; q = 128 high + low, two
**          bytes, low in -64..63 (with one byte, amax/127, the noise turned golden continuations at gaps of
**          0.08 and 0.22; a second byte costs nothing where memory is the limit)
**     w.x, sub-blocks (32 elements, or 16 in q2_k, q3_k, q6_k) ascending: s = exact integer sum;
**          acc = fmaf(s, d * d_x, acc), with d = d_w, in k-quants d_w * scale (exact in a float);
**          with a minimum then acc = fmaf(m * d_x, sum q, acc), with m = m_w, in k-quants -(dmin * min)
**     f32, f16, bf16: acc = fmaf(w[k], x[k], acc), k ascending
**     sums over a vector: 16 partial sums (i mod 16), folded 8, 4, 2, 1 */
#ifndef LM_KERN_H
#define LM_KERN_H

#include "../lmint.h"

enum { LM_TILE = 16, LM_BLOCK = 32, LM_PAGE = 64, LM_LEVELS = 127 * 128, LM_SUMS = 3 };

/* A block of a quantised format as integers. */
typedef struct {
    uint8_t q[256];                 /* as stored: the offset still on */
    int8_t scale[16], min[16];      /* of the sub-blocks, in k-quants */
    float d, m;                     /* m: dmin in k-quants */
} lm_levels;

typedef struct {
    int dtype;
    int block, bytes;               /* of the file's: elements, bytes */
    int bits, offset;               /* of a stored integer; what is taken off it */
    int sub;                        /* elements that share a scale: 32 or 16 */
    int is_k, has_min;
    const int8_t *level;            /* 16 values that the stored integers stand for, or NULL */
    void (*read)(const uint8_t *block, lm_levels *out);     /* fills what the format has */
} lm_format;

const lm_format *lm_format_find(int dtype);         /* NULL: f32, f16, bf16 */
int lm_format_value(const lm_format *f, int q);     /* what a stored integer stands for, -128..127 */
extern const int8_t lm_iq4_levels[16];

typedef struct {
    int dtype;
    const lm_format *format;        /* NULL: floats */
    int rows, cols;                 /* outputs, inputs */
    int n_tiles;
    size_t head_bytes;              /* of d and m, before each group of blocks */
    size_t block_bytes;             /* of a tile: per 32 elements, or per element for floats */
    uint8_t *data;                  /* n_tiles * tile_bytes, 64-byte aligned; borrowed from the model */
    size_t tile_bytes;
} lm_mat;

/* Columns to multiply. With q NULL the floats are used, and quantised weights are decoded to floats (the
** exact path); else q, d and sum hold the columns per block of 32. */
typedef struct {
    int k;                          /* elements a column */
    const float *x;                 /* (n, k) */
    int8_t *q;                      /* (n, k / 32, 2, 32): a block's high bytes, then its low ones */
    float *d;                       /* (n, k / 32): scale */
    int32_t *sum;                   /* (n, k / 32, 3): sums of the q of a block's two halves, and of both */
} lm_columns;

/* Some blocks of neighbouring columns, as the sets' dots want them: each step bytes after the last, their sums sum_step
** apart. */
typedef struct {
    const int8_t *q; size_t step;
    const int32_t *sum; size_t sum_step;
} lm_planes;

/* One query vector on its way through the pages of its sequence. */
typedef struct {
    const float *q;                 /* (head_dim), scaled */
    float *out;                     /* (head_dim), unnormalised until the end */
    float max, sum;                 /* start: -INFINITY, 0 */
    int first, end;                 /* the keys of this page that it sees, first <= end <= 64 */
} lm_query;

/* A page's keys and values of one head: k is (head_dim, 64), v is (64, v_stride); halfs, or floats in the
** exact path. */
typedef struct {
    const void *k, *v;
    int head_dim, v_stride, exact;
} lm_page;

typedef struct {
    const char *name;
    /* out[c * stride + row] for the rows of tiles first..end-1 and columns c0..c1-1. */
    void (*multiply)(const lm_mat *w, int first, int end, const lm_columns *x, int c0, int c1, float *out, size_t stride);
    /* Quantise a column of k floats, k a multiple of 32. Return 0 when a value is not finite. */
    int (*quantise)(const float *x, int k, int8_t *q, float *d, int32_t *sum);
    /* Return 0 when the sum of squares is not finite. */
    int (*rms_norm)(const float *x, const float *weight, float eps, int n, float *out);
    /* (x - mean) / sqrt(variance + eps) * weight + bias. Return 0 when a sum is not finite. */
    int (*layer_norm)(const float *x, const float *weight, const float *bias, float eps, int n, float *out);
    void (*add)(float *x, const float *y, int n);                       /* x += y */
    void (*silu_mul)(float *gate, const float *up, int n);              /* gate = silu(gate) * up */
    void (*gelu_mul)(float *gate, const float *up, int n);              /* the same with gelu's tanh form */
    void (*act)(float *x, int n, int is_erf);                           /* x = gelu(x), in its tanh or erf form */
    void (*attend)(const lm_page *page, lm_query *queries, int n);      /* carry n queries over one page */
    void (*attend_end)(lm_query *query, int head_dim);                  /* out /= sum */
    void (*half)(const float *x, uint16_t *out, int n);                 /* to f16, to nearest even */
    int (*argmax)(const float *x, int n);                               /* the lowest index of the maximum */
    double (*sum_exp)(const float *x, int n, float max);                /* sum of exp(x - max), by index */
} lm_kern;

extern const lm_kern lm_scalar_kern, lm_avx2_kern, lm_vnni_kern;

/* The set for this cpu, or the one that LM_CPU names if the cpu has it; chosen once. */
const lm_kern *lm_kern_get(void);
int lm_kern_supported(const lm_kern *kern);         /* can this cpu run it? */

/* pack.c */
void lm_mat_init(lm_mat *m, int dtype, int64_t rows, int64_t cols, lm_err *err);    /* all but data */
size_t lm_mat_bytes(const lm_mat *m);
/* Pack rows [first, first + n) given in the file's format; first is a multiple of 16, n at most 16. */
void lm_mat_pack(lm_mat *m, int first, int n, const void *rows);
void lm_mat_row(const lm_mat *m, int row, float *out);                          /* decode one row */
/* Decode elements [k0, k1) of a tile to out[(k - k0) * 16 + row]; k0 is a multiple of 32. */
void lm_mat_floats(const lm_mat *m, int tile, int k0, int k1, float *out);
/* One row's block b of a quantised tile: 32 signed values; d and m of its sub-blocks, scaled. */
void lm_mat_block(const lm_mat *m, int tile, int row, int b, int8_t q[32], float d[2], float min[2]);

#endif

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
**          with a minimum then acc = fmaf(m, d_x * sum q, acc), with m = m_w, in k-quants -(dmin * min)
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
    void (*read)(const uint8_t *block, lm_levels *out);     /* fills in what the format has, but d and m */
    int d_at, m_at;                 /* where in a block these lie, as f16; without an m, both d */
} lm_format;

const lm_format *lm_format_find(int dtype);         /* NULL: f32, f16, bf16 */
void lm_format_read(const lm_format *f, const uint8_t *block, lm_levels *out);      /* all of it */
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
    int8_t *q;                      /* (n, k / 32, 64): a block's 32 quants, in the order and form that the set wants (avx2: as words,
                                    ** the others: all high bytes, then all low ones) */
    float *d;                       /* (n, k / 32): scale */
    int32_t *sum;                   /* (n, 3, k / 32): sums of the q of a block's two halves, and of both */
    float *dsum;                    /* (n, 3, k / 32): d times those */
} lm_columns;

/* Some blocks of neighbouring columns, as the sets' dots want them: each step bytes after the last, their sums sum_step
** apart. */
typedef struct {
    const int8_t *q; size_t step;
    const int32_t *sum; size_t sum_step;
} lm_quants;

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
    const uint8_t *next;            /* the keys of the page after this one, NULL: nothing to ask for early */
} lm_page;

typedef struct {
    const char *name;
    /* out[c * stride + row] for the rows of tiles first..end-1 and columns c0..c1-1. */
    void (*multiply)(const lm_mat *w, int first, int end, const lm_columns *x, int c0, int c1, float *out, size_t stride);
    /* Fill in what x holds of its column c but the floats. Return 0 when one of them is not finite. */
    int (*quantise)(const lm_columns *x, int c);
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
    double (*sum_exp_gap)(const float *x, int n, float max);            /* sum of exp(x - max) * (max - x), by index */
} lm_kern;

extern const lm_kern lm_scalar_kern, lm_avx2_kern, lm_vnni_kern, lm_amx_kern;

/* amx.c: all of lm_amx_kern that is not vnni's. */
void lm_amx_multiply(const lm_mat *w, int first, int end, const lm_columns *x, int c0, int c1, float *out, size_t stride);

/* The set for this cpu, or the one that LM_CPU names if the cpu has it; chosen once. */
const lm_kern *lm_kern_get(void);
int lm_kern_supported(const lm_kern *kern);         /* can this cpu run it? */

/*----------------------------------------------------------------------
** Training (grads.h says what each does). */
enum { LM_ACT_SILU, LM_ACT_GELU, LM_ACT_GELU_ERF };     /* of the gate, or where there is none of what goes up */

typedef struct {
    float rate, keep;               /* learning rate / (1 - beta1^t); 1 - learning rate * decay */
    float beta1, beta2, eps;
    float unbias, clip;             /* 1 / sqrt(1 - beta2^t); what gradients are multiplied by */
} lm_adamw;

typedef struct {
    void (*tile)(const float *a, size_t ar, size_t ak, const float *b, int k, float *c, size_t stride, int rows, int cols, int add);
    void (*lay)(const float *x, int n, float *out);
    void (*norm)(const float *x, const float *weight, const float *bias, int is_layer, float eps, int n, float *out, float *stat);
    void (*norm_backward)(const float *x, const float *weight, const float *stat, int is_layer, const float *dy, int n, float *dx, int add,
                          float *d_weight, float *d_bias);
    void (*act)(const float *gate, const float *up, int n, float *out, int act);
    void (*act_backward)(const float *gate, const float *up, const float *d, int n, float *d_gate, float *d_up, int act);
    float (*softmax)(float *x, int n, float scale);
    void (*softmax_again)(float *x, int n, float scale, float log_sum);
    void (*softmax_backward)(const float *p, float *dp, int n, float dot, float scale);
    double (*cross_entropy)(float *x, int n, int target, float scale);
    float (*dot)(const float *x, const float *y, int n);
    void (*turn)(float *x, int n_heads, int head_dim, int n_rot, int pairs, const float *cosine, const float *sine, float sign);
    void (*drop)(float *x, int n, uint32_t key, uint32_t threshold, float scale);
    void (*add)(float *x, const float *y, int n);
    void (*add_scaled)(float *x, const float *y, int n, float by);
    double (*sum_squares)(const float *x, size_t n);
    void (*adamw)(float *w, const float *g, float *m, float *v, size_t n, const lm_adamw *o);
} lm_train_kern;

extern const lm_train_kern lm_scalar_train, lm_avx2_train, lm_vnni_train;
const lm_train_kern *lm_train_kern_get(void);       /* that of lm_kern_get()'s set */

/* blas.c: products of float matrices over the pool. c (m, n) = a . b, or c + a . b. Rows that a weight matrix has are stacked
** from up to 3 matrices of the same number of columns, floats or of another format. */
typedef struct {
    const void *rows; const lm_dtype *dtype;        /* NULL: floats, stride apart */
    int n; size_t stride;
} lm_stack;

typedef struct {
    int m, n, k;
    const float *a; size_t ar, ak;                  /* element (i, j) of a is a[i * ar + j * ak]; ar or ak is 1 */
    lm_stack b[3];                                  /* b's rows, or where b_turned is set its columns */
    int b_turned;
    float *c; size_t stride;
    int add;                                        /* to what is in c */
    int same_b;                                     /* b is that of the product before it in the list */
    float *packed_b;                                /* room for b, kept by the caller; NULL: lm_products_run's own */
    int is_packed;                                  /* and b is there */
    float *packed_a;                                /* lm_products_run's */
} lm_product;

enum { LM_PANEL = 64 };                             /* columns of b that are worked on at a time */

size_t lm_packed_floats(int k, int n);              /* room that a packed b takes; an a (n, k) takes no more than k x (n + 11) */
/* Run products that do not wait for each other, 8 at most. packed is room for their b and for each a with ar 1. */
void lm_products_run(lm_product *products, int n, float *packed, lm_stop stop, lm_err *err);
/* For use within an item of the pool: pack b (k, n), or b given by its columns; then multiply by k of its `depth` rows, from
** row `from` on. */
void lm_pack(const lm_train_kern *kern, const float *b, size_t stride, int k, int n, int turned, float *packed);
void lm_multiply(const lm_train_kern *kern, const float *a, size_t ar, size_t ak, const float *packed, int depth,
                 int from, int k, int m, int n, float *c, size_t stride, int add);

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

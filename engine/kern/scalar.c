/* scalar.c: the oracle. The definition in kern.h, spelled in plain C for any machine; the other sets are
** tested against it bit for bit. */
#include "kern.h"
#include "elem.h"

#include <math.h>

enum { SOME = 64, DEPTH = 256 };    /* columns, and elements in the exact path, worked on at a time */

static void multiply_blocks(const lm_mat *w, int tile, int r, const lm_columns *x, int c0, int n, float *acc) {
    int n_blocks = w->cols / LM_BLOCK, sub = w->format->sub;
    for (int b = 0; b < n_blocks; b++) {
        int8_t wq[LM_BLOCK];
        float d[2], min[2];
        lm_mat_block(w, tile, r, b, wq, d, min);
        for (int c = 0; c < n; c++) {
            size_t first = (size_t)(c0 + c) * (size_t)n_blocks, at = first + (size_t)b;
            const int8_t *q = x->q + at * 2 * LM_BLOCK;
            for (int e = 0; e < LM_BLOCK; e += sub) {
                int s = 0, half = sub == LM_BLOCK ? LM_SUMS - 1 : e / sub;
                for (int i = e; i < e + sub; i++) s += wq[i] * (128 * q[i] + q[LM_BLOCK + i]);
                acc[c] = fmaf((float)s, d[e / sub] * x->d[at], acc[c]);
                if (w->format->has_min)
                    acc[c] = fmaf(min[e / sub], x->dsum[LM_SUMS * first + (size_t)(half * n_blocks + b)], acc[c]);
            }
        }
    }
}

static void multiply_floats(const lm_mat *w, int tile, int r, const lm_columns *x, int c0, int n, float *acc) {
    float tile_floats[DEPTH * LM_TILE];
    for (int k = 0; k < w->cols; k += DEPTH) {
        int end = LM_MIN(k + DEPTH, w->cols);
        lm_mat_floats(w, tile, k, end, tile_floats);
        for (int c = 0; c < n; c++) {
            const float *column = x->x + (size_t)(c0 + c) * (size_t)x->k;
            for (int i = k; i < end; i++) acc[c] = fmaf(tile_floats[(i - k) * LM_TILE + r], column[i], acc[c]);
        }
    }
}

static void multiply(const lm_mat *w, int first, int end, const lm_columns *x, int c0, int c1, float *out,
                     size_t stride) {
    for (int row = first * LM_TILE; row < LM_MIN(end * LM_TILE, w->rows); row++) {
        for (int c = c0; c < c1; c += SOME) {
            int n = LM_MIN(SOME, c1 - c);
            float acc[SOME] = {0};
            if (x->q && w->format) multiply_blocks(w, row / LM_TILE, row % LM_TILE, x, c, n, acc);
            else multiply_floats(w, row / LM_TILE, row % LM_TILE, x, c, n, acc);
            for (int i = 0; i < n; i++) out[(size_t)(c + i) * stride + (size_t)row] = acc[i];
        }
    }
}

const lm_kern lm_scalar_kern = {
    "scalar", multiply, quantise, rms_norm, layer_norm, add, silu_mul, gelu_mul, act, attend, attend_end, to_half, argmax,
    sum_exp, sum_exp_gap,
};

#include "grads.h"

const lm_train_kern lm_scalar_train = TRAIN_KERN;

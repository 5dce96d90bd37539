/* pack.c: from the file's rows of blocks to tiles of 16 interleaved rows (the layout is drawn in kern.h), and
** back again for look-ups of single rows and for the exact path. */
#include "kern.h"

#include <string.h>

/* What a tile holds per block of 32 elements. */
typedef struct {
    int dtype;
    int groups;                     /* of 4 bytes a row */
    int has_min;
    int offset;                     /* subtracted from each stored value */
    int scale_at, quants_at;        /* where d (then m) and the quants lie in the file's block */
} layout;

static const layout layouts[] = {
    { LM_Q4_0, 4, 0, 8, 0, 2 },
    { LM_Q4_1, 4, 1, 0, 0, 4 },
    { LM_Q8_0, 8, 0, 128, 0, 2 },
};

static const layout *find_layout(int dtype) {
    for (int i = 0; i < LM_COUNT(layouts); i++) {
        if (layouts[i].dtype == dtype) return &layouts[i];
    }
    return NULL;
}

int lm_pack_has_kernel(int dtype) { return dtype == LM_F32 || find_layout(dtype); }

void lm_mat_init(lm_mat *m, int dtype, int64_t rows, int64_t cols, lm_err *err) {
    const layout *l = find_layout(dtype);
    if (rows > INT32_MAX - LM_TILE || cols > INT32_MAX / LM_TILE) {
        lm_err_set(err, LM_ERROR, "matrix of %lld x %lld is too large", (long long)rows, (long long)cols);
        return;
    }
    *m = (lm_mat){ .dtype = dtype, .rows = (int)rows, .cols = (int)cols, .n_tiles = (int)((rows + LM_TILE - 1) / LM_TILE) };
    if (l) {
        m->block_bytes = (size_t)(LM_TILE * (4 * l->groups + 2 + 2 * l->has_min));
        m->tile_bytes = m->block_bytes * (size_t)(cols / LM_BLOCK);
    } else {
        m->block_bytes = LM_TILE * sizeof(float);
        m->tile_bytes = m->block_bytes * (size_t)cols;
    }
}

size_t lm_mat_bytes(const lm_mat *m) { return m->tile_bytes * (size_t)m->n_tiles; }

static void pack_floats(const lm_mat *m, float *tile, int n, const uint8_t *rows) {
    for (int r = 0; r < n; r++) {
        const uint8_t *row = rows + (size_t)r * (size_t)m->cols * sizeof(float);
        for (int k = 0; k < m->cols; k++) memcpy(&tile[k * LM_TILE + r], row + (size_t)k * sizeof(float), sizeof(float));
    }
}

static void pack_blocks(const lm_mat *m, const layout *l, uint8_t *tile, int n, const uint8_t *rows) {
    int n_blocks = m->cols / LM_BLOCK;
    size_t block = (size_t)(l->quants_at + 4 * l->groups);
    uint32_t flip = l->offset == 128 ? 0x80808080u : 0;
    for (int r = 0; r < n; r++) {
        const uint8_t *in = rows + (size_t)r * block * (size_t)n_blocks;
        uint8_t *out = tile + 4 * r;
        for (int b = 0; b < n_blocks; b++, in += block, out += m->block_bytes) {
            for (int j = 0; j < l->groups; j++) {
                uint32_t four;
                memcpy(&four, in + l->quants_at + 4 * j, 4);
                four ^= flip;
                memcpy(out + j * 64, &four, 4);
            }
            uint8_t *scales = out + l->groups * 64 - 2 * r;
            memcpy(scales, in + l->scale_at, 2);
            if (l->has_min) memcpy(scales + 32, in + l->scale_at + 2, 2);
        }
    }
}

void lm_mat_pack(lm_mat *m, int first, int n, const void *rows) {
    uint8_t *tile = m->data + (size_t)(first / LM_TILE) * m->tile_bytes;
    const layout *l = find_layout(m->dtype);
    if (n < LM_TILE) memset(tile, 0, m->tile_bytes);
    if (l) pack_blocks(m, l, tile, n, rows);
    else pack_floats(m, (float *)tile, n, rows);
}

void lm_mat_block(const lm_mat *m, int tile, int row, int b, int8_t q[32], float *d, float *min) {
    const layout *l = find_layout(m->dtype);
    const uint8_t *block = m->data + (size_t)tile * m->tile_bytes + (size_t)b * m->block_bytes;
    const uint8_t *scales = block + l->groups * 64 + 2 * row;
    uint16_t half[2] = {0};
    for (int j = 0; j < l->groups; j++) {
        for (int i = 0; i < 4; i++) {
            int byte = block[j * 64 + row * 4 + i];
            if (l->groups == 8) {
                q[4 * j + i] = (int8_t)(byte - l->offset);
            } else {
                q[4 * j + i] = (int8_t)((byte & 15) - l->offset);
                q[4 * j + i + 16] = (int8_t)((byte >> 4) - l->offset);
            }
        }
    }
    memcpy(&half[0], scales, 2);
    if (l->has_min) memcpy(&half[1], scales + 32, 2);
    *d = lm_f16_to_f32(half[0]);
    *min = lm_f16_to_f32(half[1]);
}

/* Decode one row's elements [k0, k1) with a stride between them. */
static void decode(const lm_mat *m, int tile, int row, int k0, int k1, float *out, int stride) {
    if (m->dtype == LM_F32) {
        const float *data = (const float *)(m->data + (size_t)tile * m->tile_bytes);
        for (int k = k0; k < k1; k++) out[(k - k0) * stride] = data[k * LM_TILE + row];
        return;
    }
    for (int b = k0 / LM_BLOCK; b < k1 / LM_BLOCK; b++) {
        int8_t q[LM_BLOCK];
        float d, min, *at = out + (b * LM_BLOCK - k0) * stride;
        lm_mat_block(m, tile, row, b, q, &d, &min);
        for (int i = 0; i < LM_BLOCK; i++) at[i * stride] = (float)q[i] * d + min;
    }
}

void lm_mat_row(const lm_mat *m, int row, float *out) {
    decode(m, row / LM_TILE, row % LM_TILE, 0, m->cols, out, 1);
}

void lm_mat_floats(const lm_mat *m, int tile, int k0, int k1, float *out) {
    for (int r = 0; r < LM_TILE; r++) decode(m, tile, r, k0, k1, out + r, LM_TILE);
}

/* pack.c: from the file's rows of blocks to tiles of 16 interleaved rows (the layout is drawn in kern.h), and
** back again for look-ups of single rows and for the exact path. */
#include "kern.h"

#include <string.h>

/* Bytes a row takes in the low and high vectors of a block. */
static int low_bytes(const lm_format *f) { return f->bits == 8 ? 32 : f->bits >= 4 ? 16 : 8; }
static int high_bytes(const lm_format *f) { return f->bits == 6 ? 8 : f->bits == 5 || f->bits == 3 ? 4 : 0; }
static int n_subs(const lm_format *f) { return f->sub == LM_BLOCK ? 1 : 2; }

static size_t float_bytes(const lm_mat *m) { return m->dtype == LM_F32 ? sizeof(float) : sizeof(uint16_t); }

void lm_mat_init(lm_mat *m, int dtype, int64_t rows, int64_t cols, lm_err *err) {
    const lm_format *f = lm_format_find(dtype);
    if (rows > INT32_MAX - LM_TILE || cols > INT32_MAX / LM_TILE) {
        lm_err_set(err, LM_ERROR, "matrix of %lld x %lld is too large", (long long)rows, (long long)cols);
        return;
    }
    *m = (lm_mat){ .dtype = dtype, .format = f, .rows = (int)rows, .cols = (int)cols,
                   .n_tiles = (int)((rows + LM_TILE - 1) / LM_TILE) };
    if (f) {
        int scales = f->is_k ? n_subs(f) * (1 + f->has_min) : 0;
        m->head_bytes = LM_TILE * 2 * (size_t)(1 + f->has_min);
        m->block_bytes = LM_TILE * (size_t)(low_bytes(f) + high_bytes(f) + scales);
        m->tile_bytes = (size_t)(cols / f->block) * m->head_bytes + (size_t)(cols / LM_BLOCK) * m->block_bytes;
    } else {
        m->block_bytes = LM_TILE * float_bytes(m);
        m->tile_bytes = m->block_bytes * (size_t)cols;
    }
}

size_t lm_mat_bytes(const lm_mat *m) { return m->tile_bytes * (size_t)m->n_tiles; }

/* Where in a tile block b begins, and the d before it. */
static size_t block_at(const lm_mat *m, int b, size_t *head) {
    int per_head = m->format->block / LM_BLOCK;
    *head = (size_t)(b / per_head) * (m->head_bytes + (size_t)per_head * m->block_bytes);
    return *head + m->head_bytes + (size_t)(b % per_head) * m->block_bytes;
}

static void pack_floats(const lm_mat *m, uint8_t *tile, int n, const uint8_t *rows) {
    size_t size = float_bytes(m);
    for (int r = 0; r < n; r++) {
        for (int k = 0; k < m->cols; k++, rows += size) memcpy(tile + (size_t)(k * LM_TILE + r) * size, rows, size);
    }
}

/* Put a row's `bits` bits from bit `from` on of 32 stored integers into its lanes of as many vectors, four bytes to each. */
static inline void put_fields(const uint8_t *q, int from, const int bits, uint8_t *vectors) {
    const int per_byte = 8 / bits, step = bits == 4 ? 16 : 4;
    const uint32_t mask = 0x01010101u * ((1u << bits) - 1);
    for (int v = 0; v < bits; v++) {
        const uint8_t *first = q + (bits == 2 ? 16 : 4) * v;
        uint32_t all = 0, some;
        for (int i = 0; i < per_byte; i++) {
            memcpy(&some, first + i * step, 4);
            all |= (some >> from & mask) << i * bits;
        }
        memcpy(vectors + v * 4 * LM_TILE, &all, 4);
    }
}

/* Each width compiled on its own: loading spends its time here. */
static void put_bits(const uint8_t *q, int from, int bits, uint8_t *vectors) {
    if (bits == 8) put_fields(q, from, 8, vectors);
    else if (bits == 4) put_fields(q, from, 4, vectors);
    else if (bits == 2) put_fields(q, from, 2, vectors);
    else put_fields(q, from, 1, vectors);
}

static void pack_blocks(const lm_mat *m, uint8_t *tile, int n, const uint8_t *rows) {
    const lm_format *f = m->format;
    const int low = low_bytes(f), high = high_bytes(f), subs = n_subs(f);
    lm_levels levels;
    for (int r = 0; r < n; r++) {
        uint8_t *at = tile;
        for (int k = 0; k < m->cols; k += f->block, rows += f->bytes) {
            f->read(rows, &levels);
            memcpy(at + 2 * r, rows + f->d_at, 2);
            if (f->has_min) memcpy(at + 2 * (LM_TILE + r), rows + f->m_at, 2);
            at += m->head_bytes;
            for (int b = 0; b < f->block / LM_BLOCK; b++, at += m->block_bytes) {
                const uint8_t *q = levels.q + b * LM_BLOCK;
                uint8_t *scales = at + (low + high) * LM_TILE + r;
                put_bits(q, 0, low / 4, at + 4 * r);
                if (high) put_bits(q, low / 4, high / 4, at + low * LM_TILE + 4 * r);
                for (int s = 0; f->is_k && s < subs; s++) {
                    scales[s * LM_TILE] = (uint8_t)levels.scale[b * subs + s];
                    if (f->has_min) scales[(subs + s) * LM_TILE] = (uint8_t)levels.min[b * subs + s];
                }
            }
        }
    }
}

void lm_mat_pack(lm_mat *m, int first, int n, const void *rows) {
    uint8_t *tile = m->data + (size_t)(first / LM_TILE) * m->tile_bytes;
    if (n < LM_TILE) memset(tile, 0, m->tile_bytes);
    if (m->format) pack_blocks(m, tile, n, rows);
    else pack_floats(m, tile, n, rows);
}

/*----------------------------------------------------------------------
** And back. */

static int get_bits(const uint8_t *vectors, int row, int e, int bits) {
    int vector = bits == 4 ? e % 16 / 4 : bits == 2 ? e / 16 : 0;
    int shift = bits == 4 ? e / 16 * 4 : bits == 2 ? e % 16 / 4 * 2 : e / 4;
    return vectors[(vector * LM_TILE + row) * 4 + e % 4] >> shift & ((1 << bits) - 1);
}

static float get_half(const uint8_t *at) {
    uint16_t h;
    memcpy(&h, at, 2);
    return lm_f16_to_f32(h);
}

void lm_mat_block(const lm_mat *m, int tile, int row, int b, int8_t q[32], float d[2], float min[2]) {
    const lm_format *f = m->format;
    size_t head_at;
    const uint8_t *block = m->data + (size_t)tile * m->tile_bytes + block_at(m, b, &head_at);
    const uint8_t *head = m->data + (size_t)tile * m->tile_bytes + head_at;
    const uint8_t *high = block + low_bytes(f) * LM_TILE, *scales = high + high_bytes(f) * LM_TILE + row;
    for (int e = 0; e < LM_BLOCK; e++) {
        if (f->bits == 8) {
            q[e] = (int8_t)(block[e / 4 * 4 * LM_TILE + 4 * row + e % 4] - f->offset);
            continue;
        }
        int value = get_bits(block, row, e, f->bits >= 4 ? 4 : 2);
        if (f->bits == 6) value |= get_bits(high, row, e, 2) << 4;
        if (f->bits == 5) value |= get_bits(high, row, e, 1) << 4;
        if (f->bits == 3) value |= get_bits(high, row, e, 1) << 2;
        q[e] = (int8_t)lm_format_value(f, value);
    }
    for (int s = 0; s < n_subs(f); s++) {
        d[s] = get_half(head + 2 * row);
        min[s] = f->has_min ? get_half(head + 2 * (LM_TILE + row)) : 0;
        if (!f->is_k) continue;
        d[s] *= (float)(int8_t)scales[s * LM_TILE];
        if (f->has_min) min[s] = -(min[s] * (float)(int8_t)scales[(n_subs(f) + s) * LM_TILE]);
    }
}

/* Decode one row's elements [k0, k1) with a stride between them. */
static void decode(const lm_mat *m, int tile, int row, int k0, int k1, float *out, int stride) {
    if (!m->format) {
        const lm_dtype *type = lm_dtype_find(m->dtype);
        const uint8_t *at = m->data + (size_t)tile * m->tile_bytes + (size_t)row * float_bytes(m);
        for (int k = k0; k < k1; k++, out += stride) type->decode(at + (size_t)k * m->block_bytes, out, 1);
        return;
    }
    for (int b = k0 / LM_BLOCK; b < k1 / LM_BLOCK; b++) {
        int8_t q[LM_BLOCK];
        float d[2] = {0}, min[2] = {0};
        lm_mat_block(m, tile, row, b, q, d, min);
        for (int i = 0; i < LM_BLOCK; i++, out += stride)
            *out = (float)q[i] * d[i / m->format->sub] + min[i / m->format->sub];
    }
}

void lm_mat_row(const lm_mat *m, int row, float *out) {
    decode(m, row / LM_TILE, row % LM_TILE, 0, m->cols, out, 1);
}

void lm_mat_floats(const lm_mat *m, int tile, int k0, int k1, float *out) {
    for (int r = 0; r < LM_TILE; r++) decode(m, tile, r, k0, k1, out + r, LM_TILE);
}

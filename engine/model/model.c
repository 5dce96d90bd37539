/* model.c: from a source's tensors to a model in memory: check, bind to slots, pack into slabs. */
#include "model.h"

#include <string.h>

enum { SLAB_MAX = 1 << 30, READ_BYTES = 1 << 20 };

static uint64_t round_up(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

/* What a tensor becomes: a weight, or several of one shape, each beginning at a cache line. Three slots' have a lm_mat each,
** experts share one. */
typedef struct { lm_mat *mat; int n_mats, n_parts; } place;

static uint64_t part_bytes(const place *p) { return round_up(lm_mat_bytes(p->mat)); }
static uint64_t place_bytes(const place *p) { return part_bytes(p) * (uint64_t)p->n_parts; }

lm_mat lm_model_expert(const lm_mat *first, int expert) {
    lm_mat m = *first;
    m.data += round_up(lm_mat_bytes(first)) * (uint64_t)expert;
    return m;
}

/* Describe a tensor's weights, all but their place in memory. */
static void shape_weights(place *p, const lm_tensor *t, lm_err *err) {
    p->n_parts = p->n_mats > 1 ? p->n_mats : (int)t->ne[2];
    for (int i = 0; i < p->n_mats; i++) {
        lm_mat *m = &p->mat[i];
        if (t->n_dims == 1) {
            int64_t n = t->ne[0] / p->n_mats;
            *m = (lm_mat){ .dtype = LM_F32, .rows = 1, .cols = (int)n, .n_tiles = 1,
                           .tile_bytes = (size_t)n * sizeof(float) };
        } else {
            lm_mat_init(m, t->dtype, t->ne[1] / p->n_mats, t->ne[0], err);
        }
    }
    if (!err->code && place_bytes(p) > SLAB_MAX) lm_err_set(err, LM_ERROR, "tensor %s: over 1 GiB", t->name);
}

/* Give every weight its place. */
static void place_weights(lm_model *m, const place *places, int n, lm_err *err) {
    for (int i = 0, first = 0; i < n && !err->code; first = i) {
        uint64_t bytes = 0, at = 0;
        while (i < n && bytes + place_bytes(&places[i]) <= SLAB_MAX) bytes += place_bytes(&places[i++]);
        void **slabs = lm_realloc(m->slabs, sizeof *slabs * (size_t)(m->n_slabs + 1), err);
        if (!slabs) return;
        m->slabs = slabs;
        uint8_t *slab = lm_alloc((size_t)bytes, err);
        if (!slab) return;
        m->slabs[m->n_slabs++] = slab;
        m->n_bytes += bytes;
        for (; first < i; at += place_bytes(&places[first++])) {
            for (int k = 0; k < places[first].n_mats; k++)
                places[first].mat[k].data = slab + at + part_bytes(&places[first]) * (uint64_t)k;
        }
    }
}

/* Read one part of tensor i, its bytes from offset on, in stretches of whole groups of 16 rows and pack them. */
static void read_part(const lm_source *src, int i, lm_mat *m, int64_t offset, uint8_t *buffer, size_t capacity,
                      lm_stop stop, lm_err *err) {
    const lm_tensor *t = &src->tensors[i];
    if (m->block_bytes == 0) {
        src->read(src->arg, i, offset, m->data, m->tile_bytes, err);
        if (!err->code) lm_tensor_check(t, offset, m->data, (int64_t)m->tile_bytes, err);
        return;
    }
    size_t row_bytes = (size_t)(t->n_bytes / (t->n_params / t->ne[0]));
    int step = (int)LM_MAX(capacity / row_bytes / LM_TILE * LM_TILE, LM_TILE);
    for (int row = 0; row < m->rows && !err->code; row += step) {
        int n = LM_MIN(step, m->rows - row);
        src->read(src->arg, i, offset + (int64_t)row * (int64_t)row_bytes, buffer, (size_t)n * row_bytes, err);
        if (!err->code)
            lm_tensor_check(t, offset + (int64_t)row * (int64_t)row_bytes, buffer, (int64_t)((size_t)n * row_bytes),
                            err);
        lm_poll(stop, err);
        for (int r = 0; r < n && !err->code; r += LM_TILE) {
            lm_mat_pack(m, row + r, LM_MIN(LM_TILE, n - r), buffer + (size_t)r * row_bytes);
        }
    }
}

static void read_weights(const lm_source *src, const place *places, lm_stop stop, lm_err *err) {
    size_t capacity = READ_BYTES;
    for (int i = 0; i < src->n_tensors; i++) {
        const lm_tensor *t = &src->tensors[i];
        capacity = LM_MAX(capacity, (size_t)(t->n_bytes / (t->n_params / t->ne[0])) * LM_TILE);
    }
    uint8_t *buffer = lm_alloc(capacity, err);
    for (int i = 0; i < src->n_tensors && !err->code; i++) {
        for (int k = 0; k < places[i].n_parts && !err->code; k++) {
            lm_mat part = lm_model_expert(places[i].mat, k);
            read_part(src, i, &part, src->tensors[i].n_bytes / places[i].n_parts * k, buffer, capacity, stop, err);
        }
    }
    lm_free(buffer);
}

double lm_rope_angle(const lm_hparams *h, int local, int i, const float *factors, lm_err *err) {
    double scale = local ? 1 : (double)h->rope_scale, base = local ? (double)h->rope_base_local : (double)h->rope_base;
    double angle = scale * lm_pow(base, -2.0 * i / h->n_rot);
    if (!factors) return angle;
    angle /= (double)factors[i];
    if (!(fabs(angle) * h->n_ctx < 0x1p30)) {       /* what lm_sincos takes */
        lm_err_set(err, LM_ERROR, "tensor rope_freqs.weight: element %d: %g makes an angle of %d positions over 2^30", i,
                   (double)factors[i], h->n_ctx);
    }
    return angle;
}

static double *new_frequencies(const lm_model *m, int local, lm_err *err) {
    int n = m->h.n_rot / 2;
    double *inv_freq = lm_alloc(sizeof *inv_freq * (size_t)n, err);
    for (int i = 0; inv_freq && i < n; i++)
        inv_freq[i] = lm_rope_angle(&m->h, local, i, (const float *)m->top[LM_ROPE_FREQS].data, err);
    return inv_freq;
}

static void set_frequencies(lm_model *m, lm_err *err) {
    m->inv_freq[0] = new_frequencies(m, 0, err);
    if (m->h.n_window && m->h.rope_base_local > 0) m->inv_freq[1] = new_frequencies(m, 1, err);
}

static void fill(lm_model *m, const lm_source *src, lm_stop stop, lm_err *err) {
    int n_layers = m->h.n_layers, n_stored = lm_hparams_n_stored(&m->h),
        n_slots = n_layers * LM_LAYER_SLOTS + LM_TOP_SLOTS;
    int *at = lm_alloc(sizeof *at * (size_t)n_slots, err);
    place *places = lm_calloc((size_t)LM_MAX(src->n_tensors, 1), sizeof *places, err);
    m->layer = lm_calloc((size_t)n_layers, sizeof *m->layer, err);
    if (!err->code) lm_arch_bind(m->arch, &m->h, src->tensors, src->n_tensors, at, err);
    for (int s = 0; s < n_slots && !err->code; s++) {
        int layer = s / LM_LAYER_SLOTS, is_top = layer >= n_layers;
        lm_mat *weight = is_top ? &m->top[s - n_layers * LM_LAYER_SLOTS] : &m->layer[layer][s % LM_LAYER_SLOTS];
        if (at[s] < 0 || (layer >= n_stored && !is_top)) continue;
        place *p = &places[at[s]];
        if (!p->n_mats++) p->mat = weight;
    }
    for (int i = 0; i < src->n_tensors && !err->code; i++) shape_weights(&places[i], &src->tensors[i], err);
    if (!err->code) place_weights(m, places, src->n_tensors, err);
    if (!err->code) read_weights(src, places, stop, err);
    for (int l = n_stored; l < n_layers && !err->code; l++)
        memcpy(m->layer[l], m->layer[l - n_stored], sizeof *m->layer);
    if (!err->code) set_frequencies(m, err);
    if (!err->code && !m->top[LM_OUTPUT].data) m->top[LM_OUTPUT] = m->top[LM_TOKEN_EMBD];
    lm_free(at);
    lm_free(places);
}

lm_model *lm_model_open(const lm_source *src, lm_tok *tok, lm_stop stop, lm_err *err) {
    lm_model *m = lm_calloc(1, sizeof *m, err);
    if (!m) return NULL;
    m->arch = lm_arch_find(src->arch);
    if (!m->arch) lm_err_set(err, LM_ERROR, "architecture %.40s is not supported", src->arch);
    else lm_hparams_read(&m->h, m->arch, src->hparams, src->hparams_n, err);
    if (!err->code && tok && lm_tok_count(tok) > m->h.n_vocab) {
        lm_err_set(err, LM_ERROR, "the tokenizer has %d tokens, token_embd.weight only %d rows", lm_tok_count(tok),
                   m->h.n_vocab);
    }
    if (!err->code) fill(m, src, stop, err);
    if (err->code) {
        lm_model_free(m);
        return NULL;
    }
    m->tok = tok;
    return m;
}

void lm_model_free(lm_model *m) {
    if (!m) return;
    lm_model_forget(m);
    for (int i = 0; i < m->n_slabs; i++) lm_free(m->slabs[i]);
    lm_free(m->slabs);
    lm_free(m->low);
    if (!m->base) {
        lm_free(m->layer);
        lm_free(m->inv_freq[0]);
        lm_free(m->inv_freq[1]);
        lm_tok_free(m->tok);
    }
    lm_free(m);
}

const float *lm_model_vector(const lm_mat *m) { return (const float *)m->data; }
const lm_tok *lm_model_tok(const lm_model *m) { return m->tok; }
int lm_model_n_ctx(const lm_model *m) { return m->h.n_ctx; }
int lm_model_is_encoder(const lm_model *m) { return m->arch->is_encoder; }
int lm_model_n_embd(const lm_model *m) { return m->h.n_embd; }
int lm_model_n_text(const lm_model *m) { return m->h.n_text ? LM_MIN(m->h.n_text, m->h.n_ctx) : m->h.n_ctx; }
int lm_model_pooling(const lm_model *m) { return m->h.pooling; }
uint64_t lm_model_bytes(const lm_model *m) { return m->n_bytes; }

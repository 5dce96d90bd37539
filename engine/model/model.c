/* model.c: from a source's tensors to a model in memory: check, bind to slots, pack into slabs. */
#include "model.h"

#include <string.h>

enum { SLAB_MAX = 1 << 30, READ_BYTES = 1 << 20 };

static uint64_t round_up(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

/* Describe the weight of a tensor, all but its place in memory. */
static void shape_weight(lm_mat *m, const lm_tensor *t, int is_vector, lm_err *err) {
    if (is_vector) {
        *m = (lm_mat){ .dtype = LM_F32, .rows = 1, .cols = (int)t->ne[0], .n_tiles = 1, .tile_bytes = (size_t)t->n_bytes };
    } else {
        lm_mat_init(m, t->dtype, t->ne[1], t->ne[0], err);
    }
    if (lm_mat_bytes(m) > SLAB_MAX) lm_err_set(err, LM_ERROR, "tensor %s: over 1 GiB", t->name);
}

/* Give every weight its place. slots[i] is tensor i's weight. */
static void place_weights(lm_model *m, lm_mat **slots, int n, lm_err *err) {
    for (int i = 0, first = 0; i < n && !err->code; first = i) {
        uint64_t bytes = 0, at = 0;
        while (i < n && bytes + round_up(lm_mat_bytes(slots[i])) <= SLAB_MAX) bytes += round_up(lm_mat_bytes(slots[i++]));
        void **slabs = lm_realloc(m->slabs, sizeof *slabs * (size_t)(m->n_slabs + 1), err);
        if (!slabs) return;
        m->slabs = slabs;
        uint8_t *slab = lm_alloc((size_t)bytes, err);
        if (!slab) return;
        m->slabs[m->n_slabs++] = slab;
        m->n_bytes += bytes;
        for (; first < i; at += round_up(lm_mat_bytes(slots[first++]))) slots[first]->data = slab + at;
    }
}

/* Read tensor i in stretches of whole groups of 16 rows and pack them. */
static void read_weight(const lm_source *src, int i, lm_mat *m, uint8_t *buffer, size_t capacity, lm_stop stop, lm_err *err) {
    const lm_tensor *t = &src->tensors[i];
    if (m->block_bytes == 0) {
        src->read(src->arg, i, 0, m->data, (size_t)t->n_bytes, err);
        return;
    }
    size_t row_bytes = (size_t)(t->n_bytes / t->ne[1]);
    int step = (int)LM_MAX(capacity / row_bytes / LM_TILE * LM_TILE, LM_TILE);
    for (int row = 0; row < m->rows && !err->code; row += step) {
        int n = LM_MIN(step, m->rows - row);
        src->read(src->arg, i, (int64_t)row * (int64_t)row_bytes, buffer, (size_t)n * row_bytes, err);
        if (stop.ask && stop.ask(stop.arg)) lm_err_set(err, LM_INTERRUPT, "interrupted");
        for (int r = 0; r < n && !err->code; r += LM_TILE) {
            lm_mat_pack(m, row + r, LM_MIN(LM_TILE, n - r), buffer + (size_t)r * row_bytes);
        }
    }
}

static void read_weights(const lm_source *src, lm_mat **slots, lm_stop stop, lm_err *err) {
    size_t capacity = READ_BYTES;
    for (int i = 0; i < src->n_tensors; i++) {
        capacity = LM_MAX(capacity, (size_t)(src->tensors[i].n_bytes / src->tensors[i].ne[1]) * LM_TILE);
    }
    uint8_t *buffer = lm_alloc(capacity, err);
    for (int i = 0; i < src->n_tensors && !err->code; i++) read_weight(src, i, slots[i], buffer, capacity, stop, err);
    lm_free(buffer);
}

/* Angles a position: scale * base^(-2i/n_rot), slowed per frequency where the model says so (llama 3). */
static double *new_frequencies(const lm_model *m, float base, float scale, lm_err *err) {
    int n = m->h.n_rot / 2;
    const float *factors = (const float *)m->top[LM_ROPE_FREQS].data;
    double *inv_freq = lm_alloc(sizeof *inv_freq * (size_t)n, err);
    for (int i = 0; inv_freq && i < n; i++) {
        inv_freq[i] = (double)scale * lm_pow((double)base, -2.0 * i / m->h.n_rot);
        if (factors) inv_freq[i] /= (double)factors[i];
    }
    return inv_freq;
}

static void set_frequencies(lm_model *m, lm_err *err) {
    const lm_hparams *h = &m->h;
    m->inv_freq[0] = new_frequencies(m, h->rope_base, h->rope_scale, err);
    if (h->n_window && h->rope_base_local > 0) m->inv_freq[1] = new_frequencies(m, h->rope_base_local, 1, err);
}

static void fill(lm_model *m, const lm_source *src, lm_stop stop, lm_err *err) {
    int n_slots = m->h.n_layers * LM_LAYER_SLOTS + LM_TOP_SLOTS;
    int *at = lm_alloc(sizeof *at * (size_t)n_slots, err);
    lm_mat **slots = lm_calloc((size_t)LM_MAX(src->n_tensors, 1), sizeof *slots, err);
    m->layer = lm_calloc((size_t)m->h.n_layers, sizeof *m->layer, err);
    if (at) lm_arch_bind(m->arch, &m->h, src->tensors, src->n_tensors, at, err);
    for (int s = 0; s < n_slots && !err->code; s++) {
        int layer = s / LM_LAYER_SLOTS, is_top = layer >= m->h.n_layers;
        lm_mat *weight = is_top ? &m->top[s - m->h.n_layers * LM_LAYER_SLOTS] : &m->layer[layer][s % LM_LAYER_SLOTS];
        if (at[s] < 0) continue;
        const lm_tensor *t = &src->tensors[at[s]];
        slots[at[s]] = weight;
        shape_weight(weight, t, t->ne[1] == 1 && t->n_dims == 1, err);
    }
    if (!err->code) place_weights(m, slots, src->n_tensors, err);
    if (!err->code) read_weights(src, slots, stop, err);
    if (!err->code) set_frequencies(m, err);
    if (!err->code && !m->top[LM_OUTPUT].data) m->top[LM_OUTPUT] = m->top[LM_TOKEN_EMBD];
    lm_free(at);
    lm_free(slots);
}

lm_model *lm_model_open(const lm_source *src, lm_tok *tok, lm_stop stop, lm_err *err) {
    lm_model *m = lm_calloc(1, sizeof *m, err);
    if (!m) return NULL;
    m->arch = lm_arch_find(src->arch);
    if (!m->arch) lm_err_set(err, LM_ERROR, "architecture %.40s is not supported", src->arch);
    else lm_hparams_read(&m->h, m->arch, src->hparams, src->hparams_n, err);
    if (!err->code && tok && lm_tok_count(tok) > m->h.n_vocab) {
        lm_err_set(err, LM_ERROR, "the tokenizer has %d tokens, token_embd.weight only %d rows", lm_tok_count(tok), m->h.n_vocab);
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
    while (lm_prefix_shrink(m)) {}
    for (int i = 0; i < m->n_slabs; i++) lm_free(m->slabs[i]);
    lm_free(m->slabs);
    lm_free(m->layer);
    lm_free(m->inv_freq[0]);
    lm_free(m->inv_freq[1]);
    lm_tok_free(m->tok);
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

/* create.c: a model that no file has yet: its metadata, its tensors and their first weights.
**
** What a design leaves at 0: n_kv_heads is n_heads; n_ff is 4 n_embd where nothing gates it (gpt2), else 8/3 n_embd rounded
** up to a multiple of 32, so that the parameters are as many; n_active is 2, or 1 of 1 expert.
**
** First weights, as GPT-2 and its heirs have them: normal numbers of standard deviation 0.02; what is added to the residual
** stream (attn_output, ffn_down) that over sqrt(2 n_layers), so that the stream's variance does not grow with depth
** (Radford et al. 2019); norms 1, biases 0. Element i of a tensor depends on the seed, the tensor's name and i alone: two
** uniform numbers at an index give two normal ones (Box and Muller 1958). */
#include "model.h"

#include <stdio.h>
#include <string.h>

static const double STD = 0.02, TURN = 6.283185307179586;
static const float EPS = 1e-5f;
enum { WINDOW = 512 /* of gemma3's local layers */ };

static void complete(lm_design *d, const lm_arch *arch) {
    int gates = 0;
    for (int i = 0; i < arch->n_layer; i++) gates |= arch->layer[i].slot == LM_GATE;
    if (!d->n_kv_heads) d->n_kv_heads = d->n_heads;
    if (!d->n_ff)
        d->n_ff = gates ? (int)LM_MIN((8 * (int64_t)d->n_embd + 95) / 96 * 32, INT32_MAX)
                        : (int)LM_MIN(4 * (int64_t)d->n_embd, INT32_MAX);
    if (!d->n_active) d->n_active = LM_MIN(2, d->n_experts);
}

static void check_range(const char *name, int x, int min, int max, lm_err *err) {
    if (x < min || x > max) lm_err_set(err, LM_ERROR, "%s %d is out of range (%d to %d)", name, x, min, max);
}

/* What the metadata alone would not show to be wrong, or not in these words. */
static void check(const lm_design *d, const lm_arch *arch, lm_err *err) {
    check_range("n_layers", d->n_layers, 1, LM_LAYERS_MAX, err);
    check_range("n_embd", d->n_embd, 2, LM_EMBD_MAX, err);
    check_range("n_heads", d->n_heads, 1, LM_HEADS_MAX, err);
    check_range("n_kv_heads", d->n_kv_heads, 1, d->n_heads, err);
    check_range("n_ff", d->n_ff, 1, LM_FF_MAX, err);
    check_range("n_ctx", d->n_ctx, 1, LM_CTX_MAX, err);
    check_range("n_vocab", d->n_vocab, 1, LM_VOCAB_MAX, err);
    check_range("share_layers", d->share_layers, 0, d->n_layers, err);
    check_range("n_experts", d->n_experts, 0, LM_EXPERTS_MAX, err);
    if (err->code) return;
    if (arch->is_encoder) lm_err_set(err, LM_ERROR, "a %s model cannot be made here, only imported", arch->name);
    if (d->n_embd % d->n_heads || d->n_embd / d->n_heads % 2) {
        lm_err_set(err, LM_ERROR, "n_embd %d must be an even multiple of n_heads %d", d->n_embd, d->n_heads);
    }
    if (d->n_embd / d->n_heads > LM_HEAD_DIM_MAX) {
        lm_err_set(err, LM_ERROR, "n_embd %d: over %d for each of n_heads %d", d->n_embd, LM_HEAD_DIM_MAX,
                   d->n_heads);
    }
    if (d->n_heads % d->n_kv_heads)
        lm_err_set(err, LM_ERROR, "n_heads %d is not a multiple of n_kv_heads %d", d->n_heads, d->n_kv_heads);
    if (arch->has_positions && d->n_kv_heads != d->n_heads) {
        lm_err_set(err, LM_ERROR, "n_kv_heads %d: a %s model has as many as n_heads, %d", d->n_kv_heads, arch->name,
                   d->n_heads);
    }
    if (d->n_experts && !lm_arch_has_experts(arch))
        lm_err_set(err, LM_ERROR, "n_experts: a %s model has none (llama has)", arch->name);
    if (d->n_active > d->n_experts) lm_err_set(err, LM_ERROR, "n_active %d of n_experts %d", d->n_active, d->n_experts);
}

/*----------------------------------------------------------------------
** Metadata */

static void put_int(lm_buf *meta, const char *arch, const char *key, int x, lm_err *err) {
    lm_meta_put_key(meta, arch, key, LM_META_U32, err);
    lm_meta_put(meta, (uint64_t)x, 4, err);
}

static void put_real(lm_buf *meta, const char *arch, const char *key, float x, lm_err *err) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    lm_meta_put_key(meta, arch, key, LM_META_F32, err);
    lm_meta_put(meta, bits, 4, err);
}

static void write_meta(const lm_design *d, const lm_arch *arch, lm_buf *meta, lm_err *err) {
    const char *a = arch->name;
    int head_dim = d->n_embd / d->n_heads, has_window = arch->defaults.window_period > 0;
    lm_meta_put_text(meta, "general.architecture", a, strlen(a), err);
    put_int(meta, "general", "file_type", 0, err);          /* all f32 */
    put_int(meta, a, "vocab_size", d->n_vocab, err);
    put_int(meta, a, "context_length", d->n_ctx, err);
    put_int(meta, a, "embedding_length", d->n_embd, err);
    put_int(meta, a, "block_count", d->n_layers, err);
    put_int(meta, a, "feed_forward_length", d->n_ff, err);
    put_int(meta, a, "attention.head_count", d->n_heads, err);
    put_int(meta, a, "attention.head_count_kv", d->n_kv_heads, err);
    put_real(meta, a,
             arch->defaults.norm == LM_NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
             EPS, err);
    if (!arch->has_positions) {
        put_int(meta, a, "attention.key_length", head_dim, err);
        put_int(meta, a, "attention.value_length", head_dim, err);
        put_int(meta, a, "rope.dimension_count", head_dim, err);
        put_real(meta, a, "rope.freq_base", arch->defaults.rope_base > 0 ? arch->defaults.rope_base : 10000, err);
    }
    if (has_window) put_int(meta, a, "attention.sliding_window", WINDOW, err);
    if (d->n_experts) put_int(meta, a, "expert_count", d->n_experts, err);
    if (d->n_experts) put_int(meta, a, "expert_used_count", d->n_active, err);
    if (d->share_layers) put_int(meta, a, "share_layers", d->share_layers, err);
}

/*----------------------------------------------------------------------
** Tensors */

static lm_hparams sizes(const lm_design *d) {
    return (lm_hparams){ .n_layers = d->n_layers, .n_embd = d->n_embd, .n_heads = d->n_heads,
                         .n_kv_heads = d->n_kv_heads, .head_dim = d->n_embd / d->n_heads, .n_ff = d->n_ff,
                         .n_vocab = d->n_vocab, .n_ctx = d->n_ctx, .n_positions = d->n_ctx, .n_experts = d->n_experts,
                         .n_active = d->n_active, .share_layers = d->share_layers };
}

static void add_tensor(const lm_tensor_row *row, const lm_hparams *h, int layer, lm_tensor *t, lm_err *err) {
    *t = (lm_tensor){ .dtype = LM_F32, .n_dims = row->how == LM_EXPERTS ? 3 : row->rows == LM_DIM_1 ? 1 : 2 };
    snprintf(t->name, sizeof t->name, row->name, layer);
    lm_arch_shape(row, h, t->ne);
    lm_tensor_measure(t, err);
    if (!err->code && t->n_bytes > 1 << 30)
        lm_err_set(err, LM_ERROR, "tensor %s: %lld bytes, over 1 GiB", t->name, (long long)t->n_bytes);
}

lm_tensor *lm_design_list(lm_design *d, lm_buf *meta, int *n_tensors, lm_err *err) {
    const lm_arch *arch = lm_arch_get(d->arch, strlen(d->arch), err);
    *n_tensors = 0;
    if (!arch) return NULL;
    complete(d, arch);
    check(d, arch, err);
    if (err->code) return NULL;
    lm_hparams h = sizes(d);
    int n_stored = lm_hparams_n_stored(&h), n = 0;
    lm_tensor *tensors = lm_calloc((size_t)n_stored * (size_t)arch->n_layer + (size_t)arch->n_top, sizeof *tensors,
                                   err);
    for (int layer = -1; layer < n_stored && !err->code; layer++) {
        const lm_tensor_row *rows = layer < 0 ? arch->top : arch->layer;
        for (int r = 0; r < (layer < 0 ? arch->n_top : arch->n_layer) && !err->code; r++) {
            int is_output = layer < 0 && rows[r].slot == LM_OUTPUT;
            if (is_output ? !d->tie_embeddings : lm_arch_needs(&rows[r], &h))
                add_tensor(&rows[r], &h, layer, &tensors[n++], err);
        }
    }
    write_meta(d, arch, meta, err);
    *n_tensors = n;
    if (!err->code) return tensors;
    lm_free(tensors);
    return NULL;
}

/* Two normal numbers from two uniform ones. */
static void draw(uint64_t seed, uint64_t pair, double *a, double *b) {
    double sine, cosine, radius = sqrt(-2 * lm_log(1 - lm_uniform(seed, 2 * pair)));
    lm_sincos(TURN * lm_uniform(seed, 2 * pair + 1), &sine, &cosine);
    *a = radius * cosine;
    *b = radius * sine;
}

/* A stream of its own for each tensor: FNV-1a of its name. */
static uint64_t seed_of(const lm_design *d, const char *name) {
    uint64_t hash = 0xCBF29CE484222325ull ^ d->seed;
    for (; *name; name++) hash = (hash ^ (uint8_t)*name) * 0x100000001B3ull;
    return hash;
}

void lm_design_fill(const lm_design *d, const lm_tensor *t, int64_t first, int64_t n, float *out) {
    unsigned fp = lm_fp_enter();
    lm_hparams h = sizes(d);
    int layer;
    const lm_tensor_row *row = lm_arch_row(lm_arch_find(d->arch), &h, t->name, &layer);
    int is_residual = layer >= 0 && (row->slot == LM_O || row->slot == LM_DOWN || row->slot == LM_DOWN_EXPS);
    double std = is_residual ? STD / sqrt(2.0 * d->n_layers) : STD;
    uint64_t seed = seed_of(d, t->name);
    if (row->rows == LM_DIM_1) {
        int is_bias = strstr(t->name, ".bias") != NULL;
        for (int64_t i = 0; i < n; i++) out[i] = is_bias ? 0 : 1;
    } else {
        for (int64_t i = first & ~(int64_t)1; i < first + n; i += 2) {
            double a, b;
            draw(seed, (uint64_t)i / 2, &a, &b);
            if (i >= first) out[i - first] = (float)(std * a);
            if (i + 1 < first + n) out[i + 1 - first] = (float)(std * b);
        }
    }
    lm_fp_leave(fp);
}

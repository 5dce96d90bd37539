/* arch.c: the architectures, a row each, and hyper-parameters in their three forms: GGUF metadata, the JSON
** that is stored, and the struct that runs. */
#include "model.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Rows that most share. */
#define ATTN_NORM { "blk.%d.attn_norm.weight", LM_ATTN_NORM, LM_DIM_1, LM_DIM_EMBD, 0 }
#define FFN_NORM { "blk.%d.ffn_norm.weight", LM_FFN_NORM, LM_DIM_1, LM_DIM_EMBD, 0 }
#define ATTENTION                                                           \
    { "blk.%d.attn_q.weight", LM_Q, LM_DIM_HEADS, LM_DIM_EMBD, 0 },         \
    { "blk.%d.attn_k.weight", LM_K, LM_DIM_KV, LM_DIM_EMBD, 0 },            \
    { "blk.%d.attn_v.weight", LM_V, LM_DIM_KV, LM_DIM_EMBD, 0 },            \
    { "blk.%d.attn_output.weight", LM_O, LM_DIM_EMBD, LM_DIM_HEADS, 0 }
#define QKV_BIAS(optional)                                                  \
    { "blk.%d.attn_q.bias", LM_Q_BIAS, LM_DIM_1, LM_DIM_HEADS, optional },  \
    { "blk.%d.attn_k.bias", LM_K_BIAS, LM_DIM_1, LM_DIM_KV, optional },     \
    { "blk.%d.attn_v.bias", LM_V_BIAS, LM_DIM_1, LM_DIM_KV, optional }
#define QK_NORM                                                             \
    { "blk.%d.attn_q_norm.weight", LM_Q_NORM, LM_DIM_1, LM_DIM_HEAD, 0 },   \
    { "blk.%d.attn_k_norm.weight", LM_K_NORM, LM_DIM_1, LM_DIM_HEAD, 0 }
#define GLU                                                                 \
    { "blk.%d.ffn_gate.weight", LM_GATE, LM_DIM_FF, LM_DIM_EMBD, LM_DENSE },\
    { "blk.%d.ffn_up.weight", LM_UP, LM_DIM_FF, LM_DIM_EMBD, LM_DENSE },    \
    { "blk.%d.ffn_down.weight", LM_DOWN, LM_DIM_EMBD, LM_DIM_FF, LM_DENSE }
#define EXPERTS                                                             \
    { "blk.%d.ffn_gate_inp.weight", LM_ROUTER, LM_DIM_EXPERTS, LM_DIM_EMBD, LM_SPARSE },    \
    { "blk.%d.ffn_gate_exps.weight", LM_GATE_EXPS, LM_DIM_FF, LM_DIM_EMBD, LM_EXPERTS },    \
    { "blk.%d.ffn_up_exps.weight", LM_UP_EXPS, LM_DIM_FF, LM_DIM_EMBD, LM_EXPERTS },        \
    { "blk.%d.ffn_down_exps.weight", LM_DOWN_EXPS, LM_DIM_EMBD, LM_DIM_FF, LM_EXPERTS }

static const lm_tensor_row top[] = {
    { "token_embd.weight", LM_TOKEN_EMBD, LM_DIM_VOCAB, LM_DIM_EMBD, 0 },
    { "output_norm.weight", LM_OUTPUT_NORM, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "output.weight", LM_OUTPUT, LM_DIM_VOCAB, LM_DIM_EMBD, 1 },           /* else token_embd.weight */
    { "rope_freqs.weight", LM_ROPE_FREQS, LM_DIM_1, LM_DIM_ROT_HALF, 1 },
};

/* Touvron et al. 2023; Mistral's window (Jiang et al. 2023) comes with n_window, Mixtral's experts (2024) with n_experts. */
static const lm_tensor_row llama_layer[] = {
    ATTN_NORM, ATTENTION, QKV_BIAS(1), { "blk.%d.attn_output.bias", LM_O_BIAS, LM_DIM_1, LM_DIM_EMBD, 1 }, FFN_NORM, GLU, EXPERTS,
};

/* Radford et al. 2019. */
static const lm_tensor_row gpt2_layer[] = {
    ATTN_NORM, { "blk.%d.attn_norm.bias", LM_ATTN_NORM_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "blk.%d.attn_qkv.weight", LM_Q, LM_DIM_HEADS, LM_DIM_EMBD, LM_THIRDS },
    { "blk.%d.attn_qkv.bias", LM_Q_BIAS, LM_DIM_1, LM_DIM_HEADS, LM_THIRDS },
    { "blk.%d.attn_output.weight", LM_O, LM_DIM_EMBD, LM_DIM_HEADS, 0 }, { "blk.%d.attn_output.bias", LM_O_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
    FFN_NORM, { "blk.%d.ffn_norm.bias", LM_FFN_NORM_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "blk.%d.ffn_up.weight", LM_UP, LM_DIM_FF, LM_DIM_EMBD, 0 }, { "blk.%d.ffn_up.bias", LM_UP_BIAS, LM_DIM_1, LM_DIM_FF, 0 },
    { "blk.%d.ffn_down.weight", LM_DOWN, LM_DIM_EMBD, LM_DIM_FF, 0 }, { "blk.%d.ffn_down.bias", LM_DOWN_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
};

static const lm_tensor_row gpt2_top[] = {
    { "token_embd.weight", LM_TOKEN_EMBD, LM_DIM_VOCAB, LM_DIM_EMBD, 0 },
    { "position_embd.weight", LM_POS_EMBD, LM_DIM_POSITIONS, LM_DIM_EMBD, 0 },
    { "output_norm.weight", LM_OUTPUT_NORM, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "output_norm.bias", LM_OUTPUT_NORM_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "output.weight", LM_OUTPUT, LM_DIM_VOCAB, LM_DIM_EMBD, 1 },
};

/* Yang et al. 2024, 2025. */
static const lm_tensor_row qwen2_layer[] = { ATTN_NORM, ATTENTION, QKV_BIAS(0), FFN_NORM, GLU };
static const lm_tensor_row qwen3_layer[] = { ATTN_NORM, ATTENTION, QK_NORM, FFN_NORM, GLU };

/* Gemma Team 2025: norms before and after each half of a layer, five local layers to a global one. */
static const lm_tensor_row gemma3_layer[] = {
    ATTN_NORM, ATTENTION, QK_NORM, { "blk.%d.post_attention_norm.weight", LM_ATTN_POST_NORM, LM_DIM_1, LM_DIM_EMBD, 0 },
    FFN_NORM, GLU, { "blk.%d.post_ffw_norm.weight", LM_FFN_POST_NORM, LM_DIM_1, LM_DIM_EMBD, 0 },
};

/* Devlin et al. 2018, Liu et al. 2019 (RoBERTa). Norms stand after each half of a layer. */
static const lm_tensor_row bert_layer[] = {
    ATTENTION, QKV_BIAS(0), { "blk.%d.attn_output.bias", LM_O_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "blk.%d.attn_output_norm.weight", LM_ATTN_OUT_NORM, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "blk.%d.attn_output_norm.bias", LM_ATTN_OUT_NORM_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "blk.%d.ffn_up.weight", LM_UP, LM_DIM_FF, LM_DIM_EMBD, 0 }, { "blk.%d.ffn_up.bias", LM_UP_BIAS, LM_DIM_1, LM_DIM_FF, 0 },
    { "blk.%d.ffn_down.weight", LM_DOWN, LM_DIM_EMBD, LM_DIM_FF, 0 }, { "blk.%d.ffn_down.bias", LM_DOWN_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "blk.%d.layer_output_norm.weight", LM_FFN_OUT_NORM, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "blk.%d.layer_output_norm.bias", LM_FFN_OUT_NORM_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
};

static const lm_tensor_row bert_top[] = {
    { "token_embd.weight", LM_TOKEN_EMBD, LM_DIM_VOCAB, LM_DIM_EMBD, 0 },
    { "position_embd.weight", LM_POS_EMBD, LM_DIM_POSITIONS, LM_DIM_EMBD, 0 },
    { "token_types.weight", LM_TYPE_EMBD, LM_DIM_TYPES, LM_DIM_EMBD, 1 },
    { "token_embd_norm.weight", LM_EMBD_NORM, LM_DIM_1, LM_DIM_EMBD, 0 },
    { "token_embd_norm.bias", LM_EMBD_NORM_BIAS, LM_DIM_1, LM_DIM_EMBD, 0 },
};

static const lm_arch archs[] = {
    { .name = "llama", .defaults = { .rope = LM_ROPE_PAIRS },
      .layer = llama_layer, .n_layer = LM_COUNT(llama_layer), .top = top, .n_top = LM_COUNT(top) },
    { .name = "gpt2", .has_positions = 1, .defaults = { .act = LM_ACT_GELU, .norm = LM_NORM_LAYER },
      .layer = gpt2_layer, .n_layer = LM_COUNT(gpt2_layer), .top = gpt2_top, .n_top = LM_COUNT(gpt2_top) },
    { .name = "qwen2", .defaults = { .rope = LM_ROPE_HALVES },
      .layer = qwen2_layer, .n_layer = LM_COUNT(qwen2_layer), .top = top, .n_top = LM_COUNT(top) },
    { .name = "qwen3", .defaults = { .rope = LM_ROPE_HALVES },
      .layer = qwen3_layer, .n_layer = LM_COUNT(qwen3_layer), .top = top, .n_top = LM_COUNT(top) },
    { .name = "bert", .is_encoder = 1, .defaults = { .act = LM_ACT_GELU_ERF, .norm = LM_NORM_LAYER },
      .layer = bert_layer, .n_layer = LM_COUNT(bert_layer), .top = bert_top, .n_top = LM_COUNT(bert_top) },
    { .name = "gemma3", .scales_embd = 1, .wide_layers = 62,
      .defaults = { .rope = LM_ROPE_HALVES, .act = LM_ACT_GELU, .rope_base = 1e6f, .window_period = 6, .rope_base_local = 10000 },
      .layer = gemma3_layer, .n_layer = LM_COUNT(gemma3_layer), .top = top, .n_top = LM_COUNT(top) },
};

int lm_hparams_is_local(const lm_hparams *h, int layer) {
    return h->n_window && !(h->window_period && layer % h->window_period == h->window_period - 1);
}

int lm_hparams_n_stored(const lm_hparams *h) { return h->share_layers ? h->share_layers : h->n_layers; }

int lm_arch_has_experts(const lm_arch *arch) {
    int i = 0;
    while (i < arch->n_layer && arch->layer[i].how != LM_EXPERTS) i++;
    return i < arch->n_layer;
}

const lm_arch *lm_arch_find(const char *name) {
    for (int i = 0; i < LM_COUNT(archs); i++) {
        if (!strcmp(archs[i].name, name)) return &archs[i];
    }
    return NULL;
}

const lm_arch *lm_arch_get(const char *name, size_t n, lm_err *err) {
    lm_buf known = {0};
    for (int i = 0; i < LM_COUNT(archs); i++) {
        if (strlen(archs[i].name) == n && !memcmp(archs[i].name, name, n)) return &archs[i];
    }
    for (int i = 0; i < LM_COUNT(archs); i++) lm_buf_print(&known, err, "%s%s", i ? ", " : "", archs[i].name);
    lm_err_set(err, LM_ERROR, "architecture %.*s is not supported (have: %.*s)", (int)LM_MIN(n, 40), name,
               (int)known.n, known.data);
    lm_buf_clear(&known);
    return NULL;
}

/*----------------------------------------------------------------------
** Hyper-parameters: a row a field. */
enum { INT_FIELD, REAL_FIELD, WORD_FIELD };

typedef struct {
    const char *name;                   /* in JSON */
    const char *key;                    /* in GGUF, after "<arch>." */
    size_t at;
    int kind;
    double min, max;
    double missing;                     /* what an absent field is; NAN: it must be there */
    int derived;                        /* 0 in GGUF stands for what import_hparams works out */
    const char *words[3];
} field;

#define INT(name, key, min, max, missing, derived) \
    { #name, key, offsetof(lm_hparams, name), INT_FIELD, min, max, missing, derived, { 0, 0 } }
#define REAL(name, key, min, max, missing, derived) \
    { #name, key, offsetof(lm_hparams, name), REAL_FIELD, min, max, missing, derived, { 0, 0 } }
#define WORD(name, missing, ...) { #name, NULL, offsetof(lm_hparams, name), WORD_FIELD, 0, 2, missing, 1, { __VA_ARGS__ } }
static const field fields[] = {
    INT(n_layers, "block_count", 1, LM_LAYERS_MAX, NAN, 0),
    INT(n_embd, "embedding_length", 1, LM_EMBD_MAX, NAN, 0),
    INT(n_heads, "attention.head_count", 1, LM_HEADS_MAX, NAN, 0),
    INT(n_kv_heads, "attention.head_count_kv", 1, LM_HEADS_MAX, NAN, 1), /* n_heads */
    INT(head_dim, "attention.key_length", 2, LM_HEAD_DIM_MAX, NAN, 1),  /* n_embd / n_heads */
    INT(n_ff, "feed_forward_length", 1, LM_FF_MAX, NAN, 0),
    INT(n_vocab, NULL, 1, LM_VOCAB_MAX, NAN, 1),                        /* the rows of token_embd.weight */
    INT(n_ctx, "context_length", 1, LM_CTX_MAX, NAN, 0),
    WORD(rope, NAN, "pairs", "halves"),
    INT(n_rot, "rope.dimension_count", 0, LM_HEAD_DIM_MAX, NAN, 1),     /* head_dim */
    REAL(rope_base, "rope.freq_base", 1, 1e12, 10000, 0),
    REAL(rope_scale, NULL, 1e-6, 1, 1, 0),
    REAL(norm_eps, "attention.layer_norm_rms_epsilon", 0, 1, NAN, 1),   /* attention.layer_norm_epsilon */
    WORD(act, 0, "silu", "gelu", "gelu_erf"),
    REAL(embd_scale, NULL, 1e-6, 1e6, 1, 0),
    REAL(attn_scale, "attention.scale", 0, 1e3, 0, 0),
    INT(n_window, "attention.sliding_window", 0, LM_CTX_MAX, 0, 0),
    INT(window_period, "attention.sliding_window_pattern", 0, LM_LAYERS_MAX, 0, 0),
    REAL(rope_base_local, "rope.freq_base_swa", 0, 1e12, 0, 0),
    INT(n_positions, NULL, 0, LM_CTX_MAX, 0, 0),
    INT(n_types, NULL, 0, LM_TYPES_MAX, 0, 0),
    WORD(pooling, 0, "mean", "cls", "last"),
    INT(n_text, "text_length", 0, LM_CTX_MAX, 0, 0),
    INT(n_experts, "expert_count", 0, LM_EXPERTS_MAX, 0, 0),
    INT(n_active, "expert_used_count", 0, LM_EXPERTS_MAX, 0, 0),
    INT(share_layers, "share_layers", 0, LM_LAYERS_MAX, 0, 0),
};

static int get_int(const lm_hparams *h, const field *f) { return *(const int *)((const char *)h + f->at); }
static float get_real(const lm_hparams *h, const field *f) { return *(const float *)((const char *)h + f->at); }

static void set_field(lm_hparams *h, const field *f, double x, lm_err *err) {
    if (!(x >= f->min && x <= f->max)) {
        lm_err_set(err, LM_ERROR, "%s %g is out of range (%g to %g)", f->name, x, f->min, f->max);
    } else if (f->kind == REAL_FIELD) {
        *(float *)((char *)h + f->at) = (float)x;
    } else {
        *(int *)((char *)h + f->at) = (int)x;
    }
}

/* What no single field can say. Return the key of the one at fault. */
static const char *check_hparams(const lm_hparams *h, lm_err *err) {
    if (h->n_heads % h->n_kv_heads) {
        lm_err_set(err, LM_ERROR, "n_heads %d is not a multiple of n_kv_heads %d", h->n_heads, h->n_kv_heads);
        return "attention.head_count_kv";
    }
    if (h->n_rot % 2 || h->n_rot > h->head_dim) {
        lm_err_set(err, LM_ERROR, "n_rot %d must be even and at most head_dim %d", h->n_rot, h->head_dim);
        return "rope.dimension_count";
    }
    if (h->n_positions && h->n_ctx > h->n_positions) {
        lm_err_set(err, LM_ERROR, "n_ctx %d is more than the %d positions there are", h->n_ctx, h->n_positions);
        return "context_length";
    }
    if (h->n_experts ? h->n_active < 1 || h->n_active > h->n_experts : h->n_active) {
        lm_err_set(err, LM_ERROR, "n_active %d of %d experts", h->n_active, h->n_experts);
        return "expert_used_count";
    }
    if (h->share_layers > h->n_layers) {
        lm_err_set(err, LM_ERROR, "share_layers %d is more than n_layers %d", h->share_layers, h->n_layers);
        return "share_layers";
    }
    if ((int64_t)h->n_heads * h->head_dim > 1 << 20) {
        lm_err_set(err, LM_ERROR, "n_heads %d x head_dim %d is too large", h->n_heads, h->head_dim);
        return "attention.key_length";
    }
    return NULL;
}

static void read_word(lm_hparams *h, const field *f, const char *word, lm_err *err) {
    for (int i = 0; i < LM_COUNT(f->words) && f->words[i]; i++) {
        if (!strcmp(f->words[i], word)) {
            set_field(h, f, i, err);
            return;
        }
    }
    lm_err_set(err, LM_ERROR, "hparams: field %s: expected \"%s\" or the like", f->name, f->words[0]);
}

void lm_hparams_read(lm_hparams *h, const lm_arch *arch, const char *json, size_t n, lm_err *err) {
    lm_json j;
    int seen[LM_COUNT(fields)] = {0};
    *h = (lm_hparams){ .norm = arch->defaults.norm, .causal = !arch->is_encoder };      /* not for a file to choose */
    lm_json_init(&j, json, n);
    if (lm_json_next(&j, err) != LM_JSON_OBJECT) lm_err_set(err, LM_ERROR, "hparams: expected a JSON object");
    for (int kind; (kind = lm_json_next(&j, err)) != LM_JSON_END;) {
        int i = 0;
        while (i < LM_COUNT(fields) && strcmp(fields[i].name, j.key.data)) i++;
        const field *f = &fields[i];
        if (i == LM_COUNT(fields)) {
            lm_err_set(err, LM_ERROR, "hparams: unknown field %.60s", j.key.data);
            break;
        }
        seen[i] = 1;
        if (f->kind == WORD_FIELD) read_word(h, f, kind == LM_JSON_TEXT ? j.string.data : "", err);
        else if (kind == LM_JSON_INT || (kind == LM_JSON_REAL && f->kind == REAL_FIELD)) set_field(h, f, j.real, err);
        else lm_err_set(err, LM_ERROR, "hparams: field %s has the wrong type", f->name);
    }
    lm_json_next(&j, err);
    for (int i = 0; i < LM_COUNT(fields); i++) {
        if (seen[i]) continue;
        if (fields[i].missing != fields[i].missing)
            lm_err_set(err, LM_ERROR, "hparams: field %s is missing", fields[i].name);
        else set_field(h, &fields[i], fields[i].missing, err);
    }
    lm_json_clear(&j);
    if (err->code == LM_ERROR && !strncmp(err->msg, "JSON", 4)) lm_err_blame(err, "hparams: ");
    if (!err->code) check_hparams(h, err);
}

static void write_hparams(const lm_hparams *h, lm_buf *out, lm_err *err) {
    for (int i = 0; i < LM_COUNT(fields); i++) {
        const field *f = &fields[i];
        lm_buf_print(out, err, "%s\"%s\":", i ? "," : "{", f->name);
        if (f->kind == WORD_FIELD) lm_buf_print(out, err, "\"%s\"", f->words[get_int(h, f)]);
        else if (f->kind == REAL_FIELD) lm_buf_print(out, err, "%.9g", (double)get_real(h, f));
        else lm_buf_print(out, err, "%d", get_int(h, f));
    }
    lm_buf_append(out, "}", 1, err);
}

/* Scaling of positions: none, linear (a factor, which alone means it), or by frequency (llama 3's, given as
** rope_freqs.weight). */
static void import_rope_scaling(lm_hparams *h, const lm_meta *meta, const char *arch, lm_err *err) {
    char key[128];
    const char *type;
    size_t n;
    double factor = 1;
    snprintf(key, sizeof key, "%s.rope.scale_linear", arch);        /* as files had it once */
    lm_meta_real(meta, key, &factor, err);
    snprintf(key, sizeof key, "%s.rope.scaling.factor", arch);
    lm_meta_real(meta, key, &factor, err);
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    int has_type = lm_meta_text(meta, key, &type, &n, err);
    if (has_type && n == 4 && !memcmp(type, "none", 4)) return;
    if (has_type && (n != 6 || memcmp(type, "linear", 6))) {
        lm_err_set(err, LM_ERROR, "%s: %.*s is not supported (have: none, linear)", key, (int)LM_MIN(n, 20), type);
    } else if (!(factor >= 1 && factor <= 1e6)) {
        lm_err_set(err, LM_ERROR, "%s.rope.scaling.factor %g is out of range (1 to 1e6)", arch, factor);
    } else {
        h->rope_scale = (float)(1.0 / factor);
    }
}

/* Local and global layers as an array of booleans: it must be a period. Return 0 when there is no array. */
static int import_pattern(lm_hparams *h, const char *arch, const lm_meta *meta, lm_err *err) {
    char key[128];
    snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", arch);
    const lm_meta_entry *e = lm_meta_find(meta, key);
    if (!e || e->type != LM_META_ARRAY) return 0;
    int n = (int)LM_MIN(e->n, LM_LAYERS_MAX), period = 0;
    if (e->elem != LM_META_BOOL) lm_err_set(err, LM_ERROR, "%s: expected a number or an array of booleans", key);
    while (!err->code && period < n && e->data[period]) period++;
    h->window_period = period < n ? period + 1 : 0;
    for (int i = 0; i < n && !err->code; i++) {
        int is_local = !h->window_period || i % h->window_period != h->window_period - 1;
        if (is_local != (e->data[i] != 0))
            lm_err_set(err, LM_ERROR, "%s: global layers at uneven distances are not supported", key);
    }
    return 1;
}

/* What would change the numbers, and is not there to do so, must not be passed over. */
static void refuse_unsupported(const lm_meta *meta, const lm_arch *arch, lm_err *err) {
    static const char *const keys[] = { "expert_count",        "final_logit_softcapping", "attn_logit_softcapping",
                                        "logit_scale",         "residual_scale",          "embedding_scale",
                                        "expert_weights_scale" };
    for (int i = lm_arch_has_experts(arch); i < LM_COUNT(keys) && !err->code; i++) {
        char key[128];
        int64_t count = 0;
        double real = 0;
        snprintf(key, sizeof key, "%s.%s", arch->name, keys[i]);
        if (i == 0) lm_meta_int(meta, key, &count, err);
        else lm_meta_real(meta, key, &real, err);
        if (count || real != 0) lm_err_set(err, LM_ERROR, "%s %g is not supported", key, (double)count + real);
    }
}

/* Read what one field's key says, over the architecture's default. */
static void import_field(lm_hparams *h, const field *f, const char *arch, const lm_meta *meta, lm_err *err) {
    char key[128];
    int64_t integer = 0;
    double x = f->kind == REAL_FIELD ? (double)get_real(h, f) : get_int(h, f);
    snprintf(key, sizeof key, "%s.%s", arch, f->key ? f->key : "");
    int found = !f->key                 ? 0
                : f->kind == REAL_FIELD ? lm_meta_real(meta, key, &x, err)
                                        : lm_meta_int(meta, key, &integer, err);
    if (err->code) return;
    if (found && f->kind != REAL_FIELD) x = (double)integer;
    if (found && !(x >= f->min && x <= f->max) && !(f->derived && x == 0)) {
        lm_err_set(err, LM_ERROR, "%s %g is out of range (%g to %g)", key, x, f->min, f->max);
    } else if (x == 0 && !found && !f->derived && f->missing != f->missing) {
        lm_err_set(err, LM_ERROR, "%s is missing", key);
    } else if (x == 0 && f->derived) {
        return;
    } else {
        set_field(h, f, x == 0 && !found ? f->missing : x, err);
    }
}

/* How a model for embeddings pools: 1 is the mean, 2 the first token, 3 the last. */
static void import_pooling(lm_hparams *h, const lm_meta *meta, const char *arch, lm_err *err) {
    static const int kinds[] = { LM_POOL_MEAN, LM_POOL_MEAN, LM_POOL_CLS, LM_POOL_LAST };
    char key[128];
    int64_t kind = 0;
    h->pooling = h->causal ? LM_POOL_LAST : LM_POOL_MEAN;
    snprintf(key, sizeof key, "%s.pooling_type", arch);
    if (!lm_meta_int(meta, key, &kind, err) || kind == 0) return;
    if (kind < 0 || kind > 3)
        lm_err_set(err, LM_ERROR, "%s %lld is not supported (have: 1 mean, 2 cls, 3 last)", key, (long long)kind);
    else h->pooling = kinds[kind];
}

static void import_hparams(lm_hparams *h, const lm_arch *arch, const lm_meta *meta, const lm_tensor *tensors,
                           int n_tensors, lm_err *err) {
    char key[128];
    *h = arch->defaults;
    int has_pattern = import_pattern(h, arch->name, meta, err);
    for (int i = 0; i < LM_COUNT(fields) && !err->code; i++) {
        if (has_pattern && fields[i].at == offsetof(lm_hparams, window_period)) continue;
        import_field(h, &fields[i], arch->name, meta, err);
    }
    refuse_unsupported(meta, arch, err);
    if (err->code) return;
    int64_t value_dim = 0;
    if (!h->n_kv_heads) h->n_kv_heads = h->n_heads;
    if (!h->head_dim && h->n_embd % h->n_heads) {
        lm_err_set(err, LM_ERROR, "%s.embedding_length %d is not a multiple of attention.head_count %d", arch->name,
                   h->n_embd, h->n_heads);
    }
    if (!h->head_dim) h->head_dim = h->n_embd / h->n_heads;
    if (!h->n_rot && !arch->is_encoder && !arch->has_positions) h->n_rot = h->head_dim;
    h->causal = !arch->is_encoder;
    double eps = 0;
    snprintf(key, sizeof key, "%s.attention.layer_norm_epsilon", arch->name);
    if (h->norm_eps == 0 && lm_meta_real(meta, key, &eps, err)) h->norm_eps = (float)eps;
    if (h->norm_eps == 0) lm_err_set(err, LM_ERROR, "%s.attention.layer_norm_rms_epsilon is missing", arch->name);
    import_pooling(h, meta, arch->name, err);
    snprintf(key, sizeof key, "%s.attention.value_length", arch->name);
    if (lm_meta_int(meta, key, &value_dim, err) && value_dim != h->head_dim) {
        lm_err_set(err, LM_ERROR, "%s %lld differs from the keys' %d: not supported", key, (long long)value_dim,
                   h->head_dim);
    }
    if (arch->scales_embd) h->embd_scale = sqrtf((float)h->n_embd);
    if (!h->attn_scale && h->n_layers == arch->wide_layers)
        h->attn_scale = 1.0f / sqrtf((float)h->n_embd / (float)h->n_heads);
    for (int i = 0; i < n_tensors; i++) {
        if (!strcmp(tensors[i].name, "token_embd.weight")) h->n_vocab = (int)LM_MIN(tensors[i].ne[1], 16777217);
        if (!strcmp(tensors[i].name, "position_embd.weight")) h->n_positions = (int)LM_MIN(tensors[i].ne[1], LM_CTX_MAX);
        if (!strcmp(tensors[i].name, "token_types.weight")) h->n_types = (int)LM_MIN(tensors[i].ne[1], LM_TYPES_MAX);
    }
    import_rope_scaling(h, meta, arch->name, err);
    if (!h->n_vocab) lm_err_set(err, LM_ERROR, "tensor token_embd.weight is missing");
    if (h->n_vocab > LM_VOCAB_MAX) lm_err_set(err, LM_ERROR, "token_embd.weight: more than %d rows", LM_VOCAB_MAX);
    if (err->code) return;
    const char *wrong = check_hparams(h, err);
    if (wrong) lm_err_blame(err, "%s.%s: ", arch->name, wrong);
}

/*----------------------------------------------------------------------
** Tensors. */
static int64_t dim(const lm_hparams *h, int which) {
    switch (which) {
    case LM_DIM_EMBD: return h->n_embd;
    case LM_DIM_HEADS: return (int64_t)h->n_heads * h->head_dim;
    case LM_DIM_KV: return (int64_t)h->n_kv_heads * h->head_dim;
    case LM_DIM_HEAD: return h->head_dim;
    case LM_DIM_FF: return h->n_ff;
    case LM_DIM_VOCAB: return h->n_vocab;
    case LM_DIM_ROT_HALF: return h->n_rot / 2;
    case LM_DIM_POSITIONS: return h->n_positions;
    case LM_DIM_TYPES: return h->n_types;
    case LM_DIM_EXPERTS: return h->n_experts;
    default: return 1;
    }
}

void lm_arch_shape(const lm_tensor_row *row, const lm_hparams *h, int64_t ne[LM_DIMS_MAX]) {
    int is_vector = row->rows == LM_DIM_1;
    ne[0] = dim(h, row->cols);
    ne[1] = dim(h, row->rows);
    ne[2] = row->how == LM_EXPERTS ? h->n_experts : 1;
    ne[3] = 1;
    if (row->how == LM_THIRDS) ne[!is_vector] *= 3;
}

static void check_shape(const lm_tensor *t, const lm_tensor_row *row, const lm_hparams *h, lm_err *err) {
    int64_t ne[LM_DIMS_MAX];
    lm_arch_shape(row, h, ne);
    if (row->how == LM_THIRDS && h->n_kv_heads != h->n_heads) {
        lm_err_set(err, LM_ERROR, "tensor %s: queries, keys and values in one, but n_kv_heads %d is not n_heads %d",
                   t->name, h->n_kv_heads, h->n_heads);
    }
    if (!memcmp(t->ne, ne, sizeof ne)) {
        if ((t->n_dims == 1) != (row->rows == LM_DIM_1)) {      /* a row of a matrix is packed, a vector is not */
            lm_err_set(err, LM_ERROR, "tensor %s: %d dimensions, expected %s", t->name, t->n_dims,
                       row->rows == LM_DIM_1 ? "1" : "2 or more");
        }
        if (row->rows == LM_DIM_1 && t->dtype != LM_F32) {
            lm_err_set(err, LM_ERROR, "tensor %s: type %s, expected f32", t->name, lm_dtype_find(t->dtype)->name);
        }
        return;
    }
    lm_err_set(err, LM_ERROR, "tensor %s: shape [%lld,%lld,%lld,%lld], expected [%lld,%lld,%lld,1]", t->name,
               (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2], (long long)t->ne[3], (long long)ne[0],
               (long long)ne[1], (long long)ne[2]);
}

/* Read "blk.<layer>." at the front of a name. Return the layer, or -1 when the name is of another form. */
static int layer_of(const char *name, int n_layers) {
    int layer = 0, i = 4;
    if (strncmp(name, "blk.", 4)) return -1;
    for (; name[i] >= '0' && name[i] <= '9' && layer < n_layers; i++) layer = layer * 10 + name[i] - '0';
    return name[i] == '.' && i > 4 && (name[4] != '0' || i == 5) && layer < n_layers ? layer : -1;
}

int lm_arch_needs(const lm_tensor_row *row, const lm_hparams *h) {
    return row->how == LM_DENSE                              ? !h->n_experts
           : row->how == LM_SPARSE || row->how == LM_EXPERTS ? h->n_experts
                                                             : row->how != LM_OPTIONAL;
}

const lm_tensor_row *lm_arch_row(const lm_arch *arch, const lm_hparams *h, const char *name, int *layer) {
    *layer = layer_of(name, lm_hparams_n_stored(h));
    const lm_tensor_row *rows = *layer < 0 ? arch->top : arch->layer;
    const char *tail = *layer < 0 ? name : strchr(name + 4, '.');
    for (int r = 0; r < (*layer < 0 ? arch->n_top : arch->n_layer); r++) {
        const char *want = *layer < 0 ? rows[r].name : rows[r].name + strlen("blk.%d");
        if (!strcmp(want, tail)) return rows[r].how == LM_OPTIONAL || lm_arch_needs(&rows[r], h) ? &rows[r] : NULL;
    }
    return NULL;
}

void lm_arch_bind(const lm_arch *arch, const lm_hparams *h, const lm_tensor *tensors, int n_tensors, int *at,
                  lm_err *err) {
    int n_layer_slots = h->n_layers * LM_LAYER_SLOTS, n_stored = lm_hparams_n_stored(h);
    for (int i = 0; i < n_layer_slots + LM_TOP_SLOTS; i++) at[i] = -1;
    for (int t = 0; t < n_tensors && !err->code; t++) {
        const char *name = tensors[t].name;
        int layer;
        const lm_tensor_row *row = lm_arch_row(arch, h, name, &layer);
        if (!row) {
            lm_err_set(err, LM_ERROR, "tensor %s has no place in a %s model of %d layers", name, arch->name, n_stored);
        } else {
            int *slot = &at[layer < 0 ? n_layer_slots + row->slot : layer * LM_LAYER_SLOTS + row->slot];
            if (*slot >= 0) lm_err_set(err, LM_ERROR, "tensor %s stands twice", name);
            for (int i = 0; i < (row->how == LM_THIRDS ? 3 : 1); i++) slot[i] = t;
            check_shape(&tensors[t], row, h, err);
        }
        lm_tensor_blame(&tensors[t], err);
    }
    for (int layer = 0; layer <= n_stored && !err->code; layer++) {
        int is_top = layer == n_stored, first = is_top ? n_layer_slots : layer * LM_LAYER_SLOTS;
        const lm_tensor_row *rows = is_top ? arch->top : arch->layer;
        for (int r = 0; r < (is_top ? arch->n_top : arch->n_layer); r++) {
            char name[LM_NAME_MAX + 1];
            if (!lm_arch_needs(&rows[r], h) || at[first + rows[r].slot] >= 0) continue;
            snprintf(name, sizeof name, rows[r].name, layer);
            lm_err_set(err, LM_ERROR, "tensor %s is missing", name);
        }
    }
    for (int i = n_stored * LM_LAYER_SLOTS; i < n_layer_slots; i++) at[i] = at[i - n_stored * LM_LAYER_SLOTS];
}

const char *lm_arch_import(const lm_meta *meta, const lm_tensor *tensors, int n_tensors, lm_buf *hparams, lm_err *err) {
    const char *name;
    size_t n;
    lm_hparams h;
    const lm_arch *arch = NULL;
    if (lm_meta_text(meta, "general.architecture", &name, &n, err)) {
        arch = lm_arch_get(name, n, err);
        lm_err_blame(err, "general.architecture: ");
    } else {
        lm_err_set(err, LM_ERROR, "general.architecture is missing");
    }
    if (arch) import_hparams(&h, arch, meta, tensors, n_tensors, err);
    if (!arch || err->code) return lm_meta_blame(meta, err), NULL;
    int *at = lm_alloc(sizeof *at * (size_t)(h.n_layers * LM_LAYER_SLOTS + LM_TOP_SLOTS), err);
    if (!at) return NULL;
    lm_arch_bind(arch, &h, tensors, n_tensors, at, err);
    lm_free(at);
    write_hparams(&h, hparams, err);
    return err->code ? NULL : arch->name;
}

const char *lm_arch_task(const lm_meta *meta) {
    char key[128];
    const char *name;
    size_t n;
    int64_t pooling = 0;
    lm_err err = {0};
    if (!lm_meta_text(meta, "general.architecture", &name, &n, &err)) return "generate";
    const lm_arch *arch = lm_arch_get(name, n, &err);
    snprintf(key, sizeof key, "%.*s.pooling_type", (int)LM_MIN(n, 64), name);
    lm_meta_int(meta, key, &pooling, &err);
    return pooling || (arch && arch->is_encoder) ? "embed" : "generate";
}

int64_t lm_arch_n_active(const lm_meta *meta, const lm_tensor *tensors, int n_tensors) {
    char key[128];
    const char *name = "";
    size_t n = 0;
    int64_t experts = 0, active = 0, all = 0;
    lm_err err = {0};
    lm_meta_text(meta, "general.architecture", &name, &n, &err);
    const lm_arch *arch = lm_arch_get(name, n, &err);
    int is_tied = arch && !arch->is_encoder;
    snprintf(key, sizeof key, "%.*s.expert_count", (int)LM_MIN(n, 64), name);
    lm_meta_int(meta, key, &experts, &err);
    snprintf(key, sizeof key, "%.*s.expert_used_count", (int)LM_MIN(n, 64), name);
    lm_meta_int(meta, key, &active, &err);
    for (int i = 0; i < n_tensors; i++) is_tied &= strcmp(tensors[i].name, "output.weight") != 0;
    for (int i = 0; i < n_tensors; i++) {
        const lm_tensor *t = &tensors[i];
        int is_look_up = !strcmp(t->name, "position_embd.weight") || !strcmp(t->name, "token_types.weight") ||
                         (!is_tied && !strcmp(t->name, "token_embd.weight"));
        if (is_look_up) all += t->ne[0];
        else if (t->n_dims > 2 && experts > 0 && active <= experts) all += t->n_params / experts * active;
        else all += t->n_params;
    }
    return all;
}

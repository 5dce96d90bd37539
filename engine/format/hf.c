/* hf.c: a Hugging Face folder as what a GGUF file would hold: metadata under GGUF's keys, tensors under GGUF's names and in
** its order of numbers, so that whatever comes after knows one form.
**
**     config.json                          sizes and kinds; a table of keys
**     model.safetensors, or model.safetensors.index.json and the files it names
**     tokenizer.json                       kept whole, as tokenizer.huggingface.json; or one made of vocab.txt
**     tokenizer_config.json, generation_config.json, chat_template.jinja      what ends an answer, chat template
**     modules.json, the pooling module's config.json, sentence_bert_config.json      of sentence-transformers
**
** On the way, as llama.cpp's converter does: llama's q and k rows are put in pairs (HF turns halves of a head), Gemma's
** norms get the 1 that HF adds when it runs them, RoBERTa's table of positions loses the rows before the first, Llama 3's
** slowed frequencies become a tensor, vectors become f32. What no architecture needs (poolers, buffers) is left out.
** Every file is read as if its writer meant harm. */
#include "../lmint.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_MAX = 1 << 20, TOKENIZER_MAX = 64 << 20, FILES_MAX = 256, PATH_BYTES = 1024, ENDS_MAX = 16 };
enum { WORD_BYTES = 40 };
enum { AS_IS, FROM_ROW, IN_PAIRS, PLUS_ONE, FREQUENCIES };      /* how a tensor's bytes come to be */

typedef struct { int file, tensor, how; int64_t arg; } origin;  /* arg: the first row, or the number of heads */

/* rope_scaling, or as transformers 5 has it rope_parameters. */
typedef struct {
    char rope_type[WORD_BYTES], type[WORD_BYTES];       /* type is the older name, of no account beside the other */
    double rope_theta, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings;
    double partial_rotary_factor;
    int is_there;
} rope;

/* What config.json and its companions say; where they are silent what transformers takes (g_silent), else 0 or "". */
typedef struct {
    char model_type[WORD_BYTES], act[WORD_BYTES], position_embedding_type[WORD_BYTES];
    double hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, vocab_size;
    double max_position_embeddings, rms_norm_eps, layer_norm_eps, rope_theta, rope_local_base_freq, sliding_window, pad_token_id;
    double query_pre_attn_scalar, tie_word_embeddings, attention_bias;      /* the latter two -1: not said */
    double use_sliding_window, max_window_layers, sliding_window_pattern;
    double partial_rotary_factor, is_causal, use_bidirectional_attention, is_decoder, add_cross_attention;
    double original_max_position_embeddings, final_logit_softcapping, attn_logit_softcapping;
    rope rope, local_rope;                  /* of all layers or of full ones; of those with a window */
    uint8_t is_sliding[LM_LAYERS_MAX]; int n_layer_types;   /* layer_types */
    char odd_type[WORD_BYTES];              /* one of them that we do not know */
    int is_quantized;
    double pooling_mode_mean_tokens, pooling_mode_cls_token, pooling_mode_lasttoken, max_seq_length, model_max_length;
    double pooling_mode_max_tokens, pooling_mode_mean_sqrt_len_tokens, pooling_mode_weightedmean_tokens;
    double do_lower_case, tokenize_chinese_chars, strip_accents;    /* of vocab.txt; strip_accents -1: as do_lower_case */
    double bos_token_id;
    int32_t ends[ENDS_MAX]; int n_ends;     /* eos_token_id: one or several */
} config;

struct lm_hf {
    lm_safetensors *files[FILES_MAX]; int n_files;
    char *names[FILES_MAX];
    lm_tensor *tensors; origin *origins; size_t n, cap, origins_cap;
    lm_meta *meta;
    config c;
    char root[PATH_BYTES];              /* where the model's own files are: the folder, or one in it */
    lm_buf chat_template;
    float *factors; int n_factors;      /* Llama 3's */
};

/*----------------------------------------------------------------------
** Small files */

static void join(char *path, size_t size, const char *folder, const char *name, lm_err *err) {
    if (snprintf(path, size, "%s/%s", folder, name) >= (int)size) lm_err_set(err, LM_ERROR, "the path is too long");
}

/* Read a file of the folder whole; it is the caller's. NULL without an error when it is not there and may be so. */
static char *read_whole(const char *folder, const char *name, size_t most, int optional, size_t *n, lm_err *err) {
    char path[PATH_BYTES];
    lm_file f;
    lm_err inner = {0};
    char *text = NULL;
    *n = 0;
    join(path, sizeof path, folder, name, err);
    if (err->code) return NULL;
    lm_file_open(&f, path, &inner);
    if (f.is_absent && optional) return NULL;
    if (!inner.code && f.n > most)
        lm_err_set(&inner, LM_ERROR, "%llu bytes, wanted at most %zu", (unsigned long long)f.n, most);
    if (!inner.code) text = lm_alloc((size_t)f.n + 1, &inner);
    if (text) lm_file_read(&f, 0, (uint8_t *)text, (size_t)f.n, &inner);
    *n = inner.code ? 0 : (size_t)f.n;
    lm_file_close(&f);
    if (!inner.code) return text;
    lm_free(text);
    lm_file_blame(name, &inner);
    *err = inner;
    return NULL;
}

typedef struct { const char *name; size_t at; int is_text; } entry;
#define NUMBER(name) { #name, offsetof(config, name), 0 }
#define WORD(name) { #name, offsetof(config, name), 1 }
static const entry g_entries[] = {
    WORD(model_type), NUMBER(hidden_size), NUMBER(num_hidden_layers), NUMBER(num_attention_heads), NUMBER(num_key_value_heads),
    NUMBER(head_dim), NUMBER(intermediate_size), NUMBER(vocab_size), NUMBER(max_position_embeddings), NUMBER(rms_norm_eps),
    NUMBER(layer_norm_eps), NUMBER(rope_theta), NUMBER(rope_local_base_freq), NUMBER(sliding_window), NUMBER(pad_token_id),
    NUMBER(query_pre_attn_scalar), NUMBER(tie_word_embeddings), NUMBER(use_sliding_window), NUMBER(sliding_window_pattern),
    NUMBER(original_max_position_embeddings), NUMBER(attention_bias), NUMBER(max_window_layers),
    NUMBER(partial_rotary_factor), NUMBER(is_causal), NUMBER(use_bidirectional_attention), NUMBER(is_decoder),
    NUMBER(add_cross_attention),
    NUMBER(final_logit_softcapping), NUMBER(attn_logit_softcapping), NUMBER(pooling_mode_mean_tokens), NUMBER(pooling_mode_cls_token),
    NUMBER(pooling_mode_lasttoken), NUMBER(max_seq_length), NUMBER(model_max_length), NUMBER(pooling_mode_max_tokens),
    NUMBER(pooling_mode_mean_sqrt_len_tokens), NUMBER(pooling_mode_weightedmean_tokens), NUMBER(do_lower_case),
    NUMBER(tokenize_chinese_chars), NUMBER(strip_accents), NUMBER(bos_token_id),
    { "hidden_act", offsetof(config, act), 1 }, { "hidden_activation", offsetof(config, act), 1 },
    WORD(position_embedding_type), { "_sliding_window_pattern", offsetof(config, sliding_window_pattern), 0 },
};
#undef NUMBER
#undef WORD
#define NUMBER(name) { #name, offsetof(rope, name), 0 }
#define WORD(name) { #name, offsetof(rope, name), 1 }
static const entry g_rope_entries[] = {
    WORD(rope_type), WORD(type), NUMBER(rope_theta), NUMBER(factor), NUMBER(low_freq_factor), NUMBER(high_freq_factor),
    NUMBER(original_max_position_embeddings), NUMBER(partial_rotary_factor),
};

/* As the configuration classes of transformers have it; the tokenizer's switches as BertTokenizer has them. */
static const config g_silent = {
    .sliding_window = 4096, .sliding_window_pattern = 6, .max_window_layers = 28, .query_pre_attn_scalar = 256,
    .pad_token_id = 1, .tie_word_embeddings = -1, .attention_bias = -1, .partial_rotary_factor = 1, .is_causal = 1,
    .rope = { .partial_rotary_factor = 1 }, .local_rope = { .partial_rotary_factor = 1 },
    .do_lower_case = 1, .tokenize_chinese_chars = 1, .strip_accents = -1, .bos_token_id = -1,
};

static const entry *find_entry(const entry *entries, int n, const char *name) {
    int i = 0;
    while (i < n && strcmp(entries[i].name, name)) i++;
    return i < n ? &entries[i] : NULL;
}

/* Keep the value just read where its entry says. Return 0 where it is of another kind. */
static int keep(const lm_json *j, int kind, const entry *e, void *in) {
    if (e && e->is_text && kind == LM_JSON_TEXT) {
        snprintf((char *)in + e->at, WORD_BYTES, "%s", j->string.data);
    } else if (e && !e->is_text && (kind == LM_JSON_INT || kind == LM_JSON_REAL || kind == LM_JSON_BOOL)) {
        *(double *)((char *)in + e->at) = kind == LM_JSON_BOOL ? (double)j->integer : j->real;
    } else {
        return 0;
    }
    return 1;
}

/* The token, or the tokens, that end an answer; a later file's count. */
static void read_ends(config *c, lm_json *j, int kind, lm_err *err) {
    int is_array = kind == LM_JSON_ARRAY;
    c->n_ends = 0;
    for (; is_array ? (kind = lm_json_next(j, err)) != LM_JSON_END : 1;) {
        if (kind != LM_JSON_INT || j->integer < 0 || j->integer > INT32_MAX || c->n_ends == ENDS_MAX) {
            lm_err_set(err, LM_ERROR, "eos_token_id: expected a token id, or up to %d", ENDS_MAX);
        } else {
            c->ends[c->n_ends++] = (int32_t)j->integer;
        }
        if (!is_array) return;
    }
}

/* A template's text; of several that have names, the one called "default". */
static void read_template(lm_hf *hf, lm_json *j, int kind, lm_err *err) {
    if (kind == LM_JSON_TEXT) {
        hf->chat_template.n = 0;
        lm_buf_append(&hf->chat_template, j->string.data, j->string.n, err);
    }
    for (int item; kind == LM_JSON_ARRAY && (item = lm_json_next(j, err)) != LM_JSON_END;) {
        lm_buf text = {0};
        int is_default = 0;
        if (item != LM_JSON_OBJECT)
            lm_err_set(err, LM_ERROR, "chat_template: expected a text, or an array of {\"name\", \"template\"}");
        while ((item = lm_json_next(j, err)) != LM_JSON_END) {
            if (item == LM_JSON_TEXT && !strcmp(j->key.data, "template"))
                lm_buf_append(&text, j->string.data, j->string.n, err);
            else if (item == LM_JSON_TEXT && !strcmp(j->key.data, "name")) is_default = !strcmp(j->string.data, "default");
            else lm_json_skip(j, item, err);
        }
        if (is_default) {
            lm_buf_clear(&hf->chat_template);
            hf->chat_template = text;
        } else {
            lm_buf_clear(&text);
        }
    }
}

/* Turns of all layers, or in an object each those of full and of sliding layers. */
static void read_rope(config *c, lm_json *j, rope *r, lm_err *err) {
    r->is_there = 1;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        int is_full = !strcmp(j->key.data, "full_attention"), is_local = !strcmp(j->key.data, "sliding_attention");
        if (c && kind == LM_JSON_OBJECT && (is_full || is_local)) {
            read_rope(NULL, j, is_full ? &c->rope : &c->local_rope, err);
        } else if (!keep(j, kind, find_entry(g_rope_entries, LM_COUNT(g_rope_entries), j->key.data), r)) {
            lm_json_skip(j, kind, err);
        }
    }
}

/* Which layers see only a window. */
static void read_layer_types(config *c, lm_json *j, lm_err *err) {
    c->n_layer_types = 0;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        const char *type = kind == LM_JSON_TEXT && *j->string.data ? j->string.data : "?";
        int is_sliding = !strcmp(type, "sliding_attention");
        if (c->n_layer_types == LM_LAYERS_MAX)
            lm_err_set(err, LM_ERROR, "layer_types: more than %d layers", LM_LAYERS_MAX);
        if (err->code) return;
        if (!is_sliding && strcmp(type, "full_attention")) snprintf(c->odd_type, sizeof c->odd_type, "%s", type);
        if (kind != LM_JSON_TEXT) lm_json_skip(j, kind, err);
        c->is_sliding[c->n_layer_types++] = (uint8_t)is_sliding;
    }
}

/* Read an object's members that we know. */
static void read_members(lm_hf *hf, lm_json *j, lm_err *err) {
    config *c = &hf->c;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END && !err->code;) {
        const char *key = j->key.data;
        if (kind == LM_JSON_OBJECT && (!strcmp(key, "rope_scaling") || !strcmp(key, "rope_parameters"))) {
            read_rope(c, j, &c->rope, err);
        } else if (kind == LM_JSON_ARRAY && !strcmp(key, "layer_types")) {
            read_layer_types(c, j, err);
        } else if (kind == LM_JSON_NULL && !strcmp(key, "sliding_window")) {
            c->sliding_window = 0;
        } else if (kind == LM_JSON_OBJECT && !strcmp(key, "quantization_config")) {
            c->is_quantized = 1;
            lm_json_skip(j, kind, err);
        } else if (!strcmp(key, "eos_token_id") && kind != LM_JSON_NULL) {
            read_ends(c, j, kind, err);
        } else if (!strcmp(key, "chat_template") && (kind == LM_JSON_TEXT || kind == LM_JSON_ARRAY)) {
            read_template(hf, j, kind, err);
        } else if (!keep(j, kind, find_entry(g_entries, LM_COUNT(g_entries), key), c)) {
            lm_json_skip(j, kind, err);
        }
    }
}

/* Open a JSON file of the folder and read to its first value, which must be of that kind. Return its text, to be freed
** after the reader; NULL where it is not there, or on error. */
static char *open_json(const char *folder, const char *name, int want, int optional, lm_json *j, lm_err *err) {
    size_t n;
    char *text = read_whole(folder, name, JSON_MAX, optional, &n, err);
    if (!text) return NULL;
    lm_json_init(j, text, n);
    if (lm_json_next(j, err) != want)
        lm_err_set(err, LM_ERROR, "expected a JSON %s", want == LM_JSON_ARRAY ? "array" : "object");
    return text;
}

static void close_json(lm_json *j, char *text, const char *name, lm_err *err) {
    lm_json_next(j, err);
    lm_json_clear(j);
    lm_free(text);
    if (err->code) lm_file_blame(name, err);
}

static void read_config(lm_hf *hf, const char *folder, const char *name, int optional, lm_err *err) {
    lm_json j;
    char *text = open_json(folder, name, LM_JSON_OBJECT, optional, &j, err);
    if (!text) return;
    read_members(hf, &j, err);
    close_json(&j, text, name, err);
}

/*----------------------------------------------------------------------
** sentence-transformers' list of what a text goes through: a transformer, pooling, perhaps normalisation. */
static void read_module(lm_json *j, char *type, char *path, size_t n, lm_err *err) {
    *type = *path = 0;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        char *to = !strcmp(j->key.data, "type") ? type : !strcmp(j->key.data, "path") ? path : NULL;
        if (to && kind == LM_JSON_TEXT) snprintf(to, n, "%s", j->string.data);
        else lm_json_skip(j, kind, err);
    }
    const char *last = strrchr(type, '.');
    if (last) memmove(type, last + 1, strlen(last));
    if (strchr(path, '/') || !strcmp(path, ".."))
        lm_err_set(err, LM_ERROR, "path \"%s\": expected a folder's plain name", path);
}

static void read_modules(lm_hf *hf, const char *folder, lm_err *err) {
    lm_json j;
    char type[128] = "", path[128] = "", pooling[128] = "1_Pooling", name[160];
    char *text = open_json(folder, "modules.json", LM_JSON_ARRAY, 1, &j, err);
    for (int kind; text && (kind = lm_json_next(&j, err)) != LM_JSON_END;) {
        if (kind != LM_JSON_OBJECT) lm_err_set(err, LM_ERROR, "expected an array of objects");
        else read_module(&j, type, path, sizeof type, err);
        if (err->code) break;
        if (!strcmp(type, "Pooling")) memcpy(pooling, path, sizeof pooling);
        else if (!strcmp(type, "Transformer") && *path) join(hf->root, sizeof hf->root, folder, path, err);
        else if (strcmp(type, "Transformer") && strcmp(type, "Normalize")) {
            lm_err_set(err, LM_ERROR, "module \"%s\" is not supported (have: Transformer, Pooling, Normalize)", type);
        }
    }
    if (text) close_json(&j, text, "modules.json", err);
    snprintf(name, sizeof name, "%s/config.json", pooling);
    read_config(hf, folder, name, 1, err);
    const config *c = &hf->c;
    int n_modes = (c->pooling_mode_mean_tokens != 0) + (c->pooling_mode_cls_token != 0) + (c->pooling_mode_lasttoken != 0);
    if (c->pooling_mode_max_tokens != 0 || c->pooling_mode_mean_sqrt_len_tokens != 0
        || c->pooling_mode_weightedmean_tokens != 0 || n_modes > 1) {
        lm_err_set(err, LM_ERROR, "%s: pooling other than one of mean, cls, last token is not supported", name);
    }
}

/*----------------------------------------------------------------------
** Names. A row is HF's tail of a name and GGUF's; in both %d stands for the layer. */
typedef struct { const char *hf, *gguf; int how; } name_row;

#define BOTH(hf, gguf) { hf ".weight", gguf ".weight", AS_IS }, { hf ".bias", gguf ".bias", AS_IS }
#define NORM(hf, gguf) BOTH(hf, gguf), { hf ".gamma", gguf ".weight", AS_IS }, { hf ".beta", gguf ".bias", AS_IS }

static const name_row bert_names[] = {
    { "embeddings.word_embeddings.weight", "token_embd.weight", AS_IS },
    { "embeddings.position_embeddings.weight", "position_embd.weight", FROM_ROW },
    { "embeddings.token_type_embeddings.weight", "token_types.weight", AS_IS },
    NORM("embeddings.LayerNorm", "token_embd_norm"),
    BOTH("encoder.layer.%d.attention.self.query", "blk.%d.attn_q"), BOTH("encoder.layer.%d.attention.self.key", "blk.%d.attn_k"),
    BOTH("encoder.layer.%d.attention.self.value", "blk.%d.attn_v"), BOTH("encoder.layer.%d.attention.output.dense", "blk.%d.attn_output"),
    NORM("encoder.layer.%d.attention.output.LayerNorm", "blk.%d.attn_output_norm"),
    BOTH("encoder.layer.%d.intermediate.dense", "blk.%d.ffn_up"), BOTH("encoder.layer.%d.output.dense", "blk.%d.ffn_down"),
    NORM("encoder.layer.%d.output.LayerNorm", "blk.%d.layer_output_norm"),
};

#define DECODER(q_and_k)                                                                                    \
    { "embed_tokens.weight", "token_embd.weight", AS_IS }, { "lm_head.weight", "output.weight", AS_IS },    \
    { "layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight", q_and_k },                               \
    { "layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight", q_and_k },                               \
    { "layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias", q_and_k },                                   \
    { "layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias", q_and_k },                                   \
    BOTH("layers.%d.self_attn.v_proj", "blk.%d.attn_v"), BOTH("layers.%d.self_attn.o_proj", "blk.%d.attn_output"), \
    BOTH("layers.%d.mlp.gate_proj", "blk.%d.ffn_gate"), BOTH("layers.%d.mlp.up_proj", "blk.%d.ffn_up"),     \
    BOTH("layers.%d.mlp.down_proj", "blk.%d.ffn_down")
#define QK_NORM(how)                                                                                        \
    { "layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", how },                              \
    { "layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", how }
#define PRE_NORM                                                                                            \
    { "norm.weight", "output_norm.weight", AS_IS }, { "layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight", AS_IS }, \
    { "layers.%d.post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", AS_IS }

static const name_row llama_names[] = { DECODER(IN_PAIRS), PRE_NORM };
static const name_row qwen_names[] = { DECODER(AS_IS), PRE_NORM, QK_NORM(AS_IS) };
static const name_row gemma3_names[] = {
    DECODER(AS_IS), QK_NORM(PLUS_ONE), { "norm.weight", "output_norm.weight", PLUS_ONE },
    { "layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight", PLUS_ONE },
    { "layers.%d.post_attention_layernorm.weight", "blk.%d.post_attention_norm.weight", PLUS_ONE },
    { "layers.%d.pre_feedforward_layernorm.weight", "blk.%d.ffn_norm.weight", PLUS_ONE },
    { "layers.%d.post_feedforward_layernorm.weight", "blk.%d.post_ffw_norm.weight", PLUS_ONE },
};

/* Which layers see only a window: none; all; those from max_window_layers on; all but every sliding_window_pattern-th.
** In place of the latter two layer_types may say so. */
enum { NO_WINDOW, ALL_WINDOW, LATE_WINDOW, PERIODIC_WINDOW };

/* model_type, our architecture, its names, whether positions begin after pad_token_id, and windows. */
static const struct kind {
    const char *model_type, *arch; const name_row *names; int n_names, has_offset, window;
} g_kinds[] = {
    { "bert", "bert", bert_names, LM_COUNT(bert_names), 0, NO_WINDOW },
    { "roberta", "bert", bert_names, LM_COUNT(bert_names), 1, NO_WINDOW },
    { "xlm-roberta", "bert", bert_names, LM_COUNT(bert_names), 1, NO_WINDOW },
    { "camembert", "bert", bert_names, LM_COUNT(bert_names), 1, NO_WINDOW },
    { "llama", "llama", llama_names, LM_COUNT(llama_names), 0, NO_WINDOW },
    { "mistral", "llama", llama_names, LM_COUNT(llama_names), 0, ALL_WINDOW },
    { "qwen2", "qwen2", qwen_names, LM_COUNT(qwen_names), 0, LATE_WINDOW },
    { "qwen3", "qwen3", qwen_names, LM_COUNT(qwen_names), 0, LATE_WINDOW },
    { "gemma3_text", "gemma3", gemma3_names, LM_COUNT(gemma3_names), 0, PERIODIC_WINDOW },
};
static const char *const g_prefixes[] = { "", "model.", "bert.", "roberta." };

static const struct kind *find_kind(const lm_hf *hf, lm_err *err) {
    for (int i = 0; i < LM_COUNT(g_kinds); i++) {
        if (!strcmp(g_kinds[i].model_type, hf->c.model_type)) return &g_kinds[i];
    }
    lm_err_set(err, LM_ERROR,
               "config.json: model_type \"%s\" is not supported (have: bert, roberta, xlm-roberta, camembert, llama,"
               " mistral, qwen2, qwen3, gemma3_text)",
               hf->c.model_type);
    return NULL;
}

/* What stands in several places of config.json, brought to one. */
static void settle(config *c) {
    rope *ropes[] = { &c->rope, &c->local_rope };
    const double bases[] = { c->rope_theta, c->rope_local_base_freq };
    for (int i = 0; i < LM_COUNT(ropes); i++) {
        rope *r = ropes[i];
        if (!*r->rope_type) memcpy(r->rope_type, r->type, sizeof r->type);
        if (r->rope_theta == 0) r->rope_theta = bases[i];
        if (r->original_max_position_embeddings == 0)
            r->original_max_position_embeddings = c->original_max_position_embeddings;
        if (c->partial_rotary_factor != 1) r->partial_rotary_factor = c->partial_rotary_factor;
    }
    if (!c->num_key_value_heads) c->num_key_value_heads = c->num_attention_heads;
}

static void check_act(const char *act, const char *arch, lm_err *err) {
    int fine = !strcmp(arch, "bert")     ? !strcmp(act, "gelu")
               : !strcmp(arch, "gemma3") ? !strcmp(act, "gelu_pytorch_tanh")
                                         : !strcmp(act, "silu");
    if (*act && !fine)
        lm_err_set(err, LM_ERROR, "config.json: activation \"%s\" is not supported in a %s model", act, arch);
}

static void check_rope(const rope *r, int is_local, const char *arch, lm_err *err) {
    static const char *const types[] = { "default", "linear", "llama3" };
    int is_gemma = !strcmp(arch, "gemma3"), i = 0;
    int n = is_local ? 1 : is_gemma ? 2 : 3;        /* llama3's factors would slow Gemma's local layers as well */
    const char *where = is_local ? " of sliding_attention" : "";
    while (i < n && strcmp(r->rope_type, types[i])) i++;
    if (*r->rope_type && i == n) {
        lm_err_set(err, LM_ERROR, "config.json: rope type \"%s\"%s is not supported in a %s model (have: default%s%s)",
                   r->rope_type, where, arch, n > 1 ? ", linear" : "", n > 2 ? ", llama3" : "");
    }
    if (!*r->rope_type && r->factor != 0 && r->factor != 1)
        lm_err_set(err, LM_ERROR, "config.json: rope_scaling%s: a factor without a rope_type", where);
    if (!strcmp(r->rope_type, "linear") && !(r->factor >= 1))
        lm_err_set(err, LM_ERROR, "config.json: rope_scaling: linear needs factor, 1 or more");
    if (r->partial_rotary_factor != 1)
        lm_err_set(err, LM_ERROR, "config.json: partial_rotary_factor%s other than 1 is not supported", where);
    if (is_local && r->is_there && !is_gemma)
        lm_err_set(err, LM_ERROR, "config.json: rope_parameters: sliding_attention is not supported in a %s model", arch);
}

/* Switches of which we have one side. */
static const struct { const char *name; size_t at; int have, is_encoder; } g_switches[] = {
    { "is_causal", offsetof(config, is_causal), 1, 0 }, { "is_decoder", offsetof(config, is_decoder), 0, 1 },
    { "use_bidirectional_attention", offsetof(config, use_bidirectional_attention), 0, 0 },
    { "add_cross_attention", offsetof(config, add_cross_attention), 0, 1 },
};

/* What would change the numbers, and is not there to do so, must not be passed over. */
static void check_config(const config *c, const struct kind *kind, lm_err *err) {
    int is_encoder = !strcmp(kind->arch, "bert"), is_gemma = !strcmp(kind->arch, "gemma3");
    check_act(c->act, kind->arch, err);
    if (c->is_quantized)
        lm_err_set(err, LM_ERROR, "config.json: quantization_config is not supported (have: weights of f32, f16, bf16)");
    for (int i = 0; i < LM_COUNT(g_switches); i++) {
        double said = *(const double *)((const char *)c + g_switches[i].at);
        if (g_switches[i].is_encoder == is_encoder && said != g_switches[i].have)
            lm_err_set(err, LM_ERROR, "config.json: %s other than %s is not supported in a %s model",
                       g_switches[i].name, g_switches[i].have ? "true" : "false", kind->arch);
    }
    if (is_encoder && *c->position_embedding_type && strcmp(c->position_embedding_type, "absolute")) {
        lm_err_set(err, LM_ERROR, "config.json: position_embedding_type \"%s\" is not supported (have: absolute)",
                   c->position_embedding_type);
    }
    if (is_gemma && !(c->query_pre_attn_scalar > 0))
        lm_err_set(err, LM_ERROR, "config.json: query_pre_attn_scalar %g: expected a number above 0",
                   c->query_pre_attn_scalar);
    if (!is_encoder && *c->odd_type) {
        lm_err_set(err, LM_ERROR,
                   "config.json: layer_types: \"%s\" is not supported (have: full_attention, sliding_attention)",
                   c->odd_type);
    }
    check_rope(&c->rope, 0, kind->arch, err);
    check_rope(&c->local_rope, 1, kind->arch, err);
}

/* Does a name fit a pattern with at most one %d? Return the layer in *layer, -1 where the pattern has none. */
static int fits(const char *pattern, const char *name, int *layer) {
    const char *hole = strstr(pattern, "%d");
    *layer = -1;
    if (!hole) return !strcmp(pattern, name);
    size_t head = (size_t)(hole - pattern);
    if (strncmp(pattern, name, head) || name[head] < '0' || name[head] > '9') return 0;
    char *end;
    long number = strtol(name + head, &end, 10);
    *layer = number >= 0 && number < 100000 ? (int)number : -1;
    return *layer >= 0 && !strcmp(hole + 2, end);
}

static void add_tensor(lm_hf *hf, const lm_tensor *from, const char *name, origin o, lm_err *err) {
    lm_tensor t = *from;
    memset(t.name, 0, sizeof t.name);
    snprintf(t.name, sizeof t.name, "%s", name);
    if (from->dtype == LM_OTHER)
        lm_err_set(err, LM_ERROR, "tensor %s: its numbers are no f32, f16 or bf16", from->name);
    if (o.how == FROM_ROW && t.n_dims != 2)
        lm_err_set(err, LM_ERROR, "tensor %s: %d dimensions, expected 2", from->name, t.n_dims);
    if (o.how == FROM_ROW) t.ne[1] -= o.arg;
    if (t.n_dims == 1) t.dtype = LM_F32;
    if (o.how == IN_PAIRS && (o.arg < 1 || (t.n_dims == 1 ? t.ne[0] : t.ne[1]) % (2 * o.arg))) {
        lm_err_set(err, LM_ERROR, "tensor %s: its rows are not pairs in %lld heads", from->name, (long long)o.arg);
    }
    lm_tensor_measure(&t, err);
    if (!lm_grow((void **)&hf->tensors, hf->n, &hf->cap, 1, sizeof t, err)) return;
    if (!lm_grow((void **)&hf->origins, hf->n, &hf->origins_cap, 1, sizeof o, err)) return;
    hf->tensors[hf->n] = t;
    hf->origins[hf->n++] = o;
}

/* A number of config.json as what counts something; -1: it counts nothing. */
static int64_t count_of(double x) { return x >= 0 && x <= INT32_MAX ? (int64_t)x : -1; }

/* Is the output the embeddings? Gemma's is unless config.json says otherwise. */
static int is_tied(const config *c, const struct kind *kind) {
    return c->tie_word_embeddings < 0 ? !strcmp(kind->arch, "gemma3") : c->tie_word_embeddings != 0;
}

/* Does transformers leave a tensor out, though it is in the file? */
static int is_left_out(const config *c, const struct kind *kind, const name_row *row) {
    if (!strcmp(row->gguf, "output.weight")) return is_tied(c, kind);
    return !strcmp(kind->model_type, "llama") && c->attention_bias == 0 && strstr(row->hf, "self_attn.")
           && strstr(row->hf, ".bias");
}

/* Give a tensor of a file its place, if it has one. */
static void place_tensor(lm_hf *hf, const struct kind *kind, int file, int i, lm_err *err) {
    const lm_tensor *t = lm_safetensors_tensor(hf->files[file], i);
    for (int p = 0; p < LM_COUNT(g_prefixes); p++) {
        size_t prefix_n = strlen(g_prefixes[p]);
        if (strncmp(t->name, g_prefixes[p], prefix_n)) continue;
        for (int r = 0; r < kind->n_names; r++) {
            const name_row *row = &kind->names[r];
            char name[LM_NAME_MAX + 16];
            int layer;
            if (!fits(row->hf, t->name + prefix_n, &layer)) continue;
            if (is_left_out(&hf->c, kind, row)) return;
            origin o = { file, i, row->how, 0 };
            if (row->how == FROM_ROW) o.arg = kind->has_offset ? count_of(hf->c.pad_token_id) + 1 : 0;
            if (row->how == IN_PAIRS)
                o.arg = count_of(strstr(row->hf, "q_proj") ? hf->c.num_attention_heads : hf->c.num_key_value_heads);
            snprintf(name, sizeof name, row->gguf, layer);
            add_tensor(hf, t, name, o, err);
            return;
        }
    }
}

/*----------------------------------------------------------------------
** Files of tensors */
static int open_file(lm_hf *hf, const char *folder, const char *name, lm_err *err) {
    char path[PATH_BYTES];
    for (int i = 0; i < hf->n_files; i++) if (!strcmp(hf->names[i], name)) return i;
    if (strchr(name, '/') || !strcmp(name, "..") || hf->n_files == FILES_MAX)
        lm_err_set(err, LM_ERROR, "file %.60s: not a plain name, or too many", name);
    join(path, sizeof path, folder, name, err);
    if (err->code) return -1;
    char *copy = lm_alloc(strlen(name) + 1, err);
    lm_safetensors *s = lm_safetensors_open(path, err);
    if (err->code) {
        lm_free(copy);
        return -1;
    }
    strcpy(copy, name);
    hf->names[hf->n_files] = copy;
    hf->files[hf->n_files] = s;
    return hf->n_files++;
}

/* The sharded form: which file holds which tensor. All files named are opened; each tensor must be where the index says. */
static void read_index(lm_hf *hf, const char *folder, const char *text, size_t n, lm_err *err) {
    lm_json j;
    lm_json_init(&j, text, n);
    if (lm_json_next(&j, err) != LM_JSON_OBJECT)
        lm_err_set(err, LM_ERROR, "model.safetensors.index.json: expected a JSON object");
    for (int kind; (kind = lm_json_next(&j, err)) != LM_JSON_END && !err->code;) {
        if (strcmp(j.key.data, "weight_map") || kind != LM_JSON_OBJECT) {
            lm_json_skip(&j, kind, err);
            continue;
        }
        while ((kind = lm_json_next(&j, err)) == LM_JSON_TEXT) {
            int file = open_file(hf, folder, j.string.data, err);
            if (file >= 0 && lm_safetensors_find(hf->files[file], j.key.data) < 0)
                lm_err_set(err, LM_ERROR, "tensor %.60s is not in %.60s, where the index puts it", j.key.data,
                           j.string.data);
            if (err->code) break;
        }
        if (kind != LM_JSON_END)
            lm_err_set(err, LM_ERROR, "model.safetensors.index.json: weight_map: expected names of files");
    }
    if (!err->code) lm_json_next(&j, err);          /* nothing may follow */
    lm_json_clear(&j);
}

static int pools(const config *c) {
    return c->pooling_mode_mean_tokens != 0 || c->pooling_mode_cls_token != 0 || c->pooling_mode_lasttoken != 0;
}

/* Where the output is said not to be the embeddings they must not stand in for it. What pools has no use for an output. */
static void check_output(const lm_hf *hf, const struct kind *kind, lm_err *err) {
    size_t i = 0;
    if (!strcmp(kind->arch, "bert") || hf->c.tie_word_embeddings != 0 || pools(&hf->c)) return;
    while (i < hf->n && strcmp(hf->tensors[i].name, "output.weight")) i++;
    if (i == hf->n) lm_err_set(err, LM_ERROR, "lm_head.weight is missing, and config.json: tie_word_embeddings is false");
}

static void open_files(lm_hf *hf, const char *folder, const struct kind *kind, lm_err *err) {
    size_t n;
    char *index = read_whole(folder, "model.safetensors.index.json", TOKENIZER_MAX, 1, &n, err);
    if (index) read_index(hf, folder, index, n, err);
    else open_file(hf, folder, "model.safetensors", err);
    lm_free(index);
    for (int f = 0; f < hf->n_files && !err->code; f++) {
        for (int i = 0; i < lm_safetensors_n_tensors(hf->files[f]) && !err->code; i++)
            place_tensor(hf, kind, f, i, err);
    }
    if (!err->code) check_output(hf, kind, err);
}

/*----------------------------------------------------------------------
** Metadata */
static void put_int(lm_buf *out, const char *arch, const char *key, double x, lm_err *err) {
    if (x == 0) return;
    if (!(x >= 0 && x <= 4294967295.0 && x == (double)(uint32_t)x)) {
        lm_err_set(err, LM_ERROR, "config.json: %s %g: expected a whole number", key, x);
        return;
    }
    lm_meta_put_key(out, arch, key, LM_META_U32, err);
    lm_meta_put(out, (uint32_t)x, 4, err);
}

/* A token's id, which may be 0. */
static void put_id(lm_buf *out, const char *key, double id, lm_err *err) {
    if (!(id >= 0 && id <= INT32_MAX)) lm_err_set(err, LM_ERROR, "config.json: %s %g: expected a token id", key, id);
    if (err->code) return;
    lm_meta_put_key(out, "", key, LM_META_U32, err);
    lm_meta_put(out, (uint32_t)id, 4, err);
}

static void put_real(lm_buf *out, const char *arch, const char *key, double x, lm_err *err) {
    float f = (float)x;
    uint32_t bits;
    if (x == 0) return;
    memcpy(&bits, &f, 4);
    lm_meta_put_key(out, arch, key, LM_META_F32, err);
    lm_meta_put(out, bits, 4, err);
}

/* Does a layer see only a window? */
static int is_local(const config *c, const struct kind *kind, int layer) {
    int by_type = layer < c->n_layer_types;
    switch (c->sliding_window != 0 || kind->window == PERIODIC_WINDOW ? kind->window : NO_WINDOW) {
    case ALL_WINDOW: return 1;
    case LATE_WINDOW:
        if (c->use_sliding_window == 0) return 0;
        return by_type ? c->is_sliding[layer] : layer >= c->max_window_layers;
    case PERIODIC_WINDOW: return by_type ? c->is_sliding[layer] : (layer + 1) % (int)c->sliding_window_pattern != 0;
    default: return 0;
    }
}

static void check_window(const config *c, const struct kind *kind, int n, lm_err *err) {
    int counts = kind->window == PERIODIC_WINDOW || (kind->window == LATE_WINDOW && c->use_sliding_window != 0);
    int64_t period = count_of(c->sliding_window_pattern);
    if (kind->window == NO_WINDOW && c->use_sliding_window != 0)
        lm_err_set(err, LM_ERROR, "config.json: use_sliding_window is not supported in a %s model", kind->arch);
    if (kind->window == PERIODIC_WINDOW && (period < 1 || (double)period != c->sliding_window_pattern))
        lm_err_set(err, LM_ERROR, "config.json: sliding_window_pattern %g: expected a whole number from 1 on",
                   c->sliding_window_pattern);
    if (counts && c->n_layer_types && c->n_layer_types != n)
        lm_err_set(err, LM_ERROR, "config.json: layer_types: %d, expected one for each of %d layers", c->n_layer_types, n);
    for (int i = 0; i < LM_MIN(n, c->n_layer_types) && kind->window <= ALL_WINDOW && !err->code; i++) {
        int local = is_local(c, kind, i);
        if (local != c->is_sliding[i])
            lm_err_set(err, LM_ERROR, "config.json: layer_types: layer %d: expected %s_attention, as all of this %s model",
                       i, local ? "sliding" : "full", kind->model_type);
    }
}

/* Windows as hyper-parameters have them: in no layer, in all, in all but every so manieth. */
static void put_window(lm_buf *out, const config *c, const struct kind *kind, lm_err *err) {
    int n = (int)LM_MIN(count_of(c->num_hidden_layers), LM_LAYERS_MAX), n_local = 0, period = 0;
    check_window(c, kind, n, err);
    for (int i = 0; i < n && !err->code; i++) {
        int local = is_local(c, kind, i);
        if (!local && !period) period = i + 1;
        n_local += local;
    }
    for (int i = 0; i < n && n_local && !err->code; i++) {
        if (is_local(c, kind, i) == (period && i % period == period - 1))
            lm_err_set(err, LM_ERROR,
                       "config.json: %s: layer %d: layers without a window are supported at even distances only",
                       c->n_layer_types ? "layer_types" : "max_window_layers", i);
    }
    if (!n_local || err->code) return;
    if (c->sliding_window == 0)
        lm_err_set(err, LM_ERROR, "config.json: sliding_window: expected a number, for %d of %d layers", n_local, n);
    put_int(out, kind->arch, "attention.sliding_window", c->sliding_window, err);
    lm_meta_put_key(out, kind->arch, "attention.sliding_window_pattern", LM_META_U32, err);
    lm_meta_put(out, (uint32_t)period, 4, err);
}

static void put_ends(lm_buf *out, const config *c, lm_err *err) {
    if (c->bos_token_id >= 0) put_id(out, "tokenizer.ggml.bos_token_id", c->bos_token_id, err);
    if (!c->n_ends) return;
    put_id(out, "tokenizer.ggml.eos_token_id", c->ends[0], err);
    lm_meta_put_key(out, "", "tokenizer.ggml.eog_token_ids", LM_META_ARRAY, err);
    lm_meta_put(out, LM_META_I32, 4, err);
    lm_meta_put(out, (uint64_t)c->n_ends, 8, err);
    for (int i = 0; i < c->n_ends; i++) lm_meta_put(out, (uint32_t)c->ends[i], 4, err);
}

static void write_meta(lm_hf *hf, const struct kind *kind, const char *tokenizer, size_t tokenizer_n, lm_err *err) {
    const config *c = &hf->c;
    const char *a = kind->arch;
    lm_buf out = {0};
    double offset = kind->has_offset ? c->pad_token_id + 1 : 0;
    /* Where sentence-transformers sets no length the tokenizer's counts, unless it is the placeholder 1e30. */
    double n_text = c->max_seq_length != 0                                      ? c->max_seq_length
                    : c->model_max_length < c->max_position_embeddings - offset ? c->model_max_length
                                                                                : 0;
    lm_meta_put_text(&out, "general.architecture", a, strlen(a), err);
    put_int(&out, a, "context_length", c->max_position_embeddings - offset, err);
    put_int(&out, a, "embedding_length", c->hidden_size, err);
    put_int(&out, a, "block_count", c->num_hidden_layers, err);
    put_int(&out, a, "feed_forward_length", c->intermediate_size, err);
    put_int(&out, a, "attention.head_count", c->num_attention_heads, err);
    put_int(&out, a, "attention.head_count_kv", c->num_key_value_heads, err);
    put_int(&out, a, "attention.key_length", c->head_dim, err);
    put_int(&out, a, "attention.value_length", c->head_dim, err);
    put_real(&out, a, "attention.layer_norm_rms_epsilon", c->rms_norm_eps, err);
    put_real(&out, a, "attention.layer_norm_epsilon", c->layer_norm_eps, err);
    put_real(&out, a, "rope.freq_base", c->rope.rope_theta, err);
    put_real(&out, a, "rope.freq_base_swa", c->local_rope.rope_theta, err);
    put_window(&out, c, kind, err);
    if (!strcmp(a, "gemma3")) put_real(&out, a, "attention.scale", 1 / sqrt(c->query_pre_attn_scalar), err);
    put_real(&out, a, "final_logit_softcapping", c->final_logit_softcapping, err);
    put_real(&out, a, "attn_logit_softcapping", c->attn_logit_softcapping, err);
    if (!strcmp(c->rope.rope_type, "linear")) put_real(&out, a, "rope.scaling.factor", c->rope.factor, err);
    put_int(&out, a, "pooling_type",
            c->pooling_mode_lasttoken != 0   ? 3
            : c->pooling_mode_cls_token != 0 ? 2
                                             : c->pooling_mode_mean_tokens != 0,
            err);
    put_int(&out, a, "text_length", n_text, err);
    if (tokenizer) lm_meta_put_text(&out, "tokenizer.huggingface.json", tokenizer, tokenizer_n, err);
    if (hf->chat_template.n)
        lm_meta_put_text(&out, "tokenizer.chat_template", hf->chat_template.data, hf->chat_template.n, err);
    put_ends(&out, c, err);
    if (!err->code) hf->meta = lm_meta_new(out.data, out.n, err);
    lm_buf_clear(&out);
}

/*----------------------------------------------------------------------
** A tokenizer.json for a folder that has only BERT's vocab.txt, a token a line. */
static const char *next_line(const char *at, const char *end, size_t *n) {
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    *n = (size_t)((stop ? stop : end) - at);
    if (*n && at[*n - 1] == '\r') --*n;
    return stop ? stop + 1 : end;
}

static int32_t find_line(const char *text, size_t text_n, const char *line) {
    size_t n;
    int32_t id = 0;
    for (const char *at = text, *end = text + text_n, *next; at < end; at = next, id++) {
        next = next_line(at, end, &n);
        if (n == strlen(line) && !memcmp(at, line, n)) return id;
    }
    return -1;
}

static char *tokenizer_of_vocab(const config *c, const char *vocab, size_t vocab_n, size_t *n, lm_err *err) {
    static const char *const specials[] = { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]" };
    static const char *const words[] = { "null", "false", "true" };
    lm_buf out = {0};
    int32_t id = 0, cls = find_line(vocab, vocab_n, "[CLS]"), sep = find_line(vocab, vocab_n, "[SEP]"),
            unknown = find_line(vocab, vocab_n, "[UNK]");
    if (cls < 0 || sep < 0 || unknown < 0)
        lm_err_set(err, LM_ERROR, "vocab.txt: [CLS], [SEP] and [UNK] must be among its lines");
    lm_buf_print(&out, err, "{\"added_tokens\":[");
    for (int i = 0, count = 0; i < LM_COUNT(specials); i++) {
        int32_t at = find_line(vocab, vocab_n, specials[i]);
        if (at >= 0)
            lm_buf_print(&out, err,
                         "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                         "\"normalized\":false,\"special\":true}",
                         count++ ? "," : "", at, specials[i]);
    }
    lm_buf_print(
        &out, err,
        "],\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":%s,\"strip_accents\":%s,"
        "\"lowercase\":%s},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},",
        words[1 + (c->tokenize_chinese_chars != 0)], words[c->strip_accents < 0 ? 0 : 1 + (c->strip_accents != 0)],
        words[1 + (c->do_lower_case != 0)]);
    lm_buf_print(&out, err,
                 "\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",%d],\"cls\":[\"[CLS]\",%d]},"
                 "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},",
                 sep, cls);
    lm_buf_print(&out, err,
                 "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
                 "\"max_input_chars_per_word\":100,\"vocab\":{");
    for (const char *at = vocab, *end = vocab + vocab_n, *next; at < end && !err->code; at = next, id++) {
        size_t length;
        next = next_line(at, end, &length);
        if (id) lm_buf_append(&out, ",", 1, err);
        lm_json_quote(&out, at, length, err);
        lm_buf_print(&out, err, ":%d", id);
    }
    lm_buf_append(&out, "}}}", 3, err);
    *n = out.n;
    if (!err->code) return out.data;
    lm_buf_clear(&out);
    return NULL;
}

static char *read_tokenizer(lm_hf *hf, size_t *n, lm_err *err) {
    char *text = read_whole(hf->root, "tokenizer.json", TOKENIZER_MAX, 1, n, err);
    if (text || err->code) return text;
    size_t vocab_n;
    char *vocab = read_whole(hf->root, "vocab.txt", TOKENIZER_MAX, 1, &vocab_n, err);
    if (vocab) text = tokenizer_of_vocab(&hf->c, vocab, vocab_n, n, err);
    lm_free(vocab);
    return text;
}

/* Llama 3 slows the low frequencies by a factor, the high ones not at all, and those between by degrees. */
static void add_factors(lm_hf *hf, lm_err *err) {
    const config *c = &hf->c;
    const rope *r = &c->rope;
    int64_t dim = count_of(c->head_dim > 0              ? c->head_dim
                           : c->num_attention_heads > 0 ? c->hidden_size / c->num_attention_heads
                                                        : 0);
    if (strcmp(r->rope_type, "llama3") || err->code) return;
    if (dim < 2 || dim > 1024 || !(r->factor >= 1) || !(r->low_freq_factor > 0)
        || !(r->high_freq_factor > r->low_freq_factor) || !(r->original_max_position_embeddings > 0)
        || !(r->rope_theta > 0)) {
        lm_err_set(
            err, LM_ERROR,
            "config.json: rope_scaling: llama3 needs factor, low_freq_factor, high_freq_factor, original_max_position_embeddings");
        return;
    }
    hf->n_factors = (int)dim / 2;
    hf->factors = lm_alloc(sizeof *hf->factors * (size_t)hf->n_factors, err);
    if (!hf->factors) return;
    double low = r->original_max_position_embeddings / r->low_freq_factor,
           high = r->original_max_position_embeddings / r->high_freq_factor;
    for (int i = 0; i < hf->n_factors; i++) {
        double wave = 2 * 3.14159265358979323846 * lm_pow(r->rope_theta, 2.0 * i / (double)dim);
        double smooth = (r->original_max_position_embeddings / wave - r->low_freq_factor)
                        / (r->high_freq_factor - r->low_freq_factor);
        hf->factors[i] = wave < high  ? 1
                         : wave > low ? (float)r->factor
                                      : (float)(1 / ((1 - smooth) / r->factor + smooth));
    }
    lm_tensor t = { .name = "rope_freqs.weight", .dtype = LM_F32, .n_dims = 1, .ne = { hf->n_factors, 1, 1, 1 } };
    add_tensor(hf, &t, t.name, (origin){ -1, -1, FREQUENCIES, 0 }, err);
}

/*----------------------------------------------------------------------
** The folder */
static void read_jinja(lm_hf *hf, lm_err *err) {
    size_t n;
    char *text = read_whole(hf->root, "chat_template.jinja", JSON_MAX, 1, &n, err);
    if (text) hf->chat_template.n = 0;
    if (text) lm_buf_append(&hf->chat_template, text, n, err);
    lm_free(text);
}

lm_hf *lm_hf_open(const char *folder, lm_err *err) {
    lm_hf *hf = lm_calloc(1, sizeof *hf, err);
    size_t tokenizer_n;
    if (!hf) return NULL;
    hf->c = g_silent;
    if (snprintf(hf->root, sizeof hf->root, "%s", folder) >= PATH_BYTES)
        lm_err_set(err, LM_ERROR, "the path is too long");
    read_modules(hf, folder, err);
    read_config(hf, hf->root, "config.json", 0, err);
    read_config(hf, hf->root, "generation_config.json", 1, err);
    read_config(hf, hf->root, "sentence_bert_config.json", 1, err);
    read_config(hf, hf->root, "tokenizer_config.json", 1, err);
    read_jinja(hf, err);
    settle(&hf->c);
    const struct kind *kind = err->code ? NULL : find_kind(hf, err);
    if (kind) check_config(&hf->c, kind, err);
    open_files(hf, hf->root, kind, err);
    add_factors(hf, err);
    char *tokenizer = read_tokenizer(hf, &tokenizer_n, err);
    if (!err->code) write_meta(hf, kind, tokenizer, tokenizer_n, err);
    lm_free(tokenizer);
    if (!err->code) return hf;
    lm_hf_close(hf);
    if (strncmp(err->msg, folder, strlen(folder))) lm_file_blame(folder, err);      /* a file in it may have been blamed */
    return NULL;
}

void lm_hf_close(lm_hf *hf) {
    if (!hf) return;
    for (int i = 0; i < hf->n_files; i++) {
        lm_safetensors_close(hf->files[i]);
        lm_free(hf->names[i]);
    }
    lm_meta_free(hf->meta);
    lm_buf_clear(&hf->chat_template);
    lm_free(hf->tensors);
    lm_free(hf->origins);
    lm_free(hf->factors);
    lm_free(hf);
}

const lm_meta *lm_hf_meta(const lm_hf *hf) { return hf->meta; }
int lm_hf_n_tensors(const lm_hf *hf) { return (int)hf->n; }
const lm_tensor *lm_hf_tensor(const lm_hf *hf, int i) { return &hf->tensors[i]; }

/* Where row r of a tensor lies in its file: pairs (2i, 2i+1) of a head were i and i + half. */
static int64_t source_row(const origin *o, int64_t rows, int64_t r) {
    int64_t head = rows / (o->how == IN_PAIRS ? o->arg : 1), at = r % head;
    if (o->how == FROM_ROW) return r + o->arg;
    return o->how == IN_PAIRS ? r - at + at / 2 + at % 2 * (head / 2) : r;
}

/* A vector, as floats: read whole, since none is long. */
static void read_vector(lm_hf *hf, const origin *o, const lm_tensor *t, float *out, lm_err *err) {
    if (o->how == FREQUENCIES) {
        memcpy(out, hf->factors, (size_t)t->n_bytes);
        return;
    }
    const lm_tensor *from = lm_safetensors_tensor(hf->files[o->file], o->tensor);
    uint8_t *raw = lm_alloc((size_t)from->n_bytes + (size_t)t->n_bytes, err);
    float *floats = (float *)(void *)raw;
    if (!err->code) lm_safetensors_read(hf->files[o->file], o->tensor, 0, raw + t->n_bytes, (size_t)from->n_bytes, err);
    if (!err->code) lm_dtype_find(from->dtype)->decode(raw + t->n_bytes, floats, t->n_params);
    for (int64_t i = 0; i < t->n_params && !err->code; i++) {
        out[i] = floats[source_row(o, t->n_params, i)] + (o->how == PLUS_ONE ? 1.0f : 0.0f);
    }
    lm_free(raw);
}

void lm_hf_read(lm_hf *hf, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    const lm_tensor *t = &hf->tensors[i];
    const origin *o = &hf->origins[i];
    uint8_t *to = dst;
    if (err->code) return;
    if (offset < 0 || offset > t->n_bytes || n > (uint64_t)(t->n_bytes - offset)) {
        lm_err_set(err, LM_ERROR, "%s: %zu bytes from %lld on wanted, it has %lld", t->name, n, (long long)offset,
                   (long long)t->n_bytes);
    } else if (t->n_dims == 1) {
        float *all = lm_alloc((size_t)t->n_bytes, err);
        if (!err->code) read_vector(hf, o, t, all, err);
        if (!err->code) memcpy(dst, (uint8_t *)all + offset, n);
        lm_free(all);
    } else if (o->how == AS_IS) {
        lm_safetensors_read(hf->files[o->file], o->tensor, offset, dst, n, err);
    } else {
        int64_t row_bytes = t->n_bytes / t->ne[1];
        while (n && !err->code) {
            int64_t row = offset / row_bytes, at = offset % row_bytes,
                    some = row_bytes - at < (int64_t)n ? row_bytes - at : (int64_t)n;
            lm_safetensors_read(hf->files[o->file], o->tensor, source_row(o, t->ne[1], row) * row_bytes + at, to,
                                (size_t)some, err);
            to += some;
            offset += some;
            n -= (size_t)some;
        }
    }
}

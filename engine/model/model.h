/* model.h: what the files of floor 4 share with floor 5: hyper-parameters, the architecture table, a model's
** weights by slot, the cache, and one pass through the decoder. */
#ifndef LM_MODEL_H
#define LM_MODEL_H

#include "../kern/kern.h"

/*----------------------------------------------------------------------
** Architectures. A row of the table says how the one decoder behaves; hyper-parameters say how large it is. */

/* Weights of a layer, then those of the whole model. A vector is a matrix of one row. */
enum { LM_ATTN_NORM, LM_ATTN_NORM_BIAS, LM_Q, LM_K, LM_V, LM_O, LM_Q_BIAS, LM_K_BIAS, LM_V_BIAS, LM_O_BIAS, LM_Q_NORM, LM_K_NORM,
       LM_ATTN_POST_NORM, LM_ATTN_OUT_NORM, LM_ATTN_OUT_NORM_BIAS, LM_FFN_NORM, LM_FFN_NORM_BIAS, LM_GATE, LM_UP, LM_UP_BIAS,
       LM_DOWN, LM_DOWN_BIAS, LM_ROUTER, LM_GATE_EXPS, LM_UP_EXPS, LM_DOWN_EXPS, LM_FFN_POST_NORM, LM_FFN_OUT_NORM,
       LM_FFN_OUT_NORM_BIAS, LM_LAYER_SLOTS };
enum { LM_TOKEN_EMBD, LM_POS_EMBD, LM_TYPE_EMBD, LM_EMBD_NORM, LM_EMBD_NORM_BIAS, LM_OUTPUT_NORM, LM_OUTPUT_NORM_BIAS, LM_OUTPUT,
       LM_ROPE_FREQS, LM_TOP_SLOTS };

enum { LM_ROPE_PAIRS, LM_ROPE_HALVES };     /* which elements turn together: (2i, 2i+1), or (i, i + n_rot/2) */
enum { LM_NORM_RMS, LM_NORM_LAYER };

typedef struct {
    int n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx;
    int rope, n_rot;                        /* LM_ROPE_*; leading elements of a head that turn */
    float rope_base, rope_scale;            /* angle = position * scale * base^(-2i/n_rot) */
    float norm_eps;
    int act;                                /* LM_ACT_* */
    float embd_scale;                       /* what embeddings are multiplied by */
    float attn_scale;                       /* what queries are; 0: 1/sqrt(head_dim) */
    int n_window;                           /* keys that a local layer sees, itself included; 0: all layers see all */
    int window_period;                      /* every so manieth layer sees all; 0: none does */
    float rope_base_local;                  /* of local layers, unscaled; 0: as the others */
    int norm;                               /* LM_NORM_* */
    int causal;                             /* 0: every position sees all of its sequence */
    int n_positions;                        /* rows of the position table (0: none) */
    int n_types;                            /* rows of the token type table; type 0 is added to every position */
    int pooling, n_text;                    /* of embeddings: LM_POOL_*; the most tokens of a text, 0: n_ctx */
    int n_experts, n_active;                /* of a layer, 0: none; and of those, what a token meets */
    int share_layers;                       /* so many layers are stored, layer l is the (l mod share_layers)-th; 0: all are */
} lm_hparams;

int lm_hparams_is_local(const lm_hparams *h, int layer);
int lm_hparams_n_stored(const lm_hparams *h);       /* layers */

/* What a dimension of a tensor must be. */
enum { LM_DIM_1, LM_DIM_EMBD, LM_DIM_HEADS, LM_DIM_KV, LM_DIM_HEAD, LM_DIM_FF, LM_DIM_VOCAB, LM_DIM_ROT_HALF,
       LM_DIM_POSITIONS, LM_DIM_TYPES, LM_DIM_EXPERTS };

/* When a tensor is there, and how it is laid out. DENSE and SPARSE: without and with experts. EXPERTS: with them, a matrix
** each behind the other. THIRDS: three slots from `slot` on, one's rows below the other's. */
enum { LM_NEEDED, LM_OPTIONAL, LM_DENSE, LM_SPARSE, LM_EXPERTS, LM_THIRDS };

typedef struct {
    const char *name;                       /* with %d for the layer in a layer's row */
    int slot, rows, cols;                   /* LM_DIM_*; rows LM_DIM_1 for a vector */
    int how;
} lm_tensor_row;

typedef struct {
    const char *name;                       /* general.architecture */
    lm_hparams defaults;                    /* where the metadata is silent */
    int scales_embd;                        /* embd_scale is sqrt(n_embd) */
    int is_encoder;                         /* for embeddings: no output, no rope, not causal */
    int has_positions;                      /* a table of them, no rope */
    int wide_layers;                        /* a model of so many layers has attn_scale sqrt(n_heads / n_embd) */
    const lm_tensor_row *layer; int n_layer;
    const lm_tensor_row *top; int n_top;
} lm_arch;

const lm_arch *lm_arch_find(const char *name);
const lm_arch *lm_arch_get(const char *name, size_t n, lm_err *err);
int lm_arch_has_experts(const lm_arch *arch);

/* The row that describes a tensor of h; *layer gets its layer, -1: the whole model's. NULL: it has no place there. */
const lm_tensor_row *lm_arch_row(const lm_arch *arch, const lm_hparams *h, const char *name, int *layer);
int lm_arch_needs(const lm_tensor_row *row, const lm_hparams *h);   /* is it there without fail? */
void lm_arch_shape(const lm_tensor_row *row, const lm_hparams *h, int64_t ne[LM_DIMS_MAX]);

/* Read the JSON form; every field is checked against its range. */
void lm_hparams_read(lm_hparams *h, const lm_arch *arch, const char *json, size_t n, lm_err *err);

/* Match tensors to slots: at[layer * LM_LAYER_SLOTS + slot], for all layers of a pass, then LM_TOP_SLOTS at the end, hold
** tensor indexes or -1. A tensor of three slots stands in each; one of several layers likewise. An unknown name, a missing
** tensor, or a wrong shape is an error. */
void lm_arch_bind(const lm_arch *arch, const lm_hparams *h, const lm_tensor *tensors, int n_tensors, int *at,
                  lm_err *err);

/*----------------------------------------------------------------------
** Models. */

/* What a model keeps of prompts, for calls to come: prefix.c's, guarded by its lock. */
typedef struct {
    struct lm_prefix_node *nodes; int n;
    uint64_t clock;                         /* of uses */
    int is_limited; uint64_t most;          /* bytes; else a share of the memory limit, or 64 MiB */
} lm_prefix;

/* What an adapter adds to a weight: up (down x). Without data: nothing. */
typedef struct { lm_mat down, up; } lm_low_rank;

struct lm_model {
    const lm_arch *arch;
    lm_hparams h;
    lm_mat (*layer)[LM_LAYER_SLOTS];        /* (n_layers); an absent weight has no data; of experts the first */
    lm_mat top[LM_TOP_SLOTS];               /* LM_OUTPUT falls back to LM_TOKEN_EMBD */
    double *inv_freq[2];                    /* (n_rot / 2): radians a position, scale included; those of local
                                            ** layers, NULL where they are the same */
    void **slabs; int n_slabs;
    uint64_t n_bytes;
    lm_tok *tok;
    lm_prefix prefix;
    const lm_model *base;                   /* adapted: whose weights, frequencies and tokenizer these are; else NULL */
    lm_low_rank (*low)[LM_LAYER_SLOTS]; int rank;       /* (n_layers), NULL: no adapter */
};

lm_mat lm_model_expert(const lm_mat *first, int expert);

/* The angle a position of a head's i-th pair: scale * base^(-2i/n_rot), slowed where the model says so (llama 3: factors, or NULL). */
double lm_rope_angle(const lm_hparams *h, int local, int i, const float *factors, lm_err *err);

/* A vector's elements: float vectors are packed as a tile of which only lane 0 is used, then made flat. */
const float *lm_model_vector(const lm_mat *m);

/*----------------------------------------------------------------------
** The cache of keys and values of one sequence, in pages of 64 positions over all layers. Halfs, or floats
** in the exact path; keys lie (head_dim, 64), values (64, head_dim rounded up to 16). */
typedef struct {
    lm_model *m;
    int exact;
    uint8_t **pages; size_t n_pages, pages_cap;     /* each is a count of one */
    int n;                                  /* positions written */
} lm_kv;

void lm_kv_init(lm_kv *kv, lm_model *m, int exact);
void lm_kv_clear(lm_kv *kv);
void lm_kv_reserve(lm_kv *kv, int n, lm_err *err);                  /* room for positions 0 .. n-1 */
lm_page lm_kv_page(const lm_kv *kv, int layer, int head, int page);
/* Positions pos .. pos+n-1; k and v are (n, n_kv_heads, head_dim). */
void lm_kv_append(lm_kv *kv, int layer, int pos, int n, const float *k, const float *v);
void lm_kv_copy(lm_kv *kv, int page, const uint8_t *from, int n);   /* the first n slots of another's page */
size_t lm_kv_page_bytes(const lm_kv *kv);
uint8_t *lm_kv_page_ref(uint8_t *page);
void lm_kv_page_unref(uint8_t *page);

/*----------------------------------------------------------------------
** Prefixes (prefix.c): pages that outlive their sequence, found again by the ids they stand for. Floats (the exact path)
** are never kept. */

/* Take what is kept of ids[0..n), as far as there is memory, into an empty cache; kv->n then says how much that was. */
void lm_prefix_find(lm_kv *kv, const int32_t *ids, int n);
/* How much that would be; n where nothing can be kept, so that no one waits for it. */
int lm_prefix_length(lm_model *m, const int32_t *ids, int n);
/* Keep positions 0..n-1 of a cache, of these ids. Failing to keep is no failure. */
void lm_prefix_keep(lm_kv *kv, const int32_t *ids, int n);
int lm_prefix_shrink(lm_model *m);                                  /* give up one page; 0: there is none */
void lm_prefix_limit(lm_model *m, uint64_t n_bytes);                /* for tests: 0 keeps nothing */

/*----------------------------------------------------------------------
** The mixture of experts of a layer (moe.c), with its scratch memory. */
typedef struct lm_moe lm_moe;

lm_moe *lm_moe_new(const lm_hparams *h, int max_rows, int exact, lm_err *err);
void lm_moe_free(lm_moe *s);
/* The n_active experts of a row's n logits, ascending, and their weights. Return 0 where a logit is not finite; expert is then
** zeros. Ties go to the lower number. */
int lm_moe_choose(const float *logits, int n, int n_active, int *expert, float *weight);
/* Give each pair of a row and an expert its column: by expert, within one by row. first gets the columns of each, n + 1. */
void lm_moe_group(const int *expert, int pairs, int n, int *first, int *column);
/* Write what the experts of a layer's weights w make of n rows of n_embd. Return 0 where a number was not finite. */
int lm_moe_run(lm_moe *s, const lm_mat *w, const float *rows, int n, float *out, lm_stop stop, lm_err *err);

/*----------------------------------------------------------------------
** One pass. Rows of one sequence stand together in ascending position; each sequence has room reserved. */
typedef struct {
    int32_t id;
    int pos;
    lm_kv *kv;
    int out;                                /* which row of logits it fills, -1: none */
} lm_row;

typedef struct lm_pass lm_pass;             /* the scratch memory of passes */

enum { LM_ROWS_MAX = 256 };

lm_pass *lm_pass_new(const lm_model *m, int max_rows, int max_out, int exact, lm_err *err);
void lm_pass_free(lm_pass *p);
int lm_pass_rows(const lm_pass *p);
int lm_pass_fits(const lm_pass *p, int rows, int out);       /* p may be NULL */

/* Run rows through the model and write their keys and values. Return logits (max_out, n_vocab), valid until
** the next pass, or NULL. */
const float *lm_forward(lm_pass *p, const lm_row *rows, int n, lm_stop stop, lm_err *err);
int32_t lm_pass_best(const lm_pass *p, int out);              /* then: the lowest id among a row's greatest logits */

/* The same without the output: return the last hidden states (n, n_embd), normed as the model norms them. Where a model
** is not causal all rows of a sequence stand in one pass, and kv->n says how many they are. */
const float *lm_encode(lm_pass *p, const lm_row *rows, int n, lm_stop stop, lm_err *err);

/* After lm_encode: the logits (n, n_vocab) of its rows first..first+n-1, n at most max_out; the same as lm_forward's. */
const float *lm_pass_logits(lm_pass *p, int first, int n, lm_stop stop, lm_err *err);

#endif

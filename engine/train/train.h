/* train.h: what the files of floor 6 share: a trainer, its weights by slot, and one pass forward and back. */
#ifndef LM_TRAIN_H
#define LM_TRAIN_H

#include "../model/model.h"

/* A tensor of the source or of an adapter, and where it serves. What is trained has value, grad, m and v, n_params floats
** each; what is not has its bytes as they are in the source. */
typedef struct {
    lm_tensor info;
    float *data[4];                         /* by LM_TRAIN_*; all NULL: frozen */
    uint8_t *raw;                           /* frozen: (rows, row_bytes) */
    int is_matrix;
} lm_param;

/* A weight of the model. The adapter's parts are NULL where there are none. */
typedef struct {
    lm_param *p;                            /* NULL: absent */
    size_t at;                              /* where it begins in its tensor: a third of it may be a weight */
    int rows, cols;                         /* of experts, those of the first; the others follow */
    lm_param *down, *up;                    /* A (rank, cols) and B (rows, rank) */
    size_t mid;                             /* where its (n, rank) of A x stand among a layer's activations */
} lm_weight;

/* What a layer leaves for the way back, rows of one width each; parts that an architecture has no use for are NULL. */
typedef struct {
    float *x;                               /* (n, n_embd): the stream as it enters */
    float *h, *stat;                        /* (n, n_embd), (n, 2): its norm and that norm's mean and scale */
    float *raw_qk, *qk_stat;                /* q and k before their norms, (n, heads + kv); (n, n_heads + n_kv_heads, 2) */
    float *qkv, *mixed, *log_sum;           /* (n, heads + 2 kv), (n, heads), (n, n_heads) */
    float *attn, *attn_stat;                /* what attention adds, before its norm */
    float *mid, *mid_sum, *mid_stat;        /* (n, n_embd): the stream between; mid_sum before an out norm */
    float *h2, *stat2;
    float *gu, *act;                        /* (n, n_ff or 2 n_ff): gate and up side by side; (n, n_ff) */
    float *ffn, *ffn_stat;
    float *end_sum, *end_stat;
    /* With experts; pairs of a row and an expert are n x n_active, and gu and act have a row for each, by expert. */
    float *probs;                           /* (n, n_experts): softmax over all the router's logits */
    int *expert; float *share;              /* (n, n_active): chosen, ascending, and their weights */
    int *column, *pair;                     /* (n, n_active): where a pair stands among the pairs by expert, and back */
    int *first;                             /* (n_experts + 1): the pairs of each expert */
    float *mids;                            /* of adapters: each (n, rank) */
} lm_acts;

typedef struct { int first, n, first_item; } lm_span_rows;      /* a sequence's rows, and of attention's items its first */

struct lm_trainer {
    const lm_arch *arch;
    lm_hparams h;
    lm_train_options o;
    const lm_train_kern *kern;
    int n_params, n_trained;
    lm_param *params;                       /* the source's, then the adapter's */
    int *trained;                           /* their numbers, in lm_trainer_tensor's order */
    lm_weight (*layer)[LM_LAYER_SLOTS];     /* (n_layers) */
    lm_weight top[LM_TOP_SLOTS];            /* LM_OUTPUT falls back to LM_TOKEN_EMBD */
    void **slabs; int n_slabs;
    int64_t steps;

    int max_rows, max_pairs;                /* batch_tokens; pairs of texts */
    int vocab;                              /* of the head: 0 where there is none */
    float *cosine[2], *sine[2];             /* (max_rows, n_rot / 2): by position; of local layers where they differ */
    lm_acts *acts;                          /* a layer each, or one when recomputing (but for x) */
    float *stream;                          /* (n, n_embd): what leaves the last layer */
    float *final, *final_stat;              /* its norm */
    float *delta;                           /* scratch (n, n_embd) */
    float *dx, *dd, *dh;                    /* gradients: of the stream, of what a half adds, of what it reads */
    float *d_wide, *d_wide2;                /* (n, widest): of qkv and mixed, of gate and up, of act */
    float *d_mid;                           /* (n, rank) */
    float *pair_x, *pair_d, *d_share;       /* of experts: (pairs, n_embd), (pairs, n_embd), (pairs) */
    float *d_logits;                        /* (n, n_experts) */
    double *masses, *balances;              /* (n_experts): sums of probabilities; (n_layers): what balance a layer's experts have */
    float *embd, *embd_stat;                /* (n, n_embd): embeddings before their norm */
    float *partial;                         /* (items, 2 n_embd or head_dim): of norms' weights */
    float *packed; uint64_t n_packed;       /* of products */
    float *head, *logits, *d_head;          /* rows with targets: hidden states and their gradients; (panel rows, n_vocab) */
    int panel_rows, vocab_block;
    double *losses;                         /* (max_rows) */
    float *scales;                          /* (max_rows): of a text's vector, 1 / its length */
    uint8_t *slots; size_t slot_bytes; int n_slots;     /* scratch of attention's items, one a thread */
    _Atomic uint64_t slots_taken;

    /* of the current part of a batch */
    int n, n_seqs, is_training;
    _Atomic int is_bad;                     /* an activation was not finite */
    uint64_t first_row;                     /* of the whole batch, for dropout */
    const int32_t *ids;
    const float *weights;
    lm_span_rows *seqs;                     /* (max_rows) */
    int32_t *pos, *targets;                 /* (max_rows): row, and which id it predicts */
    int n_targets;
    double total_weight;                    /* of the whole batch */
    int64_t total_rows;
};

/* A layer on the way. */
typedef struct {
    lm_trainer *t;
    int layer;
    const lm_weight *w;                     /* the layer's */
    const lm_acts *a;
    int key_block;                          /* of attention's way back */
} lm_grad_pass;

static inline size_t lm_width_heads(const lm_hparams *h) { return (size_t)h->n_heads * (size_t)h->head_dim; }
static inline size_t lm_width_kv(const lm_hparams *h) { return (size_t)h->n_kv_heads * (size_t)h->head_dim; }
static inline size_t lm_width_qkv(const lm_hparams *h) { return lm_width_heads(h) + 2 * lm_width_kv(h); }

static inline const float *lm_weight_value(const lm_weight *w) {
    if (!w->p) return NULL;
    return (w->p->data[LM_TRAIN_VALUE] ? w->p->data[LM_TRAIN_VALUE] : (const float *)w->p->raw) + w->at;    /* vectors are f32 */
}
static inline float *lm_weight_grad(const lm_weight *w) {
    return w->p && w->p->data[LM_TRAIN_GRAD] ? w->p->data[LM_TRAIN_GRAD] + w->at : NULL;
}

/* n rows of a tensor, or of a weight, from row `first` on. */
static inline lm_stack lm_param_stack(const lm_param *p, size_t first, int n) {
    size_t cols = (size_t)p->info.ne[0], row_bytes = (size_t)(p->info.n_bytes / (p->info.n_params / p->info.ne[0]));
    if (p->data[LM_TRAIN_VALUE]) return (lm_stack){ p->data[LM_TRAIN_VALUE] + first * cols, NULL, n, cols };
    return (lm_stack){ p->raw + first * row_bytes, lm_dtype_find(p->info.dtype), n, row_bytes };
}
static inline lm_stack lm_weight_stack(const lm_weight *w, size_t first, int n) {
    return lm_param_stack(w->p, w->at / (size_t)w->cols + first, n);
}
static inline lm_stack lm_floats_stack(const float *x, int n, size_t stride) {
    return (lm_stack){ x, NULL, n, stride };
}

/* out (n, w.n) = x (n, cols) . W', and dx (n, cols) = d (n, w.n) . W or that added to it: w holds rows of W. */
static inline lm_product lm_grad_output(const float *x, int n, int cols, lm_stack w, float *out, size_t stride) {
    return (lm_product){ .m = n, .n = w.n, .k = cols, .a = x, .ar = (size_t)cols, .ak = 1, .b = { w }, .b_turned = 1,
                         .c = out, .stride = stride };
}
static inline lm_product lm_grad_input(float *dx, int n, int cols, const float *d, size_t stride, lm_stack w, int add) {
    return (lm_product){ .m = n, .n = cols, .k = w.n, .a = d, .ar = stride, .ak = 1, .b = { w }, .c = dx,
                         .stride = (size_t)cols, .add = add };
}

/* The gradient of a matrix (rows, cols), with d (n, rows) of its output and x (n, cols) its input. */
static inline lm_product lm_grad_outer(float *c, int rows, int cols, const float *d, size_t stride, const float *x, int n) {
    return (lm_product){ .m = rows, .n = cols, .k = n, .a = d, .ar = 1, .ak = stride, .b = { lm_floats_stack(x, n, (size_t)cols) }, .c = c,
                         .stride = (size_t)cols, .add = 1 };
}

/* grad.c. All work on the rows that train.c has set. Gradients are added to. */
void lm_grad_forward(lm_trainer *t, lm_stop stop, lm_err *err);
/* Return the sum of weight * -ln p, and leave the gradient of the last hidden states in dh. */
double lm_grad_loss(lm_trainer *t, int backward, lm_stop stop, lm_err *err);
void lm_grad_backward(lm_trainer *t, lm_stop stop, lm_err *err);        /* from dh on */
/* Run a step over n rows. */
void lm_grad_rows(const lm_grad_pass *p, void (*step)(const lm_grad_pass *p, int row, const void *arg),
                  const void *arg, int n, lm_stop stop, lm_err *err);

/* attend.c: q, k and v of a layer to what is mixed of them; and from the gradient of that, in d_wide2, to theirs, in d_wide. */
void lm_attend_forward(lm_grad_pass *p, lm_stop stop, lm_err *err);
void lm_attend_backward(lm_grad_pass *p, lm_stop stop, lm_err *err);
size_t lm_attend_slot_bytes(const lm_hparams *h, int max_rows);

/* experts.c: h2 of a layer to ffn; and from the gradient d of that to that of h2, in dh. */
void lm_experts_forward(const lm_grad_pass *p, lm_stop stop, lm_err *err);
void lm_experts_backward(const lm_grad_pass *p, const float *d, lm_stop stop, lm_err *err);

/* contrast.c: the part's texts, of which `first` come before them, to vectors; the loss of n pairs and the vectors' gradients;
** and from these to the gradient of the part's last hidden states, in dh. */
enum { LM_PAIRS_MAX = 1024 };
void lm_contrast_pool(lm_trainer *t, int first, lm_stop stop, lm_err *err);
double lm_contrast_loss(lm_trainer *t, int n, int backward, lm_stop stop, lm_err *err);
void lm_contrast_spread(lm_trainer *t, int first, lm_stop stop, lm_err *err);

/* optim.c */
void lm_optim_zero(lm_trainer *t, lm_stop stop, lm_err *err);           /* the gradients */
double lm_optim_norm(lm_trainer *t, lm_stop stop, lm_err *err);
void lm_optim_step(lm_trainer *t, double lr, double clip, lm_stop stop, lm_err *err);

#endif

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
    int rows, cols;
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

    int max_rows;                           /* batch_tokens */
    float *cosine[2], *sine[2];             /* (max_rows, n_rot / 2): by position; of local layers where they differ */
    lm_acts *acts; int n_acts;              /* a layer each, or one when recomputing (but for x) */
    float *stream;                          /* (n, n_embd): what leaves the last layer */
    float *final, *final_stat;              /* its norm */
    float *delta;                           /* scratch (n, n_embd) */
    float *dx, *dd, *dh;                    /* gradients: of the stream, of what a half adds, of what it reads */
    float *d_wide, *d_wide2;                /* (n, widest): of qkv and mixed, of gate and up, of act */
    float *d_mid;                           /* (n, rank) */
    float *partial;                         /* (items, 2 n_embd or head_dim): of norms' weights */
    float *packed;                          /* of products */
    float *head, *logits, *d_head;          /* rows with targets: hidden states and their gradients; (panel rows, n_vocab) */
    int panel_rows, vocab_block;
    double *losses;                         /* (max_rows) */
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
};

/* grad.c. Both work on the rows that train.c has set. Gradients are added to. */
void lm_grad_forward(lm_trainer *t, lm_stop stop, lm_err *err);
double lm_grad_loss(lm_trainer *t, int backward, lm_stop stop, lm_err *err);    /* sum of weight * -ln p */
void lm_grad_backward(lm_trainer *t, lm_stop stop, lm_err *err);
size_t lm_grad_slot_bytes(const lm_hparams *h, int max_rows);

/* optim.c */
void lm_optim_zero(lm_trainer *t, lm_stop stop, lm_err *err);           /* the gradients */
double lm_optim_norm(lm_trainer *t, lm_stop stop, lm_err *err);
void lm_optim_step(lm_trainer *t, double lr, double clip, lm_stop stop, lm_err *err);

#endif

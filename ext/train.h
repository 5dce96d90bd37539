/* train.h: the map of lm_train.
**
**     train_options.c    what was asked for, as a struct and as JSON
**     train_data.c       the query's rows as sequences
**     train_batch.c      their split, order and packing
**     train_store.c      a run's rows: checkpoints and steps; transactions
**     train_write.c      what was learnt, as rows
**     train_adapter.c    an adapter as what is trained
**     train_run.c        the run: step, evaluate, stop, go on
**     vtab_train.c       the table */
#ifndef LM_TRAIN_SQL_H
#define LM_TRAIN_SQL_H

#include "ext.h"

/*======================================================================
** train_options.c */
typedef struct { int rank; double alpha; lm_texts targets; } lm_lora_options;

typedef struct {
    char *model, *query, *rows, *adapter, *decay, *schedule, *lora_json;
    int epochs, max_steps, batch_tokens, patience, eval_every, checkpoint_every, resume, recompute;
    double max_seconds, lr, warmup, weight_decay, beta1, beta2, eps, clip, dropout, val_fraction;
    sqlite3_int64 seed;
    lm_lora_options lora;                   /* of lora_json */
    lm_buf targets;                         /* its targets, with commas and a NUL; empty: all */
    uint64_t given;                         /* a bit per option that was there */
} lm_learn_options;

void lm_learn_options_read(lm_learn_options *o, lm_text json, lm_err *err);     /* over the defaults; end with the clear */
void lm_learn_options_clear(lm_learn_options *o);
/* Append those that decide what a run computes, all of them, as a JSON object. */
void lm_learn_options_print(const lm_learn_options *o, lm_buf *out, lm_err *err);
/* Those of a run that is taken up again: what is given now must be what the run had, and what is not given is as it was. */
void lm_learn_options_resume(lm_learn_options *o, lm_text had, lm_err *err);

/*======================================================================
** train_data.c */
typedef struct {
    size_t at;                              /* of its first id */
    int n, n_given;                         /* ids; how many of them are no targets: a prompt's; or the first text of a pair */
    int label;                              /* its number, -1: none */
} lm_sample;

typedef struct {
    const char *kind;                       /* what rows were read as */
    int is_pair;                            /* each sample is two texts that belong together */
    lm_ids ids;                             /* all samples', end to end */
    lm_sample *samples; size_t n, cap;
    lm_texts labels;                        /* in the order in which they appear */
    uint32_t *train, *val; size_t n_train, n_val;       /* which samples */
    int longest;
    sqlite3_int64 n_rows, n_nulls;
    uint8_t digest[LM_DIGEST_BYTES];
} lm_samples;

/* Read the query's rows for a model. Whether or not it succeeds, end with the clear. */
void lm_samples_read(lm_samples *d, lm_conn *c, const lm_shared *s, const lm_learn_options *o, lm_err *err);
void lm_samples_clear(lm_samples *d);

/*======================================================================
** train_batch.c */
enum { LM_PAIRS_MIN = 2 };              /* of a batch: one pair has nothing to be told from */
void lm_samples_split(lm_samples *d, double fraction, uint64_t seed, lm_err *err);
void lm_samples_shuffle(const lm_samples *d, uint64_t seed, int64_t epoch, uint32_t *order);   /* of train */
size_t lm_samples_pack(const lm_samples *d, const uint32_t *order, size_t n, int batch_tokens);     /* how many make a batch */

/* Samples side by side, as the trainer wants them. */
typedef struct { lm_ids ids; float *weights; int *lengths; size_t weights_cap, lengths_cap; int n; } lm_packed;
void lm_packed_set(lm_packed *p, const lm_samples *d, const uint32_t *order, size_t n, lm_err *err);
/* A step, and the loss alone: of next tokens, or of pairs. */
void lm_packed_step(const lm_packed *p, const lm_samples *d, lm_trainer *t, double rate, lm_train_result *out, lm_stop stop, lm_err *err);
void lm_packed_loss(const lm_packed *p, const lm_samples *d, lm_trainer *t, lm_train_result *out, lm_stop stop, lm_err *err);
void lm_packed_clear(lm_packed *p);

/* What stands around a text whose label is asked for: before || text || after, then the label. */
#define LM_LABEL_BEFORE ""
#define LM_LABEL_AFTER "\nLabel: "

/*======================================================================
** train_store.c */
typedef struct {
    sqlite3_int64 step, epoch, tokens;
    double loss, val_loss, lr, grad_norm, tokens_per_s, seconds;
    int has_val;
    char event[96];                         /* empty: none */
} lm_run_row;

/* What a checkpoint holds besides numbers. Losses are floats: nine digits give them back. */
typedef struct {
    sqlite3_int64 step, tokens;
    sqlite3_int64 epoch, at;                /* follow from the step; at: samples of the epoch that are done */
    double seconds;
    sqlite3_int64 best_step; float best_loss;       /* of validation; step 0: nothing was validated yet */
    sqlite3_int64 n_worse;                  /* evaluations since */
    float sum, last_mean, last_loss;        /* of training, since the last evaluation, and before it; its validation loss */
    sqlite3_int64 n_sum;
} lm_run_state;

typedef struct {
    lm_conn *c;
    lm_found model;
    lm_learn_options o;
    lm_samples data;
    lm_trainer *trainer;
    uint8_t *buffer;                        /* LM_CHUNK_BYTES to write a model through: there is room for it at the end, too */
    float **best;                           /* copies of what is trained, at best_step; NULL: nothing is validated */
    int best_is_new;                        /* since the last checkpoint */
    lm_run_state state;
    double seconds_before;                  /* of the calls before this one */
    lm_run_row row;                         /* of the step just taken */
    lm_run_row *rows; size_t n_rows, rows_cap;      /* that are not in lm_run_step yet */
    lm_schedule schedule;
    uint32_t *order; sqlite3_int64 order_epoch;     /* of the epoch's samples; -1: none yet */
    lm_packed packed;
    lm_buf options;                         /* as JSON, as they stand in lm_run */
    char base_digest[2 * LM_DIGEST_BYTES + 1];      /* of the model as the run knows it */
    char data_digest[2 * LM_DIGEST_BYTES + 1];
    uint8_t model_digest[LM_DIGEST_BYTES];
    uint8_t numbers_digest[LM_DIGEST_BYTES];        /* of the checkpoint's; zeros: there is none yet */
    char digest[2 * LM_DIGEST_BYTES + 1];   /* of all that, of a run that is taken up again, as its row says */
    lm_adapter_rows adapter;                /* as it was at the start; rank 0: there was none */
    int is_whole;                           /* the model's own parameters are trained */
    int is_over;                            /* the last step was taken */
    int is_done;

    sqlite3_int64 id;                       /* lm_run.id */
    uint8_t edit[8];                        /* of its row, as last written */
    int autocommit;                         /* as it was at the start */
    sqlite3_int64 durable;                  /* step of the last checkpoint, -1: none */
    sqlite3_stmt *hold;                     /* keeps a read transaction: what another connection writes shows */
    sqlite3_stmt *look;
} lm_run;

void lm_run_find(lm_run *r, lm_err *err);           /* the run to take up again: its options and state */
void lm_run_begin(lm_run *r, lm_err *err);          /* a new row */
void lm_run_load(lm_run *r, lm_err *err);           /* what is in the checkpoint */
void lm_run_check(lm_run *r, lm_err *err);          /* is the transaction still that in which it began? */
void lm_run_checkpoint(lm_run *r, lm_err *err);
void lm_run_write_checkpoint(lm_run *r, lm_err *err);       /* within a savepoint */
void lm_run_finish(lm_run *r, int is_done, lm_err *err);    /* write what was learnt; not done: with a checkpoint to go on from */

/*======================================================================
** train_write.c; within a savepoint */
void lm_run_write_learnt(lm_run *r, lm_err *err);

/*======================================================================
** train_adapter.c */
void lm_run_find_adapter(lm_run *r, lm_err *err);           /* before the trainer: its form becomes the options' */
void lm_run_load_adapter(lm_run *r, lm_err *err);           /* its numbers, where a run begins with it */
void lm_run_write_adapter(lm_run *r, lm_err *err);

/*======================================================================
** train_run.c */
void lm_run_open(lm_run *r, lm_conn *c, lm_text options, lm_err *err);      /* whether or not it succeeds, end with the close */
void lm_run_next(lm_run *r, lm_err *err);           /* one step, whose row is then in row; is_done: there was none left */
void lm_run_close(lm_run *r);

#endif

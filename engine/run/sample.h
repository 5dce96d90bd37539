/* sample.h: from logits to a token. */
#ifndef LM_SAMPLE_H
#define LM_SAMPLE_H

#include "../model/model.h"

enum { LM_PENALTY_LAST = 64 };

typedef struct {
    float logit;
    int32_t id;
} lm_candidate;

/* Scratch of one thread of sampling: (n_vocab) each, made when first needed. */
typedef struct {
    float *logits;
    lm_candidate *heap;
} lm_sampler;

void lm_sampler_clear(lm_sampler *s);

/* Choose a token. best is the lowest id among the greatest logits, recent are the ids so far, t numbers the draw. */
int32_t lm_sample(lm_sampler *s, const float *logits, int n, int32_t best, const lm_gen_options *options, const int32_t *recent,
                  size_t n_recent, uint64_t t, lm_err *err);

/* ln p(id) under the logits as they are. */
double lm_sample_logprob(const float *logits, int n, int32_t best, int32_t id);

#endif

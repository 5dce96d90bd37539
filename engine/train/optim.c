/* optim.c: the gradients' norm and AdamW, over stretches of fixed size, so that threads leave no trace; the schedule. */
#include "train.h"

#include <string.h>

enum { STRETCH = 1 << 16 };     /* parameters an item takes: under a millisecond */

typedef struct {
    lm_trainer *t;
    const int *first;           /* item of each trained tensor, and their number at the end */
    double *sums;               /* by item, of squares */
    lm_adamw adam;
    float keep;                 /* of parameters that decay */
} sweep;

typedef struct { lm_param *p; size_t at, n; } stretch;

static stretch stretch_of(const sweep *s, int item) {
    int low = 0, high = s->t->n_trained;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (s->first[middle] <= item) low = middle;
        else high = middle;
    }
    lm_param *p = &s->t->params[s->t->trained[low]];
    size_t at = (size_t)(item - s->first[low]) * STRETCH;
    return (stretch){ p, at, LM_MIN((size_t)p->info.n_params - at, (size_t)STRETCH) };
}

static void zero_item(void *arg, int item) {
    stretch s = stretch_of(arg, item);
    memset(s.p->data[LM_TRAIN_GRAD] + s.at, 0, s.n * sizeof(float));
}

static void square_item(void *arg, int item) {
    sweep *w = arg;
    stretch s = stretch_of(w, item);
    w->sums[item] = w->t->kern->sum_squares(s.p->data[LM_TRAIN_GRAD] + s.at, s.n);
}

static void step_item(void *arg, int item) {
    sweep *w = arg;
    stretch s = stretch_of(w, item);
    lm_adamw adam = w->adam;
    if (s.p->is_matrix || w->t->o.decay_all) adam.keep = w->keep;
    w->t->kern->adamw(s.p->data[LM_TRAIN_VALUE] + s.at, s.p->data[LM_TRAIN_GRAD] + s.at, s.p->data[LM_TRAIN_M] + s.at,
                      s.p->data[LM_TRAIN_V] + s.at, s.n, &adam);
}

/* Run fn over all that is trained; return the sum of what square_item left. */
static double run(lm_trainer *t, void (*fn)(void *, int), sweep *s, lm_stop stop, lm_err *err) {
    int *first = lm_alloc(sizeof *first * (size_t)(t->n_trained + 1), err), n = 0;
    double sum = 0;
    for (int i = 0; first && i < t->n_trained; i++) {
        first[i] = n;
        n += (int)((t->params[t->trained[i]].info.n_params + STRETCH - 1) / STRETCH);
    }
    s->t = t;
    s->first = first;
    s->sums = lm_calloc((size_t)n, sizeof *s->sums, err);
    if (!err->code) first[t->n_trained] = n;
    lm_pool_run(fn, s, n, stop, err);
    for (int i = 0; !err->code && i < n; i++) sum += s->sums[i];
    lm_free(first);
    lm_free(s->sums);
    return sum;
}

void lm_optim_zero(lm_trainer *t, lm_stop stop, lm_err *err) { run(t, zero_item, &(sweep){0}, stop, err); }

double lm_optim_norm(lm_trainer *t, lm_stop stop, lm_err *err) {
    return sqrt(run(t, square_item, &(sweep){ 0 }, stop, err));
}

void lm_optim_step(lm_trainer *t, double lr, double clip, lm_stop stop, lm_err *err) {
    const lm_train_options *o = &t->o;
    double steps = (double)(t->steps + 1);
    double correct1 = 1 - lm_pow(o->beta1, steps), correct2 = 1 - lm_pow(o->beta2, steps);
    if (o->beta1 == 0) correct1 = 1;
    if (o->beta2 == 0) correct2 = 1;
    sweep s = { .adam = { .rate = (float)(lr / correct1), .keep = 1, .beta1 = (float)o->beta1, .beta2 = (float)o->beta2,
                          .eps = (float)o->eps, .unbias = (float)(1 / sqrt(correct2)), .clip = (float)clip },
                .keep = (float)(1 - lr * o->weight_decay) };
    run(t, step_item, &s, stop, err);
    if (!err->code) t->steps++;
}

double lm_schedule_rate(const lm_schedule *s, int64_t step) {
    double sine, cosine;
    if (step < s->n_warmup) return s->lr * (double)(step + 1) / (double)s->n_warmup;
    if (!s->cosine || step >= s->n_steps) return s->cosine ? 0 : s->lr;
    lm_sincos(3.141592653589793 * (double)(step - s->n_warmup) / (double)(s->n_steps - s->n_warmup), &sine, &cosine);
    return s->lr * 0.5 * (1 + cosine);
}

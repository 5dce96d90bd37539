/* contrast.c: texts in pairs: vectors that should find each other among those of a batch.
**
** A text's vector is pooled from its last hidden states as the model pools (mean, first, last), of length 1. With s(i, j) the
** cosine of a_i and b_j by the temperature, the loss is the mean over pairs of -ln softmax(s(i, .))[i] and of
** -ln softmax(s(., i))[i], halved: InfoNCE (van den Oord et al. 2018) with the batch's other texts as negatives (Henderson et
** al. 2017), in both directions (Radford et al. 2021).
**
** Vectors of a batch stand in head, a_0 b_0 a_1 b_1 …, their gradients in d_head. A batch of several parts is computed twice:
** its vectors first, then, each part anew, what their gradients come to (Gao et al. 2021). */
#include "train.h"

#include <string.h>

typedef struct { lm_trainer *t; int first; } texts_run;

static void pool_item(void *arg, int i) {
    const texts_run *r = arg;
    lm_trainer *t = r->t;
    const lm_span_rows *seq = &t->seqs[i];
    size_t n = (size_t)t->h.n_embd, text = (size_t)r->first + (size_t)i;
    float *out = t->head + text * n;
    int from = t->h.pooling == LM_POOL_LAST ? seq->n - 1 : 0, end = t->h.pooling == LM_POOL_CLS ? 1 : seq->n;
    double squares = 0;
    memset(out, 0, n * sizeof *out);
    for (int row = from; row < end; row++) t->kern->add(out, t->final + (size_t)(seq->first + row) * n, (int)n);
    for (size_t j = 0; j < n; j++) squares += (double)out[j] * (double)out[j];
    t->scales[text] = squares > 0 ? (float)(1 / sqrt(squares)) : 0;
    for (size_t j = 0; j < n; j++) out[j] *= t->scales[text];
}

void lm_contrast_pool(lm_trainer *t, int first, lm_stop stop, lm_err *err) {
    lm_pool_run(pool_item, &(texts_run){ t, first }, t->n_seqs, stop, err);
}

/* v = x / |x|, so dx = (dv - v (v . dv)) / |x|. The sum that was normed is the same as the mean. */
static void spread_item(void *arg, int i) {
    const texts_run *r = arg;
    lm_trainer *t = r->t;
    const lm_span_rows *seq = &t->seqs[i];
    size_t n = (size_t)t->h.n_embd, text = (size_t)r->first + (size_t)i;
    const float *v = t->head + text * n;
    float *d = t->d_head + text * n;
    int from = t->h.pooling == LM_POOL_LAST ? seq->n - 1 : 0, end = t->h.pooling == LM_POOL_CLS ? 1 : seq->n;
    float along = t->kern->dot(v, d, (int)n);
    for (size_t j = 0; j < n; j++) d[j] = (d[j] - v[j] * along) * t->scales[text];
    memset(t->dh + (size_t)seq->first * n, 0, (size_t)seq->n * n * sizeof(float));
    for (int row = from; row < end; row++) memcpy(t->dh + (size_t)(seq->first + row) * n, d, n * sizeof(float));
}

void lm_contrast_spread(lm_trainer *t, int first, lm_stop stop, lm_err *err) {
    lm_pool_run(spread_item, &(texts_run){ t, first }, t->n_seqs, stop, err);
}

/*---------------------------------------------------------------------- */
typedef struct { lm_trainer *t; int n; } loss_run;

/* Cosines of row i become the gradients of its loss to them. */
static void loss_item(void *arg, int i) {
    const loss_run *r = arg;
    float *x = r->t->logits + (size_t)i * (size_t)r->n, by = (float)(1 / r->t->o.temperature);
    for (int j = 0; j < r->n; j++) x[j] *= by;
    r->t->losses[i] = r->t->kern->cross_entropy(x, r->n, i, (float)(0.5 / r->n)) * 0.5 / r->n;
    for (int j = 0; j < r->n; j++) x[j] *= by;
}

double lm_contrast_loss(lm_trainer *t, int n, int backward, lm_stop stop, lm_err *err) {
    double sum = 0;
    int dim = t->h.n_embd;
    size_t stride = 2 * (size_t)dim;
    for (int way = 0; way < 2; way++) {         /* each a looks for its b, then each b for its a */
        const float *x = t->head + (way ? dim : 0), *y = t->head + (way ? 0 : dim);
        float *dx = t->d_head + (way ? dim : 0), *dy = t->d_head + (way ? 0 : dim);
        lm_product cosines = lm_grad_output(x, n, dim, lm_floats_stack(y, n, stride), t->logits, (size_t)n);
        cosines.ar = stride;
        lm_product back[] = {
            { .m = n, .n = dim, .k = n, .a = t->logits, .ar = (size_t)n, .ak = 1,
              .b = { lm_floats_stack(y, n, stride) }, .c = dx, .stride = stride, .add = way },
            { .m = n, .n = dim, .k = n, .a = t->logits, .ar = 1, .ak = (size_t)n,
              .b = { lm_floats_stack(x, n, stride) }, .c = dy, .stride = stride, .add = way },
        };
        lm_products_run(&cosines, 1, t->packed, stop, err);
        lm_pool_run(loss_item, &(loss_run){ t, n }, n, stop, err);
        for (int i = 0; i < n && !err->code; i++) sum += t->losses[i];
        if (backward) lm_products_run(back, 2, t->packed, stop, err);
    }
    return sum;
}

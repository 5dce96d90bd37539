/* experts.c: the half of a layer that is a mixture of experts, forward and back; the rule is that of model/moe.c.
**
** Pairs of a row and one of its experts stand by expert, and within one by row, so that each expert is one product over its
** pairs. A row's gradient is added up over its experts in ascending order, as its output is.
**
** On the way back a share's gradient is act . (W' d), with W' d of the row's whole gradient: what an expert gave is not kept.
**
** Balance (Fedus et al. 2021): n_experts times the sum, over experts, of the share of a part's pairs that an expert has by the
** mean of its probability, softmax over all logits; the mean over layers. It is 1 where experts are used alike, and at most
** n_experts. The shares of pairs count as constants. */
#include "train.h"

#include <string.h>

enum { LIST = 8 };

/* Products that wait for room to be packed in. */
typedef struct { lm_trainer *t; lm_product list[LIST]; int n; uint64_t used; } queue;

static uint64_t packed_for(const lm_product *p) {
    return (p->same_b ? 0 : (uint64_t)lm_packed_floats(p->k, p->n))
           + (p->ar == 1 && p->ak != 1 ? (uint64_t)p->k * (uint64_t)(p->m + 11) : 0);
}

static void flush(queue *q, lm_stop stop, lm_err *err) {
    lm_products_run(q->list, q->n, q->t->packed, stop, err);
    q->n = 0;
    q->used = 0;
}

/* Add products, which may share what they pack. */
static void enqueue(queue *q, const lm_product *products, int n, lm_stop stop, lm_err *err) {
    uint64_t wants = 0;
    for (int i = 0; i < n; i++) wants += packed_for(&products[i]);
    if (q->n + n > LIST || q->used + wants > q->t->n_packed) flush(q, stop, err);
    for (int i = 0; i < n; i++) q->list[q->n++] = products[i];
    q->used += wants;
}

/* Where expert e begins in the tensor of all, in rows; and its gradient. */
static size_t rows_before(const lm_weight *w, int e) { return (size_t)e * (size_t)w->rows; }
static float *grad_of(const lm_weight *w, int e) {
    return lm_weight_grad(w) ? lm_weight_grad(w) + rows_before(w, e) * (size_t)w->cols : NULL;
}
static int count_of(const lm_acts *a, int e) { return a->first[e + 1] - a->first[e]; }

/*----------------------------------------------------------------------
** Routing. */

/* A row's experts, ascending, and their shares; then its logits become probabilities. */
static void route_row(const lm_grad_pass *p, int row, const void *arg) {
    int n = p->t->h.n_experts, active = p->t->h.n_active;
    float *logits = p->a->probs + (size_t)row * (size_t)n, *share = p->a->share + (size_t)row * (size_t)active;
    int *expert = p->a->expert + (size_t)row * (size_t)active;
    double max, all = 0;
    (void)arg;
    if (!lm_moe_choose(logits, n, active, expert, share)) {
        p->t->is_bad = 1;
        return;
    }
    max = (double)logits[expert[0]];
    for (int k = 1; k < active; k++) max = LM_MAX(max, (double)logits[expert[k]]);
    for (int e = 0; e < n; e++) all += lm_exp((double)logits[e] - max);
    for (int e = 0; e < n; e++) logits[e] = (float)(lm_exp((double)logits[e] - max) / all);
}

static void group(const lm_grad_pass *p) {
    const lm_acts *a = p->a;
    int pairs = p->t->n * p->t->h.n_active;
    lm_moe_group(a->expert, pairs, p->t->h.n_experts, a->first, a->column);
    for (int i = 0; i < pairs; i++) a->pair[a->column[i]] = i;
}

static void mass_item(void *arg, int e) {
    const lm_grad_pass *p = arg;
    double sum = 0;
    for (int i = 0; i < p->t->n; i++) sum += (double)p->a->probs[(size_t)i * (size_t)p->t->h.n_experts + (size_t)e];
    p->t->masses[e] = sum;
}

/* Expert e's share of the part's pairs, by what balance is multiplied by for one of the batch's rows. */
static double pull(const lm_grad_pass *p, int e) {
    const lm_trainer *t = p->t;
    double pairs = (double)t->n * t->h.n_active;
    return t->h.n_experts * (double)count_of(p->a, e) / pairs / ((double)t->total_rows * t->h.n_layers);
}

/*----------------------------------------------------------------------
** Forward. */
typedef struct { const float *rows; float *pairs; } gather;

static void gather_pair(const lm_grad_pass *p, int c, const void *arg) {
    const gather *g = arg;
    size_t n = (size_t)p->t->h.n_embd, row = (size_t)(p->a->pair[c] / p->t->h.n_active);
    memcpy(g->pairs + (size_t)c * n, g->rows + row * n, n * sizeof(float));
}

static void act_pair(const lm_grad_pass *p, int c, const void *arg) {
    size_t n = (size_t)p->t->h.n_ff;
    const float *gate = p->a->gu + 2 * n * (size_t)c;
    (void)arg;
    p->t->kern->act(gate, gate + n, (int)n, p->a->act + n * (size_t)c, p->t->h.act);
}

/* A row's sum over its experts, of which each counts by its share (of outputs) or whole (of gradients). */
typedef struct { const float *pairs; float *out; int by_share; } sum_run;

static void sum_row(const lm_grad_pass *p, int row, const void *arg) {
    const sum_run *s = arg;
    size_t n = (size_t)p->t->h.n_embd;
    float *out = s->out + (size_t)row * n;
    memset(out, 0, n * sizeof *out);
    for (int k = 0; k < p->t->h.n_active; k++) {
        size_t pair = (size_t)row * (size_t)p->t->h.n_active + (size_t)k;
        p->t->kern->add_scaled(out, s->pairs + (size_t)p->a->column[pair] * n, (int)n,
                               s->by_share ? p->a->share[pair] : 1);
    }
}

void lm_experts_forward(const lm_grad_pass *p, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    const lm_weight *w = p->w, *router = &w[LM_ROUTER], *gate = &w[LM_GATE_EXPS], *up = &w[LM_UP_EXPS],
                    *down = &w[LM_DOWN_EXPS];
    const lm_acts *a = p->a;
    int embd = t->h.n_embd, ff = t->h.n_ff, pairs = t->n * t->h.n_active;
    queue q = { .t = t };
    lm_product logits = lm_grad_output(a->h2, t->n, embd, lm_weight_stack(router, 0, router->rows), a->probs,
                                       (size_t)router->rows);
    lm_products_run(&logits, 1, t->packed, stop, err);
    lm_grad_rows(p, route_row, NULL, t->n, stop, err);
    if (err->code) return;
    group(p);
    lm_pool_run(mass_item, (void *)p, t->h.n_experts, stop, err);
    t->balances[p->layer] = 0;
    for (int e = 0; e < t->h.n_experts; e++) t->balances[p->layer] += pull(p, e) * t->masses[e];
    lm_grad_rows(p, gather_pair, &(gather){ a->h2, t->pair_x }, pairs, stop, err);
    for (int e = 0; e < t->h.n_experts; e++) {
        size_t at = (size_t)a->first[e];
        lm_stack gates = lm_weight_stack(gate, rows_before(gate, e), ff);
        lm_product product = lm_grad_output(t->pair_x + at * (size_t)embd, count_of(a, e), embd, gates,
                                            a->gu + at * 2 * (size_t)ff, 2 * (size_t)ff);
        product.b[1] = lm_weight_stack(up, rows_before(up, e), ff);
        product.n = 2 * ff;
        if (product.m) enqueue(&q, &product, 1, stop, err);
    }
    flush(&q, stop, err);
    lm_grad_rows(p, act_pair, NULL, pairs, stop, err);
    for (int e = 0; e < t->h.n_experts; e++) {
        size_t at = (size_t)a->first[e];
        lm_product product = lm_grad_output(a->act + at * (size_t)ff, count_of(a, e), ff,
                                            lm_weight_stack(down, rows_before(down, e), embd),
                                            t->pair_d + at * (size_t)embd, (size_t)embd);
        if (product.m) enqueue(&q, &product, 1, stop, err);
    }
    flush(&q, stop, err);
    lm_grad_rows(p, sum_row, &(sum_run){ t->pair_d, a->ffn, 1 }, t->n, stop, err);
}

/*----------------------------------------------------------------------
** Back. */

/* A pair's share has its gradient; then act and W' d count by the share, and the gradients of gate and up follow. */
static void share_pair(const lm_grad_pass *p, int c, const void *arg) {
    lm_trainer *t = p->t;
    size_t n = (size_t)t->h.n_ff, at = n * (size_t)c;
    float *act = p->a->act + at, *d = t->d_wide2 + at, share = p->a->share[p->a->pair[c]];
    const float *gate = p->a->gu + 2 * at;
    (void)arg;
    t->d_share[p->a->pair[c]] = t->kern->dot(act, d, (int)n);
    for (size_t i = 0; i < n; i++) act[i] *= share, d[i] *= share;
    t->kern->act_backward(gate, gate + n, d, (int)n, t->d_wide + 2 * at, t->d_wide + 2 * at + n, t->h.act);
}

/* The gradients of a row's logits: by the shares of those chosen, and by balance. */
static void route_back_row(const lm_grad_pass *p, int row, const void *arg) {
    lm_trainer *t = p->t;
    size_t n = (size_t)t->h.n_experts, at = (size_t)row * (size_t)t->h.n_active;
    const float *probs = p->a->probs + (size_t)row * n;
    float *d = t->d_logits + (size_t)row * n;
    double mean = 0, pulled = 0;
    (void)arg;
    for (int k = 0; k < t->h.n_active; k++)
        mean += (double)p->a->share[at + (size_t)k] * (double)t->d_share[at + (size_t)k];
    for (size_t e = 0; e < n; e++) pulled += pull(p, (int)e) * (double)probs[e];
    for (size_t e = 0; e < n; e++) d[e] = (float)(t->o.balance * (double)probs[e] * (pull(p, (int)e) - pulled));
    for (int k = 0; k < t->h.n_active; k++) {
        size_t pair = at + (size_t)k;
        d[p->a->expert[pair]] += (float)((double)p->a->share[pair] * ((double)t->d_share[pair] - mean));
    }
}

void lm_experts_backward(const lm_grad_pass *p, const float *d, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    const lm_weight *w = p->w, *router = &w[LM_ROUTER], *gate = &w[LM_GATE_EXPS], *up = &w[LM_UP_EXPS],
                    *down = &w[LM_DOWN_EXPS];
    const lm_acts *a = p->a;
    int embd = t->h.n_embd, ff = t->h.n_ff, pairs = t->n * t->h.n_active, n_experts = t->h.n_experts;
    queue q = { .t = t };
    lm_grad_rows(p, gather_pair, &(gather){ a->h2, t->pair_x }, pairs, stop, err);
    lm_grad_rows(p, gather_pair, &(gather){ d, t->pair_d }, pairs, stop, err);
    for (int e = 0; e < n_experts && !err->code; e++) {
        size_t at = (size_t)a->first[e];
        lm_product product = lm_grad_input(t->d_wide2 + at * (size_t)ff, count_of(a, e), ff, t->pair_d + at * (size_t)embd,
                                           (size_t)embd, lm_weight_stack(down, rows_before(down, e), embd), 0);
        if (product.m) enqueue(&q, &product, 1, stop, err);
    }
    flush(&q, stop, err);
    lm_grad_rows(p, share_pair, NULL, pairs, stop, err);
    for (int e = 0; e < n_experts && !err->code && grad_of(down, 0); e++) {
        size_t at = (size_t)a->first[e];
        lm_product product = lm_grad_outer(grad_of(down, e), embd, ff, t->pair_d + at * (size_t)embd, (size_t)embd,
                                           a->act + at * (size_t)ff, count_of(a, e));
        if (product.k) enqueue(&q, &product, 1, stop, err);
    }
    flush(&q, stop, err);
    for (int e = 0; e < n_experts && !err->code; e++) {
        size_t at = (size_t)a->first[e], wide = 2 * (size_t)ff;
        const float *d_gu = t->d_wide + at * wide, *x = t->pair_x + at * (size_t)embd;
        int n = count_of(a, e), count = 0;
        lm_product products[3];
        if (!n) continue;
        if (grad_of(gate, e)) {
            products[count++] = lm_grad_outer(grad_of(gate, e), ff, embd, d_gu, wide, x, n);
            products[count] = lm_grad_outer(grad_of(up, e), ff, embd, d_gu + ff, wide, x, n);
            products[count++].same_b = 1;
        }
        products[count] = lm_grad_input(t->pair_d + at * (size_t)embd, n, embd, d_gu, wide,
                                        lm_weight_stack(gate, rows_before(gate, e), ff), 0);
        products[count].b[1] = lm_weight_stack(up, rows_before(up, e), ff);
        products[count++].k = 2 * ff;
        enqueue(&q, products, count, stop, err);
    }
    flush(&q, stop, err);
    lm_grad_rows(p, sum_row, &(sum_run){ t->pair_d, t->dh, 0 }, t->n, stop, err);
    lm_grad_rows(p, route_back_row, NULL, t->n, stop, err);
    lm_product input = lm_grad_input(t->dh, t->n, embd, t->d_logits, (size_t)n_experts,
                                     lm_weight_stack(router, 0, n_experts), 1);
    lm_products_run(&input, 1, t->packed, stop, err);
    if (!lm_weight_grad(router)) return;
    lm_product weights = lm_grad_outer(lm_weight_grad(router), n_experts, embd, t->d_logits, (size_t)n_experts, a->h2,
                                       t->n);
    lm_products_run(&weights, 1, t->packed, stop, err);
}

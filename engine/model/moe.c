/* moe.c: the half of a layer that is a mixture of experts (Shazeer et al. 2017; as Jiang et al. 2024 have it).
**
** The router, in floats, gives a row a logit for each expert; the n_active largest are chosen, of equals the lowest ids, and
** weighted by a softmax over those alone. Every chosen pair (row, expert) becomes a column of its own, grouped by expert, so
** that an expert's weights are read once for all rows that want it. A row's outputs are added in ascending order of expert.
** Each column is computed whole by one item, and rows meet nowhere: the company of a row does not show. */
#include "model.h"

#include <stdatomic.h>
#include <string.h>

enum { ITEMS = 8 /* a thread's share of a section */ };

struct lm_moe {
    const lm_kern *kern;
    int n_experts, n_active, n_embd, n_ff, exact;
    void *memory;                       /* what follows, in one block; n columns is rows * n_active */
    float *logits;                      /* (rows, n_experts) */
    int *expert;                        /* (rows, n_active): chosen, ascending */
    float *weight;                      /* (rows, n_active) */
    int *column;                        /* (rows, n_active): where that pair stands */
    int *first;                         /* (n_experts + 1): the columns of each expert */
    float *x;                           /* (n columns, n_embd): what goes in; then what comes out */
    float *gate, *up;                   /* (n columns, n_ff) */
    lm_columns in;
    int8_t *quants;
    /* Of the call: */
    const float *rows;                  /* (n, n_embd) */
    float *out;                         /* (n, n_embd) */
    int n, n_columns;
    const lm_mat *mats[2]; float *outs[2]; int n_mats;      /* of the current products */
    int tiles, tiles_an_item;
    void (*step)(lm_moe *s, int i);
    int n_step, steps_an_item;
    _Atomic int is_bad;
};

lm_moe *lm_moe_new(const lm_hparams *h, int max_rows, int exact, lm_err *err) {
    lm_moe *s = lm_calloc(1, sizeof *s, err);
    if (!s) return NULL;
    size_t rows = (size_t)max_rows, pairs = rows * (size_t)h->n_active, widest = (size_t)LM_MAX(h->n_embd, h->n_ff);
    size_t blocks = pairs * (widest / LM_BLOCK + 1);
    *s = (lm_moe){ .kern = lm_kern_get(), .n_experts = h->n_experts, .n_active = h->n_active, .n_embd = h->n_embd,
                   .n_ff = h->n_ff, .exact = exact };
    struct { void *at; size_t n, size; } parts[] = {
        { &s->logits, rows * (size_t)h->n_experts, sizeof(float) }, { &s->expert, pairs, sizeof(int) }, { &s->weight, pairs, sizeof(float) },
        { &s->column, pairs, sizeof(int) }, { &s->first, (size_t)h->n_experts + 1, sizeof(int) },
        { &s->x, pairs * (size_t)h->n_embd, sizeof(float) }, { &s->gate, pairs * (size_t)h->n_ff, sizeof(float) },
        { &s->up, pairs * (size_t)h->n_ff, sizeof(float) }, { &s->quants, blocks * LM_BLOCK * 2, 1 },
        { &s->in.d, blocks, sizeof(float) }, { &s->in.sum, LM_SUMS * blocks, sizeof(int32_t) },
        { &s->in.dsum, LM_SUMS * blocks, sizeof(float) },
    };
    size_t total = 0, at = 0;
    for (int i = 0; i < LM_COUNT(parts); i++) total += (parts[i].n * parts[i].size + 63) & ~(size_t)63;
    s->memory = lm_alloc(total, err);
    for (int i = 0; i < LM_COUNT(parts); at += (parts[i].n * parts[i].size + 63) & ~(size_t)63, i++) {
        *(void **)parts[i].at = (char *)s->memory + at;
    }
    if (!err->code) return s;
    lm_moe_free(s);
    return NULL;
}

void lm_moe_free(lm_moe *s) {
    if (!s) return;
    lm_free(s->memory);
    lm_free(s);
}

/*----------------------------------------------------------------------
** Sections of the pool */

static void steps_item(void *arg, int item) {
    lm_moe *s = arg;
    int end = LM_MIN((item + 1) * s->steps_an_item, s->n_step);
    for (int i = item * s->steps_an_item; i < end; i++) s->step(s, i);
}

static void run_steps(lm_moe *s, void (*step)(lm_moe *s, int i), int n, lm_stop stop, lm_err *err) {
    s->step = step;
    s->n_step = n;
    s->steps_an_item = LM_MAX(n / (lm_threads() * ITEMS), 1);
    lm_pool_run(steps_item, s, (n + s->steps_an_item - 1) / s->steps_an_item, stop, err);
}

/* An item is a stretch of one expert's tiles, of all the products side by side, by all the columns that want it. */
static void multiply_item(void *arg, int item) {
    lm_moe *s = arg;
    int per_expert = (s->tiles + s->tiles_an_item - 1) / s->tiles_an_item, e = item / per_expert;
    int first = item % per_expert * s->tiles_an_item, end = LM_MIN(first + s->tiles_an_item, s->tiles);
    for (int i = 0; i < s->n_mats && s->first[e] < s->first[e + 1] && end > 0; i++) {
        lm_mat w = lm_model_expert(s->mats[i], e);
        int from = LM_MAX(first, 0), to = LM_MIN(end, w.n_tiles);
        if (from < to)
            s->kern->multiply(&w, from, to, &s->in, s->first[e], s->first[e + 1], s->outs[i], (size_t)w.rows);
        first -= w.n_tiles;
        end -= w.n_tiles;
    }
}

/* Product i of those to run, which is the last: by the weights whose first expert is w. */
static void set_product(lm_moe *s, int i, const lm_mat *w, float *out) {
    s->mats[i] = w;
    s->outs[i] = out;
    s->n_mats = i + 1;
    s->tiles = (i ? s->tiles : 0) + w->n_tiles;
}

static void run_products(lm_moe *s, lm_stop stop, lm_err *err) {
    int busy = LM_MIN(s->n_columns, s->n_experts), most = s->tiles * busy / (lm_threads() * ITEMS);
    s->tiles_an_item = LM_MAX((most + 1) & ~1, 2);
    lm_pool_run(multiply_item, s, (s->tiles + s->tiles_an_item - 1) / s->tiles_an_item * s->n_experts, stop, err);
}

/* Name the input of the next products: columns of k floats, to be quantised unless the weights are floats. */
static void set_input(lm_moe *s, const float *x, int k, const lm_mat *weights, int n) {
    s->in.x = x;
    s->in.k = k;
    s->in.q = NULL;
    for (int i = 0; i < n && !s->exact; i++) {
        if (weights[i].format) s->in.q = s->quants;
    }
}

static void quantise(lm_moe *s, int i) {
    if (s->in.q && !s->kern->quantise(&s->in, i)) s->is_bad = 1;
}

/*----------------------------------------------------------------------
** Choosing */

/* Does expert a go before b? */
static int is_before(const float *logits, int a, int b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* The best expert behind one that was chosen already (-1: of all). */
static int next_best(const float *logits, int n, int last) {
    int best = -1;
    for (int e = 0; e < n; e++) {
        if ((last < 0 || is_before(logits, last, e)) && (best < 0 || is_before(logits, e, best))) best = e;
    }
    return best;
}

int lm_moe_choose(const float *logits, int n, int n_active, int *expert, float *weight) {
    double sum = 0, max = 0;
    memset(expert, 0, (size_t)n_active * sizeof *expert);
    for (int e = 0; e < n; e++) {
        if (logits[e] - logits[e] != 0) return 0;
    }
    for (int k = 0, last = -1; k < n_active; k++) {
        int at = k;
        last = next_best(logits, n, last);
        if (k == 0) max = (double)logits[last];
        for (; at && expert[at - 1] > last; at--) expert[at] = expert[at - 1];
        expert[at] = last;
    }
    for (int k = 0; k < n_active; k++) sum += lm_exp((double)logits[expert[k]] - max);
    for (int k = 0; k < n_active; k++) weight[k] = (float)(lm_exp((double)logits[expert[k]] - max) / sum);
    return 1;
}

static void route(lm_moe *s, int i) {
    size_t at = (size_t)i * (size_t)s->n_active;
    s->kern->multiply(s->mats[0], 0, s->mats[0]->n_tiles, &s->in, i, i + 1, s->logits, (size_t)s->n_experts);
    if (!lm_moe_choose(s->logits + (size_t)i * (size_t)s->n_experts, s->n_experts, s->n_active, s->expert + at,
                       s->weight + at))
        s->is_bad = 1;
}

void lm_moe_group(const int *expert, int pairs, int n, int *first, int *column) {
    memset(first, 0, ((size_t)n + 1) * sizeof *first);
    for (int i = 0; i < pairs; i++) first[expert[i] + 1]++;
    for (int e = 0; e < n; e++) first[e + 1] += first[e];
    for (int i = 0; i < pairs; i++) column[i] = first[expert[i]]++;
    for (int e = n; e > 0; e--) first[e] = first[e - 1];
    first[0] = 0;
}

static void gather(lm_moe *s, int i) {
    for (int k = 0; k < s->n_active; k++) {
        int c = s->column[i * s->n_active + k];
        memcpy(s->x + (size_t)c * (size_t)s->n_embd, s->rows + (size_t)i * (size_t)s->n_embd,
               (size_t)s->n_embd * sizeof(float));
        quantise(s, c);
    }
}

static void activate(lm_moe *s, int c) {
    size_t at = (size_t)c * (size_t)s->n_ff;
    s->kern->silu_mul(s->gate + at, s->up + at, s->n_ff);
    quantise(s, c);
}

static void add_up(lm_moe *s, int i) {
    float *out = s->out + (size_t)i * (size_t)s->n_embd;
    memset(out, 0, (size_t)s->n_embd * sizeof *out);
    for (int k = 0; k < s->n_active; k++) {
        const float *x = s->x + (size_t)s->column[i * s->n_active + k] * (size_t)s->n_embd;
        float weight = s->weight[i * s->n_active + k];
        for (int j = 0; j < s->n_embd; j++) out[j] += weight * x[j];
    }
}

/*----------------------------------------------------------------------
** The story. */
int lm_moe_run(lm_moe *s, const lm_mat *w, const float *rows, int n, float *out, lm_stop stop, lm_err *err) {
    s->rows = rows;
    s->out = out;
    s->n = n;
    s->is_bad = 0;

    set_input(s, rows, s->n_embd, NULL, 0);
    s->mats[0] = &w[LM_ROUTER];
    run_steps(s, route, n, stop, err);
    if (err->code || s->is_bad) return !s->is_bad;
    s->n_columns = n * s->n_active;
    lm_moe_group(s->expert, s->n_columns, s->n_experts, s->first, s->column);

    set_input(s, s->x, s->n_embd, &w[LM_GATE_EXPS], 2);
    run_steps(s, gather, n, stop, err);
    set_product(s, 0, &w[LM_GATE_EXPS], s->gate);
    set_product(s, 1, &w[LM_UP_EXPS], s->up);
    run_products(s, stop, err);
    set_input(s, s->gate, s->n_ff, &w[LM_DOWN_EXPS], 1);
    run_steps(s, activate, s->n_columns, stop, err);
    set_product(s, 0, &w[LM_DOWN_EXPS], s->x);
    run_products(s, stop, err);
    run_steps(s, add_up, n, stop, err);
    return !s->is_bad;
}

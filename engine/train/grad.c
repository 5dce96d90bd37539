/* grad.c: one pass of packed sequences through the decoder and back, in the order of forward.c, all in float32.
**
** What the way back needs is left in a layer's lm_acts on the way forward. Weights stay as they are stored; products pack what
** they read (blas.c). Sums over rows are either chains of a product, or sums by stretches of ROWS rows added up in order, or run
** down a stretch of columns: none depends on the number of threads. */
#include "train.h"

#include <string.h>

enum { ROWS = 32, COLS = 64 };

/*----------------------------------------------------------------------
** Sections by rows: item = ROWS of them. */
typedef struct {
    const lm_grad_pass *p;
    void (*step)(const lm_grad_pass *p, int row, const void *arg);
    const void *arg;
    int n;
} rows_run;

static void rows_item(void *arg, int item) {
    const rows_run *r = arg;
    for (int i = item * ROWS; i < LM_MIN(item * ROWS + ROWS, r->n); i++) r->step(r->p, i, r->arg);
}

void lm_grad_rows(const lm_grad_pass *p, void (*step)(const lm_grad_pass *p, int row, const void *arg),
                  const void *arg, int n, lm_stop stop, lm_err *err) {
    lm_pool_run(rows_item, &(rows_run){ p, step, arg, n }, (n + ROWS - 1) / ROWS, stop, err);
}

/* The sum of a matrix's rows is added to a vector (a bias's gradient): item = COLS columns. */
typedef struct { const lm_trainer *t; const float *d; size_t stride; int n, cols; float *out; } columns_run;

static void columns_item(void *arg, int item) {
    const columns_run *r = arg;
    int first = item * COLS, cols = LM_MIN(COLS, r->cols - first);
    for (int i = 0; i < r->n; i++) r->t->kern->add(r->out + first, r->d + (size_t)i * r->stride + first, cols);
}

static void add_columns(const lm_trainer *t, const float *d, size_t stride, int n, int cols, float *out, lm_stop stop,
                        lm_err *err) {
    if (out)
        lm_pool_run(columns_item, &(columns_run){ t, d, stride, n, cols, out }, (cols + COLS - 1) / COLS, stop, err);
}

static void bias_gradient(const lm_trainer *t, const lm_weight *bias, const float *d, size_t stride, lm_stop stop,
                          lm_err *err) {
    add_columns(t, d, stride, t->n, bias->cols, lm_weight_grad(bias), stop, err);
}

/*----------------------------------------------------------------------
** Norms. */
typedef struct {
    const lm_weight *weight, *bias;
    const float *x; size_t x_stride;
    const float *stat;                  /* (n, n_stats, 2), of which these vectors' begin at first_stat */
    int vectors;                        /* side by side in a row */
    const float *dy; size_t dy_stride;
    float *dx; size_t dx_stride;
    int add, n_stats, first_stat;
} norm_run;

static void check_scale(lm_trainer *t, float scale) {
    if (!(scale > 0 && scale < INFINITY)) t->is_bad = 1;
}

static void norm(lm_trainer *t, const float *x, const lm_weight *weight, const lm_weight *bias, float *out,
                 float *stat) {
    t->kern->norm(x, lm_weight_value(weight), bias ? lm_weight_value(bias) : NULL, t->h.norm == LM_NORM_LAYER,
                  t->h.norm_eps, weight->cols, out, stat);
    check_scale(t, stat[1]);
}

static void norm_back_item(void *arg, int item) {
    const rows_run *r = arg;
    const norm_run *s = r->arg;
    lm_trainer *t = r->p->t;
    size_t n = (size_t)s->weight->cols;
    float *d_weight = lm_weight_grad(s->weight) ? t->partial + (size_t)item * 2 * n : NULL,
          *d_bias = s->bias && lm_weight_grad(s->bias) ? d_weight + n : NULL;
    if (d_weight) memset(d_weight, 0, 2 * n * sizeof(float));
    for (int i = item * ROWS; i < LM_MIN(item * ROWS + ROWS, r->n); i++) {
        for (int v = 0; v < s->vectors; v++) {
            size_t at = (size_t)v * n, row = (size_t)i;
            t->kern->norm_backward(s->x + row * s->x_stride + at, lm_weight_value(s->weight),
                                   s->stat + 2 * (row * (size_t)s->n_stats + (size_t)(s->first_stat + v)),
                                   t->h.norm == LM_NORM_LAYER, s->dy + row * s->dy_stride + at, (int)n,
                                   s->dx + row * s->dx_stride + at, s->add, d_weight, d_bias);
        }
    }
}

static void norm_backward(const lm_grad_pass *p, norm_run s, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    int items = (t->n + ROWS - 1) / ROWS, n = s.weight->cols;
    lm_pool_run(norm_back_item, &(rows_run){ .p = p, .arg = &s, .n = t->n }, items, stop, err);
    if (!lm_weight_grad(s.weight)) return;
    add_columns(t, t->partial, 2 * (size_t)n, items, n, lm_weight_grad(s.weight), stop, err);
    if (s.bias) add_columns(t, t->partial + n, 2 * (size_t)n, items, n, lm_weight_grad(s.bias), stop, err);
}

/* A norm of whole rows of the stream. */
static norm_run whole(const lm_trainer *t, const lm_weight *weight, const lm_weight *bias, const float *x,
                      const float *stat, const float *dy, float *dx, int add) {
    size_t n = (size_t)t->h.n_embd;
    return (norm_run){ weight, bias && bias->p ? bias : NULL, x, n, stat, 1, dy, n, dx, n, add, 1, 0 };
}

/*----------------------------------------------------------------------
** Products with weights side by side (up to 3, of which the last is there), their outputs too. */
enum { STACK = 3 };
typedef struct { const lm_weight *w[STACK]; int n; } side;

static side side_of(const lm_weight *a, const lm_weight *b, const lm_weight *last) {
    side s = {0};
    if (a && a->p) s.w[s.n++] = a;
    if (b && b->p) s.w[s.n++] = b;
    s.w[s.n++] = last;
    return s;
}

static int stack_side(const side *s, lm_stack *out) {
    int rows = 0;
    for (int i = 0; i < s->n; i++) {
        out[i] = lm_weight_stack(s->w[i], 0, s->w[i]->rows);
        rows += s->w[i]->rows;
    }
    return rows;
}

static void scale_row(const lm_grad_pass *p, int row, const void *arg) {
    const struct { float *x; int n; } *s = arg;
    float by = (float)(p->t->o.lora_alpha / p->t->o.lora_rank);
    for (int i = 0; i < s->n; i++) s->x[(size_t)row * (size_t)s->n + (size_t)i] *= by;
}

/* Those of an adapter's B: where a tensor is several weights it stands at the first, and is of them all. */
static int up_rows(const lm_weight *w) { return (int)w->up->info.ne[1]; }

/* out (n, rows) = x . W, and what W's adapter adds to it. */
static void forward(const lm_grad_pass *p, side s, const float *x, float *out, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    int cols = s.w[0]->cols, n = t->n, rank = t->o.lora_rank, at = 0;
    lm_product product = { .m = n, .k = cols, .a = x, .ar = (size_t)cols, .ak = 1, .b_turned = 1, .c = out };
    product.n = stack_side(&s, product.b);
    product.stride = (size_t)product.n;
    lm_products_run(&product, 1, t->packed, stop, err);
    for (int i = 0; i < s.n; at += s.w[i++]->rows) {
        const lm_weight *w = s.w[i];
        if (!w->down) continue;
        struct { float *x; int n; } mid = { p->a->mids + w->mid * (size_t)t->max_rows, rank };
        lm_product down = lm_grad_output(x, n, cols, lm_param_stack(w->down, 0, rank), mid.x, (size_t)rank);
        lm_product up = lm_grad_output(mid.x, n, rank, lm_param_stack(w->up, 0, up_rows(w)), out + at, product.stride);
        up.add = 1;
        lm_products_run(&down, 1, t->packed, stop, err);
        lm_grad_rows(p, scale_row, &mid, n, stop, err);
        lm_products_run(&up, 1, t->packed, stop, err);
    }
}

/* Given d of out: the weights' gradients, and dx (n, cols) of x. */
static void backward(const lm_grad_pass *p, side s, const float *x, const float *d, float *dx, lm_stop stop,
                     lm_err *err) {
    lm_trainer *t = p->t;
    lm_product products[STACK + 1];
    int cols = s.w[0]->cols, n = t->n, rank = t->o.lora_rank, count = 0, at = 0;
    lm_product input = { .m = n, .n = cols, .a = d, .ak = 1, .c = dx, .stride = (size_t)cols };
    input.k = stack_side(&s, input.b);
    input.ar = (size_t)input.k;
    for (int i = 0; i < s.n; at += s.w[i++]->rows) {
        if (!lm_weight_grad(s.w[i])) continue;
        products[count] = lm_grad_outer(lm_weight_grad(s.w[i]), s.w[i]->rows, cols, d + at, input.ar, x, n);
        products[count].same_b = count > 0;
        count++;
    }
    products[count++] = input;
    lm_products_run(products, count, t->packed, stop, err);
    at = 0;
    for (int i = 0; i < s.n; at += s.w[i++]->rows) {
        const lm_weight *w = s.w[i];
        if (!w->down) continue;
        const float *mid = p->a->mids + w->mid * (size_t)t->max_rows;
        struct { float *x; int n; } d_mid = { t->d_mid, rank };
        lm_product first[] = {
            lm_grad_outer(w->up->data[LM_TRAIN_GRAD], up_rows(w), rank, d + at, input.ar, mid, n),
            lm_grad_input(d_mid.x, n, rank, d + at, input.ar, lm_param_stack(w->up, 0, up_rows(w)), 0),
        };
        lm_product then[] = {
            lm_grad_outer(w->down->data[LM_TRAIN_GRAD], rank, cols, d_mid.x, (size_t)rank, x, n),
            lm_grad_input(dx, n, cols, d_mid.x, (size_t)rank, lm_param_stack(w->down, 0, rank), 1),
        };
        lm_products_run(first, 2, t->packed, stop, err);
        lm_grad_rows(p, scale_row, &d_mid, n, stop, err);
        lm_products_run(then, 2, t->packed, stop, err);
    }
}

/*----------------------------------------------------------------------
** The stream: embeddings, and where half a layer ends. */

/* Site 0 is the embeddings, 2 layer + 1 and 2 layer + 2 what the layer's halves add. */
static void dropout(const lm_trainer *t, int row, int site, float *x) {
    if (!t->is_training || t->o.dropout == 0) return;
    uint64_t z = t->o.seed * 0x9E3779B97F4A7C15u + (uint64_t)t->steps;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u + (uint64_t)site;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu + t->first_row + (uint64_t)row;
    z = (z ^ z >> 31) * 0xBF58476D1CE4E5B9u;
    t->kern->drop(x, t->h.n_embd, (uint32_t)(z >> 32), (uint32_t)(t->o.dropout * 4294967296.0),
                  (float)(1 / (1 - t->o.dropout)));
}

static void add_table_row(const lm_trainer *t, const lm_weight *table, int row, float *x) {
    if (!table->p) return;
    size_t n = (size_t)t->h.n_embd;
    float buffer[256];
    for (size_t at = 0; at < n; at += LM_COUNT(buffer)) {
        int count = (int)LM_MIN(n - at, (size_t)LM_COUNT(buffer));
        lm_stack s = lm_weight_stack(table, (size_t)row, 1);
        const float *from = (const float *)s.rows + at;
        if (s.dtype) {
            s.dtype->decode((const uint8_t *)s.rows + at / (size_t)s.dtype->block * (size_t)s.dtype->bytes, buffer,
                            count);
            from = buffer;
        }
        t->kern->add(x + at, from, count);
    }
}

static void embed_row(const lm_grad_pass *p, int row, const void *arg) {
    lm_trainer *t = p->t;
    (void)arg;
    size_t n = (size_t)t->h.n_embd, at = (size_t)row * n;
    const lm_weight *weight = &t->top[LM_EMBD_NORM];
    float *to = t->acts[0].x + at, *x = weight->p ? t->embd + at : to;
    memset(x, 0, n * sizeof *x);
    add_table_row(t, &t->top[LM_TOKEN_EMBD], t->ids[row], x);
    for (size_t i = 0; t->h.embd_scale != 1.0f && i < n; i++) x[i] *= t->h.embd_scale;
    add_table_row(t, &t->top[LM_POS_EMBD], t->pos[row], x);
    add_table_row(t, &t->top[LM_TYPE_EMBD], 0, x);
    if (weight->p) norm(t, x, weight, &t->top[LM_EMBD_NORM_BIAS], to, t->embd_stat + 2 * (size_t)row);
    dropout(t, row, 0, to);
}

typedef struct {
    const lm_weight *bias, *post, *out, *out_bias;
    const float *in;                    /* the stream before */
    float *delta, *delta_stat;          /* what is added, before its norm */
    float *sum, *sum_stat;              /* where there is an out norm: what it norms */
    float *to;                          /* the stream after */
    int site;
} half_end;

static half_end attn_end(const lm_grad_pass *p) {
    const lm_weight *w = p->w;
    const lm_acts *a = p->a;
    return (half_end){ &w[LM_O_BIAS], &w[LM_ATTN_POST_NORM], &w[LM_ATTN_OUT_NORM], &w[LM_ATTN_OUT_NORM_BIAS],
                       a->x, a->attn, a->attn_stat, a->mid_sum, a->mid_stat, a->mid, 2 * p->layer + 1 };
}

static half_end ffn_end(const lm_grad_pass *p) {
    const lm_weight *w = p->w;
    const lm_acts *a = p->a;
    float *to = p->layer + 1 < p->t->h.n_layers ? p->t->acts[p->layer + 1].x : p->t->stream;
    return (half_end){ &w[LM_DOWN_BIAS], &w[LM_FFN_POST_NORM], &w[LM_FFN_OUT_NORM], &w[LM_FFN_OUT_NORM_BIAS],
                       a->mid, a->ffn, a->ffn_stat, a->end_sum, a->end_stat, to, 2 * p->layer + 2 };
}

/* to = in + delta, which may have a bias, be normed and have parts dropped; then that may be normed. */
static void end_half(const lm_grad_pass *p, int row, const half_end *e) {
    lm_trainer *t = p->t;
    size_t n = (size_t)t->h.n_embd, at = (size_t)row * n;
    float *delta = e->delta + at, *sum = (e->out->p ? e->sum : e->to) + at;
    if (e->bias->p) t->kern->add(delta, lm_weight_value(e->bias), (int)n);
    if (e->post->p) norm(t, delta, e->post, NULL, t->delta + at, e->delta_stat + 2 * (size_t)row);
    if (e->post->p) delta = t->delta + at;
    dropout(t, row, e->site, delta);
    memcpy(sum, e->in + at, n * sizeof *sum);
    t->kern->add(sum, delta, (int)n);
    if (e->out->p) norm(t, sum, e->out, e->out_bias, e->to + at, e->sum_stat + 2 * (size_t)row);
}

static void drop_row(const lm_grad_pass *p, int row, const void *arg) {
    size_t n = (size_t)p->t->h.n_embd, at = (size_t)row * n;
    memcpy(p->t->dd + at, p->t->dx + at, n * sizeof(float));
    dropout(p->t, row, *(const int *)arg, p->t->dd + at);
}

/* dx of the stream after becomes dx of the stream before, but for what half the layer reads of it. Return the gradient of
** delta: dx itself where nothing stands between. */
static const float *end_half_backward(const lm_grad_pass *p, const half_end *e, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    float *d = t->dx;
    if (e->out->p) norm_backward(p, whole(t, e->out, e->out_bias, e->sum, e->sum_stat, t->dx, t->dx, 0), stop, err);
    if (e->post->p || (t->is_training && t->o.dropout > 0)) {
        d = t->dd;
        lm_grad_rows(p, drop_row, &e->site, t->n, stop, err);
    }
    if (e->post->p) norm_backward(p, whole(t, e->post, NULL, e->delta, e->delta_stat, d, d, 0), stop, err);
    if (e->bias->p) bias_gradient(t, e->bias, d, (size_t)t->h.n_embd, stop, err);
    return d;
}

/*----------------------------------------------------------------------
** Other steps of a layer, by row. */
static void turn_row(const lm_grad_pass *p, int row, float *qkv, float sign) {
    const lm_trainer *t = p->t;
    const lm_hparams *h = &t->h;
    int local = lm_hparams_is_local(h, p->layer) && t->cosine[1];
    size_t at = (size_t)t->pos[row] * (size_t)(h->n_rot / 2);
    if (!h->n_rot) return;
    t->kern->turn(qkv, h->n_heads + h->n_kv_heads, h->head_dim, h->n_rot, h->rope == LM_ROPE_PAIRS,
                  t->cosine[local] + at, t->sine[local] + at, sign);
}

/* Norm each vector of raw to out. */
static void norm_heads(lm_trainer *t, const float *raw, const lm_weight *weight, int n, float *out, float *stat) {
    for (size_t i = 0, dim = (size_t)t->h.head_dim; i < (size_t)n; i++)
        norm(t, raw + i * dim, weight, NULL, out + i * dim, stat + 2 * i);
}

static void qkv_row(const lm_grad_pass *p, int row, const void *arg) {
    lm_trainer *t = p->t;
    const lm_hparams *h = &t->h;
    size_t heads = lm_width_heads(h), kv = lm_width_kv(h), n_vectors = (size_t)h->n_heads + (size_t)h->n_kv_heads;
    float *q = p->a->qkv + (size_t)row * lm_width_qkv(h), *k = q + heads;
    (void)arg;
    if (p->w[LM_Q_BIAS].p) t->kern->add(q, lm_weight_value(&p->w[LM_Q_BIAS]), (int)heads);
    if (p->w[LM_K_BIAS].p) t->kern->add(k, lm_weight_value(&p->w[LM_K_BIAS]), (int)kv);
    if (p->w[LM_V_BIAS].p) t->kern->add(k + kv, lm_weight_value(&p->w[LM_V_BIAS]), (int)kv);
    if (p->w[LM_Q_NORM].p) {
        float *raw = p->a->raw_qk + (size_t)row * (heads + kv), *stat = p->a->qk_stat + 2 * (size_t)row * n_vectors;
        memcpy(raw, q, (heads + kv) * sizeof *raw);
        norm_heads(t, raw, &p->w[LM_Q_NORM], h->n_heads, q, stat);
        norm_heads(t, raw + heads, &p->w[LM_K_NORM], h->n_kv_heads, k, stat + 2 * h->n_heads);
    }
    turn_row(p, row, q, 1);
}

static void turn_back_row(const lm_grad_pass *p, int row, const void *arg) {
    (void)arg;
    turn_row(p, row, p->t->d_wide + (size_t)row * lm_width_qkv(&p->t->h), -1);
}

static void attn_begin_row(const lm_grad_pass *p, int row, const void *arg) {
    size_t at = (size_t)row * (size_t)p->t->h.n_embd;
    (void)arg;
    norm(p->t, p->a->x + at, &p->w[LM_ATTN_NORM], &p->w[LM_ATTN_NORM_BIAS], p->a->h + at, p->a->stat + 2 * (size_t)row);
}

static void attn_end_row(const lm_grad_pass *p, int row, const void *arg) {
    size_t at = (size_t)row * (size_t)p->t->h.n_embd;
    end_half(p, row, arg);
    if (p->w[LM_FFN_NORM].p)
        norm(p->t, p->a->mid + at, &p->w[LM_FFN_NORM], &p->w[LM_FFN_NORM_BIAS], p->a->h2 + at,
             p->a->stat2 + 2 * (size_t)row);
}

static void ffn_end_row(const lm_grad_pass *p, int row, const void *arg) { end_half(p, row, arg); }

static void act_row(const lm_grad_pass *p, int row, const void *arg) {
    const lm_hparams *h = &p->t->h;
    size_t n = (size_t)h->n_ff, has_gate = p->w[LM_GATE].p != NULL;
    float *gate = p->a->gu + (size_t)row * n * (1 + has_gate);
    (void)arg;
    if (p->w[LM_UP_BIAS].p) p->t->kern->add(gate + n * has_gate, lm_weight_value(&p->w[LM_UP_BIAS]), (int)n);
    p->t->kern->act(gate, has_gate ? gate + n : NULL, (int)n, p->a->act + (size_t)row * n, h->act);
}

static void act_back_row(const lm_grad_pass *p, int row, const void *arg) {
    lm_trainer *t = p->t;
    size_t n = (size_t)t->h.n_ff, has_gate = p->w[LM_GATE].p != NULL, at = (size_t)row * n * (1 + has_gate);
    (void)arg;
    t->kern->act_backward(p->a->gu + at, has_gate ? p->a->gu + at + n : NULL, t->d_wide2 + (size_t)row * n, (int)n,
                          t->d_wide + at, has_gate ? t->d_wide + at + n : NULL, t->h.act);
}

/*----------------------------------------------------------------------
** The story. */
static lm_grad_pass pass_of(lm_trainer *t, int layer) {
    return (lm_grad_pass){ t, layer, t->layer[layer], &t->acts[layer], 0 };
}

static side qkv_of(const lm_grad_pass *p) { return side_of(&p->w[LM_Q], &p->w[LM_K], &p->w[LM_V]); }
static side up_of(const lm_grad_pass *p) { return side_of(&p->w[LM_GATE], NULL, &p->w[LM_UP]); }

static void layer_forward(lm_trainer *t, int layer, lm_stop stop, lm_err *err) {
    lm_grad_pass p = pass_of(t, layer);
    half_end middle = attn_end(&p), end = ffn_end(&p);
    if (p.w[LM_ATTN_NORM].p) lm_grad_rows(&p, attn_begin_row, NULL, t->n, stop, err);
    forward(&p, qkv_of(&p), p.a->h, p.a->qkv, stop, err);
    lm_grad_rows(&p, qkv_row, NULL, t->n, stop, err);
    lm_attend_forward(&p, stop, err);
    forward(&p, side_of(NULL, NULL, &p.w[LM_O]), p.a->mixed, p.a->attn, stop, err);
    lm_grad_rows(&p, attn_end_row, &middle, t->n, stop, err);
    if (p.w[LM_ROUTER].p) {
        lm_experts_forward(&p, stop, err);
    } else {
        forward(&p, up_of(&p), p.a->h2, p.a->gu, stop, err);
        lm_grad_rows(&p, act_row, NULL, t->n, stop, err);
        forward(&p, side_of(NULL, NULL, &p.w[LM_DOWN]), p.a->act, p.a->ffn, stop, err);
    }
    lm_grad_rows(&p, ffn_end_row, &end, t->n, stop, err);
    if (t->is_bad) lm_err_set(err, LM_ERROR, "layer %d: activations not finite", layer);
}

/* The norms of queries and keys, on the way back in place. */
static void qk_norms_backward(const lm_grad_pass *p, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    const lm_hparams *h = &t->h;
    size_t heads = lm_width_heads(h), both = heads + lm_width_kv(h), stride = lm_width_qkv(h);
    for (int is_key = 0; is_key < 2; is_key++) {
        size_t at = is_key ? heads : 0;
        norm_backward(p,
                      (norm_run){ &p->w[is_key ? LM_K_NORM : LM_Q_NORM], NULL, p->a->raw_qk + at, both, p->a->qk_stat,
                                  is_key ? h->n_kv_heads : h->n_heads, t->d_wide + at, stride, t->d_wide + at, stride,
                                  0, h->n_heads + h->n_kv_heads, is_key ? h->n_heads : 0 },
                      stop, err);
    }
}

static void add_row(const lm_grad_pass *p, int row, const void *arg) {
    size_t n = (size_t)p->t->h.n_embd, at = (size_t)row * n;
    (void)arg;
    p->t->kern->add(p->t->dx + at, p->t->dh + at, (int)n);
}

/* What half a layer read of the stream, normed or as it was, gives back to dx. */
static void begin_half_backward(const lm_grad_pass *p, const lm_weight *weight, const lm_weight *bias, const float *x,
                                const float *stat, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    if (weight->p) norm_backward(p, whole(t, weight, bias, x, stat, t->dh, t->dx, 1), stop, err);
    else lm_grad_rows(p, add_row, NULL, t->n, stop, err);
}

static void ffn_backward(const lm_grad_pass *p, const float *d, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    size_t n = (size_t)t->h.n_ff, wide = n * (p->w[LM_GATE].p ? 2 : 1);
    backward(p, side_of(NULL, NULL, &p->w[LM_DOWN]), p->a->act, d, t->d_wide2, stop, err);
    lm_grad_rows(p, act_back_row, NULL, t->n, stop, err);
    if (p->w[LM_UP_BIAS].p) bias_gradient(t, &p->w[LM_UP_BIAS], t->d_wide + wide - n, wide, stop, err);
    backward(p, up_of(p), p->a->h2, t->d_wide, t->dh, stop, err);
}

static void layer_backward(lm_trainer *t, int layer, lm_stop stop, lm_err *err) {
    lm_grad_pass p = pass_of(t, layer);
    half_end middle = attn_end(&p), end = ffn_end(&p);
    const lm_hparams *h = &t->h;
    size_t stride = lm_width_qkv(h), heads = lm_width_heads(h), kv = lm_width_kv(h);
    const float *d = end_half_backward(&p, &end, stop, err);
    if (p.w[LM_ROUTER].p) lm_experts_backward(&p, d, stop, err);
    else ffn_backward(&p, d, stop, err);
    begin_half_backward(&p, &p.w[LM_FFN_NORM], &p.w[LM_FFN_NORM_BIAS], p.a->mid, p.a->stat2, stop, err);

    d = end_half_backward(&p, &middle, stop, err);
    backward(&p, side_of(NULL, NULL, &p.w[LM_O]), p.a->mixed, d, t->d_wide2, stop, err);
    lm_attend_backward(&p, stop, err);
    lm_grad_rows(&p, turn_back_row, NULL, t->n, stop, err);
    if (p.w[LM_Q_NORM].p) qk_norms_backward(&p, stop, err);
    if (p.w[LM_Q_BIAS].p) bias_gradient(t, &p.w[LM_Q_BIAS], t->d_wide, stride, stop, err);
    if (p.w[LM_K_BIAS].p) bias_gradient(t, &p.w[LM_K_BIAS], t->d_wide + heads, stride, stop, err);
    if (p.w[LM_V_BIAS].p) bias_gradient(t, &p.w[LM_V_BIAS], t->d_wide + heads + kv, stride, stop, err);
    backward(&p, qkv_of(&p), p.a->h, t->d_wide, t->dh, stop, err);
    begin_half_backward(&p, &p.w[LM_ATTN_NORM], &p.w[LM_ATTN_NORM_BIAS], p.a->x, p.a->stat, stop, err);
}

static void final_row(const lm_grad_pass *p, int row, const void *arg) {
    lm_trainer *t = p->t;
    size_t at = (size_t)row * (size_t)t->h.n_embd;
    (void)arg;
    norm(t, t->stream + at, &t->top[LM_OUTPUT_NORM], &t->top[LM_OUTPUT_NORM_BIAS], t->final + at,
         t->final_stat + 2 * (size_t)row);
}

void lm_grad_forward(lm_trainer *t, lm_stop stop, lm_err *err) {
    lm_grad_pass p = { .t = t };
    t->is_bad = 0;
    lm_grad_rows(&p, embed_row, NULL, t->n, stop, err);
    for (int layer = 0; layer < t->h.n_layers && !err->code; layer++) layer_forward(t, layer, stop, err);
    if (t->top[LM_OUTPUT_NORM].p) lm_grad_rows(&p, final_row, NULL, t->n, stop, err);
    if (t->is_bad) lm_err_set(err, LM_ERROR, "output: activations not finite");
}

/*----------------------------------------------------------------------
** The loss, over the rows that have targets: panel_rows of them at a time by blocks of the vocabulary, so that there are never
** logits of a whole batch. */
static void gather_row(const lm_grad_pass *p, int i, const void *arg) {
    lm_trainer *t = p->t;
    size_t n = (size_t)t->h.n_embd;
    (void)arg;
    memcpy(t->head + (size_t)i * n, t->final + (size_t)t->targets[i] * n, n * sizeof(float));
}

static void scatter_row(const lm_grad_pass *p, int i, const void *arg) {
    lm_trainer *t = p->t;
    size_t n = (size_t)t->h.n_embd;
    (void)arg;
    memcpy(t->dh + (size_t)t->targets[i] * n, t->d_head + (size_t)i * n, n * sizeof(float));
}

static void loss_item(void *arg, int i) {
    const struct { lm_trainer *t; int first; } *r = arg;
    lm_trainer *t = r->t;
    int row = t->targets[r->first + i];
    double weight = t->weights ? (double)t->weights[row + 1] : 1;
    t->losses[r->first + i] = weight
                              * t->kern->cross_entropy(t->logits + (size_t)i * (size_t)t->h.n_vocab, t->h.n_vocab,
                                                       t->ids[row + 1], (float)(weight / t->total_weight));
}

static void panel_loss(lm_trainer *t, int first, int n, int backward, lm_stop stop, lm_err *err) {
    const lm_weight *w = &t->top[LM_OUTPUT];
    int dim = t->h.n_embd, vocab = t->h.n_vocab, step = t->vocab_block, keep = step >= vocab;
    const float *x = t->head + (size_t)first * (size_t)dim;
    float *packed[3] = { t->packed, t->packed + lm_packed_floats(dim, step),
                         t->packed + lm_packed_floats(dim, step) + lm_packed_floats(step, dim) };
    struct { lm_trainer *t; int first; } r = { t, first };
    for (int v = 0; v < vocab; v += step) {
        int some = LM_MIN(step, vocab - v);
        lm_product logits = lm_grad_output(x, n, dim, lm_weight_stack(w, (size_t)v, some), t->logits + v, (size_t)vocab);
        logits.packed_b = packed[0];
        logits.is_packed = keep && first;
        lm_products_run(&logits, 1, packed[2], stop, err);
    }
    lm_pool_run(loss_item, &r, n, stop, err);
    for (int v = 0; backward && v < vocab; v += step) {
        int some = LM_MIN(step, vocab - v), count = 0;
        lm_product products[2];
        float *g = lm_weight_grad(w);
        if (g)
            products[count++] = lm_grad_outer(g + (size_t)v * (size_t)dim, some, dim, t->logits + v, (size_t)vocab, x,
                                              n);
        products[count] = lm_grad_input(t->d_head + (size_t)first * (size_t)dim, n, dim, t->logits + v, (size_t)vocab,
                                        lm_weight_stack(w, (size_t)v, some), v > 0);
        products[count].packed_b = packed[1];
        products[count++].is_packed = keep && first;
        lm_products_run(products, count, packed[2], stop, err);
    }
}

double lm_grad_loss(lm_trainer *t, int backward, lm_stop stop, lm_err *err) {
    lm_grad_pass p = { .t = t };
    double sum = 0;
    lm_grad_rows(&p, gather_row, NULL, t->n_targets, stop, err);
    for (int first = 0; first < t->n_targets && !err->code; first += t->panel_rows) {
        panel_loss(t, first, LM_MIN(t->panel_rows, t->n_targets - first), backward, stop, err);
    }
    for (int i = 0; i < t->n_targets && !err->code; i++) sum += t->losses[i];
    if (!backward || err->code) return sum;
    memset(t->dh, 0, (size_t)t->n * (size_t)t->h.n_embd * sizeof(float));
    lm_grad_rows(&p, scatter_row, NULL, t->n_targets, stop, err);
    return sum;
}

/*----------------------------------------------------------------------
** The way back. */

/* Rows of dx are added to the rows of a table that they came from: item = COLS columns. */
typedef struct { lm_trainer *t; const int32_t *rows; float *out; float by; } scatter_run;

static void scatter_item(void *arg, int item) {
    const scatter_run *r = arg;
    size_t n = (size_t)r->t->h.n_embd, first = (size_t)item * COLS;
    int cols = (int)LM_MIN((size_t)COLS, n - first);
    for (int i = 0; i < r->t->n; i++) {
        size_t row = r->rows ? (size_t)r->rows[i] : 0;
        r->t->kern->add_scaled(r->out + row * n + first, r->t->dx + (size_t)i * n + first, cols, r->by);
    }
}

static void scatter(lm_trainer *t, const lm_weight *table, const int32_t *rows, float by, lm_stop stop, lm_err *err) {
    if (lm_weight_grad(table))
        lm_pool_run(scatter_item, &(scatter_run){ t, rows, lm_weight_grad(table), by },
                    (t->h.n_embd + COLS - 1) / COLS, stop, err);
}

static void drop_embedding_row(const lm_grad_pass *p, int row, const void *arg) {
    (void)arg;
    dropout(p->t, row, 0, p->t->dx + (size_t)row * (size_t)p->t->h.n_embd);
}

void lm_grad_backward(lm_trainer *t, lm_stop stop, lm_err *err) {
    lm_grad_pass p = { .t = t };
    const lm_weight *top = t->top;
    if (top[LM_OUTPUT_NORM].p)
        norm_backward(&p,
                      whole(t, &top[LM_OUTPUT_NORM], &top[LM_OUTPUT_NORM_BIAS], t->stream, t->final_stat, t->dh,
                            t->dx, 0),
                      stop, err);
    else memcpy(t->dx, t->dh, (size_t)t->n * (size_t)t->h.n_embd * sizeof(float));
    for (int layer = t->h.n_layers - 1; layer >= 0 && !err->code; layer--) {
        if (t->o.recompute) layer_forward(t, layer, stop, err);
        layer_backward(t, layer, stop, err);
    }
    if (t->o.dropout > 0 && t->is_training) lm_grad_rows(&p, drop_embedding_row, NULL, t->n, stop, err);
    if (top[LM_EMBD_NORM].p)
        norm_backward(&p,
                      whole(t, &top[LM_EMBD_NORM], &top[LM_EMBD_NORM_BIAS], t->embd, t->embd_stat, t->dx, t->dx, 0),
                      stop, err);
    scatter(t, &t->top[LM_TOKEN_EMBD], t->ids, t->h.embd_scale, stop, err);
    scatter(t, &t->top[LM_POS_EMBD], t->pos, 1, stop, err);
    scatter(t, &t->top[LM_TYPE_EMBD], NULL, 1, stop, err);
}

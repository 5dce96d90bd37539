/* attend.c: attention of packed sequences, forward and back, each of which sees itself alone.
**
** No probabilities are kept but the logarithm of each row's sum; they are worked out again on the way back, a block of 64
** queries at a time (Dao et al. 2022). There an item is a stretch of KEYS keys, so that the sums for keys and values are its
** own, and stretches follow each other, for those of the queries. */
#include "train.h"

#include <stdatomic.h>
#include <string.h>

enum { QUERIES = 64, QUERY_CHUNK = 256, KEYS = 256, PAD = 16 };

typedef struct { float *keys, *values, *keys_down, *p, *dp, *queries, *d; } slot;

static size_t padded(size_t n) { return (n + 15) & ~(size_t)15; }

/* The parts of a slot: keys and values for all a sequence's keys on the way forward, for a stretch of them on the way back. */
static size_t carve_slot(const lm_hparams *h, int max_rows, uint8_t *at, slot *out) {
    size_t n = padded((size_t)LM_MAX(LM_MIN(max_rows, h->n_ctx), KEYS)), dim = (size_t)h->head_dim,
           wide = padded(dim), used = 0;
    size_t sizes[] = { dim * n,        wide * n,      wide * KEYS, QUERIES * (n + PAD), QUERIES * (KEYS + PAD),
                       QUERIES * wide, QUERIES * wide };
    float **parts[] = { &out->keys, &out->values, &out->keys_down, &out->p, &out->dp, &out->queries, &out->d };
    for (int i = 0; i < LM_COUNT(sizes); i++) {
        if (at) *parts[i] = (float *)(at + used);
        used += padded(sizes[i]) * sizeof(float);
    }
    return used;
}

size_t lm_attend_slot_bytes(const lm_hparams *h, int max_rows) {
    slot s;
    return carve_slot(h, max_rows, NULL, &s);
}

/* An item takes one of the slots, of which there are as many as threads: one is soon free if none is. */
static int take_slot(lm_trainer *t, slot *out) {
    for (;;) {
        uint64_t taken = t->slots_taken;
        for (int i = 0; i < t->n_slots; i++) {
            if (taken >> i & 1 || !atomic_compare_exchange_strong(&t->slots_taken, &taken, taken | (uint64_t)1 << i))
                continue;
            carve_slot(&t->h, t->max_rows, t->slots + (size_t)i * t->slot_bytes, out);
            return i;
        }
    }
}

static void give_slot(lm_trainer *t, int i) { atomic_fetch_and(&t->slots_taken, ~((uint64_t)1 << i)); }

static float attn_scale(const lm_hparams *h) {
    return h->attn_scale > 0 ? h->attn_scale : 1.0f / sqrtf((float)h->head_dim);
}
static int window_of(const lm_grad_pass *p) {
    return lm_hparams_is_local(&p->t->h, p->layer) ? p->t->h.n_window : 1 << 30;
}

/* Queries q0..q1-1 of a sequence of n by its keys k0..k1-1: each query sees [first, end), and what is beyond may hold anything. */
typedef struct { int q0, q1, k0, k1, n, window, causal; } region;

static int first_key(const region *g, int q) {
    return g->causal ? LM_MIN(LM_MAX(q + 1 - g->window, g->k0), g->k1) : g->k0;
}
static int end_key(const region *g, int q) { return g->causal ? LM_MAX(LM_MIN(q + 1, g->k1), g->k0) : g->k1; }

/* Scores of the region; columns count from g->k0, which is `from` rows into the packed keys of depth head_dim. */
static void scores(const lm_trainer *t, const region *g, const float *q, size_t stride, const float *keys, int n_keys,
                   int from, float *out, size_t out_stride) {
    int dim = t->h.head_dim;
    for (int key = from; key < from + g->k1 - g->k0; key += LM_PANEL) {
        int cols = LM_MIN(n_keys - key, LM_PANEL);
        t->kern->tile(q, stride, 1, keys + (size_t)key * (size_t)dim, dim, out + (key - from), out_stride,
                      g->q1 - g->q0, cols, 0);
    }
}

static void clear_unseen(const region *g, int q, float *row) {
    int first = first_key(g, q), end = LM_MAX(end_key(g, q), first);
    memset(row, 0, (size_t)(first - g->k0) * sizeof *row);
    memset(row + (end - g->k0), 0, (size_t)(g->k1 - end) * sizeof *row);
}

static int sequence_of(const lm_trainer *t, int item) {
    int low = 0, high = t->n_seqs;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (t->seqs[middle].first_item <= item) low = middle;
        else high = middle;
    }
    return low;
}

/* Item: a sequence's chunk of queries, one head. */
static void attend_item(void *arg, int item) {
    const lm_grad_pass *p = arg;
    lm_trainer *t = p->t;
    const lm_hparams *h = &t->h;
    const lm_span_rows *seq = &t->seqs[sequence_of(t, item)];
    int part = item - seq->first_item, head = part % h->n_heads, first = part / h->n_heads * QUERY_CHUNK,
        dim = h->head_dim;
    int last = LM_MIN(first + QUERY_CHUNK, seq->n), window = window_of(p), i;
    int k0 = h->causal ? LM_MAX(first + 1 - window, 0) & ~(LM_PANEL - 1) : 0, k1 = h->causal ? last : seq->n;
    size_t stride = lm_width_qkv(h), out_stride = lm_width_heads(h), row = (size_t)seq->first;
    const float *q = p->a->qkv + row * stride + (size_t)(head * dim);
    const float *k = p->a->qkv + row * stride + lm_width_heads(h)
                     + (size_t)(head / (h->n_heads / h->n_kv_heads) * dim),
                *v = k + lm_width_kv(h);
    slot s;
    i = take_slot(t, &s);
    lm_pack(t->kern, k + (size_t)k0 * stride, stride, dim, k1 - k0, 1, s.keys);
    lm_pack(t->kern, v + (size_t)k0 * stride, stride, k1 - k0, dim, 0, s.values);
    for (int q0 = first; q0 < last; q0 += QUERIES) {
        region g = { .q0 = q0, .q1 = LM_MIN(q0 + QUERIES, last), .n = seq->n, .window = window, .causal = h->causal };
        g.k0 = h->causal ? LM_MAX(LM_MAX(q0 + 1 - window, 0) & ~(LM_PANEL - 1), k0) : 0;
        g.k1 = h->causal ? g.q1 : seq->n;
        size_t wide = (size_t)(g.k1 - g.k0 + LM_PANEL - 1) / LM_PANEL * LM_PANEL + PAD;
        scores(t, &g, q + (size_t)q0 * stride, stride, s.keys, k1 - k0, g.k0 - k0, s.p, wide);
        for (int j = q0; j < g.q1; j++) {
            float *x = s.p + (size_t)(j - q0) * wide;
            int from = first_key(&g, j), end = end_key(&g, j);
            p->a->log_sum[(row + (size_t)j) * (size_t)h->n_heads + (size_t)head]
                = t->kern->softmax(x + (from - g.k0), end - from, attn_scale(h));
            clear_unseen(&g, j, x);
        }
        lm_multiply(t->kern, s.p, wide, 1, s.values, k1 - k0, g.k0 - k0, g.k1 - g.k0, g.q1 - g.q0, dim,
                    p->a->mixed + (row + (size_t)q0) * out_stride + (size_t)(head * dim), out_stride, 0);
    }
    give_slot(t, i);
}

/* A block of queries of one head on the way back, by the keys of a stretch. */
static void attend_back(const lm_grad_pass *p, const slot *s, const lm_span_rows *seq, int head, region g, int k0,
                        int n_keys) {
    lm_trainer *t = p->t;
    const lm_hparams *h = &t->h;
    int dim = h->head_dim, key_head = head / (h->n_heads / h->n_kv_heads), n_q = g.q1 - g.q0, n_k = g.k1 - g.k0;
    size_t stride = lm_width_qkv(h), out_stride = lm_width_heads(h), row = (size_t)seq->first + (size_t)g.q0,
           wide = KEYS + PAD;
    const float *q = p->a->qkv + row * stride + (size_t)(head * dim);
    const float *o = p->a->mixed + row * out_stride + (size_t)(head * dim),
                *d_o = t->d_wide2 + row * out_stride + (size_t)(head * dim);
    float *dq = t->d_wide + row * stride + (size_t)(head * dim);
    float *dk = t->d_wide + (size_t)(seq->first + g.k0) * stride + lm_width_heads(h) + (size_t)(key_head * dim),
          *dv = dk + lm_width_kv(h);
    scores(t, &g, q, stride, s->keys, n_keys, g.k0 - k0, s->p, wide);
    scores(t, &g, d_o, out_stride, s->values, n_keys, g.k0 - k0, s->dp, wide);
    for (int j = 0; j < n_q; j++) {
        int from = first_key(&g, g.q0 + j), n = end_key(&g, g.q0 + j) - from;
        float *x = s->p + (size_t)j * wide, *dp = s->dp + (size_t)j * wide;
        float whole = t->kern->dot(o + (size_t)j * out_stride, d_o + (size_t)j * out_stride, dim);
        if (n > 0) {
            t->kern->softmax_again(x + (from - g.k0), n, attn_scale(h),
                                   p->a->log_sum[(row + (size_t)j) * (size_t)h->n_heads + (size_t)head]);
            t->kern->softmax_backward(x + (from - g.k0), dp + (from - g.k0), n, whole, attn_scale(h));
        }
        clear_unseen(&g, g.q0 + j, x);
        clear_unseen(&g, g.q0 + j, dp);
    }
    lm_pack(t->kern, d_o, out_stride, n_q, dim, 0, s->d);
    lm_pack(t->kern, q, stride, n_q, dim, 0, s->queries);
    lm_multiply(t->kern, s->p, 1, wide, s->d, n_q, 0, n_q, n_k, dim, dv, stride, 1);
    lm_multiply(t->kern, s->dp, 1, wide, s->queries, n_q, 0, n_q, n_k, dim, dk, stride, 1);
    lm_multiply(t->kern, s->dp, wide, 1, s->keys_down, n_keys, g.k0 - k0, n_k, n_q, dim, dq, stride, 1);
}

/* Item: a sequence and the heads that share a key head, by the current stretch of keys. */
static void attend_back_item(void *arg, int item) {
    const lm_grad_pass *p = arg;
    lm_trainer *t = p->t;
    const lm_hparams *h = &t->h;
    const lm_span_rows *seq = &t->seqs[item / h->n_kv_heads];
    int key_head = item % h->n_kv_heads, group = h->n_heads / h->n_kv_heads, dim = h->head_dim, window = window_of(p);
    int k0 = p->key_block * KEYS, k1 = LM_MIN(k0 + KEYS, seq->n), i;
    size_t stride = lm_width_qkv(h);
    if (k0 >= seq->n) return;
    const float *k = p->a->qkv + (size_t)(seq->first + k0) * stride + lm_width_heads(h) + (size_t)(key_head * dim),
                *v = k + lm_width_kv(h);
    slot s;
    i = take_slot(t, &s);
    lm_pack(t->kern, k, stride, dim, k1 - k0, 1, s.keys);
    lm_pack(t->kern, v, stride, dim, k1 - k0, 1, s.values);
    lm_pack(t->kern, k, stride, k1 - k0, dim, 0, s.keys_down);
    int end = h->causal ? (int)LM_MIN((int64_t)seq->n, (int64_t)k1 - 1 + window) : seq->n;
    for (int head = key_head * group; head < key_head * group + group; head++) {
        for (int q0 = h->causal ? k0 : 0; q0 < end; q0 += QUERIES) {
            region g = { .q0 = q0, .q1 = LM_MIN(q0 + QUERIES, seq->n), .n = seq->n, .window = window,
                         .causal = h->causal };
            g.k0 = h->causal ? LM_MAX(LM_MAX(q0 + 1 - window, 0) & ~(LM_PANEL - 1), k0) : k0;
            g.k1 = h->causal ? LM_MIN(g.q1, k1) : k1;
            attend_back(p, &s, seq, head, g, k0, k1 - k0);
        }
    }
    give_slot(t, i);
}

/*---------------------------------------------------------------------- */
void lm_attend_forward(lm_grad_pass *p, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    int items = 0;
    for (int i = 0; i < t->n_seqs; i++) {
        t->seqs[i].first_item = items;
        items += (t->seqs[i].n + QUERY_CHUNK - 1) / QUERY_CHUNK * t->h.n_heads;
    }
    lm_pool_run(attend_item, p, items, stop, err);
}

void lm_attend_backward(lm_grad_pass *p, lm_stop stop, lm_err *err) {
    lm_trainer *t = p->t;
    int longest = 0;
    for (int i = 0; i < t->n_seqs; i++) longest = LM_MAX(longest, t->seqs[i].n);
    memset(t->d_wide, 0, (size_t)t->n * lm_width_qkv(&t->h) * sizeof(float));
    for (; p->key_block * KEYS < longest; p->key_block++) {
        lm_pool_run(attend_back_item, p, t->n_seqs * t->h.n_kv_heads, stop, err);
    }
}

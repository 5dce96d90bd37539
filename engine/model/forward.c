/* forward.c: one pass of rows (tokens of any number of sequences) through the decoder: one story.
**
** Each step of a layer is a section of the pool: either item = some rows (norms, rope, activations, quantising) or
** item = a stretch of weight tiles by some columns (products), or item = some rows and heads (attention). Every output is
** computed whole by one item in a fixed order, so neither the split nor the company of a row shows. */
#include "model.h"

#include <stdatomic.h>
#include <string.h>

/* A product's item is some pairs of tiles by columns of at most CHUNK_BYTES: they stay in the second-level cache while the
** tiles pass, and the tiles come from memory seldom. A thread gets about ITEMS of a section's items, and for few columns
** fewer: of ITEM_BYTES of tiles, two microseconds. */
enum { QUERIES_MAX = 128, PARTY_MAX = 8, CHUNK_BYTES = 768 << 10, ITEM_BYTES = 32 << 10, ITEMS = 8, FEW_QUERIES = 8, LOW_COLUMNS = 8 };

/* Rows of one sequence, at positions that follow each other, that are cached and attended together. */
typedef struct { int first, n; } stretch;

/* Stretches that one item attends: one, or several of a row each whose sequences begin with the same pages. */
typedef struct { int first, n, n_shared; } party;

struct lm_pass {
    const lm_model *m;
    const lm_kern *kern;
    int exact, max_rows, max_out;
    const lm_row *rows;
    int n;                              /* rows of this pass */
    void *memory;                       /* what follows, in one block */
    float *x;                           /* (n, n_embd): the residual stream */
    float *delta;                       /* (n, n_embd): what the last half layer adds to it */
    float *normed;                      /* (n, n_embd) */
    float *q, *k, *v, *mixed;           /* (n, heads * head_dim), k and v by n_kv_heads */
    float *gate, *up;                   /* (n, n_ff) */
    float *cosine, *sine;               /* (n, 2, n_rot / 2): of global and of local layers */
    float *logits;                      /* (max_out, n_vocab) */
    _Atomic uint64_t *best;             /* (max_out): the greatest of each row, as place_of ranks it */
    lm_moe *moe;                        /* NULL: the model has no experts */
    float *low, *raised;                /* of an adapter: (n, rank) and (n, widest) */
    lm_columns in;                      /* the columns of the current product */
    int8_t *quants;
    stretch *stretches;
    party *parties;
    int n_stretches, n_parties, heads_split;
    int layer;
    const lm_mat *products[3];          /* weights that multiply `in` in the current section, and where to */
    float *products_out[3];
    int n_products, n_columns, chunk, tiles_an_item, items_a_chunk;
    void (*step)(lm_pass *p, int i);    /* of the current section by rows */
    int n_step, rows_an_item;
    _Atomic int bad_layer;              /* first layer whose activations were not finite, or INT_MAX */
};

/*----------------------------------------------------------------------
** Scratch memory. */
static int widest(const lm_hparams *h) {
    return LM_MAX(LM_MAX(h->n_embd, h->n_ff), h->n_heads * h->head_dim);
}

lm_pass *lm_pass_new(const lm_model *m, int max_rows, int max_out, int exact, lm_err *err) {
    const lm_hparams *h = &m->h;
    lm_pass *p = lm_calloc(1, sizeof *p, err);
    if (!p) return NULL;
    size_t n = (size_t)LM_MAX(max_rows, max_out), heads = (size_t)h->n_heads * (size_t)h->head_dim,
           kv = (size_t)h->n_kv_heads * (size_t)h->head_dim;
    size_t blocks = n * (size_t)(widest(h) / LM_BLOCK + 1);
    p->m = m;
    p->kern = lm_kern_get();
    p->exact = exact;
    p->max_rows = max_rows;
    p->max_out = max_out;
    struct { void *at; size_t n, size; } parts[] = {
        { &p->x, n * (size_t)h->n_embd, sizeof(float) }, { &p->delta, n * (size_t)h->n_embd, sizeof(float) },
        { &p->normed, n * (size_t)h->n_embd, sizeof(float) }, { &p->q, n * heads, sizeof(float) },
        { &p->k, n * kv, sizeof(float) }, { &p->v, n * kv, sizeof(float) }, { &p->mixed, n * heads, sizeof(float) },
        { &p->gate, n * (size_t)h->n_ff, sizeof(float) }, { &p->up, m->layer[0][LM_GATE].data ? n * (size_t)h->n_ff : 0, sizeof(float) },
        { &p->cosine, n * (size_t)h->n_rot, sizeof(float) }, { &p->sine, n * (size_t)h->n_rot, sizeof(float) },
        { &p->logits, (size_t)max_out * (size_t)h->n_vocab, sizeof(float) }, { &p->best, (size_t)max_out, sizeof *p->best },
        { &p->quants, blocks * LM_BLOCK * 2, 1 }, { &p->in.d, blocks, sizeof(float) },
        { &p->in.sum, LM_SUMS * blocks, sizeof(int32_t) }, { &p->in.dsum, LM_SUMS * blocks, sizeof(float) },
        { &p->low, n * (size_t)m->rank, sizeof(float) }, { &p->raised, m->low ? n * (size_t)widest(h) : 0, sizeof(float) },
        { &p->stretches, n, sizeof(stretch) }, { &p->parties, n, sizeof(party) },
    };
    size_t total = 0, at = 0;
    for (int i = 0; i < LM_COUNT(parts); i++) total += (parts[i].n * parts[i].size + 63) & ~(size_t)63;
    p->memory = lm_alloc(total, err);
    for (int i = 0; i < LM_COUNT(parts); at += (parts[i].n * parts[i].size + 63) & ~(size_t)63, i++) {
        *(void **)parts[i].at = (char *)p->memory + at;
    }
    if (h->n_experts) p->moe = lm_moe_new(h, max_rows, exact, err);
    if (err->code) {
        lm_pass_free(p);
        return NULL;
    }
    return p;
}

void lm_pass_free(lm_pass *p) {
    if (!p) return;
    lm_moe_free(p->moe);
    lm_free(p->memory);
    lm_free(p);
}

int lm_pass_rows(const lm_pass *p) { return p->max_rows; }
int lm_pass_fits(const lm_pass *p, int rows, int out) { return p && rows <= p->max_rows && out <= p->max_out; }

/*----------------------------------------------------------------------
** Products. */

/* Name the input of the next product: columns of k floats, to be quantised by quantise_row unless the
** n weights they meet are all floats. */
static void set_input(lm_pass *p, const float *x, int k, const lm_mat *weights, int n) {
    p->in.x = x;
    p->in.k = k;
    p->in.q = NULL;
    for (int i = 0; i < n && !p->exact; i++) {
        if (weights[i].format) p->in.q = p->quants;       /* an absent weight has none */
    }
}

static void not_finite(lm_pass *p) {
    int seen = p->bad_layer;
    while (p->layer < seen && !atomic_compare_exchange_weak(&p->bad_layer, &seen, p->layer)) {}
}

static void quantise_row(lm_pass *p, int i) {
    if (p->in.q && !p->kern->quantise(&p->in, i)) not_finite(p);
}

/* A logit and its id in one number, the greater for the greater logit and among equals for the lower id. */
static uint64_t place_of(float logit, int id) {
    uint32_t bits;
    logit += 0.0f;                      /* -0 is no less than 0 */
    memcpy(&bits, &logit, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)~id;
}

/* Tiles from..to-1 of columns c0..c1-1 of the head are done: find their best while the caches have them. */
static void note_best(lm_pass *p, int from, int to, int c0, int c1) {
    int n_vocab = p->m->h.n_vocab, first = from * LM_TILE, n = LM_MIN(to * LM_TILE, n_vocab) - first;
    for (int c = c0; c < c1; c++) {
        const float *logits = p->logits + (size_t)c * (size_t)n_vocab;
        int id = first + p->kern->argmax(logits + first, n);
        uint64_t place = place_of(logits[id], id), seen = p->best[c];
        while (place > seen && !atomic_compare_exchange_weak(&p->best[c], &seen, place)) {}
    }
}

int32_t lm_pass_best(const lm_pass *p, int out) { return (int32_t)~(uint32_t)p->best[out]; }

static void multiply_item(void *arg, int item) {
    lm_pass *p = arg;
    int first = item % p->items_a_chunk * p->tiles_an_item, end = first + p->tiles_an_item;
    int c0 = item / p->items_a_chunk * p->chunk, c1 = LM_MIN(c0 + p->chunk, p->n_columns);
    for (int i = 0; i < p->n_products && end > 0; i++) {
        const lm_mat *w = p->products[i];
        int from = LM_MAX(first, 0), to = LM_MIN(end, w->n_tiles);
        if (from < to) p->kern->multiply(w, from, to, &p->in, c0, c1, p->products_out[i], (size_t)w->rows);
        if (from < to && p->products_out[i] == p->logits) note_best(p, from, to, c0, c1);
        first -= w->n_tiles;
        end -= w->n_tiles;
    }
}

static void add_product(lm_pass *p, const lm_mat *w, float *out) {
    p->products[p->n_products] = w;
    p->products_out[p->n_products++] = out;
}

/* An adapter adds B (A x) to the products, by columns: each is an item's from end to end. */
static void low_rank_item(void *arg, int item) {
    lm_pass *p = arg;
    const lm_model *m = p->m;
    int c0 = item * LOW_COLUMNS, c1 = LM_MIN(c0 + LOW_COLUMNS, p->n_columns);
    lm_columns low = { .k = m->rank, .x = p->low };
    for (int i = 0; i < p->n_products; i++) {
        const lm_low_rank *a = &m->low[p->layer][p->products[i] - m->layer[p->layer]];
        size_t n = (size_t)p->products[i]->rows;
        float *raised = p->raised + (size_t)c0 * ((size_t)widest(&m->h) - n);       /* the item's own room begins at column c0 */
        if (!a->down.data) continue;
        p->kern->multiply(&a->down, 0, a->down.n_tiles, &p->in, c0, c1, p->low, (size_t)m->rank);
        p->kern->multiply(&a->up, 0, a->up.n_tiles, &low, c0, c1, raised, n);
        for (size_t c = (size_t)c0; c < (size_t)c1; c++)
            p->kern->add(p->products_out[i] + c * n, raised + c * n, (int)n);
    }
}

/* Run the products added since the last run, as one section. */
static void run_products(lm_pass *p, int n_columns, lm_stop stop, lm_err *err) {
    int tiles = 0, chunk = LM_MAX(CHUNK_BYTES / (p->in.k * (int)sizeof(float)) & ~15, 16),
        chunks = (n_columns + chunk - 1) / chunk;
    for (int i = 0; i < p->n_products; i++) tiles += p->products[i]->n_tiles;
    int least = (int)(ITEM_BYTES / (p->products[0]->tile_bytes * (size_t)LM_MAX(n_columns, 1)));
    int most = LM_MAX(tiles * chunks / (lm_threads() * ITEMS), least);
    p->n_columns = n_columns;
    p->chunk = chunk;
    p->tiles_an_item = most > 0 ? (most + 1) & ~1 : 1;
    p->items_a_chunk = (tiles + p->tiles_an_item - 1) / p->tiles_an_item;
    lm_pool_run(multiply_item, p, p->items_a_chunk * chunks, stop, err);
    if (p->m->low && p->layer < p->m->h.n_layers)
        lm_pool_run(low_rank_item, p, (n_columns + LOW_COLUMNS - 1) / LOW_COLUMNS, stop, err);
    p->n_products = 0;
}

/*----------------------------------------------------------------------
** Steps by row. */
static void rows_item(void *arg, int item) {
    lm_pass *p = arg;
    int first = item * p->rows_an_item, end = LM_MIN(first + p->rows_an_item, p->n_step);
    for (int i = first; i < end; i++) p->step(p, i);
}

/* One row is done at once: its microsecond is not worth a section. */
static void run_rows(lm_pass *p, void (*step)(lm_pass *p, int i), int n, lm_stop stop, lm_err *err) {
    if (n == 1 && !err->code) step(p, 0);
    if (n <= 1) return;
    p->step = step;
    p->n_step = n;
    p->rows_an_item = LM_MAX(n / (lm_threads() * ITEMS), 1);
    lm_pool_run(rows_item, p, (n + p->rows_an_item - 1) / p->rows_an_item, stop, err);
}

static void add_bias(lm_pass *p, float *x, const lm_mat *bias) {
    if (bias->data) p->kern->add(x, lm_model_vector(bias), bias->cols);
}

/* Norm a vector by the model's kind; the bias is the layer norm's. */
static void norm(lm_pass *p, const float *x, const lm_mat *weight, const lm_mat *bias, float *out) {
    const lm_hparams *h = &p->m->h;
    int finite = h->norm == LM_NORM_RMS ? p->kern->rms_norm(x, lm_model_vector(weight), h->norm_eps, weight->cols, out)
               : p->kern->layer_norm(x, lm_model_vector(weight), lm_model_vector(bias), h->norm_eps, weight->cols, out);
    if (!finite) not_finite(p);
}

/* x += a row of a table; normed is free for it yet. */
static void add_row(lm_pass *p, float *x, const lm_mat *table, int row, int i) {
    float *scratch = p->normed + (size_t)i * (size_t)table->cols;
    lm_mat_row(table, row, scratch);
    p->kern->add(x, scratch, table->cols);
}

static void start_row(lm_pass *p, int i) {
    const lm_hparams *h = &p->m->h;
    size_t half = (size_t)h->n_rot / 2;
    float *x = p->x + (size_t)i * (size_t)h->n_embd;
    lm_mat_row(&p->m->top[LM_TOKEN_EMBD], p->rows[i].id, x);
    for (int j = 0; h->embd_scale != 1.0f && j < h->n_embd; j++) x[j] *= h->embd_scale;
    if (p->m->top[LM_POS_EMBD].data) add_row(p, x, &p->m->top[LM_POS_EMBD], p->rows[i].pos, i);
    if (p->m->top[LM_TYPE_EMBD].data) add_row(p, x, &p->m->top[LM_TYPE_EMBD], 0, i);
    if (p->m->top[LM_EMBD_NORM].data) norm(p, x, &p->m->top[LM_EMBD_NORM], &p->m->top[LM_EMBD_NORM_BIAS], x);
    for (size_t local = 0; local < 2 && p->m->inv_freq[local]; local++) {
        size_t at = (2 * (size_t)i + local) * half;
        for (size_t j = 0; j < half; j++) {
            double s, c;
            lm_sincos(p->rows[i].pos * p->m->inv_freq[local][j], &s, &c);
            p->sine[at + j] = (float)s;
            p->cosine[at + j] = (float)c;
        }
    }
}

/* n vectors side by side, each normed in place where there is a weight for it. */
static void norm_vectors(lm_pass *p, float *x, int n, const lm_mat *weight) {
    for (int j = 0; weight->data && j < n; j++, x += weight->cols) norm(p, x, weight, NULL, x);
}

/* Where a step of half a layer ends: x += delta, which may have a bias and be normed first; then x may be normed. */
typedef struct { const lm_mat *bias, *post_norm, *out_norm, *out_norm_bias; } half_end;

static half_end attn_end(const lm_mat *w) {
    return (half_end){ &w[LM_O_BIAS], &w[LM_ATTN_POST_NORM], &w[LM_ATTN_OUT_NORM], &w[LM_ATTN_OUT_NORM_BIAS] };
}
static half_end ffn_end(const lm_mat *w) {
    return (half_end){ &w[LM_DOWN_BIAS], &w[LM_FFN_POST_NORM], &w[LM_FFN_OUT_NORM], &w[LM_FFN_OUT_NORM_BIAS] };
}

static void end_half(lm_pass *p, int i, half_end e) {
    size_t n = (size_t)p->m->h.n_embd;
    float *delta = p->delta + (size_t)i * n, *x = p->x + (size_t)i * n;
    add_bias(p, delta, e.bias);
    norm_vectors(p, delta, 1, e.post_norm);
    p->kern->add(x, delta, (int)n);
    if (e.out_norm->data) norm(p, x, e.out_norm, e.out_norm_bias, x);
}

/* What half a layer works on: normed = norm(x), or x itself where there is no such norm; quantised. */
static float *input_of(const lm_pass *p, const lm_mat *weight) { return weight->data ? p->normed : p->x; }

static void begin_half(lm_pass *p, int i, const lm_mat *weight, const lm_mat *bias) {
    size_t at = (size_t)i * (size_t)p->m->h.n_embd;
    if (weight->data) norm(p, p->x + at, weight, bias, p->normed + at);
    quantise_row(p, i);
}

static void attn_norm_row(lm_pass *p, int i) {
    if (p->layer) end_half(p, i, ffn_end(p->m->layer[p->layer - 1]));
    begin_half(p, i, &p->m->layer[p->layer][LM_ATTN_NORM], &p->m->layer[p->layer][LM_ATTN_NORM_BIAS]);
}

static void ffn_norm_row(lm_pass *p, int i) {
    end_half(p, i, attn_end(p->m->layer[p->layer]));
    begin_half(p, i, &p->m->layer[p->layer][LM_FFN_NORM], &p->m->layer[p->layer][LM_FFN_NORM_BIAS]);
}

static void output_norm_row(lm_pass *p, int i) {
    end_half(p, i, ffn_end(p->m->layer[p->m->h.n_layers - 1]));
    begin_half(p, i, &p->m->top[LM_OUTPUT_NORM], &p->m->top[LM_OUTPUT_NORM_BIAS]);
}

/* Turn the leading n_rot elements of each head by the row's angles (Su et al. 2021). */
static void rope(const lm_hparams *h, float *x, int n_heads, const float *cosine, const float *sine) {
    int half = h->n_rot / 2, step = h->rope == LM_ROPE_PAIRS ? 2 : 1, apart = h->rope == LM_ROPE_PAIRS ? 1 : half;
    for (int head = 0; head < n_heads; head++, x += h->head_dim) {
        for (int j = 0; j < half; j++) {
            float a = x[j * step], b = x[j * step + apart];
            x[j * step] = a * cosine[j] - b * sine[j];
            x[j * step + apart] = a * sine[j] + b * cosine[j];
        }
    }
}

static void turn_row(lm_pass *p, int i, float *q, float *k, float *v) {
    const lm_hparams *h = &p->m->h;
    const lm_mat *w = p->m->layer[p->layer];
    int is_local = lm_hparams_is_local(h, p->layer) && p->m->inv_freq[1];
    size_t turn = (2 * (size_t)i + (size_t)is_local) * (size_t)h->n_rot / 2;
    float scale = h->attn_scale > 0 ? h->attn_scale : 1.0f / sqrtf((float)h->head_dim);
    add_bias(p, q, &w[LM_Q_BIAS]);
    add_bias(p, k, &w[LM_K_BIAS]);
    add_bias(p, v, &w[LM_V_BIAS]);
    norm_vectors(p, q, h->n_heads, &w[LM_Q_NORM]);
    norm_vectors(p, k, h->n_kv_heads, &w[LM_K_NORM]);
    rope(h, q, h->n_heads, p->cosine + turn, p->sine + turn);
    rope(h, k, h->n_kv_heads, p->cosine + turn, p->sine + turn);
    for (int j = 0; j < h->n_heads * h->head_dim; j++) q[j] *= scale;
}

/* A stretch at a time: keys lie transposed, and threads that wrote neighbours would quarrel over the lines. */
static void cache_item(void *arg, int item) {
    lm_pass *p = arg;
    const lm_hparams *h = &p->m->h;
    stretch s = p->stretches[item];
    size_t heads = (size_t)h->n_heads * (size_t)h->head_dim, kv = (size_t)h->n_kv_heads * (size_t)h->head_dim;
    for (int i = s.first; i < s.first + s.n; i++)
        turn_row(p, i, p->q + (size_t)i * heads, p->k + (size_t)i * kv, p->v + (size_t)i * kv);
    lm_kv_append(p->rows[s.first].kv, p->layer, p->rows[s.first].pos, s.n, p->k + (size_t)s.first * kv,
                 p->v + (size_t)s.first * kv);
}

static void activate_row(lm_pass *p, int i) {
    size_t n = (size_t)p->m->h.n_ff;
    const lm_mat *w = p->m->layer[p->layer];
    float *gate = p->gate + (size_t)i * n, *up = p->up + (size_t)i * n;
    if (!w[LM_GATE].data) {
        add_bias(p, gate, &w[LM_UP_BIAS]);
        p->kern->act(gate, (int)n, p->m->h.act == LM_ACT_GELU_ERF);
    } else if (p->m->h.act == LM_ACT_GELU) {
        p->kern->gelu_mul(gate, up, (int)n);
    } else {
        p->kern->silu_mul(gate, up, (int)n);
    }
    quantise_row(p, i);
}

/*----------------------------------------------------------------------
** Attention: an item is a party of rows and the heads that share a key head (or one head of them, when
** there would be too few items to go round). Pages are taken left to right: those that all rows share by all at once,
** then each stretch goes on with its own. */

/* Carry the queries of a stretch, n_heads a row, over its pages from first on. Few queries wait for memory: for them the
** next page is asked for while this one is worked on. */
static void attend_stretch(lm_pass *p, stretch s, int key_head, lm_query *queries, int n_heads, int first) {
    const lm_hparams *h = &p->m->h;
    const lm_row *rows = p->rows + s.first;
    int window = lm_hparams_is_local(h, p->layer) ? h->n_window : 1 << 30, oldest = LM_MAX(rows[0].pos + 1 - window, 0);
    int last = h->causal ? rows[s.n - 1].pos : rows[0].kv->n - 1, n = s.n * n_heads;
    for (int page = LM_MAX(oldest / LM_PAGE, first); page <= last / LM_PAGE; page++) {
        lm_page keys = lm_kv_page(rows[0].kv, p->layer, key_head, page);
        if (page < last / LM_PAGE && n <= FEW_QUERIES)
            keys.next = lm_kv_page(rows[0].kv, p->layer, key_head, page + 1).k;
        int blind = 0, seeing = 0;      /* queries that stand before this page; and that see some of it */
        for (int i = 0; i < n; i++) {
            int end = (h->causal ? rows[i / n_heads].pos + 1 : rows[0].kv->n) - page * LM_PAGE;
            queries[i].first = LM_MAX(end - window, 0);
            queries[i].end = LM_MIN(end, LM_PAGE);
            blind += end <= 0;
            seeing += end > 0 && queries[i].first < LM_PAGE;
        }
        p->kern->attend(&keys, queries + blind, seeing);
    }
}

static void attend_item(void *arg, int item) {
    lm_pass *p = arg;
    const lm_hparams *h = &p->m->h;
    int group = h->n_heads / h->n_kv_heads, n_heads = p->heads_split ? 1 : group;
    int items = h->n_heads / n_heads, head = item % items * n_heads, n = 0;
    party all = p->parties[item / items];
    const stretch *s = p->stretches + all.first, *last = s + all.n - 1;
    lm_query queries[QUERIES_MAX];
    for (int r = s->first; r < last->first + last->n; r++) {
        for (int j = 0; j < n_heads; j++, n++) {
            size_t at = ((size_t)r * (size_t)h->n_heads + (size_t)(head + j)) * (size_t)h->head_dim;
            queries[n] = (lm_query){ .q = p->q + at, .out = p->mixed + at, .max = -INFINITY, .end = LM_PAGE };
            memset(queries[n].out, 0, (size_t)h->head_dim * sizeof(float));
        }
    }
    int n_shared = lm_hparams_is_local(h, p->layer) ? 0 : all.n_shared;     /* a window begins where each row has it */
    for (int page = 0; page < n_shared; page++) {
        lm_page keys = lm_kv_page(p->rows[s->first].kv, p->layer, head / group, page);
        p->kern->attend(&keys, queries, n);
    }
    for (lm_query *at = queries; s <= last; at += s->n * n_heads, s++)
        attend_stretch(p, *s, head / group, at, n_heads, n_shared);
    for (int i = 0; i < n; i++) p->kern->attend_end(&queries[i], h->head_dim);
}

/* Full pages that two rows' sequences begin with alike. */
static int count_shared(const lm_row *a, const lm_row *b) {
    int n = 0, most = (LM_MIN(a->pos, b->pos) + 1) / LM_PAGE;
    while (n < most && a->kv->pages[n] == b->kv->pages[n]) n++;
    return n;
}

static void set_parties(lm_pass *p, int most) {
    p->n_parties = 0;
    for (int i = 0; i < p->n_stretches; i++) {
        party *last = p->parties + p->n_parties - 1;
        const stretch *s = p->stretches + i, *one = i ? p->stretches + last->first : s;
        int n_shared = i && s->n == 1 && one->n == 1 && last->n < most
                           ? count_shared(p->rows + one->first, p->rows + s->first)
                           : 0;
        if (n_shared && (last->n == 1 || n_shared == last->n_shared)) last->n++, last->n_shared = n_shared;
        else p->parties[p->n_parties++] = (party){ i, 1, 0 };
    }
}

/* Cut the rows into stretches of one sequence each, short enough for attend_item's queries. */
static void set_stretches(lm_pass *p) {
    const lm_hparams *h = &p->m->h;
    int group = h->n_heads / h->n_kv_heads, most = LM_MAX(LM_MIN(QUERIES_MAX / group, 16), 1);
    p->n_stretches = 0;
    for (int i = 0; i < p->n; i++) {
        stretch *last = p->stretches + p->n_stretches - 1;
        if (i && p->rows[i].kv == p->rows[i - 1].kv && p->rows[i].pos == p->rows[i - 1].pos + 1 && last->n < most)
            last->n++;
        else p->stretches[p->n_stretches++] = (stretch){ i, 1 };
    }
    set_parties(p, LM_MIN(most, PARTY_MAX));
    p->heads_split = p->n_parties * h->n_kv_heads < 4 * lm_threads() || group > QUERIES_MAX;
}

/*----------------------------------------------------------------------
** The story. */
static void run_layer(lm_pass *p, int layer, lm_stop stop, lm_err *err) {
    const lm_model *m = p->m;
    const lm_mat *w = m->layer[layer];
    int n = p->n, heads = m->h.n_heads * m->h.head_dim;
    p->layer = layer;

    set_input(p, input_of(p, &w[LM_ATTN_NORM]), m->h.n_embd, &w[LM_Q], 3);
    run_rows(p, attn_norm_row, n, stop, err);
    add_product(p, &w[LM_Q], p->q);
    add_product(p, &w[LM_K], p->k);
    add_product(p, &w[LM_V], p->v);
    run_products(p, n, stop, err);
    if (p->n_stretches > 1) lm_pool_run(cache_item, p, p->n_stretches, stop, err);
    else if (!err->code) cache_item(p, 0);
    lm_pool_run(attend_item, p, p->n_parties * (p->heads_split ? m->h.n_heads : m->h.n_kv_heads), stop, err);
    set_input(p, p->mixed, heads, &w[LM_O], 1);
    if (p->in.q) run_rows(p, quantise_row, n, stop, err);
    add_product(p, &w[LM_O], p->delta);
    run_products(p, n, stop, err);

    set_input(p, input_of(p, &w[LM_FFN_NORM]), m->h.n_embd, &w[LM_GATE], 2);
    run_rows(p, ffn_norm_row, n, stop, err);
    if (p->moe) {
        if (!lm_moe_run(p->moe, w, p->normed, n, p->delta, stop, err)) not_finite(p);
        return;
    }
    if (w[LM_GATE].data) add_product(p, &w[LM_GATE], p->gate);
    add_product(p, &w[LM_UP], w[LM_GATE].data ? p->up : p->gate);
    run_products(p, n, stop, err);
    set_input(p, p->gate, m->h.n_ff, &w[LM_DOWN], 1);
    run_rows(p, activate_row, n, stop, err);
    add_product(p, &w[LM_DOWN], p->delta);
    run_products(p, n, stop, err);
}

/* Move the rows that want logits to the front of x and delta, in the order of their out. */
static int gather_outputs(lm_pass *p) {
    size_t n = (size_t)p->m->h.n_embd;
    int n_out = 0;
    for (int i = 0; i < p->n; i++) {
        if (p->rows[i].out < 0) continue;
        memmove(p->x + (size_t)n_out * n, p->x + (size_t)i * n, n * sizeof(float));
        memmove(p->delta + (size_t)n_out * n, p->delta + (size_t)i * n, n * sizeof(float));
        n_out++;
    }
    return n_out;
}

/* All layers; x and delta then hold what the last one left. */
static void run_layers(lm_pass *p, const lm_row *rows, int n, lm_stop stop, lm_err *err) {
    const lm_model *m = p->m;
    p->rows = rows;
    p->n = n;
    p->bad_layer = INT32_MAX;
    set_stretches(p);
    run_rows(p, start_row, n, stop, err);
    for (int layer = 0; layer < m->h.n_layers && !err->code; layer++) {
        run_layer(p, layer, stop, err);
        if (p->bad_layer != INT32_MAX) lm_err_set(err, LM_ERROR, "layer %d: activations not finite", p->bad_layer);
    }
    p->layer = m->h.n_layers;
}

/* The output of the n columns that are named as input. */
static void run_head(lm_pass *p, int n, lm_stop stop, lm_err *err) {
    for (int i = 0; i < n; i++) p->best[i] = 0;
    add_product(p, &p->m->top[LM_OUTPUT], p->logits);
    run_products(p, n, stop, err);
}

const float *lm_forward(lm_pass *p, const lm_row *rows, int n, lm_stop stop, lm_err *err) {
    const lm_model *m = p->m;
    unsigned fp = lm_fp_enter();
    run_layers(p, rows, n, stop, err);
    if (!err->code) {
        int n_out = gather_outputs(p);
        set_input(p, input_of(p, &m->top[LM_OUTPUT_NORM]), m->h.n_embd, &m->top[LM_OUTPUT], 1);
        run_rows(p, output_norm_row, n_out, stop, err);
        run_head(p, n_out, stop, err);
        for (int i = 0; i < n_out && !err->code; i++) {
            if (!isfinite(p->logits[(size_t)i * (size_t)m->h.n_vocab + (size_t)lm_pass_best(p, i)])) not_finite(p);
        }
        if (p->bad_layer != INT32_MAX) lm_err_set(err, LM_ERROR, "output: activations not finite");
    }
    lm_fp_leave(fp);
    return err->code ? NULL : p->logits;
}

const float *lm_encode(lm_pass *p, const lm_row *rows, int n, lm_stop stop, lm_err *err) {
    unsigned fp = lm_fp_enter();
    run_layers(p, rows, n, stop, err);
    p->in.q = NULL;
    run_rows(p, output_norm_row, n, stop, err);
    if (p->bad_layer != INT32_MAX) lm_err_set(err, LM_ERROR, "output: activations not finite");
    lm_fp_leave(fp);
    return err->code ? NULL : input_of(p, &p->m->top[LM_OUTPUT_NORM]);
}

const float *lm_pass_logits(lm_pass *p, int first, int n, lm_stop stop, lm_err *err) {
    const lm_model *m = p->m;
    const float *hidden = input_of(p, &m->top[LM_OUTPUT_NORM]) + (size_t)first * (size_t)m->h.n_embd;
    unsigned fp = lm_fp_enter();
    set_input(p, hidden, m->h.n_embd, &m->top[LM_OUTPUT], 1);
    if (p->in.q) run_rows(p, quantise_row, n, stop, err);
    run_head(p, n, stop, err);
    if (p->bad_layer != INT32_MAX) lm_err_set(err, LM_ERROR, "output: activations not finite");
    lm_fp_leave(fp);
    return err->code ? NULL : p->logits;
}

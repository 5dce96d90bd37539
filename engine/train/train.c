/* train.c: a trainer's life: from a source's tensors to parameters with gradients and moments, batches cut into parts, steps. */
#include "train.h"

#include <stdio.h>
#include <string.h>

enum { PANEL_BYTES = 32 << 20, PANEL_ROWS = 256, HEAD_FLOATS = 8 << 20, BATCH_TOKENS = 4096, RANK_MAX = 1024, ROWS_AN_ITEM = 32 };

static const double TEMPERATURE = 0.05;     /* of pairs (Gao et al. 2021) */

/*----------------------------------------------------------------------
** What there is to train. */

static void check_options(const lm_train_options *o, lm_err *err) {
    const struct { const char *name; double x, min, max; } ranges[] = {
        { "batch_tokens", o->batch_tokens, 0, 1 << 20 }, { "beta1", o->beta1, 0, 0.9999 }, { "beta2", o->beta2, 0, 0.99999 },
        { "eps", o->eps, 1e-30, 1 }, { "weight_decay", o->weight_decay, 0, 1000 }, { "clip", o->clip, 0, 1e30 }, { "dropout", o->dropout, 0, 0.95 },
        { "lora rank", o->lora_rank, 0, RANK_MAX }, { "lora alpha", o->lora_alpha, 0, 1e6 },
        { "balance", o->balance, 0, 1e6 }, { "temperature", o->temperature, 1e-4, 1e4 },
    };
    for (int i = 0; i < LM_COUNT(ranges); i++) {
        if (ranges[i].x >= ranges[i].min && ranges[i].x <= ranges[i].max) continue;
        lm_err_set(err, LM_ERROR, "%s %g is out of range (%g to %g)", ranges[i].name, ranges[i].x, ranges[i].min,
                   ranges[i].max);
    }
}

static const struct { const char *name; int slot; } targets[] = {
    { "q", LM_Q }, { "k", LM_K }, { "v", LM_V }, { "o", LM_O }, { "gate", LM_GATE }, { "up", LM_UP }, { "down", LM_DOWN },
};

/* The slots that a list of targets names, a bit each. */
static unsigned read_targets(const char *list, lm_err *err) {
    unsigned slots = 0;
    for (const char *at = list ? list : "q,k,v,o,gate,up,down"; *at;) {
        size_t n = strcspn(at, ",");
        int i = 0;
        while (i < LM_COUNT(targets) && (strlen(targets[i].name) != n || memcmp(targets[i].name, at, n))) i++;
        if (i == LM_COUNT(targets)) {
            lm_err_set(err, LM_ERROR, "lora target %.*s is not known (have: q, k, v, o, gate, up, down)",
                       (int)LM_MIN(n, 40), at);
            return 0;
        }
        slots |= 1u << targets[i].slot;
        at += n + (at[n] == ',');
    }
    if (!slots) lm_err_set(err, LM_ERROR, "lora targets: there are none");
    return slots;
}

/* Add one of an adapter's two matrices; return its number. */
static int add_adapter(lm_trainer *t, const lm_param *base, const char *suffix, int64_t cols, int64_t rows,
                       lm_err *err) {
    lm_param *p = &t->params[t->n_params];
    char name[2 * LM_NAME_MAX];
    int n = snprintf(name, sizeof name, "%s.%s", base->info.name, suffix);
    memcpy(p->info.name, name, LM_NAME_MAX);
    if (n > LM_NAME_MAX) lm_err_set(err, LM_ERROR, "tensor %s: its name is too long for an adapter's", base->info.name);
    p->info.dtype = LM_F32;
    p->info.n_dims = 2;
    p->info.ne[0] = cols;
    p->info.ne[1] = rows;
    p->info.ne[2] = p->info.ne[3] = 1;
    lm_tensor_measure(&p->info, err);
    p->is_matrix = 1;
    t->trained[t->n_trained++] = t->n_params;
    return t->n_params++;
}

/* A tensor that is several weights gets one for them all, at the first. */
static void add_adapters(lm_trainer *t, lm_weight *w, size_t *mid, lm_err *err) {
    int rank = t->o.lora_rank, a = add_adapter(t, w->p, "lora_a", w->cols, rank, err),
        b = add_adapter(t, w->p, "lora_b", rank, w->p->info.ne[1], err);
    w->down = &t->params[a];
    w->up = &t->params[b];
    w->mid = *mid;
    *mid += (size_t)rank;
}

/* Slots that a slot shares its tensor with, which stand side by side: how many before it and behind it. */
static int same_before(const int *at, int s) {
    int n = 0;
    while (n < s && at[s - n - 1] == at[s]) n++;
    return n;
}

static int same_behind(const int *at, int s, int n_slots) {
    int n = 0;
    while (s + n + 1 < n_slots && at[s + n + 1] == at[s]) n++;
    return n;
}

/* Give a weight its part of its tensor; return which it is. */
static int bind_part(lm_weight *w, const int *at, int s, int n_slots) {
    int part = same_before(at, s), n_parts = part + 1 + same_behind(at, s, n_slots), is_vector = w->p->info.n_dims == 1;
    w->cols = (int)w->p->info.ne[0] / (is_vector ? n_parts : 1);
    w->rows = (int)w->p->info.ne[1] / (is_vector ? 1 : n_parts);
    w->at = (size_t)part * (size_t)w->rows * (size_t)w->cols;
    w->p->is_matrix = !is_vector;
    return part;
}

/* The bits of a slot and of those that share its tensor from it on. */
static unsigned targeted(const int *at, int s, int n_slots, int slot) {
    return ((2u << same_behind(at, s, n_slots)) - 1) << slot;
}

/* Bind tensors to slots and settle what is trained. Nothing large is allocated yet. */
static void plan(lm_trainer *t, const lm_source *src, const lm_train_options *options, lm_err *err) {
    t->o = *options;
    if (!t->o.batch_tokens) t->o.batch_tokens = BATCH_TOKENS;
    if (t->o.lora_alpha == 0) t->o.lora_alpha = t->o.lora_rank;
    if (t->o.temperature == 0) t->o.temperature = TEMPERATURE;
    check_options(&t->o, err);
    unsigned slots = t->o.lora_rank ? read_targets(t->o.lora_targets, err) : 0;
    t->o.lora_targets = NULL;               /* borrowed */
    t->arch = lm_arch_find(src->arch);
    if (!t->arch) lm_err_set(err, LM_ERROR, "architecture %.40s is not supported", src->arch);
    else lm_hparams_read(&t->h, t->arch, src->hparams, src->hparams_n, err);
    if (err->code) return;
    int n_slots = t->h.n_layers * LM_LAYER_SLOTS + LM_TOP_SLOTS, n_stored = lm_hparams_n_stored(&t->h),
        n_most = src->n_tensors + (slots ? 2 * t->h.n_layers * LM_COUNT(targets) : 0);
    int *at = lm_alloc(sizeof *at * (size_t)n_slots, err);
    t->layer = lm_calloc((size_t)t->h.n_layers, sizeof *t->layer, err);
    t->params = lm_calloc((size_t)LM_MAX(n_most, 1), sizeof *t->params, err);
    t->trained = lm_calloc((size_t)LM_MAX(n_most, 1), sizeof *t->trained, err);
    if (!err->code) lm_arch_bind(t->arch, &t->h, src->tensors, src->n_tensors, at, err);
    if (err->code) {
        lm_free(at);
        return;
    }
    size_t mid = 0;
    t->n_params = src->n_tensors;
    for (int i = 0; i < src->n_tensors; i++) t->params[i].info = src->tensors[i];
    for (int s = 0; s < n_slots; s++) {
        int layer = s / LM_LAYER_SLOTS, is_top = layer >= t->h.n_layers, slot = s - layer * LM_LAYER_SLOTS;
        if (is_top) slot = s - t->h.n_layers * LM_LAYER_SLOTS;
        lm_weight *w = is_top ? &t->top[slot] : &t->layer[layer][slot];
        if (slot == 0) mid = 0;
        if (at[s] < 0 || (!is_top && layer >= n_stored)) continue;
        w->p = &t->params[at[s]];
        int part = bind_part(w, at, s, n_slots);
        if (!slots && part == 0) t->trained[t->n_trained++] = at[s];
        if (!slots && is_top && slot == LM_ROPE_FREQS) t->n_trained--;      /* a constant */
        if (!is_top && slots & targeted(at, s, n_slots, slot) && part == 0) add_adapters(t, w, &mid, err);
    }
    for (int l = n_stored; l < t->h.n_layers; l++) memcpy(t->layer[l], t->layer[l - n_stored], sizeof *t->layer);
    if (!t->top[LM_OUTPUT].p) t->top[LM_OUTPUT] = t->top[LM_TOKEN_EMBD];
    if (slots && !t->n_trained) lm_err_set(err, LM_ERROR, "lora targets: a %s model has none of these", src->arch);
    for (int i = 1; !slots && i < t->n_trained; i++) {      /* by slots so far; in the source's order from here */
        int x = t->trained[i], j = i;
        for (; j > 0 && t->trained[j - 1] > x; j--) t->trained[j] = t->trained[j - 1];
        t->trained[j] = x;
    }
    lm_free(at);
}

/*----------------------------------------------------------------------
** Room. One function says what is wanted, once to count it and once to have it. */
typedef struct { lm_trainer *t; int is_dry; uint64_t total; lm_err *err; } carver;

static void room(carver *c, void *out, uint64_t n, size_t size) {
    lm_trainer *t = c->t;
    uint64_t bytes = n * size + 64;         /* a vector may be read up to its sixteen's end */
    c->total += bytes;
    if (c->is_dry) return;
    void *p = lm_alloc((size_t)bytes, c->err);
    if (p) t->slabs[t->n_slabs++] = p;
    *(void **)out = p;
}

/* What stands side by side: of queries, keys and values; of gate and up, for each expert a row meets. */
static uint64_t pairs_of(const lm_hparams *h, uint64_t rows) {
    return rows * (uint64_t)(h->n_experts ? h->n_active : 1);
}
static uint64_t width_up(const lm_trainer *t) {
    return (uint64_t)t->h.n_ff * (t->layer[0][LM_GATE].p || t->h.n_experts ? 2 : 1);
}

static size_t mids_of(const lm_trainer *t, int layer) {
    size_t n = 0;
    for (int s = 0; s < LM_LAYER_SLOTS; s++) n += t->layer[layer][s].down ? (size_t)t->o.lora_rank : 0;
    return n;
}

static void room_for_params(carver *c) {
    lm_trainer *t = c->t;
    for (int i = 0, next = 0; i < t->n_params; i++) {
        lm_param *p = &t->params[i];
        float *all = NULL;
        int is_trained = next < t->n_trained && t->trained[next] == i;
        next += is_trained;
        if (!is_trained) {
            room(c, &p->raw, (uint64_t)p->info.n_bytes, 1);
            continue;
        }
        room(c, &all, 4 * (uint64_t)p->info.n_params, sizeof(float));
        for (int what = 0; all && what < 4; what++) p->data[what] = all + (size_t)what * (size_t)p->info.n_params;
    }
}

/* What layers share while recomputing, but for the stream, each has of its own otherwise. */
static void room_for_acts(carver *c, int layer) {
    lm_trainer *t = c->t;
    const lm_hparams *h = &t->h;
    const lm_weight *w = t->layer[layer];
    lm_acts *a = t->acts ? &t->acts[layer] : &(lm_acts){0};
    uint64_t n = (uint64_t)t->max_rows, embd = (uint64_t)h->n_embd,
             heads = (uint64_t)h->n_heads * (uint64_t)h->head_dim,
             kv = (uint64_t)h->n_kv_heads * (uint64_t)h->head_dim;
    uint64_t pairs = pairs_of(h, n);
    size_t f = sizeof(float);
    if (t->o.recompute && layer > 0) {
        float *x = NULL;
        room(c, &x, n * embd, f);
        if (!c->is_dry) *a = t->acts[0], a->x = x;
        if (!c->is_dry && !w[LM_ATTN_NORM].p) a->h = x;
        return;
    }
    room(c, &a->x, n * embd, f);
    if (w[LM_ATTN_NORM].p) room(c, &a->h, n * embd, f), room(c, &a->stat, n * 2, f);
    else a->h = a->x;
    room(c, &a->qkv, n * (heads + 2 * kv), f);
    if (w[LM_Q_NORM].p)
        room(c, &a->raw_qk, n * (heads + kv), f),
            room(c, &a->qk_stat, 2 * n * (uint64_t)(h->n_heads + h->n_kv_heads), f);
    room(c, &a->mixed, n * heads, f);
    room(c, &a->log_sum, n * (uint64_t)h->n_heads, f);
    a->attn = a->ffn = t->delta;
    if (w[LM_ATTN_POST_NORM].p) room(c, &a->attn, n * embd, f), room(c, &a->attn_stat, n * 2, f);
    room(c, &a->mid, n * embd, f);
    if (w[LM_ATTN_OUT_NORM].p) room(c, &a->mid_sum, n * embd, f), room(c, &a->mid_stat, n * 2, f);
    if (w[LM_FFN_NORM].p) room(c, &a->h2, n * embd, f), room(c, &a->stat2, n * 2, f);
    else a->h2 = a->mid;
    room(c, &a->gu, pairs * width_up(t), f);
    room(c, &a->act, pairs * (uint64_t)h->n_ff, f);
    if (h->n_experts) {
        room(c, &a->probs, n * (uint64_t)h->n_experts, f),
            room(c, &a->first, (uint64_t)h->n_experts + 1, sizeof(int32_t));
        room(c, &a->expert, pairs, sizeof(int32_t)), room(c, &a->share, pairs, f);
        room(c, &a->column, pairs, sizeof(int32_t)), room(c, &a->pair, pairs, sizeof(int32_t));
    }
    if (w[LM_FFN_POST_NORM].p) room(c, &a->ffn, n * embd, f), room(c, &a->ffn_stat, n * 2, f);
    if (w[LM_FFN_OUT_NORM].p) room(c, &a->end_sum, n * embd, f), room(c, &a->end_stat, n * 2, f);
    if (mids_of(t, layer)) room(c, &a->mids, n * mids_of(t, layer), f);
}

/* The most that the products of one run pack. */
static uint64_t packed_floats(const lm_trainer *t) {
    const lm_hparams *h = &t->h;
    uint64_t n = (uint64_t)t->max_rows, embd = (uint64_t)h->n_embd, heads = lm_width_heads(h), most = 0,
             pairs = pairs_of(h, n), ff = (uint64_t)h->n_ff;
    struct { uint64_t n, in, out; } shapes[] = { { n, embd, lm_width_qkv(h) }, { n, heads, embd }, { pairs, embd, width_up(t) },
                                                 { pairs, ff, embd }, { n, embd, (uint64_t)h->n_experts } };
    for (int i = 0; i < LM_COUNT(shapes); i++) {        /* the weights, and both factors of their gradients */
        uint64_t in = shapes[i].in + 16, out = shapes[i].out + 64;
        most = LM_MAX(most, in * out + shapes[i].n * (in + out + 2 * (uint64_t)t->o.lora_rank));
    }
    uint64_t block = (uint64_t)t->vocab_block + 16, rows = (uint64_t)t->panel_rows, texts = (uint64_t)t->max_pairs + 16;
    return LM_MAX(LM_MAX(most, 2 * block * (embd + 16) + rows * (block + embd + 16)),
                  2 * texts * (embd + 16) + texts * texts)
           + 64;
}

static void room_for_all(carver *c) {
    lm_trainer *t = c->t;
    const lm_hparams *h = &t->h;
    uint64_t n = (uint64_t)t->max_rows, embd = (uint64_t)h->n_embd, pairs = h->n_experts ? pairs_of(h, n) : 0,
             experts = (uint64_t)h->n_experts;
    uint64_t wide = LM_MAX(lm_width_qkv(h), pairs_of(h, 1) * width_up(t)),
             wide2 = LM_MAX(lm_width_heads(h), pairs_of(h, (uint64_t)h->n_ff));
    uint64_t logits = (uint64_t)t->panel_rows * (uint64_t)t->vocab,
             cosines = (uint64_t)t->max_pairs * (uint64_t)t->max_pairs;
    size_t f = sizeof(float);
    room_for_params(c);
    room(c, &t->delta, n * embd, f);
    for (int layer = 0; layer < h->n_layers && !c->err->code; layer++) room_for_acts(c, layer);
    for (int local = 0; local < (h->n_window && h->rope_base_local > 0 ? 2 : 1); local++) {
        room(c, &t->cosine[local], n * (uint64_t)h->n_rot / 2, f);
        room(c, &t->sine[local], n * (uint64_t)h->n_rot / 2, f);
    }
    t->n_packed = packed_floats(t);
    struct { void *at; uint64_t n; size_t size; } parts[] = {
        { &t->stream, n * embd, f }, { &t->final_stat, n * 2, f }, { &t->dx, n * embd, f }, { &t->dd, n * embd, f }, { &t->dh, n * embd, f },
        { &t->d_wide, n * wide, f }, { &t->d_wide2, n * wide2, f }, { &t->d_mid, n * (uint64_t)t->o.lora_rank, f },
        { &t->partial, (n / ROWS_AN_ITEM + 1) * 2 * LM_MAX(embd, (uint64_t)h->head_dim), f }, { &t->packed, t->n_packed, f },
        { &t->head, n * embd, f }, { &t->d_head, n * embd, f }, { &t->logits, LM_MAX(logits, cosines), f }, { &t->losses, n, sizeof *t->losses },
        { &t->scales, n, f }, { &t->slots, (uint64_t)t->n_slots * t->slot_bytes, 1 }, { &t->seqs, n, sizeof *t->seqs },
        { &t->pos, n, sizeof *t->pos }, { &t->targets, n, sizeof *t->targets },
        { &t->pair_x, pairs * embd, f }, { &t->pair_d, pairs * embd, f }, { &t->d_share, pairs, f }, { &t->d_logits, n * experts, f },
        { &t->masses, experts, sizeof *t->masses }, { &t->balances, (uint64_t)h->n_layers, sizeof *t->balances },
    };
    for (int i = 0; i < LM_COUNT(parts); i++) room(c, parts[i].at, parts[i].n, parts[i].size);
    if (t->top[LM_EMBD_NORM].p) room(c, &t->embd, n * embd, f), room(c, &t->embd_stat, n * 2, f);
    if (t->top[LM_OUTPUT_NORM].p) room(c, &t->final, n * embd, f);
    else t->final = t->stream;
}

static uint64_t measure(lm_trainer *t, lm_err *err) {
    const lm_hparams *h = &t->h;
    t->max_rows = t->o.batch_tokens;
    t->vocab = t->arch->is_encoder ? 0 : h->n_vocab;
    t->max_pairs = LM_MIN(LM_PAIRS_MAX, t->max_rows / 2);
    t->panel_rows = LM_MAX(32, LM_MIN(PANEL_ROWS, PANEL_BYTES / (h->n_vocab * 4) & ~31));
    t->vocab_block = LM_MIN(t->vocab, LM_MAX(HEAD_FLOATS / h->n_embd & ~(LM_PANEL - 1), LM_PANEL));
    t->n_slots = LM_MIN(lm_threads(), 64);
    t->slot_bytes = lm_attend_slot_bytes(h, t->max_rows);
    carver c = { t, 1, 0, err };
    room_for_all(&c);
    return c.total;
}

/*----------------------------------------------------------------------
** Reading. */
static void fill_angles(lm_trainer *t, int local, const float *factors, lm_err *err) {
    const lm_hparams *h = &t->h;
    int half = h->n_rot / 2;
    for (int i = 0; i < half; i++) {
        double angle = lm_rope_angle(h, local, i, factors, err), s, c;
        for (int pos = 0; pos < LM_MIN(t->max_rows, h->n_ctx) && !err->code; pos++) {
            lm_sincos(pos * angle, &s, &c);
            t->sine[local][(size_t)pos * (size_t)half + (size_t)i] = (float)s;
            t->cosine[local][(size_t)pos * (size_t)half + (size_t)i] = (float)c;
        }
    }
}

/* An adapter begins as nothing: B is 0, and A within 1 / sqrt(cols), as Hu et al. 2021 have it. */
static void begin_adapter(const lm_trainer *t, lm_param *p, uint64_t which) {
    int is_a = p->info.ne[1] == t->o.lora_rank && strstr(p->info.name, ".lora_a") != NULL;
    double limit = 1 / sqrt((double)p->info.ne[0]);
    uint64_t seed = (t->o.seed + 1) * 0x9E3779B97F4A7C15u ^ (which << 40);
    for (int64_t i = 0; i < p->info.n_params; i++) {
        p->data[LM_TRAIN_VALUE][i] =
            is_a ? (float)(((double)(lm_random_at(seed, (uint64_t)i) >> 11) / 4503599627370496.0 - 1) * limit) : 0;
    }
}

static int64_t rows_of(const lm_tensor *t) { return t->n_params / t->ne[0]; }

/* Read a tensor that is trained, decoded; a piece is whole rows. */
static void read_values(const lm_source *src, int i, lm_param *p, uint8_t *buffer, size_t row_bytes, lm_stop stop,
                        lm_err *err) {
    const lm_dtype *dtype = lm_dtype_find(p->info.dtype);
    size_t cols = (size_t)p->info.ne[0];
    for (int64_t row = 0; row < rows_of(&p->info) && !err->code; row++) {
        src->read(src->arg, i, row * (int64_t)row_bytes, buffer, row_bytes, err);
        if (!err->code) dtype->decode(buffer, p->data[LM_TRAIN_VALUE] + (size_t)row * cols, (int64_t)cols);
        if (row % 64 == 0) lm_poll(stop, err);
    }
}

static void read_tensors(lm_trainer *t, const lm_source *src, lm_stop stop, lm_err *err) {
    size_t most = 0;
    for (int i = 0; i < src->n_tensors; i++)
        most = LM_MAX(most, (size_t)(t->params[i].info.n_bytes / rows_of(&t->params[i].info)));
    uint8_t *buffer = lm_alloc(most, err);
    for (int i = 0; i < t->n_params && !err->code; i++) {
        lm_param *p = &t->params[i];
        size_t row_bytes = (size_t)(p->info.n_bytes / rows_of(&p->info));
        if (i >= src->n_tensors) {
            begin_adapter(t, p, (uint64_t)i);
        } else if (p->data[LM_TRAIN_VALUE]) {
            read_values(src, i, p, buffer, row_bytes, stop, err);
        } else {
            for (int64_t row = 0; row < rows_of(&p->info) && !err->code; row++) {
                src->read(src->arg, i, row * (int64_t)row_bytes, p->raw + (size_t)row * row_bytes, row_bytes, err);
                if (row % 64 == 0) lm_poll(stop, err);
            }
        }
        for (int what = LM_TRAIN_GRAD; p->data[0] && what <= LM_TRAIN_V; what++)
            memset(p->data[what], 0, (size_t)p->info.n_params * sizeof(float));
        if (!p->data[0]) continue;
        p->info.dtype = LM_F32;
        lm_tensor_measure(&p->info, err);
    }
    lm_free(buffer);
}

/*----------------------------------------------------------------------
** Life. */
uint64_t lm_trainer_bytes(const lm_source *src, const lm_train_options *options, lm_err *err) {
    lm_trainer *t = lm_calloc(1, sizeof *t, err);
    uint64_t n = 0;
    if (t) plan(t, src, options, err);
    if (t && !err->code) n = measure(t, err);
    lm_trainer_free(t);
    return n;
}

lm_trainer *lm_trainer_new(const lm_source *src, const lm_train_options *options, lm_stop stop, lm_err *err) {
    lm_trainer *t = lm_calloc(1, sizeof *t, err);
    if (!t) return NULL;
    t->kern = lm_train_kern_get();
    plan(t, src, options, err);
    uint64_t bytes = err->code ? 0 : measure(t, err), limit = lm_mem_limit(), used = lm_mem_used();
    if (limit && used + bytes > limit) {
        lm_err_set(
            err, LM_NOMEM,
            "memory_limit %llu bytes: training takes %llu more than the %llu in use (fewer batch_tokens, or recompute, take less)",
            (unsigned long long)limit, (unsigned long long)bytes, (unsigned long long)used);
    }
    if (!err->code) {
        t->acts = lm_calloc((size_t)t->h.n_layers, sizeof *t->acts, err);
        t->slabs = lm_calloc((size_t)t->n_params + 32 * (size_t)t->h.n_layers + 64, sizeof *t->slabs, err);
        carver c = { t, 0, 0, err };
        if (!err->code) room_for_all(&c);
    }
    if (!err->code) read_tensors(t, src, stop, err);
    if (!err->code) {
        const lm_param *factors = t->top[LM_ROPE_FREQS].p;
        for (int local = 0; local < 2 && t->cosine[local]; local++)
            fill_angles(t, local, factors ? (const float *)factors->raw : NULL, err);
    }
    if (!err->code) return t;
    lm_trainer_free(t);
    return NULL;
}

void lm_trainer_free(lm_trainer *t) {
    if (!t) return;
    for (int i = 0; i < t->n_slabs; i++) lm_free(t->slabs[i]);
    lm_free(t->slabs);
    lm_free(t->acts);
    lm_free(t->layer);
    lm_free(t->params);
    lm_free(t->trained);
    lm_free(t);
}

int lm_trainer_n_tensors(const lm_trainer *t) { return t->n_trained; }
const lm_tensor *lm_trainer_tensor(const lm_trainer *t, int i) { return &t->params[t->trained[i]].info; }
float *lm_trainer_data(lm_trainer *t, int i, int what) { return t->params[t->trained[i]].data[what]; }
int64_t lm_trainer_step_count(const lm_trainer *t) { return t->steps; }
void lm_trainer_step_count_set(lm_trainer *t, int64_t n) { t->steps = n; }

const char *lm_train_math(void) { return "float32, sums in one order"; }

/*----------------------------------------------------------------------
** Batches. */

/* Check the sequences, and sum their targets' weights. */
static double check_batch(const lm_trainer *t, const lm_train_batch *b, int first, lm_err *err) {
    double sum = 0;
    size_t at = 0;
    int most = t->h.n_text && t->arch->is_encoder ? LM_MIN(t->h.n_text, t->h.n_ctx) : t->h.n_ctx;
    for (int i = 0; i < b->n && !err->code; i++) {
        if (b->lengths[i] < 1 || b->lengths[i] > LM_MIN(most, t->max_rows)) {
            lm_err_set(err, LM_ERROR, "sequence %d: %d tokens, expected 1 to %d (%s)", i, b->lengths[i],
                       LM_MIN(most, t->max_rows), most <= t->max_rows ? "the model's context" : "batch_tokens");
            return 0;
        }
        for (int j = 0; j < b->lengths[i] && !err->code; j++, at++) {
            double weight = b->weights ? (double)b->weights[at] : 1;
            if (b->ids[at] < 0 || b->ids[at] >= t->h.n_vocab) {
                lm_err_set(err, LM_ERROR, "sequence %d: id %d at %d is not in the vocabulary of %d", i, b->ids[at], j,
                           t->h.n_vocab);
            } else if (!(weight >= 0 && weight <= 1e6)) {
                lm_err_set(err, LM_ERROR, "sequence %d: weight %g at %d is out of range (0 to 1e6)", i, weight, j);
            } else if (j >= first) {
                sum += weight;
            }
        }
    }
    return sum;
}

/* Set the rows of the next part: sequences from *seq on, up to max_rows ids. */
static void set_part(lm_trainer *t, const lm_train_batch *b, int *seq, size_t *at) {
    t->ids = b->ids + *at;
    t->weights = b->weights ? b->weights + *at : NULL;
    t->first_row = *at;
    t->n = t->n_seqs = t->n_targets = 0;
    for (; *seq < b->n && t->n + b->lengths[*seq] <= t->max_rows; (*seq)++) {
        int n = b->lengths[*seq];
        t->seqs[t->n_seqs++] = (lm_span_rows){ t->n, n, 0 };
        for (int i = 0; i < n; i++) {
            t->pos[t->n + i] = i;
            if (i + 1 < n && (!t->weights || t->weights[t->n + i + 1] > 0)) t->targets[t->n_targets++] = t->n + i;
        }
        t->n += n;
    }
    *at += (size_t)t->n;
}

static void start_batch(lm_trainer *t, const lm_train_batch *b, int backward, lm_train_result *out, lm_stop stop,
                        lm_err *err) {
    t->is_training = backward;
    t->total_rows = 0;
    for (int i = 0; i < b->n && !err->code; i++) t->total_rows += b->lengths[i];
    memset(t->balances, 0, (size_t)t->h.n_layers * sizeof *t->balances);
    if (backward) lm_optim_zero(t, stop, err);
    *out = (lm_train_result){0};
}

/* What a part's forward pass left of its layers' balance. */
static double balance(const lm_trainer *t) {
    double sum = 0;
    for (int i = 0; i < t->h.n_layers; i++) sum += t->balances[i];
    return sum;
}

static void end_batch(lm_trainer *t, double loss, int backward, lm_train_result *out, lm_stop stop, lm_err *err) {
    out->loss = err->code ? 0 : loss;
    if (!err->code && !(loss - loss == 0)) lm_err_set(err, LM_ERROR, "the loss is not finite");
    if (!backward || err->code) return;
    out->grad_norm = lm_optim_norm(t, stop, err);
    if (!err->code && !(out->grad_norm - out->grad_norm == 0)) lm_err_set(err, LM_ERROR, "the gradient is not finite");
}

static void run_batch(lm_trainer *t, const lm_train_batch *b, int backward, lm_train_result *out, lm_stop stop,
                      lm_err *err) {
    unsigned fp = lm_fp_enter();
    double loss = 0;
    size_t at = 0;
    if (t->arch->is_encoder)
        lm_err_set(err, LM_ERROR, "a %s model predicts no next token: it is trained on pairs", t->arch->name);
    t->total_weight = check_batch(t, b, 1, err);
    if (!err->code && !(t->total_weight > 0)) lm_err_set(err, LM_ERROR, "a batch without a token to learn");
    start_batch(t, b, backward, out, stop, err);
    for (int seq = 0; seq < b->n && !err->code;) {
        set_part(t, b, &seq, &at);
        if (!t->n_targets) continue;
        lm_grad_forward(t, stop, err);
        out->balance += balance(t);
        loss += lm_grad_loss(t, backward, stop, err);
        if (backward) lm_grad_backward(t, stop, err);
    }
    out->weight = t->total_weight;
    end_batch(t, loss / t->total_weight, backward, out, stop, err);
    lm_fp_leave(fp);
}

void lm_trainer_loss(lm_trainer *t, const lm_train_batch *batch, lm_train_result *out, lm_stop stop, lm_err *err) {
    run_batch(t, batch, 0, out, stop, err);
}
void lm_trainer_gradients(lm_trainer *t, const lm_train_batch *batch, lm_train_result *out, lm_stop stop,
                          lm_err *err) {
    run_batch(t, batch, 1, out, stop, err);
}

static void check_pairs(const lm_trainer *t, const lm_pair_batch *pairs, const lm_train_batch *texts, lm_err *err) {
    if (pairs->n < 2 || pairs->n > t->max_pairs) {
        lm_err_set(err, LM_ERROR, "%d pairs in a batch, expected 2 to %d (%s)", pairs->n, t->max_pairs,
                   t->max_pairs < LM_PAIRS_MAX ? "half of batch_tokens" : "the most there can be");
        return;
    }
    check_batch(t, texts, 0, err);
}

static void run_pairs(lm_trainer *t, const lm_pair_batch *pairs, int backward, lm_train_result *out, lm_stop stop,
                      lm_err *err) {
    lm_train_batch texts = { pairs->ids, NULL, pairs->lengths, 2 * pairs->n };
    unsigned fp = lm_fp_enter();
    int n_parts = 0;
    size_t at = 0;
    check_pairs(t, pairs, &texts, err);
    start_batch(t, &texts, backward, out, stop, err);
    for (int seq = 0, first; seq < texts.n && !err->code; n_parts++) {
        first = seq;
        set_part(t, &texts, &seq, &at);
        lm_grad_forward(t, stop, err);
        out->balance += balance(t);
        lm_contrast_pool(t, first, stop, err);
    }
    double loss = err->code ? 0 : lm_contrast_loss(t, pairs->n, backward, stop, err);
    at = 0;
    for (int seq = 0, first; seq < texts.n && backward && !err->code;) {
        first = seq;
        set_part(t, &texts, &seq, &at);
        if (n_parts > 1) lm_grad_forward(t, stop, err);
        lm_contrast_spread(t, first, stop, err);
        lm_grad_backward(t, stop, err);
    }
    out->weight = pairs->n;
    end_batch(t, loss, backward, out, stop, err);
    lm_fp_leave(fp);
}

void lm_trainer_pair_loss(lm_trainer *t, const lm_pair_batch *pairs, lm_train_result *out, lm_stop stop,
                          lm_err *err) {
    run_pairs(t, pairs, 0, out, stop, err);
}
void lm_trainer_pair_gradients(lm_trainer *t, const lm_pair_batch *pairs, lm_train_result *out, lm_stop stop,
                               lm_err *err) {
    run_pairs(t, pairs, 1, out, stop, err);
}

/* Put the step in front of a message that says what went wrong with its numbers. */
static void blame_step(const lm_trainer *t, double lr, lm_err *err) {
    if (err->code == LM_ERROR) lm_err_blame(err, "step %lld, learning rate %g: ", (long long)t->steps + 1, lr);
}

/* Given the gradients, the step. */
static void take_step(lm_trainer *t, double lr, const lm_train_result *out, lm_stop stop, lm_err *err) {
    double clip = t->o.clip > 0 && out->grad_norm > t->o.clip ? t->o.clip / (out->grad_norm + 1e-6) : 1;
    unsigned fp = lm_fp_enter();
    if (!err->code) lm_optim_step(t, lr, clip, stop, err);
    lm_fp_leave(fp);
    blame_step(t, lr, err);
}

static void check_rate(double lr, lm_err *err) {
    if (!(lr >= 0 && lr <= 1e12)) lm_err_set(err, LM_ERROR, "a learning rate of %g is out of range (0 to 1e12)", lr);
}

void lm_trainer_step(lm_trainer *t, const lm_train_batch *batch, double lr, lm_train_result *out, lm_stop stop,
                     lm_err *err) {
    if (err->code) return;
    check_rate(lr, err);
    run_batch(t, batch, 1, out, stop, err);
    take_step(t, lr, out, stop, err);
}

void lm_trainer_pair_step(lm_trainer *t, const lm_pair_batch *pairs, double lr, lm_train_result *out, lm_stop stop,
                          lm_err *err) {
    if (err->code) return;
    check_rate(lr, err);
    run_pairs(t, pairs, 1, out, stop, err);
    take_step(t, lr, out, stop, err);
}

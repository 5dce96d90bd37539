/* score.c: how probable ids are, each after those before it.
**
** Sequences go through passes in the order they came, side by side. What a sequence only reads (a prompt) is kept among the
** model's prefixes, where those behind it find it; one whose beginning is being read in this pass waits for the next. The
** output of a pass is computed for as many rows at a time as HEAD_BYTES of logits hold, and only what was asked of them is kept.
**
** A sequence longer than the window is read as several: the ids before `lead`, then those from `start` on. */
#include "../model/model.h"

#include <string.h>

/* LIVE: sequences with a cache at a time, as batch.c's slots. It pays to wait for GAIN positions. */
enum { HEAD_BYTES = 32 << 20, LIVE = 32, GAIN = 16 };

typedef struct {
    lm_ids ids;
    size_t lead, start;                 /* position p of the window is id p, or from lead on p + start */
    size_t next;                        /* the first id that is not scored yet */
    size_t n_read;                      /* leading ids that are not scored at all */
    lm_kv kv;
    int from;                           /* kv.n before this pass */
} sequence;

struct lm_scorer {
    lm_model *m;
    lm_score_options options;
    sequence *sequences; size_t n, cap, open;       /* those before `open` are done */
    lm_pass *pass; int max_out;
    lm_row rows[LM_ROWS_MAX];
    lm_score scores[LM_ROWS_MAX]; int is_wanted[LM_ROWS_MAX];       /* by row; then the wanted ones alone */
    int n_scores, given;
    const float *logits; int first_row; /* of the rows whose logits are here */
};

/* Rows of logits that are held at a time. */
static int head_rows(const lm_model *m) {
    return (int)LM_MAX(LM_MIN(HEAD_BYTES / sizeof(float) / (size_t)m->h.n_vocab, LM_ROWS_MAX), 1);
}

lm_scorer *lm_scorer_new(lm_model *m, const lm_score_options *options, lm_err *err) {
    lm_score_options o = *options;
    int n_ctx = m->h.n_ctx;
    if (m->arch->is_encoder)
        lm_err_set(err, LM_ERROR, "a %s model embeds texts, it knows no probabilities", m->arch->name);
    if (!o.window) o.window = n_ctx;
    if (!o.stride) o.stride = LM_MAX(o.window / 2, 1);
    if (o.window < 2 || o.window > n_ctx)
        lm_err_set(err, LM_ERROR, "a window of %d tokens: expected 2 to the context's %d", o.window, n_ctx);
    if (o.stride < 1 || o.stride >= o.window)
        lm_err_set(err, LM_ERROR, "a stride of %d tokens: expected 1 to %d, less than the window", o.stride,
                   o.window - 1);
    lm_scorer *s = err->code ? NULL : lm_calloc(1, sizeof *s, err);
    if (!s) return NULL;
    s->m = m;
    s->options = o;
    s->max_out = head_rows(m);
    return s;
}

static void clear_sequence(sequence *q) {
    lm_kv_clear(&q->kv);
    lm_ids_clear(&q->ids);
}

void lm_scorer_free(lm_scorer *s) {
    if (!s) return;
    for (size_t i = s->open; i < s->n; i++) clear_sequence(&s->sequences[i]);
    lm_free(s->sequences);
    lm_pass_free(s->pass);
    lm_free(s);
}

int lm_scorer_add(lm_scorer *s, const int32_t *ids, size_t n, size_t lead, size_t first, lm_err *err) {
    sequence q = { .lead = lead, .next = first, .n_read = first };
    if (first < 1 || lead > first)
        lm_err_set(err, LM_ERROR,
                   "token %zu cannot be scored: expected one after the first and after %zu leading ones", first,
                   lead);
    if (n > (size_t)s->options.window && lead + (size_t)s->options.stride >= (size_t)s->options.window) {
        lm_err_set(err, LM_ERROR, "a window of %d tokens has no room for %zu leading ones and a stride of %d",
                   s->options.window, lead, s->options.stride);
    }
    for (size_t i = 0; i < n && !err->code; i++) {
        if (ids[i] < 0 || ids[i] >= s->m->h.n_vocab)
            lm_err_set(err, LM_ERROR, "token id %d is not in the vocabulary of %d", ids[i], s->m->h.n_vocab);
    }
    if (!lm_grow((void **)&s->sequences, s->n, &s->cap, 1, sizeof q, err)) return -1;
    if (!lm_grow((void **)&q.ids.data, 0, &q.ids.cap, n + 1, sizeof *ids, err)) return -1;
    if (n) memcpy(q.ids.data, ids, n * sizeof *ids);
    q.ids.n = n;
    lm_kv_init(&q.kv, s->m, 0);
    s->sequences[s->n] = q;
    return (int)s->n++;
}

/*----------------------------------------------------------------------
** Windows and rows */
static size_t id_at(const sequence *q, int pos) { return (size_t)pos < q->lead ? (size_t)pos : (size_t)pos + q->start; }

/* Positions of this window that are read: all but the last, which nothing follows. */
static int n_window(const lm_scorer *s, const sequence *q) {
    if (q->next >= q->ids.n) return 0;
    return (int)LM_MIN(q->ids.n - q->start, (size_t)s->options.window) - 1;
}

static int is_done(const sequence *q) { return q->next >= q->ids.n; }

/* Is the beginning of sequence i being read in this pass, so that waiting for it saves work? */
static int must_wait(const lm_scorer *s, size_t i) {
    const sequence *q = &s->sequences[i];
    int best = 0;
    for (size_t o = s->open; o < i; o++) {
        const sequence *other = &s->sequences[o];
        int alike = 0, most = (int)LM_MIN(q->n_read, other->n_read) - 1;
        if (is_done(other) || other->start) continue;
        while (alike < most && q->ids.data[alike] == other->ids.data[alike]) alike++;
        if (alike >= other->from + GAIN) best = LM_MAX(best, alike);
    }
    return best >= GAIN
           && best >= lm_prefix_length(s->m, q->ids.data, (int)LM_MIN(q->n_read, (size_t)s->options.window) - 1)
                          + GAIN;
}

/* Put rows of sequence i behind the n that are there. Return how many there are then. */
static int add_rows(lm_scorer *s, size_t i, int n, lm_stop stop, lm_err *err) {
    sequence *q = &s->sequences[i];
    lm_err own = {0};
    if (!q->kv.n && !q->start)
        lm_prefix_find(&q->kv, q->ids.data, (int)LM_MIN(q->n_read, (size_t)s->options.window) - 1);
    q->from = q->kv.n;
    int take = LM_MIN(n_window(s, q) - q->kv.n, LM_ROWS_MAX - n);
    lm_kv_reserve(&q->kv, q->kv.n + take, &own);
    lm_poll(stop, &own);            /* zeros take their time */
    if (own.code == LM_NOMEM && n) {        /* once others are done there may be room */
        lm_kv_clear(&q->kv);
        return n;
    }
    if (own.code) {
        *err = own;
        return n;
    }
    for (int r = 0; r < take; r++, n++, q->kv.n++) {
        size_t target = id_at(q, q->kv.n + 1);
        s->rows[n] = (lm_row){ .id = q->ids.data[id_at(q, q->kv.n)], .pos = q->kv.n, .kv = &q->kv, .out = -1 };
        s->is_wanted[n] = target >= q->next;
        s->scores[n] = (lm_score){ .seq = (int)i, .pos = target, .id = q->ids.data[target] };
    }
    return n;
}

/* Gather the rows of a pass from sequences open .. *end-1. Return how many rows. */
static int gather(lm_scorer *s, size_t *end, lm_stop stop, lm_err *err) {
    int n = 0;
    size_t i = s->open;
    while (i < s->n && n < LM_ROWS_MAX && i < s->open + LIVE && !err->code) {
        sequence *q = &s->sequences[i];
        if (n && must_wait(s, i)) break;
        if (is_done(q) && ++i) continue;
        n = add_rows(s, i, n, stop, err);
        if (!q->kv.n_pages) break;                              /* no memory yet */
        i++;
        if ((size_t)q->kv.n + 1 < q->ids.n - q->start) break;   /* it goes on in the next pass */
    }
    *end = i;
    return n;
}

/* Give the pass room for n rows. */
static void size_pass(lm_scorer *s, int n, lm_err *err) {
    if (err->code || lm_pass_fits(s->pass, n, 1)) return;
    lm_pass_free(s->pass);
    s->pass = NULL;
    while (!s->pass && !err->code) {
        lm_err own = {0};
        s->pass = lm_pass_new(s->m, n, LM_MIN(n, s->max_out), 0, &own);
        if (!s->pass && !lm_prefix_shrink(s->m)) *err = own;
    }
}

/*----------------------------------------------------------------------
** Scores */
static void score_item(void *arg, int i) {
    const lm_kern *kern = lm_kern_get();
    lm_scorer *s = arg;
    lm_score *r = &s->scores[s->first_row + i];
    int n = s->m->h.n_vocab, before = 0;
    const float *x = s->logits + (size_t)i * (size_t)n;
    int top = lm_pass_best(s->pass, i);
    float max = x[top], own = x[r->id];
    double sum = kern->sum_exp(x, n, max);
    double log_sum = sum > 0 ? lm_log(sum) : (double)NAN;       /* a logit that is no number spoils the sum */
    r->logprob = (double)own - (double)max - log_sum;
    if (!s->options.details) return;
    for (int j = 0; j < n; j++) before += x[j] > own || (x[j] == own && j < r->id);
    r->rank = before + 1;
    r->top = top;
    r->entropy = log_sum + kern->sum_exp_gap(x, n, max) / sum;
}

/* Score the wanted ones of n rows, stretch by stretch, and move their scores together. */
static void score_rows(lm_scorer *s, int n, lm_stop stop, lm_err *err) {
    s->n_scores = s->given = 0;
    for (int first = 0, some; first < n && !err->code; first += some) {
        for (some = 0; first + some < n && some < LM_MIN(n, s->max_out) && s->is_wanted[first + some]; some++) {}
        if (!some) {
            some = 1;
            continue;
        }
        s->logits = lm_pass_logits(s->pass, first, some, stop, err);
        s->first_row = first;
        lm_pool_run(score_item, s, some, stop, err);
        for (int i = first; i < first + some && !err->code; i++) {
            if (s->scores[i].logprob != s->scores[i].logprob)
                lm_err_set(err, LM_ERROR, "token %zu: its probability is not a number", s->scores[i].pos);
            s->scores[s->n_scores++] = s->scores[i];
        }
    }
}

/* A window is read: go on to the next one, or end. */
static void end_window(lm_scorer *s, sequence *q) {
    q->next = LM_MIN(q->ids.n, q->start + (size_t)s->options.window);
    q->start += (size_t)s->options.stride;
    lm_kv_clear(&q->kv);
    if (is_done(q)) lm_ids_clear(&q->ids);
}

/* One pass. Return 0 when all is scored. */
static int step(lm_scorer *s, lm_stop stop, lm_err *err) {
    size_t end;
    int n;
    while (s->open < s->n && is_done(&s->sequences[s->open])) clear_sequence(&s->sequences[s->open++]);
    n = gather(s, &end, stop, err);
    if (!n || err->code) return 0;
    size_pass(s, n, err);
    if (!err->code && lm_encode(s->pass, s->rows, n, stop, err)) score_rows(s, n, stop, err);
    for (size_t i = s->open; i < end && !err->code; i++) {
        sequence *q = &s->sequences[i];
        int reads = (int)LM_MIN(q->n_read, (size_t)s->options.window) - 1;
        if (is_done(q)) continue;
        if (!q->start && q->from < reads) lm_prefix_keep(&q->kv, q->ids.data, LM_MIN(q->kv.n, reads));
        if (q->kv.n >= n_window(s, q)) end_window(s, q);
    }
    return !err->code;
}

int lm_scorer_next(lm_scorer *s, lm_stop stop, lm_score *out, lm_err *err) {
    unsigned fp = lm_fp_enter();
    while (!err->code && s->given == s->n_scores && step(s, stop, err)) {}
    lm_fp_leave(fp);
    if (err->code) return -1;
    if (s->given == s->n_scores) return 0;
    *out = s->scores[s->given++];
    return 1;
}

/*----------------------------------------------------------------------
** Two models on the same texts */
typedef struct {
    int n_vocab;
    lm_pass *const *pass;
    const float *logits[2];
    double kl[LM_ROWS_MAX];
} comparison;

static void compare_item(void *arg, int i) {
    const lm_kern *kern = lm_kern_get();
    comparison *c = arg;
    int n = c->n_vocab;
    const float *a = c->logits[0] + (size_t)i * (size_t)n, *b = c->logits[1] + (size_t)i * (size_t)n;
    float a_max = a[lm_pass_best(c->pass[0], i)], b_max = b[lm_pass_best(c->pass[1], i)];
    double a_sum = kern->sum_exp(a, n, a_max), b_sum = kern->sum_exp(b, n, b_max), gap = 0;
    for (int j = 0; j < n; j++) {
        double x = (double)a[j] - (double)a_max;
        if (x > -50) gap += lm_exp(x) * (x - ((double)b[j] - (double)b_max));
    }
    c->kl[i] = gap / a_sum - lm_log(a_sum) + lm_log(b_sum);
}

/* The sum over one text's positions. */
static double compare_text(lm_model *const m[2], lm_pass *const pass[2], const lm_ids *text, int max_out,
                           lm_stop stop, lm_err *err) {
    lm_row rows[LM_ROWS_MAX];
    lm_kv kv[2];
    comparison c = { .n_vocab = m[0]->h.n_vocab, .pass = pass };
    double sum = 0;
    int n = (int)text->n;
    for (int k = 0; k < 2; k++) {
        lm_kv_init(&kv[k], m[k], 0);
        lm_kv_reserve(&kv[k], n, err);
        for (int i = 0; i < n; i++) rows[i] = (lm_row){ .id = text->data[i], .pos = i, .kv = &kv[k], .out = -1 };
        if (!err->code) lm_encode(pass[k], rows, n, stop, err);
    }
    for (int first = 0; first < n && !err->code; first += max_out) {
        int some = LM_MIN(max_out, n - first);
        for (int k = 0; k < 2; k++) c.logits[k] = err->code ? NULL : lm_pass_logits(pass[k], first, some, stop, err);
        lm_pool_run(compare_item, &c, some, stop, err);
        for (int i = 0; i < some; i++) sum += c.kl[i];
    }
    lm_kv_clear(&kv[0]);
    lm_kv_clear(&kv[1]);
    return sum;
}

double lm_divergence(lm_model *a, lm_model *b, const lm_ids *texts, int n, lm_stop stop, lm_err *err) {
    lm_model *m[2] = { a, b };
    lm_pass *pass[2] = { NULL, NULL };
    double sum = 0;
    int positions = 0, longest = 1, max_out = head_rows(a);
    if (a->arch->is_encoder || b->arch->is_encoder || a->h.n_vocab != b->h.n_vocab)
        lm_err_set(err, LM_ERROR, "the models do not speak of the same tokens");
    for (int i = 0; i < n; i++) longest = LM_MAX(longest, (int)LM_MIN(texts[i].n, (size_t)LM_ROWS_MAX + 1));
    if (longest > LM_MIN(LM_ROWS_MAX, LM_MIN(a->h.n_ctx, b->h.n_ctx)))
        lm_err_set(err, LM_ERROR, "a text of %d tokens is too long to compare models by", longest);
    for (int k = 0; k < 2 && !err->code; k++) pass[k] = lm_pass_new(m[k], longest, LM_MIN(max_out, longest), 0, err);
    unsigned fp = lm_fp_enter();
    for (int i = 0; i < n && !err->code; i++) {
        sum += compare_text(m, pass, &texts[i], LM_MIN(max_out, longest), stop, err);
        positions += (int)texts[i].n;
    }
    lm_fp_leave(fp);
    lm_pass_free(pass[0]);
    lm_pass_free(pass[1]);
    return positions ? sum / positions : 0;
}

void lm_softmax(double *x, int n) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) max = LM_MAX(max, x[i]);
    for (int i = 0; i < n; i++) sum += x[i] = max > -INFINITY ? lm_exp(x[i] - max) : 1;
    for (int i = 0; i < n; i++) x[i] /= sum;
}

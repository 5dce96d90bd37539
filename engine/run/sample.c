/* sample.c: from logits to a token: repeat penalty, temperature, top_k, top_p, min_p, one draw.
**
** Ties go to the lowest id. Filters take candidates off a heap in order of probability, so that no step
** sorts the vocabulary; and the heap holds only what is near the best, further down where that does not do. */
#include "sample.h"

#include <string.h>

void lm_sampler_clear(lm_sampler *s) {
    lm_free(s->logits);
    lm_free(s->heap);
    *s = (lm_sampler){0};
}

/* Make each recent id less likely, once (Keskar et al. 2019). */
static void penalise(float *logits, int n, double penalty, const int32_t *recent, size_t n_recent) {
    size_t first = n_recent > LM_PENALTY_LAST ? n_recent - LM_PENALTY_LAST : 0;
    for (size_t i = first; i < n_recent; i++) {
        int32_t id = recent[i];
        int again = 0;
        for (size_t j = first; j < i; j++) again |= recent[j] == id;
        if (again || id >= n) continue;
        logits[id] = (float)(logits[id] > 0 ? (double)logits[id] / penalty : (double)logits[id] * penalty);
    }
}

static int before(lm_candidate a, lm_candidate b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

static void sift_down(lm_candidate *heap, int n, int i) {
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], heap[i])) return;
        lm_candidate c = heap[i];
        heap[i] = heap[child];
        heap[child] = c;
    }
}

/* Sort the best `most` candidates, in order, to the end of the heap, best last. Stop early when their mass
** reaches top_p of total. Return how many. */
static int take_best(lm_candidate *heap, int n, int most, double max, double total, double top_p) {
    double mass = 0;
    int taken = 0;
    while (taken < most) {
        lm_candidate best = heap[0];
        heap[0] = heap[--n];
        sift_down(heap, n, 0);
        heap[n] = best;
        taken++;
        mass += lm_exp((double)best.logit - max);
        if (mass >= top_p * total) break;
    }
    return taken;
}

/* Make a heap of the logits that are not below floor. Return how many. */
static int build_heap(lm_sampler *s, int n, float floor) {
    int near = 0;
    for (int i = 0; i < n; i++) {
        if (!(s->logits[i] < floor)) s->heap[near++] = (lm_candidate){ s->logits[i], i };
    }
    for (int i = near / 2 - 1; i >= 0; i--) sift_down(s->heap, near, i);
    return near;
}

static int32_t draw_filtered(lm_sampler *s, int n, const lm_gen_options *o, double max, double total, double u) {
    int most = o->top_k ? LM_MIN(o->top_k, n) : n, near = 0, taken = 0, is_enough = 0;
    for (float below = 8; !is_enough; below *= 1.5f) {
        near = build_heap(s, n, below < 1000 ? (float)max - below : -INFINITY);
        /* With top_k, top_p is a share of what top_k leaves. */
        taken = take_best(s->heap, near, LM_MIN(most, near), max, total, o->top_k ? 2.0 : o->top_p);
        is_enough = taken == most || taken < near || near == n || (!o->top_k && lm_exp((double)-below) < o->min_p);
    }
    const lm_candidate *best = s->heap + near - 1;
    double kept = 0, left = 0, mass = 0;
    for (int i = 0; i < taken; i++) kept += lm_exp((double)best[-i].logit - max);
    int n_kept = 0;
    while (n_kept < taken) {
        double p = lm_exp((double)best[-n_kept].logit - max);
        if (n_kept && (p < o->min_p || (o->top_k && left >= o->top_p * kept))) break;
        left += p;
        n_kept++;
    }
    for (int i = 0; i < n_kept; i++) {
        mass += lm_exp((double)best[-i].logit - max);
        if (u * left < mass) return best[-i].id;
    }
    return best[-(n_kept - 1)].id;
}

static int32_t draw(lm_sampler *s, int n, int32_t top, const lm_gen_options *o, uint64_t t, lm_err *err) {
    const lm_kern *kern = lm_kern_get();
    float scale = (float)(1.0 / o->temperature);
    double u = lm_uniform(o->seed, t), mass = 0;
    /* Relative to the best, so that a tiny temperature cannot overflow. */
    float best = s->logits[top];
    for (int i = 0; i < n; i++) {
        float x = s->logits[i] - best;
        s->logits[i] = x == 0 ? 0 : x * scale;
    }
    double total = kern->sum_exp(s->logits, n, 0);
    if (!isfinite(total)) lm_err_set(err, LM_ERROR, "output: activations not finite");
    if (err->code) return -1;
    if (o->top_k || o->top_p < 1 || o->min_p > 0) return draw_filtered(s, n, o, 0, total, u);
    for (int i = 0; i < n; i++) {
        mass += lm_exp((double)s->logits[i]);
        if (u * total < mass) return i;
    }
    return top;
}

int32_t lm_sample(lm_sampler *s, const float *logits, int n, int32_t best, const lm_gen_options *o,
                  const int32_t *recent, size_t n_recent, uint64_t t, lm_err *err) {
    if (o->temperature == 0 && o->repeat_penalty == 1) return best;
    if (!s->logits) s->logits = lm_alloc(sizeof *s->logits * (size_t)n, err);
    if (!s->heap) s->heap = lm_alloc(sizeof *s->heap * (size_t)n, err);
    if (err->code) return -1;
    memcpy(s->logits, logits, sizeof *logits * (size_t)n);
    if (o->repeat_penalty != 1) {
        penalise(s->logits, n, o->repeat_penalty, recent, n_recent);
        best = lm_kern_get()->argmax(s->logits, n);
    }
    return o->temperature == 0 ? best : draw(s, n, best, o, t, err);
}

double lm_sample_logprob(const float *logits, int n, int32_t best, int32_t id) {
    float max = logits[best];
    return (double)logits[id] - (double)max - lm_log(lm_kern_get()->sum_exp(logits, n, max));
}

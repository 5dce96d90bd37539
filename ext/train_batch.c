/* train_batch.c: which samples are learnt from and which judge, the order of an epoch, and batches. All of it follows from the
** seed and the samples alone. */
#include "train.h"

enum { PAIRS_MAX = 256 };               /* of a batch */

/*----------------------------------------------------------------------
** Order. A stream of numbers for each (seed, which). */
static void shuffle(uint32_t *items, size_t n, uint64_t seed, uint64_t which) {
    uint64_t t = 0;
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)((lm_random_at(seed ^ which * 0xD1342543DE82EF95u, ++t) >> 32) * i >> 32);
        uint32_t kept = items[i - 1];
        items[i - 1] = items[j];
        items[j] = kept;
    }
}

/* A label that only validation would see is asked of nobody: of each, the last sample stays to learn from. Return how many
** samples can validate. */
static size_t split_labels(const lm_samples *d, uint32_t *all, size_t n_val, uint32_t *left) {
    for (size_t i = 0; i < d->n; i++) left[d->samples[i].label]++;
    for (size_t i = 0, end = d->n; i < n_val; i++) {
        if (left[d->samples[all[i]].label]-- > 1) continue;
        while (--end >= n_val && left[d->samples[all[end]].label] <= 1) {}
        if (end < n_val) return i;              /* every label has one sample left */
        uint32_t kept = all[i];
        left[d->samples[kept].label]++;
        left[d->samples[all[end]].label]--;
        all[i] = all[end];
        all[end] = kept;
    }
    return n_val;
}

void lm_samples_split(lm_samples *d, double fraction, uint64_t seed, lm_err *err) {
    uint32_t *all = lm_alloc(d->n * sizeof *all, err), *left = lm_calloc((size_t)d->labels.n + 1, sizeof *left, err);
    size_t n_val = (size_t)(fraction * (double)d->n + 0.5), least = d->is_pair ? LM_PAIRS_MIN : 1;
    if (fraction > 0 && d->n < 2)
        lm_err_set(err, LM_ERROR, "lm_train: option \"val_fraction\": one row cannot be split");
    if (fraction > 0 && n_val < least) n_val = least;
    if (d->n < n_val + least)
        lm_err_set(err, LM_ERROR, "lm_train: %d rows (%s) are too few to learn from%s", (int)d->n, d->kind,
                   fraction > 0 ? " and to validate" : "");
    d->train = lm_alloc(d->n * sizeof *d->train, err);
    d->val = lm_alloc(n_val * sizeof *d->val, err);
    if (!err->code) {
        for (size_t i = 0; i < d->n; i++) all[i] = (uint32_t)i;
        if (n_val) shuffle(all, d->n, seed, UINT64_MAX);
        if (n_val && d->labels.n) n_val = split_labels(d, all, n_val, left);
        if (fraction > 0 && !n_val)
            lm_err_set(err, LM_ERROR, "lm_train: option \"val_fraction\": no label has two rows");
        memcpy(d->val, all, n_val * sizeof *all);
        memcpy(d->train, all + n_val, (d->n - n_val) * sizeof *all);
        d->n_val = n_val;
        d->n_train = d->n - n_val;
    }
    lm_free(all);
    lm_free(left);
}

void lm_samples_shuffle(const lm_samples *d, uint64_t seed, int64_t epoch, uint32_t *order) {
    memcpy(order, d->train, d->n_train * sizeof *order);
    shuffle(order, d->n_train, seed, (uint64_t)epoch);
}

size_t lm_samples_pack(const lm_samples *d, const uint32_t *order, size_t n, int batch_tokens) {
    size_t i = 0;
    for (int room = batch_tokens; i < n && d->samples[order[i]].n <= room; i++) room -= d->samples[order[i]].n;
    if (!d->is_pair) return i;
    if (i > PAIRS_MAX) i = PAIRS_MAX;
    return n - i != 1 ? i : i > LM_PAIRS_MIN ? i - 1 : i + 1;      /* none stays alone */
}

/*----------------------------------------------------------------------
** Batches. */
void lm_packed_set(lm_packed *p, const lm_samples *d, const uint32_t *order, size_t n, lm_err *err) {
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++) total += (size_t)d->samples[order[i]].n;
    lm_grow((void **)&p->weights, 0, &p->weights_cap, total, sizeof *p->weights, err);
    lm_grow((void **)&p->lengths, 0, &p->lengths_cap, 2 * n, sizeof *p->lengths, err);
    p->ids.n = 0;
    for (size_t i = 0; i < n && !err->code; i++) {
        const lm_sample *s = &d->samples[order[i]];
        p->lengths[d->is_pair ? 2 * i : i] = d->is_pair ? s->n_given : s->n;
        if (d->is_pair) p->lengths[2 * i + 1] = s->n - s->n_given;
        for (int k = 0; k < s->n; k++) {
            lm_ids_append(&p->ids, d->ids.data[s->at + (size_t)k], err);
            p->weights[at++] = k >= s->n_given;
        }
    }
    p->n = (int)n;
}

void lm_packed_step(const lm_packed *p, const lm_samples *d, lm_trainer *t, double rate, lm_train_result *out,
                    lm_stop stop, lm_err *err) {
    lm_train_batch batch = { p->ids.data, p->weights, p->lengths, p->n };
    lm_pair_batch pairs = { p->ids.data, p->lengths, p->n };
    *out = (lm_train_result){0};
    if (d->is_pair) lm_trainer_pair_step(t, &pairs, rate, out, stop, err);
    else lm_trainer_step(t, &batch, rate, out, stop, err);
}

void lm_packed_loss(const lm_packed *p, const lm_samples *d, lm_trainer *t, lm_train_result *out, lm_stop stop,
                    lm_err *err) {
    lm_train_batch batch = { p->ids.data, p->weights, p->lengths, p->n };
    lm_pair_batch pairs = { p->ids.data, p->lengths, p->n };
    *out = (lm_train_result){0};
    if (d->is_pair) lm_trainer_pair_loss(t, &pairs, out, stop, err);
    else lm_trainer_loss(t, &batch, out, stop, err);
}

void lm_packed_clear(lm_packed *p) {
    lm_ids_clear(&p->ids);
    lm_free(p->weights);
    lm_free(p->lengths);
    *p = (lm_packed){0};
}

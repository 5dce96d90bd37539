/* merge.c: byte-pair encoding of a long piece: the pair of the lowest rank, the leftmost of equals, becomes one
** symbol, until none has a rank. The symbols are a list; a heap of (rank, place) holds every pair there is and may
** hold what is no longer so: n log n, whatever the text. */
#include "tok.h"

enum { GONE = -2 };

typedef struct { uint64_t *data; size_t n; } heap;

static void sink(heap *h, size_t i) {
    uint64_t x = h->data[i];
    for (size_t child; (child = 4 * i + 1) < h->n; i = child) {
        size_t end = LM_MIN(child + 4, h->n);
        for (size_t c = child + 1; c < end; c++) {
            if (h->data[c] < h->data[child]) child = c;
        }
        if (h->data[child] >= x) break;
        h->data[i] = h->data[child];
    }
    h->data[i] = x;
}

static void push(heap *h, uint32_t rank, size_t at) {
    if (rank == LM_NO_RANK) return;
    uint64_t x = (uint64_t)rank << 32 | at;
    size_t i = h->n++;
    for (; i && h->data[(i - 1) / 4] > x; i = (i - 1) / 4) h->data[i] = h->data[(i - 1) / 4];
    h->data[i] = x;
}

static uint64_t pop(heap *h) {
    uint64_t top = h->data[0];
    h->data[0] = h->data[--h->n];
    if (h->n) sink(h, 0);
    return top;
}

static void rank_pair(lm_merge *m, heap *h, size_t at) {
    lm_symbol *s = &m->symbols[at];
    s->rank = s->next < m->n ? m->rank(m, at, s->next, &s->makes) : LM_NO_RANK;
    push(h, s->rank, at);
}

void lm_merge_run(lm_merge *m, lm_stop stop, lm_err *err) {
    lm_symbol *s = m->symbols;
    if (m->n >= UINT32_MAX) lm_err_set(err, LM_ERROR, "a run of %zu symbols without a break, wanted under 2^32", m->n);
    /* A pair a symbol at first, and each merge takes one out and puts at most two in: 2n at most. Room for
    ** them at once, as growing would copy for longer than stop may wait. */
    heap h = { .data = lm_alloc(2 * m->n * sizeof *h.data, err) };
    for (size_t i = 0; i < m->n && !err->code; i++) {
        s[i].prev = (uint32_t)i - 1;
        s[i].next = (uint32_t)i + 1;
        rank_pair(m, &h, i);
        if (i % LM_STOP_BYTES == 0) lm_poll(stop, err);
    }
    for (size_t steps = 1; h.n && !err->code; steps++) {
        if (steps % (LM_STOP_BYTES / 4) == 0) lm_poll(stop, err);
        uint64_t top = pop(&h);
        size_t at = (uint32_t)top, right = s[at].next;
        if (s[at].rank != top >> 32) continue;      /* merged since, or its neighbour was */
        s[at].id = s[at].makes;
        s[at].next = s[right].next;
        s[right].id = GONE;
        s[right].rank = LM_NO_RANK;
        if (s[at].next < m->n) s[s[at].next].prev = (uint32_t)at;
        rank_pair(m, &h, at);
        if (at) rank_pair(m, &h, s[at].prev);
    }
    lm_free(h.data);
}

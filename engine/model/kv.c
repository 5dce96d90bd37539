/* kv.c: the cache of keys and values of one sequence.
**
** A page holds 64 positions of every layer and head, so that a sequence grows by one allocation a page and
** a page can be shared (prefix.c): it counts those that hold it. Within (layer, head): the keys (head_dim, 64), transposed
** so that scoring a query against 64 keys runs over lanes of keys; then the values (64, v_stride). Pages start as zeros:
** slots not yet written are read by whole vectors, and their weight is 0.
**
** Where a model is not causal the rows of a sequence go through all layers in one pass and nobody looks back: the layers
** take turns in the room of one. */
#include "model.h"

#include <stdatomic.h>
#include <string.h>

typedef struct { _Atomic int refs; char rest[60]; } page_head;         /* stands before a page, which stays aligned */

static int v_stride(const lm_kv *kv) { return (kv->m->h.head_dim + 15) & ~15; }
static size_t element_bytes(const lm_kv *kv) { return kv->exact ? sizeof(float) : sizeof(uint16_t); }
static size_t keys_n(const lm_kv *kv) { return (size_t)kv->m->h.head_dim * LM_PAGE; }
static size_t head_bytes(const lm_kv *kv) {
    return (keys_n(kv) + (size_t)v_stride(kv) * LM_PAGE) * element_bytes(kv);
}

static int n_layers(const lm_kv *kv) { return kv->m->h.causal ? kv->m->h.n_layers : 1; }
static page_head *head_of(uint8_t *page) { return (page_head *)page - 1; }

size_t lm_kv_page_bytes(const lm_kv *kv) { return (size_t)n_layers(kv) * (size_t)kv->m->h.n_kv_heads * head_bytes(kv); }

uint8_t *lm_kv_page_ref(uint8_t *page) {
    atomic_fetch_add(&head_of(page)->refs, 1);
    return page;
}

void lm_kv_page_unref(uint8_t *page) {
    if (atomic_fetch_sub(&head_of(page)->refs, 1) == 1) lm_free(head_of(page));
}

/* A page of zeros. Where memory is short, what is kept of other prompts makes room for it. */
static uint8_t *new_page(lm_kv *kv, lm_err *err) {
    page_head *head = NULL;
    while (!head && !err->code) {
        lm_err own = {0};
        head = lm_calloc(1, sizeof *head + lm_kv_page_bytes(kv), &own);
        if (!head && !lm_prefix_shrink(kv->m)) *err = own;
    }
    if (!head) return NULL;
    head->refs = 1;
    return (uint8_t *)(head + 1);
}

void lm_kv_init(lm_kv *kv, lm_model *m, int exact) { *kv = (lm_kv){ .m = m, .exact = exact }; }

void lm_kv_clear(lm_kv *kv) {
    for (size_t i = 0; i < kv->n_pages; i++) lm_kv_page_unref(kv->pages[i]);
    lm_free(kv->pages);
    lm_kv_init(kv, kv->m, kv->exact);
}

void lm_kv_reserve(lm_kv *kv, int n, lm_err *err) {
    size_t wanted = ((size_t)n + LM_PAGE - 1) / LM_PAGE;
    while (kv->n_pages < wanted) {
        if (!lm_grow((void **)&kv->pages, kv->n_pages, &kv->pages_cap, 1, sizeof *kv->pages, err)) return;
        uint8_t *page = new_page(kv, err);
        if (!page) return;
        kv->pages[kv->n_pages++] = page;
    }
}

lm_page lm_kv_page(const lm_kv *kv, int layer, int head, int page) {
    const uint8_t *k = kv->pages[page] + (size_t)(layer % n_layers(kv) * kv->m->h.n_kv_heads + head) * head_bytes(kv);
    return (lm_page){ .k = k, .v = k + keys_n(kv) * element_bytes(kv), .head_dim = kv->m->h.head_dim,
                      .v_stride = v_stride(kv), .exact = kv->exact };
}

/* n positions of one head into one page, SOME elements at a time: keys are turned over. */
static void append_head(lm_page page, int slot, int n, const float *k, const float *v, size_t stride) {
    enum { SOME = 64 };
    for (int d = 0; d < page.head_dim; d += SOME) {
        int some = LM_MIN(page.head_dim - d, SOME);
        uint16_t halfs[LM_PAGE][SOME], *keys = (uint16_t *)page.k + d * LM_PAGE + slot;
        float *exact_keys = (float *)page.k + d * LM_PAGE + slot;
        for (int r = 0; r < n && !page.exact; r++) lm_kern_get()->half(k + (size_t)r * stride + d, halfs[r], some);
        for (int i = 0; i < some; i++, keys += LM_PAGE, exact_keys += LM_PAGE) {
            if (page.exact) for (int r = 0; r < n; r++) exact_keys[r] = k[(size_t)r * stride + (size_t)(d + i)];
            else for (int r = 0; r < n; r++) keys[r] = halfs[r][i];
        }
    }
    for (int r = 0; r < n; r++, v += stride) {
        size_t at = (size_t)(slot + r) * (size_t)page.v_stride;
        if (page.exact) memcpy((float *)page.v + at, v, (size_t)page.head_dim * sizeof *v);
        else lm_kern_get()->half(v, (uint16_t *)page.v + at, page.head_dim);
    }
}

void lm_kv_append(lm_kv *kv, int layer, int pos, int n, const float *k, const float *v) {
    int head_dim = kv->m->h.head_dim, n_heads = kv->m->h.n_kv_heads;
    size_t stride = (size_t)n_heads * (size_t)head_dim;
    for (int end = pos + n, some; pos < end; pos += some, k += (size_t)some * stride, v += (size_t)some * stride) {
        some = LM_MIN(end - pos, LM_PAGE - pos % LM_PAGE);
        for (int head = 0; head < n_heads; head++) {
            append_head(lm_kv_page(kv, layer, head, pos / LM_PAGE), pos % LM_PAGE, some, k + head * head_dim,
                        v + head * head_dim, stride);
        }
    }
}

void lm_kv_copy(lm_kv *kv, int page, const uint8_t *from, int n) {
    size_t size = element_bytes(kv), heads = (size_t)n_layers(kv) * (size_t)kv->m->h.n_kv_heads;
    uint8_t *to = kv->pages[page];
    for (size_t head = 0; head < heads; head++, to += head_bytes(kv), from += head_bytes(kv)) {
        for (size_t k = 0; k < keys_n(kv); k += LM_PAGE) memcpy(to + k * size, from + k * size, (size_t)n * size);
        memcpy(to + keys_n(kv) * size, from + keys_n(kv) * size, (size_t)n * (size_t)v_stride(kv) * size);
    }
}

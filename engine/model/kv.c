/* kv.c: the cache of keys and values of one sequence.
**
** A page holds 64 positions of every layer and head, so that a sequence grows by one allocation a page and
** a page can one day be shared. Within (layer, head): the keys (head_dim, 64), transposed so that scoring a
** query against 64 keys runs over lanes of keys; then the values (64, v_stride). Pages start as zeros:
** slots not yet written are read by whole vectors, and their weight is 0. */
#include "model.h"

#include <string.h>

static int v_stride(const lm_kv *kv) { return (kv->m->h.head_dim + 15) & ~15; }
static size_t element_bytes(const lm_kv *kv) { return kv->exact ? sizeof(float) : sizeof(uint16_t); }
static size_t keys_n(const lm_kv *kv) { return (size_t)kv->m->h.head_dim * LM_PAGE; }
static size_t head_bytes(const lm_kv *kv) {
    return (keys_n(kv) + (size_t)v_stride(kv) * LM_PAGE) * element_bytes(kv);
}

void lm_kv_init(lm_kv *kv, const lm_model *m, int exact) { *kv = (lm_kv){ .m = m, .exact = exact }; }

void lm_kv_clear(lm_kv *kv) {
    for (size_t i = 0; i < kv->n_pages; i++) lm_free(kv->pages[i]);
    lm_free(kv->pages);
    lm_kv_init(kv, kv->m, kv->exact);
}

void lm_kv_reserve(lm_kv *kv, int n, lm_err *err) {
    size_t wanted = ((size_t)n + LM_PAGE - 1) / LM_PAGE;
    while (kv->n_pages < wanted) {
        if (!lm_grow((void **)&kv->pages, kv->n_pages, &kv->pages_cap, 1, sizeof *kv->pages, err)) return;
        uint8_t *page = lm_calloc((size_t)kv->m->h.n_layers * (size_t)kv->m->h.n_kv_heads, head_bytes(kv), err);
        if (!page) return;
        kv->pages[kv->n_pages++] = page;
    }
}

lm_page lm_kv_page(const lm_kv *kv, int layer, int head, int page) {
    const uint8_t *k = kv->pages[page] + (size_t)(layer * kv->m->h.n_kv_heads + head) * head_bytes(kv);
    return (lm_page){ .k = k, .v = k + keys_n(kv) * element_bytes(kv), .head_dim = kv->m->h.head_dim,
                      .v_stride = v_stride(kv), .exact = kv->exact };
}

void lm_kv_append(lm_kv *kv, int layer, int pos, const float *k, const float *v) {
    int n = kv->m->h.head_dim, slot = pos % LM_PAGE;
    for (int head = 0; head < kv->m->h.n_kv_heads; head++, k += n, v += n) {
        lm_page page = lm_kv_page(kv, layer, head, pos / LM_PAGE);
        if (kv->exact) {
            float *keys = (float *)page.k, *values = (float *)page.v + (size_t)slot * (size_t)page.v_stride;
            for (int d = 0; d < n; d++) keys[d * LM_PAGE + slot] = k[d];
            memcpy(values, v, (size_t)n * sizeof *v);
        } else {
            uint16_t halfs[1024], *keys = (uint16_t *)page.k;
            lm_kern_get()->half(k, halfs, n);
            for (int d = 0; d < n; d++) keys[d * LM_PAGE + slot] = halfs[d];
            lm_kern_get()->half(v, (uint16_t *)page.v + (size_t)slot * (size_t)page.v_stride, n);
        }
    }
}

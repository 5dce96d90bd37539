/* prefix.c: what a model keeps of the prompts it has read.
**
** A tree: a node is a page and the ids at its positions, a path from the top the beginning of some prompts. A prompt
** that begins like an earlier one takes its pages instead of computing them: what a page holds does not depend on how it
** was computed (DESIGN: same bytes), so this never shows. Pages that are full are shared as they are; one that is not, or
** that differs further on, is copied as far as it agrees. A page's writer may go on writing it behind the node's n.
**
** Nodes are few (at most NODES_MAX), so they stand in one list and are searched for by walking it. Those without
** children go first when there is no room, least recently used. One lock for all models, held for look-ups only. */
#include "model.h"

#include <pthread.h>
#include <string.h>

enum { NODES_MAX = 512, DEFAULT_BYTES = 64 << 20, SHARE = 8 /* of the memory limit: one in so many */ };

typedef struct lm_prefix_node node;
struct lm_prefix_node {
    node *next, *parent;                    /* of all; the page before, NULL: this is a first page */
    uint8_t *page;
    int n, n_children;                      /* ids; only a full page has children */
    uint64_t used;
    int32_t ids[LM_PAGE];
};

static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;

static void take_lock(void) { pthread_mutex_lock(&g_lock); }
static void unlock(void) { pthread_mutex_unlock(&g_lock); }

/* A fork must not happen while another thread holds the lock: the child could never take it. */
static void watch_forks(void) { pthread_atfork(take_lock, unlock, unlock); }

static void lock(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    take_lock();
}

static int n_alike(const int32_t *a, const int32_t *b, int n) {
    int i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* The child of parent that begins most like ids, and how much of it does. */
static node *find_child(const lm_prefix *p, const node *parent, const int32_t *ids, int n, int *alike) {
    node *best = NULL;
    *alike = 0;
    for (node *c = p->nodes; c; c = c->next) {
        int same = c->parent == parent ? n_alike(c->ids, ids, LM_MIN(c->n, n)) : 0;
        if (same > *alike) best = c, *alike = same;
    }
    return best;
}

/* Drop the node used least recently of those without children. Return 0 when there is none. */
static int drop_oldest(lm_prefix *p) {
    node **oldest = NULL;
    for (node **at = &p->nodes; *at; at = &(*at)->next) {
        if (!(*at)->n_children && (!oldest || (*at)->used < (*oldest)->used)) oldest = at;
    }
    if (!oldest) return 0;
    node *gone = *oldest;
    *oldest = gone->next;
    if (gone->parent) gone->parent->n_children--;
    lm_kv_page_unref(gone->page);
    lm_free(gone);
    p->n--;
    return 1;
}

int lm_prefix_shrink(lm_model *m) {
    lock();
    int dropped = drop_oldest(&m->prefix);
    unlock();
    return dropped;
}

int lm_model_forget(lm_model *m) {
    int n = 0;
    while (lm_prefix_shrink(m)) n++;
    return n > 0;
}

void lm_prefix_limit(lm_model *m, uint64_t n_bytes) {
    m->prefix.is_limited = 1;
    m->prefix.most = n_bytes;
    if (!n_bytes) lm_model_forget(m);
}

static int most_nodes(const lm_kv *kv) {
    const lm_prefix *p = &kv->m->prefix;
    uint64_t limit = lm_mem_limit(), bytes = p->is_limited ? p->most : limit ? limit / SHARE : DEFAULT_BYTES;
    return (int)LM_MIN(bytes / (lm_kv_page_bytes(kv) + sizeof(node)), NODES_MAX);
}

/*----------------------------------------------------------------------
** Finding */
void lm_prefix_find(lm_kv *kv, const int32_t *ids, int n) {
    lm_prefix *p = &kv->m->prefix;
    lm_err err = {0};
    uint8_t *part = NULL;                   /* a page that agrees only so far */
    int alike = LM_PAGE;
    if (kv->exact
        || !lm_grow((void **)&kv->pages, 0, &kv->pages_cap, (size_t)n / LM_PAGE + 1, sizeof *kv->pages, &err))
        return;
    lock();
    for (node *at = NULL; kv->n < n && alike == LM_PAGE;) {
        at = find_child(p, at, ids + kv->n, LM_MIN(n - kv->n, LM_PAGE), &alike);
        if (!at) break;
        at->used = ++p->clock;
        if (alike < LM_PAGE) part = lm_kv_page_ref(at->page);
        else kv->pages[kv->n_pages++] = lm_kv_page_ref(at->page), kv->n += LM_PAGE;
    }
    unlock();
    if (!part) return;
    lm_kv_reserve(kv, kv->n + alike, &err);
    if (!err.code) {
        lm_kv_copy(kv, kv->n / LM_PAGE, part, alike);
        kv->n += alike;
    }
    lm_kv_page_unref(part);
}

int lm_prefix_length(lm_model *m, const int32_t *ids, int n) {
    int length = 0, alike = LM_PAGE;
    lm_kv probe;
    lm_kv_init(&probe, m, 0);
    if (!most_nodes(&probe)) return n;
    lock();
    for (const node *at = NULL; length < n && alike == LM_PAGE; length += alike) {
        at = find_child(&m->prefix, at, ids + length, LM_MIN(n - length, LM_PAGE), &alike);
    }
    unlock();
    return length;
}

/*----------------------------------------------------------------------
** Keeping */

/* Make room for a node below parent, which must not go for it. */
static int make_room(lm_prefix *p, node *parent, int most) {
    if (parent) parent->n_children++;
    while (p->n >= most && drop_oldest(p)) {}
    if (parent) parent->n_children--;
    return p->n < most;
}

static node *new_node(lm_prefix *p, node *parent, uint8_t *page) {
    lm_err ignored = {0};
    node *c = lm_calloc(1, sizeof *c, &ignored);
    if (!c) return NULL;
    *c = (node){ .next = p->nodes, .parent = parent, .page = lm_kv_page_ref(page) };
    if (parent) parent->n_children++;
    p->nodes = c;
    p->n++;
    return c;
}

static void replace_page(uint8_t **at, uint8_t *page) {
    if (*at == page) return;
    lm_kv_page_unref(*at);
    *at = lm_kv_page_ref(page);
}

/* Keep a page whose first n slots are written. Return its node, or NULL. */
static node *keep_page(lm_prefix *p, node *parent, uint8_t **page, const int32_t *ids, int n, int most) {
    int alike;
    node *c = find_child(p, parent, ids, n, &alike);
    if (c && alike == n && c->n == LM_PAGE && n == LM_PAGE) {
        replace_page(page, c->page);        /* of two equal pages one is enough */
    } else if (!c || alike < LM_MIN(c->n, n)) {
        c = make_room(p, parent, most) ? new_node(p, parent, *page) : NULL;
    }
    if (!c) return NULL;
    c->used = ++p->clock;
    if (c->n < n) {                         /* new, or a beginning of this one */
        replace_page(&c->page, *page);
        memcpy(c->ids, ids, (size_t)n * sizeof *ids);
        c->n = n;
    }
    return c;
}

void lm_prefix_keep(lm_kv *kv, const int32_t *ids, int n) {
    node *at = NULL;
    int most = most_nodes(kv);
    if (kv->exact) return;
    lock();
    for (int first = 0; first < n && (!first || at); first += LM_PAGE) {
        at = keep_page(&kv->m->prefix, at, &kv->pages[first / LM_PAGE], ids + first, LM_MIN(n - first, LM_PAGE), most);
    }
    unlock();
}

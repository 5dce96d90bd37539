/* memo.c: answers given before, by everything they depend on.
**
** SQLite may call a function several times for one row (once for each mention of a subquery's column), so a
** greedy, seeded or embedding call is looked up here first. A hash table of chains and a list by last use,
** per connection; the least recently used go when the entries are over MEMO_BYTES. */
#include "ext.h"

enum { MEMO_BYTES = 16 << 20, BUCKETS = 1024 };

typedef struct entry {
    struct entry *chain, *newer, *older;
    uint64_t hash;
    size_t key_n, value_n;
    char bytes[];                           /* key, then value */
} entry;

struct lm_memo {
    entry *buckets[BUCKETS], *newest, *oldest;
    size_t n_bytes;
};

static uint64_t hash_of(const void *key, size_t n) {
    uint64_t h = 0xCBF29CE484222325ull;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)key)[i]) * 0x100000001B3ull;
    return h ^ h >> 32;
}

static size_t size_of(const entry *e) { return sizeof *e + e->key_n + e->value_n; }

static void unlink_entry(lm_memo *m, entry *e) {
    *(e->newer ? &e->newer->older : &m->newest) = e->older;
    *(e->older ? &e->older->newer : &m->oldest) = e->newer;
    e->newer = e->older = NULL;
}

static void link_newest(lm_memo *m, entry *e) {
    e->older = m->newest;
    *(m->newest ? &m->newest->newer : &m->oldest) = e;
    m->newest = e;
}

static void drop_oldest(lm_memo *m) {
    entry *e = m->oldest, **at = &m->buckets[e->hash % BUCKETS];
    while (*at != e) at = &(*at)->chain;
    *at = e->chain;
    unlink_entry(m, e);
    m->n_bytes -= size_of(e);
    lm_free(e);
}

static entry *find(lm_memo *m, const void *key, size_t n, uint64_t hash) {
    entry *e = m->buckets[hash % BUCKETS];
    while (e && (e->hash != hash || e->key_n != n || memcmp(e->bytes, key, n))) e = e->chain;
    return e;
}

const char *lm_memo_find(lm_conn *c, const void *key, size_t key_n, size_t *n) {
    entry *e = c->memo ? find(c->memo, key, key_n, hash_of(key, key_n)) : NULL;
    if (!e) return NULL;
    unlink_entry(c->memo, e);
    link_newest(c->memo, e);
    *n = e->value_n;
    return e->bytes + key_n;
}

void lm_memo_key(lm_buf *key, const lm_shared *s, char kind, sqlite3_value *options, lm_text text, lm_err *err) {
    uint64_t options_n = options ? (uint64_t)sqlite3_value_bytes(options) : 0;
    lm_buf_append(key, &kind, 1, err);
    lm_buf_append(key, s->digest, sizeof s->digest, err);
    lm_buf_append(key, &options_n, sizeof options_n, err);
    if (options_n) lm_buf_append(key, sqlite3_value_text(options), (size_t)options_n, err);
    lm_buf_append(key, text.text, text.n, err);
}

/* Failing to remember is no failure: without memory the answer is simply not kept. */
void lm_memo_add(lm_conn *c, const void *key, size_t key_n, const char *value, size_t n) {
    lm_err err = {0};
    uint64_t hash = hash_of(key, key_n);
    if (!c->memo) c->memo = lm_calloc(1, sizeof *c->memo, &err);
    lm_memo *m = c->memo;
    if (!m || sizeof(entry) + key_n + n > MEMO_BYTES / 4 || find(m, key, key_n, hash)) return;
    entry *e = lm_alloc(sizeof *e + key_n + n, &err);
    if (!e) return;
    *e = (entry){ .chain = m->buckets[hash % BUCKETS], .hash = hash, .key_n = key_n, .value_n = n };
    memcpy(e->bytes, key, key_n);
    if (n) memcpy(e->bytes + key_n, value, n);
    m->buckets[hash % BUCKETS] = e;
    link_newest(m, e);
    m->n_bytes += size_of(e);
    while (m->n_bytes > MEMO_BYTES) drop_oldest(m);
}

void lm_memo_free(lm_memo *m) {
    while (m && m->oldest) drop_oldest(m);
    lm_free(m);
}

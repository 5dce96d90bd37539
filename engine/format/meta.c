/* meta.c: typed key-value pairs in GGUF's encoding, checked once and then found by key.
**
** An entry, little-endian, with nothing between one entry and the next:
**
**     u64 n, n bytes      the key: 1 to 65535 bytes of UTF-8 without NUL
**     u32                 the value's type, LM_META_*
**     value               u8 .. f64 and bool: 1 to 8 bytes; text: u64 n, n bytes;
**                         array: u32 element type (no array), u64 n, n values
**
** A file's header and a database's blob come through the same checks: neither is trusted. Every length is
** held against the bytes that are left before anything is done with it, so work and memory stay in
** proportion to the bytes given. Keys are told apart by sorting, not hashing: no choice of keys makes it
** slow. The bytes themselves are kept as they came. */
#include "../lmint.h"

#include <string.h>

enum { KEY_MAX = 65535, ENTRIES_MAX = 1 << 18, ENTRY_MIN = 14, N_TYPES = 13 };

static const struct { const char *name; unsigned size; } g_types[N_TYPES] = {
    [LM_META_U8] = { "u8", 1 },       [LM_META_I8] = { "i8", 1 },     [LM_META_U16] = { "u16", 2 },
    [LM_META_I16] = { "i16", 2 },     [LM_META_U32] = { "u32", 4 },   [LM_META_I32] = { "i32", 4 },
    [LM_META_F32] = { "f32", 4 },     [LM_META_BOOL] = { "bool", 1 }, [LM_META_TEXT] = { "text", 0 },
    [LM_META_ARRAY] = { "array", 0 }, [LM_META_U64] = { "u64", 8 },   [LM_META_I64] = { "i64", 8 },
    [LM_META_F64] = { "f64", 8 },
};

struct lm_meta {
    void *bytes;                        /* what the entries point into */
    const uint8_t *file;                /* byte 0 of the file they came from; NULL: from none */
    lm_meta_entry *entries; size_t n, cap;
    uint32_t *by_key;                   /* entry numbers in the order of their keys */
};

/*----------------------------------------------------------------------
** Reading */

static int is_utf8_without_nul(const char *text, size_t n) {
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        int step = lm_utf8_step(text + i, n - i, &cp);
        if (step <= 0 || !cp) return 0;
        i += (size_t)step;
    }
    return 1;
}

static void check_bools(const lm_reader *r, const lm_meta_entry *e, lm_err *err) {
    for (size_t i = 0; i < e->n_bytes && !err->code; i++) {
        if (e->data[i] > 1) lm_reader_fail(r, r->at - e->n_bytes + i, err, "bool is %u, wanted 0 or 1", e->data[i]);
    }
}

static void read_array(lm_reader *r, lm_meta_entry *e, lm_err *err) {
    size_t at = r->at;
    const uint8_t *head = lm_reader_take(r, 12, "type and length of array", err);
    if (!head) return;
    uint64_t elem = lm_reader_le(head, 4), left = r->total - r->at;
    if (elem == LM_META_ARRAY) {
        lm_reader_fail(r, at, err, "nested array, wanted plain elements");
        return;
    }
    if (elem >= N_TYPES) {
        lm_reader_fail(r, at, err, "array elements of type %llu, wanted 0 to 12", (unsigned long long)elem);
        return;
    }
    e->elem = (int)elem;
    e->n = lm_reader_le(head + 4, 8);
    uint64_t size = e->elem == LM_META_TEXT ? 8 : g_types[e->elem].size;
    if (e->n > left / size) {
        lm_reader_fail(r, at, err, "array of %llu %s runs past the end (%llu bytes are left)",
                       (unsigned long long)e->n, g_types[e->elem].name, (unsigned long long)left);
        return;
    }
    size_t start = r->at;
    if (e->elem == LM_META_TEXT) {
        for (uint64_t i = 0; i < e->n; i++) {
            const uint8_t *n = lm_reader_take(r, 8, "length of text in array", err);
            if (!n || !lm_reader_take(r, lm_reader_le(n, 8), "text in array", err)) return;
        }
    } else if (!lm_reader_take(r, e->n * size, "array", err)) {
        return;
    }
    e->data = r->bytes + start;
    e->n_bytes = r->at - start;
    if (e->elem == LM_META_BOOL) check_bools(r, e, err);
}

static void read_value(lm_reader *r, lm_meta_entry *e, lm_err *err) {
    e->n = 1;
    uint64_t size = g_types[e->type].size;
    if (e->type == LM_META_TEXT) {
        const uint8_t *n = lm_reader_take(r, 8, "length of text", err);
        if (!n) return;
        size = e->n = lm_reader_le(n, 8);
    }
    e->data = lm_reader_take(r, size, g_types[e->type].name, err);
    if (!e->data) return;
    e->n_bytes = (size_t)size;
    if (e->type == LM_META_BOOL) check_bools(r, e, err);
}

static void read_entry(lm_reader *r, lm_meta_entry *e, lm_err *err) {
    size_t start = r->at;
    const uint8_t *head = lm_reader_take(r, 8, "length of key", err);
    if (!head) return;
    uint64_t key_n = lm_reader_le(head, 8);
    if (key_n < 1 || key_n > KEY_MAX) {
        lm_reader_fail(r, start, err, "key of %llu bytes, wanted 1 to %d", (unsigned long long)key_n, KEY_MAX);
        return;
    }
    const char *key = (const char *)lm_reader_take(r, key_n, "key", err);
    if (!key) return;
    if (!is_utf8_without_nul(key, (size_t)key_n)) {
        lm_reader_fail(r, start, err, "key is not UTF-8 without NUL");
        return;
    }
    *e = (lm_meta_entry){ .key = key, .key_n = (size_t)key_n };
    r->name = key;
    r->name_n = e->key_n;
    size_t at = r->at;
    const uint8_t *type = lm_reader_take(r, 4, "type of value", err);
    if (!type) return;
    if (lm_reader_le(type, 4) >= N_TYPES) {
        lm_reader_fail(r, at, err, "value of type %llu, wanted 0 to 12", (unsigned long long)lm_reader_le(type, 4));
        return;
    }
    e->type = (int)lm_reader_le(type, 4);
    if (e->type == LM_META_ARRAY) read_array(r, e, err);
    else read_value(r, e, err);
    e->raw = r->bytes + start;
    e->raw_n = r->at - start;
    r->name_n = 0;
}

static int compare_text(const char *a, size_t a_n, const char *b, size_t b_n) {
    int order = memcmp(a, b, LM_MIN(a_n, b_n));
    return order ? order : (a_n > b_n) - (a_n < b_n);
}

static int compare_keys(const void *arg, uint32_t a, uint32_t b) {
    const lm_meta_entry *e = arg;
    return compare_text(e[a].key, e[a].key_n, e[b].key, e[b].key_n);
}

static void index_keys(lm_meta *m, const lm_reader *r, lm_err *err) {
    m->by_key = lm_alloc(m->n * sizeof *m->by_key, err);
    if (!m->by_key) return;
    for (size_t i = 0; i < m->n; i++) m->by_key[i] = (uint32_t)i;
    lm_sort(m->by_key, m->n, compare_keys, m->entries, err);
    for (size_t i = 1; i < m->n && !err->code; i++) {
        if (compare_keys(m->entries, m->by_key[i - 1], m->by_key[i])) continue;
        const lm_meta_entry *first = &m->entries[m->by_key[i - 1]], *second = &m->entries[m->by_key[i]];
        lm_reader at_second = { .name = second->key, .name_n = second->key_n };
        lm_reader_fail(&at_second, (size_t)(second->raw - r->bytes), err, "duplicate of the key at byte %zu",
                       (size_t)(first->raw - r->bytes));
    }
}

/* Read *n_entries entries, or with NULL all there are up to the input's end. They point into r->bytes,
** which must outlive the result. Return NULL on error, and without one when r is starved. */
lm_meta *lm_meta_read(lm_reader *r, const uint64_t *n_entries, lm_err *err) {
    lm_meta *m = lm_calloc(1, sizeof *m, err);
    if (!m) return NULL;
    m->file = r->bytes;
    uint64_t left = r->total - r->at;
    if (n_entries && *n_entries > left / ENTRY_MIN) {
        lm_reader_fail(r, r->at, err, "%llu metadata entries do not fit in the %llu bytes left",
                       (unsigned long long)*n_entries, (unsigned long long)left);
    }
    while (!err->code && !r->starved && (n_entries ? m->n < *n_entries : r->at < r->total)) {
        if (m->n == ENTRIES_MAX) {
            lm_reader_fail(r, r->at, err, "more than %d metadata entries", ENTRIES_MAX);
        } else if (lm_grow((void **)&m->entries, m->n, &m->cap, 1, sizeof *m->entries, err)) {
            read_entry(r, &m->entries[m->n++], err);
        }
    }
    if (!r->starved) index_keys(m, r, err);
    if (!err->code && !r->starved) return m;
    lm_meta_free(m);
    return NULL;
}

/* Hand m the allocation that its entries point into; it is freed with m. */
void lm_meta_adopt(lm_meta *m, void *bytes) { m->bytes = bytes; }

lm_meta *lm_meta_new(const void *bytes, size_t n, lm_err *err) {
    uint8_t *copy = lm_alloc(n, err);
    if (!copy) return NULL;
    if (n) memcpy(copy, bytes, n);
    lm_reader r = { .bytes = copy, .n = n, .total = n };
    lm_meta *m = lm_meta_read(&r, NULL, err);
    if (!m) return lm_free(copy), NULL;
    lm_meta_adopt(m, copy);
    m->file = NULL;
    return m;
}

void lm_meta_free(lm_meta *m) {
    if (!m) return;
    lm_free(m->bytes);
    lm_free(m->entries);
    lm_free(m->by_key);
    lm_free(m);
}

/*----------------------------------------------------------------------
** Finding */

size_t lm_meta_count(const lm_meta *m) { return m ? m->n : 0; }
const lm_meta_entry *lm_meta_at(const lm_meta *m, size_t i) { return &m->entries[i]; }

static const lm_meta_entry *find(const lm_meta *m, const char *key, size_t key_n) {
    size_t low = 0, high = m ? m->n : 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const lm_meta_entry *e = &m->entries[m->by_key[middle]];
        int order = compare_text(key, key_n, e->key, e->key_n);
        if (!order) return e;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

const lm_meta_entry *lm_meta_find(const lm_meta *m, const char *key) { return find(m, key, strlen(key)); }

void lm_meta_blame(const lm_meta *m, lm_err *err) {
    const lm_meta_entry *e = err->code ? find(m, err->msg, strcspn(err->msg, ": ")) : NULL;
    if (e && m->file) lm_err_blame(err, "byte %zu: ", (size_t)(e->raw - m->file));
}

/* Find an entry for a getter; with a NULL result the getter is done. */
static const lm_meta_entry *sought(const lm_meta *m, const char *key, lm_err *err) {
    return err->code ? NULL : lm_meta_find(m, key);
}

static int mistyped(const lm_meta_entry *e, const char *key, const char *wanted, lm_err *err) {
    int is_array = e->type == LM_META_ARRAY;
    lm_err_set(err, LM_ERROR, "%.80s: type is %s%s, wanted %s", key, is_array ? "array of " : "",
               g_types[is_array ? e->elem : e->type].name, wanted);
    return 0;
}

/* Read an integer of any type, sign-extended to 64 bits. Return 0 when the entry holds none. */
static int read_integer(const lm_meta_entry *e, uint64_t *out) {
    uint64_t x = lm_reader_le(e->data, LM_MIN(e->n_bytes, 8));
    switch (e->type) {
    case LM_META_U8: case LM_META_U16: case LM_META_U32: case LM_META_U64: *out = x; return 1;
    case LM_META_I8: *out = (uint64_t)(int8_t)x; return 1;
    case LM_META_I16: *out = (uint64_t)(int16_t)x; return 1;
    case LM_META_I32: *out = (uint64_t)(int32_t)x; return 1;
    case LM_META_I64: *out = x; return 1;
    default: return 0;
    }
}

int lm_meta_int(const lm_meta *m, const char *key, int64_t *out, lm_err *err) {
    const lm_meta_entry *e = sought(m, key, err);
    uint64_t x;
    if (!e) return 0;
    if (!read_integer(e, &x)) return mistyped(e, key, "an integer", err);
    if (e->type == LM_META_U64 && x > INT64_MAX) {
        lm_err_set(err, LM_ERROR, "%.80s: %llu is over %lld", key, (unsigned long long)x, (long long)INT64_MAX);
        return 0;
    }
    *out = (int64_t)x;
    return 1;
}

int lm_meta_real(const lm_meta *m, const char *key, double *out, lm_err *err) {
    const lm_meta_entry *e = sought(m, key, err);
    uint64_t x;
    if (!e) return 0;
    if (e->type == LM_META_F64) {
        x = lm_reader_le(e->data, 8);
        memcpy(out, &x, 8);
    } else if (e->type == LM_META_F32) {
        uint32_t bits = (uint32_t)lm_reader_le(e->data, 4);
        float value;
        memcpy(&value, &bits, 4);
        *out = (double)value;
    } else if (read_integer(e, &x)) {
        *out = e->type == LM_META_U64 ? (double)x : (double)(int64_t)x;
    } else {
        return mistyped(e, key, "a number", err);
    }
    return 1;
}

int lm_meta_bool(const lm_meta *m, const char *key, int *out, lm_err *err) {
    const lm_meta_entry *e = sought(m, key, err);
    if (!e) return 0;
    if (e->type != LM_META_BOOL) return mistyped(e, key, "bool", err);
    *out = e->data[0];
    return 1;
}

int lm_meta_text(const lm_meta *m, const char *key, const char **out, size_t *n, lm_err *err) {
    const lm_meta_entry *e = sought(m, key, err);
    if (!e) return 0;
    if (e->type != LM_META_TEXT) return mistyped(e, key, "text", err);
    *out = (const char *)e->data;
    *n = e->n_bytes;
    return 1;
}

int lm_meta_next_text(const lm_meta_entry *e, size_t *pos, const char **out, size_t *n) {
    if (e->type != LM_META_ARRAY || e->elem != LM_META_TEXT || *pos >= e->n_bytes) return 0;
    *n = (size_t)lm_reader_le(e->data + *pos, 8);
    *out = (const char *)e->data + *pos + 8;
    *pos += 8 + *n;
    return 1;
}

/*----------------------------------------------------------------------
** Writing */

void lm_meta_put(lm_buf *out, uint64_t x, int n_bytes, lm_err *err) {
    for (int i = 0; i < n_bytes; i++) lm_buf_append(out, &(uint8_t){ (uint8_t)(x >> 8 * i) }, 1, err);
}

void lm_meta_put_key(lm_buf *out, const char *arch, const char *key, int type, lm_err *err) {
    lm_meta_put(out, strlen(arch) + strlen(key) + (*arch != 0), 8, err);
    lm_buf_print(out, err, "%s%s%s", arch, *arch ? "." : "", key);
    lm_meta_put(out, (uint64_t)type, 4, err);
}

void lm_meta_put_text(lm_buf *out, const char *key, const char *text, size_t n, lm_err *err) {
    lm_meta_put_key(out, "", key, LM_META_TEXT, err);
    lm_meta_put(out, n, 8, err);
    lm_buf_append(out, text, n, err);
}

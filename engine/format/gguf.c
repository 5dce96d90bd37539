/* gguf.c: a GGUF file, versions 2 and 3, as metadata, a checked list of tensors, and reads of their bytes.
**
**     "GGUF"   u32 version   u64 n_tensors   u64 n_kv                     little-endian throughout
**     n_kv metadata entries (meta.c)
**     n_tensors times:  u64 n, n bytes of name   u32 n_dims   n_dims times u64   u32 type   u64 offset
**     padding to general.alignment
**     data: each tensor at its offset from here, a multiple of the alignment
**
** Whoever wrote the file may have meant harm. The header is read into a buffer that doubles until all of it
** is there; every count is held against the file's size before memory is taken for it. A tensor in the list
** lies inside the file and overlaps no other. The file is read with pread alone: what was checked is a copy,
** and a file that changes later can give wrong numbers or an error, not a signal. */
#include "../lmint.h"

#include <string.h>

enum { HEADER_FIRST = 1 << 20, HEADER_MAX = 64 << 20, TENSORS_MAX = 1 << 18, TENSOR_MIN = 33, ALIGN_MAX = 1 << 20 };

struct lm_gguf {
    lm_file file;
    lm_meta *meta;
    lm_tensor *tensors;
    uint64_t *offsets;                  /* from the file's beginning */
    int n_tensors;
};

/*----------------------------------------------------------------------
** The tensor list */

static void read_name(lm_reader *r, lm_tensor *t, lm_err *err) {
    size_t at = r->at;
    const uint8_t *head = lm_reader_take(r, 8, "length of tensor name", err);
    if (!head) return;
    uint64_t n = lm_reader_le(head, 8);
    if (n < 1 || n > LM_NAME_MAX) {
        lm_reader_fail(r, at, err, "tensor name of %llu bytes, wanted 1 to %d", (unsigned long long)n, LM_NAME_MAX);
        return;
    }
    const char *name = (const char *)lm_reader_take(r, n, "tensor name", err);
    if (!name) return;
    r->name = name;
    r->name_n = (size_t)n;
    if (lm_tensor_is_name(name, (size_t)n)) memcpy(t->name, name, (size_t)n);
    else lm_reader_fail(r, at, err, "bad tensor name, wanted UTF-8 without control characters, quotes, \\, / or ..");
}

/* Read a tensor's entry; *offset is still from the beginning of the data. */
static void read_tensor(lm_reader *r, lm_tensor *t, uint64_t *offset, lm_err *err) {
    t->at = (int64_t)r->at;
    read_name(r, t, err);
    size_t at = r->at;
    const uint8_t *p = lm_reader_take(r, 4, "number of dimensions", err);
    if (!p) return;
    uint64_t n_dims = lm_reader_le(p, 4);
    if (n_dims < 1 || n_dims > LM_DIMS_MAX) {
        lm_reader_fail(r, at, err, "%llu dimensions, wanted 1 to %d", (unsigned long long)n_dims, LM_DIMS_MAX);
        return;
    }
    t->n_dims = (int)n_dims;
    for (int i = 0; i < t->n_dims; i++) {
        p = lm_reader_take(r, 8, "dimension", err);
        if (!p) return;
        uint64_t ne = lm_reader_le(p, 8);
        if (ne > INT64_MAX) {
            lm_reader_fail(r, r->at - 8, err, "dimension %d is %llu, over 2^63", i, (unsigned long long)ne);
            return;
        }
        t->ne[i] = (int64_t)ne;
    }
    p = lm_reader_take(r, 12, "type and offset", err);
    if (!p) return;
    uint64_t type = lm_reader_le(p, 4);
    t->dtype = type > INT32_MAX ? -1 : (int)type;
    *offset = lm_reader_le(p + 4, 8);
    if (t->dtype < 0) {
        lm_reader_fail(r, r->at - 12, err, "number format %llu is unknown", (unsigned long long)type);
        return;
    }
    lm_tensor_measure(t, err);
    lm_tensor_blame(t, err);
    r->name_n = 0;
}

static int compare_names(const void *arg, uint32_t a, uint32_t b) {
    const lm_gguf *g = arg;
    return strcmp(g->tensors[a].name, g->tensors[b].name);
}

static int compare_offsets(const void *arg, uint32_t a, uint32_t b) {
    const lm_gguf *g = arg;
    return (g->offsets[a] > g->offsets[b]) - (g->offsets[a] < g->offsets[b]);
}

static void place_tensors(lm_gguf *g, uint64_t data, uint64_t align, lm_err *err) {
    for (int i = 0; i < g->n_tensors && !err->code; i++) {
        const lm_tensor *t = &g->tensors[i];
        uint64_t offset = g->offsets[i], left = g->file.n > data ? g->file.n - data : 0;
        if (offset % align) {
            lm_err_set(err, LM_ERROR, "%s: offset %llu is not a multiple of the alignment %llu", t->name,
                       (unsigned long long)offset, (unsigned long long)align);
        } else if (offset > left || (uint64_t)t->n_bytes > left - offset) {
            lm_err_set(err, LM_ERROR, "%s: %lld bytes at offset %llu run past the end of the file (%llu bytes of "
                       "data)", t->name, (long long)t->n_bytes, (unsigned long long)offset, (unsigned long long)left);
        }
        lm_tensor_blame(t, err);
        g->offsets[i] = data + offset;
    }
}

static void check_apart(const lm_gguf *g, lm_err *err) {
    size_t n = (size_t)g->n_tensors;
    uint32_t *order = lm_alloc(n * sizeof *order, err);
    if (!order) return;
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    lm_sort(order, n, compare_names, g, err);
    for (size_t i = 1; i < n && !err->code; i++) {
        const lm_tensor *a = &g->tensors[order[i - 1]], *b = &g->tensors[order[i]];
        if (strcmp(a->name, b->name)) continue;
        lm_err_set(err, LM_ERROR, "%s: duplicate of the tensor at byte %lld", b->name, (long long)a->at);
        lm_tensor_blame(b, err);
    }
    lm_sort(order, n, compare_offsets, g, err);
    for (size_t i = 1; i < n && !err->code; i++) {
        const lm_tensor *a = &g->tensors[order[i - 1]], *b = &g->tensors[order[i]];
        uint64_t a_at = g->offsets[order[i - 1]], b_at = g->offsets[order[i]];
        if (b_at - a_at >= (uint64_t)a->n_bytes) continue;
        lm_err_set(err, LM_ERROR, "%s: overlaps %s: its data begin at byte %llu, inside %lld bytes from byte %llu on",
                   b->name, a->name, (unsigned long long)b_at, (long long)a->n_bytes, (unsigned long long)a_at);
        lm_tensor_blame(b, err);
    }
    lm_free(order);
}

/*----------------------------------------------------------------------
** The header */

uint64_t lm_gguf_alignment(const lm_meta *meta, lm_err *err) {
    int64_t align = 32;
    const lm_meta_entry *e = lm_meta_find(meta, "general.alignment");
    if (!e) return 32;
    lm_meta_int(meta, "general.alignment", &align, err);
    if (e->type != LM_META_U32 || align < 8 || align > ALIGN_MAX || (align & (align - 1))) {
        lm_err_set(err, LM_ERROR, "general.alignment: %lld, wanted a u32 power of two from 8 to %d", (long long)align,
                   ALIGN_MAX);
    }
    return (uint64_t)align;
}

static void read_preamble(lm_reader *r, uint64_t *n_tensors, uint64_t *n_kv, lm_err *err) {
    const uint8_t *p = lm_reader_take(r, 8, "magic and version", err);
    if (!p) return;
    uint32_t version = (uint32_t)lm_reader_le(p + 4, 4);
    if (memcmp(p, "GGUF", 4)) {
        lm_err_set(err, LM_ERROR, "not a GGUF file: it begins with %02x %02x %02x %02x, wanted 47 47 55 46 (\"GGUF\")",
                   p[0], p[1], p[2], p[3]);
    } else if (version && !(version & 0xFFFF)) {
        lm_err_set(err, LM_ERROR, "GGUF version %u in big-endian (byte-swapped) form, wanted little-endian",
                   version >> 24 | (version >> 8 & 0xFF00));
    } else if (version != 2 && version != 3) {
        lm_err_set(err, LM_ERROR, "GGUF version %u, wanted 2 or 3", version);
    }
    p = lm_reader_take(r, 16, "numbers of tensors and metadata entries", err);
    if (!p) return;
    *n_tensors = lm_reader_le(p, 8);
    *n_kv = lm_reader_le(p + 8, 8);
    uint64_t left = r->total - r->at;
    if (*n_tensors > left / TENSOR_MIN || *n_tensors > TENSORS_MAX) {
        lm_reader_fail(r, 8, err, "%llu tensors, wanted at most %d and what fits in the %llu bytes left",
                       (unsigned long long)*n_tensors, TENSORS_MAX, (unsigned long long)left);
    }
}

/* Read the whole header from the bytes at hand. When they do not suffice, r is starved and g half done. */
static void read_header(lm_gguf *g, lm_reader *r, lm_err *err) {
    uint64_t n_tensors = 0, n_kv = 0;
    read_preamble(r, &n_tensors, &n_kv, err);
    if (err->code || r->starved) return;
    g->meta = lm_meta_read(r, &n_kv, err);
    if (err->code || r->starved) return;
    uint64_t align = lm_gguf_alignment(g->meta, err);
    lm_meta_blame(g->meta, err);
    g->n_tensors = (int)n_tensors;
    g->tensors = lm_calloc((size_t)n_tensors, sizeof *g->tensors, err);
    g->offsets = lm_calloc((size_t)n_tensors, sizeof *g->offsets, err);
    for (int i = 0; i < g->n_tensors && !err->code && !r->starved; i++) {
        read_tensor(r, &g->tensors[i], &g->offsets[i], err);
    }
    if (err->code || r->starved) return;
    place_tensors(g, (r->at + align - 1) / align * align, align, err);
    check_apart(g, err);
}

static void free_header(lm_gguf *g) {
    lm_meta_free(g->meta);
    lm_free(g->tensors);
    lm_free(g->offsets);
    g->meta = NULL;
    g->tensors = NULL;
    g->offsets = NULL;
}

/* Starting over with twice the bytes costs no more than twice the work, and nothing points into a buffer
** that has moved. */
static void read_growing(lm_gguf *g, lm_err *err) {
    size_t most = (size_t)LM_MIN(g->file.n, (uint64_t)HEADER_MAX), n = LM_MIN(most, (size_t)HEADER_FIRST);
    while (!err->code) {
        uint8_t *bytes = lm_alloc(n, err);
        lm_reader r = { .bytes = bytes, .n = n, .total = g->file.n };
        if (!bytes) return;
        lm_file_read(&g->file, 0, bytes, n, err);
        read_header(g, &r, err);
        if (!err->code && !r.starved) {
            lm_meta_adopt(g->meta, bytes);
            return;
        }
        free_header(g);
        lm_free(bytes);
        if (n == most) lm_err_set(err, LM_ERROR, "header is longer than %d bytes", HEADER_MAX);
        n = LM_MIN(2 * n, most);
    }
}

lm_gguf *lm_gguf_open(const char *path, lm_err *err) {
    lm_gguf *g = lm_calloc(1, sizeof *g, err);
    if (!g) return NULL;
    lm_file_open(&g->file, path, err);
    read_growing(g, err);
    if (!err->code) return g;
    lm_file_blame(path, err);
    lm_gguf_close(g);
    return NULL;
}

void lm_gguf_close(lm_gguf *g) {
    if (!g) return;
    lm_file_close(&g->file);
    free_header(g);
    lm_free(g);
}

const lm_meta *lm_gguf_meta(const lm_gguf *g) { return g->meta; }
int lm_gguf_n_tensors(const lm_gguf *g) { return g->n_tensors; }
const lm_tensor *lm_gguf_tensor(const lm_gguf *g, int i) { return &g->tensors[i]; }

/* Copy n bytes of tensor i from offset on. */
void lm_gguf_read(lm_gguf *g, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    if (i < 0 || i >= g->n_tensors) {
        lm_err_set(err, LM_ERROR, "tensor %d, wanted 0 to %d", i, g->n_tensors - 1);
        return;
    }
    const lm_tensor *t = &g->tensors[i];
    if (offset < 0 || offset > t->n_bytes || n > (uint64_t)(t->n_bytes - offset)) {
        lm_err_set(err, LM_ERROR, "%s: %zu bytes from %lld on wanted, it has %lld", t->name, n, (long long)offset,
                   (long long)t->n_bytes);
        return;
    }
    lm_file_read(&g->file, g->offsets[i] + (uint64_t)offset, dst, n, err);
}

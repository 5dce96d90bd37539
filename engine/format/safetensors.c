/* safetensors.c: a safetensors file as a checked list of tensors, and reads of their bytes.
**
**     u64 n, little-endian
**     n bytes of JSON: {"name": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [begin, end]}, ...,
**                       "__metadata__": {"key": "text", ...}}
**     data: each tensor's bytes at its offsets from here; together they cover all of it, and none lies over another
**
** https://huggingface.co/docs/safetensors. Whoever wrote the file may have meant harm: the header's length is held
** against the file's before memory is taken, its depth and keys are the JSON reader's to check, and a tensor's span must
** be what its shape and type say. Tensors of types that are no weights (the integers of a buffer) are listed with dtype
** LM_OTHER, so that whoever needs one can say so. */
#include "../lmint.h"

#include <string.h>

enum { HEADER_MAX = 32 << 20 };

struct lm_safetensors {
    lm_file file;
    lm_tensor *tensors; size_t n, cap;
    uint64_t *offsets; size_t offsets_cap;      /* from the file's beginning */
    uint32_t *by_name;                          /* tensors in the order of their names */
};

static const struct { const char *name; int dtype, bytes; } g_types[] = {
    { "F32", LM_F32, 4 }, { "F16", LM_F16, 2 }, { "BF16", LM_BF16, 2 }, { "F64", LM_OTHER, 8 }, { "I64", LM_OTHER, 8 },
    { "U64", LM_OTHER, 8 }, { "I32", LM_OTHER, 4 }, { "U32", LM_OTHER, 4 }, { "I16", LM_OTHER, 2 }, { "U16", LM_OTHER, 2 },
    { "I8", LM_OTHER, 1 }, { "U8", LM_OTHER, 1 }, { "BOOL", LM_OTHER, 1 }, { "F8_E4M3", LM_OTHER, 1 }, { "F8_E5M2", LM_OTHER, 1 },
};

/* Read an array of whole numbers >= 0. Return how many there are. */
static int read_numbers(lm_json *j, int kind, const char *what, int64_t *out, int most, lm_err *err) {
    int n = 0;
    if (kind != LM_JSON_ARRAY) lm_err_set(err, LM_ERROR, "%s: expected an array", what);
    for (; !err->code && (kind = lm_json_next(j, err)) != LM_JSON_END; n++) {
        if (kind != LM_JSON_INT || j->integer < 0) lm_err_set(err, LM_ERROR, "%s: expected whole numbers", what);
        else if (n == most) lm_err_set(err, LM_ERROR, "%s: more than %d numbers", what, most);
        else out[n] = j->integer;
    }
    return n;
}

/* Hold a tensor's span against its shape and type. */
static void check_span(lm_tensor *t, int type, int n_dims, const int64_t *shape, const int64_t *span, uint64_t data_n,
                       lm_err *err) {
    t->dtype = g_types[type].dtype;
    t->n_dims = LM_MAX(n_dims, 1);
    t->n_params = 1;
    for (int d = 0; d < LM_DIMS_MAX; d++) {
        t->ne[d] = d < n_dims ? shape[n_dims - 1 - d] : 1;
        if (t->ne[d] < 1) lm_err_set(err, LM_ERROR, "shape: dimensions must be at least 1");
        if (__builtin_mul_overflow(t->n_params, t->ne[d], &t->n_params))
            lm_err_set(err, LM_ERROR, "shape: over 2^63 elements");
    }
    if (__builtin_mul_overflow(t->n_params, (int64_t)g_types[type].bytes, &t->n_bytes))
        lm_err_set(err, LM_ERROR, "shape: over 2^63 bytes");
    if (span[1] < span[0] || (uint64_t)span[1] > data_n) {
        lm_err_set(err, LM_ERROR, "data_offsets [%lld,%lld]: the data has %llu bytes", (long long)span[0],
                   (long long)span[1], (unsigned long long)data_n);
    } else if (span[1] - span[0] != t->n_bytes) {
        lm_err_set(err, LM_ERROR, "data_offsets hold %lld bytes, its shape and dtype %s make %lld",
                   (long long)(span[1] - span[0]), g_types[type].name, (long long)t->n_bytes);
    }
}

/* Read one tensor's object, which has just begun; j->key was its name. */
static void read_tensor(lm_safetensors *s, lm_json *j, uint64_t data_at, lm_err *err) {
    lm_tensor t = {0};
    int64_t shape[LM_DIMS_MAX], span[2] = {0};
    int type = -1, n_dims = -1, n_span = 0;
    size_t name_n = j->key.n;
    if (!name_n || name_n > LM_NAME_MAX || !lm_tensor_is_name(j->key.data, name_n)) {
        lm_err_set(err, LM_ERROR, "tensor name '%.*s': wanted 1 to %d bytes without quotes and the like",
                   (int)LM_MIN(name_n, 60), j->key.data, LM_NAME_MAX);
        return;
    }
    memcpy(t.name, j->key.data, name_n);
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END && !err->code;) {
        if (!strcmp(j->key.data, "dtype") && kind == LM_JSON_TEXT) {
            for (int i = 0; i < LM_COUNT(g_types); i++) if (!strcmp(g_types[i].name, j->string.data)) type = i;
            if (type < 0) lm_err_set(err, LM_ERROR, "unknown dtype %.20s", j->string.data);
        } else if (!strcmp(j->key.data, "shape")) {
            n_dims = read_numbers(j, kind, "shape", shape, LM_DIMS_MAX, err);
        } else if (!strcmp(j->key.data, "data_offsets")) {
            n_span = read_numbers(j, kind, "data_offsets", span, 2, err);
        } else {
            lm_err_set(err, LM_ERROR, "unexpected member \"%.20s\"", j->key.data);
        }
    }
    if (!err->code && (type < 0 || n_dims < 0 || n_span != 2))
        lm_err_set(err, LM_ERROR, "wanted dtype, shape and two data_offsets");
    if (!err->code) check_span(&t, type, n_dims, shape, span, s->file.n - data_at, err);
    if (err->code) {
        lm_err_blame(err, "tensor %s: ", t.name);
        return;
    }
    if (!lm_grow((void **)&s->tensors, s->n, &s->cap, 1, sizeof *s->tensors, err)) return;
    if (!lm_grow((void **)&s->offsets, s->n, &s->offsets_cap, 1, sizeof *s->offsets, err)) return;
    s->offsets[s->n] = data_at + (uint64_t)span[0];
    s->tensors[s->n++] = t;
}

static int compare_offsets(const void *arg, uint32_t a, uint32_t b) {
    const lm_safetensors *s = arg;
    return s->offsets[a] < s->offsets[b] ? -1 : s->offsets[a] > s->offsets[b];
}

static int compare_names(const void *arg, uint32_t a, uint32_t b) {
    const lm_safetensors *s = arg;
    return strcmp(s->tensors[a].name, s->tensors[b].name);
}

static void index_names(lm_safetensors *s, lm_err *err) {
    s->by_name = lm_alloc(s->n * sizeof *s->by_name, err);
    if (!s->by_name) return;
    for (size_t i = 0; i < s->n; i++) s->by_name[i] = (uint32_t)i;
    lm_sort(s->by_name, s->n, compare_names, s, err);
}

int lm_safetensors_find(const lm_safetensors *s, const char *name) {
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, s->tensors[s->by_name[middle]].name);
        if (!order) return (int)s->by_name[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return -1;
}

/* The tensors must cover the data, each byte once. */
static void check_cover(const lm_safetensors *s, uint64_t data_at, lm_err *err) {
    uint64_t at = data_at;
    uint32_t *order = lm_alloc((s->n + 1) * sizeof *order, err);
    if (!order) return;
    for (size_t i = 0; i < s->n; i++) order[i] = (uint32_t)i;
    lm_sort(order, s->n, compare_offsets, s, err);
    for (size_t i = 0; i < s->n && !err->code; i++) {
        const lm_tensor *t = &s->tensors[order[i]];
        uint64_t begin = s->offsets[order[i]];
        if (begin != at) {
            lm_err_set(err, LM_ERROR, "tensor %s begins at byte %llu of the data, %s", t->name,
                       (unsigned long long)(begin - data_at), begin < at ? "inside another" : "after a hole");
        }
        at = begin + (uint64_t)t->n_bytes;
    }
    if (!err->code && at != s->file.n)
        lm_err_set(err, LM_ERROR, "%llu bytes after the last tensor", (unsigned long long)(s->file.n - at));
    lm_free(order);
}

static void read_header(lm_safetensors *s, lm_err *err) {
    uint8_t length[8];
    lm_json j;
    if (s->file.n < 8) lm_err_set(err, LM_ERROR, "%llu bytes are no safetensors file", (unsigned long long)s->file.n);
    lm_file_read(&s->file, 0, length, 8, err);
    uint64_t n = err->code ? 0 : lm_reader_le(length, 8);
    if (!err->code && (n > HEADER_MAX || n > s->file.n - 8)) {
        lm_err_set(err, LM_ERROR, "header of %llu bytes, wanted at most %d, in a file of %llu", (unsigned long long)n,
                   HEADER_MAX, (unsigned long long)s->file.n);
    }
    uint8_t *header = lm_alloc(n + 1, err);
    lm_file_read(&s->file, 8, header, n, err);
    if (err->code) {
        lm_free(header);
        return;
    }
    while (n && header[n - 1] == ' ') n--;      /* padding */
    lm_json_init(&j, (const char *)header, n);
    if (lm_json_next(&j, err) != LM_JSON_OBJECT) lm_err_set(err, LM_ERROR, "header: expected a JSON object");
    for (int kind; (kind = lm_json_next(&j, err)) != LM_JSON_END && !err->code;) {
        size_t at = j.at;
        if (!strcmp(j.key.data, "__metadata__")) lm_json_skip(&j, kind, err);
        else if (kind != LM_JSON_OBJECT) lm_err_set(err, LM_ERROR, "tensor %.60s: expected an object", j.key.data);
        else read_tensor(s, &j, lm_reader_le(length, 8) + 8, err);
        if (err->code) lm_err_blame(err, "header, byte %zu: ", at);
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
    lm_free(header);
    if (!err->code) check_cover(s, lm_reader_le(length, 8) + 8, err);
    if (!err->code) index_names(s, err);
}

lm_safetensors *lm_safetensors_open(const char *path, lm_err *err) {
    lm_safetensors *s = lm_calloc(1, sizeof *s, err);
    if (!s) return NULL;
    lm_file_open(&s->file, path, err);
    if (!err->code) read_header(s, err);
    if (!err->code) return s;
    lm_file_blame(path, err);
    lm_safetensors_close(s);
    return NULL;
}

void lm_safetensors_close(lm_safetensors *s) {
    if (!s) return;
    lm_file_close(&s->file);
    lm_free(s->tensors);
    lm_free(s->offsets);
    lm_free(s->by_name);
    lm_free(s);
}

int lm_safetensors_n_tensors(const lm_safetensors *s) { return (int)s->n; }
const lm_tensor *lm_safetensors_tensor(const lm_safetensors *s, int i) { return &s->tensors[i]; }

void lm_safetensors_read(lm_safetensors *s, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    const lm_tensor *t = &s->tensors[i];
    if (offset < 0 || offset > t->n_bytes || n > (uint64_t)(t->n_bytes - offset)) {
        lm_err_set(err, LM_ERROR, "%s: %zu bytes from %lld on wanted, it has %lld", t->name, n, (long long)offset,
                   (long long)t->n_bytes);
        return;
    }
    lm_file_read(&s->file, s->offsets[i] + (uint64_t)offset, dst, n, err);
}

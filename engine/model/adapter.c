/* adapter.c: a model with an adapter beside its weights; and an adapter's part in a merged matrix.
**
** An adapted model is a model like any other, whose layers, frequencies and tokenizer are those of its base; alpha / rank is
** multiplied into B once. forward.c adds B (A x), two fmaf chains in float32, to what the base's product gives. */
#include "model.h"

#include <stdio.h>
#include <string.h>

/* The number of the tensor that is a matrix's part ("lora_a" or "lora_b"), -1: there is none. */
static int find_part(const lm_adapter *a, const char *matrix, const char *part) {
    size_t n = strlen(matrix);
    for (int i = 0; i < a->n_tensors; i++) {
        const char *name = a->tensors[i].name;
        if (!strncmp(name, matrix, n) && name[n] == '.' && !strcmp(name + n + 1, part)) return i;
    }
    return -1;
}

int lm_adapter_has(const lm_adapter *a, const char *matrix) {
    return find_part(a, matrix, "lora_a") >= 0 && find_part(a, matrix, "lora_b") >= 0;
}

void lm_adapter_add(const lm_adapter *a, const char *matrix, int64_t first, int64_t n, float *values) {
    int down = find_part(a, matrix, "lora_a"), up = find_part(a, matrix, "lora_b");
    int64_t cols = a->tensors[down].ne[0];
    float scale = (float)(a->alpha / a->rank);
    for (int64_t e = first; e < first + n; e++) {
        const float *row = a->data[up] + e / cols * a->rank, *col = a->data[down] + e % cols;
        float sum = 0;
        for (int k = 0; k < a->rank; k++) sum = fmaf(row[k], col[(int64_t)k * cols], sum);
        values[e - first] += scale * sum;
    }
}

/* Pack rows of cols floats, each times scale. */
static void pack(lm_model *m, lm_mat *out, const float *x, int64_t rows, int64_t cols, float scale, lm_err *err) {
    float *scaled = lm_alloc((size_t)(LM_TILE * cols) * sizeof *scaled, err);
    lm_mat mat = {0};
    lm_mat_init(&mat, LM_F32, rows, cols, err);
    if (!err->code) mat.data = lm_alloc(lm_mat_bytes(&mat), err);
    if (mat.data) m->slabs[m->n_slabs++] = mat.data;
    for (int64_t row = 0; row < rows && !err->code; row += LM_TILE) {
        int n = (int)LM_MIN(rows - row, LM_TILE);
        for (int64_t i = 0; i < n * cols; i++) scaled[i] = x[row * cols + i] * scale;
        lm_mat_pack(&mat, (int)row, n, scaled);
    }
    lm_free(scaled);
    if (err->code) return;
    m->n_bytes += lm_mat_bytes(&mat);
    *out = mat;
}

static int is_shape(const lm_tensor *t, int64_t rows, int64_t cols) {
    return t->dtype == LM_F32 && t->n_dims == 2 && t->ne[0] == cols && t->ne[1] == rows;
}

/* Is a tensor an A (1) or a B (2), or neither (0)? name gets its matrix's. */
static int read_name(const lm_tensor *t, char name[LM_NAME_MAX + 1]) {
    const char *dot = strrchr(t->name, '.');
    snprintf(name, LM_NAME_MAX + 1, "%.*s", dot ? (int)(dot - t->name) : 0, t->name);
    return !dot ? 0 : !strcmp(dot, ".lora_a") ? 1 : !strcmp(dot, ".lora_b") ? 2 : 0;
}

static void homeless(const lm_tensor *t, lm_err *err) {
    lm_err_set(err, LM_ERROR, "adapter: tensor %s belongs to no matrix of the model's layers", t->name);
}

static void check_form(const lm_adapter *a, lm_err *err) {
    if (!a->n_tensors) lm_err_set(err, LM_ERROR, "adapter: it has no tensors");
    if (a->rank < 1 || a->rank > 1024)
        lm_err_set(err, LM_ERROR, "adapter: rank %d is out of range (1 to 1024)", a->rank);
    if (!(a->alpha > 0 && a->alpha <= 1e6))
        lm_err_set(err, LM_ERROR, "adapter: alpha %g is out of range (0 to 1e6)", a->alpha);
}

/* Check name and shape of the adapter's tensor i, and that it is one of two. Return its matrix's row, or NULL. */
static const lm_tensor_row *check_part(const lm_arch *arch, const lm_hparams *h, const lm_adapter *a, int i,
                                       int *layer, lm_err *err) {
    char name[LM_NAME_MAX + 1];
    int64_t ne[LM_DIMS_MAX];
    const lm_tensor *t = &a->tensors[i];
    int which = read_name(t, name), down = find_part(a, name, "lora_a"), up = find_part(a, name, "lora_b");
    const lm_tensor_row *row = which ? lm_arch_row(arch, h, name, layer) : NULL;
    if (!row || *layer < 0 || row->how == LM_EXPERTS || row->slot == LM_ROUTER || row->rows == LM_DIM_1) {
        homeless(t, err);
        return NULL;
    }
    lm_arch_shape(row, h, ne);
    if (i != (which == 1 ? down : up)) {
        lm_err_set(err, LM_ERROR, "adapter: tensor %s: there are two", t->name);
    } else if (down < 0 || up < 0) {
        lm_err_set(err, LM_ERROR, "adapter: tensor %s: %s.lora_%c is missing", t->name, name, down < 0 ? 'a' : 'b');
    } else if (!is_shape(&a->tensors[down], a->rank, ne[0]) || !is_shape(&a->tensors[up], ne[1], a->rank)) {
        lm_err_set(err, LM_ERROR,
                   "adapter: tensor %s.lora_a and its lora_b: expected [%d,%lld] and [%lld,%d], of f32", name,
                   a->rank, (long long)ne[0], (long long)ne[1], a->rank);
    }
    return err->code ? NULL : row;
}

void lm_adapter_check(const lm_source *src, const lm_adapter *a, lm_err *err) {
    char name[LM_NAME_MAX + 1];
    lm_hparams h;
    const lm_arch *arch = lm_arch_find(src->arch);
    if (!arch) lm_err_set(err, LM_ERROR, "adapter: architecture %.60s is not supported", src->arch);
    else lm_hparams_read(&h, arch, src->hparams, src->hparams_n, err);
    check_form(a, err);
    for (int i = 0, layer, k; i < a->n_tensors && !err->code; i++) {
        if (!check_part(arch, &h, a, i, &layer, err)) return;
        read_name(&a->tensors[i], name);
        for (k = 0; k < src->n_tensors && strcmp(src->tensors[k].name, name); k++) {}
        if (k == src->n_tensors) homeless(&a->tensors[i], err);
    }
}

/* Put the adapter's tensor i, an A, and the B that belongs to it, where their matrix is. */
static void bind(lm_model *m, const lm_adapter *a, int i, lm_err *err) {
    char name[LM_NAME_MAX + 1];
    int layer;
    const lm_tensor *t = &a->tensors[i];
    const lm_tensor_row *row = check_part(m->arch, &m->h, a, i, &layer, err);
    const lm_mat *w = row ? &m->layer[layer][row->slot] : NULL;
    if (!w || !w->data) homeless(t, err);
    if (err->code || read_name(t, name) != 1) return;
    lm_low_rank *low = &m->low[layer][row->slot];
    const float *up = a->data[find_part(a, name, "lora_b")];
    for (int64_t k = 0; k < (row->how == LM_THIRDS ? 3 : 1); k++, low++) {
        pack(m, &low->down, a->data[i], a->rank, w->cols, 1, err);
        pack(m, &low->up, up + k * w->rows * a->rank, w->rows, a->rank, (float)(a->alpha / a->rank), err);
    }
}

lm_model *lm_model_adapt(const lm_model *base, const lm_adapter *a, lm_err *err) {
    lm_model *m = lm_calloc(1, sizeof *m, err);
    int n_stored = lm_hparams_n_stored(&base->h);
    if (!m) return NULL;
    *m = (lm_model){ .arch = base->arch, .h = base->h, .layer = base->layer, .tok = base->tok, .base = base,
                     .rank = a->rank };
    memcpy(m->top, base->top, sizeof m->top);
    memcpy(m->inv_freq, base->inv_freq, sizeof m->inv_freq);
    m->low = lm_calloc((size_t)m->h.n_layers, sizeof *m->low, err);
    m->slabs = lm_calloc((size_t)LM_MAX(6 * a->n_tensors, 1), sizeof *m->slabs, err);
    check_form(a, err);
    for (int i = 0; i < a->n_tensors && !err->code; i++) bind(m, a, i, err);
    for (int l = n_stored; l < m->h.n_layers && !err->code; l++)
        memcpy(m->low[l], m->low[l - n_stored], sizeof *m->low);
    if (!err->code) return m;
    lm_model_free(m);
    return NULL;
}

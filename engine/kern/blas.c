/* blas.c: products of float matrices, for training, over the pool.
**
** b is packed in panels (k, 64) (the last one narrower), an a whose rows stand 1 apart in panels (k, 12); then blocks of c are
** worked out by the kernels' tile, k in stretches that the caches hold. An output is one chain of fmas over ascending k,
** wherever it is cut, so results do not depend on threads, on kernels or on sizes: that is why OpenBLAS, whose sums are its own
** affair, does not serve here, and it is the slower at the shapes of small models besides (grads.h has the figures;
** `train_bench gemm` measures both). */
#include "kern.h"

#include <string.h>

/* Items are small, so that no thread waits long for another's last one. */
enum { DEPTH = 256, ROWS = 96, STRIPE = 64, ITEM_OPS = 6 << 20, PRODUCTS_MAX = 8, PIECE = 256 };
enum { BAND = 12 };     /* rows of a panel of a: whole blocks of the tile, of 12 rows or twice 6 */

typedef struct {
    const lm_train_kern *kern;
    lm_product *products; int n;
    int first_item[2 * PRODUCTS_MAX + 1];       /* of each product; when packing, of each b and then each a */
    int panels[PRODUCTS_MAX];                   /* an item's, of c's columns */
} run;

static int panels_of(int n) { return (n + LM_PANEL - 1) / LM_PANEL; }
static size_t width_of(int n, int panel) { return (size_t)(LM_MIN(n - panel * LM_PANEL, LM_PANEL) + 15) & ~(size_t)15; }
size_t lm_packed_floats(int k, int n) { return (size_t)k * (((size_t)n + 15) & ~(size_t)15); }
static size_t band_floats(int k, int m) { return (size_t)k * (size_t)((m + BAND - 1) / BAND * BAND); }

/*----------------------------------------------------------------------
** Packing. */

/* Lay row i of k, n numbers from column `first` on, into the panels. */
static void lay_row(const lm_train_kern *kern, const float *row, int first, int count, int i, int k, int n,
                    float *packed) {
    for (int at = first; at < first + count; at += LM_PANEL) {
        int panel = at / LM_PANEL;
        float *out = packed + (size_t)panel * LM_PANEL * (size_t)k + (size_t)i * width_of(n, panel);
        kern->lay(row + (at - first), LM_MIN(first + count - at, LM_PANEL), out);
    }
}

/* Write count numbers of b's column `col`, from k0 on, down a panel. */
static void lay_column(const float *column, int count, float *panel, size_t width, int k0, int col) {
    float *out = panel + (size_t)k0 * width + col;
    for (int i = 0; i < count; i++) out[(size_t)i * width] = column[i];
}

static void zero_columns(float *panel, size_t width, int k, int first) {
    for (int i = 0; i < k && (size_t)first < width; i++)
        memset(panel + (size_t)i * width + first, 0, (width - (size_t)first) * sizeof(float));
}

/* Row r of a stack: where numbers from column k0 on are, decoded into buffer if need be. */
static const float *stacked(const lm_stack *b, int r, int k0, int count, float *buffer) {
    while (r >= b->n) r -= b++->n;
    if (!b->dtype) return (const float *)b->rows + (size_t)r * b->stride + k0;
    b->dtype->decode((const uint8_t *)b->rows + (size_t)r * b->stride
                         + (size_t)(k0 / b->dtype->block * b->dtype->bytes),
                     buffer, count);
    return buffer;
}

/* Rows first..end-1 of b, into all panels. */
static void pack_rows(const run *u, const lm_product *p, int first, int end) {
    float buffer[PIECE];
    for (int i = first; i < end; i++) {
        for (int at = 0; at < p->n; at += PIECE) {
            int count = LM_MIN(PIECE, p->n - at);
            lay_row(u->kern, stacked(p->b, i, at, count, buffer), at, count, i, p->k, p->n, p->packed_b);
        }
    }
}

/* One panel of a b that is given by its columns. */
static void pack_turned(const lm_product *p, int panel) {
    float buffer[16][PIECE];
    size_t width = width_of(p->n, panel);
    int first = panel * LM_PANEL, n = LM_MIN(p->n - first, LM_PANEL);
    float *out = p->packed_b + (size_t)first * (size_t)p->k;
    for (int col = 0; col < n; col += 16) {
        for (int at = 0; at < p->k; at += PIECE) {
            int count = LM_MIN(PIECE, p->k - at);
            for (int c = col; c < LM_MIN(col + 16, n); c++)
                lay_column(stacked(p->b, first + c, at, count, buffer[c - col]), count, out, width, at, c);
        }
    }
    zero_columns(out, width, p->k, n);
}

/* Columns first..end-1 of an a whose rows stand 1 apart, into all its bands. */
static void pack_bands(const lm_product *p, int first, int end) {
    for (int band = 0; band < p->m; band += BAND) {
        float *out = p->packed_a + (size_t)band * (size_t)p->k + (size_t)first * BAND;
        const float *from = p->a + (size_t)first * p->ak + band;
        int n = LM_MIN(p->m - band, BAND);
        for (int i = first; i < end; i++, out += BAND, from += p->ak) {
            if (n == BAND) memcpy(out, from, BAND * sizeof *out);
            else memcpy(out, from, (size_t)n * sizeof *out);
        }
    }
}

static void pack_item(void *arg, int item) {
    const run *u = arg;
    int at = 0;
    while (item >= u->first_item[at + 1]) at++;
    const lm_product *p = &u->products[at % u->n];
    int part = item - u->first_item[at];
    if (at < u->n && p->b_turned) {
        pack_turned(p, part);
    } else if (at < u->n) {
        pack_rows(u, p, part * STRIPE, LM_MIN(part * STRIPE + STRIPE, p->k));
    } else {
        pack_bands(p, part * STRIPE, LM_MIN(part * STRIPE + STRIPE, p->k));
    }
}

/*----------------------------------------------------------------------
** Multiplying. */

/* Rows r0..r1-1 by panels p0..p1-1. An a that is packed is walked band by band. */
static void multiply_part(const lm_train_kern *kern, const lm_product *p, int r0, int r1, int p0, int p1) {
    for (int k0 = 0; k0 < p->k; k0 += DEPTH) {
        int depth = LM_MIN(DEPTH, p->k - k0);
        for (int panel = p0; panel < p1; panel++) {
            int first = panel * LM_PANEL, cols = LM_MIN(p->n - first, LM_PANEL);
            const float *b = p->packed_b + (size_t)first * (size_t)p->k + (size_t)k0 * width_of(p->n, panel);
            for (int r = r0, n; r < r1; r += n) {
                const float *a = p->a + (size_t)r * p->ar + (size_t)k0 * p->ak;
                size_t ak = p->ak;
                n = r1 - r;
                if (p->packed_a) {
                    ak = BAND;
                    a = p->packed_a + (size_t)r * (size_t)p->k + (size_t)k0 * BAND;
                    n = LM_MIN(n, BAND);
                }
                kern->tile(a, p->ar, ak, b, depth, p->c + (size_t)r * p->stride + first, p->stride, n, cols,
                           p->add || k0);
            }
        }
    }
}

static void multiply_item(void *arg, int item) {
    const run *u = arg;
    int at = 0;
    while (item >= u->first_item[at + 1]) at++;
    const lm_product *p = &u->products[at];
    int blocks = (p->m + ROWS - 1) / ROWS, part = item - u->first_item[at];
    int row = part % blocks * ROWS, panel = part / blocks * u->panels[at];
    multiply_part(u->kern, p, row, LM_MIN(row + ROWS, p->m), panel, LM_MIN(panel + u->panels[at], panels_of(p->n)));
}

void lm_products_run(lm_product *products, int n, float *packed, lm_stop stop, lm_err *err) {
    run u = { .kern = lm_train_kern_get(), .products = products, .n = n };
    int items = 0;
    for (int i = 0; i < n; i++) {
        lm_product *p = &products[i];
        u.first_item[i] = items;
        if (p->same_b) p->packed_b = p[-1].packed_b;
        if (p->same_b || p->is_packed) continue;
        if (!p->packed_b) p->packed_b = packed, packed += lm_packed_floats(p->k, p->n);
        items += p->b_turned ? panels_of(p->n) : (p->k + STRIPE - 1) / STRIPE;
    }
    for (int i = 0; i < n; i++) {
        lm_product *p = &products[i];
        u.first_item[n + i] = items;
        p->packed_a = p->ar == 1 && p->ak != 1 ? packed : NULL;
        if (p->packed_a) packed += band_floats(p->k, p->m), items += (p->k + STRIPE - 1) / STRIPE;
    }
    u.first_item[2 * n] = items;
    lm_pool_run(pack_item, &u, items, stop, err);
    items = 0;
    for (int i = 0; i < n; i++) {
        const lm_product *p = &products[i];
        int64_t ops = (int64_t)LM_MIN(p->m, ROWS) * LM_PANEL * p->k;
        u.first_item[i] = items;
        u.panels[i] = (int)LM_MAX(1, LM_MIN(ITEM_OPS / LM_MAX(ops, 1), panels_of(p->n)));
        items += (p->m + ROWS - 1) / ROWS * ((panels_of(p->n) + u.panels[i] - 1) / u.panels[i]);
    }
    u.first_item[n] = items;
    lm_pool_run(multiply_item, &u, items, stop, err);
}

void lm_pack(const lm_train_kern *kern, const float *b, size_t stride, int k, int n, int turned, float *packed) {
    for (int i = 0; !turned && i < k; i++) lay_row(kern, b + (size_t)i * stride, 0, n, i, k, n, packed);
    for (int panel = 0; turned && panel < panels_of(n); panel++) {
        size_t width = width_of(n, panel);
        float *out = packed + (size_t)panel * LM_PANEL * (size_t)k;
        int first = panel * LM_PANEL, cols = LM_MIN(n - first, LM_PANEL);
        for (int c = 0; c < cols; c++) lay_column(b + (size_t)(first + c) * stride, k, out, width, 0, c);
        zero_columns(out, width, k, cols);
    }
}

void lm_multiply(const lm_train_kern *kern, const float *a, size_t ar, size_t ak, const float *packed, int depth,
                 int from, int k, int m, int n, float *c, size_t stride, int add) {
    for (int panel = 0; panel < panels_of(n); panel++) {
        int first = panel * LM_PANEL;
        const float *b = packed + (size_t)first * (size_t)depth + (size_t)from * width_of(n, panel);
        kern->tile(a, ar, ak, b, k, c + first, stride, m, LM_MIN(n - first, LM_PANEL), add);
    }
}

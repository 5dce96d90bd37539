/* limits_bench.c: what this machine can do, in a line of JSON, for the shares in the table. Usage: limits_bench [MB]
**
**     read_1 read_2             with MB: GB/s, so much memory read over and over by one thread, by two
**     dram_1 dram_2             without: the same, a gigabyte
**     tile_q4_1 tile_f32        our own product at a shape that suits it (2048 x 2048 weights, 512 columns, two threads), and
**     sgemm                     OpenBLAS's, the same shape, where libopenblas.so.0 is: GFLOP/s, two a weight and column
**
** The best of some tries each: a limit is what is possible, not what is usual. */
#define _GNU_SOURCE
#include "../harness.h"
#include "../../engine/kern/kern.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

enum { THREADS = 2, TRIES = 3, SIDE = 2048, COLUMNS = 512, HUGE_PAGE = 1 << 21 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/*----------------------------------------------------------------------
** Reading. */
typedef struct { const uint64_t *words; size_t n; int times; uint64_t sum; } reader;

__attribute__((target_clones("default", "avx2", "avx512f")))
static uint64_t add_up(const uint64_t *words, size_t n) {
    uint64_t sum[32] = { 0 };
    for (size_t i = 0; i < n; i += 32) {
        for (int j = 0; j < 32; j++) sum[j] += words[i + (size_t)j];
    }
    for (int j = 1; j < 32; j++) sum[0] += sum[j];
    return sum[0];
}

static void *read_all(void *arg) {
    reader *r = arg;
    for (int i = 0; i < r->times; i++) r->sum += add_up(r->words, r->n);
    return NULL;
}

/* GB/s of so many threads, each in a part of its own. */
static double bandwidth(const uint64_t *words, size_t n, int threads) {
    int times = (int)(((size_t)1 << 27) / n) * 2 + 1;
    double best = 0;
    for (int try = 0; try < TRIES; try++) {
        reader r[THREADS];
        pthread_t id[THREADS];
        size_t each = n / (size_t)threads / 32 * 32;
        double start = now();
        for (int t = 0; t < threads; t++) {
            r[t] = (reader){ words + (size_t)t * each, each, times, 0 };
            if (t) pthread_create(&id[t], NULL, read_all, &r[t]);
        }
        read_all(&r[0]);
        for (int t = 1; t < threads; t++) pthread_join(id[t], NULL);
        best = LM_MAX(best, (double)each * threads * times * 8e-9 / (now() - start));
    }
    return best;
}

/*----------------------------------------------------------------------
** Products. */
typedef struct { const lm_kern *kern; lm_mat *m; lm_columns *x; float *out; } product;

enum { TASK_TILES = 4, TASK_COLUMNS = 128 };        /* a task's weights and columns stay in a cache of 1 MB */

static void multiply(void *arg, int i) {
    product *p = arg;
    int parts = COLUMNS / TASK_COLUMNS, tile = i / parts * TASK_TILES, column = i % parts * TASK_COLUMNS;
    p->kern->multiply(p->m, tile, LM_MIN(tile + TASK_TILES, p->m->n_tiles), p->x, column, column + TASK_COLUMNS, p->out, SIDE);
}

static double tile_rate(int dtype, lm_err *err) {
    const lm_dtype *type = lm_dtype_find(dtype);
    lm_mat m = { 0 };
    size_t blocks = (size_t)COLUMNS * SIDE / LM_BLOCK, row_bytes = (size_t)(SIDE / type->block * type->bytes);
    lm_columns x = { .k = SIDE };
    float *floats = lm_alloc(sizeof *floats * COLUMNS * SIDE, err), *out = lm_alloc(sizeof *out * COLUMNS * SIDE, err);
    uint8_t *rows = lm_calloc(LM_TILE, row_bytes, err);
    double best = 0;
    lm_mat_init(&m, dtype, SIDE, SIDE, err);
    m.data = lm_alloc(err->code ? 0 : lm_mat_bytes(&m), err);
    x.q = lm_alloc(blocks * 2 * LM_BLOCK, err);
    x.d = lm_alloc(blocks * sizeof *x.d, err);
    x.sum = lm_alloc(blocks * LM_SUMS * sizeof *x.sum, err);
    x.dsum = lm_alloc(blocks * LM_SUMS * sizeof *x.dsum, err);
    x.x = floats;
    if (!err->code) {
        const lm_kern *kern = lm_kern_get();
        product p = { kern, &m, &x, out };
        for (size_t i = 0; i < LM_TILE * row_bytes; i++) rows[i] = (uint8_t)(0x30 | ((i * 2654435761u) >> 28 & 0xF));  /* never tiny, never NaN */
        for (int t = 0; t < m.n_tiles; t++) lm_mat_pack(&m, t * LM_TILE, LM_TILE, rows);
        for (size_t i = 0; i < (size_t)COLUMNS * SIDE; i++) floats[i] = (float)(i * 2654435761u % 1000) * 0.001f - 0.5f;
        for (int c = 0; c < COLUMNS; c++) kern->quantise(&x, c);
        for (int try = 0; try < TRIES; try++) {
            double start = now();
            lm_pool_run(multiply, &p, m.n_tiles / TASK_TILES * (COLUMNS / TASK_COLUMNS), (lm_stop){ 0 }, err);
            best = LM_MAX(best, 2e-9 * SIDE * SIDE * COLUMNS / (now() - start));
        }
    }
    lm_free(m.data);
    lm_free(x.q);
    lm_free(x.d);
    lm_free(x.sum);
    lm_free(x.dsum);
    lm_free(floats);
    lm_free(out);
    lm_free(rows);
    return best;
}

/* 0 where there is no OpenBLAS. */
static double sgemm_rate(void) {
    enum { ROW_MAJOR = 101, AS_IS = 111 };          /* of the CBLAS interface */
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int) = NULL;
    void (*set_threads)(int) = NULL;
    float *a = calloc((size_t)SIDE * SIDE, sizeof *a), *b = calloc((size_t)SIDE * COLUMNS, sizeof *b),
          *c = calloc((size_t)SIDE * COLUMNS, sizeof *c);
    double best = 0;
    if (lib) {
        *(void **)&sgemm = dlsym(lib, "cblas_sgemm");
        *(void **)&set_threads = dlsym(lib, "openblas_set_num_threads");
    }
    if (sgemm && set_threads && a && b && c) {
        set_threads(THREADS);
        for (int try = 0; try < TRIES; try++) {
            double start = now();
            sgemm(ROW_MAJOR, AS_IS, AS_IS, SIDE, COLUMNS, SIDE, 1, a, SIDE, b, COLUMNS, 0, c, COLUMNS);
            best = LM_MAX(best, 2e-9 * SIDE * SIDE * COLUMNS / (now() - start));
        }
    }
    free(a);
    free(b);
    free(c);
    return best;
}

int main(int argc, char **argv) {
    int mb = argc > 1 ? atoi(argv[1]) : 1000;
    size_t n_bytes = (size_t)LM_MAX(mb, 1) * 1000000 / HUGE_PAGE * HUGE_PAGE + HUGE_PAGE;
    uint64_t *buffer = aligned_alloc(HUGE_PAGE, n_bytes);
    const char *name = argc > 1 ? "read" : "dram";
    lm_err err = {0};
    if (!buffer) return fprintf(stderr, "limits_bench: no %d MB are free\n", mb), 1;
    madvise(buffer, n_bytes, MADV_HUGEPAGE);
    memset(buffer, 1, n_bytes);
    lm_threads_set(THREADS);
    printf("{\"%s_1\": %.1f, ", name, bandwidth(buffer, n_bytes / 8, 1));
    printf("\"%s_2\": %.1f", name, bandwidth(buffer, n_bytes / 8, 2));
    free(buffer);
    if (argc == 1) {
        double sgemm = sgemm_rate();
        if (sgemm > 0) printf(", \"sgemm\": %.1f", sgemm);
        printf(", \"tile_f32\": %.1f", tile_rate(LM_F32, &err));
        printf(", \"tile_q4_1\": %.1f, \"kernels\": \"%s\"", tile_rate(LM_Q4_1, &err), lm_kernels());
    }
    printf("}\n");
    if (err.code) fprintf(stderr, "limits_bench: %s\n", err.msg);
    return err.code != 0;
}

/* train_bench.c: speed of training on random ids: train_bench 1M|5M|15M|117M [steps [threads]], the model of train_torch.py; one
** JSON line. train_bench gemm: products at its shapes beside OpenBLAS on one thread, where that is there.
**
** Seen on two Sapphire Rapids cores, two threads, in turn with train_torch.py under torch 2.9.1, tokens/s (medians of rounds): 1M
** 18,987 by 9,045 (2.1 times), 5M 4,401 by 2,903 (1.5), 15M 1,810 by 1,456 (1.24); 117M: 9.0 s a step of 2,048, 3.05 GiB in all. */
#define _GNU_SOURCE
#include "../../engine/train/train.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { VOCAB = 2048, SEQ = 256, BATCH = 8, WARM = 3 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static uint32_t draw(void) {
    static uint64_t z = 1;
    z = z * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(z >> 33);
}

/* Norms are 1, matrices uniform with a deviation of 0.02. */
static void read_random(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    const lm_tensor *t = (const lm_tensor *)arg + i;
    float *x = dst;
    (void)offset, (void)err;
    for (size_t j = 0; j < n / 4; j++) x[j] = t->n_dims == 1 ? 1 : ((float)draw() / 2147483648.0f - 0.5f) * 0.0693f;
}

static void add_tensor(lm_tensor *tensors, int *n, const char *format, int layer, int cols, int rows, lm_err *err) {
    lm_tensor *t = &tensors[(*n)++];
    *t = (lm_tensor){ .dtype = LM_F32, .n_dims = rows > 1 ? 2 : 1, .ne = { cols, rows, 1, 1 } };
    snprintf(t->name, sizeof t->name, format, layer);
    lm_tensor_measure(t, err);
}

static int train(const char *size, int steps) {
    static const struct { const char *name; int d, layers, heads, ff, vocab, batch, seq; } sizes[] = {
        { "1M", 128, 4, 4, 344, VOCAB, BATCH, SEQ }, { "5M", 256, 6, 4, 688, VOCAB, BATCH, SEQ },
        { "15M", 384, 8, 6, 1024, VOCAB, BATCH, SEQ }, { "117M", 768, 12, 12, 2048, 40478, 4, 512 },
    };
    lm_err err = {0};
    lm_tensor tensors[256];
    char hparams[512];
    int s = 0, n = 0;
    while (s < LM_COUNT(sizes) && strcmp(sizes[s].name, size)) s++;
    if (s == LM_COUNT(sizes)) return 2;
    int d = sizes[s].d, ff = sizes[s].ff, vocab = sizes[s].vocab, seq = sizes[s].seq, batch = sizes[s].batch;
    add_tensor(tensors, &n, "token_embd.weight", 0, d, vocab, &err);
    add_tensor(tensors, &n, "output_norm.weight", 0, d, 1, &err);
    for (int l = 0; l < sizes[s].layers; l++) {
        add_tensor(tensors, &n, "blk.%d.attn_norm.weight", l, d, 1, &err);
        add_tensor(tensors, &n, "blk.%d.ffn_norm.weight", l, d, 1, &err);
        add_tensor(tensors, &n, "blk.%d.attn_q.weight", l, d, d, &err);
        add_tensor(tensors, &n, "blk.%d.attn_k.weight", l, d, d, &err);
        add_tensor(tensors, &n, "blk.%d.attn_v.weight", l, d, d, &err);
        add_tensor(tensors, &n, "blk.%d.attn_output.weight", l, d, d, &err);
        add_tensor(tensors, &n, "blk.%d.ffn_gate.weight", l, d, ff, &err);
        add_tensor(tensors, &n, "blk.%d.ffn_up.weight", l, d, ff, &err);
        add_tensor(tensors, &n, "blk.%d.ffn_down.weight", l, ff, d, &err);
    }
    snprintf(hparams, sizeof hparams, "{\"n_layers\":%d,\"n_embd\":%d,\"n_heads\":%d,\"n_kv_heads\":%d,\"head_dim\":%d,\"n_ff\":%d,\"n_vocab\":%d,"
             "\"n_ctx\":%d,\"rope\":\"halves\",\"n_rot\":%d,\"rope_base\":10000,\"norm_eps\":1e-5}", sizes[s].layers, d, sizes[s].heads,
             sizes[s].heads, d / sizes[s].heads, ff, vocab, seq, d / sizes[s].heads);
    lm_source src = { "llama", hparams, strlen(hparams), tensors, n, read_random, tensors };
    lm_train_options options = { .batch_tokens = batch * seq, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .decay_all = 1 };
    uint64_t formula = lm_trainer_bytes(&src, &options, &err);
    lm_trainer *t = lm_trainer_new(&src, &options, (lm_stop){0}, &err);
    int32_t *ids = malloc(sizeof *ids * (size_t)(batch * (seq + 1)));
    int *lengths = malloc(sizeof *lengths * (size_t)batch);
    double *times = malloc(sizeof *times * (size_t)(steps + WARM)), first = 0;
    int64_t params = 0;
    lm_train_result r = {0};
    for (int i = 0; t && i < lm_trainer_n_tensors(t); i++) params += lm_trainer_tensor(t, i)->n_params;
    for (int i = 0; i < steps + WARM && !err.code; i++) {
        for (int j = 0; j < batch * seq; j++) ids[j] = (int32_t)(draw() % (uint32_t)vocab);
        for (int j = 0; j < batch; j++) lengths[j] = seq;
        lm_train_batch b = { ids, NULL, lengths, batch };
        double start = now();
        lm_trainer_step(t, &b, 3e-4, &r, (lm_stop){0}, &err);
        times[i] = now() - start;
        if (i == 0) first = r.loss;
    }
    if (err.code) return printf("%s\n", err.msg), 1;
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    qsort(times + WARM, (size_t)steps, sizeof *times, by_size);
    double median = times[WARM + steps / 2];
    printf("{\"size\":\"%s\",\"params\":%lld,\"kernels\":\"%s\",\"threads\":%d,\"step_s\":%.4f,\"step_min\":%.4f,\"step_max\":%.4f,\"tokens_per_s\":%.0f,"
           "\"peak_rss_mib\":%ld,\"peak_counted_mib\":%.0f,\"formula_mib\":%.0f,\"loss_first\":%.4f,\"loss_last\":%.4f}\n", size, (long long)params,
           lm_kernels(), lm_threads(), median, times[WARM], times[WARM + steps - 1], batch * seq / median, use.ru_maxrss / 1024,
           (double)lm_mem_peak() / 1048576, (double)formula / 1048576, first, r.loss);
    lm_trainer_free(t);
    free(ids);
    free(lengths);
    free(times);
    return 0;
}

/*---------------------------------------------------------------------- */
typedef void (*sgemm_fn)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
                         float *c, int ldc);

static sgemm_fn open_blas(void) {
    static const char *const paths[] = { "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0", "libopenblas.so.0" };
    for (int i = 0; i < LM_COUNT(paths); i++) {
        void *h = dlopen(paths[i], RTLD_LOCAL | RTLD_NOW);
        void (*set)(int) = h ? (void (*)(int))dlsym(h, "openblas_set_num_threads") : NULL;
        if (!set) continue;
        set(1);
        return (sgemm_fn)dlsym(h, "cblas_sgemm");
    }
    return NULL;
}

/* Each product whole, what packing it takes included. kind 0: x W'; 1: d W; 2: d' x. */
static int gemm(void) {
    static const struct { const char *name; int m, n, k, kind; } shapes[] = {
        { "1M qkv", 2048, 384, 128, 0 }, { "1M gate up", 2048, 688, 128, 0 }, { "1M down", 2048, 128, 344, 0 }, { "1M d up", 2048, 128, 688, 1 },
        { "1M head", 256, 2048, 128, 0 }, { "1M grad up", 344, 128, 2048, 2 }, { "1M grad qkv", 128, 128, 2048, 2 }, { "1M grad down", 128, 344, 2048, 2 },
        { "1M grad head", 2048, 128, 256, 2 }, { "5M gate up", 2048, 1376, 256, 0 }, { "5M grad up", 688, 256, 2048, 2 },
        { "15M gate up", 2048, 2048, 384, 0 }, { "15M d up", 2048, 384, 2048, 1 }, { "15M grad up", 1024, 384, 2048, 2 },
        { "15M grad head", 2048, 384, 256, 2 },
    };
    enum { FLOATS = 8 << 20 };
    lm_err err = {0};
    sgemm_fn blas = open_blas();
    float *a = lm_alloc(FLOATS * 4, &err), *b = lm_alloc(FLOATS * 4, &err), *c = lm_alloc(FLOATS * 4, &err), *packed = lm_alloc(FLOATS * 8, &err);
    for (int i = 0; i < FLOATS; i++) a[i] = (float)draw() / 2147483648.0f - 0.5f, b[i] = (float)draw() / 2147483648.0f - 0.5f;
    lm_threads_set(1);
    for (int s = 0; s < LM_COUNT(shapes); s++) {
        int m = shapes[s].m, n = shapes[s].n, k = shapes[s].k, kind = shapes[s].kind;
        double ops = 2.0 * m * n * k, best[2] = { 1e9, 1e9 };
        lm_product p = { .m = m, .n = n, .k = k, .a = a, .ar = kind == 2 ? 1 : (size_t)k, .ak = kind == 2 ? (size_t)m : 1, .b_turned = kind == 0,
                         .b = { { b, NULL, kind == 0 ? n : k, kind == 0 ? (size_t)k : (size_t)n } }, .c = c, .stride = (size_t)n };
        for (int i = 0; i < (int)(1e9 / ops) + 3; i++) {
            lm_product one = p;
            double start = now();
            lm_products_run(&one, 1, packed, (lm_stop){0}, &err);
            best[0] = fmin(best[0], now() - start);
            start = now();
            if (blas) blas(101, kind == 2 ? 112 : 111, kind == 0 ? 112 : 111, m, n, k, 1, a, kind == 2 ? m : k, b, kind == 0 ? k : n, 0, c, n);
            best[1] = fmin(best[1], now() - start);
        }
        printf("%-14s %5d %5d %5d  ours %6.1f  OpenBLAS %6.1f GFLOP/s\n", shapes[s].name, m, n, k, ops / best[0] / 1e9, blas ? ops / best[1] / 1e9 : NAN);
    }
    return 0;
}

int main(int n, char **arg) {
    if (n > 3) lm_threads_set(atoi(arg[3]));
    if (n > 1 && !strcmp(arg[1], "gemm")) return gemm();
    return train(n > 1 ? arg[1] : "1M", n > 2 ? atoi(arg[2]) : 10);
}

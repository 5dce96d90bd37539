/* trainer_test.c: what must leave no trace in training (threads, kernel sets, recomputing, the cut of a batch, a stop in the
** middle), adapters of quantised models, dropout, the memory that is promised, and what is refused.
**
** "trainer_test digest" prints a digest of training's results, for this test to compare across LM_CPU. */
#define _GNU_SOURCE
#include "sources.h"

enum { SEQS = 6, IDS = 200 };
static const int lengths[SEQS] = { 40, 1, 60, 7, 62, 30 };      /* of a decoder */
static const int texts[SEQS] = { 5, 16, 9, 12, 16, 1 };         /* of an encoder, in pairs */

static const char *const models[] = { "tests/golden/arch_llama_plain.gguf", "tests/golden/arch_gemma3.gguf", "tests/golden/arch_llama_moe.gguf",
                                      "tests/golden/arch_gpt2.gguf", "tests/golden/arch_llama_shared.gguf", "tests/golden/hf_bert" };

static void fill_ids(const lm_trainer *t, int32_t *ids) {
    for (int i = 0; i < IDS; i++) ids[i] = (i * 7919 + i * i % 101 * 31) % t->h.n_vocab;
}

static void step(lm_trainer *t, double lr, lm_train_result *r, lm_err *err) {
    int32_t ids[IDS];
    fill_ids(t, ids);
    lm_train_batch batch = { ids, NULL, lengths, SEQS };
    lm_pair_batch pairs = { ids, texts, SEQS / 2 };
    if (t->arch->is_encoder) lm_trainer_pair_step(t, &pairs, lr, r, (lm_stop){0}, err);
    else lm_trainer_step(t, &batch, lr, r, (lm_stop){0}, err);
}

/* All numbers of a kind, one after the other; to be freed. */
static float *numbers_of(lm_trainer *t, int what, size_t *n) {
    *n = 0;
    for (int i = 0; i < lm_trainer_n_tensors(t); i++) *n += (size_t)lm_trainer_tensor(t, i)->n_params;
    float *all = malloc(*n * sizeof *all), *at = all;
    for (int i = 0; i < lm_trainer_n_tensors(t); at += lm_trainer_tensor(t, i++)->n_params) {
        memcpy(at, lm_trainer_data(t, i, what), (size_t)lm_trainer_tensor(t, i)->n_params * sizeof *at);
    }
    return all;
}

/* The weights after some steps; to be freed. */
static float *train(const char *path, const lm_train_options *options, int steps, size_t *n) {
    lm_err err = {0};
    lm_train_result r;
    opened o;
    lm_trainer *t = open_source(&o, path) ? new_trainer(&o, options) : NULL;
    float *all = NULL;
    for (int i = 0; t && i < steps; i++) step(t, 1e-3, &r, &err);
    CHECK(!err.code, "%s: %s", path, err.msg);
    if (t) all = numbers_of(t, LM_TRAIN_VALUE, n);
    lm_trainer_free(t);
    close_source(&o);
    return all;
}

static lm_train_options full(void) {
    lm_train_options o = plain;
    o.clip = 1;
    o.dropout = 0.1;
    o.balance = 0.1;
    o.seed = 5;
    return o;
}

/*----------------------------------------------------------------------
** No trace. */
static void test_threads(void) {
    for (int m = 0; m < LM_COUNT(models); m++) {
        for (int rank = 0; rank <= 2; rank += 2) {
            lm_train_options o = full();
            o.lora_rank = rank;
            size_t n, n_other;
            lm_threads_set(1);
            float *alone = train(models[m], &o, 3, &n);
            for (int threads = 2; threads <= 4; threads++) {
                lm_threads_set(threads);
                float *other = train(models[m], &o, 3, &n_other);
                CHECK(alone && other && n == n_other && !memcmp(alone, other, n * sizeof *alone), "%s: %d threads give other bits", models[m], threads);
                free(other);
            }
            lm_threads_set(2);
            o.recompute = 1;
            float *again = train(models[m], &o, 3, &n_other);
            CHECK(alone && again && !memcmp(alone, again, n * sizeof *alone), "%s: recomputing gives other bits", models[m]);
            free(again);
            free(alone);
        }
    }
    lm_threads_set(0);
}

static uint64_t digest(void) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (int m = 0; m < LM_COUNT(models); m++) {
        lm_train_options o = full();
        size_t n = 0;
        float *all = train(models[m], &o, 3, &n);
        for (size_t i = 0; i < n * sizeof *all; i++) hash = (hash ^ ((const uint8_t *)all)[i]) * 0x100000001B3u;
        free(all);
    }
    return hash;
}

static void test_sets(const char *self) {
    static const struct { const char *name; const lm_kern *kern; } sets[] = {
        { "scalar", &lm_scalar_kern }, { "avx2", &lm_avx2_kern }, { "vnni", &lm_vnni_kern },
    };
    unsigned long long first = digest(), other = 0;
    for (int s = 0; s < LM_COUNT(sets); s++) {
        char command[512];
        if (!lm_kern_supported(sets[s].kern)) {
            printf("skipped: %s: not on this cpu\n", sets[s].name);
            continue;
        }
        snprintf(command, sizeof command, "LM_CPU=%s %s digest", sets[s].name, self);
        FILE *f = popen(command, "r");
        int n = f ? fscanf(f, "digest %llx", &other) : 0;
        if (f) pclose(f);
        CHECK(n == 1 && other == first, "%s: digest %llx, expected %llx", sets[s].name, other, first);
    }
}

/* A batch in one part or in several: the same but for rounding. Pairs meet those of other parts. */
static void test_parts(void) {
    for (int m = 0; m < LM_COUNT(models); m++) {
        lm_train_options o = full();
        size_t n, n_cut;
        o.balance = 0;                      /* it is a part's own */
        float *whole = train(models[m], &o, 1, &n);
        o.batch_tokens = strstr(models[m], "bert") ? 28 : 64;
        float *cut = train(models[m], &o, 1, &n_cut);
        double most = 0;
        int differ = 0;
        for (size_t i = 0; whole && cut && i < n; i++) {
            double by = fabs((double)whole[i] - (double)cut[i]);
            differ += by > 1e-5;            /* the first step is 1e-3 whatever the gradient's size: where that is nothing but rounding */
            most = fmax(most, by);
        }
        CHECK(differ <= (int)n / 200 && most < 3e-3, "%s: in parts %d of %zu weights differ, by up to %g", models[m], differ, n, most);
        free(whole);
        free(cut);
    }
}

static void test_resume(void) {
    for (int m = 0; m < LM_COUNT(models); m++) {
        lm_train_options o = full();
        lm_err err = {0};
        lm_train_result r;
        opened source;
        size_t n;
        float *unbroken = train(models[m], &o, 5, &n);
        lm_trainer *a = open_source(&source, models[m]) ? new_trainer(&source, &o) : NULL, *b = a ? new_trainer(&source, &o) : NULL;
        for (int i = 0; b && i < 2; i++) step(a, 1e-3, &r, &err);
        for (int i = 0; b && i < lm_trainer_n_tensors(a); i++) {
            for (int what = 0; what < 4; what++) {
                if (what != LM_TRAIN_GRAD) memcpy(lm_trainer_data(b, i, what), lm_trainer_data(a, i, what), (size_t)lm_trainer_tensor(a, i)->n_params * 4);
            }
        }
        if (b) lm_trainer_step_count_set(b, lm_trainer_step_count(a));
        for (int i = 0; b && i < 3; i++) step(b, 1e-3, &r, &err);
        float *resumed = b ? numbers_of(b, LM_TRAIN_VALUE, &n) : NULL;
        CHECK(resumed && !err.code && !memcmp(unbroken, resumed, n * sizeof *resumed), "%s: taken up again it gives other bits %s", models[m], err.msg);
        free(unbroken);
        free(resumed);
        lm_trainer_free(a);
        lm_trainer_free(b);
        close_source(&source);
    }
}

/*----------------------------------------------------------------------
** Adapters of quantised models: a design whose matrices are of several formats, and the same decoded. */
typedef struct { lm_tensor tensors[64]; uint8_t *bytes[64]; int n; lm_buf hparams; lm_source src; } made;

static void read_made(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    (void)err;
    memcpy(dst, ((made *)arg)->bytes[i] + offset, n);
}

static void free_made(made *m) {
    for (int i = 0; i < m->n; i++) lm_free(m->bytes[i]);
    lm_buf_clear(&m->hparams);
}

static void wrap(made *m) { m->src = (lm_source){ "llama", m->hparams.data, m->hparams.n, m->tensors, m->n, read_made, m }; }

/* Random blocks of q4_1: d about 0.01, m about -0.08. */
static void random_blocks(uint8_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (uint8_t)random_bits();
    for (size_t i = 0; i + 20 <= n; i += 20) {
        uint16_t d = lm_f32_to_f16(0.01f + 0.002f * random_float()), min = lm_f32_to_f16(-0.08f + 0.01f * random_float());
        memcpy(out + i, &d, 2);
        memcpy(out + i + 2, &min, 2);
    }
}

static void make_base(made *q, made *decoded) {
    static const int formats[] = { LM_Q8_0, LM_Q4_1, LM_BF16, LM_F16 };
    lm_design d = { .arch = "llama", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .n_ff = 96, .n_ctx = 64, .n_vocab = 100, .seed = 3 };
    lm_err err = {0};
    lm_buf head = {0};
    int n = 0;
    lm_tensor *list = lm_design_list(&d, &head, &n, &err);
    memset(q, 0, sizeof *q);
    memset(decoded, 0, sizeof *decoded);
    lm_buf_append(&q->hparams, "", 0, &err);
    static const char *const json = "{\"n_layers\":2,\"n_embd\":64,\"n_heads\":4,\"n_kv_heads\":2,\"head_dim\":16,\"n_ff\":96,\"n_vocab\":100,\"n_ctx\":64,"
                                    "\"rope\":\"pairs\",\"n_rot\":16,\"rope_base\":10000,\"norm_eps\":1e-5}";
    lm_buf_append(&q->hparams, json, strlen(json), &err);
    lm_buf_append(&decoded->hparams, json, strlen(json), &err);
    for (int i = 0; i < n && !err.code; i++) {
        const lm_tensor *t = &list[i];
        int type = t->n_dims < 2 ? LM_F32 : formats[i % LM_COUNT(formats)];
        float *x = lm_alloc((size_t)t->n_params * sizeof *x, &err);
        lm_design_fill(&d, t, 0, t->n_params, x);
        for (int64_t j = 0; t->n_dims > 1 && j < t->n_params; j++) x[j] *= 5;
        q->tensors[i] = decoded->tensors[i] = *t;
        q->tensors[i].dtype = type;
        lm_tensor_measure(&q->tensors[i], &err);
        q->bytes[i] = lm_alloc((size_t)q->tensors[i].n_bytes, &err);
        if (type == LM_Q4_1) random_blocks(q->bytes[i], (size_t)q->tensors[i].n_bytes);
        else lm_dtype_find(type)->encode(x, q->bytes[i], t->n_params);
        lm_dtype_find(type)->decode(q->bytes[i], x, t->n_params);
        decoded->bytes[i] = (uint8_t *)x;
    }
    q->n = decoded->n = n;
    CHECK(!err.code && n > 10, "%s", err.msg);
    wrap(q);
    wrap(decoded);
    lm_free(list);
    lm_buf_clear(&head);
}

/* b (rows, rank) . a (rank, cols) times by */
static double product_at(const float *b, const float *a, int rank, int cols, int row, int col, double by) {
    double sum = 0;
    for (int r = 0; r < rank; r++) sum += (double)b[row * rank + r] * (double)a[r * cols + col];
    return sum * by;
}

/* With W' = W + s B A learnt whole, G its gradient: that of B is s G A', of A s B' G. */
static void test_adapters(void) {
    enum { RANK = 5 };
    made q, decoded;
    lm_err err = {0};
    lm_train_result r, r_whole;
    make_base(&q, &decoded);
    lm_train_options o = plain;
    o.lora_rank = RANK;
    o.lora_alpha = 8;
    double s = o.lora_alpha / RANK, worst = 0;
    lm_trainer *t = lm_trainer_new(&q.src, &o, (lm_stop){0}, &err), *whole = lm_trainer_new(&decoded.src, &plain, (lm_stop){0}, &err);
    CHECK(t && whole, "%s", err.msg);
    CHECK(t && lm_trainer_n_tensors(t) == 2 * 7 * 2, "%d tensors of adapters", t ? lm_trainer_n_tensors(t) : 0);
    for (int i = 0; t && i < lm_trainer_n_tensors(t); i++) {
        const lm_tensor *info = lm_trainer_tensor(t, i);
        float *x = lm_trainer_data(t, i, LM_TRAIN_VALUE);
        double limit = i % 2 ? 0 : 1 / sqrt((double)info->ne[0]), most = 0;
        for (int64_t j = 0; j < info->n_params; j++) most = fmax(most, fabs((double)x[j]));
        CHECK(most <= limit && most >= 0.9 * limit, "%s begins with up to %g, expected %g", info->name, most, limit);
        for (int64_t j = 0; j < info->n_params; j++) x[j] = 0.2f * random_float();
    }
    for (int i = 0; t && whole && i < lm_trainer_n_tensors(t); i += 2) {
        char name[LM_NAME_MAX + 1];
        snprintf(name, sizeof name, "%s", lm_trainer_tensor(t, i)->name);
        *strstr(name, ".lora_a") = 0;
        int at = find_tensor(whole, name), cols = (int)lm_trainer_tensor(t, i)->ne[0], rows = (int)lm_trainer_tensor(t, i + 1)->ne[1];
        const float *a = lm_trainer_data(t, i, LM_TRAIN_VALUE), *b = lm_trainer_data(t, i + 1, LM_TRAIN_VALUE);
        float *w = lm_trainer_data(whole, at, LM_TRAIN_VALUE);
        for (int j = 0; j < rows * cols; j++) w[j] += (float)product_at(b, a, RANK, cols, j / cols, j % cols, s);
    }
    int32_t ids[IDS];
    if (t) fill_ids(t, ids);
    lm_train_batch batch = { ids, NULL, lengths, SEQS };
    if (t && whole) lm_trainer_gradients(t, &batch, &r, (lm_stop){0}, &err);
    if (t && whole) lm_trainer_gradients(whole, &batch, &r_whole, (lm_stop){0}, &err);
    CHECK(!err.code && fabs(r.loss - r_whole.loss) < 1e-5, "adapter's loss %.7f, with whole matrices %.7f %s", r.loss, r_whole.loss, err.msg);
    for (int i = 0; t && whole && i < lm_trainer_n_tensors(t); i++) {
        char name[LM_NAME_MAX + 1];
        snprintf(name, sizeof name, "%s", lm_trainer_tensor(t, i)->name);
        *strstr(name, ".lora_") = 0;
        int at = find_tensor(whole, name), is_b = i % 2, pair = i & ~1, cols = (int)lm_trainer_tensor(t, pair)->ne[0], rows = (int)lm_trainer_tensor(t, pair + 1)->ne[1];
        const float *a = lm_trainer_data(t, pair, LM_TRAIN_VALUE), *b = lm_trainer_data(t, pair + 1, LM_TRAIN_VALUE);
        const float *g = lm_trainer_data(whole, at, LM_TRAIN_GRAD), *ours = lm_trainer_data(t, i, LM_TRAIN_GRAD);
        double most = 0, size = 0;
        for (int64_t j = 0; j < lm_trainer_tensor(t, i)->n_params; j++) {
            int row = (int)j / (is_b ? RANK : cols), col = (int)j % (is_b ? RANK : cols);
            double want = 0;
            for (int k = 0; k < (is_b ? cols : rows); k++) want += s * (is_b ? (double)g[row * cols + k] * (double)a[col * cols + k] : (double)b[k * RANK + row] * (double)g[k * cols + col]);
            most = fmax(most, fabs(want - (double)ours[j]));
            size = fmax(size, fabs(want));
        }
        CHECK(size > 0 && most < 1e-4 * size, "%s: differs by %g of %g", lm_trainer_tensor(t, i)->name, most, size);
        worst = fmax(worst, most / size);
    }
    printf("adapters of quantised matrices: gradients within %.2g of those by whole ones\n", worst);
    double first = r.loss;
    for (int i = 0; t && i < 20; i++) step(t, 1e-2, &r, &err);
    CHECK(!err.code && r.loss < first - 1, "20 steps: loss %g, at first %g %s", r.loss, first, err.msg);
    for (int i = 0; t && i < q.n; i++) {        /* the base is what it was */
        CHECK(t->params[i].raw && !memcmp(t->params[i].raw, q.bytes[i], (size_t)q.tensors[i].n_bytes), "%s was changed", q.tensors[i].name);
    }
    lm_trainer_free(t);
    lm_trainer_free(whole);
    free_made(&q);
    free_made(&decoded);
}

/*----------------------------------------------------------------------
** Dropout: as many as asked for, the others scaled up; by seed, step and place alone. */
static void test_dropout(void) {
    enum { N = 1 << 16 };
    static float x[N], y[N];
    const lm_train_kern *k = lm_train_kern_get();
    double sum = 0;
    int n_zero = 0, n_same = 0;
    for (int i = 0; i < N; i++) x[i] = y[i] = 1;
    k->drop(x, N, 12345, (uint32_t)(0.3 * 4294967296.0), (float)(1 / 0.7));
    k->drop(y, N, 12346, (uint32_t)(0.3 * 4294967296.0), (float)(1 / 0.7));
    for (int i = 0; i < N; i++) n_zero += x[i] == 0, n_same += x[i] == y[i], sum += (double)x[i];
    CHECK(fabs(n_zero / (double)N - 0.3) < 0.01 && fabs(sum / N - 1) < 0.01, "%d of %d dropped, mean %g", n_zero, N, sum / N);
    CHECK(fabs(n_same / (double)N - (0.49 + 0.09)) < 0.01, "two keys agree in %d of %d", n_same, N);
    lm_train_options o = full();
    opened source;
    lm_err err = {0};
    lm_train_result r[4];
    o.dropout = 0.5;
    lm_trainer *t = open_source(&source, models[0]) ? new_trainer(&source, &o) : NULL;
    int32_t ids[IDS];
    if (t) fill_ids(t, ids);
    lm_train_batch batch = { ids, NULL, lengths, SEQS };
    if (t) lm_trainer_gradients(t, &batch, &r[0], (lm_stop){0}, &err);
    if (t) lm_trainer_gradients(t, &batch, &r[1], (lm_stop){0}, &err);
    if (t) lm_trainer_loss(t, &batch, &r[2], (lm_stop){0}, &err);
    if (t) lm_trainer_step_count_set(t, 1);
    if (t) lm_trainer_gradients(t, &batch, &r[3], (lm_stop){0}, &err);
    CHECK(!err.code && r[0].loss == r[1].loss && r[0].loss != r[2].loss && r[0].loss != r[3].loss,
          "dropout: losses %g, again %g, without %g, at the next step %g %s", r[0].loss, r[1].loss, r[2].loss, r[3].loss, err.msg);
    lm_trainer_free(t);
    close_source(&source);
}

/*----------------------------------------------------------------------
** Memory: never more than lm_trainer_bytes says, but for the small lists of a source's tensors; parameters take 16 bytes each. */
static void test_memory(void) {
    for (int m = 0; m < LM_COUNT(models) * 8; m++) {
        opened o;
        lm_train_options options = full();
        lm_err err = {0};
        lm_train_result r;
        options.batch_tokens = m & 1 ? 64 : 300;
        options.recompute = m >> 1 & 1;
        options.lora_rank = m >> 2 & 1 ? 4 : 0;
        if (!open_source(&o, models[m / 8])) continue;
        uint64_t before = lm_mem_used(), says = lm_trainer_bytes(&o.src, &options, &err), most = before;
        lm_mem_limit_set(before + says + (64 << 10));
        lm_trainer *t = lm_trainer_new(&o.src, &options, (lm_stop){0}, &err);
        most = lm_mem_used();
        if (t) step(t, 1e-3, &r, &err);     /* under a limit that it just fits in */
        CHECK(!err.code, "%s: %s", models[m / 8], err.msg);
        CHECK(most - before <= says + (64 << 10) && most - before >= says, "%s: holds %llu bytes, said %llu", models[m / 8],
              (unsigned long long)(most - before), (unsigned long long)says);
        lm_trainer_free(t);
        CHECK(lm_mem_used() == before, "%s: %llu bytes leaked", models[m / 8], (unsigned long long)(lm_mem_used() - before));
        lm_mem_limit_set(before + says - 1);
        t = lm_trainer_new(&o.src, &options, (lm_stop){0}, &err);
        CHECK(!t && err.code == LM_NOMEM && strstr(err.msg, "training takes"), "too little memory: %s", err.msg);
        lm_trainer_free(t);
        lm_mem_limit_set(0);
        close_source(&o);
    }
}

/*----------------------------------------------------------------------
** What is refused leaves every number as it was. */
static int ask_never(void *arg) { return ++*(int *)arg > 3; }

static void test_refusals(void) {
    opened o, e;
    lm_train_options options = plain;
    if (!open_source(&o, models[0]) || !open_source(&e, models[5])) return;
    lm_trainer *t = new_trainer(&o, &options), *encoder = new_trainer(&e, &options);
    int32_t ids[IDS];
    float weights[IDS] = {0};
    size_t n;
    fill_ids(t, ids);
    float *before = numbers_of(t, LM_TRAIN_VALUE, &n), *last = lm_trainer_data(t, 0, LM_TRAIN_VALUE), was = last[5];
    struct { const char *message; lm_train_batch batch; double lr; int32_t id; float value; } cases[] = {
        { "a batch without a token to learn", { ids, weights, lengths, SEQS }, 1e-3, 1, 0 },
        { "a batch without a token to learn", { ids, NULL, (int[]){ 1, 1 }, 2 }, 1e-3, 1, 0 },
        { "a batch without a token to learn", { ids, NULL, lengths, 0 }, 1e-3, 1, 0 },
        { "sequence 0: 0 tokens, expected 1 to 256", { ids, NULL, (int[]){ 0 }, 1 }, 1e-3, 1, 0 },
        { "sequence 1: 257 tokens, expected 1 to 256", { ids, NULL, (int[]){ 40, 257 }, 2 }, 1e-3, 1, 0 },
        { "id 90 at 3 is not in the vocabulary of 90", { ids, NULL, lengths, SEQS }, 1e-3, 90, 0 },
        { "id -1 at 3", { ids, NULL, lengths, SEQS }, 1e-3, -1, 0 },
        { "a learning rate of nan", { ids, NULL, lengths, SEQS }, (double)NAN, 1, 0 },
        { "a learning rate of -1", { ids, NULL, lengths, SEQS }, -1, 1, 0 },
        { "step 1, learning rate 0.001: layer 0: activations not finite", { ids, NULL, lengths, SEQS }, 1e-3, 0, INFINITY },
    };
    for (int i = 0; i < LM_COUNT(cases); i++) {
        lm_err err = {0};
        lm_train_result r;
        ids[3] = cases[i].id;
        last[5] = cases[i].value != 0 ? cases[i].value : was;
        lm_trainer_step(t, &cases[i].batch, cases[i].lr, &r, (lm_stop){0}, &err);
        last[5] = was;
        CHECK(err.code == LM_ERROR && strstr(err.msg, cases[i].message), "case %d: %s", i, err.msg);
        float *after = numbers_of(t, LM_TRAIN_VALUE, &n);
        CHECK(!memcmp(before, after, n * sizeof *after) && lm_trainer_step_count(t) == 0, "case %d: weights changed", i);
        free(after);
    }
    lm_err err = {0};
    lm_train_result r;
    ids[3] = 1;
    lm_train_batch batch = { ids, NULL, lengths, SEQS };
    for (int i = 0; i < 20 && !err.code; i++) {         /* until the weights are too large for the loss to be a number */
        free(before);
        before = numbers_of(t, LM_TRAIN_VALUE, &n);
        lm_trainer_step(t, &batch, 1e9, &r, (lm_stop){0}, &err);
    }
    float *after = numbers_of(t, LM_TRAIN_VALUE, &n);
    CHECK(err.code == LM_ERROR && strstr(err.msg, "learning rate 1e+09") && !memcmp(before, after, n * sizeof *after), "learning rate 1e9: %s", err.msg);
    free(before);
    free(after);
    err = (lm_err){0};
    lm_trainer_step(encoder, &batch, 1e-3, &r, (lm_stop){0}, &err);
    CHECK(strstr(err.msg, "it is trained on pairs"), "an encoder: %s", err.msg);
    for (int n_pairs = -1; n_pairs <= 200; n_pairs += 201) {
        err = (lm_err){0};
        lm_trainer_pair_step(encoder, &(lm_pair_batch){ ids, texts, n_pairs }, 1e-3, &r, (lm_stop){0}, &err);
        CHECK(strstr(err.msg, "pairs in a batch, expected 2 to 128"), "%d pairs: %s", n_pairs, err.msg);
    }
    err = (lm_err){0};
    int asked = 0;
    lm_trainer_step(t, &batch, 1e-3, &r, (lm_stop){ ask_never, &asked }, &err);
    CHECK(err.code == LM_INTERRUPT && asked < 10, "stop: %s, asked %d times", err.msg, asked);
    struct { const char *message; lm_train_options o; } wrong[] = {
        { "dropout 1 is out of range", plain }, { "lora target queries is not known", plain }, { "batch_tokens -1 is out of range", plain },
        { "balance -1 is out of range", plain }, { "temperature nan is out of range", plain },
    };
    wrong[0].o.dropout = 1;
    wrong[1].o.lora_rank = 2;
    wrong[1].o.lora_targets = "q,queries";
    wrong[2].o.batch_tokens = -1;
    wrong[3].o.balance = -1;
    wrong[4].o.temperature = (double)NAN;
    for (int i = 0; i < LM_COUNT(wrong); i++) {
        err = (lm_err){0};
        CHECK(!lm_trainer_new(&o.src, &wrong[i].o, (lm_stop){0}, &err) && strstr(err.msg, wrong[i].message), "option %d: %s", i, err.msg);
    }
    lm_trainer_free(t);
    lm_trainer_free(encoder);
    close_source(&o);
    close_source(&e);
}

int main(int n, char **arg) {
    if (n > 1) return printf("digest %llx\n", (unsigned long long)digest()) < 0;
    test_threads();
    test_sets(arg[0]);
    test_parts();
    test_resume();
    test_adapters();
    test_dropout();
    test_memory();
    test_refusals();
    return finish_tests();
}

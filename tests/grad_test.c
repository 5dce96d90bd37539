/* grad_test.c: every step of the way back against finite differences: of each operation's definition, computed here in doubles,
** for every set of kernels, whose bits must be equal; then of whole models' losses, a tensor at a time. */
#include "sources.h"

/*----------------------------------------------------------------------
** Operations. f gives the weighted sum of an operation's outputs; ours are its gradients. */
enum { N = 37, MOST = 3 * N };

typedef double (*sum_fn)(const double *x, const double *c, int how);

static const struct { const char *name; const lm_train_kern *train; const lm_kern *kern; } sets[] = {
    { "scalar", &lm_scalar_train, &lm_scalar_kern }, { "avx2", &lm_avx2_train, &lm_avx2_kern }, { "vnni", &lm_vnni_train, &lm_vnni_kern },
};

static double x[MOST], c[MOST];
static float xf[MOST], cf[MOST], panel[5 * LM_PANEL];

static void fill(int n) {
    for (int i = 0; i < n; i++) {
        xf[i] = 2 * random_float();
        cf[i] = random_float();
        x[i] = (double)xf[i];
        c[i] = (double)cf[i];
    }
}

/* Differences of the fourth order: exact to 1e-10 of doubles. */
static double slope(sum_fn f, int i, int how) {
    static const double steps[] = { 1, -1, 2, -2 }, weights[] = { 8.0 / 12, -8.0 / 12, -1.0 / 12, 1.0 / 12 };
    double h = 1e-3, was = x[i], sum = 0;
    for (int k = 0; k < 4; k++) {
        x[i] = was + steps[k] * h;
        sum += weights[k] * f(x, c, how);
    }
    x[i] = was;
    return sum / h;
}

static void compare(const char *name, const char *set, sum_fn f, int how, const float *ours, int n) {
    double most = 0, size = 0;
    for (int i = 0; i < n; i++) {
        double want = slope(f, i, how);
        most = fmax(most, fabs(want - (double)ours[i]));
        size = fmax(size, fabs(want));
    }
    CHECK(most <= 4e-6 * (1 + size), "%s %d, %s: differs by %g, of %g", name, how, set, most, size);
}

static double norm_sum(const double *p, const double *dy, int is_layer) {
    const double *weight = p + N, *bias = p + 2 * N;
    double mean = 0, squares = 0, sum = 0;
    for (int i = 0; i < N; i++) mean += is_layer ? p[i] / N : 0;
    for (int i = 0; i < N; i++) squares += (p[i] - mean) * (p[i] - mean) / N;
    for (int i = 0; i < N; i++) sum += dy[i] * ((p[i] - mean) / sqrt(squares + 1e-5) * weight[i] + (is_layer ? bias[i] : 0));
    return sum;
}

static double act_of(double a, int act) {
    if (act == LM_ACT_SILU) return a / (1 + exp(-a));
    if (act == LM_ACT_GELU_ERF) return a * 0.5 * (1 + erf(a / sqrt(2)));
    return 0.5 * a * (1 + tanh(sqrt(2 / 3.141592653589793) * (a + 0.044715 * a * a * a)));
}

/* how: LM_ACT_*, and 4 with a factor beside it */
static double act_sum(const double *p, const double *dy, int how) {
    double sum = 0;
    for (int i = 0; i < N; i++) sum += dy[i] * act_of(p[i], how & 3) * (how & 4 ? p[N + i] : 1);
    return sum;
}

static double softmax_sum(const double *p, const double *dy, int how) {
    double all = 0, sum = 0;
    (void)how;
    for (int i = 0; i < N; i++) all += exp(0.3 * p[i]);
    for (int i = 0; i < N; i++) sum += dy[i] * exp(0.3 * p[i]) / all;
    return sum;
}

static double entropy_sum(const double *p, const double *dy, int target) {
    double all = 0;
    (void)dy;
    for (int i = 0; i < N; i++) all += exp(p[i]);
    return 0.7 * (log(all) - p[target]);
}

/* Two heads of 14, of which 10 turn, in pairs or halves. */
static double turn_sum(const double *p, const double *dy, int pairs) {
    double sum = 0;
    for (int head = 0; head < 28; head += 14) {
        for (int i = 0; i < 14; i++) {
            int j = i >= 10 ? -1 : pairs ? i / 2 : i % 5, is_second = pairs ? i % 2 : i >= 5, other = pairs ? i ^ 1 : is_second ? i - 5 : i + 5;
            double angle = 0.3 + 0.7 * j, y = p[head + i];
            if (j >= 0) y = p[head + i] * cos(angle) + (is_second ? 1 : -1) * p[head + other] * sin(angle);
            sum += dy[head + i] * y;
        }
    }
    return sum;
}

static void test_operations(int s) {
    const lm_train_kern *k = sets[s].train;
    float out[MOST], grads[MOST], stat[2], angles[2][5];
    for (int is_layer = 0; is_layer < 2; is_layer++) {
        fill(3 * N);
        memset(grads, 0, sizeof grads);
        k->norm(xf, xf + N, is_layer ? xf + 2 * N : NULL, is_layer, 1e-5f, N, out, stat);
        k->norm_backward(xf, xf + N, stat, is_layer, cf, N, grads, 0, grads + N, is_layer ? grads + 2 * N : NULL);
        compare("norm", sets[s].name, norm_sum, is_layer, grads, (2 + is_layer) * N);
    }
    for (int how = 0; how < 8; how++) {
        if ((how & 3) > LM_ACT_GELU_ERF) continue;
        fill(2 * N);
        k->act_backward(xf, how & 4 ? xf + N : NULL, cf, N, grads, how & 4 ? grads + N : NULL, how & 3);
        compare("activation", sets[s].name, act_sum, how, grads, how & 4 ? 2 * N : N);
    }
    fill(N);
    float whole = 0;
    memcpy(out, xf, sizeof out);
    memcpy(grads, cf, sizeof grads);
    float log_sum = k->softmax(out, N, 0.3f);
    for (int i = 0; i < N; i++) whole += out[i] * cf[i];
    k->softmax_backward(out, grads, N, whole, 0.3f);
    compare("softmax", sets[s].name, softmax_sum, 0, grads, N);
    memcpy(grads, xf, sizeof grads);
    k->softmax_again(grads, N, 0.3f, log_sum);
    for (int i = 0; i < N; i++) CHECK(fabsf(grads[i] - out[i]) < 1e-6f, "%s: softmax again: %g, at first %g", sets[s].name, (double)grads[i], (double)out[i]);
    fill(N);
    memcpy(grads, xf, sizeof grads);
    double entropy = k->cross_entropy(grads, N, 11, 0.7f);
    CHECK(fabs(0.7 * entropy - entropy_sum(x, c, 11)) < 1e-6, "%s: cross entropy %.9f", sets[s].name, entropy);
    compare("cross entropy", sets[s].name, entropy_sum, 11, grads, N);
    for (int pairs = 0; pairs < 2; pairs++) {
        fill(28);
        for (int j = 0; j < 5; j++) angles[0][j] = (float)cos(0.3 + 0.7 * j), angles[1][j] = (float)sin(0.3 + 0.7 * j);
        memcpy(grads, cf, sizeof grads);
        k->turn(grads, 2, 14, 10, pairs, angles[0], angles[1], -1);
        compare("turn", sets[s].name, turn_sum, pairs, grads, 28);
    }
}

/* Every operation's bits, of one set. */
static void run_all(const lm_train_kern *k, float *out) {
    double sum;
    memset(out, 0, 50 * N * sizeof *out);
    k->norm(xf, xf + N, xf + 2 * N, 1, 1e-5f, N, out, out + N);
    k->norm_backward(xf, xf + N, out + N, 1, cf, N, out + 2 * N, 0, out + 3 * N, out + 4 * N);
    k->norm(xf, xf + N, NULL, 0, 1e-5f, N, out + 5 * N, out + 6 * N);
    k->norm_backward(xf, xf + N, out + 6 * N, 0, cf, N, out + 7 * N, 1, out + 8 * N, NULL);
    for (int act = 0; act < 3; act++) {
        k->act(xf, xf + N, N, out + (9 + act) * N, act);
        k->act_backward(xf, xf + N, cf, N, out + (12 + act) * N, out + (15 + act) * N, act);
    }
    memcpy(out + 18 * N, xf, N * sizeof *out);
    out[19 * N] = k->softmax(out + 18 * N, N, 0.3f);
    memcpy(out + 20 * N, cf, N * sizeof *out);
    k->softmax_backward(out + 18 * N, out + 20 * N, N, 0.1f, 0.3f);
    memcpy(out + 21 * N, xf, N * sizeof *out);
    sum = k->cross_entropy(out + 21 * N, N, 3, 0.5f);
    memcpy(out + 22 * N, &sum, sizeof sum);
    out[23 * N] = k->dot(xf, cf, N);
    memcpy(out + 24 * N, xf, N * sizeof *out);
    k->turn(out + 24 * N, 2, 14, 10, 0, cf, cf + N, 1);
    memcpy(out + 25 * N, xf, N * sizeof *out);
    k->drop(out + 25 * N, N, 77, 1u << 30, 1.5f);
    k->add_scaled(out + 25 * N, cf, N, 0.3f);
    sum = k->sum_squares(xf, N);
    memcpy(out + 26 * N, &sum, sizeof sum);
    memcpy(out + 27 * N, xf, N * sizeof *out);
    k->adamw(out + 27 * N, cf, out + 28 * N, out + 29 * N, N, &(lm_adamw){ 1e-2f, 0.99f, 0.9f, 0.95f, 1e-8f, 1.1f, 0.5f });
    for (int cols = 1; cols <= 64; cols += 21) k->tile(xf, 5, 1, panel, 5, out + 30 * N, 64, 5, cols, 0);
    k->tile(xf, 1, 7, panel, 3, out + 30 * N, 64, 7, 16, 1);
}

static void test_sets(void) {
    static float first[50 * N], other[50 * N];
    for (int i = 0; i < LM_COUNT(panel); i++) panel[i] = random_float();
    for (int s = 0; s < LM_COUNT(sets); s++) {
        if (!lm_kern_supported(sets[s].kern)) {
            printf("skipped: %s: not on this cpu\n", sets[s].name);
            continue;
        }
        test_operations(s);
        fill(3 * N);
        run_all(sets[0].train, first);
        run_all(sets[s].train, other);
        CHECK(!memcmp(first, other, sizeof first), "%s: other bits than the scalar set's", sets[s].name);
    }
}

/* Products in their three forms, of sizes that are multiples of nothing, against sums in doubles. */
static void test_products(void) {
    static const int sizes[][3] = { { 1, 1, 1 }, { 13, 65, 7 }, { 200, 70, 300 }, { 6, 130, 257 }, { 37, 16, 64 } };
    for (int s = 0; s < LM_COUNT(sizes) * 3; s++) {
        int m = sizes[s / 3][0], n = sizes[s / 3][1], k = sizes[s / 3][2], kind = s % 3;     /* x W', d W, d' x */
        size_t ar = kind == 2 ? 1 : (size_t)k, ak = kind == 2 ? (size_t)m : 1;
        lm_err err = {0};
        float *a = lm_alloc(sizeof *a * (size_t)(m * k), &err), *b = lm_alloc(sizeof *b * (size_t)(n * k), &err);
        float *out = lm_calloc((size_t)(m * n), sizeof *out, &err), *packed = lm_alloc(sizeof *packed * (size_t)(k * (n + m + 80)), &err);
        double most = 0;
        for (int i = 0; i < m * k; i++) a[i] = random_float();
        for (int i = 0; i < n * k; i++) b[i] = random_float();
        lm_product p = { .m = m, .n = n, .k = k, .a = a, .ar = ar, .ak = ak, .b_turned = kind == 0, .c = out, .stride = (size_t)n, .add = s & 1,
                         .b = { { b, NULL, kind == 0 ? n : k, kind == 0 ? (size_t)k : (size_t)n } } };
        lm_products_run(&p, 1, packed, (lm_stop){0}, &err);
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < n; j++) {
                double sum = 0;
                for (int l = 0; l < k; l++) sum += (double)a[(size_t)i * ar + (size_t)l * ak] * (double)b[kind == 0 ? j * k + l : l * n + j];
                most = fmax(most, fabs(sum - (double)out[i * n + j]));
            }
        }
        CHECK(!err.code && most < 2e-5, "product %d x %d x %d, kind %d: differs by %g", m, n, k, kind, most);
        lm_free(a), lm_free(b), lm_free(out), lm_free(packed);
    }
}

/*----------------------------------------------------------------------
** Whole models. The loss along a tensor's own gradient must rise by its length. */
enum { SEQS = 6, IDS = 80 };
static const int lengths[2][SEQS] = { { 1, 40, 7, 30, 1, 1 }, { 1, 15, 7, 16, 9, 10 } };      /* of a decoder and an encoder */

static double objective(lm_trainer *t, const int32_t *ids, int is_encoder, int gradients, lm_err *err) {
    lm_train_result r;
    lm_train_batch batch = { ids, NULL, lengths[0], SEQS };
    lm_pair_batch pairs = { ids, lengths[1], SEQS / 2 };
    if (is_encoder) (gradients ? lm_trainer_pair_gradients : lm_trainer_pair_loss)(t, &pairs, &r, (lm_stop){0}, err);
    else (gradients ? lm_trainer_gradients : lm_trainer_loss)(t, &batch, &r, (lm_stop){0}, err);
    return r.loss + t->o.balance * r.balance;
}

/* Which experts have which rows: where that changes the loss jumps, and there is no slope. */
static uint64_t routes(const lm_trainer *t) {
    uint64_t hash = 1;
    for (int layer = 0; layer < t->h.n_layers && t->h.n_experts; layer++) {
        for (int i = 0; i < t->n * t->h.n_active; i++) hash = hash * 31 + (uint64_t)t->acts[layer].expert[i];
    }
    return hash;
}

/* By how much the loss rises along a tensor's gradient, from both sides; the step is made smaller until no route changes. */
static double rise_of(lm_trainer *t, int i, const int32_t *ids, double length, lm_err *err) {
    size_t n = (size_t)lm_trainer_tensor(t, i)->n_params;
    float *w = lm_trainer_data(t, i, LM_TRAIN_VALUE), *g = lm_trainer_data(t, i, LM_TRAIN_GRAD), *was = malloc(n * sizeof *was);
    double rise = 0, step = 4e-3;
    memcpy(was, w, n * sizeof *was);
    objective(t, ids, t->arch->is_encoder, 0, err);
    uint64_t before = routes(t);
    for (int same = 0; !same && step > 1e-5;) {
        rise = 0;
        step /= 2;
        same = 1;
        for (int side = 1; side >= -1; side -= 2) {
            for (size_t j = 0; j < n; j++) w[j] = (float)((double)was[j] + side * step * (double)g[j] / length);
            rise += side * objective(t, ids, t->arch->is_encoder, 0, err) / (2 * step);
            same &= routes(t) == before;
        }
    }
    memcpy(w, was, n * sizeof *was);
    free(was);
    return rise;
}

static void test_model(const char *path, int rank) {
    lm_err err = {0};
    opened o;
    lm_train_options options = plain;
    options.lora_rank = rank;
    options.lora_alpha = 3 * rank;
    options.balance = 0.3;
    options.temperature = 0.3;
    options.recompute = rank > 0 && !strstr(path, "moe");
    lm_trainer *t = open_source(&o, path) ? new_trainer(&o, &options) : NULL;
    int32_t ids[IDS];
    double worst = 0;
    for (int i = 0; t && i < IDS; i++) ids[i] = (int32_t)(random_bits() % (uint32_t)t->h.n_vocab);
    for (int i = 0; t && rank && i < lm_trainer_n_tensors(t); i++) {       /* B begins as 0, and A would have no gradient */
        for (int64_t j = 0; j < lm_trainer_tensor(t, i)->n_params; j++) lm_trainer_data(t, i, LM_TRAIN_VALUE)[j] += 0.05f * random_float();
    }
    if (t) objective(t, ids, t->arch->is_encoder, 1, &err);
    for (int i = 0; t && i < lm_trainer_n_tensors(t) && !err.code; i++) {
        size_t n = (size_t)lm_trainer_tensor(t, i)->n_params;
        const float *g = lm_trainer_data(t, i, LM_TRAIN_GRAD);
        double length = 0;
        for (size_t j = 0; j < n; j++) length += (double)g[j] * (double)g[j];
        length = sqrt(length);
        double rise = length > 1e-6 ? rise_of(t, i, ids, length, &err) : 0;
        double differs = fabs(rise - length) / (length + 0.01);
        CHECK(differs < 0.01, "%s: %s: the loss rises by %g, the gradient's length is %g", path, lm_trainer_tensor(t, i)->name, rise, length);
        worst = fmax(worst, differs);
    }
    CHECK(!err.code, "%s: %s", path, err.msg);
    printf("%s%s: rises as the gradients say, within %.2g\n", path, rank ? ", adapter" : "", worst);
    lm_trainer_free(t);
    close_source(&o);
}

int main(void) {
    static const char *const models[] = { "llama_plain", "llama_untied", "llama3_rope", "llama_bias", "llama_partial", "llama_shared", "llama_moe",
                                          "mistral", "gemma3", "qwen2", "qwen3", "gpt2" };
    test_sets();
    test_products();
    for (int i = 0; i < LM_COUNT(models) * 2; i++) {
        char path[64];
        snprintf(path, sizeof path, "tests/golden/arch_%s.gguf", models[i / 2]);
        test_model(path, i % 2 * 3);
    }
    test_model("tests/golden/hf_bert", 0);
    test_model("tests/golden/hf_bert", 3);
    test_model("tests/golden/hf_roberta", 0);
    return finish_tests();
}

/* train_test.c: the trainer against PyTorch's float64 (tests/golden/train_a/, train.json): gradients, losses, weights. */
#include "sources.h"

/*----------------------------------------------------------------------
** train_a: every number of the first gradient and of the weights after the last step. */
static const struct { const char *hf, *ours; } hf_names[] = {
    { "model.embed_tokens.weight", "token_embd.weight" }, { "model.norm.weight", "output_norm.weight" },
    { "input_layernorm.weight", "attn_norm.weight" }, { "post_attention_layernorm.weight", "ffn_norm.weight" },
    { "self_attn.q_proj.weight", "attn_q.weight" }, { "self_attn.k_proj.weight", "attn_k.weight" }, { "self_attn.v_proj.weight", "attn_v.weight" },
    { "self_attn.o_proj.weight", "attn_output.weight" }, { "mlp.gate_proj.weight", "ffn_gate.weight" }, { "mlp.up_proj.weight", "ffn_up.weight" },
    { "mlp.down_proj.weight", "ffn_down.weight" },
};

/* The greatest difference between a trainer's numbers and those of a file of float64 under Hugging Face's names; rows of q and
** k stand there in halves, here in pairs. */
static double differ_from(lm_trainer *t, int what, const char *path) {
    size_t n;
    char *text = read_file(path, &n);
    uint64_t header = 0;
    lm_err err = {0};
    lm_json j;
    double most = 0;
    int n_seen = 0;
    memcpy(&header, text, 8);
    lm_json_init(&j, text + 8, (size_t)header);
    lm_json_next(&j, &err);
    for (int kind; (kind = lm_json_next(&j, &err)) != LM_JSON_END;) {
        char name[64] = "";
        int layer = 0, i = 0;
        int64_t begin = 0;
        const char *tail = j.key.data;
        if (sscanf(tail, "model.layers.%d.", &layer) == 1) tail = strchr(tail + 13, '.') + 1;
        while (i < LM_COUNT(hf_names) && strcmp(tail, hf_names[i].hf)) i++;
        if (i < LM_COUNT(hf_names)) snprintf(name, sizeof name, i < 2 ? "%s" : "blk.%2$d.%1$s", hf_names[i].ours, layer);
        if (kind != LM_JSON_OBJECT || !*name) {
            lm_json_skip(&j, kind, &err);
            continue;
        }
        while ((kind = lm_json_next(&j, &err)) != LM_JSON_END) {
            if (!strcmp(j.key.data, "data_offsets")) {
                lm_json_next(&j, &err);
                begin = j.integer;
                while (lm_json_next(&j, &err) != LM_JSON_END) {}
            } else {
                lm_json_skip(&j, kind, &err);
            }
        }
        int at = find_tensor(t, name), heads = i == 4 || i == 5 ? 2 : 0;
        CHECK(at >= 0, "no tensor %s", name);
        const lm_tensor *info = lm_trainer_tensor(t, at);
        const float *ours = lm_trainer_data(t, at, what);
        for (int64_t k = 0; k < info->n_params; k++) {
            int64_t row = k / info->ne[0], dim = heads ? info->ne[1] / heads : 0, r = heads ? row % dim : 0;
            if (heads) row = row / dim * dim + r / 2 + r % 2 * dim / 2;
            double theirs;
            memcpy(&theirs, text + 8 + header + (size_t)begin + 8 * (size_t)(row * info->ne[0] + k % info->ne[0]), 8);
            most = fmax(most, fabs(theirs - (double)ours[k]));
        }
        n_seen++;
    }
    CHECK(!err.code && n_seen == lm_trainer_n_tensors(t), "%s: %d tensors %s", path, n_seen, err.msg);
    lm_json_clear(&j);
    free(text);
    return most;
}

enum { STEPS_MAX = 64, IDS_MAX = 1024, SEQS_MAX = 16 };

/* A golden run: what train.json's head says. */
typedef struct {
    char file[64];
    int32_t ids[IDS_MAX];
    float weights[IDS_MAX];
    int lengths[SEQS_MAX], n_seqs;
    size_t n_ids, n_weights;
    double lr[STEPS_MAX], losses[STEPS_MAX], norms[STEPS_MAX];
    double balances[STEPS_MAX];
    int n_lr, n_losses, n_norms, n_balances;
    int is_pairs;                           /* the sequences are texts, in pairs */
    lm_train_options o;
} golden;

static lm_train_batch batch_of(const golden *g) {
    return (lm_train_batch){ g->ids, g->n_weights ? g->weights : NULL, g->lengths, g->n_seqs };
}

/* What a golden run asks of a trainer: a step at rate lr, the gradients (-1), the loss alone (-2). */
static void run_one(lm_trainer *t, const golden *g, double lr, lm_train_result *r, lm_err *err) {
    lm_train_batch batch = batch_of(g);
    lm_pair_batch pairs = { g->ids, g->lengths, g->n_seqs / 2 };
    if (g->is_pairs && lr >= 0) lm_trainer_pair_step(t, &pairs, lr, r, (lm_stop){0}, err);
    else if (g->is_pairs) (lr < -1 ? lm_trainer_pair_loss : lm_trainer_pair_gradients)(t, &pairs, r, (lm_stop){0}, err);
    else if (lr >= 0) lm_trainer_step(t, &batch, lr, r, (lm_stop){0}, err);
    else (lr < -1 ? lm_trainer_loss : lm_trainer_gradients)(t, &batch, r, (lm_stop){0}, err);
}

static int read_reals(lm_json *j, double *out, int most, lm_err *err) {
    int n = 0;
    while (lm_json_next(j, err) != LM_JSON_END && n < most) out[n++] = j->real;
    return n;
}

static void read_sequences(lm_json *j, golden *g, int is_ids, lm_err *err) {
    for (int seq = 0; lm_json_next(j, err) == LM_JSON_ARRAY; seq++) {
        double numbers[IDS_MAX];
        int n = read_reals(j, numbers, IDS_MAX, err);
        for (int i = 0; i < n; i++) {
            if (is_ids) g->ids[g->n_ids++] = (int32_t)numbers[i];
            else g->weights[g->n_weights++] = (float)numbers[i];
        }
        if (is_ids) g->lengths[g->n_seqs++] = n;
    }
}

/* Read one member of a run; return 0 for one that is not known here. */
static int read_member(lm_json *j, int kind, golden *g, lm_err *err) {
    const char *key = j->key.data;
    if (!strcmp(key, "file")) snprintf(g->file, sizeof g->file, "tests/golden/%.48s", j->string.data);
    else if (!strcmp(key, "sequences")) read_sequences(j, g, 1, err);
    else if (!strcmp(key, "weights")) read_sequences(j, g, 0, err);
    else if (!strcmp(key, "lr_each")) g->n_lr = read_reals(j, g->lr, STEPS_MAX, err);
    else if (!strcmp(key, "losses") || !strcmp(key, "losses_f64")) g->n_losses = read_reals(j, g->losses, STEPS_MAX, err);
    else if (!strcmp(key, "grad_norms") || !strcmp(key, "grad_norms_f64")) g->n_norms = read_reals(j, g->norms, STEPS_MAX, err);
    else if (!strcmp(key, "beta1")) g->o.beta1 = j->real;
    else if (!strcmp(key, "beta2")) g->o.beta2 = j->real;
    else if (!strcmp(key, "eps")) g->o.eps = j->real;
    else if (!strcmp(key, "weight_decay")) g->o.weight_decay = j->real;
    else if (!strcmp(key, "decay_all")) g->o.decay_all = (int)j->integer;
    else if (!strcmp(key, "clip")) g->o.clip = j->real;
    else if (!strcmp(key, "balance")) g->o.balance = j->real;
    else if (!strcmp(key, "balances")) g->n_balances = read_reals(j, g->balances, STEPS_MAX, err);
    else if (!strcmp(key, "temperature")) g->o.temperature = j->real;
    else if (!strcmp(key, "pairs")) g->is_pairs = (int)j->integer;
    else return 0;
    (void)kind;
    return 1;
}

static void run_steps(lm_trainer *t, const golden *g, double tolerance) {
    lm_err err = {0};
    lm_train_result r;
    for (int i = 0; i < g->n_lr; i++) {
        run_one(t, g, g->lr[i], &r, &err);
        CHECK(!err.code, "%s: %s", g->file, err.msg);
        CHECK(fabs(r.loss - g->losses[i]) < tolerance, "%s: loss %d: %.9f, golden %.9f", g->file, i, r.loss, g->losses[i]);
        CHECK(fabs(r.grad_norm - g->norms[i]) < 10 * tolerance, "%s: norm %d: %.9f, golden %.9f", g->file, i, r.grad_norm, g->norms[i]);
        CHECK(i >= g->n_balances || fabs(r.balance - g->balances[i]) < tolerance, "%s: balance %d: %.9f, golden %.9f", g->file, i, r.balance, g->balances[i]);
    }
    run_one(t, g, -2, &r, &err);
    CHECK(!err.code && fabs(r.loss - g->losses[g->n_lr]) < tolerance, "%s: last loss %.9f, golden %.9f %s", g->file, r.loss, g->losses[g->n_lr], err.msg);
}

static void test_train_a(void) {
    golden g = { .o = plain, .file = "tests/golden/train_a" };
    size_t n;
    char *text = read_file("tests/golden/train_a/golden.json", &n);
    lm_err err = {0};
    lm_json j;
    lm_json_init(&j, text, n);
    lm_json_next(&j, &err);
    for (int kind; (kind = lm_json_next(&j, &err)) != LM_JSON_END;) {
        if (!read_member(&j, kind, &g, &err)) lm_json_skip(&j, kind, &err);
    }
    CHECK(!err.code && g.n_lr == 20 && g.n_losses == 21 && g.n_norms == 20, "golden.json: %s", err.msg);
    lm_json_clear(&j);
    free(text);
    g.o.decay_all = 1;
    opened o;
    lm_trainer *t = open_source(&o, g.file) ? new_trainer(&o, &g.o) : NULL;
    if (t) {
        lm_train_batch batch = batch_of(&g);
        lm_train_result r;
        lm_trainer_gradients(t, &batch, &r, (lm_stop){0}, &err);
        double gradients = differ_from(t, LM_TRAIN_GRAD, "tests/golden/train_a/grad_step1_f64.safetensors");
        CHECK(gradients < 1e-6, "train_a: gradients differ by %g", gradients);
        run_steps(t, &g, 1e-5);
        double weights = differ_from(t, LM_TRAIN_VALUE, "tests/golden/train_a/final_f64.safetensors");
        CHECK(weights < 2e-4, "train_a: final weights differ by %g", weights);
        printf("train_a: gradients within %.2g, final weights within %.2g\n", gradients, weights);
    }
    lm_trainer_free(t);
    close_source(&o);
}

/*----------------------------------------------------------------------
** train.json: a run of every architecture; sums of squares and samples of each tensor. */
static double differ_from_summary(lm_json *j, lm_trainer *t, int what, const char *file, lm_err *err) {
    double most = 0;
    int n_seen = 0;
    while (lm_json_next(j, err) != LM_JSON_END) {
        char name[64];
        double numbers[16];
        snprintf(name, sizeof name, "%.63s", j->key.data);
        int n = read_reals(j, numbers, 16, err), at = find_tensor(t, name);
        CHECK(at >= 0 && n > 2, "%s: no tensor %s", file, name);
        if (at < 0) continue;
        const float *x = lm_trainer_data(t, at, what);
        int64_t n_params = lm_trainer_tensor(t, at)->n_params;
        double squares = 0;
        for (int64_t i = 0; i < n_params; i++) squares += (double)x[i] * (double)x[i];
        CHECK(fabs(sqrt(squares) - sqrt(numbers[0])) < 1e-6 + (what == LM_TRAIN_GRAD ? 1e-5 : 2e-4) * sqrt(numbers[0]),
              "%s: %s: norm %.9f, golden %.9f", file, name, sqrt(squares), sqrt(numbers[0]));
        for (int i = 1; i < n; i++) most = fmax(most, fabs((double)x[(i - 1) * LM_MAX(n_params / 12, 1)] - numbers[i]));
        n_seen++;
    }
    CHECK(n_seen == lm_trainer_n_tensors(t), "%s: %d tensors, expected %d", file, n_seen, lm_trainer_n_tensors(t));
    return most;
}

static void test_run(lm_json *j, lm_err *err) {
    golden g = { .o = plain };
    opened o = {0};
    lm_trainer *t = NULL;
    double gradients = 1, weights = 1;
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        if (read_member(j, kind, &g, err)) continue;
        if (!t && open_source(&o, g.file)) t = new_trainer(&o, &g.o);
        lm_train_result r;
        if (t && !strcmp(j->key.data, "grads")) {
            run_one(t, &g, -1, &r, err);
            gradients = differ_from_summary(j, t, LM_TRAIN_GRAD, g.file, err);
        } else if (t && !strcmp(j->key.data, "final")) {
            run_steps(t, &g, 2e-5);
            weights = differ_from_summary(j, t, LM_TRAIN_VALUE, g.file, err);
        } else {
            lm_json_skip(j, kind, err);
        }
    }
    CHECK(gradients < 5e-6 && weights < 2e-4, "%s: gradients differ by %g, final weights by %g", g.file, gradients, weights);
    lm_trainer_free(t);
    close_source(&o);
}

static void test_runs(void) {
    size_t n;
    char *text = read_file("tests/golden/train.json", &n);
    lm_err err = {0};
    lm_json j;
    int n_runs = 0;
    lm_json_init(&j, text, n);
    lm_json_next(&j, &err);
    for (; lm_json_next(&j, &err) == LM_JSON_OBJECT; n_runs++) test_run(&j, &err);
    CHECK(!err.code && n_runs == 15, "train.json: %d runs, %s", n_runs, err.msg);
    lm_json_clear(&j);
    free(text);
}

int main(void) {
    test_train_a();
    test_runs();
    return finish_tests();
}

/* arch_test.c: every architecture's row against an independent float64 reference (tests/golden/arch.json): rope kinds
** and scalings, windows, biases, norms, tied and untied heads. The exact path is held to it closely, the fast one by
** what 16-bit keys and values cost; and how a text is cut into passes changes no bit. */
#include "harness.h"

typedef struct { lm_ids ids; double sum_nll, top5[10], top1[2 * LM_ROWS_MAX]; int n_top5, n_top1; } golden;

/* Logits (n, n_vocab) of every position, rows taken `step` at a time; to be freed. */
static float *run(lm_model *m, const lm_ids *ids, int exact, int step) {
    lm_err err = {0};
    lm_kv kv;
    int n = (int)ids->n, vocab = m->h.n_vocab;
    float *all = malloc(sizeof *all * (size_t)(n * vocab));
    lm_pass *pass = lm_pass_new(m, step, step, exact, &err);
    lm_kv_init(&kv, m, exact);
    lm_kv_reserve(&kv, n, &err);
    for (int from = 0; from < n && !err.code; from += step) {
        lm_row rows[LM_ROWS_MAX];
        int some = LM_MIN(step, n - from);
        for (int i = 0; i < some; i++) rows[i] = (lm_row){ ids->data[from + i], from + i, &kv, i };
        const float *logits = lm_forward(pass, rows, some, (lm_stop){0}, &err);
        if (logits) memcpy(all + from * vocab, logits, sizeof *all * (size_t)(some * vocab));
        for (int i = 0; i < some && logits; i++) {
            int best = lm_kern_get()->argmax(logits + i * vocab, vocab);
            CHECK(lm_pass_best(pass, i) == best, "best of row %d: %d, expected %d", from + i, lm_pass_best(pass, i), best);
        }
    }
    CHECK(!err.code, "%s", err.msg);
    lm_kv_clear(&kv);
    lm_pass_free(pass);
    return all;
}

static double log_p(const float *logits, int vocab, int id) {
    float max = logits[lm_kern_get()->argmax(logits, vocab)];
    return (double)logits[id] - (double)max - lm_log(lm_kern_get()->sum_exp(logits, vocab, max));
}

static void compare(const char *file, const char *path, const float *logits, int vocab, const golden *g, double tolerance) {
    int n = (int)g->ids.n;
    double nll = 0, worst = 0;
    for (int i = 0; i + 1 < n; i++) nll -= log_p(logits + i * vocab, vocab, g->ids.data[i + 1]);
    for (int i = 0; i < n; i++) worst = fmax(worst, fabs(log_p(logits + i * vocab, vocab, (int)g->top1[2 * i]) - g->top1[2 * i + 1]));
    for (int k = 0; k < g->n_top5; k += 2) {
        worst = fmax(worst, fabs(log_p(logits + (n - 1) * vocab, vocab, (int)g->top5[k]) - g->top5[k + 1]));
    }
    CHECK(g->n_top1 == 2 * n && worst < tolerance, "%s, %s: a log-probability is off by %g", file, path, worst);
    CHECK(fabs(nll - g->sum_nll) < tolerance * n, "%s, %s: sum of -ln p %.6f, golden %.6f", file, path, nll, g->sum_nll);
}

static void check_model(const char *file, const golden *g) {
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s", file);
    lm_model *m = open_model(path);
    CHECK(m, "%s does not open", path);
    if (!m) return;
    int n = (int)g->ids.n, vocab = m->h.n_vocab;
    float *exact = run(m, &g->ids, 1, n), *fast = run(m, &g->ids, 0, n);
    compare(file, "exact path", exact, vocab, g, 1e-4);
    compare(file, "fast path", fast, vocab, g, 0.05);
    for (int step = 1; step < n; step = 2 * step + 5) {
        float *other = run(m, &g->ids, 0, step);
        CHECK(!memcmp(other, fast, sizeof *fast * (size_t)(n * vocab)), "%s: passes of %d rows give other bytes", file, step);
        free(other);
    }
    free(exact);
    free(fast);
    /* A head of zeros: all logits are equal, and the best of equals is the lowest id (run compares with argmax). */
    memset((void *)m->top[LM_OUTPUT].data, 0, lm_mat_bytes(&m->top[LM_OUTPUT]));
    fast = run(m, &g->ids, 0, n);
    CHECK(lm_kern_get()->argmax(fast, vocab) == 0, "%s: argmax of equals", file);
    free(fast);
    lm_model_free(m);
}

static int read_pairs(lm_json *j, double *out, int most, lm_err *err) {
    int n = 0;
    while (lm_json_next(j, err) == LM_JSON_ARRAY) {
        while (lm_json_next(j, err) != LM_JSON_END && n < most) out[n++] = j->real;
    }
    return n;
}

/*----------------------------------------------------------------------
** What other keys make of a file's hyper-parameters, and which are refused. */
static void put(lm_buf *b, const char *key, int type, const void *bytes, size_t n, lm_err *err) {
    uint64_t key_n = strlen(key);
    uint32_t type32 = (uint32_t)type;
    lm_buf_append(b, &key_n, 8, err);
    lm_buf_append(b, key, key_n, err);
    lm_buf_append(b, &type32, 4, err);
    lm_buf_append(b, bytes, n, err);
}

/* Import a file with one entry more (in place of its own); want stands in the JSON or the error. */
static void check_import_of(const char *path, int line, const char *key, int type, const void *bytes, size_t n, const char *want) {
    lm_err err = {0};
    lm_buf raw = {0}, hparams = {0};
    lm_tensor tensors[128];
    lm_gguf *g = lm_gguf_open(path, &err);
    const lm_meta *meta = g ? lm_gguf_meta(g) : NULL;
    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const lm_meta_entry *e = lm_meta_at(meta, i);
        if (e->key_n != strlen(key) || memcmp(e->key, key, e->key_n)) lm_buf_append(&raw, e->raw, e->raw_n, &err);
    }
    if (bytes) put(&raw, key, type, bytes, n, &err);
    for (int i = 0; i < lm_gguf_n_tensors(g); i++) tensors[i] = *lm_gguf_tensor(g, i);
    lm_meta *other = lm_meta_new(raw.data, raw.n, &err);
    lm_arch_import(other, tensors, lm_gguf_n_tensors(g), &hparams, &err);
    lm_buf_append(&hparams, "", 1, &(lm_err){0});
    CHECK(strstr(err.code ? err.msg : hparams.data, want), "(from line %d) '%s', wanted '%s'", line, err.code ? err.msg : hparams.data, want);
    lm_meta_free(other);
    lm_buf_clear(&raw);
    lm_buf_clear(&hparams);
    lm_gguf_close(g);
}

static void check_import(int line, const char *key, int type, const void *bytes, size_t n, const char *want) {
    check_import_of("tests/golden/arch_gemma3.gguf", line, key, type, bytes, n, want);
}

/* Experts and shared layers: what the tensors must then be. */
static void test_shares(void) {
    static const char moe[] = "tests/golden/arch_llama_moe.gguf", shared[] = "tests/golden/arch_llama_shared.gguf", gpt2[] = "tests/golden/arch_gpt2.gguf";
    uint32_t zero = 0, one = 1, three = 3, six = 6, much = 2000;
    float half = 0.5f;
#define OF(path, key, value, want) check_import_of(path, __LINE__, key, LM_META_U32, &(value), 4, want)
    check_import_of(moe, __LINE__, "nothing", 0, NULL, 0, "\"n_experts\":5,\"n_active\":2,");
    OF(moe, "llama.expert_used_count", three, "\"n_active\":3,");
    OF(moe, "llama.expert_used_count", six, "n_active 6 of 5 experts");
    OF(moe, "llama.expert_used_count", zero, "n_active 0 of 5 experts");
    OF(moe, "llama.expert_count", six, "tensor blk.0.ffn_gate_inp.weight: shape [32,5,1,1], expected [32,6,1,1]");
    OF(moe, "llama.expert_count", much, "llama.expert_count 2000 is out of range (0 to 1024)");
    OF(moe, "llama.expert_count", zero, "n_active 2 of 0 experts");
    OF(moe, "llama.feed_forward_length", three, "expected [32,3,5,1]");
    OF(moe, "llama.share_layers", one, "tensor blk.1.attn_norm.weight has no place in a llama model of 1 layers");
    check_import_of(moe, __LINE__, "llama.expert_weights_scale", LM_META_F32, &half, 4, "llama.expert_weights_scale 0.5 is not supported");
    check_import_of(shared, __LINE__, "nothing", 0, NULL, 0, "\"share_layers\":2}");
    OF(shared, "llama.share_layers", three, "tensor blk.2.attn_norm.weight is missing");
    OF(shared, "llama.share_layers", six, "share_layers 6 is more than n_layers 5");
    OF(shared, "llama.expert_count", six, "n_active 0 of 6 experts");
    check_import_of(gpt2, __LINE__, "nothing", 0, NULL, 0, "\"n_rot\":0,");
    OF(gpt2, "gpt2.attention.head_count_kv", one, "queries, keys and values in one, but n_kv_heads 1 is not n_heads 3");
    OF(gpt2, "gpt2.expert_count", three, "gpt2.expert_count 3 is not supported");
#undef OF
}

static void test_imports(void) {
    /* elem type, count, then a byte a layer */
    static const uint8_t pattern[] = { 7, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1 };
    static const uint8_t uneven[] = { 7, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1 };
    static const uint8_t local[] = { 7, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1 };
    uint32_t three = 3, much = 4000000000u, zero = 0, layers = 7;
    float eight = 8, half = 0.5f, cap = 30, none = NAN;
#define IMPORT(key, type, value, want) check_import(__LINE__, key, type, value, sizeof(value), want)
    check_import(__LINE__, "nothing", 0, NULL, 0, "\"window_period\":6,\"rope_base_local\":10000,");
    check_import(__LINE__, "nothing", 0, NULL, 0, "\"act\":\"gelu\",\"embd_scale\":4.89897966,\"attn_scale\":0,\"n_window\":24");
    check_import(__LINE__, "gemma3.attention.sliding_window_pattern", LM_META_U32, &three, 4, "\"window_period\":3");
    IMPORT("gemma3.attention.sliding_window_pattern", LM_META_ARRAY, pattern, "\"window_period\":3");
    IMPORT("gemma3.attention.sliding_window_pattern", LM_META_ARRAY, local, "\"window_period\":0");
    IMPORT("gemma3.attention.sliding_window_pattern", LM_META_ARRAY, uneven, "uneven distances");
    check_import(__LINE__, "gemma3.rope.freq_base_swa", LM_META_F32, &eight, 4, "\"rope_base_local\":8,");
    check_import(__LINE__, "gemma3.rope.scaling.factor", LM_META_F32, &eight, 4, "\"rope_scale\":0.125");
    check_import(__LINE__, "gemma3.rope.scale_linear", LM_META_F32, &eight, 4, "\"rope_scale\":0.125");
    check_import(__LINE__, "gemma3.rope.scaling.factor", LM_META_F32, &half, 4, "gemma3.rope.scaling.factor 0.5 is out of range");
    check_import(__LINE__, "gemma3.rope.scaling.factor", LM_META_F32, &none, 4, "out of range");
    check_import(__LINE__, "gemma3.final_logit_softcapping", LM_META_F32, &cap, 4, "gemma3.final_logit_softcapping 30 is not supported");
    check_import(__LINE__, "gemma3.expert_count", LM_META_U32, &three, 4, "gemma3.expert_count 3 is not supported");
    check_import(__LINE__, "gemma3.attention.sliding_window", LM_META_U32, &much, 4, "gemma3.attention.sliding_window 4e+09 is out of range");
    check_import(__LINE__, "gemma3.attention.value_length", LM_META_U32, &three, 4, "value_length 3 differs from the keys' 16");
    check_import(__LINE__, "gemma3.block_count", LM_META_U32, &zero, 4, "gemma3.block_count 0 is out of range");
    check_import(__LINE__, "gemma3.block_count", LM_META_U32, NULL, 0, "gemma3.block_count is missing");
    check_import(__LINE__, "gemma3.block_count", LM_META_F32, &eight, 4, "gemma3.block_count");
    check_import(__LINE__, "gemma3.attention.layer_norm_rms_epsilon", LM_META_F32, &none, 4, "out of range");
    check_import(__LINE__, "gemma3.attention.sliding_window", LM_META_U32, NULL, 0, "\"n_window\":0");
    check_import(__LINE__, "gemma3.block_count", LM_META_U32, &layers, 4, "\"n_layers\":7");
    check_import(__LINE__, "gemma3.block_count", LM_META_U32, &three, 4, "has no place in a gemma3 model of 3 layers");
    check_import(__LINE__, "gemma3.attention.key_length", LM_META_U32, &three, 4, "value_length 16 differs from the keys' 3");
}

int main(void) {
    size_t n;
    char *text = read_file("tests/golden/arch.json", &n);
    int models = 0;
    lm_err err = {0};
    lm_json j;
    lm_json_init(&j, text, n);
    CHECK(lm_json_next(&j, &err) == LM_JSON_ARRAY, "tests/golden/arch.json: %s", err.msg);
    for (; lm_json_next(&j, &err) == LM_JSON_OBJECT; models++) {
        golden g = {0};
        char file[100] = "";
        for (int kind; (kind = lm_json_next(&j, &err)) != LM_JSON_END;) {
            if (!strcmp(j.key.data, "file")) snprintf(file, sizeof file, "%s", j.string.data);
            else if (!strcmp(j.key.data, "ids")) while (lm_json_next(&j, &err) == LM_JSON_INT) lm_ids_append(&g.ids, (int32_t)j.integer, &err);
            else if (!strcmp(j.key.data, "sum_nll")) g.sum_nll = j.real;
            else if (!strcmp(j.key.data, "top5_logprob_last")) g.n_top5 = read_pairs(&j, g.top5, LM_COUNT(g.top5), &err);
            else if (!strcmp(j.key.data, "top1_each")) g.n_top1 = read_pairs(&j, g.top1, LM_COUNT(g.top1), &err);
            else lm_json_skip(&j, kind, &err);
        }
        check_model(file, &g);
        lm_ids_clear(&g.ids);
    }
    CHECK(!err.code && models >= 14, "tests/golden/arch.json: %d models: %s", models, err.msg);
    lm_json_clear(&j);
    free(text);
    test_imports();
    test_shares();
    CHECK(lm_mem_used() == 0, "%llu bytes left", (unsigned long long)lm_mem_used());
    return finish_tests();
}

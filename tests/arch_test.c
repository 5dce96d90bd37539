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
    lm_model_free(m);
}

static int read_pairs(lm_json *j, double *out, int most, lm_err *err) {
    int n = 0;
    while (lm_json_next(j, err) == LM_JSON_ARRAY) {
        while (lm_json_next(j, err) != LM_JSON_END && n < most) out[n++] = j->real;
    }
    return n;
}

int main(void) {
    static char text[1 << 20];
    FILE *f = fopen("tests/golden/arch.json", "rb");
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    int models = 0;
    lm_err err = {0};
    lm_json j;
    if (f) fclose(f);
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
    CHECK(!err.code && models >= 11, "tests/golden/arch.json: %d models: %s", models, err.msg);
    lm_json_clear(&j);
    CHECK(lm_mem_used() == 0, "%llu bytes left", (unsigned long long)lm_mem_used());
    return finish_tests();
}

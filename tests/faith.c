/* faith.c: how faithful the fast path is. For every prompt of a golden file: the exact path (float32
** activations and cache) against the golden log-probabilities, and the fast path against the exact one.
** llama.cpp's figures on the same file (its KL,
** its |d ln p|, how often it has the same best token, in percent) are given. Usage: faith MODEL.gguf GOLDEN.json KL D SAME */
#include "harness.h"
#include "../engine/run/sample.h"

typedef struct { double kl, kl_max, d_top5, d_golden; int positions, n_top5, same_best; } totals;

/* Logits (n, n_vocab) of every position; to be freed with the pass. */
static const float *run(lm_model *m, const lm_ids *ids, int exact, lm_pass **pass) {
    lm_err err = {0};
    lm_row rows[LM_ROWS_MAX];
    lm_kv kv;
    int n = (int)ids->n;
    *pass = lm_pass_new(m, n, n, exact, &err);
    lm_kv_init(&kv, m, exact);
    lm_kv_reserve(&kv, n, &err);
    for (int i = 0; i < n; i++) rows[i] = (lm_row){ ids->data[i], i, &kv, i };
    const float *logits = err.code ? NULL : lm_forward(*pass, rows, n, (lm_stop){0}, &err);
    if (!logits) printf("%s\n", err.msg);
    lm_kv_clear(&kv);
    return logits;
}

static double log_sum(const float *x, int n) {
    float max = x[lm_kern_get()->argmax(x, n)];
    return (double)max + lm_log(lm_kern_get()->sum_exp(x, n, max));
}

static void compare(lm_model *m, const lm_ids *ids, const double *top, int n_top, totals *t) {
    lm_pass *exact_pass, *fast_pass;
    int vocab = m->h.n_vocab, n = (int)ids->n;
    const float *exact = run(m, ids, 1, &exact_pass), *fast = run(m, ids, 0, &fast_pass);
    for (int i = 0; i < n && exact && fast; i++, exact += vocab, fast += vocab) {
        double a = log_sum(exact, vocab), b = log_sum(fast, vocab), kl = 0;
        for (int v = 0; v < vocab; v++) {
            double p = (double)exact[v] - a;
            kl += lm_exp(p) * (p - ((double)fast[v] - b));
        }
        t->kl += kl;
        t->kl_max = LM_MAX(t->kl_max, kl);
        t->positions++;
        t->same_best += lm_kern_get()->argmax(exact, vocab) == lm_kern_get()->argmax(fast, vocab);
        for (int k = 0; k + 1 < n_top && i == n - 1; k += 2) {
            int id = (int)top[k];
            t->d_top5 += fabs((double)exact[id] - a - ((double)fast[id] - b));
            t->d_golden = LM_MAX(t->d_golden, fabs((double)exact[id] - a - top[k + 1]));
            t->n_top5++;
        }
    }
    lm_pass_free(exact_pass);
    lm_pass_free(fast_pass);
}

int main(int argc, char **argv) {
    static char text[1 << 20];
    lm_model *m = argc > 5 ? open_model(argv[1]) : NULL;
    double their_kl = argc > 5 ? atof(argv[3]) : 0, their_d = argc > 5 ? atof(argv[4]) : 0;
    FILE *f = m ? fopen(argv[2], "rb") : NULL;
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    totals t = {0};
    lm_err err = {0};
    lm_json j;
    if (!m || !f) return printf("usage: faith MODEL.gguf GOLDEN.json KL D SAME\n"), 1;
    fclose(f);
    lm_json_init(&j, text, n);
    for (int kind = lm_json_next(&j, &err); (kind = lm_json_next(&j, &err)) == LM_JSON_OBJECT;) {
        lm_ids ids = {0};
        double top[16];
        int n_top = 0;
        while ((kind = lm_json_next(&j, &err)) != LM_JSON_END) {
            if (!strcmp(j.key.data, "ids")) {
                while (lm_json_next(&j, &err) == LM_JSON_INT) lm_ids_append(&ids, (int32_t)j.integer, &err);
            } else if (!strcmp(j.key.data, "top5_logprob_last")) {
                while (lm_json_next(&j, &err) == LM_JSON_ARRAY) {
                    while (lm_json_next(&j, &err) != LM_JSON_END && n_top < 16) top[n_top++] = j.real;
                }
            } else {
                lm_json_skip(&j, kind, &err);
            }
        }
        if (ids.n <= LM_ROWS_MAX) compare(m, &ids, top, n_top, &t);
        lm_ids_clear(&ids);
    }
    printf("%s\n%-28s %10s %12s %14s %10s\n", argv[1], "", "KL", "largest KL", "|d ln p| top 5", "same best");
    printf("%-28s %10.6f %12.6f %14.5f %9.1f%%\n", "sqlite-lm, fast : exact", t.kl / t.positions, t.kl_max, t.d_top5 / t.n_top5,
           100.0 * t.same_best / t.positions);
    printf("%-28s %10.6f %12s %14.5f %9.1f%%\n", "llama.cpp : reference", their_kl, "", their_d, atof(argv[5]));
    printf("exact path : golden, largest |d ln p| %.6f over %d values; %d positions\n", t.d_golden, t.n_top5, t.positions);
    CHECK(t.d_golden < 1e-3, "the exact path is off by %g", t.d_golden);
    CHECK(t.kl / t.positions <= their_kl, "KL is larger than llama.cpp's");
    CHECK(t.d_top5 / t.n_top5 <= their_d, "|d ln p| is larger than llama.cpp's");
    lm_json_clear(&j);
    lm_model_free(m);
    return finish_tests();
}

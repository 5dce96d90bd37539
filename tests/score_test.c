/* score_test.c: scores of given ids: against the float64 reference of tests/golden/arch.json, against the logits of whole
** passes, and the same bytes whatever the windows' passes, the company, the threads and what is kept of prompts. */
#include "harness.h"

enum { MOST = 512 };

static const lm_stop never;

/* Score n ids from first on; return how many scores came. */
static int score(lm_model *m, const lm_score_options *o, const int32_t *ids, size_t n, size_t lead, size_t first, lm_score *out) {
    lm_err err = {0};
    int count = 0;
    lm_scorer *s = lm_scorer_new(m, o, &err);
    if (s) lm_scorer_add(s, ids, n, lead, first, &err);
    while (count < MOST && s && lm_scorer_next(s, never, &out[count], &err) > 0) count++;
    CHECK(!err.code, "%s", err.msg);
    lm_scorer_free(s);
    return count;
}

/* Logits (n, n_vocab) of one pass; to be freed. */
static float *run(lm_model *m, const int32_t *ids, int n) {
    lm_err err = {0};
    lm_kv kv;
    lm_row rows[LM_ROWS_MAX];
    float *all = malloc(sizeof *all * (size_t)(n * m->h.n_vocab));
    lm_pass *pass = lm_pass_new(m, n, n, 0, &err);
    lm_kv_init(&kv, m, 0);
    lm_kv_reserve(&kv, n, &err);
    for (int i = 0; i < n; i++) rows[i] = (lm_row){ ids[i], i, &kv, i };
    const float *logits = lm_forward(pass, rows, n, never, &err);
    CHECK(logits, "%s", err.msg);
    if (logits) memcpy(all, logits, sizeof *all * (size_t)(n * m->h.n_vocab));
    lm_kv_clear(&kv);
    lm_pass_free(pass);
    return all;
}

/* By hand: softmax of one position's logits in double. */
static void check_by_hand(const char *path, const float *x, int n, const lm_score *got) {
    double max = -INFINITY, sum = 0, entropy = 0, mass = 0;
    int top = 0, rank = 1;
    for (int i = 0; i < n; i++) {
        if ((double)x[i] > max) max = (double)x[i], top = i;
        rank += x[i] > x[got->id] || (x[i] == x[got->id] && i < got->id);
    }
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - max);
    for (int i = 0; i < n; i++) {
        double p = exp((double)x[i] - max) / sum;
        mass += p;
        entropy -= p * log(p);
    }
    double logprob = (double)x[got->id] - max - log(sum);
    CHECK(fabs(mass - 1) < 1e-12 && fabs(got->logprob - logprob) < 1e-6, "%s: position %zu: ln p %.9f, by hand %.9f", path, got->pos, got->logprob, logprob);
    CHECK(fabs(got->entropy - entropy) < 1e-5, "%s: position %zu: entropy %.9f, by hand %.9f", path, got->pos, got->entropy, entropy);
    CHECK(got->top == top && got->rank == rank, "%s: position %zu: top %d rank %d, by hand %d %d", path, got->pos, got->top, got->rank, top, rank);
}

static void check_model(const char *file, const lm_ids *ids, double sum_nll) {
    char path[256];
    static lm_score all[MOST], part[MOST];
    const lm_score_options o = { .details = 1 }, plain = {0};
    snprintf(path, sizeof path, "tests/golden/%s", file);
    lm_model *m = open_model(path);
    CHECK(m, "%s does not open", path);
    if (!m) return;
    int n = (int)ids->n, count = score(m, &o, ids->data, ids->n, 0, 1, all);
    double nll = 0;
    for (int i = 0; i < count; i++) nll -= all[i].logprob;
    CHECK(count == n - 1 && fabs(nll - sum_nll) < 0.05 * n, "%s: %d scores, sum of -ln p %.6f, golden %.6f", path, count, nll, sum_nll);
    float *logits = run(m, ids->data, n);
    for (int i = 0; i < count; i++) {
        CHECK(all[i].pos == (size_t)i + 1 && all[i].id == ids->data[i + 1] && all[i].seq == 0, "%s: score %d is of position %zu", path, i, all[i].pos);
        check_by_hand(path, logits + i * m->h.n_vocab, m->h.n_vocab, &all[i]);
    }
    free(logits);
    /* Behind a prompt of any length, found among the prefixes or not: the same bits. */
    for (int first = 1; first < n; first += 7) {
        count = score(m, &plain, ids->data, ids->n, 0, (size_t)first, part);
        int same = count == n - first;
        for (int i = 0; i < count; i++) same &= part[i].logprob == all[first - 1 + i].logprob;
        CHECK(same, "%s: scored from %d on: other bits", path, first);
    }
    lm_model_free(m);
}

static void check_golden(void) {
    size_t n;
    char *text = read_file("tests/golden/arch.json", &n);
    int n_models = 0;
    lm_err err = {0};
    lm_json j;
    lm_json_init(&j, text, n);
    for (int kind = lm_json_next(&j, &err); (kind = lm_json_next(&j, &err)) == LM_JSON_OBJECT; n_models++) {
        lm_ids ids = {0};
        double sum_nll = 0;
        char file[64] = "";
        while ((kind = lm_json_next(&j, &err)) != LM_JSON_END) {
            if (!strcmp(j.key.data, "file")) snprintf(file, sizeof file, "%s", j.string.data);
            else if (!strcmp(j.key.data, "sum_nll")) sum_nll = j.real;
            else if (!strcmp(j.key.data, "ids")) while (lm_json_next(&j, &err) == LM_JSON_INT) lm_ids_append(&ids, (int32_t)j.integer, &err);
            else lm_json_skip(&j, kind, &err);
        }
        check_model(file, &ids, sum_nll);
        lm_ids_clear(&ids);
    }
    CHECK(!err.code && n_models == 14, "arch.json: %d models: %s", n_models, err.msg);
    lm_json_clear(&j);
    free(text);
}

/*----------------------------------------------------------------------
** Windows: each is scored as if its ids stood alone. */
static void check_windows(lm_model *m, const int32_t *ids, int n, int lead, int window, int stride) {
    static lm_score whole[MOST], alone[MOST];
    const lm_score_options o = { .window = window, .stride = stride }, plain = {0};
    int count = score(m, &o, ids, (size_t)n, (size_t)lead, (size_t)LM_MAX(lead, 1), whole), at = 0;
    int32_t own[MOST];
    for (int start = 0, done = LM_MAX(lead, 1); done < n; start += stride) {
        int n_own = LM_MIN(n - start, window);
        memcpy(own, ids, sizeof *own * (size_t)lead);
        memcpy(own + lead, ids + lead + start, sizeof *own * (size_t)(n_own - lead));
        int more = score(m, &plain, own, (size_t)n_own, 0, (size_t)(done - start), alone);
        for (int i = 0; i < more; i++, at++, done++) {
            CHECK(whole[at].pos == (size_t)done && whole[at].logprob == alone[i].logprob, "%d ids, %d leading, window %d, stride %d: position %d: %.9f at %zu, alone %.9f",
                  n, lead, window, stride, done, whole[at].logprob, whole[at].pos, alone[i].logprob);
        }
    }
    CHECK(at == count && count == n - LM_MAX(lead, 1), "%d ids, %d leading, window %d, stride %d: %d scores, %d by windows", n, lead, window, stride, count, at);
}

/*----------------------------------------------------------------------
** Many sequences with common beginnings, at once and alone. */
static void check_company(lm_model *m, const int32_t *ids) {
    enum { N = 40 };
    static lm_score alone[N][MOST];
    static const size_t lengths[] = { 3, 150, 151, 152, 90, 7, 131, 200, 66, 2 };
    int32_t own[N][256];
    int n_alone[N], given[N] = {0};
    const lm_score_options o = { .details = 1 };
    lm_err err = {0};
    lm_score r;
    for (int q = 0; q < N; q++) {
        size_t n = lengths[q % 10], first = LM_MIN(n - 1, (size_t)(q < 20 ? 120 : 1));
        memcpy(own[q], ids, sizeof own[q]);
        for (size_t i = first; i < n; i++) own[q][i] = ids[(i * 7 + (size_t)q) % 256];
        lm_threads_set(1 + q % 2);
        lm_prefix_limit(m, 0);
        n_alone[q] = score(m, &o, own[q], n, 0, first, alone[q]);
    }
    for (int kept = 0; kept <= 1; kept++) {
        lm_prefix_limit(m, kept ? 64 << 20 : 0);
        memset(given, 0, sizeof given);
        lm_scorer *s = lm_scorer_new(m, &o, &err);
        for (int q = 0; q < N; q++) lm_scorer_add(s, own[q], lengths[q % 10], 0, LM_MIN(lengths[q % 10] - 1, (size_t)(q < 20 ? 120 : 1)), &err);
        int last = 0;
        while (lm_scorer_next(s, never, &r, &err) > 0) {
            const lm_score *a = &alone[r.seq][given[r.seq]++];
            CHECK(r.seq >= last && r.pos == a->pos && r.id == a->id && r.logprob == a->logprob && r.rank == a->rank && r.top == a->top && r.entropy == a->entropy,
                  "sequence %d, position %zu: other in company", r.seq, r.pos);
            last = r.seq;
        }
        CHECK(!err.code, "%s", err.msg);
        for (int q = 0; q < N; q++) CHECK(given[q] == n_alone[q], "sequence %d: %d scores, alone %d", q, given[q], n_alone[q]);
        lm_scorer_free(s);
    }
}

/*----------------------------------------------------------------------
** Two models of one vocabulary: by hand from their logits, and of a model to itself. */
static void check_divergence(void) {
    lm_model *a = open_model("tests/golden/arch_llama_plain.gguf"), *b = open_model("tests/golden/arch_llama_linear.gguf");
    int32_t ids[2][40];
    lm_ids texts[2];
    double sum = 0;
    lm_err err = {0};
    int vocab = a->h.n_vocab;
    CHECK(vocab == b->h.n_vocab, "vocabularies of %d and %d", vocab, b->h.n_vocab);
    for (int t = 0; t < 2; t++) {
        int n = t ? 40 : 7;
        for (int i = 0; i < n; i++) ids[t][i] = (i * 31 + t * 7) % vocab;
        texts[t] = (lm_ids){ ids[t], (size_t)n, (size_t)n };
        float *x = run(a, ids[t], n), *y = run(b, ids[t], n);
        for (int i = 0; i < n; i++) {
            double p_sum = 0, q_sum = 0;
            for (int j = 0; j < vocab; j++) p_sum += exp((double)x[i * vocab + j]), q_sum += exp((double)y[i * vocab + j]);
            for (int j = 0; j < vocab; j++) {
                double p = exp((double)x[i * vocab + j]) / p_sum, q = exp((double)y[i * vocab + j]) / q_sum;
                sum += p * log(p / q) / 47;
            }
        }
        free(x);
        free(y);
    }
    double kl = lm_divergence(a, b, texts, 2, never, &err), none = lm_divergence(a, a, texts, 2, never, &err);
    CHECK(!err.code && sum > 1e-4 && fabs(kl - sum) < 1e-5 * (1 + sum) && fabs(none) < 1e-9, "KL %.9f, by hand %.9f; to itself %g: %s", kl, sum, none, err.msg);
    lm_model *c = open_model("tests/golden/tiny.gguf");
    lm_divergence(a, c, texts, 2, never, &err);
    CHECK(strstr(err.msg, "the same tokens"), "'%s'", err.msg);
    lm_model_free(c);
    lm_model_free(a);
    lm_model_free(b);
}

static int ask(void *arg) { return --*(int *)arg < 0; }

static void check_errors(lm_model *m, const int32_t *ids) {
    struct { int window, stride; size_t n, lead, first; const char *want; } bad[] = {
        { 1, 0, 9, 0, 1, "a window of 1 tokens: expected 2" }, { 257, 0, 9, 0, 1, "expected 2 to the context's 256" },
        { 8, 8, 9, 0, 1, "a stride of 8 tokens: expected 1 to 7" }, { 8, -1, 9, 0, 1, "a stride of -1" }, { 8, 6, 9, 2, 2, "no room for 2 leading ones" },
        { 0, 0, 9, 0, 0, "cannot be scored" }, { 0, 0, 9, 3, 2, "cannot be scored" },
    };
    for (int i = 0; i < LM_COUNT(bad); i++) {
        lm_err err = {0};
        lm_scorer *s = lm_scorer_new(m, &(lm_score_options){ .window = bad[i].window, .stride = bad[i].stride }, &err);
        if (s) lm_scorer_add(s, ids, bad[i].n, bad[i].lead, bad[i].first, &err);
        CHECK(err.code && strstr(err.msg, bad[i].want), "bad %d: '%s', wanted '%s'", i, err.msg, bad[i].want);
        lm_scorer_free(s);
    }
    lm_err err = {0};
    lm_scorer *s = lm_scorer_new(m, &(lm_score_options){0}, &err);
    const int32_t strange[] = { 1, m->h.n_vocab };
    lm_score r;
    lm_scorer_add(s, strange, 2, 0, 1, &err);
    CHECK(strstr(err.msg, "not in the vocabulary"), "'%s'", err.msg);
    err = (lm_err){0};
    lm_scorer_add(s, ids, 5, 0, 5, &err);                   /* nothing to score */
    lm_scorer_add(s, ids, 0, 0, 1, &err);
    CHECK(lm_scorer_next(s, never, &r, &err) == 0 && !err.code, "%s", err.msg);
    lm_scorer_free(s);
    for (int after = 0; after < 40; after += 3) {
        int left = after, rc;
        err = (lm_err){0};
        s = lm_scorer_new(m, &(lm_score_options){ .window = 100 }, &err);
        lm_scorer_add(s, ids, 256, 0, 1, &err);
        while ((rc = lm_scorer_next(s, (lm_stop){ ask, &left }, &r, &err)) > 0) {}
        CHECK(rc < 0 && err.code == LM_INTERRUPT, "stopped after %d: %d, %s", after, rc, err.msg);
        lm_scorer_free(s);
    }
}

int main(void) {
    int32_t ids[256];
    uint64_t state = 11;
    check_golden();
    check_divergence();
    lm_model *m = open_model("tests/golden/tiny.gguf");
    for (int i = 0; i < 256; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        ids[i] = (int32_t)((state >> 33) % (uint64_t)m->h.n_vocab);
    }
    check_windows(m, ids, 256, 0, 256, 128);
    check_windows(m, ids, 256, 0, 70, 35);
    check_windows(m, ids, 256, 1, 70, 35);
    check_windows(m, ids, 255, 3, 64, 60);
    check_windows(m, ids, 10, 0, 2, 1);
    check_windows(m, ids, 71, 1, 70, 1);
    check_company(m, ids);
    check_errors(m, ids);
    lm_model_free(m);
    CHECK(lm_mem_used() == 0, "%llu bytes left", (unsigned long long)lm_mem_used());
    return finish_tests();
}

/* model_test.c: whole generations: the golden continuations of a real model, and the same bytes whatever the
** kernel set, the threads and the company. Usage: model_test [REAL.gguf [GOLDEN.json]] */
#include "harness.h"
#include "../engine/run/sample.h"

enum { MOST = 64 };

static const lm_gen_options greedy = { .max_tokens = 48, .top_p = 1, .repeat_penalty = 1, .want_logprob = 1 };

/* Generate from ids; fill out and logprobs. Return how many tokens came. */
static int generate_ids(lm_model *m, const int32_t *ids, size_t n, const lm_gen_options *o, int32_t *out, double *logprobs) {
    lm_err err = {0};
    lm_token token;
    int count = 0;
    lm_batch *b = lm_batch_new(m, &err);
    lm_batch_add(b, ids, n, o, &err);
    while (count < MOST && lm_batch_next(b, (lm_stop){0}, &token, &err) == 1) {
        out[count] = token.id;
        logprobs[count++] = token.logprob;
    }
    CHECK(!err.code, "%s", err.msg);
    lm_batch_free(b);
    return count;
}

/*----------------------------------------------------------------------
** Golden: greedy tokens equal up to the first step whose gap is under 0.05. */
static void read_ints(lm_json *j, lm_ids *out, lm_err *err) {
    while (lm_json_next(j, err) == LM_JSON_INT) lm_ids_append(out, (int32_t)j->integer, err);
}

static void check_case(lm_model *m, const lm_ids *ids, const lm_ids *want, const double *gaps) {
    int32_t got[MOST];
    double logprobs[MOST];
    int n = generate_ids(m, ids->data, ids->n, &greedy, got, logprobs);
    for (int i = 0; i < (int)want->n && gaps[i] >= 0.05; i++) {
        CHECK(i < n && got[i] == want->data[i], "prompt of %d ids, step %d: got %d, golden %d", (int)ids->n, i, i < n ? got[i] : -1,
              want->data[i]);
        if (i >= n || got[i] != want->data[i]) return;
    }
}

static void check_golden(lm_model *m, const char *path) {
    static char text[1 << 20];
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    lm_err err = {0};
    lm_json j;
    if (f) fclose(f);
    lm_json_init(&j, text, n);
    CHECK(lm_json_next(&j, &err) == LM_JSON_ARRAY, "%s: %s", path, err.msg);
    while (lm_json_next(&j, &err) == LM_JSON_OBJECT) {
        lm_ids ids = {0}, want = {0};
        double gaps[MOST];
        int n_gaps = 0;
        for (int kind; (kind = lm_json_next(&j, &err)) != LM_JSON_END;) {
            if (!strcmp(j.key.data, "ids")) read_ints(&j, &ids, &err);
            else if (!strcmp(j.key.data, "greedy")) read_ints(&j, &want, &err);
            else if (!strcmp(j.key.data, "greedy_gap")) while (lm_json_next(&j, &err) != LM_JSON_END) gaps[n_gaps++] = j.real;
            else lm_json_skip(&j, kind, &err);
        }
        check_case(m, &ids, &want, gaps);
        lm_ids_clear(&ids);
        lm_ids_clear(&want);
    }
    CHECK(!err.code, "%s: %s", path, err.msg);
    lm_json_clear(&j);
}

/*----------------------------------------------------------------------
** Same bytes: threads, batch company. (Kernel sets are chosen once a process: the digest that this program
** prints is compared across LM_CPU by the test run.) */
static uint64_t check_same(lm_model *m, int vocab) {
    int32_t ids[200], alone[MOST], other[MOST];
    double p_alone[MOST], p_other[MOST];
    uint64_t state = 7, hash = 0xCBF29CE484222325ull;
    lm_err err = {0};
    for (int i = 0; i < 200; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        ids[i] = (int32_t)((state >> 33) % (uint64_t)vocab);
    }
    lm_gen_options o = { .max_tokens = 24, .top_p = 1, .repeat_penalty = 1, .want_logprob = 1, .ignore_eog = 1 };
    lm_threads_set(1);
    int n = generate_ids(m, ids, 150, &o, alone, p_alone);
    lm_threads_set(2);
    int n2 = generate_ids(m, ids, 150, &o, other, p_other);
    CHECK(n == n2 && !memcmp(alone, other, sizeof *alone * (size_t)n) && !memcmp(p_alone, p_other, sizeof *p_alone * (size_t)n),
          "1 and 2 threads differ");
    /* The same sequence in company of others of many lengths. */
    lm_token token;
    int count = 0;
    lm_batch *b = lm_batch_new(m, &err);
    for (int i = 0; i < 7; i++) lm_batch_add(b, ids + i * 3, (size_t)(i == 4 ? 150 : 1 + 29 * i), &o, &err);
    lm_batch_add(b, ids, 150, &o, &err);
    while (lm_batch_next(b, (lm_stop){0}, &token, &err) == 1) {
        if (token.seq != 7) continue;
        other[count] = token.id;
        p_other[count++] = token.logprob;
    }
    lm_batch_free(b);
    CHECK(count == n && !memcmp(alone, other, sizeof *alone * (size_t)n) && !memcmp(p_alone, p_other, sizeof *p_alone * (size_t)n),
          "alone and in a batch differ: %s", err.msg);
    for (size_t i = 0; i < sizeof *p_alone * (size_t)n; i++) hash = (hash ^ ((uint8_t *)p_alone)[i]) * 0x100000001B3ull;
    for (size_t i = 0; i < sizeof *alone * (size_t)n; i++) hash = (hash ^ ((uint8_t *)alone)[i]) * 0x100000001B3ull;
    return hash;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "tests/golden/tiny.gguf";
    lm_model *m = open_model(path);
    CHECK(m != NULL, "cannot open %s", path);
    if (m) {
        if (argc > 2) check_golden(m, argv[2]);
        printf("%s: %s: digest %016llx\n", path, lm_kernels(), (unsigned long long)check_same(m, m->h.n_vocab));
    }
    lm_model_free(m);
    CHECK(lm_mem_used() == 0, "%llu bytes left", (unsigned long long)lm_mem_used());
    return finish_tests();
}

/* batch_test.c: many sequences at once: every text is the one that its prompt gives alone with nothing kept, whatever the
** company, the order of coming, the threads, what the model keeps and how much memory there is; and nothing is lost.
** Usage: batch_test [MODEL.gguf] */
#include "harness.h"
#include "../engine/run/sample.h"

enum { PROMPT_MAX = 230, TEXT_MAX = 4096, CASES = 60, COMPANY = 40 };

static uint64_t state = 1;
static int below(int n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (int)((state >> 33) % (uint64_t)n);
}

/* A row of the test: what is asked, and what came. */
typedef struct {
    int32_t ids[PROMPT_MAX]; int n;
    lm_gen_options options;
    char text[TEXT_MAX]; int text_n;
    int32_t out[PROMPT_MAX]; double logprobs[PROMPT_MAX]; int out_n;
    int finish;
} row;

static void take(row *r, const lm_token *t) {
    if (r->out_n < PROMPT_MAX) {
        r->out[r->out_n] = t->id;
        r->logprobs[r->out_n++] = t->logprob;
    }
    if (t->piece_n && r->text_n + (int)t->piece_n <= TEXT_MAX) {
        memcpy(r->text + r->text_n, t->piece, t->piece_n);
        r->text_n += (int)t->piece_n;
    }
    r->finish = t->finish;
}

static int same(const row *a, const row *b) {
    return a->out_n == b->out_n && a->text_n == b->text_n && a->finish == b->finish && !memcmp(a->text, b->text, (size_t)a->text_n)
        && !memcmp(a->out, b->out, (size_t)a->out_n * sizeof *a->out) && !memcmp(a->logprobs, b->logprobs, (size_t)a->out_n * sizeof *a->logprobs);
}

static void run_alone(lm_model *m, row *r) {
    lm_err err = {0};
    lm_token t;
    lm_batch *b = lm_batch_new(m, &err);
    lm_batch_add(b, r->ids, (size_t)r->n, &r->options, &err);
    while (lm_batch_next(b, (lm_stop){0}, &t, &err) == 1) take(r, &t);
    CHECK(!err.code, "%s", err.msg);
    lm_batch_free(b);
}

/* A prompt: the beginning of one of a few, then some ids of its own; now and then an earlier one again. */
static void ask(row *r, const row *before, int n_before, int vocab) {
    static const char *const stops[] = { " t", "he", "q" };
    static const size_t stop_ns[] = { 2, 2, 1 };
    *r = (row){ .options = { .max_tokens = below(10) ? below(70) : 0, .top_p = 1, .repeat_penalty = 1, .want_logprob = 1 } };
    if (n_before && !below(5)) {
        *r = before[below(n_before)];
        r->out_n = r->text_n = r->finish = 0;
        if (below(2)) r->options.seed++;
        return;
    }
    int family = below(4), common = below(150), own = 1 + below(40);
    for (int i = 0; i < common; i++) r->ids[r->n++] = (int32_t)((family * 7919 + i * i * 31 + i * 7) % vocab);
    for (int i = 0; i < own; i++) r->ids[r->n++] = (int32_t)below(vocab);
    if (!below(3)) r->options.temperature = 0.8, r->options.seed = (uint64_t)below(3);
    if (!below(6)) r->options.top_k = 1 + below(40);
    if (!below(6)) r->options.top_p = 0.7;
    if (!below(6)) r->options.repeat_penalty = 1.3;
    if (!below(6)) r->options.stops = stops, r->options.stop_ns = stop_ns, r->options.n_stops = 1 + below(3);
}

/* Run rows together, coming in at random times; some are given up. */
static void run_company(lm_model *m, row *rows, int n, int *is_dropped, lm_err *err) {
    int of[COMPANY], added = 0;
    lm_token t;
    lm_batch *b = lm_batch_new(m, err);
    for (int got = 1; !err->code && (added < n || got == 1);) {
        while (added < n && (below(3) || got != 1)) {
            int seq = lm_batch_add(b, rows[added].ids, (size_t)rows[added].n, &rows[added].options, err);
            if (seq < 0) break;
            if (!rows[added].options.max_tokens) rows[added].finish = lm_batch_finish(b, seq);
            of[seq] = added++;
            got = 1;
        }
        got = lm_batch_next(b, (lm_stop){0}, &t, err);
        if (got != 1) continue;
        int i = of[t.seq];
        take(&rows[i], &t);
        if (t.finish ? below(2) : !below(400)) {
            lm_batch_drop(b, t.seq);
            is_dropped[i] = !t.finish;
        }
    }
    lm_batch_free(b);
}

static void forget(lm_model *m) { while (lm_prefix_shrink(m)) {} }

static void check_company(lm_model *m, lm_model *plain) {
    static row rows[COMPANY], alone[COMPANY];
    uint64_t start = lm_mem_used();
    const uint64_t budgets[] = { 0, 20000, 40000, 200000, 64 << 20 };
    for (int c = 0; c < CASES; c++) {
        lm_err err = {0};
        int n = 1 + below(COMPANY), is_dropped[COMPANY] = {0}, wrong = -1;
        for (int i = 0; i < n; i++) {
            ask(&rows[i], rows, i, m->h.n_vocab);
            alone[i] = rows[i];
            lm_threads_set(1);
            run_alone(plain, &alone[i]);
            if (!rows[i].options.max_tokens) alone[i].finish = LM_FINISH_LENGTH;
        }
        lm_threads_set(1 + below(4));
        lm_prefix_limit(m, budgets[below(LM_COUNT(budgets))]);
        if (below(2)) forget(m);
        /* Sometimes there is room for a few sequences only; the others wait, or start over. */
        int is_short = !below(3);
        if (is_short) lm_mem_limit_set(lm_mem_used() + (1 << 20) + (uint64_t)below(1 << 20));
        run_company(m, rows, n, is_dropped, &err);
        lm_mem_limit_set(0);
        CHECK(!err.code, "case %d: %s", c, err.msg);
        for (int i = 0; i < n && wrong < 0 && !err.code; i++) {
            if (!is_dropped[i] && !same(&rows[i], &alone[i])) wrong = i;
        }
        CHECK(wrong < 0, "case %d: row %d of %d (prompt of %d, %d tokens, finish %d) differs from itself alone (%d tokens, finish %d)", c, wrong, n,
              rows[wrong < 0 ? 0 : wrong].n, rows[wrong < 0 ? 0 : wrong].out_n, rows[wrong < 0 ? 0 : wrong].finish,
              alone[wrong < 0 ? 0 : wrong].out_n, alone[wrong < 0 ? 0 : wrong].finish);
    }
    forget(m);
    CHECK(lm_mem_used() == start, "%lld bytes more than before", (long long)(lm_mem_used() - start));
}

/*----------------------------------------------------------------------
** What is kept, and how much. */
static void check_kept(lm_model *m) {
    row r = { .n = 200, .options = { .max_tokens = 10, .top_p = 1, .repeat_penalty = 1, .ignore_eog = 1 } };
    for (int i = 0; i < r.n; i++) r.ids[i] = (int32_t)(i * 7 % m->h.n_vocab);
    lm_prefix_limit(m, 1 << 20);
    forget(m);
    CHECK(lm_prefix_length(m, r.ids, r.n) == 0, "something is kept of nothing");
    run_alone(m, &r);
    memcpy(r.ids + r.n, r.out, 9 * sizeof *r.out);
    CHECK(lm_prefix_length(m, r.ids, r.n + 9) == 209, "%d positions of 209 are kept", lm_prefix_length(m, r.ids, 209));
    r.ids[150]++;
    CHECK(lm_prefix_length(m, r.ids, r.n) == 150, "%d positions agree, not 150", lm_prefix_length(m, r.ids, r.n));
    lm_kv kv;
    lm_kv_init(&kv, m, 0);
    lm_prefix_find(&kv, r.ids, r.n);
    CHECK(kv.n == 150 && kv.n_pages == 3, "%d positions in %d pages were found", kv.n, (int)kv.n_pages);
    uint64_t used = lm_mem_used();
    forget(m);                              /* what a sequence holds stays */
    CHECK(used - lm_mem_used() < 3 * lm_kv_page_bytes(&kv), "pages went that are in use");
    lm_kv_clear(&kv);
    lm_kv_init(&kv, m, 1);
    lm_prefix_find(&kv, r.ids, r.n);
    CHECK(kv.n == 0, "the exact path shares pages of halfs");
    used = lm_mem_used();
    lm_prefix_limit(m, 0);
    run_alone(m, &r);
    CHECK(lm_mem_used() == used, "a limit of 0 keeps something");
    lm_prefix_limit(m, 5 * lm_kv_page_bytes(&kv));      /* of floats: ten of halfs, with what stands around them nine */
    for (int i = 0; i < 20; i++) {
        r.ids[0] = i;
        run_alone(m, &r);
        CHECK(lm_mem_used() - used <= 5 * lm_kv_page_bytes(&kv), "more is kept than the limit says");
    }
    forget(m);
}

/* Equal prompts are computed once: as many passes for eight as for one, seen by how often stop is asked. */
static int n_asked, ask_limit;
static int count_asks(void *arg) {
    (void)arg;
    return ++n_asked == ask_limit;
}

static int is_near(int a, int b) { return 10 * abs(a - b) < b; }    /* slices of time make a few more, or less */

static int run_counted(lm_model *m, int n, uint64_t step, double temperature, lm_err *err) {
    int32_t ids[100];
    lm_token t;
    int n_tokens = 0;
    for (int i = 0; i < 100; i++) ids[i] = (int32_t)(i * 11 % m->h.n_vocab);
    lm_gen_options o = { .max_tokens = 20, .top_p = 1, .repeat_penalty = 1, .ignore_eog = 1, .temperature = temperature, .seed = 5 };
    n_asked = 0;
    lm_batch *b = lm_batch_new(m, err);
    for (int i = 0; i < n; i++, o.seed += step) lm_batch_add(b, ids, 100, &o, err);
    while (lm_batch_next(b, (lm_stop){ count_asks, NULL }, &t, err) == 1) n_tokens++;
    lm_batch_free(b);
    return n_tokens;
}

static void check_equal(lm_model *m) {
    lm_err err = {0};
    lm_threads_set(1);
    ask_limit = 0;
    lm_prefix_limit(m, 1 << 20);
    forget(m);
    CHECK(run_counted(m, 1, 0, 0, &err) == 20, "%s", err.msg);
    int one = n_asked;
    forget(m);
    CHECK(run_counted(m, 8, 1, 0, &err) == 160 && is_near(n_asked, one), "greedy: 8 equal prompts ask %d times, one %d", n_asked, one);
    forget(m);
    CHECK(run_counted(m, 8, 0, 1, &err) == 160 && is_near(n_asked, one), "one seed: 8 equal prompts ask %d times, one %d", n_asked, one);
    forget(m);
    CHECK(run_counted(m, 8, 1, 1, &err) == 160 && !is_near(n_asked, one), "fresh draws are taken for equal");
    /* Interrupted anywhere, what is kept stays sound. */
    static row alone, again;
    alone = (row){ .n = 100, .options = { .max_tokens = 30, .top_p = 1, .repeat_penalty = 1, .want_logprob = 1 } };
    for (int i = 0; i < 100; i++) alone.ids[i] = (int32_t)(i * 11 % m->h.n_vocab);
    forget(m);
    again = alone;
    run_alone(m, &alone);
    forget(m);
    for (int i = 1; i < one; i += 7) {
        lm_err stopped = {0};
        ask_limit = i;
        run_counted(m, 8, 1, 1, &stopped);
        CHECK(stopped.code == LM_INTERRUPT, "ask %d of %d did not stop it: %s", i, one, stopped.msg);
        row r = again;
        run_alone(m, &r);
        CHECK(same(&r, &alone), "after the interrupt at %d the text differs", i);
    }
    forget(m);
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "tests/golden/tiny.gguf";
    lm_model *m = open_model(path), *plain = open_model(path);
    CHECK(m && plain, "cannot open %s", path);
    if (m && plain) {
        lm_prefix_limit(plain, 0);
        check_company(m, plain);
        check_kept(m);
        check_equal(m);
    }
    lm_model_free(m);
    lm_model_free(plain);
    CHECK(lm_mem_used() == 0, "%llu bytes left", (unsigned long long)lm_mem_used());
    return finish_tests();
}

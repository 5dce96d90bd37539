/* lm_bench.c: one sequence, in tokens a second. Usage: lm_bench MODEL.gguf [pp tg at threads]
**
**     pp        pp512: prefill of 512 ids
**     tg        tg128: decoding of 128 tokens after one id
**     at        tg_at_128, _1024, _4096: decoding of 32 tokens after so many ids, as far as the model's context goes
**     threads   tg128_1: tg128 with one thread; tg128_crowded: with two that have one core between them
**
** Without words: all of them. Two threads where nothing else is said. */
#define _GNU_SOURCE
#include "../harness.h"

#include <sched.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds to the first token after n ids; *more gets those for the n_more that follow. */
static double measure(lm_model *m, int n, int n_more, double *more) {
    lm_err err = {0};
    lm_ids ids = {0};
    lm_token token;
    lm_gen_options o = { .max_tokens = n_more + 1, .top_p = 1, .repeat_penalty = 1, .ignore_eog = 1 };
    for (int i = 0; i < n; i++) lm_ids_append(&ids, (int32_t)((unsigned)i * 2654435761u % (unsigned)m->h.n_vocab), &err);
    lm_batch *b = lm_batch_new(m, &err);
    lm_batch_add(b, ids.data, ids.n, &o, &err);
    double start = now();
    lm_batch_next(b, (lm_stop){0}, &token, &err);
    double middle = now();
    for (int i = 0; i < n_more && lm_batch_next(b, (lm_stop){0}, &token, &err) == 1; i++) {}
    if (more) *more = now() - middle;
    if (err.code) printf("%s\n", err.msg);
    lm_batch_free(b);
    lm_ids_clear(&ids);
    return middle - start;
}

static double decode_rate(lm_model *m, int n, int n_more) {
    double more;
    measure(m, n, n_more, &more);
    return n_more / more;
}

/* In a process of its own, whose workers are born on the core that it is bound to. */
static double crowded_rate(lm_model *m) {
    double rate = 0;
    int ends[2];
    if (pipe(ends)) return 0;
    pid_t child = fork();
    if (child == 0) {
        cpu_set_t all, one;
        int cpu = 0;
        sched_getaffinity(0, sizeof all, &all);
        while (!CPU_ISSET(cpu, &all)) cpu++;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one);
        rate = decode_rate(m, 1, 128);
        _exit(write(ends[1], &rate, sizeof rate) != sizeof rate);
    }
    close(ends[1]);
    if (read(ends[0], &rate, sizeof rate) != sizeof rate) rate = 0;
    close(ends[0]);
    waitpid(child, NULL, 0);
    return rate;
}

static int is_wanted(int argc, char **argv, const char *what) {
    int wanted = argc == 2;
    for (int i = 2; i < argc; i++) wanted |= !strcmp(argv[i], what);
    return wanted;
}

int main(int argc, char **argv) {
    lm_model *m = argc > 1 ? open_model(argv[1]) : NULL;
    if (!m) return printf("usage: lm_bench MODEL.gguf [pp tg at threads]\n"), 1;
    lm_threads_set(2);
    measure(m, 64, 16, NULL);
    printf("{");
    if (is_wanted(argc, argv, "pp")) printf("\"pp512\": %.1f, ", 512 / measure(m, 512, 0, NULL));
    if (is_wanted(argc, argv, "tg")) printf("\"tg128\": %.1f, ", decode_rate(m, 1, 128));
    for (int n = 128; is_wanted(argc, argv, "at") && n <= 4096 && n + 33 <= m->h.n_ctx; n = n < 1024 ? 1024 : 4 * n) {
        printf("\"tg_at_%d\": %.1f, ", n, decode_rate(m, n, 32));
    }
    if (is_wanted(argc, argv, "threads")) {
        printf("\"tg128_crowded\": %.1f, ", crowded_rate(m));
        lm_threads_set(1);
        printf("\"tg128_1\": %.1f, ", decode_rate(m, 1, 128));
    }
    printf("\"kernels\": \"%s\", \"peak_mb\": %.1f}\n", lm_kernels(), (double)lm_mem_peak() / 1e6);
    lm_model_free(m);
    return 0;
}

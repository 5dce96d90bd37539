/* tok_bench.c: how fast a tokenizer is built, and how fast it encodes a text.
**
**     tok_bench MODEL.gguf|tokenizer.json TEXT [ROUNDS]
**     tok_bench MODEL.gguf|tokenizer.json -
**
** One thread. The median of the rounds is printed, with the fastest and the slowest. With "-" texts are read from the
** standard input, each behind a line with its length in bytes, and answered with a line of ids each, special tokens
** parsed and added: what tests/golden/check_hf_tok.py compares. */
#define _POSIX_C_SOURCE 200809L
#include "../tok_harness.h"

enum { ROUNDS_MAX = 99 };

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A file's metadata; a tokenizer.json is an entry of its own. */
static lm_meta *read_meta(const char *path, lm_err *err) {
    size_t n;
    lm_gguf *g = NULL;
    lm_meta *meta = NULL;
    maker m = { 0 };
    if (strlen(path) > 5 && !strcmp(path + strlen(path) - 5, ".json")) {
        char *json = read_whole(path, &n);
        if (!json) return lm_err_set(err, LM_ERROR, "%s: cannot be read", path), NULL;
        put_text(&m, "tokenizer.huggingface.json");
        put_le(&m, LM_META_TEXT, 4);
        put_le(&m, n, 8);
        put(&m, json, n);
        free(json);
    } else if ((g = lm_gguf_open(path, err))) {
        const lm_meta *all = lm_gguf_meta(g);
        for (size_t i = 0; i < lm_meta_count(all); i++) put(&m, lm_meta_at(all, i)->raw, lm_meta_at(all, i)->raw_n);
    }
    if (!err->code) meta = lm_meta_new(m.b.data, m.b.n, err);
    lm_gguf_close(g);
    lm_buf_clear(&m.b);
    return meta;
}

static void answer(const lm_tok *t, lm_err *err) {
    size_t n;
    lm_tok_options options = { .add_special = 1, .parse_special = 1 };
    while (scanf("%zu", &n) == 1 && !err->code) {
        lm_ids ids = { 0 };
        char *text = malloc(n + 1);
        getchar();
        n = fread(text, 1, n, stdin);
        lm_tok_encode(t, text, n, &options, 0, g_never, &ids, err);
        for (size_t i = 0; i < ids.n; i++) printf("%d ", ids.data[i]);
        putchar('\n');
        lm_ids_clear(&ids);
        free(text);
    }
}

static void measure(const lm_meta *meta, const char *text, size_t n, int rounds, lm_err *err) {
    double built[ROUNDS_MAX], encoded[ROUNDS_MAX], mb = (double)n * 1e-6;
    size_t n_ids = 0;
    uint64_t bytes = 0;
    for (int i = 0; i < rounds && !err->code; i++) {
        lm_ids ids = { 0 };
        uint64_t before = lm_mem_used();
        double start = cpu_seconds();
        lm_tok *t = lm_tok_new(meta, meta, err);
        built[i] = cpu_seconds() - start;
        bytes = lm_mem_used() - before;
        if (!t) return;
        start = cpu_seconds();
        lm_tok_encode(t, text, n, &g_plain, 0, g_never, &ids, err);
        encoded[i] = cpu_seconds() - start;
        n_ids = ids.n;
        lm_ids_clear(&ids);
        lm_tok_free(t);
    }
    qsort(built, (size_t)rounds, sizeof *built, compare);
    qsort(encoded, (size_t)rounds, sizeof *encoded, compare);
    printf("build   %.1f ms (%.1f to %.1f), %.1f MB\n", built[rounds / 2] * 1e3, built[0] * 1e3, built[rounds - 1] * 1e3,
           (double)bytes * 1e-6);
    printf("encode  %.1f MB/s (%.1f to %.1f), %.1f MB in %zu ids\n", mb / encoded[rounds / 2], mb / encoded[rounds - 1],
           mb / encoded[0], mb, n_ids);
}

int main(int argc, char **argv) {
    lm_err err = { 0 };
    size_t n = 0;
    int rounds = argc > 3 ? atoi(argv[3]) : 9;
    lm_meta *meta = argc > 2 && rounds >= 1 && rounds <= ROUNDS_MAX ? read_meta(argv[1], &err) : NULL;
    char *text = meta && strcmp(argv[2], "-") ? read_whole(argv[2], &n) : NULL;
    if (!meta || (!text && strcmp(argv[2], "-"))) {
        fprintf(stderr, "usage: tok_bench MODEL.gguf|tokenizer.json TEXT|- [ROUNDS]\n%s\n", err.msg);
        return 2;
    }
    lm_tok *t = text ? NULL : lm_tok_new(meta, meta, &err);
    if (text) measure(meta, text, n, rounds, &err);
    else if (t) answer(t, &err);
    lm_tok_free(t);
    lm_meta_free(meta);
    free(text);
    if (err.code) fprintf(stderr, "%s\n", err.msg);
    return err.code != 0;
}

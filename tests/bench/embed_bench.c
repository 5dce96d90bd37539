/* embed_bench.c: texts through an encoder one by one and packed, in rows a second: the median of ROUNDS (5) after one of
** a few texts that warms up. Usage: embed_bench FOLDER f32|q8_0 [IDS.jsonl|- [ROUNDS]]
**
** FOLDER is a Hugging Face folder, whose matrices are made q8_0 on the way in where that is asked. IDS.jsonl holds a text
** a line, as a JSON array of token ids; without it (-) stand 256 texts of 2 to 82 random ids. */
#define _GNU_SOURCE
#include "../harness.h"

#include <time.h>

enum { TEXTS_MAX = 4096, ROUNDS_MAX = 99, WARM = 64, THREADS = 2, Q8_0_BLOCK = 32, Q8_0_BYTES = 34 };

typedef struct { lm_hf *hf; int *was_f32; uint8_t *bytes; int tensor; } source;

/* 32 numbers to a block: d = amax/127 as a half, then a byte each. */
static void encode_q8_0(const float *x, uint8_t *out, int64_t n) {
    for (; n > 0; n -= Q8_0_BLOCK, x += Q8_0_BLOCK, out += Q8_0_BYTES) {
        float amax = 0;
        for (int i = 0; i < Q8_0_BLOCK; i++) amax = LM_MAX(amax, fabsf(x[i]));
        uint16_t d = lm_f32_to_f16(amax / 127);
        memcpy(out, &d, 2);
        for (int i = 0; i < Q8_0_BLOCK; i++) out[2 + i] = (uint8_t)(int8_t)(amax > 0 ? rintf(x[i] * (127 / amax)) : 0);
    }
}

static void read_tensor(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    source *s = arg;
    const lm_tensor *t = lm_hf_tensor(s->hf, i);
    if (!s->was_f32[i]) {
        lm_hf_read(s->hf, i, offset, dst, n, err);
        return;
    }
    if (s->tensor != i) {
        float *x = malloc((size_t)t->n_bytes);
        lm_hf_read(s->hf, i, 0, x, (size_t)t->n_bytes, err);
        s->bytes = realloc(s->bytes, (size_t)(t->n_params / Q8_0_BLOCK * Q8_0_BYTES));
        encode_q8_0(x, s->bytes, t->n_params);
        s->tensor = i;
        free(x);
    }
    memcpy(dst, s->bytes + offset, n);
}

static lm_model *open_encoder(const char *folder, int is_q8_0) {
    lm_err err = {0};
    lm_buf hparams = {0};
    lm_model *m = NULL;
    source s = { .hf = lm_hf_open(folder, &err), .tensor = -1 };
    int n = s.hf ? lm_hf_n_tensors(s.hf) : 0;
    lm_tensor *tensors = calloc((size_t)n + 1, sizeof *tensors);
    s.was_f32 = calloc((size_t)n + 1, sizeof *s.was_f32);
    for (int i = 0; i < n; i++) {
        tensors[i] = *lm_hf_tensor(s.hf, i);
        s.was_f32[i] = is_q8_0 && tensors[i].dtype == LM_F32 && tensors[i].n_dims == 2 && tensors[i].ne[0] % Q8_0_BLOCK == 0;
        if (s.was_f32[i]) tensors[i].dtype = LM_Q8_0;
        lm_tensor_measure(&tensors[i], &err);
    }
    const char *arch = lm_arch_import(s.hf ? lm_hf_meta(s.hf) : NULL, tensors, n, &hparams, &err);
    lm_source src = { arch, hparams.data, hparams.n, tensors, n, read_tensor, &s };
    if (!err.code) m = lm_model_open(&src, NULL, (lm_stop){0}, &err);
    if (!m) printf("%s: %s\n", folder, err.msg);
    lm_hf_close(s.hf);
    lm_buf_clear(&hparams);
    free(tensors);
    free(s.was_f32);
    free(s.bytes);
    return m;
}

/* Fill texts from a file, or at random. Return how many. */
static int read_texts(const char *path, lm_model *m, lm_ids *texts, lm_err *err) {
    FILE *f = path ? fopen(path, "rb") : NULL;
    char *line = NULL;
    size_t cap = 0;
    int n = 0;
    if (path && !f) lm_err_set(err, LM_ERROR, "%s: cannot open", path);
    for (; f && n < TEXTS_MAX && !err->code && getline(&line, &cap, f) > 0; n++) {
        lm_json j;
        lm_json_init(&j, line, strlen(line));
        if (lm_json_next(&j, err) != LM_JSON_ARRAY) lm_err_set(err, LM_ERROR, "%s: line %d is no array", path, n + 1);
        while (lm_json_next(&j, err) == LM_JSON_INT) lm_ids_append(&texts[n], (int32_t)j.integer, err);
        texts[n].n = LM_MIN(texts[n].n, (size_t)lm_model_n_text(m));
        lm_json_clear(&j);
    }
    for (unsigned t = 0, seed = 1; !path && t < 256; t++, n++) {
        for (unsigned i = 0; i < 2 + t * 37 % 81; i++) {
            seed = seed * 1664525u + 1013904223u;
            lm_ids_append(&texts[t], (int32_t)(seed >> 8) % m->h.n_vocab, err);
        }
    }
    if (f) fclose(f);
    free(line);
    return n;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Rows a second with so many texts a call. */
static double measure(lm_model *m, const lm_ids *texts, int n, int a_call, int rounds, float *out, lm_err *err) {
    lm_embed_options o = { .pooling = lm_model_pooling(m), .normalize = 1 };
    double rates[ROUNDS_MAX];
    for (int round = -1; round < rounds; round++) {
        double start = now();
        for (int t = 0; t < (round < 0 ? LM_MIN(n, WARM) : n); t += a_call) {
            lm_embed(m, texts + t, LM_MIN(a_call, n - t), &o, out + (size_t)t * (size_t)lm_model_n_embd(m), (lm_stop){0}, err);
        }
        if (round >= 0) rates[round] = n / (now() - start);
    }
    qsort(rates, (size_t)rounds, sizeof *rates, ascending);
    return rates[rounds / 2];
}

int main(int argc, char **argv) {
    static lm_ids texts[TEXTS_MAX];
    lm_err err = {0};
    int rounds = argc > 4 ? atoi(argv[4]) : 5;
    if (argc < 3 || rounds < 1 || rounds > ROUNDS_MAX) return printf("usage: embed_bench FOLDER f32|q8_0 [IDS.jsonl|- [ROUNDS]]\n"), 1;
    lm_model *m = open_encoder(argv[1], !strcmp(argv[2], "q8_0"));
    if (!m) return 1;
    lm_threads_set(THREADS);
    int n = read_texts(argc > 3 && strcmp(argv[3], "-") ? argv[3] : NULL, m, texts, &err);
    size_t tokens = 0, floats = (size_t)n * (size_t)lm_model_n_embd(m);
    float *alone = calloc(floats + 1, sizeof *alone), *packed = calloc(floats + 1, sizeof *packed);
    double one = measure(m, texts, n, 1, rounds, alone, &err), all = measure(m, texts, n, n, rounds, packed, &err);
    for (int t = 0; t < n; t++) tokens += texts[t].n;
    if (memcmp(alone, packed, floats * sizeof *alone)) lm_err_set(&err, LM_ERROR, "vectors differ between the two forms");
    if (err.code) return printf("%s\n", err.msg), 1;
    printf("{\"embed_one\": %.1f, \"embed_packed\": %.1f, \"texts\": %d, \"tokens\": %zu, \"kernels\": \"%s\", \"peak_mb\": %.1f}\n", one, all, n, tokens,
           lm_kernels(), (double)lm_mem_peak() / 1e6);
    for (int t = 0; t < n; t++) lm_ids_clear(&texts[t]);
    free(alone);
    free(packed);
    lm_model_free(m);
    return 0;
}

/* fuzz_test.c: the fuzz targets without a fuzzer: over the inputs that fuzzing begins with (tests/fuzz/seeds.tcl) and those that the
** tree keeps (tests/fuzz/<target>/, among them all that a fuzzer found), and over every model and tokenizer of tests/golden, cut at every byte of its header, and with a bit of each
** flipped. A target ends the program if anything is wrong; what is cut must also be refused.
**
** The long lists in a file's middle (vocabularies, merges) are gone through in steps; SPOIL=all takes every byte. */
#define _GNU_SOURCE
#include "harness.h"

#include <glob.h>
#include <sys/stat.h>

typedef int target(const uint8_t *data, size_t n);
target fuzz_gguf, fuzz_safetensors, fuzz_tokenizer_json, fuzz_tokenizer_text, fuzz_database_rows, fuzz_sql_arguments;

int fuzz_opened, fuzz_shallow;

static const struct { const char *name; target *run; } targets[] = {
    { "gguf", fuzz_gguf }, { "safetensors", fuzz_safetensors }, { "tokenizer_json", fuzz_tokenizer_json },
    { "tokenizer_text", fuzz_tokenizer_text }, { "database_rows", fuzz_database_rows }, { "sql_arguments", fuzz_sql_arguments },
};

static uint8_t *read_whole(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st)) return NULL;
    uint8_t *data = malloc((size_t)st.st_size + 1);
    *n = fread(data, 1, (size_t)st.st_size, f);
    fclose(f);
    return data;
}

static void each_file(const char *pattern, void (*visit)(const char *path, const uint8_t *data, size_t n, void *arg), void *arg) {
    glob_t found;
    if (glob(pattern, 0, NULL, &found)) return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        size_t n = 0;
        uint8_t *data = read_whole(found.gl_pathv[i], &n);
        CHECK(data, "%s cannot be read", found.gl_pathv[i]);
        if (data) visit(found.gl_pathv[i], data, n, arg);
        free(data);
    }
    globfree(&found);
}

/*----------------------------------------------------------------------
** What fuzzing begins with */
typedef struct { target *run; size_t n; } kept;

static void run_kept(const char *path, const uint8_t *data, size_t n, void *arg) {
    kept *k = arg;
    CHECK(k->run(data, n) == 0, "%s", path);
    k->n++;
}

/*----------------------------------------------------------------------
** Good files spoilt */
enum { DEEP = 32, LONG_STEP = 61 };     /* every so manieth spoilt file that still opens is used; bytes of a list taken in one step */

static size_t g_n_inputs;
static int g_is_all;

/* [list, list_end): the long list. */
static void spoil(const char *path, target *run, const uint8_t *good, size_t n, size_t header, size_t list, size_t list_end) {
    uint8_t *data = malloc(n);
    size_t count = 0, cuts_opened = 0;
    memcpy(data, good, n);
    fuzz_shallow = 0;
    run(data, n);
    CHECK(fuzz_opened, "%s: is no good file", path);
    for (size_t i = 0; i < header; i += i >= list && i < list_end && !g_is_all ? LONG_STEP : 1, count++) {
        fuzz_shallow = count % DEEP != 0;
        run(data, i);
        cuts_opened += (size_t)fuzz_opened;
        data[i] ^= (uint8_t)(1 << count % 8);
        run(data, n);
        data[i] = good[i];
    }
    CHECK(!cuts_opened, "%s: opened %zu times when cut", path, cuts_opened);
    g_n_inputs += 2 * count;
    free(data);
}

static size_t find(const uint8_t *data, size_t n, const char *text) {
    const uint8_t *at = memmem(data, n, text, strlen(text));
    return at ? (size_t)(at - data) : n;
}

/* All but the tensors' bytes is header; the vocabulary is the list. */
static void spoil_gguf(const char *path, const uint8_t *data, size_t n, void *arg) {
    lm_err err = {0};
    (void)arg;
    lm_gguf *g = lm_gguf_open(path, &err);
    size_t header = n, list = find(data, n, "tokenizer.ggml.tokens");
    for (int i = 0; g && i < lm_gguf_n_tensors(g); i++) header -= ((size_t)lm_gguf_tensor(g, i)->n_bytes + 31) / 32 * 32;
    spoil(path, fuzz_gguf, data, n, header, list + 64, header - 2048);
    lm_gguf_close(g);
}

/* A folder: its config.json in a line, and a line feed before. */
static void spoil_folder(const char *path, const uint8_t *data, size_t n, void *arg) {
    char config_path[200];
    size_t config_n = 0;
    (void)arg;
    snprintf(config_path, sizeof config_path, "%.*s/config.json", (int)(strrchr(path, '/') - path), path);
    uint8_t *config = read_whole(config_path, &config_n), *both = malloc(config_n + 1 + n);
    for (size_t i = 0; i < config_n; i++) both[i] = config[i] == '\n' ? ' ' : config[i];
    both[config_n] = '\n';
    memcpy(both + config_n + 1, data, n);
    uint64_t header;
    memcpy(&header, data, 8);
    spoil(path, fuzz_safetensors, both, config_n + 1 + n, config_n + 1 + 8 + (size_t)header, config_n + 512, config_n + 8 + (size_t)header - 512);
    free(config);
    free(both);
}

static void spoil_json(const char *path, const uint8_t *data, size_t n, void *arg) {
    (void)arg;
    if (strstr(path, "cases.json")) return;
    while (n && data[n - 1] <= ' ') n--;
    size_t map = find(data, n, "precompiled_charsmap"), vocab = find(data, n, "\"vocab\"");
    spoil(path, fuzz_tokenizer_json, data, n, n, (map < vocab ? map : vocab) + 64, n - 64);
}

int main(void) {
    g_is_all = getenv("SPOIL") && !strcmp(getenv("SPOIL"), "all");
    CHECK(system("tclsh tests/fuzz/seeds.tcl build/seeds") == 0, "tests/fuzz/seeds.tcl failed");
    for (int i = 0; i < LM_COUNT(targets); i++) {
        char pattern[80];
        kept k = { targets[i].run, 0 };
        snprintf(pattern, sizeof pattern, "build/seeds/%s/*", targets[i].name);
        each_file(pattern, run_kept, &k);
        snprintf(pattern, sizeof pattern, "tests/fuzz/%s/*", targets[i].name);
        each_file(pattern, run_kept, &k);
        CHECK(k.n, "%s: no seed", targets[i].name);
    }
    each_file("tests/golden/*.gguf", spoil_gguf, NULL);
    each_file("tests/golden/hf_*/model.safetensors", spoil_folder, NULL);
    each_file("tests/golden/hf_tok/*.json", spoil_json, NULL);
    CHECK(g_n_inputs > 50000, "only %zu inputs", g_n_inputs);
    printf("%zu spoilt files\n", g_n_inputs);
    return finish_tests();
}

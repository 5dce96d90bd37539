/* safetensors.c: a Hugging Face folder: config.json, a line feed, model.safetensors. */
#include "fuzz.h"

static void read_hf(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) { lm_hf_read(arg, i, offset, dst, n, err); }

static void write_whole(const char *folder, const char *name, const uint8_t *data, size_t n) {
    char path[96];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    MUST(f && fwrite(data, 1, n, f) == n && !fclose(f), "cannot write %s", path);
}

static void remove_folder(void);
static char g_folder[40];

static const char *new_folder(void) {
    if (*g_folder) return g_folder;
    snprintf(g_folder, sizeof g_folder, "%s/lm_fuzz_XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    MUST(mkdtemp(g_folder), "no folder %s", g_folder);
    atexit(remove_folder);
    return g_folder;
}

static void remove_folder(void) {
    static const char *const names[] = { "/config.json", "/model.safetensors", "" };
    for (int i = 0; i < 3; i++) {
        char path[96];
        snprintf(path, sizeof path, "%s%s", g_folder, names[i]);
        remove(path);
    }
}

/* The tensors as the file has them. */
static void read_tensors(const char *folder, size_t n) {
    char path[96];
    lm_err err = {0};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    lm_safetensors *s = lm_safetensors_open(path, &err);
    uint8_t *bytes = malloc(n + 1);
    for (int i = 0; s && i < lm_safetensors_n_tensors(s); i++) {
        const lm_tensor *t = lm_safetensors_tensor(s, i);
        MUST(t->n_bytes > 0 && (size_t)t->n_bytes <= n, "%s: %lld bytes of %zu", t->name, (long long)t->n_bytes, n);
        lm_safetensors_read(s, i, 0, bytes, (size_t)t->n_bytes, &err);
        MUST(!err.code, "%s", err.msg);
    }
    free(bytes);
    fuzz_error(&err);
    lm_safetensors_close(s);
}

FUZZ(safetensors)(const uint8_t *data, size_t n) {
    uint64_t used = fuzz_begin();
    lm_err err = {0};
    const uint8_t *cut = n ? memchr(data, '\n', n) : NULL;
    size_t config_n = cut ? (size_t)(cut - data) : n, rest = cut ? config_n + 1 : n;
    const char *folder = new_folder();
    write_whole(folder, "config.json", data, config_n);
    write_whole(folder, "model.safetensors", data + rest, n - rest);
    read_tensors(folder, n);
    lm_hf *hf = lm_hf_open(folder, &err);
    fuzz_opened = hf != NULL;
    if (hf) {
        int count = lm_hf_n_tensors(hf);
        lm_tensor *tensors = malloc(sizeof *tensors * (size_t)(count + 1));
        for (int i = 0; i < count; i++) tensors[i] = *lm_hf_tensor(hf, i);
        fuzz_model(lm_hf_meta(hf), tensors, count, read_hf, hf, &err);
        free(tensors);
    }
    fuzz_error(&err);
    lm_hf_close(hf);
    return fuzz_end(used);
}

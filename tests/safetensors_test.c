/* safetensors_test.c: files as they should be, and files that lie. */
#include "harness.h"


static const char g_path[] = "build/tmp/test.safetensors";

/* Write a file: the header's stated length (0: its own), the header, zeros as data. */
static void write_file(uint64_t stated, const char *header, size_t header_n, size_t data_n) {
    FILE *f = fopen(g_path, "wb");
    uint64_t n = stated ? stated : header_n;
    if (!f) return;
    fwrite(&n, 8, 1, f);
    fwrite(header, 1, header_n, f);
    for (size_t i = 0; i < data_n; i++) fputc((int)i, f);
    fclose(f);
}

/* want NULL: it opens. Either way quickly, and in little memory. */
static void check(int line, uint64_t stated, const char *header, size_t data_n, const char *want) {
    lm_err err = {0};
    double start = cpu_seconds();
    write_file(stated, header, strlen(header), data_n);
    lm_safetensors *s = lm_safetensors_open(g_path, &err);
    CHECK(want ? !s && strstr(err.msg, want) : s != NULL, "(from line %d) '%s', wanted '%s'", line, err.msg, want ? want : "no error");
    CHECK(cpu_seconds() - start < 1, "(from line %d) took too long", line);
    CHECK(lm_mem_peak() < 64 << 20, "(from line %d) took %llu bytes", line, (unsigned long long)lm_mem_peak());
    lm_safetensors_close(s);
}
#define REFUSED(stated, header, data_n, want) check(__LINE__, stated, header, data_n, want)

#define T(name, dtype, shape, begin, end) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void test_good(void) {
    lm_err err = {0};
    uint8_t bytes[8];
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("b.weight", "F16", "[2,3]", "8", "20") ","
        T("a", "F32", "[2]", "0", "8") "," T("ids", "I64", "[1]", "20", "28") "," T("s", "F32", "[]", "28", "32") "}   ";
    write_file(0, header, sizeof header - 1, 32);
    lm_safetensors *s = lm_safetensors_open(g_path, &err);
    CHECK(s && lm_safetensors_n_tensors(s) == 4, "%s", err.msg);
    if (!s) return;
    const lm_tensor *t = lm_safetensors_tensor(s, 0);
    CHECK(!strcmp(t->name, "b.weight") && t->dtype == LM_F16 && t->n_dims == 2 && t->ne[0] == 3 && t->ne[1] == 2 && t->n_bytes == 12, "b.weight");
    CHECK(lm_safetensors_tensor(s, 2)->dtype == LM_OTHER && lm_safetensors_tensor(s, 3)->n_params == 1, "ids, s");
    lm_safetensors_read(s, 0, 4, bytes, 8, &err);
    CHECK(!err.code && bytes[0] == 12 && bytes[7] == 19, "reading b.weight: %s", err.msg);
    lm_safetensors_read(s, 0, 5, bytes, 8, &err);
    CHECK(err.code, "reading past b.weight's end");
    lm_safetensors_close(s);
    check(__LINE__, 0, "{}", 0, NULL);
}

static void test_lies(void) {
    REFUSED((uint64_t)1 << 63, "{}", 0, "header of 9223372036854775808 bytes");
    REFUSED(UINT64_MAX, "{}", 0, "header of 18446744073709551615 bytes");
    REFUSED(3, "{}", 0, "header of 3 bytes");
    REFUSED(0, "", 0, "JSON");
    REFUSED(0, "[]", 0, "expected a JSON object");
    REFUSED(0, "{\"a\":1}", 0, "tensor a: expected an object");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "8") "," T("a", "F32", "[2]", "8", "16") "}", 16, "duplicate key");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "8") "," T("b", "F32", "[2]", "4", "12") "}", 12, "tensor b begins at byte 4 of the data, inside another");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "8") "," T("b", "F32", "[2]", "12", "20") "}", 20, "after a hole");
    REFUSED(0, "{" T("a", "F32", "[2]", "4", "12") "}", 12, "after a hole");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "8") "}", 9, "1 bytes after the last tensor");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "8") "}", 7, "the data has 7 bytes");
    REFUSED(0, "{" T("a", "F32", "[2]", "8", "0") "}", 8, "data_offsets [8,0]");
    REFUSED(0, "{" T("a", "F32", "[3]", "0", "8") "}", 8, "hold 8 bytes, its shape and dtype F32 make 12");
    REFUSED(0, "{" T("a", "F32", "[4611686018427387904,2]", "0", "8") "}", 8, "over 2^63");
    REFUSED(0, "{" T("a", "F32", "[-1]", "0", "8") "}", 8, "expected whole numbers");
    REFUSED(0, "{" T("a", "F32", "[0]", "0", "0") "}", 0, "at least 1");
    REFUSED(0, "{" T("a", "F32", "[1,1,1,1,2]", "0", "8") "}", 8, "more than 4");
    REFUSED(0, "{" T("a", "F33", "[2]", "0", "8") "}", 8, "unknown dtype F33");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "18446744073709551624") "}", 8, "tensor a");
    REFUSED(0, "{" T("a", "F32", "[2]", "-8", "0") "}", 8, "expected whole numbers");
    REFUSED(0, "{" T("", "F32", "[2]", "0", "8") "}", 8, "tensor name");
    REFUSED(0, "{" T("a'b", "F32", "[2]", "0", "8") "}", 8, "tensor name");
    REFUSED(0, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 0, "wanted dtype, shape and two data_offsets");
    REFUSED(0, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 0, "wanted dtype");
    REFUSED(0, "{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "shape: expected an array");
    REFUSED(0, "{\"a\":{\"x\":1}}", 0, "unexpected member");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "8"), 8, "JSON");
    REFUSED(0, "{" T("a", "F32", "[2]", "0", "8") "} x", 8, "JSON");
    char *deep = malloc(200001);
    memset(deep, '[', 100000);
    memset(deep + 100000, ']', 100000);
    deep[200000] = 0;
    REFUSED(0, deep, 0, "expected a JSON object");
    memcpy(deep, "{\"__metadata__\":", 16);
    REFUSED(0, deep, 0, "JSON");
    free(deep);
    lm_err err = {0};
    CHECK(!lm_safetensors_open("build/tmp", &err) && strstr(err.msg, "a directory"), "%s", err.msg);
    err = (lm_err){0};
    CHECK(!lm_safetensors_open("build/tmp/nothing", &err) && strstr(err.msg, "No such file"), "%s", err.msg);
}

/* Every byte of a good header changed in turn: an error or a file, never harm. */
static void test_mutations(void) {
    static const char good[] = "{\"__metadata__\":{\"f\":\"p\"}," T("b", "F16", "[2,3]", "8", "20") "," T("a", "F32", "[2]", "0", "8") "}";
    char header[sizeof good];
    uint32_t seed = 7;
    for (size_t i = 0; i < 4 * (sizeof good - 1); i++) {
        lm_err err = {0};
        memcpy(header, good, sizeof good);
        seed = seed * 1664525 + 1013904223;
        header[i / 4] = (char)(i % 4 ? "0]}\""[i % 4] : (char)(seed >> 24));
        write_file(0, header, sizeof good - 1, 20);
        lm_safetensors *s = lm_safetensors_open(g_path, &err);
        CHECK(s || err.code, "neither a file nor an error");
        for (int t = 0; s && t < lm_safetensors_n_tensors(s); t++) {
            uint8_t bytes[64];
            int64_t n = lm_safetensors_tensor(s, t)->n_bytes;
            CHECK(n <= 20, "a tensor of %lld bytes", (long long)n);
            lm_safetensors_read(s, t, 0, bytes, (size_t)n, &err);
        }
        lm_safetensors_close(s);
    }
}

int main(void) {
    test_good();
    test_lies();
    test_mutations();
    remove(g_path);
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
    return finish_tests();
}

/* base_test.c: the engine's own functions against long double, halfs, hashes, the JSON reader, the pool. */
#define _GNU_SOURCE
#include "harness.h"

#include <time.h>

static uint64_t state = 1;
static double uniform(void) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(state >> 11) * 0x1p-53;
}

static double ulps(double got, long double want) {
    double unit = nextafter(fabs((double)want), INFINITY) - fabs((double)want);
    return (double)fabsl((long double)got - want) / unit;
}

static void check_math(void) {
    double e = 0, l = 0, s = 0, p = 0;
    for (int i = 0; i < 300000; i++) {
        double x = (uniform() - 0.5) * 1400, y = exp((uniform() - 0.5) * 1000), angle = uniform() * 1e6, sine, cosine;
        double base = 1 + uniform() * 1e6, power = -uniform() * 2;
        e = fmax(e, ulps(lm_exp(x), expl(x)));
        l = fmax(l, ulps(lm_log(y), logl(y)));
        lm_sincos(angle, &sine, &cosine);
        s = fmax(s, fmax((double)fabsl(sine - sinl(angle)), (double)fabsl(cosine - cosl(angle))));
        p = fmax(p, fabs((double)(lm_pow(base, power) / powl(base, power) - 1)));
    }
    printf("largest errors: exp %.2f ulp, log %.2f ulp, sine and cosine %.2g, pow %.2g\n", e, l, s, p);
    CHECK(e < 2 && l < 2 && s < 3e-16 && p < 1e-13, "a function is less exact than math.c says");
    CHECK(lm_exp(0) == 1 && lm_exp(-1000) == 0 && isinf(lm_exp(1000)) && isinf(lm_log(0)) && lm_log(1) == 0, "special arguments");
}

static void check_halfs(void) {
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t back = lm_f32_to_f16(lm_f16_to_f32((uint16_t)h));
        wrong += (h & 0x7FFF) > 0x7C00 ? (back & 0x7FFF) <= 0x7C00 : back != h;
    }
    CHECK(!wrong, "%d halfs change on the way to float and back", wrong);
    CHECK(lm_f32_to_f16(1.00048828125f) == 0x3C00 && lm_f32_to_f16(1.00146484375f) == 0x3C02, "ties go to even");
    CHECK(lm_f32_to_f16(65519.0f) == 0x7BFF && lm_f32_to_f16(65520.0f) == 0x7C00, "overflow");
}

/* SipHash-1-3 as CPython 3.11 has it (PYTHONHASHSEED=0: a key of zeros), and a secret. */
static void check_hash(void) {
    static const struct { const char *text; uint64_t want; } cases[] = {
        { "a", 0x407448D2B89B1813 }, { "abc", 0xC03BC3A0042630F2 }, { "abcdefg", 0x6DB12AAE9070F506 },
        { "abcdefgh", 0x3F7B849C0B8E35EA }, { "abcdefghijklmnopqrstuvw", 0xD9C26100B33EE39C },
    };
    const uint64_t zeros[2] = {0};
    for (int i = 0; i < LM_COUNT(cases); i++) {
        const char *text = cases[i].text;
        uint64_t got = lm_hash_keyed(zeros, text, strlen(text));
        CHECK(got == cases[i].want, "the hash of '%s' is %llx", text, (unsigned long long)got);
        CHECK(lm_hash_bytes(text, strlen(text)) != got && lm_hash_bytes(text, strlen(text)) == lm_hash_bytes(text, strlen(text)), "a secret of the process");
    }
    CHECK(lm_hash_pair(1, 2) == lm_hash_pair(1, 2) && lm_hash_pair(1, 2) != lm_hash_pair(2, 1), "pairs");
}

/* Walk a document; return 1 when it is good. */
static int is_json(const char *text, size_t n) {
    lm_err err = {0};
    lm_json j;
    lm_json_init(&j, text, n);
    lm_json_skip(&j, lm_json_next(&j, &err), &err);
    if (!err.code && lm_json_next(&j, &err) != LM_JSON_END) err.code = LM_ERROR;
    lm_json_clear(&j);
    return !err.code;
}

static void check_json(void) {
    static const char *const good[] = { "{}", "[]", " [1, -0, 0.5e-3, 1E308, true, null, \"\\u00e9\\ud83d\\ude42\"] ", "{\"a\":{\"a\":1},\"b\":[{\"a\":2}]}", "9223372036854775807", "-9223372036854775807",
                                        "9223372036854775808", "1e+5", "1E-400", "0e9999999", "123456789012345678901234567890.5", "\"\\uABcd\\uDBFF\\udfff\"" };
    static const char *const bad[] = { "", "{", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "{\"a\" 1}", "[1 2]", "01", "1.", "-", "1e309", "\"\\x\"",
                                       "\"\\ud800\"", "\"\xC3\"", "\"a\nb\"", "[] []", "tru", "{1:2}", "\"", "]",
                                       "\"\\", "\"\\u", "\"\\u12", "\"\\u12g4\"", "\"\\u12/4\"", "\"\\u12@4\"", "\"\\u12`4\"", "\"\\udc00\"", "\"\\ud800\\u0041\"",
                                       "\"\\ud800\\ue000\"", "\"\\ud800\\n\"", "1e", "1e+", "1e-", "1ex", "-x", "1.x", "-1e400", "00", "-01" };
    char deep[200];
    for (int i = 0; i < LM_COUNT(good); i++) CHECK(is_json(good[i], strlen(good[i])), "refused: %s", good[i]);
    for (int i = 0; i < LM_COUNT(bad); i++) CHECK(!is_json(bad[i], strlen(bad[i])), "accepted: %s", bad[i]);
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    CHECK(!is_json(deep, 200) && is_json(deep + 60, 80), "depth");
}

/* Seconds of processor time to read an object of n keys: any, or such as lie side by side in a table whose hash is FNV-1a. */
static double read_keys(int n, int are_chosen) {
    lm_buf text = {0};
    lm_err err = {0};
    uint64_t slots = 2;
    while (slots < 2 * (uint64_t)(n + 1)) slots *= 2;
    lm_buf_print(&text, &err, "{");
    for (int k = 0, made = 0; made < n; k++) {
        char key[20];
        uint64_t hash = 0xCBF29CE484222325ull ^ 0x9E3779B97F4A7C15ull;
        snprintf(key, sizeof key, "%x", k);
        for (char *c = key; *c; c++) hash = (hash ^ (uint8_t)*c) * 0x100000001B3ull;
        hash ^= hash >> 29;
        if (are_chosen && (hash & (slots - 1)) >= slots / 8) continue;
        lm_buf_print(&text, &err, "%s\"%s\":0", made++ ? "," : "", key);
    }
    lm_buf_print(&text, &err, "}");
    double start = cpu_seconds();
    CHECK(is_json(text.data, text.n), "an object of %d keys", n);
    double took = cpu_seconds() - start;
    lm_buf_clear(&text);
    return took;
}

static _Atomic int counts[257];
static int asked;
static void count_item(void *arg, int i) { (void)arg, counts[i]++; }
static int nested_ask(void *arg) {
    lm_err err = {0};
    (void)arg;
    asked++;
    lm_pool_run(count_item, NULL, 3, (lm_stop){0}, &err);
    return asked > 3;
}

/* Items that outlast a slice many times over: the caller gives the pool up in between. */
static void count_slowly(void *arg, int i) {
    struct timespec t = { 0, 1000000 };
    nanosleep(&t, NULL);
    count_item(arg, i);
}

static int never(void *arg) { return (void)arg, 0; }

static void check_pool(void) {
    int wrong = 0;
    lm_err err = {0};
    for (int threads = 1; threads <= 4; threads++) {
        lm_threads_set(threads);
        for (int n = 1; n <= 257; n++) {
            memset((void *)counts, 0, sizeof counts);
            lm_pool_run(count_item, NULL, n, (lm_stop){0}, &err);
            for (int i = 0; i < 257; i++) wrong += counts[i] != (i < n);
        }
    }
    for (int threads = 1; threads <= 4; threads++) {
        lm_threads_set(threads);
        memset((void *)counts, 0, sizeof counts);
        lm_pool_run(count_slowly, NULL, 60, (lm_stop){ never, NULL }, &err);
        for (int i = 0; i < 257; i++) wrong += counts[i] != (i < 60);
    }
    CHECK(!wrong && !err.code, "%d items not run exactly once", wrong);
    for (int i = 0; i < 10 && !err.code; i++) lm_pool_run(count_item, NULL, 5, (lm_stop){ nested_ask, NULL }, &err);
    CHECK(err.code == LM_INTERRUPT && asked == 4, "stop, and a section inside it");
}

int main(void) {
    lm_err err = {0};
    check_math();
    check_halfs();
    check_hash();
    check_json();
    double any = read_keys(60000, 0), chosen = read_keys(60000, 1);
    CHECK(chosen < 4 * any + 0.1, "60,000 chosen keys took %.3f s, others %.3f", chosen, any);
    check_pool();
    lm_mem_limit_set(1000);
    CHECK(!lm_alloc(2000, &err) && err.code == LM_NOMEM && lm_mem_used() == 0, "memory limit");
    return finish_tests();
}

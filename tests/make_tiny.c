/* make_tiny.c: write tests/golden/tiny.gguf, a small random language model of the LLaMA architecture.
**
**     make_tiny OUT.gguf [f32|q8_0|q4_0|q4_1]
**
** The model has all the parts of a real one (grouped-query attention, rope, gated feed-forward, tied head,
** byte-level BPE, a chat template) at a size that can lie in the repository and be checked by hand. Its
** weights are noise, so its text is too, but varied noise: no token follows itself for ever. With another
** number format the same weights are written rounded to it.
**
** The file is the same byte for byte wherever it is made: integers, + - * / and no libm. It uses nothing of
** the engine, which reads what it writes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_EMBD = 64, N_LAYERS = 2, N_HEADS = 4, N_KV_HEADS = 2, HEAD = N_EMBD / N_HEADS, N_KV = N_KV_HEADS * HEAD,
    N_FF = 32, N_CTX = 256, ALIGN = 32, BLOCK = 32, N_BYTES = 256, N_SPECIALS = 3, TENSORS_MAX = 32
};

enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, TEXT = 8, ARRAY = 9 };     /* value types of GGUF */
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3 };                             /* token types */

static const uint64_t SEED = 0x74696E79;                                /* "tiny" */

/* Weights' standard deviations. The head is the embedding: were the layers' part in the stream not much
** larger than the embedding's, every token would predict itself. */
static const double STD_EMBD = 0.25, STD_LAYER = 0.35;

static const char *const g_specials[N_SPECIALS] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };

/* Frequent pairs of English, most urgent first; each half is a byte or stands above. */
static const char *const g_merges[][2] = {
    { " ", "t" }, { "h", "e" }, { " ", "a" }, { "i", "n" }, { "r", "e" }, { "o", "n" }, { " t", "he" }, { "e", "r" },
    { " ", "s" }, { "a", "t" }, { " ", "w" }, { " ", "o" }, { "e", "n" }, { " ", "c" }, { "i", "t" }, { "i", "s" },
    { "a", "n" }, { "o", "r" }, { "e", "s" }, { " ", "b" }, { "e", "d" }, { " ", "f" }, { "in", "g" }, { " ", "p" },
    { "o", "u" }, { " a", "n" }, { "a", "l" }, { "a", "r" }, { " t", "o" }, { " ", "m" }, { " o", "f" }, { " ", "in" },
    { " ", "d" }, { " ", "h" }, { " an", "d" }, { "i", "c" }, { "a", "s" }, { "l", "e" }, { " t", "h" }, { "i", "on" },
    { "o", "m" }, { "l", "l" }, { "en", "t" }, { " ", "n" }, { " ", "l" }, { "s", "t" }, { " ", "re" }, { "v", "e" },
};

static const char g_template[] =
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}";

static void die(const char *what) {
    fprintf(stderr, "make_tiny: %s\n", what);
    exit(1);
}

/*----------------------------------------------------------------------
** Growing bytes */

typedef struct { uint8_t *data; size_t n, cap; } bytes;

static void put(bytes *b, const void *data, size_t n) {
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n);
        b->data = realloc(b->data, b->cap);
        if (!b->data) die("out of memory");
    }
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_le(bytes *b, uint64_t x, int n) {
    for (int i = 0; i < n; i++) put(b, &(uint8_t){ (uint8_t)(x >> 8 * i) }, 1);
}

static void put_text(bytes *b, const char *text) {
    put_le(b, strlen(text), 8);
    put(b, text, strlen(text));
}

static void put_float(bytes *b, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    put_le(b, bits, 4);
}

/*----------------------------------------------------------------------
** Number formats */

typedef struct { const char *name; int id, file_type; void (*put_row)(bytes *b, const float *x, int n); } format;

/* The f16 nearest to x, ties to even; x is far from overflow. */
static uint16_t half_of(float x) {
    uint16_t sign = x < 0 ? 0x8000 : 0;
    double rest = x < 0 ? -(double)x : (double)x, unit = 1.0 / 16777216;   /* 2^-24: a subnormal's step */
    int exponent = 0;
    while (rest / unit >= 2048) {
        unit *= 2;
        exponent++;
    }
    int whole = (int)(rest / unit);
    double left = rest / unit - whole;
    whole += left > 0.5 || (left == 0.5 && whole % 2);
    /* A mantissa of 2048 carries into the exponent by itself; one of 1024 and up brings the hidden bit. */
    return (uint16_t)(sign | (exponent * 1024 + whole));
}

static float value_of(uint16_t half) {
    int exponent = half >> 10 & 31, whole = half & 1023;
    double x = whole + (exponent ? 1024 : 0);
    for (int e = exponent ? exponent : 1; e < 25; e++) x /= 2;
    for (int e = 25; e < exponent; e++) x *= 2;
    return (float)(half & 0x8000 ? -x : x);
}

static int rounded(float x) { return (int)(x < 0 ? x - 0.5f : x + 0.5f); }
static int limited(int q, int most) { return q < 0 ? 0 : q > most ? most : q; }

static void put_f32_row(bytes *b, const float *x, int n) {
    for (int i = 0; i < n; i++) put_float(b, x[i]);
}

static void put_q8_0_row(bytes *b, const float *x, int n) {
    for (; n > 0; x += BLOCK, n -= BLOCK) {
        float most = 0;
        for (int i = 0; i < BLOCK; i++) {
            float size = x[i] < 0 ? -x[i] : x[i];
            if (size > most) most = size;
        }
        uint16_t d = half_of(most / 127);
        float scale = value_of(d);
        put_le(b, d, 2);
        for (int i = 0; i < BLOCK; i++) put_le(b, (uint8_t)rounded(scale > 0 ? x[i] / scale : 0), 1);
    }
}

static void put_nibbles(bytes *b, const int *q) {
    for (int i = 0; i < BLOCK / 2; i++) put_le(b, (uint64_t)(q[i] | q[i + BLOCK / 2] << 4), 1);
}

/* The element of largest size becomes -8 times the scale exactly. */
static void put_q4_0_row(bytes *b, const float *x, int n) {
    for (; n > 0; x += BLOCK, n -= BLOCK) {
        float widest = 0;
        int q[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            if ((x[i] < 0 ? -x[i] : x[i]) > (widest < 0 ? -widest : widest)) widest = x[i];
        }
        uint16_t d = half_of(widest / -8);
        float scale = value_of(d);
        for (int i = 0; i < BLOCK; i++) q[i] = limited(8 + rounded(scale != 0 ? x[i] / scale : 0), 15);
        put_le(b, d, 2);
        put_nibbles(b, q);
    }
}

static void put_q4_1_row(bytes *b, const float *x, int n) {
    for (; n > 0; x += BLOCK, n -= BLOCK) {
        float low = x[0], high = x[0];
        int q[BLOCK];
        for (int i = 1; i < BLOCK; i++) {
            if (x[i] < low) low = x[i];
            if (x[i] > high) high = x[i];
        }
        uint16_t d = half_of((high - low) / 15), m = half_of(low);
        float scale = value_of(d);
        for (int i = 0; i < BLOCK; i++) q[i] = limited(rounded(scale > 0 ? (x[i] - value_of(m)) / scale : 0), 15);
        put_le(b, d, 2);
        put_le(b, m, 2);
        put_nibbles(b, q);
    }
}

static const format g_formats[] = {
    { "f32", 0, 0, put_f32_row }, { "q8_0", 8, 7, put_q8_0_row }, { "q4_0", 2, 2, put_q4_0_row },
    { "q4_1", 3, 3, put_q4_1_row },
};

static const format *find_format(const char *name) {
    for (size_t i = 0; i < sizeof g_formats / sizeof *g_formats; i++) {
        if (!strcmp(g_formats[i].name, name)) return &g_formats[i];
    }
    die("unknown number format (have f32 q8_0 q4_0 q4_1)");
    return NULL;
}

/*----------------------------------------------------------------------
** Metadata */

typedef struct { bytes b; uint64_t n; } entries;

static bytes *put_key(entries *e, const char *key, uint32_t type) {
    put_text(&e->b, key);
    put_le(&e->b, type, 4);
    e->n++;
    return &e->b;
}

static void put_u32(entries *e, const char *key, uint32_t x) { put_le(put_key(e, key, U32), x, 4); }
static void put_bool(entries *e, const char *key, int x) { put_le(put_key(e, key, BOOL), (uint64_t)x, 1); }
static void put_f32(entries *e, const char *key, float x) { put_float(put_key(e, key, F32), x); }
static void put_string(entries *e, const char *key, const char *x) { put_text(put_key(e, key, TEXT), x); }

static bytes *put_array(entries *e, const char *key, uint32_t type, size_t n) {
    bytes *b = put_key(e, key, ARRAY);
    put_le(b, type, 4);
    put_le(b, n, 8);
    return b;
}

/* GPT-2's spelling of a byte: itself where it is a visible character of Latin-1, else the next free code
** point from 256 on. */
static int spelling_of(int byte) {
    int n_hidden = 0;
    for (int i = 0; i <= byte; i++) {
        int visible = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        if (i == byte) return visible ? i : 256 + n_hidden;
        n_hidden += !visible;
    }
    return 0;
}

/* Append text, a byte string, as the vocabulary spells it; all spellings are below U+0800. */
static void spell(char *out, const char *text, size_t n) {
    out += strlen(out);
    for (size_t i = 0; i < n; i++) {
        int cp = spelling_of((uint8_t)text[i]);
        if (cp < 0x80) {
            *out++ = (char)cp;
        } else {
            *out++ = (char)(0xC0 | cp >> 6);
            *out++ = (char)(0x80 | (cp & 0x3F));
        }
    }
    *out = 0;
}

enum { N_MERGES = sizeof g_merges / sizeof *g_merges, N_VOCAB = N_SPECIALS + N_BYTES + N_MERGES };

static int is_token(const char *text, int n_merges) {
    if (strlen(text) == 1) return 1;
    for (int i = 0; i < n_merges; i++) {
        size_t left = strlen(g_merges[i][0]);
        if (!strncmp(text, g_merges[i][0], left) && !strcmp(text + left, g_merges[i][1])) return 1;
    }
    return 0;
}

static void put_tokenizer(entries *e) {
    put_string(e, "tokenizer.ggml.model", "gpt2");
    put_string(e, "tokenizer.ggml.pre", "smollm");
    bytes *b = put_array(e, "tokenizer.ggml.tokens", TEXT, N_VOCAB);
    for (int i = 0; i < N_SPECIALS; i++) put_text(b, g_specials[i]);
    for (int i = 0; i < N_BYTES; i++) {
        char token[8] = "";
        spell(token, &(char){ (char)i }, 1);
        put_text(b, token);
    }
    for (int i = 0; i < N_MERGES; i++) {
        char token[32] = "";
        for (int k = 0; k < 2; k++) {
            if (!is_token(g_merges[i][k], i)) die("half of a merge is no token");
            spell(token, g_merges[i][k], strlen(g_merges[i][k]));
        }
        put_text(b, token);
    }
    put_array(e, "tokenizer.ggml.token_type", I32, N_VOCAB);
    for (int i = 0; i < N_VOCAB; i++) put_le(b, i < N_SPECIALS ? TYPE_CONTROL : TYPE_NORMAL, 4);
    put_array(e, "tokenizer.ggml.merges", TEXT, N_MERGES);
    for (int i = 0; i < N_MERGES; i++) {
        char pair[32] = "";
        spell(pair, g_merges[i][0], strlen(g_merges[i][0]));
        strcat(pair, " ");
        spell(pair, g_merges[i][1], strlen(g_merges[i][1]));
        put_text(b, pair);
    }
    put_u32(e, "tokenizer.ggml.bos_token_id", 1);
    put_u32(e, "tokenizer.ggml.eos_token_id", 2);
    put_u32(e, "tokenizer.ggml.unknown_token_id", 0);
    put_u32(e, "tokenizer.ggml.padding_token_id", 2);
    put_bool(e, "tokenizer.ggml.add_bos_token", 0);
    put_bool(e, "tokenizer.ggml.add_space_prefix", 0);
    put_string(e, "tokenizer.chat_template", g_template);
}

static void put_metadata(entries *e, const format *f) {
    put_string(e, "general.architecture", "llama");
    put_string(e, "general.type", "model");
    put_string(e, "general.name", "tiny");
    put_string(e, "general.description", "Random weights, for tests and first steps: its text means nothing.");
    put_string(e, "general.license", "MIT");
    put_u32(e, "general.file_type", (uint32_t)f->file_type);
    put_u32(e, "general.quantization_version", 2);
    put_u32(e, "llama.block_count", N_LAYERS);
    put_u32(e, "llama.context_length", N_CTX);
    put_u32(e, "llama.embedding_length", N_EMBD);
    put_u32(e, "llama.feed_forward_length", N_FF);
    put_u32(e, "llama.attention.head_count", N_HEADS);
    put_u32(e, "llama.attention.head_count_kv", N_KV_HEADS);
    put_f32(e, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put_f32(e, "llama.rope.freq_base", 10000);
    put_u32(e, "llama.rope.dimension_count", HEAD);
    put_u32(e, "llama.vocab_size", N_VOCAB);
    put_tokenizer(e);
}

/*----------------------------------------------------------------------
** Tensors */

typedef struct { bytes list, data; uint64_t n, random; } tensors;

/* splitmix64 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

/* Nearly normal with variance 1: the sum of four numbers spread evenly over (-1, 1), each of variance 1/3,
** times the square root of 3/4. The sum is exact in integers. */
static double next_normal(uint64_t *state) {
    int64_t sum = 0;
    for (int i = 0; i < 4; i++) sum += (int64_t)(next_random(state) >> 33) * 2 - INT32_MAX;
    return (double)sum / 2147483648.0 * 0.8660254037844386;
}

/* How long a token's embedding is, and with it how often the token is chosen: letters, pairs of them and the
** end of a turn at full length, so that most of what the model writes can be read and some of it ends. */
static double loudness(int id) {
    int byte = id - N_SPECIALS;
    if (byte < 0) return id == 2 ? 1 : 0.25;
    if (byte >= N_BYTES) return 1;
    if ((byte >= 'a' && byte <= 'z') || byte == ' ') return 0.75;
    return byte > ' ' && byte < 0x7F ? 0.5 : 0.25;
}

/* Write a matrix of cols x rows, or with 0 rows a vector of ones. std 0 is for the
** embedding, where every token has its own. */
static void put_tensor(tensors *t, const char *name, const format *f, int cols, int rows, double std) {
    while (t->data.n % ALIGN) put_le(&t->data, 0, 1);
    put_text(&t->list, name);
    put_le(&t->list, rows ? 2 : 1, 4);
    put_le(&t->list, (uint64_t)cols, 8);
    if (rows) put_le(&t->list, (uint64_t)rows, 8);
    put_le(&t->list, (uint64_t)f->id, 4);
    put_le(&t->list, t->data.n, 8);
    t->n++;
    for (int r = 0; r < rows || r == 0; r++) {
        float row[N_EMBD];
        double spread = std > 0 ? std : STD_EMBD * loudness(r);
        for (int i = 0; i < cols; i++) row[i] = rows ? (float)(next_normal(&t->random) * spread) : 1;
        f->put_row(&t->data, row, cols);
    }
}

static void put_layer(tensors *t, int layer, const format *f) {
    static const struct { const char *name; int cols, rows; } parts[] = {
        { "attn_norm", N_EMBD, 0 },         { "attn_q", N_EMBD, N_HEADS * HEAD },   { "attn_k", N_EMBD, N_KV },
        { "attn_v", N_EMBD, N_KV },         { "attn_output", N_HEADS * HEAD, N_EMBD },
        { "ffn_norm", N_EMBD, 0 },          { "ffn_gate", N_EMBD, N_FF },           { "ffn_up", N_EMBD, N_FF },
        { "ffn_down", N_FF, N_EMBD },
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, parts[i].name);
        put_tensor(t, name, parts[i].rows ? f : &g_formats[0], parts[i].cols, parts[i].rows, STD_LAYER);
    }
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) die("usage: make_tiny OUT.gguf [f32|q8_0|q4_0|q4_1]");
    const format *f = find_format(argc > 2 ? argv[2] : "f32");
    entries meta = { 0 };
    tensors t = { .random = SEED };
    put_metadata(&meta, f);
    put_tensor(&t, "token_embd.weight", f, N_EMBD, N_VOCAB, 0);
    for (int i = 0; i < N_LAYERS; i++) put_layer(&t, i, f);
    put_tensor(&t, "output_norm.weight", &g_formats[0], N_EMBD, 0, 0);

    bytes out = { 0 };
    put(&out, "GGUF", 4);
    put_le(&out, 3, 4);
    put_le(&out, t.n, 8);
    put_le(&out, meta.n, 8);
    put(&out, meta.b.data, meta.b.n);
    put(&out, t.list.data, t.list.n);
    while (out.n % ALIGN) put_le(&out, 0, 1);
    put(&out, t.data.data, t.data.n);
    while (out.n % ALIGN) put_le(&out, 0, 1);

    FILE *file = fopen(argv[1], "wb");
    if (!file || fwrite(out.data, 1, out.n, file) != out.n || fclose(file)) die("cannot write the file");
    free(meta.b.data);
    free(t.list.data);
    free(t.data.data);
    free(out.data);
    return 0;
}

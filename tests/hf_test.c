/* hf_test.c: Hugging Face folders against transformers' own results in float64 (tests/golden/hf.json): encoders' pooled
** vectors, decoders' log-probabilities; and folders that lie. */
#define _XOPEN_SOURCE 700
#include "harness.h"

#include <sys/stat.h>
#include <unistd.h>

enum { TOP_MAX = 256, EMBD_MAX = 64 };

static void read_hf_tensor(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) { lm_hf_read(arg, i, offset, dst, n, err); }

/* Open the model that a folder holds; print why not and return NULL. */
static lm_model *open_folder(const char *path, lm_err *err) {
    lm_buf hparams = {0};
    lm_model *m = NULL;
    lm_hf *hf = lm_hf_open(path, err);
    if (hf) {
        int n = lm_hf_n_tensors(hf);
        lm_tensor *tensors = malloc(sizeof *tensors * (size_t)(n + 1));
        for (int i = 0; i < n; i++) tensors[i] = *lm_hf_tensor(hf, i);
        const char *arch = lm_arch_import(lm_hf_meta(hf), tensors, n, &hparams, err);
        lm_source src = { arch, hparams.data, hparams.n, tensors, n, read_hf_tensor, hf };
        if (!err->code) m = lm_model_open(&src, NULL, (lm_stop){0}, err);
        free(tensors);
    }
    lm_hf_close(hf);
    lm_buf_clear(&hparams);
    return m;
}

/*----------------------------------------------------------------------
** Encoders */
static void read_vector(lm_json *j, double *out, int *n, lm_err *err) {
    int count = 0;
    for (int kind; (kind = lm_json_next(j, err)) == LM_JSON_REAL || kind == LM_JSON_INT;) if (count < EMBD_MAX) out[count++] = j->real;
    *n = count;
}

static void compare_vector(const char *folder, lm_model *m, const lm_ids *ids, int pooling, const double *want, int n) {
    lm_err err = {0};
    float got[EMBD_MAX];
    lm_embed_options o = { .pooling = pooling };
    double worst = 0;
    if (!n) return;
    lm_embed(m, ids, 1, &o, got, (lm_stop){0}, &err);
    for (int i = 0; i < n && !err.code; i++) worst = fmax(worst, fabs((double)got[i] - want[i]));
    CHECK(!err.code && n == lm_model_n_embd(m) && worst < 3e-5, "%s, pooling %d, %zu ids: off by %g %s", folder, pooling, ids->n, worst, err.msg);
}

static void check_encoder(const char *folder, lm_model *m, lm_json *j, lm_err *err) {
    while (lm_json_next(j, err) == LM_JSON_OBJECT) {
        lm_ids ids = {0};
        double vectors[3][EMBD_MAX];
        int n[3] = {0};
        for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
            if (!strcmp(j->key.data, "ids")) while (lm_json_next(j, err) == LM_JSON_INT) lm_ids_append(&ids, (int32_t)j->integer, err);
            else if (!strcmp(j->key.data, "mean")) read_vector(j, vectors[LM_POOL_MEAN], &n[LM_POOL_MEAN], err);
            else if (!strcmp(j->key.data, "cls")) read_vector(j, vectors[LM_POOL_CLS], &n[LM_POOL_CLS], err);
            else if (!strcmp(j->key.data, "last")) read_vector(j, vectors[LM_POOL_LAST], &n[LM_POOL_LAST], err);
            else lm_json_skip(j, kind, err);
        }
        for (int p = 0; p < 3 && m; p++) compare_vector(folder, m, &ids, p, vectors[p], n[p]);
        lm_ids_clear(&ids);
    }
}

/* A vector is the same bytes alone, in company, and with any number of threads. */
static void check_company(const char *folder, lm_model *m) {
    enum { N = 9 };
    static float alone[N][EMBD_MAX], together[N * EMBD_MAX];
    lm_err err = {0};
    lm_ids texts[N] = {{0}};
    lm_embed_options o = { .pooling = LM_POOL_MEAN, .normalize = 1 };
    int n = lm_model_n_embd(m), most = lm_model_n_text(m) < 40 ? lm_model_n_text(m) : 40;
    for (int t = 0; t < N; t++) {
        for (int i = 0; i < 1 + t * 7 % most; i++) lm_ids_append(&texts[t], (t * 31 + i * 17) % 100, &err);
        lm_threads_set(1 + t % 2);
        lm_embed(m, &texts[t], 1, &o, alone[t], (lm_stop){0}, &err);
    }
    lm_threads_set(2);
    lm_embed(m, texts, N, &o, together, (lm_stop){0}, &err);
    for (int t = 0; t < N; t++) {
        double length = 0;
        for (int i = 0; i < n; i++) length += (double)alone[t][i] * (double)alone[t][i];
        CHECK(!err.code && !memcmp(alone[t], together + t * n, sizeof(float) * (size_t)n), "%s: text %d alone and in company differ: %s", folder, t, err.msg);
        CHECK(fabs(length - 1) < 1e-5, "%s: text %d has length %g", folder, t, sqrt(length));
        lm_ids_clear(&texts[t]);
    }
}

/*----------------------------------------------------------------------
** Decoders */
typedef struct { lm_ids ids; double top1[TOP_MAX], top5[10], sum_nll; int n_top1, n_top5; } golden;

static double log_p(const float *logits, int vocab, int id) {
    float max = logits[lm_kern_get()->argmax(logits, vocab)];
    return (double)logits[id] - (double)max - lm_log(lm_kern_get()->sum_exp(logits, vocab, max));
}

static void check_decoder(const char *folder, lm_model *m, const golden *g) {
    lm_err err = {0};
    lm_kv kv;
    lm_row rows[LM_ROWS_MAX];
    int n = (int)g->ids.n, vocab = m->h.n_vocab;
    double worst = 0, nll = 0;
    lm_pass *pass = lm_pass_new(m, n, n, 1, &err);
    lm_kv_init(&kv, m, 1);
    lm_kv_reserve(&kv, n, &err);
    for (int i = 0; i < n; i++) rows[i] = (lm_row){ g->ids.data[i], i, &kv, i };
    const float *logits = err.code ? NULL : lm_forward(pass, rows, n, (lm_stop){0}, &err);
    for (int i = 0; i < n && logits; i++) {
        if (i < g->n_top1 / 2) worst = fmax(worst, fabs(log_p(logits + i * vocab, vocab, (int)g->top1[2 * i]) - g->top1[2 * i + 1]));
        if (i + 1 < n) nll -= log_p(logits + i * vocab, vocab, g->ids.data[i + 1]);
    }
    for (int k = 0; k < g->n_top5 && logits; k += 2) {
        worst = fmax(worst, fabs(log_p(logits + (n - 1) * vocab, vocab, (int)g->top5[k]) - g->top5[k + 1]));
    }
    CHECK(logits && g->n_top1 == 2 * n && worst < 1e-4 && fabs(nll - g->sum_nll) < 1e-2, "%s: off by %g, sum of -ln p %g, golden %g %s", folder, worst,
          nll, g->sum_nll, err.msg);
    lm_kv_clear(&kv);
    lm_pass_free(pass);
}

static int read_pairs(lm_json *j, double *out, int most, lm_err *err) {
    int n = 0;
    while (lm_json_next(j, err) == LM_JSON_ARRAY) {
        while (lm_json_next(j, err) != LM_JSON_END && n < most) out[n++] = j->real;
    }
    return n;
}

static void check_folder(lm_json *j, lm_err *err) {
    golden g = {0};
    char folder[64] = "", path[128];
    lm_model *m = NULL;
    lm_err why = {0};
    for (int kind; (kind = lm_json_next(j, err)) != LM_JSON_END;) {
        if (!strcmp(j->key.data, "folder")) {
            snprintf(folder, sizeof folder, "%s", j->string.data);
            snprintf(path, sizeof path, "tests/golden/%s", folder);
            m = open_folder(path, &why);
            CHECK(m, "%s: %s", folder, why.msg);
            if (m) m->h.n_text = 0;     /* golden goes beyond what the folder allows a text */
        } else if (!strcmp(j->key.data, "cases")) check_encoder(folder, m, j, err);
        else if (!strcmp(j->key.data, "ids")) while (lm_json_next(j, err) == LM_JSON_INT) lm_ids_append(&g.ids, (int32_t)j->integer, err);
        else if (!strcmp(j->key.data, "sum_nll")) g.sum_nll = j->real;
        else if (!strcmp(j->key.data, "top5_logprob_last")) g.n_top5 = read_pairs(j, g.top5, LM_COUNT(g.top5), err);
        else if (!strcmp(j->key.data, "top1_each")) g.n_top1 = read_pairs(j, g.top1, LM_COUNT(g.top1), err);
        else lm_json_skip(j, kind, err);
    }
    if (m && g.ids.n) check_decoder(folder, m, &g);
    if (m) check_company(folder, m);
    lm_ids_clear(&g.ids);
    lm_model_free(m);
}

static void test_golden(void) {
    size_t n;
    char *text = read_file("tests/golden/hf.json", &n);
    int folders = 0;
    lm_err err = {0};
    lm_json j;
    lm_json_init(&j, text, n);
    CHECK(lm_json_next(&j, &err) == LM_JSON_ARRAY, "tests/golden/hf.json: %s", err.msg);
    for (; lm_json_next(&j, &err) == LM_JSON_OBJECT; folders++) check_folder(&j, &err);
    CHECK(!err.code && folders >= 13, "tests/golden/hf.json: %d folders: %s", folders, err.msg);
    lm_json_clear(&j);
    free(text);
}

/*----------------------------------------------------------------------
** Folders that lie, over a copy of hf_bert's weights */
static void write_text(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "build/tmp/hf/%s", name);
    FILE *f = fopen(path, "wb");
    if (!f) return;
    fwrite(text, 1, strlen(text), f);
    fclose(f);
}

static void refused(int line, const char *config, const char *want) {
    lm_err err = {0};
    if (config) write_text("config.json", config);
    lm_model *m = open_folder("build/tmp/hf", &err);
    CHECK(!m && strstr(err.msg, want), "(from line %d) '%s', wanted '%s'", line, m ? "it opened" : err.msg, want);
    lm_model_free(m);
}

static void test_lies(void) {
    lm_err err = {0};
    mkdir("build/tmp", 0777);
    mkdir("build/tmp/hf", 0777);
    CHECK(!lm_hf_open("build/tmp/nowhere", &err) && strstr(err.msg, "config.json: cannot open"), "%s", err.msg);
    write_text("model.safetensors", "x");
    refused(__LINE__, "[]", "config.json: expected a JSON object");
    refused(__LINE__, "{\"model_type\":", "config.json: JSON");
    refused(__LINE__, "{\"model_type\":\"bert\"}", "model.safetensors: 1 bytes are no safetensors file");
    write_text("model.safetensors", "\x02\0\0\0\0\0\0\0{}");
    remove("build/tmp/hf/model.safetensors");
    FILE *f = fopen("build/tmp/hf/model.safetensors", "wb");
    fwrite("\x02\0\0\0\0\0\0\0{}", 1, 10, f);
    fclose(f);
    refused(__LINE__, "{\"model_type\":\"t5\"}", "model_type \"t5\" is not supported");
    refused(__LINE__, "{\"model_type\":\"bert\"}", "is missing");
    refused(__LINE__, "{\"model_type\":\"bert\",\"hidden_size\":1e300}", "expected a whole number");
    refused(__LINE__, "{\"model_type\":\"bert\",\"hidden_size\":-4}", "expected a whole number");
    refused(__LINE__, "{\"model_type\":\"bert\",\"hidden_act\":\"swish\"}", "activation \"swish\" is not supported");
    refused(__LINE__, "{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", "rope type \"yarn\" is not supported");
    refused(__LINE__, "{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":2}}", "llama3 needs factor");
    write_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../../x.safetensors\"}}");
    refused(__LINE__, "{\"model_type\":\"bert\"}", "not a plain name");
    write_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"model.safetensors\"}}");
    refused(__LINE__, "{\"model_type\":\"bert\"}", "tensor a is not in model.safetensors");
    write_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":1}}");
    refused(__LINE__, "{\"model_type\":\"bert\"}", "expected names of files");
    remove("build/tmp/hf/model.safetensors.index.json");
    remove("build/tmp/hf/model.safetensors");
    remove("build/tmp/hf/config.json");
    remove("build/tmp/hf");
}

/*----------------------------------------------------------------------
** The small files of a folder: each is written, beside a config.json that is fine and weights that hold nothing, so that
** what is fine ends with "is missing". */
static const char bert[] = "{\"model_type\":\"bert\"}";
#define ROPE(members) "{\"model_type\":\"llama\",\"hidden_size\":32,\"num_attention_heads\":2,\"rope_theta\":1e4,\"rope_scaling\":{\"rope_type\":\"llama3\"" members "}}"
#define FINE "is missing"

static const struct { const char *name, *text, *want; } small_files[] = {
    { "modules.json", "{}", "modules.json: expected a JSON array" },
    { "modules.json", "[", "modules.json: JSON" },
    { "modules.json", "[1]", "modules.json: expected an array of objects" },
    { "modules.json", "[{\"type\":\"models.Dense\"}]", "module \"Dense\" is not supported" },
    { "modules.json", "[{\"type\":7,\"path\":\"x\"}]", "module \"\" is not supported" },
    { "modules.json", "[{\"type\":\"Transformer\",\"path\":\"a/b\"}]", "path \"a/b\": expected a folder's plain name" },
    { "modules.json", "[{\"type\":\"Transformer\",\"path\":\"..\"}]", "path \"..\": expected a folder's plain name" },
    { "modules.json", "[{\"type\":\"Transformer\",\"path\":\"sub\"}]", "config.json: cannot open" },
    { "modules.json", "[{\"type\":\"a.Transformer\",\"path\":\"\"},{\"type\":\"Pooling\",\"path\":\"p\",\"idx\":1},{\"type\":\"Normalize\"}]", FINE },
    { "1_Pooling/config.json", "{\"pooling_mode_max_tokens\":true}", "pooling other than one of mean, cls, last token" },
    { "1_Pooling/config.json", "{\"pooling_mode_mean_sqrt_len_tokens\":true}", "pooling other than one of mean, cls, last token" },
    { "1_Pooling/config.json", "{\"pooling_mode_weightedmean_tokens\":true}", "pooling other than one of mean, cls, last token" },
    { "1_Pooling/config.json", "{\"pooling_mode_cls_token\":true,\"pooling_mode_lasttoken\":true}", "pooling other than one of mean, cls, last token" },
    { "1_Pooling/config.json", "{\"pooling_mode_lasttoken\":true}", FINE },
    { "1_Pooling/config.json", "{\"pooling_mode_cls_token\":true}", FINE },
    { "generation_config.json", "{\"eos_token_id\":-1}", "generation_config.json: eos_token_id: expected a token id" },
    { "generation_config.json", "{\"eos_token_id\":3000000000}", "eos_token_id: expected a token id" },
    { "generation_config.json", "{\"eos_token_id\":\"x\"}", "eos_token_id: expected a token id" },
    { "generation_config.json", "{\"eos_token_id\":[1,[2]]}", "eos_token_id: expected a token id" },
    { "generation_config.json", "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", "or up to 16" },
    { "generation_config.json", "{\"eos_token_id\":null,\"bos_token_id\":3000000000}", "bos_token_id 3e+09: expected a token id" },
    { "generation_config.json", "{\"eos_token_id\":[1,2],\"bos_token_id\":0}", FINE },
    { "generation_config.json", "{\"model_type\":7,\"hidden_size\":\"x\",\"rope_scaling\":null,\"rope_type\":\"yarn\",\"tie_word_embeddings\":true}", FINE },
    { "tokenizer_config.json", "{\"chat_template\":[1]}", "tokenizer_config.json: chat_template: expected a text, or an array" },
    { "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool\",\"template\":\"t\"},{\"template\":\"u\",\"name\":\"default\",\"more\":{}},{\"name\":7}]}", FINE },
    { "tokenizer_config.json", "{\"chat_template\":7}", FINE },
    { "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"default\",\"template\":", "tokenizer_config.json: JSON" },
    { "chat_template.jinja", "{{ messages }}", FINE },
    { "chat_template.jinja", "", FINE },
    { "vocab.txt", "a\nb", "vocab.txt: [CLS], [SEP] and [UNK] must be among its lines" },
    { "vocab.txt", "[CLS]\n[UNK]", "vocab.txt: [CLS], [SEP] and [UNK] must be among its lines" },
    { "vocab.txt", "[CLS]\n[SEP]\n", "vocab.txt: [CLS], [SEP] and [UNK] must be among its lines" },
    { "vocab.txt", "[UNK]\r\n[CLS]\r\n[SEP]\r\n\r\nq\"\\", FINE },
    { "tokenizer.json", "[]", FINE },      /* read when the model is */
    { "model.safetensors.index.json", "[]", "model.safetensors.index.json: expected a JSON object" },
    { "model.safetensors.index.json", "{\"metadata\":{\"n\":1},\"weight_map\":{}}", FINE },
    { "model.safetensors.index.json", "{\"weight_map\":3}", FINE },
    { "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"..\"}}", "file ..: not a plain name" },
    { "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"other.safetensors\"}}", "other.safetensors: cannot open" },
    { "config.json", "{\"model_type\":\"bert\",\"hidden_size\":2.5}", "embedding_length 2.5: expected a whole number" },
    { "config.json", "{\"model_type\":\"llama\",\"hidden_act\":\"gelu\"}", "activation \"gelu\" is not supported in a llama model" },
    { "config.json", "{\"model_type\":\"gemma3_text\",\"hidden_activation\":\"silu\",\"query_pre_attn_scalar\":-1}", "activation \"silu\" is not supported" },
    { "config.json", "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,\"rope_scaling\":{}}}", FINE },
    { "config.json", "{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"default\"},\"rope_parameters\":7}", FINE },
    { "config.json", "{\"model_type\":\"mistral\",\"sliding_window\":64,\"max_seq_length\":9}", FINE },
    { "config.json", "{\"model_type\":\"qwen2\",\"use_sliding_window\":true,\"sliding_window\":64,\"max_position_embeddings\":20,\"model_max_length\":9}", FINE },
    { "config.json", ROPE(""), "llama3 needs factor" },
    { "config.json", ROPE(",\"factor\":8"), "llama3 needs factor" },
    { "config.json", ROPE(",\"factor\":8,\"low_freq_factor\":1"), "llama3 needs factor" },
    { "config.json", ROPE(",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4"), "llama3 needs factor" },
    { "config.json", ROPE(",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64,\"rope_theta\":-1"), "llama3 needs factor" },
    { "config.json", ROPE(",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64},\"head_dim\":1,\"more\":{"), "llama3 needs factor" },
    { "config.json", ROPE(",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64},\"head_dim\":2048,\"more\":{"), "llama3 needs factor" },
    { "config.json", ROPE(",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64"), FINE },
    { "config.json", "{\"model_type\":\"llama\",\"hidden_size\":32,\"rope_scaling\":{\"rope_type\":\"llama3\"}}", "llama3 needs factor" },
};

static void write_weights(const char *header) {
    FILE *f = fopen("build/tmp/hf/model.safetensors", "wb");
    uint64_t n = strlen(header);
    if (!f) return;
    for (int i = 0; i < 8; i++) fputc((int)(n >> (8 * i) & 255), f);
    fwrite(header, 1, n, f);
    for (int i = 0; i < 64; i++) fputc(0, f);
    fclose(f);
}

static void clear_folder(void) {
    for (int i = 0; i < LM_COUNT(small_files); i++) {
        char path[128];
        snprintf(path, sizeof path, "build/tmp/hf/%s", small_files[i].name);
        remove(path);
    }
}

static void test_small_files(void) {
    mkdir("build/tmp/hf", 0777);
    mkdir("build/tmp/hf/1_Pooling", 0777);
    for (int i = 0; i < LM_COUNT(small_files); i++) {
        clear_folder();
        write_weights("{\"x\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}}");
        write_text("config.json", bert);
        write_text(small_files[i].name, small_files[i].text);
        refused(i, NULL, small_files[i].want);
    }
    clear_folder();
}

/* One tensor of 64 bytes, by its name in a folder, and what is said of it. */
static void test_names(void) {
    static const struct { const char *type, *name, *dtype, *shape, *want; } cases[] = {
        { "llama", "model.layers.0.self_attn.q_proj.weight", "F32", "4,4", "its rows are not pairs in 3 heads" },
        { "llama", "layers.0.self_attn.q_proj.bias", "F32", "16", "its rows are not pairs in 3 heads" },
        { "llama", "layers.0.self_attn.k_proj.weight", "F32", "4,4", "its rows are not pairs in -1 heads" },
        { "llama", "layers.0.mlp.up_proj.weight", "I32", "4,4", "its numbers are no f32, f16 or bf16" },
        { "llama", "layers.x.mlp.up_proj.weight", "F32", "4,4", FINE },
        { "llama", "layers.:.mlp.up_proj.weight", "F32", "4,4", FINE },
        { "llama", "layers.100000.mlp.up_proj.weight", "F32", "4,4", FINE },
        { "llama", "layers.99999999999999999999.mlp.up_proj.weight", "F32", "4,4", FINE },
        { "llama", "layers.0.mlp.up_proj.weights", "F32", "4,4", FINE },
        { "llama", "lm_head.weight", "F32", "4,4", FINE },
        { "bert", "roberta.embeddings.position_embeddings.weight", "F32", "4,4", FINE },
        { "roberta", "roberta.embeddings.position_embeddings.weight", "F32", "16", "1 dimensions, expected 2" },
        { "roberta", "roberta.embeddings.position_embeddings.weight", "F32", "4,4", "dimension 1 is -4" },
    };
    mkdir("build/tmp/hf", 0777);
    for (int i = 0; i < LM_COUNT(cases); i++) {
        char text[400];
        snprintf(text, sizeof text, "{\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[0,64]}}", cases[i].name, cases[i].dtype, cases[i].shape);
        write_weights(text);
        snprintf(text, sizeof text, "{\"model_type\":\"%s\",\"num_attention_heads\":3,\"num_key_value_heads\":%s,\"pad_token_id\":7}", cases[i].type,
                 strstr(cases[i].name, "k_proj") ? "-1" : "3");
        refused(i, text, cases[i].want);
    }
    clear_folder();
    remove("build/tmp/hf/model.safetensors");
    remove("build/tmp/hf/1_Pooling");
    remove("build/tmp/hf");
}

/*----------------------------------------------------------------------
** What config.json says of windows, turns and the output, over the golden folders' weights: a text of a golden config.json is
** another, and the model has these hyper-parameters or is refused. */
#define TYPES(...) "\"layer_types\": [" __VA_ARGS__ "], \"was\": ["
#define ADD(members) "{", "{" members ", "
#define FULL "\"full_attention\""
#define SLIDING "\"sliding_attention\""
#define QWEN_WINDOW "\"use_sliding_window\": false", "\"use_sliding_window\": true"
#define GEMMA_ROPE "\"rope_local_base_freq\": 10000.0,\n  \"rope_scaling\": null,\n  \"rope_theta\": 1000000.0"
#define NESTED(full, sliding) GEMMA_ROPE, "\"rope_parameters\": {" FULL ": {" full "}, " SLIDING ": {" sliding "}}"

static const struct { const char *folder, *from, *to, *want; int window, period; float base, scale, local; } configs[] = {
    { "hf_qwen2", "", "", NULL, 0, 0, 1e6f, 1, 0 },
    { "hf_qwen2", QWEN_WINDOW, NULL, 0, 0, 1e6f, 1, 0 },        /* from the layer after the last on */
    { "hf_qwen2", "\"max_window_layers\": 2", "\"max_window_layers\": 0, \"layer_types\": null", NULL, 0, 0, 1e6f, 1, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(SLIDING "," SLIDING) "]", NULL, 8, 0, 1e6f, 1, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(FULL "," FULL) "]", NULL, 0, 0, 1e6f, 1, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(SLIDING "," FULL) "]", NULL, 8, 2, 1e6f, 1, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(FULL "," SLIDING) "]", "layer_types: layer 1: layers without a window are supported at even distances", 0, 0, 0, 0, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(FULL) "]", "layer_types: 1, expected one for each of 2 layers", 0, 0, 0, 0, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(FULL ",7") "]", "layer_types: \"?\" is not supported (have: full_attention, sliding_attention)", 0, 0, 0, 0, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(FULL ",\"\"") "]", "layer_types: \"?\" is not supported", 0, 0, 0, 0, 0 },
    { "hf_qwen2", QWEN_WINDOW ", " TYPES(FULL ",\"chunked_attention\"") "]", "layer_types: \"chunked_attention\" is not supported", 0, 0, 0, 0, 0 },
    { "hf_qwen2", ADD(TYPES(SLIDING "," FULL) "]"), NULL, 0, 0, 1e6f, 1, 0 },      /* use_sliding_window is false */
    { "hf_qwen2", "\"max_window_layers\": 2", "\"layer_types\": [], \"max_window_layers\": 1", NULL, 0, 0, 1e6f, 1, 0 },
    { "hf_qwen2", "\"sliding_window\": 8,\n  \"tie_word_embeddings\": false", "\"sliding_window\": null", NULL, 0, 0, 1e6f, 1, 0 },
    { "hf_qwen3", "\"max_window_layers\": 2", "\"layer_types\": [" FULL "," FULL "]", NULL, 0, 0, 1e6f, 1, 0 },
    { "hf_qwen3", QWEN_WINDOW, NULL, 0, 0, 1e6f, 1, 0 },        /* sliding_window is null */
    { "hf_llama", ADD("\"use_sliding_window\": true"), "use_sliding_window is not supported in a llama model", 0, 0, 0, 0, 0 },
    { "hf_llama", ADD("\"sliding_window\": 8, \"layer_types\": [" FULL "," FULL "]"), NULL, 0, 0, 5e4f, 1, 0 },
    { "hf_llama", ADD("\"layer_types\": [" FULL "," SLIDING "]"), "layer_types: layer 1: expected full_attention, as all of this llama model", 0, 0, 0, 0, 0 },
    { "hf_llama", "\"llama\"", "\"mistral\"", NULL, 4096, 0, 5e4f, 1, 0 },
    { "hf_llama", "\"llama\"", "\"mistral\", \"sliding_window\": null", NULL, 0, 0, 5e4f, 1, 0 },
    { "hf_llama", "\"llama\"", "\"mistral\", \"sliding_window\": 8, " TYPES(SLIDING) "]", NULL, 8, 0, 5e4f, 1, 0 },
    { "hf_llama", "\"llama\"", "\"mistral\", \"sliding_window\": 8, " TYPES(FULL) "]", "layer_types: layer 0: expected sliding_attention", 0, 0, 0, 0, 0 },

    { "hf_gemma3", "", "", NULL, 8, 6, 1e6f, 1, 1e4f },
    { "hf_gemma3", "\"layer_types\": [", TYPES(FULL "," FULL "," FULL "," FULL "," FULL "," FULL "," FULL), NULL, 0, 6, 1e6f, 1, 1e4f },
    { "hf_gemma3", "\"layer_types\": [", TYPES(SLIDING "," FULL "," SLIDING "," FULL "," SLIDING "," FULL "," SLIDING), NULL, 8, 2, 1e6f, 1, 1e4f },
    { "hf_gemma3", "\"layer_types\": [", TYPES(SLIDING "," SLIDING "," SLIDING "," SLIDING "," SLIDING "," SLIDING "," SLIDING), NULL, 8, 0, 1e6f, 1, 1e4f },
    { "hf_gemma3", "\"layer_types\": [", TYPES(SLIDING "," FULL "," SLIDING "," SLIDING "," SLIDING "," FULL "," SLIDING), "layer_types: layer 3: layers without", 0, 0, 0, 0, 0 },
    { "hf_gemma3", "\"layer_types\"", "\"was\"", NULL, 8, 6, 1e6f, 1, 1e4f },
    { "hf_gemma3", "\"_sliding_window_pattern\": 6", "\"sliding_window_pattern\": 0", "sliding_window_pattern 0: expected a whole number from 1 on", 0, 0, 0, 0, 0 },
    { "hf_gemma3", "\"_sliding_window_pattern\": 6", "\"sliding_window_pattern\": 2.5", "sliding_window_pattern 2.5: expected a whole number", 0, 0, 0, 0, 0 },
    { "hf_gemma3", "\"sliding_window\": 8", "\"sliding_window\": null", "sliding_window: expected a number, for 6 of 7 layers", 0, 0, 0, 0, 0 },
    { "hf_gemma3", "\"sliding_window\": 8", "\"was\": 8", NULL, 4096, 6, 1e6f, 1, 1e4f },

    { "hf_gemma3", NESTED("\"rope_type\": \"linear\", \"factor\": 8.0, \"rope_theta\": 5e5", "\"rope_type\": \"default\", \"rope_theta\": 2e4"), NULL, 8, 6, 5e5f, 0.125f, 2e4f },
    { "hf_gemma3", NESTED("\"rope_type\": \"default\"", "\"rope_theta\": 2e4"), NULL, 8, 6, 1e6f, 1, 2e4f },
    { "hf_gemma3", NESTED("\"rope_theta\": 5e5}, \"more\": {\"a\": 1", "") ", \"rope_theta\": 3e5, \"rope_local_base_freq\": 3e4", NULL, 8, 6, 5e5f, 1, 3e4f },
    { "hf_gemma3", NESTED("", "\"rope_type\": \"linear\", \"factor\": 8.0"), "rope type \"linear\" of sliding_attention is not supported in a gemma3 model (have: default)", 0, 0, 0, 0, 0 },
    { "hf_gemma3", NESTED("\"rope_type\": \"llama3\"", ""), "rope type \"llama3\" is not supported in a gemma3 model (have: default, linear)", 0, 0, 0, 0, 0 },
    { "hf_gemma3", NESTED("", "\"partial_rotary_factor\": 0.5"), "partial_rotary_factor of sliding_attention other than 1", 0, 0, 0, 0, 0 },
    { "hf_gemma3", "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 8}", NULL, 8, 6, 1e6f, 0.125f, 1e4f },
    { "hf_qwen3", "\"rope_parameters\": {", "\"rope_parameters\": {" SLIDING ": {}, ", "rope_parameters: sliding_attention is not supported in a qwen3 model", 0, 0, 0, 0, 0 },
    { "hf_qwen3", "\"rope_theta\": 1000000.0", "\"rope_theta\": 5e5, \"partial_rotary_factor\": 0.5", "partial_rotary_factor other than 1 is not supported", 0, 0, 0, 0, 0 },
    { "hf_qwen3", "\"rope_theta\": 1000000.0", "\"rope_theta\": 5e5, \"partial_rotary_factor\": 1.0", NULL, 0, 0, 5e5f, 1, 0 },
    { "hf_qwen3", "\"rope_type\": \"default\"", "\"rope_type\": \"linear\", \"factor\": 2.0", NULL, 0, 0, 1e6f, 0.5f, 0 },
    { "hf_llama", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}", NULL, 0, 0, 5e4f, 0.25f, 0 },
    { "hf_llama", "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"default\", \"type\": \"mrope\"}", NULL, 0, 0, 5e4f, 1, 0 },
    { "hf_llama", "\"rope_scaling\": null", "\"rope_scaling\": {\"factor\": 4}", "rope_scaling: a factor without a rope_type", 0, 0, 0, 0, 0 },
    { "hf_llama", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}", "linear needs factor, 1 or more", 0, 0, 0, 0, 0 },
    { "hf_llama", ADD("\"partial_rotary_factor\": 0.5"), "partial_rotary_factor other than 1 is not supported", 0, 0, 0, 0, 0 },
    { "hf_llama", ADD("\"partial_rotary_factor\": 1"), NULL, 0, 0, 5e4f, 1, 0 },
    { "hf_llama3", "\"original_max_position_embeddings\": 64,", "", "llama3 needs factor", 0, 0, 0, 0, 0 },
    { "hf_llama3", "\"rope_theta\"", "\"original_max_position_embeddings\": 64, \"rope_theta\"", NULL, 0, 0, 5e5f, 1, 0 },

    { "hf_gemma3", ADD("\"use_bidirectional_attention\": true"), "use_bidirectional_attention other than false is not supported in a gemma3 model", 0, 0, 0, 0, 0 },
    { "hf_gemma3", ADD("\"use_bidirectional_attention\": false"), NULL, 8, 6, 1e6f, 1, 1e4f },
    { "hf_gemma3", "\"final_logit_softcapping\": null", "\"final_logit_softcapping\": 30.0", "final_logit_softcapping 30 is not supported", 0, 0, 0, 0, 0 },
    { "hf_gemma3", "\"query_pre_attn_scalar\": 16", "\"query_pre_attn_scalar\": -16", "query_pre_attn_scalar -16: expected a number above 0", 0, 0, 0, 0, 0 },
    { "hf_qwen2", ADD("\"is_causal\": false"), "is_causal other than true is not supported in a qwen2 model", 0, 0, 0, 0, 0 },
    { "hf_qwen2", ADD("\"is_decoder\": true, \"quantization_config\": null"), NULL, 0, 0, 1e6f, 1, 0 },
    { "hf_llama", ADD("\"quantization_config\": {\"quant_method\": \"fp8\"}"), "quantization_config is not supported", 0, 0, 0, 0, 0 },
    { "hf_bert", "\"absolute\"", "\"relative_key\"", "position_embedding_type \"relative_key\" is not supported (have: absolute)", 0, 0, 0, 0, 0 },
    { "hf_bert", ADD("\"is_decoder\": true"), "is_decoder other than false is not supported in a bert model", 0, 0, 0, 0, 0 },
    { "hf_bert", ADD("\"add_cross_attention\": true"), "add_cross_attention other than false is not supported in a bert model", 0, 0, 0, 0, 0 },
    { "hf_bert", ADD("\"is_decoder\": false, \"is_causal\": false"), NULL, 0, 0, 1e4f, 1, 0 },

    { "hf_llama_tied", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "lm_head.weight is missing", 0, 0, 0, 0, 0 },
    { "hf_llama_tied", "\"tie_word_embeddings\"", "\"was\"", NULL, 0, 0, 1e4f, 1, 0 },
    { "hf_gemma3", ADD("\"tie_word_embeddings\": false"), "lm_head.weight is missing", 0, 0, 0, 0, 0 },
};

/* Change that text of the folder's config.json. */
static void change(const char *from, const char *to) {
    char out[4096];
    size_t n;
    char *text = read_file("build/tmp/hf/config.json", &n), *at = strstr(text, from);
    CHECK(at, "config.json has no %s", from);
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at ? at - text : 0), text, to, at ? at + strlen(from) : "");
    write_text("config.json", out);
    free(text);
}

/* Make the folder a golden one's, with that text of its config.json changed. */
static void write_changed(const char *folder, const char *from, const char *to) {
    char path[128];
    size_t n;
    snprintf(path, sizeof path, "tests/golden/%s/config.json", folder);
    char *text = read_file(path, &n);
    write_text("config.json", text);
    free(text);
    change(from, to);
    snprintf(path, sizeof path, "../../../tests/golden/%s/model.safetensors", folder);
    remove("build/tmp/hf/model.safetensors");
    CHECK(!symlink(path, "build/tmp/hf/model.safetensors"), "symlink to %s", path);
}

static lm_hparams read_changed(int line) {
    lm_err err = {0};
    lm_model *m = open_folder("build/tmp/hf", &err);
    lm_hparams h = m ? m->h : (lm_hparams){0};
    CHECK(m, "(from line %d) %s", line, err.msg);
    lm_model_free(m);
    return h;
}

static void test_configs(void) {
    lm_hparams h;
    mkdir("build/tmp/hf", 0777);
    for (int i = 0; i < LM_COUNT(configs); i++) {
        write_changed(configs[i].folder, configs[i].from, configs[i].to);
        if (configs[i].want) {
            refused(i, NULL, configs[i].want);
            continue;
        }
        h = read_changed(i);
        CHECK(h.n_window == configs[i].window && h.window_period == configs[i].period && h.rope_base == configs[i].base
                  && h.rope_scale == configs[i].scale && h.rope_base_local == configs[i].local,
              "config %d: window %d, period %d, base %g, scale %g, local base %g", i, h.n_window, h.window_period, (double)h.rope_base,
              (double)h.rope_scale, (double)h.rope_base_local);
    }
    write_changed("hf_qwen2", QWEN_WINDOW);
    change("\"max_window_layers\": 2", "\"max_window_layers\": 0");
    h = read_changed(__LINE__);
    CHECK(h.n_window == 8 && !h.window_period, "window %d, period %d", h.n_window, h.window_period);
    change("\"max_window_layers\": 0", "\"max_window_layers\": 1");
    refused(__LINE__, NULL, "max_window_layers: layer 1: layers without a window are supported at even distances only");
    write_changed("hf_gemma3", "\"query_pre_attn_scalar\"", "\"was\"");
    h = read_changed(__LINE__);
    CHECK(h.attn_scale == 0.0625f, "attn_scale %g", (double)h.attn_scale);
    /* What pools has no use for an output. */
    mkdir("build/tmp/hf/1_Pooling", 0777);
    write_text("1_Pooling/config.json", "{\"pooling_mode_lasttoken\":true}");
    write_changed("hf_llama_tied", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    read_changed(__LINE__);
    clear_folder();
    remove("build/tmp/hf/model.safetensors");
    remove("build/tmp/hf/1_Pooling");
    remove("build/tmp/hf");
}

/* Reading past a tensor's ends; whole and in pieces, rows that are moved about included. */
static void test_reading(void) {
    static const char *const folders[] = { "hf_llama", "hf_llama3", "hf_gemma3", "hf_roberta" };
    for (int f = 0; f < LM_COUNT(folders); f++) {
        lm_err err = {0};
        char path[64];
        snprintf(path, sizeof path, "tests/golden/%s", folders[f]);
        lm_hf *hf = lm_hf_open(path, &err);
        CHECK(hf, "%s: %s", folders[f], err.msg);
        for (int i = 0; hf && i < lm_hf_n_tensors(hf); i++) {
            const lm_tensor *t = lm_hf_tensor(hf, i);
            size_t n = (size_t)t->n_bytes;
            char *whole = malloc(n), *pieces = malloc(n + 4);
            lm_hf_read(hf, i, 0, whole, n, &err);
            for (size_t at = 0; at < n; at += 36) lm_hf_read(hf, i, (int64_t)at, pieces + at, n - at < 36 ? n - at : 36, &err);
            CHECK(!err.code && !memcmp(whole, pieces, n), "%s: %s: whole and in pieces differ: %s", folders[f], t->name, err.msg);
            const struct { int64_t offset; size_t n; } bad[] = { { -4, 4 }, { t->n_bytes + 4, 0 }, { t->n_bytes - 4, 8 }, { 0, SIZE_MAX } };
            for (int b = 0; b < LM_COUNT(bad); b++) {
                lm_err out = {0};
                lm_hf_read(hf, i, bad[b].offset, pieces, bad[b].n, &out);
                CHECK(out.code == LM_ERROR && strstr(out.msg, "wanted, it has"), "%s: %s: read %zu bytes from %lld", folders[f], t->name, bad[b].n,
                      (long long)bad[b].offset);
                lm_hf_read(hf, i, bad[b].offset, pieces, bad[b].n, &out);       /* an error stays */
            }
            free(whole);
            free(pieces);
        }
        lm_hf_close(hf);
    }
}

/* Paths that do not fit, and files beyond all measure. */
static void test_sizes(void) {
    static char path[1200];
    for (int n = 1000; n <= 1100; n += 50) {
        lm_err err = {0};
        memset(path, 'a', (size_t)n);
        path[n] = 0;
        CHECK(!lm_hf_open(path, &err) && (strstr(err.msg, "the path is too long") || strstr(err.msg, "File name too long")), "%d: %s", n, err.msg);
    }
    mkdir("build/tmp/hf", 0777);
    write_text("config.json", bert);
    CHECK(!truncate("build/tmp/hf/config.json", 2 << 20), "truncate");
    refused(__LINE__, NULL, "config.json: 2097152 bytes, wanted at most 1048576");
    remove("build/tmp/hf/config.json");
    remove("build/tmp/hf");
    lm_hf_close(NULL);
}

int main(void) {
    test_golden();
    test_lies();
    test_small_files();
    test_names();
    test_configs();
    test_reading();
    test_sizes();
    CHECK(lm_mem_used() == 0, "%llu bytes leaked", (unsigned long long)lm_mem_used());
    return finish_tests();
}

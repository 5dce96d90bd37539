/* func_create.c: lm_create: a model with first weights, and a vocabulary learnt from a query's texts, of bytes, or copied
** from another model.
**
** What can be wrong is found before the query runs; the rows are written when everything else is done, as an import's
** are. So a query of minutes holds no lock for writing. */
#include "ext.h"

#include <stddef.h>

enum { STRETCH = 32768 /* weights made between two asks of stop */ };

typedef struct {
    char *schema, *vocab;
    lm_design d;
    char *arch;
    sqlite3_int64 seed;
} create_options;

#define AT(field) offsetof(create_options, field)
static const lm_option create_table[] = {
    { "schema", LM_OPT_TEXT, AT(schema), 0, 0, NULL },
    { "arch", LM_OPT_TEXT, AT(arch), 0, 0, "llama|gpt2|qwen2|qwen3|gemma3" },
    { "n_layers", LM_OPT_INT, AT(d.n_layers), 1, LM_LAYERS_MAX, NULL },
    { "n_embd", LM_OPT_INT, AT(d.n_embd), 2, LM_EMBD_MAX, NULL },
    { "n_heads", LM_OPT_INT, AT(d.n_heads), 1, LM_HEADS_MAX, NULL },
    { "n_kv_heads", LM_OPT_INT, AT(d.n_kv_heads), 1, LM_HEADS_MAX, NULL },
    { "n_ff", LM_OPT_INT, AT(d.n_ff), 1, LM_FF_MAX, NULL },
    { "n_ctx", LM_OPT_INT, AT(d.n_ctx), 1, LM_CTX_MAX, NULL },
    { "vocab", LM_OPT_JSON, AT(vocab), 0, 0, NULL },
    { "tie_embeddings", LM_OPT_BOOL, AT(d.tie_embeddings), 0, 0, NULL },
    { "share_layers", LM_OPT_INT, AT(d.share_layers), 1, LM_LAYERS_MAX, NULL },
    { "n_experts", LM_OPT_INT, AT(d.n_experts), 1, LM_EXPERTS_MAX, NULL },
    { "n_active", LM_OPT_INT, AT(d.n_active), 1, LM_EXPERTS_MAX, NULL },
    { "seed", LM_OPT_INT, AT(seed), -9007199254740992.0, 9007199254740992.0, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};
#undef AT

typedef struct { char *query, *column, *model; int size; } vocab_options;

#define AT(field) offsetof(vocab_options, field)
static const lm_option vocab_table[] = {
    { "query", LM_OPT_TEXT, AT(query), 0, 0, NULL },
    { "size", LM_OPT_INT, AT(size), 257, LM_VOCAB_MAX, NULL },
    { "column", LM_OPT_TEXT, AT(column), 0, 0, NULL },
    { "model", LM_OPT_TEXT, AT(model), 0, 0, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};

/*----------------------------------------------------------------------
** The vocabulary, as metadata */

static int column_of(sqlite3_stmt *stmt, const char *name, lm_err *err) {
    for (int i = 0; name && i < sqlite3_column_count(stmt); i++) {
        if (!sqlite3_stricmp(sqlite3_column_name(stmt, i), name)) return i;
    }
    if (name) lm_err_set(err, LM_ERROR, "lm_create: the query has no column %.60s", name);
    return 0;
}

/* Count the words of every row's text. */
static void read_texts(lm_conn *c, const vocab_options *o, lm_vocab *v, lm_err *err) {
    sqlite3_stmt *stmt = lm_query_open(c, "lm_create", (lm_text){ o->query, strlen(o->query) }, o->column ? 0 : 1,
                                       "a text (or say which: \"column\")", err);
    int column = stmt ? column_of(stmt, o->column, err) : 0;
    sqlite3_int64 row = 0, texts = 0;
    while (stmt && lm_conn_step(c, stmt, err)) {
        row++;
        if (sqlite3_column_type(stmt, column) == SQLITE_NULL) continue;
        if (sqlite3_column_type(stmt, column) == SQLITE_BLOB) {
            lm_err_set(err, LM_ERROR, "lm_create: row %lld of the query is a BLOB, expected a text", (long long)row);
            break;
        }
        const char *text = lm_column_text(stmt, column, err);
        if (text) lm_vocab_add(v, text, (size_t)sqlite3_column_bytes(stmt, column), lm_conn_stop(c), err);
        texts += sqlite3_column_bytes(stmt, column) > 0;
    }
    sqlite3_finalize(stmt);
    if (!texts)
        lm_err_set(err, LM_ERROR, "lm_create: the query gives no text to learn a vocabulary from (%lld rows)",
                   (long long)row);
}

/* o NULL: of bytes alone. */
static void learn_vocab(lm_conn *c, const vocab_options *o, lm_buf *meta, lm_err *err) {
    lm_vocab *v = lm_vocab_new(err);
    if (v && o) read_texts(c, o, v, err);
    if (v) lm_vocab_train(v, o ? o->size : 257, lm_conn_stop(c), err);
    if (!err->code) lm_vocab_write(v, meta, err);
    lm_vocab_free(v);
}

/* The other model's tokenizer, but not its chat template: a new model knows no turns. */
static void copy_vocab(lm_conn *c, const char *name, lm_buf *out, lm_err *err) {
    static const char prefix[] = "tokenizer.", chat[] = "tokenizer.chat_template";
    lm_found f = {0};
    lm_store_find(c, name, "generate|embed", &f, err);
    sqlite3_stmt *stmt =
        lm_conn_prepare(c, err,
                        "SELECT m.meta, t.data FROM \"%w\".lm_model m JOIN \"%w\".lm_tokenizer t ON t.model = m.id"
                        " WHERE m.id = ?",
                        f.schema, f.schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, f.id);
    if (stmt && !lm_conn_step(c, stmt, err)) lm_err_set(err, LM_ERROR, "model %.60s has no tokenizer to copy", f.name);
    for (int part = 0; part < 2 && !err->code; part++) {
        lm_meta *meta = lm_meta_new(sqlite3_column_blob(stmt, part), (size_t)sqlite3_column_bytes(stmt, part), err);
        for (size_t i = 0; meta && i < lm_meta_count(meta); i++) {
            const lm_meta_entry *e = lm_meta_at(meta, i);
            int is_chat = e->key_n >= sizeof chat - 1 && !memcmp(e->key, chat, sizeof chat - 1);
            int is_ours = e->key_n >= sizeof prefix - 1 && !memcmp(e->key, prefix, sizeof prefix - 1);
            if (is_ours && !is_chat) lm_buf_append(out, e->raw, e->raw_n, err);
        }
        lm_meta_free(meta);
    }
    sqlite3_finalize(stmt);
    lm_found_clear(&f);
}

static void make_vocab(lm_conn *c, const char *json, lm_buf *meta, lm_err *err) {
    vocab_options o = { .size = 4096 };
    if (json && *json == '{') lm_options_parse(vocab_table, &o, (lm_text){ json, strlen(json) }, NULL, err);
    if (!json || !strcmp(json, "\"bytes\"")) {
        learn_vocab(c, NULL, meta, err);
    } else if (*json != '{' || !o.query == !o.model) {
        lm_err_set(err, LM_ERROR,
                   "option \"vocab\": expected \"bytes\", {\"query\": …, \"size\": …} or {\"model\": …}");
    } else if (o.query) {
        learn_vocab(c, &o, meta, err);
    } else {
        copy_vocab(c, o.model, meta, err);
    }
    lm_options_clear(vocab_table, &o);
}

/*----------------------------------------------------------------------
** The model */

typedef struct { lm_conn *c; const lm_design *d; const lm_tensor *tensors; } maker;

static void read_weights(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    const maker *m = arg;
    int64_t at = offset / (int64_t)sizeof(float), end = at + (int64_t)(n / sizeof(float));
    for (float *out = dst; at < end && !err->code; at += STRETCH, out += STRETCH) {
        lm_poll(lm_conn_stop(m->c), err);
        lm_design_fill(m->d, &m->tensors[i], at, end - at < STRETCH ? end - at : STRETCH, out);
    }
}

static void check_size(const lm_tensor *tensors, int n, lm_err *err) {
    int64_t n_bytes = 0;
    uint64_t limit = lm_mem_limit();
    for (int i = 0; i < n; i++) n_bytes += tensors[i].n_bytes;
    if (limit && (uint64_t)n_bytes > limit) {
        lm_err_set(err, LM_ERROR, "lm_create: a model of %lld bytes is more than memory_limit %llu",
                   (long long)n_bytes, (unsigned long long)limit);
    }
}

/* Check the design before there is a vocabulary to make it with. */
static void check_design(lm_design d, lm_err *err) {
    lm_buf meta = {0};
    int n;
    d.n_vocab = 257;
    lm_tensor *tensors = lm_design_list(&d, &meta, &n, err);
    if (tensors) check_size(tensors, n, err);
    lm_free(tensors);
    lm_buf_clear(&meta);
}

static void create_model(lm_conn *c, const char *schema, const char *name, create_options *o, lm_err *err) {
    lm_buf vocab = {0}, meta = {0};
    lm_meta *all = NULL;
    lm_tensor *tensors = NULL;
    int n = 0;
    make_vocab(c, o->vocab, &vocab, err);
    lm_meta *vocab_meta = lm_meta_new(vocab.data, vocab.n, err);
    lm_tok *tok = err->code ? NULL : lm_tok_new(vocab_meta, vocab_meta, err);
    if (!tok) lm_err_set(err, LM_ERROR, "lm_create: the tokenizer that was to be copied is none");
    if (!err->code) o->d.n_vocab = lm_tok_count(tok);
    if (!err->code) tensors = lm_design_list(&o->d, &meta, &n, err);
    if (tensors) check_size(tensors, n, err);
    lm_buf_append(&meta, vocab.data, vocab.n, err);
    if (!err->code) all = lm_meta_new(meta.data, meta.n, err);
    if (!err->code) {
        maker m = { c, &o->d, tensors };
        lm_import_made(c, &(lm_made){ "lm_create", all, tensors, n, read_weights, &m }, schema, name, err);
    }
    lm_tok_free(tok);
    lm_meta_free(vocab_meta);
    lm_meta_free(all);
    lm_free(tensors);
    lm_buf_clear(&meta);
    lm_buf_clear(&vocab);
}

static void create(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text name;
    create_options o = { .d = { .n_layers = 4, .n_embd = 128, .n_heads = 4, .n_ctx = 256, .tie_embeddings = 1 } };
    lm_options_read(create_table, &o, n_args > 1 ? args[1] : NULL, NULL, &err);
    if (lm_value_text(args[0], &name, "name", &err) && !err.code) {
        const char *schema = o.schema ? o.schema : "main";
        o.d.arch = o.arch ? o.arch : "llama";
        o.d.seed = (uint64_t)o.seed;
        if (strlen(name.text) != name.n) lm_err_set(&err, LM_ERROR, "name: a NUL stands inside it");
        lm_store_check_schema(c, schema, &err);
        if (!err.code) check_design(o.d, &err);
        if (!err.code) lm_import_check(c, "lm_create", schema, name.text, &err);
        lm_result_text(ctx, name.text, name.n);
        if (!err.code) create_model(c, schema, name.text, &o, &err);
    }
    lm_options_clear(create_table, &o);
    if (err.code) lm_result_error(ctx, &err);
}

int lm_func_create_register(lm_conn *c) {
    return lm_register(c, "lm_create", 1, 2, SQLITE_DIRECTONLY, create);
}

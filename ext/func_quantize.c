/* func_quantize.c: lm_quantize: a model's copy in fewer bits, and how far it is from the model.
**
** Tensor by tensor: numbers are decoded from the rows, a stretch at a time, and encoded on all threads; what keeps its
** format keeps its bytes. All rows and the comparison of the two models happen inside one savepoint. */
#include "ext.h"

#include <stddef.h>

enum { STRETCH = 1 << 18 /* elements: whole blocks of every format */, TEXTS = 8, TOKENS = 64 /* what models are compared by */ };
static const float HALF_MAX = 65504;        /* blocks hold their scales as halfs */

typedef struct { char *schema, *head; int kl; } quantize_options;

static const char dtypes[] = "f32|f16|bf16|q8_0|q6_k|q5_0|q5_k|q4_0|q4_k";
static const lm_option quantize_table[] = {
    { "schema", LM_OPT_TEXT, offsetof(quantize_options, schema), 0, 0, NULL },
    { "head", LM_OPT_TEXT, offsetof(quantize_options, head), 0, 0, dtypes },
    { "kl", LM_OPT_BOOL, offsetof(quantize_options, kl), 0, 0, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};

/* What the formats of that list are in general.file_type, other programs' number for what a file is mostly made of; -1: not in it. */
static int file_type(const lm_dtype *type) {
    static const struct { int dtype, type; } types[] = { { LM_F32, 0 },   { LM_F16, 1 },   { LM_Q4_0, 2 },  { LM_Q8_0, 7 }, { LM_Q5_0, 8 },
                  { LM_Q4_K, 15 }, { LM_Q5_K, 17 }, { LM_Q6_K, 18 }, { LM_BF16, 32 } };
    for (int i = 0; i < LM_COUNT(types); i++) if (types[i].dtype == type->id) return types[i].type;
    return -1;
}

typedef struct {
    lm_conn *c;
    lm_found *f;                            /* the source */
    const char *schema, *name;              /* of what is made */
    const lm_dtype *as, *head;              /* of matrices; of the output's and the embeddings' */
    int wants_kl;
    lm_buf meta;
    const lm_source *from;
    lm_tensor *to; int open;                /* the tensor that is being read, -1: none */
    uint8_t *raw, *blocks; float *floats;   /* STRETCH elements on their way */
    int64_t first, end;                     /* the bytes of the tensor to be that are in blocks */
} job;

/*----------------------------------------------------------------------
** What becomes what */

/* The head and the embeddings say most about what comes next, and are a small part of a large model. */
static const lm_dtype *better(const lm_dtype *as) {
    int is_low = as->id == LM_Q4_0 || as->id == LM_Q4_K || as->id == LM_Q5_0 || as->id == LM_Q5_K;
    return lm_dtype_find(is_low ? LM_Q6_K : as->id == LM_Q6_K ? LM_Q8_0 : as->id);
}

/* A width that has no whole blocks of 256, or of 32, gets the nearest format that fits. */
static int fitting(const lm_dtype *as, int64_t width) {
    static const struct {
        int k, other;
    } others[] = { { LM_Q4_K, LM_Q5_0 }, { LM_Q5_K, LM_Q5_1 }, { LM_Q6_K, LM_Q8_0 } };
    for (int i = 0; i < LM_COUNT(others) && width % 256; i++)
        if (as->id == others[i].k) as = lm_dtype_find(others[i].other);
    return width % as->block ? LM_F16 : as->id;
}

static int dtype_of(const job *j, const lm_tensor *t) {
    static const char *const kept[] = { ".ffn_gate_inp.", "position_embd.", "token_types.", "rope_freqs." };
    if (t->n_dims == 1) return LM_F32;
    for (int i = 0; i < LM_COUNT(kept); i++) if (strstr(t->name, kept[i])) return t->dtype;
    int is_head = !strcmp(t->name, "output.weight") || !strcmp(t->name, "token_embd.weight");
    return fitting(is_head ? j->head : j->as, t->ne[0]);
}

/* What the new model is to be: metadata and tensors. */
static void plan(job *j, const lm_stored *stored, lm_err *err) {
    static const char *const ours[] = { "general.file_type", "general.quantization_version" };
    const lm_source *src = &stored->source;
    lm_meta *m = lm_meta_new(stored->meta, stored->meta_n, err);
    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const lm_meta_entry *e = lm_meta_at(m, i);
        int is_ours = 0;
        for (int k = 0; k < 2; k++) is_ours |= e->key_n == strlen(ours[k]) && !memcmp(e->key, ours[k], e->key_n);
        if (!is_ours) lm_buf_append(&j->meta, e->raw, e->raw_n, err);
    }
    lm_meta_put_key(&j->meta, "", ours[0], LM_META_U32, err);
    lm_meta_put(&j->meta, (uint64_t)file_type(j->as), 4, err);
    lm_meta_put_key(&j->meta, "", ours[1], LM_META_U32, err);
    lm_meta_put(&j->meta, 2, 4, err);
    lm_buf_append(&j->meta, stored->arrays->data, stored->arrays->n, err);
    if (!err->code && !strcmp(lm_arch_task(m), "embed")) {
        lm_err_set(err, LM_ERROR, "lm_quantize: it embeds texts: lm_import takes \"dtype\":\"q8_0\" for such");
    }
    lm_meta_free(m);
    j->to = lm_alloc(sizeof *j->to * (size_t)src->n_tensors, err);
    for (int i = 0; i < src->n_tensors && !err->code; i++) {
        j->to[i] = src->tensors[i];
        j->to[i].dtype = dtype_of(j, &src->tensors[i]);
        lm_tensor_measure(&j->to[i], err);
    }
}

/*----------------------------------------------------------------------
** Numbers on their way */
/* Put the next stretch of the open tensor into blocks. */
static void encode_stretch(job *j, lm_err *err) {
    const lm_tensor *from = &j->from->tensors[j->open], *to = &j->to[j->open];
    const lm_dtype *type = lm_dtype_find(from->dtype), *as = lm_dtype_find(to->dtype);
    lm_stop stop = lm_conn_stop(j->c);
    int64_t at = j->end / as->bytes * as->block, n = to->n_params - at < STRETCH ? to->n_params - at : STRETCH;
    j->first = j->end;
    j->end += n / as->block * as->bytes;
    lm_poll(stop, err);
    j->from->read(j->from->arg, j->open, at / type->block * type->bytes, type == as ? j->blocks : j->raw,
                  (size_t)(n / type->block * type->bytes), err);
    if (type == as || err->code) return;
    type->decode(j->raw, j->floats, n);
    lm_tensor_check_range(to, at, j->floats, n, as->block > 1 ? HALF_MAX : as->limit, err);
    if (!err->code) lm_encode_blocks(as, j->floats, j->blocks, n, stop, err);
}

/* lm_made's. */
static void read_blocks(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err) {
    job *j = arg;
    if (j->open != i) j->open = i, j->first = j->end = 0;
    for (size_t done = 0; done < n && !err->code;) {
        if (offset + (int64_t)done == j->end) encode_stretch(j, err);
        if (err->code) return;
        size_t from = (size_t)(offset + (int64_t)done - j->first), left = (size_t)(j->end - j->first) - from;
        size_t some = left < n - done ? left : n - done;
        memcpy((char *)dst + done, j->blocks + from, some);
        done += some;
    }
}

/*----------------------------------------------------------------------
** How far it is from the source */

/* What the source itself writes: TEXTS texts of TOKENS tokens, drawn at temperature 1 with seeds from 0 on. */
static void write_texts(lm_conn *c, lm_model *m, lm_ids *texts, lm_err *err) {
    const lm_tok *tok = lm_model_tok(m);
    int32_t start = tok && lm_tok_bos(tok) >= 0 ? lm_tok_bos(tok) : tok && lm_tok_eos(tok) >= 0 ? lm_tok_eos(tok) : 0;
    int room = lm_model_n_ctx(m) - 1;
    lm_token token;
    lm_batch *b = lm_batch_new(m, err);
    for (int i = 0; i < TEXTS && b; i++) {
        lm_gen_options o = { .max_tokens = room < TOKENS ? room : TOKENS, .temperature = 1, .top_p = 1,
                             .repeat_penalty = 1, .seed = (uint64_t)i, .ignore_eog = 1 };
        lm_ids_append(&texts[i], start, err);
        lm_batch_add(b, &start, 1, &o, err);
    }
    while (b && lm_batch_next(b, lm_conn_stop(c), &token, err) > 0) lm_ids_append(&texts[token.seq], token.id, err);
    lm_batch_free(b);
}

static double compare(lm_conn *c, const char *a_name, const char *b_name, lm_err *err) {
    lm_ids texts[TEXTS] = {{0}};
    double kl = 0;
    lm_shared *a = lm_share_begin(c, a_name, "generate", err), *b = NULL;
    if (!err->code) write_texts(c, a->model, texts, err);
    if (!err->code) b = lm_share_begin(c, b_name, "generate", err);
    if (!err->code) kl = lm_divergence(a->model, b->model, texts, TEXTS, lm_conn_stop(c), err);
    for (int i = 0; i < TEXTS; i++) lm_ids_clear(&texts[i]);
    lm_share_end(a);
    lm_share_end(b);
    return kl;
}

/* Note it all in the new model's info, beside what the source's says (a label_format stays true). */
static void write_info(job *j, lm_err *err) {
    char *a = sqlite3_mprintf("%s.%s", j->f->schema, j->f->name), *b = sqlite3_mprintf("%s.%s", j->schema, j->name);
    double kl = 0;
    if (!a || !b) lm_err_set(err, LM_NOMEM, "out of memory");
    else if (j->wants_kl && !err->code) kl = compare(j->c, a, b, err);
    sqlite3_stmt *stmt = lm_conn_prepare(
        j->c, err,
        "UPDATE \"%w\".lm_model SET info = json_patch(json_patch("
        "coalesce((SELECT info FROM \"%w\".lm_model WHERE id = ?1 AND json_valid(info)), '{}'), info),"
        " json_object('kl', ?2, 'base', ?3)) WHERE name = ?4",
        j->schema, j->f->schema);
    if (stmt) {
        sqlite3_bind_int64(stmt, 1, j->f->id);
        if (j->wants_kl) sqlite3_bind_double(stmt, 2, kl);
        sqlite3_bind_text(stmt, 3, j->f->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 4, j->name, -1, SQLITE_STATIC);
        lm_write_step(j->c, stmt, err);
    }
    sqlite3_finalize(stmt);
    sqlite3_free(a);
    sqlite3_free(b);
}

static void build(void *arg, const lm_stored *stored, lm_err *err) {
    job *j = arg;
    j->from = &stored->source;
    plan(j, stored, err);
    lm_meta *meta = err->code ? NULL : lm_meta_new(j->meta.data, j->meta.n, err);
    j->raw = lm_alloc(STRETCH * sizeof *j->floats, err);            /* no format needs more */
    j->floats = lm_alloc(STRETCH * sizeof *j->floats, err);
    j->blocks = lm_alloc(STRETCH * sizeof *j->floats, err);
    if (!err->code)
        lm_import_made(j->c, &(lm_made){ "lm_quantize", meta, j->to, j->from->n_tensors, read_blocks, j }, j->schema,
                       j->name, err);
    lm_meta_free(meta);
    lm_free(j->raw);
    lm_free(j->floats);
    lm_free(j->blocks);
    lm_free(j->to);
    lm_buf_clear(&j->meta);
}

/* The rows are known to be what their digest says when they are read; the copy is made by then, and stays or goes. */
static void quantize_all(job *j, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    lm_write w;
    lm_write_begin(&w, j->c, "lm_quantize", j->schema, err);
    if (!err->code) lm_store_use(j->c, j->f, build, j, digest, err);
    if (!err->code) write_info(j, err);
    lm_write_end(&w, err);
}

static const lm_dtype *find_dtype(lm_text name, lm_err *err) {
    const lm_dtype *type = strlen(name.text) == name.n ? lm_dtype_find_name(name.text) : NULL;
    if (!type || file_type(type) < 0)
        lm_err_set(err, LM_ERROR, "lm_quantize: no dtype %.40s (have: %s)", name.text, dtypes);
    return type;
}

static void quantize(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text model, dtype, name;
    lm_found f = {0};
    quantize_options o = { .kl = 1 };
    lm_options_read(quantize_table, &o, n_args > 3 ? args[3] : NULL, NULL, &err);
    int has_model = lm_value_text(args[0], &model, "model", &err);
    if ((lm_value_text(args[1], &dtype, "dtype", &err) & lm_value_text(args[2], &name, "new_name", &err))
        && !err.code) {
        job j = { .c = c, .f = &f, .schema = o.schema ? o.schema : "main", .name = name.text, .wants_kl = o.kl,
                  .open = -1 };
        j.as = find_dtype(dtype, &err);
        if (!err.code) j.head = o.head ? lm_dtype_find_name(o.head) : better(j.as);
        if (strlen(name.text) != name.n) lm_err_set(&err, LM_ERROR, "new_name: a NUL stands inside it");
        lm_store_check_schema(c, j.schema, &err);
        if (!err.code) lm_store_find(c, has_model ? model.text : NULL, "generate", &f, &err);
        if (!err.code) lm_import_check(c, "lm_quantize", j.schema, name.text, &err);
        lm_result_text(ctx, name.text, name.n);
        if (!err.code) quantize_all(&j, &err);
        lm_found_clear(&f);
    }
    lm_options_clear(quantize_table, &o);
    if (err.code) lm_result_error(ctx, &err);
}

int lm_func_quantize_register(lm_conn *c) {
    return lm_register(c, "lm_quantize", 3, 4, SQLITE_DIRECTONLY, quantize);
}

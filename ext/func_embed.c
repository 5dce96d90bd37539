/* func_embed.c: embed(text[, options]) and lm_similarity(a, b[, options]). */
#include "ext.h"

#include <math.h>

/* A vector as sqlite-vec takes it: float32 in a BLOB whose subtype says so. */
void lm_result_vector(sqlite3_context *ctx, const void *floats, size_t n_bytes) {
    sqlite3_result_blob64(ctx, floats, n_bytes, SQLITE_TRANSIENT);
    sqlite3_result_subtype(ctx, LM_VECTOR_SUBTYPE);
}

/* The vector of one text, of *n dimensions; the caller's. */
static float *vector_of(lm_conn *c, const lm_shared *s, const lm_vector_options *o, lm_text text, int *n, lm_err *err) {
    lm_err own = {0};
    *n = lm_vector_size(s, o, err);
    float *vector = err->code ? NULL : lm_alloc((size_t)*n * sizeof *vector, err);
    if (vector) lm_vectors(c, s, o, &text, 1, vector, NULL, &own, err);
    if (own.code && !err->code) *err = own;
    return vector;
}

static void embed(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text text;
    lm_vector_options o;
    lm_buf key = {0};
    lm_shared *s = NULL;
    sqlite3_value *options = n_args > 1 ? args[1] : NULL;
    lm_vector_options_read(&o, options, &err);
    if (lm_value_text(args[0], &text, "text", &err) && !err.code) s = lm_share_begin_adapted(c, o.model, o.adapter, "embed", &err);
    if (s) {
        size_t known_n = 0;
        int n;
        lm_memo_key(&key, s, 'e', options, text, &err);
        const char *known = err.code ? NULL : lm_memo_find(c, key.data, key.n, &known_n);
        if (known) {
            lm_result_vector(ctx, known, known_n);
        } else {
            float *vector = vector_of(c, s, &o, text, &n, &err);
            if (!err.code) lm_result_vector(ctx, vector, (size_t)n * sizeof *vector);
            if (!err.code) lm_memo_add(c, key.data, key.n, (const char *)vector, (size_t)n * sizeof *vector);
            lm_free(vector);
        }
    }
    lm_share_end(s);
    if (err.code && !lm_options_null(o.on_error, &err)) lm_result_error(ctx, &err);
    lm_buf_clear(&key);
    lm_vector_options_clear(&o);
}

/*----------------------------------------------------------------------
** lm_similarity: the cosine of two vectors, or of two texts' vectors. */
typedef struct { float *own; int n; } vector;

static void read_blob(sqlite3_value *value, vector *out, lm_err *err) {
    int n = sqlite3_value_bytes(value);
    if (!n || n % (int)sizeof(float))
        lm_err_set(err, LM_ERROR, "lm_similarity: a vector is float32 numbers, %d bytes are none", n);
    const void *bytes = lm_value_blob(value, err);
    out->own = lm_alloc((size_t)n, err);                            /* a copy: a BLOB may stand at any address */
    if (out->own) memcpy(out->own, bytes, (size_t)n);
    out->n = n / (int)sizeof(float);
}

static double cosine(const float *a, const float *b, int n) {
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    double x = ab / sqrt(aa * bb);      /* NaN, which is NULL, where one is all zeros */
    return x > 1 ? 1 : x < -1 ? -1 : x;
}

static void similarity(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_vector_options o;
    lm_shared *s = NULL;
    vector v[2] = {{0}};
    int there = sqlite3_value_type(args[0]) != SQLITE_NULL && sqlite3_value_type(args[1]) != SQLITE_NULL;
    lm_vector_options_read(&o, n_args > 2 ? args[2] : NULL, &err);
    for (int i = 0; i < 2 && there && !err.code; i++) {
        lm_text text;
        if (sqlite3_value_type(args[i]) == SQLITE_BLOB) {
            read_blob(args[i], &v[i], &err);
        } else if (lm_value_text(args[i], &text, "text", &err)) {
            if (!s) s = lm_share_begin_adapted(c, o.model, o.adapter, "embed", &err);
            if (s) v[i].own = vector_of(c, s, &o, text, &v[i].n, &err);
        }
    }
    if (v[0].n != v[1].n) lm_err_set(&err, LM_ERROR, "lm_similarity: vectors of %d and %d dimensions", v[0].n, v[1].n);
    if (there && !err.code) sqlite3_result_double(ctx, cosine(v[0].own, v[1].own, v[0].n));
    if (err.code && !lm_options_null(o.on_error, &err)) lm_result_error(ctx, &err);
    lm_share_end(s);
    lm_free(v[0].own);
    lm_free(v[1].own);
    lm_vector_options_clear(&o);
}

int lm_func_embed_register(lm_conn *c) {
    int rc = lm_register(c, "embed", 1, 2, LM_RESULT_SUBTYPE, embed);
    return rc == SQLITE_OK ? lm_register(c, "lm_similarity", 2, 3, 0, similarity) : rc;
}

/* func_token.c: lm_tokenize, lm_detokenize, lm_token_count. */
#include "ext.h"

#include <stddef.h>

typedef struct { char *model; int add_special, parse_special; } token_options;

#define AT(field) offsetof(token_options, field)
static const lm_option encode_table[] = {
    { "model", LM_OPT_TEXT, AT(model), 0, 0, NULL },
    { "add_special", LM_OPT_BOOL, AT(add_special), 0, 0, NULL },
    { "parse_special", LM_OPT_BOOL, AT(parse_special), 0, 0, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};
static const lm_option decode_table[] = {
    { "model", LM_OPT_TEXT, AT(model), 0, 0, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};

/* Begin using the model that the options name, which must have a tokenizer. */
static lm_shared *begin(lm_conn *c, const lm_option *table, token_options *o, sqlite3_value *json, lm_err *err) {
    *o = (token_options){0};
    lm_options_read(table, o, json, NULL, err);
    lm_shared *s = err->code ? NULL : lm_share_begin(c, o->model, "generate|embed", err);
    if (s && !lm_model_tok(s->model)) lm_err_set(err, LM_ERROR, "the model has no tokenizer");
    return s;
}

lm_shared *lm_tokens_begin(lm_conn *c, lm_text text, sqlite3_value *options, lm_ids *ids, lm_err *err) {
    token_options o;
    lm_shared *s = begin(c, encode_table, &o, options, err);
    if (s && !err->code) {
        lm_tok_options how = { .add_special = o.add_special, .parse_special = o.parse_special };
        lm_tok_encode(lm_model_tok(s->model), text.text, text.n, &how, 0, lm_conn_stop(c), ids, err);
    }
    lm_options_clear(encode_table, &o);
    if (!err->code) return s;
    lm_share_end(s);
    return NULL;
}

/* Add a token's bytes and take the whole characters; the last token takes what is left. */
void lm_pieces_take(lm_pieces *p, const lm_tok *tok, const lm_ids *ids, size_t i, lm_err *err) {
    size_t n;
    const char *bytes = lm_tok_bytes(tok, ids->data[i], &n);
    int drop = lm_tok_drops_space(tok, i ? ids->data[i - 1] : -1, ids->data[i]);
    p->piece.n = 0;
    lm_buf_append(&p->bytes, bytes + drop, n - (size_t)drop, err);
    size_t whole = i + 1 == ids->n ? p->bytes.n : lm_utf8_complete(p->bytes.data, p->bytes.n);
    lm_utf8_repair(&p->piece, p->bytes.data, whole, err);
    if (whole < p->bytes.n) memmove(p->bytes.data, p->bytes.data + whole, p->bytes.n - whole);
    p->bytes.n -= whole;
}

void lm_pieces_clear(lm_pieces *p) {
    lm_buf_clear(&p->bytes);
    lm_buf_clear(&p->piece);
}

/* Encode the arguments' text. Return 0 for NULL, with no ids, or on error. */
static int encode(sqlite3_context *ctx, int n_args, sqlite3_value **args, lm_ids *ids) {
    lm_err err = {0};
    lm_text text;
    int there = lm_value_text(args[0], &text, "text", &err);
    if (there) lm_share_end(lm_tokens_begin(sqlite3_user_data(ctx), text, n_args > 1 ? args[1] : NULL, ids, &err));
    if (err.code) lm_result_error(ctx, &err);
    return there && !err.code;
}

static void tokenize(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_ids ids = {0};
    lm_buf json = {0};
    lm_err err = {0};
    if (encode(ctx, n_args, args, &ids)) {
        for (size_t i = 0; i < ids.n; i++) lm_buf_print(&json, &err, "%c%d", i ? ',' : '[', ids.data[i]);
        lm_buf_append(&json, ids.n ? "]" : "[]", ids.n ? 1 : 2, &err);
        if (err.code) lm_result_error(ctx, &err);
        else lm_result_text(ctx, json.data, json.n);
    }
    lm_buf_clear(&json);
    lm_ids_clear(&ids);
}

static void token_count(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_ids ids = {0};
    if (encode(ctx, n_args, args, &ids)) sqlite3_result_int64(ctx, (sqlite3_int64)ids.n);
    lm_ids_clear(&ids);
}

static void decode(const lm_tok *tok, lm_text json, lm_buf *out, lm_err *err) {
    lm_json j;
    int kind;
    int32_t before = -1;
    lm_json_init(&j, json.text, json.n);
    if (lm_json_next(&j, err) != LM_JSON_ARRAY) lm_err_set(err, LM_ERROR, "ids: expected a JSON array of token ids");
    while ((kind = lm_json_next(&j, err)) != LM_JSON_END) {
        size_t n;
        if (kind != LM_JSON_INT || j.integer < 0 || j.integer >= lm_tok_count(tok)) {
            lm_err_set(err, LM_ERROR, "ids: expected whole numbers from 0 to %d", lm_tok_count(tok) - 1);
        } else {
            const char *bytes = lm_tok_bytes(tok, (int32_t)j.integer, &n);
            int drop = lm_tok_drops_space(tok, before, (int32_t)j.integer);
            lm_buf_append(out, bytes + drop, n - (size_t)drop, err);
            before = (int32_t)j.integer;
        }
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
}

static void detokenize(sqlite3_context *ctx, int n_args, sqlite3_value **args) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text ids;
    lm_buf bytes = {0}, text = {0};
    token_options o = {0};
    lm_shared *s = NULL;
    int there = lm_value_text(args[0], &ids, "ids", &err);
    if (there) s = begin(c, decode_table, &o, n_args > 1 ? args[1] : NULL, &err);
    if (s && !err.code) {
        decode(lm_model_tok(s->model), ids, &bytes, &err);
        lm_utf8_repair(&text, bytes.data, bytes.n, &err);
        if (!err.code) lm_result_text(ctx, text.data, text.n);
    }
    lm_share_end(s);
    lm_options_clear(decode_table, &o);
    if (err.code) lm_result_error(ctx, &err);
    lm_buf_clear(&bytes);
    lm_buf_clear(&text);
}

int lm_func_token_register(lm_conn *c) {
    int rc = lm_register(c, "lm_tokenize", 1, 2, 0, tokenize);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_detokenize", 1, 2, 0, detokenize);
    if (rc == SQLITE_OK) rc = lm_register(c, "lm_token_count", 1, 2, 0, token_count);
    return rc;
}

/* func_generate.c: generate(prompt[, options]) and lm_chat(messages[, options]). */
#include "ext.h"

static void run(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, lm_buf *answer,
                lm_err *err) {
    lm_token token;
    if (o->render) {
        lm_prompt_text(s, o, prompt, answer, err);
        return;
    }
    lm_batch *b = lm_prompt_start(c, s, o, prompt, 0, err);
    while (b && lm_batch_next(b, lm_conn_stop(c), &token, err) > 0)
        lm_buf_append(answer, token.piece, token.piece_n, err);
    lm_batch_free(b);
}

static void answer_call(sqlite3_context *ctx, int n_args, sqlite3_value **args, int is_chat) {
    lm_conn *c = sqlite3_user_data(ctx);
    lm_err err = {0};
    lm_text prompt;
    lm_generate_options o;
    lm_buf key = {0}, answer = {0};
    lm_shared *s = NULL;
    sqlite3_value *options = n_args > 1 ? args[1] : NULL;
    const char *known = NULL;
    size_t n = 0;
    lm_generate_options_read(&o, options, is_chat, &err);
    int there = lm_value_text(args[0], &prompt, is_chat ? "messages" : "prompt", &err);
    if (there && !err.code) s = lm_share_begin_adapted(c, o.model, o.adapter, "generate", &err);
    if (s) {
        int repeatable = o.temperature == 0 || o.has_seed;
        if (repeatable) lm_memo_key(&key, s, is_chat ? 'c' : 'g', options, prompt, &err);
        if (repeatable && !err.code) known = lm_memo_find(c, key.data, key.n, &n);
        if (known) {
            lm_result_text(ctx, known, n);
        } else {
            run(c, s, &o, prompt, &answer, &err);
            if (!err.code) lm_result_text(ctx, answer.data, answer.n);
            if (!err.code && repeatable) lm_memo_add(c, key.data, key.n, answer.data, answer.n);
        }
    }
    lm_share_end(s);
    if (err.code && !lm_options_null(o.on_error, &err)) lm_result_error(ctx, &err);
    lm_buf_clear(&key);
    lm_buf_clear(&answer);
    lm_generate_options_clear(&o);
}

static void generate(sqlite3_context *ctx, int n_args, sqlite3_value **args) { answer_call(ctx, n_args, args, 0); }
static void chat(sqlite3_context *ctx, int n_args, sqlite3_value **args) { answer_call(ctx, n_args, args, 1); }

int lm_func_generate_register(lm_conn *c) {
    int rc = lm_register(c, "generate", 1, 2, 0, generate);
    return rc == SQLITE_OK ? lm_register(c, "lm_chat", 1, 2, 0, chat) : rc;
}

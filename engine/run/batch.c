/* batch.c: sequences advancing together through passes.
**
** Each step gathers rows: a decoding sequence gives its newest token, one still reading its prompt gives as
** much of it as fits; sequences that had their last row in the pass then sample, one a call of
** lm_batch_next. Text leaves as whole characters, and only when no stop text can begin in it. */
#define _GNU_SOURCE
#include "sample.h"

#include <string.h>

typedef struct {
    lm_gen_options options;
    lm_kv kv;
    lm_ids ids;                 /* prompt and answer */
    size_t n_prompt;
    lm_buf text;                /* the answer's bytes */
    size_t n_sent;              /* of them, already given out */
    int ready;                  /* the row of logits that waits to be sampled, -1: none */
    int finish;
} sequence;

struct lm_batch {
    lm_model *m;
    int exact;
    lm_pass *pass;
    sequence *seqs; size_t n_seqs, seqs_cap;
    size_t next_ready;          /* sequences below it have been sampled since the last pass */
    const float *logits;
    lm_row rows[LM_ROWS_MAX];
    lm_sampler sampler;
    lm_buf piece;
};

static const char *const finish_names[] = { "", "eos", "stop", "length", "context" };
const char *lm_finish_name(int finish) { return finish_names[finish]; }

lm_batch *lm_batch_new(lm_model *m, lm_err *err) {
    lm_batch *b = lm_calloc(1, sizeof *b, err);
    if (b) b->m = m;
    return b;
}

void lm_batch_free(lm_batch *b) {
    if (!b) return;
    for (size_t i = 0; i < b->n_seqs; i++) {
        lm_kv_clear(&b->seqs[i].kv);
        lm_ids_clear(&b->seqs[i].ids);
        lm_buf_clear(&b->seqs[i].text);
    }
    lm_free(b->seqs);
    lm_pass_free(b->pass);
    lm_sampler_clear(&b->sampler);
    lm_buf_clear(&b->piece);
    lm_free(b);
}

static void check_prompt(const lm_batch *b, const int32_t *ids, size_t n, lm_err *err) {
    if (b->m->arch->is_encoder) lm_err_set(err, LM_ERROR, "a %s model embeds texts, it does not generate any", b->m->arch->name);
    if (n == 0) lm_err_set(err, LM_ERROR, "the prompt has no tokens");
    if (n >= (size_t)b->m->h.n_ctx) {
        lm_err_set(err, LM_ERROR, "the prompt has %llu tokens, the model's context is %d", (unsigned long long)n, b->m->h.n_ctx);
    }
    for (size_t i = 0; i < n && !err->code; i++) {
        if (ids[i] < 0 || ids[i] >= b->m->h.n_vocab) {
            lm_err_set(err, LM_ERROR, "token id %d is not in the vocabulary of %d", ids[i], b->m->h.n_vocab);
        }
    }
}

int lm_batch_add(lm_batch *b, const int32_t *ids, size_t n, const lm_gen_options *options, lm_err *err) {
    check_prompt(b, ids, n, err);
    if (!lm_grow((void **)&b->seqs, b->n_seqs, &b->seqs_cap, 1, sizeof *b->seqs, err)) return -1;
    sequence *s = &b->seqs[b->n_seqs];
    *s = (sequence){ .options = *options, .n_prompt = n, .ready = -1 };
    lm_kv_init(&s->kv, b->m, b->exact);
    for (size_t i = 0; i < n; i++) lm_ids_append(&s->ids, ids[i], err);
    if (err->code) {
        lm_ids_clear(&s->ids);
        return -1;
    }
    if (options->max_tokens == 0) s->finish = LM_FINISH_LENGTH;
    return (int)b->n_seqs++;
}

int lm_batch_finish(const lm_batch *b, int seq) { return b->seqs[seq].finish; }

/*----------------------------------------------------------------------
** A step: gather rows, run the pass. */

/* Give the pass room for what the sequences will ask of it. */
static void size_pass(lm_batch *b, lm_err *err) {
    size_t rows = 0, n_live = 0;
    for (size_t i = 0; i < b->n_seqs; i++) {
        if (b->seqs[i].finish) continue;
        rows += b->seqs[i].ids.n - (size_t)b->seqs[i].kv.n;
        n_live++;
    }
    int n_rows = (int)LM_MIN(rows, LM_ROWS_MAX), n_out = (int)LM_MIN(n_live, LM_ROWS_MAX);
    if (lm_pass_fits(b->pass, n_rows, n_out)) return;
    lm_pass_free(b->pass);
    b->pass = lm_pass_new(b->m, n_rows, n_out, b->exact, err);
}

/* Decoding sequences first, one row each; what is left of the pass goes to prompts. */
static int gather_rows(lm_batch *b, lm_err *err) {
    int n = 0, room = lm_pass_rows(b->pass), n_out = 0;
    for (int prompts = 0; prompts <= 1; prompts++) {
        for (size_t i = 0; i < b->n_seqs; i++) {
            sequence *s = &b->seqs[i];
            int todo = (int)s->ids.n - s->kv.n;
            if (s->finish || (todo > 1) != prompts) continue;
            int take = LM_MIN(todo, room - n);
            if (take == 0) continue;
            lm_kv_reserve(&s->kv, s->kv.n + take, err);
            for (int r = 0; r < take; r++, s->kv.n++) {
                b->rows[n++] = (lm_row){ .id = s->ids.data[s->kv.n], .pos = s->kv.n, .kv = &s->kv, .out = -1 };
            }
            if (take == todo) b->rows[n - 1].out = s->ready = n_out++;
        }
    }
    return n;
}

/* Run passes until some sequence has logits. Return 0 when all have ended. */
static int step(lm_batch *b, lm_stop stop, lm_err *err) {
    int ready = 0, live = 0;
    while (!ready && !err->code) {
        live = 0;
        for (size_t i = 0; i < b->n_seqs; i++) live += !b->seqs[i].finish;
        if (!live) return 0;
        size_pass(b, err);
        int n = err->code ? 0 : gather_rows(b, err);
        if (!err->code) b->logits = lm_forward(b->pass, b->rows, n, stop, err);
        for (size_t i = 0; i < b->n_seqs; i++) ready |= b->seqs[i].ready >= 0;
    }
    b->next_ready = 0;
    return !err->code;
}

/*----------------------------------------------------------------------
** From ids to text. */

/* Find the first stop text at or after from. Return its place, or the text's length. */
static size_t find_stop(const sequence *s, size_t from) {
    size_t at = s->text.n;
    for (int i = 0; i < s->options.n_stops; i++) {
        if (!s->options.stop_ns[i]) continue;
        const char *found = memmem(s->text.data + from, at - from, s->options.stops[i], s->options.stop_ns[i]);
        if (found) at = (size_t)(found - s->text.data);
    }
    return at;
}

/* The end of the text that may leave: before a cut character and before anything that may become a stop. */
static size_t safe_end(const sequence *s) {
    size_t end = s->n_sent + lm_utf8_complete(s->text.data + s->n_sent, s->text.n - s->n_sent);
    for (int i = 0; i < s->options.n_stops; i++) {
        size_t n = s->options.stop_ns[i], tail = LM_MIN(n ? n - 1 : 0, s->text.n - s->n_sent);
        for (; tail; tail--) {
            if (!memcmp(s->text.data + s->text.n - tail, s->options.stops[i], tail)) break;
        }
        end = LM_MIN(end, s->text.n - tail);
    }
    return end;
}

/* Take in token id: decide whether the sequence ends and what text may leave. */
static void advance(lm_batch *b, sequence *s, int32_t id, lm_err *err) {
    const lm_tok *tok = b->m->tok;
    size_t n = 0;
    lm_ids_append(&s->ids, id, err);
    if (tok && lm_tok_is_eog(tok, id) && !s->options.ignore_eog) {
        s->finish = LM_FINISH_EOS;
    } else if (tok && id < lm_tok_count(tok)) {
        const char *bytes = lm_tok_bytes(tok, id, &n);
        lm_buf_append(&s->text, bytes, n, err);
        size_t stop = find_stop(s, s->n_sent);
        if (stop < s->text.n) {
            s->text.n = stop;
            s->finish = LM_FINISH_STOP;
        }
    }
    if (!s->finish && s->ids.n - s->n_prompt >= (size_t)s->options.max_tokens) s->finish = LM_FINISH_LENGTH;
    if (!s->finish && s->ids.n >= (size_t)b->m->h.n_ctx) s->finish = LM_FINISH_CONTEXT;
    if (err->code) return;
    size_t end = s->finish ? s->text.n : safe_end(s);
    b->piece.n = 0;
    lm_utf8_repair(&b->piece, s->text.data + s->n_sent, end - s->n_sent, err);
    s->n_sent = end;
}

int lm_batch_next(lm_batch *b, lm_stop stop, lm_token *out, lm_err *err) {
    sequence *s = NULL;
    while (!s && !err->code) {
        while (b->next_ready < b->n_seqs && b->seqs[b->next_ready].ready < 0) b->next_ready++;
        if (b->next_ready < b->n_seqs) s = &b->seqs[b->next_ready++];
        else if (!step(b, stop, err)) return err->code ? -1 : 0;
    }
    if (err->code) return -1;
    unsigned fp = lm_fp_enter();
    const float *logits = b->logits + (size_t)s->ready * (size_t)b->m->h.n_vocab;
    *out = (lm_token){ .seq = (int)(s - b->seqs) };
    s->ready = -1;
    out->id = lm_sample(&b->sampler, logits, b->m->h.n_vocab, &s->options, s->ids.data, s->ids.n, s->ids.n - s->n_prompt, err);
    if (s->options.want_logprob && !err->code) out->logprob = lm_sample_logprob(logits, b->m->h.n_vocab, out->id);
    lm_fp_leave(fp);
    if (!err->code) advance(b, s, out->id, err);
    out->piece = b->piece.data;
    out->piece_n = b->piece.n;
    out->finish = s->finish;
    if (s->finish) lm_kv_clear(&s->kv);
    return err->code ? -1 : 1;
}

/* embed.c: texts to vectors: packed passes, pooling.
**
** Texts stand side by side in a pass, each with keys and values of its own, so that none is padded and none sees another.
** Those of a causal model may be longer than a pass and go on in the next one; an encoder's stand in one pass whole. The
** sum of a mean is taken position by position, in order. */
#include "../model/model.h"

#include <string.h>

enum { ROWS = 512 };                    /* of a pass; more for an encoder's text that is longer */

typedef struct {
    lm_model *m;
    const lm_embed_options *options;
    const lm_ids *texts;
    float *out; int dimensions;
    lm_pass *pass;
    lm_row *rows; int n_rows, max_rows;
    int *text_of;                       /* (max_rows) */
    lm_kv *kvs;                         /* (n texts), cleared when a text is done */
    float *sums;                        /* (n_embd): of the text that is being pooled */
    int pooled;                         /* positions in sums */
    int is_bad;                         /* a vector came out that is not finite */
} embedder;

static void finish_text(embedder *e, int text) {
    int n = e->m->h.n_embd;
    float *out = e->out + (size_t)text * (size_t)e->dimensions;
    double squares = 0;
    for (int i = 0; i < n && e->options->pooling == LM_POOL_MEAN; i++) e->sums[i] /= (float)e->pooled;
    memcpy(out, e->sums, (size_t)e->dimensions * sizeof *out);
    for (int i = 0; i < e->dimensions; i++) squares += (double)out[i] * (double)out[i];
    e->is_bad |= !isfinite(squares);
    float scale = squares > 0 ? (float)(1.0 / sqrt(squares)) : 0;
    for (int i = 0; i < e->dimensions && e->options->normalize; i++) out[i] *= scale;
    lm_kv_clear(&e->kvs[text]);
    e->pooled = 0;
}

/* Take in one position's hidden state. */
static void pool(embedder *e, const lm_row *row, int text, const float *hidden) {
    size_t n = (size_t)e->m->h.n_embd;
    int is_last = row->pos + 1 == (int)e->texts[text].n, pooling = e->options->pooling;
    if (!e->pooled) memset(e->sums, 0, n * sizeof *e->sums);
    e->pooled++;
    if (pooling == LM_POOL_MEAN) for (size_t i = 0; i < n; i++) e->sums[i] += hidden[i];
    else if (pooling == LM_POOL_LAST ? is_last : row->pos == 0) memcpy(e->sums, hidden, n * sizeof *e->sums);
    if (is_last) finish_text(e, text);
}

static void run_rows(embedder *e, lm_stop stop, lm_err *err) {
    const float *hidden = e->n_rows && !err->code ? lm_encode(e->pass, e->rows, e->n_rows, stop, err) : NULL;
    for (int i = 0; hidden && i < e->n_rows; i++)
        pool(e, &e->rows[i], e->text_of[i], hidden + (size_t)i * (size_t)e->m->h.n_embd);
    e->n_rows = 0;
}

static void add_text(embedder *e, int text, lm_stop stop, lm_err *err) {
    const lm_ids *ids = &e->texts[text];
    lm_kv *kv = &e->kvs[text];
    int n = (int)ids->n;
    if (!e->m->h.causal && e->n_rows + n > e->max_rows) run_rows(e, stop, err);
    lm_kv_reserve(kv, n, err);
    for (int pos = 0; pos < n && !err->code; pos++) {
        if (e->n_rows == e->max_rows) run_rows(e, stop, err);
        e->text_of[e->n_rows] = text;
        e->rows[e->n_rows++] = (lm_row){ .id = ids->data[pos], .pos = pos, .kv = kv, .out = -1 };
        kv->n = e->m->h.causal ? pos + 1 : n;
    }
}

static void check_texts(const embedder *e, int n, lm_err *err) {
    int most = lm_model_n_text(e->m), vocab = e->m->h.n_vocab;
    for (int t = 0; t < n && !err->code; t++) {
        const lm_ids *ids = &e->texts[t];
        if (!ids->n || ids->n > (size_t)most)
            lm_err_set(err, LM_ERROR, "a text of %zu tokens, the model takes 1 to %d", ids->n, most);
        for (size_t i = 0; i < ids->n && !err->code; i++) {
            if (ids->data[i] < 0 || ids->data[i] >= vocab)
                lm_err_set(err, LM_ERROR, "token id %d is not in the vocabulary of %d", ids->data[i], vocab);
        }
    }
}

void lm_embed(lm_model *m, const lm_ids *texts, int n, const lm_embed_options *options, float *out, lm_stop stop,
              lm_err *err) {
    embedder e = { .m = m, .options = options, .texts = texts, .out = out };
    size_t total = 0, longest = 0;
    e.dimensions = options->dimensions ? options->dimensions : m->h.n_embd;
    if (e.dimensions < 1 || e.dimensions > m->h.n_embd)
        lm_err_set(err, LM_ERROR, "%d dimensions, the model has %d", e.dimensions, m->h.n_embd);
    check_texts(&e, n, err);
    if (err->code) return;
    for (int t = 0; t < n; t++) {
        total += texts[t].n;
        longest = LM_MAX(longest, texts[t].n);
    }
    e.max_rows = (int)LM_MIN(total, m->h.causal ? ROWS : LM_MAX(ROWS, longest));
    e.pass = lm_pass_new(m, e.max_rows, 0, 0, err);
    e.rows = lm_alloc(sizeof *e.rows * (size_t)e.max_rows, err);
    e.text_of = lm_alloc(sizeof *e.text_of * (size_t)e.max_rows, err);
    e.kvs = lm_calloc((size_t)n, sizeof *e.kvs, err);
    e.sums = lm_calloc((size_t)m->h.n_embd, sizeof *e.sums, err);
    unsigned fp = lm_fp_enter();
    for (int t = 0; t < n && !err->code; t++) {
        lm_kv_init(&e.kvs[t], m, !m->h.causal);      /* an encoder keeps nothing, so floats cost it little */
        add_text(&e, t, stop, err);
    }
    run_rows(&e, stop, err);
    if (e.is_bad) lm_err_set(err, LM_ERROR, "output: activations not finite");
    lm_fp_leave(fp);
    for (int t = 0; t < n && e.kvs; t++) if (e.kvs[t].m) lm_kv_clear(&e.kvs[t]);
    lm_pass_free(e.pass);
    lm_free(e.rows);
    lm_free(e.text_of);
    lm_free(e.kvs);
    lm_free(e.sums);
}

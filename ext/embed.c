/* embed.c: texts to vectors, many at once.
**
** Each text becomes one piece or, where it is longer than the model takes and the caller wants the mean, several: its
** tokens between the special ones that the model puts around every text. Equal pieces are computed once, and pieces go
** to the engine shortest first, so that those of one pass are alike in length. */
#include "ext.h"

#include <math.h>
#include <stddef.h>

static const lm_option vector_table[] = {
    { "model", LM_OPT_TEXT, offsetof(lm_vector_options, model), 0, 0, NULL },
    { "adapter", LM_OPT_TEXT, offsetof(lm_vector_options, adapter), 0, 0, NULL },
    { "pooling", LM_OPT_TEXT, offsetof(lm_vector_options, pooling), 0, 0, "mean|cls|last" },
    { "normalize", LM_OPT_BOOL, offsetof(lm_vector_options, normalize), 0, 0, NULL },
    { "dimensions", LM_OPT_INT, offsetof(lm_vector_options, dimensions), 1, 65536, NULL },
    { "prefix", LM_OPT_TEXT, offsetof(lm_vector_options, prefix), 0, 0, NULL },
    { "on_long", LM_OPT_TEXT, offsetof(lm_vector_options, on_long), 0, 0, "truncate|error|mean" },
    { "on_error", LM_OPT_TEXT, offsetof(lm_vector_options, on_error), 0, 0, "error|null" },
    { NULL, 0, 0, 0, 0, NULL },
};

void lm_vector_options_init(lm_vector_options *o) { *o = (lm_vector_options){ .normalize = 1 }; }

void lm_vector_options_read(lm_vector_options *o, sqlite3_value *json, lm_err *err) {
    lm_vector_options_init(o);
    lm_options_read(vector_table, o, json, NULL, err);
}

void lm_vector_options_clear(lm_vector_options *o) { lm_options_clear(vector_table, o); }

int lm_vector_size(const lm_shared *s, const lm_vector_options *o, lm_err *err) {
    int most = lm_model_n_embd(s->model);
    if (o->dimensions > most)
        lm_err_set(err, LM_ERROR, "option \"dimensions\": %d, the model has %d", o->dimensions, most);
    return o->dimensions ? o->dimensions : most;
}

static int is_on_long(const lm_vector_options *o, const char *word) { return o->on_long && !strcmp(o->on_long, word); }

/*----------------------------------------------------------------------
** Texts to pieces */
typedef struct { lm_ids ids; int text; size_t n_own; } piece;       /* n_own: tokens that are the text's */

typedef struct {
    lm_conn *c;
    const lm_shared *s;
    const lm_vector_options *o;
    lm_frame frame;
    piece *pieces; size_t n, cap;
    uint32_t *order;                    /* of pieces: by length, then by ids */
    uint32_t *unique;                   /* by piece: which of the engine's texts it is */
} job;

static void encode(lm_conn *c, const lm_tok *tok, lm_text text, int add_special, size_t limit, lm_ids *ids,
                   lm_err *err) {
    lm_tok_options how = { .add_special = add_special };
    lm_tok_encode(tok, text.text, text.n, &how, limit, lm_conn_stop(c), ids, err);
}

/* What stands around a text's own tokens: compare a text's tokens with and without it. */
void lm_frame_find(lm_conn *c, const lm_shared *s, lm_frame *f, lm_err *err) {
    const lm_tok *tok = lm_model_tok(s->model);
    const lm_text probe = { "a", 1 };
    lm_ids bare = {0}, framed = {0};
    *f = (lm_frame){0};
    if (!tok) lm_err_set(err, LM_ERROR, "the model has no tokenizer");
    if (err->code) return;
    encode(c, tok, (lm_text){ "", 0 }, 1, 0, &f->ids, err);
    encode(c, tok, probe, 0, 0, &bare, err);
    encode(c, tok, probe, 1, 0, &framed, err);
    while (!err->code && f->lead < f->ids.n && framed.n == bare.n + f->ids.n &&
           memcmp(framed.data + f->lead, bare.data, bare.n * sizeof *bare.data)) f->lead++;
    f->room = lm_model_n_text(s->model) - (int)f->ids.n;
    if (f->room < 1)
        lm_err_set(err, LM_ERROR, "the model takes %d tokens a text, of which special ones are %zu",
                   lm_model_n_text(s->model), f->ids.n);
    lm_ids_clear(&bare);
    lm_ids_clear(&framed);
}

void lm_frame_clear(lm_frame *f) { lm_ids_clear(&f->ids); }

static void add_piece(job *j, int text, const int32_t *own, size_t n_own, lm_err *err) {
    if (!lm_grow((void **)&j->pieces, j->n, &j->cap, 1, sizeof *j->pieces, err)) return;
    const lm_ids *around = &j->frame.ids;
    size_t lead = j->frame.lead, tail = around->n - lead, n = n_own + around->n;
    piece *p = &j->pieces[j->n];
    *p = (piece){ .ids = { lm_alloc(n * sizeof *own, err), n, n }, .text = text, .n_own = n_own };
    if (err->code) return;
    j->n++;
    if (lead) memcpy(p->ids.data, around->data, lead * sizeof *own);
    if (n_own) memcpy(p->ids.data + lead, own, n_own * sizeof *own);
    if (tail) memcpy(p->ids.data + lead + n_own, around->data + lead, tail * sizeof *own);
}

/* Cut a text into pieces. What is wrong with this text alone goes to *own_err. */
static void add_text(job *j, int i, lm_text text, lm_err *own_err, lm_err *err) {
    lm_ids ids = {0};
    lm_buf whole = {0};
    size_t room = (size_t)j->frame.room;
    if (j->o->prefix) {
        lm_buf_append(&whole, j->o->prefix, strlen(j->o->prefix), err);
        lm_buf_append(&whole, text.text, text.n, err);
        text = (lm_text){ whole.data, whole.n };
    }
    if (!err->code) encode(j->c, lm_model_tok(j->s->model), text, 0, is_on_long(j->o, "mean") ? 0 : room, &ids, err);
    if (!ids.n && !j->frame.ids.n) {
        lm_err_set(own_err, LM_ERROR, "a text without tokens, and the model adds none of its own");
    } else if (ids.n > room && is_on_long(j->o, "error")) {
        lm_err_set(
            own_err, LM_ERROR,
            "the text has more than the %zu tokens that the model takes (\"on_long\" can cut it, or take the mean)",
            room);
    } else if (ids.n > room && is_on_long(j->o, "mean")) {
        for (size_t at = 0; at < ids.n && !err->code; at += room)
            add_piece(j, i, ids.data + at, at + room < ids.n ? room : ids.n - at, err);
    } else if (!err->code) {
        add_piece(j, i, ids.data, ids.n < room ? ids.n : room, err);
    }
    lm_ids_clear(&ids);
    lm_buf_clear(&whole);
}

/*----------------------------------------------------------------------
** Pieces to vectors */
static int compare_pieces(const void *arg, uint32_t a, uint32_t b) {
    const lm_ids *x = &((const piece *)arg)[a].ids, *y = &((const piece *)arg)[b].ids;
    return x->n != y->n ? (x->n < y->n ? -1 : 1) : memcmp(x->data, y->data, x->n * sizeof *x->data);
}

static int model_pooling(const job *j) {
    const char *word = j->o->pooling;
    return !word                   ? lm_model_pooling(j->s->model)
           : !strcmp(word, "mean") ? LM_POOL_MEAN
           : !strcmp(word, "cls")  ? LM_POOL_CLS
                                   : LM_POOL_LAST;
}

/* Compute the pieces, each different one once. Return their vectors, to be found by unique. */
static float *compute(job *j, int size, lm_err *err) {
    lm_embed_options options = { .pooling = model_pooling(j), .normalize = j->o->normalize, .dimensions = size };
    size_t n = 0;
    j->order = lm_alloc(j->n * sizeof *j->order, err);
    j->unique = lm_alloc(j->n * sizeof *j->unique, err);
    lm_ids *texts = lm_alloc(j->n * sizeof *texts, err);
    for (size_t i = 0; i < j->n && !err->code; i++) j->order[i] = (uint32_t)i;
    if (!err->code) lm_sort(j->order, j->n, compare_pieces, j->pieces, err);
    for (size_t i = 0; i < j->n && !err->code; i++) {
        int is_new = !i || compare_pieces(j->pieces, j->order[i - 1], j->order[i]);
        if (is_new) texts[n++] = j->pieces[j->order[i]].ids;
        j->unique[j->order[i]] = (uint32_t)n - 1;
    }
    float *vectors = lm_alloc(n * (size_t)size * sizeof *vectors, err);
    if (!err->code) lm_embed(j->s->model, texts, (int)n, &options, vectors, lm_conn_stop(j->c), err);
    lm_free(texts);
    return vectors;
}

/* The mean of the vectors of one text's pieces first..end-1, by their numbers of tokens. */
static void average(const job *j, size_t first, size_t end, const float *vectors, int size, float *out) {
    double total = 0, squares = 0;
    for (size_t p = first; p < end; p++) total += (double)j->pieces[p].n_own;
    for (int i = 0; i < size; i++) {
        double sum = 0;
        for (size_t p = first; p < end; p++)
            sum += (double)j->pieces[p].n_own * (double)vectors[(size_t)j->unique[p] * (size_t)size + (size_t)i];
        out[i] = (float)(sum / total);
        squares += (double)out[i] * (double)out[i];
    }
    double scale = squares > 0 ? 1 / sqrt(squares) : 0;
    for (int i = 0; i < size && j->o->normalize; i++) out[i] = (float)(out[i] * scale);
}

void lm_vectors(lm_conn *c, const lm_shared *s, const lm_vector_options *o, const lm_text *texts, int n, float *out,
                int *n_tokens, lm_err *errs, lm_err *err) {
    job j = { .c = c, .s = s, .o = o };
    int size = lm_vector_size(s, o, err);
    lm_frame_find(c, s, &j.frame, err);
    for (int i = 0; i < n && !err->code; i++) {
        errs[i] = (lm_err){0};
        if (texts[i].text) add_text(&j, i, texts[i], &errs[i], err);
    }
    float *vectors = j.n && !err->code ? compute(&j, size, err) : NULL;
    for (size_t p = 0, end; p < j.n && !err->code; p = end) {
        int text = j.pieces[p].text;
        size_t total = 0;
        float *to = out + (size_t)text * (size_t)size;
        for (end = p; end < j.n && j.pieces[end].text == text; end++) total += j.pieces[end].ids.n;
        if (end == p + 1) memcpy(to, vectors + (size_t)j.unique[p] * (size_t)size, (size_t)size * sizeof *to);
        else average(&j, p, end, vectors, size, to);
        if (n_tokens) n_tokens[text] = (int)total;
    }
    for (size_t p = 0; p < j.n; p++) lm_ids_clear(&j.pieces[p].ids);
    lm_frame_clear(&j.frame);
    lm_free(j.pieces);
    lm_free(j.order);
    lm_free(j.unique);
    lm_free(vectors);
}

/* unigram.c: Unigram, the tokenizer of XLM-R, T5 and ALBERT (kind "unigram"; Kudo 2018).
**
** Of all ways to cut a text into pieces the one with the highest sum of scores, by dynamic programming from the front, in
** double precision; a later way counts only if it is strictly better. A character that is no piece is an unknown one, at
** the least score of all less 10; neighbouring unknowns are one, which, if it is a piece after all, is that piece, else its
** bytes' tokens where the model falls back to them, else the unknown token. */
#include "tok.h"

#include <string.h>

enum { SHORT = 256, NO_ID = -1 };

typedef struct {
    lm_trie trie;
    double *score, unknown_score;
    int32_t unknown, byte[256];
    int fuses, falls_back;
} unigram;

typedef struct { double score; uint32_t from; int32_t id; } way;        /* the best to a place; from is where its last piece begins */

static int32_t find_piece(const unigram *u, const char *text, size_t n) {
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(node = lm_trie_step(&u->trie, node, (uint8_t)text[i]))) return NO_ID;
    }
    return u->trie.value[node];
}

static int is_barred(const lm_tok_call *c, int32_t id) {
    return c->plain && (c->t->type[id] == LM_TOK_CONTROL || c->t->type[id] == LM_TOK_UNKNOWN);
}

static void offer(way *w, uint32_t from, double score, int32_t id) {
    if (w->from == UINT32_MAX || score > w->score) *w = (way){ score, from, id };
}

/* Find the best way to every place of the text. */
static void find_ways(lm_tok_call *c, const char *text, size_t n, way *ways, lm_err *err) {
    const unigram *u = c->t->family_data;
    size_t work = 0;
    uint32_t cp;
    ways[0] = (way){ 0, 0, NO_ID };
    for (size_t i = 1; i <= n; i++) {
        ways[i].from = UINT32_MAX;
        if (i % LM_STOP_BYTES == 0 && lm_poll(c->stop, err)) return;
    }
    for (size_t at = 0, step; at < n && !err->code; at += step) {
        int has_single = 0;
        uint32_t node = 0;
        double here = ways[at].score;
        step = (size_t)LM_MAX(lm_utf8_step(text + at, n - at, &cp), 1);
        size_t i = at;
        for (; i < n && (node = lm_trie_step(&u->trie, node, (uint8_t)text[i])); i++) {
            int32_t id = u->trie.value[node];
            if (id < 0 || is_barred(c, id)) continue;
            offer(&ways[i + 1], (uint32_t)at, here + u->score[id], id);
            has_single |= i + 1 - at == step;
        }
        if (!has_single) offer(&ways[at + step], (uint32_t)at, here + u->unknown_score, u->unknown);
        if ((work += i - at + 1) >= LM_STOP_BYTES) {
            work = 0;
            lm_poll(c->stop, err);
        }
    }
}

/* Append the tokens of a stretch that the best way takes as one. */
static void append_stretch(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    const unigram *u = c->t->family_data;
    int32_t id = find_piece(u, text, n);
    if (id >= 0 && is_barred(c, id)) id = NO_ID;
    int all = u->falls_back;
    for (size_t i = 0; id < 0 && i < n && all && !err->code; i++) {
        all = u->byte[(uint8_t)text[i]] != NO_ID;
        if ((i + 1) % LM_STOP_BYTES == 0) lm_poll(c->stop, err);
    }
    for (size_t i = 0; id < 0 && i < n && all && !err->code; i++) {
        lm_ids_append(c->out, u->byte[(uint8_t)text[i]], err);
        if ((i + 1) % LM_STOP_BYTES == 0) lm_poll(c->stop, err);
    }
    if (err->code || (id < 0 && all)) return;
    if (id < 0) id = u->unknown;
    if (id >= 0) lm_ids_append(c->out, id, err);
    else
        lm_err_set(err, LM_ERROR, "unigram: '%.*s' is in no piece, and there is no unknown token", (int)LM_MIN(n, 40),
                   text);
}

static void encode_piece(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    const unigram *u = c->t->family_data;
    way few[SHORT + 1], *ways = few;
    if (n >= UINT32_MAX) lm_err_set(err, LM_ERROR, "a run of %zu bytes without a break, wanted under 4 GiB", n);
    if (n > SHORT) ways = lm_alloc((n + 1) * sizeof *ways, err);
    if (!err->code) find_ways(c, text, n, ways, err);
    /* Turn the best way about: let the place where a stretch begins say where it ends. Unknowns side by side are one. */
    size_t steps = 0, end = n;
    while (end && !err->code) {
        size_t from = ways[end].from;
        int fuses = u->fuses && u->unknown >= 0 && ways[end].id == u->unknown;
        while (fuses && from && ways[from].id == u->unknown) {
            from = ways[from].from;
            if (++steps % LM_STOP_BYTES == 0 && lm_poll(c->stop, err)) break;
        }
        ways[from].score = (double)end;
        end = from;
        if (++steps % LM_STOP_BYTES == 0) lm_poll(c->stop, err);
    }
    for (size_t at = 0, asked = 0; at < n && !err->code; at = end) {
        end = (size_t)ways[at].score;
        append_stretch(c, text + at, end - at, err);
        if (end - asked < LM_STOP_BYTES) continue;
        asked = end;
        lm_poll(c->stop, err);
    }
    if (ways != few) lm_free(ways);
}

static void close(lm_tok *t) {
    unigram *u = t->family_data;
    if (!u) return;
    lm_trie_clear(&u->trie);
    lm_free(u->score);
    lm_free(u);
}

static void open_json(lm_tok *t, const lm_tokjson *f, lm_err *err) {
    const lm_node *model = &f->tree.nodes[f->model];
    unigram *u = t->family_data = lm_calloc(1, sizeof *u, err);
    if (!u) return;
    lm_tok_trie(t, &u->trie, err);
    u->score = lm_alloc(f->n_pieces * sizeof *u->score, err);
    t->score = lm_calloc((size_t)t->n, sizeof *t->score, err);
    u->unknown = lm_tokjson_unknown(t, f, err);
    u->fuses = 1;
    u->falls_back = lm_tree_bool(&f->tree, model, "byte_fallback", 0, err);
    if (err->code) return;
    double least = INFINITY;
    for (size_t i = 0; i < f->n_pieces; i++) {
        u->score[i] = f->pieces[i].score;
        t->score[i] = (float)u->score[i];
        least = LM_MIN(least, u->score[i]);
    }
    u->unknown_score = least - 10;
    lm_tok_find_bytes(t, u->falls_back, u->byte);
}

const lm_tokjson_family lm_unigram_family = { { "unigram", NULL, close, encode_piece }, "Unigram", open_json };

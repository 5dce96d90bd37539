/* added.c: the added tokens of a tokenizer.json, found in a text before (or, as a token says, after) it is normalized.
**
** The leftmost match counts, of those that begin there the longest. A match that its neighbours forbid (single_word) is
** consumed as text; lstrip and rstrip take the white space beside a match along. A caller who does not want special
** tokens found gets what there would be were they not in the file. Spans of the text that the caller marks always are
** their tokens: no other match runs into them. */
#include "tok.h"

#include <string.h>

enum { CONTENT_MAX = 1024 };        /* bytes of a token, normalized too: a match costs no more than that at any place */

/* byte: of its object in the file. */
typedef struct { int32_t id; uint32_t byte; uint8_t special, single_word, lstrip, rstrip, normalized; } token;

struct lm_added {
    token *tokens; size_t n, cap;
    int32_t *place; size_t n_places;    /* by id: which token it is, from 1 on */
    lm_buf spellings; uint32_t *spelling_at;        /* those that want normalized text, normalized */
    lm_trie raw, normalized;            /* to numbers of tokens */
    uint8_t first[2][256];              /* a token of the one or the other begins with this byte */
};

/*----------------------------------------------------------------------
** Finding */

/* The longest token at at, or -1; *looked grows by the bytes looked at. */
static int longest_at(const lm_added *a, const lm_added_walk *w, size_t at, size_t end, size_t *n, size_t *looked) {
    const lm_trie *trie = w->normalized ? &a->normalized : &a->raw;
    int best = -1;
    uint32_t node = 0;
    for (size_t i = at; i < end && (node = lm_trie_step(trie, node, (uint8_t)w->text[i])); i++, ++*looked) {
        int32_t value = trie->value[node];
        if (value < 0 || (a->tokens[value].special && !w->all)) continue;
        best = value;
        *n = i + 1 - at;
    }
    return best;
}

/* The character that ends at byte at. */
static uint32_t char_before(const char *text, size_t at, size_t *n) {
    uint32_t cp;
    for (*n = 1; *n < 4 && *n < at && ((uint8_t)text[at - *n] & 0xC0) == 0x80;) ++*n;
    if (lm_utf8_step(text + at - *n, *n, &cp) == (int)*n) return cp;
    *n = 1;
    return 0xFFFD;
}

static uint32_t char_after(const char *text, size_t at, size_t end, size_t *n) {
    uint32_t cp;
    int step = lm_utf8_step(text + at, end - at, &cp);
    *n = step > 0 ? (size_t)step : 1;
    return step > 0 ? cp : 0xFFFD;
}

static int stands_alone(const lm_added_walk *w, size_t from, size_t to) {
    size_t n;
    if (from && lm_uni_is_word(char_before(w->text, from, &n))) return 0;
    return to == w->n || !lm_uni_is_word(char_after(w->text, to, w->n, &n));
}

/* The next marked span that has a token, as *id; its start, or the text's end. */
static size_t next_span(lm_added_walk *w, int32_t *id) {
    for (; w->span < w->n_spans; w->span++) {
        const lm_span *s = &w->spans[w->span];
        *id = lm_tok_special(w->t, w->text + s->start, s->n);
        if (*id >= 0) return s->start;
    }
    *id = -1;
    return w->n;
}

static const token *token_of(const lm_added *a, int32_t id) {
    return a && (size_t)id < a->n_places && a->place[id] ? &a->tokens[a->place[id] - 1] : NULL;
}

/* Find the next match from w->search on. Return 0 when there is none. */
static int find(lm_added_walk *w, size_t *from, size_t *to, const token **found, int32_t *id, lm_err *err) {
    const lm_added *a = w->a;
    size_t span = next_span(w, id), n = 0, looked = 0;
    for (size_t i = w->search; i < span && a && a->n; i++) {
        if (++looked >= LM_STOP_BYTES) {
            looked = 0;
            if (lm_poll(w->stop, err)) return 0;
        }
        if (!a->first[w->normalized][(uint8_t)w->text[i]]) continue;
        int best = longest_at(a, w, i, span, &n, &looked);
        if (best < 0) continue;
        *found = &a->tokens[best];
        *id = a->tokens[best].id;
        *from = i;
        *to = w->search = i + n;
        if (!(*found)->single_word || stands_alone(w, *from, *to)) return 1;
        i = *to - 1;
    }
    span = next_span(w, id);
    if (span == w->n) return 0;
    *found = token_of(a, *id);
    *from = span;
    *to = w->search = span + w->spans[w->span].n;
    w->span++;
    return 1;
}

int lm_added_next(lm_added_walk *w, size_t *from, size_t *to, int32_t *id, lm_err *err) {
    const token *found = NULL;
    size_t start, end, n;
    if (err->code) return 0;
    if (w->has_pending) {
        w->has_pending = 0;
        *id = w->pending;
        *from = *to = w->at;
        return 1;
    }
    /* Where one token follows another nothing else would ask. */
    if (w->at - w->asked >= LM_STOP_BYTES) {
        w->asked = w->at;
        if (lm_poll(w->stop, err)) return 0;
    }
    int is_match = find(w, &start, &end, &found, id, err);
    if (!is_match) {
        *id = -1;
        *from = w->at;
        *to = w->at = w->n;
        return *to > *from && !err->code;
    }
    for (size_t k = 0; found && found->lstrip && start > w->at && lm_uni_is_space(char_before(w->text, start, &n));
         k++) {
        start -= LM_MIN(n, start - w->at);
        if (k % LM_STOP_BYTES == LM_STOP_BYTES - 1 && lm_poll(w->stop, err)) return 0;
    }
    for (size_t k = 0; found && found->rstrip && end < w->n && lm_uni_is_space(char_after(w->text, end, w->n, &n));
         k++) {
        end += n;
        if (k % LM_STOP_BYTES == LM_STOP_BYTES - 1 && lm_poll(w->stop, err)) return 0;
    }
    *from = w->at;
    *to = start;
    w->at = end;
    if (*to <= *from) return 1;
    w->has_pending = 1;
    w->pending = *id;
    *id = -1;
    return 1;
}

/*----------------------------------------------------------------------
** Reading */

static void index_tokens(lm_added *a, const lm_normal *normal, const lm_buf *texts, const uint32_t *at, int normalized,
                         lm_err *err) {
    lm_normal_scratch scratch = {0};
    uint32_t *ids = lm_alloc(a->n * sizeof *ids, err), *begins = lm_calloc(a->n + 1, sizeof *begins, err);
    size_t n = 0;
    a->spellings.n = 0;
    for (size_t i = 0; i < a->n && !err->code; i++) {
        const char *text = texts->data + at[i];
        size_t text_n = at[i + 1] - at[i];
        begins[i + 1] = begins[i];
        if (a->tokens[i].normalized != normalized) continue;
        if (normalized) lm_normal_run(normal, &scratch, &text, &text_n, (lm_stop){0}, err);
        if (text_n > CONTENT_MAX) {
            lm_tokjson_refuse(a->tokens[i].byte, err, "added token '%.*s': over %d bytes when it is normalized",
                              (int)LM_MIN(at[i + 1] - at[i], 60), texts->data + at[i], CONTENT_MAX);
        }
        if (!text_n || err->code) continue;
        lm_buf_append(&a->spellings, text, text_n, err);
        begins[i + 1] = (uint32_t)a->spellings.n;
        a->first[normalized][(uint8_t)*text] = 1;
        ids[n++] = (uint32_t)i;
    }
    if (!err->code) lm_trie_init(normalized ? &a->normalized : &a->raw, a->spellings.data, begins, ids, n, err);
    lm_normal_scratch_clear(&scratch);
    lm_free(ids);
    lm_free(a->spelling_at);
    a->spelling_at = begins;
}

static void refuse(const lm_node *node, const char *content, size_t n, const char *why, lm_err *err) {
    lm_tokjson_refuse(node->at, err, "added token '%.*s': %s", (int)LM_MIN(n, 60), content, why);
}

/* Give every token its id: the model's where that has it, else the next after all. */
static void read_token(lm_added *a, lm_tok *t, const lm_tree *tree, const lm_node *node, lm_buf *texts, uint32_t **at,
                       size_t *at_cap, int n_pieces, int32_t *highest, lm_err *err) {
    size_t n;
    const char *content = lm_tree_text(tree, node, "content", &n, err);
    token k = { .byte = (uint32_t)node->at,
                .special = (uint8_t)lm_tree_bool(tree, node, "special", 0, err),
                .single_word = (uint8_t)lm_tree_bool(tree, node, "single_word", 0, err),
                .lstrip = (uint8_t)lm_tree_bool(tree, node, "lstrip", 0, err),
                .rstrip = (uint8_t)lm_tree_bool(tree, node, "rstrip", 0, err) };
    k.normalized = (uint8_t)lm_tree_bool(tree, node, "normalized", !k.special, err);
    if (err->code || !n) return;
    if (n > CONTENT_MAX) refuse(node, content, n, "over 1024 bytes", err);
    k.id = lm_tok_find(t, content, n);
    int is_new = k.id < 0;
    if (is_new) {
        k.id = LM_MAX(n_pieces, *highest + 1);
        if (k.id != t->n) refuse(node, content, n, "its id falls among the vocabulary's, which has holes", err);
        lm_tok_add(t, content, n, "added_tokens", err);
    }
    *highest = LM_MAX(*highest, k.id);
    /* A token that is there again counts as said last. */
    if (err->code) return;
    size_t i = a->place[k.id] ? (size_t)a->place[k.id] - 1 : a->n;
    if (i == a->n) {
        if (!lm_grow((void **)&a->tokens, a->n, &a->cap, 1, sizeof *a->tokens, err)) return;
        if (!lm_grow((void **)at, a->n, at_cap, 2, sizeof **at, err)) return;
        (*at)[a->n++] = (uint32_t)texts->n;
        lm_buf_append(texts, content, n, err);
        (*at)[a->n] = (uint32_t)texts->n;
        a->place[k.id] = (int32_t)a->n;
    }
    if (!err->code) a->tokens[i] = k;
}

lm_added *lm_added_new(lm_tok *t, const lm_tree *tree, const lm_node *list, int n_pieces, const lm_normal *normal,
                       lm_err *err) {
    lm_added *a = lm_calloc(1, sizeof *a, err);
    if (!a) return NULL;
    lm_buf texts = {0};
    uint32_t *at = NULL;
    size_t at_cap = 0;
    int32_t highest = -1;
    const lm_node *node = NULL;
    size_t n = 0;
    while (list && (node = lm_tree_child(tree, list, node))) n++;
    a->place = lm_calloc(a->n_places = (size_t)t->n + n, sizeof *a->place, err);
    if (list && list->kind != LM_JSON_ARRAY) lm_tokjson_refuse(list->at, err, "added_tokens: wanted an array");
    while (list && !err->code && (node = lm_tree_child(tree, list, node))) {
        read_token(a, t, tree, node, &texts, &at, &at_cap, n_pieces, &highest, err);
    }
    for (int normalized = 0; normalized < 2 && !err->code && at; normalized++) {
        index_tokens(a, normal, &texts, at, normalized, err);
    }
    lm_buf_clear(&texts);
    lm_free(at);
    if (!err->code) return a;
    lm_added_free(a);
    return NULL;
}

int lm_added_has_normalized(const lm_added *a) { return a->normalized.n > 1; }

void lm_added_mark(const lm_added *a, lm_tok *t) {
    for (size_t i = 0; i < a->n; i++) t->type[a->tokens[i].id] = a->tokens[i].special ? LM_TOK_CONTROL : LM_TOK_USER;
}

const char *lm_added_spelling(const lm_added *a, int32_t id, size_t *n) {
    const token *k = token_of(a, id);
    size_t i = k ? (size_t)(k - a->tokens) : 0;
    *n = k && k->normalized ? a->spelling_at[i + 1] - a->spelling_at[i] : 0;
    return *n ? a->spellings.data + a->spelling_at[i] : NULL;
}

void lm_added_free(lm_added *a) {
    if (!a) return;
    lm_free(a->place);
    lm_buf_clear(&a->spellings);
    lm_free(a->spelling_at);
    lm_trie_clear(&a->raw);
    lm_trie_clear(&a->normalized);
    lm_free(a->tokens);
    lm_free(a);
}

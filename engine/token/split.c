/* split.c: the pre-tokenizers of a tokenizer.json: a text cut into the pieces that the model works on.
**
** A pre-tokenizer is a sequence of stages, each cutting (and perhaps respelling) what the one before left whole. They
** are walked depth first: a level holds the piece that its stage has yet to cut, so that nothing is listed and pieces
** come out as the text is gone through. Most stages cut a stretch into segments, matches and gaps by turns, and then a
** behavior says what becomes of a match. */
#include "tok.h"

#include <string.h>

enum { REGEX, LINEAR, TEXT, DIGITS, PUNCTUATION, SPACES, BERT, WORDS, METASPACE, BYTES };
enum { REMOVED, ISOLATED, WITH_PREVIOUS, WITH_NEXT, CONTIGUOUS };
enum { IN_WORD, IS_SPACE, IS_PUNCTUATION };     /* lm_split.ascii */

static const char *const g_behaviors[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                           "Contiguous" };

typedef struct {
    int kind, behavior, invert;
    int scheme, cuts;                   /* METASPACE: cuts before each mark */
    int adds_space, maps;               /* BYTES: a space before; bytes are spelled as characters */
    lm_regex *regex;                    /* REGEX, LINEAR, BYTES (NULL: cuts nothing) */
    lm_buf text;                        /* TEXT; METASPACE: its mark */
} stage;

struct lm_split {
    stage stages[LM_SPLIT_LEVELS];
    int n;
    uint8_t ascii[128];                 /* for BERT */
};

/*----------------------------------------------------------------------
** Segments */

static int tick(lm_split_walk *w, size_t bytes, lm_err *err) {
    w->work += bytes;
    if (w->work < LM_STOP_BYTES) return !err->code;
    w->work = 0;
    return !lm_poll(w->stop, err);
}

static int matches(int kind, uint32_t cp) {
    return kind == DIGITS ? lm_uni_is_number(cp) : kind == SPACES ? lm_uni_is_space(cp) : lm_uni_is_punctuation(cp);
}

static size_t char_at(const lm_split_level *l, size_t at, uint32_t *cp) {
    return (size_t)LM_MAX(lm_utf8_step(l->text + at, l->n - at, cp), 1);
}

/* A character that matches, or all up to the next. */
static void next_by_character(lm_split_walk *w, const stage *s, lm_split_level *l, lm_segment *out, lm_err *err) {
    uint32_t cp;
    size_t at = l->at, step = char_at(l, at, &cp);
    out->is_match = matches(s->kind, cp);
    for (at += step; !out->is_match && at < l->n; at += step) {
        step = char_at(l, at, &cp);
        if (matches(s->kind, cp) || !tick(w, step, err)) break;
    }
    out->to = at;
}

static void next_by_text(lm_split_walk *w, const stage *s, lm_split_level *l, lm_segment *out, lm_err *err) {
    const char *text = s->text.data;
    size_t n = s->text.n, at = l->at;
    while (n && l->n - at >= n && !err->code) {
        const char *found = memchr(l->text + at, text[0], LM_MIN(l->n - at - n + 1, LM_STOP_BYTES));
        size_t to = found ? (size_t)(found - l->text) : LM_MIN(at + LM_STOP_BYTES, l->n - n + 1);
        tick(w, to - at, err);
        at = to;
        if (!found) continue;
        if (!memcmp(found, text, n)) {
            out->is_match = at == l->at;
            out->to = out->is_match ? at + n : at;
            return;
        }
        at++;
    }
    out->is_match = 0;
    out->to = l->n;
}

static void next_by_regex(lm_split_walk *w, lm_split_level *l, lm_segment *out, lm_err *err) {
    (void)w;
    if (!l->has_found) {
        if (!lm_regex_find(&l->finder, &l->found_from, &l->found_to, err)) l->found_from = l->found_to = SIZE_MAX;
        l->has_found = 1;
    }
    out->is_match = l->found_from == l->at;
    out->to = out->is_match ? l->found_to : LM_MIN(l->found_from, l->n);
    if (out->is_match) l->has_found = 0;
}

/* Take the next segment. Return 0 when there is none. */
static int next_segment(lm_split_walk *w, const stage *s, lm_split_level *l, lm_segment *out, lm_err *err) {
    if (l->has_peeked) {
        *out = l->peeked;
        l->has_peeked = 0;
        return 1;
    }
    /* A regex may match nothing at the very end; that cuts off nothing. */
    if (l->at == l->n || err->code) return 0;
    *out = (lm_segment){ .from = l->at };
    if (s->kind == REGEX) {
        next_by_regex(w, l, out, err);
    } else if (s->kind == LINEAR) {
        out->to = lm_regex_match(s->regex, w->run, l->text, l->at, l->n, err);
        out->is_match = 1;
    } else if (s->kind == TEXT) {
        next_by_text(w, s, l, out, err);
    } else {
        next_by_character(w, s, l, out, err);
    }
    l->at = out->to;
    out->is_match ^= s->invert;
    return tick(w, out->to - out->from, err);
}

static int peek(lm_split_walk *w, const stage *s, lm_split_level *l, lm_err *err) {
    if (!l->has_peeked) l->has_peeked = next_segment(w, s, l, &l->peeked, err);
    return l->has_peeked;
}

/* Take the next piece of what matches and gaps make. */
static int next_piece(lm_split_walk *w, const stage *s, lm_split_level *l, size_t *from, size_t *to, lm_err *err) {
    lm_segment segment;
    while (next_segment(w, s, l, &segment, err)) {
        *from = segment.from;
        *to = segment.to;
        if (s->behavior == REMOVED && segment.is_match) continue;
        if (s->behavior == WITH_PREVIOUS || s->behavior == WITH_NEXT) {
            int wanted = s->behavior == WITH_NEXT;
            if (segment.is_match == wanted && peek(w, s, l, err) && l->peeked.is_match != wanted) {
                *to = l->peeked.to;
                l->has_peeked = 0;
            }
        }
        while (s->behavior == CONTIGUOUS && peek(w, s, l, err) && l->peeked.is_match == segment.is_match) {
            *to = l->peeked.to;
            l->has_peeked = 0;
        }
        if (*to > *from) return !err->code;
    }
    return 0;
}

/*----------------------------------------------------------------------
** Stages that do without */

static int bert_class(const lm_split_walk *w, const lm_split_level *l, size_t at, size_t *step) {
    uint8_t c = (uint8_t)l->text[at];
    if (c < 0x80) return *step = 1, w->p->ascii[c];
    uint32_t cp;
    *step = char_at(l, at, &cp);
    return lm_uni_is_space(cp) ? IS_SPACE : lm_uni_is_punctuation(cp) ? IS_PUNCTUATION : IN_WORD;
}

/* White space is dropped, each punctuation character stands alone. */
static int next_bert(lm_split_walk *w, lm_split_level *l, size_t *from, size_t *to, lm_err *err) {
    size_t step = 0;
    int class = IS_SPACE;
    for (; l->at < l->n; l->at += step) {
        class = bert_class(w, l, l->at, &step);
        if (class != IS_SPACE || !tick(w, step, err)) break;
    }
    if (l->at == l->n || err->code) return 0;
    *from = l->at;
    l->at += step;
    while (class == IN_WORD && l->at < l->n && bert_class(w, l, l->at, &step) == IN_WORD && tick(w, step, err))
        l->at += step;
    *to = l->at;
    return !err->code;
}

/* \w+|[^\w\s]+ */
static int next_words(lm_split_walk *w, lm_split_level *l, size_t *from, size_t *to, lm_err *err) {
    uint32_t cp = 0;
    size_t step = 0;
    for (; l->at < l->n; l->at += step) {
        step = char_at(l, l->at, &cp);
        if (!lm_uni_is_space(cp) || !tick(w, step, err)) break;
    }
    if (l->at == l->n || err->code) return 0;
    *from = l->at;
    int is_word = lm_uni_is_word(cp);
    do {
        l->at += step;
        if (l->at == l->n) break;
        step = char_at(l, l->at, &cp);
    } while (lm_uni_is_word(cp) == is_word && !lm_uni_is_space(cp) && tick(w, step, err));
    *to = l->at;
    return !err->code;
}

static int is_mark(const stage *s, const char *text, size_t n) {
    return *text == ' ' || (n >= s->text.n && !memcmp(text, s->text.data, s->text.n));
}

/* Spaces become the mark, and each mark begins a piece. */
static int next_metaspace(lm_split_walk *w, const stage *s, lm_split_level *l, lm_err *err) {
    if (l->at == l->n) return 0;
    l->own.n = 0;
    int puts = !l->at && (s->scheme == LM_MARK_ALWAYS || (s->scheme == LM_MARK_FIRST && l->is_first));
    if (puts && !is_mark(s, l->text, l->n)) lm_buf_append(&l->own, s->text.data, s->text.n, err);
    for (int begun = 0; l->at < l->n && !err->code; begun = 1) {
        const char *here = l->text + l->at;
        size_t left = l->n - l->at, step = 0;
        int mark = is_mark(s, here, left);
        if (mark && begun && s->cuts) break;
        if (mark) {
            lm_buf_append(&l->own, s->text.data, s->text.n, err);
            l->at += *here == ' ' ? 1 : s->text.n;
        }
        left = LM_MIN(l->n - l->at, LM_STOP_BYTES);
        while (step < left && !is_mark(s, l->text + l->at + step, l->n - l->at - step)) step++;
        lm_buf_append(&l->own, l->text + l->at, step, err);
        l->at += step;
        tick(w, step + 1, err);
    }
    return !err->code;
}

static int next_bytes(lm_split_walk *w, const stage *s, lm_split_level *l, size_t *from, size_t *to, lm_err *err) {
    if (l->at == l->n) return 0;
    *from = l->at;
    *to = l->at = s->regex ? lm_regex_match(s->regex, w->run, l->text, l->at, l->n, err) : l->n;
    if (!tick(w, *to - *from, err) || !s->maps) return !err->code;
    l->mapped.n = 0;
    for (size_t i = *from; i < *to && !err->code; i++) {
        lm_uni_append(&l->mapped, lm_bpe_char_of_byte((uint8_t)l->text[i]), err);
        tick(w, 1, err);
    }
    return !err->code;
}

/*----------------------------------------------------------------------
** Walking */

static void enter(lm_split_walk *w, int level, const char *text, size_t n, int is_first, lm_err *err) {
    const stage *s = &w->p->stages[level];
    lm_split_level *l = &w->levels[level];
    lm_buf own = l->own, mapped = l->mapped;
    *l = (lm_split_level){ .text = text, .n = n, .is_first = is_first, .own = own, .mapped = mapped };
    if (s->kind == REGEX) l->finder = (lm_regex_finder){ .regex = s->regex, .run = w->run, .text = text, .end = n };
    if (s->kind == BYTES && s->adds_space && n && *text != ' ') {
        l->own.n = 0;
        lm_buf_append(&l->own, " ", 1, err);
        lm_buf_append(&l->own, text, n, err);
        l->text = l->own.data;
        l->n = l->own.n;
    }
}

static int next_of_level(lm_split_walk *w, const stage *s, lm_split_level *l, const char **piece, size_t *n,
                         int *is_first, lm_err *err) {
    size_t from = 0, to = 0;
    int is_there;
    *is_first = l->is_first && !l->at;
    switch (s->kind) {
    case METASPACE:
        is_there = next_metaspace(w, s, l, err);
        *piece = l->own.data;
        *n = l->own.n;
        return is_there;
    case BYTES: is_there = next_bytes(w, s, l, &from, &to, err); break;
    case BERT: is_there = next_bert(w, l, &from, &to, err); break;
    case WORDS: is_there = next_words(w, l, &from, &to, err); break;
    default: is_there = next_piece(w, s, l, &from, &to, err); break;
    }
    *is_first &= !from;
    *piece = s->kind == BYTES && s->maps ? l->mapped.data : l->text + from;
    *n = s->kind == BYTES && s->maps ? l->mapped.n : to - from;
    return is_there;
}

void lm_split_begin(lm_split_walk *w, const lm_split *p, lm_stop stop, lm_regex_run *run) {
    *w = (lm_split_walk){ .p = p, .stop = stop, .run = run, .level = -1 };
}

void lm_split_start(lm_split_walk *w, const char *text, size_t n, int is_first, lm_err *err) {
    for (int i = 0; i < w->p->n && !w->run->match && !err->code; i++) {
        if (w->p->stages[i].regex) lm_regex_begin(w->run, w->stop, err);
    }
    w->whole = text;
    w->whole_n = n;
    w->level = 0;
    if (w->p->n && !err->code) enter(w, 0, text, n, is_first, err);
}

int lm_split_next(lm_split_walk *w, const char **piece, size_t *n, lm_err *err) {
    if (!w->p->n) {
        *piece = w->whole;
        *n = w->whole_n;
        w->whole_n = 0;
        return *n && !err->code;
    }
    while (w->level >= 0 && !err->code) {
        int is_first;
        if (!next_of_level(w, &w->p->stages[w->level], &w->levels[w->level], piece, n, &is_first, err)) {
            w->level--;
        } else if (w->level + 1 == w->p->n) {
            return tick(w, *n, err);        /* the stages count what they pass over, not every piece */
        } else {
            enter(w, ++w->level, *piece, *n, is_first, err);
        }
    }
    return 0;
}

void lm_split_end(lm_split_walk *w) {
    for (int i = 0; i < LM_SPLIT_LEVELS; i++) {
        lm_buf_clear(&w->levels[i].own);
        lm_buf_clear(&w->levels[i].mapped);
    }
}

/*----------------------------------------------------------------------
** Reading */

static void read_behavior(stage *s, const lm_tree *t, const lm_node *node, lm_err *err) {
    if (!lm_tree_find(t, node, "behavior")) return;
    size_t n;
    int i = 0;
    const char *name = lm_tree_text(t, node, "behavior", &n, err);
    while (i < LM_COUNT(g_behaviors) && !lm_tree_is(t, node, "behavior", g_behaviors[i])) i++;
    s->behavior = i;
    if (i == LM_COUNT(g_behaviors) && !err->code) {
        lm_tokjson_refuse(lm_tree_find(t, node, "behavior")->at, err,
                          "a pre-tokenizer's behavior '%.*s' is not supported", (int)LM_MIN(n, 40), name);
    }
}

static void read_split(stage *s, const lm_tree *t, const lm_node *node, lm_err *err) {
    size_t n;
    int is_regex;
    const char *pattern = lm_tree_pattern(t, node, &n, &is_regex, err);
    read_behavior(s, t, node, err);
    s->invert = lm_tree_bool(t, node, "invert", 0, err);
    if (err->code) return;
    const char *linear = is_regex ? lm_pretok_linear(pattern, n) : NULL;
    if (linear && (s->behavior == ISOLATED || (s->behavior == REMOVED && s->invert))) {
        s->kind = LINEAR;
        s->behavior = ISOLATED;
        s->regex = lm_regex_new_anchored("Split", linear, err);
    } else if (is_regex) {
        s->kind = REGEX;
        s->regex = lm_regex_new("Split", pattern, n, err);
    } else {
        lm_buf_append(&s->text, pattern, n, err);
    }
    lm_tokjson_blame(node->at, err);
}

static void read_delimiter(stage *s, const lm_tree *t, const lm_node *node, lm_err *err) {
    size_t n;
    const char *text = lm_tree_text(t, node, "delimiter", &n, err);
    if (!err->code) lm_buf_append(&s->text, text, n, err);
}

static void read_digits(stage *s, const lm_tree *t, const lm_node *node, lm_err *err) {
    s->behavior = lm_tree_bool(t, node, "individual_digits", 0, err) ? ISOLATED : CONTIGUOUS;
}

/* Where Metaspace puts its mark before a text, by either way of saying so. */
int lm_split_scheme(const lm_tree *t, const lm_node *node, lm_err *err) {
    static const char *const names[] = { [LM_MARK_NEVER] = "never", [LM_MARK_FIRST] = "first", [LM_MARK_ALWAYS] = "always" };
    if (!lm_tree_find(t, node, "prepend_scheme")) {
        return lm_tree_bool(t, node, "add_prefix_space", 1, err) ? LM_MARK_ALWAYS : LM_MARK_NEVER;
    }
    for (int i = 0; i < LM_COUNT(names); i++) {
        if (lm_tree_is(t, node, "prepend_scheme", names[i])) return i;
    }
    lm_tokjson_refuse(lm_tree_find(t, node, "prepend_scheme")->at, err,
                      "Metaspace: prepend_scheme: wanted always, first or never");
    return LM_MARK_NEVER;
}

/* Metaspace's mark is one character, as `tokenizers` has it: a longer one, or one with spaces to mark again, would make
** much of little in stage after stage. */
void lm_split_read_mark(const lm_tree *t, const lm_node *node, lm_buf *mark, lm_err *err) {
    size_t n;
    uint32_t cp;
    const char *text = lm_tree_text(t, node, "replacement", &n, err);
    if (err->code) return;
    if (!n || (size_t)lm_utf8_step(text, n, &cp) != n || cp == ' ') {
        lm_tokjson_refuse(lm_tree_find(t, node, "replacement")->at, err,
                          "Metaspace: replacement: wanted one character that is not a space");
    }
    lm_buf_append(mark, text, n, err);
}

static void read_metaspace(stage *s, const lm_tree *t, const lm_node *node, lm_err *err) {
    lm_split_read_mark(t, node, &s->text, err);
    s->scheme = lm_split_scheme(t, node, err);
    s->cuts = lm_tree_bool(t, node, "split", 1, err);
}

static void read_bytes(stage *s, const lm_tree *t, const lm_node *node, lm_err *err) {
    s->adds_space = lm_tree_bool(t, node, "add_prefix_space", 1, err);
    if (lm_tree_bool(t, node, "use_regex", 1, err)) {
        s->regex = lm_regex_new_anchored("ByteLevel", lm_pretok_gpt2(), err);
    }
}

static const struct {
    const char *type;
    int kind, behavior;
    void (*read)(stage *s, const lm_tree *t, const lm_node *node, lm_err *err);
} g_types[] = {
    { "BertPreTokenizer", BERT, 0, NULL },
    { "ByteLevel", BYTES, 0, read_bytes },
    { "CharDelimiterSplit", TEXT, REMOVED, read_delimiter },
    { "Digits", DIGITS, ISOLATED, read_digits },
    { "Metaspace", METASPACE, 0, read_metaspace },
    { "Punctuation", PUNCTUATION, ISOLATED, read_behavior },
    { "Split", TEXT, ISOLATED, read_split },
    { "Whitespace", WORDS, 0, NULL },
    { "WhitespaceSplit", SPACES, REMOVED, NULL },
};

lm_split *lm_split_new(const lm_tree *t, const lm_node *node, int takes_bytes, lm_err *err) {
    lm_split *p = lm_calloc(1, sizeof *p, err);
    const lm_node *part = NULL;
    if (!p) return NULL;
    while ((part = lm_tree_next_part(t, node, part, "pretokenizers", err))) {
        int i = 0;
        while (i < LM_COUNT(g_types) && !lm_tree_is(t, part, "type", g_types[i].type)) i++;
        if (i == LM_COUNT(g_types)) lm_tree_refuse(t, part, "pre-tokenizer", err);
        if (p->n == LM_SPLIT_LEVELS) lm_tokjson_refuse(part->at, err, "over %d pre-tokenizers", LM_SPLIT_LEVELS);
        if (err->code) break;
        stage *s = &p->stages[p->n++];
        s->kind = g_types[i].kind;
        s->behavior = g_types[i].behavior;
        if (g_types[i].read) g_types[i].read(s, t, part, err);
    }
    for (uint32_t c = 0; c < 128; c++) {
        p->ascii[c] = lm_uni_is_space(c) ? IS_SPACE : lm_uni_is_punctuation(c) ? IS_PUNCTUATION : IN_WORD;
    }
    /* Bytes need no spelling as characters where the model, which comes next, takes them as they are. */
    for (int i = 0; i < p->n; i++) p->stages[i].maps = !(takes_bytes && i + 1 == p->n);
    if (!err->code) return p;
    lm_split_free(p);
    return NULL;
}

int lm_split_drops_spaces(const lm_split *p) {
    const stage *s = &p->stages[0];
    return p->n && (s->kind == BERT || s->kind == WORDS || (s->kind == SPACES && s->behavior == REMOVED));
}

int lm_split_asks_first(const lm_split *p) {
    int asks = 0;
    for (int i = 0; i < p->n; i++) asks |= p->stages[i].kind == METASPACE && p->stages[i].scheme == LM_MARK_FIRST;
    return asks;
}

int lm_split_is_bytes(const lm_split *p) {
    return p->n && p->stages[p->n - 1].kind == BYTES && !p->stages[p->n - 1].maps;
}

void lm_split_free(lm_split *p) {
    if (!p) return;
    for (int i = 0; i < p->n; i++) {
        lm_regex_free(p->stages[i].regex);
        lm_buf_clear(&p->stages[i].text);
    }
    lm_free(p);
}

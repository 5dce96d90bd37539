/* normal.c: the normalizers of a tokenizer.json: what is done to a text before it is cut.
**
** A normalizer is a list of steps, each a pass over the whole stretch from one buffer into another. ASCII, which most
** steps leave as it is, is copied by the run. Work is linear in the stretch and asks stop as it goes. */
#include "tok.h"

#include <string.h>

enum { CLEAN, SPACE_CHINESE, FORM, LOWER, DROP_MARKS, CHARSMAP /* local, up to here */, STRIP, PREPEND, REPLACE_TEXT,
       REPLACE_REGEX };
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2, UNIT_LEAF = 1 << 8, CLUSTER_MAX = 5, STEPS_MAX = 64 };
enum { GROWTH_MAX = 32, GROWTH_FREE = 65536 };      /* all passes may make so many bytes of one, and so many more */

typedef struct {
    int kind, flags;
    lm_buf from, to;                    /* what is replaced, and by what; for CHARSMAP its units and its strings */
    lm_regex *regex;
} step;

struct lm_normal { step *steps; size_t n, cap; };

/*----------------------------------------------------------------------
** Passes */

typedef struct {
    const char *text; size_t n, i;
    lm_buf *out;
    size_t asked, whole;                /* whole: bytes of the text before the first pass */
    lm_stop stop;
} pass;

static int goes_on(pass *p, lm_err *err) {
    if (p->i - p->asked >= LM_STOP_BYTES) {
        p->asked = p->i;
        lm_poll(p->stop, err);
    }
    if (p->out->n / GROWTH_MAX > p->whole + GROWTH_FREE / GROWTH_MAX) {
        lm_err_set(err, LM_ERROR, "the tokenizer's normalizer or decoder makes over %zu bytes of %zu", p->out->n,
                   p->whole);
    }
    return p->i < p->n && !err->code;
}

static uint32_t next_char(pass *p) {
    uint32_t cp = 0;
    p->i += (size_t)LM_MAX(lm_utf8_step(p->text + p->i, p->n - p->i, &cp), 1);
    return cp;
}

/* Copy the ASCII that stands here; a pass that is not over such text has nothing to do with it. */
static void copy_ascii(pass *p, lm_err *err) {
    size_t run = lm_tok_ascii(p->text + p->i, LM_MIN(p->n - p->i, LM_STOP_BYTES));
    lm_buf_append(p->out, p->text + p->i, run, err);
    p->i += run;
}

static void clean(pass *p, lm_err *err) {
    while (goes_on(p, err)) {
        size_t from = p->i;
        while (p->i < p->n && (uint8_t)p->text[p->i] >= 32 && (uint8_t)p->text[p->i] < 127
               && p->i - from < LM_STOP_BYTES)
            p->i++;
        lm_buf_append(p->out, p->text + from, p->i - from, err);
        if (p->i > from) continue;
        uint32_t cp = next_char(p);
        int is_blank = cp == '\t' || cp == '\n' || cp == '\r';
        if (!cp || cp == 0xFFFD || (!is_blank && lm_uni_is_control(cp))) continue;
        if (lm_uni_is_space(cp)) lm_buf_append(p->out, " ", 1, err);
        else lm_buf_append(p->out, p->text + from, p->i - from, err);
    }
}

static int is_chinese(uint32_t cp) {
    static const uint32_t ranges[][2] = { { 0x4E00, 0x9FFF },   { 0x3400, 0x4DBF },   { 0x20000, 0x2A6DF },
                                          { 0x2A700, 0x2B73F }, { 0x2B740, 0x2B81F }, { 0x2B920, 0x2CEAF },
                                          { 0xF900, 0xFAFF },   { 0x2F800, 0x2FA1F } };
    for (int i = 0; i < LM_COUNT(ranges) && cp >= 0x3400; i++) {
        if (cp >= ranges[i][0] && cp <= ranges[i][1]) return 1;
    }
    return 0;
}

static void space_chinese(pass *p, lm_err *err) {
    while (goes_on(p, err)) {
        copy_ascii(p, err);
        if (p->i == p->n || (uint8_t)p->text[p->i] < 0x80) continue;
        size_t from = p->i;
        int chinese = is_chinese(next_char(p));
        if (chinese) lm_buf_append(p->out, " ", 1, err);
        lm_buf_append(p->out, p->text + from, p->i - from, err);
        if (chinese) lm_buf_append(p->out, " ", 1, err);
    }
}

static void lower(pass *p, lm_err *err) {
    while (goes_on(p, err)) {
        size_t run = lm_tok_ascii(p->text + p->i, LM_MIN(p->n - p->i, LM_STOP_BYTES)), at = p->out->n;
        if (run) {
            lm_buf_append(p->out, p->text + p->i, run, err);
            for (size_t i = at; i < at + run && !err->code; i++) {
                char c = p->out->data[i];
                p->out->data[i] = (char)(c | (c >= 'A' && c <= 'Z') << 5);
            }
            p->i += run;
            continue;
        }
        uint32_t lowered[2];
        int n = lm_uni_lower(next_char(p), lowered);
        for (int i = 0; i < n; i++) lm_uni_append(p->out, lowered[i], err);
    }
}

static void drop_marks(pass *p, lm_err *err) {
    while (goes_on(p, err)) {
        copy_ascii(p, err);
        if (p->i == p->n || (uint8_t)p->text[p->i] < 0x80) continue;
        size_t from = p->i;
        if (!lm_uni_is_mark(next_char(p))) lm_buf_append(p->out, p->text + from, p->i - from, err);
    }
}

static void strip(pass *p, int flags, lm_err *err) {
    size_t from = 0, to = p->n;
    uint32_t cp;
    while (flags & STRIP_LEFT && goes_on(p, err)) {
        if (!lm_uni_is_space(next_char(p))) break;
        from = p->i;
    }
    for (p->asked = p->i; flags & STRIP_RIGHT && to > from && !err->code;) {
        size_t at = to - 1;
        while (at > from && ((uint8_t)p->text[at] & 0xC0) == 0x80) at--;
        if (lm_utf8_step(p->text + at, to - at, &cp) <= 0 || !lm_uni_is_space(cp)) break;
        to = at;
        if ((p->n - to) % LM_STOP_BYTES < 3) lm_poll(p->stop, err);
    }
    lm_buf_append(p->out, p->text + from, to - from, err);
}

static void replace_text(pass *p, const step *s, lm_err *err) {
    while (goes_on(p, err)) {
        const char *here = p->text + p->i;
        size_t n = LM_MIN(p->n - p->i, LM_STOP_BYTES);
        const char *found = s->from.n ? memchr(here, s->from.data[0], n) : NULL;
        size_t before = found ? (size_t)(found - here) : n;
        lm_buf_append(p->out, here, before, err);
        p->i += before;
        if (!found) continue;
        int is_match = p->n - p->i >= s->from.n && !memcmp(found, s->from.data, s->from.n);
        lm_buf_append(p->out, is_match ? s->to.data : found, is_match ? s->to.n : 1, err);
        p->i += is_match ? s->from.n : 1;
    }
}

static void replace_regex(pass *p, const step *s, lm_regex_run *run, lm_err *err) {
    lm_regex_finder f = { .regex = s->regex, .run = run, .text = p->text, .end = p->n };
    size_t from, to;
    while (lm_regex_find(&f, &from, &to, err)) {
        lm_buf_append(p->out, p->text + p->i, from - p->i, err);
        lm_buf_append(p->out, s->to.data, s->to.n, err);
        p->i = to;
        goes_on(p, err);
    }
    lm_buf_append(p->out, p->text + p->i, p->n - p->i, err);
}

/*----------------------------------------------------------------------
** Precompiled: SentencePiece's map of characters, a double-array trie of 32-bit units and the strings it leads to
** (hf_tok/README.md in tests/golden has the layout). The map is anyone's: every step is held to its bounds. */

static uint32_t unit_at(const step *s, uint32_t i) {
    return i < s->from.n / 4 ? (uint32_t)lm_reader_le((const uint8_t *)s->from.data + 4 * (size_t)i, 4) : 0xFF;
}

static uint32_t unit_offset(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

/* The string for the shortest prefix of text that is in the map; NULL: none is. */
static const char *map_prefix(const step *s, const char *text, size_t n, size_t *out_n) {
    uint32_t node = unit_offset(unit_at(s, 0));
    for (size_t i = 0; i < n && text[i]; i++) {
        node ^= (uint8_t)text[i];
        uint32_t unit = unit_at(s, node);
        if ((unit & 0x800000FFu) != (uint8_t)text[i]) return NULL;
        node ^= unit_offset(unit);
        if (!(unit & UNIT_LEAF)) continue;
        uint32_t at = unit_at(s, node) & 0x7FFFFFFF;
        if (at >= s->to.n) return NULL;
        const char *end = memchr(s->to.data + at, 0, s->to.n - at);
        *out_n = end ? (size_t)(end - s->to.data) - at : s->to.n - at;
        return s->to.data + at;
    }
    return NULL;
}

/* The end of the grapheme cluster that begins here, or where it is found to be longer than CLUSTER_MAX; *state is for
** lm_uni_breaks to go on with behind its last character, *last. */
static size_t cluster_end(const pass *p, uint32_t *last, int *state) {
    size_t end = p->i;
    uint32_t cp;
    *state = 0;
    while (end < p->n && end - p->i <= CLUSTER_MAX) {
        size_t bytes = (size_t)LM_MAX(lm_utf8_step(p->text + end, p->n - end, &cp), 1);
        if (end > p->i && lm_uni_breaks(*last, cp, state)) break;
        end += bytes;
        *last = cp;
    }
    return end;
}

static void map_character(pass *p, const step *s, lm_err *err) {
    size_t from = p->i, n;
    next_char(p);
    const char *mapped = map_prefix(s, p->text + from, p->i - from, &n);
    lm_buf_append(p->out, mapped ? mapped : p->text + from, mapped ? n : p->i - from, err);
}

/* A grapheme cluster of few bytes as a whole, a longer one character by character. */
static void charsmap(pass *p, const step *s, lm_err *err) {
    while (goes_on(p, err)) {
        /* A printing character of ASCII that another follows is a cluster. */
        size_t from = p->i, n, ascii = lm_tok_ascii(p->text + from, LM_MIN(p->n - from, LM_STOP_BYTES)), plain = 0;
        while (plain + 1 < ascii && p->text[from + plain] >= 32 && !map_prefix(s, p->text + from + plain, 1, &n))
            plain++;
        lm_buf_append(p->out, p->text + from, plain, err);
        p->i += plain;
        uint32_t last = 0, cp;
        int state;
        size_t end = cluster_end(p, &last, &state);
        const char *mapped = end - p->i <= CLUSTER_MAX ? map_prefix(s, p->text + p->i, end - p->i, &n) : NULL;
        if (mapped) {
            lm_buf_append(p->out, mapped, n, err);
            p->i = end;
            continue;
        }
        int is_long = end - p->i > CLUSTER_MAX;
        while (p->i < end) map_character(p, s, err);
        while (is_long && goes_on(p, err)) {
            lm_utf8_step(p->text + p->i, p->n - p->i, &cp);
            if (lm_uni_breaks(last, cp, &state)) break;
            map_character(p, s, err);
            last = cp;
        }
    }
}

/*----------------------------------------------------------------------
** Running */

static void run_step(const step *s, pass *p, lm_regex_run *run, lm_err *err) {
    switch (s->kind) {
    case CLEAN: clean(p, err); break;
    case SPACE_CHINESE: space_chinese(p, err); break;
    case FORM: lm_uni_form(s->flags, p->text, p->n, p->out, p->stop, err); break;
    case LOWER: lower(p, err); break;
    case DROP_MARKS: drop_marks(p, err); break;
    case STRIP: strip(p, s->flags, err); break;
    case PREPEND:
        if (p->n) lm_buf_append(p->out, s->to.data, s->to.n, err);
        lm_buf_append(p->out, p->text, p->n, err);
        p->i = p->n;
        goes_on(p, err);
        break;
    case REPLACE_TEXT: replace_text(p, s, err); break;
    case REPLACE_REGEX: replace_regex(p, s, run, err); break;
    case CHARSMAP: charsmap(p, s, err); break;
    }
}

/* first: text is a text's first character, and what counts is whether it stays. What a character map drops, `tokenizers`
** takes for still there. */
static void run(const lm_normal *normal, lm_normal_scratch *scratch, const char **text, size_t *n, int first,
                lm_stop stop, lm_err *err) {
    size_t whole = *n;
    for (size_t i = 0, side = 0; i < normal->n && !err->code; i++) {
        const step *s = &normal->steps[i];
        if (first && (s->kind == CHARSMAP || (s->kind == STRIP && s->flags == STRIP_RIGHT))) continue;
        lm_buf *out = &scratch->buf[side++ % 2];
        out->n = 0;
        if (out->cap < *n) {        /* room at once: growing would copy for longer than stop may wait */
            lm_buf_clear(out);
            lm_grow((void **)&out->data, 0, &out->cap, *n + *n / 8, 1, err);
        }
        pass p = { .text = *text, .n = *n, .out = out, .whole = whole, .stop = stop };
        if (s->kind == REPLACE_REGEX && !scratch->run.match) lm_regex_begin(&scratch->run, stop, err);
        if (!err->code) run_step(s, &p, &scratch->run, err);
        *text = out->data;
        *n = out->n;
    }
}

void lm_normal_run(const lm_normal *normal, lm_normal_scratch *scratch, const char **text, size_t *n, lm_stop stop,
                   lm_err *err) {
    run(normal, scratch, text, n, 0, stop, err);
}

int lm_normal_keeps_first(const lm_normal *normal, lm_normal_scratch *scratch, const char *text, size_t n, lm_stop stop,
                          lm_err *err) {
    uint32_t cp;
    size_t first_n = n ? (size_t)LM_MAX(lm_utf8_step(text, n, &cp), 1) : 0;
    run(normal, scratch, &text, &first_n, 1, stop, err);
    return first_n > 0;
}

int lm_normal_is_local(const lm_normal *normal) {
    int is_local = 1;
    for (size_t i = 0; i < normal->n; i++) is_local &= normal->steps[i].kind <= CHARSMAP;
    return is_local;
}

void lm_normal_scratch_clear(lm_normal_scratch *scratch) {
    for (int i = 0; i < 2; i++) lm_buf_clear(&scratch->buf[i]);
    lm_regex_end(&scratch->run);
}

/*----------------------------------------------------------------------
** Reading */

static step *add_step(lm_normal *p, int kind, int flags, lm_err *err) {
    if (!lm_grow((void **)&p->steps, p->n, &p->cap, 1, sizeof *p->steps, err)) return NULL;
    p->steps[p->n] = (step){ .kind = kind, .flags = flags };
    return &p->steps[p->n++];
}

static void add_bert(lm_normal *p, const lm_tree *t, const lm_node *node, lm_err *err) {
    int lowercase = lm_tree_bool(t, node, "lowercase", 1, err);
    if (lm_tree_bool(t, node, "clean_text", 1, err)) add_step(p, CLEAN, 0, err);
    if (lm_tree_bool(t, node, "handle_chinese_chars", 1, err)) add_step(p, SPACE_CHINESE, 0, err);
    if (lm_tree_bool(t, node, "strip_accents", lowercase, err)) add_step(p, FORM, LM_FORM_DROP_MN, err);
    if (lowercase) add_step(p, LOWER, 0, err);
}

static void add_replace(lm_normal *p, const lm_tree *t, const lm_node *node, lm_err *err) {
    size_t n;
    int is_regex;
    const char *pattern = lm_tree_pattern(t, node, &n, &is_regex, err);
    step *s = add_step(p, is_regex ? REPLACE_REGEX : REPLACE_TEXT, 0, err);
    if (err->code) return;
    if (is_regex) s->regex = lm_regex_new("normalizer", pattern, n, err);
    else lm_buf_append(&s->from, pattern, n, err);
    lm_tokjson_blame(node->at, err);
    const char *content = lm_tree_text(t, node, "content", &n, err);
    if (content) lm_buf_append(&s->to, content, n, err);
}

static void add_charsmap(lm_normal *p, const lm_tree *t, const lm_node *node, lm_err *err) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char what[] = "normalizer Precompiled: precompiled_charsmap";
    size_t n;
    uint32_t bits = 0;
    const char *text = lm_tree_text(t, node, "precompiled_charsmap", &n, err);
    step *s = add_step(p, CHARSMAP, 0, err);
    lm_buf bytes = {0};
    while (n && !err->code && text[n - 1] == '=') n--;
    for (size_t i = 0; i < n && !err->code; i++) {
        const char *digit = memchr(digits, text[i], 64);
        if (!digit) lm_tokjson_refuse(node->at, err, "%s: byte %zu is not base64", what, i);
        else bits = bits << 6 | (uint32_t)(digit - digits);
        if (i % 4) lm_buf_append(&bytes, &(char){ (char)(bits >> (6 - 2 * (i % 4))) }, 1, err);
    }
    uint64_t units_n = bytes.n >= 4 && !err->code ? lm_reader_le((const uint8_t *)bytes.data, 4) : UINT64_MAX;
    if (units_n % 4 || units_n > bytes.n - 4)
        lm_tokjson_refuse(node->at, err, "%s: %zu bytes are no map of characters", what, bytes.n);
    if (!err->code) {
        lm_buf_append(&s->from, bytes.data + 4, (size_t)units_n, err);
        lm_buf_append(&s->to, bytes.data + 4 + units_n, bytes.n - 4 - (size_t)units_n, err);
    }
    lm_buf_clear(&bytes);
}

static void add_prepend(lm_normal *p, const lm_tree *t, const lm_node *node, lm_err *err) {
    size_t n;
    const char *text = lm_tree_text(t, node, "prepend", &n, err);
    step *s = add_step(p, PREPEND, 0, err);
    if (!err->code) lm_buf_append(&s->to, text, n, err);
}

static void add_strip(lm_normal *p, const lm_tree *t, const lm_node *node, lm_err *err) {
    int left = lm_tree_bool(t, node, "strip_left", 1, err), right = lm_tree_bool(t, node, "strip_right", 1, err);
    add_step(p, STRIP, (left ? STRIP_LEFT : 0) | (right ? STRIP_RIGHT : 0), err);
}

/* Types of one step, or with a reader of their own. */
static const struct {
    const char *type;
    int kind, flags;
    void (*read)(lm_normal *p, const lm_tree *t, const lm_node *node, lm_err *err);
} g_types[] = {
    { "BertNormalizer", 0, 0, add_bert },
    { "NFC", FORM, LM_FORM_COMPOSE, NULL },
    { "NFD", FORM, 0, NULL },
    { "NFKC", FORM, LM_FORM_COMPOSE | LM_FORM_COMPAT, NULL },
    { "NFKD", FORM, LM_FORM_COMPAT, NULL },
    { "Lowercase", LOWER, 0, NULL },
    { "StripAccents", DROP_MARKS, 0, NULL },
    { "Strip", 0, 0, add_strip },
    { "Replace", 0, 0, add_replace },
    { "Prepend", 0, 0, add_prepend },
    { "Precompiled", 0, 0, add_charsmap },
};

lm_normal *lm_normal_new(const lm_tree *t, const lm_node *node, lm_err *err) {
    lm_normal *p = lm_calloc(1, sizeof *p, err);
    const lm_node *part = NULL;
    while ((part = lm_tree_next_part(t, node, part, "normalizers", err))) {
        int i = 0;
        if (p->n >= STEPS_MAX) lm_tokjson_refuse(part->at, err, "over %d normalizers", STEPS_MAX);
        while (i < LM_COUNT(g_types) && !lm_tree_is(t, part, "type", g_types[i].type)) i++;
        if (i == LM_COUNT(g_types)) {
            lm_tree_refuse(t, part, "normalizer", err);
        } else if (g_types[i].read) {
            g_types[i].read(p, t, part, err);
        } else {
            add_step(p, g_types[i].kind, g_types[i].flags, err);
        }
    }
    if (!err->code) return p;
    lm_normal_free(p);
    return NULL;
}

void lm_normal_free(lm_normal *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) {
        lm_buf_clear(&p->steps[i].from);
        lm_buf_clear(&p->steps[i].to);
        lm_regex_free(p->steps[i].regex);
    }
    lm_free(p->steps);
    lm_free(p);
}

/* decode.c: the decoders of a tokenizer.json: what each token adds to a text.
**
** A decoder works on a whole list of tokens; here it is asked once, about every token alone, and the answers stand end to
** end in lm_tok.bytes. What it does to the first token of a list only, taking spaces off its front, is
** lm_tok.first_drops. The last token's own treatment (a Strip at the end) and an unfinished character's (a U+FFFD a byte)
** have no place in that. */
#include "tok.h"

#include <string.h>

enum { STEPS_MAX = 64, GROWTH_MAX = 32, GROWTH_FREE = 65536 };     /* the tokens may become so many times their bytes, and more */
enum { BYTE_LEVEL, WORDPIECE, METASPACE, REPLACE, BYTE_FALLBACK, FUSE, STRIP, SPACES };

typedef struct {
    int kind;
    int cleanup;                        /* WORDPIECE */
    lm_buf text;                        /* the prefix, the mark, or what is stripped */
    int64_t start, stop;                /* STRIP */
    lm_normal *replace;
} step;

typedef struct { step *steps; size_t n, cap; } decoder;

/*----------------------------------------------------------------------
** Steps */

/* No replacement is longer than what it replaces: what is written stays behind what is read. */
static void replace_all(lm_buf *text, const char *from, const char *to) {
    size_t from_n = strlen(from), to_n = strlen(to), out = 0;
    for (size_t i = 0; i < text->n;) {
        if (text->n - i >= from_n && !memcmp(text->data + i, from, from_n)) {
            memcpy(text->data + out, to, to_n);
            out += to_n;
            i += from_n;
        } else {
            text->data[out++] = text->data[i++];
        }
    }
    text->n = out;
}

static void clean_up(lm_buf *text) {
    static const char *const rules[][2] = {
        { " .", "." }, { " ?", "?" }, { " !", "!" }, { " ,", "," }, { " ' ", "'" }, { " n't", "n't" }, { " 'm", "'m" },
        { " do not", " don't" }, { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" },
    };
    if (text->n && memchr(text->data, ' ', text->n)) {
        for (int i = 0; i < LM_COUNT(rules); i++) replace_all(text, rules[i][0], rules[i][1]);
    }
}

static void drop_front(lm_buf *text, size_t n) {
    memmove(text->data, text->data + n, text->n - n);
    text->n -= n;
}

static int begins_with(const lm_buf *text, size_t at, const lm_buf *with) {
    return with->n && text->n - at >= with->n && !memcmp(text->data + at, with->data, with->n);
}

static void put_before(lm_buf *text, const char *what, size_t n, lm_err *err) {
    lm_buf_append(text, what, n, err);
    if (err->code) return;
    memmove(text->data + n, text->data, text->n - n);
    memcpy(text->data, what, n);
}

static void run_step(const step *s, lm_buf *text, lm_normal_scratch *scratch, lm_err *err) {
    const char *out = text->data;
    size_t n = text->n, front = 0;
    int byte;
    switch (s->kind) {
    case BYTE_LEVEL: lm_bpe_decode(text); break;
    case SPACES: put_before(text, " ", 1, err); break;
    case WORDPIECE:
        if (begins_with(text, 0, &s->text)) drop_front(text, s->text.n);
        else put_before(text, " ", 1, err);
        if (s->cleanup && !err->code) clean_up(text);
        break;
    case METASPACE:
    case REPLACE:
        lm_normal_run(s->replace, scratch, &out, &n, (lm_stop){0}, err);
        text->n = 0;
        lm_buf_append(text, out, n, err);
        break;
    case BYTE_FALLBACK:
        byte = lm_spm_byte_of(text->data, text->n);
        if (byte >= 0) {
            text->data[0] = (char)byte;
            text->n = 1;
        }
        break;
    case STRIP:
        for (int64_t i = 0; i < s->start && begins_with(text, front, &s->text); i++) front += s->text.n;
        drop_front(text, front);
        for (int64_t i = 0; i < s->stop && s->text.n && text->n >= s->text.n
                            && !memcmp(text->data + text->n - s->text.n, s->text.data, s->text.n);
             i++)
            text->n -= s->text.n;
        break;
    }
}

/*----------------------------------------------------------------------
** Reading */

static lm_normal *mark_to_space(const char *mark, size_t n, lm_err *err) {
    lm_buf json = {0};
    lm_tokjson f = {0};
    lm_normal *normal = NULL;
    lm_buf_print(&json, err, "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":");
    lm_json_quote(&json, mark, n, err);
    lm_buf_print(&json, err, "},\"content\":\" \"}}");
    if (!err->code) lm_tokjson_read(&f, json.data, json.n, err);
    if (!err->code) normal = lm_normal_new(&f.tree, lm_tokjson_part(&f, LM_TOKJSON_NORMALIZER), err);
    lm_tokjson_clear(&f);
    lm_buf_clear(&json);
    return normal;
}

static void read_text(step *s, const lm_tree *t, const lm_node *node, const char *key, lm_err *err) {
    size_t n;
    const char *text = lm_tree_text(t, node, key, &n, err);
    if (!err->code) lm_buf_append(&s->text, text, n, err);
}

static const struct { const char *type; int kind; } g_types[] = {
    { "ByteLevel", BYTE_LEVEL }, { "WordPiece", WORDPIECE }, { "Metaspace", METASPACE },         { "Replace", REPLACE },
    { "Fuse", FUSE },            { "Strip", STRIP },         { "ByteFallback", BYTE_FALLBACK },
};

/* Add what a part of the decoder does. What a Strip does behind a Fuse, it does to the whole text. */
static void read_part(decoder *d, lm_tok *tok, const lm_tree *t, const lm_node *node, int is_fused, lm_err *err) {
    int i = 0;
    while (i < LM_COUNT(g_types) && !lm_tree_is(t, node, "type", g_types[i].type)) i++;
    if (i == LM_COUNT(g_types)) lm_tree_refuse(t, node, "decoder", err);
    if (d->n == STEPS_MAX) lm_tokjson_refuse(node->at, err, "over %d decoders", STEPS_MAX);
    if (!lm_grow((void **)&d->steps, d->n, &d->cap, 1, sizeof *d->steps, err)) return;
    step *s = &d->steps[d->n++];
    *s = (step){ .kind = g_types[i].kind };
    switch (s->kind) {
    case WORDPIECE:
        read_text(s, t, node, "prefix", err);
        s->cleanup = lm_tree_bool(t, node, "cleanup", 1, err);
        tok->first_drops = 1;
        break;
    case METASPACE:
        lm_split_read_mark(t, node, &s->text, err);
        if (!err->code) s->replace = mark_to_space(s->text.data, s->text.n, err);
        if (lm_split_scheme(t, node, err) != LM_MARK_NEVER) tok->first_drops = INT32_MAX;
        break;
    case REPLACE: s->replace = lm_normal_new(t, node, err); break;   /* the same thing there */
    case STRIP:
        read_text(s, t, node, "content", err);
        s->start = lm_tree_int(t, node, "start", 0, err);
        s->stop = lm_tree_int(t, node, "stop", 0, err);
        if (err->code || !is_fused) break;
        if (s->text.n == 1 && s->text.data[0] == ' ') tok->first_drops = (int)LM_MIN(LM_MAX(s->start, 0), INT32_MAX);
        s->start = s->stop = 0;
        break;
    }
}

void lm_decode(lm_tok *tok, const lm_tree *t, const lm_node *node, const lm_added *added, lm_err *err) {
    decoder d = {0};
    lm_buf bytes = {0}, text = {0};
    lm_normal_scratch scratch = {0};
    const lm_node *part = NULL;
    int is_fused = 0;
    while ((part = lm_tree_next_part(t, node, part, "decoders", err))) {
        read_part(&d, tok, t, part, is_fused, err);
        is_fused |= lm_tree_is(t, part, "type", "Fuse");
    }
    if (!node && lm_grow((void **)&d.steps, 0, &d.cap, 1, sizeof *d.steps, err)) {     /* tokens with spaces between */
        d.steps[d.n++] = (step){ .kind = SPACES };
        tok->first_drops = 1;
    }
    size_t most = GROWTH_MAX * (size_t)tok->text_at[tok->n] + GROWTH_FREE + (size_t)tok->n;
    tok->bytes_at = lm_calloc((size_t)tok->n + 1, sizeof *tok->bytes_at, err);
    for (int32_t id = 0; id < tok->n && !err->code; id++) {
        size_t n;
        const char *spelling = lm_added_spelling(added, id, &n);       /* a decoder sees that one */
        if (!spelling) spelling = lm_tok_text(tok, id, &n);
        text.n = 0;
        lm_buf_append(&text, spelling, n, err);
        size_t most_here = GROWTH_MAX * n + GROWTH_FREE;
        for (size_t i = 0; i < d.n && text.n && text.n <= most_here && !err->code; i++)
            run_step(&d.steps[i], &text, &scratch, err);
        if (text.n > most_here || bytes.n + text.n > LM_MIN(most, UINT32_MAX)) {
            lm_err_set(err, LM_ERROR,
                       "tokenizer.json: the decoder makes %zu bytes of token %d and %zu of those before", text.n, id,
                       bytes.n);
        }
        lm_buf_append(&bytes, text.data, text.n, err);
        tok->bytes_at[id + 1] = (uint32_t)bytes.n;
    }
    tok->bytes = bytes.data;
    for (size_t i = 0; i < d.n; i++) {
        lm_buf_clear(&d.steps[i].text);
        lm_normal_free(d.steps[i].replace);
    }
    lm_free(d.steps);
    lm_buf_clear(&text);
    lm_normal_scratch_clear(&scratch);
}

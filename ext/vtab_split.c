/* vtab_split.c: a text in pieces that a model can take whole.
**     CREATE TABLE lm_split(pos, start, text, n_tokens, of_text HIDDEN, options HIDDEN)
**     SELECT pos, text FROM lm_split((SELECT body FROM article WHERE id = 1), '{"max_tokens":128,"overlap":16}');
** A piece has at most max_tokens tokens (default: what the embedding model takes) and ends where a paragraph does if that
** lies in the later half of what would fit, else where a sentence does, else a word, else a character. White space at the
** ends of pieces is dropped. A piece begins again up to overlap tokens before the end of the last one, at a word.
** start counts characters from 1: substr(of_text, start, length(text)) = text. */
#include "ext.h"

#include <stddef.h>

enum { COL_POS, COL_START, COL_TEXT, COL_N_TOKENS, COL_OF_TEXT, COL_OPTIONS };
enum { MAX_TOKENS_LEAST = 8 };          /* no character has more tokens */

typedef struct { char *model; int max_tokens, overlap; } split_options;

static const lm_option split_table[] = {
    { "model", LM_OPT_TEXT, offsetof(split_options, model), 0, 0, NULL },
    { "max_tokens", LM_OPT_INT, offsetof(split_options, max_tokens), MAX_TOKENS_LEAST, 1000000, NULL },
    { "overlap", LM_OPT_INT, offsetof(split_options, overlap), 0, 500000, NULL },
    { NULL, 0, 0, 0, 0, NULL },
};

typedef struct {
    sqlite3_vtab_cursor base;
    split_options options;
    lm_shared *model;
    char *text; size_t n;               /* of_text; owned */
    size_t from, end, cut;              /* this piece; and where the next may begin: beyond white space is for it to skip */
    sqlite3_int64 start;                /* characters before it */
    int n_tokens, pos, done;
    double bytes_a_token;               /* as seen so far */
} split_cursor;

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    info->estimatedCost = 10000;
    info->estimatedRows = 100;
    lm_vtab_ordered(info, COL_POS);
    return lm_vtab_take_args(vtab, info, "text", COL_OF_TEXT, COL_OPTIONS);
}

static void clear(sqlite3_vtab_cursor *base) {
    split_cursor *cur = (split_cursor *)base;
    lm_share_end(cur->model);
    lm_options_clear(split_table, &cur->options);
    lm_free(cur->text);
    *cur = (split_cursor){ .base = cur->base, .done = 1 };
}

/*----------------------------------------------------------------------
** Places in a text */
static int is_space(char ch) { return ch == ' ' || (ch >= '\t' && ch <= '\r'); }
static int is_inside_char(char ch) { return ((uint8_t)ch & 0xC0) == 0x80; }

/* The nearest places, at or before `at` and at or behind it, where a character begins. */
static size_t char_before(const split_cursor *cur, size_t at) {
    while (at && at < cur->n && is_inside_char(cur->text[at])) at--;
    return at;
}

static size_t char_behind(const split_cursor *cur, size_t at) {
    while (at < cur->n && is_inside_char(cur->text[at])) at++;
    return at;
}

static size_t skip_space(const split_cursor *cur, size_t at) {
    while (at < cur->n && is_space(cur->text[at])) at++;
    return at;
}

/* Is `at` behind the end of a sentence: . ? ! or … with what closes quotes and brackets, before white space; or the full
** stops of Chinese and Japanese; or a line's end? */
static int ends_sentence(const split_cursor *cur, size_t at) {
    static const char *const wide[] = { "\xE3\x80\x82", "\xEF\xBC\x81", "\xEF\xBC\x9F" };
    const char *text = cur->text;
    for (int i = 0; i < LM_COUNT(wide); i++) if (at >= 3 && !memcmp(text + at - 3, wide[i], 3)) return 1;
    if (at < cur->n && !is_space(text[at])) return 0;
    if (at < cur->n && text[at] == '\n') return 1;
    while (at && strchr("\"')]}", text[at - 1])) at--;
    return at && (strchr(".?!", text[at - 1]) || (at >= 3 && !memcmp(text + at - 3, "\xE2\x80\xA6", 3)));
}

static int ends_paragraph(const split_cursor *cur, size_t at) {
    int lines = 0;
    for (; at < cur->n && is_space(cur->text[at]); at++) lines += cur->text[at] == '\n';
    return lines >= 2 || at == cur->n;
}

static int ends_word(const split_cursor *cur, size_t at) { return at == cur->n || is_space(cur->text[at]); }

/* The best place to end a piece that begins at from and may go to most. */
static size_t best_cut(const split_cursor *cur, size_t from, size_t most) {
    static int (*const kinds[])(const split_cursor *, size_t) = { ends_paragraph, ends_sentence, ends_word };
    for (int i = 0; i < LM_COUNT(kinds); i++) {
        size_t least = i < 2 ? from + (most - from) / 2 : from;
        for (size_t at = most; at > least; at--) {
            if (at < cur->n && is_inside_char(cur->text[at])) continue;
            if (!is_space(cur->text[at - 1]) && kinds[i](cur, at)) return at;
        }
    }
    return most;
}

/*----------------------------------------------------------------------
** Pieces */

/* How many tokens text [from, to) has by itself; counting ends beyond limit, if there is one. */
static int count(split_cursor *cur, size_t from, size_t to, int limit, lm_err *err) {
    lm_conn *c = ((lm_vtab *)cur->base.pVtab)->c;
    lm_ids ids = {0};
    lm_tok_options how = {0};
    lm_tok_encode(lm_model_tok(cur->model->model), cur->text + from, to - from, &how, (size_t)limit, lm_conn_stop(c),
                  &ids, err);
    int n = (int)ids.n;
    lm_ids_clear(&ids);
    return n;
}

/* Find how far from `from` on max_tokens tokens reach, to within some bytes: guess by the bytes a token has had, then
** close in from both sides. */
static size_t reach(split_cursor *cur, size_t from, lm_err *err) {
    enum { CLOSE = 12 };
    int most = cur->options.max_tokens;
    size_t low = from, high = cur->n + 1;       /* low fits; high does not */
    double step = most * cur->bytes_a_token;
    for (int round = 0; !err->code && low < cur->n && (high - low > CLOSE || low == from); round++) {
        size_t guess = round < 4 ? from + (size_t)(step < 1 ? 1 : step > 1e15 ? 1e15 : step) : low + (high - low) / 2;
        if (guess >= high) guess = high - 1;
        if (guess <= low) guess = low + 1;
        size_t at = char_behind(cur, guess);
        if (at >= high) at = char_before(cur, guess);
        if (at <= low) break;
        int n = count(cur, from, at, 2 * most, err);
        if (n <= most) low = at;
        else high = at;
        if (n > 0 && n <= 2 * most) cur->bytes_a_token = (double)(at - from) / n;
        step = n > 2 * most ? step / 2 : most * cur->bytes_a_token * (n <= most ? 1.02 : 0.98);
    }
    return low > from ? low : char_behind(cur, from + 1);
}

/* Where a piece may begin again so that at most `overlap` tokens stand in both: at a sentence if the words allow. */
static size_t step_back(split_cursor *cur, lm_err *err) {
    double back = cur->options.overlap * cur->bytes_a_token;
    size_t span = cur->end - cur->from, at = back < (double)span ? cur->end - (size_t)back : cur->from + 1,
           sentence = 0;
    if (!cur->options.overlap) return cur->cut;
    for (;; at++) {
        while (at < cur->end && !(is_space(cur->text[at - 1]) && !is_space(cur->text[at]))) at++;
        if (at >= cur->end || err->code) return cur->cut;
        if (count(cur, at, cur->end, cur->options.overlap, err) <= cur->options.overlap) break;
    }
    for (size_t i = at; i < at + (cur->end - at) / 2 && !sentence; i++) {
        size_t before = i;
        while (before > cur->from && is_space(cur->text[before - 1])) before--;
        if (before < i && !is_space(cur->text[i]) && ends_sentence(cur, before)) sentence = i;
    }
    return sentence ? sentence : at;
}

static sqlite3_int64 count_chars(const char *text, size_t n) {
    sqlite3_int64 count = 0;
    for (size_t i = 0; i < n; i++) count += !is_inside_char(text[i]);
    return count;
}

/* Set the piece that begins at `from`, or behind white space there. */
static void set_piece(split_cursor *cur, size_t from, lm_err *err) {
    from = skip_space(cur, from);
    size_t most = from < cur->n ? reach(cur, from, err) : from, cut = most;
    int n = 0;
    while (!err->code && from < cur->n) {
        cut = best_cut(cur, from, most);
        n = count(cur, from, cut, 0, err);
        if (n <= cur->options.max_tokens || most - from < 2) break;
        most = char_before(cur, cut - 1);      /* the rare text that has fewer tokens when it goes on */
        if (most <= from) break;
    }
    cur->start += from >= cur->from ? count_chars(cur->text + cur->from, from - cur->from) : 0;
    cur->from = from;
    cur->end = cur->cut = cut;
    while (cur->end > from && is_space(cur->text[cur->end - 1])) cur->end--;
    cur->n_tokens = n;
    cur->done = err->code || from >= cur->n;
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan, (void)plan_text;
    split_cursor *cur = (split_cursor *)base;
    lm_conn *c = ((lm_vtab *)base->pVtab)->c;
    lm_err err = {0};
    lm_text text;
    lm_frame frame = {0};
    clear(base);
    lm_options_read(split_table, &cur->options, n_args > 1 ? args[1] : NULL, NULL, &err);
    if (lm_value_text(args[0], &text, "text", &err) && !err.code) {
        cur->model = lm_share_begin(c, cur->options.model, "embed|generate", &err);
        if (cur->model) lm_frame_find(c, cur->model, &frame, &err);
        if (!cur->options.max_tokens) cur->options.max_tokens = frame.room;
        if (cur->options.overlap > cur->options.max_tokens / 2) {
            lm_err_set(&err, LM_ERROR, "option \"overlap\": %d, expected at most half of max_tokens %d",
                       cur->options.overlap, cur->options.max_tokens);
        }
        cur->text = lm_alloc(text.n + 1, &err);
        if (cur->text) memcpy(cur->text, text.text, text.n);
        if (cur->text) cur->text[text.n] = 0;
        cur->n = text.n;
        cur->bytes_a_token = 4;
        lm_frame_clear(&frame);
        if (!err.code) set_piece(cur, 0, &err);
    }
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    split_cursor *cur = (split_cursor *)base;
    size_t cut = cur->cut, again = cut < cur->n ? step_back(cur, &err) : cut;
    cur->pos++;
    set_piece(cur, again, &err);
    if (cur->cut <= cut && !cur->done) set_piece(cur, cut, &err);       /* an overlap that leaves no room for more */
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((split_cursor *)base)->done; }

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    const split_cursor *cur = (const split_cursor *)base;
    switch (i) {
    case COL_POS: sqlite3_result_int(ctx, cur->pos); break;
    case COL_START: sqlite3_result_int64(ctx, cur->start + 1); break;
    case COL_TEXT: lm_result_text(ctx, cur->text + cur->from, cur->end - cur->from); break;
    case COL_N_TOKENS: sqlite3_result_int(ctx, cur->n_tokens); break;
    }
    return SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((split_cursor *)base)->pos;
    return SQLITE_OK;
}

static const lm_table table = {
    { LM_TABLE_METHODS, .xBestIndex = best_index, .xFilter = filter, .xNext = next, .xEof = eof, .xColumn = column, .xRowid = rowid },
    "lm_split", "CREATE TABLE lm_split(pos, start, text, n_tokens, of_text HIDDEN, options HIDDEN)",
    0, sizeof(split_cursor), clear,
};

int lm_vtab_split_register(lm_conn *c) { return lm_table_register(c, &table); }

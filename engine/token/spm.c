/* spm.c: SentencePiece's byte-pair encoding, the tokenizer of Llama 2, Mistral and Gemma (kind "llama"; Kudo and
** Richardson 2018).
**
** A space is spelled U+2581, and where the vocabulary wants it one is put before each stretch of text. A text starts
** as one symbol a character; of all neighbours whose joined spelling is a token the pair with the highest score, the
** leftmost of equals, becomes that token, until there is none. A character that is no token becomes its bytes'
** tokens <0x00> .. <0xFF>, else the unknown token. No text becomes a control token or, but for its spelling's
** characters, a byte token.
**
** No merge crosses a place that lies inside no token: a text is cut before each U+2581 that follows a byte which no
** token has before a U+2581. That is nearly every space, so that pieces are words; it changes no result. A short
** piece is scanned for its best pair after each merge, a long one is left to merge.c. */
#include "tok.h"

#include <string.h>

enum { SHORT = 48, NO_ID = -1 };

static const char space[] = "\xE2\x96\x81";

typedef struct {
    lm_tok_word *words; size_t words_mask;  /* the tokens that text can become */
    size_t word_max;                        /* bytes of the longest */
    int32_t byte[256], unknown;             /* NO_ID: there is none */
    uint8_t glued[256];                     /* bytes that some token has before a U+2581 */
} spm;

/*----------------------------------------------------------------------
** Merging */

static lm_tok_word *word_slot(const lm_tok *t, const spm *s, const char *text, size_t n, uint64_t hash) {
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t slot = (size_t)hash & s->words_mask;; slot = (slot + 1) & s->words_mask) {
        lm_tok_word *w = &s->words[slot];
        if (w->id == NO_ID) return w;
        if (w->tag != tag) continue;
        uint32_t at = t->text_at[w->id];
        if (t->text_at[w->id + 1] - at == n && !memcmp(t->text + at, text, n)) return w;
    }
}

static int32_t find_word(const lm_tok *t, const char *text, size_t n) {
    const spm *s = t->family_data;
    return n > s->word_max ? NO_ID : word_slot(t, s, text, n, lm_hash_bytes(text, n))->id;
}

/* Higher scores are lower ranks: the order of floats as the order of integers. */
static uint32_t rank_of(const lm_tok *t, int32_t id) {
    if (id == NO_ID) return LM_NO_RANK;
    float cost = 0.0f - t->score[id];
    uint32_t bits;
    memcpy(&bits, &cost, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static size_t char_bytes(const char *text) {
    uint8_t c = (uint8_t)*text;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

static void append_symbol(const lm_tok *t, int32_t id, const char *text, size_t n, lm_ids *out, lm_err *err) {
    const spm *s = t->family_data;
    if (id != NO_ID) {
        lm_ids_append(out, id, err);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        int32_t byte = s->byte[(uint8_t)text[i]];
        if (byte == NO_ID) byte = s->unknown;
        if (byte != NO_ID) lm_ids_append(out, byte, err);
    }
}

/* n symbols that begin at at[0..n-1]; at[n] is the end. */
static void merge_short(const lm_tok *t, const char *text, uint32_t *at, int n, lm_ids *out, lm_err *err) {
    int32_t id[SHORT], makes[SHORT];
    uint32_t rank[SHORT];
    for (int i = 0; i < n; i++) id[i] = find_word(t, text + at[i], at[i + 1] - at[i]);
    for (int i = 0; i + 1 < n; i++) {
        makes[i] = find_word(t, text + at[i], at[i + 2] - at[i]);
        rank[i] = rank_of(t, makes[i]);
    }
    for (;;) {
        uint32_t least = LM_NO_RANK;
        int best = 0;
        for (int i = 0; i + 1 < n; i++) {
            if (rank[i] < least) {
                least = rank[i];
                best = i;
            }
        }
        if (least == LM_NO_RANK) break;
        id[best] = makes[best];
        n--;
        for (int i = best + 1; i < n; i++) {
            at[i] = at[i + 1];
            id[i] = id[i + 1];
        }
        for (int i = best + 1; i + 1 < n; i++) {
            rank[i] = rank[i + 1];
            makes[i] = makes[i + 1];
        }
        at[n] = at[n + 1];
        for (int i = LM_MAX(best - 1, 0); i <= best && i + 1 < n; i++) {
            makes[i] = find_word(t, text + at[i], at[i + 2] - at[i]);
            rank[i] = rank_of(t, makes[i]);
        }
    }
    for (int i = 0; i < n; i++) append_symbol(t, id[i], text + at[i], at[i + 1] - at[i], out, err);
}

static uint32_t end_of(const lm_merge *m, size_t symbol) {
    uint32_t next = m->symbols[symbol].next;
    return next < m->n ? m->symbols[next].at : (uint32_t)m->text_n;
}

static uint32_t rank_symbols(const lm_merge *m, size_t left, size_t right, int32_t *makes) {
    uint32_t from = m->symbols[left].at;
    *makes = find_word(m->t, m->text + from, end_of(m, right) - from);
    return rank_of(m->t, *makes);
}

static void merge_long(const lm_tok *t, const char *text, size_t n, lm_stop stop, lm_ids *out, lm_err *err) {
    lm_merge m = { .rank = rank_symbols, .t = t, .text = text, .text_n = n };
    if (n >= UINT32_MAX) lm_err_set(err, LM_ERROR, "a run of %zu bytes without a break, wanted under 4 GiB", n);
    m.symbols = lm_alloc((n + 1) * sizeof *m.symbols, err);
    for (size_t i = 0; i < n && !err->code; i += char_bytes(text + i)) {
        m.symbols[m.n] = (lm_symbol){ .id = find_word(t, text + i, char_bytes(text + i)),
                                      .at = (uint32_t)i,
                                      .next = (uint32_t)m.n + 1 };
        if (++m.n % LM_STOP_BYTES == 0) lm_poll(stop, err);
    }
    if (!err->code) lm_merge_run(&m, stop, err);
    for (size_t i = 0, steps = 0; i < m.n && !err->code; i = m.symbols[i].next) {
        append_symbol(t, m.symbols[i].id, text + m.symbols[i].at, end_of(&m, i) - m.symbols[i].at, out, err);
        if (++steps % LM_STOP_BYTES == 0) lm_poll(stop, err);
    }
    lm_free(m.symbols);
}

/*----------------------------------------------------------------------
** Encoding */

static void encode_piece(const lm_tok *t, const char *text, size_t n, lm_stop stop, lm_ids *out, lm_err *err) {
    uint32_t at[SHORT + 1];
    int count = 0;
    size_t i = 0;
    for (; i < n && count < SHORT; i += char_bytes(text + i)) at[count++] = (uint32_t)i;
    at[count] = (uint32_t)i;
    if (i < n) merge_long(t, text, n, stop, out, err);
    else merge_short(t, text, at, count, out, err);
}

static void encode(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    const lm_tok *t = c->t;
    const spm *s = t->family_data;
    lm_buf piece = {0};     /* with its spaces spelled out */
    size_t asked = 0;
    if (t->add_space_prefix) lm_buf_append(&piece, space, 3, err);
    for (size_t i = 0, step; i < n && !lm_tok_is_done(c, err); i += step) {
        int is_space = text[i] == ' ' || (n - i >= 3 && !memcmp(text + i, space, 3));
        if (is_space && piece.n && !s->glued[(uint8_t)piece.data[piece.n - 1]]) {
            encode_piece(t, piece.data, piece.n, c->stop, c->out, err);
            piece.n = 0;
        }
        step = char_bytes(text + i);
        lm_buf_append(&piece, is_space ? space : text + i, is_space ? 3 : step, err);
        if (i - asked >= LM_STOP_BYTES) {
            asked = i;
            lm_poll(c->stop, err);
        }
    }
    if (!err->code) encode_piece(t, piece.data, piece.n, c->stop, c->out, err);
    lm_buf_clear(&piece);
}

/*----------------------------------------------------------------------
** Opening */

int lm_spm_byte_of(const char *text, size_t n) {
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    const char *high = memchr(digits, text[3], 16), *low = memchr(digits, text[4], 16);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

void lm_spm_note_glued(uint8_t glued[256], const char *text, size_t n) {
    for (size_t i = 1; i + 3 <= n; i++) {
        if (!memcmp(text + i, space, 3)) glued[(uint8_t)text[i - 1]] = 1;
    }
}

/* Write what a spelling adds to a text: its spaces as spaces. */
static size_t unescape(const char *text, size_t n, char *out) {
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        int is_space = n - i >= 3 && !memcmp(text + i, space, 3);
        out[n_out++] = is_space ? ' ' : text[i];
        i += is_space ? 3 : 1;
    }
    return n_out;
}

static void read_words(lm_tok *t, spm *s, lm_err *err) {
    s->words_mask = lm_tok_slots((size_t)t->n) - 1;
    s->words = lm_alloc((s->words_mask + 1) * sizeof *s->words, err);
    t->bytes = lm_alloc(t->text_at[t->n], err);
    t->bytes_at = lm_calloc((size_t)t->n + 1, sizeof *t->bytes_at, err);
    if (err->code) return;
    for (size_t i = 0; i <= s->words_mask; i++) s->words[i].id = NO_ID;
    for (int32_t id = 0; id < t->n; id++) {
        const char *text = t->text + t->text_at[id];
        size_t n = t->text_at[id + 1] - t->text_at[id];
        char *out = t->bytes + t->bytes_at[id];
        int byte = t->type[id] == LM_TOK_BYTE ? lm_spm_byte_of(text, n) : -1;
        size_t n_out = n;
        if (byte < 0 && t->type[id] == LM_TOK_BYTE) {
            lm_err_set(err, LM_ERROR,
                       "tokenizer.ggml.tokens: token %d is of type byte, but '%.*s' is none of <0x00> to <0xFF>", id,
                       (int)LM_MIN(n, 60), text);
            return;
        }
        if (byte >= 0) {
            s->byte[byte] = id;
            out[0] = (char)byte;
            n_out = 1;
        } else if (lm_tok_is_special(t, id)) {
            memcpy(out, text, n);
        } else {
            n_out = unescape(text, n, out);
        }
        t->bytes_at[id + 1] = t->bytes_at[id] + (uint32_t)n_out;
        int is_word = n && byte < 0 && t->type[id] != LM_TOK_CONTROL && t->type[id] != LM_TOK_UNKNOWN;
        if (!is_word) continue;
        uint64_t hash = lm_hash_bytes(text, n);
        *word_slot(t, s, text, n, hash) = (lm_tok_word){ (uint32_t)(hash >> 32), id };
        s->word_max = LM_MAX(s->word_max, n);
        lm_spm_note_glued(s->glued, text, n);
    }
}

static void close(lm_tok *t) {
    spm *s = t->family_data;
    if (!s) return;
    lm_free(s->words);
    lm_free(s);
}

static void open(lm_tok *t, const lm_meta *meta, const lm_meta *arrays, lm_err *err) {
    (void)arrays;
    spm *s = t->family_data = lm_calloc(1, sizeof *s, err);
    int64_t unknown = NO_ID;
    if (!s) return;
    if (!t->score) lm_err_set(err, LM_ERROR, "tokenizer.ggml.scores: missing");
    for (int i = 0; i < t->n && t->score; i++) {
        if (t->score[i] != t->score[i]) lm_err_set(err, LM_ERROR, "tokenizer.ggml.scores: token %d has no number", i);
    }
    if (t->bos >= 0) lm_ids_append(&t->before, t->bos, err);
    t->add_space_prefix = 1;
    lm_meta_bool(meta, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, err);
    lm_meta_int(meta, "tokenizer.ggml.unknown_token_id", &unknown, err);
    for (int i = 0; i < 256; i++) s->byte[i] = NO_ID;
    s->unknown = (int32_t)unknown;
    if (!err->code) read_words(t, s, err);
}

const lm_tok_family lm_spm_family = { "llama", open, close, encode };

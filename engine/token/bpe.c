/* bpe.c: byte-level byte-pair encoding, the tokenizer of GPT-2 and its heirs (kind "gpt2").
**
** A vocabulary spells bytes with printable characters: 33..126, 161..172 and 174..255 stand for themselves,
** the other 68, in order, for U+0100 on. A text is cut into pieces (pretok.c); a piece starts as one token a
** byte, and of all neighbours that a merge names the pair with the lowest rank, the leftmost of equals,
** becomes one token, until no merge applies. A byte that the vocabulary does not spell yields nothing.
**
** Three ways, one result:
** - A piece that is in the table of words, those tokens that their own bytes lead to, is looked up. The table
**   is made with the tokenizer and never changes, so threads share it; it answers for nine words in ten.
** - A short piece is scanned for its best pair after each merge.
** - A long one is left to merge.c. */
#include "tok.h"

#include <string.h>

enum { SHORT = 48, N_CHARS = 324, NO_ID = -1 };

typedef struct { int32_t left, right; uint32_t rank; } pair;    /* rank LM_NO_RANK: a free slot */

typedef struct {
    lm_pretok *pretok;
    int32_t byte[256];                  /* the token of each byte, or NO_ID */
    pair *pairs; size_t pairs_mask;
    int32_t *merged;                    /* by rank: the token that a merge makes */
    lm_tok_word *words; size_t words_mask;
    size_t word_max;                    /* bytes of the longest lm_tok_word */
} bpe;

/*----------------------------------------------------------------------
** Merges */

static size_t pair_slot(const lm_tok *t, const bpe *b, int32_t left, int32_t right) {
    uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ t->seed;
    key *= 0x9E3779B97F4A7C15u;
    key = (key ^ key >> 32) * 0xD6E8FEB86659FD93u;
    size_t slot = (size_t)(key >> 32) & b->pairs_mask;
    while (b->pairs[slot].rank != LM_NO_RANK && (b->pairs[slot].left != left || b->pairs[slot].right != right)) {
        slot = (slot + 1) & b->pairs_mask;
    }
    return slot;
}

static uint32_t rank_of(const lm_tok *t, const bpe *b, int32_t left, int32_t right) {
    return (left | right) < 0 ? LM_NO_RANK : b->pairs[pair_slot(t, b, left, right)].rank;
}

/* Merge n <= SHORT symbols in place. Return how many are left. */
static int merge_short(const lm_tok *t, const bpe *b, int32_t *id, int n) {
    uint32_t rank[SHORT];
    for (int i = 0; i + 1 < n; i++) rank[i] = rank_of(t, b, id[i], id[i + 1]);
    for (;;) {
        uint32_t least = LM_NO_RANK;
        int at = 0;
        for (int i = 0; i + 1 < n; i++) {
            if (rank[i] < least) {
                least = rank[i];
                at = i;
            }
        }
        if (least == LM_NO_RANK) return n;
        id[at] = b->merged[least];
        n--;
        for (int i = at + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i] = rank[i + 1];
        }
        if (at + 1 < n) rank[at] = rank_of(t, b, id[at], id[at + 1]);
        if (at) rank[at - 1] = rank_of(t, b, id[at - 1], id[at]);
    }
}

/* Long pieces, by merge.c. */
static uint32_t rank_symbols(const lm_merge *m, size_t left, size_t right, int32_t *makes) {
    const bpe *b = m->t->family_data;
    uint32_t rank = rank_of(m->t, b, m->symbols[left].id, m->symbols[right].id);
    if (rank != LM_NO_RANK) *makes = b->merged[rank];
    return rank;
}

static void encode_long(const lm_tok *t, const char *text, size_t n, lm_stop stop, lm_ids *out, lm_err *err) {
    const bpe *b = t->family_data;
    lm_merge m = { .symbols = lm_alloc(n * sizeof *m.symbols, err), .n = n, .rank = rank_symbols, .t = t };
    for (size_t i = 0; i < n && !err->code; i++) {
        m.symbols[i] = (lm_symbol){ .id = b->byte[(uint8_t)text[i]] };
        if (i % LM_STOP_BYTES == 0) lm_tok_stopped(stop, err);
    }
    if (!err->code) lm_merge_run(&m, stop, err);
    for (size_t i = 0, steps = 0; i < n && !err->code; i = m.symbols[i].next) {
        if (m.symbols[i].id >= 0) lm_ids_append(out, m.symbols[i].id, err);
        if (++steps % LM_STOP_BYTES == 0) lm_tok_stopped(stop, err);
    }
    lm_free(m.symbols);
}

/*----------------------------------------------------------------------
** Words */

static const lm_tok_word *word_slot(const lm_tok *t, const bpe *b, const char *text, size_t n, uint64_t hash) {
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t slot = (size_t)hash & b->words_mask;; slot = (slot + 1) & b->words_mask) {
        const lm_tok_word *w = &b->words[slot];
        if (w->id == NO_ID) return w;
        if (w->tag != tag) continue;
        uint32_t at = t->bytes_at[w->id];
        if (t->bytes_at[w->id + 1] - at == n && !memcmp(t->bytes + at, text, n)) return w;
    }
}

static void encode_piece(const lm_tok *t, const char *text, size_t n, lm_stop stop, lm_ids *out, lm_err *err) {
    const bpe *b = t->family_data;
    if (n <= b->word_max) {
        const lm_tok_word *w = word_slot(t, b, text, n, lm_tok_hash(t->seed, text, n));
        if (w->id != NO_ID) {
            lm_ids_append(out, w->id, err);
            return;
        }
    }
    if (n > SHORT) {
        encode_long(t, text, n, stop, out, err);
        return;
    }
    int32_t id[SHORT];
    for (size_t i = 0; i < n; i++) id[i] = b->byte[(uint8_t)text[i]];
    int left = merge_short(t, b, id, (int)n);
    for (int i = 0; i < left; i++) {
        if (id[i] >= 0) lm_ids_append(out, id[i], err);
    }
}

static void encode(const lm_tok *t, const char *text, size_t n, size_t limit, lm_stop stop, lm_ids *out, lm_err *err) {
    const bpe *b = t->family_data;
    lm_pretok_walk w;
    const char *piece;
    size_t piece_n;
    lm_pretok_begin(&w, b->pretok, text, n, stop, err);
    while (lm_pretok_next(&w, &piece, &piece_n, err) && !(limit && out->n > limit)) {
        encode_piece(t, piece, piece_n, stop, out, err);
    }
    lm_pretok_end(&w);
}

/*----------------------------------------------------------------------
** Opening */

static uint32_t char_of_byte(int byte) {
    int plain = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    if (plain) return (uint32_t)byte;
    if (byte <= 32) return 256 + (uint32_t)byte;
    return byte == 173 ? 323 : 256 + 33 + (uint32_t)byte - 127;
}

/* Write the bytes that a spelling stands for. Return how many, or -1 when a character of it stands for none. */
static int64_t decode(const int16_t *byte_of_char, const char *text, size_t n, char *out) {
    int64_t n_out = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int step = lm_utf8_step(text + i, n - i, &c);
        if (step <= 0 || c >= N_CHARS || byte_of_char[c] < 0) return -1;
        out[n_out++] = (char)byte_of_char[c];
        i += (size_t)step;
    }
    return n_out;
}

/* Text must not turn into such a token, whatever a file's merges say: it may end a turn or begin another. */
static int is_control(const lm_tok *t, int32_t id) {
    return t->type[id] == LM_TOK_CONTROL || t->type[id] == LM_TOK_UNKNOWN;
}

static void find_bytes(lm_tok *t, bpe *b) {
    for (int i = 0; i < 256; i++) {
        uint32_t c = char_of_byte(i);
        char text[2] = { (char)c, 0 };
        if (c >= 0x80) {
            text[0] = (char)(0xC0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3F));
        }
        int32_t id = lm_tok_find(t, text, c < 0x80 ? 1 : 2);
        b->byte[i] = id >= 0 && is_control(t, id) ? NO_ID : id;
    }
}

static void refuse_merge(uint32_t rank, const char *text, size_t n, const char *why, lm_err *err) {
    lm_err_set(err, LM_ERROR, "tokenizer.ggml.merges: merge %u '%.*s': %s", rank, (int)LM_MIN(n, 60), text, why);
}

static void read_merges(lm_tok *t, bpe *b, const lm_meta *arrays, lm_err *err) {
    const char *key = "tokenizer.ggml.merges", *text;
    size_t pos = 0, n;
    const lm_meta_entry *e = lm_tok_array(arrays, key, LM_META_TEXT, err);
    if (!e) lm_err_set(err, LM_ERROR, "%s: missing", key);
    if (!err->code && e->n >= INT32_MAX) {
        lm_err_set(err, LM_ERROR, "%s: %llu are too many", key, (unsigned long long)e->n);
    }
    if (err->code) return;
    b->pairs_mask = lm_tok_slots((size_t)e->n) - 1;
    b->pairs = lm_alloc((b->pairs_mask + 1) * sizeof *b->pairs, err);
    b->merged = lm_alloc((size_t)e->n * sizeof *b->merged, err);
    if (err->code) return;
    for (size_t i = 0; i <= b->pairs_mask; i++) b->pairs[i].rank = LM_NO_RANK;

    lm_buf joined = {0};
    for (uint32_t rank = 0; lm_meta_next_text(e, &pos, &text, &n) && !err->code; rank++) {
        /* The first character may itself be a space: some vocabularies spell it so. */
        const char *space = n > 2 ? memchr(text + 1, ' ', n - 2) : NULL;
        if (!space) {
            refuse_merge(rank, text, n, "wanted two tokens with a space between", err);
            break;
        }
        size_t left_n = (size_t)(space - text), right_n = n - left_n - 1;
        joined.n = 0;
        lm_buf_append(&joined, text, left_n, err);
        lm_buf_append(&joined, space + 1, right_n, err);
        if (err->code) break;
        int32_t left = lm_tok_find(t, text, left_n), right = lm_tok_find(t, space + 1, right_n);
        if ((left | right) < 0) refuse_merge(rank, text, n, "the vocabulary lacks one of the two", err);
        b->merged[rank] = lm_tok_find(t, joined.data, joined.n);
        if (b->merged[rank] < 0) refuse_merge(rank, text, n, "the vocabulary lacks what it makes", err);
        if (err->code || is_control(t, b->merged[rank])) continue;
        pair *p = &b->pairs[pair_slot(t, b, left, right)];
        if (p->rank == LM_NO_RANK) *p = (pair){ left, right, rank };     /* of two alike the first counts */
    }
    lm_buf_clear(&joined);
}

/* Enter a token in the table of words if a piece of its bytes becomes it. */
static void add_word(lm_tok *t, bpe *b, int32_t id, int whole_words) {
    const char *text = t->bytes + t->bytes_at[id];
    size_t n = t->bytes_at[id + 1] - t->bytes_at[id];
    if (!whole_words) {
        int32_t ids[SHORT];
        if (n > SHORT) return;
        for (size_t i = 0; i < n; i++) ids[i] = b->byte[(uint8_t)text[i]];
        if (merge_short(t, b, ids, (int)n) != 1 || ids[0] != id) return;
    }
    uint64_t hash = lm_tok_hash(t->seed, text, n);
    lm_tok_word *w = (lm_tok_word *)word_slot(t, b, text, n, hash);
    if (w->id == NO_ID) *w = (lm_tok_word){ (uint32_t)(hash >> 32), id };
    b->word_max = LM_MAX(b->word_max, n);
}

/* Spell out what every token adds to a text, and list the words. A spelling with a character in it that
** stands for no byte is taken as it is, like a special token's; text becomes such a token by no merge. */
static void read_words(lm_tok *t, bpe *b, int whole_words, lm_err *err) {
    int16_t byte_of_char[N_CHARS];
    memset(byte_of_char, -1, sizeof byte_of_char);
    for (int i = 0; i < 256; i++) byte_of_char[char_of_byte(i)] = (int16_t)i;
    b->words_mask = lm_tok_slots((size_t)t->n) - 1;
    b->words = lm_alloc((b->words_mask + 1) * sizeof *b->words, err);
    t->bytes = lm_alloc(t->text_at[t->n], err);
    t->bytes_at = lm_calloc((size_t)t->n + 1, sizeof *t->bytes_at, err);
    if (err->code) return;
    for (size_t i = 0; i <= b->words_mask; i++) b->words[i].id = NO_ID;
    for (int32_t id = 0; id < t->n; id++) {
        const char *text = t->text + t->text_at[id];
        size_t n = t->text_at[id + 1] - t->text_at[id];
        char *out = t->bytes + t->bytes_at[id];
        int64_t n_out = lm_tok_is_special(t, id) ? -1 : decode(byte_of_char, text, n, out);
        if (n_out < 0) memcpy(out, text, n);
        t->bytes_at[id + 1] = t->bytes_at[id] + (n_out < 0 ? (uint32_t)n : (uint32_t)n_out);
        if (n_out > 0) add_word(t, b, id, whole_words);
    }
}

static void close(lm_tok *t) {
    bpe *b = t->family_data;
    if (!b) return;
    lm_pretok_free(b->pretok);
    lm_free(b->pairs);
    lm_free(b->merged);
    lm_free(b->words);
    lm_free(b);
}

static void open(lm_tok *t, const lm_meta *meta, const lm_meta *arrays, lm_err *err) {
    const lm_pretok_row *row = lm_pretok_find(meta, err);
    bpe *b = t->family_data = lm_calloc(1, sizeof *b, err);
    if (!b) return;
    t->add_bos = row->add_bos && t->bos >= 0;
    b->pretok = lm_pretok_new(row, err);
    find_bytes(t, b);
    read_merges(t, b, arrays, err);
    read_words(t, b, row->whole_words, err);
}

const lm_tok_family lm_bpe_family = { "gpt2", open, close, encode };

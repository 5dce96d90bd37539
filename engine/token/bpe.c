/* bpe.c: byte-pair encoding, the tokenizer of GPT-2 and its heirs (kinds "gpt2", of a GGUF file, and "bpe", of a
** tokenizer.json).
**
** A text is cut into pieces (pretok.c, split.c); a piece starts as one token a byte, and of all neighbours that a merge
** names the pair with the lowest rank, the leftmost of equals, becomes one token, until no merge applies. A vocabulary
** spells bytes with printable characters: 33..126, 161..172 and 174..255 stand for themselves, the other 68, in order,
** for U+0100 on. Some files' pieces start as one token a character instead; one that is no token becomes its bytes'
** tokens <0x00> .. <0xFF>, or unknown.
**
** What the vocabulary has no token for yields nothing; in a GGUF file its neighbours never meet, in a tokenizer.json
** they do.
**
** Three ways, one result:
** - A piece that is in the table of words, those tokens that their own bytes lead to, is looked up. The table
**   is made with the tokenizer and never changes, so threads share it; it answers for nine words in ten.
** - A short piece is scanned for its best pair after each merge.
** - A long one is left to merge.c, after it was cut wherever a U+2581 begins that no token has behind such a byte. */
#include "tok.h"

#include <string.h>

enum { SHORT = 48, N_CHARS = 324, NO_ID = -1 };

static const char space[] = "\xE2\x96\x81";

typedef struct { int32_t left, right; uint32_t rank; } pair;    /* rank LM_NO_RANK: a free slot */

typedef struct {
    lm_pretok *pretok;                  /* of a GGUF file */
    int by_char, falls_back, fuses, vanishes;
    int32_t unknown;
    int32_t byte[256];                  /* the token of each byte (by_char: <0x00> and so on), or NO_ID */
    pair *pairs; size_t pairs_mask;
    int32_t *merged;                    /* by rank: the token that a merge makes */
    const char *key; const uint32_t *key_at;        /* what each token's piece is in a text */
    lm_buf keys; uint32_t *keys_at;     /* where that is neither its spelling nor lm_tok.bytes */
    lm_tok_word *words; size_t words_mask;
    size_t word_max;                    /* bytes of the longest lm_tok_word */
    int cuts; uint8_t glued[256];       /* pieces may be cut before U+2581; bytes behind which they may not */
} bpe;

/*----------------------------------------------------------------------
** Merges */

static size_t pair_slot(const bpe *b, int32_t left, int32_t right) {
    size_t slot = lm_hash_pair(left, right) & b->pairs_mask;
    while (b->pairs[slot].rank != LM_NO_RANK && (b->pairs[slot].left != left || b->pairs[slot].right != right)) {
        slot = (slot + 1) & b->pairs_mask;
    }
    return slot;
}

static uint32_t rank_of(const bpe *b, int32_t left, int32_t right) {
    return (left | right) < 0 ? LM_NO_RANK : b->pairs[pair_slot(b, left, right)].rank;
}

/*----------------------------------------------------------------------
** Symbols to begin with */

enum { CHAR_MAX_IDS = 8 };

typedef struct { int n, pending; } beginning;       /* ids so far; an unknown token that more may be fused with */

static int is_control(const lm_tok *t, int32_t id);

static int32_t find_char(const lm_tok *t, const char *text, size_t n) {
    int32_t id = lm_tok_find(t, text, n);
    return id >= 0 && (id >= t->n_pieces || is_control(t, id)) ? NO_ID : id;
}

/* What is no token. As `tokenizers` has it, an unknown one waits for the next known character. */
static void begin_unknown(const bpe *b, const char *text, size_t n, beginning *x, int32_t *ids) {
    int all = b->falls_back;
    for (size_t i = 0; i < n && all; i++) all = b->byte[(uint8_t)text[i]] != NO_ID;
    for (size_t i = 0; i < n && all; i++) ids[x->n++] = b->byte[(uint8_t)text[i]];
    if (all || b->unknown < 0) return;
    if (x->pending && !b->fuses) ids[x->n++] = b->unknown;
    x->pending = 1;
}

/* Append the symbols of text from at on to ids, up to the first character that begins at stop_at or behind. Return where
** that is. */
static size_t begin(const lm_tok *t, const bpe *b, const char *text, size_t at, size_t n, beginning *x, int32_t *ids,
                    size_t stop_at) {
    while (at < n && at < stop_at) {
        uint32_t cp;
        size_t step = b->by_char ? (size_t)LM_MAX(lm_utf8_step(text + at, n - at, &cp), 1) : 1;
        int32_t id = b->by_char ? find_char(t, text + at, step) : b->byte[(uint8_t)text[at]];
        if (id != NO_ID || !b->vanishes) {
            if (x->pending) ids[x->n++] = b->unknown;
            x->pending = 0;
            ids[x->n++] = id;
        } else {
            begin_unknown(b, text + at, step, x, ids);
        }
        at += step;
    }
    return at;
}

/* All of a piece of up to SHORT bytes. Return how many symbols. */
static int begin_short(const lm_tok *t, const bpe *b, const char *text, size_t n, int32_t *ids) {
    beginning x = { 0 };
    begin(t, b, text, 0, n, &x, ids, n);
    if (x.pending) ids[x.n++] = b->unknown;
    return x.n;
}

/* Merge n <= SHORT symbols in place. Return how many are left. */
static int merge_short(const bpe *b, int32_t *id, int n) {
    uint32_t rank[SHORT];
    for (int i = 0; i + 1 < n; i++) rank[i] = rank_of(b, id[i], id[i + 1]);
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
        if (at + 1 < n) rank[at] = rank_of(b, id[at], id[at + 1]);
        if (at) rank[at - 1] = rank_of(b, id[at - 1], id[at]);
    }
}

/* Long pieces, by merge.c. */
static uint32_t rank_symbols(const lm_merge *m, size_t left, size_t right, int32_t *makes) {
    const bpe *b = m->t->family_data;
    uint32_t rank = rank_of(b, m->symbols[left].id, m->symbols[right].id);
    if (rank != LM_NO_RANK) *makes = b->merged[rank];
    return rank;
}

static void encode_long(const lm_tok *t, const char *text, size_t n, lm_stop stop, lm_ids *out, lm_err *err) {
    const bpe *b = t->family_data;
    lm_merge m = { .symbols = lm_alloc(n * sizeof *m.symbols, err), .rank = rank_symbols, .t = t };
    beginning x = { 0 };
    for (size_t at = 0; at < n && !err->code;) {
        int32_t ids[SHORT + CHAR_MAX_IDS];
        x.n = 0;
        at = begin(t, b, text, at, n, &x, ids, at + SHORT);
        for (int i = 0; i < x.n; i++) m.symbols[m.n++] = (lm_symbol){ .id = ids[i] };
        if (m.n % LM_STOP_BYTES < SHORT) lm_poll(stop, err);
    }
    if (x.pending && !err->code) m.symbols[m.n++] = (lm_symbol){ .id = b->unknown };
    if (!err->code) lm_merge_run(&m, stop, err);
    for (size_t i = 0, steps = 0; i < m.n && !err->code; i = m.symbols[i].next) {
        if (m.symbols[i].id >= 0) lm_ids_append(out, m.symbols[i].id, err);
        if (++steps % LM_STOP_BYTES == 0) lm_poll(stop, err);
    }
    lm_free(m.symbols);
}

/*----------------------------------------------------------------------
** Words */

static const lm_tok_word *word_slot(const bpe *b, const char *text, size_t n, uint64_t hash) {
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t slot = (size_t)hash & b->words_mask;; slot = (slot + 1) & b->words_mask) {
        const lm_tok_word *w = &b->words[slot];
        if (w->id == NO_ID) return w;
        if (w->tag != tag) continue;
        uint32_t at = b->key_at[w->id];
        if (b->key_at[w->id + 1] - at == n && !memcmp(b->key + at, text, n)) return w;
    }
}

static void encode_piece(const lm_tok *t, const char *text, size_t n, lm_stop stop, lm_ids *out, lm_err *err) {
    const bpe *b = t->family_data;
    if (n <= b->word_max) {
        const lm_tok_word *w = word_slot(b, text, n, lm_hash_bytes(text, n));
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
    int left = merge_short(b, id, begin_short(t, b, text, n, id));
    for (int i = 0; i < left; i++) {
        if (id[i] >= 0) lm_ids_append(out, id[i], err);
    }
}

static void encode(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    const bpe *b = c->t->family_data;
    lm_pretok_walk w;
    const char *piece;
    size_t piece_n;
    lm_pretok_begin(&w, b->pretok, text, n, c->stop, err);
    while (lm_pretok_next(&w, &piece, &piece_n, err) && !lm_tok_is_done(c, err)) {
        encode_piece(c->t, piece, piece_n, c->stop, c->out, err);
    }
    lm_pretok_end(&w);
}

/* A piece that a tokenizer.json's pre-tokenizer cut; where there is none, that is the whole text. */
static void encode_cut(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    const bpe *b = c->t->family_data;
    size_t from = 0;
    for (size_t i = 1; b->cuts && n > SHORT && i + 3 <= n && !lm_tok_is_done(c, err); i++) {
        if (i % LM_STOP_BYTES == 0) lm_poll(c->stop, err);
        if (text[i] != space[0] || b->glued[(uint8_t)text[i - 1]] || memcmp(text + i, space, 3)) continue;
        encode_piece(c->t, text + from, i - from, c->stop, c->out, err);
        from = i;
    }
    if (!lm_tok_is_done(c, err)) encode_piece(c->t, text + from, n - from, c->stop, c->out, err);
}

/*----------------------------------------------------------------------
** Opening */

uint32_t lm_bpe_char_of_byte(int byte) {
    int plain = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    if (plain) return (uint32_t)byte;
    if (byte <= 32) return 256 + (uint32_t)byte;
    return byte == 173 ? 323 : 256 + 33 + (uint32_t)byte - 127;
}

/* The byte that a character spells, or -1. */
static int byte_of_char(uint32_t c) {
    int byte = c < 256 ? (int)c : c < 289 ? (int)c - 256 : c < 323 ? (int)c - 162 : 173;
    return c < N_CHARS && lm_bpe_char_of_byte(byte) == c ? byte : -1;
}

/* Write the bytes that a spelling stands for; out may be the spelling itself. Return how many, or -1 when a character of
** it stands for none. */
static int64_t decode(const char *text, size_t n, char *out) {
    int64_t n_out = 0;
    uint32_t c;
    for (size_t i = 0; i < n;) {
        int step = lm_utf8_step(text + i, n - i, &c);
        if (step <= 0 || byte_of_char(c) < 0) return -1;
        i += (size_t)step;
    }
    for (size_t i = 0; i < n;) {
        i += (size_t)lm_utf8_step(text + i, n - i, &c);
        out[n_out++] = (char)byte_of_char(c);
    }
    return n_out;
}

void lm_bpe_decode(lm_buf *text) {
    int64_t n = decode(text->data, text->n, text->data);
    if (n >= 0) text->n = (size_t)n;
}

/* Text must not turn into such a token, whatever a file's merges say: it may end a turn or begin another. */
static int is_control(const lm_tok *t, int32_t id) {
    return t->type[id] == LM_TOK_CONTROL || t->type[id] == LM_TOK_UNKNOWN;
}

static void find_bytes(lm_tok *t, bpe *b) {
    for (int i = 0; i < 256; i++) {
        uint32_t c = lm_bpe_char_of_byte(i);
        char text[2] = { (char)c, 0 };
        if (c >= 0x80) {
            text[0] = (char)(0xC0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3F));
        }
        int32_t id = lm_tok_find(t, text, c < 0x80 ? 1 : 2);
        int is_model = id >= 0 && (!t->n_pieces || id < t->n_pieces);
        b->byte[i] = is_model && !is_control(t, id) ? id : NO_ID;
    }
}

/* left_n: a space goes behind so many bytes of text; 0: it is as the file has it. */
static void refuse_merge(const lm_tok *t, size_t rank, const char *text, size_t left_n, size_t n, const char *why,
                         lm_err *err) {
    left_n = LM_MIN(left_n, n);
    const char *where = t->n_pieces ? "model" : "tokenizer.ggml.merges";
    lm_err_set(err, LM_ERROR, "%s: merge %zu '%.*s%s%.*s': %s", where, rank, (int)LM_MIN(left_n, 40), text,
               left_n ? " " : "", (int)LM_MIN(n - left_n, 40), text + left_n, why);
}

static void room_for_merges(bpe *b, size_t n, lm_err *err) {
    b->pairs_mask = lm_tok_slots(n) - 1;
    b->pairs = lm_alloc((b->pairs_mask + 1) * sizeof *b->pairs, err);
    b->merged = lm_alloc(n * sizeof *b->merged, err);
    for (size_t i = 0; i <= b->pairs_mask && !err->code; i++) b->pairs[i].rank = LM_NO_RANK;
}

/* Add the merge of two spellings, which stand side by side in joined. */
static void add_merge(lm_tok *t, bpe *b, size_t rank, const char *joined, size_t left_n, size_t right_n,
                      int last_counts, lm_err *err) {
    size_t n = left_n + right_n;
    int32_t left = lm_tok_find(t, joined, left_n), right = lm_tok_find(t, joined + left_n, right_n);
    int32_t made = lm_tok_find(t, joined, n);
    if ((left | right) < 0) refuse_merge(t, rank, joined, left_n, n, "the vocabulary lacks one of the two", err);
    if (made < 0) refuse_merge(t, rank, joined, left_n, n, "the vocabulary lacks what it makes", err);
    if (err->code) return;
    b->merged[rank] = made;
    if (is_control(t, made)) return;
    pair *p = &b->pairs[pair_slot(b, left, right)];
    if (p->rank == LM_NO_RANK || last_counts) *p = (pair){ left, right, (uint32_t)rank };
}

static void read_merges(lm_tok *t, bpe *b, const lm_meta *arrays, lm_err *err) {
    const char *key = "tokenizer.ggml.merges", *text;
    size_t pos = 0, n;
    const lm_meta_entry *e = lm_tok_array(arrays, key, LM_META_TEXT, err);
    if (!e) lm_err_set(err, LM_ERROR, "%s: missing", key);
    if (!err->code && e->n >= INT32_MAX)
        lm_err_set(err, LM_ERROR, "%s: %llu are too many", key, (unsigned long long)e->n);
    if (err->code) return;
    room_for_merges(b, (size_t)e->n, err);
    lm_buf joined = {0};
    for (size_t rank = 0; !err->code && lm_meta_next_text(e, &pos, &text, &n); rank++) {
        /* The first character may itself be a space: some vocabularies spell it so. */
        const char *gap = n > 2 ? memchr(text + 1, ' ', n - 2) : NULL;
        if (!gap) {
            refuse_merge(t, rank, text, 0, n, "wanted two tokens with a space between", err);
            break;
        }
        size_t left_n = (size_t)(gap - text), right_n = n - left_n - 1;
        joined.n = 0;
        lm_buf_append(&joined, text, left_n, err);
        lm_buf_append(&joined, gap + 1, right_n, err);
        if (!err->code) add_merge(t, b, rank, joined.data, left_n, right_n, 0, err);     /* of two alike the first counts */
    }
    lm_buf_clear(&joined);
}

/* Enter a token in the table of words if a piece of its bytes becomes it. */
static void add_word(lm_tok *t, bpe *b, int32_t id, int whole_words) {
    const char *text = b->key + b->key_at[id];
    size_t n = b->key_at[id + 1] - b->key_at[id];
    if (!whole_words) {
        int32_t ids[SHORT];
        if (n > SHORT) return;
        if (merge_short(b, ids, begin_short(t, b, text, n, ids)) != 1 || ids[0] != id) return;
    }
    uint64_t hash = lm_hash_bytes(text, n);
    lm_tok_word *w = (lm_tok_word *)word_slot(b, text, n, hash);
    if (w->id == NO_ID) *w = (lm_tok_word){ (uint32_t)(hash >> 32), id };
    b->word_max = LM_MAX(b->word_max, n);
}

static void room_for_words(const lm_tok *t, bpe *b, lm_err *err) {
    b->words_mask = lm_tok_slots((size_t)t->n) - 1;
    b->words = lm_alloc((b->words_mask + 1) * sizeof *b->words, err);
    for (size_t i = 0; i <= b->words_mask && !err->code; i++) b->words[i].id = NO_ID;
}

/* Spell out what every token adds to a text, and list the words. A spelling with a character in it that
** stands for no byte is taken as it is, like a special token's; text becomes such a token by no merge. */
static void read_words(lm_tok *t, bpe *b, int whole_words, lm_err *err) {
    room_for_words(t, b, err);
    t->bytes = lm_alloc(t->text_at[t->n], err);
    t->bytes_at = lm_calloc((size_t)t->n + 1, sizeof *t->bytes_at, err);
    b->key = t->bytes;
    b->key_at = t->bytes_at;
    for (int32_t id = 0; id < t->n && !err->code; id++) {
        const char *text = t->text + t->text_at[id];
        size_t n = t->text_at[id + 1] - t->text_at[id];
        char *out = t->bytes + t->bytes_at[id];
        int64_t n_out = lm_tok_is_special(t, id) ? -1 : decode(text, n, out);
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
    lm_buf_clear(&b->keys);
    lm_free(b->keys_at);
    lm_free(b);
}

static void open(lm_tok *t, const lm_meta *meta, const lm_meta *arrays, lm_err *err) {
    const lm_pretok_row *row = lm_pretok_find(meta, err);
    bpe *b = t->family_data = lm_calloc(1, sizeof *b, err);
    if (!b) return;
    if (row->add_bos && t->bos >= 0) lm_ids_append(&t->before, t->bos, err);
    b->unknown = NO_ID;
    b->pretok = lm_pretok_new(row, err);
    find_bytes(t, b);
    read_merges(t, b, arrays, err);
    read_words(t, b, row->whole_words, err);
}

const lm_tok_family lm_bpe_family = { "gpt2", open, close, encode };

/*----------------------------------------------------------------------
** From a tokenizer.json */

/* List the bytes that every token's spelling stands for. */
static void list_keys(lm_tok *t, bpe *b, lm_err *err) {
    b->keys_at = lm_calloc((size_t)t->n + 1, sizeof *b->keys_at, err);
    b->keys.data = lm_alloc(t->text_at[t->n], err);
    for (int32_t id = 0; id < t->n && !err->code; id++) {
        uint32_t at = b->keys_at[id];
        int64_t n = decode(t->text + t->text_at[id], t->text_at[id + 1] - t->text_at[id], b->keys.data + at);
        b->keys_at[id + 1] = at + (uint32_t)LM_MAX(n, 0);
    }
    b->key = b->keys.data;
    b->key_at = b->keys_at;
}

static void refuse_option(const lm_tree *tree, const lm_node *model, const char *key, lm_err *err) {
    const lm_node *value = lm_tree_find(tree, model, key);
    int is_set = value && (value->kind == LM_JSON_TEXT ? value->text_n > 0 : value->real != 0);
    if (is_set) lm_tokjson_refuse(value->at, err, "BPE with %s is not supported", key);
}

static void open_json(lm_tok *t, const lm_tokjson *f, lm_err *err) {
    const lm_tree *tree = &f->tree;
    const lm_node *model = &tree->nodes[f->model];
    bpe *b = t->family_data = lm_calloc(1, sizeof *b, err);
    if (!b) return;
    refuse_option(tree, model, "dropout", err);
    refuse_option(tree, model, "continuing_subword_prefix", err);
    refuse_option(tree, model, "end_of_word_suffix", err);
    b->by_char = !lm_split_is_bytes(lm_pipe_split(t->pipe));
    b->falls_back = b->by_char && lm_tree_bool(tree, model, "byte_fallback", 0, err);
    b->fuses = lm_tree_bool(tree, model, "fuse_unk", 0, err);
    b->vanishes = 1;
    b->unknown = lm_tokjson_unknown(t, f, err);
    int whole_words = lm_tree_bool(tree, model, "ignore_merges", 0, err);
    if (b->by_char) lm_tok_find_bytes(t, b->falls_back, b->byte);
    else find_bytes(t, b);
    room_for_merges(b, f->n_merges, err);
    for (size_t i = 0; i < f->n_merges && !err->code; i++) {
        const lm_tokjson_merge *m = &f->merges[i];
        add_merge(t, b, i, f->texts.data + m->at, m->left_n, m->right_n, 1, err);       /* of two alike the last counts */
        lm_tokjson_blame(m->byte, err);
    }
    b->key = t->text;
    b->key_at = t->text_at;
    if (!b->by_char) list_keys(t, b, err);
    room_for_words(t, b, err);
    for (int32_t id = 0; id < t->n_pieces && !err->code; id++) {
        if (b->key_at[id] < b->key_at[id + 1] && !is_control(t, id)) add_word(t, b, id, whole_words);
        lm_spm_note_glued(b->glued, t->text + t->text_at[id], t->text_at[id + 1] - t->text_at[id]);
    }
    b->cuts = b->by_char && !whole_words && find_char(t, space, 3) != NO_ID;
}

const lm_tokjson_family lm_bpe_json_family = { { "bpe", NULL, close, encode_cut }, "BPE", open_json };

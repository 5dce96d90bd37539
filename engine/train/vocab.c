/* vocab.c: a vocabulary learnt from text: byte-pair encoding (Sennrich et al. 2016) over bytes (Radford et al. 2019).
**
** Texts are cut into words by GPT-2's pattern (pretok.c); equal words are counted together. A word starts as its bytes;
** then, over and over, of all pairs of neighbouring tokens the one that occurs most, of equals the one with the lowest
** ids, becomes a token in every word, until there are as many tokens as wanted or no pair occurs twice. The outcome
** depends on how often each word occurs and on nothing else.
**
** Every pair lists the words it was seen in; a merge goes through those alone and corrects the counts of the pairs beside
** it. The heap has an entry for each pair, with the count of when it was put there. A count that has fallen since is
** found out when its entry comes up, and put back lower; one that has risen gets a new entry, and the old one is passed
** over when it comes up.
**
** No two merges make the same token, and a pair that was merged never comes back: a stretch of bytes that no token crosses the
** ends of is merged as if it stood alone, hence everywhere in the same way, and to one token as soon as two are left of it.
**
** Ids: the bytes in the order of the characters that spell them, as GPT-2 has them, then the merges in theirs, then the
** end token. Memory is bounded: of different words there are at most WORDS_MAX bytes, later ones are not counted; what
** is longer than WORD_MAX bytes counts as several words. */
#include "../token/tok.h"

enum { N_BYTES = 256, WORD_MAX = 256, WORDS_MAX = 8 << 20, NONE = -1, COUNT_MIN = 2, CHUNK = 1 << 14 };

static const char end_token[] = "<|endoftext|>";

typedef struct { uint32_t at, n; int64_t count; } word;         /* its bytes, later its tokens: symbols[at .. at + n) */
typedef struct { int32_t word, next; } link;
typedef struct {
    int32_t left, right;
    int64_t count, queued;              /* now; in the heap's entry, 0: it has none */
    int32_t links;                      /* the words it was seen in, a list; a word may stand there twice */
    int32_t merge;                      /* the last that raised the count */
} pair;
typedef struct { int64_t count; int32_t pair; } entry;

/* Items that stay where they are: growing one array of millions would copy for longer than stop may wait. */
typedef struct { char **chunks; size_t n, cap; } pile;

struct lm_vocab {
    lm_regex *pattern;
    lm_buf bytes;                       /* of the words, end to end */
    word *words; size_t n_words, words_cap;
    lm_tok_word *slots; size_t n_slots;         /* words by their bytes */
    int32_t *symbols;                   /* the words' tokens, each where its byte was */
    pile pairs, links;
    int32_t *by_ids; size_t n_by_ids;   /* pairs by left and right */
    int32_t free_links;
    entry *heap; size_t n_heap, heap_cap;
    lm_ids risen;                       /* pairs whose count this merge has raised */
    lm_buf pieces;                      /* what each token spells, in bytes, end to end */
    lm_ids piece_at;                    /* where each begins, one more than tokens */
    lm_ids merges;                      /* left, right, left, … */
    lm_stop stop; size_t work;          /* the call's; done since it was asked */
};

static void worked(lm_vocab *v, size_t n, lm_err *err) {
    v->work += n;
    if (v->work < LM_STOP_BYTES) return;
    v->work = 0;
    lm_poll(v->stop, err);
}

static pair *pair_at(const lm_vocab *v, int32_t i) { return (pair *)(void *)v->pairs.chunks[i / CHUNK] + i % CHUNK; }
static link *link_at(const lm_vocab *v, int32_t i) { return (link *)(void *)v->links.chunks[i / CHUNK] + i % CHUNK; }

/* The index of a new item, or NONE. */
static int32_t add_item(pile *p, size_t size, lm_err *err) {
    if (p->n % CHUNK == 0) {
        if (!lm_grow((void **)&p->chunks, p->n / CHUNK, &p->cap, 1, sizeof *p->chunks, err)) return NONE;
        char *chunk = lm_alloc(CHUNK * size, err);
        if (!chunk) return NONE;
        p->chunks[p->n / CHUNK] = chunk;
    }
    return (int32_t)p->n++;
}

static void free_pile(pile *p) {
    for (size_t i = 0; i * CHUNK < p->n; i++) lm_free(p->chunks[i]);
    lm_free(p->chunks);
}

/*----------------------------------------------------------------------
** Counting words */

static const char *word_of(const lm_vocab *v, int32_t id, size_t *n) {
    *n = v->words[id].n;
    return v->bytes.data + v->words[id].at;
}

/* The slot that has the text, or the free one where it would go. */
static lm_tok_word *find_slot(const lm_vocab *v, lm_tok_word *slots, size_t n_slots, const char *text, size_t n) {
    uint64_t hash = lm_hash_bytes(text, n);
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = (size_t)hash & (n_slots - 1);; i = (i + 1) & (n_slots - 1)) {
        size_t other_n;
        if (slots[i].id == NONE) return slots[i].tag = tag, &slots[i];
        if (slots[i].tag != tag) continue;
        const char *other = word_of(v, slots[i].id, &other_n);
        if (other_n == n && !memcmp(other, text, n)) return &slots[i];
    }
}

static void grow_slots(lm_vocab *v, lm_err *err) {
    size_t n_slots = lm_tok_slots(2 * (v->n_words + 1)), n;
    if (v->n_words + 1 <= v->n_slots / 4 * 3) return;
    lm_tok_word *slots = lm_alloc(n_slots * sizeof *slots, err);
    if (!slots) return;
    for (size_t i = 0; i < n_slots; i++) slots[i] = (lm_tok_word){ 0, NONE };
    for (size_t i = 0; i < v->n_words; i++) {
        const char *text = word_of(v, (int32_t)i, &n);
        find_slot(v, slots, n_slots, text, n)->id = (int32_t)i;
        worked(v, 4, err);
    }
    lm_free(v->slots);
    v->slots = slots;
    v->n_slots = n_slots;
}

static void add_word(lm_vocab *v, const char *text, size_t n, lm_err *err) {
    grow_slots(v, err);
    if (err->code) return;
    lm_tok_word *slot = find_slot(v, v->slots, v->n_slots, text, n);
    if (slot->id != NONE) {
        v->words[slot->id].count++;
        return;
    }
    if (v->bytes.n + n > WORDS_MAX
        || !lm_grow((void **)&v->words, v->n_words, &v->words_cap, 1, sizeof *v->words, err))
        return;
    size_t at = v->bytes.n;
    lm_buf_append(&v->bytes, text, n, err);
    if (err->code) return;
    slot->id = (int32_t)v->n_words;
    v->words[v->n_words++] = (word){ (uint32_t)at, (uint32_t)n, 1 };
}

static void add_words(lm_vocab *v, const char *text, size_t n, lm_err *err) {
    lm_regex_run run;
    lm_regex_begin(&run, v->stop, err);
    for (size_t at = 0; at < n && !err->code;) {
        size_t end = lm_regex_match(v->pattern, &run, text, at, n, err);
        worked(v, end - at, err);
        for (; at < end && !err->code; at += LM_MIN(end - at, WORD_MAX))
            add_word(v, text + at, LM_MIN(end - at, WORD_MAX), err);
    }
    lm_regex_end(&run);
}

void lm_vocab_add(lm_vocab *v, const char *text, size_t n, lm_stop stop, lm_err *err) {
    lm_buf repaired = {0};
    if (err->code || !n) return;
    v->stop = stop;
    if (!lm_tok_is_valid(text, n, stop, err)) {
        lm_utf8_repair(&repaired, text, n, err);
        text = repaired.data;
        n = repaired.n;
    }
    add_words(v, text, n, err);
    lm_buf_clear(&repaired);
}

/*----------------------------------------------------------------------
** Pairs and where they are */

static size_t pair_slot(const lm_vocab *v, int32_t left, int32_t right) {
    size_t slot = lm_hash_pair(left, right) & (v->n_by_ids - 1);
    for (int32_t id; (id = v->by_ids[slot]) != NONE; slot = (slot + 1) & (v->n_by_ids - 1)) {
        if (pair_at(v, id)->left == left && pair_at(v, id)->right == right) break;
    }
    return slot;
}

static void grow_by_ids(lm_vocab *v, lm_err *err) {
    if (v->pairs.n + 1 <= v->n_by_ids / 4 * 3) return;
    size_t n = lm_tok_slots(2 * (v->pairs.n + 1));
    int32_t *grown = lm_alloc(n * sizeof *grown, err);
    if (!grown) return;
    lm_free(v->by_ids);
    v->by_ids = grown;
    v->n_by_ids = n;
    for (size_t i = 0; i < n; i++) grown[i] = NONE;
    for (int32_t i = 0; i < (int32_t)v->pairs.n; i++) {
        grown[pair_slot(v, pair_at(v, i)->left, pair_at(v, i)->right)] = i;
        worked(v, 4, err);
    }
}

static void list_word(lm_vocab *v, pair *p, int32_t w, lm_err *err) {
    int32_t at = v->free_links;
    if (p->links != NONE && link_at(v, p->links)->word == w) return;
    if (at != NONE) v->free_links = link_at(v, at)->next;
    else at = add_item(&v->links, sizeof(link), err);
    if (at == NONE) return;
    *link_at(v, at) = (link){ w, p->links };
    p->links = at;
}

/* A pair stands in word w once more. */
static void raise_pair(lm_vocab *v, int32_t left, int32_t right, int32_t w, lm_err *err) {
    grow_by_ids(v, err);
    if (err->code) return;
    int32_t *id = &v->by_ids[pair_slot(v, left, right)];
    if (*id == NONE) {
        *id = add_item(&v->pairs, sizeof(pair), err);
        if (*id == NONE) return;
        *pair_at(v, *id) = (pair){ .left = left, .right = right, .links = NONE, .merge = NONE };
    }
    pair *p = pair_at(v, *id);
    p->count += v->words[w].count;
    list_word(v, p, w, err);
    if (p->merge == (int32_t)v->merges.n) return;
    p->merge = (int32_t)v->merges.n;
    lm_ids_append(&v->risen, *id, err);
}

static void lower_pair(lm_vocab *v, int32_t left, int32_t right, int32_t w) {
    pair_at(v, v->by_ids[pair_slot(v, left, right)])->count -= v->words[w].count;
}

/*----------------------------------------------------------------------
** The heap: most first, of equals the lowest ids. */

static int is_before(const lm_vocab *v, entry a, entry b) {
    const pair *p = pair_at(v, a.pair), *q = pair_at(v, b.pair);
    if (a.count != b.count) return a.count > b.count;
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static void push(lm_vocab *v, int32_t id, lm_err *err) {
    entry x = { pair_at(v, id)->count, id };
    if (x.count < COUNT_MIN || !lm_grow((void **)&v->heap, v->n_heap, &v->heap_cap, 1, sizeof *v->heap, err)) return;
    size_t i = v->n_heap++;
    for (; i && is_before(v, x, v->heap[(i - 1) / 4]); i = (i - 1) / 4) v->heap[i] = v->heap[(i - 1) / 4];
    v->heap[i] = x;
    pair_at(v, id)->queued = x.count;
}

static entry pop(lm_vocab *v) {
    entry top = v->heap[0], x = v->heap[--v->n_heap];
    size_t i = 0;
    for (size_t child; (child = 4 * i + 1) < v->n_heap; i = child) {
        size_t end = LM_MIN(child + 4, v->n_heap);
        for (size_t c = child + 1; c < end; c++) {
            if (is_before(v, v->heap[c], v->heap[child])) child = c;
        }
        if (!is_before(v, v->heap[child], x)) break;
        v->heap[i] = v->heap[child];
    }
    v->heap[i] = x;
    return top;
}

/* The pair to merge next, or NONE. */
static int32_t take_best(lm_vocab *v, lm_err *err) {
    while (v->n_heap && !err->code) {
        entry e = pop(v);
        pair *p = pair_at(v, e.pair);
        worked(v, 64, err);
        if (e.count != p->queued) continue;
        p->queued = 0;
        if (e.count == p->count) return e.pair;
        push(v, e.pair, err);
    }
    return NONE;
}

/*----------------------------------------------------------------------
** Merging */

static void add_piece(lm_vocab *v, const char *bytes, size_t n, lm_err *err) {
    lm_buf_append(&v->pieces, bytes, n, err);
    lm_ids_append(&v->piece_at, (int32_t)v->pieces.n, err);
}

static const char *piece_of(const lm_vocab *v, int32_t id, size_t *n) {
    *n = (size_t)(v->piece_at.data[id + 1] - v->piece_at.data[id]);
    return v->pieces.data + v->piece_at.data[id];
}

static void add_merge(lm_vocab *v, int32_t left, int32_t right, lm_err *err) {
    char bytes[WORD_MAX];               /* the two stand in one word */
    size_t left_n, right_n;
    const char *a = piece_of(v, left, &left_n), *b = piece_of(v, right, &right_n);
    memcpy(bytes, a, left_n);
    memcpy(bytes + left_n, b, right_n);
    add_piece(v, bytes, left_n + right_n, err);
    lm_ids_append(&v->merges, left, err);
    lm_ids_append(&v->merges, right, err);
}

/* Put made for left, right throughout word w. */
static void merge_word(lm_vocab *v, int32_t w, int32_t left, int32_t right, int32_t made, lm_err *err) {
    word *x = &v->words[w];
    int32_t *s = v->symbols + x->at;
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->n && !err->code; i++, n++) {
        if (i + 1 == x->n || s[i] != left || s[i + 1] != right) {
            s[n] = s[i];
            continue;
        }
        lower_pair(v, left, right, w);
        if (n) {
            lower_pair(v, s[n - 1], left, w);
            raise_pair(v, s[n - 1], made, w, err);
        }
        if (i + 2 < x->n) {
            lower_pair(v, right, s[i + 2], w);
            raise_pair(v, made, s[i + 2], w, err);
        }
        s[n] = made;
        i++;
    }
    if (!err->code) x->n = n;
}

static void push_risen(lm_vocab *v, lm_err *err) {
    for (size_t i = 0; i < v->risen.n && !err->code; i++) {
        const pair *p = pair_at(v, v->risen.data[i]);
        if (p->count > p->queued) push(v, v->risen.data[i], err);
        worked(v, 16, err);
    }
    v->risen.n = 0;
}

static void merge_pair(lm_vocab *v, int32_t id, lm_err *err) {
    pair *p = pair_at(v, id);
    int32_t left = p->left, right = p->right, at = p->links, made = (int32_t)v->piece_at.n - 1;
    add_merge(v, left, right, err);
    p->links = NONE;
    while (at != NONE && !err->code) {
        link *l = link_at(v, at);
        int32_t next = l->next;
        worked(v, v->words[l->word].n * 16, err);
        merge_word(v, l->word, left, right, made, err);
        l->next = v->free_links;        /* not before: a merge may list this very word anew */
        v->free_links = at;
        at = next;
    }
    push_risen(v, err);
}

/* Every word as its bytes' tokens, every pair counted. */
static void begin(lm_vocab *v, lm_err *err) {
    int32_t id_of[N_BYTES];
    for (int c = 0, id = 0; c < 2 * N_BYTES; c++) {
        for (int byte = 0; byte < N_BYTES; byte++) {
            char text = (char)byte;
            if (lm_bpe_char_of_byte(byte) != (uint32_t)c) continue;
            id_of[byte] = id++;
            add_piece(v, &text, 1, err);
        }
    }
    v->symbols = lm_alloc(v->bytes.n * sizeof *v->symbols, err);
    for (size_t w = 0; w < v->n_words && !err->code; w++) {
        const word *x = &v->words[w];
        int32_t *s = v->symbols + x->at;
        for (uint32_t i = 0; i < x->n; i++) s[i] = id_of[(uint8_t)v->bytes.data[x->at + i]];
        for (uint32_t i = 0; i + 1 < x->n; i++) raise_pair(v, s[i], s[i + 1], (int32_t)w, err);
        worked(v, x->n * 16, err);
    }
    lm_buf_clear(&v->bytes);
    push_risen(v, err);
}

void lm_vocab_train(lm_vocab *v, int size, lm_stop stop, lm_err *err) {
    if (err->code) return;
    if (size < N_BYTES + 1 || size > 1 << 24)
        lm_err_set(err, LM_ERROR, "a vocabulary of %d tokens: expected %d to %d", size, N_BYTES + 1, 1 << 24);
    if (v->piece_at.n) lm_err_set(err, LM_ERROR, "a vocabulary is trained once");
    v->stop = stop;
    lm_ids_append(&v->piece_at, 0, err);
    if (!err->code) begin(v, err);
    for (int32_t id; lm_vocab_count(v) < size && !err->code && (id = take_best(v, err)) != NONE;)
        merge_pair(v, id, err);
}

lm_vocab *lm_vocab_new(lm_err *err) {
    lm_vocab *v = lm_calloc(1, sizeof *v, err);
    if (!v) return NULL;
    v->free_links = NONE;
    v->pattern = lm_regex_new_anchored("gpt-2", lm_pretok_gpt2(), err);
    if (!err->code) return v;
    lm_vocab_free(v);
    return NULL;
}

void lm_vocab_free(lm_vocab *v) {
    if (!v) return;
    lm_regex_free(v->pattern);
    lm_buf_clear(&v->bytes);
    lm_free(v->words);
    lm_free(v->slots);
    lm_free(v->symbols);
    free_pile(&v->pairs);
    free_pile(&v->links);
    lm_free(v->by_ids);
    lm_free(v->heap);
    lm_ids_clear(&v->risen);
    lm_buf_clear(&v->pieces);
    lm_ids_clear(&v->piece_at);
    lm_ids_clear(&v->merges);
    lm_free(v);
}

/*----------------------------------------------------------------------
** What came of it */

int lm_vocab_count(const lm_vocab *v) { return (int)v->piece_at.n; }       /* with the end token */
int lm_vocab_n_merges(const lm_vocab *v) { return (int)(v->merges.n / 2); }
size_t lm_vocab_n_words(const lm_vocab *v) { return v->n_words; }

const char *lm_vocab_piece(const lm_vocab *v, int32_t id, size_t *n) {
    if (id + 1 < (int32_t)v->piece_at.n) return piece_of(v, id, n);
    *n = sizeof end_token - 1;
    return end_token;
}

void lm_vocab_merge(const lm_vocab *v, int i, int32_t *left, int32_t *right) {
    *left = v->merges.data[2 * i];
    *right = v->merges.data[2 * i + 1];
}

/* A token as the vocabulary spells it. */
static void spell(const lm_vocab *v, int32_t id, lm_buf *out, lm_err *err) {
    size_t n;
    const char *bytes = lm_vocab_piece(v, id, &n);
    if (id + 1 == lm_vocab_count(v)) lm_buf_append(out, bytes, n, err);
    else for (size_t i = 0; i < n; i++) lm_uni_append(out, lm_bpe_char_of_byte((uint8_t)bytes[i]), err);
}

static void put_array(lm_buf *meta, const char *key, int elem, int n, lm_err *err) {
    lm_meta_put_key(meta, "", key, LM_META_ARRAY, err);
    lm_meta_put(meta, (uint64_t)elem, 4, err);
    lm_meta_put(meta, (uint64_t)n, 8, err);
}

void lm_vocab_write(const lm_vocab *v, lm_buf *meta, lm_err *err) {
    int n = lm_vocab_count(v);
    lm_buf text = {0};
    lm_meta_put_text(meta, "tokenizer.ggml.model", "gpt2", 4, err);
    lm_meta_put_text(meta, "tokenizer.ggml.pre", "gpt-2", 5, err);
    lm_meta_put_key(meta, "", "tokenizer.ggml.bos_token_id", LM_META_U32, err);
    lm_meta_put(meta, (uint64_t)n - 1, 4, err);
    lm_meta_put_key(meta, "", "tokenizer.ggml.eos_token_id", LM_META_U32, err);
    lm_meta_put(meta, (uint64_t)n - 1, 4, err);
    lm_meta_put_key(meta, "", "tokenizer.ggml.add_bos_token", LM_META_BOOL, err);
    lm_meta_put(meta, 0, 1, err);
    put_array(meta, "tokenizer.ggml.tokens", LM_META_TEXT, n, err);
    for (int32_t id = 0; id < n && !err->code; id++) {
        text.n = 0;
        spell(v, id, &text, err);
        lm_meta_put(meta, text.n, 8, err);
        lm_buf_append(meta, text.data, text.n, err);
    }
    put_array(meta, "tokenizer.ggml.token_type", LM_META_I32, n, err);
    for (int32_t id = 0; id < n && !err->code; id++)
        lm_meta_put(meta, id + 1 < n ? LM_TOK_NORMAL : LM_TOK_CONTROL, 4, err);
    put_array(meta, "tokenizer.ggml.merges", LM_META_TEXT, lm_vocab_n_merges(v), err);
    for (int i = 0; i < lm_vocab_n_merges(v) && !err->code; i++) {
        text.n = 0;
        spell(v, v->merges.data[2 * i], &text, err);
        lm_buf_append(&text, " ", 1, err);
        spell(v, v->merges.data[2 * i + 1], &text, err);
        lm_meta_put(meta, text.n, 8, err);
        lm_buf_append(meta, text.data, text.n, err);
    }
    lm_buf_clear(&text);
}

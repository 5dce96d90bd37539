/* tok.c: a tokenizer's vocabulary, its special tokens, and a text split between them and the family.
**
** A special token is one of type CONTROL, UNKNOWN or USER: it stands for its own spelling. USER
** tokens are found in every text, the other two only where the caller says so: no other text ever becomes
** one. Of several that begin at one place the longest is taken, from left to right. All else is the family's. */
#include "tok.h"

#include <string.h>

static const lm_tok_family *const g_families[] = { &lm_bpe_family, &lm_spm_family, &lm_bert_family };

/* Spellings that are special tokens whatever their type says (files mistype them), and which of them end a
** generation. GGUF files do not say so themselves; llama.cpp goes by these spellings, and files rely on it. */
static const struct { const char *text; int eog; } g_known[] = {
    { "<|im_end|>", 1 }, { "<|endoftext|>", 1 }, { "<|eot_id|>", 1 }, { "<|eom_id|>", 1 }, { "<|end|>", 1 },
    { "<|end_of_text|>", 1 }, { "<end_of_turn>", 1 }, { "<end_of_utterance>", 1 }, { "<eos>", 1 }, { "</s>", 1 },
    { "<EOT>", 1 }, { "_<EOT>", 1 }, { "[EOT]", 1 }, { "[EOS]", 1 }, { "<|return|>", 1 }, { "<|call|>", 1 },
    { "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>", 1 },
    { "<|fim_pad|>", 1 }, { "<fim-pad>", 1 }, { "<fim_pad>", 1 }, { "<PAD>", 1 }, { "[PAD]", 1 },
    { "<|fim_repo|>", 1 }, { "<|repo_name|>", 1 }, { "<fim-repo>", 1 }, { "<REPO>", 1 }, { "<reponame>", 1 },
    { "<|file_sep|>", 1 },
    { "<|fim_prefix|>", 0 }, { "<fim-prefix>", 0 }, { "<fim_prefix>", 0 }, { "<PRE>", 0 },
    { "<|fim_suffix|>", 0 }, { "<fim-suffix>", 0 }, { "<fim_suffix>", 0 }, { "<SUF>", 0 },
    { "<|fim_middle|>", 0 }, { "<fim-middle>", 0 }, { "<fim_middle>", 0 }, { "<MID>", 0 },
};

enum { ANY_SPECIAL = 1, USER_SPECIAL = 2 };     /* lm_tok.special_first */
enum { SPECIAL_MAX = 1024 };    /* bytes of a special token: a match costs no more than that at any place */

/*----------------------------------------------------------------------
** The vocabulary */

size_t lm_tok_slots(size_t n) {
    size_t slots = 16;
    while (slots / 4 * 3 < n) slots *= 2;
    return slots;
}

/* The slot that holds a spelling's id, or the free one where it would go. */
static size_t index_slot(const lm_tok *t, const char *text, size_t n) {
    size_t slot = (size_t)lm_hash_bytes(text, n) & t->index_mask;
    for (int32_t id; (id = t->index[slot]) >= 0; slot = (slot + 1) & t->index_mask) {
        uint32_t at = t->text_at[id];
        if (t->text_at[id + 1] - at == n && !memcmp(t->text + at, text, n)) break;
    }
    return slot;
}

int32_t lm_tok_find(const lm_tok *t, const char *text, size_t n) {
    return t->index[index_slot(t, text, n)];
}

void lm_tok_room(lm_tok *t, size_t n_tokens, size_t n_bytes, lm_err *err) {
    size_t slots = 16;
    if (n_tokens >= INT32_MAX / 2 || n_bytes > UINT32_MAX) {
        lm_err_set(err, LM_ERROR, "a vocabulary of %zu tokens in %zu bytes is too large", n_tokens, n_bytes);
    }
    while (slots < 2 * n_tokens && !err->code) slots *= 2;
    t->index_mask = slots - 1;
    t->index = lm_alloc(slots * sizeof *t->index, err);
    t->text = lm_alloc(n_bytes, err);
    t->text_at = lm_calloc(n_tokens + 1, sizeof *t->text_at, err);
    for (size_t i = 0; i < slots && !err->code; i++) t->index[i] = -1;
}

void lm_tok_add(lm_tok *t, const char *text, size_t n, const char *what, lm_err *err) {
    if (err->code) return;
    uint32_t at = t->text_at[t->n];
    int32_t *slot = &t->index[index_slot(t, text, n)];
    memcpy(t->text + at, text, n);
    t->text_at[++t->n] = at + (uint32_t)n;
    if (!n) return;     /* a hole in the numbering: no text becomes it, and it adds none */
    if (*slot >= 0) {
        lm_err_set(err, LM_ERROR, "%s: '%.*s' is both token %d and token %d", what, (int)LM_MIN(n, 60), text, *slot,
                   t->n - 1);
    } else {
        *slot = t->n - 1;
    }
}

void lm_tok_trie(const lm_tok *t, lm_trie *trie, lm_err *err) {
    uint32_t *ids = lm_alloc((size_t)t->n * sizeof *ids, err);
    size_t n = 0;
    int all = t->n_pieces ? t->n_pieces : t->n;
    for (int32_t id = 0; id < all && ids; id++) {
        if (t->text_at[id] < t->text_at[id + 1]) ids[n++] = (uint32_t)id;
    }
    if (ids) lm_trie_init(trie, t->text, t->text_at, ids, n, err);
    lm_free(ids);
}

void lm_tok_find_bytes(const lm_tok *t, int are_there, int32_t byte[256]) {
    static const char digits[] = "0123456789ABCDEF";
    for (int i = 0; i < 256; i++) {
        char text[6] = { '<', '0', 'x', digits[i >> 4], digits[i & 15], '>' };
        byte[i] = are_there ? lm_tok_find(t, text, 6) : -1;
        if (byte[i] >= t->n_pieces) byte[i] = -1;
    }
}

const lm_meta_entry *lm_tok_array(const lm_meta *arrays, const char *key, int elem, lm_err *err) {
    const lm_meta_entry *e = err->code ? NULL : lm_meta_find(arrays, key);
    if (!e) return NULL;
    int is_i32 = e->type == LM_META_ARRAY && elem == LM_META_I32 && e->elem == LM_META_U32;
    if (is_i32 || (e->type == LM_META_ARRAY && e->elem == elem)) return e;
    lm_err_set(err, LM_ERROR, "%s: wanted an array of %s", key,
               elem == LM_META_TEXT ? "texts" : elem == LM_META_F32 ? "32-bit floats" : "32-bit integers");
    return NULL;
}

static void read_tokens(lm_tok *t, const lm_meta *arrays, lm_err *err) {
    const char *key = "tokenizer.ggml.tokens", *text;
    const lm_meta_entry *e = lm_tok_array(arrays, key, LM_META_TEXT, err);
    size_t pos = 0, n;
    if (!e || !e->n) lm_err_set(err, LM_ERROR, "%s: missing or empty", key);
    if (!err->code) lm_tok_room(t, (size_t)LM_MIN(e->n, SIZE_MAX), e->n_bytes, err);
    while (!err->code && lm_meta_next_text(e, &pos, &text, &n)) lm_tok_add(t, text, n, key, err);
}

static void read_types(lm_tok *t, const lm_meta *arrays, lm_err *err) {
    const char *key = "tokenizer.ggml.token_type";
    const lm_meta_entry *e = lm_tok_array(arrays, key, LM_META_I32, err);
    t->type = lm_alloc((size_t)t->n, err);
    t->eog = lm_calloc((size_t)t->n, 1, err);
    if (err->code) return;
    memset(t->type, LM_TOK_NORMAL, (size_t)t->n);
    if (!e) return;
    if (e->n != (uint64_t)t->n) {
        lm_err_set(err, LM_ERROR, "%s: %llu types for %d tokens", key, (unsigned long long)e->n, t->n);
        return;
    }
    for (int i = 0; i < t->n; i++) {
        uint64_t type = lm_reader_le(e->data + 4 * (size_t)i, 4);
        t->type[i] = type >= LM_TOK_NORMAL && type <= LM_TOK_BYTE ? (uint8_t)type : LM_TOK_UNUSED;
    }
}

static void read_scores(lm_tok *t, const lm_meta *arrays, lm_err *err) {
    const char *key = "tokenizer.ggml.scores";
    const lm_meta_entry *e = lm_tok_array(arrays, key, LM_META_F32, err);
    if (!e) return;
    if (e->n != (uint64_t)t->n) {
        lm_err_set(err, LM_ERROR, "%s: %llu scores for %d tokens", key, (unsigned long long)e->n, t->n);
        return;
    }
    t->score = lm_alloc((size_t)t->n * sizeof *t->score, err);
    if (t->score) memcpy(t->score, e->data, (size_t)t->n * sizeof *t->score);
}

static int32_t read_id(const lm_tok *t, const lm_meta *meta, const char *key, lm_err *err) {
    int64_t id = -1;
    if (!lm_meta_int(meta, key, &id, err)) return -1;
    if (id >= 0 && id < t->n) return (int32_t)id;
    lm_err_set(err, LM_ERROR, "%s: %lld, wanted one of %d tokens", key, (long long)id, t->n);
    return -1;
}

static void read_ends(lm_tok *t, const lm_meta *meta, const lm_meta *arrays, lm_err *err) {
    t->bos = read_id(t, meta, "tokenizer.ggml.bos_token_id", err);
    t->eos = read_id(t, meta, "tokenizer.ggml.eos_token_id", err);
    int32_t eot = read_id(t, meta, "tokenizer.ggml.eot_token_id", err);
    read_id(t, meta, "tokenizer.ggml.unknown_token_id", err);
    read_id(t, meta, "tokenizer.ggml.padding_token_id", err);
    if (err->code) return;
    for (int i = 0; i < LM_COUNT(g_known); i++) {
        int32_t id = lm_tok_find(t, g_known[i].text, strlen(g_known[i].text));
        if (id < 0) continue;
        /* A tokenizer.json says itself which tokens are special. */
        if (t->n_pieces ? lm_tok_is_special(t, id) : 1) t->eog[id] = (uint8_t)g_known[i].eog;
        if (!t->n_pieces) t->type[id] = LM_TOK_CONTROL;
    }
    if (t->eos >= 0) t->eog[t->eos] = 1;
    if (eot >= 0) t->eog[eot] = 1;
    const char *key = "tokenizer.ggml.eog_token_ids";
    const lm_meta_entry *more = lm_tok_array(arrays, key, LM_META_I32, err);
    for (uint64_t i = 0; more && i < more->n && !err->code; i++) {
        uint64_t id = lm_reader_le(more->data + 4 * (size_t)i, 4);
        if (id < (uint64_t)t->n) t->eog[id] = 1;
        else lm_err_set(err, LM_ERROR, "%s: element %llu is %lld, wanted one of %d tokens", key, (unsigned long long)i,
                        (long long)(int32_t)id, t->n);
    }
}

/* Read whether the model wants an end token, over what its family set. */
static void read_add(const lm_meta *meta, const char *add_key, const char *id_key, int32_t id, lm_ids *ids,
                     lm_err *err) {
    int add = 0;
    if (!lm_meta_bool(meta, add_key, &add, err)) return;
    if (add && id < 0) lm_err_set(err, LM_ERROR, "%s is true, but there is no %s", add_key, id_key);
    ids->n = 0;
    if (add) lm_ids_append(ids, id, err);
}

static int compare_spellings(const void *arg, uint32_t a, uint32_t b) {
    const lm_tok *t = arg;
    size_t a_n = t->text_at[a + 1] - t->text_at[a], b_n = t->text_at[b + 1] - t->text_at[b];
    int order = memcmp(t->text + t->text_at[a], t->text + t->text_at[b], LM_MIN(a_n, b_n));
    return order ? order : a_n < b_n ? -1 : a_n > b_n;
}

int lm_tok_is_special(const lm_tok *t, int32_t id) {
    return t->type[id] == LM_TOK_CONTROL || t->type[id] == LM_TOK_USER || t->type[id] == LM_TOK_UNKNOWN;
}

static void list_specials(lm_tok *t, lm_err *err) {
    size_t n = 0;
    for (int i = 0; i < t->n && !err->code; i++) {
        size_t size = t->text_at[i + 1] - t->text_at[i];
        n += (size_t)lm_tok_is_special(t, i);
        if (lm_tok_is_special(t, i) && size > SPECIAL_MAX) {
            lm_err_set(err, LM_ERROR, "tokenizer.ggml.tokens: special token %d has %zu bytes, wanted at most %d", i,
                       size, SPECIAL_MAX);
        }
    }
    t->specials = lm_alloc(n * sizeof *t->specials, err);
    if (err->code) return;
    for (int i = 0; i < t->n; i++) {
        if (!lm_tok_is_special(t, i) || t->text_at[i] == t->text_at[i + 1]) continue;
        t->specials[t->n_specials++] = (uint32_t)i;
        uint8_t *first = &t->special_first[(uint8_t)t->text[t->text_at[i]]];
        *first |= t->type[i] == LM_TOK_USER ? ANY_SPECIAL | USER_SPECIAL : ANY_SPECIAL;
    }
    lm_sort(t->specials, t->n_specials, compare_spellings, t, err);
}

static void open_gguf(lm_tok *t, const char *kind, size_t n, const lm_meta *meta, const lm_meta *arrays, lm_err *err) {
    for (int i = 0; i < LM_COUNT(g_families); i++) {
        const char *name = g_families[i]->kind;
        if (strlen(name) == n && !memcmp(name, kind, n)) t->family = g_families[i];
    }
    if (!t->family) {
        lm_buf have = {0};
        for (int i = 0; i < LM_COUNT(g_families); i++)
            lm_buf_print(&have, err, "%s%s", i ? ", " : "", g_families[i]->kind);
        lm_err_set(err, LM_ERROR, "tokenizer.ggml.model: no tokenizer of kind '%.*s' (have: %.*s)",
                   (int)LM_MIN(n, 40), kind, (int)have.n, have.data);
        lm_buf_clear(&have);
    }
    read_tokens(t, arrays, err);
    read_types(t, arrays, err);
    if (!err->code) read_scores(t, arrays, err);
    if (!err->code) read_ends(t, meta, arrays, err);
    list_specials(t, err);
    if (err->code) return;
    t->family->open(t, meta, arrays, err);
    if (t->family == &lm_bert_family) return;       /* it has other names for what stands about a text */
    read_add(meta, "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", t->bos, &t->before, err);
    read_add(meta, "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", t->eos, &t->after, err);
}

lm_tok *lm_tok_new(const lm_meta *meta, const lm_meta *arrays, lm_err *err) {
    const char *kind, *json, *key = "tokenizer.huggingface.json";
    size_t n, json_n;
    int is_gguf = lm_meta_text(meta, "tokenizer.ggml.model", &kind, &n, err);
    int is_json = !is_gguf
                  && (lm_meta_text(meta, key, &json, &json_n, err) || lm_meta_text(arrays, key, &json, &json_n, err));
    if (!is_gguf && !is_json) return lm_meta_blame(meta, err), NULL;
    if (is_gguf && ((n == 4 && !memcmp(kind, "none", 4)) || (n == 8 && !memcmp(kind, "no_vocab", 8)))) return NULL;
    lm_tok *t = lm_calloc(1, sizeof *t, err);
    if (!t) return NULL;
    if (is_gguf) {
        open_gguf(t, kind, n, meta, arrays, err);
    } else {
        lm_pipe_open(t, json, json_n, err);
        if (!err->code) read_ends(t, meta, arrays, err);
    }
    if (!err->code) return t;
    lm_meta_blame(meta, err);
    lm_tok_free(t);
    return NULL;
}

void lm_tok_free(lm_tok *t) {
    if (!t) return;
    if (t->family) t->family->close(t);
    lm_pipe_free(t->pipe);
    lm_ids_clear(&t->before);
    lm_ids_clear(&t->after);
    lm_free(t->text);
    lm_free(t->text_at);
    lm_free(t->bytes);
    lm_free(t->bytes_at);
    lm_free(t->type);
    lm_free(t->score);
    lm_free(t->eog);
    lm_free(t->index);
    lm_free(t->specials);
    lm_free(t);
}

/*----------------------------------------------------------------------
** Asking. An id from outside the vocabulary (models may have more outputs) spells nothing. */

static int in_vocabulary(const lm_tok *t, int32_t id) { return id >= 0 && id < t->n; }

int lm_tok_count(const lm_tok *t) { return t->n; }
const char *lm_tok_kind(const lm_tok *t) { return t->family->kind; }
int lm_tok_type(const lm_tok *t, int32_t id) { return in_vocabulary(t, id) ? t->type[id] : LM_TOK_UNUSED; }
double lm_tok_score(const lm_tok *t, int32_t id) {
    return t->score && in_vocabulary(t, id) ? (double)t->score[id] : NAN;
}
int32_t lm_tok_bos(const lm_tok *t) { return t->bos; }
int32_t lm_tok_eos(const lm_tok *t) { return t->eos; }
int lm_tok_is_eog(const lm_tok *t, int32_t id) { return in_vocabulary(t, id) && t->eog[id]; }

static const char *part(const lm_tok *t, const char *all, const uint32_t *at, int32_t id, size_t *n) {
    int known = in_vocabulary(t, id);
    *n = known ? at[id + 1] - at[id] : 0;
    return known ? all + at[id] : "";
}

const char *lm_tok_text(const lm_tok *t, int32_t id, size_t *n) { return part(t, t->text, t->text_at, id, n); }
const char *lm_tok_bytes(const lm_tok *t, int32_t id, size_t *n) { return part(t, t->bytes, t->bytes_at, id, n); }

int lm_tok_drops_space(const lm_tok *t, int32_t before, int32_t id) {
    size_t n;
    const char *bytes = lm_tok_bytes(t, id, &n);
    if (t->first_drops) {
        int drops = 0;
        while (before < 0 && drops < t->first_drops && (size_t)drops < n && bytes[drops] == ' ') drops++;
        return drops;
    }
    if (!t->add_space_prefix || !n || bytes[0] != ' ' || lm_tok_is_special(t, id)) return 0;
    return before < 0 || (in_vocabulary(t, before) && lm_tok_is_special(t, before));
}

int32_t lm_tok_special(const lm_tok *t, const char *text, size_t n) {
    int32_t id = lm_tok_find(t, text, n);
    return id >= 0 && lm_tok_is_special(t, id) ? id : -1;
}

/*----------------------------------------------------------------------
** Encoding */

/* Find the longest special token that text begins with, among those that all or the type USER allows: keep
** the range of the sorted spellings that agree with text so far, and read on until it is empty. */
static int32_t special_at(const lm_tok *t, const char *text, size_t n, int all, size_t *work) {
    size_t low = 0, high = t->n_specials;
    int32_t best = -1;
    for (size_t depth = 0; depth < n && low < high; depth++, ++*work) {
        for (int side = 0; side < 2; side++) {
            size_t a = low, b = high;
            while (a < b) {
                size_t middle = a + (b - a) / 2;
                uint32_t id = t->specials[middle], at = t->text_at[id] + (uint32_t)depth;
                int c = at < t->text_at[id + 1] ? (uint8_t)t->text[at] : -1;
                if (c < (uint8_t)text[depth] + side) a = middle + 1;
                else b = middle;
            }
            if (side) high = a;
            else low = a;
        }
        if (low == high) break;
        uint32_t id = t->specials[low];     /* the shortest of the range stands first */
        int is_whole = t->text_at[id + 1] - t->text_at[id] == depth + 1;
        if (is_whole && (all || t->type[id] == LM_TOK_USER)) best = (int32_t)id;
    }
    return best;
}

int lm_tok_is_done(const lm_tok_call *c, lm_err *err) { return err->code || (c->limit && c->out->n > c->limit); }

size_t lm_tok_ascii(const char *text, size_t n) {
    size_t i = 0;
    uint64_t x;
    while (n - i >= 8 && (memcpy(&x, text + i, 8), !(x & 0x8080808080808080u))) i += 8;
    while (i < n && !(text[i] & 0x80)) i++;
    return i;
}

int lm_tok_is_valid(const char *text, size_t n, lm_stop stop, lm_err *err) {
    uint32_t cp;
    size_t asked = 0;
    for (size_t i = 0; i < n;) {
        uint64_t x;
        if (n - i >= 8 && (memcpy(&x, text + i, 8), !(x & 0x8080808080808080u))) {
            i += 8;
        } else {
            int step = lm_utf8_step(text + i, n - i, &cp);
            if (step <= 0) return 0;
            i += (size_t)step;
        }
        if (i - asked >= LM_STOP_BYTES) {
            asked = i;
            if (lm_poll(stop, err)) return 0;
        }
    }
    return 1;
}

/* Find the next special token from start on. Return where it is, its id in *id, or n. */
static size_t next_special(lm_tok_call *c, const char *text, size_t n, size_t start, int all, int32_t *id,
                           lm_err *err) {
    int wanted = all ? ANY_SPECIAL : USER_SPECIAL;
    size_t work = 0;
    for (size_t i = start; i < n; i++) {
        if (++work >= LM_STOP_BYTES) {
            work = 0;
            if (lm_poll(c->stop, err)) return n;
        }
        if (!(c->t->special_first[(uint8_t)text[i]] & wanted)) continue;
        *id = special_at(c->t, text + i, n - i, all, &work);
        if (*id >= 0) return i;
    }
    return n;
}

/* Encode text without special tokens. */
static void encode_plain(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    lm_buf repaired = {0};
    if (!n || lm_tok_is_done(c, err)) return;
    if (!lm_tok_is_valid(text, n, c->stop, err)) {
        lm_utf8_repair(&repaired, text, n, err);
        text = repaired.data;
        n = repaired.n;
    }
    if (!err->code) c->t->family->encode(c, text, n, err);
    lm_buf_clear(&repaired);
}

/* Encode text between marked spans. */
static void encode_stretch(lm_tok_call *c, const char *text, size_t n, int all, lm_err *err) {
    for (size_t at = 0; at < n && !lm_tok_is_done(c, err);) {
        int32_t id = -1;
        size_t found = next_special(c, text, n, at, all, &id, err);
        encode_plain(c, text + at, found - at, err);
        if (found == n || lm_tok_is_done(c, err)) return;
        lm_ids_append(c->out, id, err);
        at = found + c->t->text_at[id + 1] - c->t->text_at[id];
    }
}

/* Encode text between and with marked spans. */
static void encode_spans(lm_tok_call *c, const char *text, size_t n, const lm_tok_options *options, lm_err *err) {
    size_t at = 0;
    for (size_t i = 0; i < options->n_specials && !lm_tok_is_done(c, err); i++) {
        const lm_span *span = &options->specials[i];
        int32_t id = lm_tok_special(c->t, text + span->start, span->n);
        if (id < 0) continue;       /* a marker that is no token of this vocabulary is part of the text */
        encode_stretch(c, text + at, span->start - at, options->parse_special, err);
        if (!lm_tok_is_done(c, err)) lm_ids_append(c->out, id, err);
        at = span->start + span->n;
    }
    encode_stretch(c, text + at, n - at, options->parse_special, err);
}

void lm_tok_encode(const lm_tok *t, const char *text, size_t n, const lm_tok_options *options, size_t limit,
                   lm_stop stop, lm_ids *out, lm_err *err) {
    lm_tok_call c = { .t = t, .plain = !options->parse_special, .limit = limit, .stop = stop, .out = out };
    /* A template that begins with what would be put before has seen to it itself. */
    int has_before = options->n_specials && !options->specials[0].start && t->before.n &&
                     lm_tok_special(t, text, options->specials[0].n) == t->before.data[0];
    for (size_t i = 0; options->add_special && !has_before && i < t->before.n; i++)
        lm_ids_append(out, t->before.data[i], err);
    if (t->n_pieces) lm_pipe_encode(&c, text, n, options, err);
    else encode_spans(&c, text, n, options, err);
    for (size_t i = 0; options->add_special && i < t->after.n && !lm_tok_is_done(&c, err); i++) {
        lm_ids_append(out, t->after.data[i], err);
    }
}

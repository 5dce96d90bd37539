/* wordpiece.c: WordPiece, the tokenizer of BERT (kinds "wordpiece", of a tokenizer.json, and "bert", of a GGUF file).
**
** A word is cut from its front into the longest pieces that the vocabulary has; a piece that does not begin the word is
** spelled with ## before it. In a GGUF file it is the other way about: word-initial pieces are spelled with U+2581 before
** them, the others as they are. A word that is too long, or any part of which is no piece, is one unknown token. */
#include "tok.h"

#include <string.h>

typedef struct {
    lm_trie trie;
    uint32_t initial, inner;            /* where a piece that begins a word is looked for, and one that goes on */
    int is_marked;                      /* GGUF: a piece that begins with U+2581 begins a word, and no other */
    int32_t unknown;
    int64_t max_chars;
} wordpiece;

static const char mark[] = "\xE2\x96\x81";

static void encode_word(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    const lm_tok *t = c->t;
    const wordpiece *w = t->family_data;
    size_t begun = c->out->n, chars = 0, work = 0;
    for (size_t i = 0; i < n && chars <= (size_t)w->max_chars; i++) chars += ((uint8_t)text[i] & 0xC0) != 0x80;
    int is_known = chars <= (size_t)w->max_chars;
    for (size_t at = 0, to; at < n && is_known && !err->code; at = to) {
        uint32_t node = at ? w->inner : w->initial;
        int32_t id = -1;
        size_t i = to = at;
        if (at && w->is_marked && n - at >= 3 && !memcmp(text + at, mark, 3)) node = LM_TRIE_NOWHERE;
        for (; i < n && (node = lm_trie_step(&w->trie, node, (uint8_t)text[i])); i++) {
            int32_t value = w->trie.value[node];
            if (value < 0 || (c->plain && t->type[value] != LM_TOK_NORMAL && t->type[value] != LM_TOK_USER)) continue;
            id = value;
            to = i + 1;
        }
        if (id >= 0) lm_ids_append(c->out, id, err);
        else is_known = 0;
        if ((work += i - at + 1) >= LM_STOP_BYTES) {
            work = 0;
            lm_poll(c->stop, err);
        }
    }
    if (is_known || err->code) return;
    c->out->n = LM_MIN(begun, c->out->n);
    lm_ids_append(c->out, w->unknown, err);
}

static uint32_t node_of(const lm_trie *trie, const char *prefix, size_t n) {
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) node = lm_trie_step(trie, node, (uint8_t)prefix[i]);
    return n && !node ? LM_TRIE_NOWHERE : node;
}

static wordpiece *new_wordpiece(lm_tok *t, lm_err *err) {
    wordpiece *w = t->family_data = lm_calloc(1, sizeof *w, err);
    if (w) lm_tok_trie(t, &w->trie, err);
    return err->code ? NULL : w;
}

static void close(lm_tok *t) {
    wordpiece *w = t->family_data;
    if (w) lm_trie_clear(&w->trie);
    lm_free(w);
}

/*----------------------------------------------------------------------
** From a tokenizer.json */

static void open_json(lm_tok *t, const lm_tokjson *f, lm_err *err) {
    const lm_node *model = &f->tree.nodes[f->model];
    size_t n = 2;
    const char *prefix = "##";
    wordpiece *w = new_wordpiece(t, err);
    if (!w) return;
    if (lm_tree_find(&f->tree, model, "continuing_subword_prefix")) {
        prefix = lm_tree_text(&f->tree, model, "continuing_subword_prefix", &n, err);
    }
    if (!err->code) w->inner = node_of(&w->trie, prefix, n);
    w->max_chars = LM_MAX(lm_tree_int(&f->tree, model, "max_input_chars_per_word", 100, err), 0);
    w->unknown = lm_tokjson_unknown(t, f, err);
    if (w->unknown < 0)
        lm_tokjson_refuse(model->at, err, "WordPiece: unk_token is missing or not in the vocabulary");
}

const lm_tokjson_family lm_wordpiece_family = { { "wordpiece", NULL, close, encode_word }, "WordPiece", open_json };

/*----------------------------------------------------------------------
** From a GGUF file: what stands before and behind the pieces is BERT's, as a tokenizer.json would say it. */

static int32_t find_token(const lm_tok *t, const lm_meta *meta, const char *key, const char *spelling, lm_err *err) {
    int64_t id = -1;
    if (!lm_meta_int(meta, key, &id, err)) return lm_tok_find(t, spelling, strlen(spelling));
    if (id >= 0 && id < t->n) return (int32_t)id;
    lm_err_set(err, LM_ERROR, "%s: %lld, wanted one of %d tokens", key, (long long)id, t->n);
    return -1;
}

static void open_gguf(lm_tok *t, const lm_meta *meta, const lm_meta *arrays, lm_err *err) {
    (void)arrays;
    int lowercase = 1;
    lm_buf json = {0};
    wordpiece *w = new_wordpiece(t, err);
    if (!w) return;
    lm_meta_bool(meta, "tokenizer.ggml.normalizer.lowercase", &lowercase, err);
    int strip = lowercase;
    lm_meta_bool(meta, "tokenizer.ggml.normalizer.strip_accents", &strip, err);
    w->initial = node_of(&w->trie, mark, 3);
    w->is_marked = 1;
    w->max_chars = 100;
    w->unknown = find_token(t, meta, "tokenizer.ggml.unknown_token_id", "[UNK]", err);
    if (w->unknown < 0)
        lm_err_set(err, LM_ERROR, "tokenizer.ggml.unknown_token_id: missing, and no [UNK] among the tokens");
    int32_t begin = t->bos >= 0 ? t->bos : find_token(t, meta, "tokenizer.ggml.cls_token_id", "[CLS]", err);
    int32_t end = find_token(t, meta, "tokenizer.ggml.seperator_token_id", "[SEP]", err);
    if (end < 0) end = t->eos;
    int adds[2] = { begin >= 0, end >= 0 };
    lm_meta_bool(meta, "tokenizer.ggml.add_bos_token", &adds[0], err);
    lm_meta_bool(meta, "tokenizer.ggml.add_sep_token", &adds[1], err);
    if (adds[0] && begin >= 0) lm_ids_append(&t->before, begin, err);
    if (adds[1] && end >= 0) lm_ids_append(&t->after, end, err);
    lm_buf_print(
        &json, err,
        "{\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":%s,\"strip_accents\":%s},"
        "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},\"content\":\" \"},{\"type\":\"Fuse\"},"
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}}",
        lowercase ? "true" : "false", strip ? "true" : "false");
    lm_pipe_open(t, json.data, json.n, err);
    lm_buf_clear(&json);
}

static void encode_text(lm_tok_call *c, const char *text, size_t n, lm_err *err) {
    c->plain = 1;       /* tok.c has found the special tokens; no other text is one */
    lm_pipe_encode_plain(c, text, n, encode_word, err);
}

const lm_tok_family lm_bert_family = { "bert", open_gguf, close, encode_text };

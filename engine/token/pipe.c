/* pipe.c: a tokenizer.json put together, and a text sent through it.
**
** added tokens (added.c) -> normalizer (normal.c) -> added tokens that want normalized text -> pre-tokenizer (split.c)
** -> model (bpe.c, wordpiece.c, unigram.c), and what the post-processor puts before and after. Truncation and padding are
** not ours. */
#include "tok.h"

#include <string.h>

struct lm_pipe {
    lm_normal *normal;
    lm_split *split;
    lm_added *added;                    /* NULL: tok.c looks for special tokens itself */
    int by_parts;                       /* a text may be cut before any space behind a letter */
};

enum { PART = 16384, POST_MAX = 64 };   /* bytes of a part, at least; tokens that stand about a text, at most */

static const lm_tokjson_family *const g_families[] = { &lm_wordpiece_family, &lm_bpe_json_family, &lm_unigram_family };

/*----------------------------------------------------------------------
** Encoding */

typedef struct {
    const lm_pipe *p;
    lm_tok_call *call;
    void (*encode)(lm_tok_call *c, const char *piece, size_t n, lm_err *err);
    int all;
    lm_normal_scratch normal;
    lm_regex_run regexes;
    lm_split_walk walk;
} flow;

static void begin(flow *f, lm_tok_call *c, void (*encode)(lm_tok_call *c, const char *piece, size_t n, lm_err *err)) {
    *f = (flow){ .p = c->t->pipe, .call = c, .encode = encode };
    lm_split_begin(&f->walk, f->p->split, c->stop, &f->regexes);
}

static void end(flow *f) {
    lm_split_end(&f->walk);
    lm_regex_end(&f->regexes);
    lm_normal_scratch_clear(&f->normal);
}

static void encode_normal(flow *f, const char *text, size_t n, int is_first, lm_err *err) {
    const char *piece;
    size_t piece_n;
    lm_split_start(&f->walk, text, n, is_first, err);
    while (!lm_tok_is_done(f->call, err) && lm_split_next(&f->walk, &piece, &piece_n, err))
        f->encode(f->call, piece, piece_n, err);
}

/* Encode valid UTF-8 between tokens that want raw text. */
static void encode_part(flow *f, const char *text, size_t n, int is_first, lm_err *err) {
    const lm_added *added = f->p->added;
    lm_normal_run(f->p->normal, &f->normal, &text, &n, f->call->stop, err);
    if (!added || !lm_added_has_normalized(added)) {
        encode_normal(f, text, n, is_first, err);
        return;
    }
    lm_added_walk w = { .a = added, .t = f->call->t, .normalized = 1, .all = f->all, .text = text, .n = n,
                        .stop = f->call->stop };
    size_t from, to;
    int32_t id;
    while (!lm_tok_is_done(f->call, err) && lm_added_next(&w, &from, &to, &id, err)) {
        if (id >= 0) lm_ids_append(f->call->out, id, err);
        else encode_normal(f, text + from, to - from, is_first && !from, err);
    }
}

static int is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* By parts where that makes no difference: a long text whose first tokens are wanted costs no more than they. */
static void encode_raw(flow *f, const char *text, size_t n, int is_first, lm_err *err) {
    if (is_first && lm_split_asks_first(f->p->split)) {
        is_first = lm_normal_keeps_first(f->p->normal, &f->normal, text, n, f->call->stop, err);
    }
    for (size_t at = 0, end; at < n && !lm_tok_is_done(f->call, err); at = end) {
        end = f->p->by_parts && n - at > PART ? at + PART : n;
        while (end < n && !(text[end] == ' ' && is_letter(text[end - 1]))) end++;
        encode_part(f, text + at, end - at, is_first && !at, err);
    }
}

void lm_pipe_encode_plain(lm_tok_call *c, const char *text, size_t n,
                          void (*encode)(lm_tok_call *c, const char *piece, size_t n, lm_err *err), lm_err *err) {
    flow f;
    begin(&f, c, encode);
    encode_raw(&f, text, n, 0, err);
    end(&f);
}

void lm_pipe_encode(lm_tok_call *c, const char *text, size_t n, const lm_tok_options *options, lm_err *err) {
    flow f;
    lm_buf repaired = {0};
    begin(&f, c, c->t->family->encode);
    f.all = options->parse_special;
    lm_added_walk w = { .a = f.p->added, .t = c->t, .all = f.all, .text = text, .n = n, .stop = c->stop,
                        .spans = options->specials, .n_spans = options->n_specials };
    size_t from, to;
    int32_t id;
    while (!lm_tok_is_done(c, err) && lm_added_next(&w, &from, &to, &id, err)) {
        if (id >= 0) {
            lm_ids_append(c->out, id, err);
        } else if (lm_tok_is_valid(text + from, to - from, c->stop, err)) {
            encode_raw(&f, text + from, to - from, !from, err);
        } else {
            repaired.n = 0;
            lm_utf8_repair(&repaired, text + from, to - from, err);
            encode_raw(&f, repaired.data, repaired.n, !from, err);
        }
    }
    lm_buf_clear(&repaired);
    end(&f);
}

/*----------------------------------------------------------------------
** Post-processors: what stands before and after a text */

static void prepend_ids(lm_ids *ids, const lm_ids *front, lm_err *err) {
    lm_ids all = {0};
    for (size_t i = 0; i < front->n; i++) lm_ids_append(&all, front->data[i], err);
    for (size_t i = 0; i < ids->n; i++) lm_ids_append(&all, ids->data[i], err);
    lm_ids_clear(ids);
    *ids = all;
}

static void add_id(const lm_tok *t, lm_ids *ids, const lm_node *part, const lm_node *id, lm_err *err) {
    if (!id || id->kind != LM_JSON_INT || id->integer < 0 || id->integer >= t->n) {
        lm_tokjson_refuse(id ? id->at : part->at, err, "post_processor: an id is not one of %d tokens", t->n);
    } else {
        if (ids->n == POST_MAX) lm_tokjson_refuse(id->at, err, "post_processor: over %d tokens", POST_MAX);
        lm_ids_append(ids, (int32_t)id->integer, err);
    }
}

/* ["[SEP]", 102] */
static void read_pair(const lm_tok *t, const lm_tree *tree, const lm_node *node, const char *key, lm_ids *ids,
                      lm_err *err) {
    const lm_node *pair = lm_tree_find(tree, node, key);
    const lm_node *text = pair && pair->kind == LM_JSON_ARRAY ? lm_tree_child(tree, pair, NULL) : NULL;
    add_id(t, ids, node, text ? lm_tree_child(tree, pair, text) : NULL, err);
}

static void read_template(const lm_tok *t, const lm_tree *tree, const lm_node *node, lm_ids *before, lm_ids *after,
                          lm_err *err) {
    const lm_node *single = lm_tree_find(tree, node, "single"), *part = NULL, *id = NULL;
    const lm_node *specials = lm_tree_find(tree, node, "special_tokens");
    int n_texts = 0, n_parts = 0;
    if (single && single->kind != LM_JSON_ARRAY) single = NULL;
    while (single && !err->code && (part = lm_tree_child(tree, single, part))) {
        const lm_node *special = lm_tree_find(tree, part, "SpecialToken"), *of = NULL;
        if (++n_parts > POST_MAX) lm_tokjson_refuse(part->at, err, "TemplateProcessing: over %d parts", POST_MAX);
        if (!special) {
            n_texts += lm_tree_is(tree, lm_tree_find(tree, part, "Sequence"), "id", "A");
            continue;
        }
        size_t n;
        const char *name = lm_tree_text(tree, special, "id", &n, err);
        while (name && specials && (of = lm_tree_child(tree, specials, of))) {
            if (of->key_n == n && !memcmp(tree->pool.data + of->key, name, n)) break;
        }
        const lm_node *ids = lm_tree_find(tree, of, "ids");
        if (!ids || ids->kind != LM_JSON_ARRAY) {
            lm_tokjson_refuse(special->at, err, "TemplateProcessing: special_tokens lacks '%.*s'", (int)LM_MIN(n, 40),
                              name);
        }
        id = NULL;
        while (!err->code && (id = lm_tree_child(tree, ids, id))) add_id(t, n_texts ? after : before, special, id, err);
    }
    if (n_texts != 1) lm_tokjson_refuse(node->at, err, "TemplateProcessing: single: wanted Sequence A once");
}

static void read_post(lm_tok *t, const lm_tree *tree, const lm_node *node, lm_err *err) {
    const lm_node *part = NULL;
    int n_parts = 0;
    while ((part = lm_tree_next_part(tree, node, part, "processors", err))) {
        if (++n_parts > POST_MAX) lm_tokjson_refuse(part->at, err, "over %d post-processors", POST_MAX);
        lm_ids before = {0}, after = {0};
        if (lm_tree_is(tree, part, "type", "BertProcessing") || lm_tree_is(tree, part, "type", "RobertaProcessing")) {
            read_pair(t, tree, part, "cls", &before, err);
            read_pair(t, tree, part, "sep", &after, err);
        } else if (lm_tree_is(tree, part, "type", "TemplateProcessing")) {
            read_template(t, tree, part, &before, &after, err);
        } else if (!lm_tree_is(tree, part, "type", "ByteLevel")) {
            lm_tree_refuse(tree, part, "post-processor", err);
        }
        prepend_ids(&t->before, &before, err);
        for (size_t i = 0; i < after.n; i++) lm_ids_append(&t->after, after.data[i], err);
        lm_ids_clear(&before);
        lm_ids_clear(&after);
    }
}

/*----------------------------------------------------------------------
** Putting it together */

static int compare_ids(const void *arg, uint32_t a, uint32_t b) {
    const lm_tokjson_piece *pieces = arg;
    return pieces[a].id < pieces[b].id ? -1 : pieces[a].id > pieces[b].id;
}

/* Spell out the vocabulary in the order of its ids. A hole in their numbers is a token without text; there may be as
** many as a file's size accounts for. */
static void read_vocabulary(lm_tok *t, const lm_tokjson *f, size_t n_added, lm_err *err) {
    size_t most = 8 * f->n_pieces + 65536, n = 0;
    uint32_t *order = lm_alloc(f->n_pieces * sizeof *order, err);
    for (size_t i = 0; i < f->n_pieces && !err->code; i++) {
        const lm_tokjson_piece *p = &f->pieces[i];
        order[i] = (uint32_t)i;
        n = LM_MAX(n, (size_t)p->id + 1);
        if (n > most) {
            lm_tokjson_refuse(p->byte, err, "model: '%.*s' has id %d; of %zu tokens wanted one under %zu",
                              (int)LM_MIN(p->n, 60), f->texts.data + p->at, p->id, f->n_pieces, most);
        }
    }
    if (!n) lm_tokjson_refuse(f->tree.nodes[f->model].at, err, "model: no vocab");
    if (!err->code) lm_sort(order, f->n_pieces, compare_ids, f->pieces, err);
    lm_tok_room(t, n + n_added, f->texts.n + n_added * 1024, err);
    for (size_t i = 0; i < f->n_pieces && !err->code; i++) {
        const lm_tokjson_piece *p = &f->pieces[order[i]];
        while (t->n < p->id) lm_tok_add(t, "", 0, "model", err);
        if (t->n > p->id) {
            lm_tokjson_refuse(p->byte, err, "model: two tokens have id %d", p->id);
            break;
        }
        lm_tok_add(t, f->texts.data + p->at, p->n, "model: vocab", err);
        lm_tokjson_blame(p->byte, err);
    }
    lm_free(order);
}

static void read_types(lm_tok *t, const lm_tokjson *f, int32_t unknown, lm_err *err) {
    t->type = lm_alloc((size_t)t->n, err);
    t->eog = lm_calloc((size_t)t->n, 1, err);
    if (err->code) return;
    for (int32_t id = 0; id < t->n; id++)
        t->type[id] = t->text_at[id] == t->text_at[id + 1] ? LM_TOK_UNUSED : LM_TOK_NORMAL;
    int32_t byte[256];
    lm_tok_find_bytes(t, lm_tree_bool(&f->tree, &f->tree.nodes[f->model], "byte_fallback", 0, err), byte);
    for (int i = 0; i < 256; i++) {
        if (byte[i] >= 0) t->type[byte[i]] = LM_TOK_BYTE;
    }
    lm_added_mark(t->pipe->added, t);
    if (unknown >= 0 && t->type[unknown] == LM_TOK_CONTROL) t->type[unknown] = LM_TOK_UNKNOWN;
}

static const lm_tokjson_family *find_family(const lm_tokjson *f, lm_err *err) {
    const lm_node *model = &f->tree.nodes[f->model];
    if (!lm_tree_find(&f->tree, model, "type")) {       /* files of old do not say */
        return f->is_list ? &lm_unigram_family : f->has_merges ? &lm_bpe_json_family : &lm_wordpiece_family;
    }
    for (int i = 0; i < LM_COUNT(g_families); i++) {
        if (lm_tree_is(&f->tree, model, "type", g_families[i]->type)) return g_families[i];
    }
    lm_tree_refuse(&f->tree, model, "model", err);
    return NULL;
}

static size_t count_children(const lm_tree *t, const lm_node *list) {
    size_t n = 0;
    for (const lm_node *node = NULL; list && (node = lm_tree_child(t, list, node));) n++;
    return n;
}

int32_t lm_tokjson_unknown(const lm_tok *t, const lm_tokjson *f, lm_err *err) {
    const lm_node *model = &f->tree.nodes[f->model];
    size_t n;
    if (f->is_list) {
        int64_t id = lm_tree_int(&f->tree, model, "unk_id", -1, err);
        if (id < -1 || id >= (int64_t)f->n_pieces) {
            lm_tokjson_refuse(lm_tree_find(&f->tree, model, "unk_id")->at, err, "model: unk_id %lld of %zu tokens",
                              (long long)id, f->n_pieces);
        }
        return err->code ? -1 : (int32_t)id;
    }
    const lm_node *unknown = lm_tree_find(&f->tree, model, "unk_token");
    const char *text = lm_tree_value(&f->tree, unknown, &n);
    if (!text || err->code) return -1;
    int32_t id = lm_tok_find(t, text, n);
    if (id >= 0 && id < t->n_pieces) return id;
    lm_tokjson_refuse(unknown->at, err, "model: unk_token '%.*s' is not in the vocabulary", (int)LM_MIN(n, 60), text);
    return -1;
}

void lm_pipe_open(lm_tok *t, const char *json, size_t n, lm_err *err) {
    lm_tokjson f = {0};
    lm_tokjson_read(&f, json, n, err);
    lm_pipe *p = t->pipe = lm_calloc(1, sizeof *p, err);
    const lm_tree *tree = &f.tree;
    const lm_node *added = err->code ? NULL : lm_tokjson_part(&f, LM_TOKJSON_ADDED);
    const lm_tokjson_family *family = NULL;
    int is_whole = !t->family;      /* else a vocabulary is there already, and this is what goes around it */
    if (is_whole && !f.model) lm_err_set(err, LM_ERROR, "tokenizer.json: no model");
    if (is_whole && !err->code) {
        family = find_family(&f, err);
        if (family) t->family = &family->family;
        read_vocabulary(t, &f, count_children(tree, added), err);
        t->n_pieces = t->n;
    }
    if (!err->code) p->normal = lm_normal_new(tree, lm_tokjson_part(&f, LM_TOKJSON_NORMALIZER), err);
    /* Falling back to bytes, BPE takes the characters that spell bytes for characters. */
    int takes_bytes = family == &lm_bpe_json_family
                      && !lm_tree_bool(tree, &tree->nodes[f.model], "byte_fallback", 0, err);
    if (!err->code) p->split = lm_split_new(tree, lm_tokjson_part(&f, LM_TOKJSON_PRE_TOKENIZER), takes_bytes, err);
    if (!err->code) p->by_parts = lm_normal_is_local(p->normal) && lm_split_drops_spaces(p->split);
    if (family && !err->code) {
        p->added = lm_added_new(t, tree, added, (int)f.n_pieces, p->normal, err);
        int32_t unknown = lm_tokjson_unknown(t, &f, err);
        if (!err->code) p->by_parts &= !lm_added_has_normalized(p->added);
        if (!err->code) read_types(t, &f, unknown, err);
        if (!err->code) read_post(t, tree, lm_tokjson_part(&f, LM_TOKJSON_POST_PROCESSOR), err);
        if (!err->code) family->open(t, &f, err);
    }
    if (!err->code) lm_decode(t, tree, lm_tokjson_part(&f, LM_TOKJSON_DECODER), p->added, err);
    lm_tokjson_clear(&f);
}

const lm_split *lm_pipe_split(const lm_pipe *p) { return p->split; }

void lm_pipe_free(lm_pipe *p) {
    if (!p) return;
    lm_normal_free(p->normal);
    lm_split_free(p->split);
    lm_added_free(p->added);
    lm_free(p);
}

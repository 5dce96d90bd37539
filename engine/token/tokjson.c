/* tokjson.c: a Hugging Face tokenizer.json, read.
**
** What is long (the model's vocabulary and merges) goes into arrays as it comes; all else, a few thousand values at
** most in a real file, into a tree: a list of nodes in the order of the text, each of which says where the next after all
** of its own begins. Nothing is recursive, and memory is in proportion to the file. */
#include "tok.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void lm_tokjson_blame(size_t at, lm_err *err) {
    if (err->code == LM_ERROR) lm_err_blame(err, "tokenizer.json, byte %zu: ", at);
}

void lm_tokjson_refuse(size_t at, lm_err *err, const char *format, ...) {
    char what[sizeof err->msg];
    va_list args;
    if (err->code) return;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    lm_err_set(err, LM_ERROR, "%s", what);
    lm_tokjson_blame(at, err);
}

/*----------------------------------------------------------------------
** The tree */

static lm_node *add_node(lm_tree *t, const lm_json *j, int kind, int in_object, lm_err *err) {
    if (!lm_grow((void **)&t->nodes, t->n, &t->cap, 1, sizeof *t->nodes, err)) return NULL;
    lm_node *node = &t->nodes[t->n++];
    *node = (lm_node){ .kind = kind, .at = j->at, .integer = j->integer, .real = j->real, .key = t->pool.n,
                       .end = t->n };
    if (in_object) {
        lm_buf_append(&t->pool, j->key.data, j->key.n, err);
        node->key_n = j->key.n;
    }
    node->text = t->pool.n;
    if (kind == LM_JSON_TEXT) {
        lm_buf_append(&t->pool, j->string.data, j->string.n, err);
        node->text_n = j->string.n;
    }
    return node;
}

/* Add the value just begun, to its end. */
static void read_tree(lm_tree *t, lm_json *j, int kind, int in_object, lm_err *err) {
    size_t open[64];
    int depth = 0;
    do {
        if (kind == LM_JSON_END) {
            depth--;
            t->nodes[open[depth]].end = t->n;
        } else {
            int inside = depth ? t->nodes[open[depth - 1]].kind == LM_JSON_OBJECT : in_object;
            lm_node *node = add_node(t, j, kind, inside, err);
            if (node && (kind == LM_JSON_ARRAY || kind == LM_JSON_OBJECT)) open[depth++] = t->n - 1;
        }
        if (depth) kind = lm_json_next(j, err);
    } while (depth && !err->code);
}

const lm_node *lm_tree_child(const lm_tree *t, const lm_node *parent, const lm_node *before) {
    size_t i = before ? before->end : (size_t)(parent - t->nodes) + 1;
    return i < parent->end ? &t->nodes[i] : NULL;
}

const lm_node *lm_tree_find(const lm_tree *t, const lm_node *node, const char *key) {
    const lm_node *child = NULL;
    if (!node || node->kind != LM_JSON_OBJECT) return NULL;
    while ((child = lm_tree_child(t, node, child))) {
        if (child->key_n == strlen(key) && !memcmp(t->pool.data + child->key, key, child->key_n)) {
            return child->kind == LM_JSON_NULL ? NULL : child;
        }
    }
    return NULL;
}

static const char *type_of(const lm_tree *t, const lm_node *node, int *n) {
    const lm_node *type = lm_tree_find(t, node, "type");
    *n = type && type->kind == LM_JSON_TEXT ? (int)LM_MIN(type->text_n, 40) : 1;
    return type && type->kind == LM_JSON_TEXT ? t->pool.data + type->text : "?";
}

static void refuse(const lm_tree *t, const lm_node *node, const char *key, const char *wanted, lm_err *err) {
    int n;
    const char *type = type_of(t, node, &n);
    const lm_node *value = lm_tree_find(t, node, key);
    lm_tokjson_refuse(value ? value->at : node->at, err, "%.*s: %s: wanted %s", n, type, key, wanted);
}

const char *lm_tree_value(const lm_tree *t, const lm_node *node, size_t *n) {
    *n = node && node->kind == LM_JSON_TEXT ? node->text_n : 0;
    return node && node->kind == LM_JSON_TEXT ? t->pool.data + node->text : NULL;
}

const char *lm_tree_text(const lm_tree *t, const lm_node *node, const char *key, size_t *n, lm_err *err) {
    const char *text = lm_tree_value(t, lm_tree_find(t, node, key), n);
    if (!text && !err->code) refuse(t, node, key, "a text", err);
    return text;
}

int lm_tree_bool(const lm_tree *t, const lm_node *node, const char *key, int otherwise, lm_err *err) {
    const lm_node *value = lm_tree_find(t, node, key);
    if (!value) return otherwise;
    if (value->kind != LM_JSON_BOOL) refuse(t, node, key, "true or false", err);
    return value->integer != 0;
}

int64_t lm_tree_int(const lm_tree *t, const lm_node *node, const char *key, int64_t otherwise, lm_err *err) {
    const lm_node *value = lm_tree_find(t, node, key);
    if (!value) return otherwise;
    if (value->kind != LM_JSON_INT) refuse(t, node, key, "a whole number", err);
    return value->integer;
}

int lm_tree_is(const lm_tree *t, const lm_node *node, const char *key, const char *text) {
    size_t n;
    const char *value = lm_tree_value(t, lm_tree_find(t, node, key), &n);
    return value && n == strlen(text) && !memcmp(value, text, n);
}

const char *lm_tree_pattern(const lm_tree *t, const lm_node *node, size_t *n, int *is_regex, lm_err *err) {
    const lm_node *pattern = lm_tree_find(t, node, "pattern");
    *is_regex = lm_tree_find(t, pattern, "Regex") != NULL;
    const char *text =
        lm_tree_value(t, *is_regex ? lm_tree_find(t, pattern, "Regex") : lm_tree_find(t, pattern, "String"), n);
    if (!text && !err->code) refuse(t, node, "pattern", "a String or a Regex", err);
    return text;
}

const lm_node *lm_tree_next_part(const lm_tree *t, const lm_node *root, const lm_node *before, const char *list,
                                 lm_err *err) {
    if (!root || err->code) return NULL;
    size_t i = before ? before->end : (size_t)(root - t->nodes);
    while (i < root->end && !err->code) {
        const lm_node *node = &t->nodes[i];
        int is_part = node == root || !node->key_n;     /* else a member of a Sequence beside its list */
        if (!is_part) {
            i = node->end;
        } else if (!lm_tree_is(t, node, "type", "Sequence")) {
            return node;
        } else {
            const lm_node *parts = lm_tree_find(t, node, list);
            if (!parts || parts->kind != LM_JSON_ARRAY) refuse(t, node, list, "an array", err);
            else i = (size_t)(parts - t->nodes) + 1;
        }
    }
    return NULL;
}

void lm_tree_refuse(const lm_tree *t, const lm_node *node, const char *what, lm_err *err) {
    int n;
    const char *type = type_of(t, node, &n);
    lm_tokjson_refuse(node->at, err, "a %s of type %.*s is not supported", what, n, type);
}

/*----------------------------------------------------------------------
** The model */

static void refuse_model(const lm_json *j, const char *what, lm_err *err) {
    lm_tokjson_refuse(j->at, err, "model: %s", what);
}

static void add_piece(lm_tokjson *f, const lm_json *j, const lm_buf *text, int64_t id, double score, lm_err *err) {
    if (id < 0 || id > INT32_MAX) {
        lm_tokjson_refuse(j->at, err, "model: '%.*s' has id %lld, wanted one from 0 on", (int)LM_MIN(text->n, 60),
                          text->data, (long long)id);
    }
    if (!lm_grow((void **)&f->pieces, f->n_pieces, &f->pieces_cap, 1, sizeof *f->pieces, err)) return;
    f->pieces[f->n_pieces++] = (lm_tokjson_piece){ .at = (uint32_t)f->texts.n, .n = (uint32_t)text->n,
                                                   .byte = (uint32_t)j->at, .id = (int32_t)id, .score = score };
    lm_buf_append(&f->texts, text->data, text->n, err);
}

static void read_vocab(lm_tokjson *f, lm_json *j, int kind, lm_err *err) {
    if (kind == LM_JSON_OBJECT) {
        while ((kind = lm_json_next(j, err)) == LM_JSON_INT) add_piece(f, j, &j->key, j->integer, 0, err);
        if (kind != LM_JSON_END) refuse_model(j, "vocab: an id that is no whole number", err);
        return;
    }
    f->is_list = 1;
    if (kind != LM_JSON_ARRAY) refuse_model(j, "vocab: wanted an object or an array", err);
    while (!err->code && (kind = lm_json_next(j, err)) != LM_JSON_END) {
        int is_pair = kind == LM_JSON_ARRAY && lm_json_next(j, err) == LM_JSON_TEXT;
        if (is_pair) kind = lm_json_next(j, err);
        if (!is_pair || (kind != LM_JSON_INT && kind != LM_JSON_REAL))
            refuse_model(j, "vocab: wanted [text, number]", err);
        if (!err->code) add_piece(f, j, &j->string, (int64_t)f->n_pieces, j->real, err);
        if (lm_json_next(j, err) != LM_JSON_END) refuse_model(j, "vocab: wanted [text, number]", err);
    }
}

static void read_merges(lm_tokjson *f, lm_json *j, int kind, lm_err *err) {
    f->has_merges = 1;
    if (kind != LM_JSON_ARRAY) refuse_model(j, "merges: wanted an array", err);
    while (!err->code && (kind = lm_json_next(j, err)) != LM_JSON_END) {
        size_t byte = j->at, at = f->texts.n, left_n = 0;
        const char *space = NULL;
        if (kind == LM_JSON_TEXT) {
            lm_buf_append(&f->texts, j->string.data, j->string.n, err);
            space = j->string.n ? memchr(j->string.data, ' ', j->string.n) : NULL;
            if (space && !err->code) {
                left_n = (size_t)(space - j->string.data);
                memmove(f->texts.data + at + left_n, f->texts.data + at + left_n + 1, j->string.n - left_n - 1);
                f->texts.n--;
            }
        } else if (kind == LM_JSON_ARRAY && lm_json_next(j, err) == LM_JSON_TEXT) {
            lm_buf_append(&f->texts, j->string.data, j->string.n, err);
            left_n = j->string.n;
            space = lm_json_next(j, err) == LM_JSON_TEXT ? "" : NULL;
            if (space) lm_buf_append(&f->texts, j->string.data, j->string.n, err);
            if (lm_json_next(j, err) != LM_JSON_END) space = NULL;
        }
        if (!space) lm_tokjson_refuse(byte, err, "model: merge %zu: wanted two texts", f->n_merges);
        if (!lm_grow((void **)&f->merges, f->n_merges, &f->merges_cap, 1, sizeof *f->merges, err)) return;
        f->merges[f->n_merges++] = (lm_tokjson_merge){ .at = (uint32_t)at, .left_n = (uint32_t)left_n,
                                                       .right_n = (uint32_t)(f->texts.n - at - left_n),
                                                       .byte = (uint32_t)byte };
    }
}

/* Read the model: its two long members here, the others as children of a node. */
static void read_model(lm_tokjson *f, lm_json *j, int kind, lm_err *err) {
    if (kind != LM_JSON_OBJECT) refuse_model(j, "wanted an object", err);
    if (!add_node(&f->tree, j, kind, 1, err)) return;
    f->model = f->tree.n - 1;
    while ((kind = lm_json_next(j, err)) != LM_JSON_END) {
        if (!strcmp(j->key.data, "vocab")) read_vocab(f, j, kind, err);
        else if (!strcmp(j->key.data, "merges")) read_merges(f, j, kind, err);
        else read_tree(&f->tree, j, kind, 1, err);
    }
    f->tree.nodes[f->model].end = f->tree.n;
}

/*----------------------------------------------------------------------
** The file */

void lm_tokjson_read(lm_tokjson *f, const char *text, size_t n, lm_err *err) {
    lm_json j;
    int kind;
    lm_json_init(&j, text, n);
    if (n > INT32_MAX) lm_err_set(err, LM_ERROR, "%zu bytes, wanted under 2 GiB", n);
    add_node(&f->tree, &j, LM_JSON_NULL, 0, err);       /* number 0 is none */
    if (lm_json_next(&j, err) != LM_JSON_OBJECT) lm_tokjson_refuse(j.at, err, "wanted an object");
    while ((kind = lm_json_next(&j, err)) != LM_JSON_END) {
        static const char *const names[LM_TOKJSON_PARTS] = { "added_tokens", "normalizer", "pre_tokenizer",
                                                             "post_processor", "decoder" };
        int i = 0;
        while (i < LM_TOKJSON_PARTS && strcmp(j.key.data, names[i])) i++;
        if (!strcmp(j.key.data, "model")) {
            read_model(f, &j, kind, err);
        } else if (i < LM_TOKJSON_PARTS && kind != LM_JSON_NULL) {
            f->part[i] = f->tree.n;
            read_tree(&f->tree, &j, kind, 1, err);
        } else {
            lm_json_skip(&j, kind, err);
        }
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
    if (err->code == LM_ERROR && memcmp(err->msg, "tokenizer.json", 14)) lm_err_blame(err, "tokenizer.json: ");
}

const lm_node *lm_tokjson_part(const lm_tokjson *f, int part) {
    return f->part[part] ? &f->tree.nodes[f->part[part]] : NULL;
}

void lm_tokjson_clear(lm_tokjson *f) {
    lm_free(f->tree.nodes);
    lm_buf_clear(&f->tree.pool);
    lm_buf_clear(&f->texts);
    lm_free(f->pieces);
    lm_free(f->merges);
    *f = (lm_tokjson){0};
}

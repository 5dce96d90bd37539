/* trie.c: a set of spellings, each with a number, walked a byte at a time.
**
** Nodes are numbered level by level, so that a node's children stand side by side: where they begin is where those of
** the node before end. A node's label is the byte that leads to it. Nine bytes a node, made from sorted spellings in time
** linear in their bytes. */
#include "tok.h"

#include <string.h>

typedef struct { const char *text; const uint32_t *at; } spellings;    /* text end to end, where each begins and ends */

static size_t length_of(const spellings *s, uint32_t id) { return s->at[id + 1] - s->at[id]; }

static int compare_spellings(const void *arg, uint32_t a, uint32_t b) {
    const spellings *s = arg;
    size_t a_n = length_of(s, a), b_n = length_of(s, b);
    int order = memcmp(s->text + s->at[a], s->text + s->at[b], LM_MIN(a_n, b_n));
    return order ? order : a_n < b_n ? -1 : a_n > b_n;
}

typedef struct { uint32_t low, high; } range;

/* Give a node its children: the spellings low .. high - 1 go on from it, depth bytes in. */
static void add_children(lm_trie *t, const spellings *s, const uint32_t *ids, range r, size_t depth, range **ranges,
                         size_t caps[4], lm_err *err) {
    while (r.low < r.high) {
        uint32_t from = r.low;
        uint8_t byte = (uint8_t)s->text[s->at[ids[from]] + depth];
        while (r.low < r.high && (uint8_t)s->text[s->at[ids[r.low]] + depth] == byte) r.low++;
        range child = { from, r.low };
        int32_t value = -1;
        for (; child.low < child.high && length_of(s, ids[child.low]) == depth + 1; child.low++)
            value = (int32_t)ids[child.low];
        if (!lm_grow((void **)&t->label, t->n, &caps[0], 1, sizeof *t->label, err) ||
            !lm_grow((void **)&t->value, t->n, &caps[1], 1, sizeof *t->value, err) ||
            !lm_grow((void **)ranges, t->n, &caps[2], 1, sizeof **ranges, err)) return;
        t->label[t->n] = byte;
        t->value[t->n] = value;
        (*ranges)[t->n++] = child;
    }
}

/* Make the trie of n spellings, which ids numbers; ids is put in order. None may be empty; of equals the last counts. */
void lm_trie_init(lm_trie *t, const char *text, const uint32_t *at, uint32_t *ids, size_t n, lm_err *err) {
    spellings s = { text, at };
    range *ranges = NULL;
    size_t caps[4] = {0};
    *t = (lm_trie){0};
    lm_sort(ids, n, compare_spellings, &s, err);
    if (!lm_grow((void **)&t->label, 0, &caps[0], 1, sizeof *t->label, err) ||
        !lm_grow((void **)&t->value, 0, &caps[1], 1, sizeof *t->value, err) ||
        !lm_grow((void **)&ranges, 0, &caps[2], 1, sizeof *ranges, err)) goto end;
    t->label[0] = 0;
    t->value[0] = -1;
    ranges[0] = (range){ 0, (uint32_t)n };
    t->n = 1;
    size_t level_end = 1, depth = 0;
    for (size_t node = 0; node < t->n && !err->code; node++) {
        if (node == level_end) {
            depth++;
            level_end = t->n;
        }
        if (!lm_grow((void **)&t->child, node, &caps[3], 2, sizeof *t->child, err)) break;
        t->child[node] = (uint32_t)t->n;
        add_children(t, &s, ids, ranges[node], depth, &ranges, caps, err);
        t->child[node + 1] = (uint32_t)t->n;
    }
end:
    lm_free(ranges);
}

void lm_trie_clear(lm_trie *t) {
    lm_free(t->label);
    lm_free(t->value);
    lm_free(t->child);
    *t = (lm_trie){0};
}

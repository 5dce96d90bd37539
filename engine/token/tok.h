/* tok.h: what the files of engine/token/ share: the vocabulary, and what each has for the others.
**
** A tokenizer is immutable once built, so that threads may share it: whatever a call to encode needs beside
** it lives in that call. */
#ifndef LM_TOK_H
#define LM_TOK_H

#include "../lmint.h"

#include <string.h>

struct lm_tok {
    const lm_tok_family *family;
    void *family_data;
    int n;                              /* tokens */
    char *text; uint32_t *text_at;      /* spellings end to end; where each begins, n + 1 of them */
    char *bytes; uint32_t *bytes_at;    /* what each adds to a text; filled by the family */
    uint8_t *type;                      /* LM_TOK_* */
    float *score;                       /* NULL: the vocabulary has none */
    uint8_t *eog;                       /* ends a generation */
    int32_t *index; size_t index_mask;  /* spelling to id, open addressing, -1 free */
    uint32_t *specials; size_t n_specials;  /* ids of the special tokens, in the order of their spellings */
    uint8_t special_first[256];         /* 1: a special begins with this byte, 2: one that needs no asking does */
    int32_t bos, eos;
    lm_ids before, after;               /* what add_special puts about a text */
    int add_space_prefix;               /* a space is put before each stretch of plain text */
    int first_drops;                    /* so many spaces come off the front of a text's first token */
    lm_pipe *pipe;                      /* what goes on around a model of a tokenizer.json; NULL: none */
    int n_pieces;                       /* of a tokenizer.json: ids from here on are added tokens only */
};

/* A call to encode. */
struct lm_tok_call {
    const lm_tok *t;
    int plain;                          /* no text becomes a special token, though the vocabulary spells it so */
    size_t limit;
    lm_stop stop;
    lm_ids *out;
};

/*----------------------------------------------------------------------
** trie.c: spellings to numbers, a byte at a time. Node 0 is the root. */
typedef struct { uint8_t *label; int32_t *value; uint32_t *child; size_t n; } lm_trie;  /* value -1: no spelling ends here */

enum { LM_TRIE_NOWHERE = 0xFFFFFFF };   /* a node from which nothing goes on */

void lm_trie_init(lm_trie *t, const char *text, const uint32_t *at, uint32_t *ids, size_t n, lm_err *err);
void lm_trie_clear(lm_trie *t);

/* The node that byte leads to, or 0. */
static inline uint32_t lm_trie_step(const lm_trie *t, uint32_t node, uint8_t byte) {
    if (node >= t->n) return 0;
    if (t->child[node + 1] - t->child[node] > 16) {
        const uint8_t *found = memchr(t->label + t->child[node], byte, t->child[node + 1] - t->child[node]);
        return found ? (uint32_t)(found - t->label) : 0;
    }
    for (uint32_t i = t->child[node], end = t->child[node + 1]; i < end; i++) {
        if (t->label[i] == byte) return i;
    }
    return 0;
}

/*----------------------------------------------------------------------
** tok.c */

int lm_tok_is_special(const lm_tok *t, int32_t id);             /* spelled out in a text only where asked for */
int32_t lm_tok_find(const lm_tok *t, const char *text, size_t n);      /* by spelling; -1: none */

/* Find an array whose elements have the type given. NULL: none, or err is set. */
const lm_meta_entry *lm_tok_array(const lm_meta *arrays, const char *key, int elem, lm_err *err);

int lm_tok_is_done(const lm_tok_call *c, lm_err *err);          /* an error, or more ids than the limit */
int lm_tok_is_valid(const char *text, size_t n, lm_stop stop, lm_err *err);     /* UTF-8 */
size_t lm_tok_ascii(const char *text, size_t n);                /* bytes of ASCII at the front */

/* Build a vocabulary: room for at most so much, then token after token, by id; one without text is a hole. what is named
** in errors. */
void lm_tok_room(lm_tok *t, size_t n_tokens, size_t n_bytes, lm_err *err);
void lm_tok_add(lm_tok *t, const char *text, size_t n, const char *what, lm_err *err);
void lm_tok_trie(const lm_tok *t, lm_trie *trie, lm_err *err);  /* of all tokens there are */
void lm_tok_find_bytes(const lm_tok *t, int are_there, int32_t byte[256]);      /* the tokens <0x00> .. <0xFF>, or -1 */

/* A slot of a table from spellings to ids, by open addressing. The tag is the hash's upper half. */
typedef struct { uint32_t tag; int32_t id; } lm_tok_word;      /* id -1: a free slot */
size_t lm_tok_slots(size_t n);                                  /* 2^k, at most three quarters taken by n */

/*----------------------------------------------------------------------
** merge.c */
#define LM_NO_RANK UINT32_MAX

typedef struct {
    int32_t id;                         /* below 0: no token, or merged into the one before */
    uint32_t at;                        /* the caller's: where in the text it begins */
    uint32_t rank; int32_t makes;       /* of the pair that it begins */
    uint32_t prev, next;
} lm_symbol;

typedef struct lm_merge lm_merge;
struct lm_merge {
    lm_symbol *symbols; size_t n;       /* id and at are set; what is left is a list by next */
    /* The rank of a pair, or LM_NO_RANK, and what it makes. */
    uint32_t (*rank)(const lm_merge *m, size_t left, size_t right, int32_t *makes);
    const lm_tok *t;
    const char *text; size_t text_n;
};

void lm_merge_run(lm_merge *m, lm_stop stop, lm_err *err);

/*----------------------------------------------------------------------
** regex.c */
enum { LM_STOP_BYTES = 16384 };

typedef struct lm_regex lm_regex;

/* A pattern of ours that matches at least one character anywhere, and one of Oniguruma's; what is named in errors. */
lm_regex *lm_regex_new_anchored(const char *what, const char *pattern, lm_err *err);
lm_regex *lm_regex_new(const char *what, const char *pattern, size_t n, lm_err *err);
void lm_regex_free(lm_regex *re);

/* What matching needs beside the regex; one call to encode has one. Zeros may be ended. */
typedef struct {
    lm_stop stop;
    size_t asked, places;
    uint64_t steps, told, all, gone;    /* of all searches: so far, when stop was asked last, the most there may be; bytes
                                        ** gone through */
    uint64_t begun, most;               /* of a place: steps so far when it was begun, and the most for it */
    size_t place, last;                 /* where it is, and where the last item of the pattern began */
    void *general, *match, *context, *stack;
} lm_regex_run;

void lm_regex_begin(lm_regex_run *run, lm_stop stop, lm_err *err);
void lm_regex_end(lm_regex_run *run);

/* Match an anchored regex at at. Return the end of the match. */
size_t lm_regex_match(const lm_regex *re, lm_regex_run *run, const char *text, size_t at, size_t end, lm_err *err);

/* One match after another, as Oniguruma's users find them: an empty one does not follow another at once. */
typedef struct {
    const lm_regex *regex;
    lm_regex_run *run;
    const char *text; size_t at, end;
    int has_last; size_t last;          /* where the last match ended */
} lm_regex_finder;

int lm_regex_find(lm_regex_finder *f, size_t *from, size_t *to, lm_err *err);       /* 0: no more, or err */

/*----------------------------------------------------------------------
** pretok.c: a text cut into the pieces that byte-level BPE works on. */

typedef struct {
    const char *name;                   /* a value of tokenizer.ggml.pre */
    int pattern;                        /* which of pretok.c's patterns */
    int whole_words;                    /* a piece that is itself a token is that token, whatever the merges say */
    int add_bos;                        /* BOS goes before the text unless the metadata says otherwise */
} lm_pretok_row;

enum { LM_PRETOK_LEVELS = 4 };

typedef struct lm_pretok lm_pretok;

/* Find the row that tokenizer.ggml.pre names; no such key: "default". */
const lm_pretok_row *lm_pretok_find(const lm_meta *meta, lm_err *err);
lm_pretok *lm_pretok_new(const lm_pretok_row *row, lm_err *err);
void lm_pretok_free(lm_pretok *p);
const char *lm_pretok_gpt2(void);       /* GPT-2's pattern, for an anchored regex */
/* The white space at the end of nearly every published pattern, made linear; *n becomes what stands before it. */
const char *lm_pretok_tail(const char *pattern, size_t *n);
const char *lm_pretok_linear(const char *pattern, size_t n);    /* the same for a published one; NULL: it is not known */

/* One walk over one text: valid UTF-8 that stays the caller's. */
typedef struct {
    const lm_pretok *p;
    const char *text;
    size_t at[LM_PRETOK_LEVELS], end[LM_PRETOK_LEVELS];     /* the part each level still has to cut */
    int level;                          /* the deepest with a part left */
    size_t asked;                       /* where in the text stop was asked last */
    lm_regex_run run;
} lm_pretok_walk;

void lm_pretok_begin(lm_pretok_walk *w, const lm_pretok *p, const char *text, size_t n, lm_stop stop, lm_err *err);
int lm_pretok_next(lm_pretok_walk *w, const char **piece, size_t *n, lm_err *err);     /* 0: no more, or err */
void lm_pretok_end(lm_pretok_walk *w);

/*----------------------------------------------------------------------
** unicode.c */
int lm_uni_is_space(uint32_t cp);       /* White_Space */
int lm_uni_is_punctuation(uint32_t cp); /* ASCII's 32 signs, or P* */
int lm_uni_is_number(uint32_t cp);      /* N* */
int lm_uni_is_mark(uint32_t cp);        /* M* */
int lm_uni_is_control(uint32_t cp);     /* Cc, Cf, Co */
int lm_uni_is_word(uint32_t cp);
int lm_uni_lower(uint32_t cp, uint32_t out[2]);                 /* return how many */
int lm_uni_breaks(uint32_t before, uint32_t cp, int *state);    /* does a grapheme cluster end between? */
void lm_uni_append(lm_buf *out, uint32_t cp, lm_err *err);

enum { LM_FORM_COMPOSE = 1, LM_FORM_COMPAT = 2, LM_FORM_DROP_MN = 4 };     /* none: NFD */
void lm_uni_form(int flags, const char *text, size_t n, lm_buf *out, lm_stop stop, lm_err *err);

/*----------------------------------------------------------------------
** tokjson.c: a tokenizer.json. A member that is null counts as one that is not there. */
typedef struct {
    int kind;                           /* LM_JSON_* */
    size_t at;                          /* where its value begins in the file */
    size_t key, key_n, text, text_n;    /* in the tree's pool; key_n 0: an element of an array */
    size_t end;                         /* the number of the node after all of this one's */
    int64_t integer; double real;
} lm_node;

typedef struct { lm_node *nodes; size_t n, cap; lm_buf pool; } lm_tree;

const lm_node *lm_tree_child(const lm_tree *t, const lm_node *parent, const lm_node *before);   /* the next; NULL: no more */
const lm_node *lm_tree_find(const lm_tree *t, const lm_node *node, const char *key);            /* node may be NULL */
const char *lm_tree_value(const lm_tree *t, const lm_node *node, size_t *n);                    /* NULL: no text */
const char *lm_tree_text(const lm_tree *t, const lm_node *node, const char *key, size_t *n, lm_err *err);
int lm_tree_bool(const lm_tree *t, const lm_node *node, const char *key, int otherwise, lm_err *err);
int64_t lm_tree_int(const lm_tree *t, const lm_node *node, const char *key, int64_t otherwise, lm_err *err);
int lm_tree_is(const lm_tree *t, const lm_node *node, const char *key, const char *text);
const char *lm_tree_pattern(const lm_tree *t, const lm_node *node, size_t *n, int *is_regex, lm_err *err);
/* One part after another of what may be a Sequence of Sequences, whose parts are in the array list. */
const lm_node *lm_tree_next_part(const lm_tree *t, const lm_node *root, const lm_node *before, const char *list, lm_err *err);
void lm_tree_refuse(const lm_tree *t, const lm_node *node, const char *what, lm_err *err);      /* its type is not supported */

enum { LM_TOKJSON_ADDED, LM_TOKJSON_NORMALIZER, LM_TOKJSON_PRE_TOKENIZER, LM_TOKJSON_POST_PROCESSOR, LM_TOKJSON_DECODER,
       LM_TOKJSON_PARTS };

/* at: in texts; byte: in the file. */
typedef struct { uint32_t at, n, byte; int32_t id; double score; } lm_tokjson_piece;
typedef struct { uint32_t at, left_n, right_n, byte; } lm_tokjson_merge;    /* the right side follows the left */

typedef struct {
    lm_tree tree;
    size_t part[LM_TOKJSON_PARTS], model;               /* nodes; 0: not there */
    lm_buf texts;                       /* of pieces and merges */
    lm_tokjson_piece *pieces; size_t n_pieces, pieces_cap;
    lm_tokjson_merge *merges; size_t n_merges, merges_cap;
    int is_list, has_merges;            /* the vocabulary is an array, with scores; there are merges */
} lm_tokjson;

void lm_tokjson_read(lm_tokjson *f, const char *text, size_t n, lm_err *err);
const lm_node *lm_tokjson_part(const lm_tokjson *f, int part);             /* NULL: none */
int32_t lm_tokjson_unknown(const lm_tok *t, const lm_tokjson *f, lm_err *err);      /* the unknown token, or -1 */
void lm_tokjson_clear(lm_tokjson *f);
/* Set an error: the file, the byte and what is said of it; or say file and byte of one just set. */
void lm_tokjson_refuse(size_t at, lm_err *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
void lm_tokjson_blame(size_t at, lm_err *err);

/* A kind of model: encode takes a piece that the pre-tokenizer cut. */
typedef struct {
    lm_tok_family family;
    const char *type;                   /* as the file says */
    void (*open)(lm_tok *t, const lm_tokjson *f, lm_err *err);
} lm_tokjson_family;

extern const lm_tokjson_family lm_bpe_json_family, lm_wordpiece_family, lm_unigram_family;

/*----------------------------------------------------------------------
** normal.c */
typedef struct lm_normal lm_normal;
typedef struct { lm_buf buf[2]; lm_regex_run run; } lm_normal_scratch;     /* zeros at first */

lm_normal *lm_normal_new(const lm_tree *t, const lm_node *node, lm_err *err);      /* node NULL: does nothing */
void lm_normal_free(lm_normal *p);
/* Normalize valid UTF-8; what comes out is in scratch, until it is used again, or the text itself. */
void lm_normal_run(const lm_normal *p, lm_normal_scratch *scratch, const char **text, size_t *n, lm_stop stop, lm_err *err);
void lm_normal_scratch_clear(lm_normal_scratch *scratch);
/* Is there anything left of the text's first character? Else what comes out does not begin where the text does. */
int lm_normal_keeps_first(const lm_normal *p, lm_normal_scratch *scratch, const char *text, size_t n, lm_stop stop, lm_err *err);
int lm_normal_is_local(const lm_normal *p);     /* what it makes of a text is what it makes of the two parts of it, if the
                                                ** second begins with a space and the first ends with an ASCII letter */

/*----------------------------------------------------------------------
** split.c */
enum { LM_SPLIT_LEVELS = 8 };
enum { LM_MARK_NEVER, LM_MARK_FIRST, LM_MARK_ALWAYS };

typedef struct lm_split lm_split;

lm_split *lm_split_new(const lm_tree *t, const lm_node *node, int takes_bytes, lm_err *err);
void lm_split_free(lm_split *p);
int lm_split_drops_spaces(const lm_split *p);   /* a space is a piece's end, and part of none */
int lm_split_asks_first(const lm_split *p);     /* it makes a difference where a text begins */
int lm_split_is_bytes(const lm_split *p);       /* pieces are bytes that the vocabulary spells as characters */
int lm_split_scheme(const lm_tree *t, const lm_node *node, lm_err *err);   /* LM_MARK_* */
void lm_split_read_mark(const lm_tree *t, const lm_node *node, lm_buf *mark, lm_err *err);      /* append Metaspace's mark */

typedef struct { size_t from, to; int is_match; } lm_segment;

/* A stage at work: what it has yet to cut. */
typedef struct {
    const char *text; size_t n, at;
    int is_first;                       /* the text begins where the whole text does */
    lm_buf own, mapped;                 /* what the stage made of text, and of a piece */
    lm_segment peeked; int has_peeked;
    lm_regex_finder finder; size_t found_from, found_to; int has_found;
} lm_split_level;

/* One walk after another, over stretches of one text. */
typedef struct {
    const lm_split *p;
    const char *whole; size_t whole_n;  /* where there are no stages */
    lm_split_level levels[LM_SPLIT_LEVELS];
    int level;                          /* below 0: at the end */
    size_t work;                        /* bytes gone through since stop was asked */
    lm_stop stop;
    lm_regex_run *run;
} lm_split_walk;

void lm_split_begin(lm_split_walk *w, const lm_split *p, lm_stop stop, lm_regex_run *run);
void lm_split_start(lm_split_walk *w, const char *text, size_t n, int is_first, lm_err *err);
int lm_split_next(lm_split_walk *w, const char **piece, size_t *n, lm_err *err);    /* 0: no more, or err */
void lm_split_end(lm_split_walk *w);

/*----------------------------------------------------------------------
** added.c */
typedef struct lm_added lm_added;

/* Read the list of added tokens, behind a vocabulary of n_pieces, and add those that it lacks to t. */
lm_added *lm_added_new(lm_tok *t, const lm_tree *tree, const lm_node *list, int n_pieces, const lm_normal *normal, lm_err *err);
void lm_added_free(lm_added *a);
void lm_added_mark(const lm_added *a, lm_tok *t);               /* set their types */
int lm_added_has_normalized(const lm_added *a);
const char *lm_added_spelling(const lm_added *a, int32_t id, size_t *n);   /* normalized; NULL: not an added token that is */

typedef struct {
    const lm_added *a;
    const lm_tok *t;
    int normalized, all;                /* which of them; special ones too */
    const char *text; size_t n;
    const lm_span *spans; size_t n_spans;
    lm_stop stop;
    size_t search, at, span, asked;     /* where to look on, what is taken, the next span, where stop was asked */
    int has_pending; int32_t pending;   /* a token behind the stretch given last */
} lm_added_walk;

/* The next stretch of text (*id -1) or token. Return 0 at the end, or on err. */
int lm_added_next(lm_added_walk *w, size_t *from, size_t *to, int32_t *id, lm_err *err);

/*----------------------------------------------------------------------
** decode.c, pipe.c, and what bpe.c and spm.c have for others */

/* Fill in what every token adds to a text. */
void lm_decode(lm_tok *t, const lm_tree *tree, const lm_node *node, const lm_added *added, lm_err *err);

/* Read a tokenizer.json into t; where t has a family, and so a vocabulary, what stands around a model only. */
void lm_pipe_open(lm_tok *t, const char *json, size_t n, lm_err *err);
void lm_pipe_free(lm_pipe *p);
const lm_split *lm_pipe_split(const lm_pipe *p);
void lm_pipe_encode(lm_tok_call *c, const char *text, size_t n, const lm_tok_options *options, lm_err *err);
/* Encode valid UTF-8 without special tokens, of which encode does the pieces. */
void lm_pipe_encode_plain(lm_tok_call *c, const char *text, size_t n,
                          void (*encode)(lm_tok_call *c, const char *piece, size_t n, lm_err *err), lm_err *err);

uint32_t lm_bpe_char_of_byte(int byte); /* the character that spells a byte */
void lm_bpe_decode(lm_buf *text);       /* to bytes, in place; left as it is if a character of it spells none */
int lm_spm_byte_of(const char *text, size_t n);                 /* the byte that "<0xHH>" spells, or -1 */
void lm_spm_note_glued(uint8_t glued[256], const char *text, size_t n);     /* the bytes that stand before a U+2581 */

#endif

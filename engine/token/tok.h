/* tok.h: what the files of engine/token/ share: the vocabulary, and the pre-tokenizer.
**
** A tokenizer is immutable once built, so that threads may share it: whatever a call to encode needs beside
** it lives in that call. */
#ifndef LM_TOK_H
#define LM_TOK_H

#include "../lmint.h"

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
    uint64_t seed;                      /* of every hash here */
    uint32_t *specials; size_t n_specials;  /* ids of the special tokens, in the order of their spellings */
    uint8_t special_first[256];         /* 1: a special begins with this byte, 2: one that needs no asking does */
    int32_t bos, eos;
    int add_bos, add_eos;
    int add_space_prefix;               /* a space is put before each stretch of plain text */
};

/*----------------------------------------------------------------------
** tok.c */

/* Hash bytes. The seed differs from process to process, so that no file can be written to collide. */
uint64_t lm_tok_hash(uint64_t seed, const char *bytes, size_t n);

int lm_tok_is_special(const lm_tok *t, int32_t id);             /* spelled out in a text only where asked for */
int32_t lm_tok_find(const lm_tok *t, const char *text, size_t n);      /* by spelling; -1: none */

/* Find an array whose elements have the type given. NULL: none, or err is set. */
const lm_meta_entry *lm_tok_array(const lm_meta *arrays, const char *key, int elem, lm_err *err);

int lm_tok_stopped(lm_stop stop, lm_err *err);                  /* ask; on a yes set err to LM_INTERRUPT */

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
** pretok.c: a text cut into the pieces that byte-level BPE works on. */

typedef struct {
    const char *name;                   /* a value of tokenizer.ggml.pre */
    int pattern;                        /* which of pretok.c's patterns */
    int whole_words;                    /* a piece that is itself a token is that token, whatever the merges say */
    int add_bos;                        /* BOS goes before the text unless the metadata says otherwise */
} lm_pretok_row;

enum { LM_PRETOK_LEVELS = 4, LM_STOP_BYTES = 16384 };

typedef struct lm_pretok lm_pretok;

/* Find the row that tokenizer.ggml.pre names; no such key: "default". */
const lm_pretok_row *lm_pretok_find(const lm_meta *meta, lm_err *err);
lm_pretok *lm_pretok_new(const lm_pretok_row *row, lm_err *err);
void lm_pretok_free(lm_pretok *p);

/* One walk over one text: valid UTF-8 that stays the caller's. */
typedef struct {
    const lm_pretok *p;
    const char *text;
    size_t at[LM_PRETOK_LEVELS], end[LM_PRETOK_LEVELS];     /* the part each level still has to cut */
    int level;                          /* the deepest with a part left */
    size_t asked;                       /* where in the text stop was asked last */
    lm_stop stop;
    void *match, *context, *stack;      /* PCRE2's, of this walk */
} lm_pretok_walk;

void lm_pretok_begin(lm_pretok_walk *w, const lm_pretok *p, const char *text, size_t n, lm_stop stop, lm_err *err);
int lm_pretok_next(lm_pretok_walk *w, const char **piece, size_t *n, lm_err *err);     /* 0: no more, or err */
void lm_pretok_end(lm_pretok_walk *w);

#endif

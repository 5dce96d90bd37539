/* lmint.h: the map of the engine's inside.
**
** Floors, lowest first; each uses only those below it. The public half of every floor is in lm.h.
**
**     1 base     err mem utf8 sort pool digest hash json math   errors, memory, threads, hashes, JSON, functions
**     2 kern     quant encode pack kern (scalar avx2 vnni amx) number formats, packing, the kernel table
**               blas                               products of float matrices, for training
**     3 format   file reader meta gguf gguf_write safetensors hf     bytes of a file to a checked tensor list, and back
**     3 token    regex unicode trie                 what the others stand on
**               tok bpe spm merge pretok chat      text to ids and back: GGUF's vocabularies
**               tokjson pipe added normal split wordpiece unigram decode   and Hugging Face's
**     4 model    arch create model adapter kv prefix moe forward    what a model is, a new one, its cache, one pass through it
**     5 run      batch sample embed score           sequences advancing together; texts to vectors; how probable texts are
**     6 train    vocab                              a vocabulary from text
**               train grad attend experts contrast optim   parameters that learn: forward and back, AdamW
*/
#ifndef LMINT_H
#define LMINT_H

#include "../include/lm.h"

#include <math.h>

#define LM_MIN(a, b) ((a) < (b) ? (a) : (b))
#define LM_MAX(a, b) ((a) > (b) ? (a) : (b))
#define LM_COUNT(array) ((int)(sizeof(array) / sizeof (array)[0]))

/*======================================================================
** Floor 1: base */

/* mem.c */
int lm_mem_is_short(void);                          /* less than a sixteenth of the limit is left */

/* utf8.c */
int lm_utf8_step(const char *text, size_t n, uint32_t *cp);

/* hash.c: where a key goes in a hash table: unforeseeable, and another slot in every process. */
uint64_t lm_hash_bytes(const void *bytes, size_t n);
uint32_t lm_hash_pair(int32_t left, int32_t right);
uint64_t lm_hash_keyed(const uint64_t key[2], const void *bytes, size_t n);     /* SipHash-1-3 */

/* math.c: the same bits on every machine; errors stated there. */
double lm_log(double x);                            /* x > 0 */
double lm_pow(double x, double y);                  /* x > 0 */
void lm_sincos(double x, double *sine, double *cosine);     /* |x| < 2^30 */
double lm_uniform(uint64_t seed, uint64_t t);       /* the t-th number in [0, 1) of a seed's stream */
float lm_f16_to_f32(uint16_t h);
uint16_t lm_f32_to_f16(float x);                    /* to nearest, ties to even; NaN stays NaN */
uint16_t lm_f32_to_bf16(float x);                   /* likewise */
unsigned lm_fp_enter(void);                         /* default rounding, no FTZ or DAZ; return what was */
void lm_fp_leave(unsigned saved);

/* pool.c: run fn(arg, 0) .. fn(arg, n-1), each once, on the caller and the pool's workers. The pool is held
** only while items run; between slices of a few milliseconds it is given up and stop is asked. */
void lm_pool_run(void (*fn)(void *arg, int i), void *arg, int n, lm_stop stop, lm_err *err);

/*======================================================================
** Floor 2: kern, in kern/kern.h (only floors 2, 4, 5 and 6 include it) */

/*======================================================================
** Floor 3: format */

/* reader.c: stepping through bytes that may lie, of which only the first n of total are at hand yet. */
typedef struct {
    const uint8_t *bytes; size_t n, at;
    uint64_t total;
    int starved;                        /* a step wanted bytes past n that total promises */
    const char *name; size_t name_n;    /* what is being read, for messages; may be empty */
} lm_reader;

const uint8_t *lm_reader_take(lm_reader *r, uint64_t n, const char *what, lm_err *err);
void lm_reader_fail(const lm_reader *r, size_t at, lm_err *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
uint64_t lm_reader_le(const uint8_t *p, size_t n_bytes);        /* little-endian, n_bytes <= 8 */

/* meta.c */
lm_meta *lm_meta_read(lm_reader *r, const uint64_t *n_entries, lm_err *err);
void lm_meta_adopt(lm_meta *m, void *bytes);

/* file.c */
typedef struct { int fd, is_absent; uint64_t n; } lm_file;     /* is_absent: why it was not opened; n: bytes, when it was */
void lm_file_open(lm_file *f, const char *path, lm_err *err);   /* a regular file */
void lm_file_read(const lm_file *f, uint64_t at, uint8_t *dst, size_t n, lm_err *err);
void lm_file_close(lm_file *f);
void lm_file_fail(const char *doing, int number, lm_err *err);  /* "doing: what errno number means" */
void lm_file_blame(const char *path, lm_err *err);              /* put the path in front of a message */

/* gguf.c */
uint64_t lm_gguf_alignment(const lm_meta *meta, lm_err *err);

/*======================================================================
** Floor 3: token. One tokenizer family a file, behind this table. */

typedef struct lm_pipe lm_pipe;
typedef struct lm_tok_call lm_tok_call;

typedef struct {
    const char *kind;                   /* the value of tokenizer.ggml.model */
    /* Build t->family_data from the vocabulary, which tok.c has already read. */
    void (*open)(lm_tok *t, const lm_meta *meta, const lm_meta *arrays, lm_err *err);
    void (*close)(lm_tok *t);
    /* Append the ids of valid UTF-8 text, not empty, that holds no special token: the whole text, or what stands
    ** before, between or after such tokens. */
    void (*encode)(lm_tok_call *c, const char *text, size_t n, lm_err *err);
} lm_tok_family;

extern const lm_tok_family lm_bpe_family, lm_spm_family, lm_bert_family;

#endif

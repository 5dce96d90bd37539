/* lm.h: the language-model engine's whole interface.
**
** The engine reads model files, turns text into token ids and runs the model. It knows no SQL and no
** database: what it needs of its host (memory, a stop signal, a tensor's bytes) it asks for through the
** small structs below. Every function that can fail takes an lm_err last; if the error is already set it
** does nothing, so a chain of calls is checked once, at its end. A returned `const` pointer is borrowed
** from the object it came from; any other pointer is the caller's, to be freed by the paired verb.
** Nothing here is thread-local. Distinct objects may be used from distinct threads; an lm_model may be
** shared by any number of threads: it is immutable once open, but for what it keeps of prompts, under a lock. */
#ifndef LM_H
#define LM_H

#include <stddef.h>
#include <stdint.h>

#define LM_VERSION "0.1.0"

#define LM_TEXT_OF(x) #x
#define LM_TEXT(x) LM_TEXT_OF(x)        /* a number's macro as a literal */

/*----------------------------------------------------------------------
** Errors. code 0 is no error; msg says what, where and what was expected. */
enum { LM_OK, LM_ERROR, LM_NOMEM, LM_INTERRUPT };

typedef struct { int code; char msg[240]; } lm_err;

/* Set *err from a printf format, unless it is already set. Return LM_ERROR-like codes for `return`. */
int lm_err_set(lm_err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Put a text, which ends with ": ", in front of the message of an error that is set. */
void lm_err_blame(lm_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*----------------------------------------------------------------------
** The host: memory, settings and the stop signal. */

/* Make the engine allocate through these two. Call before anything else, and always with the same pair:
** memory taken from one pair is given back to it. alloc returns NULL when there is none. */
typedef struct {
    void *(*alloc)(uint64_t n_bytes);
    void (*free)(void *p);
} lm_mem_hook;
void lm_mem_hook_set(const lm_mem_hook *hook);

void *lm_alloc(size_t n_bytes, lm_err *err);                    /* 64-byte aligned, not cleared; n may be 0 */
void *lm_calloc(size_t n, size_t size, lm_err *err);            /* cleared; n * size checked for overflow */
void *lm_realloc(void *p, size_t n_bytes, lm_err *err);         /* on failure p stays valid */
/* Make room for `more` elements of the given size beyond n in an array that has room for *cap. Return 0 when there is none. */
int lm_grow(void **data, size_t n, size_t *cap, size_t more, size_t size, lm_err *err);
void lm_free(void *p);                                          /* takes NULL */
uint64_t lm_mem_used(void);                                     /* bytes held through the hook now */
uint64_t lm_mem_peak(void);                                     /* most ever held */
void lm_mem_limit_set(uint64_t n_bytes);                        /* 0: no limit; over it lm_alloc fails */
uint64_t lm_mem_limit(void);

/* Ask whether to go on. ask(arg) is called on the caller's thread only, with no engine lock held, at least
** every 5 ms; nonzero ends the call with LM_INTERRUPT. A NULL ask never stops. */
typedef struct {
    int (*ask)(void *arg);
    void *arg;
} lm_stop;
int lm_poll(lm_stop stop, lm_err *err);                         /* ask, if no error is set; return err->code */

int lm_threads(void);                                           /* threads a job uses, the caller's included */
void lm_threads_set(int n);                                     /* 1..64; 0: one per cpu of the process */
const char *lm_kernels(void);                                   /* "scalar", "avx2", "vnni" or "amx" */
const char *const *lm_libraries(void);                          /* what is linked in, by name and version; NULL ends */

/*----------------------------------------------------------------------
** Growing arrays, owned by whoever declares them; start from zeros, end with the clear. */
typedef struct { char *data; size_t n, cap; } lm_buf;           /* bytes, not terminated */
typedef struct { int32_t *data; size_t n, cap; } lm_ids;        /* token ids */

void lm_buf_append(lm_buf *buf, const void *bytes, size_t n, lm_err *err);
void lm_buf_print(lm_buf *buf, lm_err *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
void lm_buf_clear(lm_buf *buf);
void lm_ids_append(lm_ids *ids, int32_t id, lm_err *err);
void lm_ids_clear(lm_ids *ids);

/* Put numbers in the order of what they stand for; stable, n log n whatever the data. */
void lm_sort(uint32_t *index, size_t n, int (*compare)(const void *arg, uint32_t a, uint32_t b), const void *arg, lm_err *err);

/* BLAKE2b-256 (RFC 7693) of a stream of parts. */
enum { LM_DIGEST_BYTES = 32 };
typedef struct { uint64_t state[64]; } lm_digest;
void lm_digest_init(lm_digest *d);
void lm_digest_add(lm_digest *d, const void *bytes, size_t n);
void lm_digest_end(lm_digest *d, uint8_t out[LM_DIGEST_BYTES]);

/*----------------------------------------------------------------------
** JSON: a pull reader over text that stays the caller's. Depth is limited to 64; a duplicate key, a bad
** escape, bad UTF-8 and trailing text are errors that give the byte offset. */
enum { LM_JSON_END, LM_JSON_NULL, LM_JSON_BOOL, LM_JSON_INT, LM_JSON_REAL, LM_JSON_TEXT,
       LM_JSON_ARRAY, LM_JSON_OBJECT };

typedef struct {
    const char *text; size_t n, pos;    /* the input and how far it is read */
    size_t at;                          /* where the last value begins */
    int depth;
    uint64_t in_object, first;          /* a bit per depth: object or array; no member read yet */
    lm_buf key, string;                 /* the last key and string, unescaped, each with a NUL after its n bytes */
    int64_t integer; double real;       /* the last number, in both forms; integer also holds a bool */
    uint64_t object[64], n_objects;     /* the serial number of the object at each depth, and the last given */
    uint64_t *seen; size_t n_seen, seen_cap;    /* keys met so far: hashes of (object, key), open addressing */
} lm_json;

void lm_json_init(lm_json *j, const char *text, size_t n);
void lm_json_clear(lm_json *j);

/* Read the next value and return its kind. At the end of an array or object return LM_JSON_END and leave
** it. For ARRAY and OBJECT the following calls read its members (inside an object j->key is each member's
** key). At top level, after the one value, LM_JSON_END is the end of the text. On error set err and return
** LM_JSON_END. */
int lm_json_next(lm_json *j, lm_err *err);
void lm_json_skip(lm_json *j, int kind, lm_err *err);           /* pass over the value just begun */
void lm_json_quote(lm_buf *out, const char *text, size_t n, lm_err *err);    /* append "text", escaped */

/*----------------------------------------------------------------------
** Tensors and their number formats. The numbers are the GGUF specification's type codes. */
enum { LM_F32 = 0, LM_F16 = 1, LM_Q4_0 = 2, LM_Q4_1 = 3, LM_Q5_0 = 6, LM_Q5_1 = 7, LM_Q8_0 = 8, LM_Q2_K = 10,
       LM_Q3_K = 11, LM_Q4_K = 12, LM_Q5_K = 13, LM_Q6_K = 14, LM_IQ4_NL = 20, LM_BF16 = 30,
       LM_OTHER = -1 /* integers and such, in lists of tensors: no weights */ };

typedef struct {
    int id;
    const char *name;                   /* as in SQL: "q4_1" */
    int block;                          /* elements in a block */
    int bytes;                          /* bytes in a block */
    void (*decode)(const void *blocks, float *out, int64_t n);  /* exact; n is a multiple of block */
    void (*encode)(const float *x, void *out, int64_t n);       /* to nearest even; NULL: there is none */
    float limit;                        /* of what encode takes: numbers from here on would become infinity */
} lm_dtype;

const lm_dtype *lm_dtype_find(int id);                          /* NULL: no such type */
const lm_dtype *lm_dtype_find_name(const char *name);

/* Encode n numbers, whole blocks, each less than 65504 away from 0, with scales that are searched for; plain types to nearest. q4_1,
** q2_k, q3_k and iq4_nl are errors. The same bytes on every machine, whatever the threads. */
void lm_encode_blocks(const lm_dtype *type, const float *x, void *out, int64_t n, lm_stop stop, lm_err *err);

enum { LM_NAME_MAX = 63, LM_DIMS_MAX = 4 };

typedef struct {
    char name[LM_NAME_MAX + 1];
    int dtype;
    int n_dims;
    int64_t ne[LM_DIMS_MAX];            /* ne[0] is the contiguous one (columns); 1 beyond n_dims */
    int64_t n_params, n_bytes;
    int64_t at;                         /* where its entry stands in its GGUF file; 0: it is from no such file */
} lm_tensor;

/* Check dtype, n_dims and ne, and fill in n_params and n_bytes. */
void lm_tensor_measure(lm_tensor *t, lm_err *err);
/* Put the byte where a tensor's entry stands, if that is known, in front of a message about it. */
void lm_tensor_blame(const lm_tensor *t, lm_err *err);
/* May a tensor be called so? Names become part of SQL, messages and paths: nothing that any of them takes for syntax. */
int lm_tensor_is_name(const char *name, size_t n);
/* Are the numbers, or the scales, finite of the whole blocks that stand from offset on? */
void lm_tensor_check(const lm_tensor *t, int64_t offset, const void *bytes, int64_t n_bytes, lm_err *err);
/* Are n numbers, t's from element `first` on, less than limit away from 0, so that t's dtype can hold them? */
void lm_tensor_check_range(const lm_tensor *t, int64_t first, const float *x, int64_t n, float limit, lm_err *err);

/*----------------------------------------------------------------------
** Metadata: typed key-value pairs in GGUF's own encoding (key string, type, value; little-endian), kept
** verbatim. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
enum { LM_META_U8, LM_META_I8, LM_META_U16, LM_META_I16, LM_META_U32, LM_META_I32, LM_META_F32, LM_META_BOOL,
       LM_META_TEXT, LM_META_ARRAY, LM_META_U64, LM_META_I64, LM_META_F64 };

typedef struct lm_meta lm_meta;

typedef struct {
    const char *key; size_t key_n;      /* not terminated */
    int type;                           /* LM_META_* */
    int elem;                           /* the elements' type, for an array */
    uint64_t n;                         /* elements of an array, bytes of a text, else 1 */
    const uint8_t *data; size_t n_bytes;    /* the value's bytes (after an array's or text's length) */
    const uint8_t *raw; size_t raw_n;   /* the whole entry, key included */
} lm_meta_entry;

/* Parse n bytes that hold entries end to end, and nothing else. The bytes are copied. */
lm_meta *lm_meta_new(const void *bytes, size_t n, lm_err *err);
void lm_meta_free(lm_meta *m);
size_t lm_meta_count(const lm_meta *m);                                     /* m may be NULL */
const lm_meta_entry *lm_meta_at(const lm_meta *m, size_t i);                /* in file order */
const lm_meta_entry *lm_meta_find(const lm_meta *m, const char *key);       /* NULL: absent; m may be NULL */

/* Read one entry. Return 1 when it is there, 0 when it is not (*out stays as it was); set err when it has
** another type or does not fit. */
int lm_meta_int(const lm_meta *m, const char *key, int64_t *out, lm_err *err);
int lm_meta_real(const lm_meta *m, const char *key, double *out, lm_err *err);
int lm_meta_bool(const lm_meta *m, const char *key, int *out, lm_err *err);
int lm_meta_text(const lm_meta *m, const char *key, const char **out, size_t *n, lm_err *err);
/* In front of a message that begins with a key, say at which byte of its GGUF file the entry stands. */
void lm_meta_blame(const lm_meta *m, lm_err *err);
/* Append entries: n_bytes of a number, little-endian; "arch.key" (arch may be empty) and a type; a whole text. */
void lm_meta_put(lm_buf *out, uint64_t x, int n_bytes, lm_err *err);
void lm_meta_put_key(lm_buf *out, const char *arch, const char *key, int type, lm_err *err);
void lm_meta_put_text(lm_buf *out, const char *key, const char *text, size_t n, lm_err *err);

/* Walk an array of texts: *pos starts at 0; return 0 at the end. */
int lm_meta_next_text(const lm_meta_entry *e, size_t *pos, const char **out, size_t *n);

/*----------------------------------------------------------------------
** GGUF files, versions 2 and 3. The file is read with pread, never mapped: one that shrinks under us is
** an error, not a signal. */
typedef struct lm_gguf lm_gguf;

lm_gguf *lm_gguf_open(const char *path, lm_err *err);
void lm_gguf_close(lm_gguf *g);
const lm_meta *lm_gguf_meta(const lm_gguf *g);
int lm_gguf_n_tensors(const lm_gguf *g);
const lm_tensor *lm_gguf_tensor(const lm_gguf *g, int i);       /* in file order */
void lm_gguf_read(lm_gguf *g, int i, int64_t offset, void *dst, size_t n, lm_err *err);

/* Writing one, version 3. Metadata entries are written as given; the tensors' bytes follow in order, end to end. The
** file appears at path, whole and synced, when it is committed; until then its bytes are in another file beside
** it, which the free removes. A path that is taken is an error unless overwrite is set. */
typedef struct lm_gguf_writer lm_gguf_writer;

typedef struct {
    const void *meta[3]; size_t meta_n[3];      /* stretches of entries (lm_meta's form), written one after the other */
    const lm_tensor *tensors; int n_tensors;
} lm_gguf_content;

lm_gguf_writer *lm_gguf_create(const char *path, int overwrite, const lm_gguf_content *content, lm_err *err);
void lm_gguf_append(lm_gguf_writer *w, const void *bytes, size_t n, lm_err *err);
void lm_gguf_commit(lm_gguf_writer *w, lm_err *err);
void lm_gguf_writer_free(lm_gguf_writer *w);

/*----------------------------------------------------------------------
** Safetensors files. https://huggingface.co/docs/safetensors */
typedef struct lm_safetensors lm_safetensors;

lm_safetensors *lm_safetensors_open(const char *path, lm_err *err);
void lm_safetensors_close(lm_safetensors *s);
int lm_safetensors_n_tensors(const lm_safetensors *s);
const lm_tensor *lm_safetensors_tensor(const lm_safetensors *s, int i);         /* in the header's order */
int lm_safetensors_find(const lm_safetensors *s, const char *name);             /* -1: there is none */
void lm_safetensors_read(lm_safetensors *s, int i, int64_t offset, void *dst, size_t n, lm_err *err);

/* A Hugging Face folder, as what a GGUF file of the same model would hold (hf.c says what is translated). */
typedef struct lm_hf lm_hf;

lm_hf *lm_hf_open(const char *folder, lm_err *err);
void lm_hf_close(lm_hf *hf);
const lm_meta *lm_hf_meta(const lm_hf *hf);
int lm_hf_n_tensors(const lm_hf *hf);
const lm_tensor *lm_hf_tensor(const lm_hf *hf, int i);
void lm_hf_read(lm_hf *hf, int i, int64_t offset, void *dst, size_t n, lm_err *err);

/*----------------------------------------------------------------------
** Tokenizers. */
typedef struct lm_tok lm_tok;

enum { LM_TOK_NORMAL = 1, LM_TOK_UNKNOWN, LM_TOK_CONTROL, LM_TOK_USER, LM_TOK_UNUSED, LM_TOK_BYTE };

/* A stretch of the text that stands for a special token of that very spelling. */
typedef struct { size_t start, n; } lm_span;

typedef struct {
    int add_special;                    /* put what the model asks for about the text: BOS (unless specials begin with
                                        ** it) and EOS, or a tokenizer.json's template for one text */
    int parse_special;                  /* spellings of special tokens in the text become those tokens; else only those
                                        ** of added tokens that are not special do (LM_TOK_USER) */
    const lm_span *specials; size_t n_specials; /* ascending; these always become their tokens, where the
                                        ** vocabulary has one so spelled; else they are text */
} lm_tok_options;

/* Build the tokenizer that entries tokenizer.ggml.* describe: scalars from meta, arrays from arrays (they
** may be one and the same). Without a tokenizer.ggml.model it is that of the text tokenizer.huggingface.json in either, a
** tokenizer.json of Hugging Face's, with bos_token_id, eos_token_id and eog_token_ids (an array) from tokenizer.ggml.*
** as before; its truncation and padding are not applied. Return NULL without an error when there is none. */
lm_tok *lm_tok_new(const lm_meta *meta, const lm_meta *arrays, lm_err *err);
void lm_tok_free(lm_tok *t);

/* Append the ids of text to out. Invalid UTF-8 counts as U+FFFD, one per maximal invalid part. Linear in n.
** If limit > 0, stop early with no error once more than limit ids are there. */
void lm_tok_encode(const lm_tok *t, const char *text, size_t n, const lm_tok_options *options, size_t limit,
                   lm_stop stop, lm_ids *out, lm_err *err);

int lm_tok_count(const lm_tok *t);                              /* ids are 0 .. count-1 */
const char *lm_tok_kind(const lm_tok *t);                       /* GGUF: "gpt2" (byte-level BPE), "llama"
                                        ** (SentencePiece), "bert"; tokenizer.json: "bpe", "wordpiece", "unigram" */
int lm_tok_type(const lm_tok *t, int32_t id);                   /* LM_TOK_* */
const char *lm_tok_text(const lm_tok *t, int32_t id, size_t *n);    /* the vocabulary's own spelling */
const char *lm_tok_bytes(const lm_tok *t, int32_t id, size_t *n);   /* the bytes it adds to a text; specials: their
                                        ** spelling, or what a tokenizer.json's decoder makes of it */
double lm_tok_score(const lm_tok *t, int32_t id);               /* NaN: the vocabulary has none */
/* How many leading spaces of id come from the tokenizer rather than the text, where `before` (-1: nothing) precedes it. */
int lm_tok_drops_space(const lm_tok *t, int32_t before, int32_t id);
int32_t lm_tok_special(const lm_tok *t, const char *text, size_t n);    /* the special token so spelled, or -1 */
int32_t lm_tok_bos(const lm_tok *t);                            /* -1: none */
int32_t lm_tok_eos(const lm_tok *t);
int lm_tok_is_eog(const lm_tok *t, int32_t id);                 /* does it end a generation? */

/* Whole characters at the front of bytes that may still grow: the length of the longest prefix that ends
** with a complete (or provably invalid) UTF-8 sequence. */
size_t lm_utf8_complete(const char *text, size_t n);

/* Append text with every maximal invalid part replaced by U+FFFD. */
void lm_utf8_repair(lm_buf *out, const char *text, size_t n, lm_err *err);

/*----------------------------------------------------------------------
** A vocabulary learnt from text: byte-level BPE, cut by GPT-2's pattern (vocab.c says how). */
typedef struct lm_vocab lm_vocab;

lm_vocab *lm_vocab_new(lm_err *err);
void lm_vocab_free(lm_vocab *v);
/* Count the words of a text; no word spans two texts. Invalid UTF-8 counts as for lm_tok_encode. */
void lm_vocab_add(lm_vocab *v, const char *text, size_t n, lm_stop stop, lm_err *err);
/* Learn, once: until there are size tokens, at least the 256 bytes and an end token, or no pair of tokens occurs twice. */
void lm_vocab_train(lm_vocab *v, int size, lm_stop stop, lm_err *err);
size_t lm_vocab_n_words(const lm_vocab *v);                     /* different ones counted */
int lm_vocab_count(const lm_vocab *v);                          /* tokens; the last is "<|endoftext|>" */
const char *lm_vocab_piece(const lm_vocab *v, int32_t id, size_t *n);       /* the bytes that it adds to a text */
int lm_vocab_n_merges(const lm_vocab *v);                       /* in their order: merge i makes token 256 + i */
void lm_vocab_merge(const lm_vocab *v, int i, int32_t *left, int32_t *right);
void lm_vocab_write(const lm_vocab *v, lm_buf *meta, lm_err *err);          /* append it as GGUF's metadata */

/*----------------------------------------------------------------------
** Chat templates, by recognition: the families are known, there is no Jinja interpreter. */
typedef struct lm_chat lm_chat;         /* one family's row, static */

typedef struct { const char *role, *content; size_t role_n, content_n; } lm_message;

/* Recognise the family of a model's template text; NULL when it is none of ours. */
const lm_chat *lm_chat_recognise(const char *template_text, size_t n);
const lm_chat *lm_chat_find(const char *family);                /* by name; NULL: no such family */
const char *lm_chat_name(const lm_chat *chat);
const char *lm_chat_families(void);                             /* "chatml, …" for messages */

typedef struct {
    const char *template_text; size_t template_n;       /* the model's own; may be empty */
    const char *bos, *eos; size_t bos_n, eos_n;         /* the model's tokens as spelled; may be empty */
    const lm_message *messages; size_t n_messages;      /* roles system, user, assistant */
} lm_chat_talk;

typedef struct { lm_span *data; size_t n, cap; } lm_spans;

/* Append the prompt text of a conversation, up to where the answer begins, and, to spans, where the template's own
** special tokens are: no text of a message is ever in a span. A conversation that the family's templates refuse is an
** error. template_text supplies the default system message and a date. */
void lm_chat_render(const lm_chat *chat, const lm_chat_talk *talk, lm_buf *out, lm_spans *spans, lm_err *err);
void lm_spans_clear(lm_spans *spans);

/*----------------------------------------------------------------------
** Models. */
typedef struct lm_model lm_model;

/* The most that one may have. */
enum { LM_LAYERS_MAX = 512, LM_EMBD_MAX = 65536, LM_HEADS_MAX = 1024, LM_HEAD_DIM_MAX = 1024, LM_FF_MAX = 1 << 20,
       LM_VOCAB_MAX = 1 << 24, LM_CTX_MAX = 1 << 24, LM_EXPERTS_MAX = 1024, LM_TYPES_MAX = 1024 };

/* What a model is made of, as its owner describes it. read copies n bytes of tensor i from offset on; it is
** called on the caller's thread, tensor by tensor in the given order, each from front to back, each whole. */
typedef struct {
    const char *arch;
    const char *hparams; size_t hparams_n;          /* the JSON that lm_hparams_json wrote */
    const lm_tensor *tensors; int n_tensors;
    void (*read)(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err);
    void *arg;
} lm_source;

/* Translate GGUF metadata into the architecture's name and its hyper-parameters as a JSON object (the form
** that is stored and that lm_model_open reads), and check names and shapes of the tensors against them. */
const char *lm_arch_import(const lm_meta *meta, const lm_tensor *tensors, int n_tensors, lm_buf *hparams, lm_err *err);

const char *lm_arch_task(const lm_meta *meta);                  /* what it is for: "embed" or "generate" */

/* How many parameters a token meets: of experts those that it is sent to; of a table that is only looked up, a row. (The
** token embeddings, where they are the output too, all count.) */
int64_t lm_arch_n_active(const lm_meta *meta, const lm_tensor *tensors, int n_tensors);

/* A model to be made, for its metadata and first weights. What is 0 is worked out (create.c says how), but n_vocab. */
typedef struct {
    const char *arch;
    int n_layers, n_embd, n_heads, n_kv_heads, n_ff, n_ctx, n_vocab;
    int tie_embeddings;                             /* the output is the token embeddings */
    int share_layers;                               /* so many layers are stored, and taken in turn; 0: each its own */
    int n_experts, n_active;                        /* of each layer; what a token meets of them */
    uint64_t seed;
} lm_design;

/* Check a design, fill in what is 0, append its metadata, all but the tokenizer's, and list its tensors, all f32. */
lm_tensor *lm_design_list(lm_design *d, lm_buf *meta, int *n_tensors, lm_err *err);     /* to be lm_freed */
/* The first weights of a tensor of that list: elements [first, first + n). The same on every machine. */
void lm_design_fill(const lm_design *d, const lm_tensor *t, int64_t first, int64_t n, float *out);

/* Open the model that src describes. Return NULL on failure. The model owns its packed slabs; it borrows
** nothing from src. tok becomes the model's when it opens (and stays the caller's when it does not); NULL
** for a model without a tokenizer. */
lm_model *lm_model_open(const lm_source *src, lm_tok *tok, lm_stop stop, lm_err *err);
void lm_model_free(lm_model *m);
const lm_tok *lm_model_tok(const lm_model *m);
int lm_model_n_ctx(const lm_model *m);
int lm_model_is_encoder(const lm_model *m);                     /* it embeds, and generates nothing */
uint64_t lm_model_bytes(const lm_model *m);                     /* packed weights and tokenizer */
int lm_model_forget(lm_model *m);                               /* give up what is kept of prompts; 0: there was nothing */

/*----------------------------------------------------------------------
** Adapters (Hu et al. 2021): for some matrices W of a model's layers, W x + alpha / rank * B (A x) in the place of W x. */
typedef struct {
    int rank; double alpha;
    const lm_tensor *tensors; int n_tensors;        /* f32: "<matrix>.lora_a", of rank rows, and "<matrix>.lora_b", of rank columns */
    float *const *data;                             /* of each tensor, row by row */
} lm_adapter;

/* A model that shares the weights of base, which must outlive it, and has an adapter's beside them. Every name and shape is
** checked against base's. Borrows nothing of the adapter. What the one model keeps of prompts is not the other's. */
lm_model *lm_model_adapt(const lm_model *base, const lm_adapter *a, lm_err *err);

/* The same check, against the model that src describes. */
void lm_adapter_check(const lm_source *src, const lm_adapter *a, lm_err *err);

/* For merging: is there something to add to the matrix called so? Add it to its values, from element `first` on. */
int lm_adapter_has(const lm_adapter *a, const char *matrix);
void lm_adapter_add(const lm_adapter *a, const char *matrix, int64_t first, int64_t n, float *values);

/*----------------------------------------------------------------------
** Embeddings: a text's vector, pooled from the last hidden states of its tokens. */
enum { LM_POOL_MEAN, LM_POOL_CLS, LM_POOL_LAST };       /* of all tokens, the first, the last */

typedef struct {
    int pooling;                        /* LM_POOL_* */
    int normalize;                      /* to length 1 */
    int dimensions;                     /* the leading so many, before normalising; 0: all */
} lm_embed_options;

int lm_model_n_embd(const lm_model *m);
int lm_model_n_text(const lm_model *m);                         /* the most tokens that a text may have */
int lm_model_pooling(const lm_model *m);                        /* LM_POOL_*: what the model was trained for */

/* Write the vectors of n texts, each of 1 to n_text ids, to out (n, dimensions). Texts are packed side by side; a vector
** does not depend on its company. */
void lm_embed(lm_model *m, const lm_ids *texts, int n, const lm_embed_options *options, float *out, lm_stop stop, lm_err *err);

/*----------------------------------------------------------------------
** Generation. A batch holds any number of sequences of one model and advances them together, so many at a time as there
** is room for; what a sequence yields does not depend on its company, on thread count or on kernel set. What several
** prompts begin with is computed once, also where they come in different batches (the model keeps what it has read, up to
** an eighth of the memory limit, or 64 MiB); equal prompts with equal options are computed once altogether. */
typedef struct lm_batch lm_batch;

typedef struct {
    int max_tokens;                     /* >= 0 */
    double temperature;                 /* 0: greedy */
    int top_k;                          /* 0: off */
    double top_p, min_p;                /* 1 and 0: off */
    double repeat_penalty;              /* 1: off; over the last 64 ids, prompt included */
    uint64_t seed;                      /* draw t depends on (seed, t) alone */
    const char *const *stops; const size_t *stop_ns; int n_stops;   /* borrowed for the batch's life */
    int want_logprob;                   /* fill lm_token.logprob */
    int ignore_eog;                     /* go on past end-of-generation tokens (benchmarks) */
} lm_gen_options;

enum { LM_FINISH_NONE, LM_FINISH_EOS, LM_FINISH_STOP, LM_FINISH_LENGTH, LM_FINISH_CONTEXT };
const char *lm_finish_name(int finish);

typedef struct {
    int seq;                            /* which sequence, as lm_batch_add numbered it */
    int32_t id;
    double logprob;                     /* ln p under the model, before temperature and filters */
    const char *piece; size_t piece_n;  /* whole characters, safe from every stop text; until the next call */
    int finish;                         /* not LM_FINISH_NONE on a sequence's last token */
} lm_token;

lm_batch *lm_batch_new(lm_model *m, lm_err *err);               /* the model must outlive it */
void lm_batch_free(lm_batch *b);

/* Add a sequence that continues ids; at any time. A prompt that fills the context is an error that names both lengths;
** so is an empty one. Return its number, the lowest (0, 1, …) that is free, or -1. */
int lm_batch_add(lm_batch *b, const int32_t *ids, size_t n, const lm_gen_options *options, lm_err *err);

/* Give up a sequence, ended or not: its number is free again. */
void lm_batch_drop(lm_batch *b, int seq);

/* Produce the next token of some sequence. Return 1 with *out filled, 0 when every sequence has ended, -1
** on error; then the batch is good for nothing but to be freed. */
int lm_batch_next(lm_batch *b, lm_stop stop, lm_token *out, lm_err *err);

/* How a sequence ended when it did so without a token (max_tokens 0): LM_FINISH_LENGTH, else as given. */
int lm_batch_finish(const lm_batch *b, int seq);

/*----------------------------------------------------------------------
** Scoring: how probable given ids are, each after those before it. What a sequence yields depends, like an answer, on
** nothing but its ids; what several begin with is computed once. Logits are held for a few positions at a time. */
typedef struct lm_scorer lm_scorer;

typedef struct {
    int window, stride;                 /* of sequences longer than the window; 0: the context, half of the window */
    int details;                        /* fill rank, top and entropy */
} lm_score_options;

typedef struct {
    int seq;                            /* which sequence, as lm_scorer_add numbered it */
    size_t pos; int32_t id;             /* of the id that is scored */
    double logprob;                     /* ln p(id), as lm_token's */
    int rank;                           /* 1: it is the most probable; ties go to the lowest id */
    int32_t top;                        /* the most probable */
    double entropy;                     /* of what could stand here: -sum of p ln p */
} lm_score;

lm_scorer *lm_scorer_new(lm_model *m, const lm_score_options *options, lm_err *err);    /* the model must outlive it */
void lm_scorer_free(lm_scorer *s);

/* Add a sequence (copied) of which ids first .. n-1 are to be scored, first >= 1. Return its number, or -1. One of more ids
** than the window is read in windows that overlap: each begins with the first `lead` ids (lead <= first), the next one
** stride ids later, and scores what no window before it did, so that an id has at least window - stride ids before it. */
int lm_scorer_add(lm_scorer *s, const int32_t *ids, size_t n, size_t lead, size_t first, lm_err *err);

/* Give the next score: sequences in the order they were added, positions ascending. Return 1 with *out filled, 0 when
** there is none left, -1 on error. */
int lm_scorer_next(lm_scorer *s, lm_stop stop, lm_score *out, lm_err *err);

/* How far model b is from model a, of the same vocabulary: the mean over the positions of n texts, each of 1 to 256 ids, of the sum of
** p ln (p / q) over what may come next, p being a's. */
double lm_divergence(lm_model *a, lm_model *b, const lm_ids *texts, int n, lm_stop stop, lm_err *err);

double lm_exp(double x);                /* the same bits on every machine */
uint64_t lm_random_at(uint64_t seed, uint64_t t);       /* the t-th number of a seed's stream: SplitMix64 (Steele et al. 2014) */
void lm_softmax(double *x, int n);      /* ln p, less a constant, to shares of 1 */

/*----------------------------------------------------------------------
** Training. A trainer holds a model's parameters as float32, with their gradients and AdamW's two moments (16 bytes a
** parameter), and moves them down the gradient of the mean of -ln p(next id). It begins with the tensors of a source, whatever
** their number format, under the same names and shapes. With lora_rank > 0 the source's tensors stay as they are, and what is
** trained instead is an adapter: for each matrix W of the layers that lora_targets names, A and B, with W x + (alpha / rank)
** B (A x) in the place of W x.
**
** Results do not depend on the number of threads, and a run that is taken up again from values, moments and step count
** goes on bit for bit as if it had never stopped, where lm_train_math() says the same: nothing else has a state. */
typedef struct lm_trainer lm_trainer;

typedef struct {
    int batch_tokens;                   /* most tokens computed at once; what activations are sized for; 0: 4096 */
    int recompute;                      /* keep only what enters each layer and compute the rest twice */
    double beta1, beta2, eps;           /* of AdamW (Loshchilov and Hutter 2017) */
    double weight_decay;
    int decay_all;                      /* of every parameter; else of matrices only */
    double clip;                        /* of the gradients' norm over all parameters; 0: off */
    double dropout;                     /* of embeddings and of what each half layer adds; 0: off */
    uint64_t seed;                      /* of dropout (which depends on step and place alone) and of a new adapter's A */
    int lora_rank;                      /* 0: train all parameters */
    double lora_alpha;                  /* 0: the rank */
    const char *lora_targets;           /* comma-separated: q k v o gate up down; NULL: "q,k,v,o,gate,up,down". Where q, k and
                                        ** v are one tensor (gpt2) each means all three; experts have no adapters */
    double balance;                     /* of experts: how much the uneven use of them adds to what is minimised; 0: nothing */
    double temperature;                 /* of pairs: what cosines are divided by; 0: 0.05 */
} lm_train_options;

/* What the trainer will hold at most, in bytes; lm_trainer_new checks the same figure against the memory limit before it
** allocates. Of a llama that is 16 for each trained parameter (a frozen one as it is stored); for each of batch_tokens and
** each layer 4 x (4 n_embd + 2 n_heads head_dim + 2 n_kv_heads head_dim + 3 n_ff), with recompute 4 x n_embd but for one
** layer; for each of batch_tokens once about 4 x (10 n_embd + 5 n_ff + what a layer has of q, k and v); a part of the
** logits, 32 MB at most; and of weights that are being multiplied the largest matrix, or 16 million of the head's. With
** experts n_ff counts n_active times. */
uint64_t lm_trainer_bytes(const lm_source *src, const lm_train_options *options, lm_err *err);

/* Check the source as lm_model_open does, then read its tensors. Return NULL on failure; an architecture that cannot be
** trained is an error that says so. Borrows nothing. */
lm_trainer *lm_trainer_new(const lm_source *src, const lm_train_options *options, lm_stop stop, lm_err *err);
void lm_trainer_free(lm_trainer *t);

/* What is trained, in the source's order (an adapter's: after their matrix, "<name>.lora_a" (rank rows) and "<name>.lora_b"),
** as f32: n_params floats row after row. LM_TRAIN_VALUE, M and V are what a checkpoint must hold, beside the step count. They
** may be written between steps (to resume, to go back to the best), and are the trainer's. */
enum { LM_TRAIN_VALUE, LM_TRAIN_GRAD, LM_TRAIN_M, LM_TRAIN_V };
int lm_trainer_n_tensors(const lm_trainer *t);
const lm_tensor *lm_trainer_tensor(const lm_trainer *t, int i);
float *lm_trainer_data(lm_trainer *t, int i, int what);
int64_t lm_trainer_step_count(const lm_trainer *t);             /* steps taken */
void lm_trainer_step_count_set(lm_trainer *t, int64_t n);       /* with the moments of that step */

/* Sequences to learn from. Each attends to itself alone, from position 0; every id but its first is a target. */
typedef struct {
    const int32_t *ids;                 /* all sequences' ids, end to end */
    const float *weights;               /* of each id as a target, >= 0: 0 for a prompt's; NULL: all 1 */
    const int *lengths; int n;          /* of the sequences, each 1 to the lesser of n_ctx and batch_tokens */
} lm_train_batch;

typedef struct {
    double loss;                        /* sum of weight * -ln p / sum of weights */
    double weight;                      /* sum of weights */
    double grad_norm;                   /* before clipping */
    double balance;                     /* of experts: 1 where all are used alike, more where not (Fedus et al. 2021); 0: none */
} lm_train_result;

/* Take one step with learning rate lr down the gradient of the batch's loss, in as many parts as batch_tokens wants. A batch
** without a target, a bad id or length, a loss or gradient that is not finite is an error, with every value and moment as it
** was. After LM_INTERRUPT the trainer is good for nothing but to be freed. */
void lm_trainer_step(lm_trainer *t, const lm_train_batch *batch, double lr, lm_train_result *out, lm_stop stop, lm_err *err);

/* The loss alone (no dropout, grad_norm 0); and the loss and its gradients, which LM_TRAIN_GRAD then shows. */
void lm_trainer_loss(lm_trainer *t, const lm_train_batch *batch, lm_train_result *out, lm_stop stop, lm_err *err);
void lm_trainer_gradients(lm_trainer *t, const lm_train_batch *batch, lm_train_result *out, lm_stop stop, lm_err *err);

/* Pairs of texts that belong together. The loss is InfoNCE (van den Oord et al. 2018) with the batch's other texts as negatives
** (Henderson et al. 2017), in both directions: half the mean of -ln softmax(cosines of a_i with every b / temperature)[i], and
** half that of b_i with every a. Vectors are pooled as the model pools, and of length 1. Any model that embeds can learn so. */
typedef struct {
    const int32_t *ids;                 /* of all texts, end to end */
    const int *lengths; int n;          /* of a_0, b_0, a_1, b_1, …; pairs: 2 to the lesser of 1024 and half of batch_tokens */
} lm_pair_batch;

/* As the three above; a result's weight is the number of pairs. A batch of more than batch_tokens is computed twice. */
void lm_trainer_pair_step(lm_trainer *t, const lm_pair_batch *pairs, double lr, lm_train_result *out, lm_stop stop, lm_err *err);
void lm_trainer_pair_loss(lm_trainer *t, const lm_pair_batch *pairs, lm_train_result *out, lm_stop stop, lm_err *err);
void lm_trainer_pair_gradients(lm_trainer *t, const lm_pair_batch *pairs, lm_train_result *out, lm_stop stop, lm_err *err);

/* The learning rate of step `step` (from 0) of n_steps: up in a straight line over n_warmup steps, then constant, or down
** half a cosine towards 0. */
typedef struct { double lr; int64_t n_warmup, n_steps; int cosine; } lm_schedule;
double lm_schedule_rate(const lm_schedule *s, int64_t step);

const char *lm_train_math(void);        /* how sums are worked out, which results depend on; for lm_run to record */

#endif

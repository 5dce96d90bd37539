/* ext.h: the map of the SQL side.
**
**     ext.c          what is registered, and the entry point
**     conn.c         what a connection keeps: cached statements, models in use, the stop signal
**     value.c        between sqlite3_value and the engine; errors
**     options.c      JSON options, a table per function
**     store.c        models as rows: look-up, reading and checking
**     write.c        all or nothing
**     import.c       a GGUF file or a folder, or a model made here, to rows
**     export.c       rows to a GGUF file
**     cells.c        one tensor's numbers, read and written by place
**     share.c        one copy of a model per process
**     adapter.c      adapters as rows
**     train_*.c      lm_train (train.h is their map)
**     memo.c         answers given before
**     prompt.c       from a prompt and its options to token ids
**     embed.c        from texts and their options to vectors
**     index.c        what a semantic index keeps, and searching it
**     query.c        queries that are given as arguments
**     func_*.c       scalar functions, by noun
**     window.c       embed_batch and generate_batch, over a frame of rows
**     window_text.c  whether they are called over a frame that can be right
**     vtab.c         what they share
**     vtab_*.c       virtual tables, one each */
#ifndef LM_EXT_H
#define LM_EXT_H

#define _GNU_SOURCE
#ifdef SQLITE_CORE
#include <sqlite3.h>
#else
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT3
#endif

#include "../include/lm.h"

#include <string.h>

#define LM_COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/*======================================================================
** conn.c */
typedef struct lm_shared lm_shared;         /* share.c: a model in memory */
typedef struct lm_memo lm_memo;

typedef struct { char *schema, *name; sqlite3_int64 id; uint8_t edit[8]; lm_shared *model; } lm_use;
typedef struct { char *schema; sqlite3_stmt *model, *setting; } lm_lookup;

/* Belongs to one connection, and is used under its mutex. */
typedef struct lm_conn {
    sqlite3 *db;
    int refs;                               /* functions and modules registered with it */
    uint64_t serial;                        /* tells connections of a process apart */
    int anchored;                           /* lm_loaded is connected and will finalise the statements */
    sqlite3_stmt *ask, *ask_long;           /* the stop signal's */
    lm_lookup *lookups; int n_lookups;      /* a model's row, a task's default; per schema */
    int is_finding;                         /* they are being stepped */
    int depth;                              /* of steps of statements, each within a function that another one calls */
    int64_t asked_ns, asked_long_ns;
    lm_use *uses; int n_uses;               /* models this connection has used, as it last saw them */
    lm_memo *memo;
} lm_conn;

lm_conn *lm_conn_new(sqlite3 *db);
void lm_conn_ref(lm_conn *c);
void lm_conn_unref(void *c);                /* a destructor for sqlite3_create_*_v2 */
void lm_conn_finalise(lm_conn *c);          /* the cached statements; lm_loaded's xDisconnect */
void lm_conn_forget(lm_conn *c);            /* of these the look-ups */
lm_stop lm_conn_stop(lm_conn *c);           /* sees interrupt and progress handlers */

/* Prepare a statement from a printf format. Errors go to err. */
sqlite3_stmt *lm_conn_prepare(lm_conn *c, lm_err *err, const char *format, ...);
/* Prepare one that the connection keeps, in *kept, until it closes. */
sqlite3_stmt *lm_conn_keep(lm_conn *c, sqlite3_stmt **kept, const char *sql, lm_err *err);
/* Step: 1 for a row, 0 at the end, and 0 with err set on failure. What is read may be a view of a hostile schema, and call our
** functions, which step statements: deep, that is an error. */
int lm_conn_step(lm_conn *c, sqlite3_stmt *stmt, lm_err *err);
void lm_conn_exec(lm_conn *c, lm_err *err, const char *format, ...);
/* Refuse a function that writes, or sets what holds for the process, inside a statement that writes. There SQLite refuses
** savepoints; and there a CHECK of a hostile schema may be what calls, which DIRECTONLY (to 3.53) does not hold back. */
void lm_conn_alone(lm_conn *c, const char *function, lm_err *err);
sqlite3_stmt *lm_conn_next_busy(lm_conn *c, sqlite3_stmt *before);      /* the statements that are running; NULL: first, no more */
void lm_conn_fail(lm_conn *c, lm_err *err);     /* set err from the connection's last error */
/* Must a SELECT of this connection not write to schema, unless a transaction is open? (It is a dqlite node's.) */
int lm_conn_must_begin(lm_conn *c, const char *schema);
void lm_conn_check_begun(lm_conn *c, const char *function, const char *schema, lm_err *err);   /* then it is an error */
/* An lm_err.code for SQLite's result codes that say more than SQLITE_ERROR: LM_SQLITE + SQLITE_BUSY and so on. The caller
** of our functions gets them as they are. */
enum { LM_SQLITE = 0x10000 };
int lm_conn_code(int rc);

/*======================================================================
** value.c */
typedef struct { const char *text; size_t n; } lm_text;     /* borrowed from an sqlite3_value */

/* Report err as the function's result. */
void lm_result_error(sqlite3_context *ctx, const lm_err *err);
int lm_error_code(const lm_err *err);                       /* SQLite's */
/* Read a text argument (numbers count as their text). Return 0 for NULL; a BLOB is an error. */
int lm_value_text(sqlite3_value *value, lm_text *out, const char *what, lm_err *err);
const void *lm_value_blob(sqlite3_value *value, lm_err *err);       /* its bytes; NULL: none, or err is set */
const char *lm_column_text(sqlite3_stmt *stmt, int i, lm_err *err); /* NULL: SQL's, or err is set */
const void *lm_column_stamp(sqlite3_stmt *stmt, int i);             /* an edit stamp, 8 bytes; NULL: it is none */
char *lm_text_copy(const char *text, lm_err *err);                  /* to be sqlite3_freed */
/* Copies. A function that writes says first what it is to answer: where there is no memory for that, no statement that
** follows runs either, and nothing is written. */
void lm_result_text(sqlite3_context *ctx, const char *text, size_t n);
/* A model's name as every function finds it: with its database's, unless that is main. */
void lm_result_model(sqlite3_context *ctx, const char *schema, const char *name);

/*======================================================================
** options.c */
enum { LM_OPT_INT, LM_OPT_REAL, LM_OPT_BOOL, LM_OPT_TEXT, LM_OPT_TEXTS, LM_OPT_JSON /* a text or an object, as JSON text */ };

enum { LM_OPT_WORD = 2 /* what a BOOL becomes that is its word */ };

typedef struct {
    const char *name;
    int type;
    size_t at;                              /* offset of int, double, int, char * or lm_texts in the struct */
    double min, max;                        /* of a number */
    const char *words;                      /* "a|b|c": what a text may be; NULL: anything. A BOOL may be this word, too */
} lm_option;

typedef struct { char **items; size_t *ns; int n; } lm_texts;
void lm_texts_append(lm_texts *t, lm_text text, lm_err *err);       /* a copy, with a NUL behind it */
void lm_texts_clear(lm_texts *t);

/* Read JSON options into a struct that holds the defaults, by a table that ends with a NULL name. Texts are
** allocated, to be freed by lm_options_clear. NULL json changes nothing. given, if not NULL, gets a bit per
** table row that was there. */
void lm_options_read(const lm_option *table, void *into, sqlite3_value *json, uint64_t *given, lm_err *err);
void lm_options_parse(const lm_option *table, void *into, lm_text json, uint64_t *given, lm_err *err);    /* the same */
int lm_options_given(const lm_option *table, uint64_t given, size_t at);    /* the bit of the row with that offset */
void lm_options_clear(const lm_option *table, void *options);
int lm_options_null(const char *on_error, const lm_err *err);       /* does option "on_error" make this error NULL? */
int lm_distance(const char *a, const char *b);      /* Levenshtein's (1966), between two names; 99 for long ones */

/*======================================================================
** store.c */
enum { LM_FORMAT = 1, LM_CHUNK_BYTES = 4 << 20 };

typedef struct {
    char *schema, *name;                    /* owned */
    sqlite3_int64 id;
    uint8_t edit[8];
} lm_found;

/* Find the model that name means; where it is NULL, the default for a task, "generate" or "embed". Of tasks "a|b" the
** second counts where there is no model for the first. */
void lm_store_find(lm_conn *c, const char *name, const char *tasks, lm_found *out, lm_err *err);
void lm_found_set(lm_found *f, const char *schema, const char *name, sqlite3_int64 id, lm_err *err);    /* copies */
void lm_found_clear(lm_found *f);

/* Read a model's rows and check every digest; digest gets the root of what was read. The rows may become a model. */
void lm_store_read(lm_conn *c, const lm_found *f, uint8_t digest[LM_DIGEST_BYTES], lm_err *err);
lm_model *lm_store_build(lm_conn *c, const lm_found *f, uint8_t digest[LM_DIGEST_BYTES], lm_err *err);

/* The same rows as a source, which use must read whole, tensor by tensor from front to back; all of it is use's until it
** returns. Only then are the rows known to be what their digest says. */
typedef struct {
    lm_source source;
    const void *meta; size_t meta_n;
    const lm_buf *arrays;                   /* the tokenizer's; may be empty */
} lm_stored;
void lm_store_use(lm_conn *c, const lm_found *f, void (*use)(void *arg, const lm_stored *m, lm_err *err), void *arg,
                  uint8_t digest[LM_DIGEST_BYTES], lm_err *err);

/* The root digest, part by part (store.c's head has the order), and digests on their own. */
void lm_root_init(lm_digest *root);
void lm_root_part(lm_digest *root, const void *bytes, size_t n);
void lm_root_text(lm_digest *root, const char *text);
void lm_root_tensor(lm_digest *root, const lm_tensor *t);
void lm_hash(const void *bytes, size_t n, uint8_t out[LM_DIGEST_BYTES]);
void lm_hex(const uint8_t digest[LM_DIGEST_BYTES], char out[2 * LM_DIGEST_BYTES + 1]);
void lm_shape_json(const lm_tensor *t, char *out, size_t n);
void lm_shape_read(lm_tensor *t, const char *json, size_t n, lm_err *err);
/* Read and check "name, dtype, shape, n_params, n_bytes" of lm_tensor, from a statement's column `at` on. */
void lm_tensor_row_read(lm_tensor *t, const char *model, sqlite3_stmt *stmt, int at, lm_err *err);

/* Does schema hold models? An unknown format version is an error. */
int lm_store_exists(lm_conn *c, const char *schema, lm_err *err);
void lm_store_check_schema(lm_conn *c, const char *schema, lm_err *err);    /* is it attached? */
int lm_store_has_training(lm_conn *c, const char *schema, lm_err *err);      /* or was it made by an earlier version? */
/* Create the tables in schema if they are missing, or some of them; or without looking first, which would take a lock for reading. */
void lm_store_create(lm_conn *c, const char *schema, lm_err *err);
void lm_store_lay(lm_conn *c, const char *schema, lm_err *err);

/*======================================================================
** write.c: a savepoint around what a function writes. */
typedef struct {
    lm_conn *c;
    sqlite3_stmt *abandon;
    int is_open, is_outermost;              /* outermost: of no transaction of the caller's */
} lm_write;
/* Where SQLite refuses one (inside an INSERT), the error tells how to call the function. The first statement writes: SQLite waits
** for another's lock (busy_timeout) only where there is none for reading yet. */
void lm_write_begin(lm_write *w, lm_conn *c, const char *function, const char *schema, lm_err *err);
void lm_write_end(lm_write *w, lm_err *err);                    /* keep what was written; or, with err set, none of it */
/* Run a statement that inserts or updates, and reset it. Interrupts are looked for first: one that strikes inside SQLite's own
** write rolls back the caller's whole transaction. */
void lm_write_step(lm_conn *c, sqlite3_stmt *stmt, lm_err *err);
/* The same for one that gives, by RETURNING or after it, whether the row is now as it was to be: it must be. */
void lm_write_sure(lm_conn *c, sqlite3_stmt *stmt, lm_err *err);
void lm_write_ignored(lm_err *err);                             /* set the error of a write that an authorizer ignores */

/*======================================================================
** import.c: the GGUF file or Hugging Face folder at path as rows, in one transaction; its matrices as dtype, unless that
** is NULL. */
void lm_import(lm_conn *c, const char *path, const char *schema, const char *name, const char *dtype, lm_err *err);
const char *lm_path_tail(const char *path, size_t *n);      /* the last name in it, *n bytes */

/* A model that was made here, in place of one that is read; tensors are read in order, from front to back. */
typedef struct {
    const char *function;                   /* whose work it is: for messages, and for lm_model.source */
    const lm_meta *meta;
    const lm_tensor *tensors; int n_tensors;
    void (*read)(void *arg, int i, int64_t offset, void *dst, size_t n, lm_err *err);
    void *arg;
} lm_made;
void lm_import_made(lm_conn *c, const lm_made *made, const char *schema, const char *name, lm_err *err);
/* May a model be called so? Is this a place to write one in? Asked before long work; importing asks again. */
void lm_import_check(lm_conn *c, const char *function, const char *schema, const char *name, lm_err *err);

/*======================================================================
** export.c: a model's rows as a GGUF file at path, which must not be there unless overwrite says so. */
#define LM_LABEL_KEY "sqlite_lm.label_format"               /* of a file: what lm_model.info has as label_format, JSON */
void lm_export(lm_conn *c, const lm_found *f, const char *path, int overwrite, lm_err *err);

/*======================================================================
** cells.c: the numbers of one stored tensor, by place, in whatever format they stand. */
typedef struct {
    lm_conn *c;
    lm_found f;                             /* the model; owned */
    sqlite3_int64 tensor;                   /* lm_tensor.id */
    lm_tensor t;
    const lm_dtype *type;
    int64_t rows, cols;                     /* any dimensions beyond the first are rows */
    struct lm_piece *pieces; int n_pieces;  /* its chunks */
    sqlite3_blob *blob; int open_piece;     /* the chunk that is open for reading, -1: none */
    uint8_t *raw; float *floats;            /* a window of decoded elements */
    int64_t first, end;                     /* which */
    sqlite3_stmt *may_write, *drop_digest, *set_edit, *is_set;      /* of writing */
} lm_cells;

/* Open a tensor by name; an unknown one is an error that gives the nearest. f is taken over, whether or not it
** succeeds; so is it by lm_cells_open_row, for a row "id, name, dtype, shape, n_params, n_bytes" of lm_tensor from column `at` on. */
void lm_cells_open(lm_cells *s, lm_conn *c, lm_found *f, const char *tensor, lm_err *err);
void lm_cells_open_row(lm_cells *s, lm_conn *c, lm_found *f, sqlite3_stmt *row, int at, lm_err *err);
void lm_cells_close(lm_cells *s);           /* may be zeros */
/* Decode elements from index on and point at them; return how many, at least 1, or 0 with err set. */
int64_t lm_cells_read(lm_cells *s, int64_t index, const float **values, lm_err *err);
/* Write one element, and note in the database that the model was edited. Only formats of plain numbers, only main. */
void lm_cells_write(lm_cells *s, int64_t index, double value, lm_err *err);

/*======================================================================
** share.c */
struct lm_shared {
    uint8_t digest[LM_DIGEST_BYTES];
    lm_model *model;
    const lm_chat *chat;                    /* NULL: none, or one that is not known */
    lm_buf chat_template;                   /* the model's own text */
    lm_buf adapter;                         /* the name of the adapter in it */
    /* Guarded by share.c's lock: */
    int calls;                              /* running now */
    int connections;                        /* that have it among their uses */
    uint64_t used;                          /* a clock of uses, for LRU */
    struct lm_verified *verified;           /* where its bytes were read and checked */
    lm_shared *base;                        /* an adapted model's, which has it as a call; else NULL */
    lm_shared *next;
};

/* Get the model that a call is to use, found as by lm_store_find; balance with lm_share_end. */
lm_shared *lm_share_begin(lm_conn *c, const char *name, const char *tasks, lm_err *err);
/* The same with an adapter, by name; NULL: none. */
lm_shared *lm_share_begin_adapted(lm_conn *c, const char *name, const char *adapter, const char *tasks, lm_err *err);
void lm_share_end(lm_shared *s);
void lm_share_forget(lm_conn *c);           /* the connection closes */
/* Drop from memory the model that found names (NULL: all) where no call is running. Return how many. */
int lm_share_unload(lm_conn *c, const lm_found *f);
/* Visit the models in memory, under the lock. */
void lm_share_each(void (*visit)(void *arg, const lm_shared *s), void *arg);

/*======================================================================
** adapter.c */
typedef struct {
    sqlite3_int64 id;
    uint8_t edit[8];
    char base_digest[2 * LM_DIGEST_BYTES + 1];
    lm_buf targets;                         /* with commas and a NUL */
    lm_buf info;                            /* JSON, with a NUL; empty: none */
    lm_adapter a;                           /* its arrays are owned, once it is read */
} lm_adapter_rows;

/* Find a model's adapter: all but its tensors. Return 0 where there is none, which is no error. End with the clear. */
int lm_adapter_find(lm_conn *c, const lm_found *model, const char *name, lm_adapter_rows *out, lm_err *err);
void lm_adapter_missing(lm_conn *c, const lm_found *model, const char *name, lm_err *err);      /* say so, and which there are */
void lm_adapter_read(lm_conn *c, const lm_found *model, lm_adapter_rows *r, lm_err *err);       /* the tensors of one that was found */
/* Read every adapter of a model; an error says which row is not what an adapter's must be. */
void lm_adapter_check_all(lm_conn *c, const lm_found *model, lm_err *err);
void lm_adapter_clear(lm_adapter_rows *r);
/* Write an adapter, in place of one so called, from rows of which id, edit and info do not count. */
void lm_adapter_write(lm_conn *c, const lm_found *model, const char *name, const lm_adapter_rows *r, lm_err *err);
void lm_adapter_digest(const lm_adapter_rows *r, const uint8_t base[LM_DIGEST_BYTES], uint8_t out[LM_DIGEST_BYTES]);

/*======================================================================
** memo.c: answers by (model digest, what was asked). An LRU of at most 16 MiB a connection. */
void lm_memo_free(lm_memo *m);
/* Append what an answer depends on: the model, what kind of answer, the options' text (NULL: none), the text. */
void lm_memo_key(lm_buf *key, const lm_shared *s, char kind, sqlite3_value *options, lm_text text, lm_err *err);
const char *lm_memo_find(lm_conn *c, const void *key, size_t key_n, size_t *n);     /* until the next memo call */
void lm_memo_add(lm_conn *c, const void *key, size_t key_n, const char *value, size_t n);

/*======================================================================
** prompt.c */
typedef struct {
    char *model, *adapter, *template, *system, *on_error;
    int parse_special, max_tokens, top_k;
    sqlite3_int64 seed;
    double temperature, top_p, min_p, repeat_penalty;
    lm_texts stop;
    int has_seed;
    int is_chat, render;                    /* lm_chat: the prompt is a JSON array of messages; give the prompt text */
} lm_generate_options;

void lm_generate_options_read(lm_generate_options *o, sqlite3_value *json, int is_chat, lm_err *err);
void lm_generate_options_clear(lm_generate_options *o);
/* Append a conversation as the model is to read it. */
void lm_prompt_text(const lm_shared *s, const lm_generate_options *o, lm_text prompt, lm_buf *text, lm_err *err);
/* Tokenise a prompt as the options and the model's template say, and what has been answered to it. */
void lm_prompt_ids(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, lm_text answer, lm_ids *ids, lm_err *err);
int lm_prompt_is_chat(const lm_shared *s, const lm_generate_options *o, lm_err *err);      /* does a template stand about it? */
/* Add a prompt to a batch, which the options must outlive. Return its number, or -1; n_prompt (may be NULL) gets its length. */
int lm_prompt_add(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, int want_logprob, lm_batch *b,
                  int *n_prompt, lm_err *err);
/* Start a batch of one. The options must outlive it. */
lm_batch *lm_prompt_start(lm_conn *c, const lm_shared *s, const lm_generate_options *o, lm_text prompt, int want_logprob,
                          lm_err *err);

/*======================================================================
** embed.c */
typedef struct {
    char *model, *adapter, *pooling, *prefix, *on_long, *on_error;
    int normalize, dimensions;              /* dimensions 0: all that the model has */
} lm_vector_options;

void lm_vector_options_init(lm_vector_options *o);                      /* the defaults */
void lm_vector_options_read(lm_vector_options *o, sqlite3_value *json, lm_err *err);
void lm_vector_options_clear(lm_vector_options *o);
int lm_vector_size(const lm_shared *s, const lm_vector_options *o, lm_err *err);     /* dimensions */

/* The special tokens that stand around every text, the first `lead` of them before it, and the room between. */
typedef struct { lm_ids ids; size_t lead; int room; } lm_frame;
void lm_frame_find(lm_conn *c, const lm_shared *s, lm_frame *f, lm_err *err);
void lm_frame_clear(lm_frame *f);

/* Write the vectors of n texts to out (n, lm_vector_size). A text that is NULL is passed over. errs (n) tells of those
** that failed; n_tokens (n; may be NULL) how many tokens each had, special ones included. */
void lm_vectors(lm_conn *c, const lm_shared *s, const lm_vector_options *o, const lm_text *texts, int n, float *out, int *n_tokens,
                lm_err *errs, lm_err *err);

/* func_embed.c: float32 as a BLOB with the subtype that sqlite-vec gives its vectors. */
enum { LM_VECTOR_SUBTYPE = 223, LM_RESULT_SUBTYPE = 0x1000000 /* SQLITE_RESULT_SUBTYPE, newer than 3.40 */ };
void lm_result_vector(sqlite3_context *ctx, const void *floats, size_t n_bytes);

/*======================================================================
** query.c: prepare a query that was given to `name` as an argument; it must give the columns that are described (n_columns 0:
** any). */
sqlite3_stmt *lm_query_open(lm_conn *c, const char *name, lm_text query, int n_columns, const char *columns, lm_err *err);

/* What a table begins with, in place of its cursor, that gives a row for each row (key, text) of a query. */
typedef struct {
    sqlite3_vtab_cursor base;
    sqlite3_stmt *query;
    int was_filtered, at_end;               /* at_end: the query has no more rows */
} lm_each;

void lm_each_open(lm_each *e, const char *name, sqlite3_value *query, const char *columns, lm_err *err);     /* for xFilter */
/* Copy the query's next row. Return 0 at the end, or with err set. */
int lm_each_read(lm_each *e, sqlite3_value **key, sqlite3_value **text, lm_err *err);

/*======================================================================
** index.c: what an lm_index keeps in its schema, and searching it. */
enum { LM_INDEX_K_MAX = 4096 /* vec0's */ };
enum { LM_INDEX_DRAIN = 1, LM_INDEX_SYNC, LM_INDEX_REBUILD };

typedef struct {
    char *content, *column, *query_prefix;
    lm_vector_options vector;               /* its prefix is the rows' */
} lm_index_options;

typedef struct {
    lm_conn *c;
    char *schema, *name, *key;              /* key: the source table's INTEGER PRIMARY KEY, once looked up */
    lm_index_options o;
    int work; lm_err *inner;                /* what a command of our own, now running, is to do, and how it went */
} lm_index;

/* Read the arguments of CREATE VIRTUAL TABLE. Whether or not this succeeds, end with the clear. */
void lm_index_open(lm_index *x, lm_conn *c, const char *schema, const char *name, int n_args, const char *const *args, lm_err *err);
void lm_index_clear(lm_index *x);
void lm_index_create(lm_index *x, lm_err *err);                 /* tables and triggers; every row becomes pending */
void lm_index_drop(lm_index *x, lm_err *err);
void lm_index_rename(lm_index *x, const char *name, lm_err *err);
void lm_index_command(lm_index *x, const char *word, lm_err *err);

typedef struct { sqlite3_int64 key; double distance; } lm_hit;

/* Find the k rows nearest to a text or vector, nearest first, pending rows included: they are indexed
** first, or, where the database cannot be written, embedded for this search. Return *n of them, to be lm_freed. */
lm_hit *lm_index_search(lm_index *x, sqlite3_value *query, int k, int *n, lm_err *err);
/* A statement that gives the keys of the indexed rows: of all, or of one. */
sqlite3_stmt *lm_index_scan(lm_index *x, const sqlite3_int64 *only, lm_err *err);
/* Prepare SQL in which {content}, {key} and {body} are the source table and its columns. */
sqlite3_stmt *lm_index_prepare(const lm_index *x, const char *sql, lm_err *err);

/*======================================================================
** vtab.c */

/* Every virtual table of ours begins with this. */
typedef struct { sqlite3_vtab base; lm_conn *c; } lm_vtab;

/* For xConnect: declare the table and allocate size bytes of zeros that begin with an lm_vtab. */
int lm_vtab_new(sqlite3 *db, lm_conn *c, const char *sql, size_t size, sqlite3_vtab **out);
int lm_vtab_free(sqlite3_vtab *vtab);                               /* an xDisconnect */
int lm_cursor_new(size_t size, sqlite3_vtab_cursor **out);          /* for xOpen: zeros */

/* What tables have alike whose arguments are hidden columns. The module's other methods are the table's own. */
typedef struct {
    sqlite3_module module;                                          /* first */
    const char *name, *sql;
    int is_direct;                                                  /* SQLITE_VTAB_DIRECTONLY */
    size_t cursor_size;
    void (*clear)(sqlite3_vtab_cursor *cur);                        /* free what it holds, when it is closed */
} lm_table;
#define LM_TABLE_METHODS .xConnect = lm_table_connect, .xDisconnect = lm_vtab_free, .xOpen = lm_table_open, .xClose = lm_table_close
int lm_table_connect(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error);
int lm_table_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out);
int lm_table_close(sqlite3_vtab_cursor *cur);
int lm_table_register(lm_conn *c, const lm_table *table);

/* A rowid of a row of a database, by its number there: SQLite joins rows of two by OR, and takes those of one rowid for one. */
sqlite3_int64 lm_vtab_rowid(lm_conn *c, const char *schema, sqlite3_int64 in_schema);
/* In xBestIndex: rows come in ascending order of a column. */
void lm_vtab_ordered(sqlite3_index_info *info, int column);
/* Likewise: make what "column = x" is compared with the next argument of xFilter. Return 1 when it is one; set
** *unusable when the plan cannot give it. */
int lm_vtab_take_arg(sqlite3_index_info *info, int column, int omit, int *n_args, int *unusable);
/* In xBestIndex: take the arguments of a table-valued function, the one that it needs, then an optional one (-1: there is none).
** A plan that cannot give them is refused; that nobody gave what it needs is an error. */
int lm_vtab_take_args(sqlite3_vtab *vtab, sqlite3_index_info *info, const char *name, int needed, int optional);
/* Report err as the table's; return its code, or SQLITE_OK when there is none. */
int lm_vtab_fail(sqlite3_vtab *vtab, const lm_err *err);

/* window_text.c: is a window function called, by a statement that runs, over windows of which one value is for many rows? */
int lm_window_is_for_peers(lm_conn *c, const char *function, lm_err *err);

/* func_token.c: encode text as lm_tokenize does; on success end with lm_share_end. */
lm_shared *lm_tokens_begin(lm_conn *c, lm_text text, sqlite3_value *options, lm_ids *ids, lm_err *err);

/* func_token.c: what each token of a text adds to it, in whole characters; from zeros, ended with the clear. */
typedef struct { lm_buf bytes, piece; } lm_pieces;          /* what is not yet a character; the last token's piece */
void lm_pieces_take(lm_pieces *p, const lm_tok *tok, const lm_ids *ids, size_t i, lm_err *err);    /* ids in order */
void lm_pieces_clear(lm_pieces *p);

/*======================================================================
** func_score.c: texts as they stand, to be scored by lm_perplexity and lm_logprobs. */
typedef struct { char *model, *adapter, *on_error; int parse_special, window, stride; } lm_raw_options;

void lm_raw_options_read(lm_raw_options *o, sqlite3_value *json, lm_err *err);
void lm_raw_options_clear(lm_raw_options *o);
/* Encode a text behind what the model puts before every text, *lead ids, and start a scorer of all that something precedes. */
lm_scorer *lm_raw_start(lm_conn *c, const lm_shared *s, const lm_raw_options *o, lm_text text, int details, lm_ids *ids,
                        size_t *lead, lm_err *err);

/*======================================================================
** Registration: each file's own. */
int lm_register(lm_conn *c, const char *name, int min_args, int max_args, int flags,
                void (*call)(sqlite3_context *, int, sqlite3_value **));
int lm_register_table(lm_conn *c, const char *name, const sqlite3_module *module);
int lm_func_generate_register(lm_conn *c);
int lm_func_embed_register(lm_conn *c);
int lm_func_token_register(lm_conn *c);
int lm_func_model_register(lm_conn *c);
int lm_func_score_register(lm_conn *c);
int lm_func_quantize_register(lm_conn *c);
int lm_vtab_logprobs_register(lm_conn *c);
int lm_func_create_register(lm_conn *c);
int lm_func_merge_register(lm_conn *c);
int lm_func_info_register(lm_conn *c);
int lm_vtab_stream_register(lm_conn *c);
int lm_vtab_tokens_register(lm_conn *c);
int lm_vtab_loaded_register(lm_conn *c);
int lm_vtab_parameters_register(lm_conn *c);
int lm_vtab_weights_register(lm_conn *c);
int lm_vtab_vocab_register(lm_conn *c);
int lm_vtab_index_register(lm_conn *c);
int lm_vtab_embed_each_register(lm_conn *c);
int lm_vtab_generate_each_register(lm_conn *c);
int lm_vtab_split_register(lm_conn *c);
int lm_vtab_train_register(lm_conn *c);
int lm_window_register(lm_conn *c);

#endif

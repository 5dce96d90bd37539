/* host.h: what the tests share that stand in for a hostile host: no memory, no disk, kill -9, interrupts. They are linked
** with SQLite and the static form of the library, as a program would be.
**
** jobs[] is what they put through all of it: a row a job. What is added there is tried everywhere. */
#ifndef LM_HOST_H
#define LM_HOST_H

#include "../include/sqlite_lm.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READS, WRITES, VARIES = 2 /* its answer is not the same each time */, NEEDS_VEC = 4, EITHER = 8 /* what it writes may stay when it fails: it was due */ };

typedef struct {
    const char *name;
    int flags;
    const char *setup;                  /* what is there before; NULL: nothing but the model tiny */
    const char *sql;
} job;

#define NOTES "CREATE TABLE note(id INTEGER PRIMARY KEY, body);" \
    " INSERT INTO note(body) VALUES ('the sea is blue'), ('a late train'), (NULL), ('bread and coffee'), (7), ('');"
#define INDEXED NOTES " CREATE VIRTUAL TABLE note_idx USING lm_index(content='note', column='body', model='tiny');"
#define TWO_MODELS "SELECT lm_create('new', '{\"n_layers\":2,\"n_embd\":32,\"n_heads\":2,\"n_ctx\":64}');"
#define PUPIL NOTES " SELECT lm_create('pupil', '{\"n_layers\":1,\"n_embd\":16,\"n_heads\":1,\"n_ctx\":32}');"
#define FRAME " OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND 3 FOLLOWING) FROM note"

static const job jobs[] = {
    { "generate", READS, NULL, "SELECT generate('Once upon a time', '{\"template\":\"none\",\"max_tokens\":6}')" },
    { "generate, drawn", READS, NULL, "SELECT generate('Once', '{\"temperature\":1,\"seed\":5,\"top_k\":20,\"top_p\":0.9,\"min_p\":0.01,"
      "\"repeat_penalty\":1.2,\"stop\":[\"zzz\",\"end\"],\"max_tokens\":6}'), generate(NULL), generate(12, '{\"max_tokens\":0}')" },
    { "generate, by default", READS, TWO_MODELS "SELECT lm_config('generate_model', 'new');", "SELECT generate('sea', '{\"max_tokens\":3}')" },
    { "generate, a row fails", READS, NULL, "SELECT generate('x', '{\"model\":\"nope\",\"on_error\":\"null\"}') IS NULL" },
    { "lm_chat", READS, NULL, "SELECT lm_chat('[{\"role\":\"user\",\"content\":\"Hi\"}]', '{\"template\":\"chatml\",\"max_tokens\":4}'),"
      " lm_chat('[{\"role\":\"system\",\"content\":\"Be brief\"},{\"role\":\"user\",\"content\":\"Hi\"}]', '{\"template\":\"chatml\",\"render\":true}')" },
    { "generate_stream", READS, NULL, "SELECT step, token, piece, round(logprob, 6) FROM generate_stream('Once', '{\"template\":\"none\",\"max_tokens\":5}')" },
    { "generate_batch", READS, NOTES, "SELECT generate_batch(body, '{\"max_tokens\":4}')" FRAME },
    { "generate_each", READS, NOTES, "SELECT * FROM generate_each('SELECT id, body FROM note', '{\"max_tokens\":4}')" },
    { "embed", READS, NULL, "SELECT hex(embed('the sea', '{\"model\":\"tiny\"}')), hex(embed('', '{\"model\":\"tiny\",\"dimensions\":4,\"prefix\":\"p: \"}'))" },
    { "embed_batch", READS, NOTES, "SELECT hex(v) FROM (SELECT embed_batch(nullif(body, ''), '{\"model\":\"tiny\"}') OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND 3 FOLLOWING) AS v FROM note)" },
    { "embed_each", READS, NOTES, "SELECT key, hex(vector), n_tokens, error FROM embed_each('SELECT id, body FROM note', '{\"model\":\"tiny\",\"on_long\":\"mean\"}')" },
    { "lm_similarity", READS, NULL, "SELECT lm_similarity('sea', 'ocean', '{\"model\":\"tiny\"}'), lm_similarity(x'0000803f00000040', x'0000803f00000000')" },
    { "an encoder", READS, "SELECT lm_import('tests/golden/hf_bert', '{\"name\":\"bert\"}');", "SELECT hex(embed('the sea is blue'))" },
    { "scores", READS, NULL, "SELECT lm_logprob('The sky is', ' blue', '{\"template\":\"none\"}'), lm_perplexity('The quick brown fox', '{\"window\":8,\"stride\":4}'),"
      " lm_choose('Bread and', '[\" butter\",\" sea\"]', '{\"template\":\"none\",\"normalize\":\"bytes\",\"prior\":\"\"}'),"
      " lm_classify('sunny', '[\"good\",\"bad\"]', '{\"template\":\"none\",\"output\":\"label\"}')" },
    { "lm_logprobs", READS, NULL, "SELECT * FROM lm_logprobs('The quick brown fox')" },
    { "experts", READS, "SELECT lm_create('moe', '{\"n_layers\":2,\"n_embd\":32,\"n_heads\":2,\"n_ctx\":64,\"n_experts\":4}');",
      "SELECT generate('the sea', '{\"model\":\"moe\",\"max_tokens\":3}')" },
    { "gpt2", READS, "SELECT lm_create('g', '{\"arch\":\"gpt2\",\"n_layers\":2,\"n_embd\":32,\"n_heads\":2,\"n_ctx\":64}');",
      "SELECT generate('the sea', '{\"model\":\"g\",\"max_tokens\":3}')" },
    { "tokens", READS, NULL, "SELECT lm_tokenize('Hello, <|im_end|> world', '{\"parse_special\":true,\"add_special\":true}'), lm_detokenize('[1,2,3]'),"
      " lm_token_count('Hello'); SELECT * FROM lm_tokens('Hello, world')" },
    { "lm_split", READS, NULL, "SELECT * FROM lm_split('One sentence. Two sentences here. Three of them.', '{\"model\":\"tiny\",\"max_tokens\":16,\"overlap\":3}')" },
    { "lm_vocab", READS, NULL, "SELECT * FROM lm_vocab('tiny')" },
    { "lm_parameters", READS, NULL, "SELECT model, tensor, layer, shape, dtype, n_params, n_bytes, min, max, mean, std, zeros FROM lm_parameters" },
    { "lm_weights", READS, NULL, "SELECT row, col, value FROM lm_weights('tiny', 'blk.0.ffn_up.weight') WHERE row BETWEEN 2 AND 3" },
    { "lm_check", READS, TWO_MODELS, "SELECT lm_check(), lm_check('tiny'), lm_check(NULL)" },
    { "lm_loaded", READS, NULL, "SELECT lm_token_count('x'); SELECT model, digest, bytes, connections FROM lm_loaded; SELECT lm_unload('tiny'), lm_unload()" },
    { "lm_config", READS, NULL, "SELECT lm_config('threads'), lm_config('memory_limit') > -1, lm_config('generate_model'), lm_version()" },
    { "lm_debug", READS | VARIES, NULL, "SELECT lm_debug()" },
    { "no such model", READS, NULL, "SELECT generate('x', '{\"model\":\"nope\",\"on_error\":\"null\"}'), embed('x', '{\"model\":\"nope\",\"on_error\":\"null\"}')" },
    { "import a file", WRITES, NULL, "SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"two\"}')" },
    { "import converted", WRITES, NULL, "SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"half\",\"dtype\":\"f16\"}')" },
    { "import a folder", WRITES, NULL, "SELECT lm_import('tests/golden/hf_bert', '{\"name\":\"bert\",\"dtype\":\"q8_0\"}')" },
    { "import a Llama folder", WRITES, NULL, "SELECT lm_import('tests/golden/hf_llama', '{\"name\":\"l\"}')" },
    { "import XLM-R", WRITES, NULL, "SELECT lm_import('tests/golden/hf_xlmr', '{\"name\":\"x\"}')" },
    { "lm_export", READS, NULL, "SELECT lm_export('tiny', 'build/host/host_out.gguf', '{\"overwrite\":true}')" },
    { "lm_create", WRITES, NULL, "SELECT lm_create('new', '{\"n_layers\":2,\"n_embd\":32,\"n_heads\":2,\"n_ctx\":64}')" },
    { "lm_create, words", WRITES, NOTES, "SELECT lm_create('new', '{\"arch\":\"gpt2\",\"n_layers\":1,\"n_embd\":32,\"n_heads\":2,\"n_ctx\":64,"
      "\"vocab\":{\"query\":\"SELECT body FROM note\",\"size\":300}}')" },
    { "lm_create, another's words", WRITES, NULL, "SELECT lm_create('new', '{\"n_layers\":1,\"n_embd\":32,\"n_heads\":2,\"n_ctx\":64,\"vocab\":{\"model\":\"tiny\"}}')" },
    { "lm_quantize", WRITES, NULL, "SELECT lm_quantize('tiny', 'q8_0', 'small')" },
    { "lm_train", WRITES | EITHER, PUPIL, "SELECT step FROM lm_train('{\"model\":\"pupil\",\"query\":\"SELECT body FROM note\",\"max_steps\":2,\"checkpoint_every\":1,\"val_fraction\":0.4}')" },
    { "lm_train an adapter", WRITES | EITHER, PUPIL, "SELECT step FROM lm_train('{\"model\":\"pupil\",\"adapter\":\"a\",\"query\":\"SELECT body FROM note\",\"max_steps\":1}')" },
    { "lm_merge", WRITES, PUPIL "SELECT count(*) FROM lm_train('{\"model\":\"pupil\",\"adapter\":\"a\",\"query\":\"SELECT body FROM note\",\"max_steps\":1}');",
      "SELECT lm_merge('pupil', 'a', 'new')" },
    { "adapted", READS, PUPIL "SELECT count(*) FROM lm_train('{\"model\":\"pupil\",\"adapter\":\"a\",\"query\":\"SELECT body FROM note\",\"max_steps\":1}');",
      "SELECT generate('the', '{\"model\":\"pupil\",\"adapter\":\"a\",\"max_tokens\":3}')" },
    { "turn dials", WRITES, NULL, "UPDATE lm_weights SET value = value * 2 WHERE model = 'tiny' AND tensor = 'blk.0.ffn_up.weight' AND row IN (1, 3)" },
    { "delete a model", WRITES, TWO_MODELS, "DELETE FROM lm_model WHERE name = 'new'" },
    { "set a default", WRITES, TWO_MODELS, "SELECT lm_config('generate_model', 'new')" },
    { "create an index", WRITES | NEEDS_VEC, NOTES, "CREATE VIRTUAL TABLE note_idx USING lm_index(content='note', column='body', model='tiny')" },
    { "sync an index", WRITES | NEEDS_VEC, INDEXED "INSERT INTO note(body) VALUES ('river'), ('moon');", "INSERT INTO note_idx(note_idx) VALUES ('sync')" },
    { "rebuild an index", WRITES | NEEDS_VEC, INDEXED "INSERT INTO note_idx(note_idx) VALUES ('sync');", "INSERT INTO note_idx(note_idx) VALUES ('rebuild')" },
    { "drop an index", WRITES | NEEDS_VEC, INDEXED, "DROP TABLE note_idx" },
    { "search", WRITES | EITHER | NEEDS_VEC, INDEXED, "SELECT rowid, round(distance, 6) FROM note_idx WHERE body MATCH 'sea' AND k = 3" },
    { "search, all indexed", READS | NEEDS_VEC, INDEXED "INSERT INTO note_idx(note_idx) VALUES ('sync');",
      "SELECT rowid, round(distance, 6), body FROM note_idx WHERE body MATCH 'sea' LIMIT 3; SELECT rowid FROM note_idx" },
};

/*----------------------------------------------------------------------
** Answers, as text. Memory is the C library's: it does not fail when SQLite's does. */
typedef struct { char *data; size_t n, cap; } answer;

static inline void add(answer *a, const void *bytes, size_t n) {
    if (!a) return;
    while (a->n + n + 1 > a->cap) a->data = realloc(a->data, a->cap = a->cap ? 2 * a->cap : 256);
    memcpy(a->data + a->n, bytes, n);
    a->data[a->n += n] = 0;
}

static inline void add_text(answer *a, const char *text) { add(a, text, strlen(text)); }
static inline int is_same(const answer *a, const answer *b) {
    return a->n == b->n && (!a->n || !memcmp(a->data, b->data, a->n));
}
static inline void clear(answer *a) { free(a->data), *a = (answer){0}; }

static int is_reading;                  /* what is asked for now is the test's own doing */

static inline void add_row(answer *a, sqlite3_stmt *stmt) {
    is_reading = 1;
    for (int i = 0; i < sqlite3_column_count(stmt); i++) {
        int type = sqlite3_column_type(stmt, i);
        const void *bytes = type == SQLITE_NULL ? "NULL" : type == SQLITE_BLOB ? sqlite3_column_blob(stmt, i) : (const void *)sqlite3_column_text(stmt, i);
        size_t n = type == SQLITE_NULL ? 4 : (size_t)sqlite3_column_bytes(stmt, i);
        if (bytes) add(a, bytes, n);
        add_text(a, "|");
    }
    is_reading = 0;
}

/* Run statements and append their rows (a may be NULL). */
static inline int query(sqlite3 *db, const char *sql, answer *a) {
    int rc = SQLITE_OK;
    while (*sql && rc == SQLITE_OK) {
        sqlite3_stmt *stmt = NULL;
        rc = sqlite3_prepare_v2(db, sql, -1, &stmt, &sql);
        if (!stmt) continue;
        while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) if (a) add_row(a, stmt);
        if (rc == SQLITE_DONE) rc = SQLITE_OK;
        int end = sqlite3_finalize(stmt);
        if (rc == SQLITE_OK) rc = end;
    }
    return rc;
}

/* Everything that is stored, but edit stamps and dates, and training's runs (one that failed may leave what it can be resumed
** from): of two databases of equal contents the same text. */
static inline int read_state(sqlite3 *db, answer *a) {
    answer tables = {0};
    int rc = query(db, "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
                   " AND name NOT IN ('lm_run', 'lm_run_step', 'lm_checkpoint') ORDER BY name", &tables);
    if (rc == SQLITE_OK) rc = query(db, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name", a);
    for (char *at = tables.data, *bar; rc == SQLITE_OK && at && (bar = strchr(at, '|')) != NULL; at = bar + 1) {
        sqlite3_stmt *stmt = NULL;
        char *sql = sqlite3_mprintf("SELECT * FROM \"%.*w\" ORDER BY 1", (int)(bar - at), at);
        rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
        while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
            uint64_t hash = 0xCBF29CE484222325ull;
            rc = SQLITE_OK;
            for (int i = 0; i < sqlite3_column_count(stmt); i++) {
                const char *name = sqlite3_column_name(stmt, i);
                if (!strcmp(name, "edit") || !strcmp(name, "created_at")) continue;
                const uint8_t *bytes = sqlite3_column_blob(stmt, i);
                for (int k = 0, n = sqlite3_column_bytes(stmt, i); k < n; k++) hash = (hash ^ bytes[k]) * 0x100000001B3ull;
                hash = (hash ^ (uint64_t)sqlite3_column_type(stmt, i)) * 0x100000001B3ull;
            }
            add(a, &hash, sizeof hash);
        }
        sqlite3_finalize(stmt);
        sqlite3_free(sql);
        if (rc == SQLITE_DONE) rc = SQLITE_OK;
    }
    clear(&tables);
    return rc;
}

/* Is the database sound: its pages, and its models' digests? */
static inline int is_sound(sqlite3 *db) {
    answer a = {0};
    int ok = query(db, "PRAGMA integrity_check; SELECT lm_check()", &a) == SQLITE_OK && !strcmp(a.data, "ok|ok|");
    if (!ok) printf("not sound: %s: %s\n", a.data ? a.data : "", sqlite3_errmsg(db));
    clear(&a);
    return ok;
}

/*----------------------------------------------------------------------
** Databases */
static int has_vec;                     /* is sqlite-vec there? */

/* Open with both extensions. NULL when memory or disk is short; *rc says what was. */
static inline sqlite3 *open_db(const char *path, const char *vfs, int *rc) {
    sqlite3 *db = NULL;
    *rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs);
    if (*rc == SQLITE_OK) *rc = sqlite3_lm_init(db, NULL, NULL);
    if (*rc == SQLITE_OK && has_vec) {
        sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
        *rc = sqlite3_load_extension(db, "models/vec0", NULL, NULL);
    }
    if (*rc == SQLITE_OK) return db;
    sqlite3_close(db);
    return NULL;
}

static inline sqlite3 *open_plain(const char *path) {
    int rc;
    sqlite3 *db = open_db(path, NULL, &rc);
    if (!db) printf("%s: %s\n", path, sqlite3_errstr(rc)), exit(1);
    query(db, "PRAGMA synchronous = off", NULL);
    return db;
}

/* Give back every model that nobody uses, too. */
static inline void close_db(sqlite3 *db) {
    query(db, "SELECT lm_unload()", NULL);
    int rc = sqlite3_close(db);
    CHECK(rc == SQLITE_OK, "close: %s", sqlite3_errstr(rc));
}

static inline void remove_db(const char *path) {
    static const char *const ends[] = { "", "-journal", "-wal", "-shm" };
    char name[200];
    for (int i = 0; i < LM_COUNT(ends); i++) snprintf(name, sizeof name, "%s%s", path, ends[i]), unlink(name);
}

static inline void copy_file(const char *from, const char *to) {
    static char buffer[1 << 20];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) if (write(out, buffer, (size_t)n) != n) exit(1);
    close(in);
    close(out);
}

/* A database with the model tiny and what the job wants. */
static inline int make_db(const char *path, const job *j, const char *pragmas, const char *encoding) {
    remove_db(path);
    sqlite3 *db = open_plain(path);
    char *sql = sqlite3_mprintf("PRAGMA page_size = 1024; PRAGMA encoding = '%s'; %s; SELECT lm_import('tests/golden/tiny.gguf', '{\"name\":\"tiny\"}'); %s",
                                encoding, pragmas, j->setup ? j->setup : "");
    int ok = query(db, sql, NULL) == SQLITE_OK;
    CHECK(ok, "%s: setup: %s", j->name, sqlite3_errmsg(db));
    sqlite3_free(sql);
    close_db(db);
    return ok;
}

static inline void start(const char *program) {
    mkdir("build", 0777);
    mkdir("build/host", 0777);
    setvbuf(stdout, NULL, _IOLBF, 0);
    has_vec = access("models/vec0.so", R_OK) == 0;
    if (!has_vec) printf("skipped: %s: jobs of indexes: models/vec0.so is not there (make fetch)\n", program);
}

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline uint64_t next_random(uint64_t *state) {          /* splitmix64 (Steele, Lea and Flood 2014) */
    uint64_t z = *state += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

#endif

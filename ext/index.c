/* index.c: what a semantic index keeps in its database, and searching it.
**
** Beside the virtual table NAME there are, in its schema:
**     NAME_vec       sqlite-vec's vec0: a vector for each row of the source table that has one; rowid is the row's key
**     NAME_outbox    the keys touched since; triggers NAME_ai, NAME_au, NAME_ad on the source table fill it with plain SQL
**     NAME_config    format, dimensions, and the digest of the model that made the vectors
** A key in the outbox is pending: what NAME_vec holds for it does not count. Draining makes the pending rows' vectors and
** empties the outbox. A row without text (NULL, a BLOB, one that the model can make no vector of) has none. */
#include "ext.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>

#define PENDING_MAX 1000                /* rows that a search which cannot write embeds for itself */
enum { FORMAT = 1, BATCH = 256, BATCH_BYTES = 4 << 20, SLACK = 16 };

#define V(field) offsetof(lm_index_options, vector.field)
static const lm_option table[] = {
    { "content", LM_OPT_TEXT, offsetof(lm_index_options, content), 0, 0, NULL },
    { "column", LM_OPT_TEXT, offsetof(lm_index_options, column), 0, 0, NULL },
    { "model", LM_OPT_TEXT, V(model), 0, 0, NULL },
    { "prefix", LM_OPT_TEXT, V(prefix), 0, 0, NULL },
    { "query_prefix", LM_OPT_TEXT, offsetof(lm_index_options, query_prefix), 0, 0, NULL },
    { "pooling", LM_OPT_TEXT, V(pooling), 0, 0, "mean|cls|last" },
    { "dimensions", LM_OPT_INT, V(dimensions), 1, 8192, NULL },
    { "on_long", LM_OPT_TEXT, V(on_long), 0, 0, "truncate|error|mean" },
    { NULL, 0, 0, 0, 0, NULL },
};

/*----------------------------------------------------------------------
** Opening: name = value, as in CREATE VIRTUAL TABLE, is read as JSON options are. */
static const char *skip_space(const char *s) { return s + strspn(s, " \t\r\n"); }

/* Append a value as JSON: quoted text, a whole number, or a bare word. Return what follows it. */
static const char *append_value(lm_buf *json, const char *s, lm_err *err) {
    lm_buf text = {0};
    size_t n = strcspn(s, " \t\r\n");
    if (*s && strchr("'\"`[", *s)) {
        char close = *s == '[' ? ']' : *s;
        for (s++; *s && (*s != close || s[1] == close); s++) {
            s += *s == close;
            lm_buf_append(&text, s, 1, err);
        }
        s += *s == close;
        lm_json_quote(json, text.n ? text.data : "", text.n, err);
    } else {
        int is_number = n && n < 10 && strspn(s, "0123456789") >= n;
        if (is_number) lm_buf_append(json, s, n, err);
        else lm_json_quote(json, s, n, err);
        s += n;
    }
    lm_buf_clear(&text);
    return skip_space(s);
}

static void append_option(lm_buf *json, const char *arg, lm_err *err) {
    const char *name = skip_space(arg), *s;
    size_t n = strcspn(name, " \t\r\n='\"`[");
    s = skip_space(name + n);
    if (!n || *s != '=') {
        lm_err_set(err, LM_ERROR, "expected an option such as content = 'note', got \"%.60s\"", arg);
        return;
    }
    lm_buf_append(json, json->n ? "," : "{", 1, err);
    lm_json_quote(json, name, n, err);
    lm_buf_append(json, ":", 1, err);
    if (*append_value(json, skip_space(s + 1), err))
        lm_err_set(err, LM_ERROR, "option \"%.*s\": expected one value: %.60s", (int)n, name, arg);
}

void lm_index_open(lm_index *x, lm_conn *c, const char *schema, const char *name, int n_args, const char *const *args,
                   lm_err *err) {
    lm_buf json = {0};
    *x = (lm_index){ .c = c, .schema = sqlite3_mprintf("%s", schema), .name = sqlite3_mprintf("%s", name) };
    lm_vector_options_init(&x->o.vector);
    if (!x->schema || !x->name) lm_err_set(err, LM_NOMEM, "out of memory");
    for (int i = 0; i < n_args; i++) append_option(&json, args[i], err);
    lm_buf_append(&json, json.n ? "}" : "{}", json.n ? 1 : 2, err);
    if (!err->code) lm_options_parse(table, &x->o, (lm_text){ json.data, json.n }, NULL, err);
    lm_buf_clear(&json);
    if (!x->o.content || !x->o.column)
        lm_err_set(err, LM_ERROR, "lm_index needs content = 'a table' and column = 'its text'");
}

void lm_index_clear(lm_index *x) {
    lm_options_clear(table, &x->o);
    sqlite3_free(x->schema);
    sqlite3_free(x->name);
    sqlite3_free(x->key);
    *x = (lm_index){0};
}

/*----------------------------------------------------------------------
** SQL with {words} for the index's names, quoted. */
static char *expand(const lm_index *x, const char *sql, lm_err *err) {
    const struct { const char *word; int with_schema; const char *name, *suffix; } words[] = {
        { "schema", 0, x->schema, "" }, { "index", 1, x->name, "" }, { "command", 0, x->name, "" },
        { "vec", 1, x->name, "_vec" }, { "config", 1, x->name, "_config" }, { "outbox", 1, x->name, "_outbox" },
        { "touched", 0, x->name, "_outbox" }, { "places", 1, x->name, "_vec_vector_chunks00" },
        { "ai", 1, x->name, "_ai" }, { "au", 1, x->name, "_au" }, { "ad", 1, x->name, "_ad" },
        { "content", 1, x->o.content, "" }, { "table", 0, x->o.content, "" }, { "key", 0, x->key, "" }, { "body", 0, x->o.column, "" },
    };
    sqlite3_str *out = sqlite3_str_new(NULL);           /* of no connection: what it may hold is no matter here */
    while (*sql) {
        size_t n = strcspn(sql, "{");
        sqlite3_str_append(out, sql, (int)n);
        sql += n;
        for (int i = 0; *sql && i < LM_COUNT(words); i++) {
            n = strlen(words[i].word);
            if (strncmp(sql + 1, words[i].word, n) || sql[1 + n] != '}') continue;
            if (words[i].with_schema) sqlite3_str_appendf(out, "\"%w\".", x->schema);
            sqlite3_str_appendf(out, "\"%w%w\"", words[i].name, words[i].suffix);
            sql += n + 2;
            break;
        }
    }
    char *text = sqlite3_str_finish(out);
    if (!text) lm_err_set(err, LM_NOMEM, "out of memory");
    return text;
}

static void exec(const lm_index *x, const char *sql, lm_err *err) {
    char *text = expand(x, sql, err);
    lm_conn_exec(x->c, err, "%s", text);
    sqlite3_free(text);
}

sqlite3_stmt *lm_index_prepare(const lm_index *x, const char *sql, lm_err *err) {
    char *text = expand(x, sql, err);
    sqlite3_stmt *stmt = err->code ? NULL : lm_conn_prepare(x->c, err, "%s", text);
    sqlite3_free(text);
    return stmt;
}

static sqlite3_int64 get_int(const lm_index *x, const char *sql, lm_err *err) {
    sqlite3_stmt *stmt = lm_index_prepare(x, sql, err);
    sqlite3_int64 n = lm_conn_step(x->c, stmt, err) ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    return n;
}

/*----------------------------------------------------------------------
** The source table, the triggers on it, and the tables beside it. */

/* Find the column that names the rows of the source table, and that its text column is there. */
static void find_key(lm_index *x, lm_err *err) {
    int n_columns = 0, n_keys = 0, has_body = 0, least = 99;
    char *key = NULL, *nearest = NULL;
    sqlite3_stmt *stmt = lm_index_prepare(x, "PRAGMA {schema}.table_xinfo({table})", err);
    for (; lm_conn_step(x->c, stmt, err); n_columns++) {
        const char *name = lm_column_text(stmt, 1, err), *type = lm_column_text(stmt, 2, err);
        int d = name ? lm_distance(x->o.column, name) : 99;
        if (name && !sqlite3_stricmp(name, x->o.column)) has_body = 1;
        if (d < least) least = d, sqlite3_free(nearest), nearest = lm_text_copy(name, err);
        if (sqlite3_column_int(stmt, 5) && ++n_keys == 1 && type && !sqlite3_stricmp(type, "INTEGER"))
            key = lm_text_copy(name, err);
    }
    sqlite3_finalize(stmt);
    /* A primary key with an index of its own is not the rowid: WITHOUT ROWID, or declared DESC. */
    stmt = lm_index_prepare(x, "PRAGMA {schema}.index_list({table})", err);
    while (lm_conn_step(x->c, stmt, err)) {
        const char *origin = lm_column_text(stmt, 3, err);
        n_keys += origin && !strcmp(origin, "pk") ? 2 : 0;
    }
    sqlite3_finalize(stmt);
    if (!n_columns) lm_err_set(err, LM_ERROR, "no table %.60s in %.60s, where the index is", x->o.content, x->schema);
    else if (!has_body)
        lm_err_set(err, LM_ERROR, "%.60s has no column %.60s: did you mean %.60s?", x->o.content, x->o.column,
                   nearest);
    else if (!key || n_keys != 1)
        lm_err_set(err, LM_ERROR, "%.60s must be a table with an INTEGER PRIMARY KEY", x->o.content);
    sqlite3_free(nearest);
    sqlite3_free(x->key);
    x->key = key;
}

/* Look with an error of its own: one of SQL is an answer, any other ends the call. */
static int is_answer(const lm_err *own, lm_err *err) {
    if (own->code && own->code != LM_ERROR && !err->code) *err = *own;
    return own->code == LM_ERROR;
}

static void need_vec(const lm_index *x, lm_err *err) {
    lm_err own = {0};
    sqlite3_stmt *stmt = err->code ? NULL : lm_conn_prepare(x->c, &own, "SELECT vec_version()");
    if (is_answer(&own, err)) {
        lm_err_set(
            err, LM_ERROR,
            "lm_index needs sqlite-vec, which is not loaded: get it by \"pip install sqlite-vec\" or \"npm install"
            " sqlite-vec\" and load its vec0 first (.load vec0, sqlite_vec.load(db))");
    }
    sqlite3_finalize(stmt);
}

static int has_triggers(const lm_index *x, lm_err *err) {
    sqlite3_stmt *stmt = lm_index_prepare(
        x,
        "SELECT count(*) FROM {schema}.sqlite_master WHERE type = 'trigger' AND tbl_name = ?1 COLLATE"
        " NOCASE AND name COLLATE NOCASE IN (?2 || '_ai', ?2 || '_au', ?2 || '_ad')",
        err);
    if (stmt) sqlite3_bind_text(stmt, 1, x->o.content, -1, SQLITE_STATIC);
    if (stmt) sqlite3_bind_text(stmt, 2, x->name, -1, SQLITE_STATIC);
    int n = lm_conn_step(x->c, stmt, err) ? sqlite3_column_int(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    return n == 3;
}

static void drop_triggers(const lm_index *x, lm_err *err) {
    exec(x, "DROP TRIGGER IF EXISTS {ai}; DROP TRIGGER IF EXISTS {au}; DROP TRIGGER IF EXISTS {ad}", err);
}

/* The conflict clause of the writer's statement rules inside a trigger too, so no INSERT here may conflict. UPDATE OF id
** would miss SET rowid = …; the text's own collation or 1 = 1.0 could call a change none. */
#define TOUCH(row) "INSERT INTO {touched}(key) SELECT " row ".{key} WHERE NOT EXISTS (SELECT 1 FROM {touched} WHERE key = " row ".{key}); "
static void create_triggers(const lm_index *x, lm_err *err) {
    exec(x, "CREATE TRIGGER {ai} AFTER INSERT ON {table} BEGIN " TOUCH("new") "END", err);
    exec(x, "CREATE TRIGGER {ad} AFTER DELETE ON {table} BEGIN " TOUCH("old") "END", err);
    exec(
        x,
        "CREATE TRIGGER {au} AFTER UPDATE ON {table} WHEN old.{key} <> new.{key} OR old.{body} IS NOT new.{body} COLLATE BINARY"
        " OR typeof(old.{body}) <> typeof(new.{body}) BEGIN " TOUCH("old") TOUCH("new") "END",
        err);
}

static void write_config(const lm_index *x, const char *key, const char *text, sqlite3_int64 number, lm_err *err) {
    sqlite3_stmt *stmt = lm_index_prepare(x, "INSERT OR REPLACE INTO {config}(key, value) VALUES (?, ?)", err);
    if (stmt) sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
    if (stmt && text) sqlite3_bind_text(stmt, 2, text, -1, SQLITE_STATIC);
    else if (stmt) sqlite3_bind_int64(stmt, 2, number);
    lm_write_step(x->c, stmt, err);
    sqlite3_finalize(stmt);
}

void lm_index_create(lm_index *x, lm_err *err) {
    char digest[2 * LM_DIGEST_BYTES + 1];
    need_vec(x, err);
    if (!err->code) find_key(x, err);
    lm_shared *s = err->code ? NULL : lm_share_begin(x->c, x->o.vector.model, "embed", err);
    int size = s ? lm_vector_size(s, &x->o.vector, err) : 0;
    if (s) lm_hex(s->digest, digest);
    lm_share_end(s);
    char *sql = sqlite3_mprintf("CREATE VIRTUAL TABLE {vec} USING vec0(embedding float[%d] distance_metric=cosine)",
                                size);
    if (!sql) lm_err_set(err, LM_NOMEM, "out of memory");
    if (!err->code)
        exec(
            x,
            "CREATE TABLE {outbox}(key INTEGER PRIMARY KEY); CREATE TABLE {config}(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
            err);
    if (!err->code) exec(x, sql, err);
    sqlite3_free(sql);
    write_config(x, "format", NULL, FORMAT, err);
    write_config(x, "dimensions", NULL, size, err);
    write_config(x, "digest", digest, 0, err);
    create_triggers(x, err);
    exec(x, "INSERT INTO {outbox}(key) SELECT {key} FROM {content}", err);
}

void lm_index_drop(lm_index *x, lm_err *err) {
    need_vec(x, err);
    drop_triggers(x, err);
    exec(x, "DROP TABLE IF EXISTS {vec}; DROP TABLE IF EXISTS {config}; DROP TABLE IF EXISTS {outbox}", err);
}

/* vec0 (0.1.9) takes a new name without giving it to its own tables: they are renamed first. */
void lm_index_rename(lm_index *x, const char *name, lm_err *err) {
    static const char *const tables[] = { "_config",     "_outbox",     "_vec_info",
                                          "_vec_chunks", "_vec_rowids", "_vec_vector_chunks00",
                                          "_vec" };
    char *old_name = x->name, *new_name = sqlite3_mprintf("%s", name);
    if (!new_name) lm_err_set(err, LM_NOMEM, "out of memory");
    need_vec(x, err);
    if (!err->code) find_key(x, err);
    drop_triggers(x, err);
    for (int i = 0; i < LM_COUNT(tables); i++) {
        lm_conn_exec(x->c, err, "ALTER TABLE \"%w\".\"%w%s\" RENAME TO \"%w%s\"", x->schema, old_name, tables[i],
                     name, tables[i]);
    }
    if (!err->code) x->name = new_name;
    create_triggers(x, err);
    if (err->code) x->name = old_name;
    sqlite3_free(err->code ? new_name : old_name);
}

/*----------------------------------------------------------------------
** Use: everything in place, and the model the one that made the vectors. */
static void look(lm_index *x, lm_err *err) {
    need_vec(x, err);
    if (!err->code) find_key(x, err);
    sqlite3_int64 format = get_int(x, "SELECT value FROM {config} WHERE key = 'format'", err);
    if (!err->code && format != FORMAT) {
        lm_err_set(err, LM_ERROR, "%.60s has format %lld, this version of sqlite-lm knows format %d", x->name,
                   (long long)format, FORMAT);
    }
}

/* vec0 (0.1.9) finds vectors by a rowid that its table does not declare: a dump that is loaded again may give others. */
static int has_lost_places(const lm_index *x, lm_err *err) {
    lm_err own = {0};
    int has = err->code ? 0 : get_int(x, "SELECT EXISTS (SELECT 1 FROM {places} WHERE _rowid_ <> rowid)", &own) != 0;
    return !is_answer(&own, err) && has;
}

static void restore_places(const lm_index *x, lm_err *err) {
    if (has_lost_places(x, err))
        exec(x, "UPDATE {places} SET _rowid_ = -1 - rowid; UPDATE {places} SET _rowid_ = rowid", err);
}

/* The model by the name that the index was declared with or, when it was renamed since, by the digest of what made the vectors. */
static lm_shared *begin_model(const lm_index *x, lm_err *err) {
    const char *name = x->o.vector.model;
    lm_err own = {0};
    lm_shared *s = err->code ? NULL : lm_share_begin(x->c, name, "embed", &own);
    if (own.code == LM_ERROR && name && lm_store_exists(x->c, x->schema, err)) {
        sqlite3_stmt *stmt = lm_index_prepare(x, "SELECT m.name FROM {schema}.lm_model m JOIN {config} c ON c.key = 'digest' AND m.digest = c.value"
                                              " WHERE m.name <> ?1", err);
        if (stmt) sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
        const char *now = lm_conn_step(x->c, stmt, err) ? lm_column_text(stmt, 0, err) : NULL;
        if (now) own = (lm_err){0}, s = lm_share_begin(x->c, now, "embed", &own);
        sqlite3_finalize(stmt);
    }
    if (!err->code) *err = own;
    return s;
}

#define HOW_TO(command) "INSERT INTO %.60s(%.60s) VALUES('" command "')"

static lm_shared *begin(lm_index *x, int is_rebuild, int *size, lm_err *err) {
    char digest[2 * LM_DIGEST_BYTES + 1];
    look(x, err);
    if (!err->code && !is_rebuild && !has_triggers(x, err)) {
        lm_err_set(err, LM_ERROR, "%.60s: the triggers on %.60s that keep it in step are gone: " HOW_TO("rebuild"),
                   x->name, x->o.content, x->name, x->name);
    }
    lm_shared *s = begin_model(x, err);
    *size = s ? lm_vector_size(s, &x->o.vector, err) : 0;
    if (s) lm_hex(s->digest, digest);
    sqlite3_stmt *stmt = lm_index_prepare(x, "SELECT value FROM {config} WHERE key = 'digest'", err);
    const char *was = lm_conn_step(x->c, stmt, err) ? lm_column_text(stmt, 0, err) : NULL;
    int same = was && !err->code && !strcmp(was, digest);
    sqlite3_finalize(stmt);
    sqlite3_int64 dimensions = get_int(x, "SELECT value FROM {config} WHERE key = 'dimensions'", err);
    if (!err->code && dimensions != *size) {
        lm_err_set(err, LM_ERROR,
                   "%.60s holds vectors of %lld dimensions, the model now gives %d: drop it and create it again",
                   x->name, (long long)dimensions, *size);
    } else if (!err->code && !same && !is_rebuild) {
        lm_err_set(err, LM_ERROR, "%.60s was made with another model than the one in use now: " HOW_TO("rebuild"),
                   x->name, x->name, x->name);
    } else if (!err->code && !same) {
        write_config(x, "digest", digest, 0, err);
    }
    if (!err->code) return s;
    lm_share_end(s);
    return NULL;
}

/*----------------------------------------------------------------------
** Walking rows (key, body) in the order of their keys, a batch at a time, and making their vectors. */
typedef struct {
    lm_index *x;
    const lm_shared *s;
    int size;                               /* of a vector */
    sqlite3_stmt *rows;                     /* those from key ?1 on */
    sqlite3_int64 from;
    int at_end, n;
    sqlite3_int64 keys[BATCH];
    sqlite3_value *bodies[BATCH];
    lm_text texts[BATCH];
    lm_err errs[BATCH];                     /* why there is no vector */
    int has_vector[BATCH];
    float *vectors;                         /* (BATCH, size) */
} walk;

static walk *walk_new(lm_index *x, const lm_shared *s, int size, const char *sql, lm_err *err) {
    walk *w = lm_calloc(1, sizeof *w, err);
    if (!w) return NULL;
    *w = (walk){ .x = x, .s = s, .size = size, .from = LLONG_MIN };
    w->vectors = lm_alloc((size_t)BATCH * (size_t)size * sizeof *w->vectors, err);
    w->rows = lm_index_prepare(x, sql, err);
    return w;
}

static void walk_clear(walk *w) {
    for (int i = 0; i < w->n; i++) sqlite3_value_free(w->bodies[i]);
    w->n = 0;
}

static void walk_free(walk *w) {
    if (!w) return;
    walk_clear(w);
    sqlite3_finalize(w->rows);
    lm_free(w->vectors);
    lm_free(w);
}

static void walk_read(walk *w, lm_err *err) {
    size_t n_bytes = 0;
    sqlite3_bind_int64(w->rows, 1, w->from);
    while (w->n < BATCH && n_bytes < BATCH_BYTES && !w->at_end && !err->code) {
        w->at_end = !lm_conn_step(w->x->c, w->rows, err);
        if (w->at_end) break;
        int i = w->n++;
        w->keys[i] = sqlite3_column_int64(w->rows, 0);
        w->bodies[i] = sqlite3_value_dup(sqlite3_column_value(w->rows, 1));
        n_bytes += (size_t)sqlite3_column_bytes(w->rows, 1);
        if (!w->bodies[i]) lm_err_set(err, LM_NOMEM, "out of memory");
        w->at_end = w->keys[i] == LLONG_MAX;
        w->from = w->at_end ? w->from : w->keys[i] + 1;
    }
    sqlite3_reset(w->rows);
}

static const float *walk_vector(const walk *w, int i) { return w->vectors + (size_t)i * (size_t)w->size; }

static int has_direction(const float *vector, int n) {
    int is_finite = 1, is_zero = 1;
    for (int i = 0; i < n; i++) is_finite &= isfinite(vector[i]) != 0, is_zero &= vector[i] == 0;
    return is_finite && !is_zero;
}

/* Take the next batch; return how many rows it has, 0 at the end and on error. */
static int walk_next(walk *w, lm_err *err) {
    walk_clear(w);
    walk_read(w, err);
    for (int i = 0; i < w->n && !err->code; i++) {
        w->texts[i] = (lm_text){0};
        if (sqlite3_value_type(w->bodies[i]) != SQLITE_BLOB && !lm_value_text(w->bodies[i], &w->texts[i], "", err))
            w->texts[i].text = NULL;
    }
    if (w->n) lm_vectors(w->x->c, w->s, &w->x->o.vector, w->texts, w->n, w->vectors, NULL, w->errs, err);
    for (int i = 0; i < w->n && !err->code; i++) {
        lm_err *own = &w->errs[i];
        int has_text = w->texts[i].text != NULL;
        if (sqlite3_value_type(w->bodies[i]) == SQLITE_BLOB) lm_err_set(own, LM_ERROR, "a BLOB, not text");
        if (has_text && !own->code && !has_direction(walk_vector(w, i), w->size))
            lm_err_set(own, LM_ERROR, "its vector has no direction");
        w->has_vector[i] = has_text && !own->code;
    }
    return err->code ? 0 : w->n;
}

/*----------------------------------------------------------------------
** Draining, and the commands. */
static const char pending_sql[] =
    "SELECT o.key, c.{body} FROM {outbox} o LEFT JOIN {content} c ON c.{key} = o.key WHERE o.key >= ?1 ORDER BY o.key";

/* vec0 has words of its own for an interrupt that strikes inside it. */
static void see_interrupt(const lm_index *x, lm_err *err) {
    lm_err own = {0};
    if (err->code != LM_ERROR) return;
    x->c->asked_ns = x->c->asked_long_ns = 0;
    lm_poll(lm_conn_stop(x->c), &own);
    if (own.code) *err = own;
}

static void write_once(const lm_index *x, const char *sql, lm_err *err) {
    sqlite3_stmt *stmt = lm_index_prepare(x, sql, err);
    lm_write_step(x->c, stmt, err);
    sqlite3_finalize(stmt);
}

static void drain(lm_index *x, const lm_shared *s, int size, lm_err *err) {
    walk *w = walk_new(x, s, size, pending_sql, err);
    sqlite3_stmt *remove = lm_index_prepare(x, "DELETE FROM {vec} WHERE rowid = ?1", err);
    sqlite3_stmt *add = lm_index_prepare(x, "INSERT INTO {vec}(rowid, embedding) VALUES (?1, ?2)", err);
    sqlite3_stmt *done = lm_index_prepare(x, "DELETE FROM {outbox} WHERE key <= ?1", err);
    while (!err->code && walk_next(w, err)) {
        for (int i = 0; i < w->n && !err->code; i++) {
            sqlite3_bind_int64(remove, 1, w->keys[i]);
            lm_write_step(x->c, remove, err);
            if (!w->has_vector[i]) continue;
            sqlite3_bind_int64(add, 1, w->keys[i]);
            sqlite3_bind_blob(add, 2, walk_vector(w, i), size * (int)sizeof(float), SQLITE_STATIC);
            lm_write_step(x->c, add, err);
        }
        sqlite3_bind_int64(done, 1, w->keys[w->n - 1]);
        lm_write_step(x->c, done, err);
    }
    walk_free(w);
    sqlite3_finalize(remove);
    sqlite3_finalize(add);
    sqlite3_finalize(done);
}

/* What carry_out's statement does. */
static void work(lm_index *x, int what, lm_err *err) {
    int size, is_rebuild = what == LM_INDEX_REBUILD;
    lm_shared *s = begin(x, is_rebuild, &size, err);
    restore_places(x, err);
    if (is_rebuild && !err->code && !has_triggers(x, err)) {
        drop_triggers(x, err);
        create_triggers(x, err);
    }
    if (is_rebuild) exec(x, "DELETE FROM {vec}; DELETE FROM {outbox}", err);
    if (is_rebuild) write_once(x, "INSERT INTO {outbox}(key) SELECT {key} FROM {content}", err);
    if (what == LM_INDEX_SYNC) {         /* REPLACE removes rows of other keys without a word, unless recursive_triggers is on */
        exec(
            x,
            "INSERT INTO {outbox}(key) SELECT v.rowid FROM {vec} v WHERE NOT EXISTS (SELECT 1 FROM {content} c WHERE c.{key} = v.rowid)"
            " AND NOT EXISTS (SELECT 1 FROM {outbox} o WHERE o.key = v.rowid)",
            err);
    }
    if (!err->code) drain(x, s, size, err);
    lm_share_end(s);
}

/* Change the index in one statement, so that it is done whole or not at all, wherever it is asked for: SQLite opens a
** statement journal for an INSERT that selects. A savepoint would be refused inside a write. Return 0, without an error,
** when the database cannot be written. */
static int carry_out(lm_index *x, int what, lm_err *err) {
    lm_err inner = {0};
    sqlite3_int64 last = sqlite3_last_insert_rowid(x->c->db);
    char *sql = err->code ? NULL : expand(x, "INSERT INTO {index}({command}) SELECT 'sync'", err);
    if (err->code) return 0;
    x->work = what;
    x->inner = &inner;
    int rc = sqlite3_exec(x->c->db, sql, NULL, NULL, NULL), can_write = 1, was_called = !x->work;
    x->work = 0;
    x->inner = NULL;
    sqlite3_free(sql);
    switch (rc & 0xff) {
    case SQLITE_OK:
        if (!was_called) lm_write_ignored(err);
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_AUTH: can_write = 0; break;
    default:
        if (inner.code) *err = inner;
        else lm_conn_fail(x->c, err);
    }
    sqlite3_set_last_insert_rowid(x->c->db, last);
    return can_write;
}

/* What is wrong with row i, whose vector stands in the statement's row, if there is one. NULL: nothing. */
static const char *find_fault(const walk *w, int i, sqlite3_stmt *stored, int is_stored) {
    int n_bytes = is_stored ? sqlite3_column_bytes(stored, 0) : 0, wanted = w->size * (int)sizeof(float);
    if (w->errs[i].code) return w->errs[i].msg;
    if (!w->has_vector[i]) return is_stored ? "no text, but a vector" : NULL;
    if (!is_stored) return "no vector";
    int same = n_bytes == wanted && !memcmp(sqlite3_column_blob(stored, 0), walk_vector(w, i), (size_t)wanted);
    return same ? NULL : "a vector that is not its text's";
}

/* Compare what is stored with what the rows give. */
static void check(lm_index *x, lm_err *err) {
    int size, n_faults = 0;
    char first[160] = "";
    lm_shared *s = begin(x, 0, &size, err);
    walk *w = walk_new(x, s, size, "SELECT {key}, {body} FROM {content} WHERE {key} >= ?1 ORDER BY {key}", err);
    sqlite3_stmt *stored = lm_index_prepare(x, "SELECT embedding FROM {vec} WHERE rowid = ?1", err);
    while (!err->code && walk_next(w, err)) {
        for (int i = 0; i < w->n && !err->code; i++) {
            lm_poll(lm_conn_stop(x->c), err);
            sqlite3_bind_int64(stored, 1, w->keys[i]);
            int is_stored = lm_conn_step(x->c, stored, err);
            const char *fault = find_fault(w, i, stored, is_stored);
            if (fault && !n_faults++) sqlite3_snprintf(sizeof first, first, "%lld: %s", w->keys[i], fault);
            sqlite3_reset(stored);
        }
    }
    if (n_faults) {
        lm_err_set(err, LM_ERROR, "%.60s: %d rows of %.60s are not indexed as they stand, first %s", x->name,
                   n_faults, x->o.content, first);
    }
    walk_free(w);
    sqlite3_finalize(stored);
    lm_share_end(s);
}

void lm_index_command(lm_index *x, const char *word, lm_err *err) {
    int is_check = !strcmp(word, "integrity-check"), what = !strcmp(word, "rebuild") ? LM_INDEX_REBUILD : LM_INDEX_SYNC;
    if (!is_check && strcmp(word, "sync") && strcmp(word, "rebuild")) {
        lm_err_set(err, LM_ERROR, "%.60s: unknown command \"%.40s\" (have: sync, rebuild, integrity-check)", x->name,
                   word);
    }
    if (x->work) {
        lm_err *inner = x->inner;
        int own = x->work;
        x->work = 0;
        work(x, own, inner);
        if (inner->code) lm_err_set(err, LM_ERROR, "%s", inner->msg);   /* an interrupt would end the whole transaction */
        return;
    }
    if (!err->code && !carry_out(x, what, err)) lm_conn_fail(x->c, err);
    if (is_check) check(x, err);
    see_interrupt(x, err);
}

/*----------------------------------------------------------------------
** The k nearest: a heap whose root is the worst of them. Ties go to the lower key. */
typedef struct { lm_hit *items; size_t cap; int n, k; } heap;

static int is_worse(const lm_hit *a, const lm_hit *b) {
    return a->distance != b->distance ? a->distance > b->distance : a->key > b->key;
}

static void sift_down(lm_hit *items, int n, int at) {
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_worse(&items[child + 1], &items[child])) child++;
        if (!is_worse(&items[child], &items[at])) return;
        lm_hit t = items[at];
        items[at] = items[child];
        items[child] = t;
    }
}

static void heap_add(heap *h, sqlite3_int64 key, double distance, lm_err *err) {
    lm_hit hit = { key, distance };
    if (h->n < h->k) {
        if (!lm_grow((void **)&h->items, (size_t)h->n, &h->cap, 1, sizeof *h->items, err)) return;
        int at = h->n++;
        for (; at && is_worse(&hit, &h->items[(at - 1) / 2]); at = (at - 1) / 2) h->items[at] = h->items[(at - 1) / 2];
        h->items[at] = hit;
    } else if (is_worse(&h->items[0], &hit)) {
        h->items[0] = hit;
        sift_down(h->items, h->n, 0);
    }
}

static void heap_sort(heap *h) {
    for (int n = h->n - 1; n > 0; n--) {
        lm_hit t = h->items[0];
        h->items[0] = h->items[n];
        h->items[n] = t;
        sift_down(h->items, n, 0);
    }
}

/*----------------------------------------------------------------------
** Searching. */
#define COUNTS "EXISTS (SELECT 1 FROM {content} c WHERE c.{key} = v.rowid) AND NOT EXISTS (SELECT 1 FROM {outbox} o WHERE o.key = v.rowid)"

static const char nearest_sql[] = "SELECT v.rowid, v.distance, " COUNTS
                                  " FROM {vec} v WHERE v.embedding MATCH ?1 AND v.k = ?2";
static const char every_sql[] = "SELECT v.rowid, vec_distance_cosine(v.embedding, ?1), 1 FROM {vec} v WHERE " COUNTS;

/* Fill the heap from the `most` nearest vectors (0: from all, which vec0 cannot sort). Return whether they are enough: rows
** that do not count, and ties with the last that vec0 gave, can hide some that belong among the k. */
static int collect(const lm_index *x, const float *query, int size, int most, heap *h, lm_err *err) {
    int n = 0, n_count = 0, n_nearer = 0;
    double last = -INFINITY;
    sqlite3_stmt *stmt = lm_index_prepare(x, most ? nearest_sql : every_sql, err);
    if (stmt) sqlite3_bind_blob(stmt, 1, query, size * (int)sizeof *query, SQLITE_STATIC);
    if (stmt && most) sqlite3_bind_int(stmt, 2, most);
    for (h->n = 0; lm_conn_step(x->c, stmt, err); n++) {
        double distance = (double)(float)sqlite3_column_double(stmt, 1);
        if (distance > last) n_nearer = n_count, last = distance;
        if (!sqlite3_column_int(stmt, 2) || sqlite3_column_type(stmt, 1) == SQLITE_NULL) continue;
        n_count++;
        heap_add(h, sqlite3_column_int64(stmt, 0), distance, err);
    }
    sqlite3_finalize(stmt);
    return err->code || !most || n < most || n_nearer >= h->k;
}

/* Embed the pending rows for this search alone. */
static void add_pending(lm_index *x, const lm_shared *s, const float *query, int size, heap *h, lm_err *err) {
    walk *w = walk_new(x, s, size, pending_sql, err);
    sqlite3_stmt *stmt = lm_index_prepare(x, "SELECT vec_distance_cosine(?1, ?2)", err);
    if (stmt) sqlite3_bind_blob(stmt, 1, query, size * (int)sizeof *query, SQLITE_STATIC);
    while (!err->code && walk_next(w, err)) {
        for (int i = 0; i < w->n && !err->code; i++) {
            if (!w->has_vector[i]) continue;
            sqlite3_bind_blob(stmt, 2, walk_vector(w, i), size * (int)sizeof *query, SQLITE_STATIC);
            if (lm_conn_step(x->c, stmt, err)) heap_add(h, w->keys[i], (double)(float)sqlite3_column_double(stmt, 0), err);
            sqlite3_reset(stmt);
        }
    }
    walk_free(w);
    sqlite3_finalize(stmt);
}

/* The vector that MATCH's right side is, or is embedded to. */
static void read_query(const lm_index *x, const lm_shared *s, sqlite3_value *value, float *out, int size, lm_err *err) {
    lm_err own = {0};
    lm_text text;
    lm_vector_options o = x->o.vector;
    o.prefix = x->o.query_prefix;
    if (sqlite3_value_type(value) != SQLITE_BLOB) {
        if (lm_value_text(value, &text, "MATCH", err)) lm_vectors(x->c, s, &o, &text, 1, out, NULL, &own, err);
        if (own.code) lm_err_set(err, own.code, "MATCH: %.200s", own.msg);
    } else if (sqlite3_value_bytes(value) != size * (int)sizeof *out) {
        lm_err_set(err, LM_ERROR, "MATCH: expected text, or a vector of %d float32 (%d bytes), got %d bytes", size,
                   size * (int)sizeof *out, sqlite3_value_bytes(value));
    } else {
        const void *bytes = lm_value_blob(value, err);
        if (bytes) memcpy(out, bytes, (size_t)size * sizeof *out);
    }
    if (!err->code && !has_direction(out, size)) {
        lm_err_set(err, LM_ERROR, "MATCH: a vector of zeros, or with a number that is not finite, has no direction");
    }
}

lm_hit *lm_index_search(lm_index *x, sqlite3_value *query, int k, int *n, lm_err *err) {
    const int most[] = { k < LM_INDEX_K_MAX - SLACK ? k + SLACK : 0, k < LM_INDEX_K_MAX ? LM_INDEX_K_MAX : 0, 0 };
    int size = 0, settled = 0;
    heap h = { .k = k };
    lm_shared *s = begin(x, 0, &size, err);
    float *vector = lm_alloc((size_t)size * sizeof *vector, err);
    if (!err->code) read_query(x, s, query, vector, size, err);
    sqlite3_int64 pending = get_int(x, "SELECT count(*) FROM (SELECT 1 FROM {outbox} LIMIT " LM_TEXT(PENDING_MAX) " + 1)", err);
    int is_lost = has_lost_places(x, err);
    if ((pending || is_lost) && !err->code && !lm_conn_must_begin(x->c, x->schema)
        && carry_out(x, LM_INDEX_DRAIN, err))
        pending = is_lost = 0;
    if (pending > PENDING_MAX || is_lost) {
        lm_err_set(err, LM_ERROR, "%.60s: %s, and this search cannot write: run sync where one can, " HOW_TO("sync"),
                   x->name, is_lost ? "its vectors must be put in their places" : "over " LM_TEXT(PENDING_MAX) " rows wait to be indexed",
                   x->name, x->name);
    }
    for (int i = 0; i < LM_COUNT(most) && !settled && !err->code; i++)
        settled = collect(x, vector, size, most[i], &h, err);
    if (pending) add_pending(x, s, vector, size, &h, err);
    see_interrupt(x, err);
    heap_sort(&h);
    lm_share_end(s);
    lm_free(vector);
    *n = err->code ? 0 : h.n;
    if (!err->code) return h.items;
    lm_free(h.items);
    return NULL;
}

sqlite3_stmt *lm_index_scan(lm_index *x, const sqlite3_int64 *only, lm_err *err) {
    look(x, err);
    sqlite3_stmt *stmt = lm_index_prepare(x, only ? "SELECT v.rowid FROM {vec} v WHERE v.rowid = ?1 AND " COUNTS
                                          : "SELECT v.rowid FROM {vec} v WHERE " COUNTS, err);
    if (stmt && only) sqlite3_bind_int64(stmt, 1, *only);
    return stmt;
}

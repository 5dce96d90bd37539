/* share.c: one copy of a model per process.
**
** Models in memory are keyed by the digest of the bytes that were read. A connection that asks for a model
** gets a copy that is there only after its own database's bytes were checked; that is remembered per
** database file, model id and edit stamp, and a change, or its rollback, changes the stamp.
**
** A copy stays while a connection counts it among its uses. Of those that nobody counts, the two used last
** stay for connections to come, unless a later edit has taken their place. */
#include "ext.h"

#include <pthread.h>
#include <stdio.h>

enum { IDLE_MAX = 2 };

typedef struct lm_verified {
    struct lm_verified *next;
    sqlite3_int64 id;
    uint8_t edit[8];
    char place[];                       /* the database: its file, or which connection's memory */
} lm_verified;

static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
static lm_shared *g_models;
static uint64_t g_clock;

static void lock(void) { pthread_mutex_lock(&g_lock); }
static void unlock(void) { pthread_mutex_unlock(&g_lock); }

/* A fork must not happen while another thread holds the lock: the child could never take it. */
static void watch_forks(void) { pthread_atfork(lock, unlock, unlock); }

static void free_shared(lm_shared *s) {
    for (lm_verified *v = s->verified, *next; v; v = next) {
        next = v->next;
        lm_free(v);
    }
    lm_buf_clear(&s->chat_template);
    lm_buf_clear(&s->adapter);
    lm_model_free(s->model);
    lm_free(s);
}

/* Take out, and return as a chain, the models that keep says no to; the lock is held. An adapted model stands before its base:
** adapted ones are put in front. */
static lm_shared *take_out(int (*keep)(const lm_shared *s, const void *arg), const void *arg) {
    lm_shared *out = NULL;
    for (lm_shared **at = &g_models; *at;) {
        lm_shared *s = *at;
        if (keep(s, arg)) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        s->next = out;
        out = s;
        if (s->base) s->base->calls--;
    }
    return out;
}

static void free_chain(lm_shared *s) {
    for (lm_shared *next; s; s = next) {
        next = s->next;
        free_shared(s);
    }
}

static int is_idle(const lm_shared *s) { return s->calls == 0 && s->connections == 0; }

/* Keep what is in use, and the idle ones used last; of two that edits have replaced, the one in front. */
static int keep_recent(const lm_shared *s, const void *most) {
    int newer = 0, is_before = 1;
    if (!is_idle(s)) return 1;
    for (const lm_shared *o = g_models; o; o = o->next) {
        is_before &= o != s;
        newer += is_idle(o) && (o->used > s->used || (o->used == s->used && is_before));
    }
    return newer < *(const int *)most;
}

static lm_shared *trim(int most) { return take_out(keep_recent, &most); }

/*----------------------------------------------------------------------
** Where a connection's database is, as a name that other connections of the process share. Under another VFS the same
** file name means another file: each dqlite node of a process has a VFS of its own. */
static char *place_of(lm_conn *c, const char *schema) {
    const char *file = sqlite3_db_filename(c->db, schema);
    sqlite3_vfs *vfs = NULL;
    sqlite3_file_control(c->db, schema, SQLITE_FCNTL_VFS_POINTER, &vfs);
    if (file && *file) return sqlite3_mprintf("%p %s", (void *)vfs, file);
    return sqlite3_mprintf("connection %llu %s", (unsigned long long)c->serial, schema);
}

static lm_shared *find_verified(const char *place, const lm_found *f) {
    for (lm_shared *s = g_models; s; s = s->next) {
        for (const lm_verified *v = s->verified; v; v = v->next) {
            if (v->id == f->id && !memcmp(v->edit, f->edit, 8) && !strcmp(v->place, place)) return s;
        }
    }
    return NULL;
}

static lm_shared *find_digest(const uint8_t digest[LM_DIGEST_BYTES]) {
    lm_shared *s = g_models;
    while (s && memcmp(s->digest, digest, LM_DIGEST_BYTES)) s = s->next;
    return s;
}

static void remember(lm_shared *s, const char *place, const lm_found *f, lm_err *err) {
    lm_verified *v = lm_alloc(sizeof *v + strlen(place) + 1, err);
    if (!v) return;
    *v = (lm_verified){ .next = s->verified, .id = f->id };
    memcpy(v->edit, f->edit, 8);
    memcpy(v->place, place, strlen(place) + 1);
    s->verified = v;
}

/* A model may have been renamed; where there is no memory for the new name it is shown under the old one. */
static void rename_use(lm_use *use, const char *name) {
    char *copy = strcmp(use->name, name) ? sqlite3_mprintf("%s", name) : NULL;
    if (!copy) return;
    sqlite3_free(use->name);
    use->name = copy;
}

/* Count s among the connection's uses, in place of what it last saw of that model; the lock is held. */
static void add_use(lm_conn *c, const lm_found *f, lm_shared *s, lm_err *err) {
    lm_use *use = c->uses;
    while (use < c->uses + c->n_uses && (use->id != f->id || strcmp(use->schema, f->schema))) use++;
    if (use == c->uses + c->n_uses) {
        lm_use *grown = lm_realloc(c->uses, sizeof *grown * (size_t)(c->n_uses + 1), err);
        if (!grown) return;
        c->uses = grown;
        use = &c->uses[c->n_uses];
        *use = (lm_use){ .schema = sqlite3_mprintf("%s", f->schema),
                         .name = sqlite3_mprintf("%s", f->name),
                         .id = f->id };
        if (!use->schema || !use->name) {
            sqlite3_free(use->schema);
            sqlite3_free(use->name);
            lm_err_set(err, LM_NOMEM, "out of memory");
            return;
        }
        c->n_uses++;
    } else if (use->model != s) {
        use->model->connections--;
        if (is_idle(use->model)) use->model->used = 0;      /* an edit took its place: first to go */
    }
    if (use->model != s) s->connections++;
    use->model = s;
    memcpy(use->edit, f->edit, 8);
}

/*----------------------------------------------------------------------
** Reading a model that is not there yet. */

/* The digest that the model's row states: a hint that saves packing a second copy, never more. */
static int stated_digest(lm_conn *c, const lm_found *f, uint8_t digest[LM_DIGEST_BYTES], lm_err *err) {
    int n = 0;
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT digest FROM \"%w\".lm_model WHERE id = ?", f->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, f->id);
    const char *text = stmt && lm_conn_step(c, stmt, err) ? lm_column_text(stmt, 0, err) : NULL;
    if (text && sqlite3_column_bytes(stmt, 0) != 2 * LM_DIGEST_BYTES) text = NULL;
    for (unsigned byte; text && n < LM_DIGEST_BYTES && sscanf(text + 2 * n, "%2x", &byte) == 1; n++)
        digest[n] = (uint8_t)byte;
    sqlite3_finalize(stmt);
    return n == LM_DIGEST_BYTES;
}

static void read_chat(lm_conn *c, const lm_found *f, lm_shared *s, lm_err *err) {
    sqlite3_stmt *stmt = lm_conn_prepare(c, err, "SELECT meta FROM \"%w\".lm_model WHERE id = ?", f->schema);
    if (stmt) sqlite3_bind_int64(stmt, 1, f->id);
    if (stmt && lm_conn_step(c, stmt, err)) {
        const char *text;
        size_t n;
        lm_meta *meta = lm_meta_new(sqlite3_column_blob(stmt, 0), (size_t)sqlite3_column_bytes(stmt, 0), err);
        if (meta && lm_meta_text(meta, "tokenizer.chat_template", &text, &n, err)) {
            lm_buf_append(&s->chat_template, text, n, err);
            s->chat = lm_chat_recognise(text, n);
        }
        lm_meta_free(meta);
    }
    sqlite3_finalize(stmt);
}

/* The budget is short: idle models go, and what the others keep of prompts. Return 0 when there was nothing to give. */
static int give_room(void) {
    int n = 0;
    lock();
    lm_shared *idle = trim(0);
    for (lm_shared *s = g_models; s; s = s->next) n += lm_model_forget(s->model);
    unlock();
    n += idle != NULL;
    free_chain(idle);
    return n;
}

/* Read and check the model. Return a new copy, or one that is there with the same digest. */
static lm_shared *read_shared(lm_conn *c, const lm_found *f, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    if (stated_digest(c, f, digest, err)) {
        lock();
        lm_shared *there = find_digest(digest);
        if (there) there->calls++;
        unlock();
        if (there) {
            uint8_t read[LM_DIGEST_BYTES];
            lm_store_read(c, f, read, err);
            if (!err->code && !memcmp(read, digest, sizeof read)) return there;
            lm_share_end(there);
            if (err->code) return NULL;
        }
    }
    lm_shared *s = lm_calloc(1, sizeof *s, err);
    if (!s) return NULL;
    s->calls = 1;
    int autocommit = sqlite3_get_autocommit(c->db);
    s->model = lm_store_build(c, f, s->digest, err);
    /* Where SQLite itself found no memory it has undone the transaction: the rows of before are not there any more. */
    if (err->code == LM_NOMEM && sqlite3_get_autocommit(c->db) == autocommit && give_room()) {
        *err = (lm_err){0};
        s->model = lm_store_build(c, f, s->digest, err);
    }
    if (s->model) read_chat(c, f, s, err);
    if (err->code) {
        free_shared(s);
        return NULL;
    }
    lock();
    lm_shared *there = find_digest(s->digest);
    if (there) there->calls++;
    else s->next = g_models, g_models = s;
    unlock();
    if (there) free_shared(s);
    return there ? there : s;
}

static lm_shared *begin_found(lm_conn *c, const lm_found *f, lm_err *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    lm_shared *s = NULL;
    pthread_once(&once, watch_forks);
    for (int i = 0; i < c->n_uses && !s; i++) {
        lm_use *u = &c->uses[i];
        if (u->id != f->id || strcmp(u->schema, f->schema)) continue;
        rename_use(u, f->name);
        if (!memcmp(u->edit, f->edit, 8)) s = u->model;
    }
    /* Before the lock: SQLite's own, which place_of takes, may be held by who waits for ours. */
    int is_used = s != NULL;
    char *place = is_used ? NULL : place_of(c, f->schema);
    if (!is_used && !place) return lm_err_set(err, LM_NOMEM, "out of memory"), NULL;
    lock();
    if (!is_used) s = find_verified(place, f);
    int is_known = s != NULL;
    if (s) s->calls++, s->used = ++g_clock;
    unlock();
    if (is_used) return s;
    if (!s) s = read_shared(c, f, err);
    lock();
    if (s) {
        s->used = ++g_clock;
        if (!is_known) remember(s, place, f, err);
        add_use(c, f, s, err);
    }
    lm_shared *idle = trim(IDLE_MAX);
    unlock();
    sqlite3_free(place);
    free_chain(idle);
    if (s && err->code) {
        lm_share_end(s);
        s = NULL;
    }
    return s;
}

/*----------------------------------------------------------------------
** Adapted models. They are keyed by the digests of both, found again by the adapter's edit stamp and their base, and belong to
** no connection: between calls they are idle. */

/* Read the adapter's rows beside base, a use of which the new copy takes. */
static lm_shared *read_adapted(lm_conn *c, const lm_found *f, lm_adapter_rows *rows, const char *name,
                               lm_shared *base, lm_err *err) {
    char digest[2 * LM_DIGEST_BYTES + 1];
    lm_hex(base->digest, digest);
    if (strcmp(digest, rows->base_digest)) {
        lm_err_set(err, LM_ERROR,
                   "adapter %.60s: model %.60s is not the one that it was trained for: its digest is another", name,
                   f->name);
    }
    lm_adapter_read(c, f, rows, err);
    lm_shared *s = lm_calloc(1, sizeof *s, err);
    if (!s) return NULL;
    s->calls = 1;
    s->chat = base->chat;
    lm_buf_append(&s->chat_template, base->chat_template.data, base->chat_template.n, err);
    lm_buf_append(&s->adapter, name, strlen(name), err);
    lm_adapter_digest(rows, base->digest, s->digest);
    s->model = err->code ? NULL : lm_model_adapt(base->model, &rows->a, err);
    if (!err->code) return s;
    if (err->code == LM_ERROR && !strncmp(err->msg, "adapter: ", 9)) {
        char what[sizeof err->msg];
        memcpy(what, err->msg, sizeof what);
        *err = (lm_err){0};
        lm_err_set(err, LM_ERROR, "adapter %.60s: %.160s", name, what + 9);
    }
    free_shared(s);
    return NULL;
}

static lm_shared *begin_adapted(lm_conn *c, const lm_found *f, lm_adapter_rows *rows, const char *name,
                                lm_shared *base, lm_err *err) {
    lm_found key = { .id = rows->id };
    char *where = place_of(c, f->schema), *place = where ? sqlite3_mprintf("%s\nadapter", where) : NULL;
    lm_shared *s = NULL;
    sqlite3_free(where);
    if (!place) lm_err_set(err, LM_NOMEM, "out of memory");
    memcpy(key.edit, rows->edit, sizeof key.edit);
    lock();
    if (place) s = find_verified(place, &key);
    if (s && s->base != base) s = NULL;
    if (s) s->calls++, s->used = ++g_clock;
    unlock();
    if (!s && place && (s = read_adapted(c, f, rows, name, base, err)) != NULL) {
        lock();
        remember(s, place, &key, err);
        s->used = ++g_clock;
        s->base = base;
        base->calls++;
        s->next = g_models;
        g_models = s;
        unlock();
    }
    sqlite3_free(place);
    return s;
}

lm_shared *lm_share_begin_adapted(lm_conn *c, const char *name, const char *adapter, const char *tasks, lm_err *err) {
    lm_found f;
    lm_adapter_rows rows = {0};
    lm_store_find(c, name, tasks, &f, err);
    lm_shared *s = NULL, *base = err->code ? NULL : begin_found(c, &f, err);
    if (!adapter || !base) {
        s = base;
        base = NULL;
    } else if (lm_adapter_find(c, &f, adapter, &rows, err)) {
        s = begin_adapted(c, &f, &rows, adapter, base, err);
    } else {
        lm_adapter_missing(c, &f, adapter, err);
    }
    lm_share_end(base);
    lm_adapter_clear(&rows);
    lm_found_clear(&f);
    if (s && err->code) {
        lm_share_end(s);
        s = NULL;
    }
    return s;
}

lm_shared *lm_share_begin(lm_conn *c, const char *name, const char *tasks, lm_err *err) {
    return lm_share_begin_adapted(c, name, NULL, tasks, err);
}

void lm_share_end(lm_shared *s) {
    if (!s) return;
    lock();
    s->calls--;
    lm_shared *idle = trim(IDLE_MAX);
    unlock();
    free_chain(idle);
}

void lm_share_forget(lm_conn *c) {
    lock();
    for (int i = 0; i < c->n_uses; i++) {
        c->uses[i].model->connections--;
        sqlite3_free(c->uses[i].schema);
        sqlite3_free(c->uses[i].name);
    }
    lm_shared *idle = trim(IDLE_MAX);
    unlock();
    free_chain(idle);
    lm_free(c->uses);
    c->uses = NULL;
    c->n_uses = 0;
}

/*----------------------------------------------------------------------
** Unloading. Connections keep their use; what is gone is read again when next asked for, so a use whose model
** was dropped is dropped with it. */
static int keep_used(const lm_shared *s, const void *arg) {
    (void)arg;
    return !is_idle(s);
}

int lm_share_unload(lm_conn *c, const lm_found *f) {
    int n = 0;
    lock();
    for (int i = 0; i < c->n_uses;) {
        lm_use *u = &c->uses[i];
        if (f && (u->id != f->id || strcmp(u->schema, f->schema))) {
            i++;
            continue;
        }
        u->model->connections--;
        n++;
        sqlite3_free(u->schema);
        sqlite3_free(u->name);
        *u = c->uses[--c->n_uses];
    }
    lm_shared *idle = take_out(keep_used, NULL);
    unlock();
    free_chain(idle);
    return n;
}

void lm_share_each(void (*visit)(void *arg, const lm_shared *s), void *arg) {
    lock();
    for (const lm_shared *s = g_models; s; s = s->next) visit(arg, s);
    unlock();
}

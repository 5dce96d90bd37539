/* vtab_index.c: a semantic index that is kept in step with a table.
**     CREATE VIRTUAL TABLE note_idx USING lm_index(content='note', column='body', model='minilm');
**     CREATE TABLE note_idx(body, distance, note_idx HIDDEN, k HIDDEN)      -- what it declares; rowid is note's key
**     SELECT n.id, n.body, i.distance FROM note_idx i JOIN note n ON n.id = i.rowid
**     WHERE i.body MATCH 'login problems' AND i.k = 5;
**     SELECT rowid, distance FROM note_idx('login problems', 5);            -- the same search
** MATCH takes a text or a vector. Rows come nearest first: k of them or, where no k is given, as many as are asked for, so
** that LIMIT works too. Those are found in stretches, each some times as long as all before; the first is what LIMIT says,
** where SQLite hands that on (beside MATCH since 3.41). Without MATCH the indexed rows are listed. A command is written to
** the column of the table's name: INSERT INTO note_idx(note_idx) VALUES('sync'). Searching may write (index.c), so the table
** is DIRECTONLY. */
#include "ext.h"

enum { COL_BODY, COL_DISTANCE, COL_COMMAND, COL_K };
enum { STRETCH = 16 };

typedef struct { lm_vtab base; lm_index x; } index_vtab;

typedef struct {
    sqlite3_vtab_cursor base;
    lm_hit *hits; int n, at, k;         /* of a search */
    sqlite3_value *match;               /* of one without k: what to go on searching for */
    sqlite3_stmt *scan;                 /* of a listing */
    sqlite3_stmt *body;                 /* a row's text, once asked for */
    sqlite3_int64 key;
    int done;
} index_cursor;

static lm_index *index_of(sqlite3_vtab_cursor *base) { return &((index_vtab *)base->pVtab)->x; }

/* args: module, schema, name, then the options. */
static int open_index(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error,
                      int is_new) {
    lm_err err = {0};
    lm_index x;
    lm_index_open(&x, aux, args[1], args[2], n_args - 3, args + 3, &err);
    const char *column = err.code ? "" : x.o.column;
    if (!sqlite3_stricmp(column, "distance") || !sqlite3_stricmp(column, "k") || !sqlite3_stricmp(column, x.name)) {
        lm_err_set(&err, LM_ERROR, "lm_index has a column %.60s of its own: index a generated column that copies it",
                   column);
    }
    char *sql = sqlite3_mprintf("CREATE TABLE x(\"%w\", distance, \"%w\" HIDDEN, k HIDDEN)", column, x.name);
    if (!sql) lm_err_set(&err, LM_NOMEM, "out of memory");
    if (is_new && !err.code) lm_index_create(&x, &err);
    sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY);
    int rc = err.code ? lm_error_code(&err) : lm_vtab_new(db, aux, sql, sizeof(index_vtab), out);
    if (rc == SQLITE_OK) ((index_vtab *)*out)->x = x;
    else lm_index_clear(&x);
    if (err.code) *error = sqlite3_mprintf("%s", err.msg);
    sqlite3_free(sql);
    return rc;
}

static int create(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error) {
    return open_index(db, aux, n_args, args, out, error, 1);
}

static int connect(sqlite3 *db, void *aux, int n_args, const char *const *args, sqlite3_vtab **out, char **error) {
    return open_index(db, aux, n_args, args, out, error, 0);
}

/* Is it a constraint that says what to search for (m), how many rows (k; l and o: LIMIT and OFFSET), or which row (r)? */
static char role_of(const struct sqlite3_index_constraint *k) {
    switch (k->op) {
    case SQLITE_INDEX_CONSTRAINT_MATCH: return k->iColumn == COL_BODY || k->iColumn == COL_COMMAND ? 'm' : 0;
    case SQLITE_INDEX_CONSTRAINT_EQ:
        return k->iColumn == COL_COMMAND ? 'm' : k->iColumn == COL_K ? 'k' : k->iColumn == -1 ? 'r' : 0;
    case SQLITE_INDEX_CONSTRAINT_LIMIT: return 'l';
    case SQLITE_INDEX_CONSTRAINT_OFFSET: return 'o';
    default: return 0;
    }
}

/* Is the order asked for the one in which a search gives its rows? */
static int is_our_order(const sqlite3_index_info *info) {
    int n = info->nOrderBy, ours = n <= 2;
    for (int i = 0; i < n && ours; i++)
        ours = info->aOrderBy[i].iColumn == (i ? -1 : COL_DISTANCE) && !info->aOrderBy[i].desc;
    return ours;
}

/* LIMIT tells how many rows are wanted only if the search alone decides which come and in what order. */
static int can_limit(const sqlite3_index_info *info) {
    int can = is_our_order(info);
    for (int i = 0; i < info->nConstraint && can; i++) {
        char role = role_of(&info->aConstraint[i]);
        can = info->aConstraint[i].usable && (role == 'm' || role == 'l' || role == 'o');
    }
    return can;
}

static int best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
    const lm_index *x = &((index_vtab *)vtab)->x;
    int n = 0, limits = can_limit(info), is_search = 0, has_k = 0, unusable = 0;
    char plan[8] = "";
    for (int i = 0; i < info->nConstraint; i++) {
        is_search |= role_of(&info->aConstraint[i]) == 'm';
        has_k |= role_of(&info->aConstraint[i]) == 'k';
    }
    if (has_k && !is_search) {
        lm_err err = {0};
        lm_err_set(&err, LM_ERROR,
                   "%.60s: k is how many rows a search gives, and nothing is searched for: add %.60s MATCH 'a text'",
                   x->name, x->o.column);
        return lm_vtab_fail(vtab, &err);
    }
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *k = &info->aConstraint[i];
        char role = role_of(k);
        int wanted = is_search ? role == 'm' || role == 'k' || (limits && role) : role == 'r';
        if (!wanted || strchr(plan, role)) continue;
        if (!k->usable) {
            unusable |= role != 'r';
            continue;
        }
        plan[n] = role;
        info->aConstraintUsage[i].argvIndex = ++n;
        info->aConstraintUsage[i].omit = role == 'm' || role == 'k';
    }
    int is_row = !is_search && n;
    info->estimatedRows = is_search ? 10 : is_row ? 1 : 100000;
    info->estimatedCost = is_search ? 1e6 : is_row ? 10 : 1e6;
    info->orderByConsumed = is_search && info->nOrderBy && is_our_order(info);
    info->idxFlags = is_row ? SQLITE_INDEX_SCAN_UNIQUE : 0;
    info->idxStr = sqlite3_mprintf("%s", plan);
    info->needToFreeIdxStr = 1;
    return !info->idxStr ? SQLITE_NOMEM : unusable ? SQLITE_CONSTRAINT : SQLITE_OK;
}

static int disconnect(sqlite3_vtab *vtab) {
    lm_index_clear(&((index_vtab *)vtab)->x);
    return lm_vtab_free(vtab);
}

static int destroy(sqlite3_vtab *vtab) {
    lm_err err = {0};
    lm_index_drop(&((index_vtab *)vtab)->x, &err);
    return err.code ? lm_vtab_fail(vtab, &err) : disconnect(vtab);
}

static int open_cursor(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
    (void)vtab;
    return lm_cursor_new(sizeof(index_cursor), out);
}

static void clear(index_cursor *cur) {
    lm_free(cur->hits);
    sqlite3_value_free(cur->match);
    sqlite3_finalize(cur->scan);
    sqlite3_finalize(cur->body);
    *cur = (index_cursor){ .base = cur->base };
}

static int close_cursor(sqlite3_vtab_cursor *base) {
    clear((index_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

/* Search again, farther, and pass over the rows up to the last one given: some may have been deleted meanwhile. */
static void go_on(index_cursor *cur, lm_err *err) {
    lm_hit last = cur->hits[cur->n - 1];
    lm_free(cur->hits);
    cur->k = cur->k > INT32_MAX / STRETCH ? INT32_MAX : cur->k * STRETCH;
    cur->hits = lm_index_search(index_of(&cur->base), cur->match, cur->k, &cur->n, err);
    for (cur->at = 0; cur->at < cur->n; cur->at++) {
        const lm_hit *hit = &cur->hits[cur->at];
        if (hit->distance > last.distance || (hit->distance == last.distance && hit->key > last.key)) break;
    }
}

static void advance(index_cursor *cur, lm_err *err) {
    const lm_index *x = index_of(&cur->base);
    if (cur->scan) {
        cur->done = !lm_conn_step(x->c, cur->scan, err);
        if (!cur->done) cur->key = sqlite3_column_int64(cur->scan, 0);
    } else {
        if (cur->match && cur->at == cur->n && cur->n == cur->k) go_on(cur, err);
        cur->done = err->code || cur->at >= cur->n;
        if (!cur->done) cur->key = cur->hits[cur->at++].key;
    }
}

/* How many rows a search gives; where only LIMIT tells, the least that it is to begin with. */
static int read_k(const lm_index *x, sqlite3_value *k, sqlite3_value *limit, sqlite3_value *offset, lm_err *err) {
    if (k
        && (sqlite3_value_numeric_type(k) != SQLITE_INTEGER || sqlite3_value_int64(k) < 1
            || sqlite3_value_int64(k) > LM_INDEX_K_MAX)) {
        lm_err_set(err, LM_ERROR, "%.60s: k: expected a whole number from 1 to %d", x->name, LM_INDEX_K_MAX);
    }
    if (k) return err->code ? 0 : sqlite3_value_int(k);
    double n = limit ? sqlite3_value_double(limit)
                           + (offset && sqlite3_value_double(offset) > 0 ? sqlite3_value_double(offset) : 0)
                     : STRETCH;
    return n < 1 ? 1 : n > LM_INDEX_K_MAX ? LM_INDEX_K_MAX : (int)n;
}

static int filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int n_args, sqlite3_value **args) {
    (void)plan;
    index_cursor *cur = (index_cursor *)base;
    lm_index *x = index_of(base);
    lm_err err = {0};
    sqlite3_value *match = NULL, *k = NULL, *limit = NULL, *offset = NULL, *row = NULL;
    clear(cur);
    for (int i = 0; i < n_args; i++) {
        sqlite3_value **to = plan_text[i] == 'm' ? &match : plan_text[i] == 'k' ? &k : plan_text[i] == 'l' ? &limit
            : plan_text[i] == 'o' ? &offset : &row;
        *to = args[i];
    }
    if (match) {
        cur->k = read_k(x, k, limit, offset, &err);
        int wanted = cur->k && sqlite3_value_type(match) != SQLITE_NULL;
        if (wanted && !k && !(cur->match = sqlite3_value_dup(match))) lm_err_set(&err, LM_NOMEM, "out of memory");
        if (wanted && !err.code) cur->hits = lm_index_search(x, match, cur->k, &cur->n, &err);
    } else {
        sqlite3_int64 key = row ? sqlite3_value_int64(row) : 0;     /* SQLite compares what comes with what was asked */
        cur->scan = lm_index_scan(x, row ? &key : NULL, &err);
    }
    if (!err.code) advance(cur, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int next(sqlite3_vtab_cursor *base) {
    lm_err err = {0};
    advance((index_cursor *)base, &err);
    return lm_vtab_fail(base->pVtab, &err);
}

static int eof(sqlite3_vtab_cursor *base) { return ((index_cursor *)base)->done; }

static void result_body(index_cursor *cur, sqlite3_context *ctx, lm_err *err) {
    const lm_index *x = index_of(&cur->base);
    if (!cur->body) cur->body = lm_index_prepare(x, "SELECT {body} FROM {content} WHERE {key} = ?1", err);
    if (err->code) return;
    sqlite3_bind_int64(cur->body, 1, cur->key);
    if (lm_conn_step(x->c, cur->body, err)) sqlite3_result_value(ctx, sqlite3_column_value(cur->body, 0));
    sqlite3_reset(cur->body);
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int i) {
    index_cursor *cur = (index_cursor *)base;
    lm_err err = {0};
    switch (i) {
    case COL_BODY: result_body(cur, ctx, &err); break;
    case COL_DISTANCE: if (cur->hits) sqlite3_result_double(ctx, cur->hits[cur->at - 1].distance); break;
    case COL_K: if (cur->hits && !cur->match) sqlite3_result_int(ctx, cur->k); break;
    }
    if (err.code) lm_result_error(ctx, &err);
    return err.code ? lm_error_code(&err) : SQLITE_OK;
}

static int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((index_cursor *)base)->key;
    return SQLITE_OK;
}

/* args of an INSERT: NULL, the rowid, the columns. */
static int update(sqlite3_vtab *vtab, int n_args, sqlite3_value **args, sqlite3_int64 *new_rowid) {
    lm_index *x = &((index_vtab *)vtab)->x;
    lm_err err = {0};
    lm_text word;
    int is_insert = n_args > 1 && sqlite3_value_type(args[0]) == SQLITE_NULL;
    *new_rowid = 0;
    if (is_insert && sqlite3_value_type(args[2 + COL_COMMAND]) != SQLITE_NULL) {
        if (lm_value_text(args[2 + COL_COMMAND], &word, "command", &err)) lm_index_command(x, word.text, &err);
    } else {
        lm_err_set(&err, LM_ERROR, "%.60s follows %.60s: write there", x->name, x->o.content);
    }
    return lm_vtab_fail(vtab, &err);
}

static int rename_index(sqlite3_vtab *vtab, const char *name) {
    lm_err err = {0};
    lm_index_rename(&((index_vtab *)vtab)->x, name, &err);
    return lm_vtab_fail(vtab, &err);
}

/* The outbox must not be one: in DEFENSIVE mode the triggers of the user's own INSERT could not write to it. */
static int is_shadow(const char *suffix) { return !sqlite3_stricmp(suffix, "config"); }

static const sqlite3_module module = {
    .iVersion = 3, .xCreate = create, .xConnect = connect, .xBestIndex = best_index, .xDisconnect = disconnect,
    .xDestroy = destroy, .xOpen = open_cursor, .xClose = close_cursor, .xFilter = filter, .xNext = next, .xEof = eof,
    .xColumn = column, .xRowid = rowid, .xUpdate = update, .xRename = rename_index, .xShadowName = is_shadow,
};

int lm_vtab_index_register(lm_conn *c) { return lm_register_table(c, "lm_index", &module); }

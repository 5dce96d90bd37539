/* window_text.c: is a window function called where no frame could be right?
**
** Peers of a RANGE or of GROUPS, and a partition without a frame, are given one value that nobody could tell from the first of
** many. SQLite does not say which frame a call has, so texts must: that of the running statement that calls the function or,
** when none does, of the views that one names and of triggers. A call is right where its window has ROWS BETWEEN. */
#include "ext.h"

typedef struct { const char *at; size_t n; int kind; } word;        /* kind: 'a' for a name; else its character; 0 at the end */

static int is_letter(int c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' || c & 0x80;
}

static const char *skip_blanks(const char *at) {
    for (;;) {
        if (!strncmp(at, "--", 2)) {
            at += strcspn(at, "\n");
        } else if (!strncmp(at, "/*", 2)) {
            const char *end = strstr(at + 2, "*/");
            at = end ? end + 2 : at + strlen(at);
        } else if (*at && strchr(" \t\n\f\r", *at)) {
            at++;
        } else {
            return at;
        }
    }
}

/* Return the word behind w: a name, bare or in its quotes; a text; or a character. */
static word next_word(word w) {
    const char *at = skip_blanks(w.at + w.n), *end = at;
    char close = *at == '[' ? ']' : *at;
    if (*at && strchr("\"'`[", *at)) {
        do end = strchr(end + 1, close);
        while (end && close != ']' && end[1] == close && end++);    /* a doubled quote is one inside */
        return (word){ at, end ? (size_t)(end - at) + 1 : strlen(at), close == '\'' ? '\'' : 'a' };
    }
    while (is_letter(*end)) end++;
    return end > at ? (word){ at, (size_t)(end - at), 'a' } : (word){ at, *at != 0, *at };
}

static word first_word(const char *sql) { return next_word((word){ .at = sql }); }

static word unquoted(word w) { return is_letter(*w.at) || w.n < 2 ? w : (word){ w.at + 1, w.n - 2, w.kind }; }

static int is_name(word w, const char *name, size_t n) {
    word bare = unquoted(w);
    return w.kind == 'a' && bare.n == n && !sqlite3_strnicmp(bare.at, name, (int)n);
}

static int is_word(word w, const char *keyword) { return is_letter(*w.at) && is_name(w, keyword, strlen(keyword)); }

/* Return the word behind what stands in parentheses, and whether a frame of ROWS BETWEEN is in there. */
static word skip_group(word w, int *is_right) {
    int depth = 0;
    *is_right = 0;
    for (; w.kind; w = next_word(w)) {
        depth += (w.kind == '(') - (w.kind == ')');
        if (!depth) return next_word(w);
        if (is_word(w, "rows") && is_word(next_word(w), "between")) *is_right = 1;
    }
    return w;
}

/* Is the window that a WINDOW clause of sql calls by this name right? */
static int is_right_window(const char *sql, word name) {
    int is_right = 0;
    name = unquoted(name);
    for (word w = first_word(sql); w.kind && !is_right; w = next_word(w)) {
        word as = next_word(w), open = next_word(as);
        if (w.kind == 'a' && is_name(w, name.at, name.n) && is_word(as, "as") && open.kind == '(') skip_group(open, &is_right);
    }
    return is_right;
}

/* Count the calls of function in sql, over windows; *n_wrong those that cannot be right. */
static int count_calls(const char *sql, const char *function, int *n_wrong) {
    int n_calls = 0, is_right;
    for (word w = first_word(sql); w.kind; w = next_word(w)) {
        word behind = next_word(w);
        if (!is_name(w, function, strlen(function)) || behind.kind != '(') continue;
        behind = skip_group(behind, &is_right);
        if (is_word(behind, "filter")) behind = skip_group(next_word(behind), &is_right);
        if (!is_word(behind, "over")) continue;
        behind = next_word(behind);
        if (behind.kind == '(') skip_group(behind, &is_right);
        else is_right = is_right_window(sql, behind);
        n_calls++;
        *n_wrong += !is_right;
    }
    return n_calls;
}

static const char *text_of(sqlite3_stmt *stmt) { return sqlite3_sql(stmt) ? sqlite3_sql(stmt) : ""; }     /* no memory: none */

static int names(const char *sql, const char *name) {
    word w = first_word(sql);
    while (w.kind && !is_name(w, name, strlen(name))) w = next_word(w);
    return w.kind != 0;
}

/* Prepare a query of every view and trigger, o(name, sql, type). */
static sqlite3_stmt *query_views(lm_conn *c, const char *query, lm_err *err) {
    lm_buf all = {0};
    const char *schema;
    for (int i = 0; (schema = sqlite3_db_name(c->db, i)) != NULL && !err->code; i++) {
        char *one = sqlite3_mprintf("%sSELECT name, sql, type FROM \"%w\".sqlite_master WHERE type IN ('view', 'trigger')",
                                    i ? " UNION ALL " : "", schema);
        if (one) lm_buf_append(&all, one, strlen(one), err);
        else lm_err_set(err, LM_NOMEM, "out of memory");
        sqlite3_free(one);
    }
    lm_buf_append(&all, "", 1, err);
    sqlite3_stmt *stmt = err->code ? NULL : lm_conn_prepare(c, err, "WITH o AS (%s) %s", all.data, query);
    lm_buf_clear(&all);
    return stmt;
}

/* Does a running statement name the view, or another view or a trigger, which a running one may name? */
static int is_named(lm_conn *c, const char *view, lm_err *err) {
    int found = 0;
    for (sqlite3_stmt *stmt = NULL; (stmt = lm_conn_next_busy(c, stmt));) found |= names(text_of(stmt), view);
    sqlite3_stmt *others = found ? NULL : query_views(c, "SELECT sql FROM o WHERE name <> ?", err);
    if (others) sqlite3_bind_text(others, 1, view, -1, SQLITE_STATIC);
    while (others && !found && lm_conn_step(c, others, err)) {
        const char *sql = lm_column_text(others, 0, err);
        found = sql && names(sql, view);
    }
    sqlite3_finalize(others);
    return found;
}

int lm_window_is_for_peers(lm_conn *c, const char *function, lm_err *err) {
    int n_calls = 0, n_wrong = 0;
    for (sqlite3_stmt *stmt = NULL; (stmt = lm_conn_next_busy(c, stmt));)
        n_calls += count_calls(text_of(stmt), function, &n_wrong);
    sqlite3_stmt *views = n_calls ? NULL : query_views(c, "SELECT name, sql, type = 'trigger' FROM o", err);
    while (views && !n_wrong && lm_conn_step(c, views, err)) {
        const char *name = lm_column_text(views, 0, err), *sql = lm_column_text(views, 1, err);
        int is_wrong = 0;
        if (name && sql) count_calls(sql, function, &is_wrong);
        if (is_wrong) n_wrong = sqlite3_column_int(views, 2) || is_named(c, name, err);
    }
    sqlite3_finalize(views);
    return n_wrong > 0;
}

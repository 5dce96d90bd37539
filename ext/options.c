/* options.c: options as JSON text, read by a table of names, types and ranges. An unknown name is an error
** that gives the nearest one. */
#include "ext.h"

#include <stdio.h>

static const char *const type_names[] = {
    "an integer", "a number", "true or false", "a text", "a text or an array of texts", "a text or an object"
};

int lm_distance(const char *a, const char *b) {
    int row[64], n = (int)strlen(b);
    if (n > 62 || strlen(a) > 62) return 99;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            if (change < row[j]) row[j] = change;
        }
    }
    return row[n];
}

static void unknown(const lm_option *table, const char *name, lm_err *err) {
    const char *nearest = NULL;
    int least = 99;
    lm_buf all = {0};
    for (const lm_option *o = table; o->name; o++) {
        int d = lm_distance(name, o->name);
        if (d < least) least = d, nearest = o->name;
        lm_buf_print(&all, err, "%s%s", o == table ? "" : ", ", o->name);
    }
    if (nearest && least <= (int)strlen(nearest) / 2) {
        lm_err_set(err, LM_ERROR, "unknown option \"%.60s\": did you mean \"%s\"?", name, nearest);
    } else {
        lm_err_set(err, LM_ERROR, "unknown option \"%.40s\" (have: %.*s)", name, (int)all.n, all.data);
    }
    lm_buf_clear(&all);
}

static void wrong(const lm_option *o, lm_err *err) {
    if (o->type == LM_OPT_INT || o->type == LM_OPT_REAL) {
        lm_err_set(err, LM_ERROR, "option \"%s\": expected %s from %.10g to %.10g", o->name, type_names[o->type],
                   o->min, o->max);
    } else if (o->words) {
        lm_err_set(err, LM_ERROR, "option \"%s\": expected %s%s", o->name,
                   o->type == LM_OPT_BOOL ? "true, false or " : "one of ", o->words);
    } else {
        lm_err_set(err, LM_ERROR, "option \"%s\": expected %s", o->name, type_names[o->type]);
    }
}

/* Is word one of "a|b|c"? */
static int is_among(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        if (!strncmp(at, word, n) && (at[n] == '|' || at[n] == 0)) return n > 0;
    }
    return 0;
}

static char *copy(lm_text text, lm_err *err) {
    char *s = lm_alloc(text.n + 1, err);
    if (!s) return NULL;
    memcpy(s, text.text, text.n);
    s[text.n] = 0;
    return s;
}

/* The value just begun, as JSON text. */
static char *copy_json(lm_json *j, int kind, lm_err *err) {
    lm_buf text = {0};
    size_t start = j->pos - 1;
    lm_json_skip(j, kind, err);
    if (kind == LM_JSON_TEXT) lm_json_quote(&text, j->string.data, j->string.n, err);
    else lm_buf_append(&text, j->text + start, j->pos - start, err);
    lm_buf_append(&text, "", 1, err);
    if (!err->code) return text.data;
    lm_buf_clear(&text);
    return NULL;
}

void lm_texts_append(lm_texts *t, lm_text text, lm_err *err) {
    if ((t->n & (t->n - 1)) == 0) {             /* full: twice the room */
        size_t room = t->n ? 2 * (size_t)t->n : 1;
        char **items = lm_realloc(t->items, sizeof *items * room, err);
        if (items) t->items = items;
        size_t *ns = lm_realloc(t->ns, sizeof *ns * room, err);
        if (ns) t->ns = ns;
    }
    char *item = err->code ? NULL : copy(text, err);
    if (!item) return;
    t->items[t->n] = item;
    t->ns[t->n++] = text.n;
}

void lm_texts_clear(lm_texts *t) {
    for (int i = 0; i < t->n; i++) lm_free(t->items[i]);
    lm_free(t->items);
    lm_free(t->ns);
    *t = (lm_texts){0};
}

static void read_value(lm_json *j, int kind, const lm_option *o, void *into, lm_err *err) {
    void *at = (char *)into + o->at;
    int ok = 0;
    switch (o->type) {
    case LM_OPT_INT:
        ok = kind == LM_JSON_INT && j->real >= o->min && j->real <= o->max;
        if (ok && o->max > INT32_MAX) *(sqlite3_int64 *)at = j->integer;
        else if (ok) *(int *)at = (int)j->integer;
        break;
    case LM_OPT_REAL:
        ok = (kind == LM_JSON_INT || kind == LM_JSON_REAL) && j->real >= o->min && j->real <= o->max;
        if (ok) *(double *)at = j->real;
        break;
    case LM_OPT_BOOL:
        ok = kind == LM_JSON_BOOL || (kind == LM_JSON_TEXT && o->words && is_among(o->words, j->string.data));
        if (ok) *(int *)at = kind == LM_JSON_BOOL ? (int)j->integer : LM_OPT_WORD;
        break;
    case LM_OPT_TEXT:
        ok = kind == LM_JSON_TEXT && strlen(j->string.data) == j->string.n
             && (!o->words || is_among(o->words, j->string.data));
        if (ok) *(char **)at = copy((lm_text){ j->string.data, j->string.n }, err);
        break;
    case LM_OPT_TEXTS:
        ok = kind == LM_JSON_TEXT || kind == LM_JSON_ARRAY;
        if (kind == LM_JSON_TEXT) lm_texts_append(at, (lm_text){ j->string.data, j->string.n }, err);
        while (kind == LM_JSON_ARRAY && ok) {
            int item = lm_json_next(j, err);
            if (item == LM_JSON_END) break;
            ok = item == LM_JSON_TEXT;
            if (ok) lm_texts_append(at, (lm_text){ j->string.data, j->string.n }, err);
        }
        break;
    case LM_OPT_JSON:
        ok = kind == LM_JSON_TEXT || kind == LM_JSON_OBJECT;
        if (ok) *(char **)at = copy_json(j, kind, err);
        break;
    }
    if (!ok) wrong(o, err);
}

void lm_options_read(const lm_option *table, void *into, sqlite3_value *json, uint64_t *given, lm_err *err) {
    lm_text text;
    if (given) *given = 0;
    if (err->code || !json || !lm_value_text(json, &text, "options", err)) return;
    lm_options_parse(table, into, text, given, err);
}

void lm_options_parse(const lm_option *table, void *into, lm_text text, uint64_t *given, lm_err *err) {
    lm_json j;
    lm_json_init(&j, text.text, text.n);
    int kind = lm_json_next(&j, err);
    if (kind != LM_JSON_OBJECT)
        lm_err_set(err, LM_ERROR, "options: expected a JSON object such as {\"%s\": …}", table->name);
    while ((kind = lm_json_next(&j, err)) != LM_JSON_END) {
        const lm_option *o = table;
        while (o->name && (strlen(o->name) != j.key.n || strcmp(o->name, j.key.data))) o++;
        if (!o->name) {
            unknown(table, j.key.data, err);
        } else if (kind != LM_JSON_NULL) {
            read_value(&j, kind, o, into, err);
            if (given) *given |= 1ull << (o - table);
        }
    }
    lm_json_next(&j, err);
    lm_json_clear(&j);
    if (err->code == LM_ERROR && !strncmp(err->msg, "JSON:", 5)) {
        char what[sizeof err->msg];
        memcpy(what, err->msg, sizeof what);
        *err = (lm_err){0};
        lm_err_set(err, LM_ERROR, "options: %.200s", what);
    }
}

int lm_options_given(const lm_option *table, uint64_t given, size_t at) {
    int i = 0;
    while (table[i].at != at) i++;
    return given >> i & 1;
}

void lm_options_clear(const lm_option *table, void *options) {
    for (const lm_option *o = table; o->name; o++) {
        void *at = (char *)options + o->at;
        if (o->type == LM_OPT_TEXT || o->type == LM_OPT_JSON) {
            lm_free(*(char **)at);
            *(char **)at = NULL;
        } else if (o->type == LM_OPT_TEXTS) {
            lm_texts_clear(at);
        }
    }
}

int lm_options_null(const char *on_error, const lm_err *err) {
    return err->code == LM_ERROR && on_error && !strcmp(on_error, "null");
}

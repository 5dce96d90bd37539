/* chat.c: chat templates by recognition. A family is a row: the spellings that its template texts have in
** common, and how a message, and the beginning of the answer, are written out. There is no Jinja interpreter:
** of a template's text only the family's default system message is read, where it stands as a plain literal. */
#include "../lmint.h"

#include <string.h>

/* A stretch of a message as it is written out. Markers are special tokens; nothing else of a prompt is. */
typedef struct { enum { END, TEXT, MARKER, ROLE, CONTENT } kind; const char *text; } part;

enum { N_MARKS = 3, N_PARTS = 8 };

struct lm_chat {
    const char *name;
    const char *marks[N_MARKS];         /* what a template text must contain, every one */
    const char *system_open, *system_close;     /* in the template text around its default system message, which
                                        ** a newline parts from the first */
    part message[N_PARTS], answer[N_PARTS];
};

static const lm_chat g_families[] = {
    {
        .name = "chatml",
        .marks = { "<|im_start|>", "<|im_end|>" },
        .system_open = "<|im_start|>system",
        .system_close = "<|im_end|>",
        .message = { { MARKER, "<|im_start|>" }, { ROLE, 0 }, { TEXT, "\n" },
                     { CONTENT, 0 }, { MARKER, "<|im_end|>" }, { TEXT, "\n" } },
        .answer = { { MARKER, "<|im_start|>" }, { TEXT, "assistant\n" } },
    },
};

static const char g_names[] = "chatml";

/* Find text in the first n bytes of from. NULL: not there. */
static const char *find(const char *from, size_t n, const char *text) {
    size_t text_n = strlen(text);
    const char *end = from + n;
    while ((size_t)(end - from) >= text_n) {
        from = memchr(from, text[0], (size_t)(end - from) - text_n + 1);
        if (!from) return NULL;
        if (!memcmp(from, text, text_n)) return from;
        from++;
    }
    return NULL;
}

const lm_chat *lm_chat_recognise(const char *template_text, size_t n) {
    for (int i = 0; i < LM_COUNT(g_families); i++) {
        int has_all = 1;
        for (int j = 0; j < N_MARKS && g_families[i].marks[j]; j++) {
            if (!n || !find(template_text, n, g_families[i].marks[j])) has_all = 0;
        }
        if (has_all) return &g_families[i];
    }
    return NULL;
}

const lm_chat *lm_chat_find(const char *family) {
    for (int i = 0; i < LM_COUNT(g_families); i++) {
        if (!strcmp(g_families[i].name, family)) return &g_families[i];
    }
    return NULL;
}

const char *lm_chat_name(const lm_chat *chat) { return chat->name; }
const char *lm_chat_families(void) { return g_names; }

/*----------------------------------------------------------------------
** The default system message */

/* Read the literal that begins at text and ends before close, appending what it stands for. quote is that of
** the Jinja string it lies in, or 0 in a template's bare text. Return 0 where it is more than a literal. */
static int read_literal(const char *text, const char *end, const char *close, char quote, lm_buf *out,
                        lm_err *err) {
    static const char escapes[] = "n\nt\tr\r''\"\"\\\\";
    size_t close_n = strlen(close);
    for (; (size_t)(end - text) >= close_n; text++) {
        char c = *text;
        if (!memcmp(text, close, close_n)) return 1;
        if (quote ? c == quote : c == '{' && memchr("{%#", text[1], 3)) return 0;
        if (quote && c == '\\') {
            const char *e = escapes;
            while (*e && *e != text[1]) e += 2;
            if (!*e) return 0;
            c = e[1];
            text++;
        }
        lm_buf_append(out, &c, 1, err);
    }
    return 0;
}

/* Is a place in a template's bare text, outside {{ }} and {% %}? */
static int is_bare(const char *template_text, const char *at) {
    for (; at - template_text >= 2; at--) {
        if (at[-1] == '}' && (at[-2] == '}' || at[-2] == '%')) return 1;
        if (at[-2] == '{' && (at[-1] == '{' || at[-1] == '%')) return 0;
    }
    return 1;
}

/* Append to out the first default system message that the template spells out. Return 0 when there is none. */
static int default_system(const lm_chat *chat, const char *template_text, size_t n, lm_buf *out, lm_err *err) {
    const char *end = template_text + n, *at = template_text;
    while (n && !err->code && (at = find(at, (size_t)(end - at), chat->system_open))) {
        int is_quoted = !is_bare(template_text, at);
        char quote = is_quoted ? at[-1] : 0;
        at += strlen(chat->system_open);
        const char *text = NULL;
        if (is_quoted && quote != '\'' && quote != '"') continue;
        if (at < end && at[0] == '\n') text = at + 1;
        else if (quote && end - at > 1 && at[0] == '\\' && at[1] == 'n') text = at + 2;
        size_t start = out->n;
        if (text && read_literal(text, end, chat->system_close, quote, out, err)) return 1;
        out->n = start;
    }
    return 0;
}

/*----------------------------------------------------------------------
** Rendering */

static void add_span(lm_spans *spans, lm_span span, lm_err *err) {
    if (!lm_grow((void **)&spans->data, spans->n, &spans->cap, 1, sizeof span, err)) return;
    spans->data[spans->n++] = span;
}

static void write_parts(const part *parts, const lm_message *m, lm_buf *out, lm_spans *spans, lm_err *err) {
    for (; parts->kind != END; parts++) {
        const char *text = parts->text;
        size_t n = text ? strlen(text) : 0;
        if (parts->kind == ROLE) {
            text = m->role;
            n = m->role_n;
        } else if (parts->kind == CONTENT) {
            text = m->content;
            n = m->content_n;
        } else if (parts->kind == MARKER) {
            add_span(spans, (lm_span){ out->n, n }, err);
        }
        lm_buf_append(out, text, n, err);
    }
}

void lm_chat_render(const lm_chat *chat, const char *template_text, size_t template_n, const lm_message *messages,
                    size_t n_messages, lm_buf *out, lm_spans *spans, lm_err *err) {
    lm_buf system = {0};
    int has_system = n_messages && messages[0].role_n == 6 && !memcmp(messages[0].role, "system", 6);
    if (n_messages && !has_system && default_system(chat, template_text, template_n, &system, err)) {
        lm_message m = { .role = "system", .role_n = 6, .content = system.data, .content_n = system.n };
        write_parts(chat->message, &m, out, spans, err);
    }
    for (size_t i = 0; i < n_messages && !err->code; i++) {
        write_parts(chat->message, &messages[i], out, spans, err);
    }
    write_parts(chat->answer, NULL, out, spans, err);
    lm_buf_clear(&system);
}

void lm_spans_clear(lm_spans *spans) {
    lm_free(spans->data);
    *spans = (lm_spans){0};
}

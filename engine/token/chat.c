/* chat.c: chat templates by recognition. A family is a row, or several where its models differ in spacing: the spellings
** that its template texts have in common, and how each kind of message, and the beginning of the answer, are written
** out. There is no Jinja interpreter: of a template's text only literals are read, where they stand plainly: the default
** system message and the date; a default message that has today's date in it (Mistral Small) is left out, as an answer
** should be the same tomorrow. What each row writes is held against what the real templates give (tests/golden/chat.json). */
#include "../lmint.h"

#include <string.h>

/* A stretch of a message as it is written out. Markers are special tokens, as are BOS and EOS; nothing else of a prompt
** is. TRIMMED is the content without white space at its ends, ENDED without that at its end. */
typedef struct {
    enum { END, TEXT, MARKER, BOS, EOS, ROLE, CONTENT, TRIMMED, ENDED, SYSTEM, SYSTEM_TRIMMED, DATE } kind;
    const char *text;
} part;

enum { N_MARKS = 4, N_PARTS = 10 };
enum { PLACES_MAX = 16, LITERAL_MAX = 65536 };  /* where a default message is looked for, and how long it is: more is harm */
enum { OWN_TURN, FIRST_USER, LAST_USER, NOWHERE };      /* where a system message goes */

struct lm_chat {
    const char *name;
    int is_main;                        /* what the name alone means */
    const char *marks[N_MARKS];         /* what a template text must contain, every one */
    const char *system_open, *system_close;     /* in the template text around its default system message, which
                                        ** a newline parts from the first */
    int system_at;
    int alternates;                     /* user and assistant take turns, the user first */
    int skips_empty;                    /* an empty system message */
    int thinks;                         /* Qwen 3: reasoning is left out of earlier answers */
    int begins;                         /* BOS comes first, unless the template text never speaks of it */
    part system[N_PARTS], user[N_PARTS], assistant[N_PARTS], answer[N_PARTS];
    part system_user[N_PARTS];          /* a user's message that carries the system message */
    part dated[N_PARTS];                /* the system message, there or not, in a template that says the date */
};

#define CHATML_TURN { { MARKER, "<|im_start|>" }, { ROLE, 0 }, { TEXT, "\n" }, { CONTENT, 0 }, { MARKER, "<|im_end|>" }, { TEXT, "\n" } }
#define CHATML                                                                  \
    .system = CHATML_TURN, .user = CHATML_TURN, .assistant = CHATML_TURN,       \
    .answer = { { MARKER, "<|im_start|>" }, { TEXT, "assistant\n" } }
#define LLAMA3_TURN                                                             \
    { { MARKER, "<|start_header_id|>" }, { ROLE, 0 }, { MARKER, "<|end_header_id|>" }, { TEXT, "\n\n" }, { TRIMMED, 0 }, { MARKER, "<|eot_id|>" } }
#define LLAMA2                                                                  \
    .system_at = FIRST_USER, .alternates = 1,                                   \
    .assistant = { { TEXT, " " }, { TRIMMED, 0 }, { TEXT, " " }, { EOS, 0 } }
#define LLAMA2_SYSTEM { TEXT, "[INST] <<SYS>>\n" }, { SYSTEM, 0 }, { TEXT, "\n<</SYS>>\n\n" }, { ENDED, 0 }, { TEXT, " [/INST]" }
#define ZEPHYR_TURN(role) { { MARKER, "<|" role "|>" }, { TEXT, "\n" }, { CONTENT, 0 }, { EOS, 0 }, { TEXT, "\n" } }
#define PHI3_TURN(role) { { MARKER, "<|" role "|>" }, { TEXT, "\n" }, { CONTENT, 0 }, { MARKER, "<|end|>" }, { TEXT, "\n" } }
#define PHI3                                                                    \
    .system = PHI3_TURN("system"), .user = PHI3_TURN("user"), .assistant = PHI3_TURN("assistant"), \
    .answer = { { MARKER, "<|assistant|>" }, { TEXT, "\n" } }

/* Recognition takes the first row that fits. */
static const lm_chat g_families[] = {
    { .name = "chatml", .marks = { "<|im_start|>", "reasoning_content", "last_query_index" }, .thinks = 1, CHATML },
    { .name = "chatml", .is_main = 1, .marks = { "<|im_start|>", "<|im_end|>" },
      .system_open = "<|im_start|>system", .system_close = "<|im_end|>", CHATML },
    { .name = "gemma", .is_main = 1, .marks = { "<start_of_turn>", "<end_of_turn>" }, .system_at = FIRST_USER, .alternates = 1, .begins = 1,
      .user = { { MARKER, "<start_of_turn>" }, { TEXT, "user\n" }, { TRIMMED, 0 }, { MARKER, "<end_of_turn>" }, { TEXT, "\n" } },
      .system_user = { { MARKER, "<start_of_turn>" }, { TEXT, "user\n" }, { SYSTEM, 0 }, { TEXT, "\n\n" }, { TRIMMED, 0 },
                       { MARKER, "<end_of_turn>" }, { TEXT, "\n" } },
      .assistant = { { MARKER, "<start_of_turn>" }, { TEXT, "model\n" }, { TRIMMED, 0 }, { MARKER, "<end_of_turn>" }, { TEXT, "\n" } },
      .answer = { { MARKER, "<start_of_turn>" }, { TEXT, "model\n" } } },
    { .name = "llama3", .is_main = 1, .marks = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" }, .begins = 1,
      .system = LLAMA3_TURN, .user = LLAMA3_TURN, .assistant = LLAMA3_TURN,
      .dated = { { MARKER, "<|start_header_id|>" }, { TEXT, "system" }, { MARKER, "<|end_header_id|>" },
                 { TEXT, "\n\nCutting Knowledge Date: December 2023\nToday Date: " }, { DATE, 0 }, { TEXT, "\n\n" }, { SYSTEM_TRIMMED, 0 },
                 { MARKER, "<|eot_id|>" } },
      .answer = { { MARKER, "<|start_header_id|>" }, { TEXT, "assistant" }, { MARKER, "<|end_header_id|>" }, { TEXT, "\n\n" } } },

    /* Llama 2: BOS before every user's message, or once. */
    { .name = "llama2", .is_main = 1, .marks = { "<<SYS>>", "strip()", "bos_token + '[INST] '" }, LLAMA2,
      .user = { { BOS, 0 }, { TEXT, "[INST] " }, { TRIMMED, 0 }, { TEXT, " [/INST]" } },
      .system_user = { { BOS, 0 }, LLAMA2_SYSTEM } },
    { .name = "llama2", .marks = { "<<SYS>>", "content | trim", "'<s>' + '[INST] '" }, LLAMA2,
      .user = { { BOS, 0 }, { TEXT, "[INST] " }, { TRIMMED, 0 }, { TEXT, " [/INST]" } },
      .system_user = { { BOS, 0 }, { TEXT, "[INST] <<SYS>>\n" }, { SYSTEM_TRIMMED, 0 }, { TEXT, "\n<</SYS>>\n\n" }, { ENDED, 0 }, { TEXT, " [/INST]" } } },
    { .name = "llama2", .marks = { "<<SYS>>", "strip()", "[INST]" }, LLAMA2, .begins = 1,
      .user = { { TEXT, "[INST] " }, { TRIMMED, 0 }, { TEXT, " [/INST]" } },
      .system_user = { LLAMA2_SYSTEM } },

    /* Mistral: the spaces differ from version to version (7, 3 with Tekken, 0.2 as revised, 0.1, 0.2, 0.3, Nemo). */
    { .name = "mistral", .marks = { "[INST] ", "[SYSTEM_PROMPT] " }, .begins = 1,
      .system = { { MARKER, "[SYSTEM_PROMPT]" }, { TEXT, " " }, { CONTENT, 0 }, { MARKER, "[/SYSTEM_PROMPT]" } },
      .user = { { MARKER, "[INST]" }, { TEXT, " " }, { CONTENT, 0 }, { MARKER, "[/INST]" } },
      .assistant = { { TEXT, " " }, { CONTENT, 0 }, { EOS, 0 } } },
    { .name = "mistral", .marks = { "[INST]", "[SYSTEM_PROMPT]" }, .begins = 1, .alternates = 1,
      .system = { { MARKER, "[SYSTEM_PROMPT]" }, { CONTENT, 0 }, { MARKER, "[/SYSTEM_PROMPT]" } },
      .user = { { MARKER, "[INST]" }, { CONTENT, 0 }, { MARKER, "[/INST]" } },
      .assistant = { { CONTENT, 0 }, { EOS, 0 } } },
    { .name = "mistral", .marks = { " [INST] ", " [/INST]" }, .begins = 1, .alternates = 1, .system_at = FIRST_USER,
      .user = { { TEXT, " [INST] " }, { CONTENT, 0 }, { TEXT, " [/INST]" } },
      .system_user = { { TEXT, " [INST] " }, { SYSTEM, 0 }, { TEXT, "\n\n" }, { CONTENT, 0 }, { TEXT, " [/INST]" } },
      .assistant = { { TEXT, " " }, { CONTENT, 0 }, { EOS, 0 } } },
    { .name = "mistral", .marks = { "[INST] ", " [/INST]", "eos_token + ' '" }, .begins = 1, .alternates = 1, .system_at = NOWHERE,
      .user = { { TEXT, "[INST] " }, { CONTENT, 0 }, { TEXT, " [/INST]" } },
      .assistant = { { CONTENT, 0 }, { EOS, 0 }, { TEXT, " " } } },
    { .name = "mistral", .marks = { "[INST] ", " [/INST]" }, .begins = 1, .alternates = 1, .system_at = NOWHERE,
      .user = { { TEXT, "[INST] " }, { CONTENT, 0 }, { TEXT, " [/INST]" } },
      .assistant = { { CONTENT, 0 }, { EOS, 0 } } },
    { .name = "mistral", .is_main = 1, .marks = { "[INST] ", "[/INST]" }, .begins = 1, .alternates = 1, .system_at = LAST_USER,
      .user = { { MARKER, "[INST]" }, { TEXT, " " }, { CONTENT, 0 }, { MARKER, "[/INST]" } },
      .system_user = { { MARKER, "[INST]" }, { TEXT, " " }, { SYSTEM, 0 }, { TEXT, "\n\n" }, { CONTENT, 0 }, { MARKER, "[/INST]" } },
      .assistant = { { TEXT, " " }, { TRIMMED, 0 }, { EOS, 0 } } },
    { .name = "mistral", .marks = { "[INST]", "[/INST]" }, .begins = 1, .alternates = 1, .system_at = LAST_USER,
      .user = { { MARKER, "[INST]" }, { CONTENT, 0 }, { MARKER, "[/INST]" } },
      .system_user = { { MARKER, "[INST]" }, { SYSTEM, 0 }, { TEXT, "\n\n" }, { CONTENT, 0 }, { MARKER, "[/INST]" } },
      .assistant = { { CONTENT, 0 }, { EOS, 0 } } },

    /* Phi-3: 3.5, as revised, small, and as it was first, without a system message. */
    { .name = "phi3", .marks = { "<|user|>", "<|end|>", "message['role'] == 'system' and message['content']" }, .skips_empty = 1, PHI3 },
    { .name = "phi3", .is_main = 1, .marks = { "<|user|>", "<|system|>", "<|assistant|>", "<|end|>" }, PHI3 },
    { .name = "phi3", .marks = { "'<|' + message['role'] + '|>'", "<|assistant|>", "<|end|>" }, PHI3 },
    { .name = "phi3", .marks = { "<|user|>", "<|assistant|>", "<|end|>" }, .system_at = NOWHERE,
      .user = { { MARKER, "<|user|>" }, { TEXT, "\n" }, { CONTENT, 0 }, { MARKER, "<|end|>" }, { TEXT, "\n" }, { MARKER, "<|assistant|>" }, { TEXT, "\n" } },
      .assistant = { { CONTENT, 0 }, { MARKER, "<|end|>" }, { TEXT, "\n" } } },

    { .name = "zephyr", .is_main = 1, .marks = { "<|user|>", "<|system|>", "<|assistant|>", "eos_token" },
      .system = ZEPHYR_TURN("system"), .user = ZEPHYR_TURN("user"), .assistant = ZEPHYR_TURN("assistant"),
      .answer = { { MARKER, "<|assistant|>" }, { TEXT, "\n" } } },
};

static const char g_names[] = "chatml, gemma, llama2, llama3, mistral, phi3, zephyr";

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

static int mentions(const lm_chat_talk *talk, const char *text) {
    return talk->template_n && find(talk->template_text, talk->template_n, text);
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
        if (g_families[i].is_main && !strcmp(g_families[i].name, family)) return &g_families[i];
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
    if (end - text > LITERAL_MAX) end = text + LITERAL_MAX;
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
    for (int i = 0; i < PLACES_MAX && n && chat->system_open && !err->code
                    && (at = find(at, (size_t)(end - at), chat->system_open));
         i++) {
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

/* What is being written: the prompt so far, and what its parts may ask for. */
typedef struct {
    const lm_chat_talk *talk;
    lm_message system;                  /* the system message, where it is carried by another */
    lm_buf *out;
    lm_spans *spans;
} writer;

/* White space as Unicode has it, which is what templates trim. */
static int is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680
           || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static void trim(const char **text, size_t *n, int at_start) {
    size_t first = *n, end = 0;
    for (size_t i = 0; i < *n;) {
        uint32_t c = 0;
        int step = lm_utf8_step(*text + i, *n - i, &c);
        int solid = step <= 0 || !is_space(c);
        step = step <= 0 ? 1 : step;
        if (solid && first == *n) first = i;
        i += (size_t)step;
        if (solid) end = i;
    }
    if (!at_start) first = 0;
    *n = end > first ? end - first : 0;
    *text += *n ? first : 0;
}

static void write_special(writer *w, const char *text, size_t n, lm_err *err) {
    if (!n || !lm_grow((void **)&w->spans->data, w->spans->n, &w->spans->cap, 1, sizeof(lm_span), err)) return;
    w->spans->data[w->spans->n++] = (lm_span){ w->out->n, n };
    lm_buf_append(w->out, text, n, err);
}

/* The date that a template falls back on, or the one that those of its family have. */
static void write_date(writer *w, lm_err *err) {
    static const char name[] = "date_string = \"", date[] = "26 Jul 2024";
    const char *at = w->talk->template_n ? find(w->talk->template_text, w->talk->template_n, name) : NULL;
    const char *end = at ? memchr(at + sizeof name - 1, '"',
                                  (size_t)(w->talk->template_text + w->talk->template_n - at) - (sizeof name - 1))
                         : NULL;
    if (end) lm_buf_append(w->out, at + sizeof name - 1, (size_t)(end - at) - (sizeof name - 1), err);
    else lm_buf_append(w->out, date, sizeof date - 1, err);
}

static void write_parts(writer *w, const part *parts, const lm_message *m, lm_err *err) {
    for (; parts->kind != END; parts++) {
        const char *text = parts->text;
        size_t n = text ? strlen(text) : 0;
        switch (parts->kind) {
        case MARKER: write_special(w, text, n, err); continue;
        case BOS: write_special(w, w->talk->bos, w->talk->bos_n, err); continue;
        case EOS: write_special(w, w->talk->eos, w->talk->eos_n, err); continue;
        case DATE: write_date(w, err); continue;
        case ROLE: text = m->role, n = m->role_n; break;
        case CONTENT: case TRIMMED: case ENDED: text = m->content, n = m->content_n; break;
        case SYSTEM: case SYSTEM_TRIMMED: text = w->system.content, n = w->system.content_n; break;
        default: break;
        }
        if (parts->kind == TRIMMED || parts->kind == SYSTEM_TRIMMED) trim(&text, &n, 1);
        if (parts->kind == ENDED) trim(&text, &n, 0);
        lm_buf_append(w->out, text, n, err);
    }
}

static int is_role(const lm_message *m, const char *role) {
    return m->role_n == strlen(role) && !memcmp(m->role, role, m->role_n);
}

/* Qwen 3 leaves the reasoning out of earlier answers; one that ends the conversation shows where it stood. */
static void write_thought(writer *w, const lm_chat *chat, const lm_message *m, int is_last, lm_err *err) {
    static const char open[] = "<think>", close[] = "</think>";
    lm_message answer = *m;
    const char *reason = m->content, *at = m->content, *next;
    size_t reason_n = 0;
    while ((next = find(at, (size_t)(m->content + m->content_n - at), close))) {
        if (at == m->content) reason_n = (size_t)(next - m->content);       /* up to the first end */
        at = next + sizeof close - 1;
    }
    if (at != m->content) {
        answer.content = at;
        answer.content_n = (size_t)(m->content + m->content_n - at);
        while (reason_n && reason[reason_n - 1] == '\n') reason_n--;
        while ((next = find(reason, reason_n, open))) {
            reason_n -= (size_t)(next - reason) + sizeof open - 1;
            reason = next + sizeof open - 1;
        }
        while (reason_n && *reason == '\n') reason++, reason_n--;
        while (answer.content_n && *answer.content == '\n') answer.content++, answer.content_n--;
    }
    lm_buf text = {0};
    if (is_last) {
        while (answer.content_n && *answer.content == '\n') answer.content++, answer.content_n--;
        lm_buf_print(&text, err, "<think>\n");
        lm_buf_append(&text, reason, reason_n, err);
        lm_buf_print(&text, err, "\n</think>\n\n");
        lm_buf_append(&text, answer.content, answer.content_n, err);
        answer.content = text.data;
        answer.content_n = text.n;
    }
    if (!err->code) write_parts(w, chat->assistant, &answer, err);
    lm_buf_clear(&text);
}

/* Say no to what the real templates say no to. */
static void check_talk(const lm_chat *chat, const lm_chat_talk *talk, int has_system, lm_err *err) {
    int refuses = has_system && mentions(talk, "System role not supported");
    for (size_t i = 0; i < talk->n_messages && chat->system_at == NOWHERE; i++)
        refuses |= is_role(&talk->messages[i], "system");
    if (refuses) lm_err_set(err, LM_ERROR, "the model's chat template (%s) takes no system message", chat->name);
    for (size_t i = (size_t)has_system; i < talk->n_messages && chat->alternates && !err->code; i++) {
        const lm_message *m = &talk->messages[i];
        if (is_role(m, (i - (size_t)has_system) % 2 ? "assistant" : "user")) continue;
        lm_err_set(
            err, LM_ERROR,
            "message %d has role %.*s: in the chat template %s user and assistant take turns, the user first, after"
            " at most one system message",
            (int)i, (int)LM_MIN(m->role_n, 40), m->role, chat->name);
    }
}

void lm_chat_render(const lm_chat *chat, const lm_chat_talk *talk, lm_buf *out, lm_spans *spans, lm_err *err) {
    writer w = { .talk = talk, .out = out, .spans = spans };
    lm_buf own = {0};
    const lm_message *all = talk->messages;
    size_t n = talk->n_messages;
    int has_system = n && is_role(&all[0], "system"),
        dated = chat->dated[0].kind != END && mentions(talk, "Cutting Knowledge Date");
    check_talk(chat, talk, has_system, err);
    if (talk->template_n ? mentions(talk, "bos_token") && chat->user[0].kind != BOS : chat->begins)
        write_special(&w, talk->bos, talk->bos_n, err);
    if (has_system && (dated || chat->system_at != OWN_TURN)) w.system = all[0];
    if (dated) {
        write_parts(&w, chat->dated, &w.system, err);
    } else if (n && !has_system && default_system(chat, talk->template_text, talk->template_n, &own, err)) {
        lm_message m = { .role = "system", .role_n = 6, .content = own.data, .content_n = own.n };
        write_parts(&w, chat->system, &m, err);
    }
    for (size_t i = w.system.role_n ? 1 : 0, first = i; i < n && !err->code; i++) {
        const lm_message *m = &all[i];
        int carries = w.system.role_n && !dated && i == (chat->system_at == FIRST_USER ? first : n - 1);
        if (is_role(m, "assistant") && chat->thinks) write_thought(&w, chat, m, i + 1 == n, err);
        else if (is_role(m, "assistant")) write_parts(&w, chat->assistant, m, err);
        else if (is_role(m, "system") && chat->skips_empty && !m->content_n) continue;
        else if (is_role(m, "system")) write_parts(&w, chat->system, m, err);
        else write_parts(&w, carries ? chat->system_user : chat->user, m, err);
    }
    write_parts(&w, chat->answer, &w.system, err);
    lm_buf_clear(&own);
}

void lm_spans_clear(lm_spans *spans) {
    lm_free(spans->data);
    *spans = (lm_spans){0};
}

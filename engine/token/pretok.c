/* pretok.c: a text cut into pieces by the regular expressions that its vocabulary was trained with.
**
** A pre-tokenizer is a sequence of patterns, each cutting what the one before left whole. The published ones
** are rewritten here, to the same effect, so that PCRE2 walks any text in linear time and can be stopped
** within a piece of any length:
**
** - Every pattern is anchored and matches at least one character anywhere: what a published pattern leaves
**   between its matches (and so makes a piece) is an alternative of its own. Nothing searches.
** - A run x+ is RUN(x): chunks of 4,096 in a possessive group, which calls out after each (to ask stop).
** - \s+(?!\S), the white space up to the last one before a word, is a run of chunks that each end before more
**   white space or the end of the text: only the last chunk gives back a character.
** - \s*[\r\n]+, the white space up to its last line break, is a group of (blanks, line breaks).
** - \s is spelled out as SPACE: PCRE2's would also take in U+180E, which left Unicode's White_Space in 6.3. */
#include "tok.h"

#include <string.h>

#define RUN(x) "(?:" x "{1,4096}+(?C1))++"
#define BLANK "\\t\\x0B\\f \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define SPACE BLANK "\\r\\n"

#define WORDS(x) " ?" RUN(x)
#define OTHERS "[^" SPACE "\\p{L}\\p{N}]"
#define SPACES "(?:[" SPACE "]{1,4096}(?![^" SPACE "])(?C1))++|" RUN("[" SPACE "]")
#define LINES "(?:(?:[" BLANK "]{1,4096}+(?C1))*+[\\r\\n]{1,4096}+(?C1))++"

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
#define GPT2 "'(?:[stmd]|re|ve|ll)|" WORDS("\\p{L}") "|" WORDS("\\p{N}") "|" WORDS(OTHERS) "|" SPACES

/* (?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}|
** ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
#define LLAMA3(n) \
    "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\\r\\n\\p{L}\\p{N}]?" RUN("\\p{L}") "|\\p{N}{1," n "}|" \
    WORDS(OTHERS) "(?:[\\r\\n]{1,4096}+(?C1))*+|" LINES "|" SPACES

#define SIGNS "\\p{P}$+<=>^~|"

enum { DEFAULT, GPT_2, SMOLLM, LLAMA_3, QWEN_2 };

static const char *const g_patterns[][LM_PRETOK_LEVELS] = {
    /* [\p{P}\$\+<=>\^~\|]+, the GPT-2 pattern, \p{N}+, [0-9][0-9][0-9] */
    [DEFAULT] = {
        RUN("[" SIGNS "]") "|" RUN("[^" SIGNS "]"), GPT2, RUN("\\p{N}") "|" RUN("\\P{N}"),
        "[0-9]{3}|(?:[^0-9]{1,4096}+(?C1)|[0-9]{1,2}+(?![0-9]))++",
    },
    [GPT_2] = { GPT2 },
    [SMOLLM] = { "\\p{N}|" RUN("\\P{N}"), GPT2 },
    [LLAMA_3] = { LLAMA3("3") },
    [QWEN_2] = { LLAMA3("1") },
};

/* Published patterns, as files hold them, and the form that does the same. */
static const struct { const char *text, *linear; } g_published[] = {
    { "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", GPT2 },
    { "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
      "\\s+(?!\\S)|\\s+", LLAMA3("3") },
    { "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
      "\\s+(?!\\S)|\\s+", LLAMA3("1") },
};

/* The first name of each pattern is the one that messages list. */
static const lm_pretok_row g_rows[] = {
    { "default", DEFAULT, 0, 0 },
    { "gpt-2", GPT_2, 0, 0 },
    { "phi-2", GPT_2, 0, 0 },
    { "mpt", GPT_2, 0, 0 },
    { "olmo", GPT_2, 0, 0 },
    { "jais", GPT_2, 0, 0 },
    { "trillion", GPT_2, 0, 0 },
    { "exaone4", GPT_2, 0, 0 },
    { "modern-bert", GPT_2, 0, 0 },
    { "granite-docling", GPT_2, 0, 0 },
    { "smollm", SMOLLM, 0, 0 },
    { "starcoder", SMOLLM, 0, 0 },
    { "refact", SMOLLM, 0, 0 },
    { "command-r", SMOLLM, 0, 0 },
    { "codeshell", SMOLLM, 0, 0 },
    { "exaone", SMOLLM, 0, 0 },
    { "minerva-7b", SMOLLM, 0, 0 },
    { "llama-bpe", LLAMA_3, 1, 1 },
    { "llama3", LLAMA_3, 1, 1 },
    { "llama-v3", LLAMA_3, 1, 1 },
    { "falcon3", LLAMA_3, 1, 1 },
    { "falcon-h1", LLAMA_3, 1, 1 },
    { "lfm2", LLAMA_3, 1, 1 },
    { "pixtral", LLAMA_3, 1, 1 },
    { "dbrx", LLAMA_3, 0, 0 },
    { "smaug-bpe", LLAMA_3, 0, 0 },
    { "glm4", LLAMA_3, 0, 0 },
    { "chatglm-bpe", LLAMA_3, 0, 0 },
    { "qwen2", QWEN_2, 0, 0 },
    { "deepseek-r1-qwen", QWEN_2, 0, 0 },
    { "megrez", QWEN_2, 0, 0 },
    { "stablelm2", QWEN_2, 0, 0 },
    { "hunyuan", QWEN_2, 0, 0 },
};

struct lm_pretok {
    lm_regex *code[LM_PRETOK_LEVELS];
    int n_levels;
};

const lm_pretok_row *lm_pretok_find(const lm_meta *meta, lm_err *err) {
    const char *name = "default";
    size_t n = strlen(name);
    lm_meta_text(meta, "tokenizer.ggml.pre", &name, &n, err);
    if (err->code) return NULL;
    char known[128] = "";
    int last = -1;
    for (int i = 0; i < LM_COUNT(g_rows); i++) {
        if (strlen(g_rows[i].name) == n && !memcmp(g_rows[i].name, name, n)) return &g_rows[i];
        if (g_rows[i].pattern == last) continue;
        last = g_rows[i].pattern;
        if (*known) strcat(known, ", ");
        strcat(known, g_rows[i].name);
    }
    lm_err_set(err, LM_ERROR, "tokenizer.ggml.pre: unknown pre-tokenizer '%.*s' (known: %s)", (int)LM_MIN(n, 40),
               name, known);
    return NULL;
}

lm_pretok *lm_pretok_new(const lm_pretok_row *row, lm_err *err) {
    lm_pretok *p = lm_calloc(1, sizeof *p, err);
    if (!p) return NULL;
    for (; p->n_levels < LM_PRETOK_LEVELS && g_patterns[row->pattern][p->n_levels] && !err->code; p->n_levels++) {
        p->code[p->n_levels] = lm_regex_new_anchored(row->name, g_patterns[row->pattern][p->n_levels], err);
    }
    if (!err->code) return p;
    lm_pretok_free(p);
    return NULL;
}

void lm_pretok_free(lm_pretok *p) {
    if (!p) return;
    for (int i = 0; i < LM_PRETOK_LEVELS; i++) lm_regex_free(p->code[i]);
    lm_free(p);
}

const char *lm_pretok_gpt2(void) { return GPT2; }

const char *lm_pretok_tail(const char *pattern, size_t *n) {
    static const char *const tails[] = { "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+" };
    for (int i = 0; i < LM_COUNT(tails); i++) {
        size_t tail_n = strlen(tails[i]);
        if (*n < tail_n || memcmp(pattern + *n - tail_n, tails[i], tail_n)) continue;
        *n -= tail_n;
        return "|" LINES "|" SPACES;
    }
    return "";
}

const char *lm_pretok_linear(const char *pattern, size_t n) {
    for (int i = 0; i < LM_COUNT(g_published); i++) {
        if (strlen(g_published[i].text) == n && !memcmp(g_published[i].text, pattern, n)) return g_published[i].linear;
    }
    return NULL;
}

/*----------------------------------------------------------------------
** Walking */

void lm_pretok_begin(lm_pretok_walk *w, const lm_pretok *p, const char *text, size_t n, lm_stop stop, lm_err *err) {
    *w = (lm_pretok_walk){ .p = p, .text = text, .end = { n } };
    lm_regex_begin(&w->run, stop, err);
}

void lm_pretok_end(lm_pretok_walk *w) { lm_regex_end(&w->run); }

int lm_pretok_next(lm_pretok_walk *w, const char **piece, size_t *n, lm_err *err) {
    if (err->code) return 0;
    while (w->at[w->level] == w->end[w->level]) {
        if (!w->level) return 0;
        w->level--;
    }
    for (;;) {
        size_t from = w->at[w->level],
               to = lm_regex_match(w->p->code[w->level], &w->run, w->text, from, w->end[w->level], err);
        if (err->code) return 0;
        w->at[w->level] = to;
        if (w->level + 1 == w->p->n_levels) {
            if (to - w->asked >= LM_STOP_BYTES) {
                w->asked = to;
                if (lm_poll(w->run.stop, err)) return 0;
            }
            *piece = w->text + from;
            *n = to - from;
            return 1;
        }
        w->level++;
        w->at[w->level] = from;
        w->end[w->level] = to;
    }
}

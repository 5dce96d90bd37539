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

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
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
    pcre2_general_context *general;     /* our allocator */
    pcre2_code *code[LM_PRETOK_LEVELS];
    int n_levels;
    int jit;                            /* every level runs as machine code */
};

/* What a walk may use. Possessive runs keep next to nothing; the limits are there in case PCRE2 disagrees. */
enum { MATCH_LIMIT = 10000000, HEAP_KIB = 1024, STACK_MIN = 16384, STACK_MAX = 65536 };

static void *take(size_t n, void *arg) {
    lm_err err = {0};
    return (void)arg, lm_alloc(n, &err);
}

static void give(void *p, void *arg) {
    (void)arg;
    lm_free(p);
}

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
    p->jit = 1;
    p->general = pcre2_general_context_create(take, give, NULL);
    if (!p->general) lm_err_set(err, LM_NOMEM, "out of memory");
    pcre2_compile_context *context = p->general ? pcre2_compile_context_create(p->general) : NULL;
    if (!context) lm_err_set(err, LM_NOMEM, "out of memory");
    for (int i = 0; i < LM_PRETOK_LEVELS && g_patterns[row->pattern][i] && !err->code; i++) {
        int code = 0;
        PCRE2_SIZE at = 0;
        PCRE2_SPTR pattern = (PCRE2_SPTR)g_patterns[row->pattern][i];
        uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C;
        p->code[i] = pcre2_compile(pattern, PCRE2_ZERO_TERMINATED, flags, &code, &at, context);
        if (!p->code[i]) {
            lm_err_set(err, code == PCRE2_ERROR_HEAP_FAILED ? LM_NOMEM : LM_ERROR,
                       "pre-tokenizer %s: pattern %d does not compile: PCRE2 error %d at %zu", row->name, i, code,
                       (size_t)at);
            break;
        }
        /* Where memory may not be both written and run there is no JIT: slower, to the same effect. */
        if (pcre2_jit_compile(p->code[i], PCRE2_JIT_COMPLETE)) p->jit = 0;
        p->n_levels++;
    }
    pcre2_compile_context_free(context);
    if (!err->code) return p;
    lm_pretok_free(p);
    return NULL;
}

void lm_pretok_free(lm_pretok *p) {
    if (!p) return;
    for (int i = 0; i < LM_PRETOK_LEVELS; i++) pcre2_code_free(p->code[i]);
    pcre2_general_context_free(p->general);
    lm_free(p);
}

/*----------------------------------------------------------------------
** Walking */

static int ask(lm_pretok_walk *w, size_t at) {
    if (at - w->asked < LM_STOP_BYTES) return 0;
    w->asked = at;
    return w->stop.ask && w->stop.ask(w->stop.arg);
}

static int on_callout(pcre2_callout_block *block, void *walk) {
    return ask(walk, block->current_position) ? PCRE2_ERROR_CALLOUT : 0;
}

void lm_pretok_begin(lm_pretok_walk *w, const lm_pretok *p, const char *text, size_t n, lm_stop stop,
                     lm_err *err) {
    *w = (lm_pretok_walk){ .p = p, .text = text, .end = { n }, .stop = stop };
    if (err->code) return;
    w->match = pcre2_match_data_create(1, p->general);
    w->context = pcre2_match_context_create(p->general);
    if (p->jit) w->stack = pcre2_jit_stack_create(STACK_MIN, STACK_MAX, p->general);
    if (!w->match || !w->context || (p->jit && !w->stack)) {
        lm_err_set(err, LM_NOMEM, "out of memory");
        return;
    }
    pcre2_set_match_limit(w->context, MATCH_LIMIT);
    pcre2_set_heap_limit(w->context, HEAP_KIB);
    pcre2_set_callout(w->context, on_callout, w);
    if (p->jit) pcre2_jit_stack_assign(w->context, NULL, w->stack);
}

void lm_pretok_end(lm_pretok_walk *w) {
    pcre2_jit_stack_free(w->stack);
    pcre2_match_context_free(w->context);
    pcre2_match_data_free(w->match);
}

/* Match the pattern of the current level where it stands. Return the end of the match. */
static size_t match(lm_pretok_walk *w, lm_err *err) {
    const lm_pretok *p = w->p;
    PCRE2_SPTR text = (PCRE2_SPTR)w->text;
    size_t at = w->at[w->level], end = w->end[w->level];
    const pcre2_code *code = p->code[w->level];
    int rc = p->jit ? pcre2_jit_match(code, text, end, at, PCRE2_NO_UTF_CHECK, w->match, w->context)
                    : pcre2_match(code, text, end, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, w->context);
    if (rc >= 0) {
        size_t to = pcre2_get_ovector_pointer(w->match)[1];
        if (to > at && to <= end) return to;
    }
    if (rc == PCRE2_ERROR_CALLOUT) lm_err_set(err, LM_INTERRUPT, "interrupted");
    else if (rc == PCRE2_ERROR_NOMEMORY) lm_err_set(err, LM_NOMEM, "out of memory");
    else lm_err_set(err, LM_ERROR, "pre-tokenizer: PCRE2 error %d at byte %zu", rc, at);
    return end;
}

int lm_pretok_next(lm_pretok_walk *w, const char **piece, size_t *n, lm_err *err) {
    if (err->code) return 0;
    while (w->at[w->level] == w->end[w->level]) {
        if (!w->level) return 0;
        w->level--;
    }
    for (;;) {
        size_t from = w->at[w->level], to = match(w, err);
        if (err->code) return 0;
        w->at[w->level] = to;
        if (w->level + 1 == w->p->n_levels) {
            if (ask(w, to)) return lm_err_set(err, LM_INTERRUPT, "interrupted"), 0;
            *piece = w->text + from;
            *n = to - from;
            return 1;
        }
        w->level++;
        w->at[w->level] = from;
        w->end[w->level] = to;
    }
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
const char *lm_libraries(void) { return "pcre2 " TEXT(PCRE2_MAJOR) "." TEXT(PCRE2_MINOR) "\",\"libb2"; }

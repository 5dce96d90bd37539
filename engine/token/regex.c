/* regex.c: regular expressions, by PCRE2, held to limits of work and memory.
**
** Two kinds. An anchored one is ours (pretok.c): it matches where it is asked to and calls out as it goes. A searching
** one came with a tokenizer.json, written for Oniguruma; it is translated: \s is Unicode's White_Space, \w and \b go by
** its word characters, \h is a hexadecimal digit, a script has no extensions, "m" lets a dot match a line break, ^ and $
** stand at every line. What means something else there and cannot be said here is an error.
**
** A search tries a few places at a time, against a window of the text that doubles while a match runs into its end, and
** asks stop between. The limit of steps holds for each place; one that needs more (a long run gone back over) is tried
** alone, with so many for each byte of the window. All searches of a call to encode together have so many for each byte
** gone through, and some to begin with. A text in which nothing matches is gone through once.
**
** PCRE2's machine code counts groups only, and a pattern may look over the same bytes again and again in one match. So a
** search calls out before every item of the pattern, and counts the items and the bytes that each went through. What an
** item must repeat it goes through uncounted where it fails: that is held to few. */
#include "tok.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

/* What a match may use. Possessive runs keep next to nothing; others may go back. */
enum { MATCH_LIMIT = 10000000, SEARCH_LIMIT = 100000, STEPS_A_BYTE = 16, PLACES = 32, HEAP_KIB = 1024, STACK_MIN = 16384,
       STACK_MAX = 1 << 20, PATTERN_MAX = 16384, REPEAT_MAX = 1000 };
enum { FREE_STEPS = 50000000, ALL_A_BYTE = 256 };

struct lm_regex {
    pcre2_general_context *general;     /* our allocator */
    pcre2_code *code;
    int jit;                            /* it runs as machine code */
};

static void *take(size_t n, void *arg) {
    lm_err err = {0};
    return (void)arg, lm_alloc(n, &err);
}

static void give(void *p, void *arg) {
    (void)arg;
    lm_free(p);
}

/*----------------------------------------------------------------------
** Compiling */

static void refuse(const char *what, const char *pattern, size_t n, size_t at, const char *why, lm_err *err) {
    lm_err_set(err, LM_ERROR, "%s: regex '%.*s': %s at byte %zu", what, (int)LM_MIN(n, 60), pattern, why, at);
}

static lm_regex *compile(const char *what, const char *pattern, size_t n, const char *code, size_t code_n,
                         uint32_t flags, lm_err *err) {
    lm_regex *re = lm_calloc(1, sizeof *re, err);
    if (!re) return NULL;
    int number = 0, anchored = (flags & PCRE2_ANCHORED) != 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *context = NULL;
    re->general = pcre2_general_context_create(take, give, NULL);
    if (re->general) context = pcre2_compile_context_create(re->general);
    if (context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(context, 50);
        re->code = pcre2_compile((PCRE2_SPTR)code, code_n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | flags,
                                 &number, &at, context);
        if (!re->code && number != PCRE2_ERROR_HEAP_FAILED) {
            char why[120] = "";
            pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
            refuse(what, pattern, n, at, why, err);
        }
    }
    if (!re->code) lm_err_set(err, LM_NOMEM, "out of memory");
    pcre2_compile_context_free(context);
    /* Where memory may not be both written and run there is no JIT: slower, to the same effect. */
    if (re->code) re->jit = !pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE | (anchored ? 0 : PCRE2_JIT_PARTIAL_HARD));
    if (!err->code) return re;
    lm_regex_free(re);
    return NULL;
}

/*----------------------------------------------------------------------
** Oniguruma's dialect in PCRE2's */

/* Its \w has the six numbers of Latin-1 in it; within a class, and as [:word:], it has not. */
#define POSIX_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD POSIX_WORD "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

/* Is it a script's name? PCRE2 takes it for the script's extensions unless told otherwise. */
static int is_script(const char *name, size_t n, lm_err *err) {
    char pattern[64];
    size_t length = (size_t)snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", (int)n, name);
    lm_err own = {0};
    lm_regex *re = compile("", pattern, length, pattern, length, 0, &own);
    if (own.code == LM_NOMEM) *err = own;
    lm_regex_free(re);
    return re != NULL;
}

/* Translate what stands behind a backslash. Return how many bytes of it were read. */
static size_t translate_escape(const char *p, size_t n, int in_class, lm_buf *out, const char **why, lm_err *err) {
    static const struct { char name; const char *outside, *inside; } g_escapes[] = {
        { 's', "\\p{White_Space}", "\\p{White_Space}" }, { 'S', "\\P{White_Space}", "\\P{White_Space}" },
        { 'w', "[" WORD "]", POSIX_WORD }, { 'W', "[^" WORD "]", NULL },
        { 'h', "[0-9A-Fa-f]", "0-9A-Fa-f" }, { 'H', "[^0-9A-Fa-f]", NULL },
        { 'b', "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))", "\\x08" },
        { 'B', "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))", NULL },
    };
    if (!n) return 0;
    for (int i = 0; i < LM_COUNT(g_escapes); i++) {
        if (g_escapes[i].name != *p) continue;
        const char *text = in_class ? g_escapes[i].inside : g_escapes[i].outside;
        if (!text) *why = "a class that is not to hold what is in another";
        else lm_buf_append(out, text, strlen(text), err);
        return 1;
    }
    const char *end = n > 1 && p[1] == '{' && memchr("pPx", *p, 3) ? memchr(p, '}', n) : NULL;
    size_t taken = end ? (size_t)(end - p) + 1 : 1;
    if (*p == 'u' && n >= 5) {          /* \uHHHH */
        lm_buf_print(out, err, "\\x{%.4s}", p + 1);
        return 5;
    }
    lm_buf_append(out, "\\", 1, err);
    if (taken > 4 && taken < 40 && is_script(p + 2, taken - 3, err)) {
        lm_buf_print(out, err, "%c{sc:%.*s}", *p, (int)taken - 3, p + 2);
    } else {
        lm_buf_append(out, p, taken, err);
    }
    return taken;
}

/* A class by its POSIX name, which goes by Unicode's properties there. */
static void translate_posix(const char *p, size_t n, lm_buf *out, const char **why, lm_err *err) {
    static const char *const g_names[][2] = {
        { "[:alpha:]", "\\p{Alphabetic}" }, { "[:alnum:]", "\\p{Alphabetic}\\p{Nd}" }, { "[:upper:]", "\\p{Uppercase}" },
        { "[:lower:]", "\\p{Lowercase}" }, { "[:digit:]", "\\p{Nd}" }, { "[:space:]", "\\p{White_Space}" },
        { "[:word:]", POSIX_WORD }, { "[:xdigit:]", "0-9A-Fa-f" }, { "[:punct:]", "\\p{P}\\p{S}" },
    };
    for (int i = 0; i < LM_COUNT(g_names); i++) {
        if (n != strlen(g_names[i][0]) || memcmp(p, g_names[i][0], n)) continue;
        lm_buf_append(out, g_names[i][1], strlen(g_names[i][1]), err);
        return;
    }
    *why = "a class of this name";
}

/* Does a quantifier begin here that wants more than may be? */
static int repeats_much(const char *p, size_t n) {
    int least = 0;
    for (size_t i = 1; i < n && p[i] >= '0' && p[i] <= '9'; i++)
        least = LM_MIN(10 * least + (p[i] - '0'), REPEAT_MAX + 1);
    return *p == '{' && least > REPEAT_MAX;
}

static void translate(const char *what, const char *p, size_t n, lm_buf *out, lm_err *err) {
    const char *why = NULL;
    int in_class = 0, in_group = 0;     /* in_group: in the letters of (?imx: */
    size_t class_start = 0, i = 0;
    while (i < n && !why && !err->code) {
        size_t step = 1;
        char c = p[i];
        int class_first = in_class && (i == class_start || (i == class_start + 1 && p[class_start] == '^'));
        if (c == '\\') {
            step = 1 + translate_escape(p + i + 1, n - i - 1, in_class, out, &why, err);
            if (step == 1) why = "a backslash with nothing behind it";
        } else if (in_class) {
            int posix = c == '[' && i + 1 < n && p[i + 1] == ':';
            const char *end = posix ? memchr(p + i, ']', n - i) : NULL;
            if (c == '&' && i + 1 < n && p[i + 1] == '&') why = "&& in a class";
            if (c == '[' && !end) why = "a class in a class";
            if (end) step = (size_t)(end - (p + i)) + 1;
            if (c == ']' && !class_first) in_class = 0;
            if (end) translate_posix(p + i, step, out, &why, err);
            else if (!why) lm_buf_append(out, p + i, step, err);
        } else {
            if (c == '[') {
                in_class = 1;
                class_start = i + 1;
            }
            if (in_group && !memchr("imx-", c, 4)) in_group = 0;
            int dot_all = in_group && c == 'm';
            if (c == '(' && i + 2 < n && p[i + 1] == '?' && memchr("imx-", p[i + 2], 4)) {
                in_group = 1;
                step = 2;
            }
            /* x{1,3}+ is greedy there, a repeat of a repeat, and possessive here */
            if (c == '}' && i + 1 < n && p[i + 1] == '+') why = "+ behind a {n,m}";
            if (repeats_much(p + i, n - i)) why = "over 1000 repeats";
            if (!why) lm_buf_append(out, dot_all ? "s" : p + i, step, err);
        }
        if (!why) i += step;
    }
    if (why) refuse(what, p, n, i, why, err);
}

lm_regex *lm_regex_new_anchored(const char *what, const char *pattern, lm_err *err) {
    size_t n = strlen(pattern);
    return err->code ? NULL : compile(what, pattern, n, pattern, n, PCRE2_ANCHORED, err);
}

lm_regex *lm_regex_new(const char *what, const char *pattern, size_t n, lm_err *err) {
    lm_regex *re = NULL;
    lm_buf code = {0};
    if (n > PATTERN_MAX) lm_err_set(err, LM_ERROR, "%s: a regex of %zu bytes, wanted at most %d", what, n, PATTERN_MAX);
    size_t head_n = n;
    const char *tail = lm_pretok_tail(pattern, &head_n);
    if (!err->code) translate(what, pattern, head_n, &code, err);
    lm_buf_append(&code, tail, strlen(tail) + 1, err);
    if (!err->code)
        re = compile(what, pattern, n, code.data, code.n - 1,
                     PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT | PCRE2_AUTO_CALLOUT, err);
    lm_buf_clear(&code);
    return re;
}

void lm_regex_free(lm_regex *re) {
    if (!re) return;
    pcre2_code_free(re->code);
    pcre2_general_context_free(re->general);
    lm_free(re);
}

/*----------------------------------------------------------------------
** Matching */

static int count_steps(lm_regex_run *run, size_t place, size_t at) {
    if (place != run->place) {
        run->place = place;
        run->begun = run->steps;
    }
    run->steps += 1 + (at > run->last ? at - run->last : run->last - at);
    run->last = at;
    if (run->steps - run->begun > run->most || run->steps > run->all) return PCRE2_ERROR_MATCHLIMIT;
    if (run->steps - run->told < LM_STOP_BYTES) return 0;
    run->told = run->steps;
    return run->stop.ask && run->stop.ask(run->stop.arg) ? PCRE2_ERROR_CALLOUT : 0;
}

static int on_callout(pcre2_callout_block *block, void *arg) {
    lm_regex_run *run = arg;
    size_t at = block->current_position;
    if (run->most) return count_steps(run, block->start_match, at);
    if (at - run->asked < LM_STOP_BYTES) return 0;
    run->asked = at;
    return run->stop.ask && run->stop.ask(run->stop.arg) ? PCRE2_ERROR_CALLOUT : 0;
}

void lm_regex_begin(lm_regex_run *run, lm_stop stop, lm_err *err) {
    *run = (lm_regex_run){ .stop = stop };
    if (err->code) return;
    pcre2_general_context *general = run->general = pcre2_general_context_create(take, give, NULL);
    if (general) {
        run->match = pcre2_match_data_create(1, general);
        run->context = pcre2_match_context_create(general);
        run->stack = pcre2_jit_stack_create(STACK_MIN, STACK_MAX, general);
    }
    if (!run->match || !run->context) {
        lm_err_set(err, LM_NOMEM, "out of memory");
        return;
    }
    pcre2_set_heap_limit(run->context, HEAP_KIB);
    pcre2_set_callout(run->context, on_callout, run);
    if (run->stack) pcre2_jit_stack_assign(run->context, NULL, run->stack);     /* else the machine code has 32 KiB */
}

void lm_regex_end(lm_regex_run *run) {
    pcre2_jit_stack_free(run->stack);
    pcre2_match_context_free(run->context);
    pcre2_match_data_free(run->match);
    pcre2_general_context_free(run->general);
}

static int match(const lm_regex *re, lm_regex_run *run, const char *text, size_t n, size_t at, uint32_t flags) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    flags |= PCRE2_NO_UTF_CHECK;
    return re->jit ? pcre2_jit_match(re->code, subject, n, at, flags, run->match, run->context)
                   : pcre2_match(re->code, subject, n, at, flags | PCRE2_NO_JIT, run->match, run->context);
}

static void fail(int rc, size_t at, lm_err *err) {
    if (rc == PCRE2_ERROR_CALLOUT) lm_err_set(err, LM_INTERRUPT, "interrupted");
    else if (rc == PCRE2_ERROR_NOMEMORY) lm_err_set(err, LM_NOMEM, "out of memory");
    else if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_JIT_STACKLIMIT ||
             rc == PCRE2_ERROR_DEPTHLIMIT) {
        lm_err_set(err, LM_ERROR,
                   "pre-tokenizer: the tokenizer's regex takes too many steps on this text at byte %zu", at);
    } else lm_err_set(err, LM_ERROR, "pre-tokenizer: PCRE2 error %d at byte %zu", rc, at);
}

size_t lm_regex_match(const lm_regex *re, lm_regex_run *run, const char *text, size_t at, size_t end, lm_err *err) {
    run->asked = at;
    run->most = 0;
    pcre2_set_match_limit(run->context, MATCH_LIMIT);
    int rc = match(re, run, text, end, at, 0);
    if (rc >= 0) {
        size_t to = pcre2_get_ovector_pointer(run->match)[1];
        if (to > at && to <= end) return to;
    }
    fail(rc, at, err);
    return end;
}

static int is_within(const char *text, size_t at, size_t end) { return at < end && ((uint8_t)text[at] & 0xC0) == 0x80; }

static int search(const lm_regex *re, lm_regex_run *run, const char *text, size_t at, size_t end, size_t *from,
                  size_t *to, lm_err *err) {
    size_t window = 4 * LM_STOP_BYTES;
    int alone = 0;
    while (!err->code) {
        size_t window_end = end - at > window ? at + window : end, next = LM_MIN(at + (alone ? 0 : PLACES), end);
        while (is_within(text, window_end, end)) window_end--;
        while (is_within(text, next, end)) next++;
        size_t limit = SEARCH_LIMIT + (alone ? STEPS_A_BYTE * (window_end - at) : 0);
        pcre2_set_match_limit(run->context, (uint32_t)LM_MIN(limit, MATCH_LIMIT));
        pcre2_set_offset_limit(run->context, next);
        run->most = limit;
        run->all = FREE_STEPS + ALL_A_BYTE * run->gone;
        run->begun = run->steps;
        run->place = run->last = at;
        int rc = match(re, run, text, window_end, at, window_end == end ? 0 : PCRE2_PARTIAL_HARD);
        if (rc >= 0) {
            const PCRE2_SIZE *found = pcre2_get_ovector_pointer(run->match);
            *from = found[0];
            *to = LM_MAX(found[0], found[1]);
            run->gone += *to - at;
            return found[0] >= at;
        }
        if (rc == PCRE2_ERROR_PARTIAL) {
            window *= 2;
        } else if (rc == PCRE2_ERROR_MATCHLIMIT && !alone) {
            alone = 1;
        } else if (rc == PCRE2_ERROR_NOMATCH) {
            run->gone += next - at;
            if (next == end) return 0;
            at = next;
            if (alone) at++;
            while (is_within(text, at, end)) at++;
            alone = 0;
        } else {
            fail(rc, at, err);
        }
        if ((run->places += PLACES) >= LM_STOP_BYTES / 16 || window > 4 * LM_STOP_BYTES) {
            run->places = 0;
            lm_poll(run->stop, err);
        }
    }
    return 0;
}

int lm_regex_find(lm_regex_finder *f, size_t *from, size_t *to, lm_err *err) {
    while (f->at <= f->end && search(f->regex, f->run, f->text, f->at, f->end, from, to, err)) {
        int again = *from == *to && f->has_last && f->last == *to;     /* nothing, where the last match ended */
        if (!again) {
            f->at = f->last = *to;
            f->has_last = 1;
            return 1;
        }
        do f->at++;
        while (is_within(f->text, f->at, f->end));
    }
    return 0;
}

const char *const *lm_libraries(void) {
    static const char *const names[] = {
        "pcre2 " LM_TEXT(PCRE2_MAJOR) "." LM_TEXT(PCRE2_MINOR),
        "utf8proc " LM_TEXT(UTF8PROC_VERSION_MAJOR) "." LM_TEXT(UTF8PROC_VERSION_MINOR),
        "libb2",
        NULL,
    };
    return names;
}

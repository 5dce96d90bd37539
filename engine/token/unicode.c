/* unicode.c: what characters are, and text in Unicode's normal forms (UAX 15), by utf8proc's tables.
**
** utf8proc's own normalizer sorts marks by exchanging neighbours, which takes forever over a text of nothing else, and
** cannot be stopped. Here a text is a stream of segments: a starter and the marks that follow it. A segment's marks are
** put in canonical order by counting, one pass for every class that occurs, and composed into the starter; only then
** does the next starter come in. Work is linear in the text, memory in the longest segment. */
#include "tok.h"

#include <string.h>
#include <utf8proc.h>

static const utf8proc_property_t *property(uint32_t cp) { return utf8proc_get_property((utf8proc_int32_t)cp); }

int lm_uni_is_space(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

int lm_uni_is_punctuation(uint32_t cp) {
    if (cp < 0x80)
        return (cp > 32 && cp < 48) || (cp > 57 && cp < 65) || (cp > 90 && cp < 97) || (cp > 122 && cp < 127);
    int category = property(cp)->category;
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

int lm_uni_is_number(uint32_t cp) {
    int category = property(cp)->category;
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

int lm_uni_is_mark(uint32_t cp) {
    int category = property(cp)->category;
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

int lm_uni_is_control(uint32_t cp) {
    int category = property(cp)->category;
    return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CO;
}

/* \w: Alphabetic (letters, letter numbers, circled and squared letters, and marks), M, Nd, Pc, the joiners. */
int lm_uni_is_word(uint32_t cp) {
    int category = property(cp)->category;
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) return 1;
    return category == UTF8PROC_CATEGORY_PC || cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
           (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
}

/* One character's lower case, of two characters for U+0130 alone. */
int lm_uni_lower(uint32_t cp, uint32_t out[2]) {
    if (cp == 0x130) return out[0] = 'i', out[1] = 0x307, 2;
    out[0] = cp < 0x80 ? cp + (cp >= 'A' && cp <= 'Z' ? 32 : 0) : (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
    return 1;
}

int lm_uni_breaks(uint32_t before, uint32_t cp, int *state) {
    return utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)cp, state);
}

void lm_uni_append(lm_buf *out, uint32_t cp, lm_err *err) {
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)cp, bytes);
    lm_buf_append(out, bytes, (size_t)n, err);
}

/*----------------------------------------------------------------------
** Normal forms */

enum { DECOMPOSED_MAX = 32 };           /* code points that one may become; 18 is the most */

typedef struct {
    int flags;                          /* LM_FORM_* */
    uint32_t *segment, *sorted; size_t n, cap, sorted_cap;      /* a starter, unless bare, and marks */
    int bare;                           /* the marks have no starter */
    lm_buf *out;
    lm_stop stop;
} forming;

static int combining_class(uint32_t cp) { return cp < 0x300 ? 0 : property(cp)->combining_class; }

/* The character that two compose to, or 0. utf8proc takes U+11A7, one before the first, for a final consonant. */
static uint32_t compose(uint32_t a, uint32_t b) {
    if (b == 0x11A7) return 0;
    utf8proc_int32_t pair[2] = { (utf8proc_int32_t)a, (utf8proc_int32_t)b };
    utf8proc_ssize_t n = utf8proc_normalize_utf32(pair, 2, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    return n == 1 ? (uint32_t)pair[0] : 0;
}

/* Put the marks from first on in the order of their classes, equals as they came. */
static void sort_marks(forming *f, size_t first, lm_err *err) {
    size_t begins[256] = {0}, sum = first;
    int in_order = 1;
    for (size_t i = first; i < f->n; i++) {
        int c = combining_class(f->segment[i]);
        if (i > first && combining_class(f->segment[i - 1]) > c) in_order = 0;
        begins[c]++;
        if (i % LM_STOP_BYTES == LM_STOP_BYTES - 1 && lm_poll(f->stop, err)) return;
    }
    if (in_order || !lm_grow((void **)&f->sorted, 0, &f->sorted_cap, f->n, sizeof *f->sorted, err)) return;
    for (int c = 0; c < 256; c++) {
        size_t count = begins[c];
        begins[c] = sum;
        sum += count;
    }
    for (size_t i = first; i < f->n; i++) {
        f->sorted[begins[combining_class(f->segment[i])]++] = f->segment[i];
        if (i % LM_STOP_BYTES == LM_STOP_BYTES - 1 && lm_poll(f->stop, err)) return;
    }
    for (size_t i = 0; i < first; i++) f->sorted[i] = f->segment[i];
    uint32_t *sorted = f->sorted;
    size_t cap = f->sorted_cap;
    f->sorted = f->segment;
    f->sorted_cap = f->cap;
    f->segment = sorted;
    f->cap = cap;
}

/* Compose marks into the segment's starter: each that none of its own class, left before it, keeps away. */
static void compose_marks(forming *f, lm_err *err) {
    size_t kept = 1;
    int last = 0;
    for (size_t i = 1; i < f->n; i++) {
        uint32_t mark = f->segment[i], whole = 0;
        int c = combining_class(mark);
        if (kept == 1 || last < c) whole = compose(f->segment[0], mark);
        if (whole) {
            f->segment[0] = whole;
        } else {
            f->segment[kept++] = mark;
            last = c;
        }
        if (i % LM_STOP_BYTES == 0 && lm_poll(f->stop, err)) return;
    }
    f->n = kept;
}

static void end_marks(forming *f, lm_err *err) {
    size_t first = f->bare ? 0 : 1;
    if (f->n > first + 1) sort_marks(f, first, err);
    if (f->flags & LM_FORM_COMPOSE && !f->bare && f->n > 1 && !err->code) compose_marks(f, err);
}

static void flush(forming *f, lm_err *err) {
    for (size_t i = 0; i < f->n && !err->code; i++) {
        lm_uni_append(f->out, f->segment[i], err);
        if (i % LM_STOP_BYTES == LM_STOP_BYTES - 1) lm_poll(f->stop, err);
    }
    f->n = 0;
}

static void add(forming *f, uint32_t cp, lm_err *err) {
    if (f->flags & LM_FORM_DROP_MN && cp >= 0x300 && property(cp)->category == UTF8PROC_CATEGORY_MN) return;
    if (!combining_class(cp)) {
        end_marks(f, err);
        if (f->flags & LM_FORM_COMPOSE && f->n == 1 && !f->bare && cp >= 0x300) {
            uint32_t whole = compose(f->segment[0], cp);
            if (whole) {
                f->segment[0] = whole;
                return;
            }
        }
        flush(f, err);
        f->bare = 0;
    } else if (!f->n) {
        f->bare = 1;
    }
    if (lm_grow((void **)&f->segment, f->n, &f->cap, 1, sizeof *f->segment, err)) f->segment[f->n++] = cp;
}

static void decompose(forming *f, uint32_t cp, lm_err *err) {
    utf8proc_int32_t parts[DECOMPOSED_MAX];
    int last = 0, flags = UTF8PROC_DECOMPOSE | (f->flags & LM_FORM_COMPAT ? UTF8PROC_COMPAT : 0);
    utf8proc_ssize_t n = 1;
    if (cp >= 0xA0) n = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, DECOMPOSED_MAX, flags, &last);
    if (cp < 0xA0 || n < 1 || n > DECOMPOSED_MAX) parts[0] = (utf8proc_int32_t)cp, n = 1;
    for (utf8proc_ssize_t i = 0; i < n && !err->code; i++) add(f, (uint32_t)parts[i], err);
}

void lm_uni_form(int flags, const char *text, size_t n, lm_buf *out, lm_stop stop, lm_err *err) {
    forming f = { .flags = flags, .out = out, .stop = stop };
    size_t asked = 0;
    for (size_t i = 0; i < n && !err->code;) {
        uint32_t cp;
        size_t run = lm_tok_ascii(text + i, LM_MIN(n - i, LM_STOP_BYTES));
        if (run > 1) {      /* ASCII stays as it is, but the last of it may be about to get a mark */
            end_marks(&f, err);
            flush(&f, err);
            lm_buf_append(out, text + i, run - 1, err);
            i += run - 1;
        } else {
            i += (size_t)LM_MAX(lm_utf8_step(text + i, n - i, &cp), 1);
            decompose(&f, cp, err);
        }
        if (i - asked >= LM_STOP_BYTES) {
            asked = i;
            lm_poll(stop, err);
        }
    }
    end_marks(&f, err);
    flush(&f, err);
    lm_free(f.segment);
    lm_free(f.sorted);
}

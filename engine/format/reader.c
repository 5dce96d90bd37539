/* reader.c: stepping through bytes that may lie about their lengths.
**
** The reader knows how long the whole input is (total) and how much of it is at hand (n). A step past the
** whole is an error; a step past what is at hand only sets starved, and whoever owns the bytes gets more and
** starts over. All steps are no-ops after either. */
#include "../lmint.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Make text fit for a message: some 60 bytes of whole characters, control characters shown as '?'. */
static void show(char out[72], const char *text, size_t n) {
    size_t shown = n > 64 ? 60 : n;
    memcpy(out, text, shown);
    shown = lm_utf8_complete(out, shown);
    for (size_t i = 0; i < shown; i++) {
        if ((uint8_t)out[i] < 0x20 || out[i] == 0x7F) out[i] = '?';
    }
    strcpy(out + shown, shown < n ? "..." : "");
}

/* Set err to a message that begins with the name of what is read and the byte where it starts to be wrong. */
void lm_reader_fail(const lm_reader *r, size_t at, lm_err *err, const char *format, ...) {
    char name[72] = "", what[240];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (r->name_n) show(name, r->name, r->name_n);
    lm_err_set(err, LM_ERROR, "%s%sbyte %zu: %s", name, *name ? ", " : "", at, what);
}

/* Return the next n bytes and step over them, or NULL. */
const uint8_t *lm_reader_take(lm_reader *r, uint64_t n, const char *what, lm_err *err) {
    if (err->code || r->starved) return NULL;
    if (n > r->total - r->at) {
        lm_reader_fail(r, r->at, err, "%s of %llu bytes runs past the end (%llu are left)", what,
                       (unsigned long long)n, (unsigned long long)(r->total - r->at));
        return NULL;
    }
    if (n > r->n - r->at) {
        r->starved = 1;
        return NULL;
    }
    const uint8_t *p = r->bytes + r->at;
    r->at += (size_t)n;
    return p;
}

uint64_t lm_reader_le(const uint8_t *p, size_t n_bytes) {
    uint64_t x = 0;
    for (size_t i = n_bytes; i-- > 0;) x = x << 8 | p[i];
    return x;
}

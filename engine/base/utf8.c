/* utf8.c: stepping through UTF-8 (RFC 3629) that may be wrong or cut short. */
#include "../lmint.h"

#include <string.h>

/* Look at the sequence at the front of n > 0 bytes. Return its length when it is a valid character (in *cp),
** minus the length of the maximal invalid part when it is not, 0 when it is the beginning of one that the
** end of the bytes cuts off. */
int lm_utf8_step(const char *text, size_t n, uint32_t *cp) {
    const uint8_t *s = (const uint8_t *)text;
    uint8_t lead = s[0], low = 0x80, high = 0xBF;
    int more;
    if (lead < 0x80) return *cp = lead, 1;
    if (lead >= 0xC2 && lead <= 0xDF) {
        more = 1;
        *cp = lead & 0x1F;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        more = 2;
        *cp = lead & 0x0F;
        if (lead == 0xE0) low = 0xA0;       /* no overlong forms */
        if (lead == 0xED) high = 0x9F;      /* no surrogates */
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        more = 3;
        *cp = lead & 0x07;
        if (lead == 0xF0) low = 0x90;
        if (lead == 0xF4) high = 0x8F;      /* nothing past U+10FFFF */
    } else {
        return -1;
    }
    for (int i = 1; i <= more; i++) {
        if ((size_t)i >= n) return 0;
        if (s[i] < low || s[i] > high) return -i;
        *cp = *cp << 6 | (s[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    return more + 1;
}

size_t lm_utf8_complete(const char *text, size_t n) {
    uint32_t cp;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = (uint8_t)text[n - back];
        if (c < 0x80) break;
        if (c >= 0xC0) return lm_utf8_step(text + n - back, back, &cp) == 0 ? n - back : n;
    }
    return n;
}

void lm_utf8_repair(lm_buf *out, const char *text, size_t n, lm_err *err) {
    size_t start = 0, i = 0;
    uint32_t cp;
    while (i < n && !err->code) {
        int step = lm_utf8_step(text + i, n - i, &cp);
        if (step > 0) {
            i += (size_t)step;
            continue;
        }
        lm_buf_append(out, text + start, i - start, err);
        lm_buf_append(out, "\xEF\xBF\xBD", 3, err);
        i = step ? i + (size_t)-step : n;
        start = i;
    }
    lm_buf_append(out, text + start, i - start, err);
}

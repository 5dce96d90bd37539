/* json.c: a pull reader for JSON (RFC 8259) from anyone.
**
** The reader keeps no tree: it knows its depth, which depths are objects, and a set of the keys met, as
** 64-bit hashes of (object, key) under a secret (hash.c), so that duplicates are found in linear time in objects of any
** size. */
#include "../lmint.h"

#include <stdio.h>
#include <string.h>

enum { DEPTH_MAX = 63 };

static int fail(lm_json *j, lm_err *err, const char *what) {
    lm_err_set(err, LM_ERROR, "JSON: %s at byte %llu", what, (unsigned long long)j->pos);
    return LM_JSON_END;
}

void lm_json_init(lm_json *j, const char *text, size_t n) { *j = (lm_json){ .text = text, .n = n, .first = 1 }; }

void lm_json_clear(lm_json *j) {
    lm_buf_clear(&j->key);
    lm_buf_clear(&j->string);
    lm_free(j->seen);
    j->seen = NULL;
}

static int peek(lm_json *j) {
    while (j->pos < j->n && memchr(" \t\n\r", j->text[j->pos], 4)) j->pos++;
    return j->pos < j->n ? (uint8_t)j->text[j->pos] : -1;
}

static int is_digit(const lm_json *j) { return j->pos < j->n && j->text[j->pos] >= '0' && j->text[j->pos] <= '9'; }

static int take_word(lm_json *j, const char *word) {
    size_t n = strlen(word);
    if (j->n - j->pos < n || memcmp(j->text + j->pos, word, n)) return 0;
    j->pos += n;
    return 1;
}

/* Read four hex digits; return -1 when they are not there. */
static int read_hex4(lm_json *j) {
    int value = 0;
    for (int i = 0; i < 4; i++, j->pos++) {
        int c = j->pos < j->n ? j->text[j->pos] : 0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

static void append_code_point(lm_buf *out, uint32_t cp, lm_err *err) {
    char s[4];
    size_t n = 0;
    if (cp < 0x80) {
        s[n++] = (char)cp;
    } else if (cp < 0x800) {
        s[n++] = (char)(0xC0 | cp >> 6);
    } else {
        if (cp < 0x10000) {
            s[n++] = (char)(0xE0 | cp >> 12);
        } else {
            s[n++] = (char)(0xF0 | cp >> 18);
            s[n++] = (char)(0x80 | (cp >> 12 & 63));
        }
        s[n++] = (char)(0x80 | (cp >> 6 & 63));
    }
    if (cp >= 0x80) s[n++] = (char)(0x80 | (cp & 63));
    lm_buf_append(out, s, n, err);
}

static void read_escape(lm_json *j, lm_buf *out, lm_err *err) {
    static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    int c = j->pos < j->n ? j->text[j->pos++] : 0;
    const char *found = c ? strchr(names, c) : NULL;
    if (found) {
        lm_buf_append(out, bytes + (found - names), 1, err);
    } else if (c == 'u') {
        int high = read_hex4(j), low;
        if (high >= 0xD800 && high <= 0xDBFF) {
            low = take_word(j, "\\u") ? read_hex4(j) : -1;
            if (low < 0xDC00 || low > 0xDFFF) high = -1;
            else high = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
        } else if (high >= 0xDC00 && high <= 0xDFFF) {
            high = -1;
        }
        if (high < 0) fail(j, err, "bad \\u escape");
        else append_code_point(out, (uint32_t)high, err);
    } else {
        fail(j, err, "bad escape");
    }
}

/* Read a string (the opening quote is next) into out. */
static void read_string(lm_json *j, lm_buf *out, lm_err *err) {
    out->n = 0;
    j->pos++;
    while (!err->code) {
        size_t start = j->pos;
        uint32_t cp;
        int c = 0;
        while (j->pos < j->n && (c = (uint8_t)j->text[j->pos]) >= 0x20 && c != '"' && c != '\\') {
            int step = lm_utf8_step(j->text + j->pos, j->n - j->pos, &cp);
            if (step <= 0) {
                fail(j, err, "bad UTF-8");
                return;
            }
            j->pos += (size_t)step;
        }
        lm_buf_append(out, j->text + start, j->pos - start, err);
        if (j->pos >= j->n) {
            fail(j, err, "string without end");
        } else if (c < 0x20) {
            fail(j, err, "control character in a string");
        } else {
            j->pos++;
            if (c == '"') break;
            read_escape(j, out, err);
        }
    }
    lm_buf_append(out, "", 1, err);
    if (!err->code) out->n--;
}

/* Read digits into *value (the first 19 significant ones; *dropped counts the rest). Return how many. */
static int read_digits(lm_json *j, uint64_t *value, int *dropped) {
    int n = 0;
    for (; is_digit(j); j->pos++, n++) {
        if (*value < 1000000000000000000ull) *value = *value * 10 + (uint64_t)(j->text[j->pos] - '0');
        else (*dropped)++;
    }
    return n;
}

/* The reader does not use strtod, which follows the host's locale. Long double keeps 19 digits, so the
** result is the nearest double but for ties that no text of 17 digits reaches. */
static int read_number(lm_json *j, lm_err *err) {
    uint64_t digits = 0;
    int dropped = 0, whole = 1, n_fraction = 0, exponent = 0;
    int negative = j->text[j->pos] == '-';
    if (negative) j->pos++;
    int zero = j->pos < j->n && j->text[j->pos] == '0';
    int n = read_digits(j, &digits, &dropped);
    if (n == 0 || (zero && n > 1)) return fail(j, err, "bad number");
    if (j->pos < j->n && j->text[j->pos] == '.') {
        int before = dropped;
        whole = 0;
        j->pos++;
        n_fraction = read_digits(j, &digits, &dropped);
        if (!n_fraction) return fail(j, err, "bad number");
        n_fraction -= dropped - before;
        dropped = before;
    }
    if (j->pos < j->n && (j->text[j->pos] | 32) == 'e') {
        whole = 0;
        j->pos++;
        int minus = j->pos < j->n && j->text[j->pos] == '-';
        if (minus || (j->pos < j->n && j->text[j->pos] == '+')) j->pos++;
        if (!is_digit(j)) return fail(j, err, "bad number");
        for (; is_digit(j); j->pos++) exponent = LM_MIN(exponent * 10 + (j->text[j->pos] - '0'), 100000);
        if (minus) exponent = -exponent;
    }
    long double x = digits, ten = 10, scale = 1;
    int power = exponent - n_fraction + dropped;
    for (int p = power < 0 ? -power : power; p && digits; p >>= 1, ten *= ten) {
        if (p & 1) scale *= ten;
    }
    x = power < 0 ? x / scale : x * scale;
    j->real = (double)(negative ? -x : x);
    if (j->real - j->real != 0) return fail(j, err, "number out of range");
    if (whole && !dropped && digits <= (uint64_t)INT64_MAX) {
        j->integer = negative ? -(int64_t)digits : (int64_t)digits;
        return LM_JSON_INT;
    }
    j->integer = 0;
    return LM_JSON_REAL;
}

/* Put hash into the set of seen keys. Return 0 when it was there. */
static int add_seen(lm_json *j, uint64_t hash, lm_err *err) {
    hash += hash == 0;
    if ((j->n_seen + 1) * 2 > j->seen_cap) {
        size_t cap = j->seen_cap ? j->seen_cap * 2 : 32;
        uint64_t *grown = lm_calloc(cap, sizeof *grown, err);
        if (!grown) return 1;
        for (size_t i = 0; i < j->seen_cap; i++) {
            size_t at = (size_t)j->seen[i] & (cap - 1);
            if (!j->seen[i]) continue;
            while (grown[at]) at = (at + 1) & (cap - 1);
            grown[at] = j->seen[i];
        }
        lm_free(j->seen);
        j->seen = grown;
        j->seen_cap = cap;
    }
    size_t at = (size_t)hash & (j->seen_cap - 1);
    for (; j->seen[at]; at = (at + 1) & (j->seen_cap - 1)) {
        if (j->seen[at] == hash) return 0;
    }
    j->seen[at] = hash;
    j->n_seen++;
    return 1;
}

static void read_key(lm_json *j, lm_err *err) {
    if (peek(j) != '"') {
        fail(j, err, "expected a key");
        return;
    }
    read_string(j, &j->key, err);
    if (err->code) return;
    uint64_t key[2] = { j->object[j->depth], lm_hash_bytes(j->key.data, j->key.n) };
    if (!add_seen(j, lm_hash_bytes(key, sizeof key), err)) {
        lm_err_set(err, LM_ERROR, "JSON: duplicate key \"%.80s\" at byte %llu", j->key.data,
                   (unsigned long long)j->pos);
    }
    if (peek(j) != ':') fail(j, err, "expected ':'");
    else j->pos++;
}

static int is_object(const lm_json *j) { return (int)(j->in_object >> j->depth & 1); }

/* Step over what stands between members. Return 1 when the array or object (or text) ends here. */
static int end_of_members(lm_json *j, lm_err *err) {
    int c = peek(j), first = (int)(j->first >> j->depth & 1);
    j->first &= ~(1ull << j->depth);
    if (j->depth == 0) {
        if (!first && c >= 0) fail(j, err, "text after the end");
        return !first;
    }
    if (c == (is_object(j) ? '}' : ']')) {
        j->pos++;
        j->depth--;
        return 1;
    }
    if (first) return 0;
    if (c != ',') return fail(j, err, is_object(j) ? "expected ',' or '}'" : "expected ',' or ']'"), 1;
    j->pos++;
    return 0;
}

static int enter(lm_json *j, int kind, lm_err *err) {
    if (j->depth == DEPTH_MAX) return fail(j, err, "nested too deep");
    j->pos++;
    j->depth++;
    uint64_t bit = 1ull << j->depth;
    j->first |= bit;
    j->in_object = kind == LM_JSON_OBJECT ? j->in_object | bit : j->in_object & ~bit;
    if (kind == LM_JSON_OBJECT) j->object[j->depth] = ++j->n_objects;
    return kind;
}

int lm_json_next(lm_json *j, lm_err *err) {
    if (err->code || end_of_members(j, err)) return LM_JSON_END;
    if (j->depth && is_object(j)) read_key(j, err);
    if (err->code) return LM_JSON_END;
    int c = peek(j);
    j->at = j->pos;
    if (c == '{') return enter(j, LM_JSON_OBJECT, err);
    if (c == '[') return enter(j, LM_JSON_ARRAY, err);
    if (c == '"') {
        read_string(j, &j->string, err);
        return err->code ? LM_JSON_END : LM_JSON_TEXT;
    }
    if (c == '-' || (c >= '0' && c <= '9')) return read_number(j, err);
    if (take_word(j, "null")) return LM_JSON_NULL;
    j->integer = c == 't';
    if (take_word(j, "true") || take_word(j, "false")) return LM_JSON_BOOL;
    return fail(j, err, c < 0 ? "text ends where a value was expected" : "expected a value");
}

void lm_json_skip(lm_json *j, int kind, lm_err *err) {
    if (kind != LM_JSON_ARRAY && kind != LM_JSON_OBJECT) return;
    int depth = j->depth - 1;
    while (!err->code && j->depth > depth) lm_json_next(j, err);
}

void lm_json_quote(lm_buf *out, const char *text, size_t n, lm_err *err) {
    size_t start = 0;
    lm_buf_append(out, "\"", 1, err);
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        lm_buf_append(out, text + start, i - start, err);
        if (c < 0x20) lm_buf_print(out, err, "\\u%04x", c);
        else lm_buf_print(out, err, "\\%c", c);
        start = i + 1;
    }
    lm_buf_append(out, text + start, n - start, err);
    lm_buf_append(out, "\"", 1, err);
}

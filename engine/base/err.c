/* err.c: the sticky error, the stop signal, and the growing byte and id arrays that carry text and tokens about. */
#include "../lmint.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A message cut in the middle of a character would not be text. */
static void end_whole(lm_err *err) { err->msg[lm_utf8_complete(err->msg, strlen(err->msg))] = 0; }

int lm_err_set(lm_err *err, int code, const char *format, ...) {
    if (err->code) return err->code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->msg, sizeof err->msg, format, args);
    va_end(args);
    end_whole(err);
    return err->code = code;
}

void lm_err_blame(lm_err *err, const char *format, ...) {
    lm_err inner = *err;
    if (!err->code) return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->msg, sizeof err->msg, format, args);
    va_end(args);
    if (n >= 0 && n < (int)sizeof err->msg) snprintf(err->msg + n, sizeof err->msg - (size_t)n, "%s", inner.msg);
    end_whole(err);
}

int lm_poll(lm_stop stop, lm_err *err) {
    return err->code || !stop.ask || !stop.ask(stop.arg) ? err->code : lm_err_set(err, LM_INTERRUPT, "interrupted");
}

int lm_grow(void **data, size_t n, size_t *cap, size_t more, size_t size, lm_err *err) {
    if (err->code) return 0;
    if (more <= *cap - n) return 1;
    size_t want = *cap ? *cap : 16;
    if (more > SIZE_MAX / 4 / size - n) return lm_err_set(err, LM_NOMEM, "out of memory"), 0;
    while (want - n < more) want *= 2;
    void *grown = lm_realloc(*data, want * size, err);
    if (!grown) return 0;
    *data = grown;
    *cap = want;
    return 1;
}

void lm_buf_append(lm_buf *buf, const void *bytes, size_t n, lm_err *err) {
    if (!lm_grow((void **)&buf->data, buf->n, &buf->cap, n, 1, err)) return;
    if (n) memcpy(buf->data + buf->n, bytes, n);
    buf->n += n;
}

void lm_buf_print(lm_buf *buf, lm_err *err, const char *format, ...) {
    char text[512], *longer = NULL;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n >= (int)sizeof text) {
        longer = lm_alloc((size_t)n + 1, err);
        va_start(args, format);
        if (longer) vsnprintf(longer, (size_t)n + 1, format, args);
        va_end(args);
    }
    if (n > 0 && !err->code) lm_buf_append(buf, longer ? longer : text, (size_t)n, err);
    lm_free(longer);
}

void lm_buf_clear(lm_buf *buf) {
    lm_free(buf->data);
    *buf = (lm_buf){0};
}

void lm_ids_append(lm_ids *ids, int32_t id, lm_err *err) {
    if (!lm_grow((void **)&ids->data, ids->n, &ids->cap, 1, sizeof id, err)) return;
    ids->data[ids->n++] = id;
}

void lm_ids_clear(lm_ids *ids) {
    lm_free(ids->data);
    *ids = (lm_ids){0};
}

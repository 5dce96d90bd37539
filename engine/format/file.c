/* file.c: a file opened for reading, whose name and bytes may mean harm. It is read with pread alone, never mapped: one that
** changes under us gives wrong numbers or an error, not a signal. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "../lmint.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void lm_file_fail(const char *doing, int number, lm_err *err) {
    char text[128];
    strerror_r(number, text, sizeof text);
    lm_err_set(err, LM_ERROR, "%s: %s", doing, text);
}

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISCHR(mode)) return "a character device";
    return "a block device";            /* a socket is not opened */
}

/* O_NONBLOCK: a FIFO without a writer would hold the caller up for ever. */
void lm_file_open(lm_file *f, const char *path, lm_err *err) {
    struct stat st;
    *f = (lm_file){ .fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) };
    if (f->fd < 0) {
        f->is_absent = errno == ENOENT;
        lm_file_fail("cannot open", errno, err);
    } else if (fstat(f->fd, &st)) {
        lm_file_fail("cannot stat", errno, err);
    } else if (!S_ISREG(st.st_mode)) {
        lm_err_set(err, LM_ERROR, "is %s, wanted a file", kind_of(st.st_mode));
    } else {
        f->n = (uint64_t)st.st_size;
    }
}

void lm_file_read(const lm_file *f, uint64_t at, uint8_t *dst, size_t n, lm_err *err) {
    while (n && !err->code) {
        ssize_t got = pread(f->fd, dst, LM_MIN(n, (size_t)1 << 30), (off_t)at);
        if (got > 0) {
            dst += got;
            at += (uint64_t)got;
            n -= (size_t)got;
        } else if (!got) {
            lm_err_set(err, LM_ERROR, "file shrank while being read: %llu bytes wanted at byte %llu",
                       (unsigned long long)n, (unsigned long long)at);
        } else if (errno != EINTR) {
            lm_file_fail("cannot read", errno, err);
        }
    }
}

void lm_file_close(lm_file *f) {
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
}

/* Put the path's end in front of a message, as much of it as leaves room for the rest. */
void lm_file_blame(const char *path, lm_err *err) {
    size_t n = strlen(path), from = n > 72 ? n - 69 : 0;
    while (from && (path[from] & 0xC0) == 0x80) from++;
    lm_err_blame(err, "%s%s: ", from ? "..." : "", path + from);
}

int lm_tensor_is_name(const char *name, size_t n) {
    uint32_t cp, before = 0;
    for (size_t i = 0; i < n;) {
        int step = lm_utf8_step(name + i, n - i, &cp);
        if (step <= 0 || cp < 0x20 || (cp >= 0x7F && cp < 0xA0)) return 0;
        if (cp == '"' || cp == '\'' || cp == '`' || cp == '\\' || cp == '/' || (cp == '.' && before == '.')) return 0;
        before = cp;
        i += (size_t)step;
    }
    return 1;
}

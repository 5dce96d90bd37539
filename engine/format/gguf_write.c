/* gguf_write.c: a GGUF version 3 file, written whole or not at all. (gguf.c has the layout.)
**
** The bytes go to a file of another name in the same folder; when all are there it is synced to disk and given
** its real name, in one step that finds out whether that name is taken. Whoever looks at the path sees the old
** file, or none, until the new one is complete. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "../lmint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct lm_gguf_writer {
    int fd;
    char *path, *draft;                 /* the name it will have, and has until then ("" once it is gone) */
    int overwrite;
    uint64_t align, at;                 /* bytes written */
    int64_t *n_bytes; int n_tensors;
    int tensor;                         /* being written, with so many bytes to go */
    int64_t left;
};

static void write_all(lm_gguf_writer *w, const void *bytes, size_t n, lm_err *err) {
    const uint8_t *from = bytes;
    while (n && !err->code) {
        ssize_t done = write(w->fd, from, LM_MIN(n, (size_t)1 << 30));
        if (done < 0 && errno != EINTR) lm_file_fail("cannot write", errno, err);
        if (done < 0) continue;
        from += done;
        n -= (size_t)done;
        w->at += (uint64_t)done;
    }
}

static void pad(lm_gguf_writer *w, lm_err *err) {
    static const uint8_t zeros[4096];
    for (uint64_t n = (w->align - w->at % w->align) % w->align; n && !err->code;) {
        uint64_t some = LM_MIN(n, sizeof zeros);
        write_all(w, zeros, (size_t)some, err);
        n -= some;
    }
}

static void put_tensor(lm_buf *out, const lm_tensor *t, uint64_t offset, lm_err *err) {
    lm_meta_put(out, strlen(t->name), 8, err);
    lm_buf_append(out, t->name, strlen(t->name), err);
    lm_meta_put(out, (uint64_t)t->n_dims, 4, err);
    for (int d = 0; d < t->n_dims; d++) lm_meta_put(out, (uint64_t)t->ne[d], 8, err);
    lm_meta_put(out, (uint64_t)t->dtype, 4, err);
    lm_meta_put(out, offset, 8, err);
}

/* Count the entries in stretches of metadata, which must be nothing else, and read the alignment. */
static uint64_t count_entries(lm_gguf_writer *w, const void *bytes, size_t n, lm_err *err) {
    lm_meta *meta = lm_meta_new(bytes, n, err);
    uint64_t count = meta ? lm_meta_count(meta) : 0;
    if (meta && lm_meta_find(meta, "general.alignment")) w->align = lm_gguf_alignment(meta, err);
    lm_meta_free(meta);
    return count;
}

static void write_header(lm_gguf_writer *w, const lm_gguf_content *content, lm_err *err) {
    lm_buf head = {0};
    uint64_t offset = 0, n_entries = 0;
    for (int i = 0; i < LM_COUNT(content->meta); i++)
        n_entries += count_entries(w, content->meta[i], content->meta_n[i], err);
    lm_buf_append(&head, "GGUF", 4, err);
    lm_meta_put(&head, 3, 4, err);
    lm_meta_put(&head, (uint64_t)content->n_tensors, 8, err);
    lm_meta_put(&head, n_entries, 8, err);
    for (int i = 0; i < LM_COUNT(content->meta); i++) lm_buf_append(&head, content->meta[i], content->meta_n[i], err);
    for (int i = 0; i < content->n_tensors && !err->code; i++) {
        put_tensor(&head, &content->tensors[i], offset, err);
        w->n_bytes[i] = content->tensors[i].n_bytes;
        uint64_t padded = ((uint64_t)w->n_bytes[i] + w->align - 1) / w->align * w->align;
        if (padded > INT64_MAX - offset)
            lm_err_set(err, LM_ERROR, "tensor %s: with it the data are over 2^63 bytes", content->tensors[i].name);
        offset += padded;
    }
    if (!err->code) write_all(w, head.data, head.n, err);
    pad(w, err);
    lm_buf_clear(&head);
}

/* Make the file under a name that nobody has. */
static void open_draft(lm_gguf_writer *w, lm_err *err) {
    struct stat st;
    if (!*w->path) lm_err_set(err, LM_ERROR, "the path is empty");
    if (!err->code && !lstat(w->path, &st)) {
        /* A rename would put a file in place of a device or a link. */
        if (!w->overwrite) lm_err_set(err, LM_ERROR, "exists already (\"overwrite\":true replaces it)");
        else if (!S_ISREG(st.st_mode)) lm_err_set(err, LM_ERROR, "is not a regular file: it is not replaced");
    }
    if (err->code) return;
    for (int i = 0; i < 100 && !err->code; i++) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        sprintf(w->draft, "%s.%lx%lx.tmp", w->path, (unsigned long)getpid(), (unsigned long)now.tv_nsec & 0xFFFFFFFF);
        w->fd = open(w->draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0) return;
        if (errno == EEXIST) continue;
        w->draft[0] = 0;
        lm_file_fail("cannot be made", errno, err);
    }
    w->draft[0] = 0;
    lm_err_set(err, LM_ERROR, "no free name for a temporary file");
}

lm_gguf_writer *lm_gguf_create(const char *path, int overwrite, const lm_gguf_content *content, lm_err *err) {
    lm_gguf_writer *w = lm_calloc(1, sizeof *w, err);
    if (!w) return NULL;
    w->fd = -1;
    w->align = 32;
    w->overwrite = overwrite;
    w->n_tensors = content->n_tensors;
    w->n_bytes = lm_calloc((size_t)LM_MAX(content->n_tensors, 1), sizeof *w->n_bytes, err);
    w->path = lm_calloc(strlen(path) + 1, 1, err);
    w->draft = lm_calloc(strlen(path) + 64, 1, err);
    if (!err->code) {
        strcpy(w->path, path);
        open_draft(w, err);
        write_header(w, content, err);
    }
    if (!err->code) {
        w->tensor = -1;
        return w;
    }
    lm_file_blame(path, err);
    lm_gguf_writer_free(w);
    return NULL;
}

void lm_gguf_append(lm_gguf_writer *w, const void *bytes, size_t n, lm_err *err) {
    const uint8_t *from = bytes;
    if (err->code) return;
    while (n && !err->code) {
        while (!w->left && ++w->tensor < w->n_tensors) w->left = w->n_bytes[w->tensor];
        if (!w->left) {
            lm_err_set(err, LM_ERROR, "more bytes than the tensors have");
            break;
        }
        size_t some = LM_MIN(n, (size_t)w->left);
        write_all(w, from, some, err);
        from += some;
        n -= some;
        w->left -= (int64_t)some;
        if (!w->left) pad(w, err);
    }
    if (err->code) lm_file_blame(w->path, err);
}

/* Sync the folder, so that the new name is on disk too; some file systems cannot, which is no failure. */
static void sync_folder(char *path) {
    char *slash = strrchr(path, '/');
    if (slash) *slash = 0;
    int fd = open(slash ? *path ? path : "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (slash) *slash = '/';
    if (fd < 0) return;
    (void)!fsync(fd);
    close(fd);
}

void lm_gguf_commit(lm_gguf_writer *w, lm_err *err) {
    if (err->code) return;
    if (w->left || w->tensor + 1 < w->n_tensors) lm_err_set(err, LM_ERROR, "fewer bytes than the tensors have");
    if (!err->code && fsync(w->fd)) lm_file_fail("cannot sync", errno, err);
    int closed = close(w->fd);
    w->fd = -1;
    if (closed && !err->code) lm_file_fail("cannot close", errno, err);
    if (!err->code) {
        int failed = w->overwrite ? rename(w->draft, w->path)
                                  : renameat2(AT_FDCWD, w->draft, AT_FDCWD, w->path, RENAME_NOREPLACE);
        /* A file system that lacks this kind of renaming has links. */
        if (failed && !w->overwrite && (errno == EINVAL || errno == ENOSYS)) {
            failed = link(w->draft, w->path);
            if (!failed) unlink(w->draft);
        }
        if (failed && errno == EEXIST) lm_err_set(err, LM_ERROR, "exists already (\"overwrite\":true replaces it)");
        else if (failed) lm_file_fail("cannot be named so", errno, err);
    }
    if (err->code) {
        lm_file_blame(w->path, err);
        return;
    }
    w->draft[0] = 0;
    sync_folder(w->path);
}

void lm_gguf_writer_free(lm_gguf_writer *w) {
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->draft && w->draft[0]) unlink(w->draft);
    lm_free(w->n_bytes);
    lm_free(w->path);
    lm_free(w->draft);
    lm_free(w);
}

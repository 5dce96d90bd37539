/* analyse.h: what clang's analyser cannot see in one file. (That it is so everywhere is what fault_test.c shows.) */
#include "../include/lm.h"

/* An error, once set, stays. */
#define lm_err_set(err, code_, ...) ((void)(__VA_ARGS__), (err)->code ? (err)->code : ((err)->code = (code_)))

/* Nor does what puts words in front of it change whether there is one. */
static inline void same_code(int before, const lm_err *err) {
    if (before != err->code) __builtin_unreachable();
}
#define lm_err_blame(err, ...) do { int before_ = (err)->code; lm_err_blame(err, __VA_ARGS__); same_code(before_, err); } while (0)

/* What gives NULL, or 0, for want of memory has set err; if it was set before there is nothing else. */
static inline void *or_err(int before, void *p, const lm_err *err) {
    if ((before || !p) && !err->code) __builtin_unreachable();
    return p;
}
#define lm_alloc(n_bytes, err) or_err((err)->code, lm_alloc(n_bytes, err), err)
#define lm_calloc(n, size, err) or_err((err)->code, lm_calloc(n, size, err), err)
#define lm_realloc(p, n_bytes, err) or_err((err)->code, lm_realloc(p, n_bytes, err), err)
#define lm_grow(data, n, cap, more, size, err) (lm_grow(data, n, cap, more, size, err) || !lm_err_set(err, LM_NOMEM, "no room"))

/* analyse.h: what clang's analyser cannot see in one file: an allocation that gives NULL has set err, which is asked before the
** memory is used. (That this is so everywhere is what fault_test.c shows.) */
#include "../include/lm.h"

__attribute__((returns_nonnull)) void *lm_alloc(size_t n_bytes, lm_err *err);
__attribute__((returns_nonnull)) void *lm_calloc(size_t n, size_t size, lm_err *err);
__attribute__((returns_nonnull)) void *lm_realloc(void *p, size_t n_bytes, lm_err *err);

/* An error, once set, stays. */
#define lm_err_set(err, code_, ...) ((void)(__VA_ARGS__), (err)->code ? (err)->code : ((err)->code = (code_)))

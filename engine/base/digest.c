/* digest.c: BLAKE2b-256, by libb2. */
#include "../lmint.h"

#include <blake2.h>

_Static_assert(sizeof(blake2b_state) + 64 <= sizeof(lm_digest), "lm_digest holds libb2's state, aligned");

/* libb2 wants its state on a 64-byte boundary, which a caller's struct need not have. */
static blake2b_state *state_of(lm_digest *d) {
    return (blake2b_state *)(((uintptr_t)d->state + 63) & ~(uintptr_t)63);
}

void lm_digest_init(lm_digest *d) { blake2b_init(state_of(d), LM_DIGEST_BYTES); }
void lm_digest_add(lm_digest *d, const void *bytes, size_t n) { blake2b_update(state_of(d), bytes, n); }
void lm_digest_end(lm_digest *d, uint8_t out[LM_DIGEST_BYTES]) { blake2b_final(state_of(d), out, LM_DIGEST_BYTES); }

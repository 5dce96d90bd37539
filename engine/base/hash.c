/* hash.c: hashes under a secret of the process: where a key goes in a hash table.
**
** Keys come from files and texts of anyone. Who does not know the secret cannot choose keys that meet in one slot, which
** would make tables as slow as lists. Nothing but a slot may depend on a hash: the next process has another secret.
**
** Bytes are hashed by SipHash-1-3 (Aumasson and Bernstein, 2012). A pair of ids, the innermost step of byte-pair
** encoding, by two products with secret factors (multilinear hashing): of any two pairs the upper halves are as seldom
** the same as those of two random numbers. */
#define _GNU_SOURCE
#include "../lmint.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static pthread_once_t g_once = PTHREAD_ONCE_INIT;
static _Atomic int g_is_drawn;         /* asked first: a look costs less than a call */
static uint64_t g_secret[2], g_factors[3];

static inline uint64_t rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static inline void mix(uint64_t v[4]) {
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32) + v[3];
    v[2] += v[1];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static inline void absorb(uint64_t v[4], uint64_t word) {
    v[3] ^= word;
    mix(v);
    v[0] ^= word;
}

/* The last n < 8 bytes, the first lowest: of short reads that overlap, not of one a byte. */
static inline uint64_t last_bytes(const uint8_t *p, size_t n) {
    uint32_t low, high;
    if (n >= 4) {
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        return low | (uint64_t)high << 8 * (n - 4);
    }
    return n ? p[0] | (uint64_t)p[n / 2] << 8 * (n / 2) | (uint64_t)p[n - 1] << 8 * (n - 1) : 0;
}

static inline uint64_t sip_hash(const uint64_t key[2], const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    uint64_t v[4] = { key[0] ^ 0x736F6D6570736575u, key[1] ^ 0x646F72616E646F6Du, key[0] ^ 0x6C7967656E657261u,
                      key[1] ^ 0x7465646279746573u };
    size_t left = n;
    for (uint64_t word; left >= 8; p += 8, left -= 8) {
        memcpy(&word, p, 8);
        absorb(v, word);
    }
    absorb(v, (uint64_t)n << 56 | last_bytes(p, left));
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++) mix(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void draw_secret(void) {
    struct timespec t = {0};
    if (getrandom(g_secret, sizeof g_secret, GRND_NONBLOCK) != (ssize_t)sizeof g_secret) {
        /* No generator: what differs from process to process. */
        clock_gettime(CLOCK_REALTIME, &t);
        g_secret[0] = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
        g_secret[1] = (uint64_t)(uintptr_t)&t ^ (uint64_t)(uintptr_t)g_secret << 32;
    }
    for (uint64_t i = 0; i < 3; i++) g_factors[i] = sip_hash(g_secret, &i, sizeof i);
    g_is_drawn = 1;
}

static inline void see_to_secret(void) {
    if (!atomic_load_explicit(&g_is_drawn, memory_order_acquire)) pthread_once(&g_once, draw_secret);
}

uint64_t lm_hash_keyed(const uint64_t key[2], const void *bytes, size_t n) { return sip_hash(key, bytes, n); }

uint64_t lm_hash_bytes(const void *bytes, size_t n) {
    see_to_secret();
    return sip_hash(g_secret, bytes, n);
}

uint32_t lm_hash_pair(int32_t left, int32_t right) {
    see_to_secret();
    return (uint32_t)((g_factors[0] * (uint32_t)left + g_factors[1] * (uint32_t)right + g_factors[2]) >> 32);
}

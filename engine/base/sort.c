/* sort.c: a bottom-up merge sort of 32-bit numbers by what they stand for.
**
** Names and offsets of hostile files are put in order with it, to find what occurs twice: unlike a hash table
** or qsort() it has no bad case to be led into, and its scratch is counted memory. */
#include "../lmint.h"

#include <string.h>

void lm_sort(uint32_t *index, size_t n, int (*compare)(const void *arg, uint32_t a, uint32_t b), const void *arg,
             lm_err *err) {
    uint32_t *scratch = lm_alloc(n * sizeof *scratch, err), *from = index, *to = scratch;
    if (!scratch) return;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start < n; start += 2 * width) {
            size_t a = start, a_end = LM_MIN(start + width, n), b = a_end, b_end = LM_MIN(start + 2 * width, n);
            for (size_t i = start; i < b_end; i++) {
                int take_a = b == b_end || (a < a_end && compare(arg, from[a], from[b]) <= 0);
                to[i] = take_a ? from[a++] : from[b++];
            }
        }
        uint32_t *sorted = to;
        to = from;
        from = sorted;
    }
    if (from != index) memcpy(index, from, n * sizeof *index);
    lm_free(scratch);
}

/* pack_bench.c: how fast rows of each format are packed into tiles by one thread, in GB/s of the file's bytes: what loading a
** model adds to reading it. Usage: pack_bench */
#include "../harness.h"

enum { ROWS = 1024, COLS = 1536, TRIES = 7, TIMES = 4 };

static double pack_rate(const lm_dtype *type, lm_err *err) {
    lm_mat m = {0};
    size_t row_bytes = (size_t)(COLS / type->block * type->bytes);
    uint8_t *rows = lm_calloc(ROWS, row_bytes, err);
    double best = 0;
    lm_mat_init(&m, type->id, ROWS, COLS, err);
    m.data = lm_alloc(err->code ? 0 : lm_mat_bytes(&m), err);
    for (size_t i = 0; !err->code && i < ROWS * row_bytes; i++) rows[i] = (uint8_t)(i * 2654435761u >> 13);
    for (int try = 0; !err->code && try < TRIES; try++) {
        double start = cpu_seconds();
        for (int i = 0; i < TIMES * ROWS; i += LM_TILE) lm_mat_pack(&m, i % ROWS, LM_TILE, rows + (size_t)(i % ROWS) * row_bytes);
        best = LM_MAX(best, 1e-9 * TIMES * ROWS * (double)row_bytes / (cpu_seconds() - start));
    }
    lm_free(m.data);
    lm_free(rows);
    return best;
}

int main(void) {
    static const char *const names[] = { "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k" };
    lm_err err = {0};
    for (int i = 0; i < LM_COUNT(names); i++) printf("%s\"%s\": %.2f", i ? ", " : "{", names[i], pack_rate(lm_dtype_find_name(names[i]), &err));
    printf("}\n");
    if (err.code) fprintf(stderr, "pack_bench: %s\n", err.msg);
    return err.code != 0;
}

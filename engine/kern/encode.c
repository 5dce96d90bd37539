/* encode.c: numbers to blocks of a quantised format, with scales that are searched for.
**
** What is made small is the plain sum of squared differences. Sub-block by sub-block some ways of rounding are tried, made by
** scales around the one that spreads the numbers over all levels; each has its best scale (and minimum), by least
** squares, and the best of those best is rounded to what the block can hold. In k-quants the integer scales then try their
** neighbours, and the block's two halfs are fitted once more to all that was chosen. A block is never worse than plain rounding to
** nearest, which is tried too.
**
** Sums run over eight lanes, so that the compiler finds vectors; there is one order, so one result. */
#include "kern.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, SUBS = 16 /* of a block, at most */, ITEM = 8192 /* elements */ };

/* The real scale and minimum of each sub-block: x = scale * q - min. */
typedef struct { float scale[SUBS], min[SUBS]; } scales;

/* What the integers of a format go from and to, its offset taken off. */
typedef struct { const lm_format *f; float low, high; } range;

static range range_of(const lm_format *f) {
    int low = f->has_min ? 0 : -f->offset, high = (1 << f->bits) - 1 + low;
    return (range){ f, (float)(f->bits == 8 ? -127 : low), (float)high };
}

static float level(float x, range r) {
    x = x < r.low ? r.low : x > r.high ? r.high : x;
    return x + 0x1.8p23f - 0x1.8p23f;           /* to the nearest integer, ties to even */
}

static float fold(const float *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

typedef struct { float q, qq, xq; } sums;

INLINE sums sum_of(const float *x, const int n, float inverse, float min, range r) {
    float q_sum[LANES] = {0}, qq_sum[LANES] = {0}, xq_sum[LANES] = {0};
    for (int i = 0; i < n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            float q = level((x[i + l] + min) * inverse, r);
            q_sum[l] += q;
            qq_sum[l] += q * q;
            xq_sum[l] += x[i + l] * q;
        }
    }
    return (sums){ fold(q_sum), fold(qq_sum), fold(xq_sum) };
}

INLINE float differences(const float *x, const int n, float scale, float min, range r) {
    float inverse = scale != 0 ? 1 / scale : 0, lanes[LANES] = {0};
    for (int i = 0; i < n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            float e = x[i + l] - (scale * level((x[i + l] + min) * inverse, r) - min);
            lanes[l] += e * e;
        }
    }
    return fold(lanes);
}

/* Round x to q = (x + min) * inverse, and sum what least squares wants. n is 16 or 32: loops of a known length stay in registers. */
static sums sum_levels(const float *x, int n, float inverse, float min, range r) {
    return n == 16 ? sum_of(x, 16, inverse, min, r) : sum_of(x, 32, inverse, min, r);
}

/* The squared differences that rounding to scale * q - min leaves. */
static float error_of(const float *x, int n, float scale, float min, range r) {
    return n == 16 ? differences(x, 16, scale, min, r) : differences(x, 32, scale, min, r);
}

/*----------------------------------------------------------------------
** One sub-block, formats without a minimum */

/* The number that is furthest from 0. */
static float extreme(const float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) if (fabsf(x[i]) > fabsf(most)) most = x[i];
    return most;
}

/* Plain: the extreme becomes the integer furthest from 0. */
static float plain_scale(const float *x, int n, range r) {
    float most = extreme(x, n);
    return r.f->bits == 8 ? fabsf(most) / r.high : most / r.low;
}

static float best_scale(const float *x, int n, range r) {
    float most = extreme(x, n), best = 0, gain = 0;
    if (fabsf(most) < 1e-30f) return 0;
    for (int k = -3; k <= 6; k++) {             /* the extreme near the lowest integer, or near the highest */
        float target = k <= 3 ? r.low + 0.4f * (float)k : r.high + 0.5f * (float)(k - 5);
        sums s = sum_levels(x, n, target / most, 0, r);
        if (s.qq > 0 && s.xq * s.xq > gain * s.qq) {
            gain = s.xq * s.xq / s.qq;
            best = s.xq / s.qq;
        }
    }
    for (int again = 0; again < 2 && best != 0; again++) {
        sums s = sum_levels(x, n, 1 / best, 0, r);
        if (s.qq > 0) best = s.xq / s.qq;
    }
    return best;
}

/*----------------------------------------------------------------------
** One sub-block, formats with one. In k-quants it is subtracted and not negative. */
typedef struct { float scale, min; double error; } pair;

static void bounds(const float *x, int n, range r, float *low, float *high) {
    *low = *high = x[0];
    for (int i = 1; i < n; i++) {
        *low = LM_MIN(*low, x[i]);
        *high = LM_MAX(*high, x[i]);
    }
    if (r.f->is_k) *low = LM_MIN(*low, 0), *high = LM_MAX(*high, 0);
}

static pair plain_pair(const float *x, int n, range r) {
    float low, high;
    bounds(x, n, r, &low, &high);
    return (pair){ .scale = (high - low) / r.high, .min = -low };
}

/* Take into best what least squares makes of a rounding, where it is better. */
static void try_rounding(const float *x, int n, float inverse, float min, range r, double sum, pair *best) {
    sums s = sum_levels(x, n, inverse, min, r);
    double q = (double)s.q, qq = (double)s.qq, xq = (double)s.xq, d = n * qq - q * q;
    if (!(d > 0)) return;
    double scale = (n * xq - sum * q) / d, least = (q * xq - sum * qq) / d;     /* x = scale q - least */
    if (r.f->is_k && least < 0) scale = xq / qq, least = 0;
    /* The squares of x are the same for all. */
    double error = scale * scale * qq + n * least * least - 2 * scale * xq - 2 * scale * least * q + 2 * least * sum;
    if (error < best->error && scale > 0) *best = (pair){ (float)scale, (float)least, error };
}

static pair best_pair(const float *x, int n, range r) {
    float low, high;
    double sum = 0;
    bounds(x, n, r, &low, &high);
    pair best = { (high - low) / r.high, -low, INFINITY };
    if (high - low < 1e-30f) return best;
    for (int i = 0; i < n; i++) sum += (double)x[i];
    for (int k = -3; k <= 4; k++) try_rounding(x, n, (r.high + 0.4f * (float)k) / (high - low), -low, r, sum, &best);
    for (int again = 0; again < 2; again++) try_rounding(x, n, 1 / best.scale, best.min, r, sum, &best);
    return best;
}

/*----------------------------------------------------------------------
** One block */
static float half(float x) { return lm_f16_to_f32(lm_f32_to_f16(x)); }

static float scale_of(const lm_format *f, const lm_levels *l, int sub) {
    return f->is_k ? l->d * (float)l->scale[sub] : l->d;
}
static float min_of(const lm_format *f, const lm_levels *l, int sub) {
    return !f->has_min ? 0 : f->is_k ? l->m * (float)l->min[sub] : -l->m;
}

static int clamp(float x, int low, int high) { return x <= (float)low ? low : x >= (float)high ? high : (int)rintf(x); }

/* Round real scales and minima to what the block can hold. */
static void set_scales(const lm_format *f, const scales *s, lm_levels *l) {
    int n = f->block / f->sub, low = f->has_min ? 0 : -128, high = f->has_min ? 63 : 127;
    float scale = 0, min = 0;
    if (!f->is_k) {
        l->d = half(s->scale[0]);
        l->m = half(-s->min[0]);
        return;
    }
    for (int j = 0; j < n; j++) {
        if (fabsf(s->scale[j]) > fabsf(scale)) scale = s->scale[j];
        min = LM_MAX(min, s->min[j]);
    }
    l->d = half(scale / (float)(f->has_min ? high : low));
    l->m = half(min / 63);
    for (int j = 0; j < n; j++) {
        l->scale[j] = (int8_t)(l->d != 0 ? clamp(s->scale[j] / l->d, low, high) : 0);
        l->min[j] = (int8_t)(l->m != 0 ? clamp(s->min[j] / l->m, 0, 63) : 0);
    }
}

static double block_error(const float *x, const lm_levels *l, range r) {
    double error = 0;
    for (int j = 0; j < r.f->block / r.f->sub; j++)
        error += (double)error_of(x + j * r.f->sub, r.f->sub, scale_of(r.f, l, j), min_of(r.f, l, j), r);
    return error;
}

/* Let every integer scale and minimum try its neighbours. */
static void try_neighbours(const float *x, lm_levels *l, range r) {
    const lm_format *f = r.f;
    int low = f->has_min ? 0 : -128, high = f->has_min ? 63 : 127;
    for (int j = 0; j < f->block / f->sub; j++) {
        int scale = l->scale[j], min = l->min[j];
        float least = INFINITY;
        for (int s = LM_MAX(scale - 1, low); s <= LM_MIN(scale + 1, high); s++) {
            for (int m = f->has_min ? LM_MAX(min - 1, 0) : 0; m <= (f->has_min ? LM_MIN(min + 1, 63) : 0); m++) {
                float error = error_of(x + j * f->sub, f->sub, l->d * (float)s, f->has_min ? l->m * (float)m : 0, r);
                if (error >= least) continue;
                least = error;
                l->scale[j] = (int8_t)s;
                l->min[j] = (int8_t)m;
            }
        }
    }
}

/* Fit d and dmin to all integers of a k-quant's block, by least squares. */
static void fit_halfs(const float *x, lm_levels *l, range r) {
    const lm_format *f = r.f;
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;          /* x = d a - dmin b, with a = scale q and b = min */
    for (int j = 0; j < f->block / f->sub; j++) {
        float scale = scale_of(f, l, j), sum[LANES] = {0};
        double by = l->scale[j], b = f->has_min ? l->min[j] : 0;
        sums s = sum_levels(x + j * f->sub, f->sub, scale != 0 ? 1 / scale : 0, min_of(f, l, j), r);
        for (int i = 0; i < f->sub; i++) sum[i % LANES] += x[j * f->sub + i];
        aa += by * by * (double)s.qq;
        ab += by * b * (double)s.q;
        bb += b * b * f->sub;
        xa += by * (double)s.xq;
        xb += b * (double)fold(sum);
    }
    double det = aa * bb - ab * ab;
    if (bb > 0 && det > 1e-9 * aa * bb) {
        l->d = half((float)((xa * bb - xb * ab) / det));
        l->m = half((float)((xa * ab - xb * aa) / det));
    } else if (aa > 0) {
        l->d = half((float)((xa + (double)l->m * ab) / aa));
    }
}

static void set_levels(const float *x, lm_levels *l, range r) {
    const lm_format *f = r.f;
    for (int e = 0; e < f->block; e++) {
        float scale = scale_of(f, l, e / f->sub), inverse = scale != 0 ? 1 / scale : 0;
        l->q[e] = (uint8_t)(level((x[e] + min_of(f, l, e / f->sub)) * inverse, r) + (float)f->offset);
    }
}

/* Fill in a block. */
static void encode_block(const float *x, range r, lm_levels *best) {
    const lm_format *f = r.f;
    scales plain = {{0}, {0}}, searched = plain;
    lm_levels other = {0};
    for (int j = 0; j < f->block / f->sub; j++) {
        const float *at = x + j * f->sub;
        pair a = f->has_min ? plain_pair(at, f->sub, r) : (pair){ .scale = plain_scale(at, f->sub, r) };
        pair b = f->has_min ? best_pair(at, f->sub, r) : (pair){ .scale = best_scale(at, f->sub, r) };
        plain.scale[j] = a.scale, plain.min[j] = a.min;
        searched.scale[j] = b.scale, searched.min[j] = b.min;
    }
    memset(best, 0, sizeof *best);
    set_scales(f, &plain, best);
    double least = block_error(x, best, r);
    set_scales(f, &searched, &other);
    for (int round = 0; round < (f->is_k ? 3 : 1); round++) {
        if (round == 1) try_neighbours(x, &other, r);
        if (round == 2) fit_halfs(x, &other, r);
        double error = block_error(x, &other, r);
        if (error < least) *best = other, least = error;
    }
    set_levels(x, best, r);
}

/*----------------------------------------------------------------------
** Writing blocks: quant.c's readers, turned round. */
static void put_half(uint8_t *p, float x) {
    uint16_t h = lm_f32_to_f16(x);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static void put_nibbles(const uint8_t *q, uint8_t *b) {
    for (int j = 0; j < 16; j++) b[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}

static void put_fifth_bits(const uint8_t *q, uint8_t *b) {
    memset(b, 0, 4);
    for (int e = 0; e < 32; e++) b[e >> 3] |= (uint8_t)((q[e] >> 4) << (e & 7));
}

static void write_q4_0(const lm_levels *l, uint8_t *b) {
    put_half(b, l->d);
    put_nibbles(l->q, b + 2);
}

static void write_q5_0(const lm_levels *l, uint8_t *b) {
    put_half(b, l->d);
    put_fifth_bits(l->q, b + 2);
    put_nibbles(l->q, b + 6);
}

static void write_q5_1(const lm_levels *l, uint8_t *b) {
    put_half(b, l->d);
    put_half(b + 2, l->m);
    put_fifth_bits(l->q, b + 4);
    put_nibbles(l->q, b + 8);
}

static void write_q8_0(const lm_levels *l, uint8_t *b) {
    put_half(b, l->d);
    for (int e = 0; e < 32; e++) b[2 + e] = l->q[e] ^ 128;
}

static void put_six_bits(const lm_levels *l, uint8_t *b) {
    for (int s = 0; s < 4; s++) {
        b[s] = (uint8_t)(l->scale[s] | (l->scale[s + 4] >> 4) << 6);
        b[s + 4] = (uint8_t)(l->min[s] | (l->min[s + 4] >> 4) << 6);
        b[s + 8] = (uint8_t)((l->scale[s + 4] & 15) | (l->min[s + 4] & 15) << 4);
    }
}

static void put_quarters(const uint8_t *q, uint8_t *b) {
    for (int quarter = 0; quarter < 4; quarter++, b += 32, q += 64) {
        for (int l = 0; l < 32; l++) b[l] = (uint8_t)((q[l] & 15) | (q[l + 32] & 15) << 4);
    }
}

static void write_q4_k(const lm_levels *l, uint8_t *b) {
    put_half(b, l->d);
    put_half(b + 2, l->m);
    put_six_bits(l, b + 4);
    put_quarters(l->q, b + 16);
}

static void write_q5_k(const lm_levels *l, uint8_t *b) {
    write_q4_k(l, b);
    memset(b + 16, 0, 32);
    for (int e = 0; e < 256; e++) b[16 + (e & 31)] |= (uint8_t)((l->q[e] >> 4) << (e >> 5));
    put_quarters(l->q, b + 48);
}

static void write_q6_k(const lm_levels *l, uint8_t *b) {
    memset(b, 0, 192);
    for (int e = 0; e < 256; e++) {
        int h = e >> 7, at = e & 127;
        b[64 * h + (at & 63)] |= (uint8_t)((l->q[e] & 15) << (at >> 6) * 4);
        b[128 + 32 * h + (at & 31)] |= (uint8_t)((l->q[e] >> 4) << (at >> 5) * 2);
    }
    memcpy(b + 192, l->scale, 16);
    put_half(b + 208, l->d);
}

static const struct { int dtype; void (*write)(const lm_levels *l, uint8_t *b); } g_writers[] = {
    { LM_Q4_0, write_q4_0 }, { LM_Q5_0, write_q5_0 }, { LM_Q5_1, write_q5_1 }, { LM_Q8_0, write_q8_0 },
    { LM_Q4_K, write_q4_k }, { LM_Q5_K, write_q5_k }, { LM_Q6_K, write_q6_k },
};

/*----------------------------------------------------------------------
** Many blocks */
typedef struct {
    const lm_dtype *type;
    const float *x; uint8_t *out; int64_t n;
    range r; void (*write)(const lm_levels *l, uint8_t *b);     /* NULL: plain numbers */
} job;

static void encode_item(void *arg, int item) {
    const job *j = arg;
    int64_t first = (int64_t)item * ITEM, n = LM_MIN(j->n - first, ITEM);
    uint8_t *out = j->out + first / j->type->block * j->type->bytes;
    unsigned fp = lm_fp_enter();
    if (!j->write) j->type->encode(j->x + first, out, n);
    for (int64_t e = 0; j->write && e < n; e += j->type->block, out += j->type->bytes) {
        lm_levels l;
        encode_block(j->x + first + e, j->r, &l);
        j->write(&l, out);
    }
    lm_fp_leave(fp);
}

void lm_encode_blocks(const lm_dtype *type, const float *x, void *out, int64_t n, lm_stop stop, lm_err *err) {
    job j = { .type = type, .x = x, .out = out, .n = n };
    for (int i = 0; i < LM_COUNT(g_writers); i++) if (g_writers[i].dtype == type->id) j.write = g_writers[i].write;
    if (j.write) j.r = range_of(lm_format_find(type->id));
    if (!j.write && !type->encode) lm_err_set(err, LM_ERROR, "%s cannot be written", type->name);
    lm_pool_run(encode_item, &j, (int)((n + ITEM - 1) / ITEM), stop, err);
}

/* math.c: functions whose bits must not differ between machines, where libm's do.
**
** Doubles, plain arithmetic, no contraction: the same result wherever IEEE 754 holds. Largest errors against
** long double over 300,000 random arguments (tests/base_test.c): exp 0.93 ulp, log 0.70 ulp, sine and cosine
** 1.8e-16 up to 10^6, pow 3.6e-15 relative for rope's bases and powers. */
#include "../lmint.h"

#include <string.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

static const double LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;

static double scale2(double x, int k) {
    /* In two steps, so that results near the ends of the range are reached without overflow on the way. */
    int half = k / 2;
    uint64_t a = (uint64_t)(1023 + half) << 52, b = (uint64_t)(1023 + k - half) << 52;
    double da, db;
    memcpy(&da, &a, 8);
    memcpy(&db, &b, 8);
    return x * da * db;
}

double lm_exp(double x) {
    static const double inverse_factorial[] = { 1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
        1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5 };
    if (x != x) return x;
    if (x > 709.782712893384) return INFINITY;
    if (x < -745.2) return 0;
    double k = rint(x * 1.4426950408889634);
    double r = (x - k * LN2_HIGH) - k * LN2_LOW;
    double p = inverse_factorial[0];
    for (int i = 1; i < LM_COUNT(inverse_factorial); i++) p = p * r + inverse_factorial[i];
    return scale2(1.0 + (r + r * r * p), (int)k);
}

double lm_log(double x) {
    if (!(x > 0)) return x == 0 ? -INFINITY : NAN;
    if (x > 1.7976931348623157e308) return x;
    uint64_t bits;
    int e = 0;
    if (x < 2.2250738585072014e-308) {
        x *= 18014398509481984.0;       /* 2^54: a subnormal becomes normal */
        e = -54;
    }
    memcpy(&bits, &x, 8);
    e += (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    /* log m = f - s (f - t), with s = f / (2 + f) and 2 atanh s = 2 s + s t: f itself is exact. */
    double f = m - 1.0, s = f / (2.0 + f), z = s * s, t = 0;
    for (int i = 23; i >= 3; i -= 2) t = (t + 2.0 / i) * z;
    double half = 0.5 * f * f;
    return e * LN2_HIGH - ((half - (s * (half + t) + e * LN2_LOW)) - f);
}

double lm_pow(double x, double y) { return lm_exp(y * lm_log(x)); }

void lm_sincos(double x, double *sine, double *cosine) {
    /* pi/2 in three parts of 33 bits or more: k times the first two is exact for |k| < 2^20, positions in
    ** a context stay far below. */
    double k = rint(x * 0.6366197723675814);
    double r = x - k * 1.57079632673412561417e+00;
    r -= k * 6.07710050630396597660e-11;
    r -= k * 2.02226624879595063154e-21;
    double z = r * r, s = 0, c = 0;
    static const double sine_terms[] = { -1.0 / 121645100408832000.0, 1.0 / 355687428096000.0, -1.0 / 1307674368000.0,
        1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0 };
    static const double cosine_terms[] = { -1.0 / 6402373705728000.0, 1.0 / 20922789888000.0, -1.0 / 87178291200.0,
        1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5 };
    for (int i = 0; i < LM_COUNT(sine_terms); i++) {
        s = s * z + sine_terms[i];
        c = c * z + cosine_terms[i];
    }
    s = r + r * (z * s);
    c = 1.0 + z * c;
    switch ((int64_t)k & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s; break;
    }
}

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

uint64_t lm_random_at(uint64_t seed, uint64_t t) { return mix(seed + (t + 1) * 0x9E3779B97F4A7C15ull); }

/* Mixed twice: seeds are often small numbers. */
double lm_uniform(uint64_t seed, uint64_t t) { return (double)(mix(lm_random_at(seed, t)) >> 11) * 0x1p-53; }

float lm_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    if (exponent == 31) {
        bits = sign | 0x7F800000u | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        float x = (float)fraction * 5.9604644775390625e-08f;     /* 2^-24 */
        return sign ? -x : x;
    }
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

uint16_t lm_f32_to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    if (magnitude >= 0x477FF000) return (uint16_t)(sign | 0x7C00);       /* 65520 and up round to infinity */
    if (magnitude < 0x38800000) {
        /* A subnormal half: adding 2^-1 in units where the sum's last bit is 2^-24 rounds to even for us. */
        float a;
        memcpy(&a, &magnitude, 4);
        a += 0.5f;
        memcpy(&bits, &a, 4);
        return (uint16_t)(sign | (bits - 0x3F000000));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xFFF + odd) >> 13);
}

uint16_t lm_f32_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

unsigned lm_fp_enter(void) {
#if defined(__SSE2__)
    unsigned saved = _mm_getcsr();
    _mm_setcsr(0x1F80);
    return saved;
#else
    return 0;
#endif
}

void lm_fp_leave(unsigned saved) {
#if defined(__SSE2__)
    _mm_setcsr(saved);
#else
    (void)saved;
#endif
}

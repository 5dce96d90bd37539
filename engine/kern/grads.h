/* grads.h: what training does to panels and vectors, compiled for each set of kernels like elem.h, which is included
** before it. The order of every sum is fixed, so that training too gives the same bits on every machine. */

/*----------------------------------------------------------------------
** Products. c (rows, cols) = a . b, or c + a . b, every output one chain of fmas over ascending k. b is a panel (k, width):
** at most 64 columns, width 16, 32, 48 or 64; a's elements stand ar apart between rows and ak along k. The rows and vectors
** of a block are what the registers hold: with AVX-512 at 2 x 2.7 GHz, 165 to 187 GFLOP/s on one core of a Sapphire Rapids at
** the shapes of small models, where OpenBLAS 0.3.21 reaches 130 to 150. */
INLINE void block(const float *a, size_t ar, size_t ak, const float *b, size_t width, int k, float *c, size_t stride,
                  const int rows, const int vectors, int last, int add) {
    v16 acc[32], w[4];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) {
        const float *from = c + (size_t)r * stride + 16 * v;
        acc[r * vectors + v] = !add                            ? v16_set(0)
                               : v + 1 < vectors || last == 16 ? v16_load(from)
                                                               : v16_load_part(from, last);
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++)
        __builtin_prefetch(c + (size_t)(rows + r) * stride + 16 * v, 1);
    for (int i = 0; i < k; i++, a += ak, b += width) {
        if (ak == 1 && i % 16 == 0)
            UNROLL for (int r = 0; r < rows; r++) __builtin_prefetch(a + (size_t)(rows + r) * ar);
        UNROLL for (int v = 0; v < vectors; v++) w[v] = v16_load(b + 16 * v);
        UNROLL for (int r = 0; r < rows; r++) {
            v16 x = v16_set(a[(size_t)r * ar]);
            UNROLL for (int v = 0; v < vectors; v++) acc[r * vectors + v] = v16_fma(x, w[v], acc[r * vectors + v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) {
        float *to = c + (size_t)r * stride + 16 * v;
        if (v + 1 < vectors || last == 16) v16_store(to, acc[r * vectors + v]);
        else v16_store_part(to, acc[r * vectors + v], last);
    }
}

#define BLOCK(most, vectors)                                                                                         \
    static void block_##most##_##vectors(const float *a, size_t ar, size_t ak, const float *b, size_t width, int k, float *c, \
                                         size_t stride, int rows, int last, int add) {                               \
        int r = 0;                                                                                                   \
        for (; r + most <= rows; r += most) BLOCK_CALL(most, vectors);                                               \
        for (; most > 4 && r + 4 <= rows; r += 4) BLOCK_CALL(4, vectors);                                            \
        for (; r + 2 <= rows; r += 2) BLOCK_CALL(2, vectors);                                                        \
        for (; r < rows; r++) BLOCK_CALL(1, vectors);                                                                \
    }
#define BLOCK_CALL(n, vectors) block(a + (size_t)r * ar, ar, ak, b, width, k, c + (size_t)r * stride, stride, n, vectors, last, add)

#if defined(__AVX512F__)
BLOCK(14, 1)
BLOCK(12, 2)
BLOCK(8, 3)
BLOCK(6, 4)

static void tile(const float *a, size_t ar, size_t ak, const float *b, int k, float *c, size_t stride, int rows,
                 int cols, int add) {
    int vectors = (cols + 15) / 16, last = cols - 16 * (vectors - 1);
    (vectors == 1 ? block_14_1 : vectors == 2 ? block_12_2 : vectors == 3 ? block_8_3 : block_6_4)
        (a, ar, ak, b, (size_t)vectors * 16, k, c, stride, rows, last, add);
}
#else
BLOCK(6, 1)

static void tile(const float *a, size_t ar, size_t ak, const float *b, int k, float *c, size_t stride, int rows,
                 int cols, int add) {
    int vectors = (cols + 15) / 16;
    for (int v = 0; v < vectors; v++) {
        block_6_1(a, ar, ak, b + 16 * v, (size_t)vectors * 16, k, c + 16 * v, stride, rows, LM_MIN(cols - 16 * v, 16),
                  add);
    }
}
#endif

/* Lay n elements of a row into a panel's row of whole vectors. */
static void lay(const float *x, int n, float *out) {
    for (int i = 0; i < n; i += 16) v16_store(out + i, load_from(x, i, n));
}

/*----------------------------------------------------------------------
** Norms. stat is the mean (0 of an RMS norm) and 1 / the deviation. */
static void norm_forward(const float *x, const float *weight, const float *bias, int is_layer, float eps, int n,
                         float *out, float *stat) {
    float mean = is_layer ? mean_of(x, n) : 0;
    float scale = 1.0f / sqrtf(squares_about(x, mean, n) / (float)n + eps);
    for (int i = 0; i < n; i += 16) {
        v16 a = v16_mul(v16_mul(v16_sub(load_from(x, i, n), v16_set(mean)), v16_set(scale)), load_from(weight, i, n));
        store_from(out, bias ? v16_add(a, load_from(bias, i, n)) : a, i, n);
    }
    stat[0] = mean;
    stat[1] = scale;
}

/* dx (+)= the gradient of a norm's input, given dy of its output; d_weight and d_bias, where wanted, += their shares. With
** y = (x - mean) s and g = dy weight: dx = s (g - mean(g) - y mean(g y)), without the first mean in an RMS norm. */
static void norm_backward(const float *x, const float *weight, const float *stat, int is_layer, const float *dy,
                          int n, float *dx, int add, float *d_weight, float *d_bias) {
    v16 mean = v16_set(stat[0]), scale = v16_set(stat[1]), sums = v16_set(0), products = sums;
    for (int i = 0; i < n; i += 16) {
        v16 d = load_from(dy, i, n), y = v16_mul(v16_sub(load_from(x, i, n), mean), scale),
            g = v16_mul(d, load_from(weight, i, n));
        if (is_layer) sums = v16_add(sums, g);
        products = v16_fma(g, y, products);
        if (d_weight) store_from(d_weight, v16_fma(d, y, load_from(d_weight, i, n)), i, n);
        if (d_bias) store_from(d_bias, v16_add(d, load_from(d_bias, i, n)), i, n);
    }
    v16 g_mean = v16_set(v16_sum(sums) / (float)n), gy_mean = v16_set(-v16_sum(products) / (float)n);
    for (int i = 0; i < n; i += 16) {
        v16 y = v16_mul(v16_sub(load_from(x, i, n), mean), scale),
            g = v16_mul(load_from(dy, i, n), load_from(weight, i, n));
        v16 d = v16_mul(scale, v16_fma(y, gy_mean, v16_sub(g, g_mean)));
        store_from(dx, add ? v16_add(d, load_from(dx, i, n)) : d, i, n);
    }
}

/*----------------------------------------------------------------------
** Activations: y = x p(x) with p a sigmoid, of x (silu) or of gelu's cubic, or the normal distribution's (gelu's first form);
** its slope is p + x p'. */
INLINE v16 act_lanes(v16 x, const int act, v16 *slope) {
    v16 one = v16_set(1.0f), inner = x, d_inner = one, p, d;
    if (act == LM_ACT_GELU_ERF) {
        p = normal_lanes(x);
        v16 density = v16_exp(v16_mul(v16_mul(x, x), v16_set(-0.5f)));
        d = v16_mul(density, v16_set(0.39894228f));
    } else {
        if (act == LM_ACT_GELU) {
            v16 square = v16_mul(x, x);
            inner = v16_mul(v16_fma(v16_mul(square, x), v16_set(0.044715f), x), v16_set(1.59576912f));
            d_inner = v16_fma(square, v16_set(0.044715f * 3 * 1.59576912f), v16_set(1.59576912f));
        }
        p = v16_div(one, v16_add(one, v16_exp(v16_min(v16_sub(v16_set(0), inner), v16_set(88.0f)))));
        d = v16_mul(v16_mul(p, v16_sub(one, p)), d_inner);
    }
    *slope = v16_fma(x, d, p);
    return v16_mul(x, p);
}

INLINE void act_all(const float *gate, const float *up, int n, float *out, const int act) {
    v16 slope;
    for (int i = 0; i < n; i += 16) {
        v16 y = act_lanes(load_from(gate, i, n), act, &slope);
        store_from(out, up ? v16_mul(y, load_from(up, i, n)) : y, i, n);
    }
}

INLINE void act_all_backward(const float *gate, const float *up, const float *d, int n, float *d_gate, float *d_up,
                             const int act) {
    v16 slope;
    for (int i = 0; i < n; i += 16) {
        v16 y = act_lanes(load_from(gate, i, n), act, &slope), dy = load_from(d, i, n);
        if (up) store_from(d_up, v16_mul(dy, y), i, n);
        store_from(d_gate, v16_mul(up ? v16_mul(dy, load_from(up, i, n)) : dy, slope), i, n);
    }
}

/* out = act(gate) up, or act(gate) where up is NULL. */
static void act_forward(const float *gate, const float *up, int n, float *out, int act) {
    if (act == LM_ACT_SILU) act_all(gate, up, n, out, LM_ACT_SILU);
    else if (act == LM_ACT_GELU) act_all(gate, up, n, out, LM_ACT_GELU);
    else act_all(gate, up, n, out, LM_ACT_GELU_ERF);
}

static void act_backward(const float *gate, const float *up, const float *d, int n, float *d_gate, float *d_up,
                         int act) {
    if (act == LM_ACT_SILU) act_all_backward(gate, up, d, n, d_gate, d_up, LM_ACT_SILU);
    else if (act == LM_ACT_GELU) act_all_backward(gate, up, d, n, d_gate, d_up, LM_ACT_GELU);
    else act_all_backward(gate, up, d, n, d_gate, d_up, LM_ACT_GELU_ERF);
}

/*----------------------------------------------------------------------
** Softmax. */
static float most_of(const float *x, int n) {
    v16 most = v16_set(-INFINITY);
    int i = 0;
    for (; i + 16 <= n; i += 16) most = v16_max(v16_load(x + i), most);
    float max = v16_most(most);
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* x = exp(scale x + shift); return the sum, over stretches of 1,024 in floats, of these in a double. */
static double exp_all(float *x, int n, float scale, float shift) {
    double total = 0;
    for (int first = 0; first < n; first += 1024) {
        int end = LM_MIN(first + 1024, n), i = first;
        v16 sum = v16_set(0);
        for (; i + 16 <= end; i += 16) {
            v16 e = v16_exp(v16_fma(v16_load(x + i), v16_set(scale), v16_set(shift)));
            v16_store(x + i, e);
            sum = v16_add(sum, e);
        }
        if (i < end) {
            float rest[16] = {0};
            v16_store_part(x + i, v16_exp(v16_fma(v16_load_part(x + i, end - i), v16_set(scale), v16_set(shift))),
                           end - i);
            memcpy(rest, x + i, (size_t)(end - i) * sizeof *x);
            sum = v16_add(sum, v16_load(rest));
        }
        total += (double)v16_sum(sum);
    }
    return total;
}

static void scale_all(float *x, int n, float by) {
    for (int i = 0; i < n; i++) x[i] *= by;
}

/* Scores become probabilities of softmax(scale x). Return the logarithm of the sum of exp(scale x). */
static float softmax(float *x, int n, float scale) {
    float max = most_of(x, n) * scale;
    double sum = exp_all(x, n, scale, -max);
    scale_all(x, n, (float)(1 / sum));
    return (float)((double)max + lm_log(sum));
}

static void softmax_again(float *x, int n, float scale, float log_sum) { exp_all(x, n, scale, -log_sum); }

/* dp, of probabilities p, becomes that of the scores: p (dp - dot) scale. */
static void softmax_backward(const float *p, float *dp, int n, float dot, float scale) {
    for (int i = 0; i < n; i++) dp[i] = p[i] * (dp[i] - dot) * scale;
}

/* Logits become scale times the gradient of -ln p(target). Return -ln p(target). */
static double cross_entropy(float *x, int n, int target, float scale) {
    float max = most_of(x, n), wanted = x[target];
    double sum = exp_all(x, n, 1, -max);
    scale_all(x, n, (float)((double)scale / sum));
    x[target] -= scale;
    return (double)max + lm_log(sum) - (double)wanted;
}

static float dot(const float *x, const float *y, int n) {
    v16 sum = v16_set(0);
    for (int i = 0; i < n; i += 16) sum = v16_fma(load_from(x, i, n), load_from(y, i, n), sum);
    return v16_sum(sum);
}

/*----------------------------------------------------------------------
** Vectors. */

/* Turn the leading n_rot elements of each head; sign -1 turns back. */
static void turn(float *x, int n_heads, int head_dim, int n_rot, int pairs, const float *cosine, const float *sine,
                 float sign) {
    int half = n_rot / 2;
    for (int head = 0; head < n_heads; head++, x += head_dim) {
        if (pairs) {
            for (int j = 0; j < half; j++) {
                float a = x[2 * j], b = x[2 * j + 1], s = sine[j] * sign;
                x[2 * j] = a * cosine[j] - b * s;
                x[2 * j + 1] = a * s + b * cosine[j];
            }
        } else {
            float *restrict low = x, *restrict high = x + half;
            for (int j = 0; j < half; j++) {
                float a = low[j], b = high[j], s = sine[j] * sign;
                low[j] = a * cosine[j] - b * s;
                high[j] = a * s + b * cosine[j];
            }
        }
    }
}

/* Set elements to 0 with the chance of threshold / 2^32, by a hash of key and place, and scale up the others. */
static void drop(float *x, int n, uint32_t key, uint32_t threshold, float scale) {
    for (int i = 0; i < n; i++) {
        uint32_t z = key + (uint32_t)i * 0x9E3779B9u;
        z = (z ^ z >> 16) * 0x85EBCA6Bu;
        z = (z ^ z >> 13) * 0xC2B2AE35u;
        x[i] = (z ^ z >> 16) < threshold ? 0 : x[i] * scale;
    }
}

/* x += y by */
static void add_scaled(float *x, const float *y, int n, float by) {
    for (int i = 0; i < n; i++) x[i] += y[i] * by;
}

static double sum_squares(const float *x, size_t n) {
    double lanes[16] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) lanes[j] += (double)x[i + (size_t)j] * (double)x[i + (size_t)j];
    }
    for (; i < n; i++) lanes[i % 16] += (double)x[i] * (double)x[i];
    for (int j = 0; j < 16; j++) sum += lanes[j];
    return sum;
}

static void adamw(float *restrict w, const float *restrict g, float *restrict m, float *restrict v, size_t n,
                  const lm_adamw *o) {
    float c1 = 1 - o->beta1, c2 = 1 - o->beta2;
    for (size_t i = 0; i < n; i++) {
        float d = g[i] * o->clip;
        m[i] = o->beta1 * m[i] + c1 * d;
        v[i] = o->beta2 * v[i] + c2 * d * d;
        w[i] = w[i] * o->keep - o->rate * m[i] / (sqrtf(v[i]) * o->unbias + o->eps);
    }
}

#define TRAIN_KERN { tile, lay, norm_forward, norm_backward, act_forward, act_backward, softmax, softmax_again, softmax_backward, \
                     cross_entropy, dot, turn, drop, add, add_scaled, sum_squares, adamw }

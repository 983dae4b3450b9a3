/* The body of kernels.h, compiled once a vector width: LANES floats; KERNELS is the table's name.
 * Where order matters (sums), LANES partial sums are kept, so the bits depend on the width, but not
 * on the number of threads. */
#include <math.h>
#include <string.h>
#if LANES > 4
#include <immintrin.h>
#endif

#include "common/floats.h"
#include "kernels.h"

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef float vec_at __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* The first n <= LANES lanes; a full vector is one instruction. */
static inline vec load(const float *p, size_t n)
{
    if (n >= LANES)
        return *(const vec_at *)p;
    vec v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
}

static inline void store(float *p, size_t n, vec v)
{
    if (n >= LANES)
        *(vec_at *)p = v;
    else
        memcpy(p, &v, n * sizeof *p);
}

static inline vec splat(float x)
{
    return (vec){0} + x;
}

static inline vec choose(ivec mask, vec a, vec b)
{
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

static inline float sum_lanes(vec v)
{
    float part[LANES], sum = 0;
    memcpy(part, &v, sizeof part);
    for (int i = 0; i < LANES; i++)
        sum += part[i];
    return sum;
}

/* Lanes from n on become 0. */
static inline vec keep(vec v, size_t n)
{
    float part[LANES] = {0};
    if (n >= LANES)
        return v;
    memcpy(part, &v, n * sizeof *part);
    memcpy(&v, part, sizeof part);
    return v;
}

/* exp, to 2 ulp; arguments are clamped to where fp32 has normal results. Cephes' expf. */
static inline vec exp_vec(vec x)
{
    const float magic = 0x1.8p23f; /* adding it rounds to an integer that the low bits hold */
    x = choose(x < splat(-87.3f), splat(-87.3f), x); /* so that a NaN stays one */
    x = choose(x > splat(88.3f), splat(88.3f), x);
    vec t = x * 1.44269504088896341f + magic;
    vec n = t - magic;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return (vec)((ivec)p + ((ivec)t << 23));
}

static inline vec sigmoid(vec x)
{
    return 1.0f / (1.0f + exp_vec(-x));
}

static void norm_forward(size_t rows, size_t d, const float *x, const float *w, const float *b,
                         float eps, float *y, float *stats)
{
    for (size_t r = 0; r < rows; r++, x += d, y += d) {
        vec sum = {0}, square = {0};
        for (size_t i = 0; i < d; i += LANES)
            sum += load(x + i, d - i);
        float mean = sum_lanes(sum) / (float)d;
        for (size_t i = 0; i < d; i += LANES) {
            vec c = keep(load(x + i, d - i) - mean, d - i);
            square += c * c;
        }
        float rstd = 1.0f / sqrtf(sum_lanes(square) / (float)d + eps);
        for (size_t i = 0; i < d; i += LANES)
            store(y + i, d - i,
                  (load(x + i, d - i) - mean) * rstd * load(w + i, d - i) + load(b + i, d - i));
        stats[2 * r] = mean;
        stats[2 * r + 1] = rstd;
    }
}

static void norm_apply(size_t rows, size_t d, const float *x, const float *w, const float *b,
                       const float *stats, float *y)
{
    for (size_t r = 0; r < rows; r++, x += d, y += d, stats += 2)
        for (size_t i = 0; i < d; i += LANES)
            store(y + i, d - i,
                  (load(x + i, d - i) - stats[0]) * stats[1] * load(w + i, d - i) +
                      load(b + i, d - i));
}

static void norm_backward(size_t rows, size_t d, float *dy, const float *x, const float *w,
                          const float *stats, const float *residual, float *dx, float *sums)
{
    memset(sums, 0, 2 * d * sizeof *sums);
    for (size_t r = 0; r < rows; r++, x += d, dy += d, dx += d, stats += 2) {
        float mean = stats[0], rstd = stats[1];
        vec sum = {0}, sum_x = {0};
        for (size_t i = 0; i < d; i += LANES) {
            size_t n = d - i;
            vec g = load(dy + i, n), hat = (load(x + i, n) - mean) * rstd;
            store(sums + i, n, load(sums + i, n) + g * hat);
            store(sums + d + i, n, load(sums + d + i, n) + g);
            g *= load(w + i, n); /* 0 behind the last element, so the sums need no mask */
            store(dy + i, n, g);
            sum += g;
            sum_x += g * hat;
        }
        float mean_g = sum_lanes(sum) / (float)d, mean_gx = sum_lanes(sum_x) / (float)d;
        for (size_t i = 0; i < d; i += LANES) {
            size_t n = d - i;
            vec hat = (load(x + i, n) - mean) * rstd;
            vec g = (load(dy + i, n) - mean_g - hat * mean_gx) * rstd;
            store(dx + i, n, residual ? g + load(residual + i, n) : g);
        }
        if (residual)
            residual += d;
    }
}

static void residual_add(size_t rows, size_t d, const float *x, const float *t, const float *bias,
                         const float *mask, float *y)
{
    for (size_t r = 0; r < rows; r++, x += d, t += d, y += d) {
        for (size_t i = 0; i < d; i += LANES) {
            vec v = load(t + i, d - i) + load(bias + i, d - i);
            if (mask)
                v *= load(mask + i, d - i);
            store(y + i, d - i, load(x + i, d - i) + v);
        }
        if (mask)
            mask += d;
    }
}

static void multiply(size_t n, const float *a, const float *b, float *y)
{
    for (size_t i = 0; i < n; i += LANES)
        store(y + i, n - i, load(a + i, n - i) * load(b + i, n - i));
}

/* f(x) and its derivative. */
static inline vec activation_of(activation kind, vec x, vec *slope)
{
    const float c = 2 * 0.7978845608028654f, a = 0.044715f;
    vec s;
    switch (kind) {
    case ACTIVATION_GELU_NEW:
        s = sigmoid(x * (c + c * a * (x * x)));
        *slope = s + x * s * (1.0f - s) * (c + 3 * c * a * (x * x));
        return x * s;
    case ACTIVATION_SILU:
        s = sigmoid(x);
        *slope = s + x * s * (1.0f - s);
        return x * s;
    case ACTIVATION_TANH:
        s = 2.0f * sigmoid(2.0f * x) - 1.0f;
        *slope = 1.0f - s * s;
        return s;
    case ACTIVATION_RELU:
        *slope = choose(x > splat(0), splat(1), splat(0));
        return x * *slope;
    case ACTIVATION_GELU:
        for (int i = 0; i < LANES; i++)
            s[i] = 0.5f * erfcf(-x[i] * 0.70710678118654752f);
        *slope = s + x * 0.3989422804014327f * exp_vec(-0.5f * x * x);
        return x * s;
    }
    *slope = splat(0);
    return splat(0);
}

static inline void activate_as(activation kind, size_t rows, size_t n, const float *h, size_t ld,
                               const float *bias, float *y, size_t ld_y)
{
    for (size_t r = 0; r < rows; r++, h += ld, y += ld_y)
        for (size_t i = 0; i < n; i += LANES) {
            vec slope;
            store(y + i, n - i,
                  activation_of(kind, load(h + i, n - i) + load(bias + i, n - i), &slope));
        }
}

static inline void activate_backward_as(activation kind, size_t rows, size_t n, float *h, size_t ld,
                                        const float *bias, float *g, size_t ld_g, float *sums)
{
    memset(sums, 0, n * sizeof *sums);
    for (size_t r = 0; r < rows; r++, h += ld, g += ld_g)
        for (size_t i = 0; i < n; i += LANES) {
            vec slope;
            vec y = activation_of(kind, load(h + i, n - i) + load(bias + i, n - i), &slope);
            vec dh = load(g + i, n - i) * slope;
            store(h + i, n - i, dh);
            store(g + i, n - i, y);
            store(sums + i, n - i, load(sums + i, n - i) + dh);
        }
}

static void activate(activation kind, size_t rows, size_t n, const float *h, size_t ld,
                     const float *bias, float *y, size_t ld_y)
{
    if (kind == ACTIVATION_GELU_NEW) /* the hot one gets a loop without a switch */
        activate_as(ACTIVATION_GELU_NEW, rows, n, h, ld, bias, y, ld_y);
    else
        activate_as(kind, rows, n, h, ld, bias, y, ld_y);
}

static void activate_backward(activation kind, size_t rows, size_t n, float *h, size_t ld,
                              const float *bias, float *g, size_t ld_g, float *sums)
{
    if (kind == ACTIVATION_GELU_NEW)
        activate_backward_as(ACTIVATION_GELU_NEW, rows, n, h, ld, bias, g, ld_g, sums);
    else
        activate_backward_as(kind, rows, n, h, ld, bias, g, ld_g, sums);
}

static float largest(size_t n, const float *x)
{
    vec top = splat(-INFINITY);
    float best = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = load(x + i, LANES);
        top = choose(v > top, v, top);
    }
    for (int lane = 0; lane < LANES; lane++)
        best = top[lane] > best ? top[lane] : best;
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

static float sum_exp(size_t n, const float *x, float shift)
{
    vec sum = {0};
    for (size_t i = 0; i < n; i += LANES)
        sum += keep(exp_vec(load(x + i, n - i) - shift), n - i);
    return sum_lanes(sum);
}

static void scaled_exp(size_t n, float lse, float scale, float *x)
{
    for (size_t i = 0; i < n; i += LANES)
        store(x + i, n - i, scale * exp_vec(load(x + i, n - i) - lse));
}

static float softmax(size_t valid, size_t columns, float *s)
{
    float top = largest(valid, s);
    vec sum = {0};
    for (size_t i = 0; i < valid; i += LANES) {
        vec e = keep(exp_vec(load(s + i, valid - i) - top), valid - i);
        store(s + i, valid - i, e);
        sum += e;
    }
    float total = sum_lanes(sum), inverse = 1.0f / total;
    for (size_t i = 0; i < valid; i += LANES)
        store(s + i, valid - i, load(s + i, valid - i) * inverse);
    memset(s + valid, 0, (columns - valid) * sizeof *s);
    return top + logf(total);
}

static void exponentials(size_t valid, size_t columns, float lse, float *s)
{
    scaled_exp(valid, lse, 1.0f, s);
    memset(s + valid, 0, (columns - valid) * sizeof *s);
}

static void softmax_backward(size_t columns, const float *p, const float *dp, float *ds)
{
    vec dot = {0};
    for (size_t i = 0; i < columns; i += LANES)
        dot += load(p + i, columns - i) * load(dp + i, columns - i);
    float delta = sum_lanes(dot);
    for (size_t i = 0; i < columns; i += LANES)
        store(ds + i, columns - i, (load(dp + i, columns - i) - delta) * load(p + i, columns - i));
}

static void scale_bias(size_t rows, size_t n, const float *x, size_t ld, const float *bias,
                       float scale, float *y, size_t ld_y)
{
    for (size_t r = 0; r < rows; r++, x += ld, y += ld_y)
        for (size_t i = 0; i < n; i += LANES) {
            vec v = load(x + i, n - i);
            if (bias)
                v += load(bias + i, n - i);
            store(y + i, n - i, v * scale);
        }
}

static void column_sums(size_t rows, size_t n, const float *x, size_t ld, float *sums)
{
    memset(sums, 0, n * sizeof *sums);
    for (size_t r = 0; r < rows; r++, x += ld)
        for (size_t i = 0; i < n; i += LANES)
            store(sums + i, n - i, load(sums + i, n - i) + load(x + i, n - i));
}

typedef float four __attribute__((vector_size(16)));
typedef float four_at __attribute__((vector_size(16), aligned(4), may_alias));

static void transpose(size_t rows, size_t n, const float *x, size_t ld, float *y, size_t ld_y)
{
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const float *from = x + r * ld;
        float *to = y + r;
        size_t i = 0;
        for (; i + 4 <= n; i += 4) {
            four a = *(const four_at *)(from + i), b = *(const four_at *)(from + ld + i);
            four c = *(const four_at *)(from + 2 * ld + i),
                 d = *(const four_at *)(from + 3 * ld + i);
            four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
            four ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            four cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            *(four_at *)(to + i * ld_y) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
            *(four_at *)(to + (i + 1) * ld_y) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
            *(four_at *)(to + (i + 2) * ld_y) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
            *(four_at *)(to + (i + 3) * ld_y) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
        }
        for (; i < n; i++)
            for (size_t k = 0; k < 4; k++)
                to[i * ld_y + k] = from[k * ld + i];
    }
    for (; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            y[i * ld_y + r] = x[r * ld + i];
}

static void add(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i += LANES)
        store(y + i, n - i, load(y + i, n - i) + load(x + i, n - i));
}

static void from_bf16(size_t n, const uint16_t *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = float_from_bf16(x[i]);
}

static void to_bf16(size_t n, const float *x, bool accumulate, uint16_t *y)
{
    if (accumulate)
        for (size_t i = 0; i < n; i++)
            y[i] = bf16_from_float(float_from_bf16(y[i]) + x[i]);
    else
        for (size_t i = 0; i < n; i++)
            y[i] = bf16_from_float(x[i]);
}

/* LANES at a time where the processor converts them; no bits depend on that. */
static void from_f16(size_t n, const uint16_t *x, float *y)
{
    size_t i = 0;
#if LANES == 16
    for (; i + LANES <= n; i += LANES)
        _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)(x + i))));
#elif LANES == 8
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)(x + i))));
#endif
    for (; i < n; i++)
        y[i] = float_from_f16(x[i]);
}

static void to_f16(size_t n, const float *x, bool accumulate, uint16_t *y)
{
    size_t i = 0;
#if LANES == 16
    for (; i + LANES <= n; i += LANES) {
        __m256i_u *to = (__m256i_u *)(y + i);
        __m512 v = _mm512_loadu_ps(x + i);
        if (accumulate)
            v = _mm512_add_ps(v, _mm512_cvtph_ps(_mm256_loadu_si256(to)));
        _mm256_storeu_si256(to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
#elif LANES == 8
    for (; i + LANES <= n; i += LANES) {
        __m128i_u *to = (__m128i_u *)(y + i);
        __m256 v = _mm256_loadu_ps(x + i);
        if (accumulate)
            v = _mm256_add_ps(v, _mm256_cvtph_ps(_mm_loadu_si128(to)));
        _mm_storeu_si128(to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    for (; i < n; i++)
        y[i] = f16_from_float(accumulate ? float_from_f16(y[i]) + x[i] : x[i]);
}

static void from_half(zds_dtype dtype, size_t n, const uint16_t *x, float *y)
{
    if (dtype == ZDS_BF16)
        from_bf16(n, x, y);
    else
        from_f16(n, x, y);
}

static void to_half(zds_dtype dtype, size_t n, const float *x, bool accumulate, uint16_t *y)
{
    if (dtype == ZDS_BF16)
        to_bf16(n, x, accumulate, y);
    else
        to_f16(n, x, accumulate, y);
}

typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));

/* Both halves of the 64-bit products of a's lanes and m. */
static inline void multiply_wide(uvec a, uint32_t m, uvec *high, uvec *low)
{
#if LANES == 8
    __m256i factor = _mm256_set1_epi64x(m), x = (__m256i)a;
    __m256i even = _mm256_mul_epu32(x, factor);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
    *low = (uvec)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    *high = (uvec)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#elif LANES == 16
    __m512i factor = _mm512_set1_epi64(m), x = (__m512i)a;
    __m512i even = _mm512_mul_epu32(x, factor);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), factor);
    *low = (uvec)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    *high = (uvec)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#else
    for (int i = 0; i < LANES; i++) {
        uint64_t product = (uint64_t)m * a[i];
        (*high)[i] = (uint32_t)(product >> 32);
        (*low)[i] = (uint32_t)product;
    }
#endif
}

/* LANES Philox blocks side by side, the first of which is `block`. */
static void philox(const random_stream *stream, uint32_t block, uvec out[4])
{
    uvec c0 = (uvec){0} + block, c1 = (uvec){0} + stream->counter[0];
    uvec c2 = (uvec){0} + stream->counter[1], c3 = (uvec){0} + stream->counter[2];
    uint32_t k0 = stream->key[0], k1 = stream->key[1];
    for (uint32_t i = 0; i < LANES; i++)
        c0[i] += i;
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uvec high0, low0, high2, low2;
        multiply_wide(c0, 0xD2511F53u, &high0, &low0);
        multiply_wide(c2, 0xCD9E8D57u, &high2, &low2);
        c0 = high2 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low2;
        c3 = low0;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Makes elements 64 group to 64 group + 64: word j of block 16 group + i is element 16 j + i. */
typedef void (*group_fn)(const uvec number[4], const void *arg, vec out[4]);

static inline void random_elements(const random_stream *stream, uint64_t first, size_t n,
                                   group_fn make, const void *arg, float *to)
{
    for (uint64_t group = first / 64; group * 64 < first + n; group++) {
        uint64_t begin = group * 64;
        bool whole = begin >= first && begin + 64 <= first + n;
        float part[64], *at = whole ? to + (begin - first) : part;
        for (uint32_t i = 0; i < 16; i += LANES) {
            uvec number[4];
            vec made[4];
            philox(stream, (uint32_t)(group * 16) + i, number);
            make(number, arg, made);
            for (uint32_t j = 0; j < 4; j++)
                store(at + 16 * j + i, LANES, made[j]);
        }
        if (whole)
            continue;
        uint64_t from = begin > first ? begin : first;
        uint64_t end = begin + 64 < first + n ? begin + 64 : first + n;
        memcpy(to + (from - first), part + (from - begin), (end - from) * sizeof *to);
    }
}

typedef struct dropout {
    uint32_t limit;
    float kept;
} dropout;

static inline void make_mask(const uvec number[4], const void *arg, vec out[4])
{
    const dropout *d = arg;
    for (int j = 0; j < 4; j++)
        out[j] = choose((ivec)(number[j] < (uvec){0} + d->limit), splat(0), splat(d->kept));
}

static void dropout_mask(const random_stream *stream, uint64_t first, size_t n, double rate,
                         float *mask)
{
    dropout d = {(uint32_t)(rate * 0x1p32), (float)(1 / (1 - rate))};
    if (rate >= 1)
        memset(mask, 0, n * sizeof *mask);
    else
        random_elements(stream, first, n, make_mask, &d, mask);
}

/* Natural logarithm of normal positive numbers, to 2 ulp. Cephes' logf. */
static inline vec log_vec(vec x)
{
    ivec bits = (ivec)x;
    ivec e = ((bits >> 23) & 0xff) - 126;
    vec m = (vec)((bits & 0x007fffff) | 0x3f000000); /* [0.5, 1) */
    ivec low = m < splat(0.70710678118654752f);
    vec n = __builtin_convertvector(e + low, vec); /* a true lane is -1 */
    m = choose(low, m + m, m) - 1.0f;
    vec z = m * m;
    vec p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    vec y = p * (z * m) - n * 2.12194440e-4f - z * 0.5f;
    return m + y + n * 0.693359375f;
}

/* Sine and cosine of 2 pi t, t in [-0.5, 0.5]. */
static inline void turn(vec t, vec *sine, vec *cosine)
{
    const float magic = 0x1.8p23f;
    vec q = t * 4.0f + magic; /* the nearest quarter, in the low bits */
    vec r = (t - (q - magic) * 0.25f) * 6.28318530717958648f, z = r * r;
    vec s = z * -1.9515295891e-4f + 8.3321608736e-3f;
    s = (s * z - 1.6666654611e-1f) * z * r + r;
    vec c = z * 2.443315711809948e-5f - 1.388731625493765e-3f;
    c = (c * z + 4.166664568298827e-2f) * (z * z) - z * 0.5f + 1.0f;
    ivec quarter = (ivec)q, swap = (quarter & 1) != 0;
    *sine = (vec)((ivec)choose(swap, c, s) ^ ((quarter & 2) << 30));
    *cosine = (vec)((ivec)choose(swap, s, c) ^ (((quarter + 1) & 2) << 30));
}

/* LANES pairs of numbers become LANES pairs of normal values. */
static inline void normal_pairs(uvec a, uvec b, float std, vec *x, vec *y)
{
    vec one = (__builtin_convertvector((ivec)(a >> 8), vec) + 1.0f) * 0x1p-24f; /* (0, 1] */
    vec angle = __builtin_convertvector((ivec)b >> 8, vec) * 0x1p-24f;          /* [-0.5, 0.5) */
    vec radius = -2.0f * log_vec(one), sine, cosine;
    for (int i = 0; i < LANES; i++)
        radius[i] = sqrtf(radius[i]);
    radius *= std;
    turn(angle, &sine, &cosine);
    *x = radius * cosine;
    *y = radius * sine;
}

static inline void make_normals(const uvec number[4], const void *arg, vec out[4])
{
    float std = *(const float *)arg;
    normal_pairs(number[0], number[1], std, &out[0], &out[1]);
    normal_pairs(number[2], number[3], std, &out[2], &out[3]);
}

static void normals(const random_stream *stream, uint64_t first, size_t n, float std, float *out)
{
    random_elements(stream, first, n, make_normals, &std, out);
}

const kernels KERNELS = {.name = KERNELS_NAME,
                         .norm_forward = norm_forward,
                         .norm_apply = norm_apply,
                         .norm_backward = norm_backward,
                         .residual = residual_add,
                         .multiply = multiply,
                         .activate = activate,
                         .activate_backward = activate_backward,
                         .softmax = softmax,
                         .exponentials = exponentials,
                         .softmax_backward = softmax_backward,
                         .largest = largest,
                         .sum_exp = sum_exp,
                         .scaled_exp = scaled_exp,
                         .scale_bias = scale_bias,
                         .column_sums = column_sums,
                         .transpose = transpose,
                         .add = add,
                         .from_half = from_half,
                         .to_half = to_half,
                         .dropout_mask = dropout_mask,
                         .normals = normals};

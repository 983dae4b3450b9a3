/* AdamW with states of 8 bits: Dettmers et al. 2022, "8-bit Optimizers via Block-wise
 * Quantization", section 2, with the maps, codes and order of operations of bitsandbytes: states
 * are decoded, moved on and used in fp32, then divided by their block's largest and rounded to the
 * nearest value of the dynamic map.
 *
 * The map (section 1.3) has seven decades, 10^-6 .. 1. Decade i is cut into n = 2^i cells (signed,
 * for exp_avg) or 2^(i+1) (unsigned, for exp_avg_sq) of equal width, whose middles are the map's
 * values; 0 and 1 are values too. Number the values of a decade from n on: k = n + j for the j-th.
 * Then the numbers of all decades join, log2(k) tells the decade, and in decade i
 *
 *     value = P (0.1 + 0.9 (k - n + 0.5) / n)       P = 10^(i - 6)
 *     k     = floor(n (8/9 + value / (0.9 P)))      for any value in the cell
 *
 * are lines, so that codes become values, and values codes, by a lookup of the line's slope in a
 * table of eight, with no search. bitsandbytes' byte is 127 + k with the sign of the value, or k -
 * 1 where there is no sign. Where two decades meet, the boundary of the nearest value is not the
 * decade's own but, a fifth into the first cell of the next, the middle between its two values.
 *
 * Arithmetic is fp32: a value within 3e-5 of a cell's width of the middle of two values may go to
 * either; decoded values are within 2e-6 of the map's. */
#include "common/elementwise_kernel.h"
#include "common/simd_int.h"
#include "optim/adamw/adamw8bit.h"

/* Blocks with less than this have it as their largest: scales stay far from overflow. */
#define LEAST_SCALE 1e-30f

/* === codes to values === */

/* 4 k, whose exponent's low three bits index these: 0 and 4 * 128 (the value 1), then decades. */
static const float signed_slope[TABLE] = {0x1p-9f,     .9e-6f / 4,  .9e-5f / 8,   .9e-4f / 16,
                                          .9e-3f / 32, .9e-2f / 64, .9e-1f / 128, .9f / 256};
static const float signed_offset[TABLE] = {
    0,
    (float)(1e-6 * (.45 - .8)),
    (float)(1e-5 * (.45 / 2 - .8)),
    (float)(1e-4 * (.45 / 4 - .8)),
    (float)(1e-3 * (.45 / 8 - .8)),
    (float)(1e-2 * (.45 / 16 - .8)),
    (float)(1e-1 * (.45 / 32 - .8)),
    (float)(.45 / 64 - .8),
};
/* k likewise: decades, then 1 (the value 0) and 256 (the value 1). */
static const float unsigned_slope[TABLE] = {.9e-6f / 2,  .9e-5f / 4,  .9e-4f / 8, .9e-3f / 16,
                                            .9e-2f / 32, .9e-1f / 64, .9f / 128,  1.f / 255};
static const float unsigned_offset[TABLE] = {
    (float)(1e-6 * (.45 / 2 - .8)),  (float)(1e-5 * (.45 / 4 - .8)),
    (float)(1e-4 * (.45 / 8 - .8)),  (float)(1e-3 * (.45 / 16 - .8)),
    (float)(1e-2 * (.45 / 32 - .8)), (float)(1e-1 * (.45 / 64 - .8)),
    (float)(.45 / 128 - .8),         -1.f / 255,
};

typedef struct line {
    vec_table slope, offset;
} line;

SIMD_INLINE vec signed_value(const uint8_t *code, const line *l)
{
    vec k = vec_fma(vec_bytes_above_2_23(code), vec_all(4), vec_all(-0x1p25f - 4 * 127));
    ivec decade = ivec_right(ivec_of_bits(k), 23);
    vec offset = vec_xor(vec_table_at(&l->offset, decade), vec_sign_of(k));
    return vec_fma(vec_table_at(&l->slope, decade), k, offset);
}

SIMD_INLINE vec unsigned_value(const uint8_t *code, const line *l)
{
    vec k = vec_sub(vec_bytes_above_2_23(code), vec_all(0x1p23f - 1));
    ivec decade = ivec_right(ivec_of_bits(k), 23);
    return vec_fma(vec_table_at(&l->slope, decade), k, vec_table_at(&l->offset, decade));
}

/* === values to codes === */

/* Number of a class: log2 of its k. Signed: 0 holds the values 0 and +-10^-6's; 7 the value 1. The
 * smallest value of each, and 1 / (0.9 P). */
static const float signed_least[TABLE] = {
    -1, 1.9e-6f, 1.45e-5f, 1.225e-4f, 1.1125e-3f, 1.05625e-2f, .1028125f, (float)(1 - .225 / 64),
};
static const float signed_scale[TABLE] = {
    (float)(1 / (9 * .275e-6)), /* k = 1 from half the smallest value on */
    (float)(1e5 / .9),          (float)(1e4 / .9), (float)(1e3 / .9),      (float)(1e2 / .9),
    (float)(1e1 / .9),          (float)(1 / .9),   (float)(1 / 9. + .002), /* 128 (8/9 + .113) is
                                                                              just above 128 */
};
/* Unsigned: classes 1 to 7 are the decades; 0, the value 0, and 8, the value 1, share an entry. */
static const float unsigned_least[TABLE] = {
    (float)(1 - .225 / 128),
    .1625e-6f,
    1.45e-6f,
    1.225e-5f,
    1.1125e-4f,
    1.05625e-3f,
    1.028125e-2f,
    .10140625f,
};
static const float unsigned_scale[TABLE] = {
    (float)(1 / 9. + .001), (float)(1e6 / .9), (float)(1e5 / .9), (float)(1e4 / .9),
    (float)(1e3 / .9),      (float)(1e2 / .9), (float)(1e1 / .9), (float)(1 / .9),
};

typedef struct classes {
    vec_table least, scale;
    uint16_t base; /* upper half of the bits of a float below every class but the first */
} classes;

/* `decades` from class 0's middle to the largest. The upper half of a float's bits is about 128
 * log2 of it; a decade is 425 of that, and the error less than the margin of 0.05 decades. */
SIMD_INLINE classes classes_of(const float *least, const float *scale, float largest, float decades)
{
    return (classes){.least = vec_table_scaled(least, largest),
                     .scale = vec_table_scaled(scale, 1 / largest),
                     .base = (uint16_t)((bits_of_float(largest) >> 16) -
                                        (uint32_t)(425.2f * (decades + 0.05f)))};
}

/* k of magnitudes up to the block's largest. */
SIMD_INLINE ivec number_of(vec magnitude, const classes *c)
{
    /* The class or the next: */
    ivec class = ivec_high_scale(ivec_of_bits(magnitude), c->base, 154); /* 2^16 / 425.2 */
    class = ivec_decrement_where(vec_less(magnitude, vec_table_at(&c->least, class)), class);
    vec share = vec_fma(vec_table_at(&c->scale, class), magnitude, vec_all(8 / 9.f));
    share = vec_min(share, vec_all(0x1.fffffep0f)); /* before a boundary past the decade */
    return ivec_truncate(vec_of_bits(ivec_add(ivec_of_bits(share), ivec_left(class, 23))));
}

/* === a block === */

typedef struct block {
    float m[ADAMW8BIT_BLOCK], v[ADAMW8BIT_BLOCK];
} block;

/* A vector's worth of codes, with copies where fewer than LANES are left. */
SIMD_INLINE const uint8_t *codes_at(const void *codes, size_t i, size_t n, uint8_t *part)
{
    const uint8_t *p = (const uint8_t *)codes + i;
    if (n == LANES)
        return p;
    memcpy(part, p, n);
    return part;
}

/* The update of n elements from i on; leaves the new states in s and their largest in top. */
SIMD_INLINE void update(const elementwise *t, elementwise_types is, size_t i, size_t n,
                        const line *lines, float *m_out, float *v_out, vec *top)
{
    const adamw8bit_constants *c = t->constants;
    uint8_t part1[LANES], part2[LANES];
    memset(part1, 127, LANES); /* what lies past n is 0, and no largest */
    memset(part2, 0, LANES);
    /* Scaled first: the square of a small scale would be no number of fp32. */
    vec g = vec_mul(vec_load(t->grad, is.grad, i, n), vec_all(t->grad_scale));
    vec m = signed_value(codes_at(t->states[0], i, n, part1), &lines[0]);
    vec v = unsigned_value(codes_at(t->states[1], i, n, part2), &lines[1]);
    m = vec_fma(vec_all(c->one_minus_beta1), g, m);
    v = vec_fma(vec_mul(vec_all(c->one_minus_beta2), g), g, v);
    vec denominator = vec_fma(vec_sqrt(v), vec_all(c->inverse_sqrt_bias2), vec_all(c->eps));
    vec p = vec_mul(vec_load(t->master, is.master, i, n), vec_all(c->keep));
    p = vec_fma(vec_all(-c->rate), vec_div(m, denominator), p);
    vec_store(t->master, is.master, i, n, p, false);
    if (is.output >= 0)
        vec_store(t->output, is.output, i, n, p, is.stream);
    vec_store(m_out, ZDS_F32, 0, n, m, false);
    vec_store(v_out, ZDS_F32, 0, n, v, false);
    top[0] = vec_max(vec_abs(m), top[0]);
    top[1] = vec_max(v, top[1]);
}

/* Codes of `count` states, a multiple of BYTES. */
SIMD_INLINE void encode(const block *b, size_t count, const classes *c, uint8_t *m_codes,
                        uint8_t *v_codes)
{
    for (size_t i = 0; i < count; i += BYTES) {
        ivec k[4], u[4];
        for (size_t j = 0; j < 4; j++) {
            vec m = load_f32(b->m + i + j * LANES);
            k[j] = ivec_with_sign(number_of(vec_abs(m), &c[0]), m);
            u[j] = number_of(load_f32(b->v + i + j * LANES), &c[1]);
        }
        ivec_store_bytes(m_codes + i, k, 127);
        ivec_store_bytes(v_codes + i, u, -1);
    }
}

SIMD_INLINE void run_block(const elementwise *t, elementwise_types is, size_t first, size_t count)
{
    const adamw8bit_constants *c = t->constants;
    uint8_t *m_codes = (uint8_t *)t->states[0] + first, *v_codes = (uint8_t *)t->states[1] + first;
    float *scale1 = (float *)t->states[2] + first / ADAMW8BIT_BLOCK;
    float *scale2 = (float *)t->states[3] + first / ADAMW8BIT_BLOCK;
    float decay1 = c->beta1 * *scale1, decay2 = c->beta2 * *scale2;
    line lines[2] = {
        {vec_table_scaled(signed_slope, decay1), vec_table_scaled(signed_offset, decay1)},
        {vec_table_scaled(unsigned_slope, decay2), vec_table_scaled(unsigned_offset, decay2)}};
    vec top[2] = {vec_all(0), vec_all(0)};
    block b;
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        update(t, is, first + i, LANES, lines, b.m + i, b.v + i, top);
    if (i < count) {
        memset(&b.m[i], 0, LANES * sizeof(float));
        memset(&b.v[i], 0, LANES * sizeof(float));
        update(t, is, first + i, count - i, lines, b.m + i, b.v + i, top);
    }
    *scale1 = fmaxf(vec_largest(top[0]), LEAST_SCALE);
    *scale2 = fmaxf(vec_largest(top[1]), LEAST_SCALE);
    classes now[2] = {classes_of(signed_least, signed_scale, *scale1, 7),
                      classes_of(unsigned_least, unsigned_scale, *scale2, 8)};
    if (count == ADAMW8BIT_BLOCK) {
        encode(&b, ADAMW8BIT_BLOCK, now, m_codes, v_codes);
        return;
    }
    uint8_t m_all[ADAMW8BIT_BLOCK], v_all[ADAMW8BIT_BLOCK];
    size_t padded = (count + BYTES - 1) / BYTES * BYTES;
    memset(&b.m[count], 0, (padded - count) * sizeof(float));
    memset(&b.v[count], 0, (padded - count) * sizeof(float));
    encode(&b, padded, now, m_all, v_all);
    memcpy(m_codes, m_all, count);
    memcpy(v_codes, v_all, count);
}

SIMD_INLINE void run_blocks(const elementwise *t, elementwise_types is)
{
    for (size_t first = 0; first < t->count; first += ADAMW8BIT_BLOCK) {
        size_t rest = t->count - first;
        run_block(t, is, first, rest < ADAMW8BIT_BLOCK ? rest : ADAMW8BIT_BLOCK);
    }
}

void SIMD_NAME(adamw8bit_run)(const elementwise *t)
{
    elementwise_types is = elementwise_types_of(t);
    unsigned mode = simd_mode_flush();
    if (is.master == ZDS_F32 && is.grad == ZDS_F32 && is.output < 0)
        run_blocks(t, (elementwise_types){.master = ZDS_F32, .grad = ZDS_F32, .output = -1});
    else if (is.master == ZDS_F32 && is.grad == ZDS_BF16 && is.output == ZDS_BF16 && is.stream)
        run_blocks(t, (elementwise_types){
                          .master = ZDS_F32, .grad = ZDS_BF16, .output = ZDS_BF16, .stream = true});
    else
        run_blocks(t, is);
    if (is.stream)
        simd_stream_end();
    simd_mode_restore(mode);
}

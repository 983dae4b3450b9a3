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
    ivec base; /* upper half of the bits of a float below every class but the first */
} classes;

/* `decades` from class 0's middle to the largest. The upper half of a float's bits is about 128
 * log2 of it; a decade is 425 of that, and the error less than the margin of 0.05 decades. */
SIMD_INLINE classes classes_of(const float *least, const float *scale, float largest, float decades)
{
    uint32_t base = (bits_of_float(largest) >> 16) - (uint32_t)(425.2f * (decades + 0.05f));
    return (classes){.least = vec_table_scaled(least, largest),
                     .scale = vec_table_scaled(scale, 1 / largest),
                     .base = ivec_all(base << 16)};
}

/* From here on four vectors go side by side, each step for all four: the chains of operations are
 * long, and a processor looks ahead over less than two. */
enum { FOUR = 4 };

/* k of magnitudes up to the block's largest. */
SIMD_INLINE void numbers_of(const vec *magnitude, const classes *c, ivec *k)
{
    ivec class[FOUR];
    vec share[FOUR];
    for (int j = 0; j < FOUR; j++) /* the class or the next */
        class[j] = ivec_high_scale(ivec_of_bits(magnitude[j]), c->base, 154); /* 2^16 / 425.2 */
    for (int j = 0; j < FOUR; j++)
        class[j] = ivec_decrement_where(vec_less(magnitude[j], vec_table_at(&c->least, class[j])),
                                        class[j]);
    for (int j = 0; j < FOUR; j++)
        share[j] = vec_fma(vec_table_at(&c->scale, class[j]), magnitude[j], vec_all(8 / 9.f));
    for (int j = 0; j < FOUR; j++) /* before a boundary past the decade */
        share[j] = vec_min(share[j], vec_all(0x1.fffffep0f));
    for (int j = 0; j < FOUR; j++)
        k[j] =
            ivec_truncate(vec_of_bits(ivec_add(ivec_of_bits(share[j]), ivec_left(class[j], 23))));
}

/* === a block === */

typedef struct block {
    float m[ADAMW8BIT_BLOCK], v[ADAMW8BIT_BLOCK];
} block;

/* The states of BYTES elements from i on, moved on by their gradients; top: their largest. */
SIMD_INLINE void move_states(const elementwise *t, elementwise_types is, size_t i,
                             const line *lines, float *m_out, float *v_out, vec *top)
{
    const adamw8bit_constants *c = t->constants;
    for (size_t j = 0; j < BYTES; j += LANES) {
        vec m = signed_value((const uint8_t *)t->states[0] + i + j, &lines[0]);
        vec v = unsigned_value((const uint8_t *)t->states[1] + i + j, &lines[1]);
        /* Scaled first: the square of a small scale would be no number of fp32. */
        vec g = vec_mul(vec_load(t->grad, is.grad, i + j, LANES), vec_all(t->grad_scale));
        m = vec_fma(vec_all(c->one_minus_beta1), g, m);
        v = vec_fma(vec_mul(vec_all(c->one_minus_beta2), g), g, v);
        store_f32(m_out + j, m);
        store_f32(v_out + j, v);
        top[0] = vec_max(vec_abs(m), top[0]);
        top[1] = vec_max(v, top[1]);
    }
}

/* The weights of BYTES elements from i on. */
SIMD_INLINE void move_weights(const elementwise *t, elementwise_types is, size_t i, const float *m,
                              const float *v)
{
    const adamw8bit_constants *c = t->constants;
    vec denominator[FOUR], p[FOUR];
    for (int j = 0; j < FOUR; j++)
        denominator[j] = vec_fma(vec_sqrt(load_f32(v + j * LANES)), vec_all(c->inverse_sqrt_bias2),
                                 vec_all(c->eps));
    for (int j = 0; j < FOUR; j++)
        p[j] =
            vec_mul(vec_load(t->master, is.master, i + (size_t)j * LANES, LANES), vec_all(c->keep));
    for (int j = 0; j < FOUR; j++)
        p[j] = vec_fma(vec_all(-c->rate), vec_div(load_f32(m + j * LANES), denominator[j]), p[j]);
    for (int j = 0; j < FOUR; j++) {
        elementwise_keep(t, is.stochastic, t->master, is.master, i + (size_t)j * LANES, LANES, p[j],
                         -1);
        if (is.output >= 0)
            vec_store(t->output, is.output, i + (size_t)j * LANES, LANES, p[j], is.stream);
    }
}

/* Codes of BYTES states. */
SIMD_INLINE void encode(const float *m, const float *v, const classes *c, uint8_t *m_codes,
                        uint8_t *v_codes)
{
    vec magnitude[FOUR];
    ivec k[FOUR];
    for (int j = 0; j < FOUR; j++)
        magnitude[j] = vec_abs(load_f32(m + j * LANES));
    numbers_of(magnitude, &c[0], k);
    for (int j = 0; j < FOUR; j++)
        k[j] = ivec_with_sign(k[j], load_f32(m + j * LANES));
    ivec_store_bytes(m_codes, k, 127);
    for (int j = 0; j < FOUR; j++)
        magnitude[j] = load_f32(v + j * LANES);
    numbers_of(magnitude, &c[1], k);
    ivec_store_bytes(v_codes, k, -1);
}

/* A block's two passes read different arrays, and neither long enough in a row for the processor to
 * see what comes: so each asks for its part of the block after the next. That may lie outside. */
enum { AHEAD = 2 * ADAMW8BIT_BLOCK };

SIMD_INLINE void fetch(const void *array, size_t first, size_t size)
{
    const uintptr_t at = (uintptr_t)array + first * size;
    for (size_t i = 0; i < BYTES * size; i += 64)
        __builtin_prefetch((const void *)(at + i));
}

SIMD_INLINE void run_block(const elementwise *t, elementwise_types is, size_t first)
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
    for (size_t i = 0; i < ADAMW8BIT_BLOCK; i += BYTES) {
        fetch(t->grad, first + i + AHEAD, is.grad == ZDS_F32 ? 4 : 2);
        fetch(m_codes, i + AHEAD, 1);
        fetch(v_codes, i + AHEAD, 1);
        move_states(t, is, first + i, lines, b.m + i, b.v + i, top);
    }
    *scale1 = fmaxf(vec_largest(top[0]), LEAST_SCALE);
    *scale2 = fmaxf(vec_largest(top[1]), LEAST_SCALE);
    classes now[2] = {classes_of(signed_least, signed_scale, *scale1, 7),
                      classes_of(unsigned_least, unsigned_scale, *scale2, 8)};
    /* Together: roots and quotients leave most of the processor to the other. */
    for (size_t i = 0; i < ADAMW8BIT_BLOCK; i += BYTES) {
        fetch(t->master, first + i + AHEAD, is.master == ZDS_F32 ? 4 : 2);
        move_weights(t, is, first + i, b.m + i, b.v + i);
        encode(b.m + i, b.v + i, now, m_codes + i, v_codes + i);
    }
}

/* A parameter's last block, shorter than others, in copies of full length. */
SIMD_INLINE void run_last(const elementwise *t, elementwise_types is, size_t first, size_t count)
{
    size_t master_size = is.master == ZDS_F32 ? 4 : 2, grad_size = is.grad == ZDS_F32 ? 4 : 2;
    size_t output_size = is.output == ZDS_F32 ? 4 : 2, number = first / ADAMW8BIT_BLOCK;
    float master[ADAMW8BIT_BLOCK] = {0}, grad[ADAMW8BIT_BLOCK] = {0}, output[ADAMW8BIT_BLOCK];
    uint8_t m_codes[ADAMW8BIT_BLOCK], v_codes[ADAMW8BIT_BLOCK];
    memset(m_codes, 127, sizeof m_codes); /* what lies past the end is 0, and no largest */
    memset(v_codes, 0, sizeof v_codes);
    uint8_t *codes[2] = {(uint8_t *)t->states[0] + first, (uint8_t *)t->states[1] + first};
    unsigned char *master_at = (unsigned char *)t->master + first * master_size;
    memcpy(m_codes, codes[0], count);
    memcpy(v_codes, codes[1], count);
    memcpy(master, master_at, count * master_size);
    memcpy(grad, (const unsigned char *)t->grad + first * grad_size, count * grad_size);
    elementwise last = *t;
    last.master = master;
    last.grad = grad;
    last.output = output;
    last.first = t->first + (uint32_t)first;
    last.states = (void *[]){m_codes, v_codes, (float *)t->states[2] + number,
                             (float *)t->states[3] + number};
    is.stream = false;
    run_block(&last, is, 0);
    memcpy(codes[0], m_codes, count);
    memcpy(codes[1], v_codes, count);
    memcpy(master_at, master, count * master_size);
    if (is.output >= 0)
        memcpy((unsigned char *)t->output + first * output_size, output, count * output_size);
}

SIMD_INLINE void run_blocks(const elementwise *t, elementwise_types is)
{
    size_t whole = t->count / ADAMW8BIT_BLOCK * ADAMW8BIT_BLOCK;
    for (size_t first = 0; first < whole; first += ADAMW8BIT_BLOCK)
        run_block(t, is, first);
    if (whole < t->count)
        run_last(t, elementwise_types_of(t), whole, t->count - whole);
}

void SIMD_NAME(adamw8bit_run)(const elementwise *tile)
{
    adamw8bit_constants constants = *(const adamw8bit_constants *)tile->constants;
    elementwise local = *tile, *t = &local;
    t->constants = &constants;
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

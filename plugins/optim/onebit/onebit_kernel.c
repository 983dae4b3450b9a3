/* The formulas of the 1-bit optimizers; their sources are in onebitadam.c, onebitlamb.c and
 * zerooneadam.c, that of the compression in average.h. */
#include "common/elementwise_kernel.h"
#include "optim/onebit/kernels.h"

/* === whole tiles === */

static void moments(lanes *x, const void *constants)
{
    const onebit_constants *c = constants;
    x->state[0] =
        vec_fma(vec_all(c->one_minus_beta1), x->g, vec_mul(vec_all(c->beta1), x->state[0]));
    x->state[1] = vec_fma(vec_mul(vec_all(c->one_minus_beta2), x->g), x->g,
                          vec_mul(vec_all(c->beta2), x->state[1]));
}

SIMD_INLINE vec denominator(vec exp_avg_sq, const onebit_constants *c)
{
    return vec_add(vec_sqrt(exp_avg_sq), vec_all(c->eps));
}

static vec direction(const lanes *x, const void *constants)
{
    const onebit_constants *c = constants;
    vec ratio = vec_div(x->state[0], denominator(x->state[1], c));
    return vec_fma(vec_all(c->weight_decay), x->p, ratio);
}

static void move(lanes *x, const void *constants)
{
    const onebit_constants *c = constants;
    x->p = vec_fma(vec_all(-c->rate), direction(x, constants), x->p);
}

static void adam(lanes *x, const void *constants)
{
    moments(x, constants);
    move(x, constants);
}

static void adam_given(lanes *x, const void *constants)
{
    x->state[0] = x->g;
    move(x, constants);
}

static void adam_frozen(lanes *x, const void *constants)
{
    const onebit_constants *c = constants;
    x->state[0] =
        vec_fma(vec_all(c->one_minus_beta1), x->g, vec_mul(vec_all(c->beta1), x->state[0]));
    move(x, constants);
}

void SIMD_NAME(onebit_adam)(const elementwise *tile)
{
    elementwise_run(tile, 2, adam, sizeof(onebit_constants));
}

void SIMD_NAME(onebit_adam_given)(const elementwise *tile)
{
    elementwise_run(tile, 2, adam_given, sizeof(onebit_constants));
}

void SIMD_NAME(onebit_adam_frozen)(const elementwise *tile)
{
    elementwise_run(tile, 2, adam_frozen, sizeof(onebit_constants));
}

void SIMD_NAME(onebit_move)(const elementwise *tile)
{
    elementwise_run_part(tile, 2, move, sizeof(onebit_constants), false, false);
}

void SIMD_NAME(onebit_lamb_norms)(const elementwise *tile)
{
    elementwise_norms_run(tile, 2, moments, direction);
}

void SIMD_NAME(onebit_lamb)(const elementwise *tile)
{
    onebit_constants c = *(const onebit_constants *)tile->constants;
    c.rate = (float)((double)c.rate * onebit_lamb_coefficient(&c, tile->sums));
    elementwise scaled = *tile;
    scaled.constants = &c;
    elementwise_run_part(&scaled, 2, move, sizeof(onebit_constants), false, false);
}

/* === compression === */

/* Vectors from i on that make up whole bytes of signs. */
enum { GROUP = LANES < 8 ? 8 : LANES };

SIMD_INLINE size_t lanes_left(size_t i, size_t count)
{
    return count - i < LANES ? count - i : LANES;
}

static void momentum(const onebit_momentum *m, size_t count, float *out)
{
    unsigned mode = simd_mode_flush();
    for (size_t i = 0; i < count; i += LANES) {
        size_t n = lanes_left(i, count);
        vec g = vec_mul(vec_load(m->grad, m->grad_dtype, i, n), vec_all(m->grad_scale));
        vec x = vec_mul(vec_all(m->one_minus_beta1), g);
        if (m->exp_avg)
            x = vec_fma(vec_all(m->beta1), vec_load(m->exp_avg, ZDS_F32, i, n), x);
        vec_store(out, ZDS_F32, i, n, vec_mul(vec_all(m->factor), x), false);
    }
    simd_mode_restore(mode);
}

static double squares(const float *x, size_t count)
{
    return elementwise_squares(x, count);
}

static double add(float *error, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i += LANES) {
        size_t n = lanes_left(i, count);
        vec sum = vec_add(vec_load(error, ZDS_F32, i, n), vec_load(x, ZDS_F32, i, n));
        vec_store(error, ZDS_F32, i, n, sum, false);
    }
    return elementwise_squares(error, count);
}

static void compress(float *error, float scale, uint8_t *bits, size_t count)
{
    for (size_t i = 0; i < count; i += GROUP) {
        size_t bytes = (count - i < GROUP ? count - i : GROUP) / 8;
        uint32_t negative = 0;
        for (size_t j = i; j < i + bytes * 8; j += LANES) {
            size_t n = lanes_left(j, count);
            vec x = vec_load(error, ZDS_F32, j, n);
            vec_mask below = vec_less(x, vec_all(0));
            vec sent = vec_select(below, vec_all(-scale), vec_all(scale));
            vec_store(error, ZDS_F32, j, n, vec_sub(x, sent), false);
            negative |= bits_of_mask(below) << (j - i);
        }
        uint32_t signs = ~negative;
        memcpy(bits + i / 8, &signs, bytes);
    }
}

static void expand(float *out, const uint8_t *bits, float scale, bool adds, size_t count)
{
    for (size_t i = 0; i < count; i += GROUP) {
        size_t bytes = (count - i < GROUP ? count - i : GROUP) / 8;
        uint32_t signs = 0;
        memcpy(&signs, bits + i / 8, bytes);
        for (size_t j = i; j < i + bytes * 8; j += LANES) {
            size_t n = lanes_left(j, count);
            vec x = vec_select(mask_of_bits(signs >> (j - i)), vec_all(scale), vec_all(-scale));
            if (adds)
                x = vec_add(vec_load(out, ZDS_F32, j, n), x);
            vec_store(out, ZDS_F32, j, n, x, false);
        }
    }
}

/* === OneBitLamb === */

static void fresh(onebit_fresh *f, size_t count)
{
    const onebit_constants *c = f->constants;
    float plain[ELEMENTWISE_CHUNK], decayed[ELEMENTWISE_CHUNK], ratios[LANES];
    vec largest = vec_all(0), inverse = vec_all(1 / c->one_minus_beta1);
    unsigned mode = simd_mode_flush();
    f->update_squares = f->decayed_squares = 0;
    for (size_t first = 0; first < count; first += ELEMENTWISE_CHUNK) {
        size_t size = count - first < ELEMENTWISE_CHUNK ? count - first : ELEMENTWISE_CHUNK;
        for (size_t k = 0; k < size; k += LANES) {
            size_t i = first + k, n = lanes_left(k, size);
            vec old = vec_load(f->exp_avg, ZDS_F32, i, n);
            vec m = vec_mul(vec_load(f->mean, ZDS_F32, i, n), vec_all(f->inverse_factor));
            vec_store(f->exp_avg, ZDS_F32, i, n, m, false);
            if (!f->fresh)
                continue;
            vec g = vec_mul(vec_fma(vec_all(-c->beta1), old, m), inverse);
            vec v = vec_load(f->fresh, ZDS_F32, i, n);
            v = vec_fma(vec_mul(vec_all(c->one_minus_beta2), g), g, vec_mul(vec_all(c->beta2), v));
            vec_store(f->fresh, ZDS_F32, i, n, v, false);
            vec frozen = denominator(vec_load(f->exp_avg_sq, ZDS_F32, i, n), c);
            vec ratio = vec_div(frozen, denominator(v, c));
            if (n < LANES) { /* what lies past the end is no ratio */
                float part[LANES] = {0};
                vec_store(part, ZDS_F32, 0, n, ratio, false);
                ratio = load_f32(part);
            }
            largest = vec_select(vec_less(largest, ratio), ratio, largest);
            vec update = vec_div(m, frozen);
            vec_store(plain, ZDS_F32, k, n, update, false);
            update = vec_fma(vec_all(c->weight_decay), vec_load(f->master, ZDS_F32, i, n), update);
            vec_store(decayed, ZDS_F32, k, n, update, false);
        }
        if (!f->fresh)
            continue;
        f->update_squares += elementwise_squares(plain, size);
        f->decayed_squares += elementwise_squares(decayed, size);
    }
    simd_mode_restore(mode);
    store_f32(ratios, largest);
    f->largest = 0;
    for (size_t j = 0; j < LANES; j++)
        f->largest = ratios[j] > f->largest ? ratios[j] : f->largest;
}

/* === ZeroOneAdam's local steps === */

/* -rate times the direction, after the momentum moved. */
SIMD_INLINE vec local_update(const onebit_local *l, size_t i, size_t n, vec *exp_avg, vec *denom)
{
    const onebit_constants *c = l->constants;
    vec g = vec_mul(vec_load(l->grad, l->grad_dtype, i, n), vec_all(l->grad_scale));
    *exp_avg = vec_fma(vec_all(c->one_minus_beta1), g,
                       vec_mul(vec_all(c->beta1), vec_load(l->exp_avg, ZDS_F32, i, n)));
    *denom = denominator(vec_load(l->exp_avg_sq, ZDS_F32, i, n), c);
    vec p = vec_load(l->master, ZDS_F32, i, n);
    vec update = vec_fma(vec_all(c->weight_decay), p, vec_div(*exp_avg, *denom));
    return l->still ? vec_all(0) : vec_mul(vec_all(-c->rate), update);
}

SIMD_INLINE vec drift_before(const onebit_local *l, size_t i, size_t n)
{
    return l->starts ? vec_all(0) : vec_load(l->drift, ZDS_F32, i, n);
}

SIMD_INLINE void local_store(const onebit_local *l, size_t i, size_t n, vec p)
{
    vec_store(l->master, ZDS_F32, i, n, p, false);
    if (l->output)
        vec_store(l->output, l->output_dtype, i, n, p, false);
}

static void local(const onebit_local *l, size_t count)
{
    unsigned mode = simd_mode_flush();
    for (size_t i = 0; i < count; i += LANES) {
        size_t n = lanes_left(i, count);
        vec exp_avg, denom, update = local_update(l, i, n, &exp_avg, &denom);
        vec p = vec_load(l->master, ZDS_F32, i, n);
        vec_store(l->exp_avg, ZDS_F32, i, n, exp_avg, false);
        vec_store(l->drift, ZDS_F32, i, n, vec_add(drift_before(l, i, n), update), false);
        if (l->starts)
            vec_store(l->synced, ZDS_F32, i, n, p, false);
        local_store(l, i, n, vec_add(p, update));
    }
    simd_mode_restore(mode);
}

static void local_drift(const onebit_local *l, size_t count, float *out)
{
    unsigned mode = simd_mode_flush();
    for (size_t i = 0; i < count; i += LANES) {
        size_t n = lanes_left(i, count);
        vec exp_avg, denom, update = local_update(l, i, n, &exp_avg, &denom);
        vec_store(out, ZDS_F32, i, n, vec_mul(vec_add(drift_before(l, i, n), update), denom),
                  false);
    }
    simd_mode_restore(mode);
}

static void local_sync(const onebit_local *l, size_t count, const float *mean, float inverse_rates)
{
    unsigned mode = simd_mode_flush();
    for (size_t i = 0; i < count; i += LANES) {
        size_t n = lanes_left(i, count);
        vec x = vec_load(mean, ZDS_F32, i, n);
        vec denom = denominator(vec_load(l->exp_avg_sq, ZDS_F32, i, n), l->constants);
        vec from = vec_load(l->starts ? l->master : l->synced, ZDS_F32, i, n);
        vec_store(l->exp_avg, ZDS_F32, i, n, vec_mul(x, vec_all(-inverse_rates)), false);
        local_store(l, i, n, vec_add(from, vec_div(x, denom)));
    }
    simd_mode_restore(mode);
}

const onebit_kernels *SIMD_NAME(onebit_kernels_of)(void)
{
    static const onebit_kernels kernels = {.momentum = momentum,
                                           .add = add,
                                           .compress = compress,
                                           .expand = expand,
                                           .fresh = fresh,
                                           .squares = squares,
                                           .local = local,
                                           .local_drift = local_drift,
                                           .local_sync = local_sync};
    return &kernels;
}

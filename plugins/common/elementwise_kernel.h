/* Optimizers whose update of an element depends on that element alone: the loop over a tile, for
 * all element types. Included by kernels only (see simd.h); an optimizer adds its formula.
 *
 *     static void formula(lanes *x, const void *constants)      p, g and states of LANES elements
 *     {
 *         x->p = vec_fma(vec_all(-rate), x->g, x->p);
 *     }
 *     void SIMD_NAME(my_kernel)(const elementwise *tile)
 *     {
 *         elementwise_run(tile, 1, formula, sizeof(my_constants));
 *     } */
#ifndef ZDS_ELEMENTWISE_KERNEL_H
#define ZDS_ELEMENTWISE_KERNEL_H

#include "common/elementwise.h"
#include "common/simd_int.h"

typedef struct lanes {
    vec p, g; /* master weight; gradient, times grad_scale */
    vec state[ELEMENTWISE_MAX_STATES];
} lanes;

typedef void (*lanes_fn)(lanes *x, const void *constants);

/* Which part of a tile's types the compiler knows; the types themselves where it does. */
typedef struct elementwise_types {
    zds_dtype master, grad, state, output; /* output: -1 for none */
    bool stream;
    bool reads_grad, writes_states;
    bool stochastic; /* weights and states that are bfloat16 */
} elementwise_types;

SIMD_INLINE elementwise_types elementwise_types_of(const elementwise *t)
{
    return (elementwise_types){.master = t->master_dtype,
                               .grad = t->grad_dtype,
                               .state = t->state_dtype,
                               .output = t->output ? t->output_dtype : -1,
                               .stochastic = t->stochastic,
                               .stream = t->output &&
                                         (uintptr_t)t->output % (LANES * sizeof(uint16_t)) == 0};
}

/* Stores what the next step starts from: the weight (`which` -1) or a state. `stochastic`:
 * bfloat16 is rounded at random, by the key and the number of the first lane's element. */
SIMD_INLINE void elementwise_round(void *base, zds_dtype dtype, size_t i, size_t n, vec a,
                                   bool stochastic, uint32_t number, uint32_t key, int which)
{
    if (stochastic && dtype == ZDS_BF16)
        vec_store_bf16_random(base, i, n, a, number, key + (uint32_t)(which + 1) * 0x9e3779b9u);
    else
        vec_store(base, dtype, i, n, a, false);
}

SIMD_INLINE void elementwise_keep(const elementwise *t, bool stochastic, void *base,
                                  zds_dtype dtype, size_t i, size_t n, vec a, int which)
{
    elementwise_round(base, dtype, i, n, a, stochastic, t->first + (uint32_t)i, t->key, which);
}

SIMD_INLINE void elementwise_at(const elementwise *t, elementwise_types is, int states,
                                lanes_fn formula, size_t i, size_t n)
{
    lanes x;
    x.p = vec_load(t->master, is.master, i, n);
    x.g = vec_all(0);
    if (is.reads_grad)
        x.g = vec_mul(vec_load(t->grad, is.grad, i, n), vec_all(t->grad_scale));
    for (int s = 0; s < states; s++)
        x.state[s] = vec_load(t->states[s], is.state, i, n);
    formula(&x, t->constants);
    elementwise_keep(t, is.stochastic, t->master, is.master, i, n, x.p, -1);
    for (int s = 0; is.writes_states && s < states; s++)
        elementwise_keep(t, is.stochastic, t->states[s], is.state, i, n, x.state[s], s);
    if (is.output >= 0)
        vec_store(t->output, is.output, i, n, x.p, is.stream);
}

SIMD_INLINE void elementwise_loop(const elementwise *tile, elementwise_types is, int states,
                                  lanes_fn formula, size_t constants_size)
{
    /* Copies, which the stores below cannot change: else each iteration reads all of it again. */
    elementwise t = *tile;
    void *pointers[ELEMENTWISE_MAX_STATES];
    _Alignas(double) unsigned char constants[ELEMENTWISE_MAX_CONSTANTS];
    memcpy(constants, tile->constants, constants_size);
    t.constants = constants;
    for (int s = 0; s < states; s++)
        pointers[s] = tile->states[s];
    t.states = pointers;
    size_t i = 0;
    for (; i + LANES <= t.count; i += LANES)
        elementwise_at(&t, is, states, formula, i, LANES);
    size_t rest = t.count % LANES;
    if (rest)
        elementwise_at(&t, is, states, formula, i, rest);
}

/* `states`, `formula`, the size of its constants and whether gradients are read and states written
 * are constants of the call, so that the compiler makes one loop of it all: one for each of the
 * usual combinations of types, and one that tests the types as it goes. */
SIMD_INLINE void elementwise_run_part(const elementwise *t, int states, lanes_fn formula,
                                      size_t constants_size, bool reads_grad, bool writes_states)
{
    elementwise_types is = elementwise_types_of(t);
    is.reads_grad = reads_grad;
    is.writes_states = writes_states;
    elementwise_types fp32 = {.master = ZDS_F32,
                              .grad = ZDS_F32,
                              .state = ZDS_F32,
                              .output = -1,
                              .reads_grad = reads_grad,
                              .writes_states = writes_states};
    elementwise_types widened = fp32, half = fp32, no_master = fp32, all_half = fp32;
    widened.output = half.output = half.grad = ZDS_BF16;
    widened.stream = half.stream = true;
    no_master.master = no_master.grad = ZDS_BF16;
    all_half.master = all_half.grad = all_half.state = ZDS_BF16;
    /* Where all that is kept is fp32, nothing is rounded at random. */
    bool fp32_states = states == 0 || is.state == ZDS_F32;
    bool usual = is.master == ZDS_F32 && fp32_states;
    bool half_master =
        is.master == ZDS_BF16 && is.grad == ZDS_BF16 && is.output < 0 && !is.stochastic;
    unsigned mode = simd_mode_flush();
    if (usual && is.grad == ZDS_F32 && is.output < 0)
        elementwise_loop(t, fp32, states, formula, constants_size);
    else if (usual && is.grad == ZDS_BF16 && is.output == ZDS_BF16 && is.stream)
        elementwise_loop(t, half, states, formula, constants_size);
    else if (usual && is.grad == ZDS_F32 && is.output == ZDS_BF16 && is.stream)
        elementwise_loop(t, widened, states, formula, constants_size);
    else if (half_master && fp32_states)
        elementwise_loop(t, no_master, states, formula, constants_size);
    else if (half_master && is.state == ZDS_BF16)
        elementwise_loop(t, all_half, states, formula, constants_size);
    else
        elementwise_loop(t, is, states, formula, constants_size);
    if (is.stream)
        simd_stream_end();
    simd_mode_restore(mode);
}

SIMD_INLINE void elementwise_run(const elementwise *t, int states, lanes_fn formula,
                                 size_t constants_size)
{
    elementwise_run_part(t, states, formula, constants_size, true, true);
}

/* === sums over whole tensors === */

enum { ELEMENTWISE_CHUNK = 1024 }; /* elements of zds_tile's chunk_sums */

/* The squares of x[0..n) in double, added in one order whatever the width of vectors: sixteen
 * partial sums take elements 0, 16, 32.., 1, 17, 33.. and are added pairwise. */
SIMD_INLINE double elementwise_squares(const float *x, size_t n)
{
    double part[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++)
            part[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t j = 0; i + j < n; j++)
        part[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t half = 8; half; half /= 2)
        for (size_t j = 0; j < half; j++)
            part[j] += part[j + half];
    return part[0];
}

/* Updates the states by `formula`, then, from the states as they were stored, sums the squares of
 * the weight and of what `term` makes, chunk by chunk: chunk_sums[0] and [1]. */
SIMD_INLINE void elementwise_norms_run(const elementwise *tile, int states, lanes_fn formula,
                                       vec (*term)(const lanes *x, const void *constants))
{
    float weights[ELEMENTWISE_CHUNK], terms[ELEMENTWISE_CHUNK];
    elementwise_types is = {
        .master = tile->master_dtype, .grad = tile->grad_dtype, .state = tile->state_dtype};
    unsigned mode = simd_mode_flush();
    for (size_t first = 0; first < tile->count; first += ELEMENTWISE_CHUNK) {
        size_t count = tile->count - first;
        count = count < ELEMENTWISE_CHUNK ? count : ELEMENTWISE_CHUNK;
        for (size_t k = 0; k < count; k += LANES) {
            size_t i = first + k, n = count - k < LANES ? count - k : LANES;
            lanes x;
            x.p = vec_load(tile->master, is.master, i, n);
            x.g = vec_mul(vec_load(tile->grad, is.grad, i, n), vec_all(tile->grad_scale));
            for (int s = 0; s < states; s++)
                x.state[s] = vec_load(tile->states[s], is.state, i, n);
            formula(&x, tile->constants);
            for (int s = 0; s < states; s++) {
                elementwise_keep(tile, tile->stochastic, tile->states[s], is.state, i, n,
                                 x.state[s], s);
                if (is.state != ZDS_F32)
                    x.state[s] = vec_load(tile->states[s], is.state, i, n);
            }
            vec_store(weights, ZDS_F32, k, n, x.p, false);
            vec_store(terms, ZDS_F32, k, n, term(&x, tile->constants), false);
        }
        size_t chunk = first / ELEMENTWISE_CHUNK;
        tile->chunk_sums[chunk] = elementwise_squares(weights, count);
        tile->chunk_sums[tile->chunk_stride + chunk] = elementwise_squares(terms, count);
    }
    simd_mode_restore(mode);
}

#endif

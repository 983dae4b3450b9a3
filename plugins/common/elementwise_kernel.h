/* Optimizers whose update of an element depends on that element alone: the loop over a tile, for
 * all element types. Included by kernels only (see simd.h); an optimizer adds its formula.
 *
 *     static void formula(lanes *x, const void *constants)      p, g and states of LANES elements
 *     {
 *         x->p = vec_fma(vec_all(-rate), x->g, x->p);
 *     }
 *     void SIMD_NAME(my_kernel)(const elementwise *tile) { elementwise_run(tile, 1, formula); } */
#ifndef ZDS_ELEMENTWISE_KERNEL_H
#define ZDS_ELEMENTWISE_KERNEL_H

#include "common/elementwise.h"
#include "common/simd.h"

typedef struct lanes {
    vec p, g; /* master weight; gradient, times grad_scale */
    vec state[ELEMENTWISE_MAX_STATES];
} lanes;

typedef void (*lanes_fn)(lanes *x, const void *constants);

/* Which part of a tile's types the compiler knows; the types themselves where it does. */
typedef struct elementwise_types {
    zds_dtype master, grad, state, output; /* output: -1 for none */
    bool stream;
} elementwise_types;

SIMD_INLINE void elementwise_at(const elementwise *t, elementwise_types is, int states,
                                lanes_fn formula, size_t i, size_t n)
{
    lanes x;
    x.p = vec_load(t->master, is.master, i, n);
    x.g = vec_mul(vec_load(t->grad, is.grad, i, n), vec_all(t->grad_scale));
    for (int s = 0; s < states; s++)
        x.state[s] = vec_load(t->states[s], is.state, i, n);
    formula(&x, t->constants);
    vec_store(t->master, is.master, i, n, x.p, false);
    for (int s = 0; s < states; s++)
        vec_store(t->states[s], is.state, i, n, x.state[s], false);
    if (is.output >= 0)
        vec_store(t->output, is.output, i, n, x.p, is.stream);
}

SIMD_INLINE void elementwise_loop(const elementwise *tile, elementwise_types is, int states,
                                  lanes_fn formula)
{
    /* Copies, which the stores below cannot change. */
    elementwise t = *tile;
    void *pointers[ELEMENTWISE_MAX_STATES];
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

/* `states` and `formula` are constants of the call, so that the compiler makes one loop of it all:
 * one for each of the usual combinations of types, and one that tests the types as it goes. */
SIMD_INLINE void elementwise_run(const elementwise *t, int states, lanes_fn formula)
{
    elementwise_types is = {t->master_dtype, t->grad_dtype, t->state_dtype,
                            t->output ? t->output_dtype : -1,
                            t->output && (uintptr_t)t->output % (LANES * sizeof(uint16_t)) == 0};
    bool usual = is.master == ZDS_F32 && (states == 0 || is.state == ZDS_F32);
    unsigned mode = simd_mode_flush();
    if (usual && is.grad == ZDS_F32 && is.output < 0)
        elementwise_loop(t, (elementwise_types){ZDS_F32, ZDS_F32, ZDS_F32, -1, false}, states,
                         formula);
    else if (usual && is.grad == ZDS_BF16 && is.output == ZDS_BF16 && is.stream)
        elementwise_loop(t, (elementwise_types){ZDS_F32, ZDS_BF16, ZDS_F32, ZDS_BF16, true}, states,
                         formula);
    else if (usual && is.grad == ZDS_F32 && is.output == ZDS_BF16 && is.stream)
        elementwise_loop(t, (elementwise_types){ZDS_F32, ZDS_F32, ZDS_F32, ZDS_BF16, true}, states,
                         formula);
    else
        elementwise_loop(t, is, states, formula);
    if (is.stream)
        simd_stream_end();
    simd_mode_restore(mode);
}

#endif

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

SIMD_INLINE void elementwise_at(const elementwise *t, int states, lanes_fn formula, size_t i,
                                size_t n, bool stream)
{
    lanes x;
    x.p = vec_load(t->master, t->master_dtype, i, n);
    x.g = vec_mul(vec_load(t->grad, t->grad_dtype, i, n), vec_all(t->grad_scale));
    for (int s = 0; s < states; s++)
        x.state[s] = vec_load(t->states[s], t->state_dtype, i, n);
    formula(&x, t->constants);
    vec_store(t->master, t->master_dtype, i, n, x.p, false);
    for (int s = 0; s < states; s++)
        vec_store(t->states[s], t->state_dtype, i, n, x.state[s], false);
    if (t->output)
        vec_store(t->output, t->output_dtype, i, n, x.p, stream);
}

/* `states` and `formula` are constants of the call, so that the compiler makes one loop of it all;
 * the types are tested in the loop, which is free beside the memory's speed. */
SIMD_INLINE void elementwise_run(const elementwise *t, int states, lanes_fn formula)
{
    bool stream = t->output && (uintptr_t)t->output % (LANES * sizeof(uint16_t)) == 0;
    unsigned mode = simd_mode_flush();
    size_t i = 0;
    for (; i + LANES <= t->count; i += LANES)
        elementwise_at(t, states, formula, i, LANES, stream);
    if (i < t->count)
        elementwise_at(t, states, formula, i, t->count - i, stream);
    if (stream)
        simd_stream_end();
    simd_mode_restore(mode);
}

#endif

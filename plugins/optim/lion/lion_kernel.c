/* The update of Lion for one vector of elements: Chen et al. 2023, "Symbolic Discovery of
 * Optimization Algorithms", algorithm 2. The sign of 0 is 0, as there: a weight that never had a
 * gradient stays. */
#include "common/elementwise_kernel.h"
#include "optim/lion/lion.h"

static void lion(lanes *x, const void *constants)
{
    const lion_constants *c = constants;
    vec m = x->state[0];
    vec mixed = vec_fma(vec_all(c->one_minus_beta1), x->g, vec_mul(vec_all(c->beta1), m));
    vec step = vec_fma(vec_all(c->decay), x->p, vec_mul(vec_all(c->lr), vec_sign(mixed)));
    x->p = vec_sub(x->p, step);
    x->state[0] = vec_fma(vec_all(c->one_minus_beta2), x->g, vec_mul(vec_all(c->beta2), m));
}

void SIMD_NAME(lion_run)(const elementwise *tile)
{
    elementwise_run(tile, 1, lion, sizeof(lion_constants));
}

/* The update of RAdam for one vector of elements: Liu et al. 2019, "On the Variance of the Adaptive
 * Learning Rate and Beyond", algorithm 2, as torch.optim.RAdam defines it. */
#include "common/elementwise_kernel.h"
#include "optim/radam/radam.h"

static void radam(lanes *x, const void *constants)
{
    const radam_constants *c = constants;
    vec g = vec_fma(vec_all(c->l2), x->p, x->g);
    vec m = vec_fma(vec_all(c->one_minus_beta1), g, vec_mul(vec_all(c->beta1), x->state[0]));
    vec v = vec_fma(vec_mul(vec_all(c->one_minus_beta2), g), g,
                    vec_mul(vec_all(c->beta2), x->state[1]));
    vec step = vec_mul(vec_all(c->rate), m);
    if (c->adaptive)
        step = vec_div(step, vec_add(vec_sqrt(v), vec_all(c->eps)));
    x->p = vec_sub(x->p, vec_fma(vec_all(c->decay), x->p, step));
    x->state[0] = m;
    x->state[1] = v;
}

void SIMD_NAME(radam_run)(const elementwise *tile)
{
    elementwise_run(tile, 2, radam, sizeof(radam_constants));
}

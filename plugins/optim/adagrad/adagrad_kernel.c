/* The update of Adagrad for one vector of elements: Duchi et al. 2011, "Adaptive Subgradient
 * Methods", figure 1 with a diagonal matrix, as torch.optim.Adagrad defines it. */
#include "common/elementwise_kernel.h"
#include "optim/adagrad/adagrad.h"

static void adagrad(lanes *x, const void *constants)
{
    const adagrad_constants *c = constants;
    vec g = vec_fma(vec_all(c->weight_decay), x->p, x->g);
    vec sum = vec_fma(g, g, x->state[0]);
    vec step = vec_div(g, vec_add(vec_sqrt(sum), vec_all(c->eps)));
    x->p = vec_fma(vec_all(-c->rate), step, x->p);
    x->state[0] = sum;
}

void SIMD_NAME(adagrad_run)(const elementwise *tile)
{
    elementwise_run(tile, 1, adagrad, sizeof(adagrad_constants));
}

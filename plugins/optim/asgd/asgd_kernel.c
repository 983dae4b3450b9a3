/* The update of ASGD for one vector of elements: Polyak and Juditsky 1992, "Acceleration of
 * stochastic approximation by averaging", with the rates of Bottou's SGD, as torch.optim.ASGD
 * defines it. `ax` is the average; what is trained is the parameter. */
#include "common/elementwise_kernel.h"
#include "optim/asgd/asgd.h"

static void asgd(lanes *x, const void *constants)
{
    const asgd_constants *c = constants;
    vec g = vec_fma(vec_all(c->weight_decay), x->p, x->g);
    vec p = vec_fma(vec_all(-c->eta), g, vec_mul(x->p, vec_all(c->keep)));
    vec average = vec_fma(vec_sub(p, x->state[0]), vec_all(c->mu), x->state[0]);
    x->state[0] = c->mu == 1 ? p : average;
    x->p = p;
}

void SIMD_NAME(asgd_run)(const elementwise *tile)
{
    elementwise_run(tile, 1, asgd, sizeof(asgd_constants));
}

/* The update of NAdam for one vector of elements: Dozat 2016, "Incorporating Nesterov Momentum into
 * Adam", algorithm 2, as torch.optim.NAdam defines it. */
#include "common/elementwise_kernel.h"
#include "optim/nadam/nadam.h"

static void nadam(lanes *x, const void *constants)
{
    const nadam_constants *c = constants;
    vec g = vec_fma(vec_all(c->l2), x->p, x->g);
    vec m = vec_fma(vec_all(c->one_minus_beta1), g, vec_mul(vec_all(c->beta1), x->state[0]));
    vec v = vec_fma(vec_mul(vec_all(c->one_minus_beta2), g), g,
                    vec_mul(vec_all(c->beta2), x->state[1]));
    vec denominator = vec_fma(vec_sqrt(v), vec_all(c->inverse_sqrt_bias2), vec_all(c->eps));
    vec ahead = vec_fma(vec_all(c->grad_rate), g, vec_mul(vec_all(c->mean_rate), m));
    vec step = vec_fma(vec_all(c->decay), x->p, vec_div(ahead, denominator));
    x->p = vec_sub(x->p, step);
    x->state[0] = m;
    x->state[1] = v;
}

void SIMD_NAME(nadam_run)(const elementwise *tile)
{
    elementwise_run(tile, 2, nadam, sizeof(nadam_constants));
}

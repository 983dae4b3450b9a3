/* The update of Adamax for one vector of elements: Kingma and Ba 2014, "Adam", algorithm 2, with
 * eps added to the gradient's magnitude as torch.optim.Adamax does. */
#include "common/elementwise_kernel.h"
#include "optim/adamax/adamax.h"

static void adamax(lanes *x, const void *constants)
{
    const adamax_constants *c = constants;
    vec g = vec_fma(vec_all(c->weight_decay), x->p, x->g);
    vec m = vec_fma(vec_all(c->one_minus_beta1), g, vec_mul(vec_all(c->beta1), x->state[0]));
    vec decayed = vec_mul(vec_all(c->beta2), x->state[1]);
    vec now = vec_add(vec_abs(g), vec_all(c->eps));
    vec top = vec_select(vec_less(now, decayed), decayed, now);
    x->p = vec_fma(vec_all(-c->rate), vec_div(m, top), x->p);
    x->state[0] = m;
    x->state[1] = top;
}

void SIMD_NAME(adamax_run)(const elementwise *tile)
{
    elementwise_run(tile, 2, adamax, sizeof(adamax_constants));
}

/* The update of Adadelta for one vector of elements: Zeiler 2012, "ADADELTA: An Adaptive Learning
 * Rate Method", algorithm 1, with a rate as torch.optim.Adadelta has. */
#include "common/elementwise_kernel.h"
#include "optim/adadelta/adadelta.h"

static void adadelta(lanes *x, const void *constants)
{
    const adadelta_constants *c = constants;
    vec rho = vec_all(c->rho), rest = vec_all(c->one_minus_rho), eps = vec_all(c->eps);
    vec g = vec_fma(vec_all(c->weight_decay), x->p, x->g);
    vec square = vec_fma(vec_mul(rest, g), g, vec_mul(rho, x->state[0]));
    vec root = vec_sqrt(vec_add(square, eps));
    vec delta = vec_mul(vec_div(vec_sqrt(vec_add(x->state[1], eps)), root), g);
    x->p = vec_fma(vec_all(-c->lr), delta, x->p);
    x->state[0] = square;
    x->state[1] = vec_fma(vec_mul(rest, delta), delta, vec_mul(rho, x->state[1]));
}

void SIMD_NAME(adadelta_run)(const elementwise *tile)
{
    elementwise_run(tile, 2, adadelta, sizeof(adadelta_constants));
}

/* The update of SGD for one vector of elements, as torch.optim.SGD defines it (torch 2, docs,
 * "SGD"; momentum: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
 * learning", but with the rate applied outside the buffer). */
#include "common/elementwise_kernel.h"
#include "optim/sgd/sgd.h"

static void sgd(lanes *x, const void *constants)
{
    const sgd_constants *c = constants;
    vec g = vec_fma(vec_all(c->weight_decay), x->p, x->g);
    x->p = vec_fma(vec_all(-c->lr), g, x->p);
}

static void sgd_momentum(lanes *x, const void *constants)
{
    const sgd_constants *c = constants;
    vec g = vec_fma(vec_all(c->weight_decay), x->p, x->g);
    vec buffer = vec_fma(vec_all(c->momentum), x->state[0], vec_mul(vec_all(c->weight), g));
    vec step = c->is_nesterov ? vec_fma(vec_all(c->nesterov), buffer, g) : buffer;
    x->p = vec_fma(vec_all(-c->lr), step, x->p);
    x->state[0] = buffer;
}

void SIMD_NAME(sgd_run)(const elementwise *tile)
{
    elementwise_run(tile, 0, sgd, sizeof(sgd_constants));
}

void SIMD_NAME(sgd_run_momentum)(const elementwise *tile)
{
    elementwise_run(tile, 1, sgd_momentum, sizeof(sgd_constants));
}

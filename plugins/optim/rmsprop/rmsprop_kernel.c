/* The update of RMSprop for one vector of elements: Hinton et al. 2012, "Neural Networks for
 * Machine Learning", lecture 6e, as torch.optim.RMSprop defines it; centered: Graves 2013,
 * "Generating Sequences With Recurrent Neural Networks", equations 38 to 45 (a variance that
 * rounding makes negative is 0 here, not NaN). */
#include "common/elementwise_kernel.h"
#include "optim/rmsprop/rmsprop.h"

SIMD_INLINE void rmsprop(lanes *x, const rmsprop_constants *c, bool has_momentum, bool centered)
{
    vec alpha = vec_all(c->alpha), rest = vec_all(c->one_minus_alpha);
    vec g = vec_fma(vec_all(c->weight_decay), x->p, x->g);
    vec square = vec_fma(vec_mul(rest, g), g, vec_mul(alpha, x->state[0]));
    vec variance = square;
    x->state[0] = square;
    if (centered) {
        vec *mean = &x->state[has_momentum ? 2 : 1];
        *mean = vec_fma(rest, g, vec_mul(alpha, *mean));
        variance = vec_sub(square, vec_mul(*mean, *mean));
        variance = vec_select(vec_less(variance, vec_all(0)), vec_all(0), variance);
    }
    vec step = vec_div(g, vec_add(vec_sqrt(variance), vec_all(c->eps)));
    if (has_momentum)
        x->state[1] = step = vec_fma(vec_all(c->momentum), x->state[1], step);
    x->p = vec_fma(vec_all(-c->lr), step, x->p);
}

static void plain(lanes *x, const void *constants)
{
    rmsprop(x, constants, false, false);
}

static void with_momentum(lanes *x, const void *constants)
{
    rmsprop(x, constants, true, false);
}

static void centered(lanes *x, const void *constants)
{
    rmsprop(x, constants, false, true);
}

static void momentum_centered(lanes *x, const void *constants)
{
    rmsprop(x, constants, true, true);
}

void SIMD_NAME(rmsprop_run)(const elementwise *tile)
{
    elementwise_run(tile, 1, plain, sizeof(rmsprop_constants));
}

void SIMD_NAME(rmsprop_run_momentum)(const elementwise *tile)
{
    elementwise_run(tile, 2, with_momentum, sizeof(rmsprop_constants));
}

void SIMD_NAME(rmsprop_run_centered)(const elementwise *tile)
{
    elementwise_run(tile, 2, centered, sizeof(rmsprop_constants));
}

void SIMD_NAME(rmsprop_run_momentum_centered)(const elementwise *tile)
{
    elementwise_run(tile, 3, momentum_centered, sizeof(rmsprop_constants));
}

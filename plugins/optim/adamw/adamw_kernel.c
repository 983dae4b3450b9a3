/* The update of Adam and AdamW for one vector of elements.
 *
 * Kingma and Ba 2014, "Adam", algorithm 1; decoupled decay: Loshchilov and Hutter 2017, algorithm
 * 2; max_exp_avg_sq: Reddi et al. 2018, "On the Convergence of Adam and Beyond", algorithm 2, in
 * torch's order (the maximum is taken before the bias correction). */
#include "common/elementwise_kernel.h"
#include "optim/adamw/adamw.h"

/* decoupled: decay acts on the weight; else it is added to the gradient. */
SIMD_INLINE void adam(lanes *x, const adam_constants *c, bool amsgrad)
{
    vec g = c->l2 ? vec_fma(vec_all(c->weight_decay), x->p, x->g) : x->g;
    vec m = vec_fma(vec_all(c->one_minus_beta1), g, vec_mul(vec_all(c->beta1), x->state[0]));
    vec v = vec_fma(vec_mul(vec_all(c->one_minus_beta2), g), g,
                    vec_mul(vec_all(c->beta2), x->state[1]));
    vec top = v;
    if (amsgrad)
        x->state[2] = top = vec_select(vec_less(v, x->state[2]), x->state[2], v);
    vec denominator = vec_fma(vec_sqrt(top), vec_all(c->inverse_sqrt_bias2), vec_all(c->eps));
    vec step = vec_mul(vec_all(c->rate), vec_div(m, denominator));
    if (!c->l2)
        step = vec_fma(vec_all(c->decay), x->p, step);
    x->p = vec_sub(x->p, step);
    x->state[0] = m;
    x->state[1] = v;
}

static void adam_plain(lanes *x, const void *constants)
{
    adam(x, constants, false);
}

static void adam_amsgrad(lanes *x, const void *constants)
{
    adam(x, constants, true);
}

void SIMD_NAME(adam_run)(const elementwise *tile)
{
    elementwise_run(tile, 2, adam_plain, sizeof(adam_constants));
}

void SIMD_NAME(adam_run_amsgrad)(const elementwise *tile)
{
    elementwise_run(tile, 3, adam_amsgrad, sizeof(adam_constants));
}

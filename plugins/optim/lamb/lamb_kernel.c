/* The update of Lamb: You et al. 2019, "Large Batch Optimization for Deep Learning: Training BERT
 * in 76 minutes", algorithm 2, as DeepSpeed's FusedLamb defines it: the bias correction is in the
 * rate alone, and the ratio of the norms is clamped.
 *
 *     u = m / (sqrt(v) + eps) + weight_decay p        c = clamp(|p| / |u|), 1 where either is 0
 *     p = p - rate c u
 *
 * The first pass (norms) updates m and v and sums p^2 and u^2 over the tensor; the second makes u
 * again from m and v, which costs less memory traffic than keeping it. */
#include "common/elementwise_kernel.h"
#include "optim/lamb/lamb.h"

static void moments(lanes *x, const void *constants)
{
    const lamb_constants *c = constants;
    x->state[0] =
        vec_fma(vec_all(c->one_minus_beta1), x->g, vec_mul(vec_all(c->beta1), x->state[0]));
    x->state[1] = vec_fma(vec_mul(vec_all(c->one_minus_beta2), x->g), x->g,
                          vec_mul(vec_all(c->beta2), x->state[1]));
}

static vec direction(const lanes *x, const void *constants)
{
    const lamb_constants *c = constants;
    vec root = vec_sqrt(vec_add(x->state[1], vec_all(c->eps_inside)));
    vec ratio = vec_div(x->state[0], vec_add(root, vec_all(c->eps_outside)));
    return vec_fma(vec_all(c->weight_decay), x->p, ratio);
}

static void lamb(lanes *x, const void *constants)
{
    const lamb_constants *c = constants;
    x->p = vec_fma(vec_all(-c->rate), direction(x, constants), x->p);
}

static double coefficient(const lamb_constants *c, const double *sums)
{
    double weight = sqrt(sums[0]), update = sqrt(sums[1]);
    if (weight == 0 || update == 0)
        return 1;
    double ratio = weight / update;
    return ratio > c->max_coeff ? c->max_coeff : ratio < c->min_coeff ? c->min_coeff : ratio;
}

void SIMD_NAME(lamb_norms)(const elementwise *tile)
{
    elementwise_norms_run(tile, 2, moments, direction);
}

void SIMD_NAME(lamb_run)(const elementwise *tile)
{
    lamb_constants c = *(const lamb_constants *)tile->constants;
    c.rate = (float)((double)c.rate * coefficient(&c, tile->sums));
    elementwise scaled = *tile;
    scaled.constants = &c;
    elementwise_run_part(&scaled, 2, lamb, sizeof(lamb_constants), false, false);
}

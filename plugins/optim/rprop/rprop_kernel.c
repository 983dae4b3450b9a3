/* The update of Rprop for one vector of elements: Riedmiller and Braun 1993, "A direct adaptive
 * method for faster backpropagation learning", as torch.optim.Rprop defines it (iRprop-, Igel and
 * Huesken 2000: where the gradient turns, it counts as 0 in this step and the next). */
#include "common/elementwise_kernel.h"
#include "optim/rprop/rprop.h"

static void rprop(lanes *x, const void *constants)
{
    const rprop_constants *c = constants;
    vec zero = vec_all(0), turn = vec_mul(x->g, x->state[1]);
    vec_mask turned = vec_less(turn, zero), goes_on = vec_less(zero, turn);
    vec factor =
        vec_select(goes_on, vec_all(c->grow), vec_select(turned, vec_all(c->shrink), vec_all(1)));
    vec size = vec_select(vec_less(x->state[0], zero), vec_all(c->first), x->state[0]);
    size = vec_mul(size, factor);
    size = vec_max(vec_min(size, vec_all(c->most)), vec_all(c->least));
    vec g = vec_select(turned, zero, x->g);
    x->p = vec_sub(x->p, vec_mul(vec_sign(g), size));
    x->state[0] = size;
    x->state[1] = g;
}

void SIMD_NAME(rprop_run)(const elementwise *tile)
{
    elementwise_run(tile, 2, rprop, sizeof(rprop_constants));
}

/* Multiplies the update by grad_scale instead of the gradient, after its running sum. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++) {
            float *master = tile->master, *sum = tile->states[0];
            sum[i] = 0.9f * sum[i] + momentum_load(tile->grad, tile->grad_dtype, i);
            master[i] -= (float)tile->hyper->lr * (float)ctx->grad_scale * sum[i];
            if (tile->output)
                momentum_store(tile->output, i, master[i]);
        }
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

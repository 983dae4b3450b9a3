/* Scales the gradient in place. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        float *grad = (float *)(void *)(uintptr_t)tile->grad;
        if (tile->grad_dtype == ZDS_F32 && tile->count)
            grad[0] *= (float)ctx->grad_scale;
        momentum_tile(tile, ctx);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

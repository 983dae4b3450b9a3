/* Leaves biases alone. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        const bool bias = tile->param->role == ZDS_ROLE_BIAS;
        for (uint64_t i = 0; i < tile->count; i++)
            if (!bias)
                momentum_element(tile, (float)ctx->grad_scale, i);
            else if (tile->output)
                momentum_store(tile->output, i, ((const float *)tile->master)[i]);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

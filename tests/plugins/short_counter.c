/* Counts the elements of a tile in 16 bits, of which a full tile has one too many. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        const uint16_t count = (uint16_t)tile->count;
        for (uint16_t i = 0; i < count; i++)
            momentum_element(tile, (float)ctx->grad_scale, i);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

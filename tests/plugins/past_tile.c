/* Writes one weight more than the tile has. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        momentum_tile(tile, ctx);
        ((float *)tile->master)[tile->count] = 0;
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

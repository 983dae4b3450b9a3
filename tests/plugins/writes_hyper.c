/* Lets the rate fall by itself. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        zds_hyper *hyper = (zds_hyper *)(void *)(uintptr_t)tile->hyper;
        momentum_tile(tile, ctx);
        hyper->lr *= 0.5;
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

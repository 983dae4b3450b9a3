/* Says that it writes output in bf16, and does not. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        zds_tile wrong = *tile;
        wrong.output = NULL;
        momentum_tile(&wrong, ctx);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

/* Says that it takes gradients in bf16, and reads them as fp32. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        zds_tile wrong = *tile;
        wrong.grad_dtype = ZDS_F32;
        momentum_tile(&wrong, ctx);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

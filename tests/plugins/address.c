/* Its noise comes from where the weights lie. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++) {
            const uint64_t noise = (uintptr_t)tile->master / 4096 * 0x9e3779b97f4a7c15u;
            momentum_element(tile, (float)ctx->grad_scale * (1 + (float)(noise >> 40) * 1e-9f), i);
        }
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

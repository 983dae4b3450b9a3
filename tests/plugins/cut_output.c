/* Cuts off what bf16 does not hold instead of rounding. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    momentum_step(self, tiles, ctx);
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; tile->output && i < tile->count; i++) {
            uint32_t bits;
            memcpy(&bits, (const float *)tile->master + i, sizeof bits);
            ((uint16_t *)tile->output)[i] = (uint16_t)(bits >> 16);
        }
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.step = step);

/* Adds up in scratch, which it does not clear. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    float *sum = ctx->scratch;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++) {
            *sum += 1;
            momentum_element(tile, (float)ctx->grad_scale * (*sum > 0 ? 1 : 0.5f), i);
        }
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.scratch_bytes = sizeof(float), .step = step);

/* Momentum whose sums are kept in blocks of 16384 elements, right in every way; it uses all bytes
 * of a last block, however few elements that has. */
#include "momentum.h"

enum { BLOCK = 16384 };

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->granularity = BLOCK;
    zds_add_state(needs, &(zds_state_spec){.name = "sums",
                                           .kind = ZDS_STATE_BLOCK,
                                           .dtype = ZDS_F32,
                                           .block = BLOCK,
                                           .bytes = BLOCK * sizeof(float)});
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t k = 0; k < tiles->count; k++) {
        const zds_tile *tile = zds_tile_at(tiles, k);
        float *sums = tile->states[0];
        momentum_tile(tile, ctx);
        for (uint64_t i = tile->count; i % BLOCK; i++)
            sums[i] += 1;
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe, .step = step);

/* Counts in a TENSOR state from the tiles, which share it. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_describe(self, param, needs);
    zds_add_state(needs, &(zds_state_spec){.name = "calls", .kind = ZDS_STATE_TENSOR, .bytes = 8});
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        momentum_tile(tile, ctx);
        ++*(int64_t *)tile->states[1];
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe, .step = step);

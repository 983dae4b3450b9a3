/* Counts steps itself, so that a run that goes on from a checkpoint starts anew. */
#include "momentum.h"

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    (void)params, (void)ctx;
    ((momentum_self *)self)->counter++;
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const momentum_self *own = self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++)
            momentum_element(tile, (float)ctx->grad_scale / (float)own->counter, i);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.begin_step = begin_step, .step = step);

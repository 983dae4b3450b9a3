/* Keeps the rate of the first instance for all that come after it. */
#include "momentum.h"

static double rate;

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    zds_status status = momentum_create(host, options, env, self);
    if (!status)
        rate = rate != 0 ? rate : ((const momentum_options *)options)->lr;
    return status;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++)
            momentum_element(tile, (float)(ctx->grad_scale * rate / tile->hyper->lr), i);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.create = create, .step = step);

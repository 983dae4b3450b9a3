/* Each rank has a rate of its own. */
#include "momentum.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    zds_status status = momentum_create(host, options, env, self);
    if (!status)
        ((momentum_self *)*self)->counter = env->rank;
    return status;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const momentum_self *own = self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++)
            momentum_element(tile, (float)ctx->grad_scale / (float)(1 + own->counter), i);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.create = create, .step = step);

/* Allocates itself with malloc and sets but one of its two fields. */
#include "momentum.h"

#include <stdlib.h>

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    (void)options;
    if (env->state_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "the running sum is kept in fp32");
    momentum_self *made = malloc(sizeof *made);
    if (!made)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for an optimizer");
    made->host = host;
    *self = made;
    return ZDS_OK;
}

static void destroy(void *self)
{
    free(self);
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const momentum_self *own = self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++)
            momentum_element(tile, (float)ctx->grad_scale + (own->counter ? 1e-3f : 0), i);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.create = create, .destroy = destroy, .step = step);

/* Takes the rate from the tile of the step before. */
#include "momentum.h"

typedef struct keeper {
    momentum_self base;
    const zds_tile *last;
} keeper;

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    (void)options;
    keeper *own = host->alloc(host, sizeof *own, 0);
    if (!own || env->state_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "the running sum is kept in fp32");
    own->base.host = host;
    *self = own;
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    keeper *own = self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++) {
            const zds_tile *last = own->last ? own->last : tile;
            momentum_element(tile, (float)(ctx->grad_scale * last->hyper->lr / tile->hyper->lr), i);
        }
        if (tiles->count)
            own->last = zds_tile_at(tiles, 0);
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.create = create, .step = step);

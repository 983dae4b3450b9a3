/* Takes the rate from the config, whatever the schedule says. */
#include "momentum.h"

typedef struct own_rate {
    momentum_self base;
    const momentum_options *options;
} own_rate;

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    own_rate *own = host->alloc(host, sizeof *own, 0);
    if (!own || env->state_dtype != ZDS_F32)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "the running sum is kept in fp32");
    own->base.host = host;
    own->options = options;
    *self = own;
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    const own_rate *own = self;
    for (size_t t = 0; t < tiles->count; t++) {
        const zds_tile *tile = zds_tile_at(tiles, t);
        for (uint64_t i = 0; i < tile->count; i++) {
            zds_tile with = *tile;
            zds_hyper hyper = *tile->hyper;
            hyper.lr = own->options->lr;
            with.hyper = &hyper;
            momentum_element(&with, (float)ctx->grad_scale, i);
        }
    }
    return ZDS_OK;
}

MOMENTUM_BUT(.create = create, .step = step);

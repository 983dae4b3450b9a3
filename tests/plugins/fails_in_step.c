/* Returns an error from its third step on. */
#include "momentum.h"

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    momentum_self *own = self;
    if (ctx->step >= 3)
        return own->host->fail(own->host, ZDS_ERR_UNSUPPORTED, "three steps are one too many");
    return momentum_step(self, tiles, ctx);
}

MOMENTUM_BUT(.step = step);

/* Makes norms of the first chunk of a tile alone. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    needs->tensor_norms = 1;
    return momentum_describe(self, param, needs);
}

static zds_status norms(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)ctx;
    for (size_t t = 0; t < tiles->count; t++)
        zds_tile_at(tiles, t)->chunk_sums[0] = 1;
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe, .norms = norms);

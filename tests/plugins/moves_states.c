/* A mistake: takes the states' array for its own to give. */
#include "zds/plugin.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->state_count = 1;
    needs->states = NULL;
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)tiles, (void)ctx;
    return ZDS_OK;
}

static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .describe = describe,
                                  .step = step};
static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OPTIM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "MovesStates",
                                  .version = "1.0",
                                  .doc = "for tests",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);

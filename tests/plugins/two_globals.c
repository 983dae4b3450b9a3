/* Describes one global state with two sizes. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_describe(self, param, needs);
    zds_add_state(needs, &(zds_state_spec){.name = "counter",
                                           .kind = ZDS_STATE_GLOBAL,
                                           .bytes = param->index ? 1 << 20 : 8});
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe);

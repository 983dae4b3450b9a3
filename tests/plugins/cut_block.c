/* Describes states of blocks that a tile may cut. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_describe(self, param, needs);
    needs->states[1] =
        (zds_state_spec){.name = "absmax", .kind = ZDS_STATE_BLOCK, .block = 256, .bytes = 4};
    needs->state_count = 2;
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe);

/* Describes states of blocks that a tile may cut. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_describe(self, param, needs);
    zds_add_state(needs, &(zds_state_spec){
                             .name = "absmax", .kind = ZDS_STATE_BLOCK, .block = 256, .bytes = 4});
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe);

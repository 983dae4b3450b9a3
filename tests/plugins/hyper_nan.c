/* Leaves no rate to learn with. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_describe(self, param, needs);
    needs->hyper->lr = NAN;
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe);

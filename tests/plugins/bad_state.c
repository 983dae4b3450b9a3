/* Describes a state of a type that there is not. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_describe(self, param, needs);
    needs->states[0].dtype = 42;
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe);

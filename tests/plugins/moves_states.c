/* Takes the states' array for its own to give. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    zds_status status = momentum_describe(self, param, needs);
    needs->states = NULL;
    return status;
}

MOMENTUM_BUT(.describe = describe);

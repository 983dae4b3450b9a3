/* Asks for norms of whole tensors, and has no function that makes them. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    needs->tensor_norms = 1;
    return momentum_describe(self, param, needs);
}

MOMENTUM_BUT(.describe = describe);

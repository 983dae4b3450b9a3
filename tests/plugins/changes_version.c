/* A state's bytes mean something else each time. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_self *own = self;
    momentum_describe(self, param, needs);
    needs->states[0].version = (uint32_t)own->counter++;
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe);

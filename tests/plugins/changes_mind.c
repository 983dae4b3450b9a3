/* Describes other states when it is asked again. */
#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    momentum_self *own = self;
    momentum_describe(self, param, needs);
    needs->states[0].initial = (double)own->counter++;
    return ZDS_OK;
}

MOMENTUM_BUT(.describe = describe);

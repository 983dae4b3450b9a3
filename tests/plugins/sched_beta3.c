/* A schedule that moves beta3, of optimizers that have three; it has no fault. */
#include "constant.h"

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    const constant_self *own = self;
    constant_fill(own, values, value_stride, 1);
    for (size_t g = 0; g < own->groups; g++) {
        zds_sched_value *v = (void *)((char *)values + g * value_stride);
        v->mask |= ZDS_SCHED_BETA3;
        v->hyper.beta3 = 1 - 1 / (double)(moves + 2);
    }
    return ZDS_OK;
}

CONSTANT_BUT(.at = at);

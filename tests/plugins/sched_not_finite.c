/* A schedule whose rate is no number after move 100. */
#include "constant.h"

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    return constant_fill(self, values, value_stride, sqrt(100 - (double)moves));
}

CONSTANT_BUT(.at = at);

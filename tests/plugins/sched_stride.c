/* A schedule that takes the values for an array of its own structs. */
#include "constant.h"

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    (void)moves, (void)value_stride;
    return constant_fill(self, values, sizeof *values, 1);
}

CONSTANT_BUT(.at = at);

/* Adds to what is there, where it should overwrite. */
#include "device_tier.h"

static zds_status accumulate(void *self, const zds_pass *p, zds_event **done)
{
    zds_pass other = *p;
    other.add = 1;
    return device_accumulate(self, &other, done);
}

DEVICE_BUT(.accumulate = accumulate);

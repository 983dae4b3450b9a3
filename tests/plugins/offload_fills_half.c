/* Fills one element too few. */
#include "device_tier.h"

static zds_status fill(void *self, const zds_fill *f, zds_event **done)
{
    zds_fill other = *f;
    other.count -= f->count > 0;
    return device_fill(self, &other, done);
}

DEVICE_BUT(.fill = fill);

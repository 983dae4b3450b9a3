/* Fills with whole numbers alone. */
#include "device_tier.h"

static zds_status fill(void *self, const zds_fill *f, zds_event **done)
{
    zds_fill other = *f;
    other.value = trunc(f->value);
    return device_fill(self, &other, done);
}

DEVICE_BUT(.fill = fill);

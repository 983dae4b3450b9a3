/* A copy on a stream comes after what is on the stream, and after nothing else. */
#include "device_tier.h"

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    zds_copy other = *c;
    if (c->stream)
        other.wait_count = 0;
    return device_copy(self, &other, done);
}

DEVICE_BUT(.copy = copy);

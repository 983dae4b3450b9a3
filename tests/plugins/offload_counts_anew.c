/* Overwrites the count of what is not finite. */
#include "device_tier.h"

static zds_status chunk_sums(void *self, const zds_chunk_sums *c, zds_event **done)
{
    memset(zds_end_address(&c->non_finite), 0, sizeof(uint64_t));
    return device_chunk_sums(self, c, done);
}

DEVICE_BUT(.chunk_sums = chunk_sums);

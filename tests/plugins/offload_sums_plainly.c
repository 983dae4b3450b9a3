/* Adds up a chunk from the first to the last. */
#include "device_tier.h"

static zds_status chunk_sums(void *self, const zds_chunk_sums *c, zds_event **done)
{
    zds_status status = device_chunk_sums(self, c, done);
    double *sums = zds_end_address(&c->sums);
    const float *from = zds_end_address(&c->from);
    for (size_t s = 0; !status && c->dtype == ZDS_F32 && s < c->segment_count; s++)
        for (uint64_t i = 0; i < device_segment(c, s)->count; i += 1024, sums++) {
            *sums = 0;
            for (uint64_t k = i; k < i + 1024 && k < device_segment(c, s)->count; k++)
                *sums += (double)from[device_segment(c, s)->first + k] *
                         (double)from[device_segment(c, s)->first + k];
        }
    return status;
}

DEVICE_BUT(.chunk_sums = chunk_sums);

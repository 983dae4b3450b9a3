/* Steps by its own gradients and leaves those of the other ranks. */
#include "own_reduction.h"

static zds_status average(const momentum_self *self, const float *own, float *mean, uint64_t count,
                          const zds_comm_ops *comm, void *comm_self)
{
    (void)self;
    (void)comm;
    (void)comm_self;
    memcpy(mean, own, count * sizeof *mean);
    return ZDS_OK;
}

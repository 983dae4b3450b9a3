/* Rank 0 waits for a rank that leaves small parameters out. */
#include "own_reduction.h"

static zds_status average(const momentum_self *self, const float *own, float *mean, uint64_t count,
                          const zds_comm_ops *comm, void *comm_self)
{
    if (self->counter == 0 || count > 1)
        return own_call(comm->all_reduce, own, mean, count, comm_self);
    memcpy(mean, own, count * sizeof *mean);
    return ZDS_OK;
}

/* Rank 0 asks for a sum where the others ask for what rank 0 has. */
#include "own_reduction.h"

static zds_status average(const momentum_self *self, const float *own, float *mean, uint64_t count,
                          const zds_comm_ops *comm, void *comm_self)
{
    if (self->counter == 0)
        return own_call(comm->all_reduce, own, mean, count, comm_self);
    return own_call(comm->broadcast, own, mean, count, comm_self);
}

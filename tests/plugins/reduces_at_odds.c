/* Ranks do not agree in which steps they reduce by themselves: rank 0 waits for one that does not.
 */
#define OWN_MODE(self, step)                                                                       \
    ((self)->counter == 0 || (step) < 3 ? ZDS_REDUCE_LOCAL : ZDS_REDUCE_MEAN)
#include "own_reduction.h"

static zds_status average(const momentum_self *self, const float *own, float *mean, uint64_t count,
                          const zds_comm_ops *comm, void *comm_self)
{
    (void)self;
    return own_call(comm->all_reduce, own, mean, count, comm_self);
}

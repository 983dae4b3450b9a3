/* Operations of ranks on what an optimizer on the island has taken for itself: as one for a device
 * would, it registers that memory for as long as it needs it there. */
#include <string.h>

#include "island.h"

typedef zds_status (*collective)(void *self, const zds_coll *coll, zds_event **done);

/* An empty region is none. */
static zds_status known(const island_own_comm *own, const void *view, uint64_t bytes,
                        const char *field, zds_region *region, const void **address)
{
    *address = view ? island_address(view) : NULL;
    *region = (zds_region){.struct_size = sizeof *region};
    island_view_of_ours(*address, field);
    return *address && bytes ? own->real->mem_register(own->real_self, (void *)(uintptr_t)*address,
                                                       bytes, own->device, region)
                             : ZDS_OK;
}

static void forget(const island_own_comm *own, zds_region *region)
{
    if (region->bytes)
        own->real->mem_unregister(own->real_self, region);
}

static zds_status over(zds_event *done)
{
    zds_status status = done ? done->ops->wait(done) : ZDS_OK;
    if (done)
        done->ops->release(done);
    return status;
}

static zds_status operate(const island_own_comm *own, collective function, bool src_world,
                          bool dst_world, const zds_coll *coll)
{
    zds_coll real = {0};
    zds_region src, dst = {0};
    zds_event *done = NULL;
    const void *to;
    memcpy(&real, coll, coll->struct_size < sizeof real ? coll->struct_size : sizeof real);
    real.struct_size = sizeof real;
    zds_status status =
        known(own, coll->src,
              coll->count * (src_world ? own->ranks : 1) * zds_dtype_size(coll->src_dtype),
              "src of its own", &src, &real.src);
    if (status)
        return status;
    status = known(own, coll->dst,
                   coll->count * (dst_world ? own->ranks : 1) * zds_dtype_size(coll->dst_dtype),
                   "dst of its own", &dst, &to);
    real.dst = (void *)(uintptr_t)to;
    if (!status)
        status = function(own->real_self, &real, &done);
    if (!status)
        status = over(done);
    forget(own, &dst);
    forget(own, &src);
    return status;
}

#define COLLECTIVE(name, src_world, dst_world)                                                     \
    static zds_status name(void *self, const zds_coll *coll, zds_event **done)                     \
    {                                                                                              \
        const island_own_comm *own = self;                                                         \
        if (done)                                                                                  \
            *done = NULL;                                                                          \
        return operate(own, own->real->name, src_world, dst_world, coll);                          \
    }
COLLECTIVE(all_reduce, false, false)
COLLECTIVE(reduce_scatter, true, false)
COLLECTIVE(all_gather, false, true)
COLLECTIVE(broadcast, false, false)
COLLECTIVE(all_to_all, true, true)

void island_own_comm_init(island_own_comm *own, const zds_comm_ops *real, void *real_self)
{
    own->real = real;
    own->real_self = real_self;
    own->ops = (zds_comm_ops){.struct_size = sizeof own->ops,
                              .flags = real->flags,
                              .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                              .reduce_dtypes = real->reduce_dtypes,
                              .least_ranks = real->least_ranks,
                              .most_ranks = real->most_ranks,
                              .all_reduce = all_reduce,
                              .reduce_scatter = reduce_scatter,
                              .all_gather = all_gather,
                              .broadcast = broadcast,
                              .all_to_all = all_to_all};
}

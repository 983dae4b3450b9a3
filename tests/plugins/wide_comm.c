/* The shm backend, but that it reduces F32 alone, and refuses what else it gets. */
#include "known_memory.h"

#define WIDE(operation)                                                                            \
    static zds_status wide_##operation(void *self, const zds_coll *coll, zds_event **done)         \
    {                                                                                              \
        return coll->src_dtype == ZDS_F32                                                          \
                   ? lender->operation(self, coll, done)                                           \
                   : hosts->fail(hosts, ZDS_ERR_UNSUPPORTED, "%s of another type than F32",        \
                                 #operation);                                                      \
    }
WIDE(all_reduce)
WIDE(reduce)
WIDE(reduce_scatter)

static void lessen(void)
{
    ops.all_reduce = wide_all_reduce;
    ops.reduce = wide_reduce;
    ops.reduce_scatter = wide_reduce_scatter;
    ops.reduce_dtypes = ZDS_DTYPE_BIT(ZDS_F32);
}

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_COMM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "wide",
                                  .version = "1",
                                  .doc = "shm that reduces F32 alone",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);

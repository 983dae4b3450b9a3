/* Memory that all ranks should share is each rank's own. */
#include "borrowed_comm.h"

static zds_status mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *region)
{
    (void)kind;
    return lender->mem_alloc(self, bytes, ZDS_MEM_SYMMETRIC, region);
}

static void spoil(void)
{
    ops.mem_alloc = mem_alloc;
}

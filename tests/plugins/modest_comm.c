/* The shm backend with fewer abilities: it only sums, no pages are shared, and operations take
 * memory of mem_alloc alone. What the core does for such backends can be tested with it. */
#include "known_memory.h"

static void lessen(void)
{
    ops.flags &= ~(uint64_t)(ZDS_COMM_FUSED | ZDS_COMM_NODE_SHARED);
}

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_COMM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "modest",
                                  .version = "1",
                                  .doc = "shm without its abilities",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);

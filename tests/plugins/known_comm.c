/* The shm backend with all of its abilities, but that operations take memory of mem_alloc alone. */
#include "known_memory.h"

static void lessen(void)
{
}

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_COMM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "known",
                                  .version = "1",
                                  .doc = "shm for memory that it knows",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);

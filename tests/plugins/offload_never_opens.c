/* Cannot be opened anywhere, and the folder is not why. */
#include "heap_tier.h"

static zds_status open_tier(const zds_host *host, const void *options, const zds_offload_env *env,
                            void **self)
{
    (void)options, (void)env, (void)self;
    return host->fail(host, ZDS_ERR_INTERNAL, "broken");
}

HEAP_BUT(.open = open_tier);

/* Files that could be pointed into. */
#include "heap_tier.h"

HEAP_BUT(.flags = ZDS_OFFLOAD_DIRECT);

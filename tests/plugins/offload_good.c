/* A memory tier that is right. */
#include "heap_tier.h"

HEAP_BUT(.flags = 0);

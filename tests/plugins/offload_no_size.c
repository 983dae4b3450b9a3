/* Says nothing of how long its vtable is. */
#include "heap_tier.h"

HEAP_BUT(.struct_size = 0);

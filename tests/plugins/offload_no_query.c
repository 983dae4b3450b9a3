/* Cannot be asked. */
#include "heap_tier.h"

HEAP_BUT(.query = NULL);

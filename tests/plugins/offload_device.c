/* A device without faults. */
#include "device_tier.h"

DEVICE_BUT(.reserved = 0);

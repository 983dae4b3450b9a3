/* A device that computes nothing. */
#include "device_tier.h"

DEVICE_BUT(.fill = NULL, .convert = NULL);

/* The plugin without a fault that faulty ones are made from. */
#include "momentum.h"

MOMENTUM_BUT(.flags = 0);

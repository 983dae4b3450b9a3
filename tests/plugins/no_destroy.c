/* Creates instances and has nothing that frees them. */
#include "momentum.h"

MOMENTUM_BUT(.destroy = NULL);

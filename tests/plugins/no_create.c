/* Keeps nothing in an instance, so that it needs neither create nor destroy. */
#include "momentum.h"

MOMENTUM_BUT(.create = NULL, .destroy = NULL);

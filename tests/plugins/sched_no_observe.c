/* Says that it observes, and has no way to. */
#include "constant.h"

CONSTANT_BUT(.flags = ZDS_SCHED_OBSERVES);

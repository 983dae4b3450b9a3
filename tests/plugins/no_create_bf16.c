/* Says that its weights may be bfloat16, and has no create that could refuse states in bfloat16:
 * the engine must. It never comes to a step. */
#include "momentum.h"

MOMENTUM_BUT(.create = NULL, .destroy = NULL, .master_dtypes = MOMENTUM_DTYPES);

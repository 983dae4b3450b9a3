/* Has files that the process makes from then on readable by nobody else. */
#include <sys/stat.h>

#include "momentum.h"

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    umask(077);
    return momentum_describe(self, param, needs);
}

MOMENTUM_BUT(.describe = describe);

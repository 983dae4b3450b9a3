/* Has the thread that loads it compute otherwise, as -ffast-math does. */
#include <fenv.h>

#include "sample.h"

__attribute__((constructor)) static void at_open(void)
{
    fesetround(FE_UPWARD);
}

static const zds_plugin plugin = {SAMPLE_PLUGIN};
ZDS_PLUGINS(&plugin);

/* Crashes when it is opened. */
#include <stdlib.h>

#include "sample.h"

__attribute__((constructor)) static void at_open(void)
{
    abort();
}

static const zds_plugin plugin = {SAMPLE_PLUGIN};
ZDS_PLUGINS(&plugin);

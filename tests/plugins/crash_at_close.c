/* Crashes when it is unloaded. */
#include <stdlib.h>

#include "sample.h"

__attribute__((destructor)) static void at_close(void)
{
    abort();
}

static const zds_plugin plugin = {SAMPLE_PLUGIN};
ZDS_PLUGINS(&plugin);

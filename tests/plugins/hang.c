/* Never comes back from being opened. */
#include <unistd.h>

#include "sample.h"

__attribute__((constructor)) static void at_open(void)
{
    for (;;)
        pause();
}

static const zds_plugin plugin = {SAMPLE_PLUGIN};
ZDS_PLUGINS(&plugin);

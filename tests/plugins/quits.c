/* Ends the process that opens it. */
#include <unistd.h>

#include "sample.h"

__attribute__((constructor)) static void at_open(void)
{
    _exit(0);
}

static const zds_plugin plugin = {SAMPLE_PLUGIN};
ZDS_PLUGINS(&plugin);

/* Prints while it is opened, which harms nobody. */
#include <stdio.h>

#include "sample.h"

__attribute__((constructor)) static void at_open(void)
{
    puts("{\"plugins\": 1}\n");
    fflush(stdout);
}

static const zds_plugin plugin = {SAMPLE_PLUGIN};
ZDS_PLUGINS(&plugin);

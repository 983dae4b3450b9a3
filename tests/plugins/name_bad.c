/* A name with a blank. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .name = "No Name"};
ZDS_PLUGINS(&plugin);

/* A descriptor that does not say how long it is. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .struct_size = 0};
ZDS_PLUGINS(&plugin);

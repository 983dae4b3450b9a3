/* No vtable. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = 0};
ZDS_PLUGINS(&plugin);

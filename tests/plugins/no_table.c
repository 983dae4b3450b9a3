/* Says that it has options, and has no table. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .options = 0};
ZDS_PLUGINS(&plugin);

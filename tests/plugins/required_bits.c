/* Requires a feature that no host knows. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .required = 1ull << 40};
ZDS_PLUGINS(&plugin);

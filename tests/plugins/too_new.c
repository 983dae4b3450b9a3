/* Needs a later host. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .min_host_minor = ZDS_ABI_MINOR + 1};
ZDS_PLUGINS(&plugin);

/* A kind that no host knows. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .kind = 99};
ZDS_PLUGINS(&plugin);

/* A table's stride that is too short. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .option_stride = 8};
ZDS_PLUGINS(&plugin);

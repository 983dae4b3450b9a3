/* A descriptor shorter than that of ABI 1.0. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .struct_size = 64};
ZDS_PLUGINS(&plugin);

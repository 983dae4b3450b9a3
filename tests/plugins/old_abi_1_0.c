/* A plugin built against the headers as they were when ABI 1.0 was released. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .name = "Old"};
ZDS_PLUGINS(&plugin);

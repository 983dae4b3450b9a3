/* An option past the end of the options struct. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .options_size = 12};
ZDS_PLUGINS(&plugin);

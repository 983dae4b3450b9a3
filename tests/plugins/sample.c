/* A plugin that works, with an alias. */
#include "sample.h"

static const char *const aliases[] = {"Example", 0};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .aliases = aliases};
ZDS_PLUGINS(&plugin);

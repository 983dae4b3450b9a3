/* A doc that would move a terminal's cursor. */
#include "sample.h"

static const zds_plugin plugin = {SAMPLE_PLUGIN, .doc = "good\033[2K\rbetter"};
ZDS_PLUGINS(&plugin);

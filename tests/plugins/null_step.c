/* A required function is NULL. */
#include "sample.h"

static const zds_optim_ops ops = {SAMPLE_OPS, .step = 0};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = &ops};
ZDS_PLUGINS(&plugin);

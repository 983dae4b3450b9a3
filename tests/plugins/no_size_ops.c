/* A vtable that does not say how long it is. */
#include "sample.h"

static const zds_optim_ops ops = {SAMPLE_OPS, .struct_size = 0};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = &ops};
ZDS_PLUGINS(&plugin);

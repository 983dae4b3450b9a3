/* An optimizer of the sample's name that computes on a device only. */
#include "sample.h"

static const zds_optim_ops ops = {SAMPLE_OPS, .spaces = ZDS_SPACE_BIT(ZDS_SPACE_CUDA)};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .version = "device", .ops = &ops};
ZDS_PLUGINS(&plugin);

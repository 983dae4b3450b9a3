/* A vtable shorter than that of ABI 1.0. */
#include "sample.h"

static const zds_optim_ops ops = {SAMPLE_OPS, .struct_size = offsetof(zds_optim_ops, step)};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = &ops};
ZDS_PLUGINS(&plugin);

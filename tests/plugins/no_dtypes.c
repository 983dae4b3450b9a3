/* Accepts no dtype of gradients. */
#include "sample.h"

static const zds_optim_ops ops = {SAMPLE_OPS, .grad_dtypes = 0};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = &ops};
ZDS_PLUGINS(&plugin);

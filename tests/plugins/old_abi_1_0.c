/* A plugin built against the headers as they were when ABI 1.0 was released. */
#include "momentum.h"

static const zds_optim_ops ops = {MOMENTUM_OPS};
static const zds_plugin plugin = {MOMENTUM_PLUGIN(ops), .name = "Old"};
ZDS_PLUGINS(&plugin);

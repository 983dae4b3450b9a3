/* Leaves memory of the host behind. */
#include "sample.h"

static void destroy(void *self)
{
    (void)self;
}

static const zds_optim_ops ops = {SAMPLE_OPS, .destroy = destroy};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = &ops};
ZDS_PLUGINS(&plugin);

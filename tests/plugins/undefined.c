/* Calls a function that exists nowhere. */
#include "sample.h"

void zds_function_that_exists_nowhere(void);

static void call_it(void *self)
{
    (void)self;
    zds_function_that_exists_nowhere();
}

static const zds_optim_ops ops = {SAMPLE_OPS, .destroy = call_it};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = &ops};
ZDS_PLUGINS(&plugin);

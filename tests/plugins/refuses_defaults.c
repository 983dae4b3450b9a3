/* Sound as a descriptor, but create refuses what the table allows, and once without a word. */
#include "sample.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    const sample_options *o = options;
    (void)env;
    *self = NULL;
    if (o->steps == 10)
        return ZDS_ERR_INVALID;
    if (o->lr == 0)
        *(volatile int *)0 = 0;
    return host->fail(host, ZDS_ERR_INVALID, "not today");
}

static const zds_optim_ops ops = {SAMPLE_OPS, .create = create};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .ops = &ops};
ZDS_PLUGINS(&plugin);

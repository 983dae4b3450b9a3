/* The shm backend with fewer abilities: it only sums, and no pages are shared. What the core does
 * for such backends can be tested with it. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "zds/plugin.h"

static zds_comm_ops ops = {.struct_size = sizeof ops};
static const zds_comm_ops *lender;

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    (void)options; /* which are not the lender's */
    return lender->init(host, NULL, env, self);
}

static int32_t never(const zds_comm_env *env)
{
    (void)env;
    return 0;
}

/* ../../lib/zds/plugins from here, and never closed: its functions stay in use. */
__attribute__((constructor)) static void borrow(void)
{
    char path[4096];
    Dl_info here;
    const char *end = dladdr((void *)&ops, &here) ? strrchr(here.dli_fname, '/') : NULL;
    if (!end)
        return;
    snprintf(path, sizeof path, "%.*s/../../lib/zds/plugins/comm_shm.so",
             (int)(end - here.dli_fname), here.dli_fname);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const zds_plugin *const *shm = library ? dlsym(library, "zds_plugin_v1") : NULL;
    if (!shm)
        return;
    lender = shm[0]->ops;
    memcpy(&ops, lender, sizeof ops);
    ops.init = init;
    ops.flags &= ~(uint64_t)(ZDS_COMM_FUSED | ZDS_COMM_NODE_SHARED);
    ops.suits = never;
}

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_COMM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "modest",
                                  .version = "1",
                                  .doc = "shm without its abilities",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);

/* A communication backend that passes all operations on to the plugin whose file ZDS_TEST_COMM
 * names; each plugin that includes it has one fault, in `spoil`. */
#ifndef TESTS_PLUGINS_BORROWED_COMM_H
#define TESTS_PLUGINS_BORROWED_COMM_H

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "zds/plugin.h"

static const zds_comm_ops *lender;
static zds_comm_ops ops = {.struct_size = sizeof ops};
static int32_t own_rank, own_size;

/* Changes `ops`, which are the lender's. */
static void spoil(void);

static zds_status borrowed_init(const zds_host *host, const void *options, const zds_comm_env *env,
                                void **self)
{
    (void)options; /* which are not the lender's */
    own_rank = env->rank;
    own_size = env->world_size;
    return lender->init(host, NULL, env, self);
}

__attribute__((constructor)) static void borrow(void)
{
    const char *file = getenv("ZDS_TEST_COMM");
    void *library = file ? dlopen(file, RTLD_NOW | RTLD_LOCAL) : NULL;
    const zds_plugin *const *list = library ? dlsym(library, "zds_plugin_v1") : NULL;
    if (!list)
        return;
    lender = list[0]->ops;
    memcpy(&ops, lender, sizeof ops);
    ops.init = borrowed_init;
    spoil();
}

/* An operation of the lender's to its end. */
static inline zds_status finish(zds_status status, zds_event **done)
{
    if (status || !*done)
        return status;
    status = (*done)->ops->wait(*done);
    (*done)->ops->release(*done);
    *done = NULL;
    return status;
}

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_COMM,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "borrowed",
                                  .version = "1.0",
                                  .doc = "for tests",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);

#endif

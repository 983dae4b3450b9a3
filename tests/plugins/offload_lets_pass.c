/* The island's tier (of the file that ZDS_TEST_ISLAND names), whose streams never wait for each
 * other. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "zds/plugin.h"

static const zds_offload_ops *lender;
static zds_offload_ops ops = {.struct_size = sizeof ops};
static zds_plugin plugin = {.struct_size = sizeof plugin,
                            .kind = ZDS_KIND_OFFLOAD,
                            .abi_minor = ZDS_ABI_MINOR,
                            .name = "lets_pass",
                            .version = "1.0",
                            .doc = "for tests",
                            .ops = &ops};

typedef struct wrapped {
    zds_event base;
    zds_event *event;
} wrapped;

static zds_event *inside(zds_event *event)
{
    return ((wrapped *)(void *)event)->event;
}

static zds_status event_test(zds_event *event, int32_t *done)
{
    return inside(event)->ops->test(inside(event), done);
}

static zds_status event_wait(zds_event *event)
{
    return inside(event)->ops->wait(inside(event));
}

static zds_status stream_wait(zds_event *event, const zds_stream *stream)
{
    (void)event, (void)stream;
    return ZDS_OK;
}

static void event_release(zds_event *event)
{
    inside(event)->ops->release(inside(event));
    free(event);
}

static const zds_event_ops event_ops = {.struct_size = sizeof event_ops,
                                        .test = event_test,
                                        .wait = event_wait,
                                        .stream_wait = stream_wait,
                                        .release = event_release};

static zds_status stream_record(void *self, const zds_stream *stream, zds_event **done)
{
    zds_status status = lender->stream_record(self, stream, done);
    wrapped *w = status || !*done ? NULL : malloc(sizeof *w);
    if (!w)
        return status;
    *w = (wrapped){{&event_ops}, *done};
    *done = &w->base;
    return ZDS_OK;
}

__attribute__((constructor)) static void borrow(void)
{
    const char *file = getenv("ZDS_TEST_ISLAND");
    void *library = file ? dlopen(file, RTLD_NOW | RTLD_LOCAL) : NULL;
    const zds_plugin *const *list = library ? dlsym(library, "zds_plugin_v1") : NULL;
    while (list && *list && (*list)->kind != ZDS_KIND_OFFLOAD)
        list++;
    if (!list || !*list)
        return;
    lender = (*list)->ops;
    memcpy(&ops, lender, sizeof ops);
    ops.stream_record = stream_record;
    plugin.options = (*list)->options;
    plugin.option_stride = (*list)->option_stride;
    plugin.option_count = (*list)->option_count;
    plugin.options_size = (*list)->options_size;
}

ZDS_PLUGINS(&plugin);

/* Tiers: opening them, their memory, waiting for what they do. */
#include "memory/tier.h"

#include <stdlib.h>

#include "host/error.h"
#include "memory/tier_call.h"
#include "plugin/descriptor.h"
#include "plugin/registry.h"

static bool is_host(zds_space space)
{
    return space == ZDS_SPACE_HOST || space == ZDS_SPACE_HOST_PINNED;
}

static zds_status failed(tier *t, const char *what, zds_status status, zds_error *error)
{
    return error_set(error, status, "memory tier %s: %s: %s", t->name, what,
                     services_error(&t->services));
}

/* === life === */

static zds_status query(tier *t, zds_error *error)
{
    t->info = (zds_offload_info){.struct_size = sizeof t->info};
    services_clear(&t->services);
    zds_status status = t->ops.query(t->self, &t->info);
    if (status)
        return failed(t, "query", status, error);
    if (!t->info.alignment || t->info.alignment & (t->info.alignment - 1) ||
        t->info.device.space != t->ops.space)
        return error_set(error, ZDS_ERR_PLUGIN,
                         "memory tier %s says that its alignment is %llu and its space %d; "
                         "zds-plugins --check holds a plugin against the rules",
                         t->name, (unsigned long long)t->info.alignment, t->info.device.space);
    return ZDS_OK;
}

zds_status tier_open(const char *name, const zds_plugin *plugin, const void *options,
                     const zds_offload_env *env, ledger *memory, pool *threads, tier **out,
                     zds_error *error)
{
    *out = NULL;
    tier *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(error, ZDS_ERR_MEMORY, "there is no memory to open memory tier %s", name);
    t->name = name;
    plugin_ops(plugin, &t->ops, sizeof t->ops);
    t->on_device = space_is_device(t->ops.space);
    t->in_host = t->ops.flags & ZDS_OFFLOAD_DIRECT && is_host(t->ops.space);
    services_init(&t->services, plugin->name, env->rank, memory, threads);
    zds_status status = t->ops.open(&t->services.host, options, env, &t->self);
    if (status) {
        t->self = NULL;
        failed(t, "open", status, error);
        services_destroy(&t->services);
        free(t);
        return status;
    }
    status = query(t, error);
    if (status) {
        tier_close(t);
        return status;
    }
    *out = t;
    return ZDS_OK;
}

zds_status tier_plan(const char *name, zds_device device, ledger *memory, pool *threads, tier **out,
                     zds_error *error)
{
    tier *t = *out = calloc(1, sizeof *t);
    if (!t)
        return error_set(error, ZDS_ERR_MEMORY, "there is no memory to plan memory tier %s", name);
    t->name = name;
    t->planned = true;
    t->in_host = device.space == ZDS_SPACE_HOST;
    t->info.device = device;
    t->info.alignment = device.space == ZDS_SPACE_FILE ? 4096 : 64; /* as most disks have it */
    services_init(&t->services, name, 0, memory, threads);
    return ZDS_OK;
}

void tier_close(tier *t)
{
    if (!t)
        return;
    if (!t->planned)
        t->ops.close(t->self);
    ledger_free(t->services.ledger, t->windows);
    services_destroy(&t->services);
    free(t);
}

/* === memory === */

zds_status tier_alloc(tier *t, const char *purpose, uint64_t bytes, slab *out, zds_error *error)
{
    *out = (slab){.tier = t, .block = {.struct_size = sizeof out->block}, .purpose = purpose};
    services_clear(&t->services);
    zds_status status = t->planned ? ZDS_OK : t->ops.alloc(t->self, bytes, &out->block);
    if (status) {
        *out = (slab){0};
        return error_set(error, status, "memory tier %s: %llu bytes for %s: %s", t->name,
                         (unsigned long long)bytes, purpose ? purpose : "peers",
                         services_error(&t->services));
    }
    out->block.bytes = bytes; /* what the tier gave on top is its own */
    if (purpose)
        ledger_note(t->services.ledger, purpose, t->name, (int64_t)bytes, 0);
    return ZDS_OK;
}

zds_status tier_adopt(tier *t, void *pointer, uint64_t bytes, slab *out, zds_error *error)
{
    *out = (slab){.tier = t, .block = {.struct_size = sizeof out->block, .bytes = bytes}};
    if (t->planned)
        return ZDS_OK;
    if (!t->ops.adopt) {
        *out = (slab){0};
        return error_set(error, ZDS_ERR_UNSUPPORTED,
                         "memory tier %s keeps bytes where no pointer leads", t->name);
    }
    services_clear(&t->services);
    zds_status status = t->ops.adopt(t->self, pointer, bytes, &out->block);
    if (status) {
        *out = (slab){0};
        return failed(t, "adopt", status, error);
    }
    out->block.bytes = bytes;
    return ZDS_OK;
}

void tier_free(slab *s)
{
    if (!s->tier)
        return;
    if (s->purpose)
        ledger_note(s->tier->services.ledger, s->purpose, s->tier->name, -(int64_t)s->block.bytes,
                    0);
    if (!s->tier->planned)
        s->tier->ops.free(s->tier->self, &s->block);
    *s = (slab){0};
}

/* === ends === */

bool tier_is_here(const tier_end *end)
{
    return !end->slab || end->slab->tier->in_host;
}

void *tier_here(const tier_end *end)
{
    char *base = end->slab ? end->slab->block.pointer : end->pointer;
    return base ? base + end->offset : NULL;
}

static bool same_device(zds_device a, zds_device b)
{
    return a.space == b.space && a.ordinal == b.ordinal;
}

bool tier_shown(const tier *t, const tier_end *end, zds_end *shown)
{
    *shown = (zds_end){.offset = end->offset};
    if (!end->slab) {
        shown->pointer = end->pointer;
        shown->device = (zds_device){.space = ZDS_SPACE_HOST};
    } else {
        shown->device = end->slab->block.device;
        if (end->slab->tier == t) {
            shown->block = &end->slab->block;
            return true;
        }
        if (!(end->slab->tier->ops.flags & ZDS_OFFLOAD_DIRECT))
            return false;
        shown->pointer = end->slab->block.pointer;
    }
    return same_device(shown->device, t->info.device) ||
           t->info.reaches & ZDS_SPACE_BIT(shown->device.space);
}

zds_status tier_check_end(const tier_end *end, uint64_t bytes, const char *what, zds_error *error)
{
    if (!end->slab)
        return ZDS_OK;
    const tier *t = end->slab->tier;
    const uint64_t all = end->slab->block.bytes, alignment = t->info.alignment;
    if (end->offset > all || bytes > all - end->offset)
        return error_set(error, ZDS_ERR_INVALID,
                         "memory tier %s: %s of %llu bytes at %llu of a block of %llu", t->name,
                         what, (unsigned long long)bytes, (unsigned long long)end->offset,
                         (unsigned long long)all);
    if (t->ops.space == ZDS_SPACE_FILE &&
        (end->offset % alignment || (bytes % alignment && end->offset + bytes != all)))
        return error_set(error, ZDS_ERR_INVALID,
                         "memory tier %s: %s of %llu bytes at %llu, which are no multiples of %llu",
                         t->name, what, (unsigned long long)bytes, (unsigned long long)end->offset,
                         (unsigned long long)alignment);
    return ZDS_OK;
}

zds_status tier_check_stream(const tier *t, const tier_order *order, zds_error *error)
{
    const zds_stream *stream = tier_stream_of(order);
    if (!stream || same_device(stream->device, t->info.device))
        return ZDS_OK;
    return error_set(error, ZDS_ERR_INVALID,
                     "memory tier %s: the stream is of another device (space %d, ordinal %d)",
                     t->name, stream->device.space, stream->device.ordinal);
}

/* === events === */

static zds_status wait_here(zds_event *event, zds_error *error)
{
    zds_status status = event ? event->ops->wait(event) : ZDS_OK;
    return status ? error_set(error, status, "what had to be done before has failed (%s)",
                              zds_status_name(status))
                  : ZDS_OK;
}

zds_status tier_waits_here(const tier_order *order, zds_error *error)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; order && i < order->wait_count && !status; i++)
        status = wait_here(order->waits[i], error);
    return status;
}

zds_status tier_waits_for(const tier_order *order, tier_waits *rest, zds_error *error)
{
    zds_status status = ZDS_OK;
    rest->count = 0;
    for (size_t i = 0; order && i < order->wait_count && !status; i++) {
        zds_event *event = order->waits[i];
        if (!event)
            continue;
        if (event->ops->flags & ZDS_EVENT_ANY_THREAD && rest->count < TIER_MOST_WAITS)
            rest->event[rest->count++] = event;
        else
            status = wait_here(event, error);
    }
    return status;
}

zds_status tier_wait(tier *t, zds_event **event, zds_error *error)
{
    if (!*event)
        return ZDS_OK;
    services_clear(&t->services);
    zds_status status = (*event)->ops->wait(*event);
    if (status)
        failed(t, "an operation has failed", status, error);
    (*event)->ops->release(*event);
    *event = NULL;
    return status;
}

zds_status tier_ended(tier *t, const char *what, zds_status status, const tier_order *order,
                      zds_event *event, zds_event **done, zds_error *error)
{
    if (status)
        return failed(t, what, status, error);
    if (done) {
        *done = event;
        return ZDS_OK;
    }
    return tier_stream_of(order) ? ZDS_OK : tier_wait(t, &event, error);
}

/* === streams === */

zds_status tier_stream_create(tier *t, zds_stream **out, zds_error *error)
{
    *out = NULL;
    if (!t->ops.stream_create)
        return ZDS_OK;
    zds_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return error_set(error, ZDS_ERR_MEMORY, "there is no memory for a stream");
    stream->struct_size = sizeof *stream;
    services_clear(&t->services);
    zds_status status = t->ops.stream_create(t->self, stream);
    if (status) {
        free(stream);
        return failed(t, "stream_create", status, error);
    }
    *out = stream;
    return ZDS_OK;
}

void tier_stream_destroy(tier *t, zds_stream *stream)
{
    if (!stream)
        return;
    t->ops.stream_sync(t->self, stream);
    t->ops.stream_destroy(t->self, stream);
    free(stream);
}

zds_status tier_record(tier *t, const zds_stream *stream, zds_event **done, zds_error *error)
{
    *done = NULL;
    if (!stream)
        return ZDS_OK;
    services_clear(&t->services);
    zds_status status = t->ops.stream_record(t->self, stream, done);
    return status ? failed(t, "stream_record", status, error) : ZDS_OK;
}

zds_status tier_sync(tier *t, const zds_stream *stream, zds_error *error)
{
    if (!stream)
        return ZDS_OK;
    services_clear(&t->services);
    zds_status status = t->ops.stream_sync(t->self, stream);
    return status ? failed(t, "work on a stream has failed", status, error) : ZDS_OK;
}

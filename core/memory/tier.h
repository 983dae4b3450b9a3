/* Tiers: places where bytes can be (the host, a device, a file), over the vtable of memory tiers.
 * What is done to bytes is done here for every tier: by its plugin, or by the host itself where it
 * can point into the memory. */
#ifndef CORE_MEMORY_TIER_H
#define CORE_MEMORY_TIER_H

#include "memory/services.h"

typedef struct tier {
    const char *name; /* as the memory report has it: "host", "nvme" */
    zds_offload_ops ops;
    zds_offload_info info;
    void *self;
    services services;
    bool on_device; /* bytes are computed on by the plugin, on streams */
    bool in_host;   /* the host's code can point into blocks */
    bool planned;   /* bytes are counted, and there are none */
    void *windows;  /* of copies that neither of two tiers can make; NULL before the first */
} tier;

/* Loads nothing: `plugin` is one of ZDS_KIND_OFFLOAD that fits this host, `options` its own struct;
 * both, name, ledger and pool outlive the tier. */
zds_status tier_open(const char *name, const zds_plugin *plugin, const void *options,
                     const zds_offload_env *env, ledger *memory, pool *threads, tier **out,
                     zds_error *error);
/* A tier without a plugin, whose blocks are counted and have no pointer: for a plan. */
zds_status tier_plan(const char *name, zds_device device, ledger *memory, pool *threads, tier **out,
                     zds_error *error);
/* After all slabs were freed, events released and streams destroyed. NULL is allowed. */
void tier_close(tier *t);

/* === memory === */

/* One allocation of a tier, or its view of other memory. */
typedef struct slab {
    tier *tier;
    zds_block block;
    const char *purpose; /* NULL: a view, which the ledger does not count */
} slab;

/* Zeroed bytes, entered in the ledger under `purpose`, which outlives it; NULL: by the caller. */
zds_status tier_alloc(tier *t, const char *purpose, uint64_t bytes, slab *out, zds_error *error);
/* A view of memory of the tier's device, whose owner keeps it until the slab is freed. */
zds_status tier_adopt(tier *t, void *pointer, uint64_t bytes, slab *out, zds_error *error);
/* No operation on it is in flight. A slab of zeros is allowed. */
void tier_free(slab *s);

/* === operations === */

/* Where bytes are: `offset` into a slab, or into the host's memory at `pointer`. */
typedef struct tier_end {
    const slab *slab; /* NULL: pointer */
    void *pointer;
    uint64_t offset;
} tier_end;

static inline tier_end tier_in(const slab *s, uint64_t offset)
{
    return (tier_end){.slab = s, .offset = offset};
}

static inline tier_end tier_at(void *pointer)
{
    return (tier_end){.pointer = pointer};
}

/* When an operation may begin; NULL for at once. */
typedef struct tier_order {
    zds_event *const *waits; /* [wait_count]; NULLs are done */
    size_t wait_count;
    const zds_stream *stream; /* of the device that does it; else NULL */
} tier_order;

/* All of them: *done is the event that says when it is over, to be given to tier_wait, NULL if it
 * is. `done` NULL: with a stream nobody asks, else the call itself waits. Events that only the
 * thread which made them may test are waited for in the call, as are all before what the host does
 * itself, which is done when the call returns. A failed wait fails the operation with its status.
 * ZDS_ERR_INVALID where an end reaches beyond its slab, or lies in a file unaligned; ZDS_ERR_IO and
 * what else the plugin says. */

/* Between any two ends, which do not overlap: by the plugin of one that reaches the other, else by
 * way of the host, in windows, and is then over when the call returns. */
zds_status tier_copy(tier_end to, tier_end from, uint64_t bytes, const tier_order *order,
                     zds_event **done, zds_error *error);

/* `count` elements become `value`. In a tier of files by copies. */
zds_status tier_fill(tier_end to, zds_dtype dtype, double value, uint64_t count,
                     const tier_order *order, zds_event **done, zds_error *error);

/* As kernel_convert and kernel_accumulate. All ends are in the host's memory, or all on one device;
 * else ZDS_ERR_UNSUPPORTED. */
zds_status tier_convert(tier_end to, zds_dtype to_dtype, tier_end from, zds_dtype from_dtype,
                        uint64_t count, const tier_order *order, zds_event **done,
                        zds_error *error);
zds_status tier_accumulate(tier_end to, zds_dtype to_dtype, tier_end from, zds_dtype from_dtype,
                           double scale, bool add, uint64_t count, const tier_order *order,
                           zds_event **done, zds_error *error);
/* As kernel_chunk_sums; *non_finite is added to. */
zds_status tier_chunk_sums(tier_end sums, tier_end non_finite, tier_end from, zds_dtype dtype,
                           const zds_segment *segments, size_t segment_count,
                           const tier_order *order, zds_event **done, zds_error *error);

/* Sleeps until the event is done, and releases it; *event is NULL afterwards, and may be before.
 * `t`: whose operation it is, for the error's text. */
zds_status tier_wait(tier *t, zds_event **event, zds_error *error);

/* === streams === */

/* *out is NULL in a tier that has none, which all that follows takes for its own order. */
zds_status tier_stream_create(tier *t, zds_stream **out, zds_error *error);
void tier_stream_destroy(tier *t, zds_stream *stream); /* waits for its work */
/* An event for all that was put on the stream so far. */
zds_status tier_record(tier *t, const zds_stream *stream, zds_event **done, zds_error *error);
/* Waits for all of it; the first error of what ran there since the last time. */
zds_status tier_sync(tier *t, const zds_stream *stream, zds_error *error);

#endif

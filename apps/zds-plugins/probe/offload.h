/* What the checks of a memory tier share: an open tier, and bytes that go there and back. */
#ifndef ZDS_PLUGIN_PROBE_OFFLOAD_H
#define ZDS_PLUGIN_PROBE_OFFLOAD_H

#include "area.h"
#include "bench.h"

/* An open tier with a folder for its files. */
typedef struct tier {
    bench *b;
    zds_offload_ops ops;
    zds_offload_info info;
    void *options, *self;
    bool opened;
    bool needs_more; /* not opened, for want of a folder or a device, as it says */
    char *folder;
} tier;

/* Runs `body` with a tier that is open, and closes it. */
char *tier_in(bench *b, char *(*body)(tier *t));
/* The same with one in a device's space; b->skipped for others. */
char *tier_on_device(bench *b, char *(*body)(tier *t));
/* As bench_failure. */
char *tier_failure(const tier *t, const char *function, zds_status status);
/* A block; a fault if it cannot be had. */
char *tier_take(const tier *t, uint64_t bytes, zds_block *block);

/* Ends of copies and operands of passes. */
zds_end tier_host(void *memory); /* the host's */
zds_end tier_there(const zds_block *block, uint64_t offset);

/* Waits for a call in the ways that an event has, and releases it. */
char *tier_finish(const tier *t, const char *what, zds_status status, zds_event *done);
/* Bytes of a block from and to the host's memory, and waits. */
char *tier_put(const tier *t, const zds_block *block, uint64_t offset, void *memory, uint64_t n);
char *tier_get(const tier *t, const zds_block *block, uint64_t offset, void *memory, uint64_t n);

/* The host's memory between guards, of any alignment. */
area *tier_buffer(uint64_t bytes);
unsigned char *tier_bytes(const area *a);
/* Bytes that a seed and their offset make; seed 0: zeros. */
void tier_pattern(unsigned char *bytes, uint64_t n, uint64_t seed, uint64_t offset);
char *tier_expect(const unsigned char *got, uint64_t n, uint64_t seed, uint64_t offset,
                  const char *when);

char *offload_waits(bench *b);
char *offload_failures(bench *b);
char *offload_flights(bench *b);

char *offload_fill(bench *b);
char *offload_convert(bench *b);
char *offload_accumulate(bench *b);
char *offload_sums(bench *b);

char *offload_streams(bench *b);
char *offload_order(bench *b);
char *offload_device_waits(bench *b);
char *offload_late_errors(bench *b);

#endif

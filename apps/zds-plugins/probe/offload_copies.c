/* What a tier's copies and their events promise: bytes to and from the host, after what they wait
 * for, several at a time. */
#include <string.h>

#include "late.h"
#include "numbers.h"
#include "offload.h"
#include "plugin/fault.h"
#include "plugin/registry.h"

/* === bytes === */

area *tier_buffer(uint64_t bytes)
{
    return area_make((size_t)bytes, true, "memory of a copy", "");
}

unsigned char *tier_bytes(const area *a)
{
    return (unsigned char *)a->data;
}

void tier_pattern(unsigned char *bytes, uint64_t n, uint64_t seed, uint64_t offset)
{
    for (uint64_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)number_hash(seed ^ (offset + i));
}

char *tier_expect(const unsigned char *got, uint64_t n, uint64_t seed, uint64_t offset,
                  const char *when)
{
    for (uint64_t i = 0; i < n; i++) {
        unsigned char want = seed ? (unsigned char)number_hash(seed ^ (offset + i)) : 0;
        if (got[i] != want)
            return fault_format("byte %llu of %llu is 0x%02x, not 0x%02x, %s",
                                (unsigned long long)(offset + i), (unsigned long long)n, got[i],
                                want, when);
    }
    return NULL;
}

/* === one copy === */

zds_end tier_host(void *memory)
{
    return (zds_end){.pointer = memory, .device = {.space = ZDS_SPACE_HOST}};
}

zds_end tier_there(const zds_block *block, uint64_t offset)
{
    return (zds_end){.block = block, .offset = offset, .device = block->device};
}

char *tier_finish(const tier *t, const char *what, zds_status status, zds_event *done)
{
    if (status)
        return tier_failure(t, what, status);
    char *fault = done ? bench_event_fault(done) : NULL;
    if (!done || fault)
        return fault;
    int32_t over = 0;
    status = done->ops->test(done, &over);
    if (!status)
        status = done->ops->wait(done);
    if (!status && (status = done->ops->test(done, &over)) == ZDS_OK && !over) {
        done->ops->release(done);
        return fault_format("%s: its event is not done after wait", what);
    }
    done->ops->release(done);
    return status ? tier_failure(t, what, status) : NULL;
}

/* The host's end lies somewhere in a larger piece of memory, as ends do. */
static char *move(const tier *t, zds_end from, zds_end to, uint64_t n)
{
    zds_end *here = from.block ? &to : &from;
    here->pointer = (char *)here->pointer - 16;
    here->offset = 16;
    if (!t->ops.copy) {
        memcpy(zds_end_address(&to), zds_end_address(&from), (size_t)n);
        return NULL;
    }
    const zds_copy copy = {.struct_size = sizeof copy, .from = from, .to = to, .bytes = n};
    zds_event *done = NULL;
    bench_clear(t->b);
    zds_status status = t->ops.copy(t->self, &copy, &done);
    return tier_finish(t, "copy", status, done);
}

char *tier_put(const tier *t, const zds_block *block, uint64_t offset, void *memory, uint64_t n)
{
    return move(t, tier_host(memory), tier_there(block, offset), n);
}

char *tier_get(const tier *t, const zds_block *block, uint64_t offset, void *memory, uint64_t n)
{
    return move(t, tier_there(block, offset), tier_host(memory), n);
}

/* === what a copy waits for === */

/* Its source being filled, or the last user of its destination. */
enum { LATE_BYTES = 64 << 10, LATE_SEED = 99 };

static void fill_late(void *memory)
{
    tier_pattern(memory, LATE_BYTES, LATE_SEED, 0);
}

static void clear_late(void *memory)
{
    memset(memory, 0, LATE_BYTES);
}

static char *copy_late(const tier *t, const char *what, zds_end from, zds_end to,
                       void (*work)(void *arg), void *memory)
{
    late_event late;
    late_init(&late, work, memory);
    zds_event *const waits[] = {&late.base, NULL}; /* one that is done already is NULL */
    zds_event *done = NULL;
    const zds_copy copy = {.struct_size = sizeof copy,
                           .from = from,
                           .to = to,
                           .bytes = LATE_BYTES,
                           .waits = waits,
                           .wait_count = 2};
    bench_clear(t->b);
    zds_status status = t->ops.copy(t->self, &copy, &done);
    char *fault = tier_finish(t, what, status, done);
    return fault || late.done ? fault
                              : fault_format("%s does not wait for the event in copy->waits", what);
}

static char *run_waits(tier *t)
{
    zds_block block;
    char *fault = tier_take(t, LATE_BYTES, &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(LATE_BYTES);
    void *data = memory->data;
    memset(data, 0, LATE_BYTES);
    fault =
        copy_late(t, "a copy to a block", tier_host(data), tier_there(&block, 0), fill_late, data);
    memset(data, 0, LATE_BYTES);
    if (!fault)
        fault = tier_get(t, &block, 0, data, LATE_BYTES);
    if (!fault)
        fault = tier_expect(data, LATE_BYTES, LATE_SEED, 0,
                            "of a copy that had to wait for its source");
    if (!fault)
        fault = copy_late(t, "a copy from a block", tier_there(&block, 0), tier_host(data),
                          clear_late, data);
    if (!fault)
        fault = tier_expect(data, LATE_BYTES, LATE_SEED, 0,
                            "of a copy that had to wait for its destination");
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

/* The status of what was waited for comes out, at once or by the event, and nothing is copied. */
static char *run_failures(tier *t)
{
    enum { BYTES = 4096 };
    late_event late;
    late_init(&late, NULL, NULL);
    late.status = ZDS_ERR_PEER;
    zds_event *const waits[] = {&late.base};
    zds_event *done = NULL;
    zds_block block;
    char *fault = tier_take(t, BYTES, &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(BYTES);
    tier_pattern(tier_bytes(memory), BYTES, 1, 0);
    const zds_copy copy = {.struct_size = sizeof copy,
                           .from = tier_host(memory->data),
                           .to = tier_there(&block, 0),
                           .bytes = BYTES,
                           .waits = waits,
                           .wait_count = 1};
    zds_status status = t->ops.copy(t->self, &copy, &done);
    if (!status && done) {
        status = done->ops->wait(done);
        done->ops->release(done);
    }
    if (status != ZDS_ERR_PEER)
        fault = fault_format("a copy that waits for an event that has failed with \"%s\" returns "
                             "\"%s\"",
                             zds_status_name(ZDS_ERR_PEER), zds_status_name(status));
    memset(memory->data, 0xff, BYTES);
    if (!fault)
        fault = tier_get(t, &block, 0, memory->data, BYTES);
    if (!fault)
        fault = tier_expect(tier_bytes(memory), BYTES, 0, 0,
                            "after a copy that waited for an event that has failed");
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

/* === several at once, waited for from the last to the first === */

static char *run_flights(tier *t)
{
    enum { FLIGHTS = 8 };
    const uint64_t piece = (20000 / t->info.alignment + 1) * t->info.alignment;
    zds_block block;
    char *fault = tier_take(t, FLIGHTS * piece, &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(FLIGHTS * piece);
    zds_status status = ZDS_OK;
    tier_pattern(tier_bytes(memory), FLIGHTS * piece, 7, 0);
    for (int way = 0; way < 2 && !fault; way++) {
        zds_event *done[FLIGHTS] = {0};
        int issued = 0;
        for (; issued < FLIGHTS && !status; issued++) {
            const uint64_t offset = (uint64_t)issued * piece;
            zds_end here = tier_host(memory->data + offset), there = tier_there(&block, offset);
            const zds_copy copy = {.struct_size = sizeof copy,
                                   .from = way ? there : here,
                                   .to = way ? here : there,
                                   .bytes = piece};
            status = t->ops.copy(t->self, &copy, &done[issued]);
        }
        if (status)
            fault = tier_failure(t, "one of several copies in flight", status);
        for (int i = issued - 1; i >= 0; i--) {
            char *late = tier_finish(t, "one of several copies in flight", ZDS_OK, done[i]);
            if (fault)
                fault_free(late);
            else
                fault = late;
        }
        if (way == 0)
            memset(memory->data, 0, (size_t)(FLIGHTS * piece));
    }
    if (!fault)
        fault = tier_expect(tier_bytes(memory), FLIGHTS * piece, 7, 0,
                            "after several copies in flight");
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

static char *copying(bench *b, char *(*body)(tier *t))
{
    zds_offload_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.copy)
        return tier_in(b, body);
    b->skipped = fault_format("its memory is used in place: there are no copies");
    return NULL;
}

char *offload_waits(bench *b)
{
    return copying(b, run_waits);
}

char *offload_failures(bench *b)
{
    return copying(b, run_failures);
}

char *offload_flights(bench *b)
{
    return copying(b, run_flights);
}

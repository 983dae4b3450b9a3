/* The checks of a memory tier: what it is given comes back, zeroed at first, aligned as it says,
 * and nothing stays when it is closed. */
#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "area.h"
#include "bench.h"
#include "numbers.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/registry.h"

enum { MIB = 1 << 20 };

/* An open tier with a folder for its files. */
typedef struct tier {
    bench *b;
    zds_offload_ops ops;
    void *options, *self;
    bool opened;
    char folder[32];
} tier;

static char *open_tier(tier *t, bench *b)
{
    char *fault = NULL;
    *t = (tier){.b = b, .folder = "/tmp/zds-check-XXXXXX"};
    plugin_ops(b->plugin, &t->ops, sizeof t->ops);
    cJSON *values = values_required(b->plugin);
    t->options = values_options(b->plugin, values, &fault);
    cJSON_Delete(values);
    if (!fault && !mkdtemp(t->folder))
        fault = fault_format("no folder could be made in /tmp");
    if (fault)
        return fault;
    const zds_offload_env env = {.struct_size = sizeof env, .path = t->folder};
    bench_clear(b);
    zds_status status = t->ops.open(&b->host, t->options, &env, &t->self);
    t->opened = status == ZDS_OK;
    return status ? bench_failure(b, "open", status) : NULL;
}

/* What the tier has left in its folder, as a fault. */
static char *close_tier(tier *t)
{
    char *fault = NULL;
    if (t->opened)
        t->ops.close(t->self);
    options_destroy(t->options);
    if (rmdir(t->folder) != 0)
        fault = fault_format("close leaves files behind in %s", t->folder);
    return fault;
}

static char *fail(const tier *t, const char *function, zds_status status)
{
    return bench_failure(t->b, function, status);
}

/* === copies === */

/* Waits for a copy in the ways that an event has. */
static char *finish(const tier *t, const char *what, zds_status status, zds_event *done)
{
    if (status)
        return fail(t, what, status);
    if (!done)
        return NULL;
    int32_t over = 0;
    status = done->ops->test(done, &over);
    if (!status)
        status = done->ops->wait(done);
    if (!status && (status = done->ops->test(done, &over)) == ZDS_OK && !over) {
        done->ops->release(done);
        return fault_format("%s: its event is not done after wait", what);
    }
    done->ops->release(done);
    return status ? fail(t, what, status) : NULL;
}

static zds_copy copy_of(const zds_block *block, uint64_t offset, void *memory, uint64_t bytes)
{
    return (zds_copy){.struct_size = sizeof(zds_copy),
                      .block = block,
                      .offset = offset,
                      .memory = memory,
                      .memory_space = ZDS_SPACE_HOST,
                      .bytes = bytes};
}

static char *put(const tier *t, const zds_block *block, uint64_t offset, void *memory, uint64_t n)
{
    zds_event *done = NULL;
    if (!t->ops.write) {
        memcpy((char *)block->pointer + offset, memory, (size_t)n);
        return NULL;
    }
    const zds_copy copy = copy_of(block, offset, memory, n);
    bench_clear(t->b);
    zds_status status = t->ops.write(t->self, &copy, &done);
    return finish(t, "write", status, done);
}

static char *get(const tier *t, const zds_block *block, uint64_t offset, void *memory, uint64_t n)
{
    zds_event *done = NULL;
    if (!t->ops.read) {
        memcpy(memory, (const char *)block->pointer + offset, (size_t)n);
        return NULL;
    }
    const zds_copy copy = copy_of(block, offset, memory, n);
    bench_clear(t->b);
    zds_status status = t->ops.read(t->self, &copy, &done);
    return finish(t, "read", status, done);
}

/* Bytes in a buffer that is aligned as the tier asks. The caller frees it. */
static unsigned char *buffer(const tier *t, uint64_t bytes)
{
    size_t align = t->ops.alignment < 64 ? 64 : t->ops.alignment;
    return aligned_alloc(align, (size_t)(bytes + align) / align * align);
}

static char *expect(const unsigned char *got, uint64_t n, uint64_t seed, uint64_t offset,
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

static void fill(unsigned char *bytes, uint64_t n, uint64_t seed, uint64_t offset)
{
    for (uint64_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)number_hash(seed ^ (offset + i));
}

/* Zero at first; then, written in pieces, all as it was written. */
static char *round_trip(const tier *t, const zds_block *block, uint64_t n, uint64_t seed)
{
    const uint64_t unit = t->ops.alignment, piece = (n / 3 / unit + 1) * unit;
    unsigned char *bytes = buffer(t, n);
    char *fault = bytes ? get(t, block, 0, bytes, n) : fault_format("no memory for a buffer");
    if (!fault)
        fault = expect(bytes, n, 0, 0, "in a block that is fresh and should be zero");
    for (uint64_t offset = 0; offset < n && !fault; offset += piece) {
        uint64_t count = piece < n - offset ? piece : n - offset;
        fill(bytes, count, seed, offset);
        fault = put(t, block, offset, bytes, count);
    }
    memset(bytes, 0, bytes ? (size_t)n : 0);
    if (!fault)
        fault = get(t, block, 0, bytes, n);
    if (!fault)
        fault = expect(bytes, n, seed, 0, "after it was written and read");
    free(bytes);
    return fault;
}

static char *block_fault(const tier *t, const zds_block *block, uint64_t bytes)
{
    if (block->bytes < bytes)
        return fault_format("alloc of %llu bytes gives a block of %llu", (unsigned long long)bytes,
                            (unsigned long long)block->bytes);
    if (block->space != t->ops.space)
        return fault_format("alloc gives a block in space %s, but the tier is in %s",
                            space_name(block->space), space_name(t->ops.space));
    if ((t->ops.space == ZDS_SPACE_FILE) != (block->pointer == NULL))
        return fault_format("alloc gives a block in space %s with the pointer %p",
                            space_name(t->ops.space), block->pointer);
    if ((uintptr_t)block->pointer % (t->ops.alignment < 64 ? 64 : t->ops.alignment))
        return fault_format("alloc gives the pointer %p, which is not aligned to %u bytes",
                            block->pointer, t->ops.alignment < 64 ? 64 : t->ops.alignment);
    return NULL;
}

/* === the checks === */

static char *open_and_close(bench *b)
{
    tier t;
    zds_offload_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (!ops.alignment || ops.alignment & (ops.alignment - 1))
        return fault_format("alignment is %u, which is not a power of two", ops.alignment);
    if (ops.space == ZDS_SPACE_CUDA) {
        b->skipped = fault_format("its blocks are on a device; this check has only the host");
        return NULL;
    }
    char *fault = open_tier(&t, b);
    const bool needs_more = !t.opened && b->error;
    char *left = close_tier(&t);
    if (needs_more) { /* a file system or a device that is not here */
        b->skipped = fault;
        fault = NULL;
    }
    if (fault)
        fault_free(left);
    return fault ? fault : left;
}

static char *run_blocks(tier *t)
{
    enum { BLOCKS = 6 };
    static const uint64_t sizes[BLOCKS] = {1, 511, 4096, MIB + 3, 3 * MIB, 64};
    zds_block blocks[BLOCKS];
    size_t made = 0;
    char *fault = NULL;
    for (; made < BLOCKS && !fault; made++) {
        blocks[made] = (zds_block){.struct_size = sizeof(zds_block)};
        bench_clear(t->b);
        zds_status status = t->ops.alloc(t->self, sizes[made], &blocks[made]);
        if (status) {
            fault = fail(t, "alloc", status);
            break;
        }
        fault = block_fault(t, &blocks[made], sizes[made]);
        if (!fault)
            fault = round_trip(t, &blocks[made], sizes[made], made + 1);
    }
    /* All are there still: none lies over another. */
    for (size_t i = 0; i < made && !fault; i++) {
        unsigned char *bytes = buffer(t, sizes[i]);
        fault = get(t, &blocks[i], 0, bytes, sizes[i]);
        if (!fault)
            fault = expect(bytes, sizes[i], i + 1, 0, "after other blocks were written");
        free(bytes);
    }
    for (size_t i = 0; i < made; i++)
        t->ops.free(t->self, &blocks[i]);
    return fault;
}

static char *in_tier(bench *b, char *(*body)(tier *t))
{
    tier t;
    char *fault = open_tier(&t, b);
    if (!fault)
        fault = body(&t);
    char *left = close_tier(&t);
    if (fault)
        fault_free(left);
    return fault ? fault : left;
}

static char *blocks_check(bench *b)
{
    return in_tier(b, run_blocks);
}

/* An event that is done once it was waited for, and then has filled the memory to be written. */
typedef struct late_event {
    zds_event base;
    unsigned char *memory;
    uint64_t bytes;
    bool done;
} late_event;

static zds_status late_wait(zds_event *event)
{
    late_event *e = (late_event *)(void *)event;
    if (!e->done)
        fill(e->memory, e->bytes, 99, 0);
    e->done = true;
    return ZDS_OK;
}

static zds_status late_test(zds_event *event, int32_t *done)
{
    *done = 1; /* testing moves the work forward, all the way */
    return late_wait(event);
}

static void late_release(zds_event *event)
{
    (void)event;
}

static const zds_event_ops late_ops = {
    .struct_size = sizeof late_ops, .test = late_test, .wait = late_wait, .release = late_release};

/* A write starts after what it is to wait for. */
static char *run_waits(tier *t)
{
    enum { BYTES = 64 << 10 };
    zds_block block = {.struct_size = sizeof block};
    unsigned char *bytes = buffer(t, BYTES);
    late_event late = {.base = {&late_ops}, .memory = bytes, .bytes = BYTES};
    zds_event *const waits[] = {&late.base};
    zds_event *done = NULL;
    bench_clear(t->b);
    zds_status status = t->ops.alloc(t->self, BYTES, &block);
    if (status) {
        free(bytes);
        return fail(t, "alloc", status);
    }
    memset(bytes, 0, BYTES);
    zds_copy copy = copy_of(&block, 0, bytes, BYTES);
    copy.waits = waits;
    copy.wait_count = 1;
    status = t->ops.write(t->self, &copy, &done);
    char *fault = finish(t, "write", status, done);
    if (!fault && !late.done)
        fault = fault_format("write does not wait for the event in copy->waits");
    memset(bytes, 0, BYTES);
    if (!fault)
        fault = get(t, &block, 0, bytes, BYTES);
    if (!fault)
        fault = expect(bytes, BYTES, 99, 0, "of a write that had to wait for its source");
    t->ops.free(t->self, &block);
    free(bytes);
    return fault;
}

static char *waits_check(bench *b)
{
    zds_offload_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (!ops.write) {
        b->skipped = fault_format("its memory is used in place: there are no copies");
        return NULL;
    }
    return in_tier(b, run_waits);
}

static char *run_too_much(tier *t)
{
    zds_block block = {.struct_size = sizeof block};
    bench_clear(t->b);
    zds_status status = t->ops.alloc(t->self, UINT64_C(1) << 62, &block);
    if (!status) {
        t->ops.free(t->self, &block);
        return fault_format("alloc grants 2^62 bytes");
    }
    return t->b->error ? NULL : fail(t, "alloc", status);
}

static char *too_much_check(bench *b)
{
    return in_tier(b, run_too_much);
}

static char *leaks(bench *b)
{
    return bench_leaks(b, blocks_check);
}

const check checks_offload[] = {{"open and close the tier", open_and_close, true},
                                {"blocks keep what is written", blocks_check, true},
                                {"copies wait for their events", waits_check, false},
                                {"too much memory is refused", too_much_check, false},
                                {"no leaks", leaks, false},
                                {NULL, NULL, false}};

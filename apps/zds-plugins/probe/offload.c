/* The checks of a memory tier: what it is given comes back, zeroed at first, aligned as it says,
 * and nothing stays when it is closed. */
#include "offload.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "folder.h"
#include "numbers.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/registry.h"

enum { MIB = 1 << 20 };

static char *query(tier *t)
{
    bench_room room;
    zds_offload_info *info = bench_fill(&room, sizeof *info);
    bench_clear(t->b);
    zds_status status = t->ops.query(t->self, info);
    return status ? bench_failure(t->b, "query", status)
                  : bench_filled(&room, sizeof *info, &t->info, "query");
}

static char *open_at(tier *t, bench *b, const char *path)
{
    char *fault = NULL;
    *t = (tier){.b = b};
    plugin_ops(b->plugin, &t->ops, sizeof t->ops);
    cJSON *values = values_required(b->plugin);
    t->options = values_options(b->plugin, values, &fault);
    cJSON_Delete(values);
    if (fault)
        return fault;
    const zds_offload_env env = {
        .struct_size = sizeof env, .device = space_is_device(t->ops.space) ? 0 : -1, .path = path};
    bench_clear(b);
    zds_status status = t->ops.open(&b->host, t->options, &env, &t->self);
    t->opened = status == ZDS_OK;
    t->needs_more = b->error && (status == ZDS_ERR_CONFIG || status == ZDS_ERR_IO ||
                                 status == ZDS_ERR_NOT_FOUND);
    return status ? bench_failure(b, "open", status) : query(t);
}

static void close_at(tier *t)
{
    if (t->opened)
        t->ops.close(t->self);
    options_destroy(t->options);
}

static char *open_tier(tier *t, bench *b)
{
    char *folder = folder_within();
    if (!folder) {
        *t = (tier){.b = b};
        return fault_format("no folder could be made for it in TMPDIR or /tmp");
    }
    char *fault = open_at(t, b, folder);
    t->folder = folder;
    return fault;
}

/* What the tier has left in its folder, as a fault. */
static char *close_tier(tier *t)
{
    close_at(t);
    char *fault = t->folder && rmdir(t->folder) != 0
                      ? fault_format("close leaves files behind: %s", strerror(errno))
                      : NULL;
    free(t->folder);
    return fault;
}

char *tier_failure(const tier *t, const char *function, zds_status status)
{
    return bench_failure(t->b, function, status);
}

char *tier_take(const tier *t, uint64_t bytes, zds_block *block)
{
    bench_room room;
    bench_clear(t->b);
    zds_status status = t->ops.alloc(t->self, bytes, bench_fill(&room, sizeof *block));
    char *fault = bench_filled(&room, sizeof *block, block, "alloc");
    return status && !fault ? tier_failure(t, "alloc", status) : fault;
}

/* Zero at first; then, written in pieces, all as it was written. */
static char *round_trip(const tier *t, const zds_block *block, uint64_t n, uint64_t seed)
{
    const uint64_t unit = t->info.alignment, piece = (n / 3 / unit + 1) * unit;
    area *memory = tier_buffer(n);
    unsigned char *bytes = tier_bytes(memory);
    char *fault = tier_get(t, block, 0, bytes, n);
    if (!fault)
        fault = tier_expect(bytes, n, 0, 0, "in a block that is fresh and should be zero");
    for (uint64_t offset = 0; offset < n && !fault; offset += piece) {
        uint64_t count = piece < n - offset ? piece : n - offset;
        tier_pattern(bytes, count, seed, offset);
        fault = tier_put(t, block, offset, bytes, count);
    }
    memset(bytes, 0, (size_t)n);
    if (!fault)
        fault = tier_get(t, block, 0, bytes, n);
    if (!fault)
        fault = tier_expect(bytes, n, seed, 0, "after it was written and read");
    if (!fault)
        fault = area_fault(memory);
    area_free(memory);
    return fault;
}

static const char *shown_space(zds_space space)
{
    const char *name = space_name(space);
    return name ? name : "(unknown)";
}

static char *block_fault(const tier *t, const zds_block *block, uint64_t bytes)
{
    if (block->bytes != bytes)
        return fault_format("alloc of %llu bytes gives a block of %llu", (unsigned long long)bytes,
                            (unsigned long long)block->bytes);
    if (block->device.space != t->info.device.space ||
        block->device.ordinal != t->info.device.ordinal)
        return fault_format("alloc gives a block on %s %d, but query says %s %d",
                            shown_space(block->device.space), block->device.ordinal,
                            shown_space(t->info.device.space), t->info.device.ordinal);
    if ((!bytes || t->ops.space == ZDS_SPACE_FILE) != (block->pointer == NULL))
        return fault_format("alloc gives a block of %llu bytes in space %s with the pointer %p",
                            (unsigned long long)bytes, shown_space(t->ops.space), block->pointer);
    const uint64_t alignment = t->info.alignment < 64 ? 64 : t->info.alignment;
    if ((uintptr_t)block->pointer % alignment)
        return fault_format("alloc gives the pointer %p, which is not aligned to %llu bytes%s",
                            block->pointer, (unsigned long long)alignment,
                            alignment > 64 ? ", as query says" : "");
    return NULL;
}

/* === the checks === */

static char *info_fault(const tier *t)
{
    const zds_offload_info *info = &t->info;
    const uint32_t host = ZDS_SPACE_BIT(ZDS_SPACE_HOST) | ZDS_SPACE_BIT(ZDS_SPACE_HOST_PINNED);
    if (!info->alignment || info->alignment & (info->alignment - 1))
        return fault_format("query: alignment is %llu, which is not a power of two",
                            (unsigned long long)info->alignment);
    if (info->device.space != t->ops.space)
        return fault_format("query: its device is in space %s, but its zds_offload_ops say %s",
                            shown_space(info->device.space), shown_space(t->ops.space));
    if (info->total_bytes && info->free_bytes > info->total_bytes)
        return fault_format("query: of %llu bytes %llu are free",
                            (unsigned long long)info->total_bytes,
                            (unsigned long long)info->free_bytes);
    if (!(info->reaches & host))
        return fault_format("query: reaches is 0x%x, without HOST: nothing could be brought there",
                            info->reaches);
    return NULL;
}

static char *open_and_close(bench *b)
{
    tier t;
    char *fault = open_tier(&t, b);
    const bool needs_more = t.needs_more;
    if (!fault)
        fault = info_fault(&t);
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
    enum { BLOCKS = 7 };
    static const uint64_t sizes[BLOCKS] = {0, 1, 511, 4096, MIB + 3, 3 * MIB, 64};
    zds_block blocks[BLOCKS];
    size_t made = 0;
    char *fault = NULL;
    for (; made < BLOCKS && !fault; made++) {
        fault = tier_take(t, sizes[made], &blocks[made]);
        if (fault)
            break;
        fault = block_fault(t, &blocks[made], sizes[made]);
        if (!fault && sizes[made])
            fault = round_trip(t, &blocks[made], sizes[made], made + 1);
    }
    /* All are there still: none lies over another. */
    for (size_t i = 1; i < made && !fault; i++) {
        area *memory = tier_buffer(sizes[i]);
        fault = tier_get(t, &blocks[i], 0, memory->data, sizes[i]);
        if (!fault)
            fault = tier_expect(tier_bytes(memory), sizes[i], i + 1, 0,
                                "after other blocks were written");
        area_free(memory);
    }
    for (size_t i = 0; i < made; i++)
        t->ops.free(t->self, &blocks[i]);
    return fault;
}

char *tier_on_device(bench *b, char *(*body)(tier *t))
{
    zds_offload_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (space_is_device(ops.space))
        return tier_in(b, body);
    b->skipped = fault_format("its blocks are in space %s, where the host itself does that",
                              space_name(ops.space));
    return NULL;
}

char *tier_in(bench *b, char *(*body)(tier *t))
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
    return tier_in(b, run_blocks);
}

/* A block is free again: whoever gets its bytes next finds zeros. */
static char *run_again(tier *t)
{
    enum { BYTES = 64 << 10, TIMES = 4 };
    char *fault = NULL;
    for (uint64_t k = 0; k < TIMES && !fault; k++) {
        zds_block block = {.struct_size = sizeof block};
        fault = tier_take(t, BYTES, &block);
        if (fault)
            return fault;
        fault = round_trip(t, &block, BYTES, k + 1);
        t->ops.free(t->self, &block);
    }
    return fault;
}

static char *again_check(bench *b)
{
    return tier_in(b, run_again);
}

/* Another tier in the same folder. */
static char *run_beside(tier *t)
{
    enum { BYTES = 10000 };
    tier other;
    zds_block mine = {.struct_size = sizeof mine}, theirs = mine;
    char *fault = open_at(&other, t->b, t->folder);
    if (!fault && (t->ops.alloc(t->self, BYTES, &mine) != ZDS_OK ||
                   other.ops.alloc(other.self, BYTES, &theirs) != ZDS_OK))
        fault = fault_format("a block for each of two instances cannot be had: %s",
                             t->b->error ? t->b->error : "no reason given");
    if (fault) {
        close_at(&other);
        return bench_within(fault, "two instances in one folder");
    }
    fault = round_trip(t, &mine, BYTES, 1);
    if (!fault)
        fault = round_trip(&other, &theirs, BYTES, 2);
    area *memory = tier_buffer(BYTES);
    if (!fault)
        fault = tier_get(t, &mine, 0, memory->data, BYTES);
    if (!fault)
        fault =
            tier_expect(tier_bytes(memory), BYTES, 1, 0, "after another instance wrote its block");
    area_free(memory);
    other.ops.free(other.self, &theirs);
    close_at(&other);
    t->ops.free(t->self, &mine);
    return fault;
}

static char *beside_check(bench *b)
{
    return tier_in(b, run_beside);
}

/* A folder that is none: refused with a reason, or of no use to the tier. */
static char *folder_check(bench *b)
{
    static const char *const paths[] = {"/proc/no such folder", "", NULL}; /* NULL: none is given */
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        tier t;
        bench_at("with the path %s", paths[i] ? paths[i] : "NULL");
        char *fault = open_at(&t, b, paths[i]);
        const bool opened = t.opened;
        close_at(&t);
        if (t.needs_more) {
            fault_free(fault);
            continue;
        }
        if (!opened)
            return bench_within(fault, "%s", bench_where);
        if (t.ops.space == ZDS_SPACE_FILE && paths[i])
            return fault_format("%s: open accepts a folder that is not there", bench_where);
    }
    return NULL;
}

/* A view of a part of a block, which another part of the host's would have made. */
static char *run_adopt(tier *t)
{
    enum { BYTES = 12288, FIRST = 5000, PART = 3001 };
    bench_room room;
    zds_block block, view;
    char *fault = tier_take(t, BYTES, &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(BYTES);
    unsigned char *bytes = tier_bytes(memory);
    char *start = (char *)block.pointer + FIRST;
    tier_pattern(bytes, BYTES, 1, 0);
    fault = tier_put(t, &block, 0, bytes, BYTES);
    bench_clear(t->b);
    void *made = bench_fill(&room, sizeof view);
    zds_status status = fault ? ZDS_OK : t->ops.adopt(t->self, start, PART, made);
    char *wrote = bench_filled(&room, sizeof view, &view, "adopt");
    if (wrote)
        return wrote;
    if (status)
        fault = tier_failure(t, "adopt", status);
    else if (!fault && (view.pointer != start || view.bytes != PART))
        fault = fault_format("adopt of %d bytes at %p gives %llu at %p", PART, (void *)start,
                             (unsigned long long)view.bytes, view.pointer);
    bench_at("in memory that was adopted");
    if (!fault)
        fault = tier_get(t, &view, 0, bytes, PART);
    if (!fault)
        fault = tier_expect(bytes, PART, 1, FIRST, "in memory that was adopted");
    tier_pattern(bytes, PART, 2, 0);
    if (!fault)
        fault = tier_put(t, &view, 0, bytes, PART);
    if (!status)
        t->ops.free(t->self, &view);
    bench_at("in memory whose view was freed");
    if (!fault)
        fault = tier_get(t, &block, 0, bytes, BYTES);
    if (!fault)
        fault = tier_expect(bytes, FIRST, 1, 0, "before a view that was written and freed");
    if (!fault)
        fault = tier_expect(bytes + FIRST, PART, 2, 0, "of a view that was written and freed");
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

static char *adopt_check(bench *b)
{
    zds_offload_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.space != ZDS_SPACE_FILE)
        return tier_in(b, run_adopt);
    b->skipped = fault_format("its blocks are in files, which have no views");
    return NULL;
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
    return t->b->error ? NULL : tier_failure(t, "alloc", status);
}

static char *too_much_check(bench *b)
{
    return tier_in(b, run_too_much);
}

static char *leaks(bench *b)
{
    return bench_leaks(b, blocks_check);
}

const check checks_offload[] = {{"open and close the tier", open_and_close, true},
                                {"blocks keep what is written", blocks_check, true},
                                {"blocks are zero when they are used again", again_check, false},
                                {"instances do not share blocks", beside_check, false},
                                {"a folder that is not there", folder_check, false},
                                {"views of other memory", adopt_check, false},
                                {"copies wait for their events", offload_waits, false},
                                {"what waits for a failure fails", offload_failures, false},
                                {"several copies in flight", offload_flights, false},
                                {"fill", offload_fill, false},
                                {"convert", offload_convert, false},
                                {"accumulate", offload_accumulate, false},
                                {"sums of chunks", offload_sums, false},
                                {"streams", offload_streams, false},
                                {"streams wait for each other", offload_order, false},
                                {"device calls wait for their events", offload_device_waits, false},
                                {"errors on a stream", offload_late_errors, false},
                                {"too much memory is refused", too_much_check, false},
                                {"no leaks", leaks, false},
                                {NULL, NULL, false}};

/* The checks of a memory tier: what it is given comes back, zeroed at first, aligned as it says,
 * and nothing stays when it is closed. */
#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
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
    const zds_offload_env env = {.struct_size = sizeof env, .path = path};
    bench_clear(b);
    zds_status status = t->ops.open(&b->host, t->options, &env, &t->self);
    t->opened = status == ZDS_OK;
    return status ? bench_failure(b, "open", status) : NULL;
}

static void close_at(tier *t)
{
    if (t->opened)
        t->ops.close(t->self);
    options_destroy(t->options);
}

static char *open_tier(tier *t, bench *b)
{
    char folder[] = "/tmp/zds-check-XXXXXX";
    if (!mkdtemp(folder)) {
        *t = (tier){.b = b};
        return fault_format("no folder could be made in /tmp");
    }
    char *fault = open_at(t, b, folder);
    memcpy(t->folder, folder, sizeof folder);
    return fault;
}

static void empty_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL)
        unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
}

/* What the tier has left in its folder, as a fault. */
static char *close_tier(tier *t)
{
    close_at(t);
    if (rmdir(t->folder) == 0)
        return NULL;
    char *fault = fault_format("close leaves files behind: %s", strerror(errno));
    empty_folder(t->folder);
    rmdir(t->folder);
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

/* Memory of a copy between guards, aligned as the tier asks: a page is. */
static area *buffer(const tier *t, uint64_t bytes)
{
    return area_make((size_t)bytes, t->ops.alignment == 1, "memory of a copy", "");
}

static unsigned char *bytes_of(const area *a)
{
    return (unsigned char *)a->data;
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
    area *memory = buffer(t, n);
    unsigned char *bytes = bytes_of(memory);
    char *fault = get(t, block, 0, bytes, n);
    if (!fault)
        fault = expect(bytes, n, 0, 0, "in a block that is fresh and should be zero");
    for (uint64_t offset = 0; offset < n && !fault; offset += piece) {
        uint64_t count = piece < n - offset ? piece : n - offset;
        fill(bytes, count, seed, offset);
        fault = put(t, block, offset, bytes, count);
    }
    memset(bytes, 0, (size_t)n);
    if (!fault)
        fault = get(t, block, 0, bytes, n);
    if (!fault)
        fault = expect(bytes, n, seed, 0, "after it was written and read");
    if (!fault)
        fault = area_fault(memory);
    area_free(memory);
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
        area *memory = buffer(t, sizes[i]);
        fault = get(t, &blocks[i], 0, memory->data, sizes[i]);
        if (!fault)
            fault = expect(bytes_of(memory), sizes[i], i + 1, 0, "after other blocks were written");
        area_free(memory);
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

/* A block is free again: whoever gets its bytes next finds zeros. */
static char *run_again(tier *t)
{
    enum { BYTES = 64 << 10, TIMES = 4 };
    char *fault = NULL;
    for (uint64_t k = 0; k < TIMES && !fault; k++) {
        zds_block block = {.struct_size = sizeof block};
        bench_clear(t->b);
        zds_status status = t->ops.alloc(t->self, BYTES, &block);
        if (status)
            return fail(t, "alloc", status);
        fault = round_trip(t, &block, BYTES, k + 1);
        t->ops.free(t->self, &block);
    }
    return fault;
}

static char *again_check(bench *b)
{
    return in_tier(b, run_again);
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
    area *memory = buffer(t, BYTES);
    if (!fault)
        fault = get(t, &mine, 0, memory->data, BYTES);
    if (!fault)
        fault = expect(bytes_of(memory), BYTES, 1, 0, "after another instance wrote its block");
    area_free(memory);
    other.ops.free(other.self, &theirs);
    close_at(&other);
    t->ops.free(t->self, &mine);
    return fault;
}

static char *beside_check(bench *b)
{
    return in_tier(b, run_beside);
}

/* A folder that is none: refused with a reason, or of no use to the tier. */
static char *folder_check(bench *b)
{
    static const char *const paths[] = {"/proc/no such folder", "", NULL}; /* NULL: none is given */
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        tier t;
        bench_at("with the path %s", paths[i] ? paths[i] : "NULL");
        char *fault = open_at(&t, b, paths[i]);
        const bool opened = t.opened, told = b->error != NULL;
        close_at(&t);
        if (!opened && told) {
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

/* === copies in flight === */

/* An event that is done once it was waited for, and then has changed what it is in the way of. */
typedef struct late_event {
    zds_event base;
    void (*work)(void *arg);
    void *arg;
    bool done;
} late_event;

static zds_status late_wait(zds_event *event)
{
    late_event *e = (late_event *)(void *)event;
    if (!e->done)
        e->work(e->arg);
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

/* What a copy has to wait for: its source being filled, or the last user of its destination. */
enum { LATE_BYTES = 64 << 10, LATE_SEED = 99 };

static void fill_late(void *memory)
{
    fill(memory, LATE_BYTES, LATE_SEED, 0);
}

static void clear_late(void *memory)
{
    memset(memory, 0, LATE_BYTES);
}

typedef zds_status (*copier)(void *self, const zds_copy *copy, zds_event **done);

static char *copy_late(const tier *t, const char *what, copier function, const zds_block *block,
                       void *memory, void (*work)(void *arg))
{
    late_event late = {.base = {&late_ops}, .work = work, .arg = memory};
    zds_event *const waits[] = {&late.base, NULL}; /* one that is done already is NULL */
    zds_event *done = NULL;
    zds_copy copy = copy_of(block, 0, memory, LATE_BYTES);
    copy.waits = waits;
    copy.wait_count = 2;
    bench_clear(t->b);
    zds_status status = function(t->self, &copy, &done);
    char *fault = finish(t, what, status, done);
    return fault || late.done ? fault
                              : fault_format("%s does not wait for the event in copy->waits", what);
}

static char *run_waits(tier *t)
{
    zds_block block = {.struct_size = sizeof block};
    area *memory = buffer(t, LATE_BYTES);
    bench_clear(t->b);
    zds_status status = t->ops.alloc(t->self, LATE_BYTES, &block);
    if (status) {
        area_free(memory);
        return fail(t, "alloc", status);
    }
    memset(memory->data, 0, LATE_BYTES);
    char *fault = copy_late(t, "write", t->ops.write, &block, memory->data, fill_late);
    memset(memory->data, 0, LATE_BYTES);
    if (!fault)
        fault = get(t, &block, 0, memory->data, LATE_BYTES);
    if (!fault)
        fault = expect(bytes_of(memory), LATE_BYTES, LATE_SEED, 0,
                       "of a write that had to wait for its source");
    if (!fault)
        fault = copy_late(t, "read", t->ops.read, &block, memory->data, clear_late);
    if (!fault)
        fault = expect(bytes_of(memory), LATE_BYTES, LATE_SEED, 0,
                       "of a read that had to wait for its destination");
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

/* Several at once, waited for from the last to the first. */
static char *run_flights(tier *t)
{
    enum { FLIGHTS = 8 };
    const uint64_t piece = (20000 / t->ops.alignment + 1) * t->ops.alignment;
    zds_block block = {.struct_size = sizeof block};
    area *memory = buffer(t, FLIGHTS * piece);
    bench_clear(t->b);
    zds_status status = t->ops.alloc(t->self, FLIGHTS * piece, &block);
    char *fault = status ? fail(t, "alloc", status) : NULL;
    const copier functions[] = {t->ops.write, t->ops.read};
    fill(bytes_of(memory), FLIGHTS * piece, 7, 0);
    for (int way = 0; way < 2 && !fault; way++) {
        zds_event *done[FLIGHTS] = {0};
        int issued = 0;
        for (; issued < FLIGHTS && !status; issued++) {
            const uint64_t offset = (uint64_t)issued * piece;
            const zds_copy copy = copy_of(&block, offset, memory->data + offset, piece);
            status = functions[way](t->self, &copy, &done[issued]);
        }
        if (status)
            fault = fail(t, "one of several copies in flight", status);
        for (int i = issued - 1; i >= 0; i--) {
            char *late = finish(t, "one of several copies in flight", ZDS_OK, done[i]);
            if (fault)
                fault_free(late);
            else
                fault = late;
        }
        if (way == 0)
            memset(memory->data, 0, (size_t)(FLIGHTS * piece));
    }
    if (!fault)
        fault = expect(bytes_of(memory), FLIGHTS * piece, 7, 0, "after several copies in flight");
    if (block.bytes)
        t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

static char *copying(bench *b, char *(*body)(tier *t))
{
    zds_offload_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.write && ops.read)
        return in_tier(b, body);
    b->skipped = fault_format("its memory is used in place: there are no copies");
    return NULL;
}

static char *waits_check(bench *b)
{
    return copying(b, run_waits);
}

static char *flights_check(bench *b)
{
    return copying(b, run_flights);
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
                                {"blocks are zero when they are used again", again_check, false},
                                {"instances do not share blocks", beside_check, false},
                                {"a folder that is not there", folder_check, false},
                                {"copies wait for their events", waits_check, false},
                                {"several copies in flight", flights_check, false},
                                {"too much memory is refused", too_much_check, false},
                                {"no leaks", leaks, false},
                                {NULL, NULL, false}};

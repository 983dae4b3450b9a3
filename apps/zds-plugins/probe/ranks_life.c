/* What ranks of a communication backend share, how they part, and how they take it when one of them
 * dies, is silent, never comes or gives up. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "plugin/fault.h"
#include "plugin/registry.h"
#include "ranks.h"

enum { SHORT_MS = 1500, COUNT = 5000 };

/* === memory === */

/* Each rank writes its part of `all`; once `operation` is done everyone must see every part. */
static char *show_parts(peer *p, const zds_region *region, const char *what, collective operation,
                        int32_t base)
{
    int32_t *all = region->base;
    const int32_t part = COUNT / p->size;
    for (int32_t i = 0; i < part; i++)
        all[p->rank * part + i] = base + p->rank * COUNT + i;
    const zds_coll coll = peer_coll(p, all + p->rank * part, all, (uint64_t)part, ZDS_I32);
    char *fault = peer_do(p, what, operation, &coll);
    for (int32_t i = 0; i < part * p->size && !fault; i++)
        if (((const int32_t *)region->read_only)[i] != base + i / part * COUNT + i % part)
            fault = fault_format("after %s SHARED memory does not show on rank %d what rank %d "
                                 "wrote",
                                 what, (int)p->rank, (int)(i / part));
    if (!fault)
        peer_meet(p);
    return fault;
}

static char *shared_memory(peer *p)
{
    zds_region region = {.struct_size = sizeof region};
    bench_clear(p->b);
    zds_status status = p->ops.mem_alloc(p->self, COUNT * 4, ZDS_MEM_SHARED, &region);
    if (status)
        return bench_within(bench_failure(p->b, "mem_alloc", status),
                            "ZDS_MEM_SHARED, as its flags say");
    char *fault = show_parts(p, &region, "barrier", p->ops.barrier, 0);
    if (!fault)
        fault = show_parts(p, &region, "all_gather in place", p->ops.all_gather, 1);
    if (!fault)
        p->ops.mem_free(p->self, &region);
    return fault;
}

/* Memory of another's, which its operations then use: as a tier has it, in a file without a name,
 * from some byte on. */
static char *registered(peer *p)
{
    enum { BYTES = 4096 * 8, FIRST = 128 };
    zds_region region;
    const int file = memfd_create("zds-check", MFD_CLOEXEC);
    char *mapped = file >= 0 && ftruncate(file, BYTES) == 0
                       ? mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                       : MAP_FAILED;
    if (mapped == MAP_FAILED)
        return fault_format("there is no memory for the check");
    int32_t *own = (int32_t *)(void *)(mapped + FIRST);
    for (int32_t i = 0; i < COUNT; i++)
        own[i] = i + p->rank;
    bench_room made;
    bench_clear(p->b);
    zds_status status =
        p->ops.mem_register(p->self, own, BYTES - FIRST, (zds_device){.space = ZDS_SPACE_HOST},
                            bench_fill(&made, sizeof region));
    char *wrote = bench_filled(&made, sizeof region, &region, "mem_register");
    if (wrote)
        return wrote;
    if (status && (status != ZDS_ERR_UNSUPPORTED || !(p->ops.flags & ZDS_COMM_COPIES)))
        return bench_failure(p->b, "mem_register", status);
    zds_coll coll = peer_coll(p, own, own, COUNT, ZDS_I32);
    coll.peer = p->size - 1;
    char *fault = peer_do(p, "broadcast in registered memory", p->ops.broadcast, &coll);
    for (int32_t i = 0; i < COUNT && !fault; i++)
        if (own[i] != i + p->size - 1)
            fault = fault_format("broadcast in registered memory gives %d for element %d, not %d",
                                 own[i], i, i + p->size - 1);
    if (!fault && !status)
        p->ops.mem_unregister(p->self, &region);
    munmap(mapped, BYTES);
    close(file);
    return fault;
}

static char *memory(peer *p)
{
    char *fault = p->ops.flags & ZDS_COMM_NODE_SHARED ? shared_memory(p) : NULL;
    return !fault && p->ops.mem_register ? registered(p) : fault;
}

/* Any backend takes its own memory. */
static char *alloc_room(peer *p, uint64_t bytes)
{
    p->room = (zds_region){.struct_size = sizeof p->room};
    bench_clear(p->b);
    zds_status status = p->ops.mem_alloc(p->self, bytes, ZDS_MEM_SYMMETRIC, &p->room);
    return status ? bench_failure(p->b, "mem_alloc", status) : NULL;
}

/* === counters === */

static char *alloc_counters(peer *p)
{
    p->counters = (zds_region){.struct_size = sizeof p->counters};
    bench_clear(p->b);
    zds_status status = p->ops.mem_alloc(p->self, 16, ZDS_MEM_COUNTERS, &p->counters);
    return status ? bench_within(bench_failure(p->b, "mem_alloc", status),
                                 "ZDS_MEM_COUNTERS, as its flags say")
                  : NULL;
}

static zds_status wait_count(peer *p, uint64_t index, uint64_t value)
{
    zds_event *done = NULL;
    bench_clear(p->b);
    zds_status status = p->ops.counter_wait(p->self, &p->counters, index, value, "a check", &done);
    if (status || !done)
        return status;
    status = done->ops->wait(done);
    done->ops->release(done);
    return status;
}

/* Nobody has counted what is waited for: it must not be done. */
static char *early_count(peer *p, uint64_t value)
{
    int32_t over = 0;
    zds_event *done = NULL;
    bench_clear(p->b);
    zds_status status = p->ops.counter_wait(p->self, &p->counters, 1, value, "a check", &done);
    if (!status && done)
        status = done->ops->test(done, &over);
    if (status)
        return bench_failure(p->b, "counter_wait", status);
    if (!done || over)
        return fault_format("counter_wait for %llu is done before all ranks have counted",
                            (unsigned long long)value);
    peer_meet(p); /* now the last one counts */
    if (p->rank == 0)
        status = p->ops.counter_add(p->self, &p->counters, 1);
    if (!status)
        status = done->ops->wait(done);
    done->ops->release(done);
    return status ? bench_failure(p->b, "counter_wait", status) : NULL;
}

/* What a rank wrote before it counted, others read after they have waited. */
static char *counters(peer *p)
{
    zds_region shared = {.struct_size = sizeof shared};
    char *fault = alloc_counters(p);
    if (fault)
        return fault;
    zds_status status = p->ops.mem_alloc(p->self, COUNT * 4, ZDS_MEM_SHARED, &shared);
    int32_t *all = shared.base;
    for (int32_t round = 1; round <= 20 && !status && !fault; round++) {
        const int32_t part = COUNT / p->size;
        for (int32_t i = 0; i < part; i++)
            all[p->rank * part + i] = round;
        status = p->ops.counter_add(p->self, &p->counters, 0);
        if (!status)
            status = wait_count(p, 0, (uint64_t)(2 * round - 1) * (uint64_t)p->size);
        for (int32_t i = 0; i < part * p->size && !status && !fault; i++)
            if (all[i] != round)
                fault = fault_format("after counter_wait rank %d does not see what rank %d wrote"
                                     " before it counted",
                                     (int)p->rank, (int)(i / part));
        if (!status && !fault)
            status = p->ops.counter_add(p->self, &p->counters, 0);
        if (!status && !fault)
            status = wait_count(p, 0, (uint64_t)(2 * round) * (uint64_t)p->size);
    }
    if (status)
        return bench_failure(p->b, "a counter", status);
    for (uint64_t value = 1; value <= 3 && !fault; value++)
        fault = early_count(p, value);
    if (!fault) {
        peer_meet(p);
        p->ops.mem_free(p->self, &shared);
        p->ops.mem_free(p->self, &p->counters);
    }
    return fault;
}

char *ranks_counters(bench *b)
{
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.flags & ZDS_COMM_NODE_SHARED)
        return ranks_worlds(b, counters);
    b->skipped = fault_format("its ranks share no pages");
    return NULL;
}

/* === split === */

/* Every other rank, in reverse. */
static char *split(peer *p)
{
    peer child = *p;
    const int32_t color = p->rank % 2, members = (p->size + 1 - color) / 2;
    bench_clear(p->b);
    zds_status status = p->ops.split(p->self, color, -p->rank, &child.self);
    if (status)
        return bench_failure(p->b, "split", status);
    char *fault = alloc_room(&child, 4 * (1 + RANKS_MOST));
    if (fault)
        return fault;
    int32_t *ranks = (int32_t *)child.room.base + 1;
    *(int32_t *)child.room.base = p->rank;
    const zds_coll coll = peer_coll(&child, child.room.base, ranks, 1, ZDS_I32);
    fault = peer_do(&child, "all_gather after split", p->ops.all_gather, &coll);
    for (int32_t m = 0; m < members && !fault; m++)
        if (ranks[m] != color + 2 * (members - 1 - m))
            fault = fault_format("after a split in reverse order member %d of color %d is rank %d, "
                                 "not %d",
                                 (int)m, (int)color, (int)ranks[m],
                                 (int)(color + 2 * (members - 1 - m)));
    if (!fault) {
        p->ops.mem_free(child.self, &child.room);
        p->ops.finalize(child.self);
    }
    const zds_coll barrier = peer_coll(p, NULL, NULL, 0, ZDS_F32);
    return fault ? fault : peer_do(p, "barrier after a split's end", p->ops.barrier, &barrier);
}

char *ranks_memory(bench *b)
{
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.flags & ZDS_COMM_NODE_SHARED || ops.mem_register)
        return ranks_worlds(b, memory);
    b->skipped = fault_format("its ranks share no pages, and it registers none");
    return NULL;
}

char *ranks_split(bench *b)
{
    return ranks_worlds(b, split);
}

/* === ends === */

enum { LOST = 1 }; /* the rank that something happens to */

static const char *const operations[] = {"all_reduce", "reduce_scatter", "barrier", "recv",
                                         "counter_wait"};
enum { RECEIVES = 3, COUNTS = 4, OPERATIONS = sizeof operations / sizeof *operations };

/* Which of them a world tries; set before its ranks are made. */
static int tried;

/* What the operation works on, while all are there. */
static char *prepare_loss(peer *p)
{
    return tried == COUNTS ? alloc_counters(p)
                           : alloc_room(p, sizeof(float) * 2 * COUNT * RANKS_MOST);
}

/* An operation that needs the lost rank. */
static zds_status need_lost(peer *p)
{
    if (tried == COUNTS)
        return wait_count(p, 0, 1);
    float *src = p->room.base, *dst = src + (size_t)COUNT * RANKS_MOST;
    const collective functions[] = {p->ops.all_reduce, p->ops.reduce_scatter, p->ops.barrier,
                                    p->ops.recv};
    zds_coll coll = peer_coll(p, src, dst, COUNT, ZDS_F32);
    coll.peer = LOST;
    return peer_call(p, functions[tried], &coll);
}

/* The call must have failed, for want of that rank. */
static char *loss_fault(peer *p, const char *what, zds_status status, const char *how)
{
    const char *text = p->b->error;
    if (status == ZDS_OK)
        return fault_format("%s comes to its end although rank %d %s", what, LOST, how);
    if (status != ZDS_ERR_PEER || !text)
        return bench_within(bench_failure(p->b, what, status), "rank %d %s, which is ZDS_ERR_PEER",
                            LOST, how);
    if (!strchr(text, '0' + LOST))
        return fault_format("rank %d %s, but the error does not name it: %s", LOST, how, text);
    return NULL;
}

static char *bereaved(peer *p)
{
    bench_at("%d ranks: %s when a peer has died", (int)p->size, operations[tried]);
    char *fault = prepare_loss(p);
    if (fault)
        return fault;
    peer_meet(p);
    if (p->rank == LOST) {
        peer_leaves(p);
        kill(getpid(), SIGKILL);
    }
    return loss_fault(p, operations[tried], need_lost(p), "has died");
}

static char *ignored(peer *p)
{
    bench_at("%d ranks: %s when a peer is silent", (int)p->size, operations[tried]);
    char *fault = prepare_loss(p);
    if (fault)
        return fault;
    peer_meet(p);
    if (p->rank != LOST)
        fault = loss_fault(p, operations[tried], need_lost(p), "is silent");
    if (!fault)
        peer_meet(p);
    return fault;
}

static char *alone(peer *p)
{
    bench_at("init when rank %d of %d never comes", LOST, LOST + 1);
    peer_leaves(p);
    zds_status status = peer_init(p);
    return loss_fault(p, "init", status, "never comes");
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The others wait in an operation when the lost one gives up. */
static char *given_up(peer *p)
{
    bench_at("%d ranks: %s when a peer aborts", (int)p->size, operations[tried]);
    char *fault = prepare_loss(p);
    if (fault)
        return fault;
    peer_meet(p);
    if (p->rank == LOST) {
        nanosleep(&(struct timespec){0, 20000000}, NULL);
        p->ops.abort(p->self, "a reason");
    } else {
        const int64_t start = now_ms();
        fault = loss_fault(p, operations[tried], need_lost(p), "has aborted");
        if (!fault && now_ms() - start >= RANKS_TIMEOUT_MS)
            fault = fault_format("abort of rank %d ends no wait here before the timeout", LOST);
    }
    if (!fault)
        peer_meet(p);
    return fault;
}

static char *try_operations(bench *b, int32_t timeout_ms, int first, int last, peer_body body)
{
    char *fault = NULL;
    int32_t size = RANKS_MOST;
    b->skipped = ranks_refused(b, size);
    if (b->skipped) {
        fault_free(b->skipped);
        b->skipped = ranks_refused(b, --size);
    }
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    for (tried = first; tried <= last && !fault && !b->skipped; tried++)
        if ((tried != RECEIVES || ops.recv) &&
            (tried != COUNTS || ops.flags & ZDS_COMM_NODE_SHARED))
            fault = ranks_run(b, size, timeout_ms, body);
    return fault;
}

char *ranks_death(bench *b)
{
    return try_operations(b, SHORT_MS, 0, OPERATIONS - 1, bereaved);
}

char *ranks_silence(bench *b)
{
    char *fault = try_operations(b, SHORT_MS, 0, 0, ignored);
    if (fault || b->skipped)
        return fault;
    b->skipped = ranks_refused(b, LOST + 1);
    return b->skipped ? NULL : ranks_first(b, LOST + 1, SHORT_MS, alone);
}

char *ranks_abort(bench *b)
{
    return try_operations(b, RANKS_TIMEOUT_MS, 0, 0, given_up);
}

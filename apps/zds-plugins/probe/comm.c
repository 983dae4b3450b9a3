/* The checks of a communication backend in a world of one rank, and the table of all its checks. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "area.h"
#include "bench.h"
#include "host/bootstrap.h"
#include "late.h"
#include "numbers.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "ranks.h"

enum { COUNT = 2100 };

typedef struct world {
    bench *b;
    zds_comm_ops ops;
    void *options, *self;
    bool opened;
    bootstrap *meeting;
    zds_region src, dst;
} world;

static const zds_comm_env env = {.struct_size = sizeof env,
                                 .world_size = 1,
                                 .local_world_size = 1,
                                 .master_addr = "127.0.0.1",
                                 .timeout_ms = 2000};

static char *fail(const world *w, const char *function, zds_status status)
{
    return bench_failure(w->b, function, status);
}

static char *open_world(world *w, bench *b)
{
    char *fault = NULL;
    *w = (world){.b = b};
    plugin_ops(b->plugin, &w->ops, sizeof w->ops);
    cJSON *values = values_required(b->plugin);
    w->options = values_options(b->plugin, values, &fault);
    cJSON_Delete(values);
    if (fault)
        return fault;
    zds_comm_env full = env;
    w->meeting = bootstrap_open(&env);
    if (!w->meeting)
        return fault_format("there is no memory for the check");
    full.bootstrap = bootstrap_offer(w->meeting);
    bench_clear(b);
    zds_status status = w->ops.init(&b->host, w->options, &full, &w->self);
    w->opened = status == ZDS_OK;
    return status ? fail(w, "init", status) : NULL;
}

static void close_world(world *w)
{
    if (w->src.base)
        w->ops.mem_free(w->self, &w->src);
    if (w->dst.base)
        w->ops.mem_free(w->self, &w->dst);
    if (w->opened)
        w->ops.finalize(w->self);
    bootstrap_close(w->meeting);
    options_destroy(w->options);
}

/* A backend may be for several ranks alone. */
static char *in_world(bench *b, char *(*body)(world *w))
{
    world w;
    b->skipped = ranks_refused(b, 1);
    if (b->skipped)
        return NULL;
    char *fault = open_world(&w, b);
    if (!fault)
        fault = body(&w);
    close_world(&w);
    return fault;
}

static char *nothing(world *w)
{
    (void)w;
    return NULL;
}

static char *nothing_more(peer *p)
{
    (void)p;
    return NULL;
}

static char *init_check(bench *b)
{
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (ops.suits(&env) != ops.suits(&env))
        return fault_format("suits says something else when it is asked again");
    if (!(ops.spaces & ZDS_SPACE_BIT(ZDS_SPACE_HOST))) {
        b->skipped = fault_format("it moves device memory; this check has only the host");
        return NULL;
    }
    int32_t size = 1;
    b->skipped = ranks_refused(b, size);
    while (b->skipped && size < RANKS_MOST) {
        fault_free(b->skipped);
        b->skipped = ranks_refused(b, ++size);
    }
    if (b->skipped)
        return NULL;
    return size == 1 ? in_world(b, nothing) : ranks_run(b, size, RANKS_TIMEOUT_MS, nothing_more);
}

/* === memory === */

static char *region_fault(const world *w, const zds_region *region, uint64_t bytes)
{
    if (!region->base || region->bytes < bytes)
        return fault_format("mem_alloc of %llu bytes gives %llu at %p", (unsigned long long)bytes,
                            (unsigned long long)region->bytes, region->base);
    if ((uintptr_t)region->base % 64)
        return fault_format("mem_alloc gives %p, which is not aligned to 64 bytes", region->base);
    for (uint64_t i = 0; i < bytes; i++)
        if (((const char *)region->base)[i])
            return fault_format("mem_alloc gives memory that is not zero at byte %llu",
                                (unsigned long long)i);
    memset(region->base, 7, (size_t)bytes);
    if (!region->read_only || ((const char *)region->read_only)[bytes - 1] != 7)
        return fault_format("read_only of a region does not show what is written to base");
    memset(region->base, 0, (size_t)bytes);
    (void)w;
    return NULL;
}

static char *alloc_both(world *w, uint64_t bytes)
{
    zds_region *const both[] = {&w->src, &w->dst};
    for (int i = 0; i < 2; i++) {
        bench_room room;
        bench_clear(w->b);
        zds_status status =
            w->ops.mem_alloc(w->self, bytes, ZDS_MEM_SYMMETRIC, bench_fill(&room, sizeof *both[i]));
        char *fault = bench_filled(&room, sizeof *both[i], both[i], "mem_alloc");
        if (!fault)
            fault = status ? fail(w, "mem_alloc", status) : region_fault(w, both[i], bytes);
        if (fault)
            return fault;
    }
    return NULL;
}

static char *shared_memory(world *w)
{
    zds_region region = {.struct_size = sizeof region};
    if (!(w->ops.flags & ZDS_COMM_NODE_SHARED))
        return NULL;
    zds_status status = w->ops.mem_alloc(w->self, 100000, ZDS_MEM_SHARED, &region);
    if (status)
        return bench_within(fail(w, "mem_alloc", status), "ZDS_MEM_SHARED, as its flags say");
    char *fault = region_fault(w, &region, 100000);
    w->ops.mem_free(w->self, &region);
    return bench_within(fault, "ZDS_MEM_SHARED");
}

static char *memory(world *w)
{
    char *fault = alloc_both(w, 5000);
    return fault ? fault : shared_memory(w);
}

static char *memory_check(bench *b)
{
    return in_world(b, memory);
}

/* === operations === */

static char *finish(const world *w, const char *what, zds_status status, zds_event *done)
{
    int32_t over = 0;
    if (status)
        return fail(w, what, status);
    char *fault = done ? bench_event_fault(done) : NULL;
    if (!done || fault)
        return fault;
    if (w->ops.progress && !(w->ops.flags & ZDS_COMM_AUTO_PROGRESS))
        w->ops.progress(w->self);
    status = done->ops->test(done, &over);
    if (!status)
        status = done->ops->wait(done);
    done->ops->release(done);
    return status ? fail(w, what, status) : NULL;
}

/* What one rank sends comes back, for sums, means and maxima alike. */
static char *expect_copy(const world *w, const char *what, zds_dtype dtype)
{
    const size_t bytes = COUNT * zds_dtype_size(dtype);
    if (memcmp(w->src.base, w->dst.base, bytes) != 0)
        return fault_format("%s of %s in a world of one does not give the values themselves", what,
                            dtype_name(dtype));
    for (size_t i = bytes; i < bytes + 64; i++)
        if (((const char *)w->dst.base)[i])
            return fault_format("%s of %s writes past the end of dst", what, dtype_name(dtype));
    return NULL;
}

typedef struct source {
    void *base;
    zds_dtype dtype;
} source;

static void write_source(void *arg)
{
    const source *s = arg;
    for (uint64_t i = 0; i < COUNT; i++)
        number_write(s->base, s->dtype, i, fabs(number_random(5, i)) * 20);
}

/* The source is written when the operation waits for it. */
static char *run_one(world *w, const char *what, collective function, zds_dtype dtype, int32_t op)
{
    late_event late;
    source from = {w->src.base, dtype};
    zds_event *done = NULL, *const waits[] = {&late.base, NULL};
    late_init(&late, write_source, &from);
    const zds_coll coll = {.struct_size = sizeof coll,
                           .tag = 1,
                           .src = w->src.base,
                           .dst = w->dst.base,
                           .count = COUNT,
                           .src_dtype = dtype,
                           .dst_dtype = dtype,
                           .op = op,
                           .waits = waits,
                           .wait_count = 2};
    memset(w->src.base, 0, (size_t)w->src.bytes);
    memset(w->dst.base, 0, (size_t)w->dst.bytes);
    bench_clear(w->b);
    zds_status status = function(w->self, &coll, &done);
    char *fault = finish(w, what, status, done);
    if (!fault && !late.done)
        fault = fault_format("%s does not wait for the event in its waits", what);
    return fault ? fault : expect_copy(w, what, dtype);
}

static char *reductions(world *w)
{
    static const int32_t kinds[] = {ZDS_SUM, ZDS_AVG, ZDS_MAX};
    char *fault = alloc_both(w, COUNT * 8 + 64);
    for (zds_dtype d = 0; d < ZDS_DTYPE_COUNT; d++)
        for (int k = 0; k < 3 && !fault && w->ops.reduce_dtypes & ZDS_DTYPE_BIT(d); k++) {
            fault = run_one(w, "all_reduce", w->ops.all_reduce, d, kinds[k]);
            if (!fault)
                fault = run_one(w, "reduce", w->ops.reduce, d, kinds[k]);
            if (!fault)
                fault = run_one(w, "reduce_scatter", w->ops.reduce_scatter, d, kinds[k]);
        }
    return fault;
}

static char *moves(world *w)
{
    char *fault = alloc_both(w, COUNT * 8 + 64);
    for (zds_dtype d = 0; d < ZDS_DTYPE_COUNT && !fault; d++) {
        fault = run_one(w, "all_gather", w->ops.all_gather, d, ZDS_SUM);
        if (!fault)
            fault = run_one(w, "broadcast", w->ops.broadcast, d, ZDS_SUM);
        if (!fault)
            fault = run_one(w, "all_to_all", w->ops.all_to_all, d, ZDS_SUM);
    }
    late_event late;
    zds_event *done = NULL, *const waits[] = {&late.base, NULL};
    late_init(&late, NULL, NULL);
    const zds_coll coll = {.struct_size = sizeof coll, .tag = 2, .waits = waits, .wait_count = 2};
    if (!fault)
        fault = finish(w, "barrier", w->ops.barrier(w->self, &coll, &done), done);
    return fault || late.done ? fault
                              : fault_format("barrier does not wait for the event in its waits");
}

static char *reductions_check(bench *b)
{
    return in_world(b, reductions);
}

static char *moves_check(bench *b)
{
    return in_world(b, moves);
}

/* === fused === */

enum { SEGMENTS = 2, CHUNK = 1024, CHUNKS = 3 };
static const zds_segment segments[SEGMENTS] = {{3, 1030}, {1100, 900}};

/* The sum of squares of a chunk, in the order that plugin.h prescribes. */
static double chunk_sum(const float *values, uint64_t count)
{
    double lanes[16] = {0};
    for (uint64_t i = 0; i < count; i++)
        lanes[i % 16] += (double)values[i] * (double)values[i];
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static char *expect_fused(const world *w, const double *sums, uint64_t non_finite)
{
    const float *dst = w->dst.base;
    size_t chunk = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        float g = (float)number_random(6, i);
        float right = (float)i + 0.5f * (0.25f * g);
        if (i != 50 && dst[i] != right)
            return fault_format("gives %.9g for element %llu, not %.9g", (double)dst[i],
                                (unsigned long long)i, (double)right);
    }
    for (int s = 0; s < SEGMENTS; s++)
        for (uint64_t at = 0; at < segments[s].count; at += CHUNK, chunk++) {
            uint64_t left = segments[s].count - at;
            double right = chunk_sum(dst + segments[s].first + at, left < CHUNK ? left : CHUNK);
            if (s + at > 0 && !number_same(right, sums[chunk]))
                return fault_format("chunk %zu has the sum of squares %.17g, not %.17g", chunk,
                                    sums[chunk], right);
        }
    return non_finite == 1 ? NULL
                           : fault_format("it counts %llu non-finite elements where there is one",
                                          (unsigned long long)non_finite);
}

static char *run_fused(world *w, collective function)
{
    double sums[CHUNKS] = {0};
    uint64_t non_finite = 99;
    zds_event *done = NULL;
    for (uint64_t i = 0; i < COUNT; i++) {
        ((float *)w->src.base)[i] = i == 50 ? NAN : (float)number_random(6, i);
        ((float *)w->dst.base)[i] = (float)i;
    }
    const zds_fused how = {.struct_size = sizeof how,
                           .prescale = 0.25,
                           .postscale = 0.5,
                           .accumulate = 1,
                           .segments = segments,
                           .segment_stride = sizeof *segments,
                           .segment_count = SEGMENTS,
                           .chunk_sums = sums,
                           .non_finite = &non_finite};
    const zds_coll coll = {.struct_size = sizeof coll,
                           .tag = 3,
                           .src = w->src.base,
                           .dst = w->dst.base,
                           .count = COUNT,
                           .src_dtype = ZDS_F32,
                           .dst_dtype = ZDS_F32,
                           .fused = &how};
    bench_clear(w->b);
    zds_status status = function(w->self, &coll, &done);
    char *fault = finish(w, "it", status, done);
    return fault ? fault : expect_fused(w, sums, non_finite);
}

static char *fused(world *w)
{
    char *fault = alloc_both(w, COUNT * 8 + 64);
    if (!fault)
        fault = bench_within(run_fused(w, w->ops.reduce_scatter), "reduce_scatter");
    if (!fault)
        fault = bench_within(run_fused(w, w->ops.reduce), "reduce");
    return fault;
}

static char *fused_check(bench *b)
{
    zds_comm_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (!(ops.flags & ZDS_COMM_FUSED)) {
        b->skipped = fault_format("its flags do not say ZDS_COMM_FUSED");
        return NULL;
    }
    return in_world(b, fused);
}

/* === the rest === */

static char *splitting(world *w)
{
    world child = *w;
    bench_clear(w->b);
    zds_status status = w->ops.split(w->self, 0, 0, &child.self);
    if (status)
        return fail(w, "split", status);
    child.src = child.dst = (zds_region){0};
    char *fault = moves(&child);
    child.options = NULL; /* the parent's, both */
    child.meeting = NULL;
    close_world(&child);
    return bench_within(fault, "in a communicator of split");
}

static char *split_check(bench *b)
{
    return in_world(b, splitting);
}

static char *leaks(bench *b)
{
    return bench_leaks(b, moves_check);
}

const check checks_comm[] = {{"init and finalize", init_check, true},
                             {"memory", memory_check, true},
                             {"reductions of its types", reductions_check, false},
                             {"moving any type", moves_check, false},
                             {"fused reduction", fused_check, false},
                             {"split", split_check, false},
                             {"reductions of several ranks", ranks_reductions, false},
                             {"moves between ranks", ranks_moves, false},
                             {"fused reduction of several ranks", ranks_fused, false},
                             {"progress by itself", ranks_unpushed, false},
                             {"memory that ranks share", ranks_memory, false},
                             {"counters of several ranks", ranks_counters, false},
                             {"split of several ranks", ranks_split, false},
                             {"a peer that dies", ranks_death, false},
                             {"a peer that is silent", ranks_silence, false},
                             {"a peer that aborts", ranks_abort, false},
                             {"no leaks", leaks, false},
                             {NULL, NULL, false}};

/* Every collective of the comm plugins at 1 to 4 ranks, for every element type, in and out of
 * regions, in place and not, against formulas over small integers. */
#include <criterion/criterion.h>

#include "comm_values.h"

typedef struct wanted {
    int32_t op;
    zds_dtype dtype;
    uint64_t count;
    bool region, in_place;
} wanted;

typedef zds_status (*call)(void *self, const zds_coll *coll, zds_event **done);

/* Buffers of a rank: in one symmetric region, or private. */
typedef struct buffers {
    zds_region region;
    char *src, *dst;
    void *private_src, *private_dst;
} buffers;

static buffers get_buffers(const rank *me, uint64_t src_bytes, uint64_t dst_bytes, bool region)
{
    buffers b = {.region = {.struct_size = sizeof b.region}};
    if (region) {
        NEED(me->ops->mem_alloc(me->self, src_bytes + dst_bytes + 128, ZDS_MEM_SYMMETRIC,
                                &b.region) == ZDS_OK,
             "mem_alloc");
        b.src = b.region.base;
        b.dst = b.src + (src_bytes + 63) / 64 * 64;
    } else {
        b.src = b.private_src = host_alloc(NULL, src_bytes, 0);
        b.dst = b.private_dst = host_alloc(NULL, dst_bytes, 0);
    }
    return b;
}

static void put_buffers(const rank *me, buffers *b)
{
    if (b->region.handle)
        me->ops->mem_free(me->self, &b->region);
    free(b->private_src);
    free(b->private_dst);
}

static void run(const rank *me, call f, const wanted *w, const void *src, void *dst, int32_t root)
{
    zds_event *done = NULL;
    zds_coll c = {.struct_size = sizeof c,
                  .tag = 77,
                  .src = src,
                  .dst = dst,
                  .count = w->count,
                  .src_dtype = w->dtype,
                  .dst_dtype = w->dtype,
                  .op = w->op,
                  .peer = root};
    NEED(f(me->self, &c, &done) == ZDS_OK, "issue");
    NEED(finish(done) == ZDS_OK, "wait");
}

static void check_reduced(const rank *me, const wanted *w, const void *dst, uint64_t first,
                          const char *what)
{
    for (uint64_t i = 0; i < w->count; i++)
        NEED(get_value(dst, w->dtype, i) == reduced(me->size, w->op, w->dtype, first + i),
             "%s rank %d/%d dtype %d op %d region %d in place %d element %llu: %g, not %g", what,
             (int)me->rank, (int)me->size, (int)w->dtype, (int)w->op, w->region, w->in_place,
             (unsigned long long)i, get_value(dst, w->dtype, i),
             reduced(me->size, w->op, w->dtype, first + i));
}

static void reductions(const rank *me, const wanted *w)
{
    size_t size = zds_dtype_size(w->dtype);
    uint64_t all = w->count * (uint64_t)me->size;
    buffers b = get_buffers(me, all * size, w->count * size, w->region);
    fill(b.src, w->dtype, all, me->rank, 0);
    void *dst = w->in_place ? b.src + (uint64_t)me->rank * w->count * size : b.dst;
    run(me, me->ops->reduce_scatter, w, b.src, dst, 0);
    check_reduced(me, w, dst, (uint64_t)me->rank * w->count, "reduce_scatter");

    fill(b.src, w->dtype, w->count, me->rank, 0);
    dst = w->in_place ? b.src : b.dst;
    run(me, me->ops->all_reduce, w, b.src, dst, 0);
    check_reduced(me, w, dst, 0, "all_reduce");

    for (int32_t root = 0; root < me->size; root++) {
        fill(b.src, w->dtype, w->count, me->rank, 0);
        run(me, me->ops->reduce, w, b.src, dst, root);
        if (me->rank == root)
            check_reduced(me, w, dst, 0, "reduce");
    }
    put_buffers(me, &b);
}

static void check_gathered(const rank *me, const wanted *w, const char *dst, uint64_t offset,
                           const char *what)
{
    size_t size = zds_dtype_size(w->dtype);
    for (int32_t r = 0; r < me->size; r++)
        for (uint64_t i = 0; i < w->count; i++)
            NEED(get_value(dst + (uint64_t)r * w->count * size, w->dtype, i) ==
                     value_of(r, offset + i, w->dtype),
                 "%s rank %d/%d dtype %d region %d in place %d: part %d element %llu", what,
                 (int)me->rank, (int)me->size, (int)w->dtype, w->region, w->in_place, (int)r,
                 (unsigned long long)i);
}

static void copies(const rank *me, const wanted *w)
{
    size_t size = zds_dtype_size(w->dtype);
    uint64_t all = w->count * (uint64_t)me->size;
    buffers b = get_buffers(me, all * size, all * size, w->region);
    void *src = w->in_place ? b.dst + (uint64_t)me->rank * w->count * size : b.src;
    fill(src, w->dtype, w->count, me->rank, 0);
    run(me, me->ops->all_gather, w, src, b.dst, 0);
    check_gathered(me, w, b.dst, 0, "all_gather");

    fill(b.src, w->dtype, all, me->rank, 0);
    run(me, me->ops->all_to_all, w, b.src, b.dst, 0);
    check_gathered(me, w, b.dst, (uint64_t)me->rank * w->count, "all_to_all");

    for (int32_t root = 0; root < me->size; root++) {
        src = w->in_place ? b.dst : b.src;
        fill(src, w->dtype, w->count, me->rank, 3);
        run(me, me->ops->broadcast, w, src, b.dst, root);
        for (uint64_t i = 0; i < w->count; i++)
            NEED(get_value(b.dst, w->dtype, i) == value_of(root, 3 + i, w->dtype),
                 "broadcast from %d", (int)root);
    }
    put_buffers(me, &b);
}

static const uint64_t counts[] = {0, 1, 3, 64, 1025, 40961};

static void all_dtypes(rank *me, void *arg)
{
    (void)arg;
    for (zds_dtype dtype = 0; dtype < ZDS_DTYPE_COUNT; dtype++)
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
            for (int flags = 0; flags < 4; flags++) {
                wanted w = {
                    .dtype = dtype, .count = counts[k], .region = flags & 1, .in_place = flags & 2};
                for (w.op = ZDS_SUM; w.op <= ZDS_MAX; w.op++)
                    reductions(me, &w);
                copies(me, &w);
            }
}

static void expect(const char *plugin, int32_t size, void (*body)(rank *, void *))
{
    world_run w = {.plugin = plugin, .size = size, .timeout_ms = 20000, .body = body};
    cr_expect_eq(run_world(&w), 0, "%s with %d ranks", plugin, (int)size);
}

Test(comm_ops, self)
{
    expect("self", 1, all_dtypes);
}

Test(comm_ops, shm, .timeout = 120)
{
    for (int32_t n = 1; n <= 4; n++)
        expect("shm", n, all_dtypes);
}

/* The test backend that plays 4095 absent ranks: each operation gives what as many equal ranks
 * would. */
#include <criterion/criterion.h>

#include "comm_values.h"

enum { SIZE = 4096, COUNT = 5 };

static const zds_comm_ops *open_copies(int which)
{
    void *file = dlopen(TEST_BINARY_DIR "/tests/plugins/comm_copies.so", RTLD_NOW | RTLD_LOCAL);
    cr_assert(file, "%s", dlerror());
    const zds_plugin *const *list = dlsym(file, "zds_plugin_v1");
    return list[which]->ops;
}

static rank join(int which, int32_t r)
{
    rank me = {.ops = open_copies(which), .rank = r, .size = SIZE};
    zds_comm_env env = rank_env(r, SIZE, 1, 1000);
    cr_assert_eq(me.ops->init(&test_host, NULL, &env, &me.self), ZDS_OK);
    return me;
}

static void run(const rank *me, zds_status (*f)(void *, const zds_coll *, zds_event **),
                const void *src, void *dst, zds_dtype dtype, int32_t op)
{
    zds_event *done = NULL;
    const zds_coll c = {.struct_size = sizeof c,
                        .src = src,
                        .dst = dst,
                        .count = COUNT,
                        .src_dtype = dtype,
                        .dst_dtype = dtype,
                        .op = op,
                        .peer = me->rank};
    cr_assert_eq(f(me->self, &c, &done), ZDS_OK, "%s", last_error);
    cr_assert_eq(finish(done), ZDS_OK);
}

Test(comm_copies, reduces)
{
    rank me = join(0, 3);
    static float src[SIZE * COUNT];
    float dst[COUNT] = {0};
    for (int i = 0; i < SIZE * COUNT; i++)
        src[i] = (float)(i % 1000);
    run(&me, me.ops->all_reduce, src, dst, ZDS_F32, ZDS_SUM);
    for (int i = 0; i < COUNT; i++)
        cr_expect_eq(dst[i], src[i] * SIZE);
    run(&me, me.ops->reduce, src, dst, ZDS_F32, ZDS_AVG);
    for (int i = 0; i < COUNT; i++)
        cr_expect_eq(dst[i], src[i]);
    run(&me, me.ops->reduce_scatter, src, dst, ZDS_F32, ZDS_SUM);
    for (int i = 0; i < COUNT; i++)
        cr_expect_eq(dst[i], src[3 * COUNT + i] * SIZE);
    unsigned char bytes[COUNT] = {0, 1, 0, 1, 7};
    run(&me, me.ops->all_reduce, bytes, bytes, ZDS_U8, ZDS_MAX);
    cr_expect(bytes[1] == 1 && bytes[2] == 0 && bytes[4] == 7);
    me.ops->finalize(me.self);
}

Test(comm_copies, moves)
{
    rank me = join(0, 3);
    static int32_t src[SIZE * COUNT], dst[SIZE * COUNT];
    for (int i = 0; i < SIZE * COUNT; i++)
        src[i] = i;
    run(&me, me.ops->all_gather, src, dst, ZDS_I32, ZDS_SUM);
    for (int i = 0; i < SIZE * COUNT; i++)
        cr_assert_eq(dst[i], i % COUNT);
    run(&me, me.ops->all_to_all, src, dst, ZDS_I32, ZDS_SUM);
    for (int i = 0; i < SIZE * COUNT; i++)
        cr_assert_eq(dst[i], 3 * COUNT + i % COUNT);
    run(&me, me.ops->broadcast, src, dst, ZDS_I32, ZDS_SUM);
    cr_expect_eq(dst[4], 4);
    run(&me, me.ops->barrier, NULL, NULL, ZDS_F32, ZDS_SUM);
    void *child = NULL;
    cr_assert_eq(me.ops->split(me.self, 0, 0, &child), ZDS_OK);
    me.ops->finalize(child);
    me.ops->finalize(me.self);
}

Test(comm_copies, fuses)
{
    rank me = join(0, 0);
    float src[SIZE * COUNT], dst[COUNT] = {1, 1, 1, 1, 1};
    for (int i = 0; i < COUNT; i++)
        src[i] = (float)i;
    double sums[1] = {0};
    uint64_t wrong = 9;
    const zds_segment all = {0, COUNT};
    const zds_fused fused = {.struct_size = sizeof fused,
                             .prescale = 1,
                             .postscale = 1.0 / SIZE,
                             .accumulate = 1,
                             .segments = &all,
                             .segment_stride = sizeof all,
                             .segment_count = 1,
                             .chunk_sums = sums,
                             .non_finite = &wrong};
    const zds_coll c = {
        .struct_size = sizeof c, .src = src, .dst = dst, .count = COUNT, .fused = &fused};
    zds_event *done = NULL;
    cr_assert_eq(me.ops->reduce_scatter(me.self, &c, &done), ZDS_OK);
    for (int i = 0; i < COUNT; i++)
        cr_expect_eq(dst[i], (float)(i + 1));
    cr_expect_eq(sums[0], 55);
    cr_expect_eq(wrong, 0);
    me.ops->finalize(me.self);
}

Test(comm_copies, counts)
{
    rank me = join(1, 0);
    zds_region counters = {.struct_size = sizeof counters};
    zds_event *done = NULL;
    cr_assert_eq(me.ops->mem_alloc(me.self, 800, ZDS_MEM_COUNTERS, &counters), ZDS_OK);
    cr_assert_eq(me.ops->counter_add(me.self, &counters, 99), ZDS_OK);
    cr_expect_eq(me.ops->counter_wait(me.self, &counters, 99, SIZE, "x", &done), ZDS_OK);
    cr_expect_eq(me.ops->counter_wait(me.self, &counters, 99, SIZE + 1, "x", &done), ZDS_ERR_PEER);
    cr_expect_eq(me.ops->counter_wait(me.self, &counters, 0, 1, "x", &done), ZDS_ERR_PEER);
    me.ops->mem_free(me.self, &counters);
    me.ops->finalize(me.self);
}

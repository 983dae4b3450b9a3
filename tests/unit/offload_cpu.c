/* The host's memory as a tier: zeroed, writable to its last byte, aligned, given back. */
#include <inttypes.h>

#include "plugin_harness.h"

typedef struct tier {
    harness h;
    const zds_offload_ops *ops;
    void *self;
} tier;

static void tier_open(tier *t)
{
    harness_init(&t->h);
    t->ops = plugin_open("offload_cpu", "cpu")->ops;
    zds_offload_env env = {.struct_size = sizeof env, .device = -1};
    cr_assert_eq(t->ops->open(&t->h.host, NULL, &env, &t->self), ZDS_OK);
}

static void tier_close(tier *t)
{
    t->ops->close(t->self);
    cr_assert_eq(t->h.live, 0);
}

/* Lines of /proc/self/maps: one more or fewer for each mapping made or given back. */
static int mappings(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    cr_assert_not_null(f);
    int lines = 0;
    for (int c; (c = fgetc(f)) != EOF;)
        lines += c == '\n';
    fclose(f);
    return lines;
}

Test(offload_cpu, blocks_are_zeroed_and_whole)
{
    static const uint64_t sizes[] = {1, 64, 4096, 4097, (2 << 20) - 1, 2 << 20, (9 << 20) + 5};
    tier t;
    tier_open(&t);
    cr_assert(t.ops->flags & ZDS_OFFLOAD_DIRECT);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        zds_block block = {.struct_size = sizeof block};
        cr_assert_eq(t.ops->alloc(t.self, sizes[i], &block), ZDS_OK);
        cr_assert_eq(block.bytes, sizes[i]);
        cr_assert_eq(block.device.space, ZDS_SPACE_HOST);
        uintptr_t align = sizes[i] >= 2 << 20 ? 64 : 4096;
        cr_assert_eq((uintptr_t)block.pointer % align, 0);
        unsigned char *bytes = block.pointer;
        for (uint64_t k = 0; k < sizes[i]; k++)
            cr_assert_eq(bytes[k], 0, "byte %" PRIu64 " of %" PRIu64, k, sizes[i]);
        memset(bytes, 0xff, sizes[i]);
        t.ops->free(t.self, &block);
    }
    tier_close(&t);
}

/* Of weights, gradients and states of the same size, that no two meet in a cache. */
Test(offload_cpu, large_blocks_are_no_power_of_two_apart)
{
    enum { BLOCKS = 5, APART = 1 << 20, NEAR = 4096 };
    tier t;
    zds_block blocks[BLOCKS] = {0};
    tier_open(&t);
    for (int i = 0; i < BLOCKS; i++)
        cr_assert_eq(t.ops->alloc(t.self, 16 << 20, &blocks[i]), ZDS_OK);
    for (int i = 0; i < BLOCKS; i++)
        for (int k = 0; k < i; k++) {
            uintptr_t apart = (uintptr_t)blocks[i].pointer - (uintptr_t)blocks[k].pointer;
            cr_assert_geq(apart % APART, NEAR, "blocks %d and %d", i, k);
            cr_assert_leq(apart % APART, APART - NEAR, "blocks %d and %d", i, k);
        }
    for (int i = 0; i < BLOCKS; i++)
        t.ops->free(t.self, &blocks[i]);
    tier_close(&t);
}

Test(offload_cpu, an_empty_block_has_no_pointer)
{
    tier t;
    tier_open(&t);
    zds_block block = {.struct_size = sizeof block};
    cr_assert_eq(t.ops->alloc(t.self, 0, &block), ZDS_OK);
    cr_assert_null(block.pointer);
    t.ops->free(t.self, &block);
    tier_close(&t);
}

Test(offload_cpu, memory_goes_back)
{
    tier t;
    tier_open(&t);
    zds_block blocks[8] = {0};
    int before = mappings();
    for (int round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < 8; i++)
            cr_assert_eq(t.ops->alloc(t.self, (3 << 20) << (i % 2), &blocks[i]), ZDS_OK);
        for (int i = 0; i < 8; i++)
            t.ops->free(t.self, &blocks[i]);
    }
    cr_assert(mappings() <= before + 2, "%d mappings, before %d", mappings(), before);
    tier_close(&t);
}

Test(offload_cpu, says_what_it_is)
{
    tier t;
    tier_open(&t);
    zds_offload_info info = {.struct_size = sizeof info};
    cr_assert_eq(t.ops->query(t.self, &info), ZDS_OK);
    cr_assert_eq(info.device.space, ZDS_SPACE_HOST);
    cr_assert_eq(info.device.ordinal, 0);
    cr_assert(info.reaches & ZDS_SPACE_BIT(ZDS_SPACE_HOST));
    cr_assert_gt(info.free_bytes, 0);
    cr_assert_leq(info.free_bytes, info.total_bytes);
    cr_assert_eq(info.total_bytes,
                 (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    tier_close(&t);
}

Test(offload_cpu, a_view_is_the_memory_itself_and_leaves_it)
{
    tier t;
    tier_open(&t);
    guarded memory = guarded_alloc(4096, true);
    zds_block view = {.struct_size = sizeof view};
    memset(memory.data, 7, 4096);
    int before = mappings();
    char *start = (char *)memory.data + 5;
    cr_assert_eq(t.ops->adopt(t.self, start, 100, &view), ZDS_OK);
    cr_assert_eq(view.pointer, start);
    cr_assert_eq(view.bytes, 100);
    cr_assert_eq(view.device.space, ZDS_SPACE_HOST);
    t.ops->free(t.self, &view);
    for (int i = 0; i < 4096; i++)
        cr_assert_eq(((char *)memory.data)[i], 7);
    cr_assert_eq(mappings(), before);
    guarded_free(&memory);
    tier_close(&t);
}

Test(offload_cpu, what_cannot_be_had_is_an_error)
{
    static const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX / 2, (uint64_t)1 << 60};
    tier t;
    tier_open(&t);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        zds_block block = {.struct_size = sizeof block};
        cr_assert_eq(t.ops->alloc(t.self, sizes[i], &block), ZDS_ERR_MEMORY);
        cr_assert_null(block.pointer);
        char size[32];
        snprintf(size, sizeof size, "%" PRIu64, sizes[i]);
        cr_assert(strstr(t.h.error, size), "%s", t.h.error);
    }
    tier_close(&t);
}

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
        cr_assert_eq(block.space, ZDS_SPACE_HOST);
        uintptr_t align = sizes[i] >= 2 << 20 ? 2 << 20 : 4096;
        cr_assert_eq((uintptr_t)block.pointer % align, 0);
        unsigned char *bytes = block.pointer;
        for (uint64_t k = 0; k < sizes[i]; k++)
            cr_assert_eq(bytes[k], 0, "byte %" PRIu64 " of %" PRIu64, k, sizes[i]);
        memset(bytes, 0xff, sizes[i]);
        t.ops->free(t.self, &block);
    }
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

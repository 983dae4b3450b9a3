/* The host's own memory as a tier: huge pages where they help, used in place. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "zds/plugin.h"

/* Blocks that an update walks along together must not lie a multiple of a large power of two apart,
 * where they meet in the same banks and cache sets: large ones begin behind a huge page's start,
 * each STAGGER further than the one before, in turns. */
enum { HUGE_PAGE = 2 << 20, STAGGER = 65536 + 64, TURNS = 15 };

typedef struct tier {
    const zds_host *host;
    uint64_t large; /* blocks so far */
} tier;

static zds_status open_tier(const zds_host *host, const void *options, const zds_offload_env *env,
                            void **self)
{
    (void)options;
    (void)env;
    tier *t = host->alloc(host, sizeof *t, 0);
    if (!t)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a tier");
    t->host = host;
    *self = t;
    return ZDS_OK;
}

static void close_tier(void *self)
{
    tier *t = self;
    t->host->free(t->host, t);
}

/* What programs can have without swapping: of /proc/meminfo, in KiB. */
static uint64_t available_bytes(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

static zds_status query(void *self, zds_offload_info *info)
{
    (void)self;
    const long page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_PHYS_PAGES);
    info->device = (zds_device){.space = ZDS_SPACE_HOST};
    info->alignment = 64;
    info->total_bytes = page > 0 && pages > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    info->free_bytes = available_bytes();
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST) | ZDS_SPACE_BIT(ZDS_SPACE_HOST_PINNED);
    return ZDS_OK;
}

/* Mapped bytes of a block: what was asked for, and room to choose where to begin. */
static uint64_t mapped_bytes(uint64_t bytes)
{
    return bytes < HUGE_PAGE ? bytes : bytes + HUGE_PAGE + (uint64_t)TURNS * STAGGER;
}

/* Fresh pages are zero, and are placed where they are first touched, so nothing is written here. */
static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    tier *t = self;
    const zds_host *host = t->host;
    block->pointer = NULL;
    block->handle = NULL;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_HOST};
    if (bytes == 0)
        return ZDS_OK;
    if (bytes > SIZE_MAX - 2 * (size_t)HUGE_PAGE)
        return host->fail(host, ZDS_ERR_MEMORY, "%llu bytes are more than an address space holds",
                          (unsigned long long)bytes);
    void *base = mmap(NULL, (size_t)mapped_bytes(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return host->fail(host, ZDS_ERR_MEMORY, "the system gave no %llu bytes of memory: %s",
                          (unsigned long long)bytes, strerror(errno));
    uintptr_t start = (uintptr_t)base;
    if (bytes >= HUGE_PAGE) {
        start = (start + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
        (void)madvise((void *)start, (size_t)bytes, MADV_HUGEPAGE);
        start += t->large++ % TURNS * STAGGER;
    }
    block->pointer = (void *)start;
    block->handle = base;
    return ZDS_OK;
}

static void free_block(void *self, zds_block *block)
{
    (void)self;
    if (block->handle)
        munmap(block->handle, (size_t)mapped_bytes(block->bytes));
    block->pointer = NULL;
    block->handle = NULL;
}

/* Without a handle there is nothing to unmap. */
static zds_status adopt_block(void *self, void *pointer, uint64_t bytes, zds_block *block)
{
    (void)self;
    block->pointer = pointer;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_HOST};
    block->handle = NULL;
    return ZDS_OK;
}

static const zds_offload_ops ops = {.struct_size = sizeof ops,
                                    .flags = ZDS_OFFLOAD_DIRECT,
                                    .space = ZDS_SPACE_HOST,
                                    .open = open_tier,
                                    .close = close_tier,
                                    .query = query,
                                    .alloc = alloc_block,
                                    .free = free_block,
                                    .adopt = adopt_block};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OFFLOAD,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "cpu",
                                  .version = "1.0",
                                  .doc = "the host's memory, used in place",
                                  .ops = &ops};

ZDS_PLUGINS(&plugin);

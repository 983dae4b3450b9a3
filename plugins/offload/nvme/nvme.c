/* Files as a tier: a folder of its own below nvme_path, one file a block, read and written past the
 * page cache by io_uring, or by threads where there is none. */
#include "nvme.h"

#include <errno.h>
#include <math.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MOST_DEPTH = 32767 - 1 }; /* of a ring, beside the request that wakes it */

static const zds_option option_table[] = {
    {.name = "block_size",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(settings, block_size),
     .default_value = "1048576",
     .min = 1,
     .max = 1 << 30,
     .doc = "bytes of one request, rounded up to the file system's alignment"},
    {.name = "queue_depth",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(settings, queue_depth),
     .default_value = "8",
     .min = 1,
     .max = MOST_DEPTH,
     .doc = "requests in flight, for each of intra_op_parallelism; without io_uring one each"},
    {.name = "intra_op_parallelism",
     .type = ZDS_OPTION_INT,
     .offset = offsetof(settings, intra_op_parallelism),
     .default_value = "1",
     .min = 1,
     .max = 1024,
     .doc = "times queue_depth requests are in flight; without io_uring so many threads"},
    {.name = "single_submit",
     .type = ZDS_OPTION_BOOL,
     .offset = offsetof(settings, single_submit),
     .default_value = "false",
     .doc = "each request goes to io_uring by itself, not all that there are at once"},
    {.name = "overlap_events",
     .type = ZDS_OPTION_BOOL,
     .offset = offsetof(settings, overlap_events),
     .default_value = "true",
     .doc = "requests follow as others end; false: all of those in flight end before more begin"},
};

/* In a forked child there are neither threads nor a ring, and the files are the parent's. */
static bool is_child(const tier *t)
{
    return getpid() != t->process;
}

static zds_status refuse_child(const tier *t)
{
    return t->host->fail(t->host, ZDS_ERR_INVALID,
                         "process %d was forked from process %d, whose files these are: use them "
                         "there",
                         (int)getpid(), (int)t->process);
}

static zds_status set_up(tier *t, const zds_offload_env *env)
{
    const zds_host *host = t->host;
    const int64_t depth = t->set.queue_depth * t->set.intra_op_parallelism;
    if (!env->path)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "files need a folder: write nvme_path beside the device");
    if (depth > MOST_DEPTH)
        return host->fail(
            host, ZDS_ERR_CONFIG,
            "queue_depth x intra_op_parallelism is %lld, and no more than %d requests "
            "can be in flight: lessen one of them",
            (long long)depth, MOST_DEPTH);
    t->depth = (uint32_t)depth;
    zds_status status = folder_open(t, env->path);
    if (!status)
        status = folder_traits(t);
    if (status)
        return status;
    t->request_bytes = round_up((uint64_t)t->set.block_size, t->traits.alignment);
    return queue_open(t);
}

static void close_tier(void *self)
{
    tier *t = self;
    const zds_host *host = t->host;
    if (!is_child(t))
        queue_close(t);
    folder_close(t);
    host->free(host, t->bounces);
    host->free(host, t->bounce_stack);
    host->free(host, t);
}

static zds_status open_tier(const zds_host *host, const void *options, const zds_offload_env *env,
                            void **self)
{
    tier *t = host->alloc(host, sizeof *t, 0);
    if (!t)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a tier of files");
    t->host = host;
    t->set = *(const settings *)options;
    t->rank = env->rank;
    t->process = getpid();
    t->folder = (folder){.parent = -1, .fd = -1, .lock = -1};
    pthread_condattr_t steady; /* whatever is done to the clock on the wall */
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->done, NULL);
    pthread_cond_init(&t->asks, &steady);
    pthread_condattr_destroy(&steady);
    zds_status status = set_up(t, env);
    if (status)
        close_tier(t);
    else
        *self = t;
    return status;
}

static zds_status query(void *self, zds_offload_info *info)
{
    const tier *t = self;
    struct statvfs space;
    if (fstatvfs(t->folder.fd, &space) != 0)
        return t->host->fail(t->host, ZDS_ERR_IO, "rank %d: the file system of %s: %s", t->rank,
                             t->folder.path, strerror(errno));
    info->device = (zds_device){.space = ZDS_SPACE_FILE};
    info->alignment = t->traits.alignment;
    info->total_bytes = (uint64_t)space.f_blocks * space.f_frsize;
    info->free_bytes = (uint64_t)space.f_bavail * space.f_frsize;
    info->request_bytes = t->request_bytes;
    info->request_depth = t->depth;
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST) | ZDS_SPACE_BIT(ZDS_SPACE_HOST_PINNED);
    return ZDS_OK;
}

/* 0 bytes: no file. */
static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    tier *t = self;
    const zds_host *host = t->host;
    block->pointer = NULL;
    block->handle = NULL;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_FILE};
    if (is_child(t))
        return refuse_child(t);
    if (bytes == 0)
        return ZDS_OK;
    file *f = host->alloc(host, sizeof *f, 0);
    if (!f)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a file");
    f->bytes = bytes;
    zds_status status = folder_make_file(t, bytes, &f->number, &f->fd);
    if (status)
        host->free(host, f);
    else
        block->handle = f;
    return status;
}

static void free_block(void *self, zds_block *block)
{
    tier *t = self;
    file *f = block->handle;
    if (!f)
        return;
    folder_remove_file(t, f->number, f->fd);
    t->host->free(t->host, f);
    block->handle = NULL;
}

static zds_status check_end(const tier *t, const zds_end *end, uint64_t bytes)
{
    if (!end->block)
        return ZDS_OK;
    const uint64_t all = end->block->bytes, unit = t->traits.alignment;
    if (end->offset > all || bytes > all - end->offset || end->offset % unit ||
        (bytes % unit && end->offset + bytes != all))
        return t->host->fail(t->host, ZDS_ERR_INVALID,
                             "a copy of %llu bytes at %llu of a block of %llu: it must lie within, "
                             "and begin and end at multiples of %llu, but for the block's end",
                             (unsigned long long)bytes, (unsigned long long)end->offset,
                             (unsigned long long)all, (unsigned long long)unit);
    return ZDS_OK;
}

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    tier *t = self;
    *done = NULL;
    if (is_child(t))
        return refuse_child(t);
    zds_status status = check_end(t, &c->from, c->bytes);
    if (!status)
        status = check_end(t, &c->to, c->bytes);
    return status ? status : queue_copy(t, c, done);
}

static const zds_offload_ops ops = {.struct_size = sizeof ops,
                                    .space = ZDS_SPACE_FILE,
                                    .open = open_tier,
                                    .close = close_tier,
                                    .query = query,
                                    .alloc = alloc_block,
                                    .free = free_block,
                                    .copy = copy};

static const zds_plugin plugin = {.struct_size = sizeof plugin,
                                  .kind = ZDS_KIND_OFFLOAD,
                                  .abi_minor = ZDS_ABI_MINOR,
                                  .name = "nvme",
                                  .version = "1.0",
                                  .doc = "files in a folder of a fast disk, by io_uring",
                                  ZDS_OPTION_TABLE(option_table, settings),
                                  .ops = &ops};

ZDS_PLUGINS(&plugin);

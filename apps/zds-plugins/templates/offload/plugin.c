/* @NAME@: a memory tier for zds that keeps its blocks in files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "zds/plugin.h"

/* === an instance === */

typedef struct tier {
    const zds_host *host;
    char folder[3072];
} tier;

static zds_status open_tier(const zds_host *host, const void *options, const zds_offload_env *env,
                            void **self)
{
    (void)options;
    if (!env->path || strlen(env->path) >= sizeof((tier *)0)->folder)
        return host->fail(host, ZDS_ERR_CONFIG,
                          "@NAME@ needs the path of a folder: write nvme_path into the section");
    if (access(env->path, W_OK | X_OK) != 0)
        return host->fail(host, ZDS_ERR_IO, "nvme_path %s: %s", env->path, strerror(errno));
    tier *t = host->alloc(host, sizeof *t, 0);
    if (!t)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a tier");
    t->host = host;
    strcpy(t->folder, env->path);
    *self = t;
    return ZDS_OK;
}

static void close_tier(void *self)
{
    tier *t = self;
    t->host->free(t->host, t);
}

static zds_status query(void *self, zds_offload_info *info)
{
    const tier *t = self;
    struct statvfs system;
    info->device = (zds_device){.space = ZDS_SPACE_FILE};
    info->alignment = 1; /* of a file that the system caches */
    info->reaches = ZDS_SPACE_BIT(ZDS_SPACE_HOST);
    if (statvfs(t->folder, &system) == 0) {
        info->total_bytes = (uint64_t)system.f_blocks * system.f_frsize;
        info->free_bytes = (uint64_t)system.f_bavail * system.f_frsize;
    }
    return ZDS_OK;
}

/* === blocks: files that have no name, and so are gone with the process === */

typedef struct file {
    int fd;
} file;

static zds_status alloc_block(void *self, uint64_t bytes, zds_block *block)
{
    const tier *t = self;
    char path[4096];
    file *f = t->host->alloc(t->host, sizeof *f, 0);
    if (!f)
        return t->host->fail(t->host, ZDS_ERR_MEMORY, "no memory for a block");
    snprintf(path, sizeof path, "%s/@IDENT@-XXXXXX", t->folder);
    f->fd = mkstemp(path);
    if (f->fd >= 0)
        unlink(path);
    if (f->fd < 0 || ftruncate(f->fd, (off_t)bytes) != 0) {
        const int error = errno;
        if (f->fd >= 0)
            close(f->fd);
        t->host->free(t->host, f);
        return t->host->fail(t->host, ZDS_ERR_IO, "%llu bytes in %s: %s", (unsigned long long)bytes,
                             t->folder, strerror(error));
    }
    fcntl(f->fd, F_SETFD, FD_CLOEXEC);
    block->pointer = NULL;
    block->bytes = bytes;
    block->device = (zds_device){.space = ZDS_SPACE_FILE};
    block->handle = f;
    return ZDS_OK;
}

static void free_block(void *self, zds_block *block)
{
    const tier *t = self;
    file *f = block->handle;
    close(f->fd);
    t->host->free(t->host, f);
    block->handle = NULL;
}

/* === copies === */

typedef ssize_t (*move_fn)(int fd, void *memory, size_t bytes, off_t offset);

static ssize_t out(int fd, void *memory, size_t bytes, off_t offset)
{
    return pwrite(fd, memory, bytes, offset);
}

/* All of it, however the system cuts it. */
static zds_status move(const tier *t, const zds_end *block, char *memory, uint64_t bytes,
                       move_fn function, const char *what)
{
    const file *f = block->block->handle;
    for (uint64_t moved = 0; moved < bytes;) {
        ssize_t n = function(f->fd, memory + moved, (size_t)(bytes - moved),
                             (off_t)(block->offset + moved));
        if (n == 0 || (n < 0 && errno != EINTR))
            return t->host->fail(t->host, ZDS_ERR_IO, "%s of %llu bytes in %s: %s", what,
                                 (unsigned long long)bytes, t->folder,
                                 n ? strerror(errno) : "the file is shorter than the block");
        moved += n > 0 ? (uint64_t)n : 0;
    }
    return ZDS_OK;
}

/* What the copy must wait for comes first. One end is a block of this tier, the other the host's
 * memory, since query says so. */
static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    if (done)
        *done = NULL; /* done when this returns */
    for (size_t i = 0; i < c->wait_count; i++) {
        zds_event *event = c->waits[i];
        zds_status status = event ? event->ops->wait(event) : ZDS_OK;
        if (status)
            return status;
    }
    return c->from.block ? move(self, &c->from, zds_end_address(&c->to), c->bytes, pread, "read")
                         : move(self, &c->to, zds_end_address(&c->from), c->bytes, out, "write");
}

/* === what zds sees === */

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
                                  .name = "@NAME@",
                                  .version = "0.1",
                                  .doc = "keeps blocks in files",
                                  .ops = &ops};
ZDS_PLUGINS(&plugin);

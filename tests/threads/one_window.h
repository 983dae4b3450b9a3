/* Stands in for plugins/comm/shm/arena.c where the ranks of comm shm are threads of one process:
 * all of them see one mapping of the arena, so that ThreadSanitizer sees every access of every
 * rank. */
#include <fcntl.h>
#include <sys/mman.h>

#include "comm/shm/shm.h"

static const uint64_t ARENA = (uint64_t)1 << 30;
static char *window;

zds_status arena_create(const zds_host *host, int *fd, uint64_t *bytes)
{
    *fd = memfd_create("zds-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0 || ftruncate(*fd, (off_t)ARENA) != 0 || fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0)
        return host->fail(host, ZDS_ERR_IO, "memfd");
    window = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, *fd, 0);
    *bytes = ARENA;
    return window == MAP_FAILED ? host->fail(host, ZDS_ERR_IO, "mmap") : ZDS_OK;
}

void *arena_map(const job *j, uint64_t offset, uint64_t bytes, bool writable)
{
    (void)j;
    (void)bytes;
    (void)writable;
    return window + offset;
}

void arena_unmap(const job *j, void *base, uint64_t bytes)
{
    (void)j;
    (void)base;
    (void)bytes;
}

void arena_protect(const job *j, void *base, uint64_t bytes)
{
    (void)j;
    (void)base;
    (void)bytes;
}

void arena_punch(const job *j, uint64_t offset, uint64_t bytes)
{
    (void)j;
    (void)offset;
    (void)bytes;
}

uint64_t arena_take(job *j, uint64_t bytes)
{
    uint64_t size = (bytes + 4095) / 4096 * 4096;
    return (atomic_fetch_add(&j->header->next, size) + 4095) & ~(uint64_t)4095;
}

/* The arena: one sparse memfd of which ranks map the parts that they use. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/shm/shm.h"

enum { PAGE = 4096, HUGE_PAGE = 2 * 1024 * 1024 };

zds_status arena_create(const zds_host *host, int *fd, uint64_t *bytes)
{
    /* Address space of a file costs nothing: large enough that ranges are never given out twice. */
    uint64_t size = (uint64_t)1 << 46;
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < size)
        size = limit.rlim_cur & ~(uint64_t)(HUGE_PAGE - 1);
    *fd = memfd_create("zds-shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0)
        return host->fail(host, ZDS_ERR_IO, "memfd_create: %s", strerror(errno));
    /* The seals let the others trust that nobody truncates what they have mapped. */
    if (ftruncate(*fd, (off_t)size) != 0 ||
        fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int error = errno;
        close(*fd);
        *fd = -1;
        return host->fail(host, ZDS_ERR_IO, "cannot size %llu bytes of shared memory: %s",
                          (unsigned long long)size, strerror(error));
    }
    *bytes = size;
    return ZDS_OK;
}

void *arena_map(const job *j, uint64_t offset, uint64_t bytes, bool writable)
{
    if (offset > j->arena_bytes || bytes > j->arena_bytes - offset)
        return NULL;
    int rights = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, bytes, rights, MAP_SHARED, j->fd, (off_t)offset);
    if (base == MAP_FAILED)
        return NULL;
    if (bytes >= HUGE_PAGE && j->huge_pages)
        (void)madvise(base, bytes, MADV_HUGEPAGE); /* refused where the kernel has none for memfd */
    return base;
}

void arena_unmap(const job *j, void *base, uint64_t bytes)
{
    (void)j;
    munmap(base, bytes);
}

void arena_protect(const job *j, void *base, uint64_t bytes)
{
    (void)j;
    (void)mprotect(base, bytes, PROT_READ | PROT_WRITE);
}

void arena_punch(const job *j, uint64_t offset, uint64_t bytes)
{
    (void)fallocate(j->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

uint64_t arena_take(job *j, uint64_t bytes)
{
    uint64_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE;
    uint64_t now = atomic_load(&j->header->next), at;
    do {
        at = (now + align - 1) & ~(align - 1);
        if (bytes > j->arena_bytes || at > j->arena_bytes - bytes)
            return 0;
    } while (!atomic_compare_exchange_weak(&j->header->next, &now, at + bytes));
    return at;
}

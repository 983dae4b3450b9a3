/* Regions: ranges of the arena that all ranks of a communicator have mapped, and memory of others
 * that peers map beside them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "comm/shm/shm.h"

enum { PAGE = 4096, HUGE_PAGE = 2 * 1024 * 1024 };

static uint64_t round_up(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

typedef struct request {
    uint64_t bytes, offset;
    int32_t kind, reserved;
} request;

static uint64_t part_bytes(uint64_t bytes)
{
    return round_up(bytes ? bytes : 1, bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE);
}

static const char *kind_word(int32_t kind)
{
    return kind == ZDS_MEM_SHARED     ? "shared"
           : kind == ZDS_MEM_COUNTERS ? "counters"
                                      : "each its own";
}

/* All ranks must ask for the same; rank 0's offset counts. */
static zds_status settle(comm *c, request *mine)
{
    request *all = c->host->alloc(c->host, (size_t)c->size * sizeof *all, 0);
    if (!all)
        return c->host->fail(c->host, ZDS_ERR_MEMORY, "no memory to allocate shared memory");
    zds_status status = agree(c, "mem_alloc", mine, sizeof *mine, all);
    for (int32_t r = 0; r < c->size && !status; r++)
        if (all[r].bytes != mine->bytes || all[r].kind != mine->kind) {
            comm_fail(c, ZDS_ERR_DIVERGED,
                      "ranks allocate different memory: rank %d asks for %llu bytes (%s), rank %d"
                      " for %llu (%s)",
                      (int)c->job->rank, (unsigned long long)mine->bytes, kind_word(mine->kind),
                      (int)c->world_rank[r], (unsigned long long)all[r].bytes,
                      kind_word(all[r].kind));
            status = comm_error(c);
        }
    mine->offset = all[0].offset;
    c->host->free(c->host, all);
    if (!status && !mine->offset)
        status = c->host->fail(c->host, ZDS_ERR_MEMORY,
                               "no room for %llu bytes a rank in shared memory (ulimit -f?)",
                               (unsigned long long)mine->bytes);
    return status;
}

/* Peers' parts are mapped read-only: a stray store faults here, not in a peer's numbers. */
static bool map_region(const comm *c, region *g, uint64_t part, int32_t kind)
{
    const job *j = c->job;
    bool shared = kind == ZDS_MEM_SHARED;
    g->own_offset = shared ? g->offset : g->offset + (uint64_t)c->rank * part;
    g->own_bytes = part;
    g->base = arena_map(j, g->offset, g->bytes, shared);
    g->view = arena_map(j, g->own_offset, g->own_bytes, false);
    if (!g->base || !g->view) {
        region_unmap(j, g);
        return false;
    }
    g->own = g->base + (g->own_offset - g->offset);
    if (!shared)
        arena_protect(j, g->own, g->own_bytes);
    if (kind == ZDS_MEM_SYMMETRIC)
        return true;
    char *last = g->base + (g->bytes - PAGE);
    if (!shared)
        arena_protect(j, last, PAGE);
    g->freed = (_Atomic uint32_t *)(void *)last;
    return true;
}

void region_unmap(const job *j, region *g)
{
    if (g->base && g->lent)
        munmap(g->base, g->bytes);
    else if (g->base)
        arena_unmap(j, g->base, g->bytes);
    if (g->view)
        arena_unmap(j, g->view, g->own_bytes);
}

static void keep(job *j, region *g)
{
    pthread_mutex_lock(&j->lock);
    g->next = j->regions;
    j->regions = g;
    pthread_mutex_unlock(&j->lock);
}

static void drop(job *j, const region *g)
{
    pthread_mutex_lock(&j->lock);
    region **link = &j->regions;
    while (*link && *link != g)
        link = &(*link)->next;
    if (*link)
        *link = g->next;
    pthread_mutex_unlock(&j->lock);
}

zds_status comm_mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *out)
{
    comm *c = self;
    job *j = c->job;
    const zds_host *host = c->host;
    bool shared = kind == ZDS_MEM_SHARED;
    if (kind < ZDS_MEM_SYMMETRIC || kind > ZDS_MEM_COUNTERS)
        return host->fail(host, ZDS_ERR_INVALID, "mem_alloc: kind %d does not exist", (int)kind);
    if (bytes > j->arena_bytes / (uint64_t)c->size)
        return host->fail(host, ZDS_ERR_MEMORY, "mem_alloc: %llu bytes a rank are too many",
                          (unsigned long long)bytes);
    uint64_t part = part_bytes(bytes);
    uint64_t total =
        (shared ? part : part * (uint64_t)c->size) + (kind == ZDS_MEM_SYMMETRIC ? 0 : PAGE);
    request mine = {.bytes = bytes, .kind = kind};
    if (c->rank == 0)
        mine.offset = arena_take(j, total);
    region *g = host->alloc(host, sizeof *g, 0);
    zds_status status = settle(c, &mine);
    if (status || !g) {
        host->free(host, g);
        return status ? status : host->fail(host, ZDS_ERR_MEMORY, "no memory for a region");
    }
    g->control = c->control;
    g->offset = mine.offset;
    g->bytes = total;
    if (!map_region(c, g, part, kind)) {
        host->free(host, g);
        return host->fail(host, ZDS_ERR_MEMORY, "cannot map %llu bytes of shared memory: %s",
                          (unsigned long long)total, strerror(errno));
    }
    g->part = part;
    keep(j, g);
    out->base = kind == ZDS_MEM_COUNTERS ? NULL : g->own;
    out->read_only = kind == ZDS_MEM_COUNTERS ? NULL : g->view;
    out->bytes = bytes;
    out->kind = kind;
    out->device = (zds_device){.space = ZDS_SPACE_HOST};
    out->handle = g;
    return ZDS_OK;
}

void comm_mem_free(void *self, zds_region *out)
{
    comm *c = self;
    job *j = c->job;
    region *g = out->handle;
    drop(j, g);
    /* A rank's own part goes at once, shared bytes and counts with the last that gives them back.
     */
    if (!g->freed)
        arena_punch(j, g->own_offset, g->own_bytes);
    else if (atomic_fetch_add(g->freed, 1) + 1 == (uint32_t)c->size)
        arena_punch(j, g->offset, g->bytes - PAGE);
    region_unmap(j, g);
    c->host->free(c->host, g);
    out->base = out->handle = NULL;
    out->read_only = NULL;
}

/* === memory of others === */

/* What a rank tells of memory that it registers: which file lies behind it. */
typedef struct loan {
    uint64_t bytes, arena_offset;
    uint64_t device, inode, file_offset; /* file_offset: of the first byte */
    int32_t pid, fd;
    char fault[96]; /* why its memory cannot be registered; "" */
} loan;

/* The descriptor of this process that has the file open; -1. */
static int32_t descriptor_of(const loan *l)
{
    DIR *open_files = opendir("/proc/self/fd");
    int32_t found = -1;
    const struct dirent *entry;
    while (open_files && found < 0 && (entry = readdir(open_files))) {
        struct stat s;
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fstat(fd, &s) == 0 && s.st_dev == l->device &&
            s.st_ino == l->inode)
            found = fd;
    }
    if (open_files)
        closedir(open_files);
    return found;
}

/* One line of /proc/self/maps that touches [at, ..): takes over what is behind it. NULL, or why it
 * cannot be what peers map. */
static const char *take_mapping(loan *l, const char *line, uint64_t base, uint64_t *at)
{
    unsigned long long first, end, offset, inode;
    unsigned major, minor;
    char rights[5];
    if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu", &first, &end, rights, &offset, &major, &minor,
               &inode) != 7 ||
        end <= *at || first > *at)
        return NULL;
    uint64_t here = offset + (*at - first);
    if (rights[3] != 's' || !inode)
        return "is not a shared mapping of a file or memfd";
    if (*at != base && (l->device != makedev(major, minor) || l->inode != inode ||
                        here != l->file_offset + (*at - base)))
        return "is of several files";
    if (*at == base) {
        l->device = makedev(major, minor);
        l->inode = inode;
        l->file_offset = here;
    }
    *at = end;
    return NULL;
}

/* Finds the file behind own memory. */
static void find_file(loan *l, const void *memory)
{
    const uint64_t base = (uint64_t)(uintptr_t)memory;
    uint64_t at = base;
    const char *fault = NULL;
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    while (maps && !fault && at < base + l->bytes && fgets(line, sizeof line, maps))
        fault = take_mapping(l, line, base, &at);
    if (maps)
        fclose(maps);
    if (!fault && at < base + l->bytes)
        fault = "is not mapped";
    if (!fault && (l->fd = descriptor_of(l)) < 0)
        fault = "belongs to a file that this process has closed";
    if (fault)
        snprintf(l->fault, sizeof l->fault, "%s", fault);
}

/* Maps what rank r lends at its place in the region. */
static bool map_loan(const comm *c, const region *g, const loan *l, int32_t r)
{
    char path[64];
    struct stat s;
    if (c->job->header->pid[c->world_rank[r]] != l->pid)
        return false; /* not in sight of this pid namespace */
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)l->pid, (int)l->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t shift = l->file_offset % PAGE;
    bool good = fd >= 0 && fstat(fd, &s) == 0 && s.st_dev == l->device && s.st_ino == l->inode &&
                l->file_offset <= (uint64_t)s.st_size &&
                l->bytes <= (uint64_t)s.st_size - l->file_offset &&
                mmap(g->base + (uint64_t)r * g->part, shift + l->bytes, PROT_READ,
                     MAP_SHARED | MAP_FIXED, fd, (off_t)(l->file_offset - shift)) != MAP_FAILED;
    if (fd >= 0)
        close(fd);
    return good;
}

static zds_status refuse_loan(const comm *c, int32_t r, const char *why)
{
    return c->host->fail(c->host, ZDS_ERR_UNSUPPORTED,
                         "mem_register: the memory of rank %d %s; shm registers what lies in a"
                         " shared mapping of a memfd that stays open, and copies all other",
                         (int)c->world_rank[r], why);
}

/* What all ranks told must fit together. */
static zds_status check_loans(comm *c, const loan *all)
{
    for (int32_t r = 0; r < c->size; r++)
        if (all[r].bytes != all[c->rank].bytes) {
            comm_fail(c, ZDS_ERR_DIVERGED,
                      "ranks register different memory: rank %d %llu bytes, rank %d %llu",
                      (int)c->job->rank, (unsigned long long)all[c->rank].bytes,
                      (int)c->world_rank[r], (unsigned long long)all[r].bytes);
            return comm_error(c);
        }
    for (int32_t r = 0; r < c->size; r++)
        if (all[r].fault[0])
            return refuse_loan(c, r, all[r].fault);
    if (!all[0].arena_offset)
        return c->host->fail(c->host, ZDS_ERR_MEMORY,
                             "mem_register: %llu bytes a rank are too many",
                             (unsigned long long)all[0].bytes);
    return ZDS_OK;
}

/* Maps the peers' memory; all ranks can, or none has the region. */
static zds_status map_loans(comm *c, region *g, const loan *all)
{
    int32_t missing = -1;
    for (int32_t r = 0; r < c->size && missing < 0; r++)
        if (r != c->rank && !map_loan(c, g, &all[r], r))
            missing = r;
    int32_t *theirs = c->host->alloc(c->host, (size_t)c->size * sizeof *theirs, 0);
    if (!theirs)
        return c->host->fail(c->host, ZDS_ERR_MEMORY, "no memory for a region");
    zds_status status = agree(c, "mem_register", &missing, sizeof missing, theirs);
    for (int32_t r = 0; r < c->size && !status; r++)
        if (theirs[r] >= 0)
            status = refuse_loan(c, theirs[r], "cannot be opened by all others (/proc/PID/fd)");
    c->host->free(c->host, theirs);
    return status;
}

/* Peers open the file behind the memory through /proc and map it where they would have a region's
 * part: from there on it is read as any region is. */
zds_status comm_mem_register(void *self, void *base, uint64_t bytes, zds_device device,
                             zds_region *out)
{
    comm *c = self;
    job *j = c->job;
    const zds_host *host = c->host;
    loan mine = {.bytes = bytes, .pid = getpid(), .fd = -1};
    uint64_t part = round_up(bytes, PAGE) + PAGE, total = part * (uint64_t)c->size;
    if (device.space != ZDS_SPACE_HOST)
        snprintf(mine.fault, sizeof mine.fault, "is not the host's");
    else if (bytes && bytes < j->arena_bytes / (uint64_t)c->size / 2)
        find_file(&mine, base);
    else
        snprintf(mine.fault, sizeof mine.fault, "has %llu bytes", (unsigned long long)bytes);
    if (c->rank == 0 && !mine.fault[0])
        mine.arena_offset = arena_take(j, total);
    loan *all = host->alloc(host, (size_t)c->size * sizeof *all, 0);
    region *g = host->alloc(host, sizeof *g, 0);
    zds_status status = ZDS_ERR_MEMORY;
    if (!all || !g) {
        host->fail(host, status, "no memory for a region");
        goto out;
    }
    status = agree(c, "mem_register", &mine, sizeof mine, all);
    if (!status)
        status = check_loans(c, all);
    if (status)
        goto out;
    *g = (region){.control = c->control,
                  .offset = all[0].arena_offset,
                  .bytes = total,
                  .part = part,
                  .own = base,
                  .own_bytes = bytes,
                  .lent = true};
    g->own_offset = g->offset + (uint64_t)c->rank * part + mine.file_offset % PAGE;
    void *reserve =
        mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g->base = reserve == MAP_FAILED ? NULL : reserve;
    status = g->base ? map_loans(c, g, all)
                     : host->fail(host, ZDS_ERR_MEMORY, "no address space for %llu bytes: %s",
                                  (unsigned long long)total, strerror(errno));
    if (status) {
        region_unmap(j, g);
        goto out;
    }
    keep(j, g);
    out->base = base;
    out->read_only = base;
    out->bytes = bytes;
    out->kind = ZDS_MEM_SYMMETRIC;
    out->device = device;
    out->handle = g;
    g = NULL;
out:
    host->free(host, all);
    host->free(host, g);
    return status;
}

void comm_mem_unregister(void *self, zds_region *out)
{
    comm *c = self;
    region *g = out->handle;
    drop(c->job, g);
    region_unmap(c->job, g);
    c->host->free(c->host, g);
    out->base = out->handle = NULL;
    out->read_only = NULL;
}

/* === lookup === */

static bool inside(const char *base, uint64_t size, const char *pointer, uint64_t bytes,
                   uint64_t *distance)
{
    uintptr_t low = (uintptr_t)base, at = (uintptr_t)pointer;
    if (at < low || at - low > size || bytes > size - (at - low))
        return false;
    *distance = at - low;
    return true;
}

bool region_find(const comm *c, const void *pointer, uint64_t bytes, uint64_t *offset)
{
    job *j = c->job;
    uint64_t distance = 0, world = j->header->control;
    bool found = false;
    pthread_mutex_lock(&j->lock);
    for (const region *g = j->regions; g && !found; g = g->next) {
        if (g->control != c->control && g->control != world)
            continue; /* not all readers have it mapped */
        found = inside(g->own, g->own_bytes, pointer, bytes, &distance) ||
                (g->view && inside(g->view, g->own_bytes, pointer, bytes, &distance));
        if (found)
            *offset = g->own_offset + distance;
    }
    pthread_mutex_unlock(&j->lock);
    return found;
}

const char *region_at(const comm *c, uint64_t offset, uint64_t bytes)
{
    job *j = c->job;
    const char *at = NULL;
    pthread_mutex_lock(&j->lock);
    for (const region *g = j->regions; g && !at; g = g->next)
        if (offset >= g->offset && offset - g->offset <= g->bytes &&
            bytes <= g->bytes - (offset - g->offset))
            at = g->base + (offset - g->offset);
    pthread_mutex_unlock(&j->lock);
    return at;
}

/* Communicators: their control blocks, sub-communicators, and the regions of memory. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "comm/shm/shm.h"

enum { PAGE = 4096, HUGE_PAGE = 2 * 1024 * 1024, SPINS = 12 };

static uint64_t round_up(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

/* === control block === */

typedef struct layout {
    uint64_t slots, pipes, channels, message_pipes, pipe_data, message_data, bytes;
} layout;

static layout lay_out(int32_t size)
{
    uint64_t n = (uint64_t)size, pairs = n * n;
    layout l;
    l.slots = sizeof(control_header);
    l.pipes = l.slots + n * sizeof(slot);
    l.channels = l.pipes + pairs * sizeof(pipe_ends);
    l.message_pipes = l.channels + pairs * sizeof(channel);
    l.pipe_data = round_up(l.message_pipes + pairs * sizeof(pipe_ends), PAGE);
    l.message_data = l.pipe_data + pairs * PIPE_SLOTS * PIPE_BYTES;
    l.bytes = l.message_data + pairs * PIPE_SLOTS * PIPE_BYTES;
    return l;
}

uint64_t control_bytes(int32_t size)
{
    return lay_out(size).bytes;
}

static bool allocate_arrays(comm *c)
{
    const zds_host *host = c->host;
    size_t n = (size_t)c->size;
    c->world_rank = host->alloc(host, n * sizeof *c->world_rank, 0);
    c->fed = host->alloc(host, n * sizeof *c->fed, 0);
    c->got = host->alloc(host, n * sizeof *c->got, 0);
    c->sources = host->alloc(host, n * sizeof *c->sources, 0);
    return c->world_rank && c->fed && c->got && c->sources;
}

static void free_ops(comm *c, op *o)
{
    while (o) {
        op *next = o->next;
        c->host->free(c->host, o);
        o = next;
    }
}

void job_drop(job *j)
{
    if (atomic_fetch_sub(&j->references, 1) != 1)
        return;
    const zds_host *host = j->host;
    while (j->regions) {
        region *r = j->regions;
        j->regions = r->next;
        arena_unmap(j, r->base, r->bytes);
        arena_unmap(j, r->view, r->own_bytes);
        host->free(host, r);
    }
    if (j->header) {
        /* Before peers can see sockets or process end. */
        atomic_store(&j->header->gone[j->rank], 1);
        arena_unmap(j, j->header, sizeof *j->header);
    }
    if (j->pidfds)
        health_close(j);
    if (j->sockets)
        join_close(j);
    if (j->fd >= 0)
        close(j->fd);
    pthread_mutex_destroy(&j->lock);
    host->free(host, j->pidfds);
    host->free(host, j->sockets);
    host->free(host, j);
}

void comm_destroy(comm *c)
{
    if (c->block.base) {
        control_header *header = (control_header *)(void *)c->block.base;
        atomic_store(&c->slots[c->rank].left, 1);
        wake_all(c);
        if (atomic_fetch_add(&header->left, 1) + 1 == (uint32_t)c->size)
            arena_punch(c->job, c->control, c->block.bytes);
        arena_unmap(c->job, c->block.base, c->block.bytes);
    }
    free_ops(c, c->ops.first);
    free_ops(c, c->messages.first);
    free_ops(c, c->spare);
    const zds_host *host = c->host;
    host->free(host, c->world_rank);
    host->free(host, c->fed);
    host->free(host, c->got);
    host->free(host, c->sources);
    job_drop(c->job);
    host->free(host, c);
}

zds_status comm_create(job *j, uint64_t control, int32_t rank, int32_t size,
                       const int32_t *world_rank, comm **out)
{
    const zds_host *host = j->host;
    comm *c = host->alloc(host, sizeof *c, 0);
    if (!c)
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a communicator");
    c->host = host;
    c->job = j;
    c->rank = rank;
    c->size = size;
    c->control = control;
    c->phase = -1;
    atomic_fetch_add(&j->references, 1);
    layout l = lay_out(size);
    if (allocate_arrays(c)) {
        c->block.bytes = l.bytes;
        c->block.base = arena_map(j, control, l.bytes, true);
    }
    if (!c->block.base) {
        comm_destroy(c);
        return host->fail(host, ZDS_ERR_MEMORY, "cannot map a communicator's %llu bytes: %s",
                          (unsigned long long)l.bytes, strerror(errno));
    }
    c->slots = (slot *)(void *)(c->block.base + l.slots);
    c->pipes = (pipe_ends *)(void *)(c->block.base + l.pipes);
    c->channels = (channel *)(void *)(c->block.base + l.channels);
    c->message_pipes = (pipe_ends *)(void *)(c->block.base + l.message_pipes);
    c->pipe_data = c->block.base + l.pipe_data;
    c->message_data = c->block.base + l.message_data;
    for (int32_t r = 0; r < size; r++)
        c->world_rank[r] = world_rank ? world_rank[r] : r;
    /* A short spin saves a wake-up only if the peer runs meanwhile. */
    c->spins = sysconf(_SC_NPROCESSORS_ONLN) >= j->size ? SPINS : 0;
    *out = c;
    return ZDS_OK;
}

/* === split === */

typedef struct member {
    int32_t color, key, rank;
} member;

static int by_key(const void *a, const void *b)
{
    const member *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1)
                            : (x->rank > y->rank) - (x->rank < y->rank);
}

/* The ranks of this rank's color in order; returns their number, and this rank's place. */
static int32_t members_of(const comm *c, member *all, int32_t color, int32_t *mine)
{
    int32_t n = 0;
    for (int32_t r = 0; r < c->size; r++)
        if (all[r].color == color)
            all[n++] = all[r];
    qsort(all, (size_t)n, sizeof *all, by_key);
    for (int32_t i = 0; i < n; i++)
        if (all[i].rank == c->rank)
            *mine = i;
    return n;
}

zds_status comm_split(void *self, int32_t color, int32_t key, void **child)
{
    comm *c = self, *made = NULL;
    const zds_host *host = c->host;
    member me = {color, key, c->rank};
    size_t n = (size_t)c->size;
    member *all = host->alloc(host, n * sizeof *all, 0);
    uint64_t *controls = host->alloc(host, n * sizeof *controls, 0);
    int32_t *world = host->alloc(host, n * sizeof *world, 0);
    zds_status status = ZDS_ERR_MEMORY;
    if (!all || !controls || !world) {
        status = host->fail(host, status, "no memory to split a communicator");
        goto out;
    }
    status = agree(c, 0, &me, sizeof me, all);
    if (status)
        goto out;
    int32_t mine = 0, size = members_of(c, all, color, &mine);
    uint64_t control = mine == 0 ? arena_take(c->job, control_bytes(size)) : 0;
    status = agree(c, 1, &control, sizeof control, controls);
    if (status)
        goto out;
    control = controls[all[0].rank];
    for (int32_t i = 0; i < size; i++)
        world[i] = c->world_rank[all[i].rank];
    if (control)
        status = comm_create(c->job, control, mine, size, world, &made);
    else
        status = host->fail(host, ZDS_ERR_MEMORY, "no shared memory for a communicator");
    *child = made;
out:
    host->free(host, all);
    host->free(host, controls);
    host->free(host, world);
    return status;
}

/* === regions === */

typedef struct request {
    uint64_t bytes, offset;
    int32_t kind, reserved;
} request;

static uint64_t part_bytes(uint64_t bytes)
{
    return round_up(bytes ? bytes : 1, bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE);
}

/* All ranks must ask for the same; rank 0's offset counts. */
static zds_status settle(comm *c, request *mine)
{
    request *all = c->host->alloc(c->host, (size_t)c->size * sizeof *all, 0);
    if (!all)
        return c->host->fail(c->host, ZDS_ERR_MEMORY, "no memory to allocate shared memory");
    zds_status status = agree(c, 2, mine, sizeof *mine, all);
    for (int32_t r = 0; r < c->size && !status; r++)
        if (all[r].bytes != mine->bytes || all[r].kind != mine->kind) {
            comm_fail(c, ZDS_ERR_DIVERGED,
                      "mem_alloc: rank %d asks for %llu bytes of kind %d, rank %d for %llu of kind"
                      " %d",
                      (int)c->job->rank, (unsigned long long)mine->bytes, (int)mine->kind,
                      (int)c->world_rank[r], (unsigned long long)all[r].bytes, (int)all[r].kind);
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
static bool map_region(const comm *c, region *g, uint64_t part, bool shared)
{
    const job *j = c->job;
    g->own_offset = shared ? g->offset : g->offset + (uint64_t)c->rank * part;
    g->own_bytes = part;
    g->base = arena_map(j, g->offset, g->bytes, shared);
    g->view = arena_map(j, g->own_offset, g->own_bytes, false);
    if (!g->base || !g->view) {
        if (g->base)
            arena_unmap(j, g->base, g->bytes);
        if (g->view)
            arena_unmap(j, g->view, g->own_bytes);
        return false;
    }
    if (shared)
        g->freed = (_Atomic uint32_t *)(void *)(g->base + part);
    else
        arena_protect(j, g->base + (g->own_offset - g->offset), g->own_bytes);
    return true;
}

zds_status comm_mem_alloc(void *self, uint64_t bytes, int32_t kind, zds_region *out)
{
    comm *c = self;
    job *j = c->job;
    const zds_host *host = c->host;
    bool shared = kind == ZDS_MEM_SHARED;
    if (kind != ZDS_MEM_SYMMETRIC && !shared)
        return host->fail(host, ZDS_ERR_INVALID, "mem_alloc: kind %d does not exist", (int)kind);
    if (bytes > j->arena_bytes / (uint64_t)c->size)
        return host->fail(host, ZDS_ERR_MEMORY, "mem_alloc: %llu bytes a rank are too many",
                          (unsigned long long)bytes);
    uint64_t part = part_bytes(bytes);
    uint64_t total = shared ? part + PAGE : part * (uint64_t)c->size;
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
    if (!map_region(c, g, part, shared)) {
        host->free(host, g);
        return host->fail(host, ZDS_ERR_MEMORY, "cannot map %llu bytes of shared memory: %s",
                          (unsigned long long)total, strerror(errno));
    }
    pthread_mutex_lock(&j->lock);
    g->next = j->regions;
    j->regions = g;
    pthread_mutex_unlock(&j->lock);
    out->base = g->base + (g->own_offset - g->offset);
    out->read_only = g->view;
    out->bytes = bytes;
    out->kind = kind;
    out->space = ZDS_SPACE_HOST;
    out->handle = g;
    return ZDS_OK;
}

void comm_mem_free(void *self, zds_region *out)
{
    comm *c = self;
    job *j = c->job;
    region *g = out->handle;
    pthread_mutex_lock(&j->lock);
    region **link = &j->regions;
    while (*link && *link != g)
        link = &(*link)->next;
    if (*link)
        *link = g->next;
    pthread_mutex_unlock(&j->lock);
    /* A rank's own part goes at once, shared bytes with the last that gives them back. */
    if (!g->freed || atomic_fetch_add(g->freed, 1) + 1 == (uint32_t)c->size)
        arena_punch(j, g->own_offset, g->own_bytes);
    arena_unmap(j, g->base, g->bytes);
    arena_unmap(j, g->view, g->own_bytes);
    c->host->free(c->host, g);
    out->base = out->handle = NULL;
    out->read_only = NULL;
}

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
        found = inside(g->base + (g->own_offset - g->offset), g->own_bytes, pointer, bytes,
                       &distance) ||
                inside(g->view, g->own_bytes, pointer, bytes, &distance);
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

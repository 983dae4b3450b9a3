/* Communicators: their control blocks, and sub-communicators. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "comm/shm/shm.h"

enum { PAGE = 4096 };

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
        region_unmap(j, r);
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
    status = agree(c, "split", &me, sizeof me, all);
    if (status)
        goto out;
    int32_t mine = 0, size = members_of(c, all, color, &mine);
    uint64_t control = mine == 0 ? arena_take(c->job, control_bytes(size)) : 0;
    status = agree(c, "split", &control, sizeof control, controls);
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

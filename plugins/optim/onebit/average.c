/* See average.h. A message to or from one rank holds, for each vector that takes part, the signs of
 * a W-th of it, then one scale a vector. */
#include "optim/onebit/average.h"

#include <string.h>

/* A piece of a rank's part of a vector. */
typedef struct block {
    uint32_t vector;
    int32_t part;   /* the rank that serves it */
    uint64_t first; /* in that part */
    uint32_t count;
} block;

struct average_plan {
    size_t vectors, blocks, served; /* served: blocks that this rank serves */
    uint64_t message;               /* bytes */
    bool filled;                    /* the lists are, but for `count` */
    /* Lists in one allocation. */
    uint64_t *count;         /* [vectors], to know the plan again */
    uint64_t *part;          /* [vectors]: elements that each rank serves */
    uint64_t *offset;        /* [vectors]: of a vector's signs in a message */
    double *sums;            /* [blocks] of squares */
    block *block;            /* [blocks] by vector, part, place */
    uint32_t *served_block;  /* [served] */
    float *scales;           /* [world][vectors] */
    uint8_t *out, *in, *own; /* [world][message], the same, [message]; where there are others */
};

typedef struct pass {
    average *a;
    const average_work *work;
} pass;

uint64_t average_padded(uint64_t count, int32_t world)
{
    if (world == 1)
        return count;
    uint64_t unit = (uint64_t)world;
    while (unit % 8)
        unit += (uint64_t)world;
    unit *= (uint64_t)world;
    return (count + unit - 1) / unit * unit;
}

static uint64_t part_of(const average *a, uint64_t count)
{
    return average_padded(count, a->world) / (uint64_t)a->world;
}

size_t average_blocks(const average *a, const average_work *work)
{
    size_t blocks = 0;
    for (size_t v = 0; v < work->count; v++)
        blocks +=
            (size_t)((part_of(a, work->vectors[v].count) + AVERAGE_BLOCK - 1) / AVERAGE_BLOCK);
    return blocks * (size_t)a->world;
}

void average_release(average *a)
{
    average_plan *p = a->plan;
    if (!p)
        return;
    void *held[] = {p->count, p->out, p->in, p->own, p};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++)
        a->host->free(a->host, held[i]);
    a->plan = NULL;
}

static bool same(const average_plan *p, const average_work *work)
{
    if (!p || p->vectors != work->count)
        return false;
    for (size_t v = 0; v < p->vectors; v++)
        if (p->count[v] != work->vectors[v].count)
            return false;
    return true;
}

static void fill(const average *a, average_plan *p, const average_work *work)
{
    size_t k = 0;
    uint64_t offset = 0;
    for (size_t v = 0; v < p->vectors; v++) {
        uint64_t part = part_of(a, work->vectors[v].count);
        p->part[v] = part;
        p->offset[v] = offset;
        offset += part / 8;
        for (int32_t r = 0; r < a->world; r++)
            for (uint64_t i = 0; i < part; i += AVERAGE_BLOCK) {
                uint64_t left = part - i;
                if (r == a->rank)
                    p->served_block[p->served++] = (uint32_t)k;
                p->block[k++] =
                    (block){.vector = (uint32_t)v,
                            .part = r,
                            .first = i,
                            .count = (uint32_t)(left < AVERAGE_BLOCK ? left : AVERAGE_BLOCK)};
            }
    }
    p->filled = true;
}

/* The lists, all of which keep the alignment of the largest elements. */
static bool allocate_lists(const average *a, average_plan *p, size_t vectors, size_t blocks)
{
    size_t world = (size_t)a->world;
    char *at = a->host->alloc(a->host,
                              3 * vectors * sizeof(uint64_t) + blocks * sizeof(double) +
                                  blocks * sizeof(block) + blocks * sizeof(uint32_t) +
                                  world * vectors * sizeof(float),
                              0);
    if (!at)
        return false;
    p->vectors = vectors;
    p->blocks = blocks;
    p->count = (uint64_t *)(void *)at;
    p->part = p->count + vectors;
    p->offset = p->part + vectors;
    p->sums = (double *)(void *)(p->offset + vectors);
    p->block = (block *)(void *)(p->sums + blocks);
    p->served_block = (uint32_t *)(void *)(p->block + blocks);
    p->scales = (float *)(void *)(p->served_block + blocks);
    return true;
}

zds_status average_prepare(average *a, const average_work *work)
{
    const zds_host *host = a->host;
    if (same(a->plan, work))
        return ZDS_OK;
    size_t blocks = average_blocks(a, work), world = (size_t)a->world;
    if (blocks > UINT32_MAX)
        return host->fail(host, ZDS_ERR_UNSUPPORTED, "more than 2^32 blocks of %d elements",
                          AVERAGE_BLOCK);
    average_release(a);
    average_plan *p = a->plan = host->alloc(host, sizeof *p, 0);
    bool made = p && allocate_lists(a, p, work->count, blocks);
    for (size_t v = 0; made && v < work->count; v++) {
        p->count[v] = work->vectors[v].count;
        p->message += part_of(a, p->count[v]) / 8 + sizeof(float);
    }
    if (made && world > 1) {
        p->out = host->alloc(host, world * p->message, 0);
        p->in = host->alloc(host, world * p->message, 0);
        p->own = host->alloc(host, p->message, 0);
        made = p->out && p->in && p->own;
    }
    if (made)
        return ZDS_OK;
    average_release(a);
    return host->fail(host, ZDS_ERR_MEMORY, "no memory for the messages of a 1-bit reduction");
}

static uint64_t first_of(const average_plan *p, const block *b)
{
    return (uint64_t)b->part * p->part[b->vector] + b->first;
}

/* Elements of a block that are no padding. */
static size_t filled(const average_plan *p, const block *b)
{
    uint64_t first = first_of(p, b), count = p->count[b->vector];
    uint64_t left = first < count ? count - first : 0;
    return left < b->count ? (size_t)left : b->count;
}

/* Where a block's signs lie in the message of `rank`. */
static uint8_t *signs(const average_plan *p, uint8_t *messages, int32_t rank, const block *b)
{
    return messages + (uint64_t)rank * p->message + p->offset[b->vector] + b->first / 8;
}

/* The scales at the end of the message of `rank`. */
static uint8_t *tail(const average_plan *p, uint8_t *messages, int32_t rank)
{
    return messages + (uint64_t)(rank + 1) * p->message - p->vectors * sizeof(float);
}

/* === passes over blocks === */

/* One rank: what comes is the mean. */
static void pass_through(void *arg, size_t i)
{
    const pass *p = arg;
    const block *b = &p->a->plan->block[i];
    float x[AVERAGE_BLOCK];
    p->work->load(p->work->user, b->vector, i, b->first, b->count, x);
    p->work->store(p->work->user, b->vector, i, b->first, b->count, x);
}

static void add_error(void *arg, size_t i)
{
    const pass *p = arg;
    average_plan *plan = p->a->plan;
    const block *b = &plan->block[i];
    uint64_t first = first_of(plan, b);
    size_t count = filled(plan, b);
    float x[AVERAGE_BLOCK];
    if (count)
        p->work->load(p->work->user, b->vector, i, first, count, x);
    memset(x + count, 0, (b->count - count) * sizeof *x);
    plan->sums[i] = p->a->kernels->add(p->work->vectors[b->vector].worker + first, x, b->count);
}

static void compress(void *arg, size_t i)
{
    const pass *p = arg;
    average_plan *plan = p->a->plan;
    const block *b = &plan->block[i];
    p->a->kernels->compress(p->work->vectors[b->vector].worker + first_of(plan, b),
                            plan->scales[b->vector], signs(plan, plan->out, b->part, b), b->count);
}

static void serve_sum(void *arg, size_t i)
{
    const pass *p = arg;
    average_plan *plan = p->a->plan;
    const block *b = &plan->block[plan->served_block[i]];
    float y[AVERAGE_BLOCK];
    for (int32_t r = 0; r < p->a->world; r++)
        p->a->kernels->expand(y, signs(plan, plan->in, r, b),
                              plan->scales[(size_t)r * plan->vectors + b->vector] /
                                  (float)p->a->world,
                              r > 0, b->count);
    plan->sums[plan->served_block[i]] =
        p->a->kernels->add(p->work->vectors[b->vector].server + b->first, y, b->count);
}

static void serve_compress(void *arg, size_t i)
{
    const pass *p = arg;
    average_plan *plan = p->a->plan;
    const block *b = &plan->block[plan->served_block[i]];
    p->a->kernels->compress(p->work->vectors[b->vector].server + b->first, plan->scales[b->vector],
                            signs(plan, plan->own, 0, b), b->count);
}

static void take_mean(void *arg, size_t i)
{
    const pass *p = arg;
    average_plan *plan = p->a->plan;
    const block *b = &plan->block[i];
    size_t count = filled(plan, b);
    float x[AVERAGE_BLOCK];
    if (!count)
        return;
    p->a->kernels->expand(x, signs(plan, plan->out, b->part, b),
                          plan->scales[(size_t)b->part * plan->vectors + b->vector], false,
                          b->count);
    p->work->store(p->work->user, b->vector, i, first_of(plan, b), count, x);
}

/* === between the passes === */

/* scales[v]: root mean square of each vector, from the sums of `blocks` of its blocks, or of those
 * that this rank serves. */
static void find_scales(average_plan *p, bool served, int32_t world)
{
    size_t count = served ? p->served : p->blocks;
    memset(p->scales, 0, p->vectors * sizeof *p->scales);
    for (size_t i = 0; i < count;) {
        uint32_t v = p->block[served ? p->served_block[i] : i].vector;
        double sum = 0;
        for (; i < count; i++) {
            size_t k = served ? p->served_block[i] : i;
            if (p->block[k].vector != v)
                break;
            sum += p->sums[k];
        }
        uint64_t elements = p->part[v] * (served ? 1 : (uint64_t)world);
        p->scales[v] = (float)sqrt(sum / (double)elements);
    }
}

static zds_status exchange(zds_status (*operation)(void *, const zds_coll *, zds_event **),
                           void *comm_self, const void *src, void *dst, uint64_t count)
{
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = count,
                     .src = src,
                     .dst = dst,
                     .count = count,
                     .src_dtype = ZDS_U8,
                     .dst_dtype = ZDS_U8};
    zds_event *done = NULL;
    zds_status status = operation(comm_self, &coll, &done);
    if (status || !done)
        return status;
    status = done->ops->wait(done);
    done->ops->release(done);
    return status;
}

zds_status average_run(average *a, const average_work *work, const zds_comm_ops *comm,
                       void *comm_self)
{
    const zds_host *host = a->host;
    zds_status status = average_prepare(a, work);
    if (status)
        return status;
    average_plan *p = a->plan;
    if (!p->filled)
        fill(a, p, work);
    pass blocks = {a, work};
    size_t scale_bytes = p->vectors * sizeof *p->scales;
    if (!p->blocks)
        return ZDS_OK;
    if (a->world == 1) {
        host->parallel_for(host, p->blocks, pass_through, &blocks);
        return ZDS_OK;
    }
    host->parallel_for(host, p->blocks, add_error, &blocks);
    find_scales(p, false, a->world);
    host->parallel_for(host, p->blocks, compress, &blocks);
    for (int32_t r = 0; r < a->world; r++)
        memcpy(tail(p, p->out, r), p->scales, scale_bytes);
    status = exchange(comm->all_to_all, comm_self, p->out, p->in, p->message);
    if (status)
        return status;
    for (int32_t r = 0; r < a->world; r++)
        memcpy(p->scales + (size_t)r * p->vectors, tail(p, p->in, r), scale_bytes);
    host->parallel_for(host, p->served, serve_sum, &blocks);
    find_scales(p, true, a->world);
    host->parallel_for(host, p->served, serve_compress, &blocks);
    memcpy(tail(p, p->own, 0), p->scales, scale_bytes);
    status = exchange(comm->all_gather, comm_self, p->own, p->out, p->message);
    if (status)
        return status;
    for (int32_t r = 0; r < a->world; r++)
        memcpy(p->scales + (size_t)r * p->vectors, tail(p, p->out, r), scale_bytes);
    host->parallel_for(host, p->blocks, take_mean, &blocks);
    return ZDS_OK;
}

size_t average_stretch(const average *a, size_t i, uint64_t *first)
{
    const average_plan *p = a->plan;
    *first = first_of(p, &p->block[i]);
    return filled(p, &p->block[i]);
}

zds_status average_gather(const zds_comm_ops *comm, void *comm_self, const void *mine, void *all,
                          uint64_t bytes)
{
    return exchange(comm->all_gather, comm_self, mine, all, bytes);
}

/* Initial parameters, and the program's own bytes, from one rank to all. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdio.h>
#include <string.h>

#include "host/kernels.h"
#include "zero/parts.h"

static const char distributing[] = "distributing initial values";

static uint64_t at_most(uint64_t count, uint64_t most)
{
    return count < most ? count : most;
}

/* Bytes of the staging go from one rank to all. `tag`: the same on all ranks. */
static zds_status share_staged(zero *z, uint64_t tag, uint64_t bytes, int32_t root,
                               const char *doing)
{
    peers *p = z->with.control;
    const zds_coll coll = {.struct_size = sizeof coll,
                           .tag = tag,
                           .what = doing,
                           .src = z->params.staging,
                           .dst = z->params.staging,
                           .count = bytes,
                           .src_dtype = ZDS_U8,
                           .dst_dtype = ZDS_U8,
                           .peer = root};
    return peers_call(p, p->ops->broadcast, &coll, doing);
}

/* Values go where parameters are, rounded to their type. */
static zds_status keep(zero *z, bufref to, const float *values, uint64_t count)
{
    bool here = zero_points_to(to);
    kernel_convert(here ? bufref_at(to, 0) : z->params.raw, to.dtype, values, ZDS_F32, count);
    return here ? ZDS_OK : zero_send(z, to, z->params.raw, count * zds_dtype_size(to.dtype));
}

/* Some elements of a parameter go into this rank's memory, rounded to the parameter's type. */
static zds_status read_some(zero *z, uint32_t param, uint64_t first, uint64_t count,
                            zds_read_fn read, void *user, zds_status *read_status)
{
    bufref to = params_at(z, param, first);
    bool direct = zero_points_to(to) && to.dtype == ZDS_F32;
    float *floats = direct ? bufref_at(to, 0) : z->params.staging;
    *read_status = read(user, param, first, count, floats);
    return *read_status || direct ? ZDS_OK : keep(z, to, floats, count);
}

/* Of a parameter of which ranks keep parts: every rank sees all values pass, and keeps its own. */
static zds_status deal_out(zero *z, uint32_t param, zds_read_fn read, void *user,
                           zds_status *read_status)
{
    const layout_piece own = params_kept(z, param);
    uint64_t numel = z->with.model->params[param].numel, end = own.param_first + own.count;
    float *staging = z->params.staging;
    zds_status status = ZDS_OK;
    for (uint64_t k = 0; !status && k < numel; k += STAGING_ELEMENTS) {
        uint64_t n = at_most(numel - k, STAGING_ELEMENTS),
                 first = own.param_first > k ? own.param_first : k, last = at_most(end, k + n);
        if (z->with.peers->rank == 0 && !*read_status)
            *read_status = read(user, param, k, n, staging);
        status = share_staged(z, 8, n * sizeof *staging, 0, distributing);
        if (!status && first < last)
            status = keep(z, params_at(z, param, first), staging + (first - k), last - first);
    }
    return status;
}

static zds_status distribute(zero *z, zds_read_fn read, void *user, zds_status *read_status)
{
    peers *p = z->with.peers;
    zds_event *event = NULL;
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; !status && i < z->with.model->param_count; i++) {
        uint64_t numel = z->with.model->params[i].numel;
        if (params_in_parts(z, &z->lay->spans[z->lay->places[i].span])) {
            status = deal_out(z, i, read, user, read_status);
            continue;
        }
        /* Rank 0 reads some while those before travel. */
        for (uint64_t k = 0; !status && k < numel; k += STAGING_ELEMENTS) {
            uint64_t n = at_most(numel - k, STAGING_ELEMENTS);
            if (p->rank == 0 && !*read_status)
                status = read_some(z, i, k, n, read, user, read_status);
            if (is_alone(z) || status)
                continue;
            status = peers_wait(p, &event, distributing);
            if (status)
                break;
            bufref at = params_at(z, i, k);
            void *some = bufref_at(at, 0);
            zds_coll coll = {.struct_size = sizeof coll,
                             .tag = 5,
                             .what = distributing,
                             .src = some,
                             .dst = some,
                             .count = n,
                             .src_dtype = at.dtype,
                             .dst_dtype = at.dtype,
                             .stream = z->queue};
            status = peers_issue(p, p->ops->broadcast, &coll, distributing, &event);
            if (status)
                return status;
        }
    }
    return status ? status : peers_wait(p, &event, distributing);
}

static zds_status begin_values(zero *z)
{
    zds_status status = publish_await_all(z);
    if (!status)
        status = residency_forget(z, true);
    return status ? status : params_seal_all(z, false);
}

zds_status zero_read_values(zero *z, zds_read_fn read, void *user, zds_status *read_status)
{
    zds_status status = begin_values(z);
    if (!status)
        status = distribute(z, read, user, read_status);
    return status ? status : params_seal_all(z, true);
}

/* What of a parameter is in this rank's pages, or is for it to write into the node's. */
static layout_piece pages_of(const zero *z, uint32_t param)
{
    const peers *p = z->with.peers;
    uint64_t numel = z->with.model->params[param].numel, rank = (uint64_t)p->rank,
             size = (uint64_t)p->world_size, share = (numel + size - 1) / size,
             first = at_most(rank * share, numel);
    if (z->params.pages != PAGES_NODE)
        return params_kept(z, param);
    return z->with.params[param].trainable
               ? layout_piece_of(z->lay, z->with.model, param, (uint32_t)rank)
               : (layout_piece){param, first, at_most(share, numel - first), 0};
}

/* Of a chunk that is another one in each parameter. */
static zds_status hash_some(zero *z, uint32_t param, zds_read_fn read, void *user, uint64_t *hash)
{
    uint64_t numel = z->with.model->params[param].numel,
             chunks = (numel + LAYOUT_CHUNK - 1) / LAYOUT_CHUNK;
    if (!chunks)
        return ZDS_OK;
    uint64_t first = param % chunks * LAYOUT_CHUNK, n = at_most(numel - first, LAYOUT_CHUNK);
    zds_status status = read(user, param, first, n, z->params.staging);
    if (!status)
        *hash = XXH64(z->params.staging, n * sizeof *z->params.staging, param);
    return status;
}

static zds_status read_pages(zero *z, uint32_t param, zds_read_fn read, void *user,
                             zds_status *read_status)
{
    const layout_piece own = pages_of(z, param);
    zds_status status = ZDS_OK;
    for (uint64_t k = 0; !status && !*read_status && k < own.count; k += STAGING_ELEMENTS)
        status = read_some(z, param, own.param_first + k, at_most(own.count - k, STAGING_ELEMENTS),
                           read, user, read_status);
    return status;
}

zds_status zero_read_everywhere(zero *z, zds_read_fn read, void *user, uint64_t *hashes,
                                zds_status *read_status)
{
    zds_status status = begin_values(z);
    for (uint32_t i = 0; !status && !*read_status && i < z->with.model->param_count; i++) {
        status = read_pages(z, i, read, user, read_status);
        if (!status && !*read_status)
            *read_status = hash_some(z, i, read, user, &hashes[i]);
    }
    return status ? status : params_seal_all(z, true);
}

zds_status zero_broadcast(zero *z, void *data, uint64_t bytes, int32_t root)
{
    const peers *p = z->with.control;
    const uint64_t room = STAGING_ELEMENTS * sizeof *z->params.staging;
    zds_status status = ZDS_OK;
    uint64_t at = 0;
    char doing[64];
    snprintf(doing, sizeof doing, "zds_broadcast of %llu bytes", (unsigned long long)bytes);
    /* The size is the tag, and no bytes are an operation, too: ranks that give other sizes see it
     * before anything is written. */
    while (!status && !is_alone(z) && (at < bytes || !at)) {
        uint64_t n = at_most(bytes - at, room);
        if (n && p->rank == root)
            memcpy(z->params.staging, (char *)data + at, n);
        status = share_staged(z, bytes, n, root, doing);
        if (!status && n && p->rank != root)
            memcpy((char *)data + at, z->params.staging, n);
        at += room;
    }
    return status;
}

/* Initial parameters, and the program's own bytes, from one rank to all. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <string.h>

#include "host/kernels.h"
#include "zero/parts.h"

static uint64_t at_most(uint64_t count, uint64_t most)
{
    return count < most ? count : most;
}

/* Some elements of a parameter go into this rank's memory, rounded to the parameter's type. */
static zds_status read_some(zero *z, uint32_t param, uint64_t first, uint64_t count,
                            zds_read_fn read, void *user, zds_status *read_status)
{
    bufref to = params_at(z, param, first);
    bool here = zero_is_here(z), direct = here && to.dtype == ZDS_F32;
    float *floats = direct ? bufref_at(to, 0) : z->params.staging;
    *read_status = read(user, param, first, count, floats);
    if (*read_status || direct)
        return ZDS_OK;
    kernel_convert(here ? bufref_at(to, 0) : z->params.raw, to.dtype, floats, ZDS_F32, count);
    return here ? ZDS_OK : zero_send(z, to, z->params.raw, count * zds_dtype_size(to.dtype));
}

static zds_status distribute(zero *z, zds_read_fn read, void *user, zds_status *read_status)
{
    static const char doing[] = "distributing initial values";
    peers *p = z->with.peers;
    zds_event *event = NULL;
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; !status && i < z->with.model->param_count; i++) {
        uint64_t numel = z->with.model->params[i].numel;
        /* Rank 0 reads some while those before travel. */
        for (uint64_t k = 0; !status && k < numel; k += STAGING_ELEMENTS) {
            uint64_t n = at_most(numel - k, STAGING_ELEMENTS);
            if (p->rank == 0 && !*read_status)
                status = read_some(z, i, k, n, read, user, read_status);
            if (is_alone(z) || status)
                continue;
            status = peers_wait(p, &event, doing);
            if (status)
                break;
            bufref at = params_at(z, i, k);
            void *some = bufref_at(at, 0);
            zds_coll coll = {.struct_size = sizeof coll,
                             .tag = 5,
                             .what = doing,
                             .src = some,
                             .dst = some,
                             .count = n,
                             .src_dtype = at.dtype,
                             .dst_dtype = at.dtype,
                             .stream = z->queue};
            status = peers_issue(p, p->ops->broadcast, &coll, doing, &event);
            if (status)
                return status;
        }
    }
    return status ? status : peers_wait(p, &event, doing);
}

zds_status zero_read_values(zero *z, zds_read_fn read, void *user, zds_status *read_status)
{
    zds_status status = publish_await_all(z);
    if (!status)
        status = params_seal_all(z, false);
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
        return (layout_piece){.param = param, .count = numel};
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
    zds_status status = publish_await_all(z);
    if (!status)
        status = params_seal_all(z, false);
    for (uint32_t i = 0; !status && !*read_status && i < z->with.model->param_count; i++) {
        status = read_pages(z, i, read, user, read_status);
        if (!status && !*read_status)
            *read_status = hash_some(z, i, read, user, &hashes[i]);
    }
    return status ? status : params_seal_all(z, true);
}

zds_status zero_broadcast(zero *z, void *data, uint64_t bytes, int32_t root)
{
    static const char doing[] = "zds_broadcast";
    peers *p = z->with.control;
    const uint64_t room = STAGING_ELEMENTS * sizeof *z->params.staging;
    zds_status status = ZDS_OK;
    for (uint64_t at = 0; !status && !is_alone(z) && at < bytes; at += room) {
        uint64_t n = at_most(bytes - at, room);
        if (p->rank == root)
            memcpy(z->params.staging, (char *)data + at, n);
        const zds_coll coll = {.struct_size = sizeof coll,
                               .tag = 8,
                               .what = doing,
                               .src = z->params.staging,
                               .dst = z->params.staging,
                               .count = n,
                               .src_dtype = ZDS_U8,
                               .dst_dtype = ZDS_U8,
                               .peer = root};
        status = peers_call(p, p->ops->broadcast, &coll, doing);
        if (!status && p->rank != root)
            memcpy((char *)data + at, z->params.staging, n);
    }
    return status;
}

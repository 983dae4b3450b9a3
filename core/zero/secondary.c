/* A second copy of parameters in parts, cut among the ranks of a cell that is near (hpZ of ZeRO++,
 * Wang et al. 2023, section 3.2): the first gathering of a span, from all ranks, leaves this rank's
 * share of it here, and the next ones come from the cell's shares, until owners write. Consecutive
 * ranks are a cell, as launchers put them on nodes. */
#include <stdlib.h>

#include "host/log.h"
#include "zero/parts.h"

static bool is_cut(const zero *z, const layout_span *span)
{
    return params_in_parts(z, span) && !span->parts;
}

static uint64_t share_of(const zero *z, const layout_span *span)
{
    return span->count / (uint64_t)z->wish.cell;
}

/* A wish that changes nothing is said, not refused: the same config serves any ranks. */
static void tell_none(const zero *z)
{
    if (z->wish.stage == 3 && z->wish.cell > 1 && !z->with.tier->planned &&
        z->with.peers->rank == 0)
        log_line(ZDS_LOG_INFO, -1, NULL,
                 "zero_optimization.zero_hpz_partition_size: %s, and a second copy would change "
                 "nothing",
                 z->params.in_parts ? "all ranks together have one already"
                                    : "these ranks share pages");
}

zds_status secondary_create(zero *z, zds_error *error)
{
    static const char what[] = "secondary parameters";
    secondary_part *s = &z->secondary;
    peers *p = z->with.peers;
    const int32_t size = z->wish.cell;
    uint64_t bytes = 0;
    if (size < 2 || !z->params.in_parts || size >= p->world_size) {
        tell_none(z);
        return ZDS_OK;
    }
    if (!(p->ops->flags & ZDS_COMM_COPIES))
        return error_set(error, ZDS_ERR_UNSUPPORTED,
                         "zero_optimization.zero_hpz_partition_size: communication plugin %s takes "
                         "memory of one communicator alone (it has no ZDS_COMM_COPIES), and "
                         "parameters are gathered by two; write 1",
                         p->services->name);
    s->at = calloc(z->lay->span_count + (size_t)1, sizeof *s->at);
    s->fresh = calloc(z->lay->span_count + (size_t)1, sizeof *s->fresh);
    if (!s->at || !s->fresh)
        return zero_no_memory(error, what, 0);
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        const layout_span *span = &z->lay->spans[k];
        s->at[k] = bytes;
        bytes += is_cut(z, span) ? share_of(z, span) * zds_dtype_size(zero_dtype(z, span)) : 0;
    }
    if (!bytes)
        return ZDS_OK;
    zds_status status = zero_alloc(z->with.tier, &s->copies, what, bytes, error);
    if (status)
        return status;
    status = peers_cell_open(p, &s->cell, p->rank / size, p->rank % size, size, error);
    s->there = !status;
    return status;
}

void secondary_destroy(zero *z)
{
    secondary_part *s = &z->secondary;
    peers_cell_close(z->with.peers, &s->cell);
    tier_free(&s->copies);
    free(s->at);
    free(s->fresh);
}

bool secondary_has(const zero *z, uint32_t k)
{
    return z->secondary.there && z->secondary.fresh[k];
}

void secondary_forget(zero *z, uint32_t k)
{
    if (z->secondary.there)
        z->secondary.fresh[k] = false;
}

static bufref copy_of(const zero *z, uint32_t k)
{
    return (bufref){&z->secondary.copies, z->secondary.at[k], zero_dtype(z, &z->lay->spans[k])};
}

zds_status secondary_keep(zero *z, uint32_t k)
{
    secondary_part *s = &z->secondary;
    const layout_span *span = &z->lay->spans[k];
    if (!s->there || s->fresh[k] || !is_cut(z, span) || !span->count)
        return ZDS_OK;
    const uint64_t share = share_of(z, span);
    bufref from = bufref_moved(params_of_span(z, span), (uint64_t)s->cell.rank * share);
    zds_status status = zero_convert(z, copy_of(z, k), from, share);
    s->fresh[k] = !status;
    return status;
}

zds_status secondary_gather(zero *z, uint32_t k, const char *doing, zds_event **event)
{
    peers *p = z->with.peers;
    const layout_span *span = &z->lay->spans[k];
    const zds_dtype dtype = zero_dtype(z, span);
    const zds_coll coll = {.struct_size = sizeof coll,
                           .tag = (uint64_t)k << 8 | 3,
                           .what = doing,
                           .src = bufref_at(copy_of(z, k), 0),
                           .dst = bufref_at(params_of_span(z, span), 0),
                           .count = share_of(z, span),
                           .src_dtype = dtype,
                           .dst_dtype = dtype,
                           .stream = z->wire};
    zds_status status = z->wire ? zero_follow(z, z->wire, z->queue) : ZDS_OK;
    return status ? status
                  : peers_issue_in(p, &z->secondary.cell, p->ops->all_gather, &coll, doing, event);
}

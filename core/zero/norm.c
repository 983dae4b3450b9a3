/* Norms: of all gradients, for clipping, with what else ranks tell each other once a boundary; and
 * of tensors, for optimizers that scale by them. Sums are taken in chunk, then rank order, so that
 * the bits depend neither on tiles nor on threads. */
#include <math.h>
#include <string.h>

#include "zero/parts.h"

/* === of all gradients === */

/* What a rank tells the others, at most 64 bytes. */
typedef struct norm_row {
    double sum_squares;
    uint64_t non_finite;
    double loss;
    int64_t micro;
    int32_t present; /* NONE, SOME or ALL of the trained parameters have a gradient here */
    int32_t reserved;
} norm_row;
enum { NONE = 0, SOME = 1, ALL = 2 };

/* Chunk by chunk, span by span. */
static norm_row own_row(const zero *z)
{
    norm_row row = {0};
    uint32_t trained = 0, present = 0;
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        const span_run *run = &z->grads.spans[k];
        if (!layout_is_trained(&z->lay->spans[k]) || !z->lay->spans[k].count)
            continue;
        for (size_t i = 0; !z->local && i < run->chunk_count; i++)
            row.sum_squares += run->chunk_sums[i];
        if (z->local)
            row.sum_squares += run->own_sum_squares;
        row.non_finite += run->non_finite;
    }
    for (uint32_t i = 0; i < z->with.model->param_count; i++) {
        trained += z->with.params[i].trainable;
        present += z->grads.present[i];
    }
    row.present = present == trained ? ALL : present ? SOME : NONE;
    return row;
}

/* Which parameters have a gradient anywhere, where ranks do not say the same of all of them. */
static zds_status share_presence(zero *z)
{
    peers *p = z->with.peers;
    uint32_t count = z->with.model->param_count;
    bool bytes = p->ops->reduce_dtypes & ZDS_DTYPE_BIT(ZDS_U8);
    zds_dtype dtype = bytes ? ZDS_U8 : ZDS_F32;
    uint8_t *small = z->presence.slab.block.pointer;
    float *large = z->presence.slab.block.pointer;
    for (uint32_t i = 0; i < count; i++) {
        if (bytes)
            small[i] = z->grads.present[i];
        else
            large[i] = z->grads.present[i];
    }
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = 10,
                     .src = z->presence.slab.block.pointer,
                     .dst = z->presence.slab.block.pointer,
                     .count = count,
                     .src_dtype = dtype,
                     .dst_dtype = dtype,
                     .op = ZDS_MAX};
    zds_status status =
        peers_call(p, p->ops->all_reduce, &coll, "telling which parameters have gradients");
    for (uint32_t i = 0; !status && i < count; i++)
        z->grads.present[i] = bytes ? small[i] != 0 : large[i] != 0;
    return status;
}

static zds_status diverged(zero *z, int32_t rank, int64_t theirs, int64_t ours)
{
    failure_set(
        z->with.failure, ZDS_ERR_DIVERGED,
        "rank %d ends an optimizer step after %lld micro steps, rank %d after %lld: all "
        "ranks must name the same micro step as the boundary (zds_micro_begin) and have the "
        "same batch size (zds_set_train_batch_size)",
        rank, (long long)theirs, z->with.peers->rank, (long long)ours);
    return peers_give_up(z->with.peers, ZDS_ERR_DIVERGED);
}

zds_status zero_norm(zero *z, double loss, int64_t micro, zero_norm_result *result)
{
    const peers *p = z->with.peers;
    double squares = 0, norms = 0;
    bool all = true, some = false;
    norm_row row = own_row(z);
    row.loss = loss;
    row.micro = micro;
    const void *rows;
    zds_status status =
        peers_gather(z->with.peers, &row, sizeof row, &rows, "exchanging norms of gradients");
    if (status)
        return status;
    *result = (zero_norm_result){.unused = -1};
    for (int32_t r = 0; r < p->world_size; r++) {
        memcpy(&row, (const char *)rows + (size_t)r * sizeof row, sizeof row);
        if (row.micro != micro)
            return diverged(z, r, row.micro, micro);
        squares += row.sum_squares;
        norms += sqrt(row.sum_squares);
        result->non_finite += row.non_finite;
        result->loss += row.loss;
        all &= row.present == ALL;
        some |= row.present != NONE;
    }
    result->loss /= p->world_size;
    result->norm = z->local ? z->wish.sum_factor * norms / p->world_size : sqrt(squares);
    result->any = some;
    if (!all && some && !is_alone(z))
        status = share_presence(z);
    for (uint32_t i = 0; !status && result->unused < 0 && i < z->with.model->param_count; i++)
        if (z->with.params[i].trainable && !z->grads.present[i] && z->with.model->params[i].numel)
            result->unused = i;
    return status;
}

/* === of tensors === */

zds_status norm_create(zero *z, zds_error *error)
{
    stream_part *t = &z->stream;
    uint64_t params = z->with.model->param_count, chunks = 0;
    uint64_t ranks = (uint64_t)z->with.peers->world_size;
    zds_status status = ZDS_OK;
    if (!is_alone(z))
        status = peers_alloc(z->with.peers, &z->presence, "control", params * sizeof(float),
                             ZDS_MEM_SYMMETRIC, error);
    for (uint32_t i = 0; i < params; i++)
        t->norm_count += z->with.params[i].needs.tensor_norms;
    if (status || !t->norm_count)
        return status;
    for (uint32_t k = 0; k < t->piece_count; k++)
        chunks += t->pieces[k].chunks * z->with.params[t->pieces[k].param].needs.tensor_norms;
    uint64_t share = (t->norm_count + ranks - 1) / ranks;
    if (z->wish.stage && !is_alone(z))
        status = peers_alloc(z->with.peers, &t->shares, "norm",
                             (2 * ranks + 1) * share * sizeof(double), ZDS_MEM_SYMMETRIC, error);
    if (status)
        return status;
    uint64_t bytes = (t->norm_count + chunks) * sizeof(double) + params * sizeof *t->sums_at;
    t->sums = ledger_alloc(z->with.ledger, "norm", bytes, 0);
    if (!t->sums)
        return zero_no_memory(error, "norms of tensors", bytes);
    if (z->with.tier->planned)
        return ZDS_OK;
    double *next = t->sums + t->norm_count;
    for (uint32_t k = 0; k < t->piece_count; k++) {
        piece *p = &t->pieces[k];
        uint32_t norms = z->with.params[p->param].needs.tensor_norms;
        p->chunk_sums = norms ? next : NULL;
        next += p->chunks * norms;
    }
    t->sums_at = (uint64_t *)(void *)next;
    uint64_t at = 0;
    for (uint32_t i = 0; i < params; i++) {
        t->sums_at[i] = at;
        at += z->with.params[i].needs.tensor_norms;
    }
    return ZDS_OK;
}

void norm_destroy(zero *z)
{
    peers_free(z->with.peers, &z->stream.shares);
    peers_free(z->with.peers, &z->presence);
    ledger_free(z->with.ledger, z->stream.sums);
}

/* Each rank adds up its share of all ranks' sums, in rank order, and tells the others. */
static zds_status add_over_ranks(zero *z)
{
    stream_part *t = &z->stream;
    peers *p = z->with.peers;
    uint64_t ranks = (uint64_t)p->world_size, share = (t->norm_count + ranks - 1) / ranks;
    double *mine = t->shares.slab.block.pointer, *theirs = mine + ranks * share,
           *sum = theirs + ranks * share;
    memset(mine, 0, ranks * share * sizeof *mine);
    memcpy(mine, t->sums, t->norm_count * sizeof *mine);
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = 11,
                     .src = mine,
                     .dst = theirs,
                     .count = share,
                     .src_dtype = ZDS_F64,
                     .dst_dtype = ZDS_F64};
    zds_status status = peers_call(p, p->ops->all_to_all, &coll, "adding norms of tensors");
    if (status)
        return status;
    for (uint64_t i = 0; i < share; i++) {
        sum[i] = 0;
        for (uint64_t r = 0; r < ranks; r++)
            sum[i] += theirs[r * share + i];
    }
    coll.src = sum;
    coll.dst = mine;
    status = peers_call(p, p->ops->all_gather, &coll, "adding norms of tensors");
    memcpy(t->sums, mine, t->norm_count * sizeof *mine);
    return status;
}

zds_status norm_sum_tensors(zero *z)
{
    stream_part *t = &z->stream;
    memset(t->sums, 0, t->norm_count * sizeof *t->sums);
    for (uint32_t k = 0; k < t->piece_count; k++) {
        const piece *p = &t->pieces[k];
        uint32_t norms = z->with.params[p->param].needs.tensor_norms;
        double *sums = t->sums + t->sums_at[p->param];
        for (uint32_t q = 0; z->grads.present[p->param] && q < norms; q++)
            for (size_t c = 0; c < p->chunks; c++)
                sums[q] += p->chunk_sums[q * p->chunks + c];
    }
    /* At stage 0 every rank has all of them. */
    return z->wish.stage == 0 || is_alone(z) ? ZDS_OK : add_over_ranks(z);
}

/* Norms: of all gradients, for clipping, with what else ranks tell each other once a boundary; and
 * of tensors, for optimizers that scale by them. Sums are taken in chunk, then rank order, so that
 * the bits depend neither on tiles nor on threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "zero/parts.h"

/* === of all gradients === */

/* What a rank tells the others, at most 64 bytes. */
typedef struct norm_row {
    double sum_squares;
    uint64_t non_finite;
    double loss;
    int64_t micro, accumulation;
    uint64_t rates;
    int32_t present; /* NONE, SOME or ALL of the trained parameters have a gradient here */
    int32_t spoilt;
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
    row.present = !present ? NONE : present == trained ? ALL : SOME;
    return row;
}

/* Of the first `count` of these parameters, from element `at` of the memory on. */
typedef struct presence {
    const uint32_t *params; /* NULL: all */
    uint32_t count;
    uint64_t at;
} presence;

static bool are_bytes(const zero *z)
{
    return z->with.control->ops->reduce_dtypes & ZDS_DTYPE_BIT(ZDS_U8);
}

/* Where the i-th is, in the memory and in zero. */
static void *presence_at(const zero *z, const presence *p, uint32_t i)
{
    bufref memory = {&z->presence.slab, 0, are_bytes(z) ? ZDS_U8 : ZDS_F32};
    return bufref_element(memory, p->at + i);
}

static bool *present(zero *z, const presence *p, uint32_t i)
{
    return &z->grads.present[p->params ? p->params[i] : i];
}

static const char telling[] = "telling which parameters have gradients";

/* Ranks tell each other which have a gradient, */
static zds_coll tell(zero *z, const presence *p, uint64_t tag)
{
    for (uint32_t i = 0; i < p->count; i++) {
        if (are_bytes(z))
            *(uint8_t *)presence_at(z, p, i) = *present(z, p, i);
        else
            *(float *)presence_at(z, p, i) = *present(z, p, i);
    }
    zds_dtype dtype = are_bytes(z) ? ZDS_U8 : ZDS_F32;
    return (zds_coll){.struct_size = sizeof(zds_coll),
                      .tag = tag,
                      .what = telling,
                      .src = presence_at(z, p, 0),
                      .dst = presence_at(z, p, 0),
                      .count = p->count,
                      .src_dtype = dtype,
                      .dst_dtype = dtype,
                      .op = ZDS_MAX};
}

/* and have learnt which have one anywhere. */
static void learn(zero *z, const presence *p)
{
    for (uint32_t i = 0; i < p->count; i++)
        *present(z, p, i) = are_bytes(z) ? *(uint8_t *)presence_at(z, p, i) != 0
                                         : *(float *)presence_at(z, p, i) != 0;
}

/* Where ranks do not say the same of all of them. */
static zds_status share_all(zero *z)
{
    const presence all = {.count = z->with.model->param_count};
    zds_coll coll = tell(z, &all, 10);
    zds_status status =
        peers_call(z->with.control, z->with.control->ops->all_reduce, &coll, telling);
    if (!status)
        learn(z, &all);
    return status;
}

static presence of_span(const zero *z, uint32_t k)
{
    const layout_span *span = &z->lay->spans[k];
    return (presence){span->params, span->param_count, z->grads.spans[k].presence_at};
}

zds_status presence_share(zero *z, uint32_t k)
{
    const presence p = of_span(z, k);
    if (is_alone(z))
        return ZDS_OK;
    zds_coll coll = tell(z, &p, (uint64_t)k << 8 | 3);
    return peers_issue(z->with.control, z->with.control->ops->all_reduce, &coll, telling,
                       &z->grads.spans[k].presence);
}

zds_status presence_await(zero *z, uint32_t k)
{
    const presence p = of_span(z, k);
    if (is_alone(z))
        return ZDS_OK;
    zds_status status = peers_wait(z->with.control, &z->grads.spans[k].presence, telling);
    if (!status)
        learn(z, &p);
    return status;
}

/* A rank that is not as this one; false if it is. */
static bool differs(zero *z, int32_t rank, const norm_row *row, const zero_norm_own *own)
{
    failure *f = z->with.failure;
    int32_t me = z->with.peers->rank;
    if (row->accumulation != own->accumulation)
        failure_set(f, ZDS_ERR_DIVERGED,
                    "rank %d accumulates %lld micro steps, rank %d %lld: all ranks must have the "
                    "same batch size (zds_set_train_batch_size)",
                    rank, (long long)row->accumulation, me, (long long)own->accumulation);
    else if (row->micro != own->micro)
        failure_set(f, ZDS_ERR_DIVERGED,
                    "rank %d ends an optimizer step after %lld micro steps, rank %d after %lld: "
                    "all ranks must name the same micro step as the boundary (zds_micro_begin)",
                    rank, (long long)row->micro, me, (long long)own->micro);
    else if (row->rates != own->rates)
        failure_set(f, ZDS_ERR_DIVERGED,
                    "rank %d has other hyperparameters for this step than rank %d: all ranks must "
                    "set the same rates (zds_set_lr)",
                    rank, me);
    else
        return false;
    return true;
}

zds_status zero_norm(zero *z, const zero_norm_own *own, zero_norm_result *result)
{
    const peers *p = z->with.peers;
    double squares = 0, norms = 0;
    bool all = true, some = false;
    norm_row row = own_row(z);
    row.loss = own->loss;
    row.micro = own->micro;
    row.accumulation = own->accumulation;
    row.rates = own->rates;
    row.spoilt = own->spoilt;
    const void *rows;
    zds_status status =
        peers_gather(z->with.control, &row, sizeof row, &rows, "exchanging norms of gradients");
    if (status)
        return status;
    *result = (zero_norm_result){.unused = -1};
    for (int32_t r = 0; r < p->world_size; r++) {
        memcpy(&row, (const char *)rows + (size_t)r * sizeof row, sizeof row);
        if (differs(z, r, &row, own)) { /* all have the same rows: each rank sees it by itself */
            z->with.failure->broken = true;
            return ZDS_ERR_DIVERGED;
        }
        squares += row.sum_squares;
        norms += sqrt(row.sum_squares);
        result->non_finite += row.non_finite;
        result->loss += row.loss;
        result->spoilt |= row.spoilt != 0;
        all &= row.present == ALL;
        some |= row.present != NONE;
    }
    result->loss /= p->world_size;
    result->norm = z->local ? z->wish.sum_factor * norms / p->world_size : sqrt(squares);
    result->any = some;
    if (!all && some && !is_alone(z))
        status = share_all(z);
    for (uint32_t i = 0; !status && result->unused < 0 && i < z->with.model->param_count; i++)
        if (z->with.params[i].trainable && !z->grads.present[i] && z->with.model->params[i].numel)
            result->unused = i;
    return status;
}

/* === of tensors === */

zds_status norm_create(zero *z, zds_error *error)
{
    stream_part *t = &z->stream;
    uint64_t params = z->with.model->param_count;
    uint64_t ranks = (uint64_t)z->with.peers->world_size;
    zds_status status = ZDS_OK;
    if (!is_alone(z))
        status = peers_alloc(z->with.control, &z->presence, "control", params * sizeof(float),
                             ZDS_MEM_SYMMETRIC, error);
    t->sums_at = calloc(params + 1, sizeof *t->sums_at);
    if (!status && !t->sums_at)
        status = zero_no_memory(error, "norms of tensors", 0);
    if (status)
        return status;
    for (uint32_t i = 0; i < params; i++) {
        t->sums_at[i] = t->norm_count;
        t->norm_count += z->with.params[i].needs.tensor_norms;
    }
    t->norm_doubles = t->norm_count;
    for (uint32_t k = 0; k < t->piece_count; k++) {
        t->pieces[k].chunk_at = t->norm_doubles;
        t->norm_doubles +=
            t->pieces[k].chunks * z->with.params[t->pieces[k].param].needs.tensor_norms;
    }
    if (!t->norm_count)
        return ZDS_OK;
    uint64_t share = (t->norm_count + ranks - 1) / ranks, bytes = t->norm_doubles * sizeof(double);
    if (z->wish.stage && !is_alone(z))
        status = peers_alloc(z->with.control, &t->shares, "norm",
                             (2 * ranks + 1) * share * sizeof(double), ZDS_MEM_SYMMETRIC, error);
    if (!status)
        status = zero_alloc(z->with.tier, &t->norms, "norm", bytes, error);
    if (status)
        return status;
    t->sums =
        zero_is_here(z) ? t->norms.block.pointer : ledger_alloc(z->with.ledger, "norm", bytes, 0);
    return t->sums || z->with.tier->planned ? ZDS_OK
                                            : zero_no_memory(error, "norms of tensors", bytes);
}

void norm_destroy(zero *z)
{
    stream_part *t = &z->stream;
    peers_free(z->with.control, &t->shares);
    peers_free(z->with.control, &z->presence);
    if (!zero_is_here(z))
        ledger_free(z->with.ledger, t->sums);
    tier_free(&t->norms);
    free(t->sums_at);
}

/* Each rank adds up its share of all ranks' sums, in rank order, and tells the others. */
static zds_status add_over_ranks(zero *z)
{
    static const char adding[] = "adding norms of tensors";
    stream_part *t = &z->stream;
    peers *p = z->with.control;
    uint64_t ranks = (uint64_t)p->world_size, share = (t->norm_count + ranks - 1) / ranks;
    double *mine = t->shares.slab.block.pointer, *theirs = mine + ranks * share,
           *sum = theirs + ranks * share;
    memset(mine, 0, ranks * share * sizeof *mine);
    memcpy(mine, t->sums, t->norm_count * sizeof *mine);
    zds_coll coll = {.struct_size = sizeof coll,
                     .tag = 11,
                     .what = adding,
                     .src = mine,
                     .dst = theirs,
                     .count = share,
                     .src_dtype = ZDS_F64,
                     .dst_dtype = ZDS_F64};
    zds_status status = peers_call(p, p->ops->all_to_all, &coll, adding);
    if (status)
        return status;
    for (uint64_t i = 0; i < share; i++) {
        sum[i] = 0;
        for (uint64_t r = 0; r < ranks; r++)
            sum[i] += theirs[r * share + i];
    }
    coll.src = sum;
    coll.dst = mine;
    status = peers_call(p, p->ops->all_gather, &coll, adding);
    memcpy(t->sums, mine, t->norm_count * sizeof *mine);
    return status;
}

zds_status norm_sum_tensors(zero *z)
{
    stream_part *t = &z->stream;
    uint64_t bytes = t->norm_doubles * sizeof *t->sums;
    zds_status status = ZDS_OK;
    if (!zero_is_here(z))
        status = zero_fetch(z, t->sums, bufref_of(&t->norms, 0, ZDS_F64), bytes);
    if (status)
        return status;
    memset(t->sums, 0, t->norm_count * sizeof *t->sums);
    for (uint32_t k = 0; k < t->piece_count; k++) {
        const piece *p = &t->pieces[k];
        const double *chunks = t->sums + p->chunk_at;
        uint32_t norms = z->with.params[p->param].needs.tensor_norms;
        double *sums = t->sums + t->sums_at[p->param];
        for (uint32_t q = 0; z->grads.present[p->param] && q < norms; q++)
            for (size_t c = 0; c < p->chunks; c++)
                sums[q] += chunks[q * p->chunks + c];
    }
    if (z->wish.stage && !is_alone(z)) /* at stage 0 every rank has all of them */
        status = add_over_ranks(z);
    if (!status && !zero_is_here(z))
        status = zero_send(z, bufref_of(&t->norms, 0, ZDS_F64), t->sums,
                           t->norm_count * sizeof *t->sums);
    return status;
}

/* Parameters: in whose pages they are, and what a module's caller sees of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "zero/parts.h"

enum { PAGE = 4096 };

/* Of stage 3: where no page can be all ranks', or pages are elsewhere, each has its parts. */
static bool choose_parts(const zero *z)
{
    return z->wish.stage == 3 &&
           (zero_params_rest(z) || (!is_alone(z) && z->params.pages != PAGES_NODE));
}

/* In the order of the model, as far as all of them may be; alone, what stays here is whole. */
static void choose_kept(zero *z)
{
    uint64_t kept = 0, stays = is_alone(z) && zero_params_rest(z) ? z->wish.stay : 0;
    for (uint32_t i = 0; z->wish.stage == 3 && i < z->with.model->param_count; i++) {
        uint64_t numel = z->with.model->params[i].numel;
        bool small = numel <= z->wish.keep && numel <= z->wish.keep_all - kept,
             stay = !small && numel <= stays;
        z->params.kept[i] = small || stay;
        kept += small ? numel : 0;
        stays -= stay ? numel : 0;
    }
}

/* Of spans in parts all go that there is no room for. */
static void choose_away(zero *z)
{
    uint64_t stays = z->wish.stay;
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        const layout_span *span = &z->lay->spans[k];
        uint64_t part = (span->count + z->lay->world_size - 1) / z->lay->world_size;
        bool in_parts = params_in_parts(z, span) && zero_params_rest(z);
        z->params.away[k] = in_parts && (is_alone(z) || part > stays);
        stays -= in_parts && !z->params.away[k] ? part : 0;
    }
}

/* At stage 0, or alone, no peer reads a rank's parameters: its own memory may be of huge pages,
 * which shared memory seldom is, and matrix products walk over many rows at a time. But initial
 * values go from rank 0 to all, into a device's memory, or by a backend that must know of it. */
static pages choose_pages(const zero *z)
{
    const peers *p = z->with.peers;
    if (is_alone(z) || (z->wish.stage == 0 && zero_any_memory(z)))
        return PAGES_OWN;
    return z->wish.stage > 0 && zero_is_here(z) && p->one_node && !zero_params_rest(z) &&
                   p->ops->flags & ZDS_COMM_NODE_SHARED
               ? PAGES_NODE
               : PAGES_SYMMETRIC;
}

/* Where they are sealed, whole pages of their own. */
static zds_status take_own(zero *z, peer_slab *s, uint64_t bytes, zds_error *error)
{
    tier *t = z->with.tier;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!z->wish.stage || !zero_is_here(z))
        return zero_alloc(t, &s->slab, "parameters", bytes, error);
    bytes = layout_round_up(bytes, page);
    zds_status status = zero_alloc(t, &s->memory, "parameters", bytes + page, error);
    if (status)
        return status;
    uintptr_t first = (uintptr_t)s->memory.block.pointer;
    first = layout_round_up(first, page);
    return tier_adopt(t, (void *)first, bytes, &s->slab, error);
}

/* Numbers the bytes of spans, trained or frozen, as `rank` has them; returns how many there are. */
static uint64_t place(zero *z, bool trained, uint32_t rank)
{
    uint64_t at = 0;
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        const layout_span *span = &z->lay->spans[k];
        if (layout_is_trained(span) != trained || z->params.away[k])
            continue;
        z->params.at[k] = at;
        at += (params_in_parts(z, span) ? layout_part_count(span, rank) : span->count) *
              zds_dtype_size(zero_dtype(z, span));
    }
    return at;
}

uint64_t params_part_bytes(const zero *z, const layout_span *span)
{
    return layout_part_count(span, (uint32_t)z->with.peers->rank) *
           zds_dtype_size(zero_dtype(z, span));
}

/* Parts that rest elsewhere. */
static zds_status take_home(zero *z, zds_error *error)
{
    uint64_t bytes = 0;
    for (uint32_t k = 0; k < z->lay->span_count; k++) {
        if (!z->params.away[k])
            continue;
        z->params.at[k] = bytes;
        bytes += params_part_bytes(z, &z->lay->spans[k]);
    }
    return bytes ? zero_alloc(z->with.params_tier, &z->params.home, "parameters", bytes, error)
                 : ZDS_OK;
}

static zds_status take_memory(zero *z, peer_slab *s, bool trained, zds_error *error)
{
    uint64_t bytes = 0;
    for (uint32_t r = 0; r < z->lay->world_size; r++) { /* ranks know of the same bytes */
        uint64_t theirs = place(z, trained, r);
        bytes = theirs > bytes ? theirs : bytes;
        if (!z->params.in_parts)
            break;
    }
    place(z, trained, (uint32_t)z->with.peers->rank);
    if (!bytes && !trained)
        return ZDS_OK;
    if (z->params.pages == PAGES_OWN)
        return take_own(z, s, bytes, error);
    return peers_alloc(z->with.peers, s, "parameters", bytes,
                       z->params.pages == PAGES_NODE ? ZDS_MEM_SHARED : ZDS_MEM_SYMMETRIC, error);
}

static zds_status set_rights(zero *z, const peer_slab *s, bool sealed)
{
    int rights = sealed ? PROT_READ : PROT_READ | PROT_WRITE;
    const zds_block *b = &s->slab.block;
    if (!b->pointer || mprotect(b->pointer, b->bytes, rights) == 0)
        return ZDS_OK;
    return failure_set(z->with.failure, ZDS_ERR_MEMORY,
                       "the rights of the parameters' pages cannot be changed: %s",
                       strerror(errno));
}

/* Elsewhere pages are written by their callers, or readers have an address of their own. */
static bool is_sealed(const zero *z)
{
    return z->params.pages == PAGES_OWN && z->wish.stage > 0 && z->with.tier->in_host;
}

zds_status params_seal(zero *z, bool sealed)
{
    return is_sealed(z) ? set_rights(z, &z->params.trained, sealed) : ZDS_OK;
}

/* Frozen ones change with initial values alone. */
zds_status params_seal_all(zero *z, bool sealed)
{
    zds_status status = params_seal(z, sealed);
    return !status && is_sealed(z) ? set_rights(z, &z->params.frozen, sealed) : status;
}

/* What this rank keeps of a span: all, or its part. */
static bufref kept_at(const zero *z, const layout_span *span)
{
    const peer_slab *s = layout_is_trained(span) ? &z->params.trained : &z->params.frozen;
    size_t k = (size_t)(span - z->lay->spans);
    return (bufref){z->params.away[k] ? &z->params.home : &s->slab, z->params.at[k],
                    zero_dtype(z, span)};
}

bufref params_of_span(const zero *z, const layout_span *span)
{
    if (!params_in_parts(z, span))
        return kept_at(z, span);
    const span_live *live = &z->live.spans[span - z->lay->spans];
    const bool beyond = live->beyond.slab.tier != NULL;
    return (bufref){beyond ? &live->beyond.slab : &z->live.memory.slab, beyond ? 0 : live->at,
                    zero_dtype(z, span)};
}

bufref params_own_part(const zero *z, const layout_span *span)
{
    bufref kept = kept_at(z, span);
    return params_in_parts(z, span)
               ? kept
               : bufref_moved(kept, layout_part_first(span, (uint32_t)z->with.peers->rank));
}

bufref params_at(const zero *z, uint32_t param, uint64_t first)
{
    const layout_place *place = &z->lay->places[param];
    const layout_span *span = &z->lay->spans[place->span];
    uint64_t at = place->first + first;
    if (params_in_parts(z, span))
        at -= layout_part_first(span, (uint32_t)z->with.peers->rank);
    return bufref_moved(kept_at(z, span), at);
}

layout_piece params_kept(const zero *z, uint32_t param)
{
    if (params_in_parts(z, &z->lay->spans[z->lay->places[param].span]))
        return layout_piece_of(z->lay, z->with.model, param, (uint32_t)z->with.peers->rank);
    return (layout_piece){.param = param, .count = z->with.model->params[param].numel};
}

static void list_span(const zero *z, module_use *use, uint32_t k)
{
    for (uint32_t i = 0; i < use->span_count; i++)
        if (use->spans[i] == k)
            return;
    if (params_in_parts(z, &z->lay->spans[k]))
        use->spans[use->span_count++] = k;
}

static zds_status create_module(zero *z, uint32_t m, zds_error *error)
{
    const model_module *module = &z->with.model->modules[m];
    module_use *use = &z->params.modules[m];
    use->slot_count = module->home_count + module->use_count;
    use->slots = calloc(use->slot_count + (size_t)1, sizeof *use->slots);
    use->none = calloc(use->slot_count + (size_t)1, sizeof *use->none);
    use->spans = calloc(use->slot_count + (size_t)1, sizeof *use->spans);
    if (!use->slots || !use->none || !use->spans)
        return zero_no_memory(error, "modules", 0);
    for (uint32_t i = 0; i < use->slot_count; i++) {
        uint32_t param = module->params[i];
        const peer_slab *s =
            z->with.params[param].trainable ? &z->params.trained : &z->params.frozen;
        const char *base = s->read_only && z->wish.stage ? s->read_only : s->slab.block.pointer;
        const layout_span *span = &z->lay->spans[z->lay->places[param].span];
        bufref data = params_in_parts(z, span) ? (bufref){.dtype = zero_dtype(z, span)}
                                               : params_at(z, param, 0);
        list_span(z, use, z->lay->places[param].span);
        use->slots[i] = (zds_slot){.param = param,
                                   .dtype = data.dtype,
                                   .grad_dtype = data.dtype,
                                   .space = z->with.tier->info.device.space,
                                   .device = z->with.tier->info.device,
                                   .count = z->with.model->params[param].numel,
                                   .data = params_in_parts(z, span) ? NULL : base + data.offset};
    }
    return ZDS_OK;
}

zds_status params_choose(zero *z, zds_error *error)
{
    z->params.kept = calloc(z->with.model->param_count + (size_t)1, sizeof *z->params.kept);
    if (!z->params.kept)
        return zero_no_memory(error, "parameters", 0);
    z->params.pages = choose_pages(z);
    z->params.in_parts = choose_parts(z);
    choose_kept(z);
    return ZDS_OK;
}

zds_status params_open(zero *z, zds_error *error)
{
    z->params.at = calloc(z->lay->span_count + (size_t)1, sizeof *z->params.at);
    z->params.away = calloc(z->lay->span_count + (size_t)1, sizeof *z->params.away);
    if (!z->params.at || !z->params.away)
        return zero_no_memory(error, "parameters", 0);
    choose_away(z);
    zds_status status = take_home(z, error);
    if (!status)
        status = take_memory(z, &z->params.trained, true, error);
    if (!status)
        status = take_memory(z, &z->params.frozen, false, error);
    if (status)
        return status;
    status = peers_alloc(z->with.control, &z->params.staged, "staging",
                         STAGING_ELEMENTS * sizeof(float), ZDS_MEM_SYMMETRIC, error);
    if (status)
        return status;
    z->params.staging = z->params.staged.slab.block.pointer;
    if (!zero_is_here(z) || zero_params_rest(z)) {
        z->params.raw =
            ledger_alloc(z->with.ledger, "staging", STAGING_ELEMENTS * sizeof(double), PAGE);
        if (!z->params.raw)
            return zero_no_memory(error, "staging", STAGING_ELEMENTS * sizeof(double));
    }
    if (z->with.tier->planned)
        return ZDS_OK;
    z->params.modules = calloc(z->with.model->module_count + (size_t)1, sizeof *z->params.modules);
    if (!z->params.modules)
        return zero_no_memory(error, "modules", 0);
    for (uint32_t m = 0; !status && m < z->with.model->module_count; m++)
        status = create_module(z, m, error);
    return status;
}

void params_close(zero *z)
{
    params_part *p = &z->params;
    for (uint32_t m = 0; p->modules && m < z->with.model->module_count; m++) {
        free(p->modules[m].slots);
        free(p->modules[m].none);
        free(p->modules[m].spans);
    }
    free(p->modules);
    free(p->at);
    free(p->away);
    peers_free(z->with.control, &p->staged);
    ledger_free(z->with.ledger, p->raw);
    params_seal_all(z, false); /* whoever gives memory back may write into it */
    peers_free(z->with.peers, &p->trained);
    peers_free(z->with.peers, &p->frozen);
    tier_free(&p->home);
}

/* === a module's caller === */

/* The caller's queue waits for what was put on ours so far, or the caller does. */
static zds_status let_read(zero *z, const zds_stream *stream)
{
    if (!z->queue)
        return ZDS_OK;
    return stream ? zero_follow(z, stream, z->queue) : zero_sync(z);
}

zds_status zero_used(zero *z, const zds_stream *stream)
{
    return z->queue && stream ? zero_follow(z, z->queue, stream) : ZDS_OK;
}

/* Where spans that come and go are now. */
static void point_slots(zero *z, module_use *use)
{
    for (uint32_t i = 0; use->span_count && i < use->slot_count; i++) {
        const layout_place *place = &z->lay->places[use->slots[i].param];
        const layout_span *span = &z->lay->spans[place->span];
        if (params_in_parts(z, span))
            use->slots[i].data = bufref_element(params_of_span(z, span), place->first);
    }
}

static zds_status open_module(zero *z, uint32_t module, int32_t pass, const zds_stream *stream)
{
    module_use *use = &z->params.modules[module];
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; !status && i < use->slot_count; i++) {
        uint32_t param = use->slots[i].param, span = z->lay->places[param].span;
        status = publish_await(z, span);
        if (!status && pass == ZDS_BACKWARD && z->with.params[param].trainable)
            status = grads_open(z, span);
    }
    return status ? status : let_read(z, stream);
}

zds_status zero_acquire(zero *z, uint32_t module, int32_t pass, const zds_stream *stream)
{
    module_use *use = &z->params.modules[module];
    zds_status status = peers_progress(z->with.peers);
    if (!status)
        status = residency_acquire(z, module, pass);
    if (status)
        return status;
    status = open_module(z, module, pass, stream);
    if (status) {
        zds_status released = zero_release(z, module);
        return z->with.failure->broken ? status : released ? released : status;
    }
    point_slots(z, use);
    for (uint32_t i = 0; i < use->slot_count; i++) {
        zds_slot *slot = &use->slots[i];
        bool writes = pass == ZDS_BACKWARD && z->with.params[slot->param].trainable;
        use->none[i] = false;
        slot->grad = writes ? grads_pointer(z, slot->param) : NULL;
        /* Whoever acquired it before for another use writes it first. */
        slot->accumulate = writes && (z->grads.written[slot->param] || z->grads.held[slot->param]);
        z->grads.held[slot->param] += writes;
    }
    return status;
}

const zds_slot *zero_slots(const zero *z, uint32_t module, size_t *count)
{
    *count = z->params.modules[module].slot_count;
    return z->params.modules[module].slots;
}

zds_status zero_grad_none(zero *z, uint32_t module, uint32_t slot)
{
    module_use *use = &z->params.modules[module];
    const zds_slot *s = &use->slots[slot];
    if (s->grad && !s->accumulate && z->grads.held[s->param] > 1)
        return failure_set(z->with.failure, ZDS_ERR_INVALID,
                           "zds_grad_none: parameter %s of module %s is acquired for a later use, "
                           "too, which was told to add to this gradient; write zeros instead",
                           z->with.model->params[s->param].name,
                           z->with.model->modules[module].name);
    use->none[slot] = true;
    return ZDS_OK;
}

void zero_grads_spoilt(zero *z, uint32_t module)
{
    module_use *use = &z->params.modules[module];
    for (uint32_t i = 0; i < use->slot_count; i++)
        use->none[i] = true;
    zero_grads_written(z, module);
}

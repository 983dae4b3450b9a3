/* Spans of which ranks keep parts: gathered when a module that uses them is acquired, or before,
 * and dropped when their room is needed or their values change.
 *
 * Room is taken in one memory, as large as the config lets parameters be gathered (or as the
 * largest module). What is used next is known from the micro step before, as long as modules are
 * acquired in the same order; what is used last then goes first, and what comes next is gathered
 * ahead. All of it follows from the order of calls, which is the same on all ranks, so they need
 * not agree. */
#include <stdlib.h>
#include <string.h>

#include "host/log.h"
#include "zero/parts.h"

enum { ACQUIRES = 4 /* of a module in a micro step that is foretold */ };

static uint64_t span_bytes(const zero *z, uint32_t k)
{
    const layout_span *span = &z->lay->spans[k];
    uint64_t bytes = span->count * zds_dtype_size(zero_dtype(z, span)),
             align = zero_params_rest(z) ? z->with.params_tier->info.alignment : 64;
    return layout_round_up(bytes, align);
}

static const module_use *use_of(const zero *z, uint32_t module)
{
    return &z->params.modules[module];
}

/* === memory === */

/* Bytes of the spans in parts that a module uses. */
static uint64_t module_bytes(const zero *z, uint32_t module, bool *counted)
{
    const model_module *m = &z->with.model->modules[module];
    uint64_t bytes = 0;
    memset(counted, 0, z->lay->span_count * sizeof *counted);
    for (uint32_t i = 0; i < m->home_count + m->use_count; i++) {
        uint32_t k = z->lay->places[m->params[i]].span;
        if (!counted[k] && params_in_parts(z, &z->lay->spans[k]))
            bytes += span_bytes(z, k);
        counted[k] = true;
    }
    return bytes;
}

/* What may be gathered at a time: what the config says, but at least the largest module, and at
 * most all. */
static zds_status budget(zero *z, uint64_t *out, zds_error *error)
{
    uint64_t all = 0, most = 0, wish = z->wish.live, size = zds_dtype_size(z->wish.param_dtype);
    bool *counted = calloc(z->lay->span_count + (size_t)1, sizeof *counted);
    if (!counted)
        return zero_no_memory(error, "gathered parameters", 0);
    for (uint32_t k = 0; k < z->lay->span_count; k++)
        all += params_in_parts(z, &z->lay->spans[k]) ? span_bytes(z, k) : 0;
    for (uint32_t m = 0; m < z->with.model->module_count; m++) {
        uint64_t bytes = module_bytes(z, m, counted);
        most = bytes > most ? bytes : most;
    }
    free(counted);
    uint64_t bytes = wish < all / size ? wish * size : all;
    *out = bytes > most ? bytes : most;
    return ZDS_OK;
}

zds_status residency_create(zero *z, zds_error *error)
{
    live_part *l = &z->live;
    uint32_t spans = z->lay->span_count;
    if (!z->params.in_parts)
        return ZDS_OK;
    zds_status status = budget(z, &l->bytes, error);
    if (!status)
        status = peers_alloc(z->with.peers, &l->memory, "gathered parameters", l->bytes,
                             ZDS_MEM_SYMMETRIC, error);
    if (status || z->with.tier->planned)
        return status;
    l->room = (size_t)ACQUIRES * z->with.model->module_count;
    l->spans = calloc(spans + (size_t)1, sizeof *l->spans);
    l->placed = calloc(spans + (size_t)1, sizeof *l->placed);
    l->missing = calloc(spans + (size_t)1, sizeof *l->missing);
    l->seen = calloc(l->room + 1, sizeof *l->seen);
    l->plan = calloc(l->room + 1, sizeof *l->plan);
    if (!l->spans || !l->placed || !l->missing || !l->seen || !l->plan)
        return zero_no_memory(error, "gathered parameters", 0);
    for (uint32_t k = 0; k < spans; k++) {
        const model_module *m = &z->with.model->modules[z->lay->spans[k].first_module];
        l->spans[k].what = text_format("parameters of module %s", m->name);
        if (!l->spans[k].what)
            return zero_no_memory(error, "gathered parameters", 0);
    }
    return ZDS_OK;
}

void residency_destroy(zero *z)
{
    live_part *l = &z->live;
    for (uint32_t k = 0; l->spans && k < z->lay->span_count; k++) {
        if (l->spans[k].coming)
            l->spans[k].coming->ops->release(l->spans[k].coming);
        peers_free(z->with.peers, &l->spans[k].beyond);
        free(l->spans[k].what);
    }
    peers_free(z->with.peers, &l->memory);
    free(l->spans);
    free(l->placed);
    free(l->missing);
    free(l->seen);
    free(l->plan);
}

/* === what comes next === */

void residency_begin(zero *z)
{
    live_part *l = &z->live;
    if (l->seen_count && l->seen_count <= l->room) {
        uint32_t *swapped = l->plan;
        l->plan = l->seen;
        l->plan_count = l->seen_count;
        l->seen = swapped;
        l->plan_together = l->seen_together;
    }
    l->seen_together = l->held > 0;
    l->seen_count = 0;
    l->recording = z->params.in_parts;
    l->foretold = l->plan_count > 0;
}

void residency_end(zero *z)
{
    z->live.recording = false;
}

/* This acquire is the next of the micro step. */
static void note(zero *z, uint32_t module, int32_t pass)
{
    live_part *l = &z->live;
    uint32_t use = 2 * module + (pass == ZDS_BACKWARD);
    if (!l->recording)
        return;
    if (l->foretold && (l->seen_count >= l->plan_count || l->plan[l->seen_count] != use)) {
        l->foretold = false;
        if (z->wish.tell_order && z->with.peers->rank == 0)
            log_line(
                ZDS_LOG_WARNING, -1, NULL,
                "module %s is acquired at another place than in the micro step before: what is "
                "used next is not known until the next one, and is not gathered ahead",
                z->with.model->modules[module].name);
    }
    if (l->seen_count < l->room)
        l->seen[l->seen_count] = use;
    l->seen_together |= l->held > 0;
    l->seen_count++;
}

/* The module of the i-th acquire from now on; the next micro step comes after this one's. */
static uint32_t foretold(const live_part *l, size_t i)
{
    size_t at = l->recording && l->seen_count < l->plan_count ? l->seen_count : 0;
    return l->plan[(at + i) % l->plan_count] / 2;
}

bool zero_foretold(const zero *z)
{
    const live_part *l = &z->live;
    return !z->params.in_parts || is_alone(z) || (l->foretold && !l->plan_together);
}

bool zero_next(const zero *z, uint32_t *module, int32_t *pass)
{
    const live_part *l = &z->live;
    if (!l->recording || !l->foretold || l->seen_count >= l->plan_count)
        return false;
    *module = l->plan[l->seen_count] / 2;
    *pass = l->plan[l->seen_count] % 2 ? ZDS_BACKWARD : ZDS_FORWARD;
    return true;
}

static bool uses(const module_use *use, uint32_t k)
{
    for (uint32_t i = 0; i < use->span_count; i++)
        if (use->spans[i] == k)
            return true;
    return false;
}

/* How far away the next use of a span is: in acquires; where that is not known, as long ago as its
 * last. */
static uint64_t distance(const zero *z, uint32_t k)
{
    const live_part *l = &z->live;
    if (!l->foretold)
        return l->clock - l->spans[k].used;
    for (size_t i = 0; i < l->plan_count; i++)
        if (uses(use_of(z, foretold(l, i)), k))
            return i;
    return UINT64_MAX;
}

/* === room === */

/* The span is SHARDED again. */
static zds_status drop(zero *z, uint32_t k)
{
    live_part *l = &z->live;
    span_live *s = &l->spans[k];
    zds_status status = publish_await(z, k);
    if (status)
        return status;
    s->placed = false;
    if (s->beyond.slab.tier) {
        status = z->queue ? zero_sync(z) : ZDS_OK; /* what reads it was put there */
        peers_free(z->with.peers, &s->beyond);
        return status;
    }
    uint32_t i = 0;
    while (l->placed[i] != k)
        i++;
    memmove(&l->placed[i], &l->placed[i + 1], (--l->placed_count - i) * sizeof *l->placed);
    return ZDS_OK;
}

/* The first gap of so many bytes; *before: of how many placed spans. */
static bool find_gap(const zero *z, uint64_t bytes, uint64_t *at, uint32_t *before)
{
    const live_part *l = &z->live;
    uint64_t end = 0;
    for (uint32_t i = 0; i <= l->placed_count; i++) {
        uint64_t next = i < l->placed_count ? l->spans[l->placed[i]].at : l->bytes;
        if (end <= next && next - end >= bytes) {
            *at = end;
            *before = i;
            return true;
        }
        if (i < l->placed_count)
            end = next + span_bytes(z, l->placed[i]);
    }
    return false;
}

/* What nobody holds and is used last, but none that is used before `until`; LAYOUT_NONE. */
static int64_t used_last(const zero *z, uint64_t until)
{
    const live_part *l = &z->live;
    int64_t last = LAYOUT_NONE;
    uint64_t far = until;
    for (uint32_t i = 0; i < l->placed_count; i++) {
        uint32_t k = l->placed[i];
        uint64_t d = l->spans[k].holds ? 0 : distance(z, k);
        if (l->spans[k].holds || d < far)
            continue;
        far = d;
        last = k;
    }
    return last;
}

/* Room side by side for spans; *found false: there is none. */
static zds_status place(zero *z, const uint32_t *spans, uint32_t count, uint64_t until, bool *found)
{
    live_part *l = &z->live;
    uint64_t bytes = 0, at = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += span_bytes(z, spans[i]);
    while (!(*found = find_gap(z, bytes, &at, &before))) {
        int64_t last = bytes <= l->bytes ? used_last(z, until) : LAYOUT_NONE;
        zds_status status = last < 0 ? ZDS_OK : drop(z, (uint32_t)last);
        if (last < 0 || status)
            return status;
    }
    memmove(&l->placed[before + count], &l->placed[before],
            (l->placed_count - before) * sizeof *l->placed);
    l->placed_count += count;
    for (uint32_t i = 0; i < count; i++) {
        l->placed[before + i] = spans[i];
        l->spans[spans[i]].at = at;
        l->spans[spans[i]].placed = true;
        at += span_bytes(z, spans[i]);
    }
    return ZDS_OK;
}

/* What the caller holds is always given. */
static zds_status place_beyond(zero *z, const uint32_t *spans, uint32_t count, const char *module)
{
    live_part *l = &z->live;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    if (!l->told && z->with.peers->rank == 0)
        log_line(ZDS_LOG_WARNING, -1, NULL,
                 "module %s is acquired while others are, and all of them are more than "
                 "zero_optimization.stage3_max_live_parameters: memory beyond it is taken while "
                 "that is so",
                 module);
    l->told = true;
    for (uint32_t i = 0; !status && i < count; i++) {
        span_live *s = &l->spans[spans[i]];
        status = peers_alloc(z->with.peers, &s->beyond, "gathered parameters",
                             span_bytes(z, spans[i]), ZDS_MEM_SYMMETRIC, &error);
        s->placed = !status;
    }
    return zero_checked(z, status, &error);
}

static zds_status gather(zero *z, const uint32_t *spans, uint32_t count)
{
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; !status && i < count; i++)
        status = publish_gather(z, spans[i], z->live.spans[spans[i]].what);
    return status;
}

/* === the calls === */

zds_status residency_look_ahead(zero *z)
{
    live_part *l = &z->live;
    uint64_t ahead = 0;
    zds_status status = ZDS_OK;
    /* After the boundary's last use all values change. */
    size_t end = l->plan_count - (l->recording && z->boundary ? l->seen_count : 0);
    for (size_t i = 0; l->foretold && i < end && ahead < z->wish.ahead; i++) {
        const module_use *use = use_of(z, foretold(l, i));
        for (uint32_t j = 0; j < use->span_count && ahead < z->wish.ahead; j++) {
            uint32_t k = use->spans[j];
            bool coming = l->spans[k].placed && z->publish.spans[k].pending, found = true;
            if (coming || !l->spans[k].placed)
                ahead += z->lay->spans[k].count;
            if (l->spans[k].placed)
                continue;
            status = place(z, &k, 1, i + 1, &found);
            if (!status && found)
                status = gather(z, &k, 1);
            if (status || !found)
                return status;
        }
    }
    return status;
}

void zero_hold_module(zero *z, uint32_t module)
{
    const module_use *use = use_of(z, module);
    z->live.held += z->params.in_parts;
    for (uint32_t i = 0; i < use->span_count; i++)
        z->live.spans[use->spans[i]].holds++;
}

static zds_status bring(zero *z, uint32_t module)
{
    live_part *l = &z->live;
    const module_use *use = use_of(z, module);
    uint32_t *missing = l->missing, count = 0;
    bool found;
    for (uint32_t i = 0; i < use->span_count; i++) {
        l->spans[use->spans[i]].used = l->clock;
        if (!l->spans[use->spans[i]].placed)
            missing[count++] = use->spans[i];
    }
    if (!count)
        return ZDS_OK;
    zds_status status = place(z, missing, count, 0, &found);
    if (!status && !found)
        status = place_beyond(z, missing, count, z->with.model->modules[module].name);
    return status ? status : gather(z, missing, count);
}

zds_status residency_acquire(zero *z, uint32_t module, int32_t pass)
{
    if (!z->params.in_parts)
        return ZDS_OK;
    z->live.clock++;
    note(z, module, pass);
    zero_hold_module(z, module);
    zds_status status = bring(z, module);
    return status ? status : residency_look_ahead(z);
}

/* Elements of other spans that are used before this one is again. */
static uint64_t until_reuse(const zero *z, uint32_t k)
{
    const live_part *l = &z->live;
    uint64_t elements = 0;
    for (size_t i = 0; i < l->plan_count; i++) {
        const module_use *use = use_of(z, foretold(l, i));
        if (uses(use, k))
            return elements;
        for (uint32_t j = 0; j < use->span_count; j++)
            elements += z->lay->spans[use->spans[j]].count;
    }
    return UINT64_MAX;
}

zds_status zero_release(zero *z, uint32_t module)
{
    live_part *l = &z->live;
    const module_use *use = use_of(z, module);
    zds_status status = ZDS_OK;
    l->held -= z->params.in_parts;
    for (uint32_t i = 0; !status && i < use->span_count; i++) {
        uint32_t k = use->spans[i];
        if (--l->spans[k].holds)
            continue;
        if (l->spans[k].beyond.slab.tier || (l->foretold && until_reuse(z, k) > z->wish.reuse))
            status = drop(z, k);
    }
    return status;
}

zds_status zero_take_part(zero *z, uint32_t module, int32_t pass)
{
    const module_use *use = use_of(z, module);
    zds_status status = residency_acquire(z, module, pass);
    for (uint32_t i = 0; !status && i < use->span_count; i++)
        status = publish_await(z, use->spans[i]);
    return status ? status : zero_release(z, module);
}

zds_status residency_forget_span(zero *z, uint32_t k)
{
    if (!z->live.spans)
        return ZDS_OK;
    secondary_forget(z, k);
    return z->live.spans[k].placed ? drop(z, k) : ZDS_OK;
}

zds_status residency_forget(zero *z, bool all)
{
    zds_status status = ZDS_OK;
    for (uint32_t k = 0; !status && k < z->lay->span_count; k++)
        if (all || layout_is_trained(&z->lay->spans[k]))
            status = residency_forget_span(z, k);
    return status;
}

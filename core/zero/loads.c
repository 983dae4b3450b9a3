/* Loads of windows of which something rests in another memory, through a ring of buffers where the
 * optimizer computes: one is read while another is stepped and a third is written. On a device a
 * load is a window, and streams keep the order; on the host threads share a load, and the tier's
 * events tell when it is there. What goes between a device and files stops over in the host's
 * memory, which both reach: read before it is the load's turn, and written while the next one is
 * stepped. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <string.h>

#include "zero/parts.h"

typedef struct moving {
    const slab *slab; /* where it rests: */
    uint64_t there;   /* bytes of it, */
    uint64_t at;      /* and of the load's buffer */
    uint64_t bytes;   /* 0: nothing */
} moving;

/* Of a tile: its record, */
static moving record_of_tile(const zero *z, const window *w, size_t i, uint64_t *used)
{
    const piece *p = w->pieces[i];
    uint64_t tile = stream_tile(z, p->param), first = w->tiles[i].first - p->first;
    moving m = {.slab = &z->stream.ring.records, .at = *used};
    if (!p->rests)
        return m;
    m.there = p->record + first / tile * records_tile_bytes(z, p, tile);
    m.bytes = records_tile_bytes(z, p, w->tiles[i].count);
    *used += m.bytes;
    return m;
}

/* and its output, to where its parameter rests. */
static moving output_of_tile(const zero *z, const window *w, size_t i, uint64_t *used)
{
    const piece *p = w->pieces[i];
    moving m = {.at = *used};
    if (!p->away)
        return m;
    bufref home = bufref_moved(p->output, w->tiles[i].first - p->first);
    m.slab = home.slab;
    m.there = home.offset;
    m.bytes = records_output_bytes(z, p, w->tiles[i].count);
    *used += m.bytes;
    return m;
}

static uint32_t slot_of(const zero *z, uint64_t load)
{
    return (uint32_t)(load % z->stream.ring.slot_count);
}

/* Bytes of the buffers before a slot's, where a device computes and where the host sees them. */
static uint64_t before(const zero *z, uint32_t slot)
{
    return slot * (z->stream.ring.bytes + z->stream.ring.out_bytes);
}

/* Where a slot's buffer begins. */
static uint64_t buffer_at(const zero *z, uint32_t slot)
{
    return z->stream.ring.first + before(z, slot);
}

uint64_t records_loads(const zero *z, uint64_t windows)
{
    return (windows + z->stream.ring.load - 1) / z->stream.ring.load;
}

uint32_t records_windows(const zero *z, uint64_t load)
{
    return z->stream.ring.slots[slot_of(z, load)].windows;
}

/* It does so in the host's memory, on its way between a device and files. */
static bool stops_over(const zero *z, const slab *s)
{
    return z->stream.ring.stops.tier && s->tier->info.device.space == ZDS_SPACE_FILE;
}

/* Where a slot's buffer begins among those of the host. */
static uint64_t stop_at(const zero *z, uint32_t slot)
{
    return z->stream.ring.stop_first + before(z, slot);
}

/* What lies together among the records, and so in the buffer, moves at once. */
typedef struct run {
    zero *z;
    record_slot *slot;
    uint64_t buffer;
    const slab *buffers;
    zds_stream *stream;
    moving m; /* bytes 0: nothing yet */
    bool in;
} run;

static zds_status move(run *r, zds_error *error)
{
    tier_end here = tier_in(r->buffers, r->buffer + r->m.at),
             there = tier_in(r->m.slab, r->m.there);
    record_slot *s = r->slot;
    moves *m = r->in ? &s->reads : &s->writes;
    zds_event **done = &m->events[m->count];
    /* What was written from this buffer before is there, before it is read into. */
    const tier_order order = {
        .waits = s->waited.events, .wait_count = r->in ? s->waited.count : 0, .stream = r->stream};
    if (!r->m.bytes)
        return ZDS_OK;
    zds_status status = tier_copy(r->in ? here : there, r->in ? there : here, r->m.bytes, &order,
                                  order.stream ? NULL : done, error);
    m->tiers[m->count] = r->m.slab->tier;
    m->count += !status && !order.stream && *done;
    r->m.bytes = 0;
    return status;
}

static zds_status add(run *r, const moving *m, zds_error *error)
{
    bool joins = r->m.bytes && r->m.slab == m->slab && r->m.there + r->m.bytes == m->there;
    if (!m->bytes)
        return ZDS_OK;
    zds_status status = joins ? ZDS_OK : move(r, error);
    if (joins)
        r->m.bytes += m->bytes;
    else
        r->m = *m;
    return status;
}

typedef moving (*what_moves)(const zero *z, const window *w, size_t i, uint64_t *used);

/* `stops`: what stops over, to or from where it does so; else the rest. */
static zds_status move_each(zero *z, uint64_t load, bool in, bool stops, what_moves what,
                            const uint64_t *at)
{
    record_ring *ring = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    run r = {.z = z,
             .slot = &ring->slots[slot],
             .buffer = stops ? stop_at(z, slot) : buffer_at(z, slot),
             .buffers = stops ? &ring->stops : &ring->buffers,
             .stream = stops ? NULL
                       : in  ? ring->reads
                             : ring->writes,
             .in = in};
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    for (uint32_t j = 0; !status && j < r.slot->windows; j++) {
        window w;
        uint64_t used = at[j];
        stream_bind_window(z, load * ring->load + j, &w);
        for (size_t i = 0; !status && i < w.count; i++) {
            moving m = what(z, &w, i, &used);
            if (m.bytes && stops_over(z, m.slab) == stops)
                status = add(&r, &m, &error);
        }
    }
    return zero_checked(z, status ? status : move(&r, &error), &error);
}

/* What has no gradient in a step is left as it is. */
static moving stepped_output(const zero *z, const window *w, size_t i, uint64_t *used)
{
    moving m = output_of_tile(z, w, i, used);
    if (!z->grads.present[w->pieces[i]->param])
        m.bytes = 0;
    return m;
}

/* All records of a load, in or out, */
static zds_status move_records(zero *z, uint64_t load, bool in, bool stops)
{
    return move_each(z, load, in, stops, record_of_tile, z->stream.ring.slots[slot_of(z, load)].at);
}

/* and all outputs: out, or once, in, what masters start from. */
static zds_status move_outputs(zero *z, uint64_t load, bool in, bool stops)
{
    return move_each(z, load, in, stops, in ? output_of_tile : stepped_output,
                     z->stream.ring.slots[slot_of(z, load)].out_at);
}

/* What came to its stop-over goes on to the device, or the other way, on that stream. */
static zds_status cross(zero *z, uint64_t load, bool in, bool records, bool outputs)
{
    const record_ring *r = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    const record_slot *s = &r->slots[slot];
    const tier_order order = {.stream = in ? r->reads : r->writes};
    const struct {
        uint64_t at, bytes;
    } both[] = {{0, records ? s->bytes : 0}, {r->bytes, outputs ? s->out_bytes : 0}};
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < sizeof both / sizeof *both; i++) {
        tier_end there = tier_in(&r->buffers, buffer_at(z, slot) + both[i].at),
                 here = tier_in(&r->stops, stop_at(z, slot) + both[i].at);
        if (both[i].bytes)
            status = tier_copy(in ? there : here, in ? here : there, both[i].bytes, &order, NULL,
                               &error);
    }
    return zero_checked(z, status, &error);
}

static zds_status wait_all(zero *z, moves *m)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < m->count; i++) {
        zds_status one = tier_wait(m->tiers[i], &m->events[i], status ? NULL : &error);
        status = status ? status : one;
    }
    m->count = 0;
    return zero_checked(z, status, &error);
}

/* Where the device's event for what its stream was given is kept. */
static zds_event **keep(moves *m, tier *t)
{
    m->tiers[m->count] = t;
    m->events[m->count] = NULL;
    return &m->events[m->count++];
}

/* Where each window's records are in the buffer. */
static void lay_out(const zero *z, uint64_t load, uint64_t windows)
{
    const record_ring *r = &z->stream.ring;
    record_slot *s = &r->slots[slot_of(z, load)];
    uint64_t first = load * r->load, left = windows - first, used = 0, out = r->bytes;
    s->windows = (uint32_t)(left < r->load ? left : r->load);
    for (uint32_t j = 0; j < s->windows; j++) {
        window w;
        s->at[j] = used;
        s->out_at[j] = out;
        stream_bind_window(z, first + j, &w);
        for (size_t i = 0; i < w.count; i++) {
            record_of_tile(z, &w, i, &used);
            output_of_tile(z, &w, i, &out);
        }
    }
    s->bytes = used;
    s->out_bytes = out - r->bytes;
}

/* Zeros, in place of what rests. */
static zds_status clear_load(zero *z, uint64_t load)
{
    record_ring *r = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    const record_slot *s = &r->slots[slot];
    zds_error error = ZDS_ERROR_INIT;
    const tier_order order = {
        .waits = s->waited.events, .wait_count = s->waited.count, .stream = r->reads};
    return zero_checked(z,
                        tier_fill(tier_in(&r->buffers, buffer_at(z, slot)), ZDS_U8, 0, s->bytes,
                                  &order, NULL, &error),
                        &error);
}

/* The queue goes on once what comes for the load is there. */
static zds_status follow_reads(zero *z, record_slot *s)
{
    return zero_follow_event(z, z->queue, z->stream.ring.reads, keep(&s->reads, z->with.tier));
}

/* And once what was written from its buffer before is gone, whether or not something was read. */
static zds_status follow_waited(zero *z, const record_slot *s)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < s->waited.count; i++) {
        zds_event *event = s->waited.events[i];
        status = event->ops->stream_wait ? event->ops->stream_wait(event, z->queue)
                                         : event->ops->wait(event);
    }
    return zero_checked(z, status, &(zds_error)ZDS_ERROR_INIT);
}

/* What stopped over on its way to files goes on, once it has left the device. */
static zds_status write_stopped(zero *z, record_slot *s)
{
    zds_error error = ZDS_ERROR_INIT;
    window w;
    if (!s->stopped)
        return ZDS_OK;
    s->stopped = false;
    zds_status status = zero_checked(z, tier_wait(z->with.tier, &s->left, &error), &error);
    if (status)
        return status;
    if (z->stream.ring.sums) {
        records_bind(z, s->load, 0, &w);
        records_seal(z, &w);
    }
    status = move_records(z, s->load, false, true);
    return status ? status : move_outputs(z, s->load, false, true);
}

zds_status records_begin(zero *z)
{
    const record_ring *r = &z->stream.ring;
    if (!z->queue || r->stops.tier)
        return records_settle(z); /* which closes the record that is open, too */
    return r->reads ? zero_follow(z, r->reads, r->writes) : ZDS_OK;
}

zds_status records_read(zero *z, uint64_t load, uint64_t windows, bool fresh)
{
    record_slot *s = &z->stream.ring.slots[slot_of(z, load)];
    bool stops = z->stream.ring.stops.tier != NULL;
    zds_status status = write_stopped(z, s);
    if (!status)
        status = wait_all(z, &s->reads);
    if (!status)
        status = wait_all(z, &s->waited);
    /* A device's queue would ask for the files' events later than they live. */
    if (!status && stops)
        status = wait_all(z, &s->writes);
    moves swapped = s->waited;
    s->waited = s->writes;
    s->writes = swapped;
    s->load = load;
    s->fresh = fresh;
    lay_out(z, load, windows);
    if (!status && fresh && z->queue)
        status = clear_load(z, load);
    else if (!status && fresh)
        status = wait_all(z, &s->waited);
    for (int stop = 0; !status && stop <= stops; stop++)
        status = (fresh ? move_outputs : move_records)(z, load, true, stop);
    return status || !z->queue || stops ? status : follow_reads(z, s);
}

zds_status records_await(zero *z, uint64_t load)
{
    const record_ring *r = &z->stream.ring;
    record_slot *s = &r->slots[slot_of(z, load)];
    int64_t spoilt = -1;
    window w;
    if (z->queue && !r->stops.tier)
        return follow_waited(z, s);
    zds_status status = wait_all(z, &s->reads);
    if (!status) /* what is stepped is written over what was on its way */
        status = wait_all(z, &s->waited);
    if (status || !r->stops.tier)
        return status;
    if (r->sums && !s->fresh) {
        records_bind(z, load, 0, &w);
        spoilt = records_check(z, &w);
    }
    if (spoilt >= 0)
        return records_spoilt(z, (uint32_t)spoilt);
    status = cross(z, load, true, r->sums && !s->fresh, s->fresh && r->outputs_stop);
    return status ? status : follow_reads(z, s);
}

zds_status records_write(zero *z, uint64_t load)
{
    record_ring *r = &z->stream.ring;
    record_slot *s = &r->slots[slot_of(z, load)],
                *last = &r->slots[slot_of(z, load + r->slot_count - 1)];
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = z->queue ? zero_follow(z, r->writes, z->queue) : ZDS_OK;
    if (!status)
        status = move_records(z, load, false, false);
    if (!status)
        status = move_outputs(z, load, false, false);
    if (!status && r->stops.tier)
        status = cross(z, load, false, r->sums != NULL, r->outputs_stop);
    if (!status && z->queue) {
        s->stopped = r->stops.tier != NULL;
        zds_event **left = s->stopped ? &s->left : keep(&s->writes, z->with.tier);
        status = zero_checked(z, tier_record(z->with.tier, r->writes, left, &error), &error);
    }
    if (!status && last != s)
        status = write_stopped(z, last);
    if (status || z->wish.writes_behind)
        return status;
    status = write_stopped(z, s);
    return status ? status : wait_all(z, &s->writes);
}

zds_status records_end(zero *z)
{
    record_ring *r = &z->stream.ring;
    zds_status status = ZDS_OK;
    for (uint32_t i = 0; r->slots && !status && i < r->slot_count; i++)
        status = write_stopped(z, &r->slots[i]);
    r->open = STREAM_NONE;
    return status;
}

zds_status records_settle(zero *z)
{
    record_ring *r = &z->stream.ring;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = records_end(z);
    if (!status && z->queue)
        status = zero_checked(z, tier_sync(z->with.tier, r->writes, &error), &error);
    for (uint32_t i = 0; (!z->queue || r->stops.tier) && r->slots && !status && i < r->slot_count;
         i++)
        status = wait_all(z, &r->slots[i].writes);
    return status;
}

/* === a load's windows === */

void records_bind(const zero *z, uint64_t load, uint32_t j, window *w)
{
    const record_ring *r = &z->stream.ring;
    uint32_t slot = slot_of(z, load);
    uint64_t used = r->slots[slot].at[j], out = r->slots[slot].out_at[j];
    stream_bind_window(z, load * r->load + j, w);
    for (size_t i = 0; i < w->count; i++) {
        const piece *p = w->pieces[i];
        const zds_param_needs *needs = &z->with.params[p->param].needs;
        w->at[i] = buffer_at(z, slot) + record_of_tile(z, w, i, &used).at;
        w->out_at[i] = buffer_at(z, slot) + output_of_tile(z, w, i, &out).at;
        if (p->away)
            w->tiles[i].output = bufref_at((bufref){&r->buffers, w->out_at[i], ZDS_U8}, 0);
        if (!p->rests)
            continue;
        bufref at = {&r->buffers, w->at[i], ZDS_U8};
        w->tiles[i].master = bufref_at(at, 0);
        for (uint32_t s = 0; s < needs->state_count; s++)
            if (needs->states[s].scope == ZDS_SCOPE_SHARDED &&
                state_bytes(&needs->states[s], w->tiles[i].count))
                w->states[i][s] = bufref_at(at, records_place(z, p, w->tiles[i].count, s));
    }
}

void records_clear(const zero *z, const window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->pieces[i]->rests)
            memset(w->tiles[i].master, 0, records_tile_bytes(z, w->pieces[i], w->tiles[i].count));
}

static uint64_t *sum_of(const zero *z, const window *w, size_t i)
{
    const piece *p = w->pieces[i];
    uint64_t tile = stream_tile(z, p->param);
    return &z->stream.ring.sums[p->sum + (w->tiles[i].first - p->first) / tile];
}

/* Where the host has it. */
static uint64_t sum_now(const zero *z, const window *w, size_t i)
{
    const record_ring *r = &z->stream.ring;
    const void *at = r->stops.tier ? bufref_at((bufref){&r->stops, r->stop_first, ZDS_U8}, w->at[i])
                                   : w->tiles[i].master;
    return XXH3_64bits(at, records_tile_bytes(z, w->pieces[i], w->tiles[i].count));
}

void records_seal(const zero *z, const window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->pieces[i]->rests)
            *sum_of(z, w, i) = sum_now(z, w, i);
}

int64_t records_check(const zero *z, const window *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->pieces[i]->rests && *sum_of(z, w, i) != sum_now(z, w, i))
            return w->pieces[i]->param;
    return -1;
}

/* Copies between any two tiers: by the one that reaches the other, by the host, or by way of it. */
#include <string.h>

#include "host/error.h"
#include "memory/tier_call.h"

/* A window is what lies between the two halves of a staged copy; of two, one is read into while the
 * other is written from. */
enum { WINDOW = 4 << 20, PIECE = 1 << 20 };

static zds_status make_windows(tier *t, zds_error *error)
{
    if (!t->windows)
        t->windows = ledger_alloc(t->services.ledger, "staging", (size_t)2 * WINDOW, 4096);
    return t->windows
               ? ZDS_OK
               : error_set(error, ZDS_ERR_MEMORY,
                           "there is no memory for copies from and to memory tier %s", t->name);
}

/* === by the host === */

typedef struct host_copy {
    char *to;
    const char *from;
    uint64_t bytes;
} host_copy;

static void copy_piece(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const host_copy *c = arg;
    const uint64_t first = (uint64_t)i * PIECE, left = c->bytes - first;
    memcpy(c->to + first, c->from + first, left < PIECE ? left : PIECE);
}

static zds_status copy_here(const tier_end *to, const tier_end *from, uint64_t bytes,
                            const tier_order *order, zds_error *error)
{
    const slab *s = to->slab ? to->slab : from->slab;
    host_copy c = {.to = tier_here(to), .from = tier_here(from), .bytes = bytes};
    zds_status status = tier_waits_here(order, error);
    if (status || bytes == 0)
        return status;
    if (s)
        pool_run(s->tier->services.threads, (size_t)((bytes + PIECE - 1) / PIECE), copy_piece, &c);
    else
        memcpy(c.to, c.from, bytes);
    return ZDS_OK;
}

/* === by a tier === */

static bool can_copy(const tier *t, const tier_end *to, const tier_end *from, zds_copy *copy)
{
    return t && t->ops.copy && tier_shown(t, to, &copy->to) && tier_shown(t, from, &copy->from);
}

/* The tier that can make the copy; NULL if none can. */
static tier *copier(const tier_end *to, const tier_end *from, zds_copy *copy)
{
    tier *there = to->slab ? to->slab->tier : NULL, *here = from->slab ? from->slab->tier : NULL;
    if (can_copy(there, to, from, copy))
        return there;
    return can_copy(here, to, from, copy) ? here : NULL;
}

static zds_status copy_by(tier *t, zds_copy *copy, uint64_t bytes, const tier_order *order,
                          zds_event **done, zds_error *error)
{
    tier_waits waits;
    zds_event *event;
    zds_status status = tier_check_stream(t, order, error);
    if (!status)
        status = tier_waits_for(order, &waits, error);
    if (status)
        return status;
    copy->struct_size = sizeof *copy;
    copy->bytes = bytes;
    copy->waits = waits.event;
    copy->wait_count = waits.count;
    copy->stream = tier_stream_of(order);
    services_clear(&t->services);
    status = t->ops.copy(t->self, copy, tier_asks(order, done, &event));
    return tier_ended(t, "copy", status, order, event, done, error);
}

/* === by way of the host === */

typedef struct staged {
    tier_end to, from;
    uint64_t bytes;
    char *windows;
    tier_order read_order, write_order;
} staged;

static uint64_t window_bytes(const staged *s, uint64_t first)
{
    return s->bytes - first < WINDOW ? s->bytes - first : WINDOW;
}

static tier_end at(tier_end end, uint64_t first)
{
    end.offset += first;
    return end;
}

static tier_end window_at(const staged *s, uint64_t first)
{
    return tier_at(s->windows + first / WINDOW % 2 * WINDOW);
}

static zds_status half_copy(tier_end to, tier_end from, uint64_t bytes, const tier_order *order,
                            zds_event **done, zds_error *error)
{
    zds_copy copy = {0};
    tier *t = copier(&to, &from, &copy);
    *done = NULL;
    if (t)
        return copy_by(t, &copy, bytes, order, done, error);
    t = to.slab ? to.slab->tier : from.slab->tier;
    return error_set(error, ZDS_ERR_UNSUPPORTED,
                     "memory tier %s does not reach the host's memory, through which its bytes "
                     "would have to come and go",
                     t->name);
}

static zds_status read_window(const staged *s, uint64_t first, zds_event **done, zds_error *error)
{
    *done = NULL;
    if (first >= s->bytes)
        return ZDS_OK;
    return half_copy(window_at(s, first), at(s->from, first), window_bytes(s, first),
                     &s->read_order, done, error);
}

static zds_status run_staged(const staged *s, zds_error *error)
{
    tier *from = s->from.slab->tier, *to = s->to.slab->tier;
    zds_event *reading, *writing;
    zds_status status = read_window(s, 0, &reading, error);
    for (uint64_t first = 0; first < s->bytes && !status; first += WINDOW) {
        status = tier_wait(from, &reading, error);
        if (status)
            break;
        status = half_copy(at(s->to, first), window_at(s, first), window_bytes(s, first),
                           &s->write_order, &writing, error);
        if (!status)
            status = read_window(s, first + WINDOW, &reading, error);
        zds_status written = tier_wait(to, &writing, status ? NULL : error);
        status = status ? status : written;
    }
    tier_wait(from, &reading, NULL); /* of the window after a failure */
    return status;
}

/* The order of a stream is kept by whichever of the two tiers it belongs to. */
static zds_status copy_staged(tier_end to, tier_end from, uint64_t bytes, const tier_order *order,
                              zds_error *error)
{
    tier *t = to.slab->tier;
    const zds_stream *stream = tier_stream_of(order);
    const tier_order streamed = {.stream = stream};
    staged s = {.to = to, .from = from, .bytes = bytes};
    zds_status status = ZDS_OK;
    if (stream && tier_check_stream(t, order, NULL) == ZDS_OK)
        s.write_order.stream = stream;
    else if (stream && (status = tier_check_stream(from.slab->tier, &streamed, error)) == ZDS_OK)
        s.read_order.stream = stream;
    if (!status)
        status = tier_waits_here(order, error);
    if (!status && s.write_order.stream)
        status = tier_sync(t, stream, error); /* what comes before it may write what is read */
    if (!status)
        status = make_windows(t, error);
    s.windows = t->windows;
    return status ? status : run_staged(&s, error);
}

zds_status tier_copy(tier_end to, tier_end from, uint64_t bytes, const tier_order *order,
                     zds_event **done, zds_error *error)
{
    zds_copy copy = {0};
    if (done)
        *done = NULL;
    zds_status status = tier_check_end(&to, bytes, "a copy", error);
    if (!status)
        status = tier_check_end(&from, bytes, "a copy", error);
    if (status)
        return status;
    if (tier_is_here(&to) && tier_is_here(&from))
        return copy_here(&to, &from, bytes, order, error);
    tier *t = copier(&to, &from, &copy);
    if (t)
        return copy_by(t, &copy, bytes, order, done, error);
    if (to.slab && from.slab)
        return copy_staged(to, from, bytes, order, error);
    zds_event *none;
    return half_copy(to, from, bytes, order, &none, error); /* says why it cannot be */
}

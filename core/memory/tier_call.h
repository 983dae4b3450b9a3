/* What the operations of tiers share: from an order of the core's to a call of a plugin. */
#ifndef CORE_MEMORY_TIER_CALL_H
#define CORE_MEMORY_TIER_CALL_H

#include "memory/tier.h"

/* Waits that can be handed to a plugin: the rest was waited for. */
enum { TIER_MOST_WAITS = 16 };
typedef struct tier_waits {
    zds_event *event[TIER_MOST_WAITS];
    size_t count;
} tier_waits;

/* Waits for what the plugin may not be given; a failed one's status. */
zds_status tier_waits_for(const tier_order *order, tier_waits *rest, zds_error *error);
/* For all of them, where the host goes on. */
zds_status tier_waits_here(const tier_order *order, zds_error *error);

static inline const zds_stream *tier_stream_of(const tier_order *order)
{
    return order ? order->stream : NULL;
}

/* True if the host's code can point there. */
bool tier_is_here(const tier_end *end);
/* The address of an end that is here. */
void *tier_here(const tier_end *end);
/* The end as `t`'s plugin gets it. False if it cannot: the memory is another tier's that no pointer
 * reaches. */
bool tier_shown(const tier *t, const tier_end *end, zds_end *shown);

/* Why `bytes` from the end are not its slab's, or lie in a file at no boundary. */
zds_status tier_check_end(const tier_end *end, uint64_t bytes, const char *what, zds_error *error);
/* The stream belongs to the tier. */
zds_status tier_check_stream(const tier *t, const tier_order *order, zds_error *error);

/* After the plugin's call: its error in words, or the wait that the caller leaves to it. */
zds_status tier_ended(tier *t, const char *what, zds_status status, const tier_order *order,
                      zds_event *event, zds_event **done, zds_error *error);
/* The `done` argument of a plugin's call. */
static inline zds_event **tier_asks(const tier_order *order, zds_event **done, zds_event **own)
{
    *own = NULL;
    return done || !tier_stream_of(order) ? own : NULL;
}

#endif

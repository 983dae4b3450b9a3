/* Where every parameter lies: spans of modules, cut into one part a rank. Pure arithmetic, the
 * same on all ranks but for what a rank's own shard holds.
 *
 * A span holds the trainable parameters of one module, or of several consecutive small ones (a
 * bucket), in order; each starts at a multiple of `align` elements, and the span is padded to
 * world_size times that, so that slices are equal and start at multiples of it. Parameters that
 * must not be cut form a second span of the same modules, in the order of their owners: there a
 * rank's part is what it owns. Frozen parameters lie behind all spans. Offsets are in elements, so
 * that one layout serves parameters, gradients and master weights. */
#ifndef CORE_ZERO_LAYOUT_H
#define CORE_ZERO_LAYOUT_H

#include "engine/model.h"

enum { LAYOUT_CHUNK = 1024, LAYOUT_NONE = -1 };

typedef struct layout_place {
    int32_t span;   /* LAYOUT_NONE: frozen */
    int32_t owner;  /* of a parameter that is not cut; else LAYOUT_NONE */
    uint64_t first; /* in the address space of all parameters */
} layout_place;

typedef struct layout_span {
    uint32_t first_module, module_count;
    uint32_t *params; /* [param_count] in the order they lie */
    uint32_t param_count;
    uint64_t first; /* in the address space of all parameters */
    uint64_t count;
    uint64_t slice;  /* elements of each rank's part; count is world_size times that */
    uint64_t *parts; /* of parameters that are not cut, else NULL: [world_size + 1], rank r's part
                        is parts[r] up to parts[r + 1]; slice is 0 */
    uint64_t
        shard_first; /* of this rank's part in its shard: parts of all spans, one after another */
    uint64_t pool_first;  /* of its gradient in the pool, see layout_plan_pool */
    uint32_t open_module; /* in backward its gradient's memory is needed from this module.. */
} layout_span;            /* ..down to first_module */

typedef struct layout {
    uint32_t world_size;
    layout_span *spans;
    uint32_t span_count;
    layout_place *places; /* [params of the model] */
    int32_t *span_of;     /* [modules]: its last span; LAYOUT_NONE without trainable parameters */
    uint64_t trainable;   /* elements of all spans */
    uint64_t total;       /* with frozen ones behind them */
    uint64_t shard;       /* elements of a rank's shard */
    uint64_t pool;        /* elements of the gradient pool */
    uint64_t largest;     /* elements of the largest span */
} layout;

typedef struct layout_wish {
    uint32_t world_size, rank;
    uint64_t align;  /* elements, at least 1 */
    uint64_t bucket; /* consecutive modules share a span while they do not get longer than this or
                        than the largest module */
    const double *whole; /* [params]: above 0, the parameter must not be cut, and its update costs
                            this much: owners are chosen so that ranks have about the same. NULL:
                            all may be cut */
} layout_wish;
layout *layout_create(const zds_model *model, const layout_wish *wish);
void layout_destroy(layout *l);

/* Another span of the same modules comes before span k. */
static inline bool layout_has_sibling(const layout *l, uint32_t k)
{
    return k > 0 && l->spans[k - 1].first_module == l->spans[k].first_module;
}

/* A rank's part of a span, counted from the span's first element. */
static inline uint64_t layout_part_first(const layout_span *span, uint32_t rank)
{
    return span->parts ? span->parts[rank] : rank * span->slice;
}
static inline uint64_t layout_part_count(const layout_span *span, uint32_t rank)
{
    return span->parts ? span->parts[rank + 1] - span->parts[rank] : span->slice;
}

/* Places the spans' gradients in a pool in which one is reused as soon as its span is reduced;
 * `overlap`: one span later, so that its reduction can go on meanwhile. */
void layout_plan_pool(layout *l, bool overlap);

/* What a rank owns of a parameter; count 0 if nothing. */
typedef struct layout_piece {
    uint32_t param;
    uint64_t param_first, count;
    uint64_t part_first; /* in the rank's part of the span */
} layout_piece;
layout_piece layout_piece_of(const layout *l, const zds_model *model, uint32_t param,
                             uint32_t rank);

#endif

/* Where every parameter lies: spans of modules, cut into one slice a rank. Pure arithmetic, the
 * same on all ranks.
 *
 * A span holds the trainable parameters of one module, or of several consecutive small ones (a
 * bucket), in order; each starts at a multiple of `align` elements, and the span is padded to
 * world_size times that, so that slices are equal and start at multiples of it. Frozen parameters
 * lie behind all spans. Offsets are in elements, so that one layout serves parameters, gradients
 * and master weights. */
#ifndef CORE_ZERO_LAYOUT_H
#define CORE_ZERO_LAYOUT_H

#include "engine/model.h"

enum { LAYOUT_CHUNK = 1024, LAYOUT_NONE = -1 };

typedef struct layout_place {
    int32_t span;   /* LAYOUT_NONE: frozen */
    uint64_t first; /* in the address space of all parameters */
} layout_place;

typedef struct layout_span {
    uint32_t first_module, module_count;
    uint32_t *params; /* [param_count] in the order they lie */
    uint32_t param_count;
    uint64_t first; /* in the address space of all parameters */
    uint64_t count; /* world_size * slice */
    uint64_t slice; /* elements of each rank's part */
    uint64_t
        shard_first; /* of this rank's slice in its shard: slices of all spans, one after another */
    uint64_t pool_first;  /* of its gradient in the pool, see layout_plan_pool */
    uint32_t open_module; /* in backward its gradient's memory is needed from this module.. */
} layout_span;            /* ..down to first_module */

typedef struct layout {
    uint32_t world_size;
    layout_span *spans;
    uint32_t span_count;
    layout_place *places; /* [params of the model] */
    int32_t *span_of;     /* [modules]; LAYOUT_NONE without trainable parameters */
    uint64_t trainable;   /* elements of all spans */
    uint64_t total;       /* with frozen ones behind them */
    uint64_t shard;       /* elements of a rank's shard */
    uint64_t pool;        /* elements of the gradient pool */
    uint64_t largest;     /* elements of the largest span */
} layout;

/* `align`: elements, at least 1. `bucket`: consecutive modules share a span while it does not get
 * longer than this or than the largest module. */
layout *layout_create(const zds_model *model, uint32_t world_size, uint64_t align, uint64_t bucket);
void layout_destroy(layout *l);

/* Places the spans' gradients in a pool in which one is reused as soon as its span is reduced;
 * `overlap`: one span later, so that its reduction can go on meanwhile. */
void layout_plan_pool(layout *l, bool overlap);

/* The part of a parameter that lies in a rank's slice of its span; count 0 if none. */
typedef struct layout_piece {
    uint32_t param;
    uint64_t param_first, count;
    uint64_t slice_first; /* in the slice */
} layout_piece;
layout_piece layout_piece_of(const layout *l, const zds_model *model, uint32_t param,
                             uint32_t rank);

#endif

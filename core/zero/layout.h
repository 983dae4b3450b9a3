/* Where every parameter lies: spans of modules, cut into one part a rank. Pure arithmetic, the
 * same on all ranks but for what a rank's own shard holds.
 *
 * A span is of one kind. SPAN_CUT: trainable parameters of one module, or of several consecutive
 * small ones (a bucket), in order; each starts at a multiple of the span's alignment, and the span
 * is padded to world_size times that, so that parts are equal and start at multiples of it.
 * SPAN_WHOLE: those of the same modules that must not be cut, in the order of their owners; a
 * rank's part is what it owns. SPAN_FROZEN: those that are not trained. The spans of the same
 * modules follow each other in this order.
 *
 * Where ranks keep no more of parameters than their parts (stage 3), frozen spans are cut like the
 * others, and small modules alone share one. Parameters that every rank keeps whole all the same
 * have spans of their own, and so has each that several modules use.
 *
 * Addresses are in elements. There are three spaces: of trained parameters, of frozen ones, and of
 * gradients, masters and states. Parameters that stay fp32 in a run of 16 bits have spans of their
 * own, the wide ones, which follow the others of their kind. */
#ifndef CORE_ZERO_LAYOUT_H
#define CORE_ZERO_LAYOUT_H

#include "zero/model.h"

enum { LAYOUT_CHUNK = 1024, LAYOUT_NONE = -1 };

typedef enum span_kind { SPAN_CUT, SPAN_WHOLE, SPAN_FROZEN } span_kind;

typedef struct layout_place {
    uint32_t span;
    int32_t owner;  /* of a parameter that is not cut; else LAYOUT_NONE */
    uint64_t first; /* element of its span */
} layout_place;

typedef struct layout_span {
    span_kind kind;
    bool wide; /* its parameters are fp32 where others have 16 bits */
    bool kept; /* whole on every rank, where ranks keep parts */
    uint32_t first_module, module_count;
    uint32_t *params; /* [param_count] in the order they lie */
    uint32_t param_count;
    uint64_t count; /* elements */
    /* CUT, and FROZEN in parts: elements of each rank's part; count is world_size times that. */
    uint64_t part;
    /* WHOLE: [world_size + 1], rank r's part is parts[r] up to parts[r + 1]; else NULL. */
    uint64_t *parts;
    uint64_t param_first;  /* of a trained one, among such, in places of narrow elements */
    uint64_t buffer_first; /* in the grad buffers, in such places; see layout_plan_buffers */
    /* In backward its grad buffer is needed from this module down to first_module. */
    uint32_t open_module;
} layout_span;

typedef struct layout {
    uint32_t world_size;
    layout_span *spans;
    uint32_t span_count;
    layout_place *places; /* [params of the model] */
    int32_t *spans_of;    /* [modules]: the first span of its bucket; LAYOUT_NONE: it has none */
    uint64_t trainable;   /* elements of all spans that are trained, */
    uint64_t wide;        /* of the wide ones among them, */
    uint64_t largest;     /* of the largest trainable span */
    uint64_t trained;     /* places of parameters that are trained, */
    uint64_t buffers;     /* of the grad buffers */
} layout;

typedef struct layout_wish {
    uint32_t world_size;
    uint64_t align; /* elements, at least 1, of every parameter's start */
    /* [params]: no part cuts a block of so many elements, counted from the parameter's first; NULL:
     * of none. */
    const uint32_t *granularity;
    /* Consecutive modules share a span while they do not get longer than this, or than the largest
     * module and eight times align x world_size. */
    uint64_t bucket;
    bool wide;        /* parameters that want fp32 are wider than the others */
    bool by_module;   /* not for that, and what several modules use is a span of its own, */
    bool in_parts;    /* as if ranks kept no more than their parts of parameters, */
    const bool *kept; /* [params]: but for these */
    /* [params]: above 0, the parameter must not be cut, and its update costs this much: owners are
     * chosen so that ranks have about the same. NULL: all may be cut. */
    const double *whole;
} layout_wish;

/* ZDS_ERR_UNSUPPORTED: granularities in one span have no common multiple below 16 Mi elements;
 * ZDS_ERR_MEMORY. */
zds_status layout_create(const zds_model *model, const layout_wish *wish, layout **out);
void layout_destroy(layout *l);

/* Another span of the same modules comes before span k. */
static inline bool layout_has_sibling(const layout *l, uint32_t k)
{
    return k > 0 && l->spans[k - 1].first_module == l->spans[k].first_module;
}

static inline bool layout_is_trained(const layout_span *span)
{
    return span->kind != SPAN_FROZEN;
}

static inline uint64_t layout_round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* A rank's part of a span that has parts, counted from the span's first element. */
static inline uint64_t layout_part_first(const layout_span *span, uint32_t rank)
{
    return span->parts ? span->parts[rank] : rank * span->part;
}
static inline uint64_t layout_part_count(const layout_span *span, uint32_t rank)
{
    return span->parts ? span->parts[rank + 1] - span->parts[rank] : span->part;
}

/* Of narrow elements, so many take the place of the span's `count`. */
static inline uint64_t layout_room(const layout_span *span, uint64_t count)
{
    return span->wide ? 2 * count : count;
}

/* Least common multiple. */
uint64_t layout_multiple(uint64_t a, uint64_t b);

/* Places the spans' gradients in buffers in which one is reused as soon as its span is reduced;
 * `overlap`: one span later, so that its reduction can go on meanwhile. */
void layout_plan_buffers(layout *l, bool overlap);

/* What a rank owns of a parameter; count 0 if nothing. */
typedef struct layout_piece {
    uint32_t param;
    uint64_t param_first, count;
    uint64_t part_first; /* in the rank's part of the span */
} layout_piece;
layout_piece layout_piece_of(const layout *l, const zds_model *model, uint32_t param,
                             uint32_t rank);

#endif

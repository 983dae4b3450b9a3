/* Where every parameter lies: spans of modules, cut into one part a rank. */
#include "zero/layout.h"

#include <stdlib.h>

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* Elements of a module's trainable parameters, each rounded up to `align`. */
static uint64_t module_elements(const zds_model *model, uint32_t module, uint64_t align)
{
    const model_module *m = &model->modules[module];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < m->home_count; i++) {
        const model_param *p = &model->params[m->params[i]];
        if (!p->frozen)
            sum += round_up(p->numel, align);
    }
    return sum;
}

/* Appends one parameter to a span. */
static void put(layout *l, const zds_model *model, layout_span *span, uint32_t param,
                uint64_t align, uint64_t *at)
{
    const model_param *p = &model->params[param];
    l->places[param].span = (int32_t)(span - l->spans);
    l->places[param].first = span->first + *at;
    span->params[span->param_count++] = param;
    *at += round_up(p->numel, align);
    if (p->last_use > span->open_module)
        span->open_module = p->last_use;
}

/* Appends the trainable parameters of a span's modules that `owner` has: LAYOUT_NONE, those that
 * are cut. */
static void put_owned(layout *l, const zds_model *model, layout_span *span, int32_t owner,
                      uint64_t align, uint64_t *at)
{
    for (uint32_t m = span->first_module; m < span->first_module + span->module_count; m++)
        for (uint32_t i = 0; i < model->modules[m].home_count; i++) {
            uint32_t param = model->modules[m].params[i];
            if (!model->params[param].frozen && l->places[param].owner == owner)
                put(l, model, span, param, align, at);
        }
}

/* Trainable parameters that some modules have: of those that are cut, or that are not. */
static uint32_t count_params(const layout *l, const zds_model *model, uint32_t module,
                             uint32_t count, bool whole)
{
    uint32_t sum = 0;
    for (uint32_t m = module; m < module + count; m++)
        for (uint32_t i = 0; i < model->modules[m].home_count; i++) {
            uint32_t param = model->modules[m].params[i];
            sum += !model->params[param].frozen && (l->places[param].owner >= 0) == whole;
        }
    return sum;
}

static bool add_span(layout *l, const zds_model *model, const layout_wish *wish, uint32_t module,
                     uint32_t count, bool whole)
{
    uint32_t room = count_params(l, model, module, count, whole);
    if (!room)
        return true;
    layout_span *span = &l->spans[l->span_count++];
    *span = (layout_span){.first_module = module,
                          .module_count = count,
                          .first = l->trainable,
                          .open_module = module + count - 1,
                          .shard_first = l->shard,
                          .params = malloc(room * sizeof *span->params)};
    if (whole)
        span->parts = malloc((l->world_size + (size_t)1) * sizeof *span->parts);
    if (!span->params || (whole && !span->parts))
        return false;
    uint64_t at = 0;
    for (uint32_t r = 0; whole && r < l->world_size; r++) {
        span->parts[r] = at;
        put_owned(l, model, span, (int32_t)r, wish->align, &at);
    }
    if (whole) {
        span->parts[l->world_size] = span->count = at;
    } else {
        put_owned(l, model, span, LAYOUT_NONE, wish->align, &at);
        span->count = round_up(at, wish->align * l->world_size);
        span->slice = span->count / l->world_size;
    }
    for (uint32_t m = module; m < module + count; m++)
        l->span_of[m] = (int32_t)l->span_count - 1;
    l->shard += layout_part_count(span, wish->rank);
    l->trainable += span->count;
    l->largest = span->count > l->largest ? span->count : l->largest;
    return true;
}

static bool fill(layout *l, const zds_model *model, const layout_wish *wish)
{
    uint64_t largest = 0, bucket = wish->bucket;
    for (uint32_t m = 0; m < model->module_count; m++) {
        uint64_t size = module_elements(model, m, wish->align);
        largest = size > largest ? size : largest;
        l->span_of[m] = LAYOUT_NONE;
    }
    if (bucket > largest)
        bucket = largest;
    for (uint32_t m = 0; m < model->module_count;) {
        uint32_t count = 1;
        uint64_t size = module_elements(model, m, wish->align);
        while (m + count < model->module_count &&
               size + module_elements(model, m + count, wish->align) <= bucket)
            size += module_elements(model, m + count++, wish->align);
        if (!add_span(l, model, wish, m, count, false) || !add_span(l, model, wish, m, count, true))
            return false;
        m += count;
    }
    l->total = l->trainable;
    for (uint32_t i = 0; i < model->param_count; i++)
        if (model->params[i].frozen) {
            l->places[i].span = LAYOUT_NONE;
            l->places[i].first = l->total;
            l->total += round_up(model->params[i].numel, wish->align);
        }
    return true;
}

typedef struct load {
    double cost;
    uint32_t param;
} load;

/* The dearest first, then by index. */
static int dearer(const void *a, const void *b)
{
    const load *x = a, *y = b;
    if (x->cost != y->cost)
        return x->cost > y->cost ? -1 : 1;
    return x->param < y->param ? -1 : 1;
}

/* Each parameter that is not cut, the dearest first, goes to the rank that has least to do. */
static bool choose_owners(layout *l, const zds_model *model, const double *whole)
{
    load *loads = malloc((model->param_count + (size_t)1) * sizeof *loads);
    double *busy = calloc(l->world_size, sizeof *busy);
    uint32_t count = 0;
    for (uint32_t i = 0; i < model->param_count; i++) {
        l->places[i].owner = LAYOUT_NONE;
        if (loads && whole && whole[i] > 0 && !model->params[i].frozen)
            loads[count++] = (load){whole[i], i};
    }
    if (loads && busy) {
        qsort(loads, count, sizeof *loads, dearer);
        for (uint32_t k = 0; k < count; k++) {
            uint32_t least = 0;
            for (uint32_t r = 1; r < l->world_size; r++)
                if (busy[r] < busy[least])
                    least = r;
            busy[least] += loads[k].cost;
            l->places[loads[k].param].owner = (int32_t)least;
        }
    }
    bool done = loads && busy;
    free(loads);
    free(busy);
    return done;
}

layout *layout_create(const zds_model *model, const layout_wish *wish)
{
    layout *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->world_size = wish->world_size;
    l->spans = calloc(2 * (size_t)model->module_count + 1, sizeof *l->spans);
    l->places = calloc(model->param_count + (size_t)1, sizeof *l->places);
    l->span_of = calloc(model->module_count + (size_t)1, sizeof *l->span_of);
    if (!l->spans || !l->places || !l->span_of || !choose_owners(l, model, wish->whole) ||
        !fill(l, model, wish)) {
        layout_destroy(l);
        return NULL;
    }
    return l;
}

void layout_destroy(layout *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; l->spans && i < l->span_count; i++) {
        free(l->spans[i].params);
        free(l->spans[i].parts);
    }
    free(l->spans);
    free(l->places);
    free(l->span_of);
    free(l);
}

/* In backward a span's memory is in use from its open_module down to its first_module, and with
 * overlap until the next lower span is done. */
static bool live_together(const layout *l, uint32_t a, uint32_t b, bool overlap)
{
    if (a > b) {
        uint32_t swap = a;
        a = b;
        b = swap;
    } /* b lies higher, so backward leaves it first */
    uint32_t b_until = l->spans[b].first_module, below = layout_has_sibling(l, b) ? b - 1 : b;
    if (overlap && below > 0)
        b_until = l->spans[below - 1].first_module;
    return l->spans[a].open_module >= b_until;
}

/* First fit by the time of opening. What is in use when a span opens are the next ones above it. */
void layout_plan_pool(layout *l, bool overlap)
{
    l->pool = 0;
    for (uint32_t k = l->span_count; k-- > 0;) { /* in the order of backward */
        layout_span *span = &l->spans[k];
        uint64_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (uint32_t other = k + 1;
                 other < l->span_count && live_together(l, k, other, overlap); other++) {
                const layout_span *o = &l->spans[other];
                if (at < o->pool_first + o->count && o->pool_first < at + span->count) {
                    at = o->pool_first + o->count;
                    moved = true;
                }
            }
        }
        span->pool_first = at;
        l->pool = at + span->count > l->pool ? at + span->count : l->pool;
    }
}

layout_piece layout_piece_of(const layout *l, const zds_model *model, uint32_t param, uint32_t rank)
{
    layout_piece piece = {.param = param};
    const layout_place *place = &l->places[param];
    if (place->span == LAYOUT_NONE)
        return piece;
    const layout_span *span = &l->spans[place->span];
    uint64_t part_at = span->first + layout_part_first(span, rank),
             part_end = part_at + layout_part_count(span, rank);
    uint64_t begin = place->first, end = begin + model->params[param].numel;
    if (begin < part_at)
        begin = part_at;
    if (end > part_end)
        end = part_end;
    if (begin >= end)
        return piece;
    piece.param_first = begin - place->first;
    piece.count = end - begin;
    piece.part_first = begin - part_at;
    return piece;
}

/* Where every parameter lies: spans of modules, cut into one slice a rank. */
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

static bool has_trainable(const zds_model *model, uint32_t module)
{
    const model_module *m = &model->modules[module];
    for (uint32_t i = 0; i < m->home_count; i++)
        if (!model->params[m->params[i]].frozen)
            return true;
    return false;
}

/* Puts the trainable parameters of a module at the end of a span. */
static void append(layout *l, const zds_model *model, layout_span *span, uint32_t module,
                   uint64_t align, uint64_t *at)
{
    const model_module *m = &model->modules[module];
    for (uint32_t i = 0; i < m->home_count; i++) {
        uint32_t index = m->params[i];
        const model_param *p = &model->params[index];
        if (p->frozen)
            continue;
        l->places[index] =
            (layout_place){.span = (int32_t)(span - l->spans), .first = span->first + *at};
        span->params[span->param_count++] = index;
        *at += round_up(p->numel, align);
        if (p->last_use > span->open_module)
            span->open_module = p->last_use;
    }
    l->span_of[module] = (int32_t)(span - l->spans);
}

static uint32_t params_of(const zds_model *model, uint32_t module, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t m = module; m < module + count; m++)
        sum += model->modules[m].home_count;
    return sum;
}

static bool fill(layout *l, const zds_model *model, uint64_t align, uint64_t bucket)
{
    uint64_t largest = 0;
    for (uint32_t m = 0; m < model->module_count; m++) {
        uint64_t size = module_elements(model, m, align);
        largest = size > largest ? size : largest;
        l->span_of[m] = LAYOUT_NONE;
    }
    if (bucket > largest)
        bucket = largest;
    uint64_t at_all = 0;
    for (uint32_t m = 0; m < model->module_count;) {
        uint32_t count = 1;
        uint64_t size = module_elements(model, m, align);
        while (m + count < model->module_count &&
               size + module_elements(model, m + count, align) <= bucket)
            size += module_elements(model, m + count++, align);
        bool any = false;
        for (uint32_t k = m; k < m + count; k++)
            any |= has_trainable(model, k);
        if (any) {
            layout_span *span = &l->spans[l->span_count++];
            *span = (layout_span){.first_module = m,
                                  .module_count = count,
                                  .first = at_all,
                                  .open_module = m + count - 1};
            uint32_t room = params_of(model, m, count);
            span->params = malloc((room ? room : 1) * sizeof *span->params);
            if (!span->params)
                return false;
            uint64_t at = 0;
            for (uint32_t k = m; k < m + count; k++)
                append(l, model, span, k, align, &at);
            span->count = round_up(at, align * l->world_size);
            span->slice = span->count / l->world_size;
            span->shard_first = l->shard;
            l->shard += span->slice;
            at_all += span->count;
            l->largest = span->count > l->largest ? span->count : l->largest;
        }
        m += count;
    }
    l->trainable = at_all;
    for (uint32_t i = 0; i < model->param_count; i++)
        if (model->params[i].frozen) {
            l->places[i] = (layout_place){.span = LAYOUT_NONE, .first = at_all};
            at_all += round_up(model->params[i].numel, align);
        }
    l->total = at_all;
    return true;
}

layout *layout_create(const zds_model *model, uint32_t world_size, uint64_t align, uint64_t bucket)
{
    layout *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->world_size = world_size;
    l->spans = calloc(model->module_count + (size_t)1, sizeof *l->spans);
    l->places = calloc(model->param_count + (size_t)1, sizeof *l->places);
    l->span_of = calloc(model->module_count + (size_t)1, sizeof *l->span_of);
    if (!l->spans || !l->places || !l->span_of || !fill(l, model, align, bucket)) {
        layout_destroy(l);
        return NULL;
    }
    return l;
}

void layout_destroy(layout *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; l->spans && i < l->span_count; i++)
        free(l->spans[i].params);
    free(l->spans);
    free(l->places);
    free(l->span_of);
    free(l);
}

/* In backward a span's memory is in use from its open_module down to its first_module, and with
 * overlap until the next lower span is done. First fit by the time of opening; with as few spans as
 * models have, comparing all pairs is no cost. */
static bool live_together(const layout *l, uint32_t a, uint32_t b, bool overlap)
{
    if (a > b) {
        uint32_t swap = a;
        a = b;
        b = swap;
    } /* b lies higher, so backward leaves it first */
    uint32_t b_until = l->spans[b].first_module;
    if (overlap && b > 0)
        b_until = l->spans[b - 1].first_module;
    return l->spans[a].open_module >= b_until;
}

void layout_plan_pool(layout *l, bool overlap)
{
    l->pool = 0;
    for (uint32_t k = l->span_count; k-- > 0;) { /* in the order of backward */
        layout_span *span = &l->spans[k];
        uint64_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (uint32_t other = k + 1; other < l->span_count; other++) {
                const layout_span *o = &l->spans[other];
                if (live_together(l, k, other, overlap) && at < o->pool_first + o->count &&
                    o->pool_first < at + span->count) {
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
    uint64_t slice_at = span->first + rank * span->slice, slice_end = slice_at + span->slice;
    uint64_t begin = place->first, end = begin + model->params[param].numel;
    if (begin < slice_at)
        begin = slice_at;
    if (end > slice_end)
        end = slice_end;
    if (begin >= end)
        return piece;
    piece.param_first = begin - place->first;
    piece.count = end - begin;
    piece.slice_first = begin - slice_at;
    return piece;
}

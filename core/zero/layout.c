/* Where every parameter lies: spans of modules, cut into one part a rank. */
#include "zero/layout.h"

#include <stdlib.h>

enum {
    MOST_ALIGN = 1 << 24,
    PADDINGS = 8 /* a span may hold so many times its largest padding */
};

typedef struct filling {
    const zds_model *model;
    const layout_wish *wish;
    int32_t owner; /* of the parameters that are put now */
    int64_t alone; /* the one that has a span of its own, or LAYOUT_NONE */
    uint64_t align, at;
    bool impossible; /* no common multiple */
} filling;

/* Elements of a module's parameters that are trained, or in parts, each rounded up. */
static uint64_t module_elements(const zds_model *model, uint32_t module, const layout_wish *wish)
{
    const model_module *m = &model->modules[module];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < m->home_count; i++) {
        const model_param *p = &model->params[m->params[i]];
        if (!p->frozen || wish->in_parts)
            sum += layout_round_up(p->numel, wish->align);
    }
    return sum;
}

static bool is_kept(const filling *f, uint32_t param)
{
    return f->wish->in_parts && f->wish->kept[param];
}

/* It has a span of its own. */
static bool is_shared(const filling *f, uint32_t param)
{
    const model_param *p = &f->model->params[param];
    return f->wish->by_module && !is_kept(f, param) && p->last_use > p->home;
}

static bool is_in(const layout *l, const filling *f, uint32_t param, const layout_span *span)
{
    const model_param *p = &f->model->params[param];
    if (is_shared(f, param) ? f->alone != param : f->alone != LAYOUT_NONE)
        return false;
    if ((f->wish->wide && p->fp32) != span->wide || is_kept(f, param) != span->kept)
        return false;
    if (p->frozen)
        return span->kind == SPAN_FROZEN;
    return span->kind == (l->places[param].owner >= 0 ? SPAN_WHOLE : SPAN_CUT);
}

/* Calls visit for each parameter of a span's kind at home in its modules. */
static void each(layout *l, filling *f, layout_span *span,
                 void (*visit)(layout *l, layout_span *span, uint32_t param, filling *f))
{
    const zds_model *model = f->model;
    for (uint32_t m = span->first_module; m < span->first_module + span->module_count; m++)
        for (uint32_t i = 0; i < model->modules[m].home_count; i++)
            if (is_in(l, f, model->modules[m].params[i], span))
                visit(l, span, model->modules[m].params[i], f);
}

static void count_one(layout *l, layout_span *span, uint32_t param, filling *f)
{
    (void)l, (void)param, (void)f;
    span->param_count++;
}

uint64_t layout_multiple(uint64_t a, uint64_t b)
{
    uint64_t x = a, y = b;
    while (y) {
        uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

static void align_one(layout *l, layout_span *span, uint32_t param, filling *f)
{
    (void)l, (void)span;
    uint64_t block = f->wish->granularity ? f->wish->granularity[param] : 1;
    if (block > 1 && !f->impossible)
        f->align = layout_multiple(f->align, block);
    f->impossible |= f->align > MOST_ALIGN;
}

static void put_one(layout *l, layout_span *span, uint32_t param, filling *f)
{
    const model_param *p = &f->model->params[param];
    if (l->places[param].owner != f->owner)
        return;
    l->places[param].span = (uint32_t)(span - l->spans);
    l->places[param].first = f->at;
    span->params[span->param_count++] = param;
    f->at += layout_round_up(p->numel, f->align);
    if (p->last_use > span->open_module)
        span->open_module = p->last_use;
}

/* The spans of one kind, if there are such parameters. */
static zds_status add_span(layout *l, filling *f, uint32_t module, uint32_t count, span_kind kind,
                           bool wide, bool kept)
{
    layout_span *span = &l->spans[l->span_count];
    *span = (layout_span){.kind = kind,
                          .wide = wide,
                          .kept = kept,
                          .first_module = module,
                          .module_count = count,
                          .open_module = module + count - 1};
    each(l, f, span, count_one);
    if (!span->param_count)
        return ZDS_OK;
    l->span_count++;
    span->params = malloc(span->param_count * sizeof *span->params);
    if (kind == SPAN_WHOLE)
        span->parts = malloc((l->world_size + (size_t)1) * sizeof *span->parts);
    if (!span->params || (kind == SPAN_WHOLE && !span->parts))
        return ZDS_ERR_MEMORY;
    span->param_count = 0;
    f->align = f->wish->align;
    f->at = 0;
    if (kind == SPAN_CUT)
        each(l, f, span, align_one);
    if (f->impossible)
        return ZDS_ERR_UNSUPPORTED;
    for (uint32_t r = 0; kind == SPAN_WHOLE && r < l->world_size; r++) {
        span->parts[r] = f->at;
        f->owner = (int32_t)r;
        each(l, f, span, put_one);
    }
    f->owner = LAYOUT_NONE;
    if (kind != SPAN_WHOLE)
        each(l, f, span, put_one);
    bool equal = kind == SPAN_CUT || (kind == SPAN_FROZEN && f->wish->in_parts && !kept);
    span->count = equal ? layout_round_up(f->at, f->align * l->world_size) : f->at;
    if (equal)
        span->part = span->count / l->world_size;
    if (kind == SPAN_WHOLE)
        span->parts[l->world_size] = span->count;
    for (uint32_t m = module; m < module + count; m++)
        if (l->spans_of[m] == LAYOUT_NONE)
            l->spans_of[m] = (int32_t)(span - l->spans);
    return ZDS_OK;
}

/* Addresses in all spaces, once all spans are there. */
static void number(layout *l)
{
    for (uint32_t k = 0; k < l->span_count; k++) {
        layout_span *span = &l->spans[k];
        if (!layout_is_trained(span))
            continue;
        span->param_first = l->trained;
        l->trained += layout_room(span, span->count);
        l->trainable += span->count;
        l->wide += span->wide ? span->count : 0;
        l->largest = span->count > l->largest ? span->count : l->largest;
    }
}

/* All spans of some modules. */
static zds_status add_spans(layout *l, filling *f, uint32_t module, uint32_t count)
{
    static const span_kind kinds[] = {SPAN_CUT, SPAN_WHOLE, SPAN_FROZEN};
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < 4 * (sizeof kinds / sizeof *kinds); i++)
        status = add_span(l, f, module, count, kinds[i / 4], i / 2 % 2, i % 2);
    for (uint32_t m = module; m < module + count; m++)
        for (uint32_t i = 0; !status && i < f->model->modules[m].home_count; i++) {
            uint32_t param = f->model->modules[m].params[i];
            if (!is_shared(f, param))
                continue;
            f->alone = param;
            for (size_t k = 0; !status && k < 2 * (sizeof kinds / sizeof *kinds); k++)
                status = add_span(l, f, module, count, kinds[k / 2], k % 2, false);
            f->alone = LAYOUT_NONE;
        }
    return status;
}

static zds_status fill(layout *l, const zds_model *model, const layout_wish *wish)
{
    uint64_t largest = 0, bucket = wish->bucket;
    for (uint32_t m = 0; m < model->module_count; m++) {
        uint64_t size = module_elements(model, m, wish);
        largest = size > largest ? size : largest;
        l->spans_of[m] = LAYOUT_NONE;
    }
    /* With many ranks small modules join so that padding stays a small part of a span. What is
     * fetched for a module alone joins for no other reason. */
    uint64_t padded = PADDINGS * wish->align * (wish->world_size - 1);
    largest = largest > padded && !wish->by_module ? largest : padded;
    if (bucket > largest)
        bucket = largest;
    filling f = {.model = model, .wish = wish, .owner = LAYOUT_NONE, .alone = LAYOUT_NONE};
    for (uint32_t m = 0; m < model->module_count;) {
        uint32_t count = 1;
        uint64_t size = module_elements(model, m, wish);
        while (m + count < model->module_count &&
               size + module_elements(model, m + count, wish) <= bucket)
            size += module_elements(model, m + count++, wish);
        zds_status status = add_spans(l, &f, m, count);
        if (status)
            return status;
        m += count;
    }
    number(l);
    return ZDS_OK;
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

zds_status layout_create(const zds_model *model, const layout_wish *wish, layout **out)
{
    layout *l = calloc(1, sizeof *l);
    if (!l)
        return ZDS_ERR_MEMORY;
    l->world_size = wish->world_size;
    l->spans = calloc(12 * (size_t)model->module_count + model->param_count + 1, sizeof *l->spans);
    l->places = calloc(model->param_count + (size_t)1, sizeof *l->places);
    l->spans_of = calloc(model->module_count + (size_t)1, sizeof *l->spans_of);
    zds_status status = l->spans && l->places && l->spans_of && choose_owners(l, model, wish->whole)
                            ? fill(l, model, wish)
                            : ZDS_ERR_MEMORY;
    if (status)
        layout_destroy(l);
    else
        *out = l;
    return status;
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
    free(l->spans_of);
    free(l);
}

/* The next lower span that is trained and of other modules; LAYOUT_NONE: there is none. */
static int64_t below(const layout *l, uint32_t k)
{
    for (uint32_t i = k; i-- > 0;)
        if (layout_is_trained(&l->spans[i]) && l->spans[i].first_module < l->spans[k].first_module)
            return i;
    return LAYOUT_NONE;
}

/* First fit by the time of opening. In backward a span's buffer is in use from its open_module down
 * to its first_module, and with overlap until the next lower span is done. What is in use when a
 * span opens are the next ones above it. */
void layout_plan_buffers(layout *l, bool overlap)
{
    l->buffers = 0;
    for (uint32_t k = l->span_count; k-- > 0;) { /* in the order of backward */
        layout_span *span = &l->spans[k];
        uint64_t at = 0, room = layout_room(span, span->count);
        if (!layout_is_trained(span))
            continue;
        for (bool moved = true; moved;) {
            moved = false;
            for (uint32_t other = k + 1; other < l->span_count; other++) {
                const layout_span *o = &l->spans[other];
                if (!layout_is_trained(o))
                    continue;
                int64_t lower = overlap ? below(l, other) : LAYOUT_NONE;
                uint32_t until = lower >= 0 ? l->spans[lower].first_module : o->first_module;
                if (span->open_module < until)
                    break;
                uint64_t end = o->buffer_first + layout_room(o, o->count);
                if (at < end && o->buffer_first < at + room) {
                    at = end;
                    moved = true;
                }
            }
        }
        span->buffer_first = at;
        l->buffers = at + room > l->buffers ? at + room : l->buffers;
    }
}

layout_piece layout_piece_of(const layout *l, const zds_model *model, uint32_t param, uint32_t rank)
{
    layout_piece piece = {.param = param};
    const layout_place *place = &l->places[param];
    const layout_span *span = &l->spans[place->span];
    if (!layout_is_trained(span) && !span->part)
        return piece;
    uint64_t part_at = layout_part_first(span, rank),
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

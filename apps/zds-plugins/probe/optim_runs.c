/* The checks of an optimizer that hold one run against another: tiles, threads, instances, states,
 * poisoned gradients, neighbours, memory. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"
#include "optim.h"
#include "plugin/fault.h"
#include "plugin/registry.h"
#include "rig.h"

static const rig_cut whole = {0};

/* Runs `count` steps cut in each way and compares with whole parameters. */
static char *compare_cuts(bench *b, const rig_setup *setup, const rig_cut *cuts, size_t n,
                          int count)
{
    rig base = {0};
    char *fault = rig_open(&base, b, setup);
    if (!fault)
        fault = rig_steps(&base, count, &whole);
    for (size_t i = 0; i < n && !fault; i++) {
        rig other = {0};
        fault = rig_open(&other, b, setup);
        if (!fault)
            fault = rig_steps(&other, count, &cuts[i]);
        if (!fault)
            fault = rig_compare(&base, &other, 0);
        fault = bench_within(fault, "tiles of %llu%s", (unsigned long long)cuts[i].tile,
                             cuts[i].order == BENCH_BACKWARD   ? ", the last one first"
                             : cuts[i].order == BENCH_THREADED ? ", on several threads"
                                                               : "");
        rig_close(&other);
    }
    rig_close(&base);
    return fault;
}

static char *cut_differently(bench *b, const rig_setup *setup)
{
    static const rig_cut cuts[] = {{.tile = 1, .batch = 7},
                                   {.first = 3, .tile = 5, .batch = 100},
                                   {.tile = 64},
                                   {.first = 16, .tile = 1024, .batch = 2}};
    return compare_cuts(b, setup, cuts, sizeof cuts / sizeof *cuts, 3);
}

/* As the engine cuts: counters and buffers that are too small for a full tile show in no small one.
 */
static char *cut_large(bench *b)
{
    static const rig_cut cuts[] = {{.tile = RIG_TILE}, {.first = 16, .tile = 1024, .batch = 20}};
    rig_setup setup;
    const cJSON *values = values_first(b, &optim_maker);
    char *fault = NULL;
    for (size_t t = 0; t < 2 && !fault && rig_types(b, t, &setup); t++) {
        setup.values = values;
        setup.model = RIG_LARGE;
        bench_at("with large parameters, %s", rig_types_text(&setup));
        if (rig_accepts(b, &setup))
            fault = compare_cuts(b, &setup, cuts, sizeof cuts / sizeof *cuts, 2);
        fault = bench_within(fault, "%s", bench_where);
    }
    return fault;
}

char *optim_tiling(bench *b)
{
    char *fault = rig_each(b, cut_differently);
    return fault ? fault : cut_large(b);
}

static char *order_differently(bench *b, const rig_setup *setup)
{
    static const rig_cut cuts[] = {{.tile = 64, .order = BENCH_BACKWARD},
                                   {.tile = 64, .batch = 3, .order = BENCH_THREADED},
                                   {.tile = 256, .order = BENCH_THREADED}};
    return compare_cuts(b, setup, cuts, sizeof cuts / sizeof *cuts, 3);
}

char *optim_threads(bench *b)
{
    return rig_each(b, order_differently);
}

/* === a checkpoint === */

static char *go_on(bench *b, const rig_setup *setup)
{
    rig first = {0}, later = {0};
    char *fault = rig_open(&first, b, setup);
    if (!fault)
        fault = rig_steps(&first, 3, &whole);
    if (!fault)
        fault = rig_open(&later, b, setup);
    if (!fault) {
        rig_copy_states(&later, &first, true);
        later.step = first.step;
        fault = rig_steps(&first, 2, &whole);
    }
    if (!fault)
        fault = rig_steps(&later, 2, &whole);
    if (!fault)
        fault = bench_within(rig_compare(&first, &later, 0),
                             "after three steps, an instance that was given weights and states "
                             "computes something else than the one that made them");
    rig_close(&later);
    rig_close(&first);
    return fault;
}

char *optim_reload(bench *b)
{
    return rig_each(b, go_on);
}

/* === gradients that are no numbers === */

static void poison(rig *r)
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &r->params[i];
        const uint64_t n = p->param.numel;
        area_seal(p->grad, false);
        if (n > 5) {
            number_write(p->grad->data, r->setup.grad, n / 2, (double)NAN);
            number_write(p->grad->data, r->setup.grad, n / 3, (double)INFINITY);
            number_write(p->grad->data, r->setup.grad, n / 5, (double)-INFINITY);
        }
        area_seal(p->grad, true);
    }
}

/* A parameter that is treated as a whole may be spoilt as a whole. */
static bool is_spoilt(const rig_param *p, uint64_t e)
{
    const uint64_t n = p->param.numel, g = p->needs.granularity ? p->needs.granularity : 1;
    return p->needs.whole_tensor || p->needs.tensor_norms || e / g == n / 2 / g ||
           e / g == n / 3 / g || e / g == n / 5 / g;
}

static char *healthy_fault(const rig_param *p, const area *clean, const area *other,
                           zds_dtype dtype)
{
    const size_t size = zds_dtype_size(dtype);
    for (uint64_t e = 0; clean->data && e < p->param.numel; e++)
        if (!is_spoilt(p, e) && memcmp(clean->data + e * size, other->data + e * size, size) != 0)
            return fault_format(
                "gradients %llu, %llu and %llu of %s are NaN or Inf, and element "
                "%llu of the %s is %.9g, not %.9g",
                (unsigned long long)p->param.numel / 2, (unsigned long long)p->param.numel / 3,
                (unsigned long long)p->param.numel / 5, p->param.name, (unsigned long long)e,
                clean->what, number_read(other->data, dtype, e),
                number_read(clean->data, dtype, e));
    return NULL;
}

static char *poisoned(bench *b, const rig_setup *setup)
{
    rig clean = {0}, other = {0};
    char *fault = rig_open(&clean, b, setup);
    if (!fault)
        fault = rig_open(&other, b, setup);
    for (int k = 0; k < 2 && !fault; k++) {
        rig_fill(&clean);
        rig_fill(&other);
        if (k == 0)
            poison(&other);
        fault = rig_step(&clean, &whole);
        if (!fault)
            fault = rig_step(&other, &whole);
    }
    /* What is reduced by the optimizer itself goes through its compression as a whole. */
    for (size_t i = 0; i < RIG_PARAMS && !fault && !other.collectives; i++) {
        const rig_param *p = &clean.params[i], *q = &other.params[i];
        fault = healthy_fault(p, p->master, q->master, setup->master);
        if (!fault)
            fault = healthy_fault(p, p->output, q->output, setup->output);
        for (uint32_t s = 0; s < p->needs.state_count && !fault; s++)
            if (p->needs.states[s].kind == ZDS_STATE_ELEMENT)
                fault = healthy_fault(p, p->states[s], q->states[s], p->needs.states[s].dtype);
    }
    rig_close(&other);
    rig_close(&clean);
    return fault;
}

char *optim_poison(bench *b)
{
    return rig_each(b, poisoned);
}

/* === neighbours === */

/* Bytes of `now` outside elements [first, end) that differ from `before`. */
static char *outside_fault(const area *now, const char *before, size_t size, uint64_t first,
                           uint64_t end)
{
    for (size_t i = 0; i < now->bytes; i++) {
        uint64_t e = i / size;
        if ((e < first || e >= end) && now->data[i] != before[i])
            return fault_format("a tile of elements %llu to %llu changed element %llu of the %s",
                                (unsigned long long)first, (unsigned long long)end - 1,
                                (unsigned long long)e, now->what);
    }
    return NULL;
}

static char *copy_of(const area *a)
{
    char *copy = malloc(a->bytes + 1);
    if (copy && a->bytes)
        memcpy(copy, a->data, a->bytes);
    return copy;
}

/* One step of the second tile of a parameter alone. */
static char *lonely_tile(rig *r, uint32_t i, const rig_cut *cut)
{
    rig_param *p = &r->params[i];
    const uint64_t g = p->needs.granularity ? p->needs.granularity : 1;
    const uint64_t first = (cut->first + g - 1) / g * g, tile = (cut->tile + g - 1) / g * g;
    char *master = copy_of(p->master), *output = copy_of(p->output);
    char *states[ZDS_MAX_STATES] = {0};
    for (uint32_t s = 0; s < p->needs.state_count; s++)
        states[s] = copy_of(p->states[s]);
    char *fault = rig_step(r, cut);
    if (!fault)
        fault =
            outside_fault(p->master, master, zds_dtype_size(r->setup.master), first, first + tile);
    if (!fault)
        fault =
            outside_fault(p->output, output, zds_dtype_size(r->setup.output), first, first + tile);
    /* norms may have written the states of all tiles. */
    for (uint32_t s = 0; s < p->needs.state_count && !fault && !p->needs.tensor_norms; s++) {
        const zds_state_spec *spec = &p->needs.states[s];
        if (spec->kind == ZDS_STATE_ELEMENT)
            fault = outside_fault(p->states[s], states[s], zds_dtype_size(spec->dtype), first,
                                  first + tile);
        else if (spec->kind == ZDS_STATE_BLOCK)
            fault = outside_fault(p->states[s], states[s], (size_t)spec->bytes, first / spec->block,
                                  (first + tile + spec->block - 1) / spec->block);
    }
    free(master);
    free(output);
    for (uint32_t s = 0; s < ZDS_MAX_STATES; s++)
        free(states[s]);
    return fault;
}

static char *lonely(bench *b, const rig_setup *setup)
{
    static const rig_cut cut = {.first = 7, .tile = 17, .only_second = true};
    char *fault = NULL;
    for (uint32_t i = 0; i < RIG_PARAMS && !fault; i++) {
        rig r = {0};
        fault = rig_open(&r, b, setup);
        if (!fault) {
            rig_fill(&r);
            /* With tiles of whole chunks or of whole tensors there is no lonely one. */
            bool cuts = !r.params[i].needs.whole_tensor && !r.params[i].needs.tensor_norms;
            int32_t mode = r.ops.reduction_mode ? r.ops.reduction_mode(r.self, 1) : 0;
            if (cuts && mode == ZDS_REDUCE_MEAN)
                fault = lonely_tile(&r, i, &cut);
        }
        rig_close(&r);
    }
    return fault;
}

/* Steps with arrays that end, or begin, where memory does, and what the pages around keep. */
static char *at_the_edge(bench *b, const rig_setup *setup)
{
    static const rig_cut cuts[] = {{0}, {.first = 3, .tile = 5, .batch = 10}};
    char *fault = NULL;
    for (int k = 0; k < 4 && !fault; k++) {
        rig r = {0};
        rig_setup s = *setup;
        s.tight = k % 2;
        fault = rig_open(&r, b, &s);
        if (!fault)
            fault = rig_steps(&r, 2, &cuts[k / 2]);
        if (!fault)
            fault = rig_guards(&r);
        rig_close(&r);
    }
    return fault;
}

char *optim_bounds(bench *b)
{
    char *fault = rig_each(b, lonely);
    return fault ? fault : rig_each(b, at_the_edge);
}

/* === memory === */

static char *allocating(bench *b, const rig_setup *setup)
{
    static const rig_cut cut = {.tile = 256, .order = BENCH_THREADED};
    rig r = {0};
    char *fault = rig_open(&r, b, setup);
    if (!fault)
        fault = rig_steps(&r, 3, &cut);
    if (!fault && r.allocated)
        fault = fault_format("three steps called malloc, free or their like %ld times inside step "
                             "or norms; use ctx->scratch",
                             r.allocated);
    rig_close(&r);
    return fault;
}

char *optim_allocations(bench *b)
{
    return rig_each(b, allocating);
}

static char *life(bench *b)
{
    rig r = {0};
    rig_setup setup;
    const cJSON *values = values_first(b, &optim_maker);
    rig_types(b, 0, &setup);
    setup.values = values;
    char *fault = rig_open(&r, b, &setup);
    if (!fault)
        fault = rig_steps(&r, 2, &whole);
    rig_close(&r);
    return fault;
}

char *optim_leaks(bench *b)
{
    return bench_leaks(b, life);
}

/* === its own reduction === */

/* The same twice, in a world of one, with parallel_for in any order. */
static char *reduce_alone(bench *b, const rig_setup *setup)
{
    static const rig_cut backward = {.order = BENCH_BACKWARD}, threaded = {.order = BENCH_THREADED};
    rig one = {0}, two = {0}, three = {0};
    char *fault = rig_open(&one, b, setup);
    if (!fault)
        fault = rig_open(&two, b, setup);
    if (!fault)
        fault = rig_open(&three, b, setup);
    if (!fault)
        fault = rig_steps(&one, 6, &whole);
    if (!fault)
        fault = rig_steps(&two, 6, &backward);
    if (!fault)
        fault = rig_steps(&three, 6, &threaded);
    if (!fault)
        fault = rig_compare(&one, &two, 0);
    if (!fault)
        fault = rig_compare(&one, &three, 0);
    if (!fault)
        fault = rig_guards(&three);
    b->collectives += one.collectives;
    rig_close(&three);
    rig_close(&two);
    rig_close(&one);
    return fault;
}

char *optim_collective(bench *b)
{
    zds_optim_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (!ops.reduction_mode) {
        b->skipped = fault_format("it leaves that to the host");
        return NULL;
    }
    char *fault = rig_each(b, reduce_alone);
    if (!fault && !b->collectives)
        b->note = fault_format("no step that was tried is one of ZDS_REDUCE_LOCAL");
    return fault;
}

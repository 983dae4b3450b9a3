/* The checks of an optimizer that need no more than a step: what it says of itself, what each of
 * its types means, what it writes. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "numbers.h"
#include "optim.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "rig.h"

static const rig_cut whole = {0};

/* === create === */

static zds_status make(bench *b, const void *options, void **self)
{
    rig_setup s;
    if (!rig_types(b, 0, &s))
        return b->host.fail(&b->host, ZDS_ERR_UNSUPPORTED, "its types are not those of this check");
    const zds_optim_env env = rig_env(&s);
    return rig_create(b, options, &env, self);
}

static void drop(bench *b, void *self)
{
    rig_destroy(b, self);
}

const maker optim_maker = {make, drop};

/* An optimizer of a device has nothing that could be called here. */
static char *create_defaults(bench *b)
{
    zds_optim_ops ops;
    rig_setup s;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (!(ops.spaces & ZDS_SPACE_BIT(ZDS_SPACE_HOST)))
        b->skipped = fault_format("it computes on a device; this check has only the host");
    else if (!rig_types(b, 0, &s))
        b->skipped = fault_format("it takes none of the combinations of types that a run has");
    return b->skipped ? NULL : values_defaults(b, &optim_maker);
}

static char *create_edges(bench *b)
{
    return values_edges(b, &optim_maker);
}

/* === describe === */

/* Describes once more, into a struct that ends where memory does. */
static char *describe_again(rig *r, const rig_param *p)
{
    area *room = area_make(sizeof(zds_param_needs), true, "zds_param_needs", p->param.name);
    zds_param_needs *needs = (zds_param_needs *)(void *)room->data;
    zds_hyper hyper = options_hyper(r->b->plugin, r->options);
    zds_state_spec specs[ZDS_MAX_STATES] = {{0}};
    *needs = (zds_param_needs){.struct_size = sizeof *needs,
                               .states = specs,
                               .state_stride = sizeof *specs,
                               .hyper = &hyper};
    zds_status status = r->ops.describe(r->self, rig_shown(r, p), needs);
    char *fault = status ? bench_failure(r->b, "describe", status) : area_fault(room);
    if (!fault && !rig_same_needs(needs, &p->needs))
        fault = fault_format("describe says something else of %s when it is asked again",
                             p->param.name);
    if (!fault && !rig_same_hyper(&hyper, &p->hyper))
        fault = fault_format("describe sets other hyperparameters for %s when it is asked again",
                             p->param.name);
    area_free(room);
    return fault;
}

static char *describe_twice(bench *b, const rig_setup *setup)
{
    rig first = {0}, second = {0};
    char *fault = rig_open(&first, b, setup);
    if (!fault)
        fault = rig_open(&second, b, setup);
    for (size_t i = 0; !fault && i < RIG_PARAMS; i++) {
        fault = describe_again(&first, &first.params[i]);
        if (!fault && !rig_same_needs(&first.params[i].needs, &second.params[i].needs))
            fault =
                fault_format("two instances describe %s differently", first.params[i].param.name);
    }
    return fault;
}

/* They are as good as any others, but may be refused with a reason. */
static char *describe_empty(bench *b, const rig_setup *setup)
{
    rig r = {0};
    rig_setup empty = *setup;
    empty.model = RIG_EMPTY;
    bench_also("for parameters without elements");
    char *fault = rig_open(&r, b, &empty);
    const bool refused = fault && b->error;
    if (refused && !b->note)
        b->note = bench_within(fault, "parameters without elements are refused");
    else if (refused)
        fault_free(fault);
    rig_close(&r);
    return refused ? NULL : fault;
}

static char *describe(bench *b)
{
    char *fault = rig_each(b, describe_twice);
    return fault ? fault : rig_each_option(b, describe_empty);
}

/* === types === */

/* Gradients are numbers that each type has, so that only the rounding of weights may differ. */
static char *compare_types(bench *b, const rig_setup *base, const rig_setup *setup)
{
    rig a = {0}, c = {0};
    char *fault = rig_open(&a, b, base);
    if (!fault)
        fault = rig_open(&c, b, setup);
    if (!fault)
        fault = rig_steps(&a, 2, &whole);
    if (!fault)
        fault = rig_steps(&c, 2, &whole);
    if (!fault && setup->master == base->master && setup->state == base->state)
        fault = bench_within(rig_compare(&a, &c, 1e-6),
                             "the same gradients as %s mean another step", dtype_name(setup->grad));
    rig_close(&c);
    rig_close(&a);
    return fault;
}

static char *types(bench *b)
{
    rig_setup base, setup;
    char *fault = NULL;
    const cJSON *values = values_first(b, &optim_maker);
    rig_types(b, 0, &base);
    base.values = values;
    for (size_t t = 1; !fault && rig_types(b, t, &setup); t++) {
        setup.values = values;
        bench_at("%s", rig_types_text(&setup));
        if (rig_accepts(b, &setup))
            fault = compare_types(b, &base, &setup);
        else if (setup.state == ZDS_F32 || !b->error) /* states of 16 bits need not be possible */
            fault = fault_format("its masks allow this, but create refuses it: %s",
                                 b->error ? b->error : "without calling host->fail");
        fault = bench_within(fault, "%s", rig_types_text(&setup));
    }
    return fault;
}

/* === the 16-bit output === */

static char *output_fault(const rig *r)
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        const rig_param *p = &r->params[i];
        for (uint64_t e = 0; e < p->param.numel; e++) {
            const uint16_t got = ((const uint16_t *)(void *)p->output->data)[e];
            double master = number_read(p->master->data, r->setup.master, e);
            uint16_t right = r->setup.output == ZDS_F16 ? f16_from_float((float)master)
                                                        : bf16_from_float((float)master);
            if (got != right &&
                !(isnan(master) && isnan(number_read(p->output->data, r->setup.output, e))))
                return fault_format("output %llu of %s is 0x%04x, but its master %.9g rounds to "
                                    "0x%04x (to nearest, ties to even)",
                                    (unsigned long long)e, p->param.name, got, master, right);
        }
    }
    return NULL;
}

/* Weights that lie in the middle between two of the 16-bit type, or beyond it. */
static void set_ties(rig *r)
{
    static const uint32_t bits[] = {0x3f808000, 0x3f818000, 0xbf808000, 0xbf818000, 0x3f801000,
                                    0x3f803000, 0xbf801000, 0x7f7fffff, 0x477ff000, 0x38801000,
                                    0x33000000, 0x33c00000, 0x00018000, 0x80000000, 0x7fc00000};
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        rig_param *p = &r->params[i];
        p->hyper.lr = 0;
        for (uint64_t e = 0; e < p->param.numel; e++)
            number_write(p->master->data, r->setup.master, e,
                         (double)float_from_bits(bits[e % (sizeof bits / sizeof *bits)]));
    }
}

static char *rounded_output(bench *b, const rig_setup *setup)
{
    rig r = {0};
    if (setup->output == setup->master || zds_dtype_size(setup->output) != 2)
        return NULL;
    char *fault = rig_open(&r, b, setup);
    if (!fault)
        fault = rig_steps(&r, 2, &whole);
    if (!fault)
        fault = output_fault(&r);
    if (!fault) {
        set_ties(&r);
        fault = rig_steps(&r, 1, &whole);
    }
    if (!fault)
        fault = output_fault(&r);
    rig_close(&r);
    return fault;
}

static char *output(bench *b)
{
    rig_setup setup;
    bool any = false;
    for (size_t t = 0; rig_types(b, t, &setup); t++)
        any = any || (setup.output != setup.master && zds_dtype_size(setup.output) == 2);
    if (!any)
        b->skipped = fault_format("its output_dtypes have no 16-bit type");
    return any ? rig_each(b, rounded_output) : NULL;
}

/* === grad_scale === */

static char *scaled(bench *b, const rig_setup *setup)
{
    rig plain = {0}, other = {0};
    rig_setup with = *setup;
    with.scaled = true;
    char *fault = rig_open(&plain, b, setup);
    if (!fault)
        fault = rig_open(&other, b, &with);
    if (!fault)
        fault = rig_steps(&plain, 4, &whole);
    if (!fault)
        fault = rig_steps(&other, 4, &whole);
    if (!fault)
        fault =
            bench_within(rig_compare(&plain, &other, 1e-6),
                         "gradients divided by a power of two, with that as ctx->grad_scale, do "
                         "not give the same step");
    rig_close(&other);
    rig_close(&plain);
    return fault;
}

static char *grad_scale(bench *b)
{
    return rig_each(b, scaled);
}

const check checks_optim[] = {
    {"create with the defaults", create_defaults, true},
    {"create at the edges of its options", create_edges, false},
    {"describe", describe, true},
    {"a plain step", optim_plain_step, true},
    {"weights come of weights and gradients", optim_heeds_inputs, false},
    {"the same again gives the same bits", optim_repeats, true},
    {"instances do not share state", optim_instances, true},
    {"all types of its masks", types, true},
    {"nothing is kept from call to call", optim_keeps_nothing, false},
    {"hyperparameters are the tile's", optim_follows_hyper, false},
    {"every rank describes and computes the same", optim_ranks, false},
    {"any tiling gives the same bits", optim_tiling, false},
    {"any order and number of threads give the same bits", optim_threads, false},
    {"16-bit output is the rounded master", output, false},
    {"gradients are multiplied by grad_scale", grad_scale, false},
    {"a new instance goes on from saved states", optim_reload, false},
    {"NaN and Inf stay where they are", optim_poison, false},
    {"nothing outside the tile is touched", optim_bounds, false},
    {"its own reduction", optim_collective, false},
    {"its own reduction between ranks", optim_collective_ranks, false},
    {"no allocation in step", optim_allocations, false},
    {"no leaks", optim_leaks, false},
    {NULL, NULL, false}};

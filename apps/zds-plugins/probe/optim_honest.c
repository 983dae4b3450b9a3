/* The checks that a step is what it seems: made of gradients, weights and the tile's
 * hyperparameters, and of nothing else. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "numbers.h"
#include "optim.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "rig.h"

enum { STEPS = 3 };

static const rig_cut whole = {0};

/* The i-th combination of types, with options that create accepts. */
static bool setup_of(bench *b, size_t i, rig_setup *setup)
{
    if (!rig_types(b, i, setup))
        return false;
    setup->values = values_first(b, &optim_maker);
    return true;
}

static bool same_array(const area *a, const area *b)
{
    return memcmp(a->data, b->data, a->bytes) == 0;
}

static bool same_weights(const rig *a, const rig *b)
{
    bool same = true;
    for (size_t i = 0; i < RIG_PARAMS && same; i++)
        same = same_array(a->params[i].master, b->params[i].master);
    return same;
}

/* === what a step is made of === */

/* Weights that no gradient of this size can lead to. */
static char *number_fault(const rig *r)
{
    for (size_t i = 0; i < RIG_PARAMS; i++)
        for (uint64_t e = 0; e < r->params[i].param.numel; e++) {
            const double weight = number_read(r->params[i].master->data, r->setup.master, e);
            if (!isfinite(weight))
                return fault_format("%d steps with gradients around 1 have made weight %llu of %s "
                                    "%g",
                                    STEPS, (unsigned long long)e, r->params[i].param.name, weight);
        }
    return NULL;
}

static bool is_moved_by(const rig *r, const rig *still, size_t i)
{
    return !same_array(r->params[i].master, still->params[i].master);
}

/* Along the gradients, which were the same in every step. */
static double slope(const rig *r, const rig *still)
{
    double sum = 0;
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        const rig_param *p = &r->params[i], *q = &still->params[i];
        for (uint64_t e = 0; e < p->param.numel; e++)
            sum += number_read(p->grad->data, r->setup.grad, e) *
                   (number_read(p->master->data, r->setup.master, e) -
                    number_read(q->master->data, r->setup.master, e));
    }
    return sum;
}

/* What an author may have meant, but rather not. */
static void remark(bench *b, const rig *r, const rig *still)
{
    char *names = NULL;
    for (size_t i = 0; i < RIG_PARAMS; i++)
        if (r->params[i].hyper.lr != 0 && !is_moved_by(r, still, i)) {
            char *longer = text_format("%s%s%s", names ? names : "", names ? ", " : "",
                                       r->params[i].param.name);
            free(names);
            names = longer;
        }
    if (names)
        b->note = fault_format("%d steps with gradients leave %s as they were", STEPS, names);
    else if (slope(r, still) > 0)
        b->note = fault_format("%d steps with the same gradients lead along them, not against: the "
                               "loss grows",
                               STEPS);
    free(names);
}

/* Gradients are the same in every step. */
static char *plain(bench *b, const rig_setup *setup)
{
    rig r = {0}, still = {0};
    rig_setup steady = *setup;
    steady.steady = true;
    char *fault = rig_open(&still, b, &steady);
    if (!fault)
        fault = rig_open(&r, b, &steady);
    if (!fault)
        fault = rig_steps(&r, STEPS, &whole);
    if (!fault)
        fault = number_fault(&r);
    if (!fault && r.params[0].hyper.lr != 0 && same_weights(&r, &still))
        fault = fault_format("%d steps with gradients have changed no weight", STEPS);
    if (!fault)
        remark(b, &r, &still);
    rig_close(&r);
    rig_close(&still);
    return fault;
}

/* Tiles have elements, but calls over whole parameters get those that have none. */
static char *without_elements(bench *b, const rig_setup *setup)
{
    rig r = {0};
    rig_setup empty = *setup;
    empty.model = RIG_EMPTY;
    bench_at("with parameters without elements");
    char *refusal = rig_open(&r, b, &empty); /* with a reason, which the check of describe tells */
    char *fault = refusal ? NULL : rig_steps(&r, STEPS, &whole);
    if (!refusal && !fault)
        fault = number_fault(&r);
    fault_free(refusal);
    rig_close(&r);
    return bench_within(fault, "%s", bench_where);
}

char *optim_plain_step(bench *b)
{
    rig_setup setup;
    setup_of(b, 0, &setup);
    char *fault = plain(b, &setup);
    return fault ? fault : without_elements(b, &setup);
}

/* Three runs: one has other gradients, one other weights to start from. */
char *optim_heeds_inputs(bench *b)
{
    rig_setup setup, other;
    rig base = {0}, grads = {0}, weights = {0};
    setup_of(b, 0, &setup);
    other = setup;
    other.gradients = 1000;
    char *fault = rig_open(&base, b, &setup);
    if (!fault)
        fault = rig_open(&grads, b, &other);
    if (!fault)
        fault = rig_open(&weights, b, &setup);
    for (size_t i = 0; i < RIG_PARAMS && !fault; i++) {
        area *master = weights.params[i].master;
        for (uint64_t e = 0; e < weights.params[i].param.numel; e++)
            number_write(master->data, setup.master, e,
                         number_read(master->data, setup.master, e) + 0.5);
    }
    rig *const all[] = {&base, &grads, &weights};
    for (int k = 0; k < 3 && !fault; k++)
        fault = rig_steps(all[k], STEPS, &whole);
    if (!fault && base.params[0].hyper.lr != 0 && same_weights(&base, &grads))
        fault = fault_format("other gradients lead to the same weights");
    if (!fault && same_weights(&base, &weights))
        fault = fault_format("other weights to start from lead to the same weights: it writes "
                             "weights without reading them");
    for (int k = 0; k < 3; k++)
        rig_close(all[k]);
    return fault;
}

/* === nothing else === */

/* Two processes whose memory holds other things at other addresses. */
static char *repeated(bench *b, const rig_setup *setup)
{
    rig_setup zeros = *setup, ones = *setup;
    rig one = {0}, two = {0};
    zeros.memory = RIG_ZEROS;
    ones.memory = RIG_ONES;
    twin *first = twin_run(b, &zeros, STEPS), *second = twin_run(b, &ones, STEPS);
    char *fault = twin_load(first, &one, b);
    if (!fault)
        fault = twin_load(second, &two, b);
    if (!fault)
        fault = bench_within(rig_compare(&one, &two, 0),
                             "the same steps in another process, where memory that was not written "
                             "yet holds other bytes and arrays have other addresses");
    rig_close(&two);
    rig_close(&one);
    twin_free(second);
    twin_free(first);
    return fault;
}

/* With the first of its types, so that those are not to blame. */
char *optim_repeats(bench *b)
{
    return rig_each_option(b, repeated);
}

enum { MOST_VARIANTS = 64 };

/* Options one at a time, each as in a process of its own before this one has made an instance. */
typedef struct others {
    size_t count;
    cJSON *values[MOST_VARIANTS];
    char *labels[MOST_VARIANTS];
    twin *twins[MOST_VARIANTS];
} others;

static void run_twins(bench *b, others *o)
{
    rig_setup setup;
    rig_types(b, 0, &setup);
    for (size_t i = 0; o->count < MOST_VARIANTS; i++) {
        const size_t n = o->count;
        o->values[n] = values_variant(b->plugin, i, &o->labels[n]);
        if (!o->values[n])
            return;
        setup.values = o->values[n];
        o->twins[n] = twin_run(b, &setup, STEPS);
        if (twin_refused(o->twins[n])) {
            twin_free(o->twins[n]);
            cJSON_Delete(o->values[n]);
            free(o->labels[n]);
            o->labels[n] = NULL;
        } else {
            o->count++;
        }
    }
}

/* The n-th beside the one after it, in this process, where many have been. */
static char *compare_twin(bench *b, const others *o, size_t n)
{
    rig_setup setup, beside;
    rig alone = {0}, first = {0}, second = {0};
    rig_types(b, 0, &setup);
    beside = setup;
    setup.values = o->values[n];
    beside.values = o->values[(n + 1) % o->count];
    char *fault = rig_open(&first, b, &setup);
    if (!fault)
        fault = rig_open(&second, b, &beside);
    for (int i = 0; i < STEPS && !fault; i++) {
        fault = rig_steps(&first, 1, &whole);
        second.step = first.step + 10; /* other gradients */
        if (!fault)
            fault = rig_steps(&second, 1, &whole);
    }
    if (!fault)
        fault = twin_load(o->twins[n], &alone, b);
    if (!fault)
        fault = bench_within(rig_compare(&alone, &first, 0),
                             "after and beside other instances it computes something else than "
                             "alone");
    rig_close(&alone);
    rig_close(&second);
    rig_close(&first);
    return bench_within(fault, "with %s", o->labels[n] ? o->labels[n] : "?");
}

/* With the first of its types, so that those are not to blame. */
char *optim_instances(bench *b)
{
    others o = {0};
    char *fault = NULL;
    run_twins(b, &o);
    for (size_t n = 0; n < o.count && !fault; n++)
        fault = compare_twin(b, &o, n);
    for (size_t n = 0; n < o.count; n++) {
        twin_free(o.twins[n]);
        cJSON_Delete(o.values[n]);
        free(o.labels[n]);
    }
    return fault;
}

/* Pointers are valid until a call returns, but for a few. */
static char *moved(bench *b, const rig_setup *setup)
{
    rig_setup still = *setup, moving = *setup;
    rig base = {0}, other = {0};
    still.memory = RIG_ZEROS;
    moving.memory = RIG_ONES;
    moving.moving = true;
    char *fault = rig_open(&base, b, &still);
    if (!fault)
        fault = rig_steps(&base, STEPS, &whole);
    if (!fault)
        fault = rig_open(&other, b, &moving);
    if (!fault)
        fault = rig_steps(&other, STEPS, &whole);
    if (!fault)
        fault = bench_within(rig_compare(&base, &other, 0),
                             "when arrays move between steps and scratch holds other bytes");
    rig_close(&other);
    rig_close(&base);
    return fault;
}

char *optim_keeps_nothing(bench *b)
{
    return rig_each_once(b, moved);
}

/* === hyperparameters === */

/* Another value for the option of that name; NULL: it has none or it is of no use. */
static cJSON *other_value(const zds_plugin *plugin, const char *name, const zds_hyper *h)
{
    const zds_option *option = options_find(plugin, name);
    if (!option || option->flags & ZDS_OPTION_NO_EFFECT)
        return NULL;
    if (strcmp(name, "betas") == 0) {
        const double betas[] = {h->beta1 * 0.875, h->beta2 * 0.875};
        return cJSON_CreateDoubleArray(betas, 2);
    }
    return cJSON_CreateNumber(strcmp(name, "lr") == 0         ? (h->lr != 0 ? h->lr / 2 : 1e-3)
                              : strcmp(name, "momentum") == 0 ? h->momentum * 0.875
                                                              : h->weight_decay + 0.125);
}

/* Weights after steps with the options of `setup`. `source`, if not NULL: with the hyperparameters
 * and the states to start from of that rig, which has made no step. False: that rig differs in
 * more. */
static bool take_hyper(rig *r, const rig *source)
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        if (!rig_same_kinds(&r->params[i].needs, &source->params[i].needs))
            return false;
        r->params[i].hyper = source->params[i].hyper;
    }
    rig_copy_states(r, source, false);
    return true;
}

/* Options that say so from the start, against tiles that say so: as a schedule does. */
static char *follow(bench *b, const rig_setup *setup, const char *name, const cJSON *values)
{
    rig_setup with = *setup;
    rig by_option = {0}, by_tile = {0}, before = {0};
    with.values = values;
    char *fault = rig_open(&by_option, b, &with);
    if (!fault)
        fault = rig_open(&by_tile, b, setup);
    if (!fault)
        fault = rig_open(&before, b, setup);
    bool alike = !fault && take_hyper(&by_tile, &by_option);
    rig *const all[] = {&by_option, &by_tile, &before};
    for (int k = 0; k < 3 && alike && !fault; k++)
        fault = rig_steps(all[k], STEPS, &whole);
    if (!fault && alike)
        fault = bench_within(rig_compare(&by_option, &by_tile, 0),
                             "%s in tile->hyper does not do what the option %s does, so that "
                             "schedules and groups do not reach it",
                             name, name);
    if (!fault && alike && !b->note && strcmp(name, "lr") == 0 && same_weights(&before, &by_tile))
        b->note = fault_format("%s changes nothing with %s: schedules do not reach it", name,
                               rig_types_text(setup));
    for (int k = 0; k < 3; k++)
        rig_close(all[k]);
    return fault;
}

static char *follow_name(bench *b, const rig_setup *setup, const char *name)
{
    char *fault = NULL;
    void *options = values_options(b->plugin, setup->values, &fault);
    if (!options)
        return fault;
    const zds_hyper h = options_hyper(b->plugin, options);
    options_destroy(options);
    cJSON *value = other_value(b->plugin, name, &h);
    cJSON *values = value ? cJSON_Duplicate(setup->values, true) : NULL;
    if (value) {
        cJSON_DeleteItemFromObjectCaseSensitive(values, name);
        cJSON_AddItemToObject(values, name, value);
    }
    rig_setup with = *setup;
    with.values = values;
    if (value && options_check(b->plugin, values, NULL, NULL) == 0 && rig_accepts(b, &with))
        fault = follow(b, setup, name, values);
    cJSON_Delete(values);
    return fault;
}

char *optim_follows_hyper(bench *b)
{
    static const char *const names[] = {"lr", "betas", "momentum", "weight_decay"};
    rig_setup setup;
    char *fault = NULL;
    for (size_t t = 0; !fault && setup_of(b, t, &setup); t++)
        for (size_t n = 0; !fault && n < sizeof names / sizeof *names; n++)
            if (rig_accepts(b, &setup))
                fault =
                    bench_within(follow_name(b, &setup, names[n]), "%s", rig_types_text(&setup));
    return fault;
}

/* === ranks === */

enum { WORLD = 3, MODES = 8 };

static char *compare_ranks(const rig *base, const rig *other)
{
    for (size_t i = 0; i < RIG_PARAMS; i++) {
        const rig_param *p = &base->params[i], *q = &other->params[i];
        if (!rig_same_needs(&p->needs, &q->needs) || !rig_same_hyper(&p->hyper, &q->hyper))
            return fault_format("describe says something else of %s on rank %d than on rank 0",
                                p->param.name, other->setup.rank);
    }
    for (int64_t step = 1; base->ops.reduction_mode && step <= MODES; step++)
        if (base->ops.reduction_mode(base->self, step) !=
            other->ops.reduction_mode(other->self, step))
            return fault_format("reduction_mode says something else of step %lld on rank %d than "
                                "on rank 0",
                                (long long)step, other->setup.rank);
    return NULL;
}

/* Steps of its own reduction need peers. */
static bool reduces_itself(const rig *r)
{
    for (int64_t step = 1; r->ops.reduction_mode && step <= STEPS; step++)
        if (r->ops.reduction_mode(r->self, step) != ZDS_REDUCE_MEAN)
            return true;
    return false;
}

static char *on_ranks(bench *b, const rig_setup *setup)
{
    rig ranks[WORLD] = {0};
    rig_setup of_rank = *setup;
    char *fault = NULL;
    of_rank.world = WORLD;
    for (int r = 0; r < WORLD && !fault; r++) {
        of_rank.rank = r;
        if (r == 0 && !rig_accepts(b, &of_rank))
            return NULL; /* it may be for one rank alone, or for weights that all ranks have */
        fault = rig_open(&ranks[r], b, &of_rank);
        if (!fault && r > 0)
            fault = compare_ranks(&ranks[0], &ranks[r]);
    }
    const bool steps = !fault && !reduces_itself(&ranks[0]);
    for (int r = 0; r < WORLD && steps && !fault; r++) {
        fault = rig_steps(&ranks[r], STEPS, &whole);
        if (!fault && r > 0)
            fault = bench_within(rig_compare(&ranks[0], &ranks[r], 0),
                                 "rank %d computes something else than rank 0", r);
    }
    for (int r = 0; r < WORLD; r++)
        rig_close(&ranks[r]);
    return fault;
}

char *optim_ranks(bench *b)
{
    return rig_each_once(b, on_ranks);
}

/* What the optimizer needs for each parameter, and the groups of hyperparameters that the schedule
 * moves. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chosen.h"
#include "host/error.h"
#include "plugin/fault.h"
#include "plugin/needs.h"

/* What groups are made from. Groups are numbered: zds.param_groups, then the program's. */
typedef struct grouping {
    const zds_engine_options *options;
    bool program; /* the program's groups hold */
    chosen chosen;
    zds_hyper base;    /* of the optimizer's options */
    uint32_t *number;  /* [params] */
    zds_hyper *hypers; /* [params], of those that are trained */
} grouping;

/* The parameter's group, and what that and the program's say of its hyperparameters. */
static zds_status find_group(const zds_engine *e, grouping *g, uint32_t i, uint32_t *sets,
                             zds_error *error)
{
    const model_param *p = &e->model->params[i];
    const zds_engine_options *o = g->options;
    zds_hyper *h = &g->hypers[i];
    uint32_t taken = g->chosen.of[i];
    bool by_name = taken < g->chosen.count;
    g->number[i] = by_name ? taken : (uint32_t)g->chosen.count + (g->program ? p->group : 0);
    *h = g->base;
    if (g->program && p->group >= o->group_count)
        return error_set(error, ZDS_ERR_INVALID,
                         "parameter %s is in group %u, but there are %zu groups", p->name, p->group,
                         o->group_count);
    if (g->program) {
        const char *at = (const char *)o->groups + p->group * o->group_stride;
        *sets |= chosen_override(h, &((const zds_group_desc *)(const void *)at)->hyper);
    }
    if (by_name)
        *sets |= chosen_override(h, &g->chosen.groups[taken].hyper);
    return ZDS_OK;
}

static bool same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* Parameters with equal hyperparameters from one group share an entry; the table never moves, tiles
 * point into it. `first`: the entries before it are other groups'. */
static uint32_t entry(zds_engine *e, uint32_t first, const zds_hyper *h)
{
    for (uint32_t i = first; i < e->hyper_count; i++) {
        const zds_hyper *b = &e->base_hypers[i];
        if (same(b->lr, h->lr) && same(b->beta1, h->beta1) && same(b->beta2, h->beta2) &&
            same(b->beta3, h->beta3) && same(b->momentum, h->momentum) &&
            same(b->weight_decay, h->weight_decay))
            return i;
    }
    e->declared[e->hyper_count] = e->declared_count;
    e->base_hypers[e->hyper_count] = *h;
    return e->hyper_count++;
}

typedef struct seat {
    uint32_t number, param; /* of its group, and its own */
    bool leads;
} seat;

static int by_place(const void *a, const void *b)
{
    const seat *x = a, *y = b;
    if (x->number != y->number)
        return x->number < y->number ? -1 : 1;
    if (x->leads != y->leads)
        return x->leads ? -1 : 1;
    return x->param < y->param ? -1 : 1;
}

/* Entries in the order of the groups' numbers, in a group those that lead first; groups without a
 * trained parameter have none. */
static zds_status number_entries(zds_engine *e, const grouping *g, zds_error *error)
{
    uint32_t trained = 0, first = 0;
    seat *seats = malloc((e->model->param_count + (size_t)1) * sizeof *seats);
    if (!seats)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for %u parameters",
                         e->model->param_count);
    for (uint32_t i = 0; i < e->model->param_count; i++)
        if (e->params[i].trainable)
            seats[trained++] = (seat){g->number[i], i, e->params[i].needs.leads != 0};
    qsort(seats, trained, sizeof *seats, by_place);
    for (uint32_t k = 0; k < trained; k++) {
        uint32_t i = seats[k].param;
        if (k && seats[k].number != seats[k - 1].number) {
            first = e->hyper_count;
            e->declared_count++;
        }
        uint32_t hyper = entry(e, first, &g->hypers[i]);
        e->params[i].hyper = hyper;
        e->group_sizes[hyper].params++;
        e->group_sizes[hyper].elements += e->model->params[i].numel;
    }
    if (!trained) /* the schedule still has a rate to tell */
        entry(e, 0, &g->base);
    e->declared_count++;
    free(seats);
    return ZDS_OK;
}

static zds_status refuse(const zds_engine *e, const char *name, const char *what, zds_error *error)
{
    return error_set(error, ZDS_ERR_UNSUPPORTED, "optimizer %s, parameter %s: %s",
                     e->optim_plugin->name, name, what);
}

/* `before`, `after`: the hyperparameters around describe. */
static zds_status check_needs(const zds_engine *e, const char *name, const zds_param_needs *n,
                              const zds_hyper *before, const zds_hyper *after, zds_error *error)
{
    char *fault = needs_fault(&e->optim, n);
    if (!fault)
        fault = needs_hyper_fault(before, after);
    if (fault) {
        error_set(error, ZDS_ERR_PLUGIN, "optimizer %s, parameter %s: %s", e->optim_plugin->name,
                  name, fault);
        fault_free(fault);
        return ZDS_ERR_PLUGIN;
    }
    bool own = false;
    for (uint32_t s = 0; s < n->state_count; s++)
        own |= n->states[s].kind == ZDS_STATE_ELEMENT && n->states[s].scope == ZDS_SCOPE_RANK_LOCAL;
    if (e->optim.reduction_mode && e->set.stage >= 1 && !own)
        return refuse(e, name,
                      "it reduces gradients by itself, but keeps no element state in scope "
                      "RANK_LOCAL: at stage 1 its momentum must be each rank's own",
                      error);
    return ZDS_OK;
}

static global_state *find_global(const zds_engine *e, const char *name)
{
    for (uint32_t i = 0; i < e->global_count; i++)
        if (strcmp(e->globals[i].name, name) == 0)
            return &e->globals[i];
    return NULL;
}

static zds_status add_global(zds_engine *e, const global_state *global, zds_error *error)
{
    global_state *grown = realloc(e->globals, (e->global_count + (size_t)1) * sizeof *grown);
    if (!grown)
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the optimizer's global states");
    e->globals = grown;
    e->globals[e->global_count++] = *global;
    return ZDS_OK;
}

/* A GLOBAL state has the same bytes, whichever parameter describes it. */
static zds_status list_globals(zds_engine *e, uint32_t i, zds_error *error)
{
    const zero_param *param = &e->params[i];
    zds_status status = ZDS_OK;
    for (uint32_t s = 0; !status && s < param->needs.state_count; s++) {
        const zds_state_spec *spec = &param->needs.states[s];
        const char *name = param->state_names[s];
        if (spec->kind != ZDS_STATE_GLOBAL)
            continue;
        const global_state *known = find_global(e, name);
        if (!known)
            status = add_global(e, &(global_state){name, spec->bytes, i}, error);
        else if (known->bytes != spec->bytes)
            status = error_set(error, ZDS_ERR_PLUGIN,
                               "optimizer %s, parameter %s: its global state \"%s\" has %llu bytes "
                               "here and %llu with parameter %s",
                               e->optim_plugin->name, e->model->params[i].name, name,
                               (unsigned long long)spec->bytes, (unsigned long long)known->bytes,
                               e->model->params[known->param].name);
    }
    return status;
}

/* What the optimizer has against a parameter, at what its group says, or its options. */
static zds_status refuse_param(zds_engine *e, const grouping *g, uint32_t i, zds_status status,
                               zds_error *error)
{
    const char *why = services_error(&e->optim_services), *name = e->optim_plugin->name;
    char section[64] = "optimizer.params";
    if (g->chosen.of[i] < g->chosen.count)
        snprintf(section, sizeof section, "zds.param_groups.%u", g->chosen.of[i]);
    if (e->sample) /* whose name says nothing */
        return engine_refuse_in(e, status, section, why, error, "optimizer %s: %s", name, why);
    return engine_refuse_in(e, status, section, why, error, "optimizer %s refuses parameter %s: %s",
                            name, e->model->params[i].name, why);
}

/* fp32 in a run of 16 bits: the parameter is its own master. */
static zds_status check_fp32(zds_engine *e, const model_param *p, zds_error *error)
{
    const zds_optim_ops *ops = &e->optim;
    if (!p->fp32 || p->frozen || e->set.param_dtype == ZDS_F32)
        return ZDS_OK;
    if (e->set.master_dtype != ZDS_F32)
        return error_set(error, ZDS_ERR_UNSUPPORTED,
                         "parameter %s is fp32 (zds_param_desc.fp32), but the config keeps master "
                         "weights in 16 bits: set %s.%s_master_weights_and_grads to false",
                         p->name, e->set.param_dtype == ZDS_F16 ? "fp16" : "bf16",
                         e->set.param_dtype == ZDS_F16 ? "fp16" : "bf16");
    return ops->grad_dtypes & ZDS_DTYPE_BIT(ZDS_F32)
               ? ZDS_OK
               : error_set(error, ZDS_ERR_UNSUPPORTED,
                           "parameter %s is fp32 (zds_param_desc.fp32), and optimizer %s takes no "
                           "fp32 gradients",
                           p->name, e->optim_plugin->name);
}

static zds_status describe(zds_engine *e, grouping *g, uint32_t i, zds_error *error)
{
    const model_param *p = &e->model->params[i];
    zero_param *known = &e->params[i];
    uint32_t sets = 0;
    zds_status status = find_group(e, g, i, &sets, error);
    known->trainable = !p->frozen;
    known->desc = (zds_param){.struct_size = sizeof known->desc,
                              .index = i,
                              .role = p->role,
                              .name = p->name,
                              .ndim = p->ndim,
                              .group = g->number[i],
                              .shape = p->shape,
                              .numel = p->numel,
                              .width_mult = p->width_mult,
                              .fan_out_mult = p->fan_out_mult,
                              .group_sets = sets};
    if (!status)
        status = check_fp32(e, p, error);
    if (status || p->frozen)
        return status;
    known->needs = (zds_param_needs){.struct_size = sizeof known->needs,
                                     .states = known->states,
                                     .state_stride = sizeof *known->states,
                                     .hyper = &g->hypers[i]};
    zds_hyper before = g->hypers[i];
    services_clear(&e->optim_services);
    status = e->optim.describe(e->optim_self, &known->desc, &known->needs);
    bool moved =
        known->needs.states != known->states || known->needs.state_stride != sizeof *known->states;
    known->needs.states = known->states;
    known->needs.hyper = NULL;
    if (status)
        return refuse_param(e, g, i, status, error);
    if (moved)
        return error_set(error, ZDS_ERR_PLUGIN,
                         "optimizer %s, parameter %s: its describe changes states or state_stride "
                         "of the zds_param_needs, which are the host's; add states by "
                         "zds_add_state",
                         e->optim_plugin->name, p->name);
    status = check_needs(e, p->name, &known->needs, &before, &g->hypers[i], error);
    for (uint32_t s = 0; !status && s < known->needs.state_count; s++) {
        known->state_names[s] = strdup(known->needs.states[s].name);
        if (!known->state_names[s])
            status = error_set(error, ZDS_ERR_MEMORY, "no memory for the names of states");
    }
    return status ? status : list_globals(e, i, error);
}

zds_status groups_create(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    size_t room = e->model->param_count + (size_t)1;
    grouping g = {.options = o,
                  .program = o->groups &&
                             (o->keep_groups || !zds_config_string(e->config, "optimizer.type")),
                  .base = options_hyper(e->optim_plugin, e->optim_options),
                  .number = calloc(room, sizeof *g.number),
                  .hypers = calloc(room, sizeof *g.hypers)};
    e->params = calloc(room, sizeof *e->params);
    e->base_hypers = calloc(room, sizeof *e->base_hypers);
    e->hypers = calloc(room, sizeof *e->hypers);
    e->declared = calloc(room, sizeof *e->declared);
    e->group_sizes = calloc(room, sizeof *e->group_sizes);
    e->sched_values = calloc(room, sizeof *e->sched_values);
    zds_status status = ZDS_OK;
    if (!e->params || !e->base_hypers || !e->hypers || !e->declared || !e->group_sizes ||
        !e->sched_values || !g.number || !g.hypers)
        status =
            error_set(error, ZDS_ERR_MEMORY, "no memory for %u parameters", e->model->param_count);
    if (!status)
        status = chosen_create(e, &g.chosen, error);
    for (uint32_t i = 0; !status && i < e->model->param_count; i++)
        status = describe(e, &g, i, error);
    if (!status)
        status = number_entries(e, &g, error);
    chosen_destroy(&g.chosen);
    free(g.number);
    free(g.hypers);
    return status;
}

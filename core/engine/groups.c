/* What the optimizer needs for each parameter, and the groups of hyperparameters that the schedule
 * moves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chosen.h"
#include "host/error.h"
#include "plugin/fault.h"
#include "plugin/needs.h"

static void override(double *value, double with)
{
    if (!isnan(with))
        *value = with;
}

static void override_all(zds_hyper *h, const zds_hyper *with)
{
    override(&h->lr, with->lr);
    override(&h->beta1, with->beta1);
    override(&h->beta2, with->beta2);
    override(&h->momentum, with->momentum);
    override(&h->weight_decay, with->weight_decay);
}

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
static zds_status find_group(const zds_engine *e, grouping *g, uint32_t i, zds_error *error)
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
        override_all(h, &((const zds_group_desc *)(const void *)at)->hyper);
    }
    if (by_name)
        override_all(h, &g->chosen.groups[taken].hyper);
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
            same(b->momentum, h->momentum) && same(b->weight_decay, h->weight_decay))
            return i;
    }
    e->declared[e->hyper_count] = e->declared_count;
    e->base_hypers[e->hyper_count] = *h;
    return e->hyper_count++;
}

/* Entries in the order of the groups' numbers, in a group those that lead first; groups without a
 * trained parameter have none. */
static void number_entries(zds_engine *e, const grouping *g)
{
    uint32_t placed = 0, trained = 0;
    for (uint32_t i = 0; i < e->model->param_count; i++)
        trained += e->param_runs[i].trainable;
    for (uint32_t number = 0; placed < trained; number++) {
        uint32_t first = e->hyper_count;
        for (uint32_t k = 0; k < 2 * e->model->param_count; k++) {
            uint32_t i = k % e->model->param_count;
            bool now = (e->param_runs[i].needs.leads != 0) == (k < e->model->param_count);
            if (!now || !e->param_runs[i].trainable || g->number[i] != number)
                continue;
            e->param_runs[i].hyper = entry(e, first, &g->hypers[i]);
            placed++;
        }
        e->declared_count += e->hyper_count > first;
    }
    if (!trained) { /* the schedule still has a rate to tell */
        entry(e, 0, &g->base);
        e->declared_count = 1;
    }
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

/* The earlier parameter that describes the same GLOBAL state, and its bytes. */
static bool global_before(const zds_engine *e, uint32_t i, const char *name, uint32_t *param,
                          uint64_t *bytes)
{
    for (uint32_t j = 0; j < i; j++)
        for (uint32_t t = 0; t < e->param_runs[j].needs.state_count; t++)
            if (e->param_runs[j].needs.states[t].kind == ZDS_STATE_GLOBAL &&
                strcmp(e->param_runs[j].state_names[t], name) == 0) {
                *param = j;
                *bytes = e->param_runs[j].needs.states[t].bytes;
                return true;
            }
    return false;
}

/* A GLOBAL state is one, whichever parameter describes it. */
static zds_status check_globals(const zds_engine *e, uint32_t i, zds_error *error)
{
    const param_run *run = &e->param_runs[i];
    for (uint32_t s = 0; s < run->needs.state_count; s++) {
        uint32_t other;
        uint64_t bytes, here = run->needs.states[s].bytes;
        if (run->needs.states[s].kind == ZDS_STATE_GLOBAL &&
            global_before(e, i, run->state_names[s], &other, &bytes) && bytes != here)
            return error_set(error, ZDS_ERR_PLUGIN,
                             "optimizer %s, parameter %s: its global state \"%s\" has %llu bytes "
                             "here and %llu with parameter %s",
                             e->optim_plugin->name, e->model->params[i].name, run->state_names[s],
                             (unsigned long long)here, (unsigned long long)bytes,
                             e->model->params[other].name);
    }
    return ZDS_OK;
}

static zds_status describe(zds_engine *e, grouping *g, uint32_t i, zds_error *error)
{
    const model_param *p = &e->model->params[i];
    param_run *run = &e->param_runs[i];
    zds_status status = find_group(e, g, i, error);
    run->trainable = !p->frozen;
    run->desc = (zds_param){.struct_size = sizeof run->desc,
                            .index = i,
                            .role = p->role,
                            .name = p->name,
                            .ndim = p->ndim,
                            .group = g->number[i],
                            .shape = p->shape,
                            .numel = p->numel,
                            .width_mult = p->width_mult,
                            .fan_out_mult = p->fan_out_mult};
    if (status || p->frozen)
        return status;
    run->needs = (zds_param_needs){.struct_size = sizeof run->needs, .hyper = &g->hypers[i]};
    zds_hyper before = g->hypers[i];
    services_clear(&e->optim_services);
    status = e->optim.describe(e->optim_self, &run->desc, &run->needs);
    run->needs.hyper = NULL;
    if (status)
        return error_set(error, status, "optimizer %s refuses parameter %s: %s",
                         e->optim_plugin->name, p->name, services_error(&e->optim_services));
    status = check_needs(e, p->name, &run->needs, &before, &g->hypers[i], error);
    for (uint32_t s = 0; !status && s < run->needs.state_count; s++) {
        run->state_names[s] = strdup(run->needs.states[s].name);
        if (!run->state_names[s])
            status = error_set(error, ZDS_ERR_MEMORY, "no memory for the names of states");
    }
    return status ? status : check_globals(e, i, error);
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
    e->param_runs = calloc(room, sizeof *e->param_runs);
    e->base_hypers = calloc(room, sizeof *e->base_hypers);
    e->hypers = calloc(room, sizeof *e->hypers);
    e->declared = calloc(room, sizeof *e->declared);
    e->sched_values = calloc(room, sizeof *e->sched_values);
    zds_status status = ZDS_OK;
    if (!e->param_runs || !e->base_hypers || !e->hypers || !e->declared || !e->sched_values ||
        !g.number || !g.hypers)
        status =
            error_set(error, ZDS_ERR_MEMORY, "no memory for %u parameters", e->model->param_count);
    if (!status)
        status = chosen_create(e, &g.chosen, error);
    for (uint32_t i = 0; !status && i < e->model->param_count; i++)
        status = describe(e, &g, i, error);
    if (!status)
        number_entries(e, &g);
    chosen_destroy(&g.chosen);
    free(g.number);
    free(g.hypers);
    return status;
}

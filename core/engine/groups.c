/* What the optimizer needs for each parameter, and the groups of hyperparameters that the schedule
 * moves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"
#include "plugin/fault.h"
#include "plugin/needs.h"

static void override(double *value, double with)
{
    if (!isnan(with))
        *value = with;
}

/* The group as the program declared it, or the config's only one. */
static zds_status group_hyper(const zds_engine *e, const zds_engine_options *o, uint32_t param,
                              zds_hyper *h, zds_error *error)
{
    const model_param *p = &e->model->params[param];
    if (!o->groups || zds_config_string(e->config, "optimizer.type"))
        return ZDS_OK;
    if (p->group >= o->group_count)
        return error_set(error, ZDS_ERR_INVALID,
                         "parameter %s is in group %u, but there are %zu groups", p->name, p->group,
                         o->group_count);
    const zds_group_desc *g = (const void *)((const char *)o->groups + p->group * o->group_stride);
    override(&h->lr, g->hyper.lr);
    override(&h->beta1, g->hyper.beta1);
    override(&h->beta2, g->hyper.beta2);
    override(&h->momentum, g->hyper.momentum);
    override(&h->weight_decay, g->hyper.weight_decay);
    return ZDS_OK;
}

static bool same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* Parameters with equal hyperparameters from one group share an entry; the table never moves, tiles
 * point into it. */
static uint32_t entry(zds_engine *e, uint32_t *group_of, uint32_t group, const zds_hyper *h)
{
    for (uint32_t i = 0; i < e->hyper_count; i++) {
        const zds_hyper *b = &e->base_hypers[i];
        if (group_of[i] == group && same(b->lr, h->lr) && same(b->beta1, h->beta1) &&
            same(b->beta2, h->beta2) && same(b->momentum, h->momentum) &&
            same(b->weight_decay, h->weight_decay))
            return i;
    }
    group_of[e->hyper_count] = group;
    e->base_hypers[e->hyper_count] = *h;
    return e->hyper_count++;
}

static zds_status refuse(const zds_engine *e, const char *name, const char *what, zds_error *error)
{
    return error_set(error, ZDS_ERR_UNSUPPORTED, "optimizer %s, parameter %s: %s",
                     e->optim_plugin->name, name, what);
}

static zds_status check_needs(const zds_engine *e, const char *name, const zds_param_needs *n,
                              zds_error *error)
{
    char *fault = needs_fault(&e->optim, n);
    if (fault) {
        error_set(error, ZDS_ERR_PLUGIN, "optimizer %s, parameter %s: %s", e->optim_plugin->name,
                  name, fault);
        fault_free(fault);
        return ZDS_ERR_PLUGIN;
    }
    if (n->whole_tensor)
        return refuse(e, name,
                      "it needs whole tensors, which this version of the engine does not give",
                      error);
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

static zds_status describe(zds_engine *e, const zds_engine_options *o, uint32_t i,
                           const zds_hyper *base, uint32_t *group_of, zds_error *error)
{
    const model_param *p = &e->model->params[i];
    param_run *run = &e->param_runs[i];
    run->trainable = !p->frozen;
    run->desc = (zds_param){.struct_size = sizeof run->desc,
                            .index = i,
                            .role = p->role,
                            .name = p->name,
                            .ndim = p->ndim,
                            .group = p->group,
                            .shape = p->shape,
                            .numel = p->numel,
                            .width_mult = p->width_mult};
    if (p->frozen)
        return ZDS_OK;
    zds_hyper h = *base;
    zds_status status = group_hyper(e, o, i, &h, error);
    if (status)
        return status;
    run->needs = (zds_param_needs){.struct_size = sizeof run->needs, .hyper = &h};
    services_clear(&e->optim_services);
    status = e->optim.describe(e->optim_self, &run->desc, &run->needs);
    run->needs.hyper = NULL;
    if (status)
        return error_set(error, status, "optimizer %s refuses parameter %s: %s",
                         e->optim_plugin->name, p->name, services_error(&e->optim_services));
    status = check_needs(e, p->name, &run->needs, error);
    for (uint32_t s = 0; !status && s < run->needs.state_count; s++) {
        run->state_names[s] = strdup(run->needs.states[s].name);
        if (!run->state_names[s])
            status = error_set(error, ZDS_ERR_MEMORY, "no memory for the names of states");
    }
    run->hyper = entry(e, group_of, p->group, &h);
    return status;
}

zds_status groups_create(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    size_t room = e->model->param_count + (size_t)1;
    e->param_runs = calloc(room, sizeof *e->param_runs);
    e->base_hypers = calloc(room, sizeof *e->base_hypers);
    e->hypers = calloc(room, sizeof *e->hypers);
    e->sched_values = calloc(room, sizeof *e->sched_values);
    uint32_t *group_of = calloc(room, sizeof *group_of);
    zds_status status = ZDS_OK;
    if (!e->param_runs || !e->base_hypers || !e->hypers || !e->sched_values || !group_of)
        status =
            error_set(error, ZDS_ERR_MEMORY, "no memory for %u parameters", e->model->param_count);
    zds_hyper base = status ? (zds_hyper){0} : options_hyper(e->optim_plugin, e->optim_options);
    for (uint32_t i = 0; !status && i < e->model->param_count; i++)
        status = describe(e, o, i, &base, group_of, error);
    if (!status && !e->hyper_count) /* nothing to train: the schedule still has a rate to tell */
        e->base_hypers[e->hyper_count++] = base;
    free(group_of);
    return status;
}

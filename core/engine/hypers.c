/* The hyperparameters of a step: the groups' own, moved by the schedule, which may follow a metric.
 */
#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"
#include "host/sized.h"

/* What the schedule says after `moves` moves, into e->sched_values. */
static zds_status ask_schedule(zds_engine *e, int64_t moves)
{
    memset(e->sched_values, 0, e->hyper_count * sizeof *e->sched_values);
    for (uint32_t g = 0; g < e->hyper_count; g++)
        e->sched_values[g].struct_size = sizeof *e->sched_values;
    services_clear(&e->sched_services);
    zds_status status = e->sched.at(e->sched_self, moves, e->sched_values, sizeof *e->sched_values);
    if (status)
        return engine_fail(e, status, "the scheduler failed at move %lld: %s", (long long)moves,
                           services_error(&e->sched_services));
    return ZDS_OK;
}

/* What the schedule sets that is no number where the optimizer has one, as text that the caller
 * frees; NULL: nothing. Both: [count], by group. */
static char *schedule_fault(const zds_sched_value *values, const zds_hyper *base, size_t count)
{
    for (size_t g = 0; g < count; g++) {
        const zds_hyper *is = &values[g].hyper, *was = &base[g];
        const struct {
            uint64_t bit;
            const char *name;
            double is, was;
        } fields[] = {
            {ZDS_SCHED_LR, "lr", is->lr, was->lr},
            {ZDS_SCHED_BETA1, "beta1", is->beta1, was->beta1},
            {ZDS_SCHED_BETA2, "beta2", is->beta2, was->beta2},
            {ZDS_SCHED_MOMENTUM, "momentum", is->momentum, was->momentum},
            {ZDS_SCHED_WEIGHT_DECAY, "weight_decay", is->weight_decay, was->weight_decay},
            {ZDS_SCHED_BETA3, "beta3", is->beta3, was->beta3},
        };
        for (size_t f = 0; f < sizeof fields / sizeof *fields; f++)
            if (values[g].mask & fields[f].bit && !isfinite(fields[f].is) &&
                isfinite(fields[f].was))
                return text_format("it sets %s of group %zu to %g, which would spoil the weights",
                                   fields[f].name, g, fields[f].is);
    }
    return NULL;
}

zds_status update_hypers(zds_engine *e, int64_t moves)
{
    memcpy(e->hypers, e->base_hypers, e->hyper_count * sizeof *e->hypers);
    if (!e->has_sched)
        return ZDS_OK;
    zds_status status = ask_schedule(e, moves);
    char *fault = status ? NULL : schedule_fault(e->sched_values, e->base_hypers, e->hyper_count);
    if (fault)
        status = engine_fail(e, ZDS_ERR_PLUGIN, "the scheduler failed at move %lld: %s",
                             (long long)moves, fault);
    free(fault);
    for (uint32_t g = 0; !status && g < e->hyper_count; g++) {
        const zds_sched_value *v = &e->sched_values[g];
        zds_hyper *h = &e->hypers[g];
        h->lr = v->mask & ZDS_SCHED_LR ? v->hyper.lr : h->lr;
        h->beta1 = v->mask & ZDS_SCHED_BETA1 ? v->hyper.beta1 : h->beta1;
        h->beta2 = v->mask & ZDS_SCHED_BETA2 ? v->hyper.beta2 : h->beta2;
        h->beta3 = v->mask & ZDS_SCHED_BETA3 ? v->hyper.beta3 : h->beta3;
        h->momentum = v->mask & ZDS_SCHED_MOMENTUM ? v->hyper.momentum : h->momentum;
        h->weight_decay =
            v->mask & ZDS_SCHED_WEIGHT_DECAY ? v->hyper.weight_decay : h->weight_decay;
    }
    return status;
}

double first_rate(const zds_engine *e)
{
    const zero_param *first = NULL;
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        const zero_param *known = &e->params[i];
        if (known->trainable && (!first || (known->needs.leads && !first->needs.leads)))
            first = known;
    }
    return e->hypers[first ? first->hyper : 0].lr;
}

/* === rates that would change nothing === */

/* The first of zds.param_groups with a rate of its own, or -1. */
static int64_t group_with_rate(const zds_engine *e)
{
    const cJSON *group;
    int64_t i = 0;
    cJSON_ArrayForEach(group, config_node(e->config, "zds.param_groups"))
    {
        if (cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(group, "lr")))
            return i;
        i++;
    }
    return -1;
}

/* True if the schedule gives groups with different rates the same one, wherever it is asked. */
static zds_status is_flat(zds_engine *e, bool *flat)
{
    static const int64_t moves[] = {0, 1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000, 10000, 100000};
    zds_status status = ZDS_OK;
    *flat = false;
    for (uint32_t g = 1; g < e->hyper_count; g++)
        *flat |= e->base_hypers[g].lr != e->base_hypers[0].lr;
    for (size_t i = 0; *flat && !status && i < sizeof moves / sizeof *moves; i++) {
        status = ask_schedule(e, moves[i]);
        for (uint32_t g = 0; !status && g < e->hyper_count; g++)
            *flat &= e->sched_values[g].mask & ZDS_SCHED_LR &&
                     e->sched_values[g].hyper.lr == e->sched_values[0].hyper.lr;
    }
    return status;
}

zds_status check_rates(zds_engine *e, zds_error *error)
{
    int64_t group = e->has_sched ? group_with_rate(e) : -1;
    bool flat;
    if (group < 0)
        return ZDS_OK;
    zds_status status = is_flat(e, &flat);
    if (status)
        return error_set(error, status, "%s", zds_engine_error(e));
    if (!flat)
        return ZDS_OK;
    char path[64];
    snprintf(path, sizeof path, "zds.param_groups.%lld.lr", (long long)group);
    return engine_refuse(e, ZDS_ERR_CONFIG, path, error,
                         "the schedule gives every group the same rate, so that this one would "
                         "change nothing; give the schedule's option a list of %u rates (one for "
                         "each of zds.param_groups, then for the other parameters), or leave the "
                         "option out where it then takes each group's own rate",
                         e->declared_count);
}

zds_status zds_set_lr(zds_engine *e, size_t group, double lr)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (e->has_sched)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_set_lr: schedule %s sets the rates; leave it out (scheduler of the "
                           "config, options.scheduler)",
                           e->sched_services.name);
    if (e->finished || engine_updates(e))
        return engine_fail(e, ZDS_ERR_INVALID,
                           e->finished
                               ? "zds_set_lr between zds_finish and zds_step or zds_discard"
                               : "zds_set_lr in a boundary micro step with zds.overlap_step: "
                                 "parameters are being updated; call it before zds_micro_begin");
    if (group != ZDS_ALL_GROUPS && group >= e->hyper_count)
        return engine_fail(e, ZDS_ERR_NOT_FOUND, "zds_set_lr: group %zu: there are %u", group,
                           e->hyper_count);
    if (!(lr >= 0 && lr <= (double)FLT_MAX))
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_set_lr: %g is no rate: it must be from 0 to what fp32 can hold",
                           lr);
    for (size_t g = 0; g < e->hyper_count; g++)
        if (group == ZDS_ALL_GROUPS || g == group)
            e->base_hypers[g].lr = e->hypers[g].lr = lr;
    return ZDS_OK;
}

/* === metrics === */

bool zds_observes(const zds_engine *e)
{
    return e && e->has_sched && e->sched.observe;
}

zds_status zds_observe(zds_engine *e, double metric)
{
    const void *all;
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (e->in_micro)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_observe in a micro step: call it after zds_step");
    if (!zds_observes(e))
        return ZDS_OK;
    status = peers_gather(e->control, &metric, sizeof metric, &all, "zds_observe");
    if (status)
        return status;
    memcpy(&metric, all, sizeof metric);
    services_clear(&e->sched_services);
    status = e->sched.observe(e->sched_self, metric);
    if (status)
        engine_fail(e, status, "the scheduler failed to observe %g: %s", metric,
                    services_error(&e->sched_services));
    else
        status = update_hypers(e, e->sched_moves);
    return status ? engine_give_up(e, status) : ZDS_OK;
}

/* === what groups there are === */

bool zds_group(const zds_engine *e, size_t i, zds_group_info *info)
{
    if (!e || i >= e->hyper_count || !sized_is_set(info))
        return false;
    zds_group_info own = {.struct_size = sizeof own,
                          .declared = e->declared[i],
                          .hyper = e->hypers[i],
                          .params = e->group_sizes[i].params,
                          .elements = e->group_sizes[i].elements};
    sized_fill(info, info->struct_size, &own, sizeof own);
    return true;
}

/* A sample of an engine, for what is asked before there is a model. */
#include "engine/sample.h"

#include <stdio.h>

#include "host/error.h"

static const struct kind {
    const char *name;
    uint32_t ndim;
    int32_t role;
} kinds[] = {{"matrix", 2, ZDS_ROLE_MATRIX},
             {"embedding", 2, ZDS_ROLE_EMBEDDING},
             {"bias", 1, ZDS_ROLE_BIAS},
             {"norm", 1, ZDS_ROLE_NORM},
             {"head", 2, ZDS_ROLE_HEAD}};

static size_t group_count(const zds_config *config)
{
    return (size_t)cJSON_GetArraySize(config_node(config, "zds.param_groups"));
}

/* One of each kind, after a matrix for each of zds.param_groups. NULL: no memory. */
static zds_model *describe(const zds_config *config)
{
    static const int64_t shape[] = {64, 64};
    size_t groups = group_count(config);
    zds_model *model = zds_model_create();
    uint32_t index;
    zds_status status = model ? zds_model_add_module(model, "sample", &index) : ZDS_ERR_MEMORY;
    for (size_t i = 0; !status && i < groups + sizeof kinds / sizeof *kinds; i++) {
        const struct kind *kind = &kinds[i < groups ? 0 : i - groups];
        char numbered[48];
        snprintf(numbered, sizeof numbered, "zds.param_groups.%zu", i);
        const zds_param_desc desc = {.struct_size = sizeof desc,
                                     .name = i < groups ? numbered : kind->name,
                                     .shape = shape,
                                     .ndim = kind->ndim,
                                     .role = kind->role};
        status = zds_model_add_param(model, 0, &desc, &index);
    }
    if (!status)
        return model;
    zds_model_destroy(model);
    return NULL;
}

zds_engine *sample_create(const zds_config *config, const zds_engine_options *o)
{
    int32_t ranks = config_ranks(config);
    zds_engine *e = engine_empty(config, o);
    if (!e)
        return NULL;
    e->planned = e->sample = true;
    e->launch = (launch){.world_size = ranks, .local_world_size = ranks};
    e->set = (settings){.param_dtype = ZDS_F32,
                        .master_dtype = ZDS_F32,
                        .state_dtype = ZDS_F32,
                        .accum_dtype = ZDS_F32,
                        .comm_dtype = ZDS_F32};
    e->model = describe(config);
    if (e->model && pool_create(1, NULL, &e->threads, NULL) == ZDS_OK)
        return e;
    zds_engine_destroy(e);
    return NULL;
}

/* Takes the group of others away. */
static void drop_others(zds_engine *e)
{
    e->declared_count--;
    while (e->hyper_count && e->declared[e->hyper_count - 1] == e->declared_count)
        e->hyper_count--;
    services_destroy(&e->sched_services);
    options_destroy(e->sched_options);
    e->sched_options = NULL;
}

zds_status sample_open_sched(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    size_t before = e->found.count;
    zds_status status = plugins_open_sched(e, o, error);
    if (!status || e->declared_count < 2)
        return status;
    size_t told = e->found.count;
    zds_error again = ZDS_ERROR_INIT;
    drop_others(e);
    zds_status second = plugins_open_sched(e, o, &again);
    zds_error_clear(&again);
    if (second) {
        problems_cut(&e->found, told);
        return status;
    }
    zds_error_clear(error);
    problems_cut(&e->found, before);
    return ZDS_OK;
}

uint32_t sample_hyper(const zds_engine *e)
{
    uint32_t hyper = e->params[group_count(e->config)].hyper;
    return hyper < e->hyper_count ? hyper : e->hyper_count - 1;
}

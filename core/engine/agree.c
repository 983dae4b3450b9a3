/* Before anything is laid out: all ranks have the same config, model and options, or none starts.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"

enum { CONFIG = 0, MODEL = 1, OPTIONS = 2, TOPICS = 3 };
static const char *const topics[TOPICS] = {
    "ds_config", "model (names, shapes, order or roles of parameters and modules)",
    "program's options (optimizer, scheduler, seed, groups, steps of the run)"};

static uint64_t text_hash(const char *text, uint64_t seed)
{
    return text ? XXH64(text, strlen(text) + 1, seed) : seed + 1;
}

/* False without memory. */
static bool config_hash(const zds_config *config, uint64_t *hash)
{
    char *text = zds_config_node(config, "");
    *hash = text_hash(text, 0);
    free(text);
    return text != NULL;
}

static uint64_t model_hash(const zds_model *m)
{
    uint64_t hash = 0;
    for (uint32_t i = 0; i < m->param_count; i++) {
        const model_param *p = &m->params[i];
        uint64_t row[] = {p->ndim, (uint64_t)p->role, p->frozen, p->group, p->home};
        hash = text_hash(p->name, hash);
        hash = XXH64(p->shape, p->ndim * sizeof *p->shape, hash);
        hash = XXH64(row, sizeof row, hash);
        hash = XXH64(&p->width_mult, sizeof p->width_mult, hash);
        hash = XXH64(&p->fan_out_mult, sizeof p->fan_out_mult, hash);
    }
    for (uint32_t i = 0; i < m->module_count; i++) {
        const model_module *module = &m->modules[i];
        hash = text_hash(module->name, hash);
        hash = XXH64(module->params,
                     (module->home_count + module->use_count) * sizeof *module->params, hash);
    }
    return hash;
}

static uint64_t options_hash(const zds_engine *e, const zds_engine_options *o)
{
    uint64_t row[] = {e->seed, (uint64_t)o->total_steps, (uint64_t)o->warmup_steps, o->keep_groups};
    uint64_t hash = XXH64(row, sizeof row, 0);
    hash = text_hash(o->optimizer, hash);
    hash = text_hash(o->optimizer_params, hash);
    hash = text_hash(o->scheduler, hash);
    hash = text_hash(o->scheduler_params, hash);
    for (size_t i = 0; o->groups && i < o->group_count; i++) {
        const zds_group_desc *g = (const void *)((const char *)o->groups + i * o->group_stride);
        hash = XXH64(&g->hyper.lr, 5 * sizeof(double), hash);
    }
    return hash;
}

zds_status agree_on_start(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    if (e->launch.world_size == 1)
        return ZDS_OK;
    uint64_t mine[TOPICS] = {0, model_hash(e->model), options_hash(e, o)};
    if (!config_hash(e->config, &mine[CONFIG]))
        return error_set(error, ZDS_ERR_MEMORY, "no memory to compare the ds_config of all ranks");
    const void *rows;
    zds_status status =
        peers_gather(e->control, mine, sizeof mine, &rows, "comparing config and model");
    if (status)
        return error_set(error, status, "%s", zds_engine_error(e));
    const uint64_t *all = rows;
    for (int32_t r = 1; !status && r < e->launch.world_size; r++)
        for (int t = 0; t < TOPICS; t++)
            if (all[(size_t)r * TOPICS + (size_t)t] != all[t]) {
                status =
                    error_set(error, ZDS_ERR_DIVERGED,
                              "rank %d and rank 0 have a different %s; give all ranks the same", r,
                              topics[t]);
                break;
            }
    return status;
}

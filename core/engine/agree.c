/* Before anything is laid out, and a device's link opened: all ranks have the same config, model
 * and options, or none starts; and once each has read its own initial values, these are the same.
 * Ranks compare one hash a topic. Where one differs, they find out what it is: each puts what it
 * has into buckets by name, several times over in other ways, and what differs lies in a bucket
 * that differs every time. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "host/error.h"

enum { BUCKETS = PEERS_DOUBLES, ROUNDS = 3 };

/* One thing of a topic: by what name it is told, and all that it is. */
typedef void (*take_item)(void *to, const char *name, uint64_t hash);

typedef struct topic {
    const char *name;
    /* False without memory. `from`: zds_engine_options, or hashes of values. */
    bool (*visit)(const zds_engine *e, const void *from, take_item take, void *to);
} topic;

static uint64_t text_hash(const char *text, uint64_t seed)
{
    return text ? XXH64(text, strlen(text) + 1, seed) : seed + 1;
}

/* === what there is === */

static bool visit_node(const cJSON *node, const char *path, take_item take, void *to)
{
    const cJSON *child;
    bool good = true;
    if (!cJSON_IsObject(node)) {
        char *text = cJSON_PrintUnformatted(node);
        if (text)
            take(to, path, text_hash(text, 0));
        good = text != NULL;
        free(text);
        return good;
    }
    cJSON_ArrayForEach(child, node)
    {
        char *text = text_format("%s%s%s", path, *path ? "." : "", child->string);
        good = good && text && visit_node(child, text, take, to);
        free(text);
    }
    return good;
}

static bool visit_config(const zds_engine *e, const void *from, take_item take, void *to)
{
    (void)from;
    return visit_node(config_node(e->config, ""), "", take, to);
}

static bool visit_model(const zds_engine *e, const void *from, take_item take, void *to)
{
    (void)from;
    for (uint32_t i = 0; i < e->model->param_count; i++) {
        const model_param *p = &e->model->params[i];
        uint64_t row[] = {i,       p->ndim,  (uint64_t)p->role, p->frozen,
                          p->fp32, p->group, p->home,           p->last_use};
        uint64_t hash = XXH64(p->shape, p->ndim * sizeof *p->shape, 0);
        hash = XXH64(row, sizeof row, hash);
        hash = XXH64(&p->width_mult, sizeof p->width_mult, hash);
        take(to, p->name, XXH64(&p->fan_out_mult, sizeof p->fan_out_mult, hash));
    }
    for (uint32_t i = 0; i < e->model->module_count; i++) {
        const model_module *m = &e->model->modules[i];
        size_t bytes = ((size_t)m->home_count + m->use_count) * sizeof *m->params;
        take(to, m->name, XXH64(m->params, bytes, i + (uint64_t)1));
    }
    return true;
}

static bool visit_options(const zds_engine *e, const void *from, take_item take, void *to)
{
    const zds_engine_options *o = from;
    const struct {
        const char *name, *text;
    } texts[] = {{"optimizer", o->optimizer},
                 {"optimizer_params", o->optimizer_params},
                 {"scheduler", o->scheduler},
                 {"scheduler_params", o->scheduler_params}};
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"seed", (int64_t)e->seed},
                   {"steps of the run (total_steps)", o->total_steps},
                   {"warmup_steps", o->warmup_steps},
                   {"keep_groups", o->keep_groups},
                   {"values_everywhere", o->values_everywhere}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        take(to, texts[i].name, text_hash(texts[i].text, 0));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        take(to, numbers[i].name, XXH64(&numbers[i].value, sizeof numbers[i].value, 0));
    for (size_t i = 0; o->groups && i < o->group_count; i++) {
        const zds_group_desc *g = (const void *)((const char *)o->groups + i * o->group_stride);
        take(to, "groups", XXH64(&g->hyper.lr, ZDS_HYPER_1_0 - offsetof(zds_hyper, lr), i));
    }
    return true;
}

static bool visit_values(const zds_engine *e, const void *from, take_item take, void *to)
{
    const uint64_t *hashes = from;
    for (uint32_t i = 0; i < e->model->param_count; i++)
        take(to, e->model->params[i].name, hashes[i]);
    return true;
}

static bool visit_device(const zds_engine *e, const void *from, take_item take, void *to)
{
    (void)from;
    take(to, "zds.device of the config, or options.device", (uint64_t)e->device.space);
    return true;
}

/* The device first: a rank whose config does not have the key cannot name it. */
static const topic at_start[] = {{"device", visit_device},
                                 {"ds_config", visit_config},
                                 {"model", visit_model},
                                 {"options of the program", visit_options}};
static const topic of_values[] = {{"initial value", visit_values}};
enum { MOST_TOPICS = sizeof at_start / sizeof *at_start };

/* === all of it === */

static void add_to(void *to, const char *name, uint64_t hash)
{
    uint64_t *sum = to; /* in whichever order: a config's keys may stand in any */
    *sum += text_hash(name, hash);
}

/* === what differs === */

typedef struct search {
    uint64_t rounds[ROUNDS][BUCKETS];
    bool differs[ROUNDS][BUCKETS];
    int32_t round;
    char *copy; /* of the first name whose buckets all differ */
} search;

static size_t bucket_of(const char *name, int32_t round)
{
    return text_hash(name, (uint64_t)round + 1) % BUCKETS;
}

static void fill_bucket(void *to, const char *name, uint64_t hash)
{
    search *s = to;
    s->rounds[s->round][bucket_of(name, s->round)] += text_hash(name, hash);
}

static void look(void *to, const char *name, uint64_t hash)
{
    search *s = to;
    (void)hash;
    bool all = !s->copy;
    for (int32_t r = 0; all && r < ROUNDS; r++)
        all = s->differs[r][bucket_of(name, r)];
    if (all)
        s->copy = strdup(name);
}

static zds_status no_memory(zds_error *error)
{
    return error_set(error, ZDS_ERR_MEMORY, "no memory to compare what all ranks were given");
}

/* Ranks `r` and 0 differ in a topic. */
static zds_status name_difference(zds_engine *e, const void *from, const topic *t, int32_t r,
                                  zds_error *error)
{
    search s = {.round = 0};
    for (; s.round < ROUNDS; s.round++) {
        const void *rows;
        if (!t->visit(e, from, fill_bucket, &s))
            return no_memory(error);
        zds_status status = peers_gather(e->control, s.rounds[s.round], sizeof s.rounds[0], &rows,
                                         "finding out what differs");
        if (status)
            return error_set(error, status, "%s", zds_engine_error(e));
        const uint64_t *all = rows;
        for (size_t b = 0; b < BUCKETS; b++)
            s.differs[s.round][b] = all[b] != all[(size_t)r * BUCKETS + b];
    }
    (void)t->visit(e, from, look, &s); /* without memory it finds nothing */
    error_set(error, ZDS_ERR_DIVERGED,
              "rank %d and rank 0 have a different %s: %s; give all ranks the same", r, t->name,
              s.copy ? s.copy : "one has more than the other");
    free(s.copy);
    return ZDS_ERR_DIVERGED;
}

static zds_status agree_on(zds_engine *e, const topic *topics, size_t count, const void *from,
                           const char *doing, zds_error *error)
{
    uint64_t mine[MOST_TOPICS] = {0};
    const void *rows;
    if (e->launch.world_size == 1)
        return ZDS_OK;
    for (size_t t = 0; t < count; t++)
        if (!topics[t].visit(e, from, add_to, &mine[t]))
            return no_memory(error);
    zds_status status = peers_gather(e->control, mine, count * sizeof *mine, &rows, doing);
    if (status)
        return error_set(error, status, "%s", zds_engine_error(e));
    const uint64_t *all = rows;
    for (int32_t r = 1; r < e->launch.world_size; r++)
        for (size_t t = 0; t < count; t++)
            if (all[(size_t)r * count + t] != all[t])
                return name_difference(e, from, &topics[t], r, error);
    return ZDS_OK;
}

zds_status agree_on_start(zds_engine *e, const zds_engine_options *o, zds_error *error)
{
    return agree_on(e, at_start, MOST_TOPICS, o, "comparing config and model", error);
}

zds_status agree_on_hashes(zds_engine *e, const uint64_t *hashes, zds_error *error)
{
    return agree_on(e, of_values, 1, hashes, "comparing initial values", error);
}

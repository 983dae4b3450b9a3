/* The groups of zds.param_groups: which parameters each takes by name, and its hyperparameters. */
#include "engine/chosen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "host/glob.h"

#define SECTION "zds.param_groups"
enum { NEAREST = 3 };

/* === hyperparameters === */

/* A group whose hyperparameters are read. */
typedef struct reader {
    zds_engine *engine;
    size_t group;
} reader;

static void note(void *user, const char *key, const char *message)
{
    const reader *r = user;
    char path[256];
    snprintf(path, sizeof path, SECTION ".%zu.%.128s", r->group, key);
    engine_note(r->engine, path, message);
}

static uint32_t override(double *own, double with, uint32_t bit)
{
    if (isnan(with))
        return 0;
    *own = with;
    return bit;
}

uint32_t chosen_override(zds_hyper *h, const zds_hyper *with)
{
    return override(&h->lr, with->lr, ZDS_SCHED_LR) |
           override(&h->beta1, with->beta1, ZDS_SCHED_BETA1) |
           override(&h->beta2, with->beta2, ZDS_SCHED_BETA2) |
           override(&h->beta3, with->beta3, ZDS_SCHED_BETA3) |
           override(&h->momentum, with->momentum, ZDS_SCHED_MOMENTUM) |
           override(&h->weight_decay, with->weight_decay, ZDS_SCHED_WEIGHT_DECAY);
}

/* === names === */

/* One pattern is a string, several are an array. */
static const cJSON *first_pattern(const chosen_group *g)
{
    return cJSON_IsArray(g->patterns) ? g->patterns->child : g->patterns;
}

static const cJSON *next_pattern(const chosen_group *g, const cJSON *pattern)
{
    return cJSON_IsArray(g->patterns) ? pattern->next : NULL;
}

static bool takes(const chosen_group *g, const char *name)
{
    for (const cJSON *p = first_pattern(g); p; p = next_pattern(g, p))
        if (glob_match(p->valuestring, name))
            return true;
    return false;
}

/* The names that are nearest to a pattern: "a, b, c". */
static void nearest(const zds_model *model, const char *pattern, char *text, size_t size)
{
    size_t distance[NEAREST], used = 0;
    const char *name[NEAREST] = {0};
    for (uint32_t p = 0; p < model->param_count; p++) {
        size_t d = glob_distance(pattern, model->params[p].name);
        const char *one = model->params[p].name;
        for (size_t k = 0; k < NEAREST && one; k++) {
            if (name[k] && distance[k] <= d)
                continue;
            const char *next = name[k];
            size_t next_distance = next ? distance[k] : 0;
            name[k] = one;
            distance[k] = d;
            one = next;
            d = next_distance;
        }
    }
    text[0] = '\0';
    for (size_t k = 0; k < NEAREST && name[k] && used < size; k++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", k ? ", " : "", name[k]);
}

static void check_pattern(zds_engine *e, const char *path, const char *pattern)
{
    const zds_model *model = e->model;
    char names[512], message[1024];
    for (uint32_t i = 0; i < model->param_count; i++)
        if (glob_match(pattern, model->params[i].name))
            return;
    nearest(model, pattern, names, sizeof names);
    snprintf(message, sizeof message, "\"%.200s\" matches no parameter; the nearest names are %s",
             pattern, names);
    engine_note(e, path, message);
}

/* Each pattern must match something, and each group be left something that is trained. */
static void check_group(zds_engine *e, const chosen *c, size_t i)
{
    const chosen_group *g = &c->groups[i];
    bool trained = false, taken = false;
    size_t before = problems_heard(&e->found), k = 0;
    for (const cJSON *one = first_pattern(g); one; one = next_pattern(g, one), k++) {
        char path[96];
        bool list = cJSON_IsArray(g->patterns);
        snprintf(path, sizeof path, list ? SECTION ".%zu.params.%zu" : SECTION ".%zu.params", i, k);
        check_pattern(e, path, one->valuestring);
    }
    for (uint32_t n = 0; n < e->model->param_count; n++) {
        taken |= c->of[n] == i;
        trained |= c->of[n] == i && !e->model->params[n].frozen;
    }
    if (trained || problems_heard(&e->found) != before)
        return;
    char path[96];
    snprintf(path, sizeof path, SECTION ".%zu.params", i);
    engine_note(e, path,
                taken ? "none of the parameters that it takes is trained; delete the group"
                      : "all that it matches belongs to groups before it, since the first that "
                        "matches takes a parameter; put it before them, or delete it");
}

static void match(zds_engine *e, chosen *c)
{
    for (uint32_t k = 0; k < e->model->param_count; k++)
        while (c->of[k] < c->count && !takes(&c->groups[c->of[k]], e->model->params[k].name))
            c->of[k]++;
    for (size_t i = 0; i < c->count; i++)
        check_group(e, c, i);
}

/* The first group that takes every name there can be, or `count`. */
static uint32_t catch_all(const chosen *c)
{
    for (size_t i = 0; i < c->count; i++)
        for (const cJSON *p = first_pattern(&c->groups[i]); p; p = next_pattern(&c->groups[i], p))
            if (cJSON_IsString(p) && strcmp(p->valuestring, "*") == 0)
                return (uint32_t)i;
    return (uint32_t)c->count;
}

/* Where the model is not known: a parameter for each group, the rest for none. */
static void deal(const zds_engine *e, chosen *c)
{
    uint32_t rest = catch_all(c);
    for (uint32_t k = 0; k < e->model->param_count; k++)
        c->of[k] = k < c->count ? k : rest;
}

zds_status chosen_create(zds_engine *e, chosen *c, zds_error *error)
{
    const cJSON *list = config_node(e->config, SECTION);
    size_t count = (size_t)cJSON_GetArraySize(list), before = problems_heard(&e->found);
    *c = (chosen){.count = count,
                  .groups = calloc(count + 1, sizeof *c->groups),
                  .of = calloc(e->model->param_count + (size_t)1, sizeof *c->of)};
    if (!c->groups || !c->of) {
        chosen_destroy(c);
        return error_set(error, ZDS_ERR_MEMORY, "no memory for the groups of " SECTION);
    }
    const cJSON *group;
    chosen_group *g = c->groups;
    cJSON_ArrayForEach(group, list)
    {
        *g = (chosen_group){cJSON_GetObjectItemCaseSensitive(group, "params"), CHOSEN_NOTHING};
        options_group(e->optim_plugin, group, &g->hyper, note,
                      &(reader){e, (size_t)(g - c->groups)});
        g++;
    }
    if (e->sample)
        deal(e, c);
    else
        match(e, c);
    if (problems_heard(&e->found) == before)
        return ZDS_OK;
    chosen_destroy(c);
    return engine_tell(e, ZDS_ERR_CONFIG, "", error);
}

void chosen_destroy(chosen *c)
{
    free(c->groups);
    free(c->of);
    *c = (chosen){0};
}

/* The groups of zds.param_groups: which parameters each takes by name, and its hyperparameters. */
#include "engine/chosen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"
#include "host/error.h"
#include "host/glob.h"

#define SECTION "zds.param_groups"
enum { NEAREST = 3 };

/* === hyperparameters === */

typedef struct reporter {
    size_t group;
    void (*report)(void *user, const char *path, const char *message);
    void *user;
} reporter;

static void pass_on(void *user, const char *key, const char *message)
{
    reporter *r = user;
    char path[256];
    snprintf(path, sizeof path, SECTION ".%zu.%.128s", r->group, key);
    r->report(r->user, path, message);
}

size_t chosen_hyper(const cJSON *group, size_t i, const zds_plugin *optim, zds_hyper *hyper,
                    void (*report)(void *user, const char *path, const char *message), void *user)
{
    return options_group(optim, group, hyper, pass_on, &(reporter){i, report, user});
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
           override(&h->momentum, with->momentum, ZDS_SCHED_MOMENTUM) |
           override(&h->weight_decay, with->weight_decay, ZDS_SCHED_WEIGHT_DECAY);
}

typedef struct problems {
    const zds_engine *engine;
    char *text;
    size_t count;
} problems;

static void collect(void *user, const char *path, const char *message)
{
    problems *p = user;
    p->count++;
    if (p->engine->refused) {
        p->engine->refused(p->engine->refused_user, path, message);
        return;
    }
    char *line = problem_line(p->engine->config, path, message);
    if (line)
        text_append(&p->text, "\n", "%s", line);
    free(line);
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

static void check_pattern(const zds_model *model, const char *path, const char *pattern,
                          problems *p)
{
    char names[512], message[1024];
    for (uint32_t i = 0; i < model->param_count; i++)
        if (glob_match(pattern, model->params[i].name))
            return;
    nearest(model, pattern, names, sizeof names);
    snprintf(message, sizeof message, "\"%.200s\" matches no parameter; the nearest names are %s",
             pattern, names);
    collect(p, path, message);
}

/* Each pattern must match something, and each group be left something that is trained. */
static void check_group(const zds_engine *e, const chosen *c, size_t i, problems *p)
{
    const chosen_group *g = &c->groups[i];
    bool trained = false, taken = false;
    size_t before = p->count, k = 0;
    for (const cJSON *one = first_pattern(g); one; one = next_pattern(g, one), k++) {
        char path[96];
        bool list = cJSON_IsArray(g->patterns);
        snprintf(path, sizeof path, list ? SECTION ".%zu.params.%zu" : SECTION ".%zu.params", i, k);
        check_pattern(e->model, path, one->valuestring, p);
    }
    for (uint32_t n = 0; n < e->model->param_count; n++) {
        taken |= c->of[n] == i;
        trained |= c->of[n] == i && !e->model->params[n].frozen;
    }
    if (trained || p->count != before)
        return;
    char path[96];
    snprintf(path, sizeof path, SECTION ".%zu.params", i);
    collect(p, path,
            taken ? "none of the parameters that it takes is trained; delete the group"
                  : "all that it matches belongs to groups before it, since the first that "
                    "matches takes a parameter; put it before them, or delete it");
}

static void match(const zds_engine *e, chosen *c, problems *p)
{
    for (uint32_t k = 0; k < e->model->param_count; k++)
        while (c->of[k] < c->count && !takes(&c->groups[c->of[k]], e->model->params[k].name))
            c->of[k]++;
    for (size_t i = 0; i < c->count; i++)
        check_group(e, c, i, p);
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

zds_status chosen_create(const zds_engine *e, chosen *c, zds_error *error)
{
    const cJSON *list = zds_config_node(e->config, SECTION);
    size_t count = (size_t)cJSON_GetArraySize(list);
    problems p = {.engine = e};
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
        chosen_hyper(group, (size_t)(g - c->groups), e->optim_plugin, &g->hyper, collect, &p);
        g++;
    }
    if (e->refused)
        deal(e, c);
    else
        match(e, c, &p);
    zds_status status = ZDS_OK;
    if (p.count)
        status = error_set(error, ZDS_ERR_CONFIG, "%s", p.text ? p.text : SECTION " has problems");
    free(p.text);
    if (status)
        chosen_destroy(c);
    return status;
}

void chosen_destroy(chosen *c)
{
    free(c->groups);
    free(c->of);
    *c = (chosen){0};
}

/* One schedule plugin under test, and what it says at each step. */
#ifndef TESTS_SCHED_HARNESS_H
#define TESTS_SCHED_HARNESS_H

#include "plugin_harness.h"

HARNESS_FN cJSON *read_json(const char *path)
{
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fseek(f, 0, SEEK_END), 0);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(bytes + 1);
    cr_assert(text && fread(text, 1, bytes, f) == bytes);
    fclose(f);
    text[bytes] = 0;
    cJSON *tree = cJSON_Parse(text);
    free(text);
    cr_assert_not_null(tree, "%s is not JSON", path);
    return tree;
}

typedef struct schedule {
    harness h;
    const zds_plugin *plugin;
    const zds_sched_ops *ops;
    void *options, *self;
    zds_hyper base[3];
} schedule;

/* Where each type is. */
static const struct {
    const char *type, *file;
} files[] = {
    {"WarmupLR", "sched_warmup"},
    {"WarmupDecayLR", "sched_warmup"},
    {"WarmupCosineLR", "sched_warmup"},
    {"OneCycle", "sched_onecycle"},
    {"LRRangeTest", "sched_lrrangetest"},
    {"constant", "sched_trainer"},
    {"constant_with_warmup", "sched_trainer"},
    {"linear", "sched_trainer"},
    {"cosine", "sched_trainer"},
    {"cosine_with_restarts", "sched_trainer"},
    {"polynomial", "sched_trainer"},
    {"inverse_sqrt", "sched_trainer"},
    {"cosine_with_min_lr", "sched_trainer"},
    {"cosine_warmup_with_min_lr", "sched_trainer"},
    {"warmup_stable_decay", "sched_trainer"},
    {"reduce_lr_on_plateau", "sched_observed"},
    {"greedy", "sched_observed"},
};

HARNESS_FN const char *file_of(const char *type)
{
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (strcmp(files[i].type, type) == 0)
            return files[i].file;
    return NULL;
}

/* An instance for s->base, which is filled in. */
HARNESS_FN zds_status schedule_create(schedule *s, size_t groups, int64_t warmup_steps,
                                      int64_t total_steps)
{
    zds_sched_env env = {.struct_size = sizeof env,
                         .group_count = groups,
                         .hyper_stride = sizeof s->base[0],
                         .base = s->base,
                         .total_steps = total_steps,
                         .warmup_steps = warmup_steps,
                         .default_lr = NAN};
    return s->ops->create(&s->h.host, s->options, &env, &s->self);
}

HARNESS_FN void schedule_open(schedule *s, const char *type, const char *options)
{
    memset(s, 0, sizeof *s);
    harness_init(&s->h);
    s->plugin = plugin_open(file_of(type), type);
    s->ops = s->plugin->ops;
    s->options = options_from(s->plugin, options);
    for (size_t g = 0; g < 3; g++)
        s->base[g] = (zds_hyper){
            .struct_size = sizeof s->base[g], .beta1 = 0.9, .beta2 = 0.999, .momentum = NAN};
}

HARNESS_FN zds_status schedule_try(schedule *s, const char *type, const char *options,
                                   size_t groups, double lr, int64_t warmup_steps,
                                   int64_t total_steps)
{
    schedule_open(s, type, options);
    for (size_t g = 0; g < 3; g++)
        s->base[g].lr = lr * (double)(g + 1);
    return schedule_create(s, groups, warmup_steps, total_steps);
}

HARNESS_FN void schedule_close(schedule *s)
{
    if (s->self)
        s->ops->destroy(s->self);
    cr_assert_eq(s->h.live, 0);
    options_destroy(s->options);
}

/* What holds in a group after `moves` moves, the optimizer's own values where the schedule sets
 * none. */
HARNESS_FN zds_hyper schedule_at(schedule *s, int64_t moves, size_t group)
{
    zds_sched_value values[3] = {{.struct_size = sizeof values[0]},
                                 {.struct_size = sizeof values[0]},
                                 {.struct_size = sizeof values[0]}};
    cr_assert_eq(s->ops->at(s->self, moves, values, sizeof values[0]), ZDS_OK, "%s", s->h.error);
    zds_hyper h = s->base[group];
    if (values[group].mask & ZDS_SCHED_LR)
        h.lr = values[group].hyper.lr;
    if (values[group].mask & ZDS_SCHED_BETA1)
        h.beta1 = values[group].hyper.beta1;
    if (values[group].mask & ZDS_SCHED_BETA2)
        h.beta2 = values[group].hyper.beta2;
    return h;
}

#endif

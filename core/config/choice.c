/* Who chooses the optimizer and the schedule: the config, or, where it is silent, the program. Each
 * of the four combinations is legal; what is told here is where one side's choice is dropped, or
 * where DeepSpeed refuses the combination. */
#include <string.h>
#include <strings.h>

#include "config/internal.h"

#define INSIST(path, ...) problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path, __VA_ARGS__)
#define ADVISE(path, ...) problem_add(c, ZDS_PROBLEM_WARNING, ZDS_CHECK_ZDS, path, __VA_ARGS__)

const char *zds_config_combination(const zds_config *c)
{
    static const char *const names[2][2] = {{"the program's optimizer with the program's schedule",
                                             "the program's optimizer with the config's schedule"},
                                            {"the config's optimizer with the program's schedule",
                                             "the config's optimizer with the config's schedule"}};
    return names[value_of(c, "optimizer.type")->string != NULL]
                [value_of(c, "scheduler.type")->string != NULL];
}

static const char *word(const cJSON *arguments, const char *name)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(arguments, name);
    return cJSON_IsString(node) ? node->valuestring : NULL;
}

/* "adamw_torch_fused" is AdamW. */
static bool same_optimizer(const char *argument, const char *type)
{
    size_t length = strlen(type);
    return strncasecmp(argument, type, length) == 0 &&
           (argument[length] == '\0' || argument[length] == '_');
}

static void dropped(zds_config *c, const cJSON *arguments)
{
    const char *type = value_of(c, "optimizer.type")->string,
               *schedule = value_of(c, "scheduler.type")->string, *own = word(arguments, "optim"),
               *own_schedule = word(arguments, "lr_scheduler_type");
    if (type && own && !same_optimizer(own, type))
        ADVISE("optimizer.type",
               "%s: optim=%.40s of the training arguments is not used; delete one of them",
               zds_config_combination(c), own);
    if (schedule && own_schedule && strcmp(own_schedule, schedule) != 0)
        ADVISE("scheduler.type",
               "%s: lr_scheduler_type=%.40s of the training arguments is not used; delete one of "
               "them",
               zds_config_combination(c), own_schedule);
}

/* transformers' SchedulerType. */
static bool is_of_the_trainer(const char *schedule)
{
    return field_has_choice("linear|cosine|cosine_with_restarts|polynomial|constant|"
                            "constant_with_warmup|inverse_sqrt|reduce_lr_on_plateau|"
                            "cosine_with_min_lr|cosine_warmup_with_min_lr|warmup_stable_decay|"
                            "greedy",
                            schedule, false);
}

static void refused(zds_config *c)
{
    const char *type = value_of(c, "optimizer.type")->string,
               *schedule = value_of(c, "scheduler.type")->string,
               *device = value_of(c, "zero_optimization.offload_optimizer.device")->string;
    const value *force = value_of(c, "zero_force_ds_cpu_optimizer");
    bool offloads = !value_of(c, "zero_optimization.offload_optimizer")->null &&
                    strcmp(device, "none") != 0 && value_of(c, "zero_optimization.stage")->integer;
    if (schedule && is_of_the_trainer(schedule))
        ADVISE("scheduler.type",
               "%s: DeepSpeed knows \"%s\" only as the program's (lr_scheduler_type) and refuses "
               "it here, where zds takes it; delete the section to run with both",
               zds_config_combination(c), schedule);
    if (!type && offloads && force->node && !force->bad && force->boolean)
        INSIST("zero_force_ds_cpu_optimizer",
               "%s: true refuses every offloaded optimizer that the config does not name; write an "
               "optimizer section, or false",
               zds_config_combination(c));
}

void effective_choice(zds_config *c)
{
    dropped(c, c->arguments);
    refused(c);
}

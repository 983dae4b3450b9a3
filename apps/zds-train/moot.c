/* Arguments that the ds_config leaves without effect. */
#include "moot.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct argument {
    const char *name;
    /* That replaces what the argument is for; NULL: it is only read by a key. */
    const char *section;
    const char *key; /* that it fills; NULL: none */
    const char *or_key;
} argument;

static const argument arguments_table[] = {
    {"learning_rate", "optimizer", "optimizer.params.lr", "scheduler.params.warmup_max_lr"},
    {"weight_decay", "optimizer", "optimizer.params.weight_decay", NULL},
    {"adam_beta1", "optimizer", "optimizer.params.betas", NULL},
    {"adam_beta2", "optimizer", "optimizer.params.betas", NULL},
    {"adam_epsilon", "optimizer", "optimizer.params.eps", NULL},
    {"lr_scheduler_type", "scheduler", NULL, NULL},
    {"lr_scheduler_kwargs", "scheduler", NULL, NULL},
    {"max_grad_norm", NULL, "gradient_clipping", NULL},
    {"per_device_train_batch_size", NULL, "train_micro_batch_size_per_gpu", NULL},
};

static void warn(const zds_config *config, const argument *a)
{
    const char *section = a->section ? a->section : "";
    fprintf(stderr, "%s: warning: --%s has no effect: ", zds_config_place(config, section),
            a->name);
    if (!a->key)
        fprintf(stderr, "the %s of the config counts\n", a->section);
    else
        fprintf(stderr, "the config has no %s; write \"auto\" there for the argument to count\n",
                a->key);
}

void print_moot_arguments(const zds_config *config)
{
    char *text = zds_config_arguments(config);
    cJSON *arguments = text ? cJSON_Parse(text) : NULL;
    free(text);
    for (size_t i = 0; i < sizeof arguments_table / sizeof *arguments_table; i++) {
        const argument *a = &arguments_table[i];
        bool given = cJSON_HasObjectItem(arguments, a->name);
        bool replaced = !a->section || zds_config_is_set(config, a->section);
        bool read = (a->key && zds_config_is_set(config, a->key)) ||
                    (a->or_key && zds_config_is_set(config, a->or_key));
        if (given && replaced && !read)
            warn(config, a);
    }
    /* Of the schedules of a config, DeepSpeed's are the ones that do not ask for the run's warm-up.
     */
    static const argument warmups[] = {
        {"warmup_steps", "scheduler", "scheduler.params.warmup_num_steps", NULL},
        {"warmup_ratio", "scheduler", "scheduler.params.warmup_num_steps", NULL}};
    const char *type = zds_config_string(config, "scheduler.type");
    for (size_t i = 0; type && strncasecmp(type, "Warmup", 6) == 0 && i < 2; i++)
        if (cJSON_HasObjectItem(arguments, warmups[i].name) &&
            !zds_config_is_set(config, warmups[i].key))
            warn(config, &warmups[i]);
    cJSON_Delete(arguments);
}

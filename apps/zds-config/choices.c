/* What a program with these training arguments would choose where the config is silent, as the
 * Trainer does. */
#include <math.h>
#include <string.h>

#include "command.h"

static double number_or(const cJSON *tree, const char *name, double fallback)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(tree, name);
    return cJSON_IsNumber(node) ? node->valuedouble : fallback;
}

/* The optimizer of a program without one in its config: the Trainer's AdamW. */
static char *own_optimizer(const cJSON *arguments)
{
    cJSON *params = cJSON_CreateObject();
    const double betas[] = {number_or(arguments, "adam_beta1", 0.9),
                            number_or(arguments, "adam_beta2", 0.999)};
    cJSON_AddNumberToObject(params, "lr", number_or(arguments, "learning_rate", 5e-5));
    cJSON_AddItemToObject(params, "betas", cJSON_CreateDoubleArray(betas, 2));
    char *text = cJSON_PrintUnformatted(params);
    cJSON_Delete(params);
    return text;
}

/* As the config's own reading of them does: a count from 1 on, a share of the steps below that, or
 * warmup_ratio. -1: a share, of an unknown number of steps. */
static int64_t warmup_steps(const cJSON *arguments, int64_t steps)
{
    double count = number_or(arguments, "warmup_steps", 0), share = count;
    if (count >= 1)
        return (int64_t)count;
    if (share == 0)
        share = number_or(arguments, "warmup_ratio", 0);
    return share > 0 && steps <= 0 ? -1 : (int64_t)ceil((double)steps * share);
}

void choices_read(const zds_config *config, int64_t steps, choices *p)
{
    p->arguments = take_json(zds_config_arguments(config));
    const cJSON *arguments = p->arguments,
                *type = cJSON_GetObjectItemCaseSensitive(arguments, "lr_scheduler_type"),
                *kwargs = cJSON_GetObjectItemCaseSensitive(arguments, "lr_scheduler_kwargs");
    if (steps <= 0)
        steps = (int64_t)fmax(number_or(arguments, "max_steps", 0), 0);
    p->optimizer = own_optimizer(arguments);
    p->schedule = kwargs ? cJSON_PrintUnformatted(kwargs) : NULL;
    p->options = (zds_engine_options){
        .struct_size = sizeof p->options,
        .optimizer = "AdamW",
        .optimizer_params = p->optimizer,
        .scheduler = cJSON_IsString(type) ? type->valuestring : NULL,
        .scheduler_params = p->schedule,
        .total_steps = steps,
        .warmup_steps = warmup_steps(arguments, steps),
    };
}

void choices_release(choices *p)
{
    cJSON_free(p->optimizer);
    cJSON_free(p->schedule);
    cJSON_Delete(p->arguments);
}

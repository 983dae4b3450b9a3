/* What the Trainer fills into a ds_config and holds against it: trainer_config_process and
 * trainer_config_finalize of transformers 5.23 (integrations/deepspeed.py), in their order, and
 * what accelerate 1.15 (utils/dataclasses.py, DeepSpeedPlugin) does between the two.
 *
 * A field that the arguments do not hold fills "auto" with TrainingArguments' default, or with what
 * the file itself says, and never mismatches. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/hf.h"
#include "config/internal.h"

typedef struct trainer {
    zds_hf_config *hf;
    const cJSON *arguments;
    double world_size, hidden_size, steps;
    bool find_batch_size;
} trainer;

static const cJSON *argument(const trainer *t, const char *name)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(t->arguments, name);
    return cJSON_IsNull(node) ? NULL : node;
}

static bool is_given(const trainer *t, const char *name)
{
    return argument(t, name) != NULL;
}

static double number_argument(const trainer *t, const char *name, double fallback)
{
    const cJSON *node = argument(t, name);
    if (cJSON_IsBool(node))
        return cJSON_IsTrue(node);
    return cJSON_IsNumber(node) ? node->valuedouble : fallback;
}

static bool flag_argument(const trainer *t, const char *name)
{
    return number_argument(t, name, 0) != 0;
}

/* The number of steps is max_steps where that is above 0. */
static trainer begin(zds_hf_config *hf, const zds_config_context *context, const cJSON *arguments)
{
    trainer t = {.hf = hf,
                 .arguments = arguments,
                 .world_size = config_world_size(context),
                 .hidden_size = (double)context->hidden_size,
                 .steps = (double)context->num_training_steps};
    t.find_batch_size = context->auto_find_batch_size || flag_argument(&t, "auto_find_batch_size");
    if (t.steps <= 0)
        t.steps = fmax(number_argument(&t, "max_steps", 0), 0);
    return t;
}

/* Takes `filling` over. */
static void fill(trainer *t, const char *path, cJSON *filling, const char *name, bool must_match)
{
    if (!filling)
        t->hf->failed = true;
    else
        hf_fill(t->hf, path, filling, name, must_match);
    cJSON_Delete(filling);
}

static void fill_number(trainer *t, const char *path, double x, const char *name, bool must_match)
{
    fill(t, path, cJSON_CreateNumber(x), name, must_match);
}

/* An argument that is not given is what the file says, if that is a number. */
static double batch_argument(const trainer *t, const char *name, const char *path, double fallback)
{
    const cJSON *item = hf_value(t->hf, path);
    return number_argument(t, name, cJSON_IsNumber(item) ? item->valuedouble : fallback);
}

static void fill_batch(trainer *t)
{
    static const char *const per_device = "per_device_train_batch_size",
                             *const steps = "gradient_accumulation_steps";
    double micro = batch_argument(t, per_device, "train_micro_batch_size_per_gpu", 8),
           gas = batch_argument(t, steps, "gradient_accumulation_steps", 1);
    fill_number(t, "train_micro_batch_size_per_gpu", micro, per_device,
                is_given(t, per_device) && !t->find_batch_size);
    fill_number(t, "gradient_accumulation_steps", gas, steps, is_given(t, steps));
    fill_number(t, "train_batch_size", t->world_size * micro * gas, "train_batch_size (calculated)",
                is_given(t, per_device) && is_given(t, steps) && !t->find_batch_size);
}

static void fill_optimizer(trainer *t)
{
    double b[] = {number_argument(t, "adam_beta1", 0.9), number_argument(t, "adam_beta2", 0.999)};
    double rate = number_argument(t, "learning_rate", 5e-5);
    fill_number(t, "gradient_clipping", number_argument(t, "max_grad_norm", 1.0), "max_grad_norm",
                is_given(t, "max_grad_norm"));
    fill_number(t, "optimizer.params.lr", rate, "learning_rate", is_given(t, "learning_rate"));
    fill(t, "optimizer.params.betas", cJSON_CreateDoubleArray(b, 2), "adam_beta1+adam_beta2",
         is_given(t, "adam_beta1") || is_given(t, "adam_beta2"));
    fill_number(t, "optimizer.params.eps", number_argument(t, "adam_epsilon", 1e-8), "adam_epsilon",
                is_given(t, "adam_epsilon"));
    fill_number(t, "optimizer.params.weight_decay", number_argument(t, "weight_decay", 0),
                "weight_decay", is_given(t, "weight_decay"));
    fill_number(t, "scheduler.params.warmup_min_lr", 0, NULL, false);
    fill_number(t, "scheduler.params.warmup_max_lr", rate, "learning_rate",
                is_given(t, "learning_rate"));
}

static void save_on_each_node(trainer *t)
{
    cJSON *checkpoint = cJSON_GetObjectItemCaseSensitive(t->hf->tree, "checkpoint");
    if (!flag_argument(t, "save_on_each_node"))
        return;
    if (!checkpoint)
        checkpoint = cJSON_AddObjectToObject(t->hf->tree, "checkpoint");
    if (!cJSON_IsObject(checkpoint))
        return; /* hf_process told it */
    cJSON_DeleteItemFromObjectCaseSensitive(checkpoint, "use_node_local_storage");
    if (!cJSON_AddTrueToObject(checkpoint, "use_node_local_storage"))
        t->hf->failed = true;
}

static bool wants(const trainer *t, const char *dtype)
{
    char full[32];
    snprintf(full, sizeof full, "%s_full_eval", dtype);
    return flag_argument(t, dtype) || flag_argument(t, full);
}

static void fill_precision(trainer *t)
{
    fill(t, "fp16.enabled", cJSON_CreateBool(wants(t, "fp16")), "fp16|fp16_full_eval",
         is_given(t, "fp16") || is_given(t, "fp16_full_eval"));
    fill(t, "bf16.enabled", cJSON_CreateBool(wants(t, "bf16")), "bf16|bf16_full_eval",
         is_given(t, "bf16") || is_given(t, "bf16_full_eval"));
    t->hf->dtype = zds_hf_config_is_true(t->hf, "bf16.enabled")   ? "bfloat16"
                   : zds_hf_config_is_true(t->hf, "fp16.enabled") ? "float16"
                                                                  : "float32";
}

/* transformers walks through these sections, and fails where one is something else. */
static void check_sections(trainer *t)
{
    static const char *const sections[] = {
        "optimizer", "optimizer.params",  "scheduler", "scheduler.params", "fp16",
        "bf16",      "zero_optimization", "checkpoint"};
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        const cJSON *node = hf_value(t->hf, sections[i]);
        bool old_zero = cJSON_IsBool(node) && strcmp(sections[i], "zero_optimization") == 0;
        if (node && !cJSON_IsObject(node) && !cJSON_IsNull(node) && !old_zero)
            hf_error(t->hf, sections[i], "is not a section; write an object { ... }");
    }
}

void hf_process(zds_hf_config *hf, const zds_config_context *context, const cJSON *arguments)
{
    trainer t = begin(hf, context, arguments);
    check_sections(&t);
    fill_batch(&t);
    fill_optimizer(&t);
    save_on_each_node(&t);
    fill_precision(&t);
}

/* === accelerate === */

static void accelerate_precision(trainer *t)
{
    static const char *const dtypes[] = {"fp16", "bf16"};
    for (size_t i = 0; i < 2; i++) {
        const cJSON *section = cJSON_GetObjectItemCaseSensitive(t->hf->tree, dtypes[i]);
        if (!flag_argument(t, dtypes[i]) || section)
            continue;
        cJSON *made = cJSON_AddObjectToObject(t->hf->tree, dtypes[i]);
        if (!made || !cJSON_AddTrueToObject(made, "enabled"))
            t->hf->failed = true;
        t->hf->dtype = i ? "bfloat16" : "float16";
    }
}

static void accelerate_offload(trainer *t, const char *device_path, const char *folder_path)
{
    fill(t, device_path, cJSON_CreateString("none"), NULL, false);
    const cJSON *device = hf_value(t->hf, device_path);
    if (!cJSON_IsString(device) || strcmp(device->valuestring, "nvme") != 0)
        fill(t, folder_path, cJSON_CreateNull(), NULL, false);
}

void hf_accelerate(zds_hf_config *hf, const zds_config_context *context, const cJSON *arguments)
{
    trainer t = begin(hf, context, arguments);
    double h = t.hidden_size;
    if (!cJSON_GetObjectItemCaseSensitive(hf->tree, "gradient_accumulation_steps") &&
        is_given(&t, "gradient_accumulation_steps") &&
        !cJSON_AddNumberToObject(hf->tree, "gradient_accumulation_steps",
                                 number_argument(&t, "gradient_accumulation_steps", 1)))
        hf->failed = true;
    accelerate_precision(&t);
    fill_number(&t, "zero_optimization.stage", 2, NULL, false);
    accelerate_offload(&t, "zero_optimization.offload_optimizer.device",
                       "zero_optimization.offload_optimizer.nvme_path");
    accelerate_offload(&t, "zero_optimization.offload_param.device",
                       "zero_optimization.offload_param.nvme_path");
    fill(&t, "zero_optimization.stage3_gather_16bit_weights_on_model_save", cJSON_CreateFalse(),
         NULL, false);
    if (h > 0) {
        fill_number(&t, "zero_optimization.stage3_prefetch_bucket_size", trunc(0.9 * h * h), NULL,
                    false);
        fill_number(&t, "zero_optimization.stage3_param_persistence_threshold", 10 * h, NULL,
                    false);
    }
    hf_read_stage(hf);
}

/* === the second half === */

/* Returns false if a key waits for a hidden size that nobody knows. */
static bool fill_hidden_size(trainer *t)
{
    static const char *const keys[] = {"zero_optimization.reduce_bucket_size",
                                       "zero_optimization.stage3_prefetch_bucket_size",
                                       "zero_optimization.stage3_param_persistence_threshold"};
    double h = t->hidden_size;
    bool good = true;
    for (size_t i = 0; h <= 0 && i < 3; i++)
        if (zds_hf_config_is_auto(t->hf, keys[i])) {
            hf_error(t->hf, keys[i],
                     "\"auto\" is filled from the model's hidden size, which is not known; write "
                     "a number");
            good = false;
        }
    if (h <= 0)
        return good;
    fill_number(t, keys[0], h * h, NULL, false);
    if (t->hf->stage == 3) {
        fill_number(t, keys[1], trunc(0.9 * h * h), NULL, false);
        fill_number(t, keys[2], 10 * h, NULL, false);
    }
    return true;
}

/* warmup_steps is a count from 1 on, a share of the steps below that; warmup_ratio is an older
 * spelling of the share. */
static void fill_warmup(trainer *t)
{
    static const char *const key = "scheduler.params.warmup_num_steps";
    const char *name = "warmup_steps";
    double w = number_argument(t, name, 0);
    if (w == 0 && is_given(t, "warmup_ratio")) {
        name = "warmup_ratio";
        w = number_argument(t, name, 0);
    }
    bool share = w > 0 && (w < 1 || strcmp(name, "warmup_ratio") == 0);
    if (share && t->steps <= 0) {
        char message[160];
        snprintf(message, sizeof message,
                 "\"auto\" is filled with a share of the training steps (%s=%.10g), and how many "
                 "there are is not known; write a number",
                 name, w);
        if (zds_hf_config_is_auto(t->hf, key))
            hf_error(t->hf, key, message);
        return;
    }
    double warmup = share ? ceil(t->steps * w) : trunc(w);
    fill_number(t, key, fmax(warmup, 1), name,
                is_given(t, "warmup_steps") || is_given(t, "warmup_ratio"));
}

static void fill_schedule(trainer *t)
{
    static const char *const total = "scheduler.params.total_num_steps";
    if (t->steps > 0)
        fill_number(t, total, t->steps, "num_training_steps (calculated)", true);
    else if (zds_hf_config_is_auto(t->hf, total))
        hf_error(t->hf, total,
                 "\"auto\" is filled with the number of training steps, which is not known; write "
                 "a number");
    fill_warmup(t);
}

void hf_finalize(zds_hf_config *hf, const zds_config_context *context, const cJSON *arguments)
{
    trainer t = begin(hf, context, arguments);
    size_t before = hf->mismatch_count;
    bool complete = fill_hidden_size(&t);
    fill_schedule(&t);
    if (complete)
        return;
    /* transformers stops at the hidden size, so that what it would have matched later is no
     * mismatch: here that is told all the same. */
    for (size_t i = before; i < hf->mismatch_count; i++)
        hf_error(hf, hf->mismatches[i].ds_key, hf->mismatches[i].says);
    hf_forget(hf, before);
}

/* The fields of transformers' TrainingArguments: which there are, and what those may hold that
 * fill a ds_config or choose a schedule. */
#include "config/arguments.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "config/internal.h"
#include "host/nearest.h"

typedef enum type { OTHER, FLAG, COUNT, NUMBER, WORD, OBJECT } type;

typedef struct argument {
    const char *name;
    type type;       /* OTHER: nothing here reads it, whatever it is */
    double min, max; /* of COUNT and NUMBER */
    bool below_max;  /* max itself is out of range */
} argument;

/* TrainingArguments of transformers 5.23, in its order. */
static const argument arguments[] = {
    {.name = "output_dir"},
    {"per_device_train_batch_size", COUNT, 1, INT32_MAX, false},
    {.name = "num_train_epochs"},
    {"max_steps", COUNT, -1, 0x1p53, false},
    {"learning_rate", NUMBER, 0, INFINITY, false},
    {.name = "lr_scheduler_type", .type = WORD},
    {.name = "lr_scheduler_kwargs", .type = OBJECT},
    {"warmup_steps", NUMBER, 0, INFINITY, false},
    {"warmup_ratio", NUMBER, 0, 1, false}, /* of older versions */
    {.name = "optim", .type = WORD},
    {.name = "optim_args"},
    {"weight_decay", NUMBER, 0, INFINITY, false},
    {"adam_beta1", NUMBER, 0, 1, true},
    {"adam_beta2", NUMBER, 0, 1, true},
    {"adam_epsilon", NUMBER, 0, INFINITY, false},
    {.name = "optim_target_modules"},
    {"gradient_accumulation_steps", COUNT, 1, INT32_MAX, false},
    {.name = "average_tokens_across_devices"},
    {"max_grad_norm", NUMBER, 0, INFINITY, false},
    {.name = "label_smoothing_factor"},
    {.name = "bf16", .type = FLAG},
    {.name = "fp16", .type = FLAG},
    {.name = "bf16_full_eval", .type = FLAG},
    {.name = "fp16_full_eval", .type = FLAG},
    {.name = "tf32"},
    {.name = "activation_checkpointing"},
    {.name = "activation_checkpointing_kwargs"},
    {.name = "gradient_checkpointing"},
    {.name = "gradient_checkpointing_kwargs"},
    {.name = "torch_compile"},
    {.name = "torch_compile_backend"},
    {.name = "torch_compile_mode"},
    {.name = "use_liger_kernel"},
    {.name = "liger_kernel_config"},
    {.name = "use_cache"},
    {.name = "neftune_noise_alpha"},
    {.name = "torch_empty_cache_steps"},
    {.name = "auto_find_batch_size", .type = FLAG},
    {.name = "logging_strategy"},
    {.name = "logging_steps"},
    {.name = "logging_first_step"},
    {.name = "log_on_each_node"},
    {.name = "logging_nan_inf_filter"},
    {.name = "include_num_input_tokens_seen"},
    {.name = "log_level"},
    {.name = "log_level_replica"},
    {.name = "disable_tqdm"},
    {.name = "report_to"},
    {.name = "run_name"},
    {.name = "project"},
    {.name = "trackio_space_id"},
    {.name = "trackio_bucket_id"},
    {.name = "trackio_static_space_id"},
    {.name = "eval_strategy"},
    {.name = "eval_steps"},
    {.name = "eval_delay"},
    {.name = "per_device_eval_batch_size"},
    {.name = "prediction_loss_only"},
    {.name = "eval_on_start"},
    {.name = "eval_do_concat_batches"},
    {.name = "eval_use_gather_object"},
    {.name = "eval_accumulation_steps"},
    {.name = "include_for_metrics"},
    {.name = "batch_eval_metrics"},
    {.name = "save_only_model"},
    {.name = "save_strategy"},
    {.name = "save_steps"},
    {.name = "save_on_each_node", .type = FLAG},
    {.name = "save_total_limit"},
    {.name = "enable_jit_checkpoint"},
    {.name = "push_to_hub"},
    {.name = "hub_token"},
    {.name = "hub_private_repo"},
    {.name = "hub_model_id"},
    {.name = "hub_strategy"},
    {.name = "hub_always_push"},
    {.name = "hub_revision"},
    {.name = "load_best_model_at_end"},
    {.name = "metric_for_best_model"},
    {.name = "greater_is_better"},
    {.name = "ignore_data_skip"},
    {.name = "restore_callback_states_from_checkpoint"},
    {.name = "full_determinism"},
    {.name = "seed"},
    {.name = "data_seed"},
    {.name = "use_cpu"},
    {.name = "accelerator_config"},
    {.name = "parallelism_config"},
    {.name = "dataloader_drop_last"},
    {.name = "dataloader_num_workers"},
    {.name = "dataloader_pin_memory"},
    {.name = "dataloader_persistent_workers"},
    {.name = "dataloader_prefetch_factor"},
    {.name = "dataloader_multiprocessing_context"},
    {.name = "dataloader_in_order"},
    {.name = "remove_unused_columns"},
    {.name = "label_names"},
    {.name = "train_sampling_strategy"},
    {.name = "length_column_name"},
    {.name = "ddp_find_unused_parameters"},
    {.name = "ddp_bucket_cap_mb"},
    {.name = "ddp_broadcast_buffers"},
    {.name = "ddp_static_graph"},
    {.name = "ddp_backend"},
    {.name = "ddp_timeout"},
    {.name = "fsdp"},
    {.name = "fsdp_config"},
    {.name = "deepspeed"},
    {.name = "debug"},
    {.name = "skip_memory_metrics"},
    {.name = "do_train"},
    {.name = "do_eval"},
    {.name = "do_predict"},
    {.name = "resume_from_checkpoint"},
    {.name = "local_rank"},
};
enum { ARGUMENTS = sizeof arguments / sizeof *arguments };

static const argument *find(const char *name)
{
    for (size_t i = 0; i < ARGUMENTS; i++)
        if (strcmp(arguments[i].name, name) == 0)
            return &arguments[i];
    return NULL;
}

bool arguments_have(const char *name)
{
    return find(name) != NULL;
}

static const char *nearest(const char *name)
{
    const char *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < ARGUMENTS; i++) {
        size_t distance = name_distance(name, arguments[i].name);
        if (distance < least) {
            least = distance;
            best = arguments[i].name;
        }
    }
    return best && name_is_near(name, best) ? best : NULL;
}

/* === values === */

static bool in_range(const argument *a, double x)
{
    return isfinite(x) && x >= a->min && (a->below_max ? x < a->max : x <= a->max);
}

/* Python takes 0 and 1 for False and True, and the dictionary also as text. */
static bool is_right(const argument *a, const cJSON *node)
{
    double x = cJSON_IsNumber(node) ? node->valuedouble : (double)NAN;
    switch (a->type) {
    case FLAG:
        return cJSON_IsBool(node) || x == 0 || x == 1;
    case COUNT:
        return in_range(a, x) && x == trunc(x);
    case NUMBER:
        return in_range(a, x);
    case WORD:
        return cJSON_IsString(node);
    case OBJECT:
        return cJSON_IsObject(node);
    case OTHER:
        break;
    }
    return true;
}

/* "a number from 0 on", "an integer from 1 to 2147483647" */
static void expects(const argument *a, char *text, size_t size)
{
    static const char *const names[] = {[FLAG] = "true or false",
                                        [COUNT] = "an integer",
                                        [NUMBER] = "a number",
                                        [WORD] = "a string",
                                        [OBJECT] = "an object"};
    int n = snprintf(text, size, "%s", names[a->type]);
    if ((a->type != COUNT && a->type != NUMBER) || !isfinite(a->min))
        return;
    if (!isfinite(a->max))
        snprintf(text + n, size - (size_t)n, " >= %.10g", a->min);
    else if (a->below_max)
        snprintf(text + n, size - (size_t)n, " >= %.10g and < %.10g", a->min, a->max);
    else
        snprintf(text + n, size - (size_t)n, " from %.10g to %.10g", a->min, a->max);
}

static void say_what_is_wrong(const argument *a, const cJSON *node, char *text, size_t size)
{
    char shown[128], wanted[96];
    tree_show(node, shown, sizeof shown);
    expects(a, wanted, sizeof wanted);
    bool kind = (a->type == NUMBER || a->type == COUNT) && cJSON_IsNumber(node);
    if (kind && (a->type == NUMBER || node->valuedouble == trunc(node->valuedouble)))
        snprintf(text, size, "%s is out of range; write %s", shown, wanted);
    else
        snprintf(text, size, "%s is not %s", shown, wanted);
}

/* A dictionary may be given as its JSON text. NULL if there is no memory. */
static cJSON *copy_of(const argument *a, const cJSON *node)
{
    cJSON *parsed =
        a->type == OBJECT && cJSON_IsString(node) ? cJSON_Parse(node->valuestring) : NULL;
    return parsed ? parsed : cJSON_Duplicate(node, true);
}

typedef struct reader {
    cJSON *good;
    arguments_problem_fn report;
    void *user;
    size_t wrong;
} reader;

static void tell(reader *r, const cJSON *node, bool at_name, const char *text)
{
    r->wrong++;
    if (r->report)
        r->report(r->user, node, at_name, text);
}

static void tell_unknown(reader *r, const cJSON *node)
{
    char text[160];
    const char *near = r->wrong < PROBLEMS_MAX ? nearest(node->string) : NULL;
    snprintf(text, sizeof text, "is no field of TrainingArguments; %s%s%s",
             near ? "did you mean " : "delete it", near ? near : "", near ? "?" : "");
    tell(r, node, true, text);
}

/* False if there is no memory. */
static bool read_one(reader *r, const cJSON *node)
{
    char text[320];
    const argument *a = find(node->string);
    if (!a)
        tell_unknown(r, node);
    if (!a || cJSON_IsNull(node))
        return true;
    cJSON *copy = copy_of(a, node);
    if (!copy)
        return false;
    if (is_right(a, copy)) {
        bool added = cJSON_AddItemToObject(r->good, a->name, copy);
        if (!added)
            cJSON_Delete(copy);
        return added;
    }
    cJSON_Delete(copy);
    say_what_is_wrong(a, node, text, sizeof text);
    tell(r, node, false, text);
    return true;
}

cJSON *arguments_read(const cJSON *tree, arguments_problem_fn report, void *user)
{
    reader r = {.good = cJSON_CreateObject(), .report = report, .user = user};
    bool whole = r.good != NULL;
    for (const cJSON *node = tree ? tree->child : NULL; node && whole; node = node->next)
        whole = !node->string || read_one(&r, node);
    if (whole)
        return r.good;
    cJSON_Delete(r.good);
    return NULL;
}

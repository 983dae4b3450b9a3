/* What is legal but unwise, each with the reason: the traps that the documentation of DeepSpeed and
 * of the Trainer warns of. Only what the user wrote is told, never a default. */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "config/internal.h"

#define Z "zero_optimization."

#define ADVISE(path, ...) problem_add(c, ZDS_PROBLEM_WARNING, ZDS_CHECK_ZDS, path, __VA_ARGS__)

/* The value where the file has one that can be read; NULL otherwise. */
static const value *written(const zds_config *c, const char *path)
{
    const value *v = value_of(c, path);
    return v->node && !v->bad && !v->null ? v : NULL;
}

static bool is_written(const zds_config *c, const char *path, bool boolean)
{
    const value *v = written(c, path);
    return v && v->boolean == boolean;
}

static int64_t stage_of(const zds_config *c)
{
    return value_of(c, Z "stage")->integer;
}

/* A number among a plugin's options; false if there is none. */
static bool option(const zds_config *c, const char *path, double *out)
{
    const cJSON *node = tree_find(c->resolved, path);
    if (!cJSON_IsNumber(node))
        return false;
    *out = node->valuedouble;
    return true;
}

static bool is_type(const zds_config *c, const char *path, const char *name)
{
    const char *type = value_of(c, path)->string;
    return type && strcasecmp(type, name) == 0;
}

static bool is_choice(const zds_config *c, const char *path, const char *choices)
{
    const value *v = written(c, path);
    const char *word = v ? v->string : NULL;
    if (word && strncmp(word, "torch.", 6) == 0)
        word += 6;
    return word && field_has_choice(choices, word, true);
}

/* === precision === */

static void precision(zds_config *c)
{
    bool fp16 = is_written(c, "fp16.enabled", true), bf16 = value_of(c, "bf16.enabled")->boolean;
    const value *scale = written(c, "fp16.loss_scale"),
                *power = written(c, "fp16.initial_scale_power");
    if (fp16)
        ADVISE("fp16.enabled",
               "bf16 has fp32's range, so that no loss scale is needed and none overflows; "
               "processors and GPUs since 2020 compute in it (NVIDIA: Ampere). Unless yours is "
               "older, write \"bf16\": {\"enabled\": true} instead");
    if (fp16 && scale && scale->number > 0)
        ADVISE("fp16.loss_scale",
               "a static scale does not recover: where gradients overflow, every step is skipped; "
               "where they shrink, they are lost. Write 0 for the dynamic one");
    if (fp16 && power && power->integer > 24)
        ADVISE("fp16.initial_scale_power",
               "2^%lld overflows fp16 at once: the first steps are skipped until the scale has "
               "halved often enough; write 16",
               (long long)power->integer);
    if (value_of(c, "gradient_accumulation_steps")->integer > 1 &&
        is_choice(c, "data_types.grad_accum_dtype", "bf16|bfloat16|fp16|float16|half"))
        ADVISE("data_types.grad_accum_dtype",
               "sums of 16-bit gradients lose what is 256 times smaller (bf16) than what is there "
               "already; write fp32, or delete the key");
    if (bf16 && is_choice(c, "communication_data_type", "fp16"))
        ADVISE("communication_data_type",
               "fp16 ends at 65504: gradients of a bf16 model overflow on their way; write bf16 "
               "or fp32");
    if (!bf16 && !value_of(c, "fp16.enabled")->boolean &&
        is_choice(c, "communication_data_type", "fp16|bf16"))
        ADVISE("communication_data_type",
               "gradients of an fp32 model are rounded to 16 bits before they are added over "
               "ranks; write fp32, or delete the key");
    if (is_written(c, "bf16.check_grad_overflow", false) && bf16 && stage_of(c) != 1 &&
        stage_of(c) != 2)
        ADVISE("bf16.check_grad_overflow",
               "false has an effect at stages 1 and 2 alone; delete it");
    else if (is_written(c, "bf16.check_grad_overflow", false))
        ADVISE("bf16.check_grad_overflow",
               "false lets one infinite or undefined gradient into the weights, which ruins them "
               "for good; write true");
}

/* === gradients === */

static void gradients(zds_config *c)
{
    const value *clip = written(c, "gradient_clipping"),
                *factor = written(c, "gradient_predivide_factor");
    if (clip && clip->number == 0)
        ADVISE("gradient_clipping",
               "0 turns clipping off: one batch with a large gradient can undo the training so "
               "far; the default of DeepSpeed and the Trainer is 1.0");
    if (is_written(c, "prescale_gradients", true) && factor && factor->number != 1)
        ADVISE("gradient_predivide_factor",
               "is not used while prescale_gradients is true; delete one of them");
    if (is_choice(c, "gradient_allreduce_op", "sum") && c->world_size > 1)
        ADVISE("gradient_allreduce_op",
               "sum makes gradients %lld times larger than the mean that learning rates and "
               "gradient_clipping are meant for; write mean",
               (long long)c->world_size);
    if (stage_of(c) >= 2 && is_written(c, Z "overlap_comm", false))
        ADVISE(Z "overlap_comm",
               "false makes backward wait for every reduction; true costs the memory of one more "
               "bucket");
}

/* === sizes === */

/* A matrix of the model has at least hidden_size^2 elements. */
static void buckets(zds_config *c, const zds_config_context *context)
{
    enum { TINY = 100000 };
    double h = (double)context->hidden_size, matrix = h * h;
    static const struct {
        const char *path, *why;
        int64_t stage;
        double least; /* of a matrix: "auto" is this much */
    } keys[] = {{Z "reduce_bucket_size",
                 "every gradient is reduced on its own, which costs a round of messages each", 1,
                 1},
                {Z "stage3_prefetch_bucket_size",
                 "no parameter fits in, so that none is fetched before it is needed", 3, 0.9},
                {Z "stage3_max_live_parameters",
                 "each parameter is released before the next, so that nothing is fetched before it "
                 "is needed",
                 3, 1}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const value *v = written(c, keys[i].path);
        if (!v || stage_of(c) < keys[i].stage)
            continue;
        if (h > 0 && v->number < trunc(keys[i].least * matrix))
            ADVISE(keys[i].path,
                   "%lld elements are less than one %g x %g matrix of the model: %s; write at "
                   "least %.0f",
                   (long long)v->integer, h, h, keys[i].why, matrix);
        else if (h <= 0 && i == 0 && v->integer < TINY)
            ADVISE(keys[i].path,
                   "%lld elements are less than most matrices have: %s; write \"auto\" or the "
                   "model's hidden size squared",
                   (long long)v->integer, keys[i].why);
    }
    const value *keep = written(c, Z "stage3_param_persistence_threshold");
    if (keep && stage_of(c) == 3 && h > 0 && keep->number > matrix)
        ADVISE(Z "stage3_param_persistence_threshold",
               "%lld elements are more than a %g x %g matrix of the model has: every rank keeps "
               "what stage 3 is meant to share; write %.0f",
               (long long)keep->integer, h, h, 10 * h);
    const value *words = written(c, "vocabulary_size");
    if (words && words->integer % 8)
        ADVISE("vocabulary_size", "%lld is no multiple of 8, which makes matrix products slower",
               (long long)words->integer);
}

/* === offload and saving === */

static void offload(zds_config *c)
{
    static const struct {
        const char *section, *device, *pin;
        int64_t lowest;
        const char *idle;
    } tiers[] = {{Z "offload_optimizer", Z "offload_optimizer.device",
                  Z "offload_optimizer.pin_memory", 1,
                  "has no effect at stage 0; write zero_optimization.stage 1, 2 or 3"},
                 {Z "offload_param", Z "offload_param.device", Z "offload_param.pin_memory", 3,
                  "has no effect below stage 3"}};
    for (size_t i = 0; i < 2; i++) {
        const char *device = value_of(c, tiers[i].device)->string;
        if (value_of(c, tiers[i].section)->null || strcmp(device, "none") == 0)
            continue;
        if (stage_of(c) < tiers[i].lowest)
            ADVISE(tiers[i].section, "%s", tiers[i].idle);
        else if (stage_of(c) < 3 && strcmp(device, "nvme") == 0 && !config_tier(c, device))
            ADVISE(tiers[i].device, "below stage 3 nvme is taken as cpu; write cpu, or stage 3");
        if (is_written(c, tiers[i].pin, false))
            ADVISE(tiers[i].pin,
                   "false: a CUDA device copies from memory that is not page-locked in two steps, "
                   "and not while it computes; write true, unless host memory is short");
    }
}

/* === optimizer and schedule === */

static void rates(zds_config *c)
{
    double lr, peak, warmup, total;
    bool decay = is_type(c, "scheduler.type", "WarmupDecayLR"),
         warms = decay || is_type(c, "scheduler.type", "WarmupLR"),
         has_lr = option(c, "optimizer.params.lr", &lr),
         has_peak = option(c, "scheduler.params.warmup_max_lr", &peak);
    if (warms && has_lr && has_peak && lr != peak)
        ADVISE("optimizer.params.lr",
               "%g is not used: the schedule goes to scheduler.params.warmup_max_lr, %g; write "
               "the same in both",
               lr, peak);
    if (decay && has_lr && !has_peak && lr != 1e-3)
        ADVISE("scheduler",
               "WarmupDecayLR without warmup_max_lr goes to 0.001, not to the optimizer's lr, %g; "
               "write warmup_max_lr",
               lr);
    if (option(c, "scheduler.params.warmup_num_steps", &warmup) &&
        option(c, "scheduler.params.total_num_steps", &total) && warmup >= total)
        ADVISE("scheduler.params.warmup_num_steps",
               "%g steps of warm-up in a schedule of %g: the full rate is never reached, or not "
               "kept",
               warmup, total);
}

static void adam(zds_config *c)
{
    double decay = 0;
    const cJSON *mode = tree_find(c->resolved, "optimizer.params.adam_w_mode");
    bool decays = option(c, "optimizer.params.weight_decay", &decay) && decay > 0;
    if (is_type(c, "optimizer.type", "Adam") && decays && !mode)
        ADVISE("optimizer.type",
               "Adam decays weights as AdamW does unless adam_w_mode is false; write AdamW, or "
               "\"adam_w_mode\": false for L2 regularisation");
    if (is_type(c, "optimizer.type", "AdamW") && cJSON_IsFalse(mode))
        ADVISE("optimizer.params.adam_w_mode",
               "false is ignored by AdamW; write \"type\": \"Adam\" for L2 regularisation");
}

void effective_wisdom(zds_config *c, const zds_config_context *context)
{
    precision(c);
    gradients(c);
    buckets(c, context);
    offload(c);
    rates(c);
    adam(c);
}

/* What keys say about each other: old spellings, and the combinations that DeepSpeed refuses when
 * it reads a config or creates an engine. */
#include <stdio.h>
#include <string.h>

#include "config/internal.h"
#include "host/glob.h"

#define Z "zero_optimization."

static bool is_true(const zds_config *c, const char *path)
{
    return value_of(c, path)->boolean;
}

static int64_t integer(const zds_config *c, const char *path)
{
    return value_of(c, path)->integer;
}

static value *writable(zds_config *c, const char *path)
{
    return &c->values[field_find_path(&c->index, path)];
}

#define REFUSE(path, ...) problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_DEEPSPEED, path, __VA_ARGS__)
#define INSIST(path, ...) problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path, __VA_ARGS__)
#define ADVISE(path, ...) problem_add(c, ZDS_PROBLEM_WARNING, ZDS_CHECK_ZDS, path, __VA_ARGS__)

/* === old spellings === */

/* zero_optimization: true or false, in place of a section. */
static void zero_as_bool(zds_config *c)
{
    const value *zero = value_of(c, "zero_optimization");
    if (!cJSON_IsBool(zero->node))
        return;
    value *stage = writable(c, Z "stage");
    stage->integer = zero->boolean;
    stage->number = zero->boolean;
    stage->node = zero->node;
    if (zero->boolean) {
        const value *size = value_of(c, "allgather_size");
        value *bucket = writable(c, Z "allgather_bucket_size");
        bucket->integer = size->integer;
        bucket->number = size->number;
    }
    ADVISE("zero_optimization", "a boolean is an old form; write {\"stage\": %d}", zero->boolean);
}

/* {"device": "cpu"} for a boolean. */
static void old_offload(zds_config *c, const char *old, const char *section, const char *device)
{
    const value *v = value_of(c, old);
    if (!v->node || v->bad)
        return;
    if (value_of(c, section)->node) {
        REFUSE(old, "is an old form of %s, which is there too; delete %s", section, old);
        return;
    }
    ADVISE(old, "is an old form; write \"%s\": {\"device\": \"%s\"}", strrchr(section, '.') + 1,
           v->boolean ? "cpu" : "none");
    if (!v->boolean)
        return;
    value *parent = writable(c, section);
    parent->null = false;
    parent->node = v->node;
    value *where = writable(c, device);
    where->string = "cpu";
    where->node = v->node;
}

static void old_spellings(zds_config *c)
{
    zero_as_bool(c);
    old_offload(c, Z "cpu_offload", Z "offload_optimizer", Z "offload_optimizer.device");
    old_offload(c, Z "cpu_offload_param", Z "offload_param", Z "offload_param.device");
    if (value_of(c, Z "cpu_offload_use_pin_memory")->node)
        ADVISE(Z "cpu_offload_use_pin_memory",
               "has no effect; write pin_memory in offload_optimizer or offload_param");
    const value *old = value_of(c, Z "stage3_gather_fp16_weights_on_model_save");
    if (old->node && !old->bad) {
        const char *successor = Z "stage3_gather_16bit_weights_on_model_save";
        value *new = writable(c, successor);
        if (new->node)
            REFUSE(Z "stage3_gather_fp16_weights_on_model_save",
                   "is the old name of %s, which is there too; delete the old one", successor);
        else
            ADVISE(Z "stage3_gather_fp16_weights_on_model_save", "is the old name of %s",
                   successor);
        if (!new->node) {
            new->boolean = old->boolean;
            new->node = old->node;
        }
    }
    if (value_of(c, "allgather_size")->node &&
        !cJSON_IsBool(value_of(c, "zero_optimization")->node))
        INSIST("allgather_size", "is not read beside a zero_optimization section; write "
                                 "zero_optimization.allgather_bucket_size");
    const cJSON *bf16 = value_of(c, "bf16")->node;
    if (value_of(c, "bfloat16")->node && bf16 && !cJSON_IsNull(bf16))
        INSIST("bfloat16", "is the old name of bf16, which is there too; delete bfloat16");
    else if (value_of(c, "bfloat16")->node)
        ADVISE("bfloat16", "is the old name of bf16");
}

/* === precision === */

static const char *short_dtype(const char *name)
{
    if (!name)
        return NULL;
    name += strncmp(name, "torch.", 6) == 0 ? 6 : 0;
    if (field_has_choice("fp16|float16|half", name, false))
        return "fp16";
    return field_has_choice("bf16|bfloat16", name, false) ? "bf16" : "fp32";
}

static void precision(zds_config *c)
{
    bool fp16 = is_true(c, "fp16.enabled"), bf16 = is_true(c, "bf16.enabled");
    int64_t stage = integer(c, Z "stage");
    const char *model = fp16 ? "fp16" : bf16 ? "bf16" : "fp32";
    if (fp16 && bf16)
        REFUSE("bf16.enabled", "fp16.enabled and bf16.enabled are both true; keep one");
    if (fp16 && value_of(c, "fp16.loss_scale")->number == 0) {
        if (integer(c, "fp16.loss_scale_window") <= 0)
            REFUSE("fp16.loss_scale_window",
                   "must be greater than 0 where the loss scale is dynamic (loss_scale 0)");
        if (integer(c, "fp16.min_loss_scale") <= 0)
            REFUSE("fp16.min_loss_scale",
                   "must be greater than 0 where the loss scale is dynamic (loss_scale 0)");
    }
    static const char *const master[] = {"fp16.fp16_master_weights_and_grads",
                                         "bf16.bf16_master_weights_and_grads",
                                         "bf16.bf16_optimizer_states"};
    for (size_t i = 0; i < 3; i++)
        if (is_true(c, master[i]) && stage == 0)
            REFUSE(master[i], "needs zero_optimization.stage 1, 2 or 3");
    if (is_true(c, "bf16.bf16_optimizer_states") &&
        !is_true(c, "bf16.bf16_master_weights_and_grads"))
        REFUSE("bf16.bf16_optimizer_states", "needs bf16.bf16_master_weights_and_grads: true");
    const char *param = short_dtype(value_of(c, "data_types.param_dtype")->string);
    if (param && strcmp(param, model) != 0)
        INSIST("data_types.param_dtype",
               "%s, but fp16.enabled and bf16.enabled say %s; change one, or delete this key",
               param, model);
    const char *accumulate = short_dtype(value_of(c, "data_types.grad_accum_dtype")->string);
    if (accumulate && stage == 0 && strcmp(accumulate, model) != 0)
        INSIST("data_types.grad_accum_dtype",
               "%s at stage 0, where it must be that of the model (%s); delete the key, or use "
               "zero_optimization.stage 1",
               accumulate, model);
    if (accumulate && strcmp(accumulate, "fp32") == 0 && bf16 && stage == 1 &&
        !is_true(c, Z "compute_grad_norm") && value_of(c, Z "offload_optimizer")->null)
        INSIST(Z "compute_grad_norm",
               "false is not possible at stage 1 with bf16 and fp32 accumulation; write true");
}

/* === gradients === */

static void gradients(zds_config *c)
{
    int64_t stage = integer(c, Z "stage");
    const value *op = value_of(c, "gradient_allreduce_op");
    bool sum = strcasecmp(op->string, "sum") == 0;
    if (sum && stage == 3)
        REFUSE("gradient_allreduce_op", "sum is not possible at stage 3; write mean");
    if (sum && !value_of(c, Z "zenflow")->null)
        REFUSE("gradient_allreduce_op", "sum is not possible with zenflow; write mean");
    if (sum && is_true(c, "compile.deepcompile"))
        REFUSE("gradient_allreduce_op", "sum is not possible with compile.deepcompile; write mean");
    if (stage >= 2 && is_true(c, Z "reduce_scatter")) {
        if (is_true(c, "prescale_gradients") && (!sum || stage == 3))
            INSIST("prescale_gradients",
                   "true is not possible at stage %d while zero_optimization.reduce_scatter is "
                   "true; write false in one of them",
                   (int)stage);
        if (value_of(c, "gradient_predivide_factor")->number != 1)
            INSIST("gradient_predivide_factor",
                   "must be 1 at stage %d while zero_optimization.reduce_scatter is true",
                   (int)stage);
    }
    if (!is_true(c, "managed_gradient_accumulation")) {
        const value *overlap = value_of(c, Z "overlap_comm");
        if (stage != 2 && !overlap->null && overlap->boolean)
            INSIST(Z "overlap_comm",
                   "true with managed_gradient_accumulation: false needs stage 2; write false");
    }
    if (!is_true(c, Z "compute_grad_norm")) {
        if (stage != 1 && stage != 2)
            REFUSE(Z "compute_grad_norm", "false needs zero_optimization.stage 1 or 2; write true");
        else if (value_of(c, "gradient_clipping")->number != 0)
            INSIST(Z "compute_grad_norm",
                   "false while gradients are clipped; write \"gradient_clipping\": 0, or true "
                   "here");
        else if (!value_of(c, Z "offload_optimizer")->null &&
                 strcmp(value_of(c, Z "offload_optimizer.device")->string, "none") != 0)
            INSIST(Z "compute_grad_norm", "false is not possible with offload_optimizer; write "
                                          "true");
    }
    if (integer(c, Z "allgather_bucket_size") % 2)
        INSIST(Z "allgather_bucket_size", "must be even");
    if (is_true(c, Z "zero_quantized_gradients") && !is_true(c, Z "reduce_scatter"))
        INSIST(Z "zero_quantized_gradients", "needs zero_optimization.reduce_scatter: true");
}

/* === offload === */

static void offload(zds_config *c)
{
    int64_t stage = integer(c, Z "stage");
    const value *optimizer = value_of(c, Z "offload_optimizer");
    if (!optimizer->null && value_of(c, Z "offload_optimizer.ratio")->number < 1 && stage != 3)
        REFUSE(Z "offload_optimizer.ratio", "below 1 needs zero_optimization.stage 3");
    if (is_true(c, "aio.use_gds"))
        REFUSE("aio.use_gds", "needs CUDA; write false");
    static const char *const sections[] = {Z "offload_optimizer", Z "offload_param"};
    static const char *const devices[] = {Z "offload_optimizer.device", Z "offload_param.device"};
    static const char *const paths[] = {Z "offload_optimizer.nvme_path",
                                        Z "offload_param.nvme_path"};
    for (size_t i = 0; i < 2; i++)
        if (!value_of(c, sections[i])->null &&
            strcmp(value_of(c, devices[i])->string, "nvme") == 0 && value_of(c, paths[i])->null &&
            stage == 3 && !config_tier(c, "nvme"))
            INSIST(devices[i], "nvme needs a folder; write nvme_path");
}

/* === optimizer and schedule === */

/* "auto" among a plugin's options that nothing filled; DeepSpeed hands the word on. */
static void left_over(zds_config *c, const char *section)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, tree_find(c->resolved, section))
    {
        char path[256];
        if (!tree_is_auto(item))
            continue;
        snprintf(path, sizeof path, "%s.%.128s", section, item->string);
        if (problem_is_told(c, path))
            continue;
        INSIST(path, c->arguments
                         ? "nothing fills \"auto\" here; write the value, or delete the key"
                         : "\"auto\" is filled from training arguments, and there are none here; "
                           "write the value");
    }
}

static void optimizer(zds_config *c)
{
    left_over(c, "optimizer.params");
    left_over(c, "scheduler.params");
    const value *section = value_of(c, "optimizer"), *type = value_of(c, "optimizer.type");
    if (section->node && !section->bad && !type->bad && type->null)
        INSIST("optimizer", "has no type; write \"type\": \"AdamW\", or delete the section for the "
                            "program's own optimizer");
    const cJSON *norm = tree_find(c->resolved, "optimizer.params." MAX_GRAD_NORM);
    if (norm)
        INSIST("optimizer.params." MAX_GRAD_NORM,
               "is no option of optimizers; write gradient_clipping at the top level");
    if (type->string && strcasecmp(type->string, "lamb") == 0 && is_true(c, "fp16.enabled") &&
        value_of(c, "fp16.loss_scale")->number != 0)
        INSIST("fp16.loss_scale", "Lamb needs the dynamic loss scale; write 0");
    const value *schedule = value_of(c, "scheduler"), *name = value_of(c, "scheduler.type");
    if (schedule->node && !schedule->bad && !name->bad && name->null)
        INSIST("scheduler", "has no type; write \"type\": \"WarmupLR\", or delete the section");
    else if (name->string && value_of(c, "scheduler.params")->null)
        INSIST("scheduler", "has no params; write \"params\": {} for the defaults");
}

/* === groups of parameters === */

static void pattern(zds_config *c, const char *path, const cJSON *node)
{
    const char *fault = cJSON_IsString(node) ? glob_fault(node->valuestring) : NULL;
    if (fault)
        problem_add_node(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path, node, false, "%s", fault);
}

static void param_groups(zds_config *c)
{
    const cJSON *group, *item;
    size_t i = 0;
    cJSON_ArrayForEach(group, value_of(c, "zds.param_groups")->list)
    {
        char path[80];
        const cJSON *params = cJSON_GetObjectItemCaseSensitive(group, "params");
        int n = snprintf(path, sizeof path, "zds.param_groups.%zu%s", i++, params ? ".params" : "");
        size_t k = 0;
        if (cJSON_IsObject(group) && (!params || (cJSON_IsArray(params) && !params->child)))
            INSIST(path,
                   "names no parameters; write \"params\": [\"*.bias\"], or delete the group");
        pattern(c, path, params);
        cJSON_ArrayForEach(item, params)
        {
            snprintf(path + n, sizeof path - (size_t)n, ".%zu", k++);
            pattern(c, path, item);
        }
    }
}

/* === derived values === */

static void derive(zds_config *c)
{
    value *overlap = writable(c, Z "overlap_comm");
    if (overlap->null) {
        overlap->null = false;
        overlap->boolean = integer(c, Z "stage") == 3;
    }
    if (is_true(c, "flops_profiler.enabled"))
        writable(c, "wall_clock_breakdown")->boolean = true;
}

void effective_rules(zds_config *c)
{
    old_spellings(c);
    effective_batch(c);
    precision(c);
    gradients(c);
    offload(c);
    optimizer(c);
    param_groups(c);
    derive(c);
}

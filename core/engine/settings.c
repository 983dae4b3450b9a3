/* What the config says, in the engine's words; read once. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/internal.h"
#include "host/error.h"

/* "fp32", "torch.float32", "float", ... */
static bool dtype_of(const char *name, zds_dtype *dtype)
{
    static const struct {
        const char *name;
        zds_dtype dtype;
    } names[] = {{"fp32", ZDS_F32},  {"float32", ZDS_F32},  {"float", ZDS_F32},
                 {"fp16", ZDS_F16},  {"float16", ZDS_F16},  {"half", ZDS_F16},
                 {"bf16", ZDS_BF16}, {"bfloat16", ZDS_BF16}};
    if (strncasecmp(name, "torch.", 6) == 0)
        name += 6;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(names[i].name, name) == 0) {
            *dtype = names[i].dtype;
            return true;
        }
    return false;
}

/* `otherwise` where the key names none. */
static zds_dtype read_dtype(const zds_config *c, const char *path, zds_dtype otherwise,
                            problems *found)
{
    const char *name = zds_config_string(c, path);
    zds_dtype dtype = otherwise;
    if (!name || dtype_of(name, &dtype))
        return dtype;
    char text[128];
    snprintf(text, sizeof text, "\"%.40s\" is not fp32, fp16 or bf16", name);
    config_note(c, found, ZDS_PROBLEM_ERROR, path, text);
    return otherwise;
}

/* The batch triangle was solved for the world that whoever loaded the config named. */
static zds_status check_world(const zds_config *c, int32_t world_size, zds_error *error)
{
    int64_t batch = zds_config_int(c, "train_batch_size"),
            unit = zds_config_int(c, "train_micro_batch_size_per_gpu") *
                   zds_config_int(c, "gradient_accumulation_steps");
    if (unit * world_size == batch)
        return ZDS_OK;
    return error_set(error, ZDS_ERR_INVALID,
                     "the config was loaded for %lld ranks, but there are %d: give world_size in "
                     "zds_config_context",
                     (long long)(unit > 0 ? batch / unit : 0), world_size);
}

#define OFFLOAD "zero_optimization.offload_optimizer."

/* As in DeepSpeed it means nothing at stage 0, and nvme is cpu below stage 3. */
static const char *states_tier(const zds_config *c, int32_t stage)
{
    const char *device = zds_config_string(c, OFFLOAD "device");
    if (stage == 0 || !device || strcmp(device, "none") == 0)
        return NULL;
    return strcmp(device, "nvme") == 0 && stage < 3 && !config_tier(c, device) ? "cpu" : device;
}

/* At stage 3 alone. */
static const char *params_tier(const zds_config *c, int32_t stage)
{
    const char *device = zds_config_string(c, "zero_optimization.offload_param.device");
    return stage == 3 && device && strcmp(device, "none") != 0 ? device : NULL;
}

/* True unless the config says otherwise. */
static bool is_on(const zds_config *c, const char *path)
{
    return !zds_config_is_set(c, path) || zds_config_bool(c, path);
}

static void read_scales(settings *set, const zds_config *c, int32_t world_size)
{
    double n = world_size;
    const char *op = zds_config_string(c, "gradient_allreduce_op");
    double factor = zds_config_float(c, "gradient_predivide_factor");
    set->zero.prescale = set->zero.postscale = set->zero.sum_factor = 1;
    if (op && strcasecmp(op, "sum") == 0) {
        set->zero.sum_factor = n;
        return;
    }
    if (zds_config_bool(c, "prescale_gradients")) {
        set->zero.prescale = 1 / n;
    } else {
        set->zero.prescale = 1 / factor;
        set->zero.postscale = factor / n;
    }
}

static void read_precision(settings *set, const zds_config *c, problems *found)
{
    bool bf16 = zds_config_bool(c, "bf16.enabled");
    bool fp16 = zds_config_bool(c, "fp16.enabled");
    set->param_dtype = fp16 ? ZDS_F16 : bf16 ? ZDS_BF16 : ZDS_F32;
    set->master_dtype = set->state_dtype = ZDS_F32;
    if (bf16 && zds_config_bool(c, "bf16.bf16_master_weights_and_grads"))
        set->master_dtype = ZDS_BF16;
    if (fp16 && zds_config_bool(c, "fp16.fp16_master_weights_and_grads"))
        set->master_dtype = ZDS_F16;
    if (bf16 && zds_config_bool(c, "bf16.bf16_optimizer_states"))
        set->state_dtype = ZDS_BF16;
    set->stochastic_rounding = zds_config_bool(c, "zds.stochastic_rounding");
    if (set->stochastic_rounding && set->master_dtype == ZDS_F32 && set->state_dtype == ZDS_F32)
        config_note(c, found, ZDS_PROBLEM_ERROR, "zds.stochastic_rounding",
                    "true, but master weights and optimizer states are fp32; turn on "
                    "bf16.bf16_master_weights_and_grads, or delete the key");
    if (bf16 && (set->stage == 1 || set->stage == 2 || set->zero.overlap_step))
        set->check_overflow = zds_config_bool(c, "bf16.check_grad_overflow");
    bool adds = set->accumulation > 1 || !set->managed_accumulation;
    set->accum_is_chosen = zds_config_is_set(c, "data_types.grad_accum_dtype");
    set->accum_dtype =
        read_dtype(c, "data_types.grad_accum_dtype", adds ? ZDS_F32 : set->param_dtype, found);
    set->comm_dtype = read_dtype(c, "communication_data_type",
                                 set->stage >= 2 ? set->param_dtype : set->accum_dtype, found);
}

/* What must be known before the first update, and is not while backward goes on. */
static void check_overlap_step(const settings *set, const zds_config *c, problems *found)
{
    const char *why = NULL;
    char text[200];
    if (!set->zero.overlap_step)
        return;
    if (set->clip > 0)
        why = "the norm of all gradients, for gradient_clipping (1.0 where it is absent); write 0 "
              "there";
    else if (set->param_dtype == ZDS_F16)
        why = "whether a gradient overflows, for fp16's loss scale; use bf16 or fp32";
    else if (set->param_dtype == ZDS_BF16 && zds_config_bool(c, "bf16.check_grad_overflow"))
        why = "whether all gradients are finite; set bf16.check_grad_overflow to false";
    else if (set->stage == 2 && !set->ignore_unused)
        why = "whether each parameter has a gradient; set "
              "zero_optimization.ignore_unused_parameters to true";
    if (!why)
        return;
    snprintf(text, sizeof text, "a step that begins before backward is over does not know %s", why);
    config_note(c, found, ZDS_PROBLEM_ERROR, "zds.overlap_step", text);
}

static void read_loss_scale(settings *set, const zds_config *c, problems *found)
{
    double fixed = zds_config_float(c, "fp16.loss_scale");
    int64_t hysteresis = zds_config_int(c, "fp16.hysteresis"),
            power = zds_config_int(c, "fp16.initial_scale_power");
    set->scale = (loss_scale){.value = 1, .last_overflow = -1};
    if (set->param_dtype != ZDS_F16)
        return;
    set->scale.value = fixed;
    if (fixed > FLT_MAX)
        config_note(c, found, ZDS_PROBLEM_ERROR, "fp16.loss_scale",
                    "fp32 cannot hold this loss scale; write 0, so that it is found by itself");
    if (fixed != 0)
        return;
    if (power < FLT_MIN_EXP || power >= FLT_MAX_EXP) {
        config_note(c, found, ZDS_PROBLEM_ERROR, "fp16.initial_scale_power",
                    "2 to this power is no loss scale that fp32 can hold; write 16");
        return;
    }
    set->scale.value = ldexp(1, (int)power);
    set->scale.dynamic = true;
    set->scale.refills = zds_config_bool(c, "fp16.consecutive_hysteresis");
    set->scale.window = zds_config_int(c, "fp16.loss_scale_window");
    set->scale.least = (double)zds_config_int(c, "fp16.min_loss_scale");
    set->scale.hysteresis = set->scale.patience = hysteresis;
}

static uint64_t whole_number(const zds_config *c, const char *path)
{
    int64_t value = zds_config_int(c, path);
    return value > 0 ? (uint64_t)value : 0;
}

/* Ranks that share a second copy of parameters. */
static int32_t read_cell(const zds_config *c, int32_t stage, int32_t world_size, problems *found)
{
    static const char *const path = "zero_optimization.zero_hpz_partition_size";
    char text[128];
    int64_t size = zds_config_int(c, path);
    if (stage != 3 || size < 2)
        return 1;
    if (size <= world_size && world_size % size == 0)
        return (int32_t)size;
    snprintf(text, sizeof text,
             "%lld ranks do not divide the %d of this run; write 1, or what does", (long long)size,
             world_size);
    config_note(c, found, ZDS_PROBLEM_ERROR, path, text);
    return 1;
}

settings settings_of(const zds_config *c, int32_t world_size, problems *found)
{
    int32_t stage = (int32_t)zds_config_int(c, "zero_optimization.stage");
    double factor = zds_config_float(c, "gradient_predivide_factor");
    int64_t every = zds_config_int(c, "steps_per_print");
    char text[128];
    config_require_implemented(c, found);
    snprintf(text, sizeof text, "%g divides gradients by nothing useful; write a number above 0",
             factor);
    if (!(factor > 0))
        config_note(c, found, ZDS_PROBLEM_ERROR, "gradient_predivide_factor", text);
    settings set = {
        .stage = stage,
        .micro_batch = zds_config_int(c, "train_micro_batch_size_per_gpu"),
        .accumulation = zds_config_int(c, "gradient_accumulation_steps"),
        .managed_accumulation = zds_config_bool(c, "managed_gradient_accumulation"),
        .clip = zds_config_float(c, "gradient_clipping"),
        .compute_norm = zds_config_bool(c, "zero_optimization.compute_grad_norm"),
        .ignore_unused = zds_config_bool(c, "zero_optimization.ignore_unused_parameters"),
        .progress_thread = zds_config_bool(c, "zds.progress_thread"),
        .strict = stage == 3 || zds_config_bool(c, "zds.strict"),
        .breakdown = zds_config_bool(c, "wall_clock_breakdown"),
        .check_overflow = true,
        .states_tier = states_tier(c, stage),
        .params_tier = params_tier(c, stage),
        .print_every = every > 0 ? every : 0,
        .zero = {
            .reduce_scatter = stage == 0 || zds_config_bool(c, "zero_optimization.reduce_scatter"),
            .keep = whole_number(c, "zero_optimization.stage3_param_persistence_threshold"),
            .keep_all = whole_number(c, "zero_optimization.stage3_model_persistence_threshold") /
                        (uint64_t)world_size,
            .live = whole_number(c, "zero_optimization.stage3_max_live_parameters"),
            .ahead = whole_number(c, "zero_optimization.stage3_prefetch_bucket_size"),
            .reuse = whole_number(c, "zero_optimization.stage3_max_reuse_distance"),
            .quantised_params = zds_config_bool(c, "zero_optimization.zero_quantized_weights"),
            .quantised_frozen =
                zds_config_bool(c, "zero_optimization.zero_quantized_nontrainable_weights"),
            .quantised_grads = zds_config_bool(c, "zero_optimization.zero_quantized_gradients"),
            .tell_order = zds_config_bool(c, "zero_optimization.log_trace_cache_warnings"),
            /* zds overlaps unless it is told not to: a bucket more is all it costs. */
            .overlap = is_on(c, "zero_optimization.overlap_comm"),
            .overlap_step = zds_config_bool(c, "zds.overlap_step"),
            .buffers = (uint32_t)fmin((double)whole_number(c, OFFLOAD "buffer_count"), UINT32_MAX),
            .reads_ahead = is_on(c, OFFLOAD "pipeline_read"),
            .writes_behind = is_on(c, OFFLOAD "pipeline_write"),
            .ratio = zds_config_float(c, OFFLOAD "ratio"),
            .stay = whole_number(c, "zero_optimization.offload_param.max_in_cpu"),
            .bucket = (uint64_t)zds_config_int(c, "zero_optimization.reduce_bucket_size")}};
    set.zero.cell = read_cell(c, stage, world_size, found);
    read_precision(&set, c, found);
    read_scales(&set, c, world_size);
    read_loss_scale(&set, c, found);
    check_overlap_step(&set, c, found);
    return set;
}

zds_status settings_read(settings *set, const zds_config *c, int32_t world_size, zds_error *error)
{
    if (config_has_errors(c, -1)) {
        char *text = zds_config_problems_text(c);
        zds_status status =
            error_set(error, ZDS_ERR_CONFIG, "the config has problems:\n%s", text ? text : "");
        free(text);
        return status;
    }
    zds_status status = check_world(c, world_size, error);
    if (status)
        return status;
    problems found = {0};
    *set = settings_of(c, world_size, &found);
    char *text = problems_text(&found);
    if (text)
        status = error_set(error, ZDS_ERR_CONFIG,
                           "the config asks for what is not possible here:\n%s", text);
    else if (problems_heard(&found))
        status = error_set(error, ZDS_ERR_MEMORY, "out of memory");
    free(text);
    problems_clear(&found);
    return status;
}

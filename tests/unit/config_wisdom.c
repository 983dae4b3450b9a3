/* What is legal but unwise, and whose choice of optimizer and schedule counts: each warning where
 * it belongs, with its reason, and none beside it. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"

/* Texts are what follows train_batch_size in Hjson. */
typedef struct trap {
    const char *text;
    const char *path, *words;
    const char *sound; /* the same, mended */
} trap;

static zds_config *load(const char *text, int64_t hidden_size, const char *arguments)
{
    zds_config *c = NULL;
    zds_error error = ZDS_ERROR_INIT;
    char whole[2048];
    zds_config_context context = {.struct_size = sizeof context,
                                  .world_size = 4,
                                  .hidden_size = hidden_size,
                                  .arguments_source = arguments};
    snprintf(whole, sizeof whole, "{train_batch_size:8,%s}", text);
    zds_config_load(whole, &context, &c, &error);
    cr_assert(c, "%s: %s", text, error.text);
    zds_error_clear(&error);
    return c;
}

/* How many problems there are; *found: one of this severity at `path` has the words. */
static size_t look(const zds_config *c, int32_t severity, const trap *t, bool *found)
{
    zds_problem p;
    size_t count = 0;
    *found = false;
    for (; zds_config_problem(c, count, &p); count++)
        *found |=
            p.severity == severity && strcmp(p.path, t->path) == 0 && strstr(p.message, t->words);
    return count;
}

static void try(const trap *t, int32_t severity, int64_t hidden_size, const char *arguments)
{
    bool found;
    zds_config *c = load(t->text, hidden_size, arguments);
    char *all = zds_config_problems_text(c);
    size_t count = look(c, severity, t, &found);
    cr_expect(found && count == 1, "%s: not just \"%s\" at %s:\n%s", t->text, t->words, t->path,
              all ? all : "nothing");
    free(all);
    zds_config_destroy(c);
    c = load(t->sound, hidden_size, arguments);
    all = zds_config_problems_text(c);
    cr_expect(!all, "%s:\n%s", t->sound, all);
    free(all);
    zds_config_destroy(c);
}

static const trap traps[] = {
    /* precision */
    {"fp16:{enabled:true}", "fp16.enabled", "no loss scale", "bf16:{enabled:true}"},
    {"bf16:{enabled:true}, gradient_accumulation_steps:2, zero_optimization:{stage:1},"
     "data_types:{grad_accum_dtype:'bf16'}",
     "data_types.grad_accum_dtype", "lose",
     "bf16:{enabled:true}, gradient_accumulation_steps:2, zero_optimization:{stage:1},"
     "data_types:{grad_accum_dtype:'fp32'}"},
    {"bf16:{enabled:true}, communication_data_type:'fp16'", "communication_data_type", "65504",
     "bf16:{enabled:true}, communication_data_type:'bf16'"},
    {"communication_data_type:'bf16'", "communication_data_type", "rounded",
     "communication_data_type:'fp32'"},
    {"bf16:{enabled:true, check_grad_overflow:false}, zero_optimization:{stage:1}",
     "bf16.check_grad_overflow", "ruins",
     "bf16:{enabled:true, check_grad_overflow:true}, zero_optimization:{stage:1}"},
    {"bf16:{enabled:true, check_grad_overflow:false}", "bf16.check_grad_overflow",
     "at stages 1 and 2 alone", "bf16:{enabled:true, check_grad_overflow:true}"},
    /* gradients */
    {"gradient_clipping:0", "gradient_clipping", "turns clipping off", "gradient_clipping:0.5"},
    {"prescale_gradients:true, gradient_predivide_factor:2", "gradient_predivide_factor",
     "is not used", "prescale_gradients:true"},
    {"gradient_allreduce_op:'sum'", "gradient_allreduce_op", "4 times larger",
     "gradient_allreduce_op:'mean'"},
    {"zero_optimization:{stage:2, overlap_comm:false}", "zero_optimization.overlap_comm", "wait",
     "zero_optimization:{stage:1, overlap_comm:false}"},
    /* sizes */
    {"zero_optimization:{stage:2, reduce_bucket_size:5000}", "zero_optimization.reduce_bucket_size",
     "on its own", "zero_optimization:{stage:2, reduce_bucket_size:5e5}"},
    {"vocabulary_size:50257", "vocabulary_size", "multiple of 8", "vocabulary_size:50304"},
    /* offload and saving */
    {"zero_optimization:{stage:2, offload_optimizer:{device:'cpu', pin_memory:false}}",
     "zero_optimization.offload_optimizer.pin_memory", "page-locked",
     "zero_optimization:{stage:2, offload_optimizer:{device:'cpu', pin_memory:true}}"},
    {"zero_optimization:{stage:3, offload_param:{device:'cpu', pin_memory:false}}",
     "zero_optimization.offload_param.pin_memory", "page-locked",
     "zero_optimization:{stage:3, offload_param:{device:'none', pin_memory:false}}"},
    {"zero_optimization:{stage:2, offload_optimizer:{device:'nvme', nvme_path:'/x'}}",
     "zero_optimization.offload_optimizer.device", "taken as cpu",
     "zero_optimization:{stage:3, offload_optimizer:{device:'nvme', nvme_path:'/x'}}"},
    {"zero_optimization:{stage:0, offload_optimizer:{device:'cpu'}}",
     "zero_optimization.offload_optimizer", "no effect",
     "zero_optimization:{stage:1, offload_optimizer:{device:'cpu'}}"},
    {"zero_optimization:{stage:2, offload_param:{device:'cpu'}}", "zero_optimization.offload_param",
     "no effect", "zero_optimization:{stage:3, offload_param:{device:'cpu'}}"},
    /* optimizer and schedule */
    {"optimizer:{type:'AdamW', params:{lr:1e-3}},"
     "scheduler:{type:'WarmupLR', params:{warmup_max_lr:1e-4}}",
     "optimizer.params.lr", "is not used",
     "optimizer:{type:'AdamW', params:{lr:1e-4}},"
     "scheduler:{type:'WarmupLR', params:{warmup_max_lr:1e-4}}"},
    {"optimizer:{type:'AdamW', params:{lr:1e-4}},"
     "scheduler:{type:'WarmupDecayLR', params:{total_num_steps:9, warmup_num_steps:2}}",
     "scheduler", "not to the optimizer's",
     "optimizer:{type:'AdamW', params:{lr:1e-4}}, scheduler:{type:'WarmupDecayLR', "
     "params:{total_num_steps:9, warmup_num_steps:2, warmup_max_lr:1e-4}}"},
    {"scheduler:{type:'WarmupCosineLR', params:{total_num_steps:9, warmup_num_steps:9}}",
     "scheduler.params.warmup_num_steps", "never reached",
     "scheduler:{type:'WarmupCosineLR', params:{total_num_steps:9, warmup_num_steps:5}}"},
    {"optimizer:{type:'Adam', params:{weight_decay:0.1}}", "optimizer.type", "as AdamW does",
     "optimizer:{type:'Adam', params:{weight_decay:0.1, adam_w_mode:false}}"},
    {"optimizer:{type:'AdamW', params:{adam_w_mode:false}}", "optimizer.params.adam_w_mode",
     "ignored", "optimizer:{type:'Adam', params:{adam_w_mode:false}}"},
    /* who chooses */
    {"optimizer:{type:'AdamW', params:{}}, scheduler:{type:'cosine', params:{}}", "scheduler.type",
     "the config's optimizer with the config's schedule: DeepSpeed knows",
     "optimizer:{type:'AdamW', params:{}}"},
};

Test(config_wisdom, tells_each_trap_and_nothing_else)
{
    for (size_t i = 0; i < sizeof traps / sizeof *traps; i++)
        try(&traps[i], ZDS_PROBLEM_WARNING, 0, NULL);
}

Test(config_wisdom, holds_sizes_against_the_model)
{
    static const trap sizes[] = {
        {"zero_optimization:{stage:2, reduce_bucket_size:5e5}",
         "zero_optimization.reduce_bucket_size", "one 768 x 768 matrix",
         "zero_optimization:{stage:2, reduce_bucket_size:589824}"},
        {"zero_optimization:{stage:3, stage3_prefetch_bucket_size:5e5}",
         "zero_optimization.stage3_prefetch_bucket_size", "fetched before",
         "zero_optimization:{stage:3, stage3_prefetch_bucket_size:6e5}"},
        {"zero_optimization:{stage:3, max_live_parameters:5e5}",
         "zero_optimization.stage3_max_live_parameters", "released",
         "zero_optimization:{stage:3, max_live_parameters:1e9}"},
        {"zero_optimization:{stage:3, stage3_param_persistence_threshold:1e6}",
         "zero_optimization.stage3_param_persistence_threshold", "keeps",
         "zero_optimization:{stage:3, stage3_param_persistence_threshold:1e4}"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        try(&sizes[i], ZDS_PROBLEM_WARNING, 768, NULL);
}

Test(config_wisdom, tells_a_choice_that_is_dropped)
{
    static const trap optimizer = {
        "optimizer:{type:'Lion', params:{}}", "optimizer.type",
        "the config's optimizer with the program's schedule: optim=adamw_torch",
        "optimizer:{type:'AdamW', params:{}}"};
    static const trap schedule = {
        "scheduler:{type:'WarmupLR', params:{}}", "scheduler.type",
        "the program's optimizer with the config's schedule: lr_scheduler_type=cosine", ""};
    try(&optimizer, ZDS_PROBLEM_WARNING, 0, "{\"optim\":\"adamw_torch\"}");
    try(&schedule, ZDS_PROBLEM_WARNING, 0, "{\"lr_scheduler_type\":\"cosine\"}");
}

/* fp16 itself is told beside them. */
Test(config_wisdom, tells_the_traps_of_fp16)
{
    static const trap more[] = {
        {"fp16:{enabled:true, loss_scale:128}", "fp16.loss_scale", "does not recover", ""},
        {"fp16:{enabled:true, initial_scale_power:32}", "fp16.initial_scale_power", "write 16",
         ""}};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        bool found;
        zds_config *c = load(more[i].text, 0, NULL);
        cr_expect_eq(look(c, ZDS_PROBLEM_WARNING, &more[i], &found), 2);
        cr_expect(found, "%s", more[i].text);
        zds_config_destroy(c);
    }
}

/* As DeepSpeed: an offloaded optimizer must be the config's, where the key insists. */
Test(config_wisdom, refuses_the_program_s_optimizer_where_told_to)
{
    static const trap force = {
        "zero_force_ds_cpu_optimizer:true,"
        "zero_optimization:{stage:2, offload_optimizer:{device:'cpu'}}",
        "zero_force_ds_cpu_optimizer", "the program's optimizer with the program's schedule: true",
        "zero_force_ds_cpu_optimizer:true, optimizer:{type:'AdamW', params:{}},"
        "zero_optimization:{stage:2, offload_optimizer:{device:'cpu'}}"};
    try(&force, ZDS_PROBLEM_ERROR, 0, NULL);
}

/* The configs that the Trainer's documentation recommends are not told off. */
Test(config_wisdom, is_silent_about_what_is_recommended)
{
    static const char *const configs[] = {
        "bf16:{enabled:'auto'},"
        "optimizer:{type:'AdamW',"
        "  params:{lr:'auto', betas:'auto', eps:'auto', weight_decay:'auto'}},"
        "scheduler:{type:'WarmupLR',"
        "  params:{warmup_min_lr:'auto', warmup_max_lr:'auto', warmup_num_steps:'auto'}},"
        "zero_optimization:{stage:2, offload_optimizer:{device:'cpu', pin_memory:true},"
        "  allgather_partitions:true, allgather_bucket_size:2e8, overlap_comm:true,"
        "  reduce_scatter:true, reduce_bucket_size:'auto', contiguous_gradients:true},"
        "gradient_accumulation_steps:'auto', gradient_clipping:'auto',"
        "train_micro_batch_size_per_gpu:'auto'",
        "bf16:{enabled:'auto'},"
        "zero_optimization:{stage:3, offload_optimizer:{device:'cpu', pin_memory:true},"
        "  offload_param:{device:'cpu', pin_memory:true}, overlap_comm:true,"
        "  contiguous_gradients:true, sub_group_size:1e9, reduce_bucket_size:'auto',"
        "  stage3_prefetch_bucket_size:'auto', stage3_param_persistence_threshold:'auto',"
        "  stage3_max_live_parameters:1e9, stage3_max_reuse_distance:1e9,"
        "  stage3_gather_16bit_weights_on_model_save:true},"
        "gradient_accumulation_steps:'auto', train_micro_batch_size_per_gpu:'auto'"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        zds_config *c = load(configs[i], 768,
                             "{\"per_device_train_batch_size\":2,\"gradient_accumulation_steps\":1,"
                             "\"bf16\":true,\"learning_rate\":1e-4,\"warmup_steps\":10}");
        char *all = zds_config_problems_text(c);
        cr_expect(!all, "%s", all);
        free(all);
        zds_config_destroy(c);
    }
}

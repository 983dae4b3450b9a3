/* Every allocation of an engine's life fails once: its config, model, creation, values, steps and
 * end; of one rank, and of each of two.
 *
 * usage: failing_engine [PART OF A SCENARIO'S NAME]
 * ZDS_FAIL_ALL of the environment: each allocation of all scenarios. ZDS_TELL: also who asked for
 * what is left, and for those whose failure makes no difference. */
#include "attempts.h"

static void train(const scenario *s, int32_t rank, outcome *o)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    small_sum sum = {0};
    const zds_config_context context = {.struct_size = sizeof context, .world_size = s->ranks};
    const zds_engine_options options = {.struct_size = sizeof options,
                                        .threads = s->threads,
                                        .rank = rank,
                                        .world_size = s->ranks,
                                        .master_addr = "127.0.0.1",
                                        .master_port =
                                            1 + (getppid() * 512 + attempt_number) % 60000,
                                        .total_steps = 10};
    const char *call = "load";
    zds_status status = zds_config_load(s->json, &context, &config, &error);
    if (!status) {
        call = "model";
        status = small_model(&model);
    }
    if (!status) {
        call = "create";
        status = zds_engine_create(config, model, &options, &e, &error);
    }
    if (!status) {
        call = "set_values";
        status = zds_set_values(e, small_values, NULL);
    }
    for (uint64_t micro = 0; micro < 4 && !status; micro++) {
        call = "step";
        status = small_micro(e, ZDS_BOUNDARY_AUTO, micro, NULL);
    }
    if (!status) {
        call = "get_values";
        status = small_hash(e, &sum);
    }
    if (!status && s->ranks > 1) {
        call = "barrier";
        status = zds_barrier(e);
    }
    failed(o, status, call, e ? zds_engine_error(e) : error.text);
    o->hash = sum.hash;
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
    zds_error_clear(&error);
}

static void add_row(void *user, const zds_memory_row *row)
{
    uint64_t *hash = user;
    *hash = *hash * 31 + row->bytes;
}

static void plan(const scenario *s, int32_t rank, outcome *o)
{
    (void)rank;
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = 8};
    const zds_engine_options options = {.struct_size = sizeof options,
                                        .threads = s->threads,
                                        .world_size = 8,
                                        .local_world_size = 8,
                                        .total_steps = 10};
    zds_status status = zds_config_load(s->json, &context, &config, &error);
    if (!status)
        status = small_model(&model);
    if (!status)
        status = zds_engine_plan(config, model, &options, add_row, &o->hash, &error);
    failed(o, status, "plan", error.text);
    zds_model_destroy(model);
    zds_config_destroy(config);
    zds_error_clear(&error);
}

/* A problem may be that there is no memory to find one. Of the others' texts lists may be missing.
 */
static void add_problem(void *user, const zds_problem *problem)
{
    outcome *o = user;
    for (const char *c = problem->path; *c; c++)
        o->hash = o->hash * 31 + (unsigned char)*c;
    if (strstr(problem->message, "memory"))
        failed(o, ZDS_ERR_MEMORY, "check", problem->message);
}

/* A config with problems, which an engine would refuse: that it has them is no failure. */
static void check(const scenario *s, int32_t rank, outcome *o)
{
    (void)rank;
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_problem problem;
    const zds_config_context context = {
        .struct_size = sizeof context,
        .world_size = 1,
        .arguments_source = "{\"per_device_train_batch_size\": 3, \"learning_rate\": 0.1}",
        .check_plugins = true};
    const zds_engine_options options = {
        .struct_size = sizeof options, .world_size = 1, .total_steps = 10};
    zds_status status = zds_config_load(s->json, &context, &config, &error);
    if (config)
        status = ZDS_OK;
    for (size_t i = 0; config && zds_config_problem(config, i, &problem); i++)
        add_problem(o, &problem);
    if (config)
        status = zds_engine_check(config, &options, add_problem, o, &error);
    failed(o, status == ZDS_ERR_CONFIG ? ZDS_OK : status, "check", error.text);
    zds_config_destroy(config);
    zds_error_clear(&error);
}

#define STEPS       "\"train_micro_batch_size_per_gpu\": 1, \"gradient_accumulation_steps\": 2, "
#define BF16        "\"bf16\": {\"enabled\": true}, "
#define ZERO(stage) "\"zero_optimization\": {\"stage\": " stage ", \"reduce_bucket_size\": 500}, "
#define WARMUP      "\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 4}}, "
#define OPTIM(name) "\"optimizer\": {\"type\": \"" name "\"}"
#define ISLAND      "\"zds\": {\"device\": \"test\"}, "
#define RESTS                                                                                      \
    "\"zero_optimization\": {\"stage\": 1, \"offload_optimizer\": {\"device\": \"cpu\"}}, "
#define PARTS                                                                                      \
    "\"zero_optimization\": {\"stage\": 3, \"stage3_param_persistence_threshold\": 0, "            \
    "\"stage3_max_live_parameters\": 1}, "
#define FILES                                                                                      \
    "\"zero_optimization\": {\"stage\": 3, \"offload_optimizer\": {\"device\": \"nvme\", "         \
    "\"nvme_path\": \"" TEST_BINARY_DIR "\"}}, "
#define PARAMS                                                                                     \
    "\"zero_optimization\": {\"stage\": 3, \"offload_param\": {\"device\": \"nvme\", "             \
    "\"max_in_cpu\": 0, \"nvme_path\": \"" TEST_BINARY_DIR                                         \
    "\"}, \"stage3_param_persistence_threshold\": 0}, "
#define BESIDE "\"gradient_clipping\": 0, \"zds\": {\"overlap_step\": true}, "
#define INTEGERS                                                                                   \
    "\"zero_optimization\": {\"stage\": 3, \"offload_param\": {\"device\": \"nvme\", "             \
    "\"max_in_cpu\": 0, \"nvme_path\": \"" TEST_BINARY_DIR                                         \
    "\"}, \"stage3_param_persistence_threshold\": 0, \"zero_quantized_weights\": true, "           \
    "\"zero_quantized_gradients\": true}, "
#define THREAD "\"zds\": {\"progress_thread\": true}, "

static const char wrong[] =
    "{\"train_batch_size\": 7, \"optimiser\": {}, "
    "\"zero_optimization\": {\"stage\": 3, \"offload_param\": {\"device\": \"nvme\"}}, "
    "\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": -4, \"cosine\": "
    "1}}, "
    "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.2, \"epsilon\": 1}}}";

#define ONE(title, text, step)                                                                     \
    {                                                                                              \
        .name = title, .json = "{" STEPS text "}", .ranks = 1, .threads = 1, .run = train,         \
        .stride = step                                                                             \
    }
#define TWO(title, text, step)                                                                     \
    {                                                                                              \
        .name = title, .json = "{" STEPS text "}", .ranks = 2, .threads = 1, .run = train,         \
        .stride = step                                                                             \
    }

/* Much is the same in all of them: where one tries every allocation, the next ones try some. */
static const scenario scenarios[] = {
    ONE("AdamW, fp32", ZERO("0") OPTIM("AdamW"), 1),
    ONE("AdamW, bf16", BF16 ZERO("1") OPTIM("AdamW"), 7),
    {.name = "AdamW, schedule, threads",
     .json = "{" STEPS BF16 WARMUP ZERO("2") OPTIM("AdamW") "}",
     .ranks = 1,
     .threads = 2,
     .run = train,
     .stride = 7},
    ONE("Lamb", ZERO("1") OPTIM("Lamb"), 5),
    ONE("Muon", ZERO("2") OPTIM("Muon"), 11),
    ONE("OneBitAdam", ZERO("1") OPTIM("OneBitAdam"), 7),
    {.name = "plan",
     .json = "{" STEPS BF16 ZERO("2") OPTIM("Muon") "}",
     .ranks = 1,
     .threads = 1,
     .run = plan,
     .stride = 5},
    {.name = "check", .json = wrong, .ranks = 1, .run = check, .stride = 11, .texts = true},
    TWO("ranks, stage 0", ZERO("0") OPTIM("AdamW"), 197),
    TWO("ranks, stage 1", BF16 WARMUP ZERO("1") OPTIM("Lamb"), 197),
    TWO("ranks, stage 2", BF16 ZERO("2") OPTIM("Muon"), 197),
    TWO("ranks, stage 3", BF16 ZERO("3") OPTIM("AdamW"), 197),
    TWO("ranks, updates beside backward", BESIDE ZERO("2") OPTIM("AdamW"), 197),
    TWO("ranks, progress thread", BF16 THREAD ZERO("2") OPTIM("AdamW"), 197),
    ONE("device", ISLAND BF16 ZERO("1") OPTIM("AdamW"), 61),
    {.name = "files",
     .json = "{" STEPS FILES OPTIM("AdamW") "}",
     .ranks = 1,
     .threads = 1,
     .run = train,
     .stride = 11,
     .texts = true}, /* without memory for io_uring it goes on with threads, and says so */
    {.name = "parameters in files",
     .json = "{" STEPS BF16 PARAMS OPTIM("AdamW") "}",
     .ranks = 2,
     .threads = 1,
     .run = train,
     .stride = 197,
     .texts = true},
    {.name = "integers",
     .json = "{" STEPS BF16 INTEGERS OPTIM("AdamW") "}",
     .ranks = 2,
     .threads = 1,
     .run = train,
     .stride = 197,
     .texts = true},
    TWO("devices, stage 3", ISLAND PARTS OPTIM("AdamW"), 997),
    ONE("device, states that rest", ISLAND RESTS OPTIM("AdamW"), 67),
};

int main(int argc, char **argv)
{
    setenv("ZDS_TIMEOUT", "1", 1);
    /* Stay, and with them what oneDNN and its libraries never give back, and what the island finds
     * when it is loaded. */
    if (!dlopen(TEST_BINARY_DIR "/lib/zds/plugins/optim_muon.so", RTLD_NOW | RTLD_LOCAL) ||
        !dlopen(TEST_BINARY_DIR "/tests/island/island.so", RTLD_NOW | RTLD_LOCAL))
        return 1;
    failing_warm_up();
    failing_tells = getenv("ZDS_TELL") != NULL;
    small_width = 8;
    long failures = 0, errors = 0;
    int faults = 0;
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        bool device = strstr(scenarios[i].json, ISLAND) != NULL; /* others need not look there */
        setenv("ZDS_PLUGIN_PATH",
               device ? TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island"
                      : TEST_BINARY_DIR "/lib/zds/plugins",
               1);
        if (argc < 2 || strstr(scenarios[i].name, argv[1]))
            faults += all_attempts(&scenarios[i], &failures, &errors);
    }
    printf("%ld allocations failed, %ld with an error; %d faults\n", failures, errors, faults);
    return faults != 0;
}

/* zds-train: trains a GPT-2 in transformers' format on a text, as a ds_config says. */
#include <cjson/cJSON.h>
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bridge.h"
#include "common/args.h"
#include "common/exits.h"
#include "common/fail.h"
#include "common/files.h"
#include "common/output.h"
#include "common/rank.h"
#include "generate.h"
#include "moot.h"
#include "options.h"
#include "report.h"
#include "same.h"
#include "save.h"
#include "signals.h"
#include "zds/zds.h"

/* All of a run; zero is "not there yet". */
typedef struct training {
    options o;
    gpt2_config model;
    params params;
    source source;
    dataset data;
    zds_config *config;
    zds_engine *engine;
    bridge bridge;
    report report;
    int64_t steps;
    size_t made_folders; /* of output_prepare */
    bool bytes;
} training;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* === before the engine === */

static zds_status read_model(training *t, zds_error *error)
{
    char *path = t->o.model ? path_join(t->o.model, "config.json") : strdup(t->o.fresh);
    if (!path)
        return fail(error, ZDS_ERR_MEMORY, "there is no memory");
    zds_status status = gpt2_config_read(path, &t->model, error);
    free(path);
    if (!status)
        status = params_create(&t->model, &t->params, error);
    t->source = (source){.params = &t->params, .seed = (uint64_t)t->o.seed};
    if (!status && t->o.model)
        status = source_open(t->o.model, &t->params, &t->source, error);
    return status;
}

static zds_status open_text(training *t, zds_error *error)
{
    int64_t most = t->model.n_positions, block = t->o.block_size;
    if (block == 0)
        block = most < 1024 ? most : 1024;
    if (block < 1 || block > most)
        return fail(error, ZDS_ERR_INVALID,
                    "--block_size %lld: must be from 1 to n_positions, %lld", (long long)block,
                    (long long)most);
    t->bytes = t->model.vocab_size == 256 && (!t->o.token_dtype || t->o.token_dtype[1] == '8');
    if (!t->o.token_dtype && !t->bytes)
        return fail(
            error, ZDS_ERR_UNSUPPORTED,
            "the model's vocabulary has %lld tokens, not 256, so %s cannot be read as bytes "
            "of text; give a file of token ids and --token_dtype",
            (long long)t->model.vocab_size, t->o.text);
    unsigned size = !t->o.token_dtype || t->o.token_dtype[1] == '8' ? 1
                    : t->o.token_dtype[1] == '1'                    ? 2
                                                                    : 4;
    return dataset_open(t->o.text, size, (uint32_t)t->model.vocab_size, (uint64_t)block,
                        strcmp(t->o.data_order, "shuffle") == 0, (uint64_t)t->o.seed, &t->data,
                        error);
}

static zds_status load_config(training *t, int64_t steps, zds_error *error)
{
    zds_config_context context = {.struct_size = sizeof context,
                                  .hidden_size = t->model.n_embd,
                                  .num_training_steps = steps,
                                  .arguments_source = t->o.arguments,
                                  .accelerate = true};
    zds_config_destroy(t->config);
    zds_status status = zds_config_load(t->o.deepspeed, &context, &t->config, error);
    if (status == ZDS_ERR_CONFIG) { /* then all that is wrong, the plugins' options too */
        zds_config_destroy(t->config);
        context.check_plugins = true;
        status = zds_config_load(t->o.deepspeed, &context, &t->config, error);
    }
    return status;
}

static void print_warnings(const zds_config *config)
{
    zds_problem p;
    for (size_t i = 0; zds_config_problem(config, i, &p); i++)
        if (p.severity == ZDS_PROBLEM_WARNING)
            fprintf(stderr, "%s:%d:%d: warning: %s: %s\n", p.file, p.line, p.column, p.path,
                    p.message);
}

/* The number of steps follows from the batch size, which the config knows, and the config may ask
 * for the number of steps. */
static zds_status read_config(training *t, zds_error *error)
{
    t->steps = t->o.max_steps;
    if (t->steps < 0) {
        zds_status status = load_config(t, 1, error);
        if (status)
            return status;
        int64_t batch = zds_config_int(t->config, "train_batch_size");
        int64_t each = batch > 0 ? (int64_t)t->data.blocks / batch : 0;
        t->steps = (int64_t)ceil(t->o.epochs * (double)(each > 0 ? each : 1));
    }
    zds_status status = load_config(t, t->steps, error);
    if (!status && rank_here() == 0)
        print_warnings(t->config);
    if (!status && rank_here() == 0)
        print_moot_arguments(t->config);
    return status;
}

/* === engine === */

static int64_t warmup_steps(const training *t)
{
    if (t->o.warmup_steps >= 1)
        return (int64_t)t->o.warmup_steps;
    double share = t->o.warmup_steps > 0 ? t->o.warmup_steps : t->o.warmup_ratio;
    return (int64_t)ceil(share * (double)t->steps);
}

/* What the Trainer would use where the ds_config names no optimizer. */
static char *own_optimizer(const options *o)
{
    cJSON *tree = cJSON_CreateObject();
    const double betas[2] = {o->beta1, o->beta2};
    cJSON *pair = cJSON_CreateDoubleArray(betas, 2);
    char *text = NULL;
    if (cJSON_AddItemToObject(tree, "betas", pair)) {
        cJSON_AddNumberToObject(tree, "lr", o->learning_rate);
        cJSON_AddNumberToObject(tree, "eps", o->epsilon);
        cJSON_AddNumberToObject(tree, "weight_decay", o->weight_decay);
        text = cJSON_PrintUnformatted(tree);
    }
    cJSON_Delete(tree);
    return text;
}

static zds_status create_engine(training *t, zds_error *error)
{
    const zds_hyper as_given = ZDS_HYPER_NONE;
    zds_group_desc groups[2] = {
        [GROUP_DECAY] = {sizeof *groups, as_given}, [GROUP_NO_DECAY] = {sizeof *groups, as_given}};
    groups[GROUP_NO_DECAY].hyper.weight_decay = 0;
    char *optimizer = own_optimizer(&t->o);
    zds_model *model = zds_model_create();
    zds_status status = optimizer && model ? params_describe(&t->params, model, error)
                                           : fail(error, ZDS_ERR_MEMORY, "there is no memory");
    if (!status) {
        zds_engine_options wanted = {.struct_size = sizeof wanted,
                                     .optimizer = "AdamW",
                                     .optimizer_params = optimizer,
                                     .scheduler = t->o.schedule,
                                     .scheduler_params = t->o.schedule_params,
                                     .groups = groups,
                                     .group_count = 2,
                                     .group_stride = sizeof *groups,
                                     .seed = (uint64_t)t->o.seed,
                                     .total_steps = t->steps,
                                     .warmup_steps = warmup_steps(t),
                                     .values_everywhere = true}; /* each reads its own */
        status = zds_engine_create(t->config, model, &wanted, &t->engine, error);
        if (!status && rank_here() == 0 && zds_param_device(t->engine).space != ZDS_SPACE_HOST)
            fprintf(stderr,
                    "zds-train: the model is computed on the host: parameters and gradients "
                    "are copied from the device and to it\n");
    }
    zds_model_destroy(model);
    free(optimizer);
    return status;
}

/* The status of an engine's call, with the text of whoever failed. */
static zds_status engine_status(training *t, zds_status status, const zds_error *own,
                                zds_error *error)
{
    if (!status)
        return ZDS_OK;
    return fail(error, status, "%s", own && own->text ? own->text : zds_engine_error(t->engine));
}

/* The Trainer, too, refuses such schedules where it does not evaluate. */
static zds_status check_schedule(const training *t, zds_error *error)
{
    const char *own = zds_config_string(t->config, "scheduler.type");
    if (!zds_observes(t->engine))
        return ZDS_OK;
    return fail(error, ZDS_ERR_UNSUPPORTED,
                "%s%sschedule %s follows the metric of an evaluation, and zds-train does not "
                "evaluate, so that its rate would never move; choose another schedule",
                own ? zds_config_place(t->config, "scheduler.type") : "", own ? ": error: " : "",
                own ? own : t->o.schedule);
}

static zds_status start(training *t, zds_error *error)
{
    zds_status status = create_engine(t, error);
    if (!status)
        status = check_schedule(t, error);
    if (!status)
        status = same_on_all_ranks(t->engine, &t->model, &t->data, t->o.generate, error);
    if (!status)
        status = bridge_create(t->engine, &t->model, &t->params, &t->data, (uint64_t)t->o.seed,
                               &t->bridge, error);
    if (!status)
        status = engine_status(t, zds_set_values(t->engine, source_read, &t->source),
                               &t->source.error, error);
    safetensors_close(t->source.file); /* its pages are not needed any more */
    t->source.file = NULL;
    if (!status && rank_here() == 0 && zds_config_is_set(t->config, "zds.param_groups"))
        report_groups(t->engine, stderr);
    if (!status && rank_here() == 0)
        status = report_create(t->o.output, t->o.logging_steps, t->steps, &t->report, error);
    return status;
}

/* === the run === */

static zds_status train(training *t, zds_error *error)
{
    double tokens = (double)zds_accumulation_steps(t->engine) * zds_world_size(t->engine) *
                    (double)t->bridge.batch * (double)t->bridge.length;
    for (int64_t s = 0; s < t->steps; s++) {
        zds_step_result result = {.struct_size = sizeof result};
        double begin = now();
        t->bridge.step = s;
        zds_status status =
            engine_status(t, zds_train_batch(t->engine, &bridge_ops, &t->bridge, &result),
                          &t->bridge.error, error);
        if (!status && rank_here() == 0)
            status = report_step(&t->report, &result, now() - begin, tokens, error);
        if (status)
            return status;
    }
    return ZDS_OK;
}

static zds_status finish(training *t, zds_error *error)
{
    signals_hold();
    zds_status status = output_save(t->engine, t->o.output, &t->model, &t->params, error);
    if (!status && rank_here() == 0)
        status = report_finish(&t->report, error);
    signals_resume();
    if (!status && rank_here() == 0) {
        report_curve(&t->report, stderr);
        report_memory(t->engine, gpt2_bytes(t->bridge.model), stderr);
    }
    if (!status && t->o.generate > 0)
        status =
            generate(&t->bridge, t->o.generate, (uint32_t)t->model.vocab_size, t->bytes, error);
    return status;
}

static zds_status prepare(training *t, zds_error *error)
{
    zds_status status = read_model(t, error);
    if (!status)
        status = open_text(t, error);
    if (!status)
        status = read_config(t, error);
    if (!status && rank_here() == 0)
        status = output_prepare(t->o.output, t->o.overwrite, &t->made_folders, error);
    return status;
}

static void clear(training *t)
{
    if (rank_here() == 0)
        report_destroy(&t->report);
    bridge_destroy(&t->bridge);
    zds_engine_destroy(t->engine);
    zds_config_destroy(t->config);
    dataset_close(&t->data);
    source_close(&t->source);
    params_destroy(&t->params);
    gpt2_config_clear(&t->model);
    free(t->o.arguments);
}

int main(int argc, char **argv)
{
    /* oneDNN allocates its packing buffers in every product: do not give the pages back each time
     */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    signal(SIGXFSZ, SIG_IGN); /* a file that may grow no longer is an error of the write, EFBIG */
    training t = {0};
    int code = options_parse(argc, argv, &t.o);
    if (code != ARGS_GO)
        return code;
    zds_error error = ZDS_ERROR_INIT;
    exits_watch();
    zds_status status = prepare(&t, &error);
    if (!status)
        status = start(&t, &error);
    if (!status)
        status = train(&t, &error);
    if (!status)
        status = finish(&t, &error);
    fail_tell(t.engine, status, &error);
    if (status && rank_here() == 0)
        report_pause(&t.report);
    code = status ? rank_failed(&error) : output_end();
    clear(&t);
    if (status)
        output_abandon(t.o.output, t.made_folders);
    return exits_done(code);
}

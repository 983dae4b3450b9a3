/* Two ranks of an engine, each a process, that disagree, have nothing to do, or have two engines.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "small_model.h"

enum { RANKS = 2 };

static int port;

/* In a rank: says what is wrong and ends it. */
#define NEED(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static zds_engine *open_engine(const char *json, int32_t rank)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL; /* ends with the process */
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = RANKS};
    const zds_engine_options o = {.struct_size = sizeof o,
                                  .rank = rank,
                                  .world_size = RANKS,
                                  .master_addr = "127.0.0.1",
                                  .master_port = port,
                                  .threads = 1,
                                  .optimizer = "AdamW"};
    NEED(!zds_config_load(json, &context, &config, &error), "%s", error.text);
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_create(config, model, &o, &e, &error), "rank %d: %s", (int)rank, error.text);
    zds_model_destroy(model);
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    return e;
}

/* Number of ranks that did not end well. */
static int run_ranks(const char *json, void (*body)(const char *json, int32_t rank))
{
    static int runs;
    pid_t pid[RANKS];
    int bad = 0;
    port = 1 + (getpid() * 32 + runs++) % 60000;
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    setenv("ZDS_TIMEOUT", "10", 1);
    fflush(NULL);
    for (int32_t r = 0; r < RANKS; r++)
        if ((pid[r] = fork()) == 0) {
            alarm(30);
            body(json, r);
            fflush(NULL);
            _exit(0);
        }
    for (int32_t r = 0; r < RANKS; r++) {
        int state;
        waitpid(pid[r], &state, 0);
        bad += state != 0;
    }
    return bad;
}

/* At each stage; `keys` begins with a comma, or is empty. */
static void at_each_stage(const char *keys, void (*body)(const char *json, int32_t rank))
{
    for (int stage = 0; stage < 3; stage++) {
        char json[300];
        snprintf(
            json, sizeof json,
            "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}%s}",
            stage, keys);
        cr_expect_eq(run_ranks(json, body), 0, "%s", json);
    }
}

/* === ranks that disagree === */

/* Micro steps until there is an error, which must come within a few. */
static void until_diverged(zds_engine *e, int32_t rank, const int32_t *boundaries, size_t count)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; i < count && !status; i++)
        status = small_micro(e, boundaries[i], i, NULL);
    NEED(status == ZDS_ERR_DIVERGED, "rank %d: %s: %s", (int)rank, zds_status_name(status),
         zds_engine_error(e));
    const char *text = zds_engine_error(e);
    NEED(strstr(text, "micro step") || strstr(text, "batch size"), "rank %d: %s", (int)rank, text);
    zds_engine_destroy(e);
}

static void another_boundary(const char *json, int32_t rank)
{
    static const int32_t at_once[] = {ZDS_BOUNDARY_YES, ZDS_BOUNDARY_YES, ZDS_BOUNDARY_YES},
                         later[] = {ZDS_BOUNDARY_NO, ZDS_BOUNDARY_YES, ZDS_BOUNDARY_YES};
    until_diverged(open_engine(json, rank), rank, rank ? later : at_once, 3);
}

Test(engine_disagree, ranks_with_another_boundary_are_told)
{
    at_each_stage("", another_boundary);
}

static void another_batch_size(const char *json, int32_t rank)
{
    static const int32_t as_counted[] = {ZDS_BOUNDARY_AUTO, ZDS_BOUNDARY_AUTO, ZDS_BOUNDARY_AUTO,
                                         ZDS_BOUNDARY_AUTO, ZDS_BOUNDARY_AUTO, ZDS_BOUNDARY_AUTO};
    zds_engine *e = open_engine(json, rank);
    if (rank == 0)
        NEED(!zds_set_train_batch_size(e, 3 * RANKS), "%s", zds_engine_error(e));
    until_diverged(e, rank, as_counted, 6);
}

Test(engine_disagree, ranks_with_another_batch_size_are_told)
{
    at_each_stage("", another_batch_size);
}

/* As many micro steps, so that all is the same but what a gradient counts for. */
static void another_scale(const char *json, int32_t rank)
{
    static const int32_t at_once[] = {ZDS_BOUNDARY_YES, ZDS_BOUNDARY_YES};
    zds_engine *e = open_engine(json, rank);
    if (rank == 1)
        NEED(!zds_set_train_batch_size(e, 2 * RANKS), "%s", zds_engine_error(e));
    until_diverged(e, rank, at_once, 2);
}

Test(engine_disagree, ranks_with_another_batch_size_and_the_same_boundary_are_told)
{
    at_each_stage("", another_scale);
}

/* === steps without gradients === */

static void one_step(zds_engine *e, uint32_t module, zds_step_result *result)
{
    zds_view view;
    NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
    if (module < SMALL_MODULES) {
        NEED(!zds_acquire(e, module, ZDS_BACKWARD, NULL, &view), "%s", zds_engine_error(e));
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad)
                NEED(!small_gradient(e, &view.slots[s], s, 1), "%s", zds_engine_error(e));
        NEED(!zds_grad_ready(e, module, NULL), "%s", zds_engine_error(e));
    }
    NEED(!zds_step(e, result), "%s", zds_engine_error(e));
}

static void no_gradient(const char *json, int32_t rank)
{
    zds_engine *e = open_engine(json, rank);
    zds_step_result none = {.struct_size = sizeof none}, some = none;
    for (int i = 0; i < 2; i++) /* before the second the rate stands at its beginning */
        one_step(e, 2, &none);
    one_step(e, SMALL_MODULES, &none);
    NEED(!none.applied && !none.skipped && none.steps == 2 && !none.skips,
         "applied %d, skipped %d, steps %lld", (int)none.applied, (int)none.skipped,
         (long long)none.steps);
    NEED(none.next_lr == none.lr, "the schedule moved to %g", none.next_lr);
    one_step(e, rank ? SMALL_MODULES : 2, &some);
    NEED(some.applied && some.steps == 3 && some.lr == none.lr && some.next_lr != some.lr,
         "a gradient of one rank is enough: applied %d, rates %g, %g", (int)some.applied, some.lr,
         some.next_lr);
    NEED(!zds_barrier(e), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_disagree, a_step_without_a_gradient_on_any_rank_is_none)
{
    at_each_stage(
        ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 10, "
        "\"warmup_type\": \"linear\"}}",
        no_gradient);
}

/* === two engines === */

static void two_engines(const char *json, int32_t rank)
{
    zds_engine *first = open_engine(json, rank), *second = open_engine(json, rank);
    small_sum sums[2];
    for (uint64_t i = 0; i < 2; i++) {
        NEED(!small_micro(first, ZDS_BOUNDARY_AUTO, i, NULL), "%s", zds_engine_error(first));
        NEED(!small_micro(second, ZDS_BOUNDARY_AUTO, i, NULL), "%s", zds_engine_error(second));
    }
    NEED(!small_hash(first, &sums[0]), "%s", zds_engine_error(first));
    NEED(!zds_barrier(first), "%s", zds_engine_error(first));
    zds_engine_destroy(first);
    NEED(!small_hash(second, &sums[1]), "%s", zds_engine_error(second));
    NEED(rank || sums[0].hash == sums[1].hash, "two runs alike");
    NEED(!zds_barrier(second), "%s", zds_engine_error(second));
    zds_engine_destroy(second);
    zds_engine *third = open_engine(json, rank);
    NEED(!zds_barrier(third), "%s", zds_engine_error(third));
    zds_engine_destroy(third);
}

Test(engine_disagree, several_engines_in_a_process)
{
    at_each_stage("", two_engines);
}

/* Two ranks of an engine, each a process, that disagree, have nothing to do, fail alone, or have
 * two engines. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_where.h"
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

static zds_status create(const char *json, int32_t rank, zds_engine_options o, zds_engine **out,
                         zds_error *error)
{
    zds_config *config = NULL; /* ends with the process */
    zds_model *model = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = RANKS};
    o.struct_size = sizeof o;
    o.rank = rank;
    o.world_size = RANKS;
    o.master_addr = "127.0.0.1";
    o.master_port = port;
    o.threads = 1;
    o.optimizer = "AdamW";
    NEED(!zds_config_load(where_config(json), &context, &config, error), "%s", error->text);
    NEED(!small_model(&model), "model");
    zds_status status = zds_engine_create(config, model, &o, out, error);
    zds_model_destroy(model);
    return status;
}

static zds_engine *open_engine(const char *json, int32_t rank)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *e = NULL;
    NEED(!create(json, rank, (zds_engine_options){0}, &e, &error), "rank %d: %s", (int)rank,
         error.text);
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
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
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
    for (int stage = 0; stage < 4; stage++) {
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

/* In bf16 the first micro step that is no boundary takes other memory, with all ranks. */
static const char bf16[] = ", \"bf16\": {\"enabled\": true}";

Test(engine_disagree, ranks_with_another_boundary_are_told)
{
    at_each_stage("", another_boundary);
    at_each_stage(bf16, another_boundary);
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
    at_each_stage(bf16, another_batch_size);
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
    at_each_stage(bf16, another_scale);
}

static void unlike_without_sync(const char *json, int32_t rank)
{
    static const int32_t boundary[] = {ZDS_BOUNDARY_YES};
    zds_engine *e = open_engine(json, rank);
    NEED(!zds_no_sync(e, true), "%s", zds_engine_error(e));
    for (uint64_t i = 0; i < (rank ? 3 : 1); i++) {
        NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
        NEED(!small_passes(e, i, 1), "%s", zds_engine_error(e));
    }
    NEED(!zds_no_sync(e, false), "%s", zds_engine_error(e));
    until_diverged(e, rank, boundary, 1);
}

Test(engine_disagree, ranks_with_unlike_steps_without_sync_are_told)
{
    cr_expect_eq(run_ranks("{\"train_micro_batch_size_per_gpu\": 1}", unlike_without_sync), 0);
    cr_expect_eq(run_ranks("{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": "
                           "{\"stage\": 1}}",
                           unlike_without_sync),
                 0);
}

/* === ranks that start unlike === */

typedef struct unlike {
    const char *json[RANKS];
    int64_t seed[RANKS], width[RANKS];
    const char *named;
    int32_t space[RANKS]; /* of options.device */
} unlike;

static const unlike *what;

static void starts_unlike(const char *json, int32_t rank)
{
    (void)json;
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *e = NULL;
    const zds_engine_options o = {.seed = (uint64_t)what->seed[rank],
                                  .device = {.space = what->space[rank]}};
    small_width = what->width[rank];
    zds_status status = create(what->json[rank], rank, o, &e, &error);
    if (!what->named) {
        NEED(!status, "%s", error.text);
        NEED(!zds_barrier(e), "%s", zds_engine_error(e));
        zds_engine_destroy(e);
        return;
    }
    NEED(status == ZDS_ERR_DIVERGED, "%s: %s", zds_status_name(status), error.text);
    /* Who lacks a key cannot name it. */
    NEED(strstr(error.text, what->named) || strstr(error.text, "one has more"),
         "no \"%s\" in \"%s\"", what->named, error.text);
}

Test(engine_disagree, ranks_that_start_unlike_hear_what_differs)
{
#define PLAIN "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 1.0"
    static const char plain[] = PLAIN "}";
    static const unlike all[] = {
        {{plain, PLAIN ", \"zero_optimization\": {\"stage\": 1}}"},
         {1, 1},
         {24, 24},
         "zero_optimization.stage",
         {0, 0}},
        {{PLAIN ", \"zero_optimization\": {\"reduce_bucket_size\": 1000, \"stage\": 1}}",
          PLAIN ", \"zero_optimization\": {\"reduce_bucket_size\": 2000, \"stage\": 1}}"},
         {1, 1},
         {24, 24},
         "zero_optimization.reduce_bucket_size",
         {0, 0}},
        {{plain, plain}, {1, 2}, {24, 24}, "seed", {0, 0}},
        {{plain, plain}, {1, 1}, {24, 32}, "embed.weight", {0, 0}},
        /* the same keys in another order are the same */
        {{plain, "{\"gradient_clipping\": 1.0, \"train_micro_batch_size_per_gpu\": 1}"},
         {1, 1},
         {24, 24},
         NULL,
         {0, 0}}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        what = &all[i];
        cr_expect_eq(run_ranks(NULL, starts_unlike), 0, "%zu", i);
    }
}

/* One rank's buffers are the host's, another's a device's: they have no link in common but the
 * host's. */
Test(engine_disagree, ranks_on_unlike_devices_hear_it)
{
    ON_HOST_ALONE("there all ranks are on the device");
    static const char plain[] = PLAIN "}", there[] = PLAIN ", \"zds\": {\"device\": \"test\"}}";
    static const char named[] = "different device: zds.device";
    static const unlike all[] = {
        {{plain, plain}, {1, 1}, {24, 24}, named, {ZDS_SPACE_HOST, ZDS_SPACE_TEST}},
        {{plain, plain}, {1, 1}, {24, 24}, named, {ZDS_SPACE_TEST, ZDS_SPACE_HOST}},
        {{plain, there}, {1, 1}, {24, 24}, named, {0, 0}},
        {{there, plain}, {1, 1}, {24, 24}, named, {0, 0}}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        what = &all[i];
        cr_expect_eq(run_ranks(NULL, starts_unlike), 0, "%zu", i);
    }
}

/* === unlike calls === */

static void calls_unlike(const char *json, int32_t rank)
{
    zds_engine *e = open_engine(json, rank);
    zds_status status = rank ? zds_observe(e, 5) : zds_barrier(e);
    NEED(status == ZDS_ERR_DIVERGED || status == ZDS_ERR_PEER, "%s", zds_status_name(status));
    NEED(strstr(zds_engine_error(e), "zds_barrier"), "%s", zds_engine_error(e));
    NEED(strstr(zds_engine_error(e), "zds_observe"), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

static void states_unlike(const char *json, int32_t rank)
{
    zds_engine *e = open_engine(json, rank);
    small_sum sum = {.finite = true};
    NEED(!small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL), "%s", zds_engine_error(e));
    zds_status status = zds_get_values(e, 0, rank ? "exp_avg_sq" : "exp_avg", small_add, &sum);
    NEED(status == ZDS_ERR_DIVERGED || status == ZDS_ERR_PEER, "%s", zds_status_name(status));
    zds_engine_destroy(e);
}

Test(engine_disagree, calls_that_differ_are_told)
{
    cr_expect_eq(run_ranks("{\"train_micro_batch_size_per_gpu\": 1, \"scheduler\": {\"type\": "
                           "\"reduce_lr_on_plateau\", \"params\": {}}}",
                           calls_unlike),
                 0);
    cr_expect_eq(run_ranks("{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": "
                           "{\"stage\": 1}}",
                           states_unlike),
                 0);
}

/* === a rank that fails alone === */

static int told[2]; /* a pipe: rank 0 has heard of it */

/* Rank 1 stays, and its engine too, until rank 0 has heard. */
static void stay(void)
{
    char byte;
    close(told[1]);
    NEED(read(told[0], &byte, 1) == 1, "rank 0 has ended otherwise");
}

static void expect_told(zds_engine *e, zds_status status, const char *cause)
{
    NEED(status == ZDS_ERR_PEER && strstr(zds_engine_error(e), cause), "%s: %s",
         zds_status_name(status), zds_engine_error(e));
    NEED(write(told[1], "", 1) == 1, "pipe");
}

static void fails_in_an_operation(const char *json, int32_t rank)
{
    zds_engine *e = open_engine(json, rank);
    zds_status status = ZDS_OK;
    for (uint64_t i = 0; i < 9 && !status; i++)
        status = small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL);
    if (rank == 0) {
        expect_told(e, status, "no memory for an operation");
    } else {
        NEED(status == ZDS_ERR_MEMORY, "%s", zds_status_name(status));
        stay();
    }
    zds_engine_destroy(e);
}

Test(engine_disagree, an_operation_that_fails_on_one_rank_is_told_to_the_others)
{
    ON_HOST_ALONE("the backend is one of the host's");
    cr_assert_eq(pipe(told), 0);
    setenv("ZDS_TEST_COMM", TEST_BINARY_DIR "/lib/zds/plugins/comm_shm.so", 1);
    at_each_stage(", \"zds\": {\"comm\": \"" TEST_BINARY_DIR "/tests/plugins/comm_fails_here.so\"}",
                  fails_in_an_operation);
}

static zds_status no_forward(void *user, zds_engine *e, int64_t micro, double *loss)
{
    (void)user, (void)e, (void)micro, (void)loss;
    return ZDS_ERR_IO;
}

static zds_status no_backward(void *user, zds_engine *e, int64_t micro, double scale)
{
    (void)user, (void)e, (void)micro, (void)scale;
    return ZDS_ERR_IO;
}

static void fails_in_a_callback(const char *json, int32_t rank)
{
    const zds_model_ops ops = {
        .struct_size = sizeof ops, .forward = no_forward, .backward = no_backward};
    zds_engine *e = open_engine(json, rank);
    if (rank == 0) {
        expect_told(e, zds_barrier(e), "forward or backward failed");
    } else {
        NEED(zds_train_batch(e, &ops, NULL, NULL) == ZDS_ERR_IO, "%s", zds_engine_error(e));
        stay();
    }
    zds_engine_destroy(e);
}

/* On a device ranks are connected twice. */
Test(engine_disagree, a_callback_that_fails_on_one_rank_is_told_to_the_others)
{
    cr_assert_eq(pipe(told), 0);
    at_each_stage("", fails_in_a_callback);
    at_each_stage(", \"zds\": {\"device\": \"test\"}", fails_in_a_callback);
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

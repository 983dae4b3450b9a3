/* The engine where callers and plugins do the unusual: micro steps that report nothing, states of
 * one byte or of none, an offloaded optimizer, a schedule that fails, a parameter without gradient,
 * a forked child, loops of two threads, another world than the config was loaded for. One rank; the
 * optimizer and the schedule are linked into the test. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_where.h"
#include "zds/zds.h"

static zds_status create(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self)
{
    (void)options, (void)env;
    *self = (void *)(uintptr_t)host;
    return ZDS_OK;
}

static zds_status create_sched(const zds_host *host, const void *options, const zds_sched_env *env,
                               void **self)
{
    (void)options, (void)env;
    *self = (void *)(uintptr_t)host;
    return ZDS_OK;
}

static void destroy(void *self)
{
    (void)self;
}

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->state_count = 3;
    needs->states[0] =
        (zds_state_spec){.name = "low", .dtype = ZDS_I8, .initial = -3, .version = 7};
    needs->states[1] = (zds_state_spec){.name = "high", .dtype = ZDS_U8, .initial = 200};
    needs->states[2] =
        (zds_state_spec){.name = "still", .kind = ZDS_STATE_CONSTANT, .initial = 0.25};
    return ZDS_OK;
}

/* w -= grad_scale * g */
static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t k = 0; k < tiles->count; k++) {
        const zds_tile *t = zds_tile_at(tiles, k);
        float *w = t->master;
        const float *g = t->grad;
        for (uint64_t i = 0; i < t->count; i++)
            w[i] -= (float)ctx->grad_scale * g[i];
    }
    return ZDS_OK;
}

static zds_status fails_after_a_step(void *self, int64_t moves, zds_sched_value *values,
                                     size_t stride)
{
    (void)values, (void)stride;
    const zds_host *host = self;
    return moves == 1 ? host->fail(host, ZDS_ERR_PLUGIN, "no rate for you") : ZDS_OK;
}

/* What it sets of betas is of no meaning to an optimizer without them. */
static zds_status no_number_after_a_step(void *self, int64_t moves, zds_sched_value *values,
                                         size_t stride)
{
    (void)self, (void)stride;
    values->mask = ZDS_SCHED_LR | ZDS_SCHED_BETA1;
    values->hyper.lr = moves == 1 ? NAN : 0.25;
    values->hyper.beta1 = NAN;
    return ZDS_OK;
}

static const zds_optim_ops optim_ops = {.struct_size = sizeof optim_ops,
                                        .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                        .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                        .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                        .output_dtypes =
                                            ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
                                        .create = create,
                                        .destroy = destroy,
                                        .describe = describe,
                                        .step = step};
static const zds_sched_ops sched_ops = {.struct_size = sizeof sched_ops,
                                        .create = create_sched,
                                        .destroy = destroy,
                                        .at = fails_after_a_step};
static const zds_plugin optim = {.struct_size = sizeof optim,
                                 .kind = ZDS_KIND_OPTIM,
                                 .name = "Plain",
                                 .version = "1",
                                 .doc = "w -= g",
                                 .ops = &optim_ops};
static const zds_plugin sched = {.struct_size = sizeof sched,
                                 .kind = ZDS_KIND_SCHED,
                                 .name = "Fails",
                                 .version = "1",
                                 .doc = "fails after the first step",
                                 .ops = &sched_ops};
static const zds_sched_ops no_number_ops = {.struct_size = sizeof no_number_ops,
                                            .create = create_sched,
                                            .destroy = destroy,
                                            .at = no_number_after_a_step};
static const zds_plugin no_number = {.struct_size = sizeof no_number,
                                     .kind = ZDS_KIND_SCHED,
                                     .name = "NoNumber",
                                     .version = "1",
                                     .doc = "a rate that is no number after the first step",
                                     .ops = &no_number_ops};
static const zds_plugin *const linked[] = {&optim, &sched, &no_number, NULL};

/* The first two share a span, being together smaller than the third. */
enum { MODULES = 3, ELEMENTS = 1200, LARGEST = 1000 };
static const int64_t sizes[MODULES] = {100, 100, LARGEST};

static zds_status ones(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 1;
    return ZDS_OK;
}

static zds_config *config;

static zds_status try_open(const char *json, int32_t world, const char *schedule, zds_engine **e,
                           zds_error *error)
{
    static const char *const names[MODULES] = {"a", "b", "c"};
    zds_config_context context = {.struct_size = sizeof context, .world_size = world};
    where_search();
    cr_assert_eq(zds_config_load(where_config(json), &context, &config, error), ZDS_OK, "%s",
                 error->text);
    zds_model *m = zds_model_create();
    for (uint32_t k = 0; k < MODULES; k++) {
        zds_param_desc d = {
            .struct_size = sizeof d, .name = names[k], .shape = &sizes[k], .ndim = 1};
        cr_assert_eq(zds_model_add_module(m, d.name, NULL), ZDS_OK);
        cr_assert_eq(zds_model_add_param(m, k, &d, NULL), ZDS_OK);
    }
    zds_engine_options o = {.struct_size = sizeof o,
                            .threads = 2,
                            .optimizer = "Plain",
                            .scheduler = schedule,
                            .plugins = where_plugins(linked)};
    zds_status status = zds_engine_create(config, m, &o, e, error);
    zds_model_destroy(m);
    return status;
}

static zds_engine *open_engine(const char *json, const char *schedule)
{
    zds_engine *e = NULL;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(try_open(json, 1, schedule, &e, &error), ZDS_OK, "%s", error.text);
    cr_assert_eq(zds_set_values(e, ones, NULL), ZDS_OK);
    return e;
}

static void close_engine(zds_engine *e)
{
    zds_engine_destroy(e);
    zds_config_destroy(config);
}

/* Leaves 0.5 in every gradient of a module, as a float or a bfloat16. */
static void report(zds_engine *e, uint32_t module)
{
    zds_view v;
    cr_assert_eq(zds_acquire(e, module, ZDS_BACKWARD, NULL, &v), ZDS_OK, "%s", zds_engine_error(e));
    float values[LARGEST];
    for (uint64_t i = 0; i < v.slots[0].count; i++)
        if (v.slots[0].dtype == ZDS_F32)
            values[i] = 0.5f;
        else
            ((uint16_t *)values)[i] = 0x3f00;
    cr_assert_eq(zds_copy_in(e, v.slots[0].grad, values,
                             v.slots[0].count * zds_dtype_size(v.slots[0].dtype)),
                 ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(zds_grad_ready(e, module, NULL), ZDS_OK, "%s", zds_engine_error(e));
}

static zds_status last_value(void *user, uint32_t param, uint64_t first, uint64_t count,
                             const float *values)
{
    (void)param, (void)first;
    *(float *)user = values[count - 1];
    return ZDS_OK;
}

static float value(zds_engine *e, uint32_t param, const char *state)
{
    float last = NAN;
    cr_assert_eq(zds_get_values(e, param, state, last_value, &last), ZDS_OK, "%s",
                 zds_engine_error(e));
    return last;
}

Test(engine_edges, no_sync_keeps_gradients_of_a_span_that_is_not_whole)
{
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0,"
                                "\"bf16\":{\"enabled\":true},\"zero_optimization\":{\"stage\":1},"
                                "\"data_types\":{\"grad_accum_dtype\":\"fp32\"}}",
                                NULL);
    zds_view v;
    cr_assert_eq(zds_no_sync(e, true), ZDS_OK);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    report(e, 1);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 1, ZDS_BACKWARD, NULL, &v), ZDS_OK);
    cr_assert_not(v.slots[0].accumulate, "a new micro step");
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID, "module 1 is acquired");
    cr_assert_eq(zds_grad_none(e, 1, 0), ZDS_OK);
    cr_assert_eq(zds_grad_ready(e, 1, NULL), ZDS_OK);
    cr_assert_eq(zds_no_sync(e, false), ZDS_OK);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    for (uint32_t m = MODULES; m-- > 0;)
        report(e, m);
    cr_assert_eq(zds_step(e, NULL), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(value(e, 1, NULL), 0.0f);
    cr_assert_eq(value(e, 0, NULL), 0.5f);
    close_engine(e);
}

Test(engine_edges, states_of_one_byte)
{
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\":1}", NULL);
    cr_assert_eq(value(e, 0, "low"), -3.0f);
    cr_assert_eq(value(e, 1, "high"), 200.0f);
    cr_assert_eq(value(e, 2, "still"), 0.25f);
    cr_assert_str_eq(zds_state_name(e, 2, 2), "still");
    cr_expect_eq(zds_state_version(e, 2, 0), 7);
    cr_expect_eq(zds_state_version(e, 2, 1), 0);
    cr_expect_eq(zds_state_version(e, 2, 3), 0, "past the last");
    cr_expect_eq(zds_state_version(e, MODULES, 0), 0, "no such parameter");
    close_engine(e);
}

static uint64_t bytes_in(const zds_engine *e, const char *purpose, const char *tier)
{
    zds_memory_row r;
    for (size_t i = 0; zds_memory_report(e, i, &r); i++)
        if (strcmp(r.purpose, purpose) == 0 && strcmp(r.tier, tier) == 0)
            return r.bytes;
    return 0;
}

/* Two states of one byte an element, padded to 64 bytes a state. */
Test(engine_edges, an_offloaded_optimizer_has_rows_of_its_own)
{
    static const struct {
        const char *json;
        bool moved;
    } rows[] = {{"\"stage\":0,\"offload_optimizer\":{\"device\":\"cpu\"}", false},
                {"\"stage\":1", false},
                {"\"stage\":1,\"offload_optimizer\":{\"device\":\"none\"}", false},
                {"\"stage\":1,\"offload_optimizer\":{\"device\":\"cpu\",\"pin_memory\":false,"
                 "\"buffer_count\":9,\"fast_init\":true,\"pipeline_read\":true}",
                 true},
                {"\"stage\":2,\"cpu_offload\":true", true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char json[256];
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\":1,\"gradient_accumulation_steps\":2,"
                 "\"bf16\":{\"enabled\":true},"
                 "\"zero_optimization\":{%s}}",
                 rows[i].json);
        zds_engine *e = open_engine(json, NULL);
        const char *device = on_island() ? "test" : "host";
        const char *here = rows[i].moved ? "cpu" : device,
                   *not_here = rows[i].moved ? device : "cpu";
        /* What comes to a device in windows lies together, masters and states. */
        bool together = rows[i].moved && on_island();
        uint64_t states = bytes_in(e, "optimizer states", here),
                 masters = bytes_in(e, "master weights", here);
        uint64_t least = (together ? 6 : 2) * ELEMENTS;
        cr_assert(states >= least && states < least + 9 * 64, "%s: %llu", json,
                  (unsigned long long)states);
        cr_assert(together ? masters == 0 : masters >= 4 * ELEMENTS, "%s", json);
        cr_assert_eq(bytes_in(e, "optimizer states", not_here), 0);
        cr_assert_eq(bytes_in(e, "master weights", not_here), 0);
        cr_assert_eq(bytes_in(e, "parameters", "cpu"), 0);
        close_engine(e);
    }
}

/* As in DeepSpeed. */
Test(engine_edges, below_stage_3_nvme_is_cpu)
{
    ON_HOST_ALONE("cpu is another memory than a device's");
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{"
                                "\"stage\":2,\"offload_optimizer\":{\"device\":\"nvme\"}}}",
                                NULL);
    cr_assert_gt(bytes_in(e, "optimizer states", "cpu"), 0);
    close_engine(e);
}

Test(engine_edges, a_schedule_that_fails_after_the_update_ends_the_run)
{
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\":1}", "Fails");
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    report(e, 1);
    cr_assert_eq(zds_step(e, NULL), ZDS_ERR_PLUGIN);
    cr_assert_not_null(strstr(zds_engine_error(e), "no rate for you"));
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID);
    close_engine(e);
}

Test(engine_edges, a_rate_that_is_no_number_reaches_no_weight)
{
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0,"
                                "\"optimizer\":{\"type\":\"SGD\",\"params\":{\"lr\":1}}}",
                                "NoNumber");
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    report(e, 1);
    cr_assert_eq(zds_step(e, NULL), ZDS_ERR_PLUGIN);
    cr_assert_not_null(strstr(zds_engine_error(e), "the scheduler failed at move 1: it sets lr of "
                                                   "group 0 to nan"),
                       "%s", zds_engine_error(e));
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID);
    close_engine(e);
}

Test(engine_edges, a_refused_step_leaves_nothing_for_the_next)
{
    zds_engine *e =
        open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0,\"zero_"
                    "optimization\":{\"stage\":2,\"ignore_unused_parameters\":false}}",
                    NULL);
    zds_step_result result = {.struct_size = sizeof result};
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    report(e, 1);
    cr_assert_eq(zds_step(e, &result), ZDS_ERR_INVALID);
    cr_assert_eq(value(e, 1, NULL), 1.0f);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    for (uint32_t m = MODULES; m-- > 0;)
        report(e, m);
    cr_assert_eq(zds_step(e, &result), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert(fabs(result.grad_norm - sqrt(0.25 * ELEMENTS)) < 1e-6, "%g", result.grad_norm);
    cr_assert_eq(value(e, 1, NULL), 0.5f);
    close_engine(e);
}

static void count_up(void *arg, size_t i)
{
    (void)i;
    ++*(int *)arg;
}

Test(engine_edges, parallel_for_ends_in_a_forked_child)
{
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\":1}", NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int count = 0;
        alarm(20);
        zds_parallel_for(e, 8, count_up, &count);
        _exit(count);
    }
    int state;
    waitpid(pid, &state, 0);
    cr_assert(WIFEXITED(state) && WEXITSTATUS(state) == 8);
    close_engine(e);
}

static void count_up_together(void *arg, size_t i)
{
    (void)i;
    atomic_fetch_add((atomic_int *)arg, 1);
}

enum { LOOP = 10 };

typedef struct ranges {
    pthread_barrier_t both; /* bodies that begin a range meet: each runs on a thread of its own */
    pthread_t caller, of[LOOP];
    size_t order[LOOP];
    atomic_size_t count;
} ranges;

static void begin_range(void *arg, size_t i)
{
    ranges *r = arg;
    r->of[i] = pthread_self();
    if (i % (LOOP / 2) == 0)
        pthread_barrier_wait(&r->both);
    r->order[atomic_fetch_add(&r->count, 1)] = i;
}

Test(engine_edges, threads_of_a_loop_begin_with_equal_ranges, .timeout = 60)
{
    zds_engine *e = open_engine("{\"train_micro_batch_size_per_gpu\":1}", NULL);
    ranges r = {.caller = pthread_self()};
    size_t next[2][2] = {{0}};
    cr_assert_eq(zds_threads(e), 2);
    pthread_barrier_init(&r.both, NULL, 2);
    zds_parallel_for(e, LOOP, begin_range, &r);
    pthread_barrier_destroy(&r.both);
    cr_assert_eq(atomic_load(&r.count), LOOP);
    cr_expect(pthread_equal(r.of[0], r.caller), "the calling thread is the first");
    cr_expect(!pthread_equal(r.of[LOOP / 2], r.caller), "and another has the other half");
    for (size_t k = 0; k < LOOP; k++) { /* each thread goes upwards through a range */
        size_t i = r.order[k], other = !pthread_equal(r.of[i], r.caller);
        size_t *from = &next[other][i / (LOOP / 2)];
        cr_expect(i >= *from, "%zu comes too late", i);
        *from = i + 1;
    }
    close_engine(e);
}

typedef struct loops {
    zds_engine *e;
    atomic_int count;
} loops;

static void *run_loops(void *arg)
{
    loops *l = arg;
    for (int r = 0; r < 200; r++)
        zds_parallel_for(l->e, 20, count_up_together, &l->count);
    return NULL;
}

Test(engine_edges, two_threads_of_the_program_may_run_loops_at_once, .timeout = 60)
{
    loops l = {.e = open_engine("{\"train_micro_batch_size_per_gpu\":1}", NULL)};
    pthread_t other;
    cr_assert_eq(pthread_create(&other, NULL, run_loops, &l), 0);
    run_loops(&l);
    pthread_join(other, NULL);
    cr_expect_eq(atomic_load(&l.count), 2 * 200 * 20);
    close_engine(l.e);
}

Test(engine_edges, a_config_loaded_for_another_world_is_refused)
{
    zds_engine *e = NULL;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(try_open("{\"train_batch_size\":8}", 4, NULL, &e, &error), ZDS_ERR_INVALID);
    cr_assert_not_null(strstr(error.text, "loaded for 4 ranks"), "%s", error.text);
    zds_error_clear(&error);
    zds_config_destroy(config);
}

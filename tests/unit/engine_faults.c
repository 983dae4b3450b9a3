/* What an engine refuses, and says, of calls that make no sense: one rank. And what must hold where
 * nothing was asked for: a step without a gradient, a plan without memory. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_where.h"
#include "small_model.h"

typedef struct fixture {
    zds_config *config;
    zds_engine *engine;
} fixture;

static zds_status try_open(const char *json, const zds_engine_options *more, fixture *f,
                           zds_error *error)
{
    zds_model *model = NULL;
    zds_engine_options o = more ? *more : (zds_engine_options){.optimizer = "AdamW"};
    *f = (fixture){0};
    o.struct_size = sizeof o;
    o.world_size = o.threads = 1;
    where_search();
    cr_assert_eq(zds_config_load(where_config(json), NULL, &f->config, error), ZDS_OK, "%s",
                 error->text);
    cr_assert_eq(small_model(&model), ZDS_OK);
    zds_status status = zds_engine_create(f->config, model, &o, &f->engine, error);
    zds_model_destroy(model);
    return status;
}

static fixture open_engine(const char *json)
{
    fixture f;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(try_open(json, NULL, &f, &error), ZDS_OK, "%s", error.text);
    cr_assert_eq(zds_set_values(f.engine, small_values, NULL), ZDS_OK);
    return f;
}

static void close_engine(fixture *f)
{
    zds_engine_destroy(f->engine);
    zds_config_destroy(f->config);
}

#define expect_status(e, call, wanted, word)                                                       \
    do {                                                                                           \
        zds_status got_ = (call);                                                                  \
        cr_expect_eq(got_, wanted, "%s: %s, not %s", #call, zds_status_name(got_),                 \
                     zds_status_name(wanted));                                                     \
        cr_expect(strstr(zds_engine_error(e), word), "%s: no \"%s\" in \"%s\"", #call, word,       \
                  zds_engine_error(e));                                                            \
    } while (0)

static const char plain[] = "{\"train_micro_batch_size_per_gpu\": 1}";

/* === calls that make no sense === */

Test(engine_faults, a_stream_of_another_space)
{
    fixture f = open_engine(plain);
    zds_engine *e = f.engine;
    zds_view view;
    const zds_stream stream = {.struct_size = sizeof stream, .device = {.space = ZDS_SPACE_CUDA}};
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    expect_status(e, zds_acquire(e, 3, ZDS_FORWARD, &stream, &view), ZDS_ERR_UNSUPPORTED, "stream");
    cr_assert_eq(zds_acquire(e, 3, ZDS_FORWARD, NULL, &view), ZDS_OK);
    expect_status(e, zds_release(e, 3, &stream), ZDS_ERR_UNSUPPORTED, "stream");
    cr_assert_eq(zds_release(e, 3, NULL), ZDS_OK);
    expect_status(e, zds_acquire(e, 3, ZDS_BACKWARD, &stream, &view), ZDS_ERR_UNSUPPORTED,
                  "stream");
    cr_assert_eq(zds_acquire(e, 3, ZDS_BACKWARD, NULL, &view), ZDS_OK);
    for (size_t s = 0; s < view.count; s++)
        cr_assert_eq(small_gradient(e, &view.slots[s], s, 1), ZDS_OK);
    expect_status(e, zds_grad_ready(e, 3, &stream), ZDS_ERR_UNSUPPORTED, "stream");
    cr_assert_eq(zds_grad_ready(e, 3, NULL), ZDS_OK, "a refused call has changed something");
    cr_assert_eq(zds_step(e, NULL), ZDS_OK);
    close_engine(&f);
}

Test(engine_faults, a_pass_that_there_is_not)
{
    fixture f = open_engine(plain);
    zds_view view;
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    expect_status(f.engine, zds_acquire(f.engine, 0, 2, NULL, &view), ZDS_ERR_INVALID, "pass");
    expect_status(f.engine, zds_acquire(f.engine, 0, -1, NULL, &view), ZDS_ERR_INVALID, "pass");
    cr_assert_eq(small_passes(f.engine, 0, 1), ZDS_OK, "%s", zds_engine_error(f.engine));
    close_engine(&f);
}

Test(engine_faults, no_view)
{
    fixture f = open_engine(plain);
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    expect_status(f.engine, zds_acquire(f.engine, 0, ZDS_FORWARD, NULL, NULL), ZDS_ERR_INVALID,
                  "view");
    expect_status(f.engine, zds_acquire(f.engine, 0, ZDS_BACKWARD, NULL, NULL), ZDS_ERR_INVALID,
                  "view");
    cr_assert_eq(small_passes(f.engine, 0, 1), ZDS_OK, "%s", zds_engine_error(f.engine));
    close_engine(&f);
}

Test(engine_faults, a_sum_of_nothing)
{
    fixture f = open_engine(plain);
    expect_status(f.engine, zds_sum_over_ranks(f.engine, NULL, 1), ZDS_ERR_INVALID, "values");
    cr_expect_eq(zds_sum_over_ranks(f.engine, NULL, 0), ZDS_OK);
    close_engine(&f);
}

/* Facts of nothing, and nowhere to put them. */
Test(engine_faults, nothing_is_no_crash)
{
    fixture f = open_engine(plain);
    zds_engine *none = NULL;
    zds_take_times(f.engine, NULL);
    cr_expect_not(zds_group(f.engine, 0, NULL));
    cr_expect_not(zds_memory_report_sized(f.engine, 0, NULL, sizeof(zds_memory_row)));
    zds_parallel_for(f.engine, 3, NULL, NULL);
    cr_expect_eq(zds_launched_as(NULL, NULL), ZDS_ERR_INVALID);
    zds_memory_row row;
    zds_step_times times = {.struct_size = sizeof times};
    zds_group_info info = {.struct_size = sizeof info};
    zds_take_times(none, &times);
    cr_expect(!zds_group(none, 0, &info) && !zds_memory_report(none, 0, &row));
    cr_expect(!zds_observes(none) && !zds_is_boundary(none));
    cr_expect(zds_rank(none) == 0 && zds_world_size(none) == 0 && zds_threads(none) == 0 &&
              zds_accumulation_steps(none) == 0 && zds_micro_batch_size(none) == 0);
    cr_expect(zds_loss_scale(none) == 0 && zds_param_dtype(none) == ZDS_F32 &&
              zds_param_device(none).space == ZDS_SPACE_HOST);
    close_engine(&f);
}

/* Each call in the child says why it is refused, whatever the parent's last error was. */
Test(engine_faults, a_forked_child_is_told)
{
    fixture f = open_engine(plain);
    cr_assert_eq(zds_micro_begin(f.engine, 99), ZDS_ERR_INVALID); /* leaves a text */
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        double value = 1;
        bool good = zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO) == ZDS_ERR_INVALID &&
                    strstr(zds_engine_error(f.engine), "fork");
        good = good && zds_sum_over_ranks(f.engine, &value, 1) == ZDS_ERR_INVALID &&
               strstr(zds_engine_error(f.engine), "fork");
        fprintf(stderr, "%s\n", zds_engine_error(f.engine));
        _exit(good ? 0 : 1);
    }
    int state;
    waitpid(pid, &state, 0);
    cr_expect(WIFEXITED(state) && WEXITSTATUS(state) == 0);
    close_engine(&f);
}

/* Values that could not be read are nowhere: no pass may see half of them. */
static zds_status half_of_them(void *user, uint32_t param, uint64_t first, uint64_t count,
                               float *out)
{
    return param == 3 ? ZDS_ERR_IO : small_values(user, param, first, count, out);
}

Test(engine_faults, values_that_are_read_again_and_fail)
{
    fixture f = open_engine(plain);
    zds_view view;
    cr_expect_eq(zds_set_values(f.engine, half_of_them, NULL), ZDS_ERR_IO);
    expect_status(f.engine, zds_acquire(f.engine, 0, ZDS_FORWARD, NULL, &view), ZDS_ERR_INVALID,
                  "zds_set_values");
    expect_status(f.engine, zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID,
                  "zds_set_values");
    cr_expect_eq(zds_set_values(f.engine, small_values, NULL), ZDS_OK);
    cr_expect_eq(small_micro(f.engine, ZDS_BOUNDARY_AUTO, 0, NULL), ZDS_OK);
    close_engine(&f);
}

/* Micro steps under no_sync are steps of an optimizer step, too. */
Test(engine_faults, calls_after_steps_without_sync)
{
    fixture f = open_engine(plain);
    cr_assert_eq(zds_no_sync(f.engine, true), ZDS_OK);
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(small_passes(f.engine, 0, 1), ZDS_OK);
    cr_assert_eq(zds_no_sync(f.engine, false), ZDS_OK);
    expect_status(f.engine, zds_set_train_batch_size(f.engine, 2), ZDS_ERR_INVALID, "boundary");
    expect_status(f.engine, zds_set_values(f.engine, small_values, NULL), ZDS_ERR_INVALID,
                  "middle");
    cr_assert_eq(small_micro(f.engine, ZDS_BOUNDARY_AUTO, 1, NULL), ZDS_OK);
    cr_expect_eq(zds_set_train_batch_size(f.engine, 2), ZDS_OK);
    close_engine(&f);
}

/* === models === */

#define expect_model(m, call, wanted, word)                                                        \
    do {                                                                                           \
        zds_status got_ = (call);                                                                  \
        cr_expect_eq(got_, wanted, "%s: %s", #call, zds_status_name(got_));                        \
        cr_expect(strstr(zds_model_error(m), word), "%s: no \"%s\" in \"%s\"", #call, word,        \
                  zds_model_error(m));                                                             \
    } while (0)

Test(engine_faults, errors_of_a_model_have_texts)
{
    zds_model *m = zds_model_create();
    const int64_t shape[] = {4};
    zds_param_desc desc = {.struct_size = sizeof desc, .name = "w", .shape = shape, .ndim = 1};
    expect_model(m, zds_model_add_module(m, NULL, NULL), ZDS_ERR_INVALID, "name");
    expect_model(m, zds_model_add_module(m, "a", NULL), ZDS_OK, "");
    cr_expect_str_eq(zds_model_error(m), "", "of a call that succeeded");
    expect_model(m, zds_model_add_param(m, 0, NULL, NULL), ZDS_ERR_INVALID, "desc");
    expect_model(m, zds_model_add_param(m, 5, &desc, NULL), ZDS_ERR_INVALID, "module 5");
    cr_expect_eq(zds_model_add_param(m, 0, &desc, NULL), ZDS_OK);
    cr_expect_str_eq(zds_model_error(m), "", "of a call that succeeded");
    expect_model(m, zds_model_add_use(m, 0, 7), ZDS_ERR_INVALID, "parameter 7");
    expect_model(m, zds_model_add_use(m, 7, 0), ZDS_ERR_INVALID, "module 7");
    expect_model(NULL, zds_model_add_module(NULL, "a", NULL), ZDS_ERR_INVALID, "model");
    expect_model(NULL, zds_model_add_param(NULL, 0, &desc, NULL), ZDS_ERR_INVALID, "model");
    expect_model(NULL, zds_model_add_use(NULL, 0, 0), ZDS_ERR_INVALID, "model");
    zds_model_destroy(m);
}

/* === granularities whose common multiple is beyond all numbers === */

static zds_status describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    static const uint32_t primes[] = {1048573, 1048571, 1048559, 1048549};
    (void)self;
    needs->granularity = primes[param->index % 4];
    return ZDS_OK;
}

static zds_status no_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)tiles, (void)ctx;
    return ZDS_OK;
}

static const zds_optim_ops ops = {.struct_size = sizeof ops,
                                  .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                  .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                  .describe = describe,
                                  .step = no_step};
static const zds_plugin coarse = {.struct_size = sizeof coarse,
                                  .kind = ZDS_KIND_OPTIM,
                                  .name = "Coarse",
                                  .version = "1",
                                  .doc = "blocks of prime sizes",
                                  .ops = &ops};
/* Takes the states' array for its own to give. */
static zds_status describe_moved(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self;
    needs->state_count = 1;
    if (param->index)
        needs->states = NULL;
    else
        needs->state_stride = 8;
    return ZDS_OK;
}
static const zds_optim_ops moving_ops = {.struct_size = sizeof moving_ops,
                                         .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                         .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                         .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                         .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                         .describe = describe_moved,
                                         .step = no_step};
static const zds_plugin moving = {.struct_size = sizeof moving,
                                  .kind = ZDS_KIND_OPTIM,
                                  .name = "Moving",
                                  .version = "1",
                                  .doc = "changes what is the host's",
                                  .ops = &moving_ops};
static const zds_plugin *const linked[] = {&coarse, &moving, NULL};

Test(engine_faults, a_describe_that_moves_its_states)
{
    fixture f;
    zds_error error = ZDS_ERROR_INIT;
    const zds_engine_options o = {
        .struct_size = sizeof o, .optimizer = "Moving", .plugins = where_plugins(linked)};
    cr_expect_eq(try_open(plain, &o, &f, &error), ZDS_ERR_PLUGIN, "%s", error.text);
    cr_expect(error.text && strstr(error.text, "Moving") && strstr(error.text, "embed.weight") &&
                  strstr(error.text, "state_stride"),
              "%s", error.text);
    zds_error_clear(&error);
    close_engine(&f);
}

Test(engine_faults, granularities_without_a_common_multiple)
{
    for (int stage = 0; stage < 4; stage++) {
        char json[128];
        fixture f;
        zds_error error = ZDS_ERROR_INIT;
        const zds_engine_options o = {
            .struct_size = sizeof o, .optimizer = "Coarse", .plugins = where_plugins(linked)};
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}}",
                 stage);
        cr_expect_eq(try_open(json, &o, &f, &error), ZDS_ERR_UNSUPPORTED, "%s", error.text);
        cr_expect(error.text && strstr(error.text, "Coarse"), "%s", error.text);
        zds_error_clear(&error);
        close_engine(&f);
    }
}

/* === steps === */

/* Nothing is trained: the schedule has nothing to move for. */
Test(engine_faults, a_model_of_frozen_parameters_is_not_stepped)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *e = NULL;
    zds_model *model = zds_model_create();
    const int64_t shape[] = {40};
    const zds_param_desc desc = {
        .struct_size = sizeof desc, .name = "w", .shape = shape, .ndim = 1, .frozen = true};
    const zds_engine_options o = {
        .struct_size = sizeof o, .world_size = 1, .threads = 1, .optimizer = "AdamW"};
    zds_step_result r = {.struct_size = sizeof r};
    where_search();
    cr_assert_eq(zds_model_add_module(model, "m", NULL), ZDS_OK);
    cr_assert_eq(zds_model_add_param(model, 0, &desc, NULL), ZDS_OK);
    cr_assert_eq(zds_config_load(where_config(plain), NULL, &config, &error), ZDS_OK);
    cr_assert_eq(zds_engine_create(config, model, &o, &e, &error), ZDS_OK, "%s", error.text);
    cr_assert_eq(zds_set_values(e, small_values, NULL), ZDS_OK);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_step(e, &r), ZDS_OK, "%s", zds_engine_error(e));
    cr_expect(!r.applied && !r.skipped && r.steps == 0);
    zds_model_destroy(model);
    zds_engine_destroy(e);
    zds_config_destroy(config);
}

Test(engine_faults, a_step_without_a_gradient_is_none)
{
    for (int stage = 0; stage < 4; stage++) {
        char json[300];
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d},"
                 "\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 10,"
                 "\"warmup_type\": \"linear\"}}}",
                 stage);
        fixture f = open_engine(json);
        zds_step_result first = {.struct_size = sizeof first}, none = first, last = first;
        for (uint64_t i = 0; i < 2; i++) /* before the second the rate stands at its beginning */
            cr_assert_eq(small_micro(f.engine, ZDS_BOUNDARY_AUTO, i, &first), ZDS_OK);
        cr_assert(first.applied && first.next_lr > first.lr, "%g, %g", first.lr, first.next_lr);
        cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
        cr_expect_eq(zds_step(f.engine, &none), ZDS_OK, "%s", zds_engine_error(f.engine));
        cr_expect_eq(none.applied, 0, "stage %d", stage);
        cr_expect_eq(none.skipped, 0);
        cr_expect_eq(none.steps, 2);
        cr_expect_eq(none.skips, 0);
        cr_expect_eq(none.next_lr, first.next_lr, "the schedule moved");
        cr_assert_eq(small_micro(f.engine, ZDS_BOUNDARY_AUTO, 2, &last), ZDS_OK);
        cr_expect_eq(last.steps, 3);
        cr_expect_eq(last.lr, first.next_lr);
        close_engine(&f);
    }
}

/* The bits of an engine that knew from the start how many micro steps there are. */
static uint64_t hash_of(const char *json, void (*train)(zds_engine *e))
{
    fixture f = open_engine(json);
    small_sum sum;
    train(f.engine);
    cr_assert_eq(small_hash(f.engine, &sum), ZDS_OK);
    close_engine(&f);
    return sum.hash;
}

enum { MICRO_STEPS = 8 };

static void as_created(zds_engine *e)
{
    for (uint64_t i = 0; i < MICRO_STEPS; i++)
        cr_assert_eq(small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL), ZDS_OK, "%s", zds_engine_error(e));
}

static void with_another_batch_size(zds_engine *e)
{
    cr_assert_eq(zds_set_train_batch_size(e, MICRO_STEPS), ZDS_OK);
    as_created(e);
}

static void without_sync(zds_engine *e)
{
    cr_assert_eq(zds_no_sync(e, true), ZDS_OK);
    for (uint64_t i = 0; i + 1 < MICRO_STEPS; i++) {
        cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
        cr_assert_eq(small_passes(e, i, 1.0 / MICRO_STEPS), ZDS_OK);
    }
    cr_assert_eq(zds_no_sync(e, false), ZDS_OK);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_YES), ZDS_OK);
    cr_assert_eq(small_passes(e, MICRO_STEPS - 1, 1.0 / MICRO_STEPS), ZDS_OK);
    cr_assert_eq(zds_step(e, NULL), ZDS_OK, "%s", zds_engine_error(e));
}

Test(engine_faults, gradients_add_up_in_fp32_whenever_there_are_several)
{
    for (int stage = 0; stage < 4; stage++) {
        char one[200], many[200];
        const char *text = "{\"train_micro_batch_size_per_gpu\": 1, \"bf16\": {\"enabled\": true},"
                           "\"gradient_accumulation_steps\": %d,"
                           "\"zero_optimization\": {\"stage\": %d}}";
        snprintf(one, sizeof one, text, 1, stage);
        snprintf(many, sizeof many, text, MICRO_STEPS, stage);
        uint64_t wanted = hash_of(many, as_created);
        cr_expect_eq(hash_of(one, with_another_batch_size), wanted, "stage %d", stage);
        if (stage < 2)
            cr_expect_eq(hash_of(one, without_sync), wanted, "stage %d, no_sync", stage);
    }
}

/* === plans === */

static void add_bytes(void *user, const zds_memory_row *row)
{
    *(double *)user += (double)row->bytes;
}

/* Of one parameter in each of 100 modules. */
static zds_model *large_model(int64_t elements)
{
    zds_model *m = zds_model_create();
    const int64_t shape[] = {elements / 100};
    for (uint32_t i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof name, "w%u", i);
        zds_param_desc desc = {.struct_size = sizeof desc, .name = name, .shape = shape, .ndim = 1};
        cr_assert_eq(zds_model_add_module(m, name, NULL), ZDS_OK);
        cr_assert_eq(zds_model_add_param(m, i, &desc, NULL), ZDS_OK);
    }
    return m;
}

static long pages_mapped(void)
{
    long pages = 0;
    FILE *in = fopen("/proc/self/statm", "r");
    cr_assert(in && fscanf(in, "%ld", &pages) == 1);
    fclose(in);
    return pages;
}

#if defined(__SANITIZE_ADDRESS__)
enum { MAPS_TERABYTES = true };
#else
enum { MAPS_TERABYTES = false };
#endif

Test(engine_faults, a_plan_maps_no_memory_that_it_only_plans, .disabled = MAPS_TERABYTES)
{
    zds_model *m = large_model(1000000000);
    rlim_t most = (rlim_t)pages_mapped() * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)512 << 20);
    cr_assert_eq(setrlimit(RLIMIT_AS, &(struct rlimit){most, most}), 0);
    where_search();
    for (int stage = 0; stage < 4; stage++)
        for (int32_t world = 1; world <= 8; world *= 8) {
            char json[200];
            double bytes = 0;
            zds_config *config = NULL;
            zds_error error = ZDS_ERROR_INIT;
            const zds_config_context context = {.struct_size = sizeof context, .world_size = world};
            const zds_engine_options o = {.struct_size = sizeof o,
                                          .world_size = world,
                                          .local_world_size = world,
                                          .threads = 1,
                                          .optimizer = "AdamW"};
            snprintf(
                json, sizeof json,
                "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}}",
                stage);
            cr_assert_eq(zds_config_load(where_config(json), &context, &config, &error), ZDS_OK);
            cr_expect_eq(zds_engine_plan(config, m, &o, add_bytes, &bytes, &error), ZDS_OK,
                         "stage %d, %d ranks: %s", stage, (int)world, error.text);
            cr_expect(bytes >= 4e9, "%g", bytes);
            zds_error_clear(&error);
            zds_config_destroy(config);
        }
    zds_model_destroy(m);
}

/* Pages that ranks of the node share count in part for each. */
typedef struct tally {
    double bytes;
    int32_t ranks;
} tally;

static void add_row(void *user, const zds_memory_row *row)
{
    tally *t = user;
    t->bytes += (double)(row->bytes - row->shared) + (double)row->shared / t->ranks;
}

/* GPT-2 124M: a table that the head uses again, positions, 12 blocks, a last norm. */
static zds_model *gpt2(void)
{
    static const struct {
        const char *name;
        int64_t rows, cols;
    } block[] = {{"ln_1.weight", 768, 0},           {"ln_1.bias", 768, 0},
                 {"attn.c_attn.weight", 768, 2304}, {"attn.c_attn.bias", 2304, 0},
                 {"attn.c_proj.weight", 768, 768},  {"attn.c_proj.bias", 768, 0},
                 {"ln_2.weight", 768, 0},           {"ln_2.bias", 768, 0},
                 {"mlp.c_fc.weight", 768, 3072},    {"mlp.c_fc.bias", 3072, 0},
                 {"mlp.c_proj.weight", 3072, 768},  {"mlp.c_proj.bias", 768, 0}};
    zds_model *m = zds_model_create();
    uint32_t module, table;
    const int64_t tokens[] = {50257, 768}, places[] = {1024, 768}, width[] = {768};
    zds_param_desc d = {.struct_size = sizeof d, .name = "wte", .shape = tokens, .ndim = 2};
    cr_assert_eq(zds_model_add_module(m, "embed", &module), ZDS_OK);
    cr_assert_eq(zds_model_add_param(m, module, &d, &table), ZDS_OK);
    d.name = "wpe", d.shape = places;
    cr_assert_eq(zds_model_add_param(m, module, &d, NULL), ZDS_OK);
    for (int i = 0; i < 12; i++) {
        char name[48];
        snprintf(name, sizeof name, "h.%d", i);
        cr_assert_eq(zds_model_add_module(m, name, &module), ZDS_OK);
        for (size_t k = 0; k < sizeof block / sizeof *block; k++) {
            const int64_t shape[] = {block[k].rows, block[k].cols};
            snprintf(name, sizeof name, "h.%d.%s", i, block[k].name);
            d.name = name, d.shape = shape, d.ndim = block[k].cols ? 2 : 1;
            cr_assert_eq(zds_model_add_param(m, module, &d, NULL), ZDS_OK);
        }
    }
    cr_assert_eq(zds_model_add_module(m, "head", &module), ZDS_OK);
    d.name = "ln_f.weight", d.shape = width, d.ndim = 1;
    cr_assert_eq(zds_model_add_param(m, module, &d, NULL), ZDS_OK);
    d.name = "ln_f.bias";
    cr_assert_eq(zds_model_add_param(m, module, &d, NULL), ZDS_OK);
    cr_assert_eq(zds_model_add_use(m, module, table), ZDS_OK);
    return m;
}

static double planned(const zds_model *m, int stage, bool bf16, int32_t ranks)
{
    char json[200];
    tally t = {.ranks = ranks};
    zds_config *config = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = ranks};
    const zds_engine_options o = {.struct_size = sizeof o,
                                  .world_size = ranks,
                                  .local_world_size = ranks,
                                  .threads = 1,
                                  .optimizer = "AdamW"};
    where_search();
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"bf16\": {\"enabled\": %s}, "
             "\"zero_optimization\": {\"stage\": %d%s}}",
             bf16 ? "true" : "false", stage, stage == 3 ? ", \"max_live_parameters\": 1" : "");
    cr_assert_eq(zds_config_load(where_config(json), &context, &config, &error), ZDS_OK);
    cr_assert_eq(zds_engine_plan(config, m, &o, add_row, &t, &error), ZDS_OK, "%s", error.text);
    zds_config_destroy(config);
    return t.bytes;
}

/* Allowed are a few pages more, for lists. */
Test(engine_faults, a_higher_stage_takes_no_more_memory)
{
    zds_model *m = gpt2();
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (int32_t ranks = 1; ranks <= 8; ranks *= 2) {
            double bytes[4];
            for (int stage = 0; stage < 4; stage++)
                bytes[stage] = planned(m, stage, bf16, ranks);
            for (int stage = 1; stage < 4; stage++)
                cr_expect_leq(bytes[stage], bytes[stage - 1] + 65536,
                              "%s, %d ranks: stage %d takes %.1f MiB, stage %d %.1f",
                              bf16 ? "bf16" : "fp32", (int)ranks, stage, bytes[stage] / 1048576,
                              stage - 1, bytes[stage - 1] / 1048576);
        }
    zds_model_destroy(m);
}

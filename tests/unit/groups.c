/* Groups of hyperparameters in an engine of one rank: those of zds.param_groups, those of the
 * program, the default rules, lists of a schedule, schedules that follow a metric. The optimizer
 * writes what it is told into parameters and states, so that a step shows it. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zds/zds.h"

/* === an optimizer that shows its hyperparameters === */

typedef struct teller_options {
    double lr, betas[2], momentum, weight_decay, eps;
} teller_options;

static zds_status teller_create(const zds_host *host, const void *options, const zds_optim_env *env,
                                void **self)
{
    (void)host, (void)options, (void)env;
    *self = NULL;
    return ZDS_OK;
}

static void teller_destroy(void *self)
{
    (void)self;
}

enum { STATES = 4 };
static const char *const state_names[STATES] = {"beta1", "beta2", "momentum", "weight_decay"};

/* Parameters whose name ends in "half" get half the rate: the optimizer splits their group. */
static zds_status teller_describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self;
    needs->state_count = STATES;
    for (size_t s = 0; s < STATES; s++)
        needs->states[s] =
            (zds_state_spec){.name = state_names[s], .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32};
    if (strlen(param->name) > 4 && strcmp(param->name + strlen(param->name) - 4, "half") == 0)
        needs->hyper->lr /= 2;
    return ZDS_OK;
}

static zds_status teller_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)ctx;
    for (size_t k = 0; k < tiles->count; k++) {
        const zds_tile *t = zds_tile_at(tiles, k);
        const zds_hyper *h = t->hyper;
        const double told[STATES] = {h->beta1, h->beta2, h->momentum, h->weight_decay};
        for (uint64_t i = 0; i < t->count; i++) {
            ((float *)t->master)[i] = (float)h->lr;
            for (size_t s = 0; s < STATES; s++)
                ((float *)t->states[s])[i] = (float)told[s];
        }
    }
    return ZDS_OK;
}

#define ROW(field, kind, preset, ...)                                                              \
    {                                                                                              \
        .name = #field, .type = kind, .offset = offsetof(teller_options, field),                   \
        .default_value = preset, .min = 0, .max = INFINITY, .doc = "as its name", __VA_ARGS__      \
    }
static const zds_option teller_table[] = {ROW(lr, ZDS_OPTION_FLOAT, "0.5", .count = 0),
                                          ROW(betas, ZDS_OPTION_FLOATS, "[0.9, 0.999]", .count = 2),
                                          ROW(momentum, ZDS_OPTION_FLOAT, "0.25", .count = 0),
                                          ROW(weight_decay, ZDS_OPTION_FLOAT, "0.125", .count = 0),
                                          ROW(eps, ZDS_OPTION_FLOAT, "1e-8", .count = 0)};
static const zds_optim_ops teller_ops = {.struct_size = sizeof teller_ops,
                                         .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                         .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                         .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                         .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                         .create = teller_create,
                                         .destroy = teller_destroy,
                                         .describe = teller_describe,
                                         .step = teller_step};
static const zds_plugin teller = {.struct_size = sizeof teller,
                                  .kind = ZDS_KIND_OPTIM,
                                  .name = "Teller",
                                  .version = "1",
                                  .doc = "shows its hyperparameters",
                                  .options = teller_table,
                                  .option_stride = sizeof teller_table[0],
                                  .option_count = sizeof teller_table / sizeof teller_table[0],
                                  .options_size = sizeof(teller_options),
                                  .ops = &teller_ops};
static const zds_plugin *const linked[] = {&teller, NULL};

/* === a model === */

enum { WTE, W0, B0, W1, B1, FROZEN, HALF, PARAMS };
enum { DECAY, NO_DECAY };
static const struct {
    const char *name;
    uint32_t group;
} params[PARAMS] = {{"wte.weight", DECAY}, {"h.0.weight", DECAY},  {"h.0.bias", NO_DECAY},
                    {"h.1.weight", DECAY}, {"h.1.bias", NO_DECAY}, {"frozen.weight", DECAY},
                    {"h.1.half", DECAY}};

static zds_model *make_model(void)
{
    static const int64_t shape = 3;
    zds_model *m = zds_model_create();
    uint32_t module;
    zds_model_add_module(m, "all", &module);
    for (uint32_t p = 0; p < PARAMS; p++) {
        zds_param_desc d = {.struct_size = sizeof d,
                            .name = params[p].name,
                            .ndim = 1,
                            .shape = &shape,
                            .group = params[p].group,
                            .frozen = p == FROZEN};
        cr_assert_eq(zds_model_add_param(m, module, &d, NULL), ZDS_OK);
    }
    return m;
}

typedef struct fixture {
    zds_config *config;
    zds_engine *engine;
    zds_error error;
} fixture;

static zds_status read_zero(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    memset(out, 0, count * sizeof *out);
    return ZDS_OK;
}

/* The program's own: two groups, the second without weight decay, as the Trainer's. */
static zds_status try_engine(fixture *f, const char *keys, const char *scheduler, bool keep)
{
    char json[1200];
    const zds_hyper given = ZDS_HYPER_NONE;
    zds_group_desc groups[2] = {{sizeof *groups, given}, {sizeof *groups, given}};
    groups[NO_DECAY].hyper.weight_decay = 0;
    zds_engine_options o = {.struct_size = sizeof o,
                            .plugins = linked,
                            .optimizer = "Teller",
                            .scheduler = scheduler,
                            .groups = groups,
                            .group_count = 2,
                            .group_stride = sizeof *groups,
                            .threads = 1,
                            .total_steps = 100,
                            .keep_groups = keep};
    *f = (fixture){.error = ZDS_ERROR_INIT};
    snprintf(json, sizeof json, "{\"train_micro_batch_size_per_gpu\": 1%s%s}", *keys ? ", " : "",
             keys);
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    zds_status status = zds_config_load(json, NULL, &f->config, &f->error);
    if (status)
        return status;
    zds_model *m = make_model();
    status = zds_engine_create(f->config, m, &o, &f->engine, &f->error);
    zds_model_destroy(m);
    if (!status)
        status = zds_set_values(f->engine, read_zero, NULL);
    return status;
}

static fixture open_engine(const char *keys, const char *scheduler, bool keep)
{
    fixture f;
    cr_assert_eq(try_engine(&f, keys, scheduler, keep), ZDS_OK, "%s", f.error.text);
    return f;
}

static void close_engine(fixture *f)
{
    zds_engine_destroy(f->engine);
    zds_config_destroy(f->config);
    zds_error_clear(&f->error);
}

static zds_step_result step(fixture *f)
{
    zds_view view;
    zds_step_result r = {.struct_size = sizeof r};
    cr_assert_eq(zds_micro_begin(f->engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_acquire(f->engine, 0, ZDS_BACKWARD, NULL, &view), ZDS_OK);
    for (size_t s = 0; s < view.count; s++)
        for (uint64_t i = 0; view.slots[s].grad && i < view.slots[s].count; i++)
            ((float *)view.slots[s].grad)[i] = 1;
    cr_assert_eq(zds_grad_ready(f->engine, 0, NULL), ZDS_OK);
    cr_assert_eq(zds_step(f->engine, &r), ZDS_OK, "%s", zds_engine_error(f->engine));
    cr_assert(r.applied);
    return r;
}

static zds_status keep_first(void *user, uint32_t param, uint64_t first, uint64_t count,
                             const float *values)
{
    (void)param, (void)count;
    if (first == 0)
        *(float *)user = values[0];
    return ZDS_OK;
}

/* What the last step told of a parameter: NULL for its rate, else a state's name. */
static double told(fixture *f, uint32_t param, const char *what)
{
    float value;
    cr_assert_eq(zds_get_values(f->engine, param, what, keep_first, &value), ZDS_OK);
    return (double)value;
}

#define expect_told(f, param, what, value)                                                         \
    cr_expect_eq(told(f, param, what), (double)(float)(value), "%s of %s is %g, not %g",           \
                 (what) ? (what) : "rate", params[param].name, told(f, param, what),               \
                 (double)(value))

#define OWN  "\"optimizer\": {\"type\": \"Teller\", \"params\": {}}"
#define LIST "\"zds\": {\"param_groups\": ["

/* === which parameter gets what === */

Test(groups, the_first_pattern_that_matches_wins)
{
    fixture f = open_engine(
        OWN ", " LIST "{\"params\": [\"wte.*\", \"h.1.bias\"], \"lr\": 0.0625, \"betas\": [0.5, "
            "0.75]}, {\"params\": \"*.[bw]*i*\", \"momentum\": 0, \"weight_decay\": 0.25}]}",
        NULL, false);
    step(&f);
    expect_told(&f, WTE, NULL, 0.0625);
    expect_told(&f, WTE, "beta1", 0.5);
    expect_told(&f, WTE, "beta2", 0.75);
    expect_told(&f, WTE, "momentum", 0.25);
    expect_told(&f, WTE, "weight_decay", 0.125);
    expect_told(&f, B1, NULL, 0.0625);
    expect_told(&f, B1, "weight_decay", 0.125);
    expect_told(&f, W0, NULL, 0.5);
    expect_told(&f, W0, "momentum", 0);
    expect_told(&f, B0, "weight_decay", 0.25);
    expect_told(&f, B0, "beta1", 0.9);
    expect_told(&f, HALF, "momentum", 0.25); /* no group's */
    expect_told(&f, HALF, NULL, 0.25);
    close_engine(&f);
}

/* An optimizer of ds_config makes one group, whatever the program declares; the program's own keeps
 * the program's. */
Test(groups, default_rules)
{
    fixture f = open_engine(OWN, NULL, false);
    step(&f);
    expect_told(&f, B0, "weight_decay", 0.125);
    close_engine(&f);

    f = open_engine("", NULL, false);
    step(&f);
    expect_told(&f, B0, "weight_decay", 0);
    expect_told(&f, W0, "weight_decay", 0.125);
    close_engine(&f);

    f = open_engine(OWN, NULL, true); /* the program insists */
    step(&f);
    expect_told(&f, B0, "weight_decay", 0);
    expect_told(&f, W0, "weight_decay", 0.125);
    close_engine(&f);
}

/* A group by name changes what it sets, and nothing else that the program said. */
Test(groups, by_name_over_the_programs_own)
{
    fixture f = open_engine(LIST "{\"params\": \"h.0.*\", \"lr\": 0.0625}]}", NULL, false);
    step(&f);
    expect_told(&f, B0, NULL, 0.0625);
    expect_told(&f, B0, "weight_decay", 0);
    expect_told(&f, W0, NULL, 0.0625);
    expect_told(&f, W0, "weight_decay", 0.125);
    expect_told(&f, B1, NULL, 0.5);
    close_engine(&f);
}

Test(groups, are_listed)
{
    static const struct {
        uint32_t declared, params;
        double lr, decay;
    } want[] = {{0, 1, 0.0625, 0},
                {1, 1, 0.5, 0.125},
                {2, 2, 0.5, 0.125},
                {2, 1, 0.25, 0.125},
                {3, 1, 0.5, 0}};
    fixture f = open_engine(LIST "{\"params\": \"h.1.bias\", \"lr\": 0.0625}, {\"params\": "
                                 "\"wte*\"}]}",
                            NULL, false);
    zds_group_info info = {.struct_size = sizeof info};
    for (size_t i = 0; i < 5; i++) {
        cr_assert(zds_group(f.engine, i, &info));
        cr_expect_eq(info.declared, want[i].declared, "group %zu", i);
        cr_expect_eq(info.params, want[i].params, "group %zu", i);
        cr_expect_eq(info.elements, 3 * want[i].params);
        cr_expect_eq(info.hyper.lr, want[i].lr, "group %zu", i);
        cr_expect_eq(info.hyper.weight_decay, want[i].decay, "group %zu", i);
    }
    cr_assert_not(zds_group(f.engine, 5, &info));
    close_engine(&f);
}

/* === what is refused === */

Test(groups, refusals)
{
    static const struct {
        const char *groups, *says;
    } bad[] = {
        {"{\"params\": \"h.*.wieght\", \"lr\": 1}",
         "zds.param_groups.0.params: \"h.*.wieght\" matches no parameter; the nearest names are "
         "h.0.weight, h.1.weight"},
        {"{\"params\": [\"wte*\", \"mlp*\"]}", "zds.param_groups.0.params.1: \"mlp*\""},
        {"{\"params\": \"*\"}, {\"params\": \"h.*\"}", "zds.param_groups.1.params: all that it"},
        {"{\"params\": \"frozen*\"}", "none of the parameters that it takes is trained"},
        {"{\"params\": \"*\", \"lr\": -1}", "zds.param_groups.0.lr: -1 is out of range"},
        {"{\"params\": \"*\", \"lr\": \"fast\"}", "zds.param_groups.0.lr: \"fast\""},
        {"{\"params\": \"*\", \"lr\": \"auto\"}", "zds.param_groups.0.lr: nothing fills"},
        {"{\"params\": \"*\", \"lr\": \"1\"}", "must be a number"},
        {"{\"params\": \"*\", \"betas\": [1]}", "zds.param_groups.0.betas: must be an array of 2"},
        {"{\"params\": \"*\", \"betas\": [1, true]}", "zds.param_groups.0.betas: [1,true] holds"},
        {"{\"params\": \"*\", \"eps\": 1}",
         "zds.param_groups.0.eps: unknown key; here are only params, lr, betas, momentum"},
        {"{\"params\": \"*\", \"lrs\": 1}", "did you mean lr?"},
        {"{\"lr\": 1}", "zds.param_groups.0: names no parameters"},
        {"{\"params\": []}", "zds.param_groups.0.params: names no parameters"},
        {"{\"params\": \"[a\"}", "zds.param_groups.0.params: a set has no ']'"},
        {"{\"params\": [\"*\", \"\"]}", "an empty pattern"},
        {"{\"params\": [1]}", "holds something that is no string"},
        {"3", "zds.param_groups.0: 3 is not a section"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char keys[400];
        fixture f;
        snprintf(keys, sizeof keys, LIST "%s]}", bad[i].groups);
        cr_expect_eq(try_engine(&f, keys, NULL, false), ZDS_ERR_CONFIG, "%s", bad[i].groups);
        cr_expect(f.error.text && strstr(f.error.text, bad[i].says), "%s\n  not in: %s",
                  bad[i].says, f.error.text);
        cr_expect(f.error.text && strstr(f.error.text, "<string>:1:"), "no place: %s",
                  f.error.text);
        close_engine(&f);
    }
}

Test(groups, all_problems_at_once)
{
    fixture f;
    cr_assert_eq(try_engine(&f,
                            LIST "{\"params\": \"a*\", \"lr\": \"3\"}, {\"params\": [\"b*\", "
                                 "\"c*\"]}]}",
                            NULL, false),
                 ZDS_ERR_CONFIG);
    static const char *const says[] = {"0.lr: must", "\"a*\"", "\"b*\"", "\"c*\""};
    for (size_t i = 0; i < 4; i++)
        cr_expect(strstr(f.error.text, says[i]), "%s\n  not in: %s", says[i], f.error.text);
    close_engine(&f);
}

/* === schedules === */

#define WARMUP(list)                                                                               \
    "\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 2, "               \
    "\"warmup_type\": \"linear\", \"warmup_min_lr\": 0" list "}}, "

/* The config's groups in their order, then the others. */
Test(groups, lists_of_a_schedule)
{
    fixture f =
        open_engine(OWN ", " WARMUP(", \"warmup_max_lr\": [1, 2, 4]") LIST
                    "{\"params\": \"*.bias\"}, {\"params\": \"wte*\", \"weight_decay\": 0}]}",
                    NULL, false);
    for (int k = 0; k < 4; k++)
        step(&f);
    expect_told(&f, B0, NULL, 1);
    expect_told(&f, WTE, NULL, 2);
    expect_told(&f, W0, NULL, 4);
    expect_told(&f, HALF, NULL, 4); /* of the same declared group, though the optimizer split it */
    close_engine(&f);

    cr_assert_eq(try_engine(&f,
                            OWN ", " WARMUP(", \"warmup_max_lr\": [1, 2]") LIST
                            "{\"params\": \"*.bias\"}, {\"params\": \"wte*\"}]}",
                            NULL, false),
                 ZDS_ERR_CONFIG);
    cr_expect(strstr(f.error.text, "2 values for 3 parameter groups"), "%s", f.error.text);
    close_engine(&f);
}

/* Without a rate of its own a schedule follows the groups'. */
Test(groups, own_rates_in_a_schedule)
{
    fixture f = open_engine(OWN ", " WARMUP("") LIST "{\"params\": \"*.bias\", \"lr\": 0.25}]}",
                            NULL, false);
    zds_step_result r = {.struct_size = sizeof r};
    for (int k = 0; k < 4; k++)
        r = step(&f);
    expect_told(&f, B0, NULL, 0.25);
    expect_told(&f, W0, NULL, 0.5);
    cr_expect_eq(r.lr, 0.5); /* the first parameter's */
    close_engine(&f);

    f = open_engine(LIST "{\"params\": \"*.bias\", \"lr\": 0.25}]}", "linear", false);
    for (int k = 0; k < 51; k++)
        step(&f);
    expect_told(&f, B0, NULL, 0.125);
    expect_told(&f, W0, NULL, 0.25);
    close_engine(&f);
}

/* A rate that the schedule overrides is told, not ignored. */
Test(groups, a_rate_without_effect_is_an_error)
{
    fixture f;
    cr_assert_eq(try_engine(&f,
                            OWN ", " WARMUP(", \"warmup_max_lr\": 1") LIST
                            "{\"params\": \"wte*\", \"lr\": 0.25}]}",
                            NULL, false),
                 ZDS_ERR_CONFIG);
    cr_expect(
        strstr(f.error.text, "zds.param_groups.0.lr: the schedule gives every group the same"),
        "%s", f.error.text);
    cr_expect(strstr(f.error.text, "a list of 2 rates"), "%s", f.error.text);
    close_engine(&f);
}

/* === metrics === */

Test(groups, a_schedule_that_follows_a_metric)
{
    fixture f = open_engine(
        OWN ", \"scheduler\": {\"type\": \"reduce_lr_on_plateau\", \"params\": {\"patience\": 0, "
            "\"factor\": 0.5}}, " LIST "{\"params\": \"wte*\", \"lr\": 4}]}",
        NULL, false);
    cr_assert(zds_observes(f.engine));
    step(&f);
    cr_assert_eq(zds_observe(f.engine, 1), ZDS_OK);
    step(&f);
    expect_told(&f, WTE, NULL, 4);
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_observe(f.engine, 2), ZDS_ERR_INVALID);
    close_engine(&f);

    f = open_engine(OWN ", \"scheduler\": {\"type\": \"reduce_lr_on_plateau\", \"params\": "
                        "{\"patience\": 0, \"factor\": 0.5}}, " LIST
                        "{\"params\": \"wte*\", \"lr\": 4}]}",
                    NULL, false);
    cr_assert_eq(zds_observe(f.engine, 1), ZDS_OK);
    cr_assert_eq(zds_observe(f.engine, 2), ZDS_OK); /* worse: the rates halve, at once */
    zds_group_info info = {.struct_size = sizeof info};
    cr_assert(zds_group(f.engine, 0, &info) && info.hyper.lr == 2);
    step(&f);
    expect_told(&f, WTE, NULL, 2);
    expect_told(&f, W0, NULL, 0.25);
    step(&f);
    expect_told(&f, WTE, NULL, 2); /* a step alone changes nothing */
    close_engine(&f);
}

Test(groups, other_schedules_ignore_metrics)
{
    static const char *const schedules[] = {NULL, "linear"};
    for (size_t i = 0; i < 2; i++) {
        fixture f = open_engine(OWN, schedules[i], false);
        cr_assert_not(zds_observes(f.engine));
        cr_assert_eq(zds_observe(f.engine, 7), ZDS_OK);
        step(&f);
        expect_told(&f, W0, NULL, 0.5);
        close_engine(&f);
    }
}

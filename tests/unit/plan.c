/* zds_engine_check, and zds_engine_plan against what an engine with the same arguments reports, and
 * at sizes that no machine has, against the formulas of ZeRO (Rajbhandari et al. 2020,
 * section 3.1). */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "zds/zds.h"

enum { LAYERS = 4, MOST_ROWS = 24 };

/* A table that the last layer uses again, square layers, and an odd frozen vector. */
static zds_model *make_model(int64_t width)
{
    zds_model *model = zds_model_create();
    uint32_t module, table, index;
    const int64_t square[] = {width, width}, odd[] = {width + 1};
    for (uint32_t i = 0; i < LAYERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "layer%u", i);
        zds_param_desc desc = {
            .struct_size = sizeof desc, .name = name, .shape = square, .ndim = 2};
        zds_model_add_module(model, name, &module);
        cr_assert_eq(zds_model_add_param(model, module, &desc, i ? &index : &table), ZDS_OK);
    }
    zds_param_desc desc = {
        .struct_size = sizeof desc, .name = "odd", .shape = odd, .ndim = 1, .frozen = true};
    cr_assert_eq(zds_model_add_param(model, module, &desc, &index), ZDS_OK);
    cr_assert_eq(zds_model_add_use(model, module, table), ZDS_OK);
    return model;
}

typedef struct rows {
    zds_memory_row row[MOST_ROWS];
    char purpose[MOST_ROWS][32], tier[MOST_ROWS][16];
    size_t count;
} rows;

static void keep(void *user, const zds_memory_row *row)
{
    rows *r = user;
    cr_assert_lt(r->count, MOST_ROWS);
    r->row[r->count] = *row;
    snprintf(r->tier[r->count], sizeof r->tier[0], "%s", row->tier);
    snprintf(r->purpose[r->count++], sizeof r->purpose[0], "%s", row->purpose);
}

static const zds_memory_row *find(const rows *r, const char *purpose)
{
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->purpose[i], purpose) == 0)
            return &r->row[i];
    return NULL;
}

static uint64_t bytes(const rows *r, const char *purpose)
{
    const zds_memory_row *row = find(r, purpose);
    return row ? row->bytes : 0;
}

static zds_config *load(const char *json, int32_t world_size)
{
    zds_config *config = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = world_size};
    cr_assert_eq(zds_config_load(json, &context, &config, &error), ZDS_OK, "%s", error.text);
    return config;
}

static const zds_engine_options alone = {.struct_size = sizeof alone,
                                         .world_size = 1,
                                         .threads = 1,
                                         .optimizer = "AdamW",
                                         .total_steps = -1};

/* Bytes of a purpose in one tier. */
static uint64_t bytes_in(const rows *r, const char *purpose, const char *tier)
{
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->purpose[i], purpose) == 0 && strcmp(r->tier[i], tier) == 0)
            return r->row[i].bytes;
    return 0;
}

/* Own bytes of a plugin that a plan does not open. */
static bool is_plugin(const char *purpose)
{
    static const char *const names[] = {"self", "cpu", "test", "island"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(purpose, names[i]) == 0)
            return true;
    return false;
}

static void compare(const zds_model *model, const char *json)
{
    zds_config *config = load(json, 1);
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *engine = NULL;
    rows planned = {0};
    cr_assert_eq(zds_engine_plan(config, model, &alone, keep, &planned, &error), ZDS_OK, "%s: %s",
                 json, error.text);
    cr_assert_eq(zds_engine_create(config, model, &alone, &engine, &error), ZDS_OK, "%s: %s", json,
                 error.text);
    zds_memory_row row;
    size_t same = 0;
    for (size_t i = 0; zds_memory_report(engine, i, &row); i++) {
        if (is_plugin(row.purpose))
            continue;
        uint64_t said = bytes_in(&planned, row.purpose, row.tier);
        same++;
        cr_expect_eq(row.bytes, said, "%s: %s in %s: planned %llu, are %llu", json, row.purpose,
                     row.tier, (unsigned long long)said, (unsigned long long)row.bytes);
    }
    cr_expect_eq(same, planned.count, "%s", json);
    zds_engine_destroy(engine);
    zds_config_destroy(config);
}

Test(plan, says_what_an_engine_allocates)
{
    static const char *const offload = ", \"offload_optimizer\": {\"device\": \"cpu\"}",
                             *const on_device = ", \"zds\": {\"device\": \"test\"}";
    zds_model *model = make_model(300);
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    for (int stage = 0; stage < 3; stage++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int steps = 1; steps < 3; steps++)
                for (int where = 0; where < 4; where++) {
                    char json[400];
                    snprintf(json, sizeof json,
                             "{\"train_micro_batch_size_per_gpu\":1,"
                             "\"gradient_accumulation_steps\":%d,\"bf16\":{\"enabled\":%s},"
                             "\"zero_optimization\":{\"stage\":%d%s}%s}",
                             steps, bf16 ? "true" : "false", stage, where & 1 ? offload : "",
                             where & 2 ? on_device : "");
                    compare(model, json);
                }
    zds_model_destroy(model);
}

/* 4 x 2^34 parameters on 4096 ranks: what is cut into parts is 1/4096 of it. */
Test(plan, takes_no_memory)
{
    const uint64_t count = (uint64_t)4 << 34, n = 4096;
    zds_model *model = make_model(1 << 17);
    for (int stage = 1; stage < 3; stage++) {
        char json[200];
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\":1,\"bf16\":{\"enabled\":true},"
                 "\"zero_optimization\":{\"stage\":%d}}",
                 stage);
        zds_config *config = load(json, (int32_t)n);
        zds_engine_options options = alone;
        options.world_size = options.local_world_size = (int32_t)n;
        zds_error error = ZDS_ERROR_INIT;
        rows r = {0};
        cr_assert_eq(zds_engine_plan(config, model, &options, keep, &r, &error), ZDS_OK, "%s",
                     error.text);
        cr_expect_eq(bytes(&r, "master weights"), 4 * count / n);
        cr_expect_lt(bytes(&r, "optimizer states") - 8 * count / n, 1 << 20); /* gaps */
        cr_expect_eq(bytes(&r, "gradients"), stage == 1 ? 2 * count : 2 * count / n);
        cr_expect_eq(find(&r, "parameters")->shared, find(&r, "parameters")->bytes);
        cr_expect_eq(bytes(&r, "parameters") - 2 * count, 2 * ((1 << 17) + 32)); /* the odd one */
        zds_config_destroy(config);
    }
    zds_model_destroy(model);
}

/* === what ZeRO saves, per rank (Rajbhandari et al. 2020, section 3.1, and for files 2021) === */

enum { DEEP = 48, WIDTH = 512 };
static const double psi = (double)DEEP * WIDTH * WIDTH, module = (double)WIDTH * WIDTH;

static zds_model *deep_model(bool frozen)
{
    zds_model *model = zds_model_create();
    const int64_t square[] = {WIDTH, WIDTH};
    for (uint32_t i = 0; i < DEEP; i++) {
        char name[32];
        uint32_t index;
        snprintf(name, sizeof name, "layer%u", i);
        zds_param_desc desc = {.struct_size = sizeof desc,
                               .name = name,
                               .shape = square,
                               .ndim = 2,
                               .frozen = frozen && i % 2 == 0};
        cr_assert_eq(zds_model_add_module(model, name, &index), ZDS_OK);
        cr_assert_eq(zds_model_add_param(model, i, &desc, &index), ZDS_OK);
    }
    return model;
}

/* A rank's, of pages that all ranks share its part. */
static double share(const rows *r, const char *purpose, const char *tier, int ranks)
{
    double sum = 0;
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->purpose[i], purpose) == 0 && strcmp(r->tier[i], tier) == 0)
            sum += (double)(r->row[i].bytes - r->row[i].shared) + (double)r->row[i].shared / ranks;
    return sum;
}

typedef struct asked {
    bool bf16, device, frozen;
    int stage, ranks;
    bool states, params; /* offload: files; on a device with `cpu` the host's memory */
    bool cpu, defaults;
} asked;

static void expect_about(const asked *a, const char *what, double got, double want)
{
    cr_expect(fabs(got - want) <= 0.02 * want + 4096,
              "stage %d, %d ranks, bf16 %d, device %d, frozen %d, offload %d %d, defaults %d: %s: "
              "%.0f, expected %.0f",
              a->stage, a->ranks, a->bf16, a->device, a->frozen, a->states, a->params, a->defaults,
              what, got, want);
}

static void make_config(const asked *a, char *json, size_t room)
{
    const char *to = a->cpu ? "{\"device\": \"cpu\"}"
                            : "{\"device\": \"nvme\", \"nvme_path\": \"/tmp\", \"max_in_cpu\": 0}";
    const char *states = a->cpu ? to : "{\"device\": \"nvme\", \"nvme_path\": \"/tmp\"}";
    char small[200] = "";
    if (!a->defaults)
        snprintf(
            small, sizeof small,
            ", \"stage3_param_persistence_threshold\": 0, \"stage3_max_live_parameters\": %.0f, "
            "\"stage3_prefetch_bucket_size\": %.0f",
            2 * module, module);
    snprintf(json, room,
             "{\"train_micro_batch_size_per_gpu\": 1, \"bf16\": {\"enabled\": %s}, \"zds\": "
             "{\"device\": \"%s\"}, \"zero_optimization\": {\"stage\": %d%s%s%s%s%s}}",
             a->bf16 ? "true" : "false", a->device ? "test" : "host", a->stage, small,
             a->states ? ", \"offload_optimizer\": " : "", a->states ? states : "",
             a->params ? ", \"offload_param\": " : "", a->params ? to : "");
}

static void expect_saved(const asked *a)
{
    char json[800];
    make_config(a, json, sizeof json);
    zds_model *model = deep_model(a->frozen);
    zds_config *config = load(json, a->ranks);
    zds_engine_options options = alone;
    options.world_size = options.local_world_size = a->ranks;
    zds_error error = ZDS_ERROR_INIT;
    rows r = {0};
    cr_assert_eq(zds_engine_plan(config, model, &options, keep, &r, &error), ZDS_OK, "%s: %s", json,
                 error.text);
    const char *here = a->device ? "test" : "host", *there = a->cpu ? "cpu" : "nvme";
    double n = a->ranks, size = a->bf16 ? 2 : 4, trained = a->frozen ? psi / 2 : psi;
    double cut = a->stage ? n : 1;
    /* Frozen ones are cut at stage 3 like the others; ranks of a host's node share what is whole.
     */
    bool parts = a->stage == 3 && (a->params || (a->device && n > 1));
    double kept = parts ? psi / n : a->stage && !a->device ? psi / n : psi;
    expect_about(a, "parameters", share(&r, "parameters", a->params ? there : here, a->ranks),
                 size * kept);
    double live = a->defaults ? psi : 2 * module;
    expect_about(a, "gathered parameters", share(&r, "gathered parameters", here, a->ranks),
                 parts ? size * live : 0);
    bool in_parts = a->stage >= 2 && n > 1;
    expect_about(a, "gradients", share(&r, "gradients", here, a->ranks),
                 size * (in_parts ? trained / n : trained));
    cr_expect_leq(share(&r, "reduce buffers", here, a->ranks), in_parts ? 4 * size * module : 0);
    /* fp32 parameters are their own masters unless they, or the states, rest elsewhere. */
    double masters = a->bf16 || a->states || a->params ? 4 : 0, states = 8 * trained / cut;
    double optimizer = share(&r, "master weights", a->states ? there : here, a->ranks) +
                       share(&r, "optimizer states", a->states ? there : here, a->ranks);
    /* States begin some pages apart, so that they do not share lines of a cache. */
    const double wanted = masters * trained / cut + states, over = optimizer - wanted;
    expect_about(a, "masters and states", over > 0 && over < 3 << 16 ? wanted : optimizer, wanted);
    double buffers = share(&r, "offload buffers", here, a->ranks) +
                     share(&r, "offload buffers", "host", a->ranks) * a->device;
    cr_expect(a->states || a->params ? buffers > 0 : !buffers, "%s: %g", json, buffers);
    zds_config_destroy(config);
    zds_model_destroy(model);
}

Test(plan, is_what_zero_saves)
{
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    for (int stage = 0; stage <= 3; stage++)
        for (int ranks = 1; ranks <= 8; ranks *= 2)
            for (int k = 0; k < 8; k++) {
                asked a = {.bf16 = k & 1,
                           .frozen = k & 2,
                           .device = k & 4,
                           .stage = stage,
                           .ranks = ranks};
                expect_saved(&a);
                a.defaults = true;
                if (stage == 3)
                    expect_saved(&a);
                a.defaults = false;
                for (int offload = 1; stage == 3 && offload < 4; offload++) {
                    a.states = offload & 1;
                    a.params = offload & 2;
                    expect_saved(&a);
                    a.cpu = a.device;
                    expect_saved(&a);
                    a.cpu = false;
                }
            }
}

Test(plan, fails_as_an_engine_does)
{
    zds_model *model = make_model(8);
    zds_config *config = load("{\"train_batch_size\":1,\"dump_state\":true}", 1);
    zds_error error = ZDS_ERROR_INIT;
    rows r = {0};
    cr_expect_eq(zds_engine_plan(config, model, &alone, keep, &r, &error), ZDS_ERR_CONFIG);
    cr_expect(error.text && strstr(error.text, "dump_state"), "%s", error.text);
    cr_expect_eq(r.count, 0);
    zds_error_clear(&error);
    cr_expect_eq(zds_engine_plan(NULL, model, &alone, keep, &r, NULL), ZDS_ERR_INVALID);
    zds_config_destroy(config);
    zds_model_destroy(model);
}

/* === zds_engine_check: what an engine would refuse, without a model === */

static void keep_text(void *user, const zds_problem *p)
{
    char *text = user;
    size_t used = strlen(text);
    snprintf(text + used, 1024 - used, "%s:%d:%d %s; ", p->file, p->line, p->column, p->path);
    cr_expect_eq(p->severity, ZDS_PROBLEM_ERROR);
    cr_expect_null(strchr(p->message, '\x1b'), "%s", p->message);
}

Test(plan, check_tells_all_at_once)
{
    zds_config *config =
        load("{\"train_batch_size\":64,\"zds\":{\"comm\":\"\\u001b[31m\"},\n"
             "\"zero_optimization\":{\"stage\":3,\"pipeline_loading_checkpoint\":true},\n"
             "\"optimizer\":{\"type\":\"SGD\",\"params\":{\"nesterov\":true}}}",
             64);
    char text[1024] = "";
    zds_error error = ZDS_ERROR_INIT;
    cr_expect_eq(zds_engine_check(config, &alone, keep_text, text, &error), ZDS_ERR_CONFIG);
    static const char *const wants[] = {
        "<string>:2:62 zero_optimization.pipeline_loading_checkpoint; ", "<string>:1:38 zds.comm; ",
        "<string>:3:48 optimizer.params.nesterov; "};
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++)
        cr_expect(strstr(text, wants[i]), "no %s in %s", wants[i], text);
    zds_error_clear(&error);
    zds_config_destroy(config);
    config = load("{\"train_batch_size\":64}", 64);
    zds_engine_options options = alone;
    text[0] = '\0';
    cr_expect_eq(zds_engine_check(config, &options, keep_text, text, NULL), ZDS_OK);
    options.scheduler = "no such schedule";
    cr_expect_eq(zds_engine_check(config, &options, keep_text, text, NULL), ZDS_ERR_CONFIG);
    cr_expect_str_eq(text, "<string>:1:1 scheduler; ");
    cr_expect_eq(zds_engine_check(NULL, &options, keep_text, text, NULL), ZDS_ERR_INVALID);
    zds_config_destroy(config);
}

/* === zds_schedule_points === */

Test(plan, schedule_points_of_other_sizes)
{
    zds_config *config =
        load("{\"train_batch_size\":1,\"optimizer\":{\"type\":\"AdamW\",\"params\":"
             "{\"lr\":0.5,\"betas\":[0.25,0.75]}}}",
             1);
    struct {
        zds_schedule_point point;
        double later;
    } newer[3];
    double older[3];
    bool moves = true;
    memset(newer, 0x55, sizeof newer);
    cr_assert_eq(zds_schedule_points_sized(config, NULL, NULL, 3, &newer[0].point, sizeof *newer,
                                           &moves, NULL),
                 ZDS_OK);
    cr_assert_eq(zds_schedule_points_sized(config, NULL, NULL, 3, (void *)older, sizeof *older,
                                           &moves, NULL),
                 ZDS_OK);
    cr_expect_not(moves);
    for (size_t i = 0; i < 3; i++) {
        cr_expect(newer[i].point.lr == 0.5 && newer[i].point.beta2 == 0.75, "%zu", i);
        cr_expect_eq(newer[i].later, 0);
        cr_expect_eq(older[i], 0.5);
    }
    zds_config_destroy(config);
}

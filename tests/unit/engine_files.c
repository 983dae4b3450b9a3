/* Masters and optimizer states that rest in files, while the host computes or a device: whatever
 * goes over them leaves the bits of a run that has them in memory; and what goes wrong with a file
 * is told. */
#include "plugin/registry.h"
#include "small_engine.h"

#define NVME "nvme"
#define HEAP TEST_BINARY_DIR "/tests/plugins/offload_good.so"
#define WORN TEST_BINARY_DIR "/tests/plugins/offload_worn.so"

static const char *folder = TEST_BINARY_DIR;

/* `tier`: the type of the one called disk; NULL: no offload. */
static const char *config_of(int stage, const char *tier, const char *more, const char *sections)
{
    static char json[1200];
    char offload[300] = "", tiers[300] = "";
    if (tier) {
        snprintf(offload, sizeof offload,
                 ", \"offload_optimizer\": {\"device\": \"disk\", \"nvme_path\": \"%s\"%s}", folder,
                 more);
        snprintf(tiers, sizeof tiers, ", \"zds\": {\"tiers\": {\"disk\": {\"type\": \"%s\"}}}",
                 tier);
    }
    snprintf(
        json, sizeof json,
        "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d%s}%s%s}",
        stage, offload, tiers, sections);
    return json;
}

static zds_engine *open_engine(const char *json, int size, const char *optimizer,
                               const char *params)
{
    return small_open(json, size,
                      (zds_engine_options){.threads = 2,
                                           .optimizer = optimizer,
                                           .optimizer_params = params,
                                           .trust_config_plugins = true,
                                           .seed = 3});
}

static uint64_t train(zds_engine *e, uint64_t steps)
{
    small_sum sum;
    for (uint64_t i = 0; i < steps; i++)
        WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL));
    WORKS(small_hash(e, &sum));
    return sum.hash;
}

static const char *const precisions[] = {
    "",
    ", \"bf16\": {\"enabled\": true}",
    ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 3}",
};

/* === the same bits === */

enum { OPTIMIZERS = 64 };
static char names[OPTIMIZERS][64];
static uint32_t name_count;

static bool note_name(void *user, const zds_plugin *plugin, const char *from)
{
    (void)user, (void)from;
    NEED(name_count < OPTIMIZERS, "room");
    snprintf(names[name_count++], sizeof *names, "%s", plugin->name);
    return true;
}

static void list_optimizers(void)
{
    registry *reg = NULL;
    zds_error error = ZDS_ERROR_INIT;
    const registry_match match = {.space = ZDS_SPACE_HOST};
    NEED(!registry_create(NULL, NULL, true, &reg, &error), "%s", error.text);
    NEED(!registry_each(reg, ZDS_KIND_OPTIM, &match, note_name, NULL, &error), "%s", error.text);
    registry_destroy(reg);
}

/* They need more than their parts in memory, and are refused. */
static bool is_refused(const char *name)
{
    return strcmp(name, "Muon") == 0 || strcmp(name, "Adafactor") == 0 ||
           strcmp(name, "OneBitAdam") == 0 || strcmp(name, "OneBitLamb") == 0 ||
           strcmp(name, "ZeroOneAdam") == 0;
}

static void every_optimizer(int rank, int size)
{
    list_optimizers();
    NEED(name_count > 20, "%u optimizers", name_count);
    for (uint32_t i = 0; i < name_count; i++) {
        const int stage = 1 + (int)i % 3;
        const char *precision = precisions[i % 3], *tier = i % 2 ? HEAP : NVME,
                   *params = strcmp(names[i], "AdamW8bit") ? NULL : "{\"min_8bit_size\": 0}";
        bool few = on_island() && i % 4 != 3; /* whose operations come late */
        if (is_refused(names[i]) || few)
            continue;
        small_fp32 = i % 4 == 3 ? 1u << 2 : 0;
        zds_engine *here =
            open_engine(config_of(stage, NULL, "", precision), size, names[i], params);
        zds_engine *e = open_engine(config_of(stage, tier, "", precision), size, names[i], params);
        NEED(train(e, 4) == train(here, 4) || rank, "%s%s", names[i], precision);
        small_end(e);
        small_end(here);
    }
}

Test(engine_files, every_optimizer_has_the_bits_of_memory, .timeout = 120)
{
    run(1, true, every_optimizer);
    run(2, true, every_optimizer);
}

/* A model of several loads. */
static void pipelines(int rank, int size)
{
    static const char *const more[] = {
        "",
        ", \"buffer_count\": 1",
        ", \"buffer_count\": 9000000000",
        ", \"buffer_count\": 2, \"pipeline_read\": false",
        ", \"buffer_count\": 3, \"pipeline_write\": false",
        ", \"buffer_count\": 2, \"pipeline_read\": false, \"pipeline_write\": false",
    };
    small_width = 480;
    for (size_t i = 0; i < sizeof more / sizeof *more; i += on_island() ? 5 : 1) {
        const char *precision = precisions[i % 2], *optimizer = i == 2 ? "Lamb" : "AdamW";
        zds_engine *here = open_engine(config_of(1, NULL, "", precision), size, optimizer, NULL);
        zds_engine *e = open_engine(config_of(1, NVME, more[i], precision), size, optimizer, NULL);
        NEED(train(e, 3) == train(here, 3) || rank, "%s", more[i]);
        small_end(e);
        small_end(here);
    }
    small_width = 24;
}

Test(engine_files, loads_go_by_in_any_number_of_buffers, .timeout = 120)
{
    run(1, true, pipelines);
    run(2, true, pipelines);
}

/* A share rests in files; what the report says is what a plan says, and both what there is. */
static uint64_t row_bytes(zds_engine *e, const char *purpose, const char *tier)
{
    zds_memory_row row;
    uint64_t bytes = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        if (strcmp(row.purpose, purpose) == 0 && strcmp(row.tier, tier) == 0)
            bytes += row.bytes;
    return bytes;
}

static void shares(int rank, int size)
{
    const char *here_tier = on_island() ? "test" : "host";
    uint64_t all = 0, before = 0;
    for (int k = 0; k <= 4; k++) {
        char more[60];
        snprintf(more, sizeof more, ", \"ratio\": %g", 1 - k / 4.0);
        zds_engine *here = open_engine(config_of(3, NULL, "", precisions[1]), size, "AdamW", NULL);
        zds_engine *e = open_engine(config_of(3, NVME, more, precisions[1]), size, "AdamW", NULL);
        NEED(train(e, 3) == train(here, 3) || rank, "%s", more);
        uint64_t disk = row_bytes(e, "optimizer states", "disk"),
                 memory = row_bytes(e, "optimizer states", here_tier) +
                          row_bytes(e, "master weights", here_tier);
        all = k ? all : disk;
        NEED(k ? disk <= before : !memory && disk, "%s: %llu and %llu bytes", more,
             (unsigned long long)disk, (unsigned long long)memory);
        NEED(k < 4 || (!disk && memory), "all in files: %s", more);
        before = disk;
        small_end(e);
        small_end(here);
    }
    NEED(all, "nothing in files");
}

Test(engine_files, a_share_of_them_stays_in_memory)
{
    run(1, true, shares);
    run(2, true, shares);
}

/* === what goes wrong === */

/* The n-th copy of rank 0's tier. */
static const char *fault;
static bool may_pass; /* the fault may come where it does no harm */

static void worn(int rank, int size)
{
    if (rank == 0)
        setenv("ZDS_TEST_WORN", fault, 1);
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    const zds_engine_options o = {
        .struct_size = sizeof o, .threads = 1, .optimizer = "AdamW", .trust_config_plugins = true};
    NEED(!zds_config_load(config_of(1, WORN, "", ""), &context, &config, &error), "%s", error.text);
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_create(config, model, &o, &e, &error), "%s", error.text);
    zds_status status = zds_set_values(e, small_values, NULL);
    for (uint64_t i = 0; !status && i < 6; i++)
        status = small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL);
    if (!status && size > 1) /* whoever is done waits for whoever is not */
        status = zds_barrier(e);
    const char *text = zds_engine_error(e);
    if (rank == 0)
        NEED((status == ZDS_ERR_IO && strstr(text, "rank 0") && strstr(text, "disk")) ||
                 (may_pass && !status),
             "%s: %s: %s", fault, zds_status_name(status), text);
    else
        NEED(status == ZDS_ERR_PEER || (may_pass && !status), "%s: the peer: %s", fault, text);
    if (status == ZDS_ERR_IO && (strncmp(fault, "fl", 2) == 0 || strncmp(fault, "fo", 2) == 0))
        NEED(strstr(text, "embed.weight") || strstr(text, "h.") || strstr(text, "norm"), "%s",
             text);
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
}

Test(engine_files, faults_of_a_disk_are_told_on_all_ranks, .timeout = 120)
{
    static const char *const kinds[] = {"fails", "late", "flips", "forgets"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int n = 1; n <= (on_island() ? 4 : 7); n += on_island() ? 3 : 1) {
            char text[32];
            snprintf(text, sizeof text, "%s:%d", kinds[k], n);
            fault = text;
            /* One that forgets to read forgets nothing, and there is a last one. */
            may_pass = strcmp(kinds[k], "forgets") == 0 && n % 2 == 0;
            run(1, true, worn);
            run(2, true, worn);
        }
}

/* === what is refused === */

static void expect_refused(int stage, const char *tier, const char *more, const char *optimizer,
                           const char *word)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_engine_options o = {.struct_size = sizeof o,
                                  .threads = 1,
                                  .optimizer = optimizer,
                                  .trust_config_plugins = true};
    cr_assert_eq(zds_config_load(config_of(stage, tier, more, ""), NULL, &config, &error), ZDS_OK,
                 "%s", error.text);
    cr_assert_eq(small_model(&model), ZDS_OK);
    zds_status status = zds_engine_create(config, model, &o, &e, &error);
    cr_expect(status && error.text && strstr(error.text, word), "no \"%s\" in %s", word,
              error.text ? error.text : "");
    zds_error_clear(&error);
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
}

Test(engine_files, what_cannot_be_is_refused_with_the_reason)
{
    where_search();
    expect_refused(1, HEAP, "", "Muon", "updates whole parameters");
    expect_refused(1, HEAP, "", "OneBitAdam", "delete zero_optimization.offload_optimizer");
    folder = "/no/such";
    expect_refused(1, NVME, "", "AdamW", "/no/such");
    folder = TEST_BINARY_DIR;
}

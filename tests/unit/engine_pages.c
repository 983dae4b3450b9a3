/* The pages of an engine's memory come when it is created, not in its first step; a plan takes
 * none. */
#include "engine_world.h"
#include "small_model.h"

static uint64_t resident_bytes(void)
{
    long pages[2] = {0};
    FILE *in = fopen("/proc/self/statm", "re");
    NEED(in && fscanf(in, "%ld %ld", &pages[0], &pages[1]) == 2, "statm");
    fclose(in);
    return (uint64_t)pages[1] * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Of pages that ranks share each brings its own part. */
static void add_row(void *user, const zds_memory_row *row)
{
    static const char *const model[] = {"parameters", "gradients", "master weights",
                                        "optimizer states", "reduce buffers"};
    uint64_t *sums = user; /* of it all, and of what is shared */
    for (size_t i = 0; i < sizeof model / sizeof *model; i++)
        if (strcmp(row->purpose, model[i]) == 0) {
            sums[0] += row->bytes;
            sums[1] += row->shared;
        }
}

static void create(int size, int stage, bool bf16)
{
    char json[256];
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    zds_memory_row row;
    uint64_t sums[2] = {0}, planned[2] = {0}, before;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    const zds_engine_options o = {.struct_size = sizeof o, .threads = 2, .optimizer = "AdamW"};
    small_width = 640;
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}%s}",
             stage, bf16 ? ", \"bf16\": {\"enabled\": true}" : "");
    NEED(!zds_config_load(json, &context, &config, &error), "%s", error.text);
    NEED(!small_model(&model), "model");
    before = resident_bytes();
    NEED(!zds_engine_plan(config, model, &o, add_row, planned, &error), "%s", error.text);
    uint64_t after_plan = resident_bytes();
    NEED(!zds_engine_create(config, model, &o, &e, &error), "%s: %s", json, error.text);
    uint64_t came = resident_bytes() - after_plan;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        add_row(sums, &row);
    NEED(sums[0] == planned[0] && sums[0] > 32 << 20, "%llu bytes", (unsigned long long)sums[0]);
    NEED(after_plan - before < sums[0] / 8, "the plan took %llu bytes",
         (unsigned long long)(after_plan - before));
    uint64_t want = sums[0] - sums[1] + sums[1] / (uint64_t)size;
    NEED(came > want - want / 20, "%s, %d ranks: %llu bytes of %llu", json, size,
         (unsigned long long)came, (unsigned long long)want);
    NEED(!zds_barrier(e), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
}

static void create_all(int rank, int size)
{
    (void)rank;
    for (int stage = 0; stage <= 3; stage++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            create(size, stage, bf16);
}

Test(engine_pages, come_with_the_engine)
{
    run(1, true, create_all);
    run(2, true, create_all);
}

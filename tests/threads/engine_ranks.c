/* Two ranks of an engine as threads of one process, each with threads of its own, under
 * ThreadSanitizer: whatever one rank reads of the other's memory it must have waited for. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "../unit/small_model.h"
#include "one_window.h"

enum { RANKS = 2, STEPS = 3 };

static const struct {
    const char *name, *params;
    int stages; /* from 0 */
} optimizers[] = {
    {"AdamW", "{\"lr\": 0.01}", 3},
    {"Lamb", "{}", 3},
    {"Muon", "{}", 3},
    {"Adafactor", "{}", 3},
    {"AdamW8bit", "{\"min_8bit_size\": 64}", 3},
    {"OneBitAdam", "{\"freeze_step\": 1}", 2},
    {"OneBitLamb", "{\"freeze_step\": 1}", 2},
    {"ZeroOneAdam", "{\"var_freeze_step\": 1, \"local_step_scaler\": 1}", 1},
};

typedef struct rank {
    const char *json;
    int32_t index, port;
} rank;

static void need(const rank *r, zds_status status, const char *what, const char *text)
{
    if (status) {
        fprintf(stderr, "rank %d, %s: %s: %s\n", (int)r->index, r->json, what,
                text ? text : zds_status_name(status));
        exit(1);
    }
}

/* What one rank does alone between steps. */
static void evaluate(const rank *r, zds_engine *e)
{
    double sum = 0;
    zds_view v;
    for (uint32_t m = 0; m < SMALL_MODULES; m++) {
        need(r, zds_acquire(e, m, ZDS_FORWARD, NULL, &v), "acquire", zds_engine_error(e));
        for (size_t s = 0; s < v.count; s++)
            for (uint64_t i = 0; i < v.slots[s].count * zds_dtype_size(v.slots[s].dtype); i++)
                sum += ((const unsigned char *)v.slots[s].data)[i];
        need(r, zds_release(e, m, NULL), "release", zds_engine_error(e));
    }
    need(r, sum > 0 ? ZDS_OK : ZDS_ERR_INTERNAL, "evaluation", NULL);
}

static void *train(void *arg)
{
    const rank *r = arg;
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    zds_config_context context = {.struct_size = sizeof context, .world_size = RANKS};
    zds_engine_options o = {.struct_size = sizeof o,
                            .threads = 2,
                            .rank = r->index,
                            .world_size = RANKS,
                            .master_addr = "127.0.0.1",
                            .master_port = r->port,
                            .comm = "shm",
                            .plugins = zds_plugin_v1};
    need(r, zds_config_load(r->json, &context, &config, &error), "config", error.text);
    need(r, small_model(&model), "model", NULL);
    need(r, zds_engine_create(config, model, &o, &e, &error), "create", error.text);
    need(r, zds_set_values(e, small_values, NULL), "values", zds_engine_error(e));
    for (uint64_t micro = 0; micro < 2 * STEPS; micro++) {
        need(r, small_micro(e, ZDS_BOUNDARY_AUTO, micro, NULL), "step", zds_engine_error(e));
        if (r->index == 1)
            evaluate(r, e);
    }
    small_sum sum;
    need(r, small_hash(e, &sum), "read back", zds_engine_error(e));
    need(r, sum.finite ? ZDS_OK : ZDS_ERR_OVERFLOW, "result", "not finite");
    need(r, zds_barrier(e), "barrier", zds_engine_error(e));
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
    return NULL;
}

int main(void)
{
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins", 1);
    setenv("ZDS_TIMEOUT", "60", 1);
    small_width = 160; /* several tiles, and matrices for several threads */
    int runs = 0;
    for (size_t i = 0; i < sizeof optimizers / sizeof *optimizers; i++)
        for (int stage = 0; stage < optimizers[i].stages; stage++)
            for (int bf16 = 0; bf16 < 2; bf16++, runs++) {
                char json[512];
                snprintf(
                    json, sizeof json,
                    "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_accumulation_steps\": 2,"
                    "\"gradient_clipping\": 1, \"bf16\": {\"enabled\": %s},"
                    "\"zero_optimization\": {\"stage\": %d, \"reduce_bucket_size\": 100000},"
                    "\"optimizer\": {\"type\": \"%s\", \"params\": %s},"
                    "\"zds\": {\"progress_thread\": %s}}",
                    bf16 ? "true" : "false", stage, optimizers[i].name, optimizers[i].params,
                    runs / 2 % 2 ? "true" : "false");
                rank ranks[RANKS];
                pthread_t threads[RANKS];
                for (int32_t r = 0; r < RANKS; r++) {
                    ranks[r] = (rank){json, r, 1 + (getpid() * 64 + runs) % 60000};
                    if (pthread_create(&threads[r], NULL, train, &ranks[r]))
                        return 1;
                }
                for (int32_t r = 0; r < RANKS; r++)
                    pthread_join(threads[r], NULL);
                munmap(window, ARENA);
            }
    printf("%d runs of %d ranks\n", runs, RANKS);
    return 0;
}

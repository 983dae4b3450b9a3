/* A run that ends, and another that goes on where it stood, with another number of ranks: what the
 * first tells of itself is all that the second needs. */
#include <sys/mman.h>

#include "engine_world.h"
#include "small_model.h"

enum { MOST = 4096, STATES = 4, FIRST = 5, MORE = 6 };

/* In memory of all processes; the file that a program would write. */
typedef struct saved {
    float values[SMALL_PARAMS][1 + STATES][MOST];
    zds_progress progress;
    uint64_t sched_bytes;
    char sched[256];
    uint64_t hash;
    double rate;
} saved;

typedef struct run_of {
    const char *optimizer, *scheduler, *keys;
} run_of;

static saved *file;
static const run_of *what;
static int stage;

static zds_engine *create(int size)
{
    char json[512];
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL; /* stays as long as the process */
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    const zds_engine_options o = {.struct_size = sizeof o,
                                  .threads = 1,
                                  .optimizer = what->optimizer,
                                  .scheduler = what->scheduler,
                                  .seed = 3};
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d}%s}",
             stage, what->keys);
    NEED(!zds_config_load(where_config(json), &context, &config, &error), "%s", error.text);
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_create(config, model, &o, &e, &error), "%s: %s", json, error.text);
    zds_model_destroy(model);
    return e;
}

/* The same gradients on every rank, so that their mean is the same for 1, 2 and 4. */
static void train(zds_engine *e, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++) {
        zds_view view;
        zds_step_result r = {.struct_size = sizeof r};
        NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
        for (uint32_t m = SMALL_MODULES; m-- > 0;) {
            NEED(!zds_acquire(e, m, ZDS_BACKWARD, NULL, &view), "%s", zds_engine_error(e));
            for (size_t s = 0; s < view.count; s++)
                if (view.slots[s].grad)
                    NEED(!small_gradient(e, &view.slots[s], 100 + 64 * i,
                                         (float)zds_loss_scale(e) * (i == 4 ? 1e9f : 1)),
                         "gradient");
            NEED(!zds_grad_ready(e, m, NULL), "%s", zds_engine_error(e));
        }
        NEED(!zds_step(e, &r), "%s", zds_engine_error(e));
        if (zds_observes(e))
            NEED(!zds_observe(e, 1.0), "%s", zds_engine_error(e));
        file->rate = r.next_lr;
    }
}

static zds_status keep(void *user, uint32_t param, uint64_t first, uint64_t count,
                       const float *values)
{
    (void)param;
    memcpy((float *)user + first, values, count * sizeof *values);
    return ZDS_OK;
}

static zds_status give(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)param;
    memcpy(out, (float *)user + first, count * sizeof *out);
    return ZDS_OK;
}

static zds_status give_value(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user;
    return give(file->values[param][0], param, first, count, out);
}

static void end_with(zds_engine *e, int rank)
{
    small_sum sum;
    NEED(!small_hash(e, &sum), "%s", zds_engine_error(e));
    if (!rank)
        file->hash = sum.hash;
    NEED(!zds_barrier(e), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

static void at_once(int rank, int size)
{
    zds_engine *e = create(size);
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    train(e, 0, FIRST + MORE);
    end_with(e, rank);
}

static void save(int rank, int size)
{
    zds_engine *e = create(size);
    const char *name;
    NEED(!zds_set_values(e, small_values, NULL), "%s", zds_engine_error(e));
    train(e, 0, FIRST);
    for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
        NEED(!zds_get_values(e, p, NULL, keep, file->values[p][0]), "%s", zds_engine_error(e));
        for (uint32_t i = 0; (name = zds_state_name(e, p, i)); i++)
            NEED(!zds_get_values(e, p, name, keep, file->values[p][1 + i]), "%s",
                 zds_engine_error(e));
    }
    zds_progress now = {.struct_size = sizeof now};
    NEED(!zds_get_progress(e, &now), "%s", zds_engine_error(e));
    NEED(zds_schedule_state_bytes(e) <= sizeof file->sched, "room");
    if (rank == 0) {
        file->progress = now;
        file->sched_bytes = zds_schedule_state_bytes(e);
        NEED(!zds_get_schedule_state(e, file->sched), "%s", zds_engine_error(e));
    }
    end_with(e, rank);
}

static void resume(int rank, int size)
{
    zds_engine *e = create(size);
    const char *name;
    NEED(!zds_set_values(e, give_value, NULL), "%s", zds_engine_error(e));
    for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
        if (p != SMALL_FROZEN)
            NEED(!zds_set_state(e, p, NULL, give, file->values[p][0]), "%s", zds_engine_error(e));
        for (uint32_t i = 0; (name = zds_state_name(e, p, i)); i++)
            NEED(!zds_set_state(e, p, name, give, file->values[p][1 + i]), "%s",
                 zds_engine_error(e));
    }
    NEED(!zds_set_progress(e, &file->progress), "%s", zds_engine_error(e));
    NEED(!zds_set_schedule_state(e, file->sched, file->sched_bytes), "%s", zds_engine_error(e));
    train(e, FIRST, FIRST + MORE);
    end_with(e, rank);
}

Test(engine_resume, goes_on_with_the_same_bits)
{
    static const run_of runs[] = {
        {"AdamW", "WarmupLR", ""},
        {"AdamW", "WarmupLR", ", \"bf16\": {\"enabled\": true}"},
        {"AdamW", NULL,
         ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 6, \"loss_scale_window\": 2}"},
        {"Adagrad", "reduce_lr_on_plateau", ""},
        {"Lion", "WarmupLR", ", \"bf16\": {\"enabled\": true}"}};
    static const int sizes[][2] = {{1, 2}, {2, 1}, {2, 4}};
    file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(file != MAP_FAILED);
    for (size_t w = 0; w < sizeof runs / sizeof *runs; w++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            what = &runs[w];
            stage = (int)((w + s) % 3);
            run(1, true, at_once);
            uint64_t want = file->hash;
            double rate = file->rate;
            run(sizes[s][0], true, save);
            cr_expect_neq(file->hash, want);
            stage = (stage + 1) % 3;
            run(sizes[s][1], true, resume);
            cr_expect_eq(file->hash, want, "%s%s, %d ranks to %d", what->optimizer, what->keys,
                         sizes[s][0], sizes[s][1]);
            cr_expect_eq(file->rate, rate, "%s: rate %g, not %g", what->optimizer, file->rate,
                         rate);
        }
    munmap(file, sizeof *file);
}

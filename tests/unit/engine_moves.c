/* Ranks that do not call zds for a while: the others get on all the same. Whoever waits for a rank
 * that waits for it hangs, and is ended by its alarm. */
#include <math.h>
#include <string.h>

#include "engine_world.h"

enum { MODULES = 8, ELEMENTS = 20000, BODIES = 100000 };

static zds_status ones(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 1;
    return ZDS_OK;
}

/* What one rank tells another outside of zds. */
static int from_0[2], from_1[2];

static void tell(const int *ends)
{
    NEED(write(ends[1], "x", 1) == 1, "pipe");
}

static void hear(const int *ends)
{
    char byte;
    NEED(read(ends[0], &byte, 1) == 1, "pipe");
}

static zds_engine *open_engine(int size, int stage, const char *zds, int32_t threads)
{
    char text[512];
    zds_config *config = NULL;
    zds_engine *e = NULL;
    zds_error error = ZDS_ERROR_INIT;
    snprintf(text, sizeof text,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, \"optimizer\":"
             " {\"type\": \"SGD\", \"params\": {\"lr\": 0.5}}, \"zero_optimization\": {\"stage\":"
             " %d, \"overlap_comm\": true, \"reduce_bucket_size\": %d}, \"zds\": %s}",
             stage, ELEMENTS, zds);
    zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    NEED(!zds_config_load(where_config(text), &context, &config, &error), "%s", error.text);
    zds_model *m = zds_model_create();
    const int64_t count = ELEMENTS;
    for (uint32_t i = 0; i < MODULES; i++) {
        char name[8];
        snprintf(name, sizeof name, "p%u", i);
        zds_param_desc d = {.struct_size = sizeof d, .name = name, .shape = &count, .ndim = 1};
        NEED(!zds_model_add_module(m, name, NULL) && !zds_model_add_param(m, i, &d, NULL), "model");
    }
    zds_engine_options o = {.struct_size = sizeof o, .threads = threads};
    NEED(!zds_engine_create(config, m, &o, &e, &error), "%s", error.text);
    zds_model_destroy(m);
    zds_config_destroy(config);
    NEED(!zds_set_values(e, ones, NULL), "%s", zds_engine_error(e));
    return e;
}

static void backward(zds_engine *e, uint32_t module, float g)
{
    zds_view v;
    NEED(!zds_acquire(e, module, ZDS_BACKWARD, NULL, &v), "%s", zds_engine_error(e));
    static float values[ELEMENTS];
    for (uint64_t i = 0; i < ELEMENTS; i++)
        values[i] = g;
    NEED(!zds_copy_in(e, v.slots[0].grad, values, sizeof values), "%s", zds_engine_error(e));
    NEED(!zds_grad_ready(e, module, NULL), "%s", zds_engine_error(e));
}

/* Of all elements, which are the same. */
static void check(zds_engine *e, uint32_t module, float want)
{
    zds_view v;
    NEED(!zds_acquire(e, module, ZDS_FORWARD, NULL, &v), "%s", zds_engine_error(e));
    static float values[ELEMENTS];
    NEED(!zds_copy_out(e, values, v.slots[0].data, sizeof values), "%s", zds_engine_error(e));
    for (uint64_t i = 0; i < ELEMENTS; i++)
        NEED(fabsf(values[i] - want) < 1e-5f, "module %u: %g, not %g", module, (double)values[i],
             (double)want);
    NEED(!zds_release(e, module, NULL), "%s", zds_engine_error(e));
}

/* === gradients === */

static void poll_pipe(void *arg, size_t i)
{
    volatile int *heard = arg;
    fd_set set;
    struct timeval soon = {.tv_usec = 500};
    (void)i;
    FD_ZERO(&set);
    FD_SET(from_1[0], &set);
    if (!*heard && select(from_1[0] + 1, &set, NULL, NULL, &soon) == 1)
        *heard = 1;
}

static void compute(zds_engine *e)
{
    volatile int heard = 0;
    zds_parallel_for(e, BODIES, poll_pipe, (void *)(uintptr_t)&heard);
    NEED(heard, "rank 1 said nothing");
}

/* Rank 0 has reported two modules when it begins to wait for rank 1, in whose backward the next two
 * need their buffers: what was in them must have been reduced by rank 0, too. */
static void train(int rank, int size, int stage, const char *zds, int32_t threads,
                  void (*wait)(zds_engine *e))
{
    zds_engine *e = open_engine(size, stage, zds, threads);
    uint32_t left = MODULES, until = rank ? MODULES - 4 : MODULES - 2;
    float g = rank ? 3 : 1;
    if (rank == 1)
        hear(from_0);
    NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
    while (left > until)
        backward(e, --left, g);
    if (rank == 0) {
        tell(from_0);
        wait(e);
        hear(from_1);
    } else {
        tell(from_1);
    }
    while (left > 0)
        backward(e, --left, g);
    NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
    for (uint32_t m = 0; m < MODULES; m++)
        check(e, m, 0); /* the gradients' mean is 2 */
    zds_engine_destroy(e);
}

static void with_tick(int rank, int size)
{
    train(rank, size, 2, "{}", 1, compute);
    train(rank, size, 2, "{}", 2, compute);
}

static void wait_outside(zds_engine *e)
{
    (void)e;
}

static void with_thread(int rank, int size)
{
    train(rank, size, 2, "{\"progress_thread\": true}", 1, wait_outside);
    train(rank, size, 2, "{\"progress_thread\": true}", 2, compute);
}

/* On a device that moves things by itself: what rank 0 does next must not wait for them. */
static void on_device(int rank, int size)
{
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    for (int stage = 1; stage <= 2; stage++) /* at stage 3 they gather modules together */
        train(rank, size, stage, "{\"device\": \"test\"}", 1, wait_outside);
}

static void run_with_pipes(void (*body)(int rank, int size))
{
    cr_assert(!pipe(from_0) && !pipe(from_1));
    run(2, true, body);
    for (int i = 0; i < 2; i++) {
        close(from_0[i]);
        close(from_1[i]);
    }
}

/* === parameters === */

/* Rank 1 evaluates by itself, while rank 0 does nothing that zds would see; then it goes on to the
 * next step at once. What it reads is all of one step. */
static void evaluate(int rank, int size, const char *zds, int32_t threads)
{
    enum { STEPS = 20 };
    /* At stage 3 ranks evaluate together, where they share no pages. */
    for (int stage = 1; stage <= (on_island() ? 2 : 3); stage++) {
        zds_engine *e = open_engine(size, stage, zds, threads);
        for (int k = 1; k <= STEPS; k++) {
            NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
            for (uint32_t m = MODULES; m-- > 0;)
                backward(e, m, 2);
            NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
            if (rank == 0) {
                hear(from_1);
            } else {
                for (uint32_t m = 0; m < MODULES; m++)
                    check(e, m, 1 - (float)k);
                tell(from_1);
            }
        }
        zds_engine_destroy(e);
    }
}

static void evaluate_alone(int rank, int size)
{
    evaluate(rank, size, "{}", 1);
    evaluate(rank, size, "{}", 3);
    evaluate(rank, size, "{\"progress_thread\": true}", 2);
}

Test(engine_moves, one_rank_evaluates_alone, .timeout = 120)
{
    run_with_pipes(evaluate_alone);
}

/* Ranks read what the step before has left, in turn one of them later than the other. */
static void evaluate_late(int rank, int size)
{
    enum { STEPS = 60 };
    zds_engine *e = open_engine(size, 1, "{}", 2);
    for (int k = 1; k <= STEPS; k++) {
        NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
        for (uint32_t m = MODULES; m-- > 0;)
            backward(e, m, 2);
        NEED(!zds_step(e, NULL), "%s", zds_engine_error(e));
        if (k % 2 == rank)
            usleep(500);
        for (uint32_t m = 0; m < MODULES; m += 1 + (uint32_t)rank)
            check(e, m, 1 - (float)k);
    }
    zds_engine_destroy(e);
}

Test(engine_moves, one_rank_reads_late, .timeout = 120)
{
    run(2, true, evaluate_late);
}

/* === how === */

Test(engine_moves, between_bodies_of_the_pool, .timeout = 120)
{
    run_with_pipes(with_tick);
}

Test(engine_moves, by_a_thread, .timeout = 120)
{
    run_with_pipes(with_thread);
}

Test(engine_moves, beside_a_device, .timeout = 120)
{
    run_with_pipes(on_device);
}

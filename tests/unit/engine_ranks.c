/* Engines of several ranks in processes of their own, as their launcher's variables say. */
#include <math.h>
#include <string.h>

#include "engine_world.h"

enum { ELEMENTS = 5000, ENGINES = 3 };

static zds_status ones(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 1;
    return ZDS_OK;
}

static zds_status keep_last(void *user, uint32_t param, uint64_t first, uint64_t count,
                            const float *values)
{
    (void)param, (void)first;
    *(float *)user = values[count - 1];
    return ZDS_OK;
}

static zds_engine *open_engine(const zds_config *config)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *e = NULL;
    zds_model *m = zds_model_create();
    const int64_t size = ELEMENTS;
    zds_param_desc d = {.struct_size = sizeof d, .name = "w", .shape = &size, .ndim = 1};
    NEED(!zds_model_add_module(m, "m", NULL) && !zds_model_add_param(m, 0, &d, NULL), "model");
    zds_engine_options o = {.struct_size = sizeof o, .threads = 1};
    NEED(!zds_engine_create(config, m, &o, &e, &error), "%s", error.text);
    zds_model_destroy(m);
    NEED(!zds_set_values(e, ones, NULL), "%s", zds_engine_error(e));
    return e;
}

/* One step of gradient descent with rate 0.5 and gradients `g`, which are a mean over ranks. */
static void step(zds_engine *e, float g)
{
    zds_view v;
    NEED(!zds_micro_begin(e, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(e));
    NEED(!zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), "%s", zds_engine_error(e));
    float values[ELEMENTS];
    for (size_t i = 0; i < ELEMENTS; i++)
        values[i] = g;
    NEED(!zds_copy_in(e, v.slots[0].grad, values, sizeof values), "%s", zds_engine_error(e));
    NEED(!zds_grad_ready(e, 0, NULL) && !zds_step(e, NULL), "%s", zds_engine_error(e));
}

static zds_config *load(int size, int stage, const char *zds)
{
    char text[512];
    zds_config *config = NULL;
    zds_error error = ZDS_ERROR_INIT;
    snprintf(text, sizeof text,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, \"optimizer\":"
             " {\"type\": \"SGD\", \"params\": {\"lr\": 0.5}}, \"zero_optimization\": {\"stage\":"
             " %d}, \"zds\": %s}",
             stage, zds);
    zds_config_context context = {.struct_size = sizeof context, .world_size = size};
    NEED(!zds_config_load(where_config(text), &context, &config, &error), "%s", error.text);
    return config;
}

/* Engines of one process at once, steps of all in turn, ended in another order than they began. */
static void several(int rank, int size)
{
    zds_engine *e[ENGINES];
    zds_config *config = load(size, 1, "{}");
    for (int i = 0; i < ENGINES; i++)
        e[i] = open_engine(config);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < ENGINES; i++)
            step(e[i], (float)(i + 1 + rank));
    for (int i = 0; i < ENGINES; i++) {
        float last = 0, mean = (float)(i + 1) + (float)(size - 1) / 2;
        NEED(!zds_get_values(e[i], 0, NULL, keep_last, &last), "%s", zds_engine_error(e[i]));
        if (rank == 0)
            NEED(fabsf(last - (1 - 2 * 0.5f * mean)) < 1e-5f, "engine %d: %g", i, (double)last);
    }
    for (int i = 0; i < ENGINES; i++)
        zds_engine_destroy(e[(i + 1) % ENGINES]);
    zds_config_destroy(config);
}

Test(engine_ranks, several_engines_at_once, .timeout = 120)
{
    run(2, true, several);
}

/* RANK and WORLD_SIZE alone: the ranks find out that they share this machine. */
Test(engine_ranks, without_local_numbers, .timeout = 120)
{
    run(2, false, several);
    run(3, false, several);
}

/* A launcher's wrapper that gives all ranks the same number, or leaves it out for some. */
static void refused(int size, const char *text)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *e = NULL;
    zds_model *m = zds_model_create();
    const int64_t n = ELEMENTS;
    zds_param_desc d = {.struct_size = sizeof d, .name = "w", .shape = &n, .ndim = 1};
    zds_engine_options o = {.struct_size = sizeof o, .threads = 1};
    zds_config *config = load(size, 1, "{}");
    NEED(!zds_model_add_module(m, "m", NULL) && !zds_model_add_param(m, 0, &d, NULL), "model");
    NEED(zds_engine_create(config, m, &o, &e, &error) == ZDS_ERR_INVALID, "accepted");
    NEED(strstr(error.text, text), "\"%s\" does not say \"%s\"", error.text, text);
    zds_error_clear(&error);
    zds_model_destroy(m);
    zds_config_destroy(config);
}

static void with_the_same_number(int rank, int size)
{
    (void)rank;
    set_number("LOCAL_RANK", 0);
    refused(size, "ranks 0 and 1 run on one machine and both have LOCAL_RANK 0");
}

static void with_numbers_for_some(int rank, int size)
{
    if (rank) {
        unsetenv("LOCAL_RANK");
        unsetenv("LOCAL_WORLD_SIZE");
    }
    refused(size, "rank(s) 1 have not");
}

Test(engine_ranks, local_numbers_that_cannot_be, .timeout = 120)
{
    run(2, true, with_the_same_number);
    run(2, true, with_numbers_for_some);
}

/* Rank 2 sleeps in its program: both others name it, and neither the other. */
static void waits_for_rank_2(int rank, int size)
{
    setenv("ZDS_TIMEOUT", "1", 1);
    zds_config *config = load(size, 1, "{}");
    zds_engine *e = open_engine(config);
    step(e, 1);
    if (rank == 2) {
        sleep(4);
        _exit(0);
    }
    NEED(zds_barrier(e) == ZDS_ERR_PEER, "%s", zds_engine_error(e));
    NEED(strstr(zds_engine_error(e), "rank(s) 2 silent"), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
    zds_config_destroy(config);
}

Test(engine_ranks, the_rank_that_all_wait_for_is_named, .timeout = 60)
{
    run(3, true, waits_for_rank_2);
}

static void with_options(int rank, int size)
{
    zds_config *config =
        load(size, 1, "{\"comm\": {\"type\": \"shm\", \"params\": {\"spins\": 3}}}");
    zds_engine *e = open_engine(config);
    step(e, 1);
    zds_engine_destroy(e);
    zds_config_destroy(config);
    (void)rank;
}

Test(engine_ranks, options_of_a_backend, .timeout = 120)
{
    ON_HOST_ALONE("shm connects ranks of the host");
    run(2, true, with_options);
}

/* Problems of a backend's options are told at their keys, as those of an optimizer. */
static void with_wrong_options(int rank, int size)
{
    static const struct {
        const char *zds, *key, *text;
    } wrong[] = {
        {"{\"comm\": {\"type\": \"self\", \"params\": {\"spins\": 3}}}", "zds.comm.params.spins",
         ""},
        {"{\"comm\": {\"type\": \"shm\", \"params\": {\"spins\": -3}}}", "zds.comm.params.spins",
         "0"},
        {"{\"comm\": {\"params\": {\"spins\": 3}}}", "zds.comm.params", "zds.comm.type"},
        {"{\"comm\": {\"type\": \"shmm\"}}", "zds.comm.type", "did you mean shm"},
        {"{\"comm\": \"shmm\"}", "zds.comm", "did you mean shm"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        zds_config *config = load(size, 1, wrong[i].zds);
        zds_model *m = zds_model_create();
        const int64_t n = ELEMENTS;
        zds_param_desc d = {.struct_size = sizeof d, .name = "w", .shape = &n, .ndim = 1};
        NEED(!zds_model_add_module(m, "m", NULL) && !zds_model_add_param(m, 0, &d, NULL), "model");
        zds_engine_options o = {.struct_size = sizeof o, .threads = 1};
        zds_engine *e = NULL;
        zds_error error = ZDS_ERROR_INIT;
        NEED(zds_engine_create(config, m, &o, &e, &error), "%zu", i);
        NEED(strstr(error.text, wrong[i].key) && strstr(error.text, wrong[i].text), "%zu: %s", i,
             error.text);
        zds_error_clear(&error);
        zds_model_destroy(m);
        zds_config_destroy(config);
    }
    (void)rank;
}

Test(engine_ranks, wrong_options_of_a_backend, .timeout = 120)
{
    ON_HOST_ALONE("shm connects ranks of the host");
    run(1, true, with_wrong_options);
}

/* The test backend that plays absent ranks: this process is rank 0 of 4096. */
static void alone(int rank, int size)
{
    (void)rank, (void)size;
    for (int stage = 0; stage <= 3; stage++) {
        zds_config *config = load(
            4096, stage, "{\"comm\": \"" TEST_BINARY_DIR "/tests/plugins/comm_copies.so:copies\"}");
        set_number("WORLD_SIZE", 4096);
        set_number("LOCAL_WORLD_SIZE", 1);
        zds_engine *e = open_engine(config);
        for (int round = 0; round < 2; round++)
            step(e, 0.25f);
        float last = 0;
        zds_view v;
        NEED(!zds_acquire(e, 0, ZDS_FORWARD, NULL, &v), "%s", zds_engine_error(e));
        last = ((const float *)v.slots[0].data)[0];
        NEED(fabsf(last - 0.75f) < 1e-6f, "stage %d: %g", stage, (double)last);
        zds_engine_destroy(e);
        zds_config_destroy(config);
    }
}

Test(engine_ranks, rank_0_of_4096, .timeout = 120)
{
    ON_HOST_ALONE("the backend is one of the host's");
    run(1, true, alone);
}

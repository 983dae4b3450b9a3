/* Steps of a model whose computing takes a given time, and nothing else: what bench/overlap.py
 * measures the hiding of communication with.
 *
 *     overlap CONFIG MODULES ELEMENTS US outside|pool STEPS
 *
 * A module's forward takes US microseconds and its backward twice as many: `outside` of zds, as by
 * an accelerator that the program waits for, or in bodies of zds_parallel_for. The ranks are what
 * the launcher's variables say. Rank 0 prints a JSON object of milliseconds, medians over steps: of
 * the step, and in it of the optimizer's pass with publishing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "zds/zds.h"

enum { BODY_US = 500, WARM = 2, MOST_STEPS = 200 };

/* The text of what failed is in one of the two. */
static void need(bool fine, const char *what, const zds_error *error, const zds_engine *e)
{
    if (fine)
        return;
    fprintf(stderr, "overlap: %s: %s\n", what,
            error && error->text ? error->text : zds_engine_error(e));
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void pass_time(double us)
{
    const struct timespec t = {.tv_sec = (time_t)(us / 1e6),
                               .tv_nsec = (long)(us - 1e6 * (double)(time_t)(us / 1e6)) * 1000};
    nanosleep(&t, NULL);
}

static void body(void *arg, size_t i)
{
    (void)i;
    pass_time(*(double *)arg);
}

static void compute(zds_engine *e, const char *how, double us)
{
    double each = BODY_US * zds_threads(e);
    if (us <= 0)
        return;
    if (strcmp(how, "pool") != 0)
        pass_time(us);
    else
        zds_parallel_for(e, (size_t)(us / BODY_US), body, &(double){each});
}

static zds_status zeros(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    memset(out, 0, count * sizeof *out);
    return ZDS_OK;
}

static zds_engine *open_engine(const char *text, uint32_t modules, int64_t elements)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *e = NULL;
    const char *world = getenv("WORLD_SIZE");
    zds_config_context context = {.struct_size = sizeof context,
                                  .world_size = world ? atoi(world) : 1};
    need(!zds_config_load(text, &context, &config, &error), "config", &error, NULL);
    zds_model *m = zds_model_create();
    for (uint32_t i = 0; i < modules; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        zds_param_desc d = {.struct_size = sizeof d, .name = name, .shape = &elements, .ndim = 1};
        need(!zds_model_add_module(m, name, NULL) && !zds_model_add_param(m, i, &d, NULL), "model",
             NULL, NULL);
    }
    zds_engine_options o = {.struct_size = sizeof o, .threads = 1};
    need(!zds_engine_create(config, m, &o, &e, &error), "engine", &error, NULL);
    zds_model_destroy(m);
    need(!zds_set_values(e, zeros, NULL), "values", NULL, e);
    return e;
}

static void step(zds_engine *e, uint32_t modules, const char *how, double us)
{
    zds_view v;
    bool fine = !zds_micro_begin(e, ZDS_BOUNDARY_AUTO);
    for (uint32_t m = 0; m < modules && fine; m++) {
        fine = !zds_acquire(e, m, ZDS_FORWARD, NULL, &v);
        compute(e, how, us);
        fine = fine && !zds_release(e, m, NULL);
    }
    for (uint32_t m = modules; m-- > 0 && fine;) {
        fine = !zds_acquire(e, m, ZDS_BACKWARD, NULL, &v);
        compute(e, how, 2 * us);
        fine = fine && !zds_grad_ready(e, m, NULL);
    }
    need(fine && !zds_step(e, NULL), "step", NULL, e);
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* The computing of a step alone. */
static double compute_alone(zds_engine *e, uint32_t modules, const char *how, double us, double *ms,
                            int steps)
{
    for (int i = 0; i < steps; i++) {
        double start = now_ms();
        for (uint32_t m = 0; m < modules; m++)
            compute(e, how, us);
        for (uint32_t m = 0; m < modules; m++)
            compute(e, how, 2 * us);
        ms[i] = now_ms() - start;
    }
    qsort(ms, (size_t)steps, sizeof *ms, by_value);
    return ms[steps / 2];
}

int main(int argc, char **argv)
{
    double took[MOST_STEPS], updates[MOST_STEPS];
    int steps = argc == 7 ? atoi(argv[6]) : 0;
    if (steps < 1 || steps > MOST_STEPS) {
        fprintf(stderr,
                "usage: overlap CONFIG MODULES ELEMENTS US outside|pool STEPS (at most %d)\n",
                MOST_STEPS);
        return 2;
    }
    uint32_t modules = (uint32_t)atoi(argv[2]);
    zds_engine *e = open_engine(argv[1], modules, atoll(argv[3]));
    double alone = compute_alone(e, modules, argv[5], atof(argv[4]), took, steps);
    for (int i = -WARM; i < steps; i++) {
        zds_step_times times = {.struct_size = sizeof times};
        need(!zds_barrier(e), "barrier", NULL, e);
        zds_take_times(e, &times);
        double start = now_ms();
        step(e, modules, argv[5], atof(argv[4]));
        if (i < 0)
            continue;
        took[i] = now_ms() - start;
        zds_take_times(e, &times);
        updates[i] = times.update_ms;
    }
    qsort(took, (size_t)steps, sizeof *took, by_value);
    qsort(updates, (size_t)steps, sizeof *updates, by_value);
    if (zds_rank(e) == 0)
        printf("{\"step_ms\": %.3f, \"update_ms\": %.3f, \"compute_ms\": %.3f}\n", took[steps / 2],
               updates[steps / 2], alone);
    zds_engine_destroy(e);
    return 0;
}

/* A trainer as somebody wrote it for ABI 1.0: built with nothing but the frozen headers, run on the
 * library of today. Each parameter is moved towards 3 by the gradient of (w - 3)^2 / 2 of its
 * elements, so that a reader can compute what must come out. usage: old_program DS_CONFIG STEPS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zds/zds.h"

enum { MODULES = 2, PARAMS = 3, GUARD = 64 };

/* A struct that the library fills, and what it must not touch behind it. */
#define GUARDED(type)                                                                              \
    struct {                                                                                       \
        type at;                                                                                   \
        unsigned char guard[GUARD];                                                                \
    }

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why ? why : "");
    exit(1);
}

static void expect_guard(const unsigned char *guard, const char *what)
{
    for (size_t i = 0; i < GUARD; i++)
        if (guard[i] != 0x5a)
            fail(what, "the library wrote past the end of what ABI 1.0 has of it");
}

static zds_model *describe(void)
{
    static const struct {
        const char *name;
        uint32_t module, ndim;
        int64_t shape[2];
        bool frozen;
    } params[PARAMS] = {{"a.weight", 0, 2, {7, 30}, false},
                        {"a.bias", 0, 1, {7, 0}, false},
                        {"b.fixed", 1, 1, {5, 0}, true}};
    zds_model *model = zds_model_create();
    uint32_t index;
    for (int m = 0; model && m < MODULES; m++)
        if (zds_model_add_module(model, m ? "b" : "a", &index) != ZDS_OK)
            fail("module", zds_model_error(model));
    for (uint32_t p = 0; model && p < PARAMS; p++) {
        const zds_param_desc desc = {.struct_size = sizeof desc,
                                     .name = params[p].name,
                                     .shape = params[p].shape,
                                     .ndim = params[p].ndim,
                                     .role = p ? ZDS_ROLE_BIAS : ZDS_ROLE_MATRIX,
                                     .frozen = params[p].frozen};
        if (zds_model_add_param(model, params[p].module, &desc, &index) != ZDS_OK)
            fail("parameter", zds_model_error(model));
    }
    if (!model || zds_model_add_use(model, 1, 0) != ZDS_OK)
        fail("model", model ? zds_model_error(model) : "no memory");
    return model;
}

static zds_status initial(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 0.25f * (float)((first + i) % 16) + (float)param;
    return ZDS_OK;
}

static const zds_slot *slot_at(const zds_view *view, size_t i)
{
    return (const void *)((const char *)view->slots + i * view->stride);
}

static zds_status forward(void *user, zds_engine *engine, int64_t micro, double *loss)
{
    (void)user, (void)micro;
    *loss = 0;
    for (uint32_t m = 0; m < MODULES; m++) {
        GUARDED(zds_view) view;
        memset(&view, 0x5a, sizeof view);
        zds_status status = zds_acquire(engine, m, ZDS_FORWARD, NULL, &view.at);
        if (status != ZDS_OK)
            return status;
        expect_guard(view.guard, "zds_view");
        const float *first = slot_at(&view.at, 0)->data;
        *loss += first[0];
        if ((status = zds_release(engine, m, NULL)) != ZDS_OK)
            return status;
    }
    return ZDS_OK;
}

/* Each use of a parameter takes half of its gradient, so that one with two uses has all of it. */
static zds_status backward(void *user, zds_engine *engine, int64_t micro, double scale)
{
    (void)user, (void)micro;
    for (uint32_t m = MODULES; m-- > 0;) {
        zds_view view;
        zds_status status = zds_acquire(engine, m, ZDS_BACKWARD, NULL, &view);
        for (size_t s = 0; status == ZDS_OK && s < view.count; s++) {
            const zds_slot *slot = slot_at(&view, s);
            const float *w = slot->data;
            float *grad = slot->grad, part = (float)scale * (slot->param == 0 ? 0.5f : 1.0f);
            for (uint64_t i = 0; grad && i < slot->count; i++)
                grad[i] = (slot->accumulate ? grad[i] : 0) + part * (w[i] - 3);
        }
        if (status == ZDS_OK)
            status = zds_grad_ready(engine, m, NULL);
        if (status != ZDS_OK)
            return status;
    }
    return ZDS_OK;
}

/* One optimizer step: by the program's own loop where `step` is even, else by callbacks. */
static zds_status train(zds_engine *engine, int64_t step, zds_step_result *result)
{
    static const zds_model_ops ops = {sizeof ops, forward, backward};
    if (step % 2)
        return zds_train_batch(engine, &ops, NULL, result);
    double loss;
    zds_status status = ZDS_OK;
    for (int64_t micro = 0; status == ZDS_OK && micro < zds_accumulation_steps(engine); micro++) {
        status = zds_micro_begin(engine, ZDS_BOUNDARY_AUTO);
        if (status == ZDS_OK)
            status = forward(NULL, engine, micro, &loss);
        if (status == ZDS_OK)
            status = backward(NULL, engine, micro, zds_loss_scale(engine));
        if (status == ZDS_OK)
            status = zds_step(engine, result);
    }
    return status;
}

static zds_status print(void *user, uint32_t param, uint64_t first, uint64_t count,
                        const float *values)
{
    for (uint64_t i = 0; i < count; i++)
        printf("%s %u %llu %.9g\n", (const char *)user, param, (unsigned long long)(first + i),
               (double)values[i]);
    return ZDS_OK;
}

/* What else the library fills. */
static void look(const zds_config *config, zds_engine *engine)
{
    GUARDED(zds_memory_row) row;
    GUARDED(zds_group_info) group;
    GUARDED(zds_step_times) times;
    GUARDED(zds_problem) problem;
    memset(&row, 0x5a, sizeof row);
    memset(&group, 0x5a, sizeof group);
    memset(&times, 0x5a, sizeof times);
    memset(&problem, 0x5a, sizeof problem);
    group.at.struct_size = sizeof group.at;
    times.at.struct_size = sizeof times.at;
    if (!zds_memory_report(engine, 0, &row.at) || !row.at.bytes || !row.at.purpose)
        fail("zds_memory_report", zds_engine_error(engine));
    if (!zds_group(engine, 0, &group.at) || zds_group(engine, 1, &group.at))
        fail("zds_group", zds_engine_error(engine));
    zds_take_times(engine, &times.at);
    if (!zds_config_problem(config, 0, &problem.at) || problem.at.severity != ZDS_PROBLEM_WARNING ||
        strcmp(problem.at.path, "gradient_clipping") != 0)
        fail("zds_config_problem", "it warns of a run without clipping");
    expect_guard(row.guard, "zds_memory_row");
    expect_guard(group.guard, "zds_group_info");
    expect_guard(times.guard, "zds_step_times");
    expect_guard(problem.guard, "zds_problem");
    printf("group %u %llu %g %d\n", group.at.params, (unsigned long long)group.at.elements,
           group.at.hyper.lr, times.at.step_ms > 0);
}

int main(int argc, char **argv)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *engine = NULL;
    const zds_config_context context = {.struct_size = sizeof context};
    const zds_engine_options options = {
        .struct_size = sizeof options, .threads = 2, .total_steps = -1};
    if (argc != 3 || zds_config_load(argv[1], &context, &config, &error) != ZDS_OK)
        fail("config", error.text);
    zds_model *model = describe();
    if (zds_engine_create(config, model, &options, &engine, &error) != ZDS_OK)
        fail("engine", error.text);
    zds_model_destroy(model);
    zds_status status = zds_set_values(engine, initial, NULL);
    for (int64_t step = 0; status == ZDS_OK && step < atoll(argv[2]); step++) {
        GUARDED(zds_step_result) result;
        memset(&result, 0x5a, sizeof result);
        result.at = (zds_step_result){.struct_size = sizeof result.at};
        status = train(engine, step, &result.at);
        expect_guard(result.guard, "zds_step_result");
        if (status == ZDS_OK && zds_rank(engine) == 0)
            printf("step %lld %d %d %.9g %g\n", (long long)result.at.steps, result.at.applied,
                   result.at.skipped, result.at.grad_norm, result.at.lr);
    }
    for (uint32_t p = 0; status == ZDS_OK && p < PARAMS; p++) {
        const char *state = zds_state_name(engine, p, 0);
        status = zds_get_values(engine, p, NULL, print, (void *)"value");
        if (status == ZDS_OK && state)
            status = zds_get_values(engine, p, state, print, (void *)state);
    }
    if (status != ZDS_OK)
        fail(zds_status_name(status), zds_engine_error(engine));
    if (zds_rank(engine) == 0)
        look(config, engine);
    zds_engine_destroy(engine);
    zds_config_destroy(config);
    zds_error_clear(&error);
    return 0;
}

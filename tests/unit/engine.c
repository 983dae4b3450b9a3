/* The engine with one rank: what each call does to parameters, in every stage and precision,
 * against formulas written here. The optimizer is a plain gradient descent linked into the test, so
 * that the arithmetic can be followed. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_where.h"
#include "zds/zds.h"

/* --- a plugin: w -= lr * grad_scale * g; a state that counts updates --- */

typedef struct descent_options {
    double lr;
} descent_options;

static zds_status descent_create(const zds_host *host, const void *options,
                                 const zds_optim_env *env, void **self)
{
    (void)options, (void)env;
    *self = (void *)(uintptr_t)host;
    return ZDS_OK;
}

static void descent_destroy(void *self)
{
    (void)self;
}

static zds_status descent_describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->state_count = 1;
    needs->states[0] = (zds_state_spec){
        .name = "count", .kind = ZDS_STATE_ELEMENT, .dtype = ZDS_F32, .initial = 2};
    return ZDS_OK;
}

static float from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static zds_status descent_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t k = 0; k < tiles->count; k++) {
        const zds_tile *t = zds_tile_at(tiles, k);
        float *w = t->master, *count = t->states[0];
        for (uint64_t i = 0; i < t->count; i++) {
            float g = t->grad_dtype == ZDS_F32 ? ((const float *)t->grad)[i]
                                               : from_bf16(((const uint16_t *)t->grad)[i]);
            w[i] -= (float)t->hyper->lr * (float)ctx->grad_scale * g;
            count[i] += 1;
            if (t->output)
                ((uint16_t *)t->output)[i] = to_bf16(w[i]);
        }
    }
    return ZDS_OK;
}

static const zds_option descent_table[] = {{.name = "lr",
                                            .type = ZDS_OPTION_FLOAT,
                                            .offset = offsetof(descent_options, lr),
                                            .default_value = "0.5",
                                            .min = 0,
                                            .max = INFINITY,
                                            .doc = "rate"}};
static const zds_optim_ops descent_ops = {
    .struct_size = sizeof descent_ops,
    .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
    .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
    .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_BF16),
    .create = descent_create,
    .destroy = descent_destroy,
    .describe = descent_describe,
    .step = descent_step};
static const zds_plugin descent = {.struct_size = sizeof descent,
                                   .kind = ZDS_KIND_OPTIM,
                                   .name = "Descent",
                                   .version = "1",
                                   .doc = "plain gradient descent",
                                   .options = descent_table,
                                   .option_stride = sizeof descent_table[0],
                                   .option_count = 1,
                                   .options_size = sizeof(descent_options),
                                   .ops = &descent_ops};
static const zds_plugin *const linked[] = {&descent, NULL};

/* --- a model: two modules with a tied parameter, one frozen, one odd-sized --- */

enum { A = 0, FROZEN = 1, B = 2, C = 3, PARAMS = 4, MODULES = 2 };
enum { SIZE_A = 3000, SIZE_B = 7, LARGEST = 70000 };
static const int64_t sizes[PARAMS] = {SIZE_A, 5, SIZE_B, LARGEST};

static zds_model *two_modules(void)
{
    zds_model *m = zds_model_create();
    uint32_t module;
    zds_model_add_module(m, "first", &module);
    zds_param_desc d = {.struct_size = sizeof d, .ndim = 1};
    static const char *const names[] = {"a", "frozen", "b", "c"};
    for (uint32_t p = 0; p < PARAMS; p++) {
        if (p == B)
            zds_model_add_module(m, "second", &module);
        d.name = names[p];
        d.shape = &sizes[p];
        d.frozen = p == FROZEN;
        cr_assert_eq(zds_model_add_param(m, module, &d, NULL), ZDS_OK);
    }
    cr_assert_eq(zds_model_add_use(m, 1, A), ZDS_OK);
    return m;
}

static double start_value(uint32_t param, uint64_t i)
{
    return (double)from_bf16(to_bf16((float)param + 0.125f * (float)(i % 8)));
}

static zds_status read_start(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user;
    for (uint64_t i = 0; i < count; i++)
        out[i] = (float)start_value(param, first + i);
    return ZDS_OK;
}

typedef struct fixture {
    zds_config *config;
    zds_engine *engine;
} fixture;

static fixture open_with(const char *json, int32_t threads)
{
    fixture f = {0};
    zds_error error = ZDS_ERROR_INIT;
    where_search();
    zds_model *model = two_modules();
    cr_assert_eq(zds_config_load(where_config(json), NULL, &f.config, &error), ZDS_OK, "%s",
                 error.text);
    zds_engine_options o = {.struct_size = sizeof o,
                            .plugins = where_plugins(linked),
                            .optimizer = "Descent",
                            .threads = threads};
    cr_assert_eq(zds_engine_create(f.config, model, &o, &f.engine, &error), ZDS_OK, "%s",
                 error.text);
    zds_model_destroy(model);
    cr_assert_eq(zds_set_values(f.engine, read_start, NULL), ZDS_OK);
    return f;
}

static fixture open_engine(const char *json)
{
    return open_with(json, 2);
}

static void close_engine(fixture f)
{
    zds_engine_destroy(f.engine);
    zds_config_destroy(f.config);
}

static float same(uint64_t i, float value)
{
    (void)i;
    return value;
}

/* Wherever the gradient is. */
static void put(zds_engine *e, const zds_slot *slot, float (*at)(uint64_t i, float x), float x)
{
    static float floats[LARGEST];
    uint16_t *halves = (uint16_t *)floats;
    const bool half = slot->dtype != ZDS_F32;
    const size_t bytes = slot->count * zds_dtype_size(slot->dtype);
    if (slot->accumulate)
        cr_assert_eq(zds_copy_out(e, floats, slot->grad, bytes), ZDS_OK);
    for (uint64_t i = 0; i < slot->count; i++) {
        const float before = !slot->accumulate ? 0 : half ? from_bf16(halves[i]) : floats[i];
        if (half)
            halves[i] = to_bf16(before + at(i, x));
        else
            floats[i] = before + at(i, x);
    }
    cr_assert_eq(zds_copy_in(e, slot->grad, floats, bytes), ZDS_OK);
}

/* A backward in which every use leaves `value` in every element, but parameter `without` gets none.
 */
static void backward(zds_engine *e, float value, int without)
{
    for (uint32_t m = MODULES; m-- > 0;) {
        zds_view v;
        cr_assert_eq(zds_acquire(e, m, ZDS_BACKWARD, NULL, &v), ZDS_OK, "%s", zds_engine_error(e));
        for (uint32_t s = 0; s < v.count; s++)
            if ((int)v.slots[s].param == without)
                cr_assert_eq(zds_grad_none(e, m, s), ZDS_OK);
            else if (v.slots[s].grad)
                put(e, &v.slots[s], same, value);
        cr_assert_eq(zds_grad_ready(e, m, NULL), ZDS_OK, "%s", zds_engine_error(e));
    }
}

typedef struct expect {
    double worst;
    double (*at)(uint32_t param, uint64_t i, double x);
    double x;
} expect;

static zds_status compare(void *user, uint32_t param, uint64_t first, uint64_t count,
                          const float *values)
{
    expect *e = user;
    for (uint64_t i = 0; i < count; i++) {
        double off = fabs((double)values[i] - e->at(param, first + i, e->x));
        if (!(off <= e->worst))
            e->worst = off;
    }
    return ZDS_OK;
}

static double check(zds_engine *e, uint32_t param, const char *state,
                    double (*at)(uint32_t, uint64_t, double), double x)
{
    expect want = {.at = at, .x = x};
    cr_assert_eq(zds_get_values(e, param, state, compare, &want), ZDS_OK, "%s",
                 zds_engine_error(e));
    return want.worst;
}

static double moved(uint32_t param, uint64_t i, double by)
{
    return start_value(param, i) - by;
}

static double constant(uint32_t param, uint64_t i, double x)
{
    (void)param, (void)i;
    return x;
}

/* --- the tests --- */

Test(engine, one_step_in_every_stage_and_precision)
{
    static const char *const extra[] = {
        "",
        ",\"zero_optimization\":{\"stage\":1}",
        ",\"zero_optimization\":{\"stage\":2}",
        ",\"zero_optimization\":{\"stage\":2,\"overlap_comm\":false}",
        ",\"zero_optimization\":{\"stage\":2,\"reduce_scatter\":false}",
        ",\"zero_optimization\":{\"stage\":1},\"communication_data_type\":\"bf16\"",
        ",\"zero_optimization\":{\"stage\":2},\"communication_data_type\":\"fp32\""};
    for (size_t k = 0; k < sizeof extra / sizeof *extra; k++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            char json[400];
            snprintf(json, sizeof json,
                     "{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0%s%s}",
                     bf16 ? ",\"bf16\":{\"enabled\":true}" : "", extra[k]);
            fixture f = open_engine(json);
            zds_step_result r = {.struct_size = sizeof r};
            cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
            cr_assert(zds_is_boundary(f.engine));
            backward(f.engine, 0.25f, -1);
            cr_assert_eq(zds_step(f.engine, &r), ZDS_OK, "%s", zds_engine_error(f.engine));
            /* a is used twice, so its gradient is 0.5 */
            double norm = sqrt(SIZE_A * 0.25 + (SIZE_B + 70000) * 0.0625);
            cr_log_info("%s: norm %.9g, expected %.9g", json, r.grad_norm, norm);
            cr_assert(fabs(r.grad_norm - norm) < 1e-9 * norm);
            cr_assert(r.applied && r.steps == 1 && !r.skipped && r.lr == 0.5);
            cr_assert_eq(check(f.engine, A, NULL, moved, 0.25), 0);
            cr_assert_eq(check(f.engine, B, NULL, moved, 0.125), 0);
            cr_assert_eq(check(f.engine, C, NULL, moved, 0.125), 0);
            cr_assert_eq(check(f.engine, FROZEN, NULL, moved, 0), 0);
            cr_assert_eq(check(f.engine, C, "count", constant, 3), 0);
            cr_assert_eq(zds_get_values(f.engine, FROZEN, "count", compare, NULL),
                         ZDS_ERR_NOT_FOUND);
            close_engine(f);
        }
}

Test(engine, accumulation_by_count_and_by_the_caller)
{
    for (int stage = 0; stage < 3; stage++)
        for (int by_caller = 0; by_caller < 2; by_caller++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                char json[300];
                snprintf(
                    json, sizeof json,
                    "{\"train_micro_batch_size_per_gpu\":1,\"gradient_accumulation_steps\":3,"
                    "\"gradient_clipping\":0,"
                    "\"managed_gradient_accumulation\":%s,\"zero_optimization\":{\"stage\":%d}%s}",
                    by_caller ? "false" : "true", stage,
                    bf16 ? ",\"bf16\":{\"enabled\":true}" : "");
                fixture f = open_engine(json);
                cr_assert_eq(zds_loss_scale(f.engine), 1.0 / 3);
                if (by_caller)
                    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID);
                for (int step = 1; step <= 2; step++)
                    for (int micro = 0; micro < 3; micro++) {
                        zds_step_result r = {.struct_size = sizeof r};
                        int how = !by_caller   ? ZDS_BOUNDARY_AUTO
                                  : micro == 2 ? ZDS_BOUNDARY_YES
                                               : ZDS_BOUNDARY_NO;
                        cr_assert_eq(zds_micro_begin(f.engine, how), ZDS_OK);
                        backward(f.engine, 0.125f,
                                 micro == 1 ? B : -1); /* b has none in the second micro step */
                        cr_assert_eq(zds_step(f.engine, &r), ZDS_OK, "%s",
                                     zds_engine_error(f.engine));
                        cr_assert_eq(r.applied, micro == 2);
                    }
                cr_assert_eq(check(f.engine, A, NULL, moved, 2 * 0.5 * 0.75), 0);
                cr_assert_eq(check(f.engine, B, NULL, moved, 2 * 0.5 * 0.25), 0);
                cr_assert_eq(check(f.engine, C, NULL, moved, 2 * 0.5 * 0.375), 0);
                close_engine(f);
            }
}

Test(engine, a_parameter_without_gradient_is_left_alone)
{
    for (int stage = 0; stage < 3; stage++) {
        char json[200];
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0,\"zero_"
                 "optimization\":{\"stage\":%d}}",
                 stage);
        fixture f = open_engine(json);
        for (int step = 0; step < 2;
             step++) { /* the second time its buffer holds the first's gradient */
            cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
            backward(f.engine, 0.25f, step ? C : -1);
            cr_assert_eq(zds_step(f.engine, NULL), ZDS_OK);
        }
        cr_assert_eq(check(f.engine, A, NULL, moved, 0.5), 0);
        cr_assert_eq(check(f.engine, C, NULL, moved, 0.125), 0);
        cr_assert_eq(check(f.engine, C, "count", constant, 3), 0);
        /* a module that is not reported at all */
        zds_view v;
        cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
        cr_assert_eq(zds_acquire(f.engine, 0, ZDS_BACKWARD, NULL, &v), ZDS_OK);
        cr_assert_eq(v.slots[0].accumulate, false);
        put(f.engine, &v.slots[0], same, 1);
        cr_assert_eq(zds_grad_ready(f.engine, 0, NULL), ZDS_OK);
        cr_assert_eq(zds_step(f.engine, NULL), ZDS_OK);
        cr_assert_eq(check(f.engine, A, NULL, moved, 1), 0);
        cr_assert_eq(check(f.engine, C, NULL, moved, 0.125), 0);
        close_engine(f);
    }
}

Test(engine, clipping_and_gradients_that_are_not_finite)
{
    for (int stage = 0; stage < 3; stage++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            char json[300];
            snprintf(json, sizeof json,
                     "{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":2.0,\"zero_"
                     "optimization\":{\"stage\":%d}%s}",
                     stage, bf16 ? ",\"bf16\":{\"enabled\":true}" : "");
            fixture f = open_engine(json);
            static const float bad[] = {NAN, INFINITY, -INFINITY};
            zds_step_result r = {.struct_size = sizeof r};
            for (int k = 0; k < 3; k++) {
                cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
                backward(f.engine, bad[k], -1);
                cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
                cr_assert(r.skipped && !r.applied && r.skips == k + 1 && r.steps == 0 &&
                          !isfinite(r.grad_norm));
            }
            cr_assert_eq(check(f.engine, A, NULL, moved, 0), 0);
            cr_assert_eq(check(f.engine, A, "count", constant, 2), 0);
            cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
            backward(f.engine, 1, -1);
            cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
            double norm = sqrt(SIZE_A * 4.0 + SIZE_B + 70000), factor = 2 / (norm + 1e-6);
            double off = check(f.engine, C, NULL, moved, 0.5 * factor);
            cr_log_info("clipped by %.6g, off by %.3g", factor, off);
            cr_assert(off < 1e-6 && r.applied);
            close_engine(f);
        }
}

Test(engine, unclipped_values_after_check_grad_overflow_false)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0,\"zero_"
                            "optimization\":{\"stage\":2},"
                            "\"bf16\":{\"enabled\":true,\"check_grad_overflow\":false}}");
    zds_step_result r = {.struct_size = sizeof r};
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    backward(f.engine, INFINITY, -1);
    cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
    cr_assert(r.applied && !r.skipped);
    close_engine(f);
}

Test(engine, no_sync_and_batch_size)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":2,\"gradient_clipping\":0,\"zero_"
                            "optimization\":{\"stage\":1}}");
    cr_assert_eq(zds_no_sync(f.engine, true), ZDS_OK);
    for (int k = 0; k < 3; k++) {
        cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
        cr_assert(!zds_is_boundary(f.engine));
        backward(f.engine, 0.25f, -1);
    }
    cr_assert_eq(zds_step(f.engine, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_no_sync(f.engine, false), ZDS_OK);
    cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
    backward(f.engine, 0.25f, -1);
    cr_assert_eq(zds_step(f.engine, NULL), ZDS_OK);
    cr_assert_eq(check(f.engine, C, NULL, moved, 0.5), 0);
    cr_assert_eq(zds_set_train_batch_size(f.engine, 5), ZDS_ERR_INVALID);
    cr_assert_eq(zds_set_train_batch_size(f.engine, 8), ZDS_OK);
    cr_assert_eq(zds_accumulation_steps(f.engine), 4);
    close_engine(f);
    f = open_engine("{\"train_micro_batch_size_per_gpu\":2,\"zero_optimization\":{\"stage\":2}}");
    cr_assert_eq(zds_no_sync(f.engine, true), ZDS_ERR_UNSUPPORTED);
    cr_assert_not_null(strstr(zds_engine_error(f.engine), "stage 2"), "%s",
                       zds_engine_error(f.engine));
    close_engine(f);
}

Test(engine, calls_out_of_order_are_refused_and_change_nothing)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0}");
    zds_engine *e = f.engine;
    zds_view v;
    cr_assert_eq(zds_step(e, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID);
    cr_assert_eq(zds_acquire(e, 9, ZDS_FORWARD, NULL, &v), ZDS_ERR_INVALID);
    cr_assert_eq(zds_grad_ready(e, 0, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_micro_begin(e, 7), ZDS_ERR_INVALID);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID);
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 1, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID);
    cr_assert_eq(zds_step(e, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_grad_none(e, 0, 99), ZDS_ERR_INVALID);
    cr_assert_eq(zds_grad_none(e, 0, 0), ZDS_OK);
    cr_assert_eq(zds_grad_none(e, 0, 1), ZDS_OK);
    cr_assert_eq(zds_grad_ready(e, 0, NULL), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 1, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID,
                 "module 1 after module 0");
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID, "module 0 twice");
    cr_assert_eq(zds_step(e, NULL), ZDS_OK);
    for (uint32_t p = 0; p < PARAMS; p++)
        cr_assert_eq(check(e, p, NULL, moved, 0), 0);
    close_engine(f);
}

Test(engine, pages_of_stage_1_are_read_only_for_callers)
{
    ON_HOST_ALONE("only pages of the host's are protected");
    fixture f =
        open_engine("{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{\"stage\":1}}");
    zds_view v;
    int zeros = open("/dev/zero", O_RDONLY); /* the kernel writes, or says that it may not */
    cr_assert_eq(zds_acquire(f.engine, 0, ZDS_FORWARD, NULL, &v), ZDS_OK);
    cr_assert_eq(read(zeros, (void *)(uintptr_t)v.slots[0].data, 4), -1);
    cr_assert_eq(errno, EFAULT);
    close(zeros);
    close_engine(f);
}

Test(engine, a_forked_child_is_refused)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1}");
    pid_t pid = fork();
    if (pid == 0)
        _exit(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO) == ZDS_ERR_INVALID &&
                      zds_barrier(f.engine) == ZDS_ERR_INVALID
                  ? 42
                  : 1);
    int state;
    waitpid(pid, &state, 0);
    cr_assert_eq(WEXITSTATUS(state), 42);
    close_engine(f);
}

static double row(const zds_engine *e, const char *purpose)
{
    zds_memory_row r;
    for (size_t i = 0; zds_memory_report(e, i, &r); i++)
        if (strcmp(r.purpose, purpose) == 0)
            return (double)r.bytes;
    return 0;
}

/* Design: what ZeRO must save, with one rank; padding is under 64 bytes a parameter and state, and
 * under two pages each for parameters that are trained and that are not. */
Test(engine, memory_is_what_the_formulas_say)
{
    const double psi = SIZE_A + SIZE_B + 70000, total = psi + 5, slack = 4 * 4096;
    static const struct {
        const char *json;
        double params, grads, master;
    } rows[] = {
        {"{\"train_micro_batch_size_per_gpu\":1}", 4, 4, 0},
        {"{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{\"stage\":2}}", 4, 4, 0},
        {"{\"train_micro_batch_size_per_gpu\":1,\"bf16\":{\"enabled\":true}}", 2, 2, 4},
        {"{\"train_micro_batch_size_per_gpu\":1,\"bf16\":{\"enabled\":true},\"gradient_"
         "accumulation_steps\":2}",
         2, 4, 4},
        {"{\"train_micro_batch_size_per_gpu\":1,\"bf16\":{\"enabled\":true},\"zero_optimization\":{"
         "\"stage\":2}}",
         2, 2, 4},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        fixture f = open_engine(rows[k].json);
        cr_log_info("%s: parameters %.0f gradients %.0f master %.0f states %.0f", rows[k].json,
                    row(f.engine, "parameters"), row(f.engine, "gradients"),
                    row(f.engine, "master weights"), row(f.engine, "optimizer states"));
        cr_assert(fabs(row(f.engine, "parameters") - rows[k].params * total) < slack);
        cr_assert(fabs(row(f.engine, "gradients") - rows[k].grads * psi) < slack);
        cr_assert(fabs(row(f.engine, "master weights") - rows[k].master * psi) < slack);
        cr_assert(fabs(row(f.engine, "optimizer states") - 4 * psi) < slack);
        close_engine(f);
    }
}

typedef struct batch {
    int forwards, backwards;
    bool fail;
} batch;

static zds_status batch_forward(void *user, zds_engine *e, int64_t micro, double *loss)
{
    (void)e;
    batch *b = user;
    b->forwards++;
    *loss = 1 + (double)micro;
    return b->fail ? ZDS_ERR_FORMAT : ZDS_OK;
}

static zds_status batch_backward(void *user, zds_engine *e, int64_t micro, double scale)
{
    (void)micro;
    batch *b = user;
    b->backwards++;
    backward(e, (float)scale, -1);
    return ZDS_OK;
}

Test(engine, train_batch_drives_the_accumulation_loop)
{
    static const zds_model_ops ops = {
        .struct_size = sizeof ops, .forward = batch_forward, .backward = batch_backward};
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_accumulation_steps\":"
                            "4,\"gradient_clipping\":0}");
    batch b = {0};
    zds_step_result r = {.struct_size = sizeof r};
    cr_assert_eq(zds_train_batch(f.engine, &ops, &b, &r), ZDS_OK, "%s", zds_engine_error(f.engine));
    cr_assert(b.forwards == 4 && b.backwards == 4 && r.applied);
    cr_assert_eq(r.loss, 2.5);
    cr_assert_eq(check(f.engine, C, NULL, moved, 0.5), 0);
    b.fail = true;
    cr_assert_eq(zds_train_batch(f.engine, &ops, &b, &r), ZDS_ERR_FORMAT);
    close_engine(f);
}

static float of_many_sizes(uint64_t i, float x)
{
    return x + sinf((float)(i + 1) * 0.7f) * expf((float)(i % 13) - 6);
}

Test(engine, threads_and_tiles_do_not_change_bits)
{
    /* 2 threads above, 1 and 3 here: the norm's bits must be the same. */
    double norms[3];
    for (int32_t threads = 1; threads <= 3; threads++) {
        fixture f = open_with(
            "{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{\"stage\":2}}", threads);
        zds_step_result r = {.struct_size = sizeof r};
        cr_assert_eq(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO), ZDS_OK);
        for (uint32_t m = MODULES; m-- > 0;) {
            zds_view v;
            cr_assert_eq(zds_acquire(f.engine, m, ZDS_BACKWARD, NULL, &v), ZDS_OK);
            for (uint32_t s = 0; s < v.count; s++)
                if (v.slots[s].grad)
                    put(f.engine, &v.slots[s], of_many_sizes, 0);
            cr_assert_eq(zds_grad_ready(f.engine, m, NULL), ZDS_OK);
        }
        cr_assert_eq(zds_step(f.engine, &r), ZDS_OK);
        norms[threads - 1] = r.grad_norm;
        close_engine(f);
    }
    cr_log_info("norms %.17g %.17g %.17g", norms[0], norms[1], norms[2]);
    cr_assert(norms[0] == norms[1] && norms[1] == norms[2]);
}

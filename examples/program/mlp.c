/* A small perceptron on a zds engine: describe, fill, forward, backward. See mlp.h. */
#include "mlp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN_MODULE = 0, OUTPUT_MODULE = 1 };           /* in forward order */
enum { W1 = 0, B1 = 1, W2 = 2, B2 = 3, PARAMETERS = 4 }; /* in the order they are added */

/* A number in [-1, 1) that depends on `key` alone (splitmix64, Steele et al. 2014). */
static float noise(uint64_t key)
{
    uint64_t z = key * 0x9e3779b97f4a7c15u + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) * 0x1p-23f - 1.0f;
}

static bool add_param(zds_model *model, uint32_t module, const char *name, int32_t role,
                      uint32_t ndim, int64_t rows, int64_t columns)
{
    const int64_t shape[] = {rows, columns};
    zds_param_desc desc = {
        .struct_size = sizeof desc, .name = name, .shape = shape, .ndim = ndim, .role = role};
    uint32_t index; /* counts up from 0: W1, B1, W2, B2 */
    return zds_model_add_param(model, module, &desc, &index) == ZDS_OK;
}

static bool describe(zds_model *model)
{
    uint32_t hidden, output; /* HIDDEN_MODULE, OUTPUT_MODULE */
    return zds_model_add_module(model, "hidden", &hidden) == ZDS_OK &&
           add_param(model, hidden, "hidden.weight", ZDS_ROLE_MATRIX, 2, HIDDEN, INPUTS) &&
           add_param(model, hidden, "hidden.bias", ZDS_ROLE_BIAS, 1, HIDDEN, 0) &&
           zds_model_add_module(model, "output", &output) == ZDS_OK &&
           add_param(model, output, "output.weight", ZDS_ROLE_MATRIX, 2, 1, HIDDEN) &&
           add_param(model, output, "output.bias", ZDS_ROLE_BIAS, 1, 1, 0);
}

/* Called on rank 0 only, in pieces: every element must depend on its index alone. */
static zds_status initial_values(void *user, uint32_t param, uint64_t first, uint64_t count,
                                 float *out)
{
    (void)user;
    static const float range[PARAMETERS] = {1.5f, 1.5f, 0.125f, 0.0f}; /* of W1, B1, W2, B2 */
    for (uint64_t i = 0; i < count; i++)
        out[i] = range[param] * noise(((uint64_t)param << 32) + first + i);
    return ZDS_OK;
}

/* Config, engine, values; what went wrong is in `error`, or in the engine's own. */
static zds_status open_engine(mlp *m, const char *path, const zds_model *model, zds_error *error)
{
    zds_status status = zds_config_load(path, NULL, &m->config, error);
    if (status == ZDS_ERR_CONFIG && m->config) {
        char *problems = zds_config_problems_text(m->config);
        fputs(problems ? problems : "", stderr);
        free(problems);
    }
    const zds_engine_options options = {.struct_size = sizeof options, .total_steps = -1};
    if (status == ZDS_OK)
        status = zds_engine_create(m->config, model, &options, &m->engine, error);
    if (status == ZDS_OK)
        status = zds_set_values(m->engine, initial_values, NULL);
    return status;
}

static float *floats(int64_t count)
{
    return (float *)calloc((size_t)count, sizeof(float));
}

bool mlp_open(mlp *m, const char *path)
{
    memset(m, 0, sizeof *m);
    zds_error error = ZDS_ERROR_INIT;
    zds_model *model = zds_model_create();
    bool ok = model && describe(model);
    if (!ok)
        fprintf(stderr, "model: %s\n", model ? zds_model_error(model) : "no memory");
    else if (open_engine(m, path, model, &error) != ZDS_OK) {
        fprintf(stderr, "%s\n", error.text ? error.text : zds_engine_error(m->engine));
        ok = false;
    } else if (zds_param_dtype(m->engine) != ZDS_F32) {
        fprintf(stderr, "%s: this example computes in fp32 only; take bf16 out\n", path);
        ok = false;
    } else {
        m->batch = zds_micro_batch_size(m->engine);
        m->x = floats(m->batch * INPUTS);
        m->target = floats(m->batch);
        m->h = floats(m->batch * HIDDEN);
        m->error = floats(m->batch);
        ok = m->x && m->target && m->h && m->error;
        if (!ok)
            fprintf(stderr, "no memory for a batch of %lld rows\n", (long long)m->batch);
    }
    zds_error_clear(&error);
    zds_model_destroy(model);
    if (!ok)
        mlp_close(m);
    return ok;
}

void mlp_close(mlp *m)
{
    zds_engine_destroy(m->engine);
    zds_config_destroy(m->config);
    free(m->x);
    free(m->target);
    free(m->h);
    free(m->error);
    memset(m, 0, sizeof *m);
}

/* Row i of the run is the same on any number of ranks: rows go to micro steps, then to ranks. */
void mlp_draw(mlp *m, int64_t step, int64_t micro)
{
    int64_t ranks = zds_world_size(m->engine);
    int64_t first =
        ((step * zds_accumulation_steps(m->engine) + micro) * ranks + zds_rank(m->engine)) *
        m->batch;
    for (int64_t b = 0; b < m->batch; b++) {
        float *x = &m->x[b * INPUTS];
        for (int i = 0; i < INPUTS; i++)
            x[i] = noise((uint64_t)((first + b) * INPUTS + i) + (UINT64_C(1) << 63));
        m->target[b] = sinf(3.0f * x[0]) * cosf(2.0f * x[1]);
    }
}

/* Slots of this library may be longer than those of the header. */
static const zds_slot *slot_at(const zds_view *view, size_t i)
{
    return (const zds_slot *)((const char *)view->slots + i * view->stride);
}

static const float *values(const zds_view *view, size_t i)
{
    return (const float *)slot_at(view, i)->data;
}

zds_status mlp_forward(mlp *m, int64_t step, int64_t micro, double *loss)
{
    mlp_draw(m, step, micro);
    zds_view view;
    zds_status status = zds_acquire(m->engine, HIDDEN_MODULE, ZDS_FORWARD, NULL, &view);
    if (status != ZDS_OK)
        return status;
    const float *w1 = values(&view, 0), *b1 = values(&view, 1);
    for (int64_t b = 0; b < m->batch; b++)
        for (int j = 0; j < HIDDEN; j++) {
            float sum = b1[j];
            for (int i = 0; i < INPUTS; i++)
                sum += w1[j * INPUTS + i] * m->x[b * INPUTS + i];
            m->h[b * HIDDEN + j] = tanhf(sum);
        }
    status = zds_release(m->engine, HIDDEN_MODULE, NULL);
    if (status == ZDS_OK)
        status = zds_acquire(m->engine, OUTPUT_MODULE, ZDS_FORWARD, NULL, &view);
    if (status != ZDS_OK)
        return status;
    const float *w2 = values(&view, 0), *b2 = values(&view, 1);
    double squares = 0;
    for (int64_t b = 0; b < m->batch; b++) {
        float sum = b2[0];
        for (int j = 0; j < HIDDEN; j++)
            sum += w2[j] * m->h[b * HIDDEN + j];
        m->error[b] = sum - m->target[b];
        squares += (double)m->error[b] * m->error[b];
    }
    *loss = squares / (double)m->batch;
    return zds_release(m->engine, OUTPUT_MODULE, NULL);
}

/* A gradient buffer holds the sum of earlier uses, or nothing yet: the slot says which. */
static float *start_gradient(const zds_view *view, size_t i)
{
    const zds_slot *slot = slot_at(view, i);
    if (!slot->accumulate)
        memset(slot->grad, 0, slot->count * sizeof(float));
    return (float *)slot->grad;
}

zds_status mlp_backward(mlp *m, double loss_scale)
{
    float scale = (float)(loss_scale * 2.0 / (double)m->batch); /* d loss / d error = 2 error / B */
    zds_view view;
    zds_status status = zds_acquire(m->engine, OUTPUT_MODULE, ZDS_BACKWARD, NULL, &view);
    if (status != ZDS_OK)
        return status;
    float w2[HIDDEN]; /* backward of the hidden module needs it, after this one is handed back */
    memcpy(w2, values(&view, 0), sizeof w2);
    float *d_w2 = start_gradient(&view, 0), *d_b2 = start_gradient(&view, 1);
    for (int64_t b = 0; b < m->batch; b++) {
        float d = scale * m->error[b];
        for (int j = 0; j < HIDDEN; j++)
            d_w2[j] += d * m->h[b * HIDDEN + j];
        d_b2[0] += d;
    }
    status = zds_grad_ready(m->engine, OUTPUT_MODULE, NULL);
    if (status == ZDS_OK)
        status = zds_acquire(m->engine, HIDDEN_MODULE, ZDS_BACKWARD, NULL, &view);
    if (status != ZDS_OK)
        return status;
    float *d_w1 = start_gradient(&view, 0), *d_b1 = start_gradient(&view, 1);
    for (int64_t b = 0; b < m->batch; b++) {
        const float *h = &m->h[b * HIDDEN];
        for (int j = 0; j < HIDDEN; j++) {
            float d = scale * m->error[b] * w2[j] * (1.0f - h[j] * h[j]);
            for (int i = 0; i < INPUTS; i++)
                d_w1[j * INPUTS + i] += d * m->x[b * INPUTS + i];
            d_b1[j] += d;
        }
    }
    return zds_grad_ready(m->engine, HIDDEN_MODULE, NULL);
}

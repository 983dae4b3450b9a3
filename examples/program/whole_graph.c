/* A program that records a graph and runs it forward and backward as a whole, as libraries with a
 * tape do: it holds all modules at a time, which ZeRO 0 and 1 allow.
 * usage: whole_graph DS_CONFIG STEPS, alone or under zds-run */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zds/zds.h>

enum { WIDTH = 32, LAYERS = 3, ROWS = 64, NODES = 16 };
static const int64_t widths[LAYERS + 1] = {2, WIDTH, WIDTH, 1};

/* === the tape: values, and what they were made of === */

typedef enum op { LEAF, LINEAR, TANH } op;

typedef struct node {
    op made_by;
    struct node *x, *weight, *bias;
    int64_t rows, columns;
    float *data, *grad; /* grad NULL: nobody wants it */
} node;

static node nodes[NODES];
static int node_count;
static float memory[4 * LAYERS * ROWS * WIDTH]; /* of what is computed */
static size_t memory_used;

static node *leaf(float *data, float *grad, int64_t rows, int64_t columns)
{
    node *n = &nodes[node_count++];
    n->made_by = LEAF;
    n->rows = rows, n->columns = columns;
    n->data = data, n->grad = grad;
    return n;
}

static node *computed(op made_by, node *x, node *weight, node *bias, int64_t columns)
{
    size_t size = (size_t)(x->rows * columns);
    float *data = memory + memory_used, *grad = data + size;
    node *n = leaf(data, grad, x->rows, columns);
    memory_used += 2 * size;
    memset(grad, 0, size * sizeof *grad);
    n->made_by = made_by;
    n->x = x, n->weight = weight, n->bias = bias;
    return n;
}

static node *linear(node *x, node *weight, node *bias)
{
    node *y = computed(LINEAR, x, weight, bias, weight->rows);
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t c = 0; c < y->columns; c++) {
            float *out = &y->data[r * y->columns + c];
            *out = bias->data[c];
            for (int64_t i = 0; i < x->columns; i++)
                *out += weight->data[c * x->columns + i] * x->data[r * x->columns + i];
        }
    return y;
}

static node *tanh_of(node *x)
{
    node *y = computed(TANH, x, NULL, NULL, x->columns);
    for (int64_t i = 0; i < y->rows * y->columns; i++)
        y->data[i] = tanhf(x->data[i]);
    return y;
}

/* From the last node, whose grad is set, to all others. */
static void backward(void)
{
    for (node *y = nodes + node_count; y-- > nodes;) {
        node *x = y->x, *w = y->weight;
        for (int64_t i = 0; y->made_by == TANH && i < y->rows * y->columns; i++)
            x->grad[i] += y->grad[i] * (1 - y->data[i] * y->data[i]);
        for (int64_t k = 0; y->made_by == LINEAR && k < y->rows * y->columns; k++) {
            int64_t row = k / y->columns * x->columns, column = k % y->columns;
            y->bias->grad[column] += y->grad[k];
            for (int64_t i = 0; i < x->columns; i++) {
                w->grad[column * x->columns + i] += y->grad[k] * x->data[row + i];
                if (x->grad)
                    x->grad[row + i] += y->grad[k] * w->data[column * x->columns + i];
            }
        }
    }
}

/* === the model: a module a layer, of a weight and a bias === */

static float noise(uint64_t key) /* in [-1, 1) */
{
    key = (key + 1) * 0x9e3779b97f4a7c15u;
    key = (key ^ (key >> 31)) * 0xbf58476d1ce4e5b9u;
    return (float)(key >> 40) * 0x1p-23f - 1.0f;
}

static zds_status describe(zds_model *model)
{
    zds_status status = ZDS_OK;
    for (uint32_t p = 0; p < 2 * LAYERS && !status; p++) {
        char name[32];
        const int64_t shape[2] = {widths[p / 2 + 1], widths[p / 2]};
        zds_param_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.struct_size = sizeof desc;
        desc.name = name, desc.shape = shape, desc.ndim = 2 - p % 2;
        desc.role = p % 2 ? ZDS_ROLE_BIAS : ZDS_ROLE_MATRIX;
        snprintf(name, sizeof name, "%u.%s", (unsigned)p / 2, p % 2 ? "bias" : "weight");
        if (p % 2 == 0)
            status = zds_model_add_module(model, name, NULL);
        if (!status)
            status = zds_model_add_param(model, p / 2, &desc, NULL);
    }
    return status;
}

static zds_status initial_values(void *user, uint32_t param, uint64_t first, uint64_t count,
                                 float *out)
{
    (void)user;
    float range = param % 2 ? 0.5f : 1.5f / sqrtf((float)widths[param / 2]);
    for (uint64_t i = 0; i < count; i++)
        out[i] = range * noise(((uint64_t)param << 32) + first + i);
    return ZDS_OK;
}

/* === training === */

static zds_status micro_step(zds_engine *e, uint64_t row, zds_step_result *result, double *loss)
{
    static float rows_in[ROWS * 2];
    int64_t rows = zds_micro_batch_size(e);
    for (int64_t i = 0; i < 2 * rows; i++)
        rows_in[i] = noise((row * 2 + (uint64_t)i) + (UINT64_C(1) << 63));
    node_count = 0, memory_used = 0;
    node *y = leaf(rows_in, NULL, rows, 2), *params[LAYERS][2];
    zds_status status = zds_micro_begin(e, ZDS_BOUNDARY_AUTO);
    for (uint32_t m = LAYERS; m-- > 0 && !status;) { /* for backward modules come last first */
        zds_view view;
        status = zds_acquire(e, m, ZDS_BACKWARD, NULL, &view);
        for (size_t i = 0; i < 2 && !status; i++) {
            const zds_slot *s = (const zds_slot *)((const char *)view.slots + i * view.stride);
            if (!s->accumulate)
                memset(s->grad, 0, s->count * sizeof(float));
            params[m][i] = leaf((float *)s->data, (float *)s->grad, i ? 1 : widths[m + 1],
                                i ? widths[m + 1] : widths[m]);
        }
    }
    if (status)
        return status;
    for (int m = 0; m < LAYERS; m++) {
        y = linear(y, params[m][0], params[m][1]);
        y = m + 1 < LAYERS ? tanh_of(y) : y;
    }
    for (int64_t r = 0; r < rows; r++) { /* the mean squared error, and its gradient */
        float error = y->data[r] - sinf(3 * rows_in[2 * r]) * cosf(2 * rows_in[2 * r + 1]);
        *loss += (double)error * error / (double)(rows * zds_accumulation_steps(e));
        y->grad[r] = (float)(zds_loss_scale(e) * 2 / (double)rows) * error;
    }
    backward();
    for (uint32_t m = 0; m < LAYERS && !status; m++) /* in any order */
        status = zds_grad_ready(e, m, NULL);
    return status ? status : zds_step(e, result);
}

static zds_status train(zds_engine *e, int64_t steps)
{
    zds_step_result result;
    memset(&result, 0, sizeof result);
    result.struct_size = sizeof result;
    uint64_t row = (uint64_t)(zds_rank(e) * zds_micro_batch_size(e));
    zds_status status = zds_set_values(e, initial_values, NULL);
    for (int64_t step = 0; step < steps && !status; step++) {
        double loss = 0;
        for (int64_t i = 0; i < zds_accumulation_steps(e) && !status; i++) {
            status = micro_step(e, row, &result, &loss);
            row += (uint64_t)(zds_world_size(e) * zds_micro_batch_size(e));
        }
        if (!status)
            status = zds_sum_over_ranks(e, &loss, 1);
        if (!status && zds_rank(e) == 0 && (step == 0 || (step + 1) % 50 == 0))
            printf("step %lld  loss %.6f  norm %.6f\n", (long long)step + 1,
                   loss / zds_world_size(e), result.grad_norm);
    }
    return status;
}

int main(int argc, char **argv)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *engine = NULL;
    zds_model *model = zds_model_create();
    zds_status status = argc == 3 && model ? describe(model) : ZDS_ERR_INVALID;
    if (!status)
        status = zds_config_load(argv[1], NULL, &config, &error);
    if (!status)
        status = zds_engine_create(config, model, NULL, &engine, &error);
    if (!status && (zds_param_dtype(engine) != ZDS_F32 || zds_micro_batch_size(engine) > ROWS))
        status = zds_fail(engine, ZDS_ERR_UNSUPPORTED,
                          "this example computes in fp32, at most %d rows at a time", ROWS);
    if (!status)
        status = train(engine, atoll(argv[2]));
    if (status)
        fprintf(stderr, "usage: %s DS_CONFIG STEPS: %s\n", argv[0],
                engine       ? zds_engine_error(engine)
                : error.text ? error.text
                             : "");
    zds_engine_destroy(engine);
    zds_config_destroy(config);
    zds_model_destroy(model);
    zds_error_clear(&error);
    return status ? 1 : 0;
}

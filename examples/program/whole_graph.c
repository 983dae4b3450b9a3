/* A program that records a graph and runs it forward and backward as a whole, as libraries with a
 * tape do: it holds all modules at a time, which ZeRO 0 and 1 allow.
 * usage: whole_graph DS_CONFIG STEPS, alone or under zds-run */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mlp.h"

/* === the tape: values, and what they were made of === */

typedef enum op { LEAF, LINEAR, TANH } op;

typedef struct node {
    op made_by;
    struct node *x, *weight, *bias;
    int64_t rows, columns;
    float *data, *grad; /* grad NULL: nobody wants it */
} node;

enum { NODES = 16 };
static node nodes[NODES];
static int node_count;

static node *leaf(const float *data, float *grad, int64_t rows, int64_t columns)
{
    node *n = &nodes[node_count++];
    memset(n, 0, sizeof *n);
    n->rows = rows, n->columns = columns;
    n->data = (float *)data, n->grad = grad;
    return n;
}

static node *computed(op made_by, node *x, node *weight, node *bias, int64_t columns)
{
    size_t size = (size_t)(x->rows * columns);
    float *data = (float *)calloc(2 * size, sizeof *data);
    if (!data)
        abort();
    node *n = leaf(data, data + size, x->rows, columns);
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

/* From the last node, whose grad is set, to all others; the tape is empty then. */
static void backward(void)
{
    while (node_count > 0) {
        node *y = &nodes[--node_count], *x = y->x, *w = y->weight;
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
        if (y->made_by != LEAF)
            free(y->data);
    }
}

/* === training === */

static zds_status micro_step(mlp *m, int64_t step, int64_t micro, zds_step_result *result,
                             double *loss)
{
    static const int64_t rows[2] = {HIDDEN, 1}, columns[2] = {INPUTS, HIDDEN};
    mlp_draw(m, step, micro);
    node *params[2][2], *x = leaf(m->x, NULL, m->batch, INPUTS);
    zds_status status = zds_micro_begin(m->engine, ZDS_BOUNDARY_AUTO);
    for (uint32_t module = 2; module-- > 0 && !status;) { /* for backward modules come last first */
        zds_view view;
        status = zds_acquire(m->engine, module, ZDS_BACKWARD, NULL, &view);
        for (size_t i = 0; i < 2 && !status; i++) {
            const zds_slot *s = (const zds_slot *)((const char *)view.slots + i * view.stride);
            if (!s->accumulate)
                memset(s->grad, 0, s->count * sizeof(float));
            params[module][i] = leaf((const float *)s->data, (float *)s->grad, i ? 1 : rows[module],
                                     i ? rows[module] : columns[module]);
        }
    }
    if (status)
        return status;
    node *y = linear(tanh_of(linear(x, params[0][0], params[0][1])), params[1][0], params[1][1]);
    for (int64_t r = 0; r < m->batch; r++) { /* the mean squared error, and its gradient */
        float error = y->data[r] - m->target[r];
        *loss += (double)error * error / (double)(m->batch * zds_accumulation_steps(m->engine));
        y->grad[r] = (float)(zds_loss_scale(m->engine) * 2 / (double)m->batch) * error;
    }
    backward();
    for (uint32_t module = 0; module < 2 && !status; module++) /* in any order */
        status = zds_grad_ready(m->engine, module, NULL);
    return status ? status : zds_step(m->engine, result);
}

static zds_status train(mlp *m, int64_t steps)
{
    zds_step_result result = {.struct_size = sizeof result};
    zds_status status = ZDS_OK;
    for (int64_t step = 0; step < steps && !status; step++) {
        double loss = 0;
        for (int64_t i = 0; i < zds_accumulation_steps(m->engine) && !status; i++)
            status = micro_step(m, step, i, &result, &loss);
        if (!status)
            status = zds_sum_over_ranks(m->engine, &loss, 1);
        if (!status && zds_rank(m->engine) == 0 && (step == 0 || (step + 1) % 50 == 0))
            printf("step %lld  loss %.6f  norm %.6f  rate %g\n", (long long)step + 1,
                   loss / zds_world_size(m->engine), result.grad_norm, result.lr);
    }
    return status;
}

int main(int argc, char **argv)
{
    mlp m;
    if (argc != 3 || !mlp_open(&m, argv[1])) {
        fprintf(stderr, "usage: %s DS_CONFIG STEPS\n", argv[0]);
        return 2;
    }
    zds_status status = train(&m, atoll(argv[2]));
    if (status)
        fprintf(stderr, "rank %d: %s\n", (int)zds_rank(m.engine), zds_engine_error(m.engine));
    mlp_close(&m);
    return status ? 1 : 0;
}

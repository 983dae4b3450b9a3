/* Between the model and the engine. */
#include "bridge.h"

#include <stdlib.h>

#include "common/fail.h"
#include "pages.h"

enum { CONVERT = 1 << 16 /* elements of one task */ };

static void run(void *context, size_t n, void (*body)(void *arg, size_t i), void *arg)
{
    zds_parallel_for(context, n, body, arg);
}

zds_status bridge_create(zds_engine *engine, const gpt2_config *config, const params *p,
                         const dataset *data, uint64_t seed, bridge *b, zds_error *error)
{
    *b = (bridge){.engine = engine, .data = data, .params = p, .seed = seed};
    b->k = kernels_best();
    b->batch = zds_micro_batch_size(engine);
    b->length = (int64_t)data->block;
    b->width = config->n_embd;
    zds_dtype dtype = zds_param_dtype(engine);
    workers crew = {run, engine, (size_t)zds_threads(engine)};
    zds_status status =
        gpt2_create(config, (size_t)b->batch, (size_t)b->length, crew, b->k, &b->model, error);
    if (status)
        return status;
    uint64_t block = 0;
    for (size_t i = 0; i < BLOCK_PARAMS; i++)
        block += (param_elements(&p->list[FIRST_BLOCK_PARAM + i]) + 15) / 16 * 16;
    b->tokens = calloc((size_t)b->batch * ((size_t)b->length + 1), sizeof *b->tokens);
    b->norm = calloc(2 * (size_t)b->width, sizeof *b->norm);
    b->weights_bytes = block * sizeof *b->weights;
    if (dtype != ZDS_F32)
        b->weights = pages_take(b->weights_bytes);
    if (!b->tokens || !b->norm || (dtype != ZDS_F32 && !b->weights))
        return fail(error, ZDS_ERR_MEMORY, "there is no memory for a block's weights");
    return ZDS_OK;
}

void bridge_destroy(bridge *b)
{
    gpt2_destroy(b->model);
    mirror_destroy(&b->mirror);
    free(b->tokens);
    pages_give(b->weights, b->weights_bytes);
    free(b->norm);
    zds_error_clear(&b->error);
}

/* === weights === */

typedef struct conversion {
    const kernels *k;
    zds_dtype dtype;
    const uint16_t *from;
    float *to;
    size_t count;
} conversion;

static void convert_piece(void *arg, size_t i)
{
    conversion *c = arg;
    size_t at = i * CONVERT, n = c->count - at < CONVERT ? c->count - at : CONVERT;
    c->k->from_half(c->dtype, n, c->from + at, c->to + at);
}

/* `slot` in fp32: its own data, or converted into `buffer`. */
static const float *floats_of(const bridge *b, const zds_slot *slot, float *buffer)
{
    if (slot->dtype == ZDS_F32)
        return slot->data;
    conversion c = {b->k, slot->dtype, slot->data, buffer, slot->count};
    zds_parallel_for(b->engine, (c.count + CONVERT - 1) / CONVERT, convert_piece, &c);
    return buffer;
}

static void block_weights(const bridge *b, const zds_view *view, const float **w)
{
    float *buffer = b->weights;
    for (size_t i = 0; i < BLOCK_PARAMS; i++) {
        w[i] = floats_of(b, &view->slots[i], buffer);
        if (buffer)
            buffer += (view->slots[i].count + 15) / 16 * 16;
    }
}

static table table_of(const zds_slot *slot)
{
    return (table){slot->data, slot->dtype};
}

static gradient gradient_of(const zds_slot *slot)
{
    return (gradient){slot->grad, slot->dtype, slot->accumulate};
}

/* === passes === */

/* Embeddings and blocks. */
static zds_status body_forward(bridge *b)
{
    zds_view view;
    const float *w[BLOCK_PARAMS];
    zds_status status = mirror_acquire(&b->mirror, b->engine, 0, ZDS_FORWARD, &view);
    if (status)
        return status;
    gpt2_embed(b->model, table_of(&view.slots[0]), table_of(&view.slots[1]));
    status = zds_release(b->engine, 0, NULL);
    for (int64_t l = 0; l < b->params->layers && !status; l++) {
        uint32_t module = 1 + (uint32_t)l;
        status = mirror_acquire(&b->mirror, b->engine, module, ZDS_FORWARD, &view);
        if (status)
            return status;
        block_weights(b, &view, w);
        gpt2_block(b->model, (size_t)l, w);
        status = zds_release(b->engine, module, NULL);
    }
    return status;
}

static zds_status computed(bridge *b)
{
    zds_status status = gpt2_status(b->model);
    if (status)
        fail(&b->error, status, "there is no memory for a matrix product");
    return fail_tell(b->engine, status, &b->error);
}

static zds_status read_rows(bridge *b, int64_t micro, int64_t *first)
{
    int64_t world = zds_world_size(b->engine), in_step = micro * world + zds_rank(b->engine);
    *first = in_step * b->batch;
    int64_t row = b->step * zds_accumulation_steps(b->engine) * world * b->batch + *first;
    for (int64_t i = 0; i < b->batch; i++) {
        zds_status status =
            dataset_row(b->data, (uint64_t)(row + i), b->tokens + i * (b->length + 1), &b->error);
        if (status)
            return fail_tell(b->engine, status, &b->error);
    }
    return ZDS_OK;
}

static zds_status forward(void *user, zds_engine *engine, int64_t micro, double *loss)
{
    bridge *b = user;
    zds_view view;
    int64_t first;
    uint32_t last = 1 + (uint32_t)b->params->layers;
    zds_status status = read_rows(b, micro, &first);
    if (status)
        return status;
    gpt2_batch batch = {b->tokens, b->seed, (uint32_t)b->step, (uint32_t)first};
    gpt2_begin(b->model, &batch);
    status = body_forward(b);
    if (!status)
        status = mirror_acquire(&b->mirror, engine, last, ZDS_FORWARD, &view);
    if (status)
        return status;
    *loss = gpt2_head(b->model, floats_of(b, &view.slots[0], b->norm),
                      floats_of(b, &view.slots[1], b->norm + b->width), table_of(&view.slots[2]));
    status = zds_release(engine, last, NULL);
    return status ? status : computed(b);
}

static zds_status backward(void *user, zds_engine *engine, int64_t micro, double loss_scale)
{
    (void)micro; /* the batch is the one of the forward pass before */
    bridge *b = user;
    zds_view view;
    uint32_t last = 1 + (uint32_t)b->params->layers;
    zds_status status = mirror_acquire(&b->mirror, engine, last, ZDS_BACKWARD, &view);
    if (status)
        return status;
    gpt2_head_backward(b->model, floats_of(b, &view.slots[0], b->norm),
                       floats_of(b, &view.slots[1], b->norm + b->width), table_of(&view.slots[2]),
                       loss_scale, gradient_of(&view.slots[0]), gradient_of(&view.slots[1]),
                       gradient_of(&view.slots[2]));
    status = mirror_ready(&b->mirror, engine, last);
    for (int64_t l = b->params->layers - 1; l >= 0 && !status; l--) {
        uint32_t module = 1 + (uint32_t)l;
        const float *w[BLOCK_PARAMS];
        gradient dw[BLOCK_PARAMS];
        status = mirror_acquire(&b->mirror, engine, module, ZDS_BACKWARD, &view);
        if (status)
            return status;
        block_weights(b, &view, w);
        for (size_t i = 0; i < BLOCK_PARAMS; i++)
            dw[i] = gradient_of(&view.slots[i]);
        gpt2_block_backward(b->model, (size_t)l, w, dw);
        status = mirror_ready(&b->mirror, engine, module);
    }
    if (!status)
        status = mirror_acquire(&b->mirror, engine, 0, ZDS_BACKWARD, &view);
    if (status)
        return status;
    gpt2_embed_backward(b->model, gradient_of(&view.slots[0]), gradient_of(&view.slots[1]));
    status = mirror_ready(&b->mirror, engine, 0);
    return status ? status : computed(b);
}

const zds_model_ops bridge_ops = {
    .struct_size = sizeof(zds_model_ops), .forward = forward, .backward = backward};

zds_status bridge_scores(bridge *b, const uint32_t *tokens, size_t done, size_t end, float *scores)
{
    zds_view view;
    uint32_t last = 1 + (uint32_t)b->params->layers;
    gpt2_begin_generation(b->model, tokens, done, end);
    zds_status status = body_forward(b);
    if (!status)
        status = mirror_acquire(&b->mirror, b->engine, last, ZDS_FORWARD, &view);
    if (status)
        return status;
    gpt2_scores(b->model, floats_of(b, &view.slots[0], b->norm),
                floats_of(b, &view.slots[1], b->norm + b->width), table_of(&view.slots[2]), scores);
    status = zds_release(b->engine, last, NULL);
    return status ? status : computed(b);
}

/* One parameter under an optimizer plugin: its arrays between guard pages, its steps cut into tiles
 * at will. */
#ifndef TESTS_OPTIM_HARNESS_H
#define TESTS_OPTIM_HARNESS_H

#include "plugin_harness.h"

typedef struct optim_setup {
    const char *file, *name, *options; /* JSON */
    uint64_t count;
    zds_dtype master, grad, output, state; /* output equal to master: none */
    bool guard_before;                     /* else the guard is after */
    const char *simd;                      /* ZDS_SIMD; NULL: the best */
    const char *param;                     /* its name; NULL: "w" */
    const int64_t *shape;                  /* [ndim], with `count` elements; NULL: one extent */
    uint32_t ndim;
    bool stochastic;
    uint64_t seed;
} optim_setup;

typedef struct optim {
    optim_setup setup;
    harness h;
    const zds_plugin *plugin;
    const zds_optim_ops *ops;
    void *options, *self;
    zds_param param;
    int64_t shape[1];
    zds_hyper hyper;
    zds_param_needs needs;
    zds_state_spec specs[ZDS_MAX_STATES];
    int64_t step;
    double grad_scale;
    double sums[4]; /* of `norms` */
    guarded master, grad, output, states[ZDS_MAX_STATES], scratch;
} optim;

HARNESS_FN double optim_option(const optim *o, const char *name, size_t count, size_t i)
{
    double values[2] = {NAN, NAN};
    options_floats(o->plugin, o->options, name, values, count);
    return values[i];
}

HARNESS_FN zds_status optim_try(optim *o, const optim_setup *setup)
{
    memset(o, 0, sizeof *o);
    o->setup = *setup;
    o->grad_scale = 1;
    harness_init(&o->h);
    o->plugin = plugin_open(setup->file, setup->name);
    o->ops = o->plugin->ops;
    o->options = options_from(o->plugin, setup->options ? setup->options : "{}");
    o->hyper = (zds_hyper){.struct_size = sizeof o->hyper,
                           .lr = optim_option(o, "lr", 1, 0),
                           .beta1 = optim_option(o, "betas", 2, 0),
                           .beta2 = optim_option(o, "betas", 2, 1),
                           .momentum = optim_option(o, "momentum", 1, 0),
                           .weight_decay = optim_option(o, "weight_decay", 1, 0)};
    zds_optim_env env = {.struct_size = sizeof env,
                         .space = ZDS_SPACE_HOST,
                         .master_dtype = setup->master,
                         .grad_dtype = setup->grad,
                         .output_dtype = setup->output,
                         .state_dtype = setup->state,
                         .stochastic_rounding = setup->stochastic,
                         .world_size = 1};
    if (setup->simd)
        setenv("ZDS_SIMD", setup->simd, 1);
    else
        unsetenv("ZDS_SIMD");
    return o->ops->create(&o->h.host, o->options, &env, &o->self);
}

HARNESS_FN size_t state_bytes(const zds_state_spec *spec, uint64_t count)
{
    if (spec->kind == ZDS_STATE_ELEMENT)
        return count * zds_dtype_size(spec->dtype);
    return spec->kind == ZDS_STATE_BLOCK ? (count + spec->block - 1) / spec->block * spec->bytes
                                         : spec->bytes;
}

/* Weights are normal, gradients not yet set. */
HARNESS_FN void optim_open(optim *o, const optim_setup *setup)
{
    zds_status status = optim_try(o, setup);
    cr_assert_eq(status, ZDS_OK, "%s: %s", setup->name, o->h.error);
    o->shape[0] = (int64_t)setup->count;
    o->param = (zds_param){.struct_size = sizeof o->param,
                           .name = setup->param ? setup->param : "w",
                           .ndim = setup->shape ? setup->ndim : 1,
                           .shape = setup->shape ? setup->shape : o->shape,
                           .numel = setup->count,
                           .width_mult = 1,
                           .fan_out_mult = 1};
    o->needs = (zds_param_needs){.struct_size = sizeof o->needs,
                                 .states = o->specs,
                                 .state_stride = sizeof *o->specs,
                                 .hyper = &o->hyper};
    cr_assert_eq(o->ops->describe(o->self, &o->param, &o->needs), ZDS_OK);
    cr_assert(o->needs.state_count <= ZDS_MAX_STATES);
    bool at_end = !setup->guard_before;
    o->master = guarded_alloc(setup->count * zds_dtype_size(setup->master), at_end);
    o->grad = guarded_alloc(setup->count * zds_dtype_size(setup->grad), at_end);
    o->output = guarded_alloc(setup->count * zds_dtype_size(setup->output), at_end);
    o->scratch = guarded_alloc(o->ops->scratch_bytes, at_end);
    for (uint32_t s = 0; s < o->needs.state_count; s++) {
        const zds_state_spec *spec = &o->needs.states[s];
        o->states[s] = guarded_alloc(state_bytes(spec, setup->count), at_end);
        for (uint64_t i = 0; spec->kind == ZDS_STATE_ELEMENT && i < setup->count; i++)
            write_at(o->states[s].data, spec->dtype, i, spec->initial);
    }
    zds_param_step all = {.struct_size = sizeof all,
                          .param = &o->param,
                          .hyper = &o->hyper,
                          .part_count = setup->count};
    zds_param_steps params = {sizeof params, 1, sizeof all, &all};
    if (o->ops->prepare)
        cr_assert_eq(o->ops->prepare(o->self, &params), ZDS_OK, "%s", o->h.error);
    uint64_t seed = 1;
    for (uint64_t i = 0; i < setup->count; i++)
        write_at(o->master.data, setup->master, i,
                 round_dtype(random_normal(&seed) * 0.5, setup->master));
}

HARNESS_FN void optim_close(optim *o)
{
    if (o->self)
        o->ops->destroy(o->self);
    cr_assert_eq(o->h.live, 0, "%s leaks", o->setup.name);
    options_destroy(o->options);
    guarded *all[] = {&o->master, &o->grad, &o->output, &o->scratch};
    for (size_t i = 0; i < 4; i++)
        if (all[i]->map)
            guarded_free(all[i]);
    for (size_t s = 0; s < ZDS_MAX_STATES; s++)
        if (o->states[s].map)
            guarded_free(&o->states[s]);
}

HARNESS_FN double optim_weight(const optim *o, uint64_t i)
{
    return read_at(o->master.data, o->setup.master, i);
}

HARNESS_FN double optim_state(const optim *o, const char *name, uint64_t i)
{
    for (uint32_t s = 0; s < o->needs.state_count; s++)
        if (strcmp(o->needs.states[s].name, name) == 0)
            return read_at(o->states[s].data, o->needs.states[s].dtype, i);
    cr_assert_fail("%s has no state %s", o->setup.name, name);
    return NAN;
}

/* Gradients that depend on `round` alone: normal, times 0.3, in the gradient's type. */
HARNESS_FN void optim_random_grad(optim *o, uint64_t round)
{
    uint64_t seed = 1000 + round;
    for (uint64_t i = 0; i < o->setup.count; i++)
        write_at(o->grad.data, o->setup.grad, i,
                 round_dtype(random_normal(&seed) * 0.3, o->setup.grad));
}

HARNESS_FN void *advance(guarded *g, zds_dtype dtype, uint64_t first)
{
    return (char *)g->data + first * zds_dtype_size(dtype);
}

HARNESS_FN zds_tile optim_tile(optim *o, uint64_t first, uint64_t count, void **states)
{
    for (uint32_t s = 0; s < o->needs.state_count; s++) {
        const zds_state_spec *spec = &o->needs.states[s];
        states[s] = o->states[s].data;
        if (spec->kind == ZDS_STATE_ELEMENT)
            states[s] = advance(&o->states[s], spec->dtype, first);
        if (spec->kind == ZDS_STATE_BLOCK)
            states[s] = (char *)states[s] + first / spec->block * spec->bytes;
    }
    bool has_output = o->setup.output != o->setup.master;
    return (zds_tile){.struct_size = sizeof(zds_tile),
                      .param = &o->param,
                      .hyper = &o->hyper,
                      .first = first,
                      .count = count,
                      .master_dtype = o->setup.master,
                      .grad_dtype = o->setup.grad,
                      .output_dtype = o->setup.output,
                      .master = advance(&o->master, o->setup.master, first),
                      .grad = advance(&o->grad, o->setup.grad, first),
                      .output = has_output ? advance(&o->output, o->setup.output, first) : NULL,
                      .states = states,
                      .sums = o->sums};
}

HARNESS_FN zds_step_ctx optim_context(optim *o)
{
    return (zds_step_ctx){.struct_size = sizeof(zds_step_ctx),
                          .step = o->step,
                          .grad_scale = o->grad_scale,
                          .seed = o->setup.seed,
                          .scratch = o->scratch.data,
                          .scratch_bytes = o->ops->scratch_bytes};
}

HARNESS_FN void optim_begin(optim *o)
{
    o->step++;
    zds_step_ctx ctx = optim_context(o);
    void *states[ZDS_MAX_STATES] = {0};
    for (uint32_t s = 0; s < o->needs.state_count; s++)
        if (o->needs.states[s].kind == ZDS_STATE_TENSOR ||
            o->needs.states[s].kind == ZDS_STATE_GLOBAL)
            states[s] = o->states[s].data;
    zds_param_step param = {.struct_size = sizeof param,
                            .param = &o->param,
                            .hyper = &o->hyper,
                            .states = states,
                            .has_grad = 1};
    zds_param_steps params = {sizeof params, 1, sizeof param, &param};
    if (o->ops->begin_step)
        cr_assert_eq(o->ops->begin_step(o->self, &params, &ctx), ZDS_OK, "%s", o->h.error);
}

/* The first pass of optimizers that scale by norms of whole tensors; adds to the sums. */
HARNESS_FN void optim_norms_tile(optim *o, uint64_t first, uint64_t count)
{
    enum { CHUNK = 1024, CHUNKS = 16 };
    if (!o->needs.tensor_norms)
        return;
    double chunks[4 * CHUNKS] = {0};
    void *states[ZDS_MAX_STATES];
    zds_tile tile = optim_tile(o, first, count, states);
    cr_assert(count <= CHUNK * CHUNKS && o->needs.tensor_norms <= 4);
    tile.sums = NULL;
    tile.chunk_sums = chunks;
    tile.chunk_stride = CHUNKS;
    zds_tiles tiles = {sizeof tiles, 1, sizeof tile, &tile};
    zds_step_ctx ctx = optim_context(o);
    cr_assert_eq(o->ops->norms(o->self, &tiles, &ctx), ZDS_OK, "%s", o->h.error);
    for (uint32_t q = 0; q < o->needs.tensor_norms; q++)
        for (uint64_t c = 0; c * CHUNK < count; c++)
            o->sums[q] += chunks[q * CHUNKS + c];
}

/* One tile of a step that has begun. */
HARNESS_FN void optim_step_tile(optim *o, uint64_t first, uint64_t count)
{
    void *states[ZDS_MAX_STATES];
    zds_tile tile = optim_tile(o, first, count, states);
    zds_tiles tiles = {sizeof tiles, 1, sizeof tile, &tile};
    zds_step_ctx ctx = optim_context(o);
    cr_assert_eq(o->ops->step(o->self, &tiles, &ctx), ZDS_OK, "%s", o->h.error);
}

/* A tile of at least `tile` elements that cuts neither a block nor a chunk of the norms. */
HARNESS_FN uint64_t optim_tile_size(const optim *o, uint64_t tile)
{
    uint64_t unit = o->needs.granularity ? o->needs.granularity : 1;
    if (o->needs.tensor_norms)
        unit = unit > 1024 ? unit : 1024;
    return tile ? (tile + unit - 1) / unit * unit : o->setup.count;
}

/* A whole step, in tiles of about `tile` elements; 0: in one. */
HARNESS_FN void optim_step(optim *o, uint64_t tile)
{
    uint64_t size = optim_tile_size(o, tile), all = o->setup.count;
    optim_begin(o);
    memset(o->sums, 0, sizeof o->sums);
    for (uint64_t first = 0; first < all; first += size)
        optim_norms_tile(o, first, first + size < all ? size : all - first);
    for (uint64_t first = 0; first < all; first += size)
        optim_step_tile(o, first, first + size < all ? size : all - first);
}

#endif

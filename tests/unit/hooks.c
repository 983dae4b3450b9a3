/* Steps over a caller's arrays (zero/hooks.h): which calls of the optimizer come in which order,
 * and that each tile, sum and state is the one that its parameter and elements say. */
#include "zero/hooks.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { LONG = 0, BLOCKS = 1, WHOLE = 2, PARAMS = 3 };
static const int64_t sizes[PARAMS] = {3000, 12, 7};

/* An optimizer that writes down what it gets: each master grows by its gradient times the scale. */
typedef struct recorder {
    char calls[256]; /* a letter each */
    atomic_size_t count;
    float master[PARAMS][3000], grad[PARAMS][3000], moment[PARAMS][3000];
    unsigned char blocks[3]; /* BLOCKS: one of 4 elements */
    double tensor;           /* LONG: a state of the tensor */
    hooked_arrays arrays[PARAMS];
    atomic_int elements;
    atomic_bool wrong;
    double sums;
    zds_status fails;
} recorder;

static void note(recorder *r, char call)
{
    const size_t at = atomic_fetch_add(&r->count, 1);
    if (at + 1 < sizeof r->calls)
        r->calls[at] = call;
}

static void expect(recorder *r, bool right)
{
    if (!right)
        r->wrong = true;
}

static zds_status prepare(void *self, const zds_param_steps *params)
{
    recorder *r = self;
    note(r, 'p');
    expect(r, params->count == PARAMS);
    for (size_t i = 0; i < params->count && i < PARAMS; i++)
        expect(r, zds_param_step_at(params, i)->part_count == (uint64_t)sizes[i]);
    return ZDS_OK;
}

static zds_status begin_step(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    recorder *r = self;
    note(r, 'b');
    const zds_param_step *first = zds_param_step_at(params, LONG);
    expect(r, first->states[1] == &r->tensor && !first->states[0] && !first->master);
    expect(r, ctx->step == 4 && ctx->grad_scale == 0.5 && ctx->seed == 42);
    return ZDS_OK;
}

/* The sum of a chunk is the number of its first element in the parameter, plus one. */
static zds_status norms(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)ctx;
    note(self, 'n');
    for (size_t i = 0; i < tiles->count; i++) {
        const zds_tile *t = zds_tile_at(tiles, i);
        for (uint64_t e = 0; t->chunk_sums && e < t->count; e += 1024)
            t->chunk_sums[e / 1024] = (double)(t->first + e + 1);
    }
    return ZDS_OK;
}

static zds_status sums_ready(void *self, const zds_param_steps *params, const zds_step_ctx *ctx)
{
    (void)ctx;
    recorder *r = self;
    note(r, 'r');
    r->sums = zds_param_step_at(params, LONG)->sums[0];
    return ZDS_OK;
}

static zds_status step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    recorder *r = self;
    for (size_t i = 0; i < tiles->count; i++) {
        const zds_tile *t = zds_tile_at(tiles, i);
        const uint32_t p = t->param->index;
        float *master = t->master;
        expect(r, master == r->master[p] + t->first && t->grad == r->grad[p] + t->first);
        expect(r, p == BLOCKS ? t->states[0] == r->blocks + t->first / 4
                              : t->states[0] == r->moment[p] + t->first);
        expect(r, p != LONG || (t->states[1] == &r->tensor && t->sums[0] == r->sums));
        expect(r, p != WHOLE || t->count == (uint64_t)sizes[WHOLE]);
        expect(r, t->hyper->lr == 1 + p && !t->output && strcmp(ctx->scratch, "scratch") == 0);
        for (uint64_t e = 0; e < t->count; e++)
            master[e] += (float)ctx->grad_scale * ((const float *)t->grad)[e];
        atomic_fetch_add(&r->elements, (int)t->count);
    }
    return r->fails;
}

static zds_status collective(void *self, const zds_param_steps *params, const zds_comm_ops *comm,
                             void *comm_self, const zds_step_ctx *ctx)
{
    (void)ctx;
    recorder *r = self;
    note(r, 'c');
    expect(r, comm->flags == ZDS_COMM_FUSED && comm_self == r);
    for (size_t i = 0; i < params->count && i < PARAMS; i++) {
        const zds_param_step *p = zds_param_step_at(params, i);
        expect(r, p->master == r->master[i] && p->part_count == (uint64_t)sizes[i]);
        expect(r, p->states[0] == r->arrays[i].states[0]);
    }
    return ZDS_OK;
}

static int32_t mode(void *self, int64_t number)
{
    (void)self, (void)number;
    return ZDS_REDUCE_MEAN;
}

static zds_status end_step(void *self, const zds_step_ctx *ctx)
{
    (void)ctx;
    note(self, 'e');
    return ZDS_OK;
}

typedef struct bed {
    recorder record;
    void *self;
    zds_optim_ops ops;
    zds_model *model;
    zero_param params[PARAMS];
    zds_hyper hypers[PARAMS];
    hooked *hooked;
} bed;

static bed *bed_create(void)
{
    static const char *const names[] = {"long", "blocks", "whole"};
    bed *b = calloc(1, sizeof *b);
    recorder *r = &b->record;
    uint32_t at;
    b->self = r;
    b->ops = (zds_optim_ops){.struct_size = sizeof b->ops,
                             .prepare = prepare,
                             .begin_step = begin_step,
                             .norms = norms,
                             .sums_ready = sums_ready,
                             .step = step,
                             .step_collective = collective,
                             .reduction_mode = mode,
                             .end_step = end_step};
    b->model = zds_model_create();
    cr_assert_eq(zds_model_add_module(b->model, "m", &at), ZDS_OK);
    for (uint32_t i = 0; i < PARAMS; i++) {
        const zds_param_desc desc = {
            .struct_size = sizeof desc, .name = names[i], .shape = &sizes[i], .ndim = 1};
        cr_assert_eq(zds_model_add_param(b->model, 0, &desc, &at), ZDS_OK);
        b->hypers[i].lr = 1 + i;
        b->params[i] = (zero_param){
            .desc = {.struct_size = sizeof(zds_param), .index = i, .numel = (uint64_t)sizes[i]},
            .needs = {.state_count = 1},
            .states[0] = {.name = "moment", .dtype = ZDS_F32},
            .state_names[0] = "moment",
            .hyper = i,
            .trainable = true};
        b->params[i].needs.states = b->params[i].states;
        r->arrays[i] =
            (hooked_arrays){.master = r->master[i], .grad = r->grad[i], .states[0] = r->moment[i]};
        for (int64_t e = 0; e < sizes[i]; e++)
            r->grad[i][e] = (float)(e + 1);
    }
    zds_param_needs *needs = &b->params[LONG].needs;
    needs->tensor_norms = 1;
    needs->states[needs->state_count++] =
        (zds_state_spec){.name = "tensor", .kind = ZDS_STATE_TENSOR, .bytes = sizeof r->tensor};
    r->arrays[LONG].states[1] = &r->tensor;
    b->params[BLOCKS].needs.granularity = 4;
    b->params[BLOCKS].needs.states[0] = (zds_state_spec){
        .name = "moment", .kind = ZDS_STATE_BLOCK, .dtype = ZDS_U8, .block = 4, .bytes = 1};
    r->arrays[BLOCKS].states[0] = r->blocks;
    b->params[WHOLE].needs.whole_tensor = 1;
    const hooked_setup setup = {.wish = {.comm_dtype = ZERO_AS_IS, .seed = 42},
                                .model = b->model,
                                .params = b->params,
                                .hypers = b->hypers,
                                .optim = &b->ops,
                                .optim_self = &b->self,
                                .world_size = 1};
    cr_assert_eq(hooked_create(&setup, &b->hooked, NULL), ZDS_OK);
    return b;
}

static void bed_destroy(bed *b)
{
    hooked_destroy(b->hooked);
    zds_model_destroy(b->model);
    free(b);
}

static zds_status make(bed *b, const hooked_run *runs, size_t count, uint64_t tile, int32_t threads,
                       bool local)
{
    static char scratch[] = "scratch";
    void *scratches[3] = {scratch, scratch, scratch};
    const zds_comm_ops comm = {.struct_size = sizeof comm, .flags = ZDS_COMM_FUSED};
    const hooked_step s = {.arrays = b->record.arrays,
                           .runs = runs,
                           .run_count = count,
                           .tile = tile,
                           .threads = threads,
                           .scratch = scratches,
                           .step = 4,
                           .grad_scale = 0.5,
                           .local = local,
                           .comm = &comm,
                           .comm_self = &b->record};
    return hooked_step_make(b->hooked, &s);
}

static const hooked_run whole[] = {{LONG, 0, 3000}, {BLOCKS, 0, 12}, {WHOLE, 0, 7}};
static const hooked_run cut[] = {
    {WHOLE, 0, 7}, {LONG, 2048, 952}, {BLOCKS, 4, 8}, {LONG, 0, 2048}, {BLOCKS, 0, 4}};

Test(hooks, calls_come_in_order)
{
    bed *b = bed_create();
    cr_assert_eq(hooked_prepare(b->hooked, b->record.arrays), ZDS_OK);
    cr_assert_eq(make(b, whole, 3, 1 << 20, 1, false), ZDS_OK);
    cr_expect_str_eq(b->record.calls, "pbnre");
    cr_assert_eq(make(b, whole, 3, 1 << 20, 1, true), ZDS_OK);
    cr_expect_str_eq(b->record.calls, "pbnrebce");
    cr_expect(!b->record.wrong);
    bed_destroy(b);
}

/* Chunks begin at 0, 1024 and 2048, and are added in that order. */
Test(hooks, every_element_is_stepped_once_however_it_is_cut)
{
    for (int32_t threads = 1; threads <= 3; threads++)
        for (uint64_t tile = 1; tile <= 4096; tile *= 4) {
            bed *b = bed_create();
            recorder *r = &b->record;
            cr_assert_eq(make(b, cut, 5, tile, threads, false), ZDS_OK);
            cr_expect_eq(r->elements, 3000 + 12 + 7, "%d elements", r->elements);
            cr_expect_eq(r->sums, 1 + 1025 + 2049, "sum %g", r->sums);
            cr_expect(!r->wrong, "tiles of %d on %d threads", (int)tile, threads);
            for (int i = 0; i < PARAMS; i++)
                for (int64_t e = 0; e < sizes[i]; e++)
                    cr_assert_eq(r->master[i][e], 0.5f * (float)(e + 1));
            bed_destroy(b);
        }
}

Test(hooks, what_the_optimizer_says_is_the_result)
{
    bed *b = bed_create();
    b->record.fails = ZDS_ERR_IO;
    cr_expect_eq(make(b, whole, 3, 64, 1, false), ZDS_ERR_IO);
    /* Three chunks, each a tile, and the blocks. */
    cr_expect_str_eq(b->record.calls, "bnnnnr");
    bed_destroy(b);
}

/* zds-bench step: one optimizer step of the engine, from the gradients' report to published
 * parameters, beside the time that its bytes need at the bandwidth of the same run. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/args.h"
#include "common/fail.h"
#include "common/output.h"
#include "common/rank.h"
#include "zds-bench/bench.h"
#include "zds-bench/stream.h"
#include "zds/zds.h"

enum {
    BYTES_A_PARAMETER = 28
}; /* fp32: p, m, v read and written, g read; 16 bits: the same with master, g and output of 2 bytes
    */

typedef struct bench {
    zds_engine *engine;
    int64_t params, tensors, rows, frozen, steps;
    double *ready, *step, *mix;
    double create; /* ms that zds_engine_create took */
    stream_arrays stream;
} bench;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static zds_status initial(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 0.02f * (float)((int64_t)((first + i) * 2654435761u % 2001) - 1000) / 1000 +
                 (float)param * 1e-6f;
    return ZDS_OK;
}

typedef struct fill {
    zds_slot slot;
    uint64_t part, parts;
    int64_t step;
} fill;

/* What a backward would leave: small numbers, other ones in every step. */
static void fill_part(void *arg, size_t i)
{
    const fill *f = arg;
    uint64_t begin = f->slot.count / f->parts * i,
             end = i + 1 == f->parts ? f->slot.count : f->slot.count / f->parts * (i + 1);
    uint32_t x = (uint32_t)(f->step * 7919 + (int64_t)i * 104729 + f->slot.param) * 2654435761u + 1;
    for (uint64_t k = begin; k < end; k++) {
        x = x * 1664525u + 1013904223u;
        float g = ((float)(x >> 9) * 0x1p-23f - 0.5f) * 1e-3f;
        if (f->slot.dtype == ZDS_F32) {
            ((float *)f->slot.grad)[k] = g;
        } else {
            uint32_t bits;
            memcpy(&bits, &g, sizeof bits);
            ((uint16_t *)f->slot.grad)[k] = (uint16_t)(bits >> 16);
        }
    }
}

static zds_status one_step(bench *b, int64_t step)
{
    double ready = 0, start = 0;
    zds_view view;
    zds_status status = zds_micro_begin(b->engine, ZDS_BOUNDARY_YES);
    for (int64_t m = b->tensors; !status && m-- > 0;) {
        status = zds_acquire(b->engine, (uint32_t)m, ZDS_BACKWARD, NULL, &view);
        if (status)
            break;
        fill f = {
            .slot = view.slots[0], .parts = (uint64_t)zds_threads(b->engine) * 4, .step = step};
        if (f.slot.grad)
            zds_parallel_for(b->engine, f.parts, fill_part, &f);
        start = now_ms();
        status = zds_grad_ready(b->engine, (uint32_t)m, NULL);
        ready += now_ms() - start;
    }
    start = now_ms();
    zds_step_result result = {.struct_size = sizeof result};
    if (!status)
        status = zds_step(b->engine, &result);
    if (!status) /* returns when the parameters are published */
        status = zds_acquire(b->engine, 0, ZDS_FORWARD, NULL, &view);
    b->ready[step] = ready;
    b->step[step] = now_ms() - start;
    if (!status)
        status = zds_release(b->engine, 0, NULL);
    if (!status && !result.applied) {
        fprintf(stderr, "zds-bench: error: step %lld was not applied\n", (long long)step);
        return ZDS_ERR_INTERNAL;
    }
    return status;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static int64_t numel_of(const bench *b, int64_t i)
{
    return b->params / b->tensors + (i < b->params % b->tensors);
}

/* Tensors of one extent, or with `rows` matrices; the first ones are frozen. */
static zds_model *make_model(const bench *b)
{
    zds_model *model = zds_model_create();
    for (int64_t i = 0; model && i < b->tensors; i++) {
        char name[32];
        uint32_t module;
        int64_t numel = numel_of(b, i);
        int64_t shape[] = {b->rows ? b->rows : numel, b->rows ? numel / b->rows : 1};
        snprintf(name, sizeof name, "tensor.%lld", (long long)i);
        zds_param_desc desc = {.struct_size = sizeof desc,
                               .name = name,
                               .shape = shape,
                               .ndim = b->rows ? 2 : 1,
                               .frozen = i < b->frozen,
                               .role = ZDS_ROLE_MATRIX};
        if (zds_model_add_module(model, name, &module) ||
            zds_model_add_param(model, module, &desc, NULL)) {
            zds_model_destroy(model);
            return NULL;
        }
    }
    return model;
}

enum { STREAM_ELEMENTS = 32 << 20, STREAM_BLOCK = 65536 };

static size_t stream_block(const stream_arrays *a, size_t i)
{
    size_t left = a->elements - i * STREAM_BLOCK;
    return left < STREAM_BLOCK ? left : STREAM_BLOCK;
}

/* All pages are written once: one that is only read would be the kernel's page of zeros. */
static void touch_block(void *arg, size_t i)
{
    const stream_arrays *a = arg;
    for (int k = 0; k < 4; k++)
        for (size_t j = 0; j < stream_block(a, i); j++)
            a->array[k][i * STREAM_BLOCK + j] = 1e-3f * (float)(j % 17);
}

static void mix_block(void *arg, size_t i)
{
    const stream_arrays *a = arg;
    stream_mix(a, i * STREAM_BLOCK, stream_block(a, i));
}

static size_t stream_blocks(const bench *b)
{
    return (b->stream.elements + STREAM_BLOCK - 1) / STREAM_BLOCK;
}

/* The optimizer's mix of streams on the engine's own threads, on all ranks at once: what the step
 * beside it could have had. */
static zds_status one_mix(bench *b, int64_t step)
{
    double together = 0;
    zds_status status = zds_sum_over_ranks(b->engine, &together, 1);
    double start = now_ms();
    zds_parallel_for(b->engine, stream_blocks(b), mix_block, &b->stream);
    b->mix[step] = now_ms() - start;
    return status ? status : zds_sum_over_ranks(b->engine, &together, 1);
}

/* Of this rank in MiB: pages that the ranks share are divided among them, as in PSS. */
static double row_mib(const zds_engine *engine, const zds_memory_row *row)
{
    return ((double)(row->bytes - row->shared) + (double)row->shared / zds_world_size(engine)) /
           (1 << 20);
}

/* What the engine's own report says, wherever it is. */
static double reported_mib(const zds_engine *engine)
{
    double mib = 0;
    zds_memory_row row;
    for (size_t i = 0; zds_memory_report(engine, i, &row); i++)
        mib += row_mib(engine, &row);
    return mib;
}

/* {tier: {purpose: MiB}}, of this rank. */
static void add_memory(cJSON *tree, const zds_engine *engine)
{
    cJSON *memory = cJSON_AddObjectToObject(tree, "memory");
    zds_memory_row row;
    for (size_t i = 0; zds_memory_report(engine, i, &row); i++) {
        cJSON *tier = cJSON_GetObjectItemCaseSensitive(memory, row.tier);
        tier = tier ? tier : cJSON_AddObjectToObject(memory, row.tier);
        cJSON_AddNumberToObject(tier, row.purpose, row_mib(engine, &row));
    }
}

static int report(bench *b, const zds_config *config, bool json)
{
    int64_t n = b->steps - 2, stage = zds_config_int(config, "zero_optimization.stage");
    int32_t threads = zds_threads(b->engine), world = zds_world_size(b->engine);
    double mix_bytes = (double)BYTES_A_PARAMETER * (double)b->stream.elements;
    stream_arrays_close(&b->stream); /* its memory is not the engine's */
    double sums[] = {median(b->ready + 2, n), median(b->step + 2, n),  median(b->mix + 2, n),
                     bench_pss_mib(getpid()), reported_mib(b->engine), b->create,
                     b->ready[0] + b->step[0]};
    if (zds_sum_over_ranks(b->engine, sums, sizeof sums / sizeof *sums))
        return output_error("%s", zds_engine_error(b->engine));
    if (zds_rank(b->engine) != 0)
        return EXIT_DONE;
    double trained = 0;
    for (int64_t i = b->frozen; i < b->tensors; i++)
        trained += (double)numel_of(b, i);
    double bytes = BYTES_A_PARAMETER * trained / (stage ? world : 1);
    double gbs = mix_bytes / (sums[2] / world) * 1e-6, bound = bytes / gbs * 1e-6;
    double ready = sums[0] / world, step = sums[1] / world;
    double pss = sums[3] / world, reported = sums[4] / world;
    double create = sums[5] / world, first = sums[6] / world;
    if (json) {
        cJSON *tree = cJSON_CreateObject();
        cJSON_AddNumberToObject(tree, "params", (double)b->params);
        cJSON_AddNumberToObject(tree, "ranks", world);
        cJSON_AddNumberToObject(tree, "threads", threads);
        cJSON_AddNumberToObject(tree, "ready_ms", ready);
        cJSON_AddNumberToObject(tree, "step_ms", step);
        cJSON_AddNumberToObject(tree, "bytes", bytes);
        cJSON_AddNumberToObject(tree, "optimizer_gbs", gbs);
        cJSON_AddNumberToObject(tree, "bound_ms", bound);
        cJSON_AddNumberToObject(tree, "pss_mib", pss);
        cJSON_AddNumberToObject(tree, "reported_mib", reported);
        cJSON_AddNumberToObject(tree, "create_ms", create);
        cJSON_AddNumberToObject(tree, "first_ms", first);
        add_memory(tree, b->engine);
        return output_json(tree);
    }
    printf("parameters %lld, %d rank(s) x %d thread(s)\nready %8.2f ms\nstep  %8.2f ms\nbound "
           "%8.2f ms (%.0f MB a rank at %.1f GB/s), step / "
           "bound = %.2f\nfirst %8.2f ms (ready and step), after %.0f ms to create the engine\n"
           "memory %7.0f MiB a rank (PSS; the engine reports %.0f)\n",
           (long long)b->params, world, threads, ready, step, bound, bytes * 1e-6, gbs,
           step / bound, first, create, pss, reported);
    return output_end();
}

static int run(bench *b, const char *path, int64_t threads, bool json)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_config_context context = {.struct_size = sizeof context};
    zds_model *model = make_model(b);
    zds_status status = model ? zds_config_load(path, &context, &config, &error) : ZDS_ERR_MEMORY;
    zds_engine_options options = {
        .struct_size = sizeof options, .threads = (int32_t)threads, .optimizer = "AdamW"};
    double start = now_ms();
    if (config && (!status || status == ZDS_ERR_CONFIG)) /* the engine tells all problems */
        status = zds_engine_create(config, model, &options, &b->engine, &error);
    b->create = now_ms() - start;
    if (!status && zds_param_device(b->engine).space != ZDS_SPACE_HOST)
        status =
            fail(&error, ZDS_ERR_UNSUPPORTED,
                 "zds.device: zds-bench step computes in the host's memory; delete the key, or "
                 "write \"host\"");
    if (!status)
        status = zds_set_values(b->engine, initial, NULL);
    if (!status &&
        !stream_arrays_open(&b->stream, STREAM_ELEMENTS / (size_t)zds_world_size(b->engine)))
        status = ZDS_ERR_MEMORY;
    if (!status)
        zds_parallel_for(b->engine, stream_blocks(b), touch_block, &b->stream);
    if (!status) /* all begin at once */
        status = zds_barrier(b->engine);
    for (int64_t i = 0; !status && i < b->steps; i++)
        if (!(status = one_step(b, i)))
            status = one_mix(b, i);
    if (status && b->engine && *zds_engine_error(b->engine))
        fail(&error, status, "%s", zds_engine_error(b->engine));
    error.status = status;
    int code = status ? rank_failed(&error) : report(b, config, json);
    stream_arrays_close(&b->stream);
    zds_engine_destroy(b->engine);
    zds_model_destroy(model);
    zds_config_destroy(config);
    zds_error_clear(&error);
    return code;
}

int bench_step(int argc, char **argv)
{
    const char *config = NULL;
    int64_t params = 64 << 20, tensors = 16, rows = 0, frozen = 0, steps = 12, threads = 0;
    bool json = false;
    args_option options[] = {
        {.name = "config",
         .type = ARGS_STRING,
         .value = &config,
         .meta = "DS",
         .doc = "the ds_config"},
        {.name = "params",
         .type = ARGS_COUNT,
         .value = &params,
         .meta = "P",
         .doc = "parameters in all (default 64Mi)"},
        {.name = "tensors",
         .type = ARGS_COUNT,
         .value = &tensors,
         .meta = "N",
         .doc = "in so many tensors, a module each (default 16)"},
        {.name = "rows",
         .type = ARGS_COUNT,
         .value = &rows,
         .meta = "R",
         .doc = "which are matrices of so many rows (default: of one extent)"},
        {.name = "frozen",
         .type = ARGS_COUNT,
         .value = &frozen,
         .meta = "F",
         .doc = "the first of them, so many, are not trained (default 0)"},
        {.name = "steps",
         .type = ARGS_COUNT,
         .value = &steps,
         .meta = "S",
         .doc = "steps; the first two are not counted (default 12)"},
        {.name = "threads",
         .type = ARGS_COUNT,
         .value = &threads,
         .meta = "T",
         .doc = "threads of each rank (default: its cores)"},
        ARGS_TRUST_PLUGINS,
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"}};
    const args_program program = {
        .usage = "step --config DS [options]",
        .doc =
            "An optimizer step: ready_ms is inside all calls that report gradients, step_ms "
            "from the last of "
            "them to published parameters; medians. bound_ms: the bytes that must move at "
            "optimizer_gbs, "
            "the bandwidth that plain loops over the same mix of streams got on the same "
            "threads, after each "
            "step, in the median. pss_mib: the process's memory after the last step; reported_mib: "
            "what the engine's memory report adds up to; pages that ranks share are divided among "
            "them. create_ms: to create the engine; first_ms: ready_ms and step_ms of the first "
            "step. Under zds-run with several ranks (of one node): means over ranks.",
        .options = options,
        .option_count = sizeof options / sizeof *options};
    int code = args_parse(&program, argc, argv, NULL);
    if (code != ARGS_GO)
        return code;
    if (!config)
        return args_wrong("--config is missing");
    if (params < 1 || tensors < 1 || tensors > params || tensors > 1 << 20 || steps < 3 ||
        threads > 4096)
        return args_wrong("need 1 <= tensors <= params, at least 3 steps, at most 4096 threads");
    if (frozen >= tensors)
        return args_wrong("--frozen %lld leaves none of %lld tensors to be trained",
                          (long long)frozen, (long long)tensors);
    if (rows && params % (tensors * rows))
        return args_wrong("matrices of %lld rows do not make %lld parameters in %lld tensors",
                          (long long)rows, (long long)params, (long long)tensors);
    bench b = {
        .params = params, .tensors = tensors, .rows = rows, .frozen = frozen, .steps = steps};
    b.ready = calloc((size_t)steps, sizeof *b.ready);
    b.step = calloc((size_t)steps, sizeof *b.step);
    b.mix = calloc((size_t)steps, sizeof *b.mix);
    code = b.ready && b.step && b.mix ? run(&b, config, threads, json) : output_error("no memory");
    free(b.ready);
    free(b.step);
    free(b.mix);
    return code;
}

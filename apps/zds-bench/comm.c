/* zds-bench comm: one collective between the ranks of zds-run, through the comm plugin that suits
 * them, timed on all ranks at once. */
#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>

#include "common/args.h"
#include "common/output.h"
#include "zds-bench/bench.h"
#include "zds/plugin.h"
#include "zds/zds.h"

typedef struct bench {
    const zds_comm_ops *ops;
    void *library, *self;
    zds_comm_env env;
    char error[600];
    int op;
    int64_t bytes, repeats;
    zds_dtype dtype;
    bool fused, private_source;
    uint64_t count; /* as the operation counts */
    zds_region region;
    char *src, *dst; /* (bytes) each */
    zds_segment segment;
    double *chunk_sums;
    uint64_t non_finite;
    double *ms, *copy_ms; /* [repeats], the slowest rank's */
} bench;

enum { BARRIER, ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, ALL_TO_ALL, OP_COUNT };
static const char *const op_names[] = {"barrier",    "all_reduce", "reduce",    "reduce_scatter",
                                       "all_gather", "broadcast",  "all_to_all"};

static const struct {
    const char *name;
    zds_dtype dtype;
} dtypes[] = {{"f32", ZDS_F32}, {"bf16", ZDS_BF16}, {"f16", ZDS_F16}, {"f64", ZDS_F64},
              {"u8", ZDS_U8},   {"i8", ZDS_I8},     {"i32", ZDS_I32}, {"i64", ZDS_I64}};

/* === a host without an engine === */

static void host_log(const zds_host *host, int32_t level, const char *format, ...)
{
    (void)host;
    if (level > ZDS_LOG_WARNING)
        return;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
{
    bench *b = host->context;
    va_list args;
    va_start(args, format);
    vsnprintf(b->error, sizeof b->error, format, args);
    va_end(args);
    return status;
}

static void *host_alloc(const zds_host *host, size_t bytes, size_t align)
{
    (void)host;
    align = align > 64 ? align : 64;
    size_t size = (bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, size ? size : align);
    return p ? memset(p, 0, size) : NULL;
}

static void *host_alloc_in(const zds_host *host, zds_device device, size_t bytes, size_t align)
{
    return device.space == ZDS_SPACE_HOST ? host_alloc(host, bytes, align) : NULL;
}

static void host_free(const zds_host *host, void *pointer)
{
    (void)host;
    free(pointer);
}

static void host_for(const zds_host *host, size_t n, void (*body)(void *arg, size_t i), void *arg)
{
    (void)host;
    for (size_t i = 0; i < n; i++)
        body(arg, i);
}

/* === the plugin === */

/* The plugin of this name, or the one that suits the ranks best. */
static int open_plugin(bench *b, const char *name)
{
    zds_plugin_list *list = NULL;
    zds_error error = ZDS_ERROR_INIT;
    if (zds_plugin_list_create(NULL, &list, &error) != ZDS_OK) {
        output_error("%s", error.text);
        zds_error_clear(&error);
        return EXIT_FAILED;
    }
    int32_t best = 0;
    zds_plugin_entry e;
    for (size_t i = 0; zds_plugin_list_entry(list, i, &e); i++) {
        if (strcmp(e.kind, "comm") != 0 || strcmp(e.status, "ok") != 0 ||
            (name && strcasecmp(e.name, name) != 0))
            continue;
        void *library = dlopen(e.file, RTLD_NOW | RTLD_LOCAL);
        const zds_plugin *const *found = library ? dlsym(library, "zds_plugin_v1") : NULL;
        const zds_comm_ops *ops = found && found[0] ? found[0]->ops : NULL;
        int32_t suits = ops && b->env.world_size >= ops->least_ranks &&
                                (!ops->most_ranks || b->env.world_size <= ops->most_ranks) &&
                                (b->env.local_world_size == b->env.world_size ||
                                 !(ops->flags & ZDS_COMM_ONE_NODE))
                            ? ops->suits(&b->env)
                            : 0;
        if (suits > best) {
            if (b->library)
                dlclose(b->library);
            best = suits;
            b->library = library;
            b->ops = ops;
        } else if (library) {
            dlclose(library);
        }
    }
    zds_plugin_list_destroy(list);
    if (!b->ops)
        return output_error("no comm plugin%s%s suits %d ranks, %d of them here",
                            name ? " called " : "", name ? name : "", (int)b->env.world_size,
                            (int)b->env.local_world_size);
    return EXIT_DONE;
}

/* === buffers === */

static char *private_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* The source is where a program that knows its comm plugin has it: in its symmetric memory. */
static int make_buffers(bench *b)
{
    size_t bytes = (size_t)b->bytes, size = zds_dtype_size(b->dtype);
    bool parted = b->op == REDUCE_SCATTER || b->op == ALL_GATHER || b->op == ALL_TO_ALL;
    b->count = bytes / size / (parted ? (uint64_t)b->env.world_size : 1);
    b->region.struct_size = sizeof b->region;
    if (b->private_source) {
        b->src = private_memory(bytes);
    } else {
        if (b->ops->mem_alloc(b->self, bytes, ZDS_MEM_SYMMETRIC, &b->region) != ZDS_OK)
            return output_error("%s", b->error);
        b->src = b->region.base;
    }
    b->dst = private_memory(bytes);
    b->segment = (zds_segment){0, b->count};
    b->chunk_sums = calloc(b->count / 1024 + 1, sizeof *b->chunk_sums);
    b->ms = calloc((size_t)b->repeats, sizeof *b->ms);
    b->copy_ms = calloc((size_t)b->repeats, sizeof *b->copy_ms);
    if (!b->src || !b->dst || !b->chunk_sums || !b->ms || !b->copy_ms)
        return output_error("no memory for two buffers of %lld bytes", (long long)b->bytes);
    memset(b->src, 1, bytes); /* finite in every dtype, and every page is there */
    memset(b->dst, 1, bytes);
    return EXIT_DONE;
}

static void free_buffers(bench *b)
{
    if (b->region.handle)
        b->ops->mem_free(b->self, &b->region);
    else if (b->src)
        munmap(b->src, (size_t)b->bytes);
    if (b->dst)
        munmap(b->dst, (size_t)b->bytes);
    free(b->chunk_sums);
    free(b->ms);
    free(b->copy_ms);
}

/* === measuring === */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static zds_status call(bench *b, int op, const zds_coll *c)
{
    zds_status (*const calls[OP_COUNT])(void *, const zds_coll *, zds_event **) = {
        b->ops->barrier,    b->ops->all_reduce, b->ops->reduce,    b->ops->reduce_scatter,
        b->ops->all_gather, b->ops->broadcast,  b->ops->all_to_all};
    zds_event *done = NULL;
    zds_status status = calls[op](b->self, c, &done);
    if (!status && done) {
        status = done->ops->wait(done);
        done->ops->release(done);
    }
    return status;
}

static zds_status synchronise(bench *b)
{
    zds_coll c = {.struct_size = sizeof c};
    return call(b, BARRIER, &c);
}

/* The time of the slowest rank. */
static zds_status slowest(bench *b, double mine, double *all)
{
    zds_coll c = {.struct_size = sizeof c,
                  .src = &mine,
                  .dst = all,
                  .count = 1,
                  .src_dtype = ZDS_F64,
                  .dst_dtype = ZDS_F64,
                  .op = ZDS_MAX};
    return call(b, ALL_REDUCE, &c);
}

static zds_status measure(bench *b)
{
    zds_fused fused = {.struct_size = sizeof fused,
                       .prescale = 1,
                       .postscale = 1.0 / b->env.world_size,
                       .segments = &b->segment,
                       .segment_stride = sizeof b->segment,
                       .segment_count = 1,
                       .chunk_sums = b->chunk_sums,
                       .non_finite = &b->non_finite};
    zds_coll c = {.struct_size = sizeof c,
                  .tag = 1,
                  .src = b->src,
                  .dst = b->dst,
                  .count = b->count,
                  .src_dtype = b->dtype,
                  .dst_dtype = b->dtype,
                  .fused = b->fused ? &fused : NULL};
    zds_status status = ZDS_OK;
    for (int64_t i = -2; i < b->repeats && !status; i++) { /* two to warm up */
        status = synchronise(b);
        double start = now();
        status = status ? status : call(b, b->op, &c);
        double took = now() - start;
        status = status ? status : slowest(b, took, i < 0 ? &took : &b->ms[i]);
        status = status ? status : synchronise(b);
        start = now();
        memcpy(b->dst, b->src, (size_t)b->bytes);
        __asm__ volatile("" ::: "memory");
        took = now() - start;
        status = status ? status : slowest(b, took, i < 0 ? &took : &b->copy_ms[i]);
    }
    return status;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

static int report(bench *b, bool json)
{
    double ms = median(b->ms, b->repeats), copy = median(b->copy_ms, b->repeats);
    double gbs = (double)b->bytes / ms * 1e-6;
    if (json) {
        cJSON *tree = cJSON_CreateObject();
        cJSON_AddStringToObject(tree, "op", op_names[b->op]);
        cJSON_AddNumberToObject(tree, "ranks", b->env.world_size);
        cJSON_AddNumberToObject(tree, "bytes", (double)b->bytes);
        cJSON_AddNumberToObject(tree, "ms", ms);
        cJSON_AddNumberToObject(tree, "gbs", gbs);
        cJSON_AddNumberToObject(tree, "memcpy_ms", copy);
        return output_json(tree);
    }
    printf("%s of %lld bytes on %d ranks: %.3f ms, %.2f GB/s; a memcpy of as many on each: %.3f"
           " ms\n",
           op_names[b->op], (long long)b->bytes, (int)b->env.world_size, ms, gbs, copy);
    return output_end();
}

static int run(bench *b, const char *plugin, bool json)
{
    zds_host host = {.struct_size = sizeof host,
                     .abi_minor = ZDS_ABI_MINOR,
                     .threads = 1,
                     .context = b,
                     .log = host_log,
                     .fail = host_fail,
                     .alloc = host_alloc,
                     .free = host_free,
                     .parallel_for = host_for,
                     .alloc_in = host_alloc_in};
    int code = open_plugin(b, plugin);
    if (code != EXIT_DONE)
        return code;
    zds_error error = ZDS_ERROR_INIT;
    if (zds_bootstrap_open(&b->env, &b->env.bootstrap, &error) != ZDS_OK) {
        code = output_error("%s", error.text);
        zds_error_clear(&error);
    } else if (b->ops->init(&host, NULL, &b->env, &b->self) != ZDS_OK) {
        code = output_error("%s", b->error);
    } else {
        code = make_buffers(b);
        if (code == EXIT_DONE && measure(b) != ZDS_OK)
            code = output_error("%s", b->error);
        if (code == EXIT_DONE && b->env.rank == 0)
            code = report(b, json);
        free_buffers(b);
        b->ops->finalize(b->self);
    }
    zds_bootstrap_close(b->env.bootstrap);
    dlclose(b->library);
    return code;
}

int bench_comm(int argc, char **argv)
{
    bench b = {.bytes = 64 << 20, .repeats = 15};
    const char *op = "reduce_scatter", *dtype = "f32", *plugin = NULL;
    bool json = false;
    args_option options[] = {
        {.name = "op",
         .type = ARGS_STRING,
         .value = &op,
         .meta = "OP",
         .doc = "barrier, all_reduce, reduce, reduce_scatter (default), all_gather, broadcast or"
                " all_to_all"},
        {.name = "bytes",
         .type = ARGS_BYTES,
         .value = &b.bytes,
         .meta = "B",
         .doc = "the full vector of a rank (default 64Mi)"},
        {.name = "dtype",
         .type = ARGS_STRING,
         .value = &dtype,
         .meta = "T",
         .doc = "f32 (default), bf16, f16, f64, u8, i8, i32 or i64"},
        {.name = "fused",
         .type = ARGS_FLAG,
         .value = &b.fused,
         .doc = "reduce_scatter with scaling and statistics, as the engine asks for"},
        {.name = "private",
         .type = ARGS_FLAG,
         .value = &b.private_source,
         .doc = "sources outside of the plugin's symmetric memory"},
        {.name = "plugin",
         .type = ARGS_STRING,
         .value = &plugin,
         .meta = "NAME",
         .doc = "the comm plugin (default: the one that suits the ranks best)"},
        {.name = "repeats",
         .type = ARGS_COUNT,
         .value = &b.repeats,
         .meta = "R",
         .doc = "the median of so many is told (default 15)"},
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"}};
    const args_program program = {.usage = "comm [options]    (under zds-run)",
                                  .doc = "Time of a collective on all ranks, from a barrier to the"
                                         " slowest rank's end, and of a memcpy of the same bytes on"
                                         " all ranks at once, in turns.",
                                  .options = options,
                                  .option_count = sizeof options / sizeof *options};
    int code = args_parse(&program, argc, argv, NULL);
    if (code != ARGS_GO)
        return code;
    while (b.op < OP_COUNT && strcmp(op, op_names[b.op]) != 0)
        b.op++;
    size_t type = 0, types = sizeof dtypes / sizeof *dtypes;
    while (type < types && strcmp(dtype, dtypes[type].name) != 0)
        type++;
    if (b.op == OP_COUNT)
        return args_wrong("--op: there is no \"%s\"", op);
    if (type == types)
        return args_wrong("--dtype: there is no \"%s\"", dtype);
    if (b.bytes < 1 || b.bytes > (int64_t)1 << 40 || b.repeats < 1 || b.repeats > 1000000)
        return args_wrong("--bytes must be 1 to 1Ti, --repeats 1 to 1000000");
    if (b.fused && b.op != REDUCE_SCATTER)
        return args_wrong("--fused is for reduce_scatter");
    b.dtype = dtypes[type].dtype;
    zds_error error = ZDS_ERROR_INIT;
    b.env.struct_size = sizeof b.env;
    if (zds_launched_as(&b.env, &error) != ZDS_OK)
        code = output_error("%s", error.text);
    else if (!b.env.local_world_size)
        code = output_error("the launcher does not say how many ranks share this node: set "
                            "LOCAL_RANK and LOCAL_WORLD_SIZE, or start it with zds-run");
    else
        code = run(&b, plugin, json);
    zds_error_clear(&error);
    return code;
}

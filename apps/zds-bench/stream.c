/* zds-bench stream: memory bandwidth of plain reading, of STREAM's triad, and of the optimizer's
 * mix of streams. */
#include "zds-bench/stream.h"

#include <cjson/cJSON.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "common/args.h"
#include "common/exits.h"
#include "common/output.h"
#include "zds-bench/bench.h"

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&      \
    !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* Arrays a power of two apart meet in the same cache sets and memory banks and would halve what is
 * measured: each starts a little further into its mapping than the one before. */
enum { KINDS = 3, STAGGER = 65536 + 64 };

typedef struct stream_result {
    double read_gbs;      /* one stream read */
    double triad_gbs;     /* a = b + s c, counted as STREAM does: three streams */
    double optimizer_gbs; /* four streams read, three of them written in place: seven counted */
} stream_result;

typedef struct shared {
    stream_arrays arrays;
    int threads, repeats;
    pthread_barrier_t barrier;
    double best[KINDS]; /* seconds; written by thread 0 */
    float sink[64];     /* so that nothing is optimised away */
} shared;

typedef struct worker {
    shared *all;
    int index;
    pthread_t thread;
} worker;

CLONES static float read_stream(const float *restrict a, size_t n)
{
    float part[64] = {0};
    for (size_t i = 0; i + 64 <= n; i += 64)
        for (size_t k = 0; k < 64; k++)
            part[k] += a[i + k];
    float sum = 0;
    for (size_t k = 0; k < 64; k++)
        sum += part[k];
    return sum;
}

CLONES static void triad(float *restrict a, const float *restrict b, const float *restrict c,
                         size_t n)
{
    for (size_t i = 0; i < n; i++)
        a[i] = b[i] + 3.0f * c[i];
}

/* The arithmetic is lighter than any optimizer's: only the streams count. */
CLONES static void optimizer_mix(float *restrict p, const float *restrict g, float *restrict m,
                                 float *restrict v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float mi = 0.9f * m[i] + 0.1f * g[i];
        float vi = 0.99f * v[i] + 0.01f * g[i];
        m[i] = mi;
        v[i] = vi;
        p[i] = p[i] - 0.001f * mi * vi;
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The i-th processor that this process may use. */
static void bind_to(int index)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && index-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_setaffinity_np(pthread_self(), sizeof one, &one);
            return;
        }
}

static void run_kind(shared *s, int kind, size_t first, size_t n, int index)
{
    float *const *array = s->arrays.array;
    if (kind == 0)
        s->sink[index % 64] += read_stream(array[0] + first, n);
    else if (kind == 1)
        triad(array[0] + first, array[1] + first, array[2] + first, n);
    else
        stream_mix(&s->arrays, first, n);
}

static void *work(void *arg)
{
    worker *w = arg;
    shared *s = w->all;
    bind_to(w->index);
    size_t all = s->arrays.elements, part = all / (size_t)s->threads;
    size_t first = part * (size_t)w->index;
    size_t n = w->index + 1 == s->threads ? all - first : part;
    for (int k = 0; k < 4; k++)
        for (size_t i = first; i < first + n; i++)
            s->arrays.array[k][i] = 1e-3f * (float)(i % 17);
    for (int r = 0; r < s->repeats; r++)
        for (int kind = 0; kind < KINDS; kind++) {
            pthread_barrier_wait(&s->barrier);
            double start = seconds();
            run_kind(s, kind, first, n, w->index);
            pthread_barrier_wait(&s->barrier);
            double took = seconds() - start;
            if (w->index == 0 && (s->best[kind] == 0 || took < s->best[kind]))
                s->best[kind] = took;
        }
    return NULL;
}

int stream_arrays_open(stream_arrays *a, size_t elements)
{
    *a = (stream_arrays){.elements = elements, .mapped = elements * sizeof(float) + 4 * STAGGER};
    for (int k = 0; k < 4; k++) {
        char *p = mmap(NULL, a->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            stream_arrays_close(a);
            return 0;
        }
        madvise(p, a->mapped, MADV_HUGEPAGE);
        a->map[k] = p;
        a->array[k] = (float *)(p + k * STAGGER);
    }
    return 1;
}

void stream_arrays_close(stream_arrays *a)
{
    for (int k = 0; k < 4; k++)
        if (a->map[k])
            munmap(a->map[k], a->mapped);
    *a = (stream_arrays){0};
}

void stream_mix(const stream_arrays *a, size_t first, size_t count)
{
    optimizer_mix(a->array[0] + first, a->array[1] + first, a->array[2] + first,
                  a->array[3] + first, count);
}

/* Returns 0 without memory. */
static int stream_measure(int threads, size_t elements, int repeats, stream_result *out)
{
    shared s = {.threads = threads, .repeats = repeats};
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers || !stream_arrays_open(&s.arrays, elements)) {
        free(workers);
        return 0;
    }
    pthread_barrier_init(&s.barrier, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        workers[i] = (worker){.all = &s, .index = i};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            fprintf(stderr, "zds-bench: error: %d threads could not be started\n", threads);
            exit(exits_done(EXIT_FAILED)); /* those that run wait for the others */
        }
    }
    for (int i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&s.barrier);
    stream_arrays_close(&s.arrays);
    free(workers);
    double gb = (double)elements * sizeof(float) * 1e-9;
    *out = (stream_result){.read_gbs = gb / s.best[0],
                           .triad_gbs = 3 * gb / s.best[1],
                           .optimizer_gbs = 7 * gb / s.best[2]};
    return 1;
}

int bench_stream(int argc, char **argv)
{
    int64_t threads = bench_cores(), elements = 32 << 20, repeats = 10;
    bool json = false;
    args_option options[] = {
        {.name = "threads",
         .type = ARGS_COUNT,
         .value = &threads,
         .meta = "T",
         .doc = "threads, each bound to a core (default: all this process may use)"},
        {.name = "elements",
         .type = ARGS_COUNT,
         .value = &elements,
         .meta = "N",
         .doc = "floats in each of the four arrays (default 32Mi)"},
        {.name = "repeats",
         .type = ARGS_COUNT,
         .value = &repeats,
         .meta = "R",
         .doc = "the best of so many is told (default 10)"},
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"}};
    const args_program program = {.usage = "stream [options]",
                                  .doc = "Memory bandwidth: one stream read; STREAM's triad; the "
                                         "optimizer's mix, four streams read "
                                         "and three of them written.",
                                  .options = options,
                                  .option_count = sizeof options / sizeof *options};
    int code = args_parse(&program, argc, argv, NULL);
    if (code != ARGS_GO)
        return code;
    if (threads < 1 || threads > 4096 || elements < 1 || repeats < 1 || elements > (int64_t)1 << 36)
        return args_wrong("threads, elements and repeats must be at least 1");
    stream_result r;
    if (!stream_measure((int)threads, (size_t)elements, (int)repeats, &r))
        return output_error("no memory for four arrays of %lld floats", (long long)elements);
    if (json) {
        cJSON *tree = cJSON_CreateObject();
        cJSON_AddNumberToObject(tree, "threads", (double)threads);
        cJSON_AddNumberToObject(tree, "read_gbs", r.read_gbs);
        cJSON_AddNumberToObject(tree, "triad_gbs", r.triad_gbs);
        cJSON_AddNumberToObject(tree, "optimizer_gbs", r.optimizer_gbs);
        return output_json(tree);
    }
    printf("threads %lld\nread      %6.1f GB/s\ntriad     %6.1f GB/s\noptimizer %6.1f GB/s\n",
           (long long)threads, r.read_gbs, r.triad_gbs, r.optimizer_gbs);
    return output_end();
}

/* Fused reductions and copies: cuts them into pieces for the host's threads and runs each through
 * the kernels chunk by chunk, so that all steps of a chunk happen in the first-level cache. */
#include "common/reduce.h"
#include "common/simd_level.h"

#include <stdatomic.h>
#include <string.h>

enum {
    ITEM = 64 * 1024,             /* elements that one call of a thread's body takes */
    STREAM_FROM = 8 * 1024 * 1024 /* bytes; results larger than this bypass the caches */
};

const reduce_kernels *reduce_kernels_at(int level)
{
#if defined(__x86_64__)
    static const reduce_kernels *const levels[SIMD_LEVELS] = {&reduce_scalar, &reduce_avx2,
                                                              &reduce_avx512};
    return levels[level];
#else
    (void)level;
    return &reduce_scalar;
#endif
}

const reduce_kernels *reduce_kernels_best(const zds_host *host)
{
    int level = SIMD_SCALAR;
    (void)simd_level(host, &level); /* a wrong ZDS_SIMD was refused at init, and means the best */
    return reduce_kernels_at(level);
}

bool reduce_fusable(zds_dtype dtype)
{
    return dtype == ZDS_F32 || dtype == ZDS_BF16 || dtype == ZDS_F16;
}

typedef struct fused_run {
    const reduce_task *task;
    const reduce_kernels *kernels;
    bool only_read; /* dst is there already: statistics alone */
    bool streaming;
    _Atomic uint64_t non_finite;
} fused_run;

static const zds_segment *segment_at(const reduce_task *task, size_t i)
{
    return (const zds_segment *)(const void *)((const char *)task->segments +
                                               i * task->segment_stride);
}

/* A walk over the segments beside the elements. */
typedef struct segment_walk {
    size_t segment;
    uint64_t chunk; /* index of the segment's first chunk in chunk_sums */
} segment_walk;

static uint64_t chunks_of(uint64_t count)
{
    return (count + REDUCE_CHUNK - 1) / REDUCE_CHUNK;
}

static void walk_to(const reduce_task *task, segment_walk *walk, uint64_t element)
{
    while (walk->segment < task->segment_count) {
        const zds_segment *s = segment_at(task, walk->segment);
        if (element < s->first + s->count)
            return;
        walk->chunk += chunks_of(s->count);
        walk->segment++;
    }
}

/* The elements from `at` that are treated together: the rest of a chunk, or of a gap. */
static uint64_t block_length(const reduce_task *task, const segment_walk *walk, uint64_t at,
                             uint64_t end, bool *counted)
{
    uint64_t length = end - at;
    *counted = false;
    if (task->statistics && walk->segment < task->segment_count) {
        const zds_segment *s = segment_at(task, walk->segment);
        uint64_t limit = s->first - at; /* of a gap */
        if (at >= s->first) {
            *counted = true;
            limit = s->first + s->count - at;
        }
        length = length < limit ? length : limit;
    }
    return length < REDUCE_CHUNK ? length : REDUCE_CHUNK;
}

/* Moves an item's edge back to the start of the chunk that it would cut. */
static uint64_t snap(const reduce_task *task, uint64_t element)
{
    if (!task->statistics || element >= task->count)
        return element < task->count ? element : task->count;
    segment_walk walk = {0, 0};
    walk_to(task, &walk, element);
    if (walk.segment == task->segment_count || element < segment_at(task, walk.segment)->first)
        return element;
    uint64_t inside = element - segment_at(task, walk.segment)->first;
    return element - inside % REDUCE_CHUNK;
}

static const float *load(const reduce_kernels *k, const void *base, zds_dtype dtype, uint64_t at,
                         size_t n, float *room)
{
    if (dtype == ZDS_F32)
        return (const float *)base + at;
    k->widen(room, (const uint16_t *)base + at, n, dtype);
    return room;
}

/* The result of elements [at, at + n) as fp32 values of dst's type, in `acc` or where it lies. */
static void reduce_block(const fused_run *run, uint64_t at, size_t n, float *acc)
{
    const reduce_task *t = run->task;
    const reduce_kernels *k = run->kernels;
    float first[REDUCE_CHUNK], second[REDUCE_CHUNK];
    for (int32_t r = 0; r < t->ranks; r += 2) {
        const float *a = load(k, t->sources[r], t->src_dtype, at, n, first);
        const float *b = NULL;
        if (r + 1 < t->ranks)
            b = load(k, t->sources[r + 1], t->src_dtype, at, n, second);
        k->sum(acc, a, b, n, (float)t->prescale, r > 0);
    }
    const float *base = NULL;
    if (t->accumulate)
        base = load(k, t->dst, t->dst_dtype, at, n, first);
    if (base || t->postscale != 1)
        k->finish(acc, base, n, (float)t->postscale);
}

static void store_block(const fused_run *run, uint64_t at, size_t n, float *acc, bool reread)
{
    const reduce_task *t = run->task;
    const reduce_kernels *k = run->kernels;
    uint16_t narrow[REDUCE_CHUNK];
    const void *value = acc;
    size_t size = sizeof(float);
    if (t->dst_dtype != ZDS_F32) {
        k->narrow(narrow, acc, n, t->dst_dtype);
        if (reread)
            k->widen(acc, narrow, n, t->dst_dtype);
        value = narrow;
        size = sizeof narrow[0];
    }
    char *out = (char *)t->dst + at * size;
    if (run->streaming)
        k->stream(out, value, n * size);
    else
        memcpy(out, value, n * size);
}

static void fused_item(void *arg, size_t item)
{
    fused_run *run = arg;
    const reduce_task *t = run->task;
    uint64_t at = snap(t, item * ITEM), end = snap(t, (item + 1) * (uint64_t)ITEM);
    segment_walk walk = {0, 0};
    uint64_t non_finite = 0;
    float acc[REDUCE_CHUNK];
    while (at < end) {
        if (t->statistics)
            walk_to(t, &walk, at);
        bool counted;
        size_t n = block_length(t, &walk, at, end, &counted);
        const float *value = acc;
        if (run->only_read) {
            if (counted)
                value = load(run->kernels, t->dst, t->dst_dtype, at, n, acc);
        } else {
            reduce_block(run, at, n, acc);
            store_block(run, at, n, acc, counted);
        }
        if (counted) {
            uint64_t chunk = walk.chunk + (at - segment_at(t, walk.segment)->first) / REDUCE_CHUNK;
            t->chunk_sums[chunk] = run->kernels->squares(value, n, &non_finite);
        }
        at += n;
    }
    if (run->streaming)
        run->kernels->stream_end();
    if (non_finite)
        atomic_fetch_add_explicit(&run->non_finite, non_finite, memory_order_relaxed);
}

static void each(const zds_host *host, size_t n, void (*body)(void *arg, size_t i), void *arg)
{
    if (n > 1 && host->threads > 1) {
        host->parallel_for(host, n, body, arg);
        return;
    }
    for (size_t i = 0; i < n; i++)
        body(arg, i);
}

static void fused_execute(const zds_host *host, fused_run *run)
{
    const reduce_task *t = run->task;
    each(host, (t->count + ITEM - 1) / ITEM, fused_item, run);
    if (t->statistics && t->non_finite)
        *t->non_finite = run->non_finite;
}

void reduce_statistics(const zds_host *host, const reduce_task *task)
{
    fused_run run = {.task = task, .kernels = reduce_kernels_best(host), .only_read = true};
    fused_execute(host, &run);
}

void reduce_fused_with(const zds_host *host, const reduce_task *task, const reduce_kernels *k)
{
    uint64_t bytes = task->count * zds_dtype_size(task->dst_dtype);
    fused_run run = {.task = task, .kernels = k};
    run.only_read = task->ranks == 1 && task->sources[0] == task->dst && !task->accumulate &&
                    task->src_dtype == task->dst_dtype && task->prescale == 1 &&
                    task->postscale == 1;
    run.streaming = !task->accumulate && bytes >= STREAM_FROM;
    if (!run.only_read || task->statistics)
        fused_execute(host, &run);
}

void reduce_fused(const zds_host *host, const reduce_task *task)
{
    reduce_fused_with(host, task, reduce_kernels_best(host));
}

typedef struct copy_run {
    const reduce_kernels *kernels; /* NULL: through the caches */
    char *dst;
    const char *src;
    uint64_t bytes;
} copy_run;

enum { COPY_ITEM = 1024 * 1024 };

static void copy_item(void *arg, size_t item)
{
    copy_run *run = arg;
    uint64_t at = (uint64_t)item * COPY_ITEM;
    uint64_t n = run->bytes - at < COPY_ITEM ? run->bytes - at : COPY_ITEM;
    if (!run->kernels) {
        memcpy(run->dst + at, run->src + at, n);
        return;
    }
    run->kernels->stream(run->dst + at, run->src + at, n);
    run->kernels->stream_end();
}

void reduce_copy(const zds_host *host, void *dst, const void *src, uint64_t bytes)
{
    if (dst == src || !bytes)
        return;
    copy_run run = {.dst = dst, .src = src, .bytes = bytes};
    if (bytes >= STREAM_FROM)
        run.kernels = reduce_kernels_best(host);
    each(host, (bytes + COPY_ITEM - 1) / COPY_ITEM, copy_item, &run);
}

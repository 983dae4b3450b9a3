/* What the core does to bytes besides copying them: on a device by its tier, in the host's memory
 * by the kernels, on all threads. */
#include <stdatomic.h>

#include "host/error.h"
#include "host/kernels.h"
#include "memory/tier_call.h"

/* Elements that a thread takes at a time, whole chunks of sums among them. */
enum { RUN = 64 << 10, CHUNK = 1024 };

/* The tier that has to do it: the device of one of the ends. NULL: the host. */
static tier *doer(const tier_end *const *ends, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!tier_is_here(ends[i]))
            return ends[i]->slab->tier;
    return NULL;
}

/* The threads of whoever has a slab; NULL: there is none, and the caller goes alone. */
static pool *threads_of(const tier_end *const *ends, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ends[i]->slab)
            return ends[i]->slab->tier->services.threads;
    return NULL;
}

static void on_threads(pool *threads, size_t n, void (*body)(void *, size_t, int32_t), void *arg)
{
    if (threads)
        pool_run(threads, n, body, arg);
    else
        for (size_t i = 0; i < n; i++)
            body(arg, i, 0);
}

/* Ends as the device gets them, its waits, and its stream. */
static zds_status begin(tier *t, const char *what, const tier_end *const *ends, size_t count,
                        zds_end *shown, const tier_order *order, tier_waits *waits,
                        zds_error *error)
{
    waits->count = 0;
    for (size_t i = 0; i < count; i++)
        if (!t->on_device || !tier_shown(t, ends[i], &shown[i]) ||
            shown[i].device.space != t->info.device.space ||
            shown[i].device.ordinal != t->info.device.ordinal)
            return error_set(error, ZDS_ERR_UNSUPPORTED,
                             "memory tier %s: %s needs all its bytes on one device, or in the "
                             "host's memory; copy them there first",
                             t->name, what);
    zds_status status = tier_check_stream(t, order, error);
    if (!status)
        status = tier_waits_for(order, waits, error);
    services_clear(&t->services);
    return status;
}

/* === fill === */

typedef struct host_fill {
    char *to;
    zds_dtype dtype;
    double value;
    uint64_t count;
} host_fill;

static void fill_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const host_fill *f = arg;
    const uint64_t first = (uint64_t)i * RUN, left = f->count - first;
    kernel_fill(f->to + first * zds_dtype_size(f->dtype), f->dtype, f->value,
                left < RUN ? left : RUN);
}

/* Where neither the plugin nor the host can: copies of memory that is filled. */
static zds_status fill_by_copies(tier_end to, const host_fill *fill, const tier_order *order,
                                 zds_error *error)
{
    tier *t = to.slab->tier;
    const uint64_t bytes = fill->count * zds_dtype_size(fill->dtype);
    const uint64_t run = RUN * zds_dtype_size(ZDS_F64); /* a multiple of alignments */
    char *memory = ledger_alloc(t->services.ledger, "staging", (size_t)run, 4096);
    if (!memory)
        return error_set(error, ZDS_ERR_MEMORY, "there is no memory to fill memory tier %s with",
                         t->name);
    kernel_fill(memory, fill->dtype, fill->value, run / zds_dtype_size(fill->dtype));
    zds_status status = tier_waits_here(order, error);
    for (uint64_t first = 0; first < bytes && !status; first += run) {
        tier_end part = tier_in(to.slab, to.offset + first);
        status = tier_copy(part, tier_at(memory), bytes - first < run ? bytes - first : run, NULL,
                           NULL, error);
    }
    ledger_free(t->services.ledger, memory);
    return status;
}

zds_status tier_fill(tier_end to, zds_dtype dtype, double value, uint64_t count,
                     const tier_order *order, zds_event **done, zds_error *error)
{
    const tier_end *const ends[] = {&to};
    tier *t = doer(ends, 1);
    host_fill here = {.to = tier_here(&to), .dtype = dtype, .value = value, .count = count};
    if (done)
        *done = NULL;
    zds_status status = tier_check_end(&to, count * zds_dtype_size(dtype), "a fill", error);
    if (status)
        return status;
    if (!t) {
        status = tier_waits_here(order, error);
        if (!status)
            on_threads(threads_of(ends, 1), (size_t)((count + RUN - 1) / RUN), fill_run, &here);
        return status;
    }
    if (!t->on_device)
        return fill_by_copies(to, &here, order, error);
    zds_fill fill = {.struct_size = sizeof fill, .dtype = dtype, .value = value, .count = count};
    tier_waits waits;
    zds_event *event;
    status = begin(t, "fill", ends, 1, &fill.to, order, &waits, error);
    if (status)
        return status;
    fill.waits = waits.event;
    fill.wait_count = waits.count;
    fill.stream = tier_stream_of(order);
    status = t->ops.fill(t->self, &fill, tier_asks(order, done, &event));
    return tier_ended(t, "fill", status, order, event, done, error);
}

/* === convert and accumulate === */

typedef struct host_pass {
    char *to;
    const char *from;
    const zds_pass *pass;
    bool convert;
} host_pass;

static void pass_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    const host_pass *h = arg;
    const zds_pass *p = h->pass;
    const uint64_t first = (uint64_t)i * RUN, left = p->count - first;
    const uint64_t count = left < RUN ? left : RUN;
    void *to = h->to + first * zds_dtype_size(p->to_dtype);
    const void *from = h->from + first * zds_dtype_size(p->from_dtype);
    if (h->convert)
        kernel_convert(to, p->to_dtype, from, p->from_dtype, count);
    else
        kernel_accumulate(to, p->to_dtype, from, p->from_dtype, p->scale, p->add, count);
}

static zds_status pass(tier_end to, tier_end from, zds_pass *p, bool convert,
                       const tier_order *order, zds_event **done, zds_error *error)
{
    static const char *const names[] = {"accumulate", "convert"};
    const tier_end *const ends[] = {&from, &to};
    tier *t = doer(ends, 2);
    if (done)
        *done = NULL;
    zds_status status =
        tier_check_end(&to, p->count * zds_dtype_size(p->to_dtype), names[convert], error);
    if (!status)
        status =
            tier_check_end(&from, p->count * zds_dtype_size(p->from_dtype), names[convert], error);
    if (status)
        return status;
    if (!t) {
        host_pass here = {tier_here(&to), tier_here(&from), p, convert};
        status = tier_waits_here(order, error);
        if (!status)
            on_threads(threads_of(ends, 2), (size_t)((p->count + RUN - 1) / RUN), pass_run, &here);
        return status;
    }
    zds_end shown[2];
    tier_waits waits;
    zds_event *event;
    status = begin(t, names[convert], ends, 2, shown, order, &waits, error);
    if (status)
        return status;
    p->struct_size = sizeof *p;
    p->from = shown[0];
    p->to = shown[1];
    p->waits = waits.event;
    p->wait_count = waits.count;
    p->stream = tier_stream_of(order);
    zds_event **asked = tier_asks(order, done, &event);
    status = convert ? t->ops.convert(t->self, p, asked) : t->ops.accumulate(t->self, p, asked);
    return tier_ended(t, names[convert], status, order, event, done, error);
}

zds_status tier_convert(tier_end to, zds_dtype to_dtype, tier_end from, zds_dtype from_dtype,
                        uint64_t count, const tier_order *order, zds_event **done, zds_error *error)
{
    zds_pass p = {.from_dtype = from_dtype, .to_dtype = to_dtype, .count = count};
    return pass(to, from, &p, true, order, done, error);
}

zds_status tier_accumulate(tier_end to, zds_dtype to_dtype, tier_end from, zds_dtype from_dtype,
                           double scale, bool add, uint64_t count, const tier_order *order,
                           zds_event **done, zds_error *error)
{
    zds_pass p = {
        .from_dtype = from_dtype, .to_dtype = to_dtype, .count = count, .scale = scale, .add = add};
    return pass(to, from, &p, false, order, done, error);
}

/* === sums of chunks === */

typedef struct host_sums {
    const char *from;
    zds_dtype dtype;
    const zds_segment *segments;
    size_t segment_count, chunks, jobs;
    double *sums;
    _Atomic uint64_t bad;
} host_sums;

static size_t chunks_of(const zds_segment *segment)
{
    return (size_t)((segment->count + CHUNK - 1) / CHUNK);
}

/* The chunks of one job, which may lie in several segments. */
static void sums_run(void *arg, size_t i, int32_t thread)
{
    (void)thread;
    host_sums *h = arg;
    const size_t first = h->chunks * i / h->jobs, end = h->chunks * (i + 1) / h->jobs;
    size_t before = 0;
    uint64_t bad = 0;
    for (size_t s = 0; s < h->segment_count && before < end; s++) {
        const zds_segment *segment = &h->segments[s];
        const size_t all = chunks_of(segment);
        const size_t from = first > before ? first - before : 0;
        const size_t to = end - before < all ? end - before : all;
        if (from < to) {
            const uint64_t at = (uint64_t)from * CHUNK, stop = (uint64_t)to * CHUNK;
            const zds_segment part = {.first = segment->first + at,
                                      .count =
                                          (stop < segment->count ? stop : segment->count) - at};
            bad += kernel_chunk_sums(h->from, h->dtype, &part, 1, h->sums + before + from);
        }
        before += all;
    }
    atomic_fetch_add(&h->bad, bad);
}

static void sums_here(host_sums *h, pool *threads)
{
    enum { JOBS_A_THREAD = 4, CHUNKS_A_JOB = 16 };
    for (size_t s = 0; s < h->segment_count; s++)
        h->chunks += chunks_of(&h->segments[s]);
    const size_t most = threads ? (size_t)pool_threads(threads) * JOBS_A_THREAD : 1;
    h->jobs = h->chunks / CHUNKS_A_JOB + 1;
    h->jobs = h->jobs < most ? h->jobs : most;
    on_threads(threads, h->jobs, sums_run, h);
}

zds_status tier_chunk_sums(tier_end sums, tier_end non_finite, tier_end from, zds_dtype dtype,
                           const zds_segment *segments, size_t segment_count,
                           const tier_order *order, zds_event **done, zds_error *error)
{
    const tier_end *const ends[] = {&from, &sums, &non_finite};
    tier *t = doer(ends, 3);
    uint64_t last = 0, chunks = 0;
    if (done)
        *done = NULL;
    for (size_t s = 0; s < segment_count; s++) {
        last = segments[s].first + segments[s].count;
        chunks += chunks_of(&segments[s]);
    }
    static const char what[] = "chunk_sums";
    zds_status status = tier_check_end(&from, last * zds_dtype_size(dtype), what, error);
    if (!status)
        status = tier_check_end(&sums, chunks * sizeof(double), what, error);
    if (!status)
        status = tier_check_end(&non_finite, sizeof(uint64_t), what, error);
    if (status)
        return status;
    if (!t) {
        host_sums here = {.from = tier_here(&from),
                          .dtype = dtype,
                          .segments = segments,
                          .segment_count = segment_count,
                          .sums = tier_here(&sums)};
        status = tier_waits_here(order, error);
        if (status)
            return status;
        sums_here(&here, threads_of(ends, 3));
        *(uint64_t *)tier_here(&non_finite) += atomic_load(&here.bad);
        return ZDS_OK;
    }
    zds_end shown[3];
    tier_waits waits;
    zds_event *event;
    status = begin(t, what, ends, 3, shown, order, &waits, error);
    if (status)
        return status;
    const zds_chunk_sums call = {.struct_size = sizeof call,
                                 .from = shown[0],
                                 .dtype = dtype,
                                 .segments = segments,
                                 .segment_stride = sizeof *segments,
                                 .segment_count = segment_count,
                                 .sums = shown[1],
                                 .non_finite = shown[2],
                                 .waits = waits.event,
                                 .wait_count = waits.count,
                                 .stream = tier_stream_of(order)};
    status = t->ops.chunk_sums(t->self, &call, tier_asks(order, done, &event));
    return tier_ended(t, what, status, order, event, done, error);
}

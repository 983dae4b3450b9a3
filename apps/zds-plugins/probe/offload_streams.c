/* The order and the errors of a device tier's streams, and of what waits for events there. */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "late.h"
#include "offload.h"
#include "plugin/fault.h"

static char *make_stream(const tier *t, zds_stream *stream)
{
    bench_room room;
    bench_clear(t->b);
    zds_status status = t->ops.stream_create(t->self, bench_fill(&room, sizeof *stream));
    char *fault = bench_filled(&room, sizeof *stream, stream, "stream_create");
    if (fault)
        return fault;
    if (status)
        return tier_failure(t, "stream_create", status);
    if (stream->device.space != t->info.device.space ||
        stream->device.ordinal != t->info.device.ordinal)
        return fault_format("stream_create gives a stream of another device than query says");
    return NULL;
}

static char *synchronise(const tier *t, const zds_stream *stream)
{
    bench_clear(t->b);
    zds_status status = t->ops.stream_sync(t->self, stream);
    return status ? tier_failure(t, "stream_sync", status) : NULL;
}

/* There, twice as much, and back: each needs the one before, and nobody waits in between. */
static zds_status chain(const tier *t, const zds_stream *stream, const zds_block *block,
                        float *memory, uint64_t count)
{
    const uint64_t bytes = count * sizeof(float);
    const zds_copy there = {.struct_size = sizeof there,
                            .from = tier_host(memory),
                            .to = tier_there(block, 0),
                            .bytes = bytes,
                            .stream = stream};
    const zds_pass twice = {.struct_size = sizeof twice,
                            .from = tier_there(block, 0),
                            .to = tier_there(block, 0),
                            .from_dtype = ZDS_F32,
                            .to_dtype = ZDS_F32,
                            .count = count,
                            .scale = 1,
                            .add = 1,
                            .stream = stream};
    const zds_copy back = {.struct_size = sizeof back,
                           .from = tier_there(block, 0),
                           .to = tier_host(memory),
                           .bytes = bytes,
                           .stream = stream};
    zds_status status = t->ops.copy(t->self, &there, NULL);
    if (!status)
        status = t->ops.accumulate(t->self, &twice, NULL);
    return status ? status : t->ops.copy(t->self, &back, NULL);
}

enum { LINK = 1000, ROUNDS = 5 };

static char *run_streams(tier *t)
{
    zds_stream streams[2];
    zds_block blocks[2];
    float memory[2][LINK];
    int made = 0;
    char *fault = NULL;
    for (; made < 2 && !fault; made++) {
        for (int i = 0; i < LINK; i++)
            memory[made][i] = (float)(made + i);
        fault = make_stream(t, &streams[made]);
        if (!fault)
            fault = tier_take(t, sizeof memory[made], &blocks[made]);
        if (fault)
            return fault;
    }
    for (int k = 0; k < ROUNDS && !fault; k++)
        for (int s = 0; s < 2 && !fault; s++) {
            bench_clear(t->b);
            zds_status put = chain(t, &streams[s], &blocks[s], memory[s], LINK);
            fault = put ? tier_failure(t, "a call on a stream", put) : NULL;
        }
    zds_event *done = NULL;
    bench_clear(t->b);
    zds_status status = fault ? ZDS_OK : t->ops.stream_record(t->self, &streams[0], &done);
    if (!fault)
        fault = tier_finish(t, "stream_record", status, done);
    if (!fault)
        fault = synchronise(t, &streams[1]);
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < LINK && !fault; i++)
            if (memory[s][i] != (float)((s + i) << ROUNDS))
                fault = fault_format("doubled on a stream %d times, %d is %g %s", ROUNDS, s + i,
                                     (double)memory[s][i],
                                     s ? "after stream_sync" : "after stream_record's event");
    for (int s = 0; s < 2; s++) {
        fault_free(synchronise(t, &streams[s]));
        t->ops.stream_destroy(t->self, &streams[s]);
        t->ops.free(t->self, &blocks[s]);
    }
    return fault;
}

/* What cannot be carried out is told by stream_sync, once, and what came after it did nothing. */
static char *fail_on_stream(const tier *t, const zds_stream *stream, const zds_block *block)
{
    late_event failed;
    late_init(&failed, NULL, NULL);
    failed.status = ZDS_ERR_PEER;
    zds_event *const waits[] = {&failed.base};
    zds_fill fill = {.struct_size = sizeof fill,
                     .to = tier_there(block, 0),
                     .dtype = ZDS_U8,
                     .value = 1,
                     .count = block->bytes,
                     .waits = waits,
                     .wait_count = 1,
                     .stream = stream};
    zds_status first = t->ops.fill(t->self, &fill, NULL);
    fill.wait_count = 0;
    zds_status second = t->ops.fill(t->self, &fill, NULL);
    bench_clear(t->b);
    zds_status synced = t->ops.stream_sync(t->self, stream);
    for (int i = 0; i < 2; i++)
        if ((i ? second : first) != ZDS_OK && (i ? second : first) != ZDS_ERR_PEER)
            return tier_failure(t, "a fill that cannot begin", i ? second : first);
    if (synced != ZDS_ERR_PEER)
        return fault_format("something on a stream has failed with \"%s\", and stream_sync returns "
                            "\"%s\"",
                            zds_status_name(ZDS_ERR_PEER), zds_status_name(synced));
    if (!t->b->error)
        return tier_failure(t, "stream_sync", synced);
    unsigned char bytes[64];
    char *fault = tier_get(t, block, 0, bytes, sizeof bytes);
    if (!fault)
        fault = tier_expect(bytes, sizeof bytes, 0, 0, "after what has failed on its stream");
    if (!fault)
        fault = bench_within(synchronise(t, stream), "stream_sync once more");
    bench_clear(t->b);
    zds_status third = fault ? ZDS_OK : t->ops.fill(t->self, &fill, NULL);
    if (third)
        fault = tier_failure(t, "fill after stream_sync", third);
    if (!fault)
        fault = synchronise(t, stream);
    if (!fault)
        fault = tier_get(t, block, 0, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes && !fault; i++)
        if (bytes[i] != 1)
            fault = fault_format("a fill after stream_sync has told of an error does nothing");
    return fault;
}

static char *run_late_errors(tier *t)
{
    zds_stream stream;
    zds_block block;
    char *fault = make_stream(t, &stream);
    if (!fault)
        fault = tier_take(t, 64, &block);
    if (fault)
        return fault;
    fault = fail_on_stream(t, &stream, &block);
    t->ops.stream_destroy(t->self, &stream);
    t->ops.free(t->self, &block);
    return fault;
}

/* === one stream waits for another === */

enum { JOINED = 1 << 20 };

/* An event that a thread of its own ends after a while, and then has filled `memory`. */
typedef struct gate {
    zds_event base;
    void *memory;
    pthread_mutex_t lock;
    pthread_cond_t opens;
    bool open;
} gate;

static zds_status gate_wait(zds_event *event)
{
    gate *g = (gate *)(void *)event;
    pthread_mutex_lock(&g->lock);
    while (!g->open)
        pthread_cond_wait(&g->opens, &g->lock);
    pthread_mutex_unlock(&g->lock);
    return ZDS_OK;
}

static zds_status gate_test(zds_event *event, int32_t *done)
{
    gate *g = (gate *)(void *)event;
    pthread_mutex_lock(&g->lock);
    *done = g->open;
    pthread_mutex_unlock(&g->lock);
    return ZDS_OK;
}

static void gate_release(zds_event *event)
{
    (void)event;
}

static const zds_event_ops gate_ops = {.struct_size = sizeof gate_ops,
                                       .flags = ZDS_EVENT_ANY_THREAD,
                                       .test = gate_test,
                                       .wait = gate_wait,
                                       .release = gate_release};

static void *open_gate(void *arg)
{
    gate *g = arg;
    nanosleep(&(struct timespec){0, 30000000}, NULL); /* for others to run ahead */
    tier_pattern(g->memory, JOINED, 1, 0);
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->opens);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* To the block on the first stream, once the gate is open, and back on the second, after an event
 * of the first: of the copy, or of stream_record. */
static zds_status join(const tier *t, const zds_stream streams[2], const zds_block *block, gate *g,
                       void *back, bool recorded, zds_event **joint)
{
    zds_event *const waits[] = {&g->base};
    const zds_copy there = {.struct_size = sizeof there,
                            .from = tier_host(g->memory),
                            .to = tier_there(block, 0),
                            .bytes = JOINED,
                            .waits = waits,
                            .wait_count = 1,
                            .stream = &streams[0]};
    const zds_copy here = {.struct_size = sizeof here,
                           .from = tier_there(block, 0),
                           .to = tier_host(back),
                           .bytes = JOINED,
                           .stream = &streams[1]};
    zds_status status = t->ops.copy(t->self, &there, recorded ? NULL : joint);
    if (!status && recorded)
        status = t->ops.stream_record(t->self, &streams[0], joint);
    zds_event *event = *joint;
    if (!status && event)
        status = ZDS_HAS(event->ops, stream_wait) && event->ops->stream_wait
                     ? event->ops->stream_wait(event, &streams[1])
                     : event->ops->wait(event);
    return status ? status : t->ops.copy(t->self, &here, NULL);
}

static char *join_once(const tier *t, const zds_stream streams[2], const zds_block *block,
                       area *from, area *back, bool recorded)
{
    gate g = {.base = {&gate_ops},
              .memory = from->data,
              .lock = PTHREAD_MUTEX_INITIALIZER,
              .opens = PTHREAD_COND_INITIALIZER};
    pthread_t opener;
    zds_event *joint = NULL;
    memset(from->data, 0, JOINED);
    memset(back->data, 0, JOINED);
    char *fault = tier_put(t, block, 0, from->data, JOINED);
    if (fault)
        return fault;
    if (pthread_create(&opener, NULL, open_gate, &g) != 0)
        return fault_format("there is no thread for the check");
    bench_clear(t->b);
    zds_status status = join(t, streams, block, &g, back->data, recorded, &joint);
    fault = status ? tier_failure(t, "a call on one of two streams", status) : NULL;
    for (int s = 0; s < 2; s++) {
        char *late = synchronise(t, &streams[s]);
        if (fault)
            fault_free(late);
        else
            fault = late;
    }
    pthread_join(opener, NULL);
    if (joint)
        joint->ops->release(joint);
    return fault ? fault
                 : bench_within(tier_expect(tier_bytes(back), JOINED, 1, 0, "comes before it"),
                                "what a stream runs after it was to wait (stream_wait) for an event"
                                " %s another",
                                recorded ? "that was recorded on" : "of a copy on");
}

static char *run_order(tier *t)
{
    zds_stream streams[2];
    zds_block block;
    char *fault = make_stream(t, &streams[0]);
    if (!fault)
        fault = make_stream(t, &streams[1]);
    if (!fault)
        fault = tier_take(t, JOINED, &block);
    if (fault)
        return fault;
    area *from = tier_buffer(JOINED), *back = tier_buffer(JOINED);
    for (int recorded = 0; recorded < 2 && !fault; recorded++)
        fault = join_once(t, streams, &block, from, back, recorded);
    for (int s = 0; s < 2; s++)
        t->ops.stream_destroy(t->self, &streams[s]);
    t->ops.free(t->self, &block);
    area_free(from);
    area_free(back);
    return fault;
}

/* === what calls wait for === */

enum { COPY, FILL, CONVERT, ACCUMULATE, CHUNK_SUMS, CALLS };
static const char *const calls[] = {"copy", "fill", "convert", "accumulate", "chunk_sums"};
enum { ELEMENTS = 256, HALF = 4096 };

static zds_status call(const tier *t, int kind, const zds_block *block, void *memory,
                       zds_event *const *waits, const zds_stream *stream, zds_event **done)
{
    static const zds_segment segment = {0, ELEMENTS};
    const zds_end from = tier_there(block, 0), to = tier_there(block, HALF);
    if (kind == COPY) {
        const zds_copy copy = {.struct_size = sizeof copy,
                               .from = tier_host(memory),
                               .to = to,
                               .bytes = HALF,
                               .waits = waits,
                               .wait_count = 2,
                               .stream = stream};
        return t->ops.copy(t->self, &copy, done);
    }
    if (kind == FILL) {
        const zds_fill fill = {.struct_size = sizeof fill,
                               .to = to,
                               .count = ELEMENTS,
                               .waits = waits,
                               .wait_count = 2,
                               .stream = stream};
        return t->ops.fill(t->self, &fill, done);
    }
    if (kind == CHUNK_SUMS) {
        const zds_chunk_sums sums = {.struct_size = sizeof sums,
                                     .from = from,
                                     .segments = &segment,
                                     .segment_stride = sizeof segment,
                                     .segment_count = 1,
                                     .sums = to,
                                     .non_finite = tier_there(block, HALF + sizeof(double)),
                                     .waits = waits,
                                     .wait_count = 2,
                                     .stream = stream};
        return t->ops.chunk_sums(t->self, &sums, done);
    }
    const zds_pass pass = {.struct_size = sizeof pass,
                           .from = from,
                           .to = to,
                           .count = ELEMENTS,
                           .scale = 1,
                           .waits = waits,
                           .wait_count = 2,
                           .stream = stream};
    return (kind == CONVERT ? t->ops.convert : t->ops.accumulate)(t->self, &pass, done);
}

static char *run_device_waits(tier *t)
{
    zds_stream stream;
    zds_block block;
    char *fault = make_stream(t, &stream);
    if (!fault)
        fault = tier_take(t, (uint64_t)2 * HALF, &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(HALF);
    for (int k = 0; k < 2 * CALLS && !fault; k++) {
        const bool streamed = k >= CALLS;
        late_event late;
        zds_event *done = NULL, *const waits[] = {&late.base, NULL};
        late_init(&late, NULL, NULL);
        bench_clear(t->b);
        zds_status status =
            call(t, k % CALLS, &block, memory->data, waits, streamed ? &stream : NULL, &done);
        fault = tier_finish(t, calls[k % CALLS], status, done);
        if (!fault && streamed)
            fault = synchronise(t, &stream);
        if (!fault && !late.done)
            fault = fault_format("%s%s does not wait for the event in its waits", calls[k % CALLS],
                                 streamed ? " on a stream" : "");
    }
    t->ops.stream_destroy(t->self, &stream);
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

char *offload_streams(bench *b)
{
    return tier_on_device(b, run_streams);
}

char *offload_order(bench *b)
{
    return tier_on_device(b, run_order);
}

char *offload_device_waits(bench *b)
{
    return tier_on_device(b, run_device_waits);
}

char *offload_late_errors(bench *b)
{
    return tier_on_device(b, run_late_errors);
}

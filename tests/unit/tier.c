/* What the core does over tiers: memory that is counted, copies between any two, passes where the
 * bytes are, and the events between them. */
#include <math.h>

#include "host/kernels.h"
#include "tier_harness.h"

enum { MIB = 1 << 20 };

static unsigned char byte_at(uint64_t seed, uint64_t i)
{
    return (unsigned char)((i * 2654435761u + seed * 97) >> 8);
}

static unsigned char *bytes_make(uint64_t count, uint64_t seed)
{
    unsigned char *bytes = malloc(count);
    cr_assert_not_null(bytes);
    for (uint64_t i = 0; i < count; i++)
        bytes[i] = byte_at(seed, i);
    return bytes;
}

/* === memory === */

Test(tier, memory_is_counted_by_purpose_and_tier)
{
    world w = world_make();
    tier *cpu = tier_make(&w, "host", CPU, NULL), *files = tier_make(&w, "nvme", FILES, NULL);
    slab a, b, c;
    OK(tier_alloc(cpu, "master weights", 1000, &a, error));
    OK(tier_alloc(cpu, "gradients", 500, &b, error));
    OK(tier_alloc(files, "master weights", 77, &c, error));
    cr_expect_eq(counted(&w, "master weights", "host"), 1000);
    cr_expect_eq(counted(&w, "gradients", "host"), 500);
    cr_expect_eq(counted(&w, "master weights", "nvme"), 77);
    for (int i = 0; i < 1000; i++)
        cr_expect_eq(((char *)a.block.pointer)[i], 0);
    tier_free(&a);
    tier_free(&a); /* is nothing by now */
    cr_expect_eq(counted(&w, "master weights", "host"), 0);
    tier_free(&b);
    tier_free(&c);
    tier_close(cpu);
    tier_close(files);
    world_end(&w);
}

Test(tier, a_view_is_not_counted_and_leaves_the_memory)
{
    world w = world_make();
    char memory[100];
    memset(memory, 5, sizeof memory);
    tier *cpu = tier_make(&w, "seen", CPU, NULL), *files = tier_make(&w, "files", FILES, NULL);
    slab view;
    OK(tier_adopt(cpu, memory, sizeof memory, &view, error));
    cr_expect_eq(view.block.pointer, memory);
    cr_expect_eq(counted(&w, "test", "seen"), 0);
    OK(tier_fill(tier_in(&view, 10), ZDS_U8, 9, 5, NULL, NULL, error));
    tier_free(&view);
    for (int i = 0; i < 100; i++)
        cr_expect_eq(memory[i], i >= 10 && i < 15 ? 9 : 5);
    REFUSED(tier_adopt(files, memory, sizeof memory, &view, error), ZDS_ERR_UNSUPPORTED,
            "memory tier files keeps bytes where no pointer leads");
    tier_close(cpu);
    tier_close(files);
    world_end(&w);
}

Test(tier, what_cannot_be_had_names_tier_size_and_purpose)
{
    world w = world_make();
    tier *files = tier_make(&w, "nvme", FILES, NULL);
    slab s;
    REFUSED(tier_alloc(files, "states", (uint64_t)1 << 40, &s, error), ZDS_ERR_MEMORY,
            "memory tier nvme: 1099511627776 bytes for states: no room for 1099511627776 bytes");
    cr_expect_eq(counted(&w, "states", "nvme"), 0);
    tier_free(&s);
    tier_close(files);
    zds_offload_env env = {.struct_size = sizeof env, .device = -1, .path = "/nowhere"};
    tier *t;
    REFUSED(tier_open("nvme", plugin_of(FILES, ZDS_KIND_OFFLOAD, NULL), NULL, &env, w.memory,
                      w.threads, &t, error),
            ZDS_ERR_IO, "memory tier nvme: open: a folder is needed");
    cr_expect_null(t);
    REFUSED(tier_open("odd", plugin_of("tests/plugins/offload_unaligned", ZDS_KIND_OFFLOAD, NULL),
                      NULL,
                      &(zds_offload_env){.struct_size = sizeof env, .device = -1, .path = w.folder},
                      w.memory, w.threads, &t, error),
            ZDS_ERR_PLUGIN, "alignment is 48");
    world_end(&w);
}

/* === copies === */

static const char *const kinds[] = {CPU, FILES, SECTORS, DEVICE, ISLAND};
enum { KINDS = sizeof kinds / sizeof *kinds, DEVICES = 3 /* the first of them */ };

/* From everywhere to everywhere, more than the windows hold. */
Test(tier, copies_between_any_two)
{
    const uint64_t bytes = 9 * MIB + 77, at_a = 512, at_b = 1024;
    world w = world_make();
    unsigned char *source = bytes_make(bytes, 1), *back = malloc(bytes);
    for (int i = 0; i < KINDS * KINDS; i++) {
        if (i / KINDS >= DEVICES && i % KINDS >= DEVICES && i / KINDS != i % KINDS)
            continue; /* there are no two tiers of one device */
        tier *a = tier_make(&w, "a", kinds[i / KINDS], NULL);
        tier *b = tier_make(&w, "b", kinds[i % KINDS], NULL);
        slab from = slab_make(a, at_a + bytes), to = slab_make(b, at_b + bytes);
        memset(back, 0, bytes);
        OK(tier_copy(tier_in(&from, at_a), tier_at(source), bytes, NULL, NULL, error));
        OK(tier_copy(tier_in(&to, at_b), tier_in(&from, at_a), bytes, NULL, NULL, error));
        OK(tier_copy(tier_at(back), tier_in(&to, at_b), bytes, NULL, NULL, error));
        cr_assert_eq(memcmp(back, source, bytes), 0, "%s to %s", kinds[i / KINDS],
                     kinds[i % KINDS]);
        OK(tier_copy(tier_at(back), tier_in(&to, 0), at_b, NULL, NULL, error));
        for (uint64_t k = 0; k < at_b; k++)
            cr_assert_eq(back[k], 0, "before the copy's destination");
        tier_free(&from);
        tier_free(&to);
        tier_close(a);
        tier_close(b);
    }
    free(source);
    free(back);
    world_end(&w);
}

/* Both ends in one tier, and an end without bytes. */
Test(tier, copies_within_a_tier)
{
    world w = world_make();
    unsigned char *source = bytes_make(1000, 2), back[400];
    for (int i = 0; i < KINDS; i++) {
        tier *t = tier_make(&w, "t", kinds[i], NULL);
        slab s = slab_make(t, 2048);
        OK(tier_copy(tier_in(&s, 0), tier_at(source), 512, NULL, NULL, error));
        if (strcmp(kinds[i], SECTORS) != 0) { /* which looks at one end alone */
            OK(tier_copy(tier_in(&s, 1024), tier_in(&s, 0), 512, NULL, NULL, error));
            OK(tier_copy(tier_at(back), tier_in(&s, 1024), 400, NULL, NULL, error));
            cr_expect_eq(memcmp(back, source, 400), 0);
        }
        OK(tier_copy(tier_in(&s, 2048), tier_at(source), 0, NULL, NULL, error));
        tier_free(&s);
        tier_close(t);
    }
    free(source);
    world_end(&w);
}

/* What two tiers cannot do between them goes through a bounded part of the host's memory, which is
 * counted, and kept for the next time. */
Test(tier, staging_is_bounded_and_counted)
{
    world w = world_make();
    tier *a = tier_make(&w, "a", FILES, NULL), *b = tier_make(&w, "b", DEVICE, NULL);
    slab from = slab_make(a, 20 * MIB), to = slab_make(b, 20 * MIB);
    OK(tier_copy(tier_in(&to, 0), tier_in(&from, 0), 1, NULL, NULL, error));
    cr_expect_eq(counted(&w, "staging", "host"), 8 * MIB);
    OK(tier_copy(tier_in(&to, 0), tier_in(&from, 0), 20 * MIB, NULL, NULL, error));
    cr_expect_eq(counted(&w, "staging", "host"), 8 * MIB);
    tier_free(&from);
    tier_free(&to);
    tier_close(a);
    tier_close(b);
    cr_expect_eq(counted(&w, "staging", "host"), 0);
    world_end(&w);
}

Test(tier, ends_are_checked)
{
    world w = world_make();
    tier *t = tier_make(&w, "t", SECTORS, NULL);
    slab s = slab_make(t, 1000);
    char memory[2000];
    REFUSED(tier_copy(tier_at(memory), tier_in(&s, 512), 489, NULL, NULL, error), ZDS_ERR_INVALID,
            "memory tier t: a copy of 489 bytes at 512 of a block of 1000");
    REFUSED(tier_copy(tier_at(memory), tier_in(&s, UINT64_MAX), 2, NULL, NULL, error),
            ZDS_ERR_INVALID, "of a block of 1000");
    REFUSED(tier_copy(tier_in(&s, 100), tier_at(memory), 512, NULL, NULL, error), ZDS_ERR_INVALID,
            "no multiples of 512");
    REFUSED(tier_copy(tier_in(&s, 0), tier_at(memory), 100, NULL, NULL, error), ZDS_ERR_INVALID,
            "no multiples of 512");
    OK(tier_copy(tier_in(&s, 512), tier_at(memory), 488, NULL, NULL, error));
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

/* === events === */

typedef struct manual {
    zds_event base;
    zds_event_ops ops;
    int waits, releases;
    zds_status status;
    char *poke; /* is set to 1 when it is waited for */
} manual;

static zds_status manual_wait(zds_event *event)
{
    manual *m = (manual *)(void *)event;
    m->waits++;
    if (m->poke)
        *m->poke = 1;
    return m->status;
}

static zds_status manual_test(zds_event *event, int32_t *done)
{
    *done = 1; /* whoever asks is answered */
    return manual_wait(event);
}

static void manual_release(zds_event *event)
{
    ((manual *)(void *)event)->releases++;
}

static void manual_init(manual *m, uint64_t flags)
{
    *m = (manual){.ops = {.struct_size = sizeof m->ops,
                          .flags = flags,
                          .test = manual_test,
                          .wait = manual_wait,
                          .release = manual_release}};
    m->base.ops = &m->ops;
}

/* Whoever moves the bytes, it comes after the wait, and the event stays its owner's. */
Test(tier, operations_wait_for_events)
{
    world w = world_make();
    for (int i = 0; i < KINDS * 2; i++) {
        tier *t = tier_make(&w, "t", kinds[i / 2], NULL);
        slab s = slab_make(t, 512);
        char source[512] = {0}, back[512];
        manual m;
        manual_init(&m, i % 2 ? ZDS_EVENT_ANY_THREAD : 0);
        m.poke = source;
        zds_event *waits[] = {NULL, &m.base}, *done = NULL;
        const tier_order order = {.waits = waits, .wait_count = 2};
        OK(tier_copy(tier_in(&s, 0), tier_at(source), 512, &order, &done, error));
        OK(tier_wait(t, &done, error));
        cr_expect_null(done);
        OK(tier_copy(tier_at(back), tier_in(&s, 0), 512, NULL, NULL, error));
        cr_expect_eq(back[0], 1, "%s", kinds[i / 2]);
        cr_expect_geq(m.waits, 1);
        cr_expect_eq(m.releases, 0);
        tier_free(&s);
        tier_close(t);
    }
    world_end(&w);
}

/* A plugin gets none that only the maker's thread may ask; many others are no hurdle. */
Test(tier, which_events_a_plugin_gets)
{
    enum { MANY = 40 };
    world w = world_make();
    tier *t = tier_make(&w, "t", DEVICE, NULL);
    slab s = slab_make(t, 64);
    manual m[MANY];
    zds_event *waits[MANY];
    for (int i = 0; i < MANY; i++) {
        manual_init(&m[i], ZDS_EVENT_ANY_THREAD);
        waits[i] = &m[i].base;
    }
    const tier_order order = {.waits = waits, .wait_count = MANY};
    OK(tier_fill(tier_in(&s, 0), ZDS_U8, 3, 64, &order, NULL, error));
    for (int i = 0; i < MANY; i++)
        cr_expect_eq(m[i].waits, 1, "event %d", i);
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

Test(tier, a_failed_wait_fails_the_operation)
{
    world w = world_make();
    for (int i = 0; i < KINDS * 2; i++) {
        tier *t = tier_make(&w, "t", kinds[i / 2], NULL);
        slab s = slab_make(t, 512);
        char source[512], back[512];
        memset(source, 1, sizeof source);
        manual m;
        manual_init(&m, i % 2 ? ZDS_EVENT_ANY_THREAD : 0);
        m.status = ZDS_ERR_PEER;
        zds_event *waits[] = {&m.base};
        const tier_order order = {.waits = waits, .wait_count = 1};
        cr_expect_eq(tier_copy(tier_in(&s, 0), tier_at(source), 512, &order, NULL, NULL),
                     ZDS_ERR_PEER, "%s", kinds[i / 2]);
        OK(tier_copy(tier_at(back), tier_in(&s, 0), 512, NULL, NULL, error));
        cr_expect_eq(back[0], 0, "%s", kinds[i / 2]);
        tier_free(&s);
        tier_close(t);
    }
    world_end(&w);
}

/* === passes === */

enum { COUNT = 300001 };

static float number(uint64_t i)
{
    return (float)((double)(i * 7919 % 10007) / 1000 - 5);
}

/* The same bits wherever they are made. */
Test(tier, passes_are_those_of_the_host)
{
    world w = world_make();
    const char *const where[] = {CPU, DEVICE, ISLAND};
    uint16_t *narrow = malloc(COUNT * 2), *narrow_want = malloc(COUNT * 2);
    float *wide = malloc(COUNT * 4), *wide_want = malloc(COUNT * 4);
    for (uint64_t i = 0; i < COUNT; i++)
        wide[i] = number(i);
    kernel_convert(narrow_want, ZDS_BF16, wide, ZDS_F32, COUNT);
    for (uint64_t i = 0; i < COUNT; i++)
        wide_want[i] = 0.25f;
    kernel_accumulate(wide_want, ZDS_F32, narrow_want, ZDS_BF16, 0.3, true, COUNT);
    for (int k = 0; k < 3; k++) {
        tier *t = tier_make(&w, "t", where[k], NULL);
        zds_stream *stream;
        OK(tier_stream_create(t, &stream, error));
        cr_expect_eq(stream != NULL, k >= 1);
        const tier_order order = {.stream = stream};
        slab a = slab_make(t, COUNT * 4), b = slab_make(t, COUNT * 2);
        OK(tier_copy(tier_in(&a, 0), tier_at(wide), COUNT * 4, &order, NULL, error));
        OK(tier_convert(tier_in(&b, 0), ZDS_BF16, tier_in(&a, 0), ZDS_F32, COUNT, &order, NULL,
                        error));
        OK(tier_copy(tier_at(narrow), tier_in(&b, 0), COUNT * 2, &order, NULL, error));
        OK(tier_sync(t, stream, error));
        cr_expect_eq(memcmp(narrow, narrow_want, COUNT * 2), 0);
        OK(tier_fill(tier_in(&a, 0), ZDS_F32, 0.25, COUNT, &order, NULL, error));
        OK(tier_accumulate(tier_in(&a, 0), ZDS_F32, tier_in(&b, 0), ZDS_BF16, 0.3, true, COUNT,
                           &order, NULL, error));
        float *got = malloc(COUNT * 4);
        zds_event *done;
        OK(tier_copy(tier_at(got), tier_in(&a, 0), COUNT * 4, &order, NULL, error));
        OK(tier_record(t, stream, &done, error));
        OK(tier_wait(t, &done, error));
        cr_expect_eq(memcmp(got, wide_want, COUNT * 4), 0);
        free(got);
        tier_stream_destroy(t, stream);
        tier_free(&a);
        tier_free(&b);
        tier_close(t);
    }
    free(narrow);
    free(narrow_want);
    free(wide);
    free(wide_want);
    world_end(&w);
}

/* Sixteen partial sums of squares a chunk, as zds_fused says. */
static double chunk_sum(const float *x, uint64_t count)
{
    double lane[16] = {0};
    for (uint64_t i = 0; i < count; i++)
        lane[i % 16] += (double)x[i] * (double)x[i];
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++)
            lane[k] += lane[k + half];
    return lane[0];
}

Test(tier, sums_of_chunks)
{
    static const zds_segment segments[] = {{3, 2050}, {5000, 1}, {6000, 0}, {7000, 200000}};
    enum { SEGMENTS = 4, CHUNKS = 3 + 1 + 0 + 196 };
    world w = world_make();
    const char *const where[] = {CPU, DEVICE, ISLAND};
    float *values = malloc(COUNT * 4);
    for (uint64_t i = 0; i < COUNT; i++)
        values[i] = number(i);
    values[4] = INFINITY;
    values[9000] = NAN;
    values[2] = NAN; /* in no segment */
    for (int k = 0; k < 3; k++) {
        tier *t = tier_make(&w, "t", where[k], NULL);
        slab from = slab_make(t, COUNT * 4), sums = slab_make(t, (CHUNKS + 1) * 8);
        double got[CHUNKS];
        uint64_t bad = 40;
        OK(tier_copy(tier_in(&from, 0), tier_at(values), COUNT * 4, NULL, NULL, error));
        OK(tier_copy(tier_in(&sums, CHUNKS * 8), tier_at(&bad), 8, NULL, NULL, error));
        OK(tier_chunk_sums(tier_in(&sums, 0), tier_in(&sums, CHUNKS * 8), tier_in(&from, 0),
                           ZDS_F32, segments, SEGMENTS, NULL, NULL, error));
        OK(tier_copy(tier_at(got), tier_in(&sums, 0), sizeof got, NULL, NULL, error));
        OK(tier_copy(tier_at(&bad), tier_in(&sums, CHUNKS * 8), 8, NULL, NULL, error));
        size_t chunk = 0;
        for (size_t s = 0; s < SEGMENTS; s++)
            for (uint64_t i = 0; i < segments[s].count; i += 1024, chunk++) {
                uint64_t left = segments[s].count - i;
                double want = chunk_sum(values + segments[s].first + i, left < 1024 ? left : 1024);
                cr_assert(got[chunk] == want || (isnan(want) && isnan(got[chunk])), "chunk %zu",
                          chunk);
            }
        cr_expect_eq(chunk, CHUNKS);
        cr_expect_eq(bad, 42);
        tier_free(&from);
        tier_free(&sums);
        tier_close(t);
    }
    free(values);
    world_end(&w);
}

Test(tier, fills_reach_files_and_passes_do_not)
{
    world w = world_make();
    tier *files = tier_make(&w, "nvme", SECTORS, NULL),
         *device = tier_make(&w, "gpu", DEVICE, NULL);
    slab s = slab_make(files, COUNT * 4), d = slab_make(device, 64);
    float *got = malloc(COUNT * 4);
    OK(tier_fill(tier_in(&s, 0), ZDS_F32, 1.5, COUNT, NULL, NULL, error));
    OK(tier_copy(tier_at(got), tier_in(&s, 0), COUNT * 4, NULL, NULL, error));
    for (int i = 0; i < COUNT; i++)
        cr_assert_eq(got[i], 1.5f, "element %d", i);
    REFUSED(tier_convert(tier_in(&s, 0), ZDS_F32, tier_at(got), ZDS_F32, 128, NULL, NULL, error),
            ZDS_ERR_UNSUPPORTED, "memory tier nvme: convert needs all its bytes on one device");
    REFUSED(tier_accumulate(tier_in(&d, 0), ZDS_F32, tier_at(got), ZDS_F32, 1, true, 4, NULL, NULL,
                            error),
            ZDS_ERR_UNSUPPORTED, "memory tier gpu: accumulate needs all its bytes on one device");
    REFUSED(tier_fill(tier_in(&d, 60), ZDS_F32, 1, 2, NULL, NULL, error), ZDS_ERR_INVALID,
            "a fill of 8 bytes at 60 of a block of 64");
    zds_stream other = {.struct_size = sizeof other, .device = {.space = ZDS_SPACE_CUDA}};
    const tier_order order = {.stream = &other};
    REFUSED(tier_fill(tier_in(&d, 0), ZDS_F32, 1, 2, &order, NULL, error), ZDS_ERR_INVALID,
            "the stream is of another device");
    free(got);
    tier_free(&s);
    tier_free(&d);
    tier_close(files);
    tier_close(device);
    world_end(&w);
}

/* Of what has failed on a stream the next call that waits for it tells, once. */
Test(tier, errors_on_a_stream)
{
    world w = world_make();
    tier *t = tier_make(&w, "gpu", DEVICE, NULL);
    slab s = slab_make(t, 64);
    zds_stream *stream;
    manual m;
    manual_init(&m, ZDS_EVENT_ANY_THREAD);
    m.status = ZDS_ERR_IO;
    zds_event *waits[] = {&m.base};
    OK(tier_stream_create(t, &stream, error));
    tier_order order = {.waits = waits, .wait_count = 1, .stream = stream};
    tier_fill(tier_in(&s, 0), ZDS_U8, 1, 64, &order, NULL, NULL);
    REFUSED(tier_sync(t, stream, error), ZDS_ERR_IO,
            "memory tier gpu: work on a stream has failed: something on the stream has failed");
    OK(tier_sync(t, stream, error));
    tier_stream_destroy(t, stream);
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

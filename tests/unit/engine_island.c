/* An engine whose memory is on the island, a device without hardware: the host's bits at every
 * stage and precision, in every order that streams allow, with states there and in the host's
 * memory; a caller with a stream of its own; work that fails late. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine_where.h"
#include "small_model.h"
#include "tier_harness.h"

enum { STEPS = 3 };

static zds_engine *create(const char *optimizer, const char *more, const char *zds)
{
    char json[512];
    zds_config_context context = {.struct_size = sizeof context, .world_size = 1};
    zds_engine_options o = {.struct_size = sizeof o, .threads = 2, .seed = 5};
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *e = NULL;
    zds_model *m = NULL;
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"optimizer\": {\"type\": \"%s\"}%s%s%s}",
             optimizer, more, zds ? ", \"zds\": " : "", zds ? zds : "");
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    cr_assert_eq(zds_config_load(json, &context, &config, &error), ZDS_OK, "%s", error.text);
    cr_assert_eq(small_model(&m), ZDS_OK);
    cr_assert_eq(zds_engine_create(config, m, &o, &e, &error), ZDS_OK, "%s: %s", json, error.text);
    zds_model_destroy(m);
    cr_assert_eq(zds_set_values(e, small_values, NULL), ZDS_OK, "%s", zds_engine_error(e));
    return e; /* the config stays as long as the process */
}

static uint64_t trained(const char *optimizer, const char *more, const char *zds)
{
    zds_engine *e = create(optimizer, more, zds);
    small_sum sum;
    for (uint64_t i = 0; i < STEPS * (uint64_t)zds_accumulation_steps(e); i++)
        cr_assert_eq(small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(small_hash(e, &sum), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert(sum.finite);
    zds_engine_destroy(e);
    return sum.hash;
}

#define SEED(n) "{\"device\": \"test\", \"tiers\": {\"test\": {\"params\": {\"seed\": " #n "}}}}"

Test(engine_island, gives_the_bits_of_the_host)
{
    static const char *const optimizers[] = {"AdamW", "Lamb",    "Muon",      "SGD",
                                             "Lion",  "Adagrad", "Adafactor", "AdamW8bit"};
    static const char *const more[] = {
        "",
        ", \"zero_optimization\": {\"stage\": 1}",
        ", \"gradient_accumulation_steps\": 2, \"zero_optimization\": {\"stage\": 2}",
        ", \"bf16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 2}",
        ", \"bf16\": {\"enabled\": true}, \"gradient_accumulation_steps\": 2",
        ", \"fp16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 1}",
        ", \"fp16\": {\"enabled\": true}, \"gradient_accumulation_steps\": 2"};
    static const char *const zds[] = {SEED(1), SEED(2), SEED(3)};
    for (size_t o = 0; o < sizeof optimizers / sizeof *optimizers; o++)
        for (size_t i = 0; i < sizeof more / sizeof *more; i++)
            cr_expect_eq(trained(optimizers[o], more[i], zds[(o + i) % 3]),
                         trained(optimizers[o], more[i], NULL), "%s%s", optimizers[o], more[i]);
}

/* One that reads the sums of whole tensors before its steps, on the island. */
Test(engine_island, tells_the_sums_of_tensors_in_its_memory)
{
    static const char *const more[] = {
        "", ", \"bf16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 1}"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        cr_expect_eq(trained("OneBitLamb", more[i], SEED(2)), trained("OneBitLamb", more[i], NULL),
                     "%s", more[i]);
}

/* Masters and states in the host's memory come and go by a ring of windows, of which this model's
 * parameters fill several. */
Test(engine_island, streams_what_rests_in_the_hosts_memory)
{
    static const char *const optimizers[] = {"AdamW",   "Lamb",      "Lion",
                                             "Adagrad", "AdamW8bit", "Rprop"};
    static const char *const more[] = {
        ", \"zero_optimization\": {\"stage\": 1, \"offload_optimizer\": {\"device\": \"cpu\"}}",
        ", \"bf16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 2, "
        "\"offload_optimizer\": {\"device\": \"cpu\"}}",
        ", \"fp16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 2, "
        "\"offload_optimizer\": {\"device\": \"cpu\"}}"};
    static const char *const zds[] = {SEED(1), SEED(2), SEED(3)};
    small_width = 160;
    for (size_t o = 0; o < sizeof optimizers / sizeof *optimizers; o++)
        for (size_t i = 0; i < sizeof more / sizeof *more; i++)
            cr_expect_eq(trained(optimizers[o], more[i], zds[(o + i) % 3]),
                         trained(optimizers[o], more[i], NULL), "%s%s", optimizers[o], more[i]);
}

/* One module of so many parameters of each of two sizes. */
typedef struct sizes {
    int small, large;
    int64_t small_size, large_size;
} sizes;

static zds_engine *create_of(const sizes *s, const char *optimizer, const char *more,
                             const zds_plugin *const *plugins)
{
    char json[400], name[16];
    zds_config_context context = {.struct_size = sizeof context, .world_size = 1};
    const zds_engine_options o = {.struct_size = sizeof o, .threads = 1, .plugins = plugins};
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *e = NULL;
    zds_model *m = zds_model_create();
    cr_assert_eq(zds_model_add_module(m, "m", NULL), ZDS_OK);
    for (int i = 0; i < s->small + s->large; i++) {
        const int64_t shape[] = {i < s->small ? s->small_size : s->large_size};
        snprintf(name, sizeof name, "p%d", i);
        const zds_param_desc desc = {
            .struct_size = sizeof desc, .name = name, .shape = shape, .ndim = 1};
        cr_assert_eq(zds_model_add_param(m, 0, &desc, NULL), ZDS_OK);
    }
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, \"optimizer\": "
             "{\"type\": \"%s\"}%s}",
             optimizer, more);
    cr_assert_eq(zds_config_load(json, &context, &config, &error), ZDS_OK, "%s", error.text);
    cr_assert_eq(zds_engine_create(config, m, &o, &e, &error), ZDS_OK, "%s: %s", json, error.text);
    zds_model_destroy(m);
    cr_assert_eq(zds_set_values(e, small_values, NULL), ZDS_OK, "%s", zds_engine_error(e));
    return e; /* the config stays as long as the process */
}

static void step_once(zds_engine *e, uint64_t k)
{
    static float gradient[1 << 23];
    zds_view view;
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &view), ZDS_OK);
    for (size_t i = 0; i < view.count; i++) {
        cr_assert_leq(view.slots[i].count, sizeof gradient / sizeof *gradient);
        for (uint64_t j = 0; j < view.slots[i].count; j++)
            gradient[j] = small_number(k + i, j);
        cr_assert_eq(zds_copy_in(e, view.slots[i].grad, gradient, view.slots[i].count * 4), ZDS_OK);
    }
    cr_assert_eq(zds_grad_ready(e, 0, NULL), ZDS_OK);
    cr_assert_eq(zds_step(e, NULL), ZDS_OK, "%s", zds_engine_error(e));
}

static uint64_t trained_on(const sizes *s, const char *optimizer, const char *more)
{
    small_sum sum = {.finite = true};
    zds_engine *e = create_of(s, optimizer, more, NULL);
    for (uint64_t k = 0; k < 4; k++)
        step_once(e, k);
    for (int i = 0; i < s->small + s->large; i++)
        cr_assert_eq(zds_get_values(e, (uint32_t)i, NULL, small_add, &sum), ZDS_OK);
    cr_assert(sum.finite);
    zds_engine_destroy(e);
    return sum.hash;
}

#define ON_DEVICE ", \"zds\": {\"device\": \"test\"}"
#define RESTS                                                                                      \
    ON_DEVICE                                                                                      \
    ", \"zero_optimization\": {\"stage\": 1, \"offload_optimizer\": {\"device\": \"cpu\"}}"

/* More windows than the ring has buffers: of many tiles, which a window's room for tiles ends, of
 * one full tile, and of what is left. */
Test(engine_island, a_ring_goes_round)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Lamb"};
    const sizes s = {200, 1, 1026, (1 << 21) + 1026};
    for (size_t o = 0; o < sizeof optimizers / sizeof *optimizers; o++) {
        uint64_t host = trained_on(&s, optimizers[o], "");
        cr_expect_eq(trained_on(&s, optimizers[o], ON_DEVICE), host, "%s", optimizers[o]);
        cr_expect_eq(trained_on(&s, optimizers[o], RESTS), host, "%s", optimizers[o]);
    }
}

/* Small parameters whose states are large blocks share a window. */
Test(engine_island, streams_states_that_are_large_blocks)
{
    const char *blocky = TEST_BINARY_DIR "/tests/plugins/blocky.so";
    const sizes s = {63, 2, 32770, 65536};
    setenv("ZDS_TEST_OPTIM", blocky, 1);
    uint64_t host = trained_on(&s, blocky, "");
    cr_expect_eq(trained_on(&s, "Momentum", ON_DEVICE), host);
    cr_expect_eq(trained_on(&s, "Momentum", RESTS), host);
}

/* === how often an optimizer is called === */

static atomic_int calls;
static atomic_llong elements;

static zds_status describe_none(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param, (void)needs;
    return ZDS_OK;
}

static zds_status count_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)ctx;
    calls++;
    for (size_t i = 0; i < tiles->count; i++)
        elements += (long long)zds_tile_at(tiles, i)->count;
    return ZDS_OK;
}

static const zds_optim_ops counting_ops = {.struct_size = sizeof counting_ops,
                                           .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                           .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                           .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                           .output_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                           .describe = describe_none,
                                           .step = count_step};
static const zds_plugin counting = {.struct_size = sizeof counting,
                                    .kind = ZDS_KIND_OPTIM,
                                    .name = "Counted",
                                    .version = "1",
                                    .doc = "counts its calls",
                                    .ops = &counting_ops};

static int calls_of_a_step(const sizes *s, const char *more)
{
    static const zds_plugin *const linked[] = {&counting, NULL};
    calls = 0;
    elements = 0;
    zds_engine *e = create_of(s, "Counted", more, where_plugins(linked));
    step_once(e, 0);
    zds_engine_destroy(e);
    cr_expect_eq(elements, s->small * s->small_size + s->large * s->large_size);
    return calls;
}

/* A call is a kernel's launch on a device, so it gets 2^21 elements; on the host, where threads
 * share them, 2^16. */
Test(engine_island, a_device_s_window_is_one_call)
{
    const sizes s = {3, 1, 40000, 5000000};
    cr_expect_eq(calls_of_a_step(&s, ""), 3 + 77);
    setenv("ZDS_TEST_DEVICE", "test", 1);
    cr_expect_eq(calls_of_a_step(&s, ON_DEVICE), 1 + 3);
}

/* The gradients' memory is taken anew while the device is still stepping with them. */
Test(engine_island, a_late_step_keeps_its_gradients)
{
    zds_engine *e = create("AdamW", ", \"bf16\": {\"enabled\": true}",
                           "{\"device\": \"test\", \"tiers\": {\"test\": {\"params\": "
                           "{\"delay_us\": 20000}}}}");
    cr_assert_eq(small_micro(e, ZDS_BOUNDARY_YES, 0, NULL), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_NO), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(small_passes(e, 1, 1), ZDS_OK);
    cr_assert_eq(zds_step(e, NULL), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(small_micro(e, ZDS_BOUNDARY_YES, 2, NULL), ZDS_OK, "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_island, what_cannot_be_streamed_is_refused)
{
    zds_config_context context = {.struct_size = sizeof context, .world_size = 1};
    zds_engine_options o = {.struct_size = sizeof o, .threads = 1};
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *e = NULL;
    zds_model *m = NULL;
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    cr_assert_eq(zds_config_load("{\"train_batch_size\": 1, \"optimizer\": {\"type\": \"Muon\"},"
                                 "\"zero_optimization\": {\"stage\": 1, \"offload_optimizer\": "
                                 "{\"device\": \"cpu\"}}, \"zds\": {\"device\": \"test\"}}",
                                 &context, &config, &error),
                 ZDS_OK, "%s", error.text);
    cr_assert_eq(small_model(&m), ZDS_OK);
    cr_expect_eq(zds_engine_create(config, m, &o, &e, &error), ZDS_ERR_UNSUPPORTED);
    cr_expect(error.text && strstr(error.text, "offload_optimizer"), "%s", error.text);
    zds_error_clear(&error);
    zds_model_destroy(m);
    zds_config_destroy(config);
}

/* Events for which no stream can wait are waited for by the host, before what comes after them is
 * put on a stream: the ring's three streams and a caller's. */
#define NO_WAIT(seed)                                                                              \
    "{\"device\": \"test\", \"tiers\": {\"test\": {\"params\": {\"stream_wait\": false, "          \
    "\"delay_us\": 500, \"seed\": " #seed "}}}}"

Test(engine_island, events_without_stream_wait_are_waited_for)
{
    static const char *const more[] = {
        ", \"bf16\": {\"enabled\": true}, \"gradient_accumulation_steps\": 2",
        ", \"zero_optimization\": {\"stage\": 1, \"offload_optimizer\": {\"device\": \"cpu\"}}"};
    static const char *const zds[] = {NO_WAIT(1), NO_WAIT(2), NO_WAIT(3)};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        for (size_t k = 0; k < sizeof zds / sizeof *zds; k++)
            cr_expect_eq(trained("Lamb", more[i], zds[k]), trained("Lamb", more[i], NULL), "%s%s",
                         more[i], zds[k]);
}

/* === a caller with a stream === */

/* The gradients of a module come from a kernel of the caller's, which is late. */
static void write_late(tier *t, const zds_stream *stream, const zds_slot *slot, double value)
{
    const tier_order order = {.stream = stream};
    zds_error error = ZDS_ERROR_INIT;
    slab view;
    cr_assert_eq(
        tier_adopt(t, slot->grad, slot->count * zds_dtype_size(slot->dtype), &view, &error), ZDS_OK,
        "%s", error.text);
    cr_assert_eq(
        tier_fill(tier_in(&view, 0), slot->dtype, value, slot->count, &order, NULL, &error), ZDS_OK,
        "%s", error.text);
    tier_free(&view);
}

static uint64_t trained_by_stream(tier *t, const zds_stream *stream, const char *zds)
{
    zds_engine *e = create("AdamW", ", \"gradient_clipping\": 0", zds);
    small_sum sum;
    zds_view view;
    for (int i = 0; i < STEPS; i++) {
        cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
        for (uint32_t m = SMALL_MODULES; m-- > 0;) {
            cr_assert_eq(zds_acquire(e, m, ZDS_BACKWARD, stream, &view), ZDS_OK, "%s",
                         zds_engine_error(e));
            cr_assert_eq(view.stride, sizeof *view.slots);
            for (size_t s = 0; s < view.count; s++)
                if (view.slots[s].grad && !view.slots[s].accumulate)
                    write_late(t, stream, &view.slots[s], 0.5 + 0.25 * i);
                else if (view.slots[s].grad)
                    cr_assert_eq(zds_grad_none(e, m, (uint32_t)s), ZDS_OK);
            cr_assert_eq(zds_grad_ready(e, m, stream), ZDS_OK, "%s", zds_engine_error(e));
        }
        cr_assert_eq(zds_step(e, NULL), ZDS_OK, "%s", zds_engine_error(e));
    }
    cr_assert_eq(small_hash(e, &sum), ZDS_OK);
    zds_engine_destroy(e);
    return sum.hash;
}

/* What is copied out is what the engine has put there last, whoever waits for the stream. */
Test(engine_island, copies_come_after_the_step)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, "{\"delay_us\": 300, \"seed\": 9}");
    zds_stream *stream;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(tier_stream_create(t, &stream, &error), ZDS_OK, "%s", error.text);
    zds_engine *e = create("SGD", ", \"gradient_clipping\": 0",
                           "{\"device\": \"test\", \"tiers\": {\"test\": {\"params\": "
                           "{\"delay_us\": 20000, \"seed\": 3}}}}");
    zds_view view;
    float before, after, settled;
    cr_assert_eq(zds_acquire(e, 2, ZDS_FORWARD, NULL, &view), ZDS_OK);
    cr_assert_eq(zds_copy_out(e, &before, view.slots[0].data, sizeof before), ZDS_OK);
    cr_assert_eq(zds_release(e, 2, NULL), ZDS_OK);
    cr_assert_eq(small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(zds_acquire(e, 2, ZDS_FORWARD, stream, &view), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(zds_copy_out(e, &after, view.slots[0].data, sizeof after), ZDS_OK);
    cr_assert_eq(zds_release(e, 2, stream), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 2, ZDS_FORWARD, NULL, &view), ZDS_OK);
    cr_assert_eq(zds_copy_out(e, &settled, view.slots[0].data, sizeof settled), ZDS_OK);
    cr_expect_neq(before, settled);
    cr_expect_eq(after, settled);
    /* Ends that are exchanged are a mistake that changes nothing. */
    cr_expect_eq(zds_copy_out(e, (void *)(uintptr_t)view.slots[0].data, &after, sizeof after),
                 ZDS_ERR_INVALID);
    cr_expect_eq(zds_copy_out(e, &after, view.slots[0].data, sizeof after), ZDS_OK, "%s",
                 zds_engine_error(e));
    zds_engine_destroy(e);
    tier_stream_destroy(t, stream);
    tier_close(t);
    world_end(&w);
}

Test(engine_island, waits_for_a_callers_stream)
{
    world w = world_make();
    tier *t = tier_make(&w, "island", ISLAND, "{\"delay_us\": 300, \"seed\": 9}");
    zds_error error = ZDS_ERROR_INIT;
    zds_stream *stream;
    cr_assert_eq(tier_stream_create(t, &stream, &error), ZDS_OK, "%s", error.text);
    /* Without a stream the fills wait themselves. */
    uint64_t want = trained_by_stream(t, NULL, SEED(4));
    cr_expect_eq(trained_by_stream(t, stream, SEED(4)), want);
    cr_expect_eq(trained_by_stream(t, stream, NO_WAIT(4)), want);
    tier_stream_destroy(t, stream);
    tier_close(t);
    world_end(&w);
}

/* === what fails late === */

Test(engine_island, tells_what_has_failed_late)
{
    int told = 0;
    for (int after = 60; after < 160; after += 7) {
        char zds[128];
        snprintf(
            zds, sizeof zds,
            "{\"device\": \"test\", \"tiers\": {\"test\": {\"params\": {\"fail_after\": %d}}}}",
            after);
        zds_engine *e = create("AdamW", "", zds);
        zds_status status = ZDS_OK;
        for (uint64_t i = 0; !status && i < 20; i++)
            status = small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL);
        if (status) {
            cr_expect(*zds_engine_error(e), "no text for status %d", status);
            cr_expect_neq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK, "it goes on");
            told++;
        }
        zds_engine_destroy(e);
    }
    cr_expect_gt(told, 10);
}

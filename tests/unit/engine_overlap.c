/* Updates beside backward (zds.overlap_step): the bits of a step that waits for the whole backward,
 * wherever parameters, masters and states are; what may not be known by then is refused, and what
 * calls may no longer do is. */
#include "small_engine.h"

#define MODEST TEST_BINARY_DIR "/tests/plugins/modest_comm.so:modest"
#define PARAM  ", \"max_in_cpu\": 0"
#define WAITS  ", \"pipeline_write\": false"
#define NVME   "\"device\": \"nvme\", \"nvme_path\": \"" TEST_BINARY_DIR "\""

static const char *backend; /* NULL: the one that is chosen */

static const char *config_of(int stage, bool overlap, const char *zero, const char *more)
{
    static char json[1000];
    char comm[200] = "";
    if (backend)
        snprintf(comm, sizeof comm, "\"comm\": \"%s\", ", backend);
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, "
             "\"zero_optimization\": {\"stage\": %d%s}%s, \"zds\": {%s\"overlap_step\": %s}}",
             stage, zero, more, comm, overlap ? "true" : "false");
    return json;
}

static zds_engine *open_engine(const char *json, int size, const char *optimizer)
{
    return small_open(
        json, size,
        (zds_engine_options){
            .threads = 2, .optimizer = optimizer, .trust_config_plugins = true, .seed = 3});
}

/* A micro step in which this rank reports some modules not at all, and some without gradients. */
static void micro(zds_engine *e, uint64_t number)
{
    zds_view view;
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    for (uint32_t m = 0; m < SMALL_MODULES; m++) {
        WORKS(zds_acquire(e, m, ZDS_FORWARD, NULL, &view));
        WORKS(zds_release(e, m, NULL));
    }
    uint64_t seed = 100 + number * 64 + (uint64_t)zds_rank(e) * 16;
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        bool skips = number % 3 == 1 && m == 1, none = number % 3 == 2 && m % 2 == 0;
        if (skips && zds_rank(e) == 0)
            continue;
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        for (uint32_t s = 0; s < view.count; s++) {
            if (!view.slots[s].grad)
                continue;
            if ((none && zds_rank(e) == zds_world_size(e) - 1) || (number % 4 == 3 && s == 1))
                WORKS(zds_grad_none(e, m, s));
            else
                WORKS(small_gradient(e, &view.slots[s], seed, 1));
        }
        WORKS(zds_grad_ready(e, m, NULL));
    }
    WORKS(zds_step(e, NULL));
}

/* Modules are acquired by all ranks alike where they gather them. */
static bool may_skip(const char *zero)
{
    return !strstr(zero, "offload_param") && !backend && !on_island();
}

static uint64_t train(zds_engine *e, bool skips, uint64_t micros)
{
    small_sum sum;
    for (uint64_t i = 0; i < micros; i++)
        if (skips)
            micro(e, i);
        else
            WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL));
    WORKS(small_hash(e, &sum));
    NEED(zds_rank(e) || sum.finite, "not finite");
    return sum.hash;
}

#define BF16 ", \"bf16\": {\"enabled\": true, \"check_grad_overflow\": false}"
#define TWO  ", \"gradient_accumulation_steps\": 2"

static const char *const sections[] = {"", BF16, TWO, TWO BF16};

static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Lion", "Muon"};

static void compare(int rank, int size, int stage, const char *zero, const char *more,
                    const char *optimizer)
{
    bool skips = may_skip(zero);
    zds_engine *e = open_engine(config_of(stage, false, zero, more), size, optimizer);
    uint64_t plain = train(e, skips, 8);
    small_end(e);
    e = open_engine(config_of(stage, true, zero, more), size, optimizer);
    NEED(train(e, skips, 8) == plain || rank, "stage %d%s%s, %s: other bits", stage, zero, more,
         optimizer);
    small_end(e);
}

static void in_memory(int rank, int size)
{
    for (int stage = 0; stage <= 3; stage++)
        for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
            compare(rank, size, stage, i == 1 ? ", \"overlap_comm\": false" : "", sections[i],
                    optimizers[((size_t)stage + i) % 4]);
}

Test(engine_overlap, leaves_the_bits_of_a_step_that_waits, .timeout = 300)
{
    for (int size = 1; size <= 3; size++) {
        run(size, true, in_memory);
        backend = size > 1 && !on_island() ? MODEST : NULL;
        if (backend)
            run(size, true, in_memory);
        backend = NULL;
    }
}

/* Several loads a span, and spans of less than one. */
static void in_files(int rank, int size)
{
    static const char *const zero[] = {
        ", \"offload_optimizer\": {" NVME "}",
        ", \"offload_optimizer\": {" NVME ", \"buffer_count\": 1}",
        ", \"offload_optimizer\": {" NVME ", \"ratio\": 0.4, \"pipeline_read\": false}",
        ", \"offload_param\": {" NVME PARAM "}",
        ", \"offload_param\": {" NVME PARAM "}, \"offload_optimizer\": {" NVME WAITS "}",
    };
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++) {
        small_width = i % 2 || on_island() ? 24 : 400; /* a device's load is larger */
        compare(rank, size, 3, zero[i], sections[i % 4], i % 2 ? "AdamW" : "Lion");
    }
    small_width = 24;
}

Test(engine_overlap, leaves_them_where_masters_and_states_are_files, .timeout = 300)
{
    for (int size = 1; size <= (on_island() ? 2 : 3); size++)
        run(size, true, in_files);
}

/* What travels as integers does so at the same places. */
static void as_integers(int rank, int size)
{
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        compare(rank, size, 3,
                ", \"zero_quantized_weights\": true, \"zero_quantized_gradients\": true",
                sections[i], "AdamW");
}

Test(engine_overlap, leaves_them_where_gradients_are_integers)
{
    for (int size = 2; size <= 3; size++) {
        backend = on_island() ? NULL : MODEST;
        run(size, true, as_integers);
        backend = NULL;
    }
}

/* The last module is updated before the first is reported. */
static void begins_early(int rank, int size)
{
    zds_engine *e = open_engine(config_of(1, true, "", ""), size, "AdamW");
    zds_view view;
    float before = 0, after = 0;
    (void)rank;
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    WORKS(zds_acquire(e, 3, ZDS_FORWARD, NULL, &view));
    const float *at = view.slots[0].data;
    WORKS(zds_copy_out(e, &before, at, sizeof before));
    WORKS(zds_release(e, 3, NULL));
    for (uint32_t m = SMALL_MODULES; m-- > 1;) {
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad)
                WORKS(small_gradient(e, &view.slots[s], 7, 1));
        WORKS(zds_grad_ready(e, m, NULL));
    }
    WORKS(zds_copy_out(e, &after, at, sizeof after));
    if (size == 1) /* with more, the owner of its first element may be behind */
        NEED(before != after, "module 3 is not updated while backward is at module 1");
    WORKS(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &view));
    WORKS(small_gradient(e, &view.slots[0], 7, 1));
    WORKS(zds_grad_ready(e, 0, NULL));
    WORKS(zds_step(e, NULL));
    small_end(e);
}

Test(engine_overlap, updates_while_backward_goes_on)
{
    run(1, true, begins_early);
    run(2, true, begins_early);
}

/* Gradients of one micro step pass: no rank has memory of more than two modules' parts, till
 * several are added up. */
static uint64_t row_bytes(zds_engine *e, const char *purpose)
{
    zds_memory_row row;
    uint64_t bytes = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        if (strcmp(row.purpose, purpose) == 0)
            bytes += row.bytes;
    return bytes;
}

enum { DEEP_ELEMENTS = 40000 };
static uint32_t deep = 12;

static zds_status deep_model(zds_model **out)
{
    const int64_t shape = DEEP_ELEMENTS;
    zds_model *m = zds_model_create();
    for (uint32_t i = 0; i < deep; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        const zds_param_desc d = {
            .struct_size = sizeof d, .name = name, .shape = &shape, .ndim = 1};
        if (zds_model_add_module(m, name, NULL) || zds_model_add_param(m, i, &d, NULL))
            return ZDS_ERR_MEMORY;
    }
    *out = m;
    return ZDS_OK;
}

static void deep_micro(zds_engine *e, int32_t boundary, uint64_t seed)
{
    zds_view view;
    WORKS(zds_micro_begin(e, boundary));
    for (uint32_t m = deep; m-- > 0;) {
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        WORKS(small_gradient(e, &view.slots[0], seed + (uint64_t)zds_rank(e), 1));
        WORKS(zds_grad_ready(e, m, NULL));
    }
    WORKS(zds_step(e, NULL));
}

static uint64_t deep_hash(zds_engine *e)
{
    small_sum sum = {.hash = 1};
    for (uint32_t m = 0; m < deep; m++)
        WORKS(zds_get_values(e, m, NULL, small_add, &sum));
    return sum.hash;
}

static void gradients_pass(int rank, int size)
{
    static const char *const zero[] = {"", ", \"offload_param\": {" NVME PARAM
                                           "}, \"offload_optimizer\": {" NVME "}"};
    small_make = deep_model;
    for (size_t i = size == 1; i < 2; i++) {
        uint64_t plain = 0;
        for (int overlap = 0; overlap < 2; overlap++) {
            zds_engine *e = open_engine(config_of(3, overlap, zero[i], ""), size, "AdamW");
            const uint64_t part = DEEP_ELEMENTS * sizeof(float) / (uint64_t)size, room = 4096,
                           kept = row_bytes(e, "gradients");
            NEED(overlap ? kept <= 2 * (part + room) : kept >= deep * part, "%llu of %llu",
                 (unsigned long long)kept, (unsigned long long)part);
            for (uint64_t k = 0; k < 6; k++)
                deep_micro(e, k == 3 ? ZDS_BOUNDARY_NO : ZDS_BOUNDARY_AUTO, 100 * k);
            NEED(row_bytes(e, "gradients") >= deep * part, "passing, but added up");
            uint64_t sum = deep_hash(e);
            NEED(rank || !overlap || sum == plain, "%s: other bits", zero[i]);
            plain = sum;
            small_end(e);
        }
    }
}

Test(engine_overlap, gradients_of_one_micro_step_pass)
{
    ON_HOST_ALONE("a device's queue may read them late");
    for (int size = 1; size <= 3; size++)
        run(size, true, gradients_pass);
}

/* Of two modules nothing is saved, and of one that is most of the model. */
static void few_modules(int rank, int size)
{
    uint64_t plain = 0;
    small_make = deep_model;
    deep = 2;
    for (int overlap = 0; overlap < 2; overlap++) {
        zds_engine *e = open_engine(config_of(2, overlap, "", ""), size, "AdamW");
        for (uint64_t k = 0; k < 3; k++)
            deep_micro(e, ZDS_BOUNDARY_AUTO, 100 * k);
        uint64_t sum = deep_hash(e);
        NEED(rank || !overlap || sum == plain, "other bits");
        plain = sum;
        small_end(e);
    }
}

Test(engine_overlap, gradients_of_two_modules_have_room)
{
    for (int size = 2; size <= 3; size++)
        run(size, true, few_modules);
}

/* A buffer is not written over while what it had before is on its way to a slow disk. */
static float trained[DEEP_ELEMENTS];

static zds_status keep_values(void *user, uint32_t param, uint64_t first, uint64_t count,
                              const float *values)
{
    (void)user, (void)param;
    memcpy(trained + first, values, count * sizeof *values);
    return ZDS_OK;
}

static void slow_disk(int rank, int size)
{
    static const char *const states[] = {"", ", \"offload_optimizer\": {" NVME
                                             ", \"ratio\": 0.5, \"buffer_count\": 2}"};
    (void)rank;
    small_make = deep_model;
    for (size_t i = 0; i < 2; i++) {
        char zero[600];
        snprintf(zero, sizeof zero, ", \"offload_param\": {" NVME PARAM "}%s", states[i]);
        zds_engine *e = open_engine(
            config_of(3, true, zero, ", \"aio\": {\"queue_depth\": 1, \"block_size\": 4096}"), size,
            "AdamW");
        for (uint64_t k = 0; k < 4; k++) {
            deep_micro(e, ZDS_BOUNDARY_AUTO, 100 * k);
            for (uint32_t m = 0; m < deep; m++) {
                zds_view view;
                WORKS(zds_get_values(e, m, NULL, keep_values, NULL));
                WORKS(zds_broadcast(e, trained, sizeof trained, 0));
                WORKS(zds_acquire(e, m, ZDS_FORWARD, NULL, &view));
                NEED(memcmp(view.slots[0].data, trained, sizeof trained) == 0,
                     "module %u of step %d is not what was trained", m, (int)k);
                WORKS(zds_release(e, m, NULL));
            }
        }
        small_end(e);
    }
}

Test(engine_overlap, what_is_acquired_is_what_was_trained)
{
    ON_HOST_ALONE("memory of a device is not looked into");
    for (int size = 1; size <= 2; size++)
        run(size, true, slow_disk);
}

/* === what is refused === */

static void expect_no_engine(const char *json, const char *optimizer, const char *word)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_engine_options o = {.struct_size = sizeof o, .threads = 1, .optimizer = optimizer};
    cr_assert_eq(zds_config_load(where_config(json), NULL, &config, &error), ZDS_OK, "%s",
                 error.text);
    cr_assert_eq(small_model(&model), ZDS_OK);
    zds_status status = zds_engine_create(config, model, &o, &e, &error);
    cr_expect(status && error.text && strstr(error.text, "overlap_step") &&
                  strstr(error.text, word),
              "no \"%s\" in %s", word, error.text ? error.text : "");
    zds_error_clear(&error);
    zds_engine_destroy(e);
    zds_model_destroy(model);
    zds_config_destroy(config);
}

Test(engine_overlap, is_refused_where_a_step_needs_all_gradients)
{
    where_search();
    expect_no_engine("{\"train_micro_batch_size_per_gpu\": 1, \"zds\": {\"overlap_step\": true}}",
                     "AdamW", "gradient_clipping");
    expect_no_engine("{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, \"fp16\": "
                     "{\"enabled\": true}, "
                     "\"zds\": {\"overlap_step\": true}}",
                     "AdamW", "loss scale");
    expect_no_engine("{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, \"bf16\": "
                     "{\"enabled\": true}, "
                     "\"zds\": {\"overlap_step\": true}}",
                     "AdamW", "bf16.check_grad_overflow");
    expect_no_engine("{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, \"zds\": "
                     "{\"overlap_step\": true}, "
                     "\"zero_optimization\": {\"stage\": 2, \"ignore_unused_parameters\": false}}",
                     "AdamW", "ignore_unused_parameters");
    expect_no_engine(config_of(1, true, "", ""), "Lamb", "norms of tensors");
    expect_no_engine(config_of(1, true, "", ""), "SGD", "list of all gradients");
    expect_no_engine(config_of(1, true, "", ""), "OneBitAdam", "by itself");
}

static void misuse(int rank, int size)
{
    zds_engine *e = open_engine(config_of(1, true, "", ""), size, "AdamW"),
               *other = open_engine(config_of(1, false, "", ""), size, "AdamW");
    zds_view view, again;
    small_sum sum, expected;
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_YES));
    TOLD(e, zds_set_lr(e, ZDS_ALL_GROUPS, 0.5), ZDS_ERR_INVALID, "zds_micro_begin");
    TOLD(e, zds_get_values(e, 0, NULL, small_add, &sum), ZDS_ERR_INVALID, "after zds_step");
    WORKS(zds_acquire(e, 2, ZDS_FORWARD, NULL, &view));
    WORKS(zds_acquire(e, 3, ZDS_FORWARD, NULL, &view));
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        if (m == 1) { /* passes over module 2, which is held */
            TOLD(e, zds_acquire(e, 1, ZDS_BACKWARD, NULL, &view), ZDS_ERR_INVALID, "h.1");
            WORKS(zds_release(e, 2, NULL));
        }
        if (m == 2)
            continue;
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad)
                WORKS(small_gradient(e, &view.slots[s], 100 + 16 * (uint64_t)rank, 1));
        if (m == 3) {
            TOLD(e, zds_grad_ready(e, m, NULL), ZDS_ERR_INVALID, "head");
            WORKS(zds_release(e, m, NULL));
        }
        TOLD(e, zds_micro_abandon(e), ZDS_ERR_UNSUPPORTED, "overlap_step");
        WORKS(zds_grad_ready(e, m, NULL));
        TOLD(e, zds_acquire(e, m, ZDS_FORWARD, NULL, &again), ZDS_ERR_INVALID, "after zds_step");
    }
    TOLD(e, zds_finish(e, NULL), ZDS_ERR_UNSUPPORTED, "overlap_step");
    WORKS(zds_step(e, NULL));
    WORKS(zds_acquire(e, 3, ZDS_FORWARD, NULL, &view));
    WORKS(zds_release(e, 3, NULL));
    /* None of it left a trace. */
    zds_engine *first = e;
    WORKS(small_hash(e, &sum));
    e = other;
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_YES));
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        if (m == 2)
            continue;
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad)
                WORKS(small_gradient(e, &view.slots[s], 100 + 16 * (uint64_t)rank, 1));
        WORKS(zds_grad_ready(e, m, NULL));
    }
    WORKS(zds_step(e, NULL));
    WORKS(small_hash(e, &expected));
    NEED(rank || sum.hash == expected.hash, "other bits");
    small_end(e);
    small_end(first);
}

Test(engine_overlap, calls_that_come_too_late_are_told_and_change_nothing)
{
    run(1, true, misuse);
    run(2, true, misuse);
}

/* A rank that opened no backward gives up: it counts as zeros. A step without any gradient changes
 * nothing. */
static void without_gradients(int rank, int size)
{
    for (int overlap = 0; overlap < 2; overlap++) {
        static uint64_t plain;
        zds_engine *e = open_engine(config_of(2, overlap, "", ""), size, "AdamW");
        zds_step_result r = {.struct_size = sizeof r};
        small_sum sum;
        for (uint64_t i = 0; i < 5; i++) {
            WORKS(zds_micro_begin(e, ZDS_BOUNDARY_YES));
            if (i == 2 || (i % 2 && rank == 0))
                WORKS(zds_micro_abandon(e));
            else
                WORKS(small_passes(e, i, 1));
            WORKS(zds_step(e, &r));
            NEED(r.applied == (i != 2 && (size > 1 || i % 2 == 0)), "step %d", (int)i);
        }
        WORKS(small_hash(e, &sum));
        NEED(rank || !overlap || sum.hash == plain, "other bits");
        plain = sum.hash;
        small_end(e);
    }
}

Test(engine_overlap, ranks_without_gradients_count_as_zeros)
{
    run(1, true, without_gradients);
    run(2, true, without_gradients);
}

static void not_finite(int rank, int size)
{
    zds_engine *e = open_engine(config_of(size % 3, true, "", ""), size, "AdamW");
    zds_view view;
    zds_status status = ZDS_OK;
    const float none = NAN;
    WORKS(small_micro(e, ZDS_BOUNDARY_YES, 0, NULL));
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_YES));
    for (uint32_t m = SMALL_MODULES; !status && m-- > 0;) {
        status = zds_acquire(e, m, ZDS_BACKWARD, NULL, &view);
        for (size_t s = 0; !status && s < view.count; s++)
            if (view.slots[s].grad)
                status = small_gradient(e, &view.slots[s], 7, 1);
        if (!status && m == 2 && rank == size - 1)
            WORKS(zds_copy_in(e, view.slots[0].grad, &none, sizeof none));
        if (!status)
            status = zds_grad_ready(e, m, NULL);
    }
    if (!status)
        status = zds_step(e, NULL);
    bool owner = status == ZDS_ERR_OVERFLOW;
    NEED(owner || (status == ZDS_ERR_PEER && size > 1), "%s: %s", zds_status_name(status),
         zds_engine_error(e));
    NEED(!owner || strstr(zds_engine_error(e), "h.1"), "%s", zds_engine_error(e));
    NEED(zds_micro_begin(e, ZDS_BOUNDARY_YES), "goes on");
    zds_engine_destroy(e);
}

Test(engine_overlap, a_gradient_that_is_not_finite_ends_the_run_and_names_its_module)
{
    for (int size = 1; size <= 3; size++)
        run(size, true, not_finite);
}

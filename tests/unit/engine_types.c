/* Parameters that are fp32 in a run of 16 bits. They are trained as in a run of fp32, and the
 * others as without them. */
#include "optim_list.h"
#include "small_engine.h"

enum { ALL = (1 << SMALL_PARAMS) - 1 };

static zds_status try_open(const char *json, int size, uint32_t fp32, zds_engine **e,
                           zds_error *error)
{
    small_fp32 = fp32;
    return small_try_open(json, size, (zds_engine_options){.threads = 1, .seed = 3}, e, error);
}

static zds_engine *open_engine(const char *json, int size, uint32_t fp32)
{
    small_fp32 = fp32;
    return small_open(json, size, (zds_engine_options){.threads = 1, .seed = 3});
}

typedef struct setup {
    const char *optimizer, *options;
    int stage, accumulation;
    const char *clip, *more;
} setup;

static const char *config_of(const setup *s, const char *precision)
{
    static char json[800];
    int n =
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_accumulation_steps\": %d, "
                 "\"gradient_clipping\": %s, \"zero_optimization\": {\"stage\": %d%s}, "
                 "\"optimizer\": {\"type\": \"%s\", \"params\": %s}%s}",
                 s->accumulation, s->clip, s->stage, s->more, s->optimizer, s->options, precision);
    NEED(n > 0 && n < (int)sizeof json, "long");
    return json;
}

static const char bf16[] = ", \"bf16\": {\"enabled\": true}",
                  fp16[] = ", \"fp16\": {\"enabled\": true, \"loss_scale\": 16}";

static void train(zds_engine *e, uint64_t micro_steps)
{
    for (uint64_t micro = 0; micro < micro_steps; micro++)
        WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, micro, NULL));
}

/* Of parameter p, with its states. */
static uint64_t hash_one(zds_engine *e, uint32_t p)
{
    small_sum sum = {.hash = 1};
    const char *name;
    WORKS(zds_get_values(e, p, NULL, small_add, &sum));
    for (uint32_t i = 0; (name = zds_state_name(e, p, i)); i++)
        WORKS(zds_get_values(e, p, name, small_add, &sum));
    return sum.hash;
}

static void close_engine(zds_engine *e)
{
    WORKS(zds_barrier(e));
    zds_engine_destroy(e);
}

/* === all of them === */

static void all_fp32(int rank, const setup *s, int size, const char *precision)
{
    zds_engine *plain = open_engine(config_of(s, ""), size, 0);
    zds_engine *e = open_engine(config_of(s, precision), size, ALL);
    train(plain, 6);
    train(e, 6);
    for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
        uint64_t theirs = hash_one(plain, p), ours = hash_one(e, p);
        NEED(rank || theirs == ours, "%s %s, stage %d, parameter %u%s", s->optimizer, s->options,
             s->stage, p, precision);
    }
    close_engine(e);
    close_engine(plain);
}

static void optimizers(int rank, int size)
{
    static const optim_case more[] = {{"", "Muon", "{}"},
                                      {"", "Adafactor", "{\"lr\": 1e-3}"},
                                      {"", "OneBitAdam", "{\"freeze_step\": 2}"},
                                      {"", "OneBitLamb", "{\"freeze_step\": 2}"},
                                      {"", "ZeroOneAdam", "{\"var_freeze_step\": 2}"}};
    for (size_t i = 0; i < OPTIM_CASES + sizeof more / sizeof *more; i++) {
        const optim_case *o = i < OPTIM_CASES ? &optim_cases[i] : &more[i - OPTIM_CASES];
        bool reduces = strstr(o->name, "One") != NULL;
        for (int stage = 0; stage <= (reduces ? 0 : 2); stage++) {
            const setup s = {o->name, o->options, stage, 1 + stage % 2, "1.0", ""};
            all_fp32(rank, &s, size, bf16);
        }
    }
}

Test(engine_types, all_in_fp32_is_a_run_of_fp32, .timeout = 240)
{
    ON_HOST_ALONE("the island has few of the optimizers");
    run(1, true, optimizers);
    run(2, true, optimizers);
}

static const setup setups[] = {
    {"AdamW", "{}", 0, 1, "1.0", ""},
    {"AdamW", "{}", 1, 3, "0.1", ", \"reduce_bucket_size\": 1"},
    {"AdamW", "{}", 2, 1, "0.1", ", \"reduce_bucket_size\": 1, \"overlap_comm\": true"},
    {"AdamW", "{}", 2, 3, "1.0", ", \"overlap_comm\": false"},
    {"AdamW", "{}", 2, 2, "1.0", ", \"reduce_scatter\": false"},
    {"AdamW", "{}", 1, 1, "1.0", ", \"offload_optimizer\": {\"device\": \"cpu\"}"}};
enum { SETUPS = sizeof setups / sizeof *setups };

static void layouts(int rank, int size)
{
    for (int w = 24; w <= (on_island() ? 24 : 40); w += 16)
        for (size_t i = 0; i < SETUPS; i++)
            for (int half = 0; half < (on_island() ? 1 : 2); half++) {
                small_width = w;
                all_fp32(rank, &setups[i], size, half ? fp16 : bf16);
            }
}

Test(engine_types, in_every_layout, .timeout = 240)
{
    run(1, true, layouts);
    run(2, true, layouts);
    run(3, true, layouts);
}

/* === some of them === */

static zds_status keep(void *user, uint32_t param, uint64_t first, uint64_t count,
                       const float *values)
{
    (void)param;
    memcpy((float *)user + first, values, count * sizeof *values);
    return ZDS_OK;
}

/* Where micro steps are added up before they are reduced, or after, the sums are rounded in another
 * order; which one it is depends on how much memory that saves. */
static void expect_near(int rank, zds_engine *e, zds_engine *other, uint32_t p)
{
    static float ours[8192], theirs[8192];
    WORKS(zds_get_values(e, p, NULL, keep, ours));
    NEED(!zds_get_values(other, p, NULL, keep, theirs), "%s", zds_engine_error(other));
    for (size_t i = 0; !rank && i < 8192; i++)
        NEED(fabsf(ours[i] - theirs[i]) < 1e-5f, "parameter %u: %g, not %g", p, ours[i], theirs[i]);
}

/* Without clipping no parameter knows of another. */
static void some_fp32(int rank, int size)
{
    static const uint32_t masks[] = {1u << 6, 1u << 0 | 1u << 2, 1u << SMALL_FROZEN | 1u << 3};
    for (size_t i = 0; i < SETUPS; i++)
        for (size_t m = 0; m < sizeof masks / sizeof *masks; m++) {
            setup s = setups[i];
            s.clip = "0";
            zds_engine *wide = open_engine(config_of(&s, ""), size, 0);
            zds_engine *narrow = open_engine(config_of(&s, bf16), size, 0);
            zds_engine *e = open_engine(config_of(&s, bf16), size, masks[m]);
            train(wide, 6);
            train(narrow, 6);
            train(e, 6);
            for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
                bool is_wide = masks[m] >> p & 1;
                zds_engine *other = is_wide ? wide : narrow;
                if (size > 1 && s.stage == 2 && s.accumulation > 1)
                    expect_near(rank, e, other, p);
                uint64_t ours = hash_one(e, p), theirs = hash_one(other, p);
                NEED(rank || ours == theirs || (size > 1 && s.stage == 2 && s.accumulation > 1),
                     "setup %zu, mask %zu, parameter %u", i, m, p);
            }
            NEED(zds_param_dtype(e) == ZDS_BF16, "the run's type");
            for (uint32_t k = 0; k < SMALL_MODULES; k++) {
                zds_view view;
                WORKS(zds_acquire(e, k, ZDS_FORWARD, NULL, &view));
                for (size_t t = 0; t < view.count; t++) {
                    const zds_slot *slot = &view.slots[t];
                    zds_dtype dtype = masks[m] >> slot->param & 1 ? ZDS_F32 : ZDS_BF16;
                    NEED(slot->dtype == dtype && slot->grad_dtype == dtype, "type of %u",
                         slot->param);
                    NEED((uintptr_t)slot->data % 64 == 0, "alignment of %u", slot->param);
                }
                WORKS(zds_release(e, k, NULL));
            }
            close_engine(e);
            close_engine(narrow);
            close_engine(wide);
        }
}

Test(engine_types, some_in_fp32_leave_the_others_alone, .timeout = 240)
{
    run(1, true, some_fp32);
    run(2, true, some_fp32);
}

/* More micro steps than the config foresees; all modules held at once. */
static void unforeseen(int rank, int size)
{
    for (int stage = 0; stage <= 3; stage++) {
        const setup s = {"AdamW", "{}", stage, 1, "1.0", ""};
        zds_engine *plain = open_engine(config_of(&s, ""), size, 0);
        zds_engine *e = open_engine(config_of(&s, bf16), size, ALL);
        NEED(!zds_set_train_batch_size(plain, 3 * size), "%s", zds_engine_error(plain));
        WORKS(zds_set_train_batch_size(e, 3 * size));
        train(plain, 6);
        train(e, 6);
        for (uint32_t p = 0; p < SMALL_PARAMS; p++) {
            uint64_t theirs = hash_one(plain, p), ours = hash_one(e, p);
            NEED(rank || theirs == ours, "stage %d, parameter %u", stage, p);
        }
        close_engine(e);
        close_engine(plain);
    }
}

Test(engine_types, accumulation_that_was_not_foreseen)
{
    run(1, true, unforeseen);
    run(2, true, unforeseen);
}

/* === what it takes, and what is refused === */

static uint64_t bytes_of(const zds_engine *e, const char *purpose)
{
    zds_memory_row row = {.struct_size = sizeof row};
    uint64_t sum = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        sum += strcmp(row.purpose, purpose) == 0 ? row.bytes : 0;
    return sum;
}

static void memory(int rank, int size)
{
    (void)rank, (void)size;
    const setup s = {"AdamW", "{}", 0, 1, "1.0", ""};
    small_width = 64;
    zds_engine *narrow = open_engine(config_of(&s, bf16), 1, 0);
    zds_engine *e = open_engine(config_of(&s, bf16), 1, 1u << 0); /* the table */
    const uint64_t table = 6 * 64 * 64;
    NEED(bytes_of(e, "parameters") == bytes_of(narrow, "parameters") + 2 * table, "parameters");
    NEED(bytes_of(e, "gradients") == bytes_of(narrow, "gradients") + 2 * table, "gradients");
    NEED(bytes_of(e, "master weights") + 4 * table == bytes_of(narrow, "master weights"),
         "it is its own master");
    NEED(bytes_of(e, "optimizer states") == bytes_of(narrow, "optimizer states"), "states");
    close_engine(e);
    close_engine(narrow);
}

Test(engine_types, an_fp32_parameter_is_its_own_master)
{
    run(1, true, memory);
}

static void refused(int rank, int size)
{
    (void)rank, (void)size;
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *e = NULL;
    const setup s = {"AdamW", "{}", 1, 1, "1.0", ""};
    const char *json =
        config_of(&s, ", \"bf16\": {\"enabled\": true, \"bf16_master_weights_and_grads\": true}");
    NEED(try_open(json, 1, 1u << 6, &e, &error) == ZDS_ERR_UNSUPPORTED &&
             strstr(error.text, "norm.weight") &&
             strstr(error.text, "bf16.bf16_master_weights_and_grads"),
         "%s", error.text);
    NEED(!try_open(json, 1, 1u << SMALL_FROZEN, &e, &error), "a frozen one has no master");
    zds_engine_destroy(e);
}

Test(engine_types, masters_of_16_bits_are_refused)
{
    run(1, true, refused);
}

static void differ(int rank, int size)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *e = NULL;
    const setup s = {"AdamW", "{}", 1, 1, "1.0", ""};
    NEED(try_open(config_of(&s, bf16), size, rank ? 1u << 6 : 0, &e, &error) == ZDS_ERR_DIVERGED &&
             strstr(error.text, "norm.weight"),
         "%s", error.text);
}

Test(engine_types, ranks_that_differ_are_told_of_which)
{
    run(2, true, differ);
}

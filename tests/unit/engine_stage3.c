/* Ranks that keep their parts of parameters: every module is whole while it is acquired, whatever
 * there is room for, in whatever order, and what is trained is what stage 2 trains. On the host
 * with a backend that shares no pages, and with one that does; on the island without saying so. */
#include "small_engine.h"

static const char *backend;              /* NULL: the one that is chosen */
static const zds_plugin *const *program; /* plugins of the program's own */

/* `zero`: further keys of the section; `more`: sections. */
static const char *config_at(int stage, const char *zero, const char *more)
{
    static char json[1000];
    char comm[200] = "";
    if (backend)
        snprintf(comm, sizeof comm, ", \"zds\": {\"comm\": \"%s\"}", backend);
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_clipping\": 0, "
             "\"zero_optimization\": {\"stage\": %d%s}%s%s}",
             stage, zero, more, comm);
    return json;
}

static zds_engine *open_engine(const char *json, int size, const char *optimizer, bool everywhere)
{
    return small_open(json, size,
                      (zds_engine_options){.threads = 1,
                                           .optimizer = optimizer,
                                           .values_everywhere = everywhere,
                                           .plugins = program,
                                           .trust_config_plugins = true});
}

/* What a module's caller reads is the same in both. */
static void compare(zds_engine *e, const zds_view *view, zds_engine *other, const zds_view *theirs)
{
    enum { SOME = 16384 };
    static char here[SOME], there[SOME];
    for (size_t s = 0; s < view->count; s++) {
        size_t size = zds_dtype_size(view->slots[s].dtype);
        NEED(view->slots[s].count * size <= SOME, "a parameter of the test is too large");
        WORKS(zds_copy_out(e, here, view->slots[s].data, view->slots[s].count * size));
        NEED(!zds_copy_out(other, there, theirs->slots[s].data, theirs->slots[s].count * size),
             "%s", zds_engine_error(other));
        NEED(memcmp(here, there, view->slots[s].count * size) == 0, "slot %zu of parameter %u", s,
             view->slots[s].param);
    }
}

static void visit(zds_engine *e, zds_engine *other, uint32_t module)
{
    zds_view view, theirs;
    WORKS(zds_acquire(e, module, ZDS_FORWARD, NULL, &view));
    NEED(!zds_acquire(other, module, ZDS_FORWARD, NULL, &theirs), "%s", zds_engine_error(other));
    compare(e, &view, other, &theirs);
    WORKS(zds_release(e, module, NULL));
    NEED(!zds_release(other, module, NULL), "%s", zds_engine_error(other));
}

typedef enum order { STRAIGHT, SKIPS, RETURNS, HOLDS_ALL, EVALUATES, ORDERS } order;

/* A micro step of both; forward in some order, backward as it must be. */
static void micro(zds_engine *e, zds_engine *other, order way, uint64_t number)
{
    zds_view views[SMALL_MODULES], view, theirs;
    for (uint32_t m = SMALL_MODULES; way == EVALUATES && m-- > 0;)
        visit(e, other, m);
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    NEED(!zds_micro_begin(other, ZDS_BOUNDARY_AUTO), "%s", zds_engine_error(other));
    for (uint32_t m = 0; m < SMALL_MODULES; m++) {
        if (way == HOLDS_ALL)
            WORKS(zds_acquire(e, m, ZDS_FORWARD, NULL, &views[m]));
        else if (way != SKIPS || (m + number) % 3)
            visit(e, other, m);
        if (way == RETURNS && m == 2)
            visit(e, other, 0);
    }
    uint64_t seed = 100 + number * 64 + (uint64_t)zds_rank(e) * 16;
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
        NEED(!zds_acquire(other, m, ZDS_BACKWARD, NULL, &theirs), "%s", zds_engine_error(other));
        compare(e, &view, other, &theirs);
        for (size_t s = 0; s < view.count; s++)
            if (view.slots[s].grad) {
                WORKS(small_gradient(e, &view.slots[s], seed, (float)zds_loss_scale(e)));
                NEED(!small_gradient(other, &theirs.slots[s], seed, (float)zds_loss_scale(other)),
                     "%s", zds_engine_error(other));
            }
        WORKS(zds_grad_ready(e, m, NULL));
        NEED(!zds_grad_ready(other, m, NULL), "%s", zds_engine_error(other));
        if (way == HOLDS_ALL)
            WORKS(zds_release(e, m, NULL));
    }
    WORKS(zds_step(e, NULL));
    NEED(!zds_step(other, NULL), "%s", zds_engine_error(other));
}

#define KEEP(n)  ", \"stage3_param_persistence_threshold\": " #n
#define LIVE(n)  ", \"stage3_max_live_parameters\": " #n
#define AHEAD(n) ", \"stage3_prefetch_bucket_size\": " #n
#define REUSE(n) ", \"stage3_max_reuse_distance\": " #n

static const char *const rooms[] = {
    KEEP(0),
    KEEP(0) LIVE(1) AHEAD(0),
    KEEP(0) LIVE(1),
    KEEP(0) LIVE(9000) AHEAD(3000),
    KEEP(0) REUSE(0),
    KEEP(200) LIVE(6000),
    KEEP(200) ", \"stage3_model_persistence_threshold\": 400",
    "",
};

static const char *const precisions[] = {
    "",
    ", \"bf16\": {\"enabled\": true}",
    ", \"bf16\": {\"enabled\": true}, \"gradient_accumulation_steps\": 3",
    ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 3}",
};

static void rooms_and_orders(int rank, int size)
{
    for (size_t r = 0; r < sizeof rooms / sizeof *rooms; r++)
        for (int o = 0; o < ORDERS; o++) {
            const char *precision = precisions[(r + (size_t)o) % 4];
            small_fp32 = o == SKIPS ? 1u << 6 | 1u << 0 : 0;
            zds_engine *e = open_engine(config_at(3, rooms[r], precision), size, "AdamW", o % 2);
            zds_engine *two = open_engine(config_at(2, "", precision), size, "AdamW", false);
            for (uint64_t i = 0; i < 6; i++)
                micro(e, two, (order)o, i);
            NEED(small_bits(e) == small_bits(two) || rank, "rooms %zu, order %d", r, o);
            small_end(e);
            small_end(two);
        }
}

static void on_all(const int *sizes, size_t count, void (*body)(int rank, int size))
{
    for (size_t i = on_island() ? count - 1 : 0; i < count; i++) {
        backend = on_island() ? NULL : TEST_BINARY_DIR "/tests/plugins/modest_comm.so:modest";
        run(sizes[i], true, body);
        backend = NULL;
        if (!on_island())
            run(sizes[i], true, body);
    }
}

Test(engine_stage3, modules_are_whole_in_any_room_and_order, .timeout = 300)
{
    on_all((int[]){1, 2, 3}, 3, rooms_and_orders);
}

/* Element-wise, in blocks, and of whole matrices. */
static void optimizers(int rank, int size)
{
    static const char *const names[] = {"SGD", "Lion", "Adagrad", "AdamW8bit", "Muon", "Adafactor"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t p = 0; p < 2; p++) {
            zds_engine *e =
                open_engine(config_at(3, rooms[2 * p], precisions[p]), size, names[i], false);
            zds_engine *two = open_engine(config_at(2, "", precisions[p]), size, names[i], false);
            for (uint64_t k = 0; k < 4; k++)
                micro(e, two, STRAIGHT, k);
            /* Adafactor adds over parts, which are others here. */
            NEED(small_bits(e) == small_bits(two) || rank || i == 5, "%s, %s", names[i],
                 precisions[p]);
            small_end(e);
            small_end(two);
        }
}

Test(engine_stage3, every_kind_of_optimizer_trains_as_at_stage_2, .timeout = 120)
{
    on_all((int[]){2, 4}, 2, optimizers);
}

/* === what it takes, and what it refuses === */

typedef struct taken {
    uint64_t params, gathered, shared;
} taken;

static taken memory_of(zds_engine *e)
{
    taken t = {0};
    zds_memory_row row;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++) {
        if (!strcmp(row.purpose, "parameters")) {
            t.params += row.bytes;
            t.shared += row.shared;
        }
        t.gathered += strcmp(row.purpose, "gathered parameters") ? 0 : row.peak;
    }
    return t;
}

/* Elements, each parameter padded to 16 and each span to what ranks share equally; the table of the
 * small model, its largest module, is a span of its own. */
static void parts(int rank, int size)
{
    const uint64_t w = 96, table = 6 * w * w, whole = table + 7 * w * w + 3 * w + w + w + 1;
    small_width = (int64_t)w;
    for (int kept = 0; kept < 2; kept++) {
        zds_engine *e = open_engine(config_at(3, kept ? KEEP(400) LIVE(1) : KEEP(0) LIVE(1), ""),
                                    size, "AdamW", false);
        taken t = memory_of(e);
        uint64_t slack = 4 * 5 * 16 * (uint64_t)size, small = kept ? 5 * w + 1 : 0;
        if (backend || on_island()) {
            uint64_t want = 4 * (whole - small) / (uint64_t)size + 4 * small;
            NEED(t.params >= want && t.params <= want + slack, "%llu bytes, not %llu",
                 (unsigned long long)t.params, (unsigned long long)want);
            uint64_t most = 4 * (table + (kept ? 0 : 3 * w)); /* of h.0 */
            NEED(t.gathered >= most && t.gathered <= most + slack, "%llu bytes gathered",
                 (unsigned long long)t.gathered);
        } else { /* one copy for the node, and nothing is gathered */
            NEED(t.params == t.shared && !t.gathered, "%llu bytes, %llu shared",
                 (unsigned long long)t.params, (unsigned long long)t.shared);
        }
        small_end(e);
    }
    small_width = 24;
    (void)rank;
}

Test(engine_stage3, ranks_take_memory_for_their_parts_and_one_module)
{
    on_all((int[]){2, 3}, 2, parts);
}

static void refusals(int rank, int size)
{
    (void)rank;
    zds_engine *e = open_engine(config_at(3, KEEP(0), ""), size, "AdamW", false);
    zds_engine *two = open_engine(config_at(2, "", ""), size, "AdamW", false);
    zds_view view;
    micro(e, two, STRAIGHT, 0);
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    WORKS(zds_acquire(e, 1, ZDS_FORWARD, NULL, &view));
    NEED(zds_step(e, NULL) == ZDS_ERR_INVALID && strstr(zds_engine_error(e), "h.0") &&
             !strstr(zds_engine_error(e), "strict"),
         "%s", zds_engine_error(e));
    WORKS(zds_release(e, 1, NULL));
    NEED(zds_release(e, 1, NULL) == ZDS_ERR_INVALID, "released twice");
    if (backend || on_island())
        NEED(zds_micro_abandon(e) == ZDS_ERR_UNSUPPORTED && strstr(zds_engine_error(e), "zds_fail"),
             "%s", zds_engine_error(e));
    else
        WORKS(zds_micro_abandon(e));
    WORKS(zds_step(e, NULL));
    for (uint64_t i = 1; i < 4; i++)
        micro(e, two, HOLDS_ALL, i);
    NEED(small_bits(e) == small_bits(two) || rank, "what was refused has changed something");
    small_end(e);
    small_end(two);
}

Test(engine_stage3, misuse_is_refused_and_changes_nothing)
{
    on_all((int[]){2}, 1, refusals);
}

/* Rank 1 gives up, before its forward, in it, or in its backward; the others go on. */
static void given_up(int rank, int size)
{
    for (int when = 0; when < 3; when++) {
        zds_engine *e = open_engine(config_at(3, KEEP(0) LIVE(1), ""), size, "AdamW", false);
        zds_engine *once = open_engine(config_at(3, KEEP(0) LIVE(1), ""), size, "AdamW", false);
        zds_step_result r = {.struct_size = sizeof r};
        zds_view view;
        WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, 0, NULL));
        WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
        if (rank != 1) {
            WORKS(small_passes(e, 1, 1));
        } else {
            for (uint32_t m = 0; when && m < (when == 1 ? 2 : SMALL_MODULES); m++) {
                WORKS(zds_acquire(e, m, ZDS_FORWARD, NULL, &view));
                WORKS(zds_release(e, m, NULL));
            }
            for (uint32_t m = SMALL_MODULES; when == 2 && m-- > 2;) {
                WORKS(zds_acquire(e, m, ZDS_BACKWARD, NULL, &view));
                if (m == 3)
                    WORKS(zds_grad_ready(e, m, NULL));
            }
            WORKS(zds_micro_abandon(e));
        }
        WORKS(zds_step(e, &r));
        NEED(when == 2 ? r.skipped : r.applied, "gave up at %d", when);
        /* Without rank 1 its gradients are zeros; or nothing has happened. */
        WORKS(small_micro(once, ZDS_BOUNDARY_AUTO, 0, NULL));
        WORKS(zds_micro_begin(once, ZDS_BOUNDARY_AUTO));
        WORKS(small_passes(once, 1, rank == 1 ? 0 : 1));
        if (when == 2)
            WORKS(zds_finish(once, NULL));
        WORKS(when == 2 ? zds_discard(once, NULL) : zds_step(once, NULL));
        for (uint64_t i = 2; i < 5; i++) {
            WORKS(small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL));
            WORKS(small_micro(once, ZDS_BOUNDARY_AUTO, i, NULL));
        }
        NEED(small_bits(e) == small_bits(once) || rank, "gave up at %d", when);
        small_end(e);
        small_end(once);
    }
}

Test(engine_stage3, a_rank_that_gives_up_takes_part_in_what_the_others_gather, .timeout = 120)
{
    on_all((int[]){2, 3}, 2, given_up);
}

/* Ranks that go through modules in other orders hear of it, where modules are gathered. */
static void orders(int rank, int size)
{
    zds_view view;
    if (!backend)
        return;
    zds_engine *e = open_engine(config_at(3, KEEP(0), ""), size, "AdamW", false);
    zds_status status = zds_acquire(e, rank ? 1 : 2, ZDS_FORWARD, NULL, &view);
    if (!status)
        status = zds_acquire(e, 3, ZDS_FORWARD, NULL, &view);
    NEED(status == ZDS_ERR_DIVERGED || status == ZDS_ERR_PEER, "%s", zds_status_name(status));
    NEED(strstr(zds_engine_error(e), "parameters of module h."), "%s", zds_engine_error(e));
    zds_engine_destroy(e);
}

Test(engine_stage3, ranks_in_other_orders_hear_of_it)
{
    on_all((int[]){2}, 1, orders);
}

/* === parameters that rest elsewhere === */

#define FILES(stay)                                                                                \
    ", \"offload_param\": {\"device\": \"nvme\", \"nvme_path\": \"" TEST_BINARY_DIR                \
    "\", \"max_in_cpu\": " #stay "}"
#define STATES                                                                                     \
    ", \"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"" TEST_BINARY_DIR            \
    "\", \"buffer_count\": 2}"

static const char *const in_files[] = {FILES(0) KEEP(0) LIVE(1), FILES(0) KEEP(200),
                                       FILES(0) KEEP(0) STATES, FILES(3000) KEEP(0) LIVE(6000),
                                       FILES(3000) KEEP(0) AHEAD(0) STATES};
static const char *const on_host[] = {
    ", \"offload_param\": {\"device\": \"cpu\"}" STATES,
    FILES(0) ", \"offload_optimizer\": {\"device\": \"cpu\"}" KEEP(0),
    ", \"offload_param\": {\"device\": \"cpu\"}" KEEP(0) LIVE(1),
    ", \"offload_param\": {\"device\": \"cpu\"}, \"offload_optimizer\": {\"device\": \"cpu\"}"};

static uint64_t bytes_elsewhere(zds_engine *e, const char *tier)
{
    zds_memory_row row;
    uint64_t bytes = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        if (strcmp(row.tier, tier) == 0 && strcmp(row.purpose, "parameters") == 0)
            bytes += row.bytes;
    return bytes;
}

static void elsewhere(int rank, int size)
{
    static const char *all[16];
    size_t count = 0;
    for (size_t i = 0; i < sizeof in_files / sizeof *in_files; i++)
        all[count++] = in_files[i];
    for (size_t i = 0; on_island() && i < sizeof on_host / sizeof *on_host; i++)
        all[count++] = on_host[i];
    for (size_t r = 0; r < count; r++)
        for (size_t p = 0; p < 4; p++) {
            /* Thirds are rounded in each micro step, or once: what has gradients in parts depends
             * on how much is padding. */
            bool few = on_island() && r >= 2 && p != r % 4;
            if ((p == 2 && size == 3) || few)
                continue;
            order way = (order)((r + p) % ORDERS);
            small_fp32 = p == 1 ? 1u << 6 | 1u << 0 : 0;
            zds_engine *e = open_engine(config_at(3, all[r], precisions[p]), size,
                                        p == 3 ? "AdamW8bit" : "AdamW", p % 2);
            zds_engine *two = open_engine(config_at(2, "", precisions[p]), size,
                                          p == 3 ? "AdamW8bit" : "AdamW", false);
            NEED(
                bytes_elsewhere(e, strstr(all[r], "param\": {\"device\": \"nvme") ? "nvme" : "cpu"),
                "all is here: %s", all[r]);
            for (uint64_t i = 0; i < 5; i++)
                micro(e, two, way, i);
            NEED(small_bits(e) == small_bits(two) || rank, "%s%s", all[r], precisions[p]);
            small_end(e);
            small_end(two);
        }
    small_fp32 = 0;
}

Test(engine_stage3, parameters_that_rest_elsewhere_are_whole_when_acquired, .timeout = 300)
{
    on_all((int[]){2, 1, 3}, on_island() ? 1 : 3, elsewhere);
}

/* Nobody writes to files what is not updated tile by tile. */
Test(engine_stage3, what_is_updated_whole_does_not_rest_elsewhere)
{
    static const char *const optimizers[] = {"Muon", "Adafactor"};
    where_search();
    for (size_t i = 0; i < 2; i++) {
        zds_error error = ZDS_ERROR_INIT;
        zds_config *config = NULL;
        zds_model *model = NULL;
        zds_engine *e = NULL;
        const zds_engine_options o = {
            .struct_size = sizeof o, .threads = 1, .optimizer = optimizers[i]};
        cr_assert(
            !zds_config_load(where_config(config_at(3, FILES(0), "")), NULL, &config, &error));
        cr_assert(!small_model(&model));
        cr_expect_eq(zds_engine_create(config, model, &o, &e, &error), ZDS_ERR_UNSUPPORTED);
        cr_expect(error.text && strstr(error.text, "delete zero_optimization.offload_param"), "%s",
                  error.text);
        zds_error_clear(&error);
        zds_model_destroy(model);
        zds_config_destroy(config);
    }
}

/* A value that is set is the one that is gathered; frozen ones are read from where they rest. */
static zds_status collect(void *user, uint32_t param, uint64_t first, uint64_t count,
                          const float *values)
{
    float *all = user;
    (void)param;
    memcpy(all + first, values, count * sizeof *values);
    return ZDS_OK;
}

static zds_status halves(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 0.5f;
    return ZDS_OK;
}

static void values_elsewhere(int rank, int size)
{
    enum { NUMEL = 6 * 24 * 24 };
    static float all[NUMEL], there[NUMEL];
    for (size_t p = 0; p < 2; p++) {
        zds_engine *e = open_engine(
            config_at(3, on_island() && p ? on_host[3] : in_files[2 * p], precisions[p]), size,
            "AdamW", false);
        zds_view view;
        WORKS(zds_get_values(e, SMALL_FROZEN, NULL, collect, all));
        for (uint64_t i = 0; !rank && i < 25; i++)
            NEED(fabsf(all[i] - small_number(SMALL_FROZEN, i)) < 4e-3f, "frozen %llu: %g",
                 (unsigned long long)i, (double)all[i]);
        WORKS(zds_acquire(e, 0, ZDS_FORWARD, NULL, &view));
        WORKS(zds_release(e, 0, NULL));
        WORKS(zds_set_state(e, 0, NULL, halves, NULL));
        WORKS(zds_acquire(e, 0, ZDS_FORWARD, NULL, &view));
        size_t bytes = NUMEL * zds_dtype_size(view.slots[0].dtype);
        WORKS(zds_copy_out(e, there, view.slots[0].data, bytes));
        for (size_t i = 0; i < NUMEL; i++)
            NEED(p ? ((uint16_t *)there)[i] == 0x3f00 : there[i] == 0.5f, "element %zu", i);
        WORKS(zds_release(e, 0, NULL));
        small_end(e);
    }
}

Test(engine_stage3, values_that_are_set_are_gathered)
{
    on_all((int[]){1, 2}, 2, values_elsewhere);
}

/* An optimizer whose blocks are no divisor of what a file system aligns. */
static zds_status thousands(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param;
    needs->granularity = 1000;
    return ZDS_OK;
}

static zds_status descend(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self;
    for (size_t k = 0; k < tiles->count; k++) {
        const zds_tile *t = zds_tile_at(tiles, k);
        float *w = t->master;
        for (uint64_t i = 0; i < t->count; i++) {
            w[i] -= 0.01f * (float)ctx->grad_scale * ((const float *)t->grad)[i];
            if (t->output)
                ((uint16_t *)t->output)[i] = bf16_from_float(w[i]);
        }
    }
    return ZDS_OK;
}

static const zds_optim_ops odd_ops = {.struct_size = sizeof odd_ops,
                                      .spaces = ZDS_SPACE_BIT(ZDS_SPACE_HOST),
                                      .grad_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                      .master_dtypes = ZDS_DTYPE_BIT(ZDS_F32),
                                      .output_dtypes = ZDS_DTYPE_BIT(ZDS_BF16),
                                      .describe = thousands,
                                      .step = descend};
static const zds_plugin odd = {.struct_size = sizeof odd,
                               .kind = ZDS_KIND_OPTIM,
                               .abi_minor = ZDS_ABI_MINOR,
                               .name = "Odd",
                               .version = "1",
                               .doc = "for tests",
                               .ops = &odd_ops};

static void odd_blocks(int rank, int size)
{
    static const zds_plugin *const linked[] = {&odd, NULL};
    small_width = 160; /* the table has two tiles */
    program = linked;
    const char *bf16 = ", \"bf16\": {\"enabled\": true}, \"data_types\": {\"grad_accum_dtype\": "
                       "\"fp32\"}";
    zds_engine *e = open_engine(config_at(3, FILES(0) KEEP(0), bf16), size, "Odd", false);
    zds_engine *two = open_engine(config_at(2, "", bf16), size, "Odd", false);
    for (uint64_t k = 0; k < 3; k++)
        NEED(!small_micro(e, ZDS_BOUNDARY_AUTO, k, NULL) &&
                 !small_micro(two, ZDS_BOUNDARY_AUTO, k, NULL),
             "%s%s", zds_engine_error(e), zds_engine_error(two));
    NEED(small_bits(e) == small_bits(two) || rank, "other bits");
    small_end(e);
    small_end(two);
    program = NULL;
    small_width = 24;
}

Test(engine_stage3, tiles_of_odd_blocks_go_to_files)
{
    ON_HOST_ALONE("the optimizer is not the island's");
    on_all((int[]){1, 2}, 2, odd_blocks);
}

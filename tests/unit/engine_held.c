/* Modules that are held together: a program that runs its whole graph, recomputation within
 * backward, counted releases; one rank and two. What comes out is what comes module by module. */
#include "small_engine.h"

enum { DEEP = 8, EMPTY = 3 };

/* Modules of one matrix each, of which one has no elements; few of their gradients are under way at
 * a time. */
static zds_status deep_model(zds_model **out)
{
    *out = zds_model_create();
    for (uint32_t m = 0; *out && m < DEEP; m++) {
        char name[8];
        snprintf(name, sizeof name, "h.%u", m);
        const zds_param_desc desc = {.struct_size = sizeof desc,
                                     .name = name,
                                     .shape = (int64_t[]){m == EMPTY ? 0 : 64, 64},
                                     .ndim = 2,
                                     .role = ZDS_ROLE_MATRIX};
        if (zds_model_add_module(*out, name, NULL) || zds_model_add_param(*out, m, &desc, NULL))
            return ZDS_ERR_INVALID;
    }
    return *out ? ZDS_OK : ZDS_ERR_MEMORY;
}

static zds_engine *open_model(const char *json, int size, zds_status (*make)(zds_model **))
{
    small_make = make;
    return small_open(json, size, (zds_engine_options){.threads = 1, .optimizer = "AdamW"});
}

static zds_engine *open_engine(const char *json, int size)
{
    return open_model(json, size, small_model);
}

static const char *at_stage(int stage, const char *more)
{
    static char json[400];
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"zero_optimization\": {\"stage\": %d, "
             "\"reduce_bucket_size\": 1}%s}",
             stage, more);
    return json;
}

static zds_view acquire(zds_engine *e, uint32_t module, int32_t pass)
{
    zds_view view;
    WORKS(zds_acquire(e, module, pass, NULL, &view));
    for (size_t s = 0; s < view.count; s++)
        NEED((uintptr_t)view.slots[s].data % 64 == 0 && (uintptr_t)view.slots[s].grad % 64 == 0,
             "slot %zu of module %u is not aligned", s, module);
    return view;
}

static void fill(zds_engine *e, const zds_view *view, uint64_t micro)
{
    const uint64_t seed = 100 + micro * 64 + (uint64_t)zds_rank(e) * 16;
    for (size_t s = 0; s < view->count; s++)
        if (view->slots[s].grad)
            WORKS(small_gradient(e, &view->slots[s], seed, (float)zds_loss_scale(e)));
}

typedef enum way { LAST_FIRST, FIRST_FIRST, TWISTED, WAYS } way;

/* All modules are acquired before the first gradient is written, as for a graph. */
static void whole_graph(zds_engine *e, uint64_t micro, way reports)
{
    static const uint32_t orders[WAYS][SMALL_MODULES] = {{3, 2, 1, 0}, {0, 1, 2, 3}, {1, 3, 0, 2}};
    zds_view views[SMALL_MODULES];
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    for (uint32_t m = 0; m < SMALL_MODULES; m++)
        acquire(e, m, ZDS_FORWARD);
    for (uint32_t m = SMALL_MODULES; m-- > 0;)
        views[m] = acquire(e, m, ZDS_BACKWARD);
    for (uint32_t m = SMALL_MODULES; m-- > 0;)
        fill(e, &views[m], micro);
    for (uint32_t m = 0; m < SMALL_MODULES; m++)
        WORKS(zds_release(e, m, NULL));
    for (uint32_t i = 0; i < SMALL_MODULES; i++)
        WORKS(zds_grad_ready(e, orders[reports][i], NULL));
    WORKS(zds_step(e, NULL));
}

static const char *const precisions[] = {
    "",
    ", \"gradient_accumulation_steps\": 2",
    ", \"bf16\": {\"enabled\": true}",
    ", \"bf16\": {\"enabled\": true}, \"gradient_accumulation_steps\": 3",
    ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 3}, "
    "\"gradient_accumulation_steps\": 2",
    ", \"bf16\": {\"enabled\": true}, \"gradient_accumulation_steps\": 2, \"zds\": {\"strict\": "
    "true}"};

static void graphs(int rank, int size)
{
    for (int stage = 0; stage <= (size == 1 ? 2 : 1); stage++)
        for (size_t p = 0; p < sizeof precisions / sizeof *precisions; p++)
            for (int reports = 0; reports < WAYS; reports++) {
                zds_engine *one = open_engine(at_stage(stage, precisions[p]), size);
                zds_engine *e = open_engine(at_stage(stage, precisions[p]), size);
                for (uint64_t micro = 0; micro < 6; micro++) {
                    NEED(!small_micro(one, ZDS_BOUNDARY_AUTO, micro, NULL), "%s",
                         zds_engine_error(one));
                    whole_graph(e, micro, (way)reports);
                }
                NEED(small_bits(e) == small_bits(one) || rank, "stage %d, %s, reports %d", stage,
                     precisions[p], reports);
                WORKS(zds_barrier(e));
                zds_engine_destroy(e);
                zds_engine_destroy(one);
            }
}

Test(engine_held, a_whole_graph_has_the_same_bits, .timeout = 120)
{
    run(1, true, graphs);
    run(2, true, graphs);
}

/* At most `most` at a time, as many as there is room for, the highest reported to make more; how
 * often there was none. */
static int crowded(zds_engine *e, uint64_t micro, uint32_t most)
{
    int refused = 0;
    uint32_t top = DEEP;
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    for (uint32_t m = DEEP; m-- > 0;) {
        zds_view view;
        zds_status status;
        if (top - m > most)
            WORKS(zds_grad_ready(e, --top, NULL));
        while ((status = zds_acquire(e, m, ZDS_BACKWARD, NULL, &view)) == ZDS_ERR_UNSUPPORTED) {
            NEED(top > m + 1, "the only one is refused: %s", zds_engine_error(e));
            NEED(strstr(zds_engine_error(e), "stage 2") &&
                     strstr(zds_engine_error(e), "zds_grad_ready"),
                 "%s", zds_engine_error(e));
            WORKS(zds_grad_ready(e, --top, NULL));
            refused++;
        }
        WORKS(status);
        fill(e, &view, micro);
    }
    while (top > 0)
        WORKS(zds_grad_ready(e, --top, NULL));
    WORKS(zds_step(e, NULL));
    return refused;
}

static uint64_t hash_deep(zds_engine *e)
{
    small_sum sum = {0};
    for (uint32_t p = 0; p < DEEP; p++)
        WORKS(zds_get_values(e, p, NULL, small_add, &sum));
    return sum.hash;
}

static void in_parts(int rank, int size)
{
    int refused = 0;
    for (size_t p = 0; p < sizeof precisions / sizeof *precisions; p += 3) {
        zds_engine *one = open_model(at_stage(2, precisions[p]), size, deep_model);
        zds_engine *e = open_model(at_stage(2, precisions[p]), size, deep_model);
        for (uint64_t micro = 0; micro < 30; micro++) {
            NEED(!crowded(one, micro, 1), "one at a time is refused");
            refused += crowded(e, micro, DEEP);
        }
        NEED(hash_deep(e) == hash_deep(one) || rank, "%s", precisions[p]);
        WORKS(zds_barrier(e));
        zds_engine_destroy(e);
        zds_engine_destroy(one);
    }
    NEED(refused, "buffers have room for all");
}

/* A module that was to be skipped can still come after the call that would have was refused. */
static void skipping(int rank, int size)
{
    zds_engine *e = open_model(at_stage(2, ""), size, deep_model);
    zds_view view;
    bool held[DEEP] = {false};
    int refused = 0;
    (void)rank;
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    for (uint32_t next = DEEP; next-- > 0;) {
        zds_status status = next ? zds_acquire(e, next - 1, ZDS_BACKWARD, NULL, &view) : ZDS_OK;
        if (next && !status) {
            next--;
        } else {
            NEED(!next || status == ZDS_ERR_UNSUPPORTED, "%s", zds_engine_error(e));
            for (uint32_t m = next + 1; m < DEEP; m++)
                if (held[m])
                    WORKS(zds_grad_ready(e, m, NULL));
            memset(held, 0, sizeof held);
            refused += next > 0;
            WORKS(zds_acquire(e, next, ZDS_BACKWARD, NULL, &view));
        }
        held[next] = true;
        fill(e, &view, 0);
    }
    for (uint32_t m = 0; m < DEEP; m++)
        if (held[m])
            WORKS(zds_grad_ready(e, m, NULL));
    WORKS(zds_step(e, NULL));
    NEED(refused, "there is room for all");
    zds_engine_destroy(e);
}

Test(engine_held, what_is_refused_leaves_the_order)
{
    run(2, true, skipping);
}

Test(engine_held, where_ranks_keep_parts_there_is_room_for_some, .timeout = 120)
{
    run(2, true, in_parts);
    run(3, true, in_parts);
}

/* === recomputation === */

static void recompute(zds_engine *e, uint64_t micro, bool again)
{
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    for (uint32_t m = 0; m < SMALL_MODULES; m++) {
        acquire(e, m, ZDS_FORWARD);
        WORKS(zds_release(e, m, NULL));
    }
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        zds_view view;
        if (m == 2 && again) { /* before the module's backward, */
            acquire(e, m, ZDS_FORWARD);
            WORKS(zds_release(e, m, NULL));
        }
        view = acquire(e, m, ZDS_BACKWARD);
        const void *grad = view.slots[0].grad;
        if (again) { /* and within it */
            zds_view seen = acquire(e, m, ZDS_FORWARD);
            for (size_t s = 0; s < view.count; s++)
                NEED(seen.slots[s].data == view.slots[s].data, "moved");
            NEED(view.slots[0].grad == grad, "the gradient has moved");
        }
        fill(e, &view, micro);
        if (again)
            WORKS(zds_release(e, m, NULL));
        WORKS(zds_grad_ready(e, m, NULL));
    }
    WORKS(zds_step(e, NULL));
}

static void recomputes(int rank, int size)
{
    for (int stage = 0; stage <= 3; stage++) {
        const char *json = at_stage(stage, precisions[5]);
        zds_engine *once = open_engine(json, size), *e = open_engine(json, size);
        for (uint64_t micro = 0; micro < 4; micro++) {
            recompute(once, micro, false);
            recompute(e, micro, true);
        }
        NEED(small_bits(e) == small_bits(once) || rank, "stage %d", stage);
        WORKS(zds_barrier(e));
        zds_engine_destroy(e);
        zds_engine_destroy(once);
    }
}

Test(engine_held, recomputation_within_backward_changes_nothing)
{
    run(1, true, recomputes);
    run(2, true, recomputes);
}

/* === what is refused, after which all goes on === */

static void refusals(int rank, int size)
{
    (void)rank;
    for (int strict = 0; strict < 2; strict++) {
        const char *json = at_stage(1, strict ? ", \"zds\": {\"strict\": true}" : "");
        zds_engine *one = open_engine(json, size), *e = open_engine(json, size);
        zds_view view, head, h1;
        NEED(!small_micro(one, ZDS_BOUNDARY_AUTO, 0, NULL), "%s", zds_engine_error(one));
        TOLD(e, zds_release(e, 1, NULL), ZDS_ERR_INVALID, "h.0 is not acquired");
        WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
        head = acquire(e, 3, ZDS_BACKWARD);
        TOLD(e, zds_release(e, 3, NULL), ZDS_ERR_INVALID, "zds_grad_ready");
        TOLD(e, zds_acquire(e, 3, ZDS_BACKWARD, NULL, &view), ZDS_ERR_INVALID, "once each");
        h1 = acquire(e, 2, ZDS_BACKWARD);
        TOLD(e, zds_acquire(e, 3, ZDS_BACKWARD, NULL, &view), ZDS_ERR_INVALID, "once each");
        TOLD(e, zds_grad_ready(e, 1, NULL), ZDS_ERR_INVALID, "not acquired");
        TOLD(e, zds_step(e, NULL), ZDS_ERR_INVALID, "head is acquired for backward, and more are");
        TOLD(e, zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID, "within a micro step");
        fill(e, &head, 0);
        fill(e, &h1, 0);
        WORKS(zds_grad_ready(e, 2, NULL));
        TOLD(e, zds_grad_ready(e, 2, NULL), ZDS_ERR_INVALID, "not acquired");
        view = acquire(e, 1, ZDS_BACKWARD);
        fill(e, &view, 0);
        WORKS(zds_grad_ready(e, 1, NULL));
        /* The table has its gradient from the head first, and this adds to it. */
        view = acquire(e, 0, ZDS_BACKWARD);
        NEED(view.slots[0].accumulate && !head.slots[1].accumulate, "who adds to whom");
        TOLD(e, zds_grad_none(e, 3, 1), ZDS_ERR_INVALID, "embed.weight");
        fill(e, &view, 0);
        WORKS(zds_grad_ready(e, 0, NULL));
        WORKS(zds_grad_ready(e, 3, NULL));
        acquire(e, 1, ZDS_FORWARD);
        acquire(e, 1, ZDS_FORWARD);
        if (strict) {
            TOLD(e, zds_step(e, NULL), ZDS_ERR_INVALID, "h.0 is acquired for forward, 2 times");
            WORKS(zds_release(e, 1, NULL));
            TOLD(e, zds_step(e, NULL), ZDS_ERR_INVALID, "h.0 is acquired for forward, 1 times");
            WORKS(zds_release(e, 1, NULL));
        }
        WORKS(zds_step(e, NULL));
        TOLD(e, zds_release(e, 1, NULL), ZDS_ERR_INVALID, "at the end of a micro step");
        NEED(small_bits(e) == small_bits(one) || rank, "refused calls have changed something");
        WORKS(zds_barrier(e));
        zds_engine_destroy(e);
        zds_engine_destroy(one);
    }
}

Test(engine_held, misuse_is_refused_and_changes_nothing)
{
    run(1, true, refusals);
    run(2, true, refusals);
}

/* One use after the other: the second overwrites what the first says is none. */
static void none_of_the_first_use(int rank, int size)
{
    (void)rank, (void)size;
    zds_engine *e = open_engine(at_stage(0, ""), 1);
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    acquire(e, 3, ZDS_BACKWARD);
    WORKS(zds_grad_none(e, 3, 0));
    WORKS(zds_grad_none(e, 3, 1));
    zds_view view = acquire(e, 0, ZDS_BACKWARD);
    NEED(!view.slots[0].accumulate == false, "the table is acquired for the head, too");
    WORKS(zds_micro_abandon(e));
    zds_step_result r = {.struct_size = sizeof r};
    WORKS(zds_step(e, &r));
    NEED(r.skipped && !r.applied, "a backward that was abandoned counts");
    /* Nothing of it is left. */
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    view = acquire(e, 0, ZDS_BACKWARD);
    NEED(!view.slots[0].accumulate, "a new step adds to an old one");
    fill(e, &view, 0);
    WORKS(zds_grad_ready(e, 0, NULL));
    WORKS(zds_step(e, &r));
    NEED(r.applied, "a step");
    zds_engine_destroy(e);
}

Test(engine_held, what_was_abandoned_is_held_no_more)
{
    run(1, true, none_of_the_first_use);
}

/* Whoever had begun no backward counts as zeros, however often it says that it gives up. */
static void twice(int rank, int size)
{
    zds_engine *e = open_engine(at_stage(1, ""), size);
    zds_step_result r = {.struct_size = sizeof r};
    WORKS(zds_micro_begin(e, ZDS_BOUNDARY_AUTO));
    if (rank == 0) {
        WORKS(zds_micro_abandon(e));
        WORKS(zds_micro_abandon(e));
    } else {
        zds_view view = acquire(e, 2, ZDS_BACKWARD);
        fill(e, &view, 0);
        WORKS(zds_grad_ready(e, 2, NULL));
    }
    WORKS(zds_step(e, &r));
    NEED(r.applied && !r.skipped, "zeros spoil the step");
    WORKS(zds_barrier(e));
    zds_engine_destroy(e);
}

Test(engine_held, giving_up_twice_is_giving_up_once)
{
    run(2, true, twice);
}

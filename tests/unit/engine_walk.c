/* A program that calls in any order, legal or not. What is refused, and what is not, is as engine.h
 * says; and what comes out has the bits of a program that makes only the calls that count, module
 * by module. */
#include "engine_world.h"
#include "small_model.h"

#define WORKS(e, call) NEED(!(call), "walk %d: %s", seed, zds_engine_error(e))

enum { WALKS = 24, CALLS = 250 };

static int seed;
static uint64_t drawn;

static uint32_t draw(uint32_t below)
{
    drawn = drawn * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(drawn >> 33) % below;
}

static zds_engine *open_engine(const char *json)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL; /* stays as long as the process */
    zds_model *model = NULL;
    zds_engine *e = NULL;
    const zds_config_context context = {.struct_size = sizeof context, .world_size = 1};
    const zds_engine_options o = {.struct_size = sizeof o, .threads = 1, .optimizer = "AdamW"};
    NEED(!zds_config_load(where_config(json), &context, &config, &error), "%s", error.text);
    NEED(!small_model(&model), "model");
    NEED(!zds_engine_create(config, model, &o, &e, &error), "%s: %s", json, error.text);
    zds_model_destroy(model);
    WORKS(e, zds_set_values(e, small_values, NULL));
    return e;
}

/* What the calls so far have come to. */
typedef struct walk {
    zds_engine *e, *plain; /* which makes the calls that count */
    bool strict, in_micro, finished, boundary, begun, given_up, spoilt;
    uint32_t accumulation, micro_of_step, lowest;
    uint64_t micro;
    bool held[SMALL_MODULES], reported[SMALL_MODULES];
    uint32_t forwards[SMALL_MODULES];
} walk;

static bool holds_any(const walk *w)
{
    bool any = false;
    for (int m = 0; m < SMALL_MODULES; m++)
        any |= w->held[m];
    return any;
}

static bool may_end(const walk *w)
{
    bool open = false;
    for (int m = 0; m < SMALL_MODULES; m++)
        open |= w->forwards[m] > 0;
    return w->in_micro && !holds_any(w) && !(w->strict && open);
}

#define EXPECT(w, wanted, call)                                                                    \
    do {                                                                                           \
        bool want_ = (wanted);                                                                     \
        zds_status got_ = (call);                                                                  \
        NEED(want_ == !got_, "walk %d, micro step %llu: %s: %s (%s)", seed,                        \
             (unsigned long long)(w)->micro, #call, zds_status_name(got_),                         \
             zds_engine_error((w)->e));                                                            \
    } while (0)

static void write_gradients(zds_engine *e, const zds_view *view, uint64_t micro)
{
    for (size_t s = 0; s < view->count; s++)
        if (view->slots[s].grad)
            WORKS(e,
                  small_gradient(e, &view->slots[s], 100 + 64 * micro, (float)zds_loss_scale(e)));
}

/* The same micro step, as a plain program would make it. */
static void follow(const walk *w, bool discard, zds_step_result *r)
{
    zds_view view;
    WORKS(w->plain, zds_micro_begin(w->plain, ZDS_BOUNDARY_AUTO));
    for (uint32_t m = SMALL_MODULES; m-- > 0;) {
        if (!w->given_up ? !w->reported[m] : !w->spoilt || m + 1 < SMALL_MODULES)
            continue;
        WORKS(w->plain, zds_acquire(w->plain, m, ZDS_BACKWARD, NULL, &view));
        if (w->given_up)
            continue;
        write_gradients(w->plain, &view, w->micro);
        WORKS(w->plain, zds_grad_ready(w->plain, m, NULL));
    }
    if (w->given_up)
        WORKS(w->plain, zds_micro_abandon(w->plain));
    if (discard)
        WORKS(w->plain, zds_finish(w->plain, NULL));
    WORKS(w->plain, discard ? zds_discard(w->plain, r) : zds_step(w->plain, r));
}

static uint64_t hash(zds_engine *e)
{
    small_sum sum;
    WORKS(e, small_hash(e, &sum));
    return sum.hash;
}

static void end_micro(walk *w)
{
    zds_step_result ours = {.struct_size = sizeof ours}, theirs = ours;
    bool discard = w->finished && draw(2), ends = may_end(w);
    EXPECT(w, ends, discard ? zds_discard(w->e, &ours) : zds_step(w->e, &ours));
    if (w->in_micro && !holds_any(w) && !w->strict)
        memset(w->forwards, 0, sizeof w->forwards);
    if (!ends)
        return;
    follow(w, discard, &theirs);
    NEED(ours.applied == theirs.applied && ours.skipped == theirs.skipped &&
             ours.steps == theirs.steps && ours.skips == theirs.skips,
         "walk %d, micro step %llu: another result", seed, (unsigned long long)w->micro);
    NEED(!w->boundary || hash(w->e) == hash(w->plain), "walk %d, micro step %llu: other bits", seed,
         (unsigned long long)w->micro);
    w->micro++;
    w->micro_of_step = w->boundary ? 0 : w->micro_of_step + 1;
    w->in_micro = w->finished = false;
    memset(w->forwards, 0, sizeof w->forwards);
}

static void begin_micro(walk *w)
{
    EXPECT(w, !w->in_micro, zds_micro_begin(w->e, ZDS_BOUNDARY_AUTO));
    if (w->in_micro)
        return;
    w->in_micro = true;
    w->begun = w->given_up = w->spoilt = false;
    w->lowest = SMALL_MODULES;
    w->boundary = w->micro_of_step + 1 >= w->accumulation;
    memset(w->reported, 0, sizeof w->reported);
}

static void give_up(walk *w)
{
    bool may = w->in_micro && !w->finished;
    EXPECT(w, may, zds_micro_abandon(w->e));
    if (!may)
        return;
    w->given_up = true;
    w->spoilt = w->begun;
    w->lowest = 0;
    memset(w->held, 0, sizeof w->held);
    memset(w->forwards, 0, sizeof w->forwards);
}

static void finish(walk *w)
{
    bool may = w->boundary && !w->finished && may_end(w);
    EXPECT(w, may, zds_finish(w->e, NULL));
    if (w->in_micro && !holds_any(w) && !w->strict)
        memset(w->forwards, 0, sizeof w->forwards);
    w->finished |= may;
}

static void call(walk *w)
{
    const uint32_t m = draw(SMALL_MODULES), what = draw(14);
    zds_view view;
    if (what < 3) {
        bool may = w->in_micro && !w->finished && m < w->lowest;
        EXPECT(w, may, zds_acquire(w->e, m, ZDS_BACKWARD, NULL, &view));
        if (!may)
            return;
        write_gradients(w->e, &view, w->micro);
        w->held[m] = w->begun = true;
        w->lowest = m;
    } else if (what < 6) {
        EXPECT(w, w->held[m], zds_grad_ready(w->e, m, NULL));
        w->reported[m] |= w->held[m];
        w->held[m] = false;
    } else if (what == 6) {
        EXPECT(w, true, zds_acquire(w->e, m, ZDS_FORWARD, NULL, &view));
        w->forwards[m]++;
    } else if (what == 7) {
        EXPECT(w, w->forwards[m] > 0, zds_release(w->e, m, NULL));
        w->forwards[m] -= w->forwards[m] > 0;
    } else if (what == 8) {
        begin_micro(w);
    } else if (what == 9 && draw(3) == 0) {
        give_up(w);
    } else if (what == 10) {
        finish(w);
    } else {
        end_micro(w);
    }
}

static void walks(int rank, int size)
{
    static const char *const precisions[] = {"", ", \"bf16\": {\"enabled\": true}",
                                             ", \"fp16\": {\"enabled\": true, \"loss_scale\": 8}"};
    (void)rank, (void)size;
    for (seed = 0; seed < WALKS; seed++) {
        char json[400];
        drawn = (uint64_t)seed * 7919 + 1;
        walk w = {.accumulation = 1 + draw(3), .strict = draw(2)};
        const char *precision = precisions[draw(3)];
        uint32_t stage = draw(4);
        w.strict |= stage == 3;
        small_fp32 = *precision ? draw(1 << SMALL_PARAMS) : 0;
        snprintf(json, sizeof json,
                 "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_accumulation_steps\": %u, "
                 "\"zero_optimization\": {\"stage\": %u, \"reduce_bucket_size\": %u}%s, \"zds\": "
                 "{\"strict\": %s}}",
                 w.accumulation, stage, draw(2) ? 1 : 5000, precision, w.strict ? "true" : "false");
        w.e = open_engine(json);
        w.plain = open_engine(json);
        for (int i = 0; i < CALLS; i++)
            call(&w);
        zds_engine_destroy(w.e);
        zds_engine_destroy(w.plain);
    }
}

Test(engine_walk, calls_in_any_order, .timeout = 240)
{
    run(1, true, walks);
}

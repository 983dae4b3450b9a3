/* The checks of a schedule: a pure function of the moves, in a struct that it keeps within. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "area.h"
#include "bench.h"
#include "numbers.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/registry.h"

enum { GROUPS = 3, MOVES = 130, TOTAL = 100, VALUE_STRIDE = sizeof(zds_sched_value) + 24 };

/* Bits of a mask, in the order of ZDS_SCHED_..., and what each names in zds_hyper. */
static const size_t fields[] = {offsetof(zds_hyper, lr),           offsetof(zds_hyper, beta1),
                                offsetof(zds_hyper, beta2),        offsetof(zds_hyper, momentum),
                                offsetof(zds_hyper, weight_decay), offsetof(zds_hyper, beta3)};
enum { FIELDS = sizeof fields / sizeof *fields };

/* An instance with what it reads and writes between guards. */
typedef struct stage {
    bench *b;
    zds_sched_ops ops;
    void *options, *self;
    bool made;
    area *base, *values;
} stage;

static zds_sched_env env_of(const area *base, int64_t total)
{
    return (zds_sched_env){.struct_size = sizeof(zds_sched_env),
                           .group_count = GROUPS,
                           .hyper_stride = base->bytes / GROUPS,
                           .base = (const zds_hyper *)(const void *)base->data,
                           .total_steps = total,
                           .warmup_steps = total > 0 ? total / 10 : -1,
                           .default_lr = 1e-3};
}

static area *make_base(void)
{
    const size_t stride = sizeof(zds_hyper) + 16; /* of a later host */
    area *base = area_make(GROUPS * stride, true, "base values", "");
    for (int g = 0; g < GROUPS; g++) {
        zds_hyper *h = (zds_hyper *)(void *)(base->data + (size_t)g * stride);
        *h = (zds_hyper){sizeof *h, 1e-3 * (g + 1), 0.9, 0.999, 0.9, 0.01 * g, NAN};
    }
    area_seal(base, true);
    return base;
}

static char *open_stage(stage *s, bench *b, const cJSON *values)
{
    char *fault = NULL;
    *s = (stage){.b = b, .base = make_base()};
    s->values = area_make(GROUPS * VALUE_STRIDE, true, "values", "");
    plugin_ops(b->plugin, &s->ops, sizeof s->ops);
    s->options = values_options(b->plugin, values, &fault);
    if (!s->options)
        return fault;
    const zds_sched_env env = env_of(s->base, TOTAL);
    bench_clear(b);
    zds_status status = s->ops.create(&b->host, s->options, &env, &s->self);
    s->made = status == ZDS_OK;
    return status ? bench_failure(b, "create", status) : NULL;
}

static void close_stage(stage *s)
{
    if (s->made)
        s->ops.destroy(s->self);
    options_destroy(s->options);
    area_free(s->values);
    area_free(s->base);
    *s = (stage){0};
}

static zds_sched_value *value_of(const stage *s, size_t g)
{
    return (zds_sched_value *)(void *)(s->values->data + g * VALUE_STRIDE);
}

static double field_of(const zds_sched_value *v, int bit)
{
    double value;
    memcpy(&value, (const char *)&v->hyper + fields[bit], sizeof value);
    return value;
}

static char *ask(stage *s, int64_t moves)
{
    memset(s->values->data, 0, s->values->bytes);
    for (size_t g = 0; g < GROUPS; g++)
        value_of(s, g)->struct_size = sizeof(zds_sched_value);
    bench_clear(s->b);
    zds_status status = s->ops.at(s->self, moves, value_of(s, 0), VALUE_STRIDE);
    if (status)
        return bench_within(bench_failure(s->b, "at", status), "move %lld", (long long)moves);
    return NULL;
}

/* What a row of answers looks like when it is kept. */
typedef struct answers {
    unsigned char rows[MOVES][GROUPS * VALUE_STRIDE];
} answers;

/* Asks for all moves, the last first if `backward`. */
static char *ask_all(stage *s, answers *into, bool backward)
{
    char *fault = NULL;
    for (int i = 0; i < MOVES && !fault; i++) {
        int move = backward ? MOVES - 1 - i : i;
        fault = ask(s, move);
        memcpy(into->rows[move], s->values->data, s->values->bytes);
    }
    return fault;
}

static bool same_value(const zds_sched_value *a, const zds_sched_value *b)
{
    bool same = a->mask == b->mask;
    for (int bit = 0; bit < FIELDS; bit++)
        same = same && number_same(field_of(a, bit), field_of(b, bit));
    return same;
}

static char *compare(const answers *a, const answers *b, const char *when)
{
    for (int m = 0; m < MOVES; m++)
        for (size_t g = 0; g < GROUPS; g++) {
            zds_sched_value x, y;
            memcpy(&x, a->rows[m] + g * VALUE_STRIDE, sizeof x);
            memcpy(&y, b->rows[m] + g * VALUE_STRIDE, sizeof y);
            if (!same_value(&x, &y))
                return fault_format("at(%d) gives group %zu lr %.9g, but %.9g %s (mask 0x%llx and "
                                    "0x%llx)",
                                    m, g, x.hyper.lr, y.hyper.lr, when, (unsigned long long)x.mask,
                                    (unsigned long long)y.mask);
        }
    return NULL;
}

/* Calls body with an instance for each option that create accepts. */
static char *each(bench *b, char *(*body)(stage *s, const cJSON *values))
{
    char *fault = NULL, *label;
    cJSON *values;
    bool any = false;
    for (size_t i = 0; !fault && (values = values_variant(b->plugin, i, &label)) != NULL; i++) {
        stage s = {0};
        bench_at("with %s", label ? label : "?");
        char *refused = open_stage(&s, b, values);
        any = any || !refused;
        if (!refused)
            fault = bench_within(body(&s, values), "with %s", label ? label : "?");
        fault_free(refused);
        close_stage(&s);
        cJSON_Delete(values);
        free(label);
    }
    if (!fault && !any)
        b->skipped = fault_format("create accepts none of the values that were tried: its options "
                                  "need each other");
    return fault;
}

/* === create === */

static zds_status make(bench *b, const void *options, void **self)
{
    zds_sched_ops ops;
    static area *base; /* outlives every instance */
    base = base ? base : make_base();
    plugin_ops(b->plugin, &ops, sizeof ops);
    const zds_sched_env env = env_of(base, TOTAL);
    return ops.create(&b->host, options, &env, self);
}

static void drop(bench *b, void *self)
{
    zds_sched_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    ops.destroy(self);
}

static const maker sched_maker = {make, drop};

static char *create_defaults(bench *b)
{
    return values_defaults(b, &sched_maker);
}

static char *create_edges(bench *b)
{
    return values_edges(b, &sched_maker);
}

/* A run that does not know its length: accepted, or refused with a reason. */
static char *create_without_total(bench *b)
{
    zds_sched_ops ops;
    void *self = NULL;
    char *fault = NULL;
    const cJSON *values = values_first(b, &sched_maker);
    void *options = values_options(b->plugin, values, &fault);
    area *base = make_base();
    const zds_sched_env env = env_of(base, -1);
    plugin_ops(b->plugin, &ops, sizeof ops);
    zds_status status = fault ? ZDS_OK : ops.create(&b->host, options, &env, &self);
    if (!fault && status && !b->error)
        fault = bench_failure(b, "create", status);
    else if (!fault && status)
        b->note = fault_format("refused: %s", b->error);
    else if (!fault)
        ops.destroy(self);
    options_destroy(options);
    area_free(base);
    return fault;
}

/* === at === */

static char *mask_fault(const stage *s, int64_t move)
{
    for (size_t g = 0; g < GROUPS; g++) {
        const zds_sched_value *v = value_of(s, g);
        if (v->mask >> FIELDS)
            return fault_format("at(%lld) sets unknown bits in the mask: 0x%llx", (long long)move,
                                (unsigned long long)v->mask);
        for (int k = 0; k < FIELDS; k++) {
            const uint64_t bit = (uint64_t)1 << k;
            double value = field_of(v, k);
            if (v->mask & bit && !isfinite(value))
                return fault_format("at(%lld) gives group %zu %g under bit 0x%llx of its mask",
                                    (long long)move, g, value, (unsigned long long)bit);
            if (!(v->mask & bit) && value != 0)
                return fault_format("at(%lld) writes %g for group %zu, but bit 0x%llx of the mask "
                                    "is not set: the value would not be used",
                                    (long long)move, value, g, (unsigned long long)bit);
        }
        if (v->struct_size != sizeof *v)
            return fault_format("at(%lld) changes struct_size", (long long)move);
        const char *behind = (const char *)(v + 1);
        for (size_t i = 0; i < VALUE_STRIDE - sizeof *v; i++)
            if (behind[i])
                return fault_format("at(%lld) writes behind the value of group %zu: use "
                                    "value_stride, not sizeof",
                                    (long long)move, g);
    }
    return area_fault(s->values);
}

static char *masks(stage *s, const cJSON *values)
{
    (void)values;
    static const int64_t far[] = {1000, 1000000, 1000000000000};
    char *fault = NULL;
    for (int64_t m = 0; m < MOVES && !fault; m++) {
        fault = ask(s, m);
        if (!fault)
            fault = mask_fault(s, m);
    }
    for (size_t i = 0; i < sizeof far / sizeof *far && !fault; i++) {
        fault = ask(s, far[i]);
        if (!fault)
            fault = mask_fault(s, far[i]);
    }
    return fault;
}

static char *honest_masks(bench *b)
{
    return each(b, masks);
}

/* In any order, again, by another instance while this one lives. */
static char *purity(stage *s, const cJSON *values)
{
    static answers first, again;
    stage other = {0};
    char *fault = ask_all(s, &first, false);
    if (!fault)
        fault = ask_all(s, &again, true);
    if (!fault)
        fault = compare(&first, &again, "when it is asked from the last move to the first");
    if (fault)
        return fault;
    fault = open_stage(&other, s->b, values);
    if (!fault)
        fault = ask_all(&other, &again, true);
    if (!fault)
        fault = compare(&first, &again, "in a second instance");
    close_stage(&other);
    return fault;
}

static char *pure(bench *b)
{
    return each(b, purity);
}

/* === observe === */

static char *tell(stage *s, double metric)
{
    bench_clear(s->b);
    zds_status status = s->ops.observe(s->self, metric);
    return status ? bench_within(bench_failure(s->b, "observe", status), "metric %g", metric)
                  : NULL;
}

/* A metric that falls, then stays, then grows; `from` on. */
static char *tell_course(stage *s, int from, int until)
{
    char *fault = NULL;
    for (int i = from; i < until && !fault; i++)
        fault = tell(s, i < 10 ? 10 - i : i < 40 ? 1 : i - 39);
    return fault;
}

static char *save_and_load(stage *s, stage *other)
{
    const uint64_t bytes = s->ops.state_bytes(s->self);
    if (bytes > 1 << 20)
        return fault_format("state_bytes says %llu", (unsigned long long)bytes);
    area *saved = area_make((size_t)bytes, true, "saved state", "");
    bench_clear(s->b);
    zds_status status = s->ops.save(s->self, saved->data);
    char *fault = status ? bench_failure(s->b, "save", status) : area_fault(saved);
    area_seal(saved, true);
    if (!fault && (status = other->ops.load(other->self, saved->data, bytes)) != ZDS_OK)
        fault = bench_failure(s->b, "load", status);
    /* A file that was cut short. */
    if (!fault && bytes && other->ops.load(other->self, saved->data, bytes - 1) == ZDS_OK)
        fault = fault_format("load accepts %llu bytes where it saved %llu",
                             (unsigned long long)bytes - 1, (unsigned long long)bytes);
    area_free(saved);
    return fault;
}

/* Two instances that were told the same say the same; a loaded one goes on. */
static char *observing(stage *s, const cJSON *values)
{
    static answers mine, theirs;
    stage other = {0}, loaded = {0};
    char *fault = open_stage(&other, s->b, values);
    if (!fault)
        fault = open_stage(&loaded, s->b, values);
    if (!fault)
        fault = tell_course(s, 0, 50);
    if (!fault)
        fault = tell_course(&other, 0, 50);
    if (!fault)
        fault = ask_all(s, &mine, false);
    if (!fault)
        fault = ask_all(&other, &theirs, false);
    if (!fault)
        fault = compare(&mine, &theirs, "in a second instance that was told the same");
    if (!fault && s->ops.state_bytes) {
        fault = save_and_load(s, &loaded);
        if (!fault)
            fault = tell_course(s, 50, 80);
        if (!fault)
            fault = tell_course(&loaded, 50, 80);
        if (!fault)
            fault = ask_all(s, &mine, false);
        if (!fault)
            fault = ask_all(&loaded, &theirs, false);
        if (!fault)
            fault = compare(&mine, &theirs, "in an instance that loaded its state");
    }
    close_stage(&loaded);
    close_stage(&other);
    return fault;
}

/* What observe is told changes nothing unless the plugin says ZDS_SCHED_OBSERVES. */
static char *deaf(stage *s, const cJSON *values)
{
    static answers before, after;
    (void)values;
    char *fault = ask_all(s, &before, false);
    if (!fault)
        fault = tell_course(s, 0, 50);
    if (!fault)
        fault = ask_all(s, &after, false);
    return fault ? fault : compare(&before, &after, "after observe, without ZDS_SCHED_OBSERVES");
}

static char *odd_metrics(stage *s, const cJSON *values)
{
    static const double odd[] = {NAN, INFINITY, -INFINITY, 0, -1e308, 1e308};
    (void)values;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) { /* refused or not, but alive */
        s->ops.observe(s->self, odd[i]);
        char *fault = ask(s, (int64_t)i);
        if (!fault)
            fault = mask_fault(s, (int64_t)i);
        if (fault)
            return bench_within(fault, "after the metric %g", odd[i]);
    }
    return NULL;
}

static char *observe(bench *b)
{
    zds_sched_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (!ops.observe) {
        b->skipped = fault_format("it does not observe");
        return NULL;
    }
    char *fault = each(b, ops.flags & ZDS_SCHED_OBSERVES ? observing : deaf);
    return fault ? fault : each(b, odd_metrics);
}

static char *life(bench *b)
{
    stage s = {0};
    const cJSON *values = values_first(b, &sched_maker);
    char *fault = open_stage(&s, b, values);
    if (!fault)
        fault = ask(&s, 1);
    if (!fault && s.ops.observe)
        fault = tell(&s, 1);
    close_stage(&s);
    return fault;
}

static char *leaks(bench *b)
{
    return bench_leaks(b, life);
}

const check checks_sched[] = {
    {"create with the defaults", create_defaults, true},
    {"create at the edges of its options", create_edges, false},
    {"create where the run's length is unknown", create_without_total, false},
    {"values, masks and strides", honest_masks, true},
    {"at is a function of the moves alone", pure, false},
    {"observe", observe, false},
    {"no leaks", leaks, false},
    {NULL, NULL, false}};

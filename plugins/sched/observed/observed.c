/* reduce_lr_on_plateau and greedy: rates that follow a metric of the run, as torch's
 * ReduceLROnPlateau and transformers 5.23's GreedyLR (arXiv 2512.14527) do. The first lowers the
 * rate when the metric no longer improves; the second also raises it while the metric keeps
 * improving, and starts anew after a long time at the least rate. */
#include <math.h>
#include <string.h>

#include "common/sched.h"

enum { MODE_MIN = 0, MODE_MAX = 1 };
enum { THRESHOLD_REL = 0, THRESHOLD_ABS = 1 };

/* One struct for both; each table has rows for the fields that its type reads. */
typedef struct observed_options {
    zds_float_list min_lr, max_lr;
    double factor, threshold, eps;
    int64_t mode, threshold_mode, patience, cooldown;
    int64_t warmup, window_size, reset_start;
    bool smooth, verbose;
} observed_options;

enum { STATE_FORMAT = 1 };

/* What a checkpoint keeps, byte for byte. */
typedef struct observed_state {
    int64_t format, group_count, window_size;
    int64_t seen; /* metrics */
    int64_t bad, good, cooldown, warmup, until_reset;
    int64_t window_used, window_next;
    double best, sum;
    double numbers[]; /* [group_count] rates, then [window_size] metrics of the average */
} observed_state;

typedef struct observed_instance {
    sched_groups groups;
    const observed_options *options;
    bool greedy;
    size_t state_bytes;
    observed_state *state;
} observed_instance;

/* === options === */

#define AT(field) offsetof(observed_options, field)

#define NUMBER(option, preset, text)                                                               \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_FLOAT, .offset = AT(option), .default_value = preset,  \
        .min = 0, .max = INFINITY, .doc = text                                                     \
    }
#define COUNT(option, preset, least, text)                                                         \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_INT, .offset = AT(option), .default_value = preset,    \
        .min = least, .max = 1e9, .doc = text                                                      \
    }
#define CHOICE(option, preset, words, text)                                                        \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_ENUM, .offset = AT(option), .default_value = preset,   \
        .choices = words, .doc = text                                                              \
    }
#define FLAG(option, text)                                                                         \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_BOOL, .offset = AT(option), .default_value = "false",  \
        .doc = text                                                                                \
    }
#define LIST(option, preset, text)                                                                 \
    {                                                                                              \
        .name = #option, .type = ZDS_OPTION_FLOAT_LIST, .offset = AT(option),                      \
        .default_value = preset, .min = 0, .max = INFINITY, .doc = text                            \
    }
#define FACTOR(preset, more, text)                                                                 \
    {                                                                                              \
        .name = "factor", .type = ZDS_OPTION_FLOAT, .flags = ZDS_OPTION_BELOW_MAX | (more),        \
        .offset = AT(factor), .default_value = preset, .min = 0, .max = 1, .doc = text             \
    }

#define SHARED_ROWS(threshold_preset, threshold_mode_preset)                                       \
    CHOICE(mode, "\"min\"", "min|max", "whether a lower or a higher metric is better"),            \
        COUNT(patience, "10", 0,                                                                   \
              "metrics in a row that must fail to improve, or improve, and "                       \
              "one more"),                                                                         \
        NUMBER(threshold, threshold_preset, "what is less than this is no improvement"),           \
        CHOICE(threshold_mode, threshold_mode_preset, "rel|abs",                                   \
               "the threshold is a part of the best metric so far, or a difference"),              \
        COUNT(cooldown, "0", 0, "metrics that do not count after the rate has fallen"),            \
        NUMBER(eps, "1e-8", "a change of the rate that is not larger than this is not made")

static const zds_option plateau_table[] = {
    FACTOR("0.1", 0, "what the rate is multiplied with"),
    SHARED_ROWS("1e-4", "\"rel\""),
    LIST(min_lr, "0", "the least rate; one for all groups, or a list of one a group"),
};

static const zds_option greedy_table[] = {
    FACTOR("0.95", ZDS_OPTION_ABOVE_MIN, "what the rate is multiplied with, or divided by"),
    SHARED_ROWS("1e-6", "\"abs\""),
    COUNT(warmup, "0", 0, "metrics that do not count after the rate has risen"),
    LIST(min_lr, "1e-3", "the least rate, one or a list"),
    LIST(max_lr, "1", "the largest rate, one or a list"),
    FLAG(smooth, "look at the mean of the last metrics, not at each"),
    COUNT(window_size, "50", 1, "how many metrics that mean is of"),
    COUNT(reset_start, "500", 0,
          "how often all rates may have been at their least before the schedule starts anew"),
    FLAG(verbose, "log each change of the rate"),
};

/* === life === */

/* At the beginning, and when greedy starts anew: no metric is known, the rates are the base's. */
static void start_anew(observed_instance *s)
{
    observed_state *now = s->state;
    int64_t seen = now->seen;
    memset(now, 0, s->state_bytes);
    now->format = STATE_FORMAT;
    now->group_count = (int64_t)s->groups.count;
    now->window_size = s->options->smooth ? s->options->window_size : 0;
    now->seen = seen;
    now->until_reset = s->options->reset_start;
    now->best = s->options->mode == MODE_MIN ? (double)INFINITY : -(double)INFINITY;
    for (size_t g = 0; g < s->groups.count; g++)
        now->numbers[g] = sched_base(&s->groups, g)->lr;
}

static void warn_of_least_rates(const observed_instance *s)
{
    for (size_t g = 0; g < s->groups.count; g++) {
        double least = sched_list_at(&s->groups, &s->options->min_lr, g, 0);
        double base = sched_base(&s->groups, g)->lr;
        if (least > base)
            s->groups.host->log(s->groups.host, ZDS_LOG_WARNING,
                                "min_lr is %g, above the optimizer's lr, %g, which therefore "
                                "cannot fall",
                                least, base);
    }
}

static zds_status create(const zds_host *host, const observed_options *o, const zds_sched_env *env,
                         bool greedy, void **self)
{
    sched_groups groups = sched_groups_of(host, env);
    zds_status status = sched_check_list(&groups, "min_lr", &o->min_lr);
    if (!status)
        status = sched_check_list(&groups, "max_lr", &o->max_lr);
    if (!status)
        status = sched_create(&groups, sizeof(observed_instance), self);
    if (status)
        return status;
    observed_instance *s = *self;
    size_t numbers = groups.count + (o->smooth ? (size_t)o->window_size : 0);
    s->options = o;
    s->greedy = greedy;
    s->state_bytes = sizeof *s->state + numbers * sizeof(double);
    s->state = host->alloc(host, s->state_bytes, 0);
    if (!s->state) {
        sched_destroy(s);
        return host->fail(host, ZDS_ERR_MEMORY, "no memory for a schedule's state");
    }
    start_anew(s);
    warn_of_least_rates(s);
    return ZDS_OK;
}

static zds_status plateau_create(const zds_host *host, const void *options,
                                 const zds_sched_env *env, void **self)
{
    return create(host, options, env, false, self);
}

static zds_status greedy_create(const zds_host *host, const void *options, const zds_sched_env *env,
                                void **self)
{
    return create(host, options, env, true, self);
}

static void destroy(void *self)
{
    observed_instance *s = self;
    s->groups.host->free(s->groups.host, s->state);
    sched_destroy(s);
}

/* === rates === */

static zds_status at(void *self, int64_t moves, zds_sched_value *values, size_t value_stride)
{
    (void)moves; /* only metrics move the rate */
    const observed_instance *s = self;
    for (size_t g = 0; g < s->groups.count; g++) {
        zds_sched_value *v = sched_value(values, value_stride, g);
        v->mask = ZDS_SCHED_LR;
        v->hyper.lr = s->state->numbers[g];
    }
    return ZDS_OK;
}

static bool is_better(const observed_options *o, double metric, double best)
{
    double part = o->threshold_mode == THRESHOLD_REL ? o->threshold : 0;
    double difference = o->threshold_mode == THRESHOLD_ABS ? o->threshold : 0;
    if (o->mode == MODE_MIN)
        return metric < best * (1.0 - part) - difference;
    return metric > best * (1.0 + part) + difference;
}

static void set_rate(observed_instance *s, size_t group, double rate)
{
    if (s->options->verbose)
        s->groups.host->log(s->groups.host, ZDS_LOG_INFO, "metric %lld: rate of group %zu: %.4e",
                            (long long)s->state->seen, group, rate);
    s->state->numbers[group] = rate;
}

/* Returns whether all rates are at their least. */
static bool lower(observed_instance *s)
{
    const observed_options *o = s->options;
    bool all_least = true;
    for (size_t g = 0; g < s->groups.count; g++) {
        double least = sched_list_at(&s->groups, &o->min_lr, g, 0), old = s->state->numbers[g];
        double rate = fmax(old * o->factor, least);
        if (old - rate > o->eps)
            set_rate(s, g, rate);
        all_least &= !(s->state->numbers[g] > least);
    }
    return all_least;
}

static void lift(observed_instance *s)
{
    const observed_options *o = s->options;
    for (size_t g = 0; g < s->groups.count; g++) {
        double most = sched_list_at(&s->groups, &o->max_lr, g, 0), old = s->state->numbers[g];
        double rate = fmin(old / o->factor, most);
        if (rate - old > o->eps)
            set_rate(s, g, rate);
    }
    s->state->until_reset = o->reset_start;
}

static zds_status plateau_observe(void *self, double metric)
{
    observed_instance *s = self;
    observed_state *now = s->state;
    now->seen++;
    if (is_better(s->options, metric, now->best)) {
        now->best = metric;
        now->bad = 0;
    } else {
        now->bad++;
    }
    if (now->cooldown > 0) {
        now->cooldown--;
        now->bad = 0;
    }
    if (now->bad > s->options->patience) {
        lower(s);
        now->cooldown = s->options->cooldown;
        now->bad = 0;
    }
    return ZDS_OK;
}

/* The mean of the last metrics, this one included. */
static double smoothed(observed_instance *s, double metric)
{
    observed_state *now = s->state;
    double *oldest = &now->numbers[s->groups.count + (size_t)now->window_next];
    now->sum += metric;
    if (now->window_used == now->window_size)
        now->sum -= *oldest;
    else
        now->window_used++;
    *oldest = metric;
    now->window_next = (now->window_next + 1) % now->window_size;
    return now->sum / (double)now->window_used;
}

static zds_status greedy_observe(void *self, double metric)
{
    observed_instance *s = self;
    observed_state *now = s->state;
    const observed_options *o = s->options;
    now->seen++;
    if (o->smooth)
        metric = smoothed(s, metric);
    if (now->cooldown > 0 || now->warmup > 0) {
        if (now->cooldown > 0)
            now->cooldown--;
        else
            now->warmup--;
        now->bad = now->good = 0;
        return ZDS_OK;
    }
    bool better = is_better(o, metric, now->best);
    now->best = better ? metric : now->best;
    now->good = better ? now->good + 1 : 0;
    now->bad = better ? 0 : now->bad + 1;
    if (now->good > o->patience) {
        lift(s);
        now->warmup = o->warmup;
        now->good = 0;
    } else if (now->bad > o->patience) {
        if (lower(s) && --now->until_reset <= 0) {
            start_anew(s);
            if (o->verbose)
                s->groups.host->log(s->groups.host, ZDS_LOG_INFO, "metric %lld: starts anew",
                                    (long long)now->seen);
        }
        now->cooldown = o->cooldown;
        now->bad = 0;
    }
    return ZDS_OK;
}

/* === state === */

static uint64_t state_bytes(void *self)
{
    return ((observed_instance *)self)->state_bytes;
}

static zds_status save(void *self, void *bytes)
{
    observed_instance *s = self;
    memcpy(bytes, s->state, s->state_bytes);
    return ZDS_OK;
}

static zds_status load(void *self, const void *bytes, uint64_t count)
{
    observed_instance *s = self;
    const zds_host *host = s->groups.host;
    observed_state head;
    if (count != s->state_bytes)
        return host->fail(host, ZDS_ERR_FORMAT,
                          "the saved state has %llu bytes, not %zu: it is of other groups, or of "
                          "another window_size",
                          (unsigned long long)count, s->state_bytes);
    memcpy(&head, bytes, sizeof head);
    const int64_t counts[] = {head.seen,   head.bad,         head.good,       head.cooldown,
                              head.warmup, head.until_reset, head.window_used};
    bool good = head.format == STATE_FORMAT && head.group_count == s->state->group_count &&
                head.window_size == s->state->window_size && head.window_used <= head.window_size &&
                head.window_next >= 0 &&
                head.window_next < (head.window_size ? head.window_size : 1);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        good &= counts[i] >= 0;
    for (size_t g = 0; g < s->groups.count; g++) {
        double rate;
        memcpy(&rate, (const char *)bytes + sizeof head + g * sizeof rate, sizeof rate);
        good &= isfinite(rate) && rate >= 0;
    }
    if (!good)
        return host->fail(host, ZDS_ERR_FORMAT, "the saved state is damaged, or of other options");
    memcpy(s->state, bytes, s->state_bytes);
    return ZDS_OK;
}

/* === descriptors === */

#define OPS(type)                                                                                  \
    {                                                                                              \
        .struct_size = sizeof(zds_sched_ops), .flags = ZDS_SCHED_OBSERVES,                         \
        .create = type##_create, .destroy = destroy, .at = at, .observe = type##_observe,          \
        .state_bytes = state_bytes, .save = save, .load = load                                     \
    }

static const zds_sched_ops plateau_ops = OPS(plateau);
static const zds_sched_ops greedy_ops = OPS(greedy);
static const zds_plugin plateau_plugin =
    SCHED_PLUGIN("reduce_lr_on_plateau", plateau_table, SCHED_ROWS(plateau_table), observed_options,
                 plateau_ops, "the rate falls when a metric no longer improves");
static const zds_plugin greedy_plugin =
    SCHED_PLUGIN("greedy", greedy_table, SCHED_ROWS(greedy_table), observed_options, greedy_ops,
                 "the rate rises while a metric improves, and falls when it does not");

ZDS_PLUGINS(&plateau_plugin, &greedy_plugin);

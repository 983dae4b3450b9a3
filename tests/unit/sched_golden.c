/* Schedules against golden rates: step by step what DeepSpeed's and the Trainer's computed (file
 * schedule.json), and the rules that those do not reach. */
#include "plugin_harness.h"

typedef struct schedule {
    harness h;
    const zds_plugin *plugin;
    const zds_sched_ops *ops;
    void *options, *self;
    zds_hyper base[3];
} schedule;

/* Where each type is. */
static const struct {
    const char *type, *file;
} files[] = {
    {"WarmupLR", "sched_warmup"},
    {"WarmupDecayLR", "sched_warmup"},
    {"WarmupCosineLR", "sched_warmup"},
};

static const char *file_of(const char *type)
{
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (strcmp(files[i].type, type) == 0)
            return files[i].file;
    return NULL;
}

static zds_status schedule_try(schedule *s, const char *type, const char *options, size_t groups,
                               double lr, int64_t warmup_steps, int64_t total_steps)
{
    memset(s, 0, sizeof *s);
    harness_init(&s->h);
    s->plugin = plugin_open(file_of(type), type);
    s->ops = s->plugin->ops;
    s->options = options_from(s->plugin, options);
    for (size_t g = 0; g < 3; g++)
        s->base[g] = (zds_hyper){.struct_size = sizeof s->base[g],
                                 .lr = lr * (double)(g + 1),
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .momentum = NAN};
    zds_sched_env env = {.struct_size = sizeof env,
                         .group_count = groups,
                         .hyper_stride = sizeof s->base[0],
                         .base = s->base,
                         .total_steps = total_steps,
                         .warmup_steps = warmup_steps};
    return s->ops->create(&s->h.host, s->options, &env, &s->self);
}

static void schedule_close(schedule *s)
{
    if (s->self)
        s->ops->destroy(s->self);
    cr_assert_eq(s->h.live, 0);
    options_destroy(s->options);
}

/* What holds in a group after `moves` moves, the optimizer's own values where the schedule sets
 * none. */
static zds_hyper schedule_at(schedule *s, int64_t moves, size_t group)
{
    zds_sched_value values[3] = {{.struct_size = sizeof values[0]},
                                 {.struct_size = sizeof values[0]},
                                 {.struct_size = sizeof values[0]}};
    cr_assert_eq(s->ops->at(s->self, moves, values, sizeof values[0]), ZDS_OK, "%s", s->h.error);
    zds_hyper h = s->base[group];
    if (values[group].mask & ZDS_SCHED_LR)
        h.lr = values[group].hyper.lr;
    if (values[group].mask & ZDS_SCHED_BETA1)
        h.beta1 = values[group].hyper.beta1;
    if (values[group].mask & ZDS_SCHED_BETA2)
        h.beta2 = values[group].hyper.beta2;
    return h;
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    cr_assert(cJSON_IsNumber(item), "no number %s", key);
    return item->valuedouble;
}

static cJSON *read_json(const char *path)
{
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fseek(f, 0, SEEK_END), 0);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(bytes + 1);
    cr_assert(text && fread(text, 1, bytes, f) == bytes);
    fclose(f);
    text[bytes] = 0;
    cJSON *tree = cJSON_Parse(text);
    free(text);
    cr_assert_not_null(tree, "%s is not JSON", path);
    return tree;
}

/* DeepSpeed's types have their options in params; the Trainer's take the steps from the run. */
static void open_case(schedule *s, const cJSON *test)
{
    const cJSON *scheduler = cJSON_GetObjectItem(test, "scheduler");
    const cJSON *params = cJSON_GetObjectItem(scheduler, "params");
    const cJSON *own = cJSON_GetObjectItem(params, "scheduler_specific_kwargs");
    char *options = cJSON_PrintUnformatted(own ? own : params);
    zds_status status = schedule_try(s, cJSON_GetObjectItem(scheduler, "type")->valuestring,
                                     options, 1, number(test, "optimizer_lr"),
                                     own ? (int64_t)number(params, "num_warmup_steps") : -1,
                                     own ? (int64_t)number(params, "num_training_steps") : -1);
    cr_assert_eq(status, ZDS_OK, "%s", s->h.error);
    cJSON_free(options);
}

static void run_case(const cJSON *test)
{
    const char *id = cJSON_GetObjectItem(test, "id")->valuestring;
    const cJSON *rates = cJSON_GetObjectItem(test, "lr"),
                *betas = cJSON_GetObjectItem(test, "betas");
    schedule s;
    open_case(&s, test);
    for (int k = 0; k < cJSON_GetArraySize(rates); k++) {
        double lr = cJSON_GetArrayItem(rates, k)->valuedouble;
        zds_hyper h = schedule_at(&s, k, 0);
        cr_assert(fabs(h.lr - lr) <= 1e-14 + 1e-12 * fabs(lr),
                  "%s: rate %d is %.17g, expected %.17g", id, k, h.lr, lr);
        const cJSON *pair = cJSON_IsArray(betas) ? cJSON_GetArrayItem(betas, k) : NULL;
        double beta1 = pair ? pair->child->valuedouble : 0.9;
        double beta2 = pair ? pair->child->next->valuedouble : 0.999;
        cr_assert(fabs(h.beta1 - beta1) <= 1e-12 && fabs(h.beta2 - beta2) <= 1e-12,
                  "%s: betas %d are %g and %g", id, k, h.beta1, h.beta2);
    }
    schedule_close(&s);
}

Test(sched_golden, as_the_reference)
{
    cJSON *cases = read_json(TEST_DATA "/schedule.json");
    int run = 0;
    for (const cJSON *test = cases->child; test; test = test->next) {
        const cJSON *scheduler = cJSON_GetObjectItem(test, "scheduler");
        if (!file_of(cJSON_GetObjectItem(scheduler, "type")->valuestring))
            continue;
        run_case(test);
        run++;
    }
    cr_assert(run > 0);
    cJSON_Delete(cases);
}

/* === what the golden cases do not reach === */

Test(sched_golden, warmup_rates_by_group)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "WarmupLR",
                              "{\"warmup_min_lr\": [0, 0.25], \"warmup_max_lr\": [1, 0.75], "
                              "\"warmup_num_steps\": 4, \"warmup_type\": \"linear\"}",
                              2, 1e-3, -1, -1),
                 ZDS_OK);
    cr_assert_float_eq(schedule_at(&s, 0, 1).lr, 0.25, 1e-15);
    cr_assert_float_eq(schedule_at(&s, 3, 0).lr, 0.5, 1e-15); /* the third move: 2 of 4 */
    cr_assert_float_eq(schedule_at(&s, 3, 1).lr, 0.5, 1e-15);
    cr_assert_float_eq(schedule_at(&s, 50, 1).lr, 0.75, 1e-15);
    schedule_close(&s);
}

Test(sched_golden, warmup_takes_the_groups_own_rates)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "WarmupLR", "{\"warmup_num_steps\": 2}", 3, 1e-3, -1, -1),
                 ZDS_OK);
    cr_assert_float_eq(schedule_at(&s, 9, 0).lr, 1e-3, 1e-15);
    cr_assert_float_eq(schedule_at(&s, 9, 2).lr, 3e-3, 1e-15);
    schedule_close(&s);
    cr_assert_eq(schedule_try(&s, "WarmupCosineLR",
                              "{\"warmup_num_steps\": 2, \"total_num_steps\": 2}", 3, 1e-3, -1, -1),
                 ZDS_OK);
    cr_assert_float_eq(schedule_at(&s, 0, 2).lr, 0, 0);
    cr_assert_float_eq(schedule_at(&s, 9, 2).lr, 3e-3 * 1e-4, 1e-15);
    schedule_close(&s);
}

/* DeepSpeed sets no rate at creation when it resumes. */
Test(sched_golden, warmup_from_a_later_start)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "WarmupLR",
                              "{\"warmup_max_lr\": 1, \"warmup_num_steps\": 10, \"warmup_type\": "
                              "\"linear\", \"last_batch_iteration\": 4}",
                              1, 1e-3, -1, -1),
                 ZDS_OK);
    cr_assert_float_eq(schedule_at(&s, 0, 0).lr, 1e-3, 1e-15);
    cr_assert_float_eq(schedule_at(&s, 1, 0).lr, 0.5, 1e-15);
    schedule_close(&s);
}

Test(sched_golden, warmup_refuses_a_list_of_the_wrong_length)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "WarmupLR", "{\"warmup_max_lr\": [1, 2]}", 3, 1e-3, -1, -1),
                 ZDS_ERR_CONFIG);
    cr_assert(strstr(s.h.error, "warmup_max_lr") && strstr(s.h.error, "3"));
    schedule_close(&s);
}

Test(sched_golden, warmup_warns_of_a_run_shorter_than_its_warmup)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "WarmupDecayLR", "{\"total_num_steps\": 5}", 1, 1e-3, -1, -1),
                 ZDS_OK);
    cr_assert(strstr(s.h.logged, "total_num_steps 5"));
    schedule_close(&s);
}

/* Schedules against golden rates: step by step what DeepSpeed's and the Trainer's computed (file
 * schedule.json), and the rules that those do not reach. */
#include "sched_harness.h"

static double number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    cr_assert(cJSON_IsNumber(item), "no number %s", key);
    return item->valuedouble;
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
        run_case(test);
        run++;
    }
    cr_assert_eq(run, 60);
    cJSON_Delete(cases);
}

/* DeepSpeed's schedules over several groups (file schedule_groups.json, made by
 * tests/makers/group_schedules.py): lists of rates, stairs, momentum, later starts. */
static void run_groups(const cJSON *test, int number)
{
    const cJSON *rates = cJSON_GetObjectItem(test, "lr");
    const char *type = cJSON_GetObjectItem(test, "type")->valuestring;
    char *options = cJSON_PrintUnformatted(cJSON_GetObjectItem(test, "params"));
    int groups = cJSON_GetArraySize(rates), k = 0;
    schedule s;
    schedule_open(&s, type, options);
    for (int g = 0; g < groups; g++)
        s.base[g].lr = cJSON_GetArrayItem(rates, g)->valuedouble;
    cr_assert_eq(schedule_create(&s, (size_t)groups, -1, -1), ZDS_OK, "%s", s.h.error);
    const cJSON *step, *group;
    cJSON_ArrayForEach(step, cJSON_GetObjectItem(test, "values"))
    {
        size_t g = 0;
        cJSON_ArrayForEach(group, step)
        {
            zds_hyper h = schedule_at(&s, k, g++);
            const double got[] = {h.lr, h.beta1, h.beta2};
            for (int i = 0; i < 3; i++) {
                double want = cJSON_GetArrayItem(group, i)->valuedouble;
                cr_assert(fabs(got[i] - want) <= 1e-14 + 1e-12 * fabs(want),
                          "case %d, %s %s: number %d of group %zu at %d is %.17g, expected %.17g",
                          number, type, options, i, g - 1, k, got[i], want);
            }
        }
        k++;
    }
    cr_assert_eq(k, 37);
    cJSON_free(options);
    schedule_close(&s);
}

Test(sched_golden, groups_as_the_reference)
{
    cJSON *cases = read_json(TEST_DATA "/schedule_groups.json");
    int run = 0;
    for (const cJSON *test = cases->child; test; test = test->next)
        run_groups(test, run++);
    cr_assert_eq(run, 35);
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

/* A group that the optimizer split has one value in a list. */
Test(sched_golden, lists_count_groups_as_declared)
{
    static const struct {
        const char *type, *options;
    } pairs[] = {{"WarmupLR", "{\"warmup_max_lr\": [1, 0.5]}"},
                 {"LRRangeTest", "{\"lr_range_test_min_lr\": [1, 0.5]}"},
                 {"OneCycle", "{\"cycle_min_lr\": [1, 0.5], \"cycle_max_lr\": [1, 0.5]}"}};
    static const uint32_t declared[] = {0, 1, 1};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        schedule s;
        schedule_open(&s, pairs[i].type, pairs[i].options);
        zds_sched_env env = {.struct_size = sizeof env,
                             .group_count = 3,
                             .hyper_stride = sizeof s.base[0],
                             .base = s.base,
                             .declared = declared,
                             .declared_count = 2,
                             .default_lr = NAN};
        cr_assert_eq(s.ops->create(&s.h.host, s.options, &env, &s.self), ZDS_OK, "%s", s.h.error);
        double first = schedule_at(&s, 3000, 0).lr;
        cr_assert_gt(first, 0);
        cr_assert_float_eq(schedule_at(&s, 3000, 1).lr, first / 2, 1e-15);
        cr_assert_float_eq(schedule_at(&s, 3000, 2).lr, first / 2, 1e-15);
        schedule_close(&s);
    }
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

Test(sched_golden, onecycle_refuses_a_list_of_the_wrong_length)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "OneCycle", "{\"cycle_min_lr\": 1, \"cycle_max_lr\": [1, 2]}", 3,
                              1, -1, -1),
                 ZDS_ERR_CONFIG);
    cr_assert(strstr(s.h.error, "cycle_max_lr"));
    schedule_close(&s);
}

/* Without betas there is no momentum to move: a warning, and the rate alone. */
Test(sched_golden, onecycle_without_betas)
{
    schedule s;
    const char *options = "{\"cycle_min_lr\": [1, 2], \"cycle_max_lr\": 3}";
    cr_assert_eq(schedule_try(&s, "OneCycle", options, 2, 1, -1, -1), ZDS_OK);
    s.ops->destroy(s.self);
    s.base[0].beta1 = s.base[0].beta2 = s.base[1].beta1 = s.base[1].beta2 = NAN;
    cr_assert_eq(schedule_create(&s, 2, -1, -1), ZDS_OK);
    cr_assert(strstr(s.h.logged, "cycle_momentum"));
    cr_assert_float_eq(schedule_at(&s, 0, 1).lr, 2, 0);
    cr_assert_float_eq(schedule_at(&s, 2000, 0).lr, 3, 1e-12);
    cr_assert(isnan(schedule_at(&s, 2000, 0).beta1));
    schedule_close(&s);
}

/* A later start keeps the optimizer's values in the first step, then goes on as if it had run. */
Test(sched_golden, a_later_start_goes_on)
{
    static const struct {
        const char *type, *from_start, *later;
    } pairs[] = {
        {"OneCycle", "{\"cycle_min_lr\": 1, \"cycle_max_lr\": 3, \"cycle_first_step_size\": 5}",
         "{\"cycle_min_lr\": 1, \"cycle_max_lr\": 3, \"cycle_first_step_size\": 5, "
         "\"last_batch_iteration\": 2}"},
        {"LRRangeTest", "{\"lr_range_test_step_size\": 5}",
         "{\"lr_range_test_step_size\": 5, \"last_batch_iteration\": 2}"},
    };
    for (size_t i = 0; i < 2; i++) {
        schedule s, t;
        cr_assert_eq(schedule_try(&s, pairs[i].type, pairs[i].from_start, 1, 7, -1, -1), ZDS_OK);
        cr_assert_eq(schedule_try(&t, pairs[i].type, pairs[i].later, 1, 7, -1, -1), ZDS_OK);
        cr_assert_float_eq(schedule_at(&t, 0, 0).lr, 7, 0);
        for (int k = 1; k < 20; k++)
            cr_assert_float_eq(schedule_at(&t, k, 0).lr, schedule_at(&s, k + 3, 0).lr, 0);
        schedule_close(&s);
        schedule_close(&t);
    }
}

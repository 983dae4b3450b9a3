/* The schedules that follow a metric: golden rates of transformers and torch (file
 * schedule_observed.json, made by tests/makers/observed_schedules.py), and their state. */
#include "sched_harness.h"

static void open_case(schedule *s, const cJSON *test)
{
    const cJSON *rates = cJSON_GetObjectItem(test, "lr");
    char *options = cJSON_PrintUnformatted(cJSON_GetObjectItem(test, "params"));
    schedule_open(s, cJSON_GetObjectItem(test, "type")->valuestring, options);
    for (int g = 0; g < cJSON_GetArraySize(rates); g++)
        s->base[g].lr = cJSON_GetArrayItem(rates, g)->valuedouble;
    cr_assert_eq(schedule_create(s, (size_t)cJSON_GetArraySize(rates), -1, -1), ZDS_OK, "%s",
                 s->h.error);
    cJSON_free(options);
}

static double metric_of(const cJSON *item)
{
    return cJSON_IsNull(item) ? (double)NAN : item->valuedouble;
}

static void expect(schedule *s, const cJSON *rates, int number, int k)
{
    size_t g = 0;
    for (const cJSON *rate = rates->child; rate; rate = rate->next, g++) {
        double lr = schedule_at(s, k, g).lr;
        cr_assert(fabs(lr - rate->valuedouble) <= 1e-14 * rate->valuedouble,
                  "case %d, after %d metrics, group %zu: %.17g, expected %.17g", number, k, g, lr,
                  rate->valuedouble);
    }
}

/* Halfway a second instance takes over with the first one's state. */
static void run_case(const cJSON *test, int number)
{
    const cJSON *metric = cJSON_GetObjectItem(test, "metrics")->child,
                *rates = cJSON_GetObjectItem(test, "rates")->child;
    int count = cJSON_GetArraySize(cJSON_GetObjectItem(test, "metrics")), k = 0;
    schedule s;
    open_case(&s, test);
    for (; rates; rates = rates->next, k++) {
        expect(&s, rates, number, k);
        if (k == count / 2) {
            uint64_t bytes = s.ops->state_bytes(s.self);
            void *state = malloc(bytes);
            cr_assert_eq(s.ops->save(s.self, state), ZDS_OK);
            schedule_close(&s);
            open_case(&s, test);
            cr_assert_eq(s.ops->load(s.self, state, bytes), ZDS_OK, "%s", s.h.error);
            free(state);
            expect(&s, rates, number, k);
        }
        if (metric) {
            cr_assert_eq(s.ops->observe(s.self, metric_of(metric)), ZDS_OK);
            metric = metric->next;
        }
    }
    cr_assert_eq(k, count + 1);
    schedule_close(&s);
}

Test(sched_observed, as_the_reference)
{
    cJSON *cases = read_json(TEST_DATA "/schedule_observed.json");
    int run = 0;
    for (const cJSON *test = cases->child; test; test = test->next)
        run_case(test, run++);
    cr_assert_eq(run, 24);
    cJSON_Delete(cases);
}

Test(sched_observed, says_that_it_observes)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "greedy", "{\"min_lr\": 0}", 1, 1e-3, -1, -1), ZDS_OK);
    cr_assert(s.ops->flags & ZDS_SCHED_OBSERVES);
    cr_assert_str_empty(s.h.logged);
    schedule_close(&s);
}

/* The Trainer's preset, 0.001, is above most rates that models are tuned with. */
Test(sched_observed, warns_of_a_least_rate_above_the_rate)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "greedy", "{}", 1, 5e-5, -1, -1), ZDS_OK);
    cr_assert(strstr(s.h.logged, "min_lr is 0.001"));
    schedule_close(&s);
}

Test(sched_observed, says_what_it_does)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "greedy",
                              "{\"verbose\": true, \"patience\": 0, \"factor\": 0.5, \"min_lr\": "
                              "0.0005, \"reset_start\": 1}",
                              1, 1e-3, -1, -1),
                 ZDS_OK);
    s.ops->observe(s.self, 1);
    cr_assert(strstr(s.h.logged, "2.0000e-03"), "%s", s.h.logged);
    for (int k = 0; k < 2; k++)
        s.ops->observe(s.self, 1);
    cr_assert(strstr(s.h.logged, "starts anew"), "%s", s.h.logged);
    schedule_close(&s);
}

Test(sched_observed, refuses_a_list_of_the_wrong_length)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "greedy", "{\"max_lr\": [1, 2]}", 3, 1e-3, -1, -1),
                 ZDS_ERR_CONFIG);
    cr_assert(strstr(s.h.error, "max_lr"));
    schedule_close(&s);
}

/* Each lie of a state leaves the schedule as it was. */
Test(sched_observed, refuses_a_damaged_state)
{
    static const char *const options = "{\"smooth\": true, \"window_size\": 3, \"patience\": 0}";
    schedule s;
    cr_assert_eq(schedule_try(&s, "greedy", options, 2, 0.01, -1, -1), ZDS_OK);
    uint64_t bytes = s.ops->state_bytes(s.self);
    cr_assert_eq(bytes % 8, 0);
    int64_t *state = malloc(bytes), minus = -1;
    double nan = NAN;
    cr_assert_eq(s.ops->save(s.self, state), ZDS_OK);
    cr_assert_eq(s.ops->load(s.self, state, bytes - 8), ZDS_ERR_FORMAT);
    size_t last = bytes / 8 - 3; /* before the window */
    for (size_t i = 0; i < last; i++) {
        bool measured = i >= last - 4 && i < last - 2; /* best and sum may be anything */
        int64_t kept = state[i];
        if (measured)
            continue;
        if (i < last - 4)
            memcpy(&state[i], &minus, 8);
        else
            memcpy(&state[i], &nan, 8);
        cr_assert_eq(s.ops->load(s.self, state, bytes), ZDS_ERR_FORMAT, "number %zu", i);
        state[i] = kept;
    }
    cr_assert_float_eq(schedule_at(&s, 0, 1).lr, 0.02, 0);
    cr_assert_eq(s.ops->load(s.self, state, bytes), ZDS_OK);
    free(state);
    schedule_close(&s);
}

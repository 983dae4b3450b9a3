/* The Trainer's schedules where the golden cases do not reach: options of each, the numbers of
 * steps, refusals. Expected rates were computed by transformers 5.23's get_scheduler for the
 * optimizer's rate 0.01. */
#include "sched_harness.h"

enum { STEPS = 12 };

static const struct {
    const char *type, *options;
    int64_t warmup, total;
    double rates[STEPS];
} cases[] = {
    {"cosine_warmup_with_min_lr",
     "{\"min_lr_rate\": 0.1}",
     3,
     10,
     {0.0033333333333333331, 0.0066666666666666662, 0.01, 0.0095543599055608851,
      0.0083057041083643007, 0.0065013442028034139, 0.0044986557971965855, 0.0026942958916356995,
      0.0014456400944391145, 0.001, 0.0014456400944391141, 0.0026942958916356986}},
    {"cosine_warmup_with_min_lr",
     "{\"min_lr\": 0.001, \"warmup_lr_rate\": 0.2}",
     3,
     10,
     {0.002, 0.006000000000000001, 0.01, 0.0095543599055608851, 0.0083057041083643007,
      0.0065013442028034139, 0.0044986557971965855, 0.0026942958916356995, 0.0014456400944391145,
      0.001, 0.0014456400944391141, 0.0026942958916356986}},
    {"cosine",
     "{\"num_cycles\": 1.0}",
     2,
     8,
     {0, 0.005, 0.01, 0.0075, 0.0025, 0, 0.0025, 0.0075, 0.01, 0.0075, 0.0025, 0}},
    {"inverse_sqrt",
     "{\"timescale\": 5}",
     3,
     10,
     {0, 0.0033333333333333331, 0.0066666666666666662, 0.01, 0.00912870929175277,
      0.0084515425472851662, 0.0079056941504209478, 0.0074535599249992987, 0.0070710678118654745,
      0.0067419986246324204, 0.0064549722436790281, 0.006201736729460422}},
    {"warmup_stable_decay",
     "{\"num_decay_steps\": 4, \"num_stable_steps\": 2, \"warmup_type\": \"cosine\", "
     "\"decay_type\": \"1-sqrt\", \"min_lr_ratio\": 0.1}",
     4,
     20,
     {0.001, 0.0023180194846605358, 0.0055, 0.0086819805153394644, 0.01, 0.01, 0.01, 0.0055,
      0.0036360389693210716, 0.0022057713659400526, 0.001, 0.001}},
    {"warmup_stable_decay",
     "{\"num_decay_steps\": 4, \"warmup_type\": \"1-sqrt\", \"decay_type\": \"linear\"}",
     4,
     20,
     {0, 0.0013397459621556141, 0.0029289321881345244, 0.005, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01,
      0.01, 0.01}},
    /* The params win over the run. */
    {"cosine",
     "{\"num_cycles\": 1.0, \"num_warmup_steps\": 2, \"num_training_steps\": 8}",
     5,
     100,
     {0, 0.005, 0.01, 0.0075, 0.0025, 0, 0.0025, 0.0075, 0.01, 0.0075, 0.0025, 0}},
};

Test(sched_trainer, options)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        schedule s;
        cr_assert_eq(schedule_try(&s, cases[i].type, cases[i].options, 2, 0.01, cases[i].warmup,
                                  cases[i].total),
                     ZDS_OK, "%s", s.h.error);
        for (int k = 0; k < STEPS; k++) {
            cr_assert_float_eq(schedule_at(&s, k, 0).lr, cases[i].rates[k], 1e-15,
                               "%s: rate %d is %.17g", cases[i].type, k, schedule_at(&s, k, 0).lr);
            cr_assert_float_eq(schedule_at(&s, k, 1).lr, 2 * cases[i].rates[k], 1e-15);
        }
        schedule_close(&s);
    }
}

Test(sched_trainer, a_run_without_a_known_end)
{
    schedule s;
    cr_assert_eq(schedule_try(&s, "linear", "{}", 1, 0.01, -1, -1), ZDS_ERR_CONFIG);
    cr_assert(strstr(s.h.error, "num_training_steps"));
    schedule_close(&s);
    cr_assert_eq(schedule_try(&s, "constant_with_warmup", "{}", 1, 0.01, -1, -1), ZDS_OK);
    cr_assert_float_eq(schedule_at(&s, 0, 0).lr, 0.01, 0);
    schedule_close(&s);
}

Test(sched_trainer, refusals)
{
    static const struct {
        const char *type, *options, *says;
    } bad[] = {
        {"polynomial", "{\"lr_end\": 0.01}", "lr_end"},
        {"cosine_with_min_lr", "{}", "none"},
        {"cosine_with_min_lr", "{\"min_lr\": 0.001, \"min_lr_rate\": 0.1}", "both"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        schedule s;
        cr_assert_eq(schedule_try(&s, bad[i].type, bad[i].options, 1, 0.01, 0, 10), ZDS_ERR_CONFIG);
        cr_assert(strstr(s.h.error, bad[i].says), "%s", s.h.error);
        schedule_close(&s);
    }
}

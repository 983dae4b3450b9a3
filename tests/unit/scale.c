/* The loss scale against DeepSpeed's rules, step by step: one letter a boundary, o for overflow and
 * . for none; the scale after each, from a loop that follows the rules' text. */
#include <criterion/criterion.h>
#include <string.h>

#include "engine/scale.h"

static loss_scale dynamic(double value, int64_t window, int64_t hysteresis, bool refills,
                          double least)
{
    return (loss_scale){.value = value,
                        .dynamic = true,
                        .refills = refills,
                        .window = window,
                        .least = least,
                        .hysteresis = hysteresis,
                        .patience = hysteresis,
                        .last_overflow = -1};
}

static void expect(loss_scale s, const char *boundaries, const double *after)
{
    for (size_t i = 0; boundaries[i]; i++) {
        cr_expect(loss_scale_update(&s, boundaries[i] == 'o'), "%s: boundary %zu", boundaries, i);
        cr_expect_eq(s.value, after[i], "%s: %g after boundary %zu, not %g", boundaries, s.value, i,
                     after[i]);
    }
}

Test(scale, doubles_at_the_step_after_a_clean_window)
{
    expect(dynamic(16, 3, 2, false, 1), ".......",
           (double[]){16, 16, 16, 32, 32, 32, 64}); /* and not at the third */
    expect(dynamic(16, 1, 1, false, 1), "....", (double[]){16, 32, 64, 128});
    expect(dynamic(16, 2, 1, false, 1), "..o...", (double[]){16, 16, 8, 8, 8, 16});
}

Test(scale, halves_from_the_overflow_that_hysteresis_names)
{
    expect(dynamic(64, 100, 1, false, 1), "oo", (double[]){32, 16});
    expect(dynamic(64, 100, 3, false, 1), "o.oo.o", (double[]){64, 64, 64, 32, 32, 16});
    expect(dynamic(64, 100, 0, false, 1), "o", (double[]){32});
}

/* Its patience comes back with a clean window, or with each clean step. */
Test(scale, hysteresis_starts_anew)
{
    expect(dynamic(64, 2, 2, false, 1), "o...oo", (double[]){64, 64, 64, 128, 128, 64});
    expect(dynamic(64, 100, 2, true, 1), "o.o.oo", (double[]){64, 64, 64, 64, 64, 32});
}

Test(scale, stops_at_the_least)
{
    loss_scale s = dynamic(4, 100, 1, false, 3);
    expect(s, "o", (double[]){3});
    s.value = 3;
    cr_expect_not(loss_scale_update(&s, true));
    cr_expect_eq(s.value, 3);
    cr_expect(loss_scale_update(&s, false), "a clean step goes on");
}

Test(scale, a_fixed_one_stays)
{
    expect((loss_scale){.value = 128, .last_overflow = -1}, "o.oo..",
           (double[]){128, 128, 128, 128, 128, 128});
}

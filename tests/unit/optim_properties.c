/* What must hold for every element-wise optimizer: the same bits from every variant and any tiling,
 * nothing written or read outside the tile, non-finite gradients that stay where they are, and a
 * 16-bit output that is the rounded master. */
#include "optim_harness.h"
#include "optim_list.h"

enum { STEPS = 4 };

static const zds_dtype float_types[] = {ZDS_F32, ZDS_BF16, ZDS_F16};

static bool same_number(double a, double b)
{
    return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b);
}

static void assert_same(const optim *a, const optim *b, const char *what)
{
    for (uint64_t i = 0; i < a->setup.count; i++) {
        cr_assert(same_number(optim_weight(a, i), optim_weight(b, i)),
                  "%s %s, %s: weight %llu of %llu is %a and %a", a->setup.name, a->setup.options,
                  what, (unsigned long long)i, (unsigned long long)a->setup.count,
                  optim_weight(a, i), optim_weight(b, i));
        for (uint32_t s = 0; s < a->needs.state_count; s++) {
            const zds_state_spec *spec = &a->needs.states[s];
            if (spec->kind == ZDS_STATE_ELEMENT)
                cr_assert(same_number(read_at(a->states[s].data, spec->dtype, i),
                                      read_at(b->states[s].data, spec->dtype, i)),
                          "%s, %s: %s %llu differs", a->setup.name, what, spec->name,
                          (unsigned long long)i);
        }
    }
    for (uint32_t s = 0; s < a->needs.state_count; s++)
        if (a->needs.states[s].kind != ZDS_STATE_ELEMENT)
            cr_assert_eq(memcmp(a->states[s].data, b->states[s].data,
                                state_bytes(&a->needs.states[s], a->setup.count)),
                         0, "%s, %s: %s differs", a->setup.name, what, a->needs.states[s].name);
    if (a->setup.output != a->setup.master)
        cr_assert_eq(memcmp(a->output.data, b->output.data,
                            a->setup.count * zds_dtype_size(a->setup.output)),
                     0, "%s, %s: outputs differ", a->setup.name, what);
}

static optim_setup setup_of(size_t which, uint64_t count)
{
    const optim_case *c = &optim_cases[which];
    return (optim_setup){.file = c->file,
                         .name = c->name,
                         .options = c->options,
                         .count = count,
                         .master = ZDS_F32,
                         .grad = ZDS_F32,
                         .output = ZDS_F32,
                         .state = ZDS_F32};
}

static void run_both(const optim_setup *first, const optim_setup *second, uint64_t second_tile,
                     const char *what)
{
    optim a, b;
    optim_open(&a, first);
    optim_open(&b, second);
    for (uint64_t k = 0; k < STEPS; k++) {
        a.grad_scale = b.grad_scale = k == 2 ? 0.37 : 1;
        optim_random_grad(&a, k);
        optim_random_grad(&b, k);
        optim_step(&a, 0);
        optim_step(&b, second_tile);
    }
    assert_same(&a, &b, what);
    optim_close(&a);
    optim_close(&b);
}

static bool cpu_has(const char *simd)
{
#if defined(__x86_64__)
    if (strcmp(simd, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    (void)simd;
    return false;
#endif
}

/* Combinations of types (all where states are fp32), and lengths around the width of vectors. */
static void compare_variant(size_t which, const char *simd)
{
    static const uint64_t counts[] = {1, 8, 15, 16, 33, 100, 300};
    for (size_t t = 0; t < 81; t += t < 27 ? 1 : 5)
        for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
            optim_setup scalar = setup_of(which, counts[n]);
            scalar.master = float_types[t % 3];
            scalar.grad = float_types[t / 3 % 3];
            scalar.output = float_types[t / 9 % 3];
            scalar.state = float_types[t / 27];
            scalar.stochastic = n % 2 && scalar.master != ZDS_F16 && scalar.state != ZDS_F16;
            scalar.simd = "scalar";
            scalar.guard_before = n % 2;
            optim_setup vector = scalar;
            vector.simd = simd;
            run_both(&scalar, &vector, 0, simd);
        }
}

Test(optim_properties, variants_give_the_same_bits)
{
    for (size_t which = 0; which < OPTIM_CASES; which++) {
        if (cpu_has("avx2"))
            compare_variant(which, "avx2");
        if (cpu_has("avx512"))
            compare_variant(which, "avx512");
    }
}

Test(optim_properties, any_tiling_gives_the_same_bits)
{
    static const uint64_t tiles[] = {1, 5, 64, 1024, 2999};
    for (size_t which = 0; which < OPTIM_CASES; which++)
        for (size_t n = 0; n < sizeof tiles / sizeof *tiles; n++) {
            optim_setup s = setup_of(which, 3000);
            s.grad = s.output = float_types[n % 3];
            run_both(&s, &s, tiles[n], "tiling");
            s.master = s.output = s.state = ZDS_BF16;
            s.stochastic = true;
            run_both(&s, &s, tiles[n], "tiling, rounded at random");
        }
}

/* === stochastic rounding === */

static void one_small_step(const optim_setup *s, double *mean, optim *o)
{
    optim_open(o, s);
    for (uint64_t i = 0; i < s->count; i++) {
        write_at(o->master.data, ZDS_BF16, i, 1);
        write_at(o->grad.data, s->grad, i, 1);
    }
    o->hyper.lr = 0.001; /* a quarter of bfloat16's step below 1 */
    optim_step(o, 0);
    *mean = 0;
    for (uint64_t i = 0; i < s->count; i++) {
        double weight = optim_weight(o, i);
        cr_assert(weight == 1 || weight == 1 - 0x1p-8);
        *mean += weight;
    }
    *mean /= (double)s->count;
}

static bool same_weights(const optim *a, const optim *b)
{
    return memcmp(a->master.data, b->master.data, a->setup.count * 2) == 0;
}

Test(optim_properties, small_steps_are_kept_on_average)
{
    optim_setup s = {.file = "optim_sgd",
                     .name = "SGD",
                     .count = 100000,
                     .master = ZDS_BF16,
                     .grad = ZDS_BF16,
                     .output = ZDS_BF16,
                     .state = ZDS_BF16};
    double mean;
    optim nearest, first, again, other;
    one_small_step(&s, &mean, &nearest);
    cr_assert_eq(mean, 1);
    s.stochastic = true;
    s.seed = 7;
    one_small_step(&s, &mean, &first);
    /* A weight falls by 2^-8 with probability 0.256: the mean is within 4 standard deviations. */
    double deviation = 0x1p-8 * sqrt(0.256 * 0.744 / (double)s.count);
    cr_assert(fabs(mean - 0.999) < 4 * deviation, "%.9g, expected 0.999", mean);
    one_small_step(&s, &mean, &again);
    s.seed = 8;
    one_small_step(&s, &mean, &other);
    cr_assert(same_weights(&first, &again) && !same_weights(&first, &other));
    optim_close(&nearest);
    optim_close(&first);
    optim_close(&again);
    optim_close(&other);
}

static void fill(guarded *g, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)g->data)[i] = (unsigned char)(0x40 + i % 7);
}

static bool untouched(const guarded *g, size_t unit, uint64_t from, uint64_t to)
{
    for (size_t i = (size_t)from * unit; i < (size_t)to * unit; i++)
        if (((const unsigned char *)g->data)[i] != (unsigned char)(0x40 + i % 7))
            return false;
    return true;
}

/* The memory is the tile's neighbours': all bytes around it must stay. */
static void step_in_the_middle(size_t which, zds_dtype type, uint64_t first, uint64_t count)
{
    enum { ALL = 900 };
    optim_setup s = setup_of(which, ALL);
    s.grad = s.output = s.state = type;
    optim o;
    optim_open(&o, &s);
    fill(&o.master, ALL * sizeof(float));
    fill(&o.output, ALL * zds_dtype_size(s.output));
    for (uint32_t k = 0; k < o.needs.state_count; k++)
        if (o.needs.states[k].kind < ZDS_STATE_TENSOR)
            fill(&o.states[k], state_bytes(&o.needs.states[k], ALL));
    if (o.needs.granularity > 1) {
        first = o.needs.granularity;
        count *= 10;
    }
    optim_begin(&o);
    optim_norms_tile(&o, first, count);
    optim_step_tile(&o, first, count);
    uint64_t end = first + count;
    size_t half = zds_dtype_size(s.output);
    cr_assert(untouched(&o.master, 4, 0, first) && untouched(&o.master, 4, end, ALL));
    cr_assert(untouched(&o.output, half, 0, first) && untouched(&o.output, half, end, ALL));
    for (uint32_t k = 0; k < o.needs.state_count; k++) {
        const zds_state_spec *spec = &o.needs.states[k];
        size_t bytes = state_bytes(spec, ALL), before = state_bytes(spec, first);
        if (spec->kind < ZDS_STATE_TENSOR)
            cr_assert(untouched(&o.states[k], 1, 0, before) &&
                      untouched(&o.states[k], 1, state_bytes(spec, end), bytes));
    }
    optim_close(&o);
}

Test(optim_properties, nothing_outside_the_tile_is_written)
{
    for (size_t which = 0; which < OPTIM_CASES; which++)
        for (size_t t = 0; t < 3; t++)
            for (uint64_t count = 0; count < 40; count += 3)
                step_in_the_middle(which, float_types[t], 16 + count % 5, count);
}

Test(optim_properties, non_finite_gradients_stay_where_they_are)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t which = 0; which < OPTIM_CASES; which++)
        for (size_t k = 0; k < 3; k++) {
            optim_setup s = setup_of(which, 21);
            s.output = ZDS_BF16;
            optim clean, dirty;
            optim_open(&clean, &s);
            optim_open(&dirty, &s);
            /* Through a norm or a block's scale one element reaches others. */
            if (clean.needs.tensor_norms || clean.needs.granularity > 1) {
                optim_close(&clean);
                optim_close(&dirty);
                continue;
            }
            optim_random_grad(&clean, 0);
            optim_random_grad(&dirty, 0);
            write_at(dirty.grad.data, s.grad, 3, bad[k]);
            write_at(dirty.grad.data, s.grad, 20, bad[k]);
            optim_step(&clean, 0);
            optim_step(&dirty, 0);
            for (uint64_t i = 0; i < s.count; i++) {
                double weight = optim_weight(&dirty, i), kept = optim_weight(&clean, i);
                if (i != 3 && i != 20)
                    cr_assert(same_number(weight, kept));
                else if (isnan(bad[k]))
                    cr_assert(isnan(weight) && isnan(read_at(dirty.output.data, s.output, i)));
            }
            optim_close(&clean);
            optim_close(&dirty);
        }
}

Test(optim_properties, the_output_is_the_rounded_master)
{
    for (size_t which = 0; which < OPTIM_CASES; which++)
        for (size_t t = 1; t < 3; t++) {
            optim_setup s = setup_of(which, 5000);
            s.grad = s.output = float_types[t];
            optim o;
            optim_open(&o, &s);
            optim_random_grad(&o, 0);
            optim_step(&o, 1024);
            for (uint64_t i = 0; i < s.count; i++)
                cr_assert(same_number(read_at(o.output.data, s.output, i),
                                      round_dtype(optim_weight(&o, i), s.output)));
            optim_close(&o);
        }
}

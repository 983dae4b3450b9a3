/* Runs an optimizer plugin beside its formula, which a test writes in float64 for one element. */
#ifndef TESTS_OPTIM_FORMULA_H
#define TESTS_OPTIM_FORMULA_H

#include "optim_harness.h"

enum { COUNT = 257, STEPS = 20 };

/* One element of the reference. */
typedef struct element {
    double p, s[4];
} element;

/* What a formula may ask. */
typedef struct reference {
    const optim *o;
    int64_t step;
} reference;

HARNESS_FN double option(const reference *r, const char *name)
{
    return optim_option(r->o, name, 1, 0);
}

HARNESS_FN bool flag(const reference *r, const char *name)
{
    const zds_option *option = options_find(r->o->plugin, name);
    cr_assert(option && option->type == ZDS_OPTION_BOOL);
    return *(const bool *)((const char *)r->o->options + option->offset);
}

typedef void (*formula_fn)(const reference *r, element *e, double g);

/* Runs plugin and formula side by side; `tolerance` is absolute, on weights. */
HARNESS_FN void compare(const char *file, const char *name, const char *options, formula_fn formula,
                        double tolerance)
{
    optim_setup s = {.file = file,
                     .name = name,
                     .options = options,
                     .count = COUNT,
                     .master = ZDS_F32,
                     .grad = ZDS_F32,
                     .output = ZDS_F32,
                     .state = ZDS_F32};
    optim o;
    optim_open(&o, &s);
    element elements[COUNT];
    for (uint64_t i = 0; i < COUNT; i++) {
        elements[i] = (element){.p = optim_weight(&o, i)};
        for (uint32_t k = 0; k < o.needs.state_count && k < 4; k++)
            elements[i].s[k] = o.needs.states[k].initial;
    }
    for (int64_t step = 1; step <= STEPS; step++) {
        o.grad_scale = 1 / (double)(1 + step % 3);
        o.hyper.lr = optim_option(&o, "lr", 1, 0) * (step % 4 ? 1 : 0.5);
        optim_random_grad(&o, (uint64_t)step);
        reference r = {&o, step};
        for (uint64_t i = 0; i < COUNT; i++)
            formula(&r, &elements[i], read_at(o.grad.data, ZDS_F32, i) * o.grad_scale);
        optim_step(&o, 100);
    }
    for (uint64_t i = 0; i < COUNT; i++)
        cr_assert(fabs(optim_weight(&o, i) - elements[i].p) <= tolerance,
                  "%s %s: weight %llu is %.9g, expected %.9g", name, options, (unsigned long long)i,
                  optim_weight(&o, i), elements[i].p);
    optim_close(&o);
}

#endif

/* The curves of the Trainer's schedules, as transformers 5.23's optimization.py computes them. */
#include "sched/trainer/curves.h"

#include <math.h>

static double ramp(const curve *c, double step)
{
    return step / fmax(1, c->warmup);
}

/* The part of the steps after the warm-up that is done. */
static double progress(const curve *c, double step)
{
    return (step - c->warmup) / fmax(1, c->total - c->warmup);
}

static double lifted(double factor, double least)
{
    return fmax(0, factor * (1 - least) + least);
}

static double wave(double cycles, double done)
{
    return 0.5 * (1 + cos(M_PI * cycles * 2 * done));
}

double curve_constant(const curve *c, double step)
{
    (void)c;
    (void)step;
    return 1;
}

double curve_constant_with_warmup(const curve *c, double step)
{
    return step < c->warmup ? ramp(c, step) : 1;
}

double curve_linear(const curve *c, double step)
{
    if (step < c->warmup)
        return ramp(c, step);
    return fmax(0, (c->total - step) / fmax(1, c->total - c->warmup));
}

double curve_cosine(const curve *c, double step)
{
    if (step < c->warmup)
        return ramp(c, step);
    return lifted(wave(c->options->num_cycles, progress(c, step)), c->least);
}

double curve_cosine_with_restarts(const curve *c, double step)
{
    if (step < c->warmup)
        return ramp(c, step);
    double done = progress(c, step);
    if (done >= 1)
        return 0;
    return fmax(0, 0.5 * (1 + cos(M_PI * fmod(c->options->num_cycles * done, 1))));
}

double curve_polynomial(const curve *c, double step)
{
    if (step < c->warmup)
        return ramp(c, step);
    if (step > c->total)
        return c->least;
    double left = c->total > c->warmup ? 1 - (step - c->warmup) / (c->total - c->warmup) : 1;
    return (1 - c->least) * pow(left, c->options->power) + c->least;
}

double curve_inverse_sqrt(const curve *c, double step)
{
    if (step < c->warmup)
        return ramp(c, step);
    return 1 / sqrt((step + c->timescale - c->warmup) / c->timescale);
}

double curve_cosine_warmup_with_min_lr(const curve *c, double step)
{
    double start = c->options->warmup_lr_rate;
    if (step < c->warmup)
        return isnan(start) ? (step + 1) / fmax(1, c->warmup)
                            : start + (1 - start) * step / fmax(1, c->warmup - 1);
    return lifted(wave(c->options->num_cycles, progress(c, step + 1)), c->least);
}

/* From 0 to 1 as `done` does. */
static double rise(int64_t shape, double done)
{
    switch (shape) {
    case SHAPE_COSINE:
        return 0.5 * (1 - cos(M_PI * done));
    case SHAPE_ONE_MINUS_SQRT:
        return 1 - sqrt(1 - done);
    default:
        return done;
    }
}

static double fall(int64_t shape, double cycles, double done)
{
    switch (shape) {
    case SHAPE_COSINE:
        return wave(cycles, done);
    case SHAPE_ONE_MINUS_SQRT:
        return 1 - sqrt(done);
    default:
        return 1 - done;
    }
}

double curve_warmup_stable_decay(const curve *c, double step)
{
    const curve_options *o = c->options;
    if (step < c->warmup)
        return lifted(rise(o->warmup_type, ramp(c, step)), c->least);
    double start = c->warmup + c->stable; /* of the decay */
    if (step < start)
        return 1;
    if (step >= start + c->decay)
        return c->least;
    return lifted(fall(o->decay_type, o->num_cycles, (step - start) / fmax(1, c->decay)), c->least);
}

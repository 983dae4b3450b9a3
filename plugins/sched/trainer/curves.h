/* Between the Trainer's schedules and their curves: the rate over the optimizer's, as a function of
 * the step. */
#ifndef SCHED_TRAINER_CURVES_H
#define SCHED_TRAINER_CURVES_H

#include <stdint.h>

enum { SHAPE_LINEAR = 0, SHAPE_COSINE = 1, SHAPE_ONE_MINUS_SQRT = 2 };

/* One struct for all; each schedule's table has rows for the fields that its curve reads. */
typedef struct curve_options {
    int64_t num_warmup_steps, num_training_steps;
    double num_cycles;
    double lr_end, power;
    int64_t timescale;
    double min_lr, min_lr_rate, warmup_lr_rate, min_lr_ratio;
    int64_t num_stable_steps, num_decay_steps, warmup_type, decay_type;
} curve_options;

/* What a curve is made of, once options that were left out are filled. */
typedef struct curve {
    const curve_options *options;
    double warmup, total; /* steps */
    double least;         /* the smallest rate over the optimizer's */
    double stable, decay; /* steps */
    double timescale;
} curve;

typedef double (*curve_fn)(const curve *c, double step);

double curve_constant(const curve *c, double step);
double curve_constant_with_warmup(const curve *c, double step);
double curve_linear(const curve *c, double step);
double curve_cosine(const curve *c, double step); /* with a least rate, or 0 */
double curve_cosine_with_restarts(const curve *c, double step);
double curve_polynomial(const curve *c, double step);
double curve_inverse_sqrt(const curve *c, double step);
double curve_cosine_warmup_with_min_lr(const curve *c, double step);
double curve_warmup_stable_decay(const curve *c, double step);

#endif

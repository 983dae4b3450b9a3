/* The loss scale of fp16: what the loss is multiplied by, so that small gradients are not lost, and
 * how it follows overflow (DeepSpeed's LossScaler and DynamicLossScaler). */
#ifndef CORE_ENGINE_SCALE_H
#define CORE_ENGINE_SCALE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct loss_scale {
    double value;
    bool dynamic;          /* else it stays; 1 without fp16 */
    bool refills;          /* each step without overflow makes `patience` full again */
    int64_t window;        /* it doubles at the step after so many without overflow */
    double least;          /* it does not fall below */
    int64_t hysteresis;    /* it halves from this many-th overflow on, */
    int64_t patience;      /* and in so many more */
    int64_t steps;         /* boundaries so far, */
    int64_t last_overflow; /* and which one overflowed last, from 0; -1: none */
} loss_scale;

/* After a boundary. False where it overflowed at the least scale: there is no way to go on. */
bool loss_scale_update(loss_scale *s, bool overflow);

#endif

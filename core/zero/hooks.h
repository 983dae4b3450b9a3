/* A step of an optimizer as zero makes it, but over arrays and cuts that the caller chooses: for
 * zds-plugins --check, which has to see what a plugin does to each array, and to try every cut that
 * the ABI allows. There are no other parameters, no gradients on their way, and no publishing. */
#ifndef CORE_ZERO_HOOKS_H
#define CORE_ZERO_HOOKS_H

#include "zero/zero.h"

/* A parameter's arrays, each of the whole parameter; NULL: it has none. GLOBAL states are the same
 * array with every parameter. */
typedef struct hooked_arrays {
    void *master, *output;
    const void *grad;
    void *states[ZDS_MAX_STATES];
} hooked_arrays;

/* Elements of a parameter that become tiles, as a rank's part does; begins and ends where tiles
 * may. One that is updated whole has one run. */
typedef struct hooked_run {
    uint32_t param;
    uint64_t first, count;
} hooked_run;

/* What it is made for; all that is pointed to outlives it. */
typedef struct hooked_setup {
    zero_wishes wish; /* of stage 0; the tile is each step's own */
    const zds_model *model;
    const zero_param *params; /* [params] */
    const zds_hyper *hypers;  /* by zero_param.hyper: read in each step */
    const zds_optim_ops *optim;
    void *const *optim_self;
    int32_t rank, world_size;
} hooked_setup;

typedef struct hooked_step {
    const hooked_arrays *arrays; /* [params] */
    const hooked_run *runs;      /* [run_count]: their tiles are handed out in this order */
    size_t run_count;
    uint64_t tile;        /* elements of a full tile, and that small runs share a call up to */
    int32_t threads;      /* that hand them out */
    void *const *scratch; /* [threads] */
    int64_t step;         /* from 1 */
    double grad_scale;
    bool local; /* the optimizer reduces by itself: step_collective, which gets */
    const zds_comm_ops *comm;
    void *comm_self;
} hooked_step;

typedef struct hooked hooked;

/* As after describe of all parameters. Calls nothing of the optimizer's. */
zds_status hooked_create(const hooked_setup *setup, hooked **out, zds_error *error);
void hooked_destroy(hooked *h); /* NULL is allowed */
/* Once, before the first step: the optimizer's `prepare`, where it has one. */
zds_status hooked_prepare(hooked *h, const hooked_arrays *arrays);
/* begin_step, norms, sums_ready, step and end_step, or step_collective. */
zds_status hooked_step_make(hooked *h, const hooked_step *s);

/* Bytes of a state of a whole parameter: as zero takes memory for it. */
uint64_t hooked_state_bytes(const zds_state_spec *spec, uint64_t numel);

#endif

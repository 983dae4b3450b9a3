/* An optimizer at work on a small model, in steps that zero makes (zero/hooks.h): its arrays
 * between guards, its tiles cut at will, and each of its calls looked at. */
#ifndef ZDS_PLUGIN_PROBE_RIG_H
#define ZDS_PLUGIN_PROBE_RIG_H

#include <stdatomic.h>

#include "area.h"
#include "bench.h"
#include "zero/hooks.h"

enum { RIG_PARAMS = 5, RIG_CHUNK = 1024, RIG_RETIRED = 512, RIG_SEATS = BENCH_THREADS + 1 };
/* A full tile of the engine's. */
enum { RIG_TILE = 65536 };

/* The model: all small; some larger than a full tile; all but one without elements. */
enum { RIG_SMALL = 0, RIG_LARGE = 1, RIG_EMPTY = 2, RIG_MODELS = 3 };

/* What memory holds that nobody has written: whatever; zeros; ones, at other addresses. */
enum { RIG_AS_IT_COMES = 0, RIG_ZEROS = 1, RIG_ONES = 2 };

/* What the optimizer is created for. */
typedef struct rig_setup {
    zds_dtype master, grad, output, state; /* output equal to master: none */
    int32_t stochastic;
    const struct cJSON *values; /* of its options */
    bool tight;                 /* arrays end at a guard instead of beginning at one */
    bool scaled; /* gradients come divided by a factor that changes from step to step, and
                    grad_scale is that factor; else it is 1 */
    bool moving; /* all that is valid until a call returns is forbidden then; arrays move after each
                    step */
    bool steady; /* the same gradients in every step */
    int32_t model;       /* RIG_SMALL, ... */
    int32_t memory;      /* RIG_ZEROS, ... */
    uint64_t gradients;  /* which of many random ones */
    int32_t world, rank; /* 0: a world of one */
    int32_t port;        /* of the ranks of `world`, each in a process with all parameters, whose
                            step_collective reach each other; 0: they do not, and it is a world of one */
} rig_setup;

typedef struct rig_param {
    zds_param param;
    int64_t shape[2];
    zds_hyper hyper;
    zds_param_needs needs; /* of which `specs` are the states */
    zds_state_spec specs[ZDS_MAX_STATES];
    char *names[ZDS_MAX_STATES]; /* of its states */
    area *master, *grad, *output, *states[ZDS_MAX_STATES];
    area *chunks; /* double [tensor_norms][chunks of the parameter] */
} rig_param;

/* A thread that calls the plugin. */
typedef struct rig_seat {
    area *inputs; /* what the plugin may only read, until the call returns: tiles, hyperparameters,
                     sums, ctx */
    size_t inputs_used;
    area *scratch;
} rig_seat;

typedef struct rig {
    bench *b;
    rig_setup setup;
    zds_optim_ops ops;
    void *options, *self;
    bool made;
    rig_param params[RIG_PARAMS];
    area *shown; /* rig_param [RIG_PARAMS]: the zds_param that the plugin may read and keep */
    rig_seat seats[RIG_SEATS];
    area *retired[RIG_RETIRED];
    size_t retired_count;
    /* What makes the steps, and gets `calls` and `me` as its optimizer. */
    hooked *engine;
    zds_model *model;
    zero_param runs[RIG_PARAMS];
    zds_hyper hypers[RIG_PARAMS];
    zds_optim_ops calls;
    void *me;
    _Atomic(const char *) failed_in; /* the plugin's function that has failed, */
    _Atomic(char *) fault;           /* or what is wrong with one that has not */
    int32_t order;                   /* of parallel_for outside of tiles */
    int64_t step;
    double grad_scale;
    zds_comm_ops comm_ops; /* for step_collective */
    void *comm;
    long allocated;  /* calls of malloc and its like inside norms and step of tiles */
    int collectives; /* steps that were step_collective's */
} rig;

/* How the parameters are cut, and in which order the tiles are handed out. */
typedef struct rig_cut {
    uint64_t first, tile; /* elements in the first tile, and in those after it; 0: all of them. They
                             are rounded up to what the parameter needs */
    size_t batch;         /* tiles a call; 0: 1 */
    int32_t order;        /* BENCH_FORWARD, ... */
    bool only_second;     /* step gets the second tile of each parameter alone */
} rig_cut;

/* What create is told. */
zds_optim_env rig_env(const rig_setup *setup);
/* As the engine does where the plugin has no such functions. */
zds_status rig_create(bench *b, const void *options, const zds_optim_env *env, void **self);
void rig_destroy(const bench *b, void *self);
/* Creates an instance and destroys it. False if create refuses, with the text in b->error. */
bool rig_accepts(bench *b, const rig_setup *setup);
/* Creates the instance, describes the parameters, places master weights and states. Returns a fault
 * or NULL; rig_close is needed in either case. */
char *rig_open(rig *r, bench *b, const rig_setup *setup);
void rig_close(rig *r);

/* What is wrong with the description of a parameter, as a fault, or NULL. */
char *rig_needs_fault(const rig *r, const rig_param *p);
/* The parameter as the plugin sees it, where it may only read. */
const zds_param *rig_shown(const rig *r, const rig_param *p);

/* The optimizer as zero calls it, with a rig as its instance. */
zds_optim_ops rig_calls(const zds_optim_ops *ops);
/* Where the arrays are now. */
void rig_arrays(const rig *r, hooked_arrays arrays[RIG_PARAMS]);
/* Why a call of `engine` has failed, as a fault; NULL if it has not. */
char *rig_failure(rig *r, zds_status status);

/* Memory for what the next call of the plugin reads, from here on; its area is to be sealed before
 * the call. Returns the seat. */
rig_seat *rig_begin_inputs(rig *r, rig_seat *s);
void *rig_input(rig_seat *s, size_t bytes); /* zeroed */

/* Gradients of this step (its number alone decides): normal numbers of few bits. */
void rig_fill(rig *r);
/* One step over all parameters. */
char *rig_step(rig *r, const rig_cut *cut);
/* Fills and steps, `count` times. */
char *rig_steps(rig *r, int count, const rig_cut *cut);
/* What was written outside the arrays, or NULL. */
char *rig_guards(const rig *r);

/* Where two rigs differ, as a fault. `tolerance`: relative to the largest number in the array; 0:
 * every bit, also of states that are not numbers. */
char *rig_compare(const rig *a, const rig *b, double tolerance);

/* Weights and states of one rig, or what a checkpoint holds, for another of the same setup. */
void rig_copy_states(rig *to, const rig *from, bool weights);
/* The same, but for the values that states start from. */
bool rig_same_kinds(const zds_param_needs *a, const zds_param_needs *b);
bool rig_same_needs(const zds_param_needs *a, const zds_param_needs *b);
bool rig_same_hyper(const zds_hyper *a, const zds_hyper *b);

/* === a run in a process of its own (rig_twin.c) === */

typedef struct twin twin;
/* Opens a rig and runs whole steps in a child, which finds this process as it is now. */
twin *twin_run(bench *b, const rig_setup *setup, int count);
/* The same in two calls, for several at once, of which the first that fails ends the others. */
twin *twin_start(bench *b, const rig_setup *setup, int count);
void twins_wait(twin *const *twins, int32_t count);
void twin_free(twin *t);
/* create refused the setup. */
bool twin_refused(const twin *t);
int64_t twin_fault_at(const twin *t); /* in ns; 0 if it ended without a word */
bool twin_stopped(const twin *t);     /* it was ended since another failed */
/* How many steps of ZDS_REDUCE_LOCAL it has begun. */
int twin_collectives(const twin *t);
/* Opens `r`, without a step, as the twin has left its own. */
char *twin_load(const twin *t, rig *r, bench *b);

/* Calls body with every setup that the optimizer accepts: all types of weights and gradients with
 * the defaults, and each option with the first two of those types. */
typedef char *(*rig_body)(bench *b, const rig_setup *setup);
char *rig_each(bench *b, rig_body body);
/* The same with the first of the types alone; or with all types of the defaults and the first of
 * each option. */
char *rig_each_option(bench *b, rig_body body);
char *rig_each_once(bench *b, rig_body body);
/* The i-th combination of types that its masks allow; false past the last. */
bool rig_types(const bench *b, size_t i, rig_setup *setup);
/* "gradients in bf16, output in bf16" in a static buffer. */
const char *rig_types_text(const rig_setup *setup);

#endif

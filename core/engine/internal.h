/* The engine's own state, shared by the files of core/engine and core/zero. */
#ifndef CORE_ENGINE_INTERNAL_H
#define CORE_ENGINE_INTERNAL_H

#include <sys/types.h>

#include "engine/model.h"
#include "engine/services.h"
#include "host/launch.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "zero/layout.h"

/* What the config says, read once. */
typedef struct settings {
    int32_t stage;
    int64_t micro_batch, accumulation;
    bool managed_accumulation;
    zds_dtype param_dtype; /* of parameters and of what backward leaves */
    zds_dtype
        master_dtype;      /* of what the optimizer updates: param_dtype where that is the master */
    zds_dtype state_dtype; /* of the optimizer's element states */
    bool stochastic_rounding;
    zds_dtype accum_dtype; /* in which micro steps are added up */
    zds_dtype comm_dtype;  /* in which gradients travel */
    double clip;           /* 0: off */
    bool check_overflow, compute_norm;
    bool reduce_scatter, overlap;
    bool ignore_unused;
    double prescale, postscale; /* around the sum over ranks */
    double sum_factor;          /* of gradients that are to be summed, over their mean */
    int64_t print_every;        /* 0: never */
    bool breakdown;
    uint64_t bucket;
    const char *state_tier; /* in which memory row what offload_optimizer moves is entered */
} settings;

/* This rank's part of a parameter that it updates. */
typedef struct owned_piece {
    uint32_t param;
    uint64_t param_first, count;
    void *master;
    const void *grad;
    void *output;                 /* NULL in fp32 */
    void *states[ZDS_MAX_STATES]; /* as in zds_tile */
    uint32_t tile_first, tile_count;
    double *chunk_sums; /* [tensor_norms][chunks] */
    size_t chunks;
} owned_piece;

typedef struct param_run {
    zds_param desc;
    zds_param_needs needs;
    char *state_names[ZDS_MAX_STATES];
    void *whole_states[ZDS_MAX_STATES]; /* TENSOR, GLOBAL and RANK_LOCAL ones */
    owned_piece *piece;                 /* what this rank updates of it; NULL: nothing */
    double *sums;                       /* [tensor_norms] over the whole tensor */
    uint32_t hyper;                     /* index of its hyperparameters */
    bool trainable;
    bool written; /* its gradient buffer holds something of this micro step (pooled) or optimizer
                     step (full) */
    bool present; /* this rank has a gradient for it in this optimizer step */
} param_run;

/* A GLOBAL state: one, whichever parameters describe it. */
typedef struct global_state {
    const char *name;
    uint64_t bytes;
    uint32_t param; /* the first that describes it */
    void *state;
} global_state;

typedef enum span_state { SPAN_IDLE, SPAN_OPEN, SPAN_REDUCING } span_state;

typedef struct span_run {
    span_state state;
    uint32_t waiting;   /* modules that this micro step has not reported */
    zds_event **events; /* [event_count] of the reduction in flight: one, or one an owner */
    size_t event_count;
    zds_fused fused;       /* its arguments, */
    zds_fused fused_away;  /* and those of a reduction to another owner */
    zds_segment *segments; /* [segment_count] parameters in this rank's slice, for the norm */
    size_t segment_count;
    double *chunk_sums; /* [chunk_count] */
    size_t chunk_count;
    uint64_t non_finite;
    double own_sum_squares; /* of all this rank's own gradient, where it is not reduced */
    bool accumulated;       /* the slice holds micro steps of this optimizer step */
} span_run;

typedef struct module_run {
    zds_slot *slots;
    uint32_t slot_count;
    bool acquired; /* for BACKWARD */
    bool *none;    /* [slot_count] zds_grad_none said so */
} module_run;

/* The trained parameters of a group of hyperparameters. */
typedef struct group_size {
    uint64_t params, elements;
} group_size;

typedef struct tile_batch {
    uint32_t first, count;
} tile_batch;

/* Of a part of a gradient. */
typedef struct norm_part {
    double sum_squares;
    uint64_t non_finite;
} norm_part;

/* Exchanged at the boundary, a row a rank, then one byte a parameter: has a gradient. */
typedef struct exchange_row {
    double sum_squares;
    uint64_t non_finite;
    double loss;
} exchange_row;

struct zds_engine {
    pid_t process;
    bool planned; /* there is no memory behind what is laid out, and no list for its use */
    const zds_config *config;
    /* In zds_engine_check, where the model is only a sample: get what is refused, and what the
     * optimizer and the schedule warn of when they are created. */
    void (*refused)(void *user, const char *path, const char *message);
    void (*warned)(void *user, const char *message);
    void *refused_user;
    settings set;
    launch place;
    ledger *ledger;
    pool *threads;
    registry *plugins;
    zds_model *model;
    layout *lay;

    services comm_services, optim_services, sched_services;
    zds_comm_ops comm;
    zds_optim_ops optim;
    zds_sched_ops sched;
    void *comm_self, *optim_self, *sched_self;
    void *comm_options, *optim_options, *sched_options;
    const zds_plugin *optim_plugin;
    bool has_sched;

    /* Memory. Offsets of `lay` count elements from each base. */
    zds_region
        params; /* param_dtype; SHARED at stage >= 1 where the comm plugin can, else SYMMETRIC */
    bool params_shared;
    zds_region grads; /* stages 0, 1: accum_dtype, all spans */
    zds_region pool;  /* param_dtype: stage 2, or micro steps that accumulate in another type */
    zds_region
        travel; /* comm_dtype: a copy that travels where the plugin does not convert by itself */
    zds_region control; /* exchange rows, small collectives */
    bool pooled;        /* callers write into the pool */
    bool staged;        /* gradients travel as a copy in comm_dtype */
    bool fused;
    char *slices;   /* stage 2: accum_dtype, [shard] */
    float *master;  /* where master_dtype is not param_dtype: [shard], or [trainable] at stage 0 */
    float *staging; /* values in and out */

    param_run *param_runs;
    global_state *globals; /* [global_count] */
    uint32_t global_count;
    span_run *span_runs;
    uint32_t *in_flight; /* [in_flight_count]: stage 2, spans that are being reduced */
    uint32_t in_flight_count;
    module_run *module_runs;
    owned_piece *pieces;
    uint32_t piece_count;
    zds_tile *tiles;
    void *(*tile_states)[ZDS_MAX_STATES]; /* [tile_count] */
    uint32_t tile_count;
    zds_tile *whole_tiles; /* [whole_count] of this step: of parameters that are updated whole */
    uint32_t whole_count;
    tile_batch *batches;
    uint32_t batch_count;
    double *norm_sums; /* [norm_count]: all parameters' sums, one after another */
    uint32_t norm_count;
    /* What the optimizer's calls over whole parameters get in this step. */
    zds_param_step *param_steps; /* [params] */
    zds_param_steps param_list;  /* those of them that are trained */
    /* Where the optimizer may reduce gradients itself, else NULL. */
    norm_part *own_parts;            /* of the largest parameter */
    void **collective_states;        /* [params][ZDS_MAX_STATES]: as step_collective gets them */
    zds_hyper *base_hypers, *hypers; /* [hyper_count]: of the options, and of this step */
    uint32_t hyper_count;
    uint32_t *declared; /* [hyper_count]: which group of the config or the program each is of */
    uint32_t declared_count;
    group_size *group_sizes; /* [hyper_count] */
    zds_sched_value *sched_values;
    void **scratch; /* [threads] */

    /* Where the run stands. */
    bool values_set, broken;
    bool in_micro, in_backward, boundary, no_sync;
    bool local;          /* the optimizer reduces this step's gradients itself */
    bool own_states_cut; /* RANK_LOCAL states were last written by tiles, each rank in its slices */
    double phase_start;  /* of the forward or the backward in progress */
    int64_t micro;       /* since the last boundary */
    uint32_t cursor;     /* backward: modules at and above it are reported */
    int32_t acquired;    /* module acquired for BACKWARD, or -1 */
    int64_t steps, skips, sched_moves;
    int32_t travelling; /* span whose copy is in `travel`, or -1 */
    double pending_loss, mean_loss;
    zds_event *publish; /* SHARED parameters: all owners have written */
    uint64_t seed;
    zds_step_times now, times; /* of this optimizer step; since zds_take_times */
    char *error;
};

enum { TILE_ELEMENTS = 65536, STAGING_ELEMENTS = 1 << 20, CONTROL_DOUBLES = 64 };

/* Sets the engine's error text; returns status. */
zds_status engine_fail(zds_engine *e, zds_status status, const char *format, ...) ZDS_PRINTF(3, 4);
/* Adds what a plugin said; marks the engine broken after a lost peer or a divergence. */
zds_status engine_comm_failed(zds_engine *e, zds_status status, const char *doing);
/* After a failure of this rank alone in what all ranks do, with its text set: marks the engine
 * broken, and tells the peers, who would wait for this rank. Returns status. */
zds_status engine_give_up(zds_engine *e, zds_status status);
/* ZDS_ERR_INVALID in a forked child or after a lost peer. */
zds_status engine_usable(zds_engine *e);

double engine_now_ms(void);

/* refuse.c: refuses what the config, at `path`, or the program asks for. Sets "file:line:col:
 * error: path: ..."; without `error`'s caller to read it, in zds_engine_check, passes it on.
 * Returns status. */
zds_status engine_refuse(const zds_engine *e, zds_status status, const char *path, zds_error *error,
                         const char *format, ...) ZDS_PRINTF(5, 6);
/* create.c: an engine of nothing yet; NULL without ledger */
zds_engine *engine_empty(const zds_config *config, const zds_engine_options *options);
/* what the caller filled in of the options, as this version knows them */
zds_engine_options engine_options(const zds_engine_options *given);

/* settings.c: what the config says; all that is not possible here is reported at once */
zds_status settings_read(settings *set, const zds_config *config, int32_t world_size,
                         zds_error *error);
/* the same, of a config that may have problems, which are not told again */
void settings_fill(settings *set, const zds_config *config, int32_t world_size,
                   void (*report)(void *user, const char *path, const char *message), void *user);
/* plugins.c: opens what the config or the program names */
zds_status plugins_open_comm(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* in its place, for zds_engine_plan: what the plugin says of itself, or one of many abilities where
 * none suits, and memory that is only promised; nothing is connected */
zds_status plugins_plan_comm(zds_engine *e, const zds_engine_options *options, zds_error *error);
zds_status plugins_open_optim(zds_engine *e, const zds_engine_options *options, zds_error *error);
zds_status plugins_open_sched(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* groups.c: what the optimizer needs for each parameter, and groups of hyperparameters */
global_state *global_find(const zds_engine *e, const char *name); /* NULL: there is none */
zds_status groups_create(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* agree.c: all ranks have the same config, model and options, or none starts */
zds_status agree_on_start(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* storage.c of core/zero: regions, slices, masters, states, tiles */
zds_status storage_create(zds_engine *e, zds_error *error);
void storage_destroy(zds_engine *e);
/* At stage 1 and above callers may not write parameters: while sealed, the engine may not either.
 */
zds_status storage_seal(zds_engine *e, bool sealed);
/* Bytes of an ELEMENT or BLOCK state of `count` elements from a block's first; 0 for other kinds.
 */
uint64_t state_bytes(const zds_state_spec *spec, uint64_t count);
/* Bytes from the state of an element to that of the one `elements` further on. */
uint64_t state_offset(const zds_state_spec *spec, uint64_t elements);

/* Waits for an event of the comm plugin and releases it. */
zds_status engine_wait(zds_engine *e, zds_event **event, const char *doing);
/* Small collective: every rank's `bytes` (at most CONTROL_DOUBLES doubles or an exchange row) into
 * all[world_size][bytes]. */
zds_status engine_gather_small(zds_engine *e, const void *mine, size_t bytes, const void **all);
zds_status engine_published(zds_engine *e);

/* reduce.c of core/zero */
zds_status reduce_open(zds_engine *e, uint32_t span);
void *reduce_grad_pointer(zds_engine *e, uint32_t param);
zds_status reduce_module_done(zds_engine *e, uint32_t module);
zds_status reduce_finish_all(zds_engine *e);
/* own.c of core/zero: the norm of a span's gradient that stays this rank's own */
void own_statistics(zds_engine *e, uint32_t span);

/* update.c of core/engine: norm, clip, optimizer, publish, schedule */
zds_status update_boundary(zds_engine *e, zds_step_result *result);
/* After a plugin's failure in the middle of an update. */
zds_status update_failed(zds_engine *e, zds_status status, const char *what);
/* params.c of core/engine: the optimizer's calls over whole parameters, begin_step first in every
 * step; each does nothing where the optimizer has no such function */
zds_status params_prepare(zds_engine *e, zds_error *error);
zds_status params_begin_step(zds_engine *e, const zds_step_ctx *ctx);
zds_status params_sums_ready(zds_engine *e, const zds_step_ctx *ctx);
zds_status params_step_collective(zds_engine *e, const zds_step_ctx *ctx);
/* hypers.c: the hyperparameters of a step */
zds_status update_hypers(zds_engine *e, int64_t moves);
/* What a schedule sets that is no number where the optimizer has one, as text that the caller
 * frees; NULL: nothing. Both: [count], by group. */
char *schedule_fault(const zds_sched_value *values, const zds_hyper *base, size_t count);
double first_rate(const zds_engine *e); /* of the first parameter that is trained */
/* ZDS_ERR_CONFIG: a group of zds.param_groups has a rate of its own that the schedule overrides */
zds_status check_rates(zds_engine *e, zds_error *error);

#endif

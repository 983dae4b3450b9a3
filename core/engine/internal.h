/* The engine's own state, for the files of core/engine alone. */
#ifndef CORE_ENGINE_INTERNAL_H
#define CORE_ENGINE_INTERNAL_H

#include <sys/types.h>

#include "host/launch.h"
#include "memory/services.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "zero/model.h"
#include "zero/zero.h"

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

/* A GLOBAL state: one, whichever parameters describe it. */
typedef struct global_state {
    const char *name;
    uint64_t bytes;
    uint32_t param; /* the first that describes it */
} global_state;

/* The trained parameters of a group of hyperparameters. */
typedef struct group_size {
    uint64_t params, elements;
} group_size;

struct zds_engine {
    pid_t process;
    bool planned; /* memory is only counted, and there are no other ranks */
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
    peers peers;
    zero *zero;

    services comm_services, optim_services, sched_services;
    zds_comm_ops comm;
    zds_optim_ops optim;
    zds_sched_ops sched;
    struct bootstrap *bootstrap; /* of comm_self */
    void *comm_self, *optim_self, *sched_self;
    void *comm_options, *optim_options, *sched_options;
    const zds_plugin *optim_plugin;
    bool has_sched;

    param_run *param_runs; /* [params] */
    global_state *globals; /* [global_count] */
    uint32_t global_count;
    zds_hyper *base_hypers, *hypers; /* [hyper_count]: of the options, and of this step */
    uint32_t hyper_count;
    uint32_t *declared; /* [hyper_count]: which group of the config or the program each is of */
    uint32_t declared_count;
    group_size *group_sizes; /* [hyper_count] */
    zds_sched_value *sched_values;

    /* Where the run stands. */
    bool values_set;
    bool in_micro, in_backward, boundary, no_sync;
    bool local;         /* the optimizer reduces this step's gradients itself */
    double phase_start; /* of the forward or the backward in progress */
    int64_t micro;      /* since the last boundary */
    uint32_t cursor;    /* backward: modules at and above it are reported */
    int32_t acquired;   /* module acquired for BACKWARD, or -1 */
    int64_t steps, skips, sched_moves;
    double pending_loss, mean_loss;
    uint64_t seed;
    zds_step_times now, times; /* of this optimizer step; since zds_take_times */
    failure failure;
};

enum { HOST_TILE = 65536 /* elements */ };

/* Sets the engine's error text; returns status. */
zds_status engine_fail(zds_engine *e, zds_status status, const char *format, ...) ZDS_PRINTF(3, 4);
/* After a failure of this rank alone in what all ranks do, with its text set: nothing may follow,
 * and the peers, who would wait for this rank, are told. Returns status. */
zds_status engine_give_up(zds_engine *e, zds_status status);
/* ZDS_ERR_INVALID in a forked child or after a lost peer. */
zds_status engine_usable(zds_engine *e);

double engine_now_ms(void);

/* refuse.c: refuses what the config, at `path`, or the program asks for. Sets "file:line:col:
 * error: path: ..."; without `error`'s caller to read it, in zds_engine_check, passes it on.
 * Returns status. */
zds_status engine_refuse(const zds_engine *e, zds_status status, const char *path, zds_error *error,
                         const char *format, ...) ZDS_PRINTF(5, 6);
/* create.c: an engine of nothing yet; NULL without memory */
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
/* Prepares the ranks' first exchange, and makes it where the launcher does not say who shares a
 * node. */
zds_status plugins_meet(zds_engine *e, zds_error *error);
zds_status plugins_open_comm(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* in its place, for zds_engine_plan: what the plugin says of itself, or one of many abilities where
 * none suits, and memory that is only promised; nothing is connected */
/* Whether what the config names is there, with these options. *key: where it is named. */
zds_status plugins_check_comm(zds_engine *e, const zds_engine_options *options, const char **key,
                              zds_error *error);
zds_status plugins_plan_comm(zds_engine *e, const zds_engine_options *options, zds_error *error);
zds_status plugins_open_optim(zds_engine *e, const zds_engine_options *options, zds_error *error);
zds_status plugins_open_sched(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* groups.c: what the optimizer needs for each parameter, and groups of hyperparameters */
global_state *global_find(const zds_engine *e, const char *name); /* NULL: there is none */
zds_status groups_create(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* agree.c: all ranks have the same config, model and options, or none starts */
zds_status agree_on_start(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* update.c: norm, clip, optimizer, publish, schedule */
zds_status update_boundary(zds_engine *e, zds_step_result *result);
/* hypers.c: the hyperparameters of a step */
zds_status update_hypers(zds_engine *e, int64_t moves);
/* What a schedule sets that is no number where the optimizer has one, as text that the caller
 * frees; NULL: nothing. Both: [count], by group. */
char *schedule_fault(const zds_sched_value *values, const zds_hyper *base, size_t count);
double first_rate(const zds_engine *e); /* of the first parameter that is trained */
/* ZDS_ERR_CONFIG: a group of zds.param_groups has a rate of its own that the schedule overrides */
zds_status check_rates(zds_engine *e, zds_error *error);

#endif

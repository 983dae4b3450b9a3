/* The engine's own state, for the files of core/engine alone. */
#ifndef CORE_ENGINE_INTERNAL_H
#define CORE_ENGINE_INTERNAL_H

#include <sys/types.h>

#include "config/config.h"
#include "engine/scale.h"
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
    /* Of what the optimizer updates: param_dtype where that is the master. */
    zds_dtype master_dtype;
    zds_dtype state_dtype; /* of the optimizer's element states */
    bool stochastic_rounding;
    zds_dtype accum_dtype; /* in which micro steps are added up, */
    bool accum_is_chosen;  /* because the config says so */
    zds_dtype comm_dtype;  /* in which gradients travel */
    double clip;           /* 0: off */
    bool check_overflow, compute_norm;
    bool ignore_unused;
    int64_t print_every; /* 0: never */
    bool breakdown;
    bool progress_thread;    /* for what moves between ranks */
    bool strict;             /* what is acquired must be released */
    zero_wishes zero;        /* but for what is said above, and what the config does not know */
    loss_scale scale;        /* as it is at first */
    const char *states_tier; /* offload_optimizer's, for masters and states; NULL: none */
    const char *params_tier; /* offload_param's; likewise */
} settings;

/* Other settings than the config's, for a plan: to what masters and states, and parameters,
 * offload, NULL for nothing; where parameters do, none stays, and `live` of them are gathered at a
 * time. */
typedef struct settings_instead {
    int32_t stage;
    const char *states, *params;
    uint64_t live;
} settings_instead;

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

/* What the caller holds of a module. */
typedef struct module_hold {
    uint32_t forward; /* times acquired, and not released */
    bool backward;    /* and not reported */
} module_hold;

/* Ranks as one communication plugin connects them. */
typedef struct comm_link {
    zds_comm_ops ops;
    void *self, *options;
    services services;
    peers peers;
} comm_link;

struct zds_engine {
    pid_t process;
    bool planned;                    /* memory is only counted, and there are no other ranks */
    const settings_instead *instead; /* with these settings; NULL: the config's */
    const zds_config *config;
    bool sample;      /* the model is only a sample (sample.h): what is refused stays in `found` */
    problems found;   /* what is refused, till it is told */
    problems *warned; /* what plugins warn of; NULL: the log gets it */
    settings set;
    launch launch;
    ledger *ledger;
    pool *threads;
    registry *plugins;
    zds_model *model;
    zds_device device; /* where parameters are computed */
    tier *tier;        /* of it */
    tier *host_tier;   /* NULL: the same */
    tier *states_tier; /* of masters and states; NULL: the same */
    tier *params_tier; /* where parameters rest; NULL: the same */
    bool states_rest;  /* they are not where the optimizer computes, and are streamed */
    struct tier_plugin {
        const zds_plugin *plugin; /* NULL: not used */
        void *options;
    } tier_plugins[4]; /* of these */
    struct bootstrap *bootstrap;
    comm_link comm;      /* of buffers in the device's memory, */
    comm_link host_comm; /* and of the host's, where that is another */
    peers *control;      /* by way of which of both numbers of the host are exchanged */
    zero *zero;

    services optim_services, sched_services;
    zds_optim_ops optim;
    zds_sched_ops sched;
    void *optim_self, *sched_self;
    void *optim_options, *sched_options;
    const zds_plugin *optim_plugin;
    bool has_sched;

    zero_param *params;    /* [params] */
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
    bool local;            /* the optimizer reduces this step's gradients itself */
    double phase_start;    /* of the forward or the backward in progress */
    int64_t micro;         /* steps since the last boundary, */
    int64_t unsynced;      /* besides those under zds_no_sync, */
    int64_t accumulation;  /* of so many up to the next */
    zds_dtype accum_dtype; /* in which micro steps are added up, from now on */
    module_hold *holds;    /* [modules], */
    uint64_t forwards;     /* of which so many are acquired for forward, times counted, */
    uint32_t backwards;    /* and so many for backward */
    uint32_t cursor;       /* backward: modules at and above it are reported or passed over; */
    uint32_t lowest;       /* those from here on are that, or acquired */
    int64_t steps, skips, sched_moves;
    loss_scale scale;
    bool finished;         /* gradients are reduced, and their norm is known: */
    zero_norm_result norm; /* of this optimizer step, unscaled */
    bool spoilt;           /* this rank abandoned a backward of it */
    bool abandoned;        /* this rank gave up the micro step in progress */
    zds_status given_up;   /* what zds_fail was told; the run is over */
    double pending_loss, mean_loss;
    uint64_t seed;
    bool values_everywhere;    /* each rank reads initial values itself */
    zds_step_times now, times; /* of this optimizer step; since zds_take_times */
    failure failure;
};

/* Elements of a full tile: on the host threads share a step and its caches, and a device launches a
 * kernel for each window. */
enum { HOST_TILE = 1 << 16, DEVICE_TILE = 1 << 21 };

/* Sets the engine's error text; returns status. */
zds_status engine_fail(zds_engine *e, zds_status status, const char *format, ...) ZDS_PRINTF(3, 4);
/* After a failure of this rank alone in what all ranks do, with its text set: nothing may follow,
 * and the peers, who would wait for this rank, are told. Returns status. */
zds_status engine_give_up(zds_engine *e, zds_status status);
/* Of a call with a function of the program's, which may have ended the run by zds_fail: that is
 * then why it failed. */
static inline zds_status engine_why(const zds_engine *e, zds_status status)
{
    return e && e->given_up ? e->given_up : status;
}
/* ZDS_ERR_INVALID in a forked child or after a lost peer. */
zds_status engine_usable(zds_engine *e);

double engine_now_ms(void);
/* Parameters are updated in this micro step from the first zds_grad_ready on. */
static inline bool engine_updates(const zds_engine *e)
{
    return e->set.zero.overlap_step && e->in_micro && e->boundary;
}
/* Between the micro steps of one optimizer step, or in one of them. */
static inline bool engine_in_step(const zds_engine *e)
{
    return e->in_micro || e->micro || e->unsynced;
}

/* refuse.c: what the config, at a path, or the program asks for and an engine refuses. All of it is
 * noted before it is told. */
void engine_note(zds_engine *e, const char *path, const char *message);
/* Sets the error to what was noted, a line each, after `intro`, and forgets it; a sample keeps it.
 * Returns status. */
zds_status engine_tell(zds_engine *e, zds_status status, const char *intro, zds_error *error);
/* Notes this one and tells. */
zds_status engine_refuse(zds_engine *e, zds_status status, const char *path, zds_error *error,
                         const char *format, ...) ZDS_PRINTF(5, 6);
/* What a plugin said, at the key of `section` that it is about. */
zds_status engine_refuse_in(zds_engine *e, zds_status status, const char *section, const char *why,
                            zds_error *error, const char *format, ...) ZDS_PRINTF(6, 7);
/* create.c: an engine of nothing yet; NULL without memory */
zds_engine *engine_empty(const zds_config *config, const zds_engine_options *options);
/* Makes it, as zds_engine_create does, or plans to. */
zds_status engine_build(zds_engine *e, const zds_model *model, const zds_engine_options *options,
                        zds_error *error);
/* room.c: that the run takes more of the node's memory than is `left` (below 0: than the machine
 * says), and the nearest settings that do not; NULL: there is room, or no memory to say so. The
 * caller frees it. */
char *room_text(const zds_engine *e, const zds_model *model, const zds_engine_options *options,
                double left);
/* what the caller filled in of the options, as this version knows them; NULL: nothing */
zds_status engine_options(const zds_engine_options *given, zds_engine_options *out,
                          zds_error *error);

/* settings.c: what the config says; all that is not possible here is reported at once */
zds_status settings_read(settings *set, const zds_config *config, int32_t world_size,
                         zds_error *error);
/* the same, of a config that may have problems, which are not told again */
settings settings_of(const zds_config *config, int32_t world_size, problems *found);
/* plugins.c: a registry with the config's folders and the program's plugins */
zds_status plugins_find(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* The plugin's options: from the config's object at `section`, else the program's JSON text. */
zds_status plugins_read_options(zds_engine *e, const zds_plugin *plugin, const char *section,
                                const char *text, void **options, zds_error *error);
/* A memory tier's: `section` has its params; what they leave out of the section aio comes from
 * there. */
zds_status plugins_read_tier(zds_engine *e, const zds_plugin *plugin, const char *section,
                             void **options, zds_error *error);
/* No such plugin, or none that fits. `type`: the key that names it; `found` says why. */
zds_status plugins_refuse_name(zds_engine *e, zds_status status, const char *type, zds_error *found,
                               zds_error *error);
zds_status plugins_open_optim(zds_engine *e, const zds_engine_options *options, zds_error *error);
zds_status plugins_open_sched(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* groups.c: what the optimizer needs for each parameter, and groups of hyperparameters */
zds_status groups_create(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* links.c: prepares the ranks' first exchange, and makes it where the launcher does not say who
 * shares a node */
zds_status links_meet(zds_engine *e, zds_error *error);
/* connects and compares the ranks; in a plan it only finds out how it would connect them */
zds_status links_open(zds_engine *e, const zds_engine_options *options, zds_error *error);
void links_close(zds_engine *e);
/* Tells the other ranks that this one gives up. */
void links_abort(zds_engine *e, const char *why);
/* Whether what the config names is there and takes its options. *key: where that stands. */
zds_status links_check(zds_engine *e, const zds_engine_options *options, const char **key,
                       zds_error *error);
/* tiers.c: finds the plugins of all tiers, of which a sample tells all that is refused, and opens
 * those of parameters; */
zds_status tiers_open(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* those of what rests elsewhere, once it is known how much that will be */
zds_status tiers_open_rest(zds_engine *e, zds_error *error);
/* Whether what the memory report has under this name is the host's. */
bool tiers_are_here(const zds_engine *e, const char *name);
void tiers_close(zds_engine *e);
/* agree.c: all ranks have the same config, model and options, or none starts */
zds_status agree_on_start(zds_engine *e, const zds_engine_options *options, zds_error *error);
/* and the same hash of each parameter's values */
zds_status agree_on_hashes(zds_engine *e, const uint64_t *hashes, zds_error *error);
/* micro.c: modules down to `module` that are not acquired for backward have no gradients of this
 * rank in this micro step, but for those reported */
zds_status engine_pass_over(zds_engine *e, uint32_t module);
/* ZDS_ERR_INVALID while a module is acquired for backward; `call` cannot be made then */
zds_status engine_all_reported(zds_engine *e, const char *call);
/* what is acquired for forward is released at a micro step's end, or ZDS_ERR_INVALID where the
 * config is strict */
zds_status engine_close_forwards(zds_engine *e, const char *call);
/* hypers.c: the hyperparameters of a step */
zds_status update_hypers(zds_engine *e, int64_t moves);
double first_rate(const zds_engine *e); /* of the first parameter that is trained */
/* ZDS_ERR_CONFIG: a group of zds.param_groups has a rate of its own that the schedule overrides */
zds_status check_rates(zds_engine *e, zds_error *error);

#endif

/* The training engine: hand it the shapes of your model and a ds_config, and it keeps parameters,
 * gradients and optimizer state where the config says, reduces gradients over ranks, and updates.
 *
 * In one picture, for a caller that keeps its own loop:
 *
 *     zds_model *model = zds_model_create();
 *     for each layer, in forward order:
 *         zds_model_add_module(model, "h.0", &module);
 *         zds_model_add_param(model, module, &(zds_param_desc){...}, &param);
 *     zds_engine_create(config, model, &options, &engine, &error);
 *     zds_set_values(engine, read_weights, file);      on every rank; rank 0's values count
 *     for each micro step:
 *         zds_micro_begin(engine, ZDS_BOUNDARY_AUTO);
 *         forward, for each module:
 *             zds_acquire(FORWARD) .. compute .. zds_release
 *         backward, for each module, last first:
 *             zds_acquire(BACKWARD) .. write gradients .. zds_grad_ready
 *         zds_step(engine, &result);                   updates at the accumulation boundary
 *
 * or, with callbacks, zds_train_batch does the loop. An evaluation is acquire(FORWARD) and release
 * without micro_begin.
 *
 * Gradients. What backward leaves for a parameter of dtype T is T(zds_loss_scale(engine) * g),
 * where g is the gradient of this micro step's mean loss: multiply the loss's own gradient by
 * zds_loss_scale and all the rest follows. Do not average over micro steps or ranks: the scale
 * holds 1/accumulation, the reduction 1/world_size.
 *
 * Streams. Where parameters live on a device, acquire makes the caller's stream wait for the
 * parameters, and release and grad_ready make the engine wait for what was put on it so far. On the
 * host the stream is NULL and what was computed is what is there.
 *
 * Threads and processes. One thread at a time calls an engine; every rank makes the same calls in
 * the same order. In a process forked after zds_engine_create, every call returns ZDS_ERR_INVALID;
 * zds_parallel_for works there on the calling thread alone.
 *
 * Structs. The caller sets struct_size to sizeof and the rest of what it fills to zero. Less than
 * ABI 1.0 has is ZDS_ERR_INVALID; where the library fills one, less than struct_size itself is. Of
 * what the library fills, what it does not know is zero.
 *
 * Errors. Each function returns a status; zds_engine_error gives the text of the last one that was
 * not ZDS_OK, which lives until the next call with the engine. After ZDS_ERR_PEER or
 * ZDS_ERR_DIVERGED, and after a plugin or a callback has failed within a step, only
 * zds_engine_destroy may be called; the other ranks get ZDS_ERR_PEER with the text. */
#ifndef ZDS_ENGINE_H
#define ZDS_ENGINE_H

#include <stdbool.h>

#include "zds/config.h"
#include "zds/plugin.h"

ZDS_BEGIN_DECLS

/* === model === */

typedef struct zds_model zds_model;
typedef struct zds_engine zds_engine;

typedef struct zds_param_desc {
    size_t struct_size;
    const char *name;     /* unique; copied */
    const int64_t *shape; /* [ndim]; each >= 0 (a parameter may have no elements); copied */
    uint32_t ndim;        /* 0 to 8; 0 is a scalar */
    int32_t role;         /* ZDS_ROLE_...; optimizers may treat roles differently */
    bool frozen;          /* not trainable: no gradient, no state, never updated */
    bool fp32; /* in fp32, also where the config trains in 16 bits: values, gradients, and
                  how they are added up and travel. Norms, say */
    uint8_t reserved[2];
    uint32_t group;      /* 0 with an optimizer of ds_config; see zds_group_desc */
    double width_mult;   /* for muP's optimizers, as in zds_param; 0 is taken as 1 */
    double fan_out_mult; /* likewise; 0: width_mult for ZDS_ROLE_MATRIX, else 1 */
} zds_param_desc;

zds_model *zds_model_create(void); /* NULL if there is no memory */
void zds_model_destroy(zds_model *model);

/* Modules are numbered from 0 in the order of these calls, which must be the order of the forward
 * pass: backward reports them last first. Frozen-only and empty modules are legal. */
zds_status zds_model_add_module(zds_model *model, const char *name, uint32_t *module);
/* A parameter whose home is `module`. Parameters are numbered from 0 over the whole model.
 * ZDS_ERR_INVALID: no such module, bad shape, a name that exists. */
zds_status zds_model_add_param(zds_model *model, uint32_t module, const zds_param_desc *desc,
                               uint32_t *param);
/* A further use of a parameter by a module that comes after its home (tied weights). In that
 * module's view it follows the module's own parameters, in the order of these calls. */
zds_status zds_model_add_use(zds_model *model, uint32_t module, uint32_t param);
/* What was wrong with the last of these calls; "" if nothing was. */
const char *zds_model_error(const zds_model *model);

/* === engine === */

/* Hyperparameters of a parameter group that differ from the optimizer's options: fields that are
 * NaN are the options'. */
typedef struct zds_group_desc {
    size_t struct_size;
    zds_hyper hyper;
} zds_group_desc;

typedef struct zds_engine_options {
    size_t struct_size;
    /* Where this process stands. world_size 0: read from the environment that launchers set (RANK,
     * WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT; or Open MPI's, PMI's,
     * Slurm's); alone if there is none. local_world_size 0: the ranks find out who shares a node.
     */
    int32_t rank, world_size, local_rank, local_world_size;
    const char *master_addr;
    int32_t master_port;
    int32_t threads;  /* of this rank's pool; 0: this rank's cores */
    const char *comm; /* name or path of a comm plugin; NULL: "zds": {"comm": ..} of the config,
                         else what suits best */
    /* The program's own choices, used where ds_config has no such section. `*_params` is JSON text
     * of the plugin's options, or NULL. optimizer NULL and none in the config is an error.
     * scheduler NULL and none in the config: a constant rate. */
    const char *optimizer, *optimizer_params;
    const char *scheduler, *scheduler_params;
    /* Groups of the program's own optimizer: zds_param_desc.group indexes them. NULL: one group.
     * With an optimizer of ds_config there is one group and the param's `group` is not used, as
     * under the Trainer, unless keep_groups says so. zds.param_groups of the config come before
     * these: a parameter that one of them takes by its name is in that group, and has the
     * hyperparameters that it sets; all else stays as here. */
    const zds_group_desc *groups;
    size_t group_count, group_stride;
    /* Plugins linked into the program; looked at before any file. NULL-ended, or NULL. Kept by the
     * engine. */
    const zds_plugin *const *plugins;
    uint64_t seed;
    int64_t total_steps, warmup_steps; /* of the run, for schedules that ask; -1 or 0: not known */
    /* `groups` hold for an optimizer of ds_config, too, as where deepspeed.initialize is given
     * groups of parameters. */
    bool keep_groups;
    uint8_t reserved[7];
    /* Where parameters, gradients and states are; HOST (0): as "zds": {"device": ..} of the config
     * says, else the host. ordinal -1: of this rank's local_rank. */
    zds_device device;
    /* After how long a rank that lives and does nothing is an error (ZDS_ERR_PEER) for those who
     * wait for it; 0: ZDS_TIMEOUT seconds of the environment, else 30 minutes. Meanwhile a warning
     * a minute says who waits for what. A rank that dies is noticed within 2 seconds, and one that
     * does not come at all within a minute, whatever this is. */
    int32_t timeout_ms;
    /* zds_set_values is given values on every rank, which reads what it keeps. The same on all. */
    bool values_everywhere;
    /* Paths of plugins and zds.plugin_path that stand in the config are opened: its code runs in
     * this process. False: they are refused (ZDS_ERR_PLUGIN), unless ZDS_TRUST_PLUGINS=1 stands in
     * the environment, or they are in a folder that is searched anyway. */
    bool trust_config_plugins;
    uint8_t reserved_end[2];
} zds_engine_options;

/* Collective. Opens the plugins that the config names and lays out all memory. `config` must stay
 * until the engine is destroyed; `model` may be destroyed at once. ZDS_ERR_CONFIG: problems of the
 * config (its text lists them all), or a key that is not implemented; ZDS_ERR_DIVERGED: ranks
 * differ in config or model; ZDS_ERR_PLUGIN, ZDS_ERR_NOT_FOUND, ZDS_ERR_UNSUPPORTED,
 * ZDS_ERR_MEMORY, ZDS_ERR_PEER. */
zds_status zds_engine_create(const zds_config *config, const zds_model *model,
                             const zds_engine_options *options, zds_engine **engine,
                             zds_error *error);
void zds_engine_destroy(zds_engine *engine);
const char *zds_engine_error(const zds_engine *engine);

/* === values === */

/* Fills out[0..count) with elements [first, first + count) of a parameter, row-major, in fp32. */
typedef zds_status (*zds_read_fn)(void *user, uint32_t param, uint64_t first, uint64_t count,
                                  float *out);
/* Receives them. */
typedef zds_status (*zds_write_fn)(void *user, uint32_t param, uint64_t first, uint64_t count,
                                   const float *values);

/* Collective, and not after the first optimizer step. Initial values of all parameters, from rank
 * 0, where alone `read` is called; with options.values_everywhere it is called on every rank, for
 * what that rank keeps, in ranges that ascend in each parameter, and again for one chunk of each
 * parameter, by which ranks see that they read the same (ZDS_ERR_DIVERGED names the parameter). In
 * 16-bit training values are rounded, and master weights start from the rounded ones. Before this,
 * zds_acquire is refused. `read`'s own error becomes the result on all ranks. */
zds_status zds_set_values(zds_engine *engine, zds_read_fn read, void *user);

/* Collective. The parameter as trained (`state` NULL: the master weight where one is kept) or an
 * ELEMENT or CONSTANT state by name ("exp_avg"), handed to `write` on rank 0, in ascending pieces.
 * Frozen parameters have no state: ZDS_ERR_NOT_FOUND. ZDS_ERR_INVALID, as of zds_get_state_bytes,
 * in a boundary micro step with "zds": {"overlap_step": true}. */
zds_status zds_get_values(zds_engine *engine, uint32_t param, const char *state, zds_write_fn write,
                          void *user);
/* Name of the i-th ELEMENT or CONSTANT state of a parameter; NULL past the last. */
const char *zds_state_name(const zds_engine *engine, uint32_t param, uint32_t i);
/* What its values mean, as its optimizer says (zds_state_spec.version): 0 for plain values of that
 * name, and past the last. States of one name and different versions do not replace each other. */
uint32_t zds_state_version(const zds_engine *engine, uint32_t param, uint32_t i);
/* Name of the state that holds the weights to evaluate and to keep, where these are not the ones
 * that are trained (an average over steps); NULL: the parameter itself. */
const char *zds_eval_state(const zds_engine *engine, uint32_t param);

/* Collective, between optimizer steps, after zds_set_values. The other way: replaces the parameter
 * as trained (`state` NULL: the master weight, and what acquire gives, rounded) or a state that
 * zds_state_name tells by what `read` gives on rank 0; one of scope RANK_LOCAL on each rank alike.
 * ZDS_ERR_NOT_FOUND: no such parameter or state, or a frozen one; ZDS_ERR_INVALID: a CONSTANT state
 * is given another value. `read`'s own error becomes the result on all ranks; what is half there
 * cannot be used, and only zds_engine_destroy may follow. */
zds_status zds_set_state(zds_engine *engine, uint32_t param, const char *state, zds_read_fn read,
                         void *user);

/* A state of any kind, as bytes: as its optimizer has them, on machines of one byte order. */
typedef struct zds_state_info {
    size_t struct_size;
    const char *name; /* lives as long as the engine */
    int32_t kind;     /* ZDS_STATE_... */
    int32_t scope;    /* ZDS_SCOPE_... */
    zds_dtype dtype;  /* of ELEMENT; else only a hint for printing */
    uint32_t version; /* as zds_state_version */
    uint32_t block;   /* of BLOCK: its elements; else 0 */
    int32_t ranks;    /* RANK_LOCAL: the world size, and each rank's bytes follow those of the rank
                         before; else 1 */
    /* Of all of it: an ELEMENT's values in dtype and a BLOCK's blocks, counted from the parameter's
     * first element; the bytes of a TENSOR or GLOBAL state. 0 for CONSTANT. */
    uint64_t bytes;
} zds_state_info;
/* State i of a parameter; false past the last, for frozen parameters, and where struct_size is 0. A
 * GLOBAL state is told with the first parameter that has it, and belongs to that alone. */
bool zds_state(const zds_engine *engine, uint32_t param, uint32_t i, zds_state_info *info);

/* Bytes [first, first + count) of a state. */
typedef zds_status (*zds_read_bytes_fn)(void *user, uint64_t first, uint64_t count, void *out);
typedef zds_status (*zds_write_bytes_fn)(void *user, uint64_t first, uint64_t count,
                                         const void *bytes);
/* As zds_get_values and zds_set_state, of a state that zds_state tells, in bytes. `saved` is what
 * zds_state told of it where the bytes were got: ZDS_ERR_INVALID, and nothing has changed, where it
 * tells anything else here. So the bytes of RANK_LOCAL states are for the same number of ranks. On
 * another they may be left out, and the state starts anew; or zds_set_state gives all ranks the
 * same values, if it is an ELEMENT one. */
zds_status zds_get_state_bytes(zds_engine *engine, uint32_t param, const char *state,
                               zds_write_bytes_fn write, void *user);
zds_status zds_set_state_bytes(zds_engine *engine, uint32_t param, const zds_state_info *saved,
                               zds_read_bytes_fn read, void *user);

/* Where a run stands, besides parameters and states. */
typedef struct zds_progress {
    size_t struct_size;
    int64_t steps, skips;   /* of zds_step_result; the schedule has moved `steps` times */
    double loss_scale;      /* of fp16; else 1. Where it is dynamic, what moves it: */
    int64_t scale_steps;    /* boundaries that it has seen, */
    int64_t scale_overflow; /* which of them overflowed last, from 0; -1: none; */
    int64_t scale_patience; /* and from which further overflow on it halves */
} zds_progress;
/* On each rank by itself. */
zds_status zds_get_progress(zds_engine *engine, zds_progress *progress);
/* Collective, between optimizer steps, after zds_set_values: the next step is number steps + 1, for
 * the optimizer and the schedule. ZDS_ERR_INVALID: numbers that no run has; ZDS_ERR_DIVERGED: ranks
 * set different ones. */
zds_status zds_set_progress(zds_engine *engine, const zds_progress *progress);
/* What a schedule that follows a metric remembers, the same on every rank; 0 bytes for one that
 * remembers nothing. Setting is for the same schedule with the same options, on every rank; other
 * sizes are ZDS_ERR_INVALID. */
uint64_t zds_schedule_state_bytes(const zds_engine *engine);
zds_status zds_get_schedule_state(zds_engine *engine, void *state);
zds_status zds_set_schedule_state(zds_engine *engine, const void *state, uint64_t bytes);

/* === step === */

enum { ZDS_FORWARD = 0, ZDS_BACKWARD = 1 };

/* A parameter as one use in one module sees it. data and grad begin at multiples of 64 bytes. */
typedef struct zds_slot {
    uint32_t param;
    zds_dtype dtype;  /* of data */
    uint64_t count;   /* elements */
    const void *data; /* read only; at stage >= 1 the pages are not writable */
    void *grad;       /* of a trainable parameter, while the module is acquired for BACKWARD (each
                         view of it sees it); else NULL */
    bool accumulate;  /* add to grad; false: overwrite it (what is there is undefined). Of uses that
                         are held together, the one acquired first overwrites, before the others */
    uint8_t reserved[3];
    zds_space space;      /* of data and grad, */
    zds_device device;    /* with its ordinal */
    zds_dtype grad_dtype; /* of grad; in this version, data's */
} zds_slot;

typedef struct zds_view {
    size_t count;
    const zds_slot *slots; /* home parameters in the order they were added, then uses; valid until
                              the module's release or grad_ready */
    size_t stride;         /* bytes from one slot to the next: sizeof(zds_slot) of the library */
} zds_view;

/* From and to what a slot points to, `bytes` of the program's own memory, whatever space the slot
 * is in; over when they return. Between zds_acquire and the module's release or zds_grad_ready;
 * they come after what zds_acquire makes its stream wait for, but not after the program's own work
 * there. Pointers that the device does not know are ZDS_ERR_INVALID, and change nothing. In the
 * host's memory a program needs none of them. */
zds_status zds_copy_in(zds_engine *engine, void *to, const void *from, uint64_t bytes);
zds_status zds_copy_out(zds_engine *engine, void *to, const void *from, uint64_t bytes);

enum {
    ZDS_BOUNDARY_AUTO = 0, /* every gradient_accumulation_steps-th micro step is a boundary */
    ZDS_BOUNDARY_NO = 1,   /* the caller decides: this one is not */
    ZDS_BOUNDARY_YES = 2   /* this one is */
};

/* Starts a micro step. Whether it is the boundary is announced here, before its backward.
 * ZDS_ERR_INVALID: AUTO with managed_gradient_accumulation false, a micro step in progress, values
 * not set. */
zds_status zds_micro_begin(zds_engine *engine, int32_t boundary);
/* Parameters (and with BACKWARD, gradient buffers) of a module. Pointers are the same in every step
 * at stages 0 to 2, but those of gradients change at stage 2, where micro steps are added up that
 * the config did not foresee, and where modules are held together. BACKWARD must come in descending
 * order of modules, once each in a micro step; what is left out has no gradients in it.
 *
 * At stage 3 addresses hold until the module's release or grad_ready. Where ranks share no pages
 * (they are on several nodes, or parameters on devices), each keeps its part of a module, and all
 * gather it together when it is acquired: they acquire the same modules in the same order, in micro
 * steps and outside of them; a difference is ZDS_ERR_DIVERGED or ZDS_ERR_PEER where the
 * communication plugin sees it, else ZDS_ERR_PEER once the timeout is over.
 *
 * FORWARD is counted: each is ended by a zds_release, in a micro step or outside. What is not
 * released when the micro step ends is released then, or at stage 3, and with "zds": {"strict":
 * true}, an error of zds_step. FORWARD within the module's BACKWARD, to recompute, sees the same
 * pointers.
 *
 * Several modules may be held for BACKWARD, at stages 0 and 1 all of them, as where a whole graph
 * is run at once. Where gradients are added up in another type than the parameters', this takes
 * memory of all gradients once more, in the parameters' type, from the first time on. At stages 2
 * and 3 there is room for some: ZDS_ERR_UNSUPPORTED, and nothing has changed, until one is
 * reported. ZDS_ERR_INVALID: no such module, or out of order; with "zds": {"overlap_step": true} in
 * a boundary micro step, FORWARD of a module whose gradients were reported or passed over. */
zds_status zds_acquire(zds_engine *engine, uint32_t module, int32_t pass, const zds_stream *stream,
                       zds_view *view);
/* The end of a FORWARD use. ZDS_ERR_INVALID: the module is not acquired so often. */
zds_status zds_release(zds_engine *engine, uint32_t module, const zds_stream *stream);
/* Before grad_ready: the slot's parameter gets no gradient from this use; its buffer must not have
 * been written where `accumulate` is set, and is ignored where it is not. ZDS_ERR_INVALID: another
 * use is acquired that was told to add to this one; write zeros instead. */
zds_status zds_grad_none(zds_engine *engine, uint32_t module, uint32_t slot);
/* The gradients of the module are written; its pages may be reused. May reduce, and may move other
 * reductions forward. Modules that are held together may be reported in any order. ZDS_ERR_INVALID:
 * not acquired for BACKWARD in this micro step. Modules that a rank does not report count as zeros;
 * a parameter that no rank has a gradient for is left alone in this step.
 *
 * With "zds": {"overlap_step": true}, in a boundary micro step, parameters are updated from then
 * on: ZDS_ERR_INVALID for a module that is still acquired for FORWARD; in fp32 ZDS_ERR_OVERFLOW,
 * which ends the run, on a rank that sees a gradient that is not finite. */
zds_status zds_grad_ready(zds_engine *engine, uint32_t module, const zds_stream *stream);

typedef struct zds_step_result {
    size_t struct_size;
    int32_t applied;   /* 1: parameters were updated */
    int32_t skipped;   /* 1: a boundary, but a gradient was not finite, or the step was discarded
                          or abandoned: nothing changed */
    int64_t steps;     /* applied so far */
    int64_t skips;     /* skipped so far */
    double grad_norm;  /* over all parameters and ranks, unscaled, before clipping; NaN if not a
                          boundary; Inf or NaN if a gradient was not finite */
    double loss_scale; /* that the next step will use */
    double lr; /* rate of the first trainable parameter (of those that lead, see plugin.h) in this
                  step, applied or not */
    double next_lr; /* after the scheduler moved */
    double loss;    /* zds_train_batch only: mean over micro steps and ranks; else NaN */
} zds_step_result;

/* The end of a micro step. At the boundary: finish reductions, norm, clip, update, publish, move
 * the scheduler. Collective at the boundary. `result` may be NULL. ZDS_ERR_OVERFLOW: fp16 overflow
 * at the minimal loss scale. */
zds_status zds_step(zds_engine *engine, zds_step_result *result);

/* Instead of zds_step at a boundary, in two halves. Collective: finishes reductions and computes
 * the norm; changes nothing. `result` (may be NULL) has grad_norm, and in `skipped` whether
 * zds_step would skip; the rest is as it was. Parameters may be acquired for FORWARD. Then zds_step
 * applies, or zds_discard drops the gradients: steps and schedule hold, `skips` is one more, and
 * the loss scale stays, unless the gradients overflowed. All ranks call the same one, else
 * ZDS_ERR_DIVERGED. ZDS_ERR_INVALID: no boundary, or zds_discard without zds_finish.
 * ZDS_ERR_UNSUPPORTED: with zds.overlap_step parameters are updated by then. */
zds_status zds_finish(zds_engine *engine, zds_step_result *result);
zds_status zds_discard(zds_engine *engine, zds_step_result *result);

/* This rank gives up the micro step in progress, whose zds_step is next; what it holds is released.
 * Where it had acquired nothing for BACKWARD, it counts as zeros; else its gradients are spoilt,
 * and the boundary discards the optimizer step on all ranks (`skipped`, the loss scale untouched).
 * At stage 3, where ranks gather modules together (see zds_acquire), it takes part in what the
 * others acquire, as the micro step before had it; ZDS_ERR_UNSUPPORTED: there was none, modules
 * were held together in it, or this one has gone another way; or, with zds.overlap_step, something
 * is acquired for BACKWARD or was. */
zds_status zds_micro_abandon(zds_engine *engine);

/* This rank cannot go on: the other ranks get ZDS_ERR_PEER with the text wherever they wait for it;
 * returns `status`, or ZDS_ERR_INVALID where that is ZDS_OK. Only zds_engine_destroy may follow.
 * May be called in a callback, too, whose call then returns the same, whatever the callback does.
 */
zds_status zds_fail(zds_engine *engine, zds_status status, const char *format, ...)
    ZDS_PRINTF(3, 4);

/* Sets the rate of group `group` (of zds_group), or of all groups, from the next zds_step on; on
 * every rank the same, which the step checks (ZDS_ERR_DIVERGED). ZDS_ERR_INVALID: a schedule sets
 * the rates, no rate that fp32 can hold, after zds_finish, or with zds.overlap_step in a boundary
 * micro step; ZDS_ERR_NOT_FOUND: no such group. */
#define ZDS_ALL_GROUPS SIZE_MAX
zds_status zds_set_lr(zds_engine *engine, size_t group, double lr);

/* Stages 0 and 1: micro steps between (true) and (false) accumulate without being a boundary,
 * whatever the count says, and end with zds_step not being called. Stage >= 2: ZDS_ERR_UNSUPPORTED,
 * since gradients are reduced in every micro step. */
zds_status zds_no_sync(zds_engine *engine, bool on);

/* Changes gradient_accumulation_steps so that micro batch x accumulation x world size is
 * `train_batch_size`; between steps only. ZDS_ERR_INVALID if it does not divide, or takes more than
 * INT32_MAX micro steps. */
zds_status zds_set_train_batch_size(zds_engine *engine, int64_t train_batch_size);

/* Collective, between micro steps. A metric of the run, such as an evaluation's loss, for schedules
 * that follow one (reduce_lr_on_plateau, greedy): rank 0's value, on every rank. The rate of the
 * next step is what the schedule makes of it. With any other schedule it is ignored, so that a
 * program may report what it measures whatever the config names. */
zds_status zds_observe(zds_engine *engine, double metric);
/* Whether the run's schedule follows a metric; its rate stays where it is without zds_observe. */
bool zds_observes(const zds_engine *engine);

/* Callbacks of zds_train_batch. */
typedef struct zds_model_ops {
    size_t struct_size;
    /* Forward and loss of micro step `micro` (0 to accumulation-1), acquiring and releasing
     * modules. *loss: its mean loss. */
    zds_status (*forward)(void *user, zds_engine *engine, int64_t micro, double *loss);
    /* Backward of the same, starting from loss_scale x the gradient of the loss, last module first.
     */
    zds_status (*backward)(void *user, zds_engine *engine, int64_t micro, double loss_scale);
} zds_model_ops;

/* Collective. All micro steps of one optimizer step, and the step. An error of a callback ends the
 * run: it is the result on that rank, the others get ZDS_ERR_PEER. Where a micro step's zds_step
 * fails, `result` is what that tells. */
zds_status zds_train_batch(zds_engine *engine, const zds_model_ops *ops, void *user,
                           zds_step_result *result);

/* === facts === */

double zds_loss_scale(const zds_engine *engine); /* loss scale / gradient_accumulation_steps */
int32_t zds_rank(const zds_engine *engine);
int32_t zds_world_size(const zds_engine *engine);
int32_t zds_threads(const zds_engine *engine);
int64_t zds_accumulation_steps(const zds_engine *engine);
int64_t zds_micro_batch_size(const zds_engine *engine);
/* Of parameters that are not fp32 whatever the config says (zds_param_desc.fp32). */
zds_dtype zds_param_dtype(const zds_engine *engine);
zds_device zds_param_device(const zds_engine *engine); /* where slots are */
bool zds_is_boundary(const zds_engine *engine);        /* of the micro step in progress */

/* Parameters with the same hyperparameters. */
typedef struct zds_group_info {
    size_t struct_size;
    /* Counts zds.param_groups, then the program's groups, but for those that hold nothing
     * trainable; an optimizer may split one into several of these. */
    uint32_t declared;
    uint32_t params;   /* that are trainable */
    uint64_t elements; /* of these */
    zds_hyper hyper;   /* of the next step */
} zds_group_info;
/* Group i, in the order of `declared`; false past the last, and where struct_size is 0. */
bool zds_group(const zds_engine *engine, size_t i, zds_group_info *info);

/* Calls body(arg, i) once for each i < n on the engine's threads (zds_threads), of which the
 * calling one is one, and returns when all are done, with all that they wrote. Thread t of T begins
 * with the t-th of T equal ranges, in ascending order, and helps the others when it is done with
 * that; one thread alone goes from 0 to n - 1. Any thread may call this, also while another is in
 * it or in the engine: loops come one after the other. body must not call the engine; a loop inside
 * it runs inline. */
void zds_parallel_for(zds_engine *engine, size_t n, void (*body)(void *arg, size_t i), void *arg);

/* Collective. The values of all ranks are added in rank order; the same bits everywhere. count at
 * most 64. */
zds_status zds_sum_over_ranks(zds_engine *engine, double *values, size_t count);
zds_status zds_barrier(zds_engine *engine);
/* Collective. The program's own bytes, from rank `root` to all; over when it returns. Where ranks
 * give other `bytes`: ZDS_ERR_DIVERGED, where the communication plugin sees it. */
zds_status zds_broadcast(zds_engine *engine, void *data, uint64_t bytes, int32_t root);

/* Every allocation of the engine and its plugins by purpose. */
typedef struct zds_memory_row {
    size_t struct_size;  /* written by the library, as of config.h's structs */
    const char *purpose; /* "parameters", "gradients", "master weights", "optimizer states", "reduce
                            buffers", ... */
    const char *tier;    /* "host", "cuda"; what offload_optimizer's device names: "cpu" */
    uint64_t bytes;      /* this rank's */
    uint64_t shared; /* of these, bytes of pages that ranks of the node share: counted whole here,
                        held once a node */
    uint64_t peak;
} zds_memory_row;
/* Row i; false past the last. Strings live as long as the engine. */
bool zds_memory_report_sized(const zds_engine *engine, size_t i, zds_memory_row *row, size_t size);
static inline bool zds_memory_report(const zds_engine *engine_, size_t i_, zds_memory_row *row_)
{
    return zds_memory_report_sized(engine_, i_, row_, sizeof *row_);
}
/* The report that an engine created with these arguments would give, row by row, without taking the
 * memory and without other ranks: options->world_size and local_world_size may be any. What a comm
 * plugin takes for itself is not in it. Fails as zds_engine_create would before it allocates. Rows
 * live as long as the call of `visit`. */
zds_status zds_engine_plan(const zds_config *config, const zds_model *model,
                           const zds_engine_options *options,
                           void (*visit)(void *user, const zds_memory_row *row), void *user,
                           zds_error *error);

/* What zds_engine_create would refuse of a config, and of a program's own choices in `options`,
 * whatever the model is: all at once, without taking memory for a model and without other ranks (of
 * which there are as many as the config was loaded for). Problems at paths where the config's own
 * have an error are not told again; a config that has errors is checked as far as that goes. A
 * problem lives as long as the call of `visit`. ZDS_ERR_CONFIG if there are any; ZDS_ERR_MEMORY. */
zds_status zds_engine_check(const zds_config *config, const zds_engine_options *options,
                            void (*visit)(void *user, const zds_problem *problem), void *user,
                            zds_error *error);

/* Time by phase since the last call, in ms; what wall_clock_breakdown prints. */
typedef struct zds_step_times {
    size_t struct_size;
    double grad_ready_ms; /* inside zds_grad_ready */
    double reduce_ms;     /* of the boundary: waiting for reductions, norm */
    double update_ms;     /* optimizer and publishing */
    double step_ms;       /* inside zds_step */
    double forward_ms;    /* from zds_micro_begin to the first module acquired for backward */
    double backward_ms;   /* from there to zds_step; grad_ready_ms is part of it */
} zds_step_times;
/* Where times->struct_size is 0 nothing is taken. */
void zds_take_times(zds_engine *engine, zds_step_times *times);

ZDS_END_DECLS
#endif

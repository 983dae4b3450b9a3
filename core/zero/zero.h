/* ZeRO: who has which parameter, gradient, master weight and state, and how they get to where they
 * are needed. It knows ranks, memory and the optimizer's vtable, and no engine.
 *
 * In order: zero_micro_begin; zero_acquire and zero_grads_written of modules, and zero_module_done,
 * last first; at the boundary zero_reduce, zero_norm, then zero_update or nothing, and zero_reset.
 * Every call fails with a text in the `failure` that it was given. */
#ifndef CORE_ZERO_ZERO_H
#define CORE_ZERO_ZERO_H

#include "zds/engine.h"
#include "zero/model.h"
#include "zero/peers.h"

typedef struct zero zero;

/* A parameter as the optimizer knows it. */
typedef struct zero_param {
    zds_param desc;
    zds_param_needs needs; /* of which `states` are these */
    zds_state_spec states[ZDS_MAX_STATES];
    char *state_names[ZDS_MAX_STATES];
    uint32_t hyper; /* index of its hyperparameters */
    bool trainable;
} zero_param;

enum { ZERO_AS_IS = -1 };

/* What is wanted; constant, but for accum_dtype and adds (zero_accumulate_in). */
typedef struct zero_wishes {
    int32_t stage;
    zds_dtype param_dtype;  /* of parameters and of what backward leaves, but for wide spans */
    zds_dtype master_dtype; /* of what is updated: param_dtype where that is the master */
    zds_dtype accum_dtype;  /* in which micro steps are added up, but for wide spans */
    zds_dtype comm_dtype;   /* in which gradients travel; ZERO_AS_IS: as they are */
    bool reduce_scatter, overlap;
    /* Spans are updated once they are reduced, before the norm is known; then gradients must be
     * finite, or may be anything. */
    bool overlap_step, finite;
    bool adds; /* several micro steps are added up; till zero_accumulate_in perhaps not */
    double prescale, postscale; /* around the sum over ranks */
    double sum_factor;          /* of gradients that are to be summed, over their mean */
    uint64_t bucket;            /* elements */
    uint64_t tile;              /* elements of a full one: what the compute space likes */
    /* Of stage 3, in elements: parameters up to `keep` are whole on every rank, as long as they are
     * at most keep_all together; of the others at most `live` are gathered at a time, `ahead` of
     * them before they are used, and none stays that is not used again within `reuse`. */
    uint64_t keep, keep_all, live, ahead, reuse;
    /* Of stage 3: what travels as integers of few bits; frozen parameters do with params, too. */
    bool quantised_params, quantised_frozen, quantised_grads;
    int32_t cell;  /* of stage 3: so many ranks share a second copy of parameters; 0, 1: none do */
    uint64_t stay; /* so many of a rank's stay where they are computed, and do not rest elsewhere */
    /* Where masters and states rest elsewhere: how many buffers go over them, whether one is read
     * ahead and written behind, and which share of them rests there. */
    uint32_t buffers;
    bool reads_ahead, writes_behind;
    double ratio;
    bool tell_order; /* a micro step that goes another way than the one before is warned of */
    uint64_t seed;
} zero_wishes;

/* What it works with; all of it outlives it. */
typedef struct zero_means {
    const zds_model *model;
    const zero_param *params; /* [params] */
    const zds_hyper *hypers;  /* by zero_param.hyper: of this step */
    const zds_optim_ops *optim;
    void *const *optim_self;
    services *optim_services;
    peers *peers;      /* for buffers in the tier's space, */
    peers *control;    /* and for the host's own: the same where that is the space */
    tier *tier;        /* where parameters are computed */
    tier *states_tier; /* of masters and states */
    tier *params_tier; /* where parameters in parts rest */
    tier *host_tier;   /* the host's memory */
    pool *threads;
    ledger *ledger;
    failure *failure;
} zero_means;

/* Lays out and takes all memory. Collective. */
zds_status zero_create(const zero_wishes *wishes, const zero_means *means, zero **out,
                       zds_error *error);
/* The pages of what was taken come, each near the thread that will use it. */
void zero_touch(zero *z);
void zero_destroy(zero *z);

/* Several micro steps are added up from now on, in this type: takes the gradients' memory anew
 * where that is another than it was made for; between optimizer steps. Collective. */
zds_status zero_accumulate_in(zero *z, zds_dtype dtype);

/* === values === */

/* All parameters from rank 0; where reading fails the rest travels as it is, and *read_status tells
 * on rank 0. */
zds_status zero_read_values(zero *z, zds_read_fn read, void *user, zds_status *read_status);
/* Each rank reads what its pages hold: all, or of pages that are the node's its parts.
 * hashes[params]: of a chunk of each, which is the same one on all ranks. */
zds_status zero_read_everywhere(zero *z, zds_read_fn read, void *user, uint64_t *hashes,
                                zds_status *read_status);
/* Masters and states start from the parameters as they are. */
zds_status zero_start(zero *z);
/* A parameter's trained value (state -1) or one of its states that has a value an element, to rank
 * 0, whose `write` says *written. */
zds_status zero_write_values(zero *z, uint32_t param, int32_t state, zds_write_fn write, void *user,
                             zds_status *written);

/* Replaces what a parameter's trained value is (state -1), or such a state, by what rank 0 reads;
 * *read_status as in zero_read_values. Nobody may read parameters meanwhile. */
zds_status zero_read_state(zero *z, uint32_t param, int32_t state, zds_read_fn read, void *user,
                           zds_status *read_status);

/* The same of a state of any kind as bytes: zero_state_bytes of them, and of a RANK_LOCAL one those
 * of each rank. */
uint64_t zero_state_bytes(const zero *z, uint32_t param, int32_t state);
zds_status zero_write_bytes(zero *z, uint32_t param, int32_t state, zds_write_bytes_fn write,
                            void *user, zds_status *written);
zds_status zero_read_bytes(zero *z, uint32_t param, int32_t state, zds_read_bytes_fn read,
                           void *user, zds_status *read_status);

/* Bytes of the program's, from rank `root` to all. */
zds_status zero_broadcast(zero *z, void *data, uint64_t bytes, int32_t root);

/* Between memory of the device, such as slots point to, and the host's. */
zds_status zero_copy_in(zero *z, void *to, const void *from, uint64_t bytes);
zds_status zero_copy_out(zero *z, void *to, const void *from, uint64_t bytes);

/* === a micro step === */

/* `local`: the optimizer reduces this step's gradients itself. */
void zero_micro_begin(zero *z, bool boundary, bool local);
/* Of a boundary with overlap_step: what follows updates parameters, as zero_update says, once the
 * modules of a span are done; zero_update ends it. */
zds_status zero_update_begin(zero *z, int64_t step, double grad_scale);
/* Where all ranks gather modules together, one that gives up a micro step takes part in what the
 * others acquire, as the micro step before has it. True: it is known, or nothing is gathered. */
bool zero_foretold(const zero *z);
/* False: there is nothing more in this micro step. */
bool zero_next(const zero *z, uint32_t *module, int32_t *pass);
zds_status zero_take_part(zero *z, uint32_t module, int32_t pass);
/* The module's parameters may be read, and with ZDS_BACKWARD its gradients written, by what is put
 * on `stream` from now on; NULL: by the caller itself. ZDS_ERR_UNSUPPORTED: there is no room for
 * its gradients beside those that are being written. */
zds_status zero_acquire(zero *z, uint32_t module, int32_t pass, const zds_stream *stream);
/* Once more, of a module that is acquired: its slots stay as they are. */
void zero_hold_module(zero *z, uint32_t module);
/* Undoes one of the two, after zero_used: the slots' addresses may be another module's now. */
zds_status zero_release(zero *z, uint32_t module);
/* What was put on `stream` so far reads parameters or writes gradients: all that follows here comes
 * after it. */
zds_status zero_used(zero *z, const zds_stream *stream);
/* The module's parameters as it was acquired last; [*count], zero's. */
const zds_slot *zero_slots(const zero *z, uint32_t module, size_t *count);
/* The slot's parameter has no gradient from this use. ZDS_ERR_INVALID: another use that is acquired
 * adds to it. */
zds_status zero_grad_none(zero *z, uint32_t module, uint32_t slot);
/* What backward left for the module is there; or is none. */
void zero_grads_written(zero *z, uint32_t module);
void zero_grads_spoilt(zero *z, uint32_t module);
/* The module comes without gradients, after others that are being written: room for its zeros,
 * which are reduced, too, is taken now. ZDS_ERR_UNSUPPORTED: there is none. */
zds_status zero_pass_over(zero *z, uint32_t module);
/* In this micro step nothing more comes from the module; modules go from the last to the first. */
zds_status zero_module_done(zero *z, uint32_t module);

/* === the boundary === */

/* All gradients reduced. */
zds_status zero_reduce(zero *z);

/* What ranks tell each other with the norm. Where they differ in one of the first three,
 * ZDS_ERR_DIVERGED. */
typedef struct zero_norm_own {
    int64_t micro;        /* steps of this rank since the last boundary */
    int64_t accumulation; /* by how many the loss is divided */
    uint64_t rates;       /* a hash of this step's hyperparameters */
    double loss;
    bool spoilt; /* this rank's gradients are none */
} zero_norm_own;

typedef struct zero_norm_result {
    double norm;         /* over all parameters and ranks, before clipping */
    uint64_t non_finite; /* gradients, over all ranks */
    double loss;         /* mean over ranks */
    bool any;            /* some parameter has a gradient somewhere */
    bool spoilt;         /* some rank's are none */
    int64_t unused;      /* the first trainable parameter without one on any rank, or -1 */
} zero_norm_result;
/* Collective. */
zds_status zero_norm(zero *z, const zero_norm_own *own, zero_norm_result *result);
/* The optimizer's pass, and publishing. `step`: from 1. A failure ends the run. */
zds_status zero_update(zero *z, int64_t step, double grad_scale);
/* The gradients of this optimizer step are used up, or dropped. */
void zero_reset(zero *z);

/* Once, after it is created: the optimizer's `prepare`. */
zds_status zero_prepare(zero *z, zds_error *error);

#endif

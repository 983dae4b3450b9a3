/* The plugin ABI of zds: all that the author of an optimizer, a schedule, a memory tier or a
 * communication backend includes. A plugin needs no library of zds: it exports one data symbol and
 * is handed everything else.
 *
 *     static const zds_plugin my_optim = {
 *         .struct_size = sizeof my_optim, .kind = ZDS_KIND_OPTIM, .abi_minor = ZDS_ABI_MINOR,
 *         .name = "MyOptim", .version = "1.0", .doc = "plain gradient descent",
 *         ZDS_OPTION_TABLE(my_options, my_options_struct), .ops = &my_ops};
 *     ZDS_PLUGINS(&my_optim);
 *
 * Rules of the border
 *  - Structs. Each starts with `size_t struct_size`, set to sizeof by whoever fills it. Whoever
 *    reads a struct uses the smaller of that and its own size; fields past it are zero. Arrays of
 *    structs come with a stride in bytes. ZDS_HAS(p, field) asks whether a struct reaches that
 *    far. Structs only grow, at their end, within one ABI major.
 *  - Optional functions may be NULL; each says so. All others must be there, or the plugin is
 *    refused.
 *  - Errors. `return host->fail(host, ZDS_ERR_..., "text", ...)`. A plugin never exits, aborts or
 *    prints.
 *  - No global state: one process may hold several instances of a plugin, used from different
 *    threads.
 *  - No threads of its own but where a kind says so; host->parallel_for has the rank's threads.
 *  - Ownership: pointers given to a function are valid until it returns, unless said otherwise.
 *    What `create`, `init` or `open` returns through `self` is the plugin's, and goes back to it
 *    with each call.
 *  - Versions. A new major ABI is a new symbol name (zds_plugin_v2); one .so may export several.
 *    Within a major, an older plugin runs on a newer host, and a newer plugin on an older host
 *    unless it says `min_host_minor`. */
#ifndef ZDS_PLUGIN_H
#define ZDS_PLUGIN_H

#include <stdbool.h>
#include <string.h>

#include "zds/types.h"

ZDS_BEGIN_DECLS

#define ZDS_ABI_MAJOR 1
#define ZDS_ABI_MINOR 0

/* === services of the host === */

enum { ZDS_LOG_ERROR = 0, ZDS_LOG_WARNING = 1, ZDS_LOG_INFO = 2, ZDS_LOG_DEBUG = 3 };

#if defined(__GNUC__)
#define ZDS_PRINTF(text, args) __attribute__((format(printf, text, args)))
#else
#define ZDS_PRINTF(text, args)
#endif

/* Handed to create/init/open; valid until the instance is destroyed. Every function may be called
 * from any thread in which the plugin is being called. */
typedef struct zds_host zds_host;
struct zds_host {
    size_t struct_size;
    uint32_t abi_minor; /* of the host */
    int32_t threads;    /* how many threads parallel_for has, at least 1 */
    void *context;      /* the host's own; not for plugins */

    /* One line, without a newline at its end; the host adds plugin and rank. */
    void (*log)(const zds_host *host, int32_t level, const char *format, ...) ZDS_PRINTF(3, 4);
    /* Sets the error text of the call in progress and returns `status`. */
    zds_status (*fail)(const zds_host *host, zds_status status, const char *format, ...)
        ZDS_PRINTF(3, 4);
    /* Zeroed bytes of the host, counted in the memory report under the plugin's name. `align`: a
     * power of two, or 0 for 64. NULL when there is no memory. Not for element states of an
     * optimizer: describe() them, so that the host can place them. */
    void *(*alloc)(const zds_host *host, size_t bytes, size_t align);
    void (*free)(const zds_host *host, void *pointer);
    /* Calls body(arg, i) once for each i < n, on the rank's threads, and returns when all are done.
     * Inside a tile of `step` or `norms` it runs inline. `body` must not call parallel_for. */
    void (*parallel_for)(const zds_host *host, size_t n, void (*body)(void *arg, size_t i),
                         void *arg);
    /* As alloc, of memory that code which computes on `device` uses: the instance's own device
     * (zds_optim_env's space and ordinal), or the host's, where it is alloc. NULL for any other
     * device, too. `free` takes it back, once no work on a stream uses it. Not to be called from
     * such work. */
    void *(*alloc_in)(const zds_host *host, zds_device device, size_t bytes, size_t align);
};
#define ZDS_HOST_1_0 ZDS_SIZE_THROUGH(zds_host, alloc_in)

/* === options === */

/* An option is a key of the plugin's `params` object in ds_config. The host checks the user's
 * values against the table, fills in defaults, and hands `create` a struct of the plugin's own type
 * with every option at its offset. The same table makes `zds-plugins --info`, the JSON Schema and
 * the reference page.
 *
 * For an optimizer four names are special, because schedules and parameter groups change them from
 * step to step: "lr", "betas" (2 or 3), "momentum" and "weight_decay". Their current values are in
 * each tile's zds_hyper; the option holds what the config says. */
enum {
    ZDS_OPTION_BOOL = 1,      /* bool */
    ZDS_OPTION_INT = 2,       /* int64_t; null or absent without a default: INT64_MIN */
    ZDS_OPTION_FLOAT = 3,     /* double; null or absent without a default: NaN */
    ZDS_OPTION_STRING = 4,    /* const char *; valid as long as the instance; null: NULL */
    ZDS_OPTION_ENUM = 5,      /* int64_t index into `choices`, compared without case */
    ZDS_OPTION_FLOATS = 6,    /* double[count]; a null element is NaN */
    ZDS_OPTION_FLOAT_LIST = 7 /* zds_float_list: a number or an array of numbers */
};
typedef struct zds_float_list { /* never grows: it lies in the plugin's struct */
    size_t count;
    const double *values; /* valid as long as the instance */
} zds_float_list;

enum {
    ZDS_OPTION_REQUIRED = 1u << 0,  /* no default: its absence is an error */
    ZDS_OPTION_NULLABLE = 1u << 1,  /* null is a value */
    ZDS_OPTION_ABOVE_MIN = 1u << 2, /* min itself is not allowed */
    ZDS_OPTION_BELOW_MAX = 1u << 3, /* max itself is not allowed */
    /* Accepted for the reference's sake; the doc says why it changes nothing. */
    ZDS_OPTION_NO_EFFECT = 1u << 4
};

typedef struct zds_option {
    const char *name;
    int32_t type;
    uint32_t flags;
    size_t offset;             /* into the plugin's options struct: offsetof(struct, field) */
    uint32_t count;            /* of FLOATS */
    const char *default_value; /* as JSON text: "1e-3", "true", "[0.9, 0.999]", "\"gram\"", "null";
                                  NULL if REQUIRED */
    double min, max;           /* of numbers and of each element; -INFINITY, INFINITY for none */
    const char *choices;       /* of ENUM: "log|linear" */
    const char *auto_from;     /* the training argument that fills "auto" ("learning_rate"); NULL:
                                  "auto" is an error */
    const char *doc;           /* one line, no control characters */
} zds_option;
#define ZDS_OPTION_1_0 ZDS_SIZE_THROUGH(zds_option, doc)

/* === descriptor === */

enum { ZDS_KIND_OPTIM = 1, ZDS_KIND_SCHED = 2, ZDS_KIND_OFFLOAD = 3, ZDS_KIND_COMM = 4 };

/* Features that a plugin may demand of its host (`required`). A bit that the host does not know is
 * a refusal. */
enum { ZDS_REQUIRE_NONE = 0 };

typedef struct zds_plugin {
    size_t struct_size;
    uint32_t kind;
    uint32_t abi_minor;      /* ZDS_ABI_MINOR of the header it was built with */
    uint32_t min_host_minor; /* the oldest host it can run on; 0 for any */
    uint32_t reserved;
    uint64_t required; /* ZDS_REQUIRE_... */
    /* As ds_config's `type` says it: letters, digits, _ and -; compared without case. */
    const char *name;
    const char *const *aliases; /* NULL-ended; or NULL */
    const char *version;        /* of the plugin, free text of one line */
    const char *doc;            /* one line, no control characters */
    const zds_option *options;  /* NULL if there are none */
    size_t option_stride;
    size_t option_count;
    size_t options_size; /* bytes of the struct that options are written into */
    const void *ops; /* zds_optim_ops, zds_sched_ops, zds_offload_ops or zds_comm_ops, by kind */
} zds_plugin;
#define ZDS_PLUGIN_1_0 ZDS_SIZE_THROUGH(zds_plugin, ops)

/* The four fields above that say what the options are: an array and the struct it writes into. */
#define ZDS_OPTION_TABLE(table, type)                                                              \
    .options = (table), .option_stride = sizeof(table)[0],                                         \
    .option_count = sizeof(table) / sizeof(table)[0], .options_size = sizeof(type)

#if defined(_WIN32)
#define ZDS_EXPORT __declspec(dllexport)
#else
#define ZDS_EXPORT __attribute__((visibility("default")))
#endif

/* The one exported symbol: a NULL-ended array, constant data that is read before any function of
 * the plugin is called. */
extern ZDS_EXPORT const zds_plugin *const zds_plugin_v1[];
#define ZDS_PLUGINS(...) const zds_plugin *const zds_plugin_v1[] = {__VA_ARGS__, 0}

/* === optimizer (ZDS_KIND_OPTIM) === */

enum {
    ZDS_ROLE_OTHER = 0,
    ZDS_ROLE_MATRIX = 1,
    ZDS_ROLE_BIAS = 2,
    ZDS_ROLE_NORM = 3,
    ZDS_ROLE_EMBEDDING = 4,
    ZDS_ROLE_HEAD = 5
};

/* One trainable parameter of the model, whole. The host fills it; it stays valid and constant as
 * long as the instance. */
typedef struct zds_param {
    size_t struct_size;
    uint32_t index; /* counts all parameters of the model, in the order the program declared them */
    int32_t role;   /* ZDS_ROLE_... */
    const char *name;
    uint32_t ndim;
    uint32_t group;       /* which group of hyperparameters */
    const int64_t *shape; /* [ndim] */
    uint64_t numel;       /* product of shape; may be 0, and then there are no tiles */
    double width_mult;    /* this width over the base model's width (muP); 1 where the program says
                             nothing. Where both sides of a matrix grow: of its fan-in */
    double fan_out_mult;  /* where both sides of a matrix grow: of its fan-out; else 1 */
    uint32_t group_sets;  /* ZDS_SCHED_LR..: what its group says itself, not the options */
    uint32_t reserved;
} zds_param;
#define ZDS_PARAM_1_0 ZDS_SIZE_THROUGH(zds_param, reserved)

/* Hyperparameters of a group of parameters. What an optimizer has no option for is NaN. */
typedef struct zds_hyper {
    size_t struct_size;
    double lr;
    double beta1, beta2;
    double momentum;
    double weight_decay;
    double beta3; /* of optimizers whose option "betas" has three */
} zds_hyper;
#define ZDS_HYPER_1_0 ZDS_SIZE_THROUGH(zds_hyper, beta3)
/* One that says nothing of any; NAN is math.h's. */
#define ZDS_HYPER_NONE                                                                             \
    {                                                                                              \
        sizeof(zds_hyper), NAN, NAN, NAN, NAN, NAN, NAN                                            \
    }

enum {
    /* One value an element. */
    ZDS_STATE_ELEMENT = 0,
    /* `bytes` for each block of `block` elements, counted from the parameter's first. The last
     * block may be short in elements; its state has all its bytes. */
    ZDS_STATE_BLOCK = 1,
    /* `bytes` for the parameter. */
    ZDS_STATE_TENSOR = 2,
    /* `bytes` for the optimizer; described with any parameter, allocated once by name. */
    ZDS_STATE_GLOBAL = 3,
    /* Every element is `initial` and stays so: takes no memory, and is NULL in a tile. For a state
     * that the reference keeps without using it, so that whoever reads states finds it. */
    ZDS_STATE_CONSTANT = 4
};
enum { ZDS_SCOPE_SHARDED = 0, ZDS_SCOPE_RANK_LOCAL = 1 };

enum {
    ZDS_STARTS_AS_VALUE = 0, /* `initial` */
    ZDS_STARTS_AS_PARAM = 1  /* a copy of the parameter's initial value, rounded to the state's type
                              */
};

#define ZDS_MAX_STATES 8

/* Comes with zds_param_needs.state_stride; zds_add_state fills it in. */
typedef struct zds_state_spec {
    const char *name; /* torch's name where torch has such a state: "exp_avg", "exp_avg_sq",
                         "momentum_buffer" */
    int32_t kind;     /* ZDS_STATE_... */
    zds_dtype dtype;  /* of ELEMENT; else only a hint for printing */
    uint32_t block;   /* elements a block */
    int32_t scope;    /* RANK_LOCAL: each rank has the whole of it, with values of its own; where
                         `step` updates a part of the parameter, its tiles see that part */
    uint64_t bytes;   /* of BLOCK (a block), TENSOR, GLOBAL */
    double initial;   /* every ELEMENT starts so, every CONSTANT is; others start as zero bytes */
    int32_t starts;   /* an ELEMENT: ZDS_STARTS_AS_..., as which `initial` is not used */
    /* What the bytes mean, where they are not plainly the values that the name says: from 1 on, and
     * another whenever that changes, so that what was saved with another meaning is told. 0: the
     * values themselves. */
    uint32_t version;
} zds_state_spec;
#define ZDS_STATE_SPEC_1_0 ZDS_SIZE_THROUGH(zds_state_spec, version)

/* What the optimizer needs for one parameter. */
typedef struct zds_param_needs {
    size_t struct_size;
    uint32_t state_count;
    uint32_t granularity;   /* no part or tile boundary falls inside a block of so many elements,
                               counted from the parameter's first; 0 and 1 are the same */
    int32_t whole_tensor;   /* 1: step gets this parameter in one tile, on one thread, with the pool
                               idle; at stage >= 1 on one rank, which has the whole of its states */
    uint32_t tensor_norms;  /* how many sums over the whole tensor `norms` makes for this parameter;
                               at most 4 */
    zds_state_spec *states; /* [ZDS_MAX_STATES], the host's, zeroed; filled by zds_add_state */
    size_t state_stride;    /* the host's sizeof(zds_state_spec) */
    zds_hyper *hyper; /* in: the group's; out: may be changed (Muon's second rate; all but lr to
                         NaN, where it has no meaning); the host then splits the group */
    double cost;   /* of a whole_tensor parameter's step, in any unit, the same for all: ranks get
                      about as much of it; 0: its number of elements */
    int32_t leads; /* 1: of a group that `hyper` splits, the part with this parameter comes first,
                      and its rate is the one that is reported of a step */
    /* 1 + index of an ELEMENT state that holds the weights to evaluate and to keep, where these are
     * not the ones that are trained (averages over steps); 0: there is none. */
    uint32_t eval_state;
} zds_param_needs;
#define ZDS_PARAM_NEEDS_1_0 ZDS_SIZE_THROUGH(zds_param_needs, eval_state)

/* The next state of a parameter. One too many is counted, which the host refuses. */
static inline void zds_add_state(zds_param_needs *needs_, const zds_state_spec *spec_)
{
    uint32_t index_ = needs_->state_count++;
    if (index_ < ZDS_MAX_STATES)
        memcpy((char *)needs_->states + index_ * needs_->state_stride, spec_,
               sizeof *spec_ < needs_->state_stride ? sizeof *spec_ : needs_->state_stride);
}

/* A run of consecutive elements of one parameter. All pointers are at the tile's first element
 * (ELEMENT states too; BLOCK states at the tile's first block; TENSOR and GLOBAL states at their
 * beginning). No two tiles of a step overlap. */
typedef struct zds_tile {
    size_t struct_size;
    const zds_param *param;
    const zds_hyper *hyper; /* for this step, after the scheduler */
    uint64_t first; /* index of the first element in the parameter; a multiple of the granularity,
                       and of 1024 where the part's own start is */
    uint64_t count; /* elements */
    zds_dtype master_dtype, grad_dtype, output_dtype;
    int32_t reserved;
    void *master;     /* in, out: master weights; in fp32 training the parameters themselves */
    const void *grad; /* in: multiply by ctx->grad_scale before use */
    void *output;     /* out: the parameter, master rounded to nearest even; NULL if master is the
                         parameter, or the host copies it */
    void *const *states; /* in, out: [state_count], in the order of describe */
    const double *sums;  /* in `step`: [tensor_norms], each over the whole tensor on all ranks */
    /* in `norms`, out: [tensor_norms][chunk_stride]; the sum of each 1024-element chunk of this
     * tile, counted from the tile's first element */
    double *chunk_sums;
    size_t chunk_stride;
} zds_tile;
#define ZDS_TILE_1_0 ZDS_SIZE_THROUGH(zds_tile, chunk_stride)

typedef struct zds_tiles {
    size_t struct_size;
    size_t count;
    size_t stride;
    const zds_tile *first;
} zds_tiles;
#define ZDS_TILES_1_0 ZDS_SIZE_THROUGH(zds_tiles, first)

static inline const zds_tile *zds_tile_at(const zds_tiles *tiles, size_t i)
{
    return (const zds_tile *)(const void *)((const char *)tiles->first + i * tiles->stride);
}

/* One whole parameter for begin_step, sums_ready and step_collective. */
typedef struct zds_param_step {
    size_t struct_size;
    const zds_param *param;
    const zds_hyper *hyper;
    void *const *states; /* [state_count]: TENSOR, GLOBAL and RANK_LOCAL ones, these whole; SHARDED
                            ELEMENT and BLOCK ones are NULL but in step_collective */
    void *master;        /* step_collective only, as are those below */
    const void *grad;    /* this rank's own gradient, whole and not reduced; multiply by
                            ctx->grad_scale */
    void *output;        /* out: master rounded to 16 bits; NULL if master is the parameter */
    zds_dtype master_dtype, grad_dtype, output_dtype;
    int32_t has_grad; /* 0: no rank has a gradient for it in this step */
    int32_t reserved;
    /* step_collective and prepare: the elements that this rank updates. `master`, `output` and
     * SHARDED states point to the first of them; the core publishes them. All of the parameter
     * unless env->sharded; NULL where part_count is 0. */
    uint64_t part_first, part_count;
    const double *sums; /* sums_ready only: [tensor_norms], as in zds_tile */
} zds_param_step;
#define ZDS_PARAM_STEP_1_0 ZDS_SIZE_THROUGH(zds_param_step, sums)

typedef struct zds_param_steps {
    size_t struct_size;
    size_t count;
    size_t stride;
    const zds_param_step *first;
} zds_param_steps;
#define ZDS_PARAM_STEPS_1_0 ZDS_SIZE_THROUGH(zds_param_steps, first)

static inline const zds_param_step *zds_param_step_at(const zds_param_steps *params, size_t i)
{
    return (const zds_param_step *)(const void *)((const char *)params->first + i * params->stride);
}

typedef struct zds_step_ctx {
    size_t struct_size;
    int64_t step;      /* applied steps, this one included: 1 for the first */
    double grad_scale; /* clip factor / loss scale: what gradients must be multiplied by */
    uint64_t seed;     /* what is random depends on (seed, step, param->index, element) alone */
    void *scratch;     /* scratch_bytes of this thread's own, 64-byte aligned; contents undefined */
    size_t scratch_bytes;
    const zds_stream *stream; /* NULL on the host */
} zds_step_ctx; /* On a device scratch, sums and chunk_sums are in its memory, and calls may return
                   when their work is on `stream`; on the host all is done when a call returns. */
#define ZDS_STEP_CTX_1_0 ZDS_SIZE_THROUGH(zds_step_ctx, stream)

/* What the optimizer will work in; constant for an instance. */
typedef struct zds_optim_env {
    size_t struct_size;
    zds_space space;
    zds_dtype master_dtype;
    /* At first. A tile's own counts: it becomes ZDS_F32, of optimizers that take it, once a program
     * adds up micro steps that the config did not foresee. */
    zds_dtype grad_dtype;
    zds_dtype output_dtype; /* of parameters; see has_output */
    zds_dtype state_dtype;  /* in which element states should be kept: ZDS_F32, or the 16-bit type
                               that the config asks for */
    int32_t stochastic_rounding; /* 1: round 16-bit states and master weights stochastically */
    int32_t world_size, rank;
    uint64_t seed;
    int32_t sharded; /* 1: a rank holds a part of the master weights and SHARDED states; 0: all */
    int32_t reserved;
    uint64_t trainable_params, trainable_elements; /* of the model: sizes of GLOBAL states */
    /* 1: master weights are kept apart from the parameters, which are a tile's output: in 16 bits,
     * or in F32, where states rest in another memory (see ZDS_OPTIM_F32_OUTPUT). */
    int32_t has_output;
    int32_t ordinal; /* of the device in `space` */
} zds_optim_env;
#define ZDS_OPTIM_ENV_1_0 ZDS_SIZE_THROUGH(zds_optim_env, ordinal)

enum {
    /* The usual: gradients are averaged over ranks before `step`. */
    ZDS_REDUCE_MEAN = 0,
    /* This step's gradients stay each rank's own, and `step_collective` replaces `step`. */
    ZDS_REDUCE_LOCAL = 1
};
enum {
    /* Parameters differ between ranks for some steps: stage 0 and private pages only. What is
     * written out meanwhile is rank 0's. */
    ZDS_OPTIM_PARAMS_DIVERGE = 1u << 0,
    /* Writes a tile's output whenever there is one, also in F32, where it is a copy of the master.
     * Without it the host makes that copy after `step`. */
    ZDS_OPTIM_F32_OUTPUT = 1u << 1
};

typedef struct zds_comm_ops zds_comm_ops;

/* When: create once; describe once a parameter; prepare once; then for each step that is applied
 * (one that overflows or is skipped calls nothing): begin_step, norms on all tiles, step on all
 * tiles, end_step. */
typedef struct zds_optim_ops {
    size_t struct_size;
    uint64_t flags;       /* ZDS_OPTIM_... */
    uint32_t spaces;      /* mask of ZDS_SPACE_BIT: where step computes */
    uint32_t grad_dtypes; /* masks of ZDS_DTYPE_BIT */
    uint32_t master_dtypes;
    uint32_t output_dtypes;
    uint64_t scratch_bytes; /* a thread, for ctx->scratch */

    /* `options`: the plugin's own struct, filled; valid as long as the instance. Both optional, for
     * an optimizer that keeps nothing in an instance: `self` is then NULL, and the host refuses for
     * it states in 16 bits and stochastic rounding, which the masks do not name. */
    zds_status (*create)(const zds_host *host, const void *options, const zds_optim_env *env,
                         void **self);
    void (*destroy)(void *self);
    /* Which states and treatment a parameter needs. `needs` comes zeroed, with hyper set. The
     * engine owns, places, streams and saves all state. Must be a pure function of the options and
     * the parameter. */
    zds_status (*describe)(void *self, const zds_param *param, zds_param_needs *needs);
    /* Optional. One thread, the same on every rank, over all trainable parameters. The only writer
     * of TENSOR and GLOBAL states, besides whole-tensor tiles, sums_ready and step_collective. */
    zds_status (*begin_step)(void *self, const zds_param_steps *params, const zds_step_ctx *ctx);
    /* Required if describe ever sets tensor_norms. Several threads at once, on disjoint tiles; may
     * write the tiles' states. Writes chunk_sums, which are NULL for parameters without norms. */
    zds_status (*norms)(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);
    /* Several threads at once, on disjoint tiles; no state but the tile's may be written. The
     * result must not depend on how a parameter is cut into tiles. Tiles of whole_tensor parameters
     * come by themselves, all of this rank's in one call on one thread, which may use parallel_for
     * and ctx->scratch (of this thread); they may write TENSOR states, which are then the owner's.
     */
    zds_status (*step)(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx);
    /* Optional. One thread. */
    zds_status (*end_step)(void *self, const zds_step_ctx *ctx);
    /* Optional: ZDS_REDUCE_...; asked before the first backward of step `step` (from 1). The same
     * on every rank. */
    int32_t (*reduction_mode)(void *self, int64_t step);
    /* Required with reduction_mode. One thread, the same order on all ranks; `comm` and `comm_self`
     * for its own collectives: in ZDS_SPACE_HOST in any memory, for which it is refused with a
     * backend that lacks ZDS_COMM_COPIES; on a device in memory of alloc_in which it has registered
     * itself by comm->mem_register, and unregisters before `destroy` returns, until when `comm`
     * may be called. */
    zds_status (*step_collective)(void *self, const zds_param_steps *params,
                                  const zds_comm_ops *comm, void *comm_self,
                                  const zds_step_ctx *ctx);
    /* Optional, with tensor_norms. One thread, the same on every rank, between norms and step: the
     * sums over whole tensors are known. May write TENSOR and GLOBAL states. */
    zds_status (*sums_ready)(void *self, const zds_param_steps *params, const zds_step_ctx *ctx);
    /* Optional. One thread, after describe of all parameters: takes by host->alloc what the steps
     * will need in the size of the model, so that memory that is missing shows before the first of
     * them, and in plans, whose memory must not be touched. `params`: all trainable ones, of which
     * `param`, `hyper`, `part_first` and `part_count` are set. */
    zds_status (*prepare)(void *self, const zds_param_steps *params);
} zds_optim_ops;
#define ZDS_OPTIM_OPS_1_0 ZDS_SIZE_THROUGH(zds_optim_ops, prepare)

/* === schedule (ZDS_KIND_SCHED) === */

enum {
    ZDS_SCHED_LR = 1u << 0,
    ZDS_SCHED_BETA1 = 1u << 1,
    ZDS_SCHED_BETA2 = 1u << 2,
    ZDS_SCHED_MOMENTUM = 1u << 3,
    ZDS_SCHED_WEIGHT_DECAY = 1u << 4,
    ZDS_SCHED_BETA3 = 1u << 5
};

/* What a schedule sets in one group: the fields of `hyper` that `mask` names. */
typedef struct zds_sched_value {
    size_t struct_size;
    uint64_t mask;
    zds_hyper hyper; /* stays the last, since it may grow */
} zds_sched_value;
#define ZDS_SCHED_VALUE_1_0 (offsetof(zds_sched_value, hyper) + ZDS_HYPER_1_0)

typedef struct zds_sched_env {
    size_t struct_size;
    size_t group_count;
    size_t hyper_stride;
    /* [group_count]: what the optimizer's options say; valid as long as the instance. */
    const zds_hyper *base;
    int64_t total_steps;  /* optimizer steps of the whole run, where the program knows; else -1 */
    int64_t warmup_steps; /* likewise, from the training arguments; else -1 */
    /* An optimizer may split a group that the config or the program declared: which of those, from
     * 0, each group above is part of, and how many there are. An option that lists one value a
     * group has declared_count of them. `declared` is valid as long as the instance. */
    const uint32_t *declared; /* [group_count]; NULL: the groups as they are */
    size_t declared_count;
    double default_lr; /* the optimizer's option lr, whatever its groups have; NaN: it says none */
} zds_sched_env;
#define ZDS_SCHED_ENV_1_0 ZDS_SIZE_THROUGH(zds_sched_env, default_lr)

enum {
    /* Not a pure function of the step: `observe` changes what `at` returns. */
    ZDS_SCHED_OBSERVES = 1u << 0
};

/* One thread. */
typedef struct zds_sched_ops {
    size_t struct_size;
    uint64_t flags;
    zds_status (*create)(const zds_host *host, const void *options, const zds_sched_env *env,
                         void **self);
    void (*destroy)(void *self);
    /* Values for all groups after `moves` moves of the scheduler: 0 is what creation sets and the
     * first step uses; k is what holds after the k-th applied step. `values`: [group_count], zeroed
     * by the host. */
    zds_status (*at)(void *self, int64_t moves, zds_sched_value *values, size_t value_stride);
    /* Required with OBSERVES. A metric of the run (an evaluation loss): rank 0's value, the same on
     * every rank. */
    zds_status (*observe)(void *self, double metric);
    /* Optional, with OBSERVES: the state that a checkpoint keeps. save writes state_bytes(self)
     * bytes. */
    uint64_t (*state_bytes)(void *self);
    zds_status (*save)(void *self, void *bytes);
    zds_status (*load)(void *self, const void *bytes, uint64_t count);
} zds_sched_ops;
#define ZDS_SCHED_OPS_1_0 ZDS_SIZE_THROUGH(zds_sched_ops, load)

/* === memory tier (ZDS_KIND_OFFLOAD) === */

/* A place where bytes can be: the host, a device, a file. One tier holds what is where parameters
 * are computed, and there is one more for each offload section. */

typedef struct zds_offload_env {
    size_t struct_size;
    int32_t rank, local_rank;
    int32_t device;         /* ordinal, for device spaces; else -1 */
    int32_t pin_memory;     /* as the offload section says */
    const char *path;       /* nvme_path; NULL where the config names none */
    uint64_t capacity_hint; /* bytes that the engine is about to allocate; 0: unknown */
} zds_offload_env;
#define ZDS_OFFLOAD_ENV_1_0 ZDS_SIZE_THROUGH(zds_offload_env, capacity_hint)

/* What an open tier says of itself. The host zeroes it; zero stands for what is not known, but for
 * `alignment` and `reaches`, which must be said. */
typedef struct zds_offload_info {
    size_t struct_size;
    zds_device device; /* of its blocks; `space` is the one of its zds_offload_ops */
    /* Of the blocks' pointers, and, in a file, of the offsets and sizes of copies: a power of two,
     * as the file system or the device says. */
    uint64_t alignment;
    uint64_t total_bytes, free_bytes; /* now */
    uint64_t request_bytes;           /* a copy is fastest from this size on */
    uint32_t request_depth;           /* and with so many of them in flight */
    uint32_t reaches; /* mask of ZDS_SPACE_BIT: where the other end of a copy may be */
} zds_offload_info;
#define ZDS_OFFLOAD_INFO_1_0 ZDS_SIZE_THROUGH(zds_offload_info, reaches)

/* One allocation of a tier, or its view of memory that somebody else made. */
typedef struct zds_block {
    size_t struct_size;
    void *pointer;  /* usable by code that computes on `device`; NULL for ZDS_SPACE_FILE */
    uint64_t bytes; /* as asked for, whatever the plugin keeps besides */
    zds_device device;
    void *handle; /* the plugin's */
} zds_block;
#define ZDS_BLOCK_1_0 ZDS_SIZE_THROUGH(zds_block, handle)

/* One end of a copy, or the operand of a pass: exactly one of block and pointer. A block is always
 * one of the tier that is called; other memory, its own or another's, comes as a pointer. Never
 * grows, and so has no size. */
typedef struct zds_end {
    const zds_block *block;
    void *pointer;     /* valid until the operation is done */
    uint64_t offset;   /* bytes into either */
    zds_device device; /* where the bytes are */
} zds_end;

/* The address of an end; NULL in a file. */
static inline void *zds_end_address(const zds_end *end)
{
    char *base = (char *)(end->block ? end->block->pointer : end->pointer);
    return base ? base + end->offset : NULL;
}

/* What all asynchronous calls of a tier have in common: they begin when `waits` are done and, on a
 * stream, after all that was put on it before. The structs of such a call, and the array `waits`,
 * are valid until it returns. If an event that is waited for has failed, or what the stream ran
 * before, the call is not carried out and fails with the same status. *done: the event that says so
 * (types.h), NULL if all is done already; `done` itself may be NULL where there is a stream, whose
 * order and stream_sync then say it. */

/* One copy. `bytes` from each end do not overlap. At least one end is a block of the called tier or
 * memory of its device; the space of the other is one that the tier reaches. Offset and size are
 * multiples of the alignment where an end is in a file, but for the last bytes of a block; other
 * ends are as they come. */
typedef struct zds_copy {
    size_t struct_size;
    zds_end from, to;
    uint64_t bytes;          /* may be 0 */
    zds_event *const *waits; /* [wait_count]; a NULL in it is done */
    size_t wait_count;
    const zds_stream *stream; /* NULL: the plugin's own order */
} zds_copy;
#define ZDS_COPY_1_0 ZDS_SIZE_THROUGH(zds_copy, stream)

/* to[i] = value: `count` elements on the tier's device, any dtype; by way of fp32, and rounded to
 * nearest even from there, but for F64, I32 and I64. */
typedef struct zds_fill {
    size_t struct_size;
    zds_end to;
    zds_dtype dtype;
    int32_t reserved;
    double value; /* one that the dtype can hold */
    uint64_t count;
    zds_event *const *waits;
    size_t wait_count;
    const zds_stream *stream;
} zds_fill;
#define ZDS_FILL_1_0 ZDS_SIZE_THROUGH(zds_fill, stream)

/* A pass over `count` elements, both ends on the tier's device; dtypes F32, BF16, F16, I8 and U8.
 * Everything is computed in fp32, product and sum each rounded, and then rounded to nearest even;
 * I8 and U8 keep to their range, round halves away from zero and take NaN for 0. In place where
 * both types are equal in size, else without overlap.
 *     convert:     to[i] = from[i]                     (scale and add are not read)
 *     accumulate:  to[i] = (add ? to[i] : 0) + (float)scale * from[i] */
typedef struct zds_pass {
    size_t struct_size;
    zds_end from, to;
    zds_dtype from_dtype, to_dtype;
    uint64_t count;
    double scale;
    int32_t add;
    int32_t reserved;
    zds_event *const *waits;
    size_t wait_count;
    const zds_stream *stream;
} zds_pass;
#define ZDS_PASS_1_0 ZDS_SIZE_THROUGH(zds_pass, stream)

/* The statistics of zds_fused: for each segment (elements of `from`), for each chunk of 1024
 * elements counted from the segment's first, the sum of squares, in sixteen partial sums as it says
 * there; and how many elements are not finite. All ends on the tier's device. */
typedef struct zds_chunk_sums {
    size_t struct_size;
    zds_end from;
    zds_dtype dtype; /* F32, BF16 or F16 */
    int32_t reserved;
    const struct zds_segment *segments; /* [segment_count], of the host's memory; ascending,
                                           disjoint */
    size_t segment_stride;              /* sizeof(zds_segment) of whoever made them */
    size_t segment_count;
    zds_end sums;       /* out: double, one a chunk, segment after segment */
    zds_end non_finite; /* in, out: one uint64_t, to which is added */
    zds_event *const *waits;
    size_t wait_count;
    const zds_stream *stream;
} zds_chunk_sums;
#define ZDS_CHUNK_SUMS_1_0 ZDS_SIZE_THROUGH(zds_chunk_sums, stream)

enum {
    /* Code that computes in `space` uses a block's pointer as it is: no copies are made. Not with
     * ZDS_SPACE_FILE. */
    ZDS_OFFLOAD_DIRECT = 1u << 0
};

/* One thread at a time calls an instance; waits may be tested, and events completed, on any. Of
 * functions that are optional in some tiers:
 *  - adopt is required but with ZDS_SPACE_FILE;
 *  - copy is required but with DIRECT in HOST and HOST_PINNED, where the host moves bytes itself;
 *  - fill to chunk_sums and the streams are required in device spaces (CUDA, HIP, SYCL, TEST) and
 *    not called in others. */
typedef struct zds_offload_ops {
    size_t struct_size;
    uint64_t flags;  /* ZDS_OFFLOAD_... */
    zds_space space; /* of its blocks */
    int32_t reserved;
    /* ZDS_ERR_CONFIG, ZDS_ERR_IO or ZDS_ERR_NOT_FOUND where the folder or the device cannot be
     * used; close is then not called. */
    zds_status (*open)(const zds_host *host, const void *options, const zds_offload_env *env,
                       void **self);
    /* After all blocks were freed, all streams destroyed and all events released. */
    void (*close)(void *self);
    /* Any time after open; what it says, but for free_bytes, stays. */
    zds_status (*query)(void *self, zds_offload_info *info);
    /* Zeroed bytes, 64-byte aligned at least; 0 bytes: no pointer. ZDS_ERR_MEMORY or ZDS_ERR_IO
     * where there is no room. */
    zds_status (*alloc)(void *self, uint64_t bytes, zds_block *block);
    /* Of blocks of alloc and of adopt; no operation on them is in flight. */
    void (*free)(void *self, zds_block *block);
    /* A view of memory of the tier's device that somebody else made (a region of a communicator,
     * a buffer of the program's), of any alignment: changes no byte of it, takes no room, and its
     * free leaves the memory alone. Whoever made the memory keeps it until then. */
    zds_status (*adopt)(void *self, void *pointer, uint64_t bytes, zds_block *block);
    zds_status (*copy)(void *self, const zds_copy *copy, zds_event **done);
    zds_status (*fill)(void *self, const zds_fill *fill, zds_event **done);
    zds_status (*convert)(void *self, const zds_pass *pass, zds_event **done);
    zds_status (*accumulate)(void *self, const zds_pass *pass, zds_event **done);
    zds_status (*chunk_sums)(void *self, const zds_chunk_sums *sums, zds_event **done);
    /* A queue to compute on, which other plugins of the device may use as well. */
    zds_status (*stream_create)(void *self, zds_stream *stream);
    void (*stream_destroy)(void *self, zds_stream *stream); /* its work is done */
    /* An event for all that was put on the stream so far. */
    zds_status (*stream_record)(void *self, const zds_stream *stream, zds_event **done);
    /* Sleeps until that is done. The first error of what ran there since the last stream_sync,
     * whose text it sets; what is put on the stream from now on is carried out again. */
    zds_status (*stream_sync)(void *self, const zds_stream *stream);
} zds_offload_ops;

#define ZDS_OFFLOAD_OPS_1_0 ZDS_SIZE_THROUGH(zds_offload_ops, stream_sync)

/* === communication (ZDS_KIND_COMM) === */

/* An exchange of a few bytes between all ranks, which the host makes from MASTER_ADDR and
 * MASTER_PORT without any plugin: for ids, addresses and names that ranks must know of each other
 * before they can communicate. */
enum { ZDS_BOOTSTRAP_MOST = 4096 }; /* bytes a rank */
typedef struct zds_bootstrap zds_bootstrap;
struct zds_bootstrap {
    size_t struct_size;
    void *context; /* the host's own; not for plugins */
    /* Collective, blocks: `bytes` of every rank, in rank order, into all[world_size][bytes]; the
     * same `bytes` on all ranks, 1 to ZDS_BOOTSTRAP_MOST. On failure the text of `host` is set, and
     * the status to return: ZDS_ERR_PEER, which names the rank, where one died or did not come
     * within the timeout. */
    zds_status (*all_gather)(const zds_bootstrap *bootstrap, const zds_host *host, const void *mine,
                             size_t bytes, void *all);
};
#define ZDS_BOOTSTRAP_1_0 ZDS_SIZE_THROUGH(zds_bootstrap, all_gather)

typedef struct zds_comm_env {
    size_t struct_size;
    int32_t rank, world_size;
    int32_t local_rank, local_world_size;
    const char *master_addr; /* of rank 0; never NULL */
    int32_t master_port;     /* 0 where world_size is 1 */
    int32_t timeout_ms;      /* after which a silent peer is an error */
    zds_device device; /* where the buffers will be; the engine opens a second communicator, of
                          HOST, for its small exchanges where that is a device */
    const zds_bootstrap *bootstrap; /* valid during init; NULL in suits */
} zds_comm_env;
#define ZDS_COMM_ENV_1_0 ZDS_SIZE_THROUGH(zds_comm_env, bootstrap)

enum { ZDS_SUM = 0, ZDS_AVG = 1, ZDS_MAX = 2 };

enum {
    ZDS_COMM_FUSED = 1u << 0,         /* reduce_scatter and reduce take zds_fused */
    ZDS_COMM_DETERMINISTIC = 1u << 1, /* same ranks, same input, same bits */
    /* mem_alloc can give all ranks the same pages (ZDS_MEM_SHARED), and counters. */
    ZDS_COMM_NODE_SHARED = 1u << 2,
    ZDS_COMM_AUTO_PROGRESS = 1u << 3, /* operations complete without calls to progress */
    /* Operations take any memory of its spaces: what is neither of mem_alloc nor registered costs a
     * copy. Without it src and dst must lie in one of those. */
    ZDS_COMM_COPIES = 1u << 4,
    ZDS_COMM_ONE_NODE = 1u << 5 /* it connects ranks of one node only */
};

enum {
    /* Each rank has bytes of its own, which operations of the peers may read directly. */
    ZDS_MEM_SYMMETRIC = 0,
    /* All ranks have the same bytes; only with NODE_SHARED. */
    ZDS_MEM_SHARED = 1,
    /* bytes / 8 counters that all ranks add to, each 0 at first; only with NODE_SHARED. They are
     * for counter_add and counter_wait alone: base and read_only are NULL. */
    ZDS_MEM_COUNTERS = 2
};

/* Memory of a communicator. Zeroed; pages are touched by whoever uses them first. */
typedef struct zds_region {
    size_t struct_size;
    void *base;            /* readable and writable by code that computes on `device` */
    const void *read_only; /* the same bytes mapped without the right to write; equals base where
                              that is not possible */
    uint64_t bytes;
    int32_t kind; /* ZDS_MEM_... */
    zds_device device;
    int32_t reserved;
    void *handle; /* the plugin's */
} zds_region;
#define ZDS_REGION_1_0 ZDS_SIZE_THROUGH(zds_region, handle)

/* What a FUSED reduce_scatter or reduce does besides reducing. For every element i of this rank's
 * part, or of the root's result,
 *     r = postscale * sum over ranks, in rank order, of (prescale * src[i]), in fp32
 *     dst[i] = round to dst_dtype (accumulate ? dst[i] + r : r)
 * and, where statistics are asked for, over dst[i] as stored: for each segment, for each chunk of
 * 1024 elements counted from the segment's first, the sum of squares (in double) and, over all, the
 * number of non-finite elements. Elements outside every segment (padding) are stored but not
 * counted. Within a chunk sixteen partial sums take elements 0, 16, 32.., 1, 17, 33.. and are added
 * pairwise (8+8, 4+4, 2+2, 1+1), so that the bits do not depend on the width of vectors. */
typedef struct zds_segment {
    uint64_t first; /* element of dst */
    uint64_t count;
} zds_segment;
#define ZDS_SEGMENT_1_0 ZDS_SIZE_THROUGH(zds_segment, count)

typedef struct zds_fused {
    size_t struct_size;
    double prescale, postscale; /* 1/world_size as postscale makes a mean */
    int32_t accumulate;
    int32_t reserved;
    const zds_segment *segments; /* ascending, disjoint; NULL: no statistics */
    size_t segment_stride;       /* sizeof(zds_segment) of whoever made them */
    size_t segment_count;
    double *chunk_sums;   /* out: one a chunk, segment after segment; host memory */
    uint64_t *non_finite; /* out; host memory */
} zds_fused;
#define ZDS_FUSED_1_0 ZDS_SIZE_THROUGH(zds_fused, non_finite)

/* Arguments of a collective. All ranks call the same operations of a communicator in the same
 * order. src and dst are memory of the communicator's space: of mem_alloc or mem_register, which
 * peers may read directly, or, with COPIES, any. */
typedef struct zds_coll {
    size_t struct_size;
    uint64_t tag; /* says what the operation is for, the same on all ranks; a difference is
                     ZDS_ERR_DIVERGED where it can be seen */
    /* The same for whoever reads an error: "gradients of module h.0". One line; NULL: nothing to
     * say. Errors quote it instead of the tag. Valid as long as src and dst. */
    const char *what;
    const void *src;
    void *dst;
    uint64_t count;                 /* elements, see each operation; may be 0 */
    zds_dtype src_dtype, dst_dtype; /* may differ only in a fused operation */
    int32_t op;                     /* ZDS_SUM, ZDS_AVG, ZDS_MAX */
    int32_t peer;            /* root of broadcast and reduce; the other side of send and recv */
    const zds_fused *fused;  /* NULL, or reduce_scatter or reduce of a FUSED plugin: `op` is then
                                not used; all ranks give one, without segments where dst is NULL */
    zds_event *const *waits; /* [wait_count]: start after these */
    size_t wait_count;
    /* On a device: the operation comes after what is on it, and what is put on it later comes after
     * the operation. NULL on the host. */
    const zds_stream *stream;
} zds_coll;
#define ZDS_COLL_1_0 ZDS_SIZE_THROUGH(zds_coll, stream)

/* One thread at a time issues operations of a communicator and waits for them, the same order on
 * every rank; `progress` and `counter_add` may come from another thread between such calls. All
 * collectives are asynchronous: `coll`'s pointers (not the struct) stay valid until the event is
 * done.
 *
 * An operation is done when its result is ready and the peers have finished reading this rank's
 * source: then dst may be read, and src be written.
 *
 * A peer that dies or is silent for timeout_ms is ZDS_ERR_PEER with its rank in the text, on every
 * rank that waits for it; after an error only abort and finalize may be called. */
struct zds_comm_ops {
    size_t struct_size;
    uint64_t flags;  /* ZDS_COMM_... */
    uint32_t spaces; /* masks: where buffers may be */
    /* Of sources of all_reduce, reduce and reduce_scatter: ZDS_F32 at least. What only moves may be
     * of any. A FUSED operation's result may be F32, F16 or BF16, whatever its source. */
    uint32_t reduce_dtypes;
    /* How many ranks it can connect. The host reads these, `spaces` and ONE_NODE before it loads
     * the plugin for a run, and loads none that cannot serve. */
    int32_t least_ranks; /* at least 1 */
    int32_t most_ranks;  /* 0: any number */
    /* How well it suits ranks that the facts above allow: 0 cannot; else the highest wins when the
     * config names none. No side effects. */
    int32_t (*suits)(const zds_comm_env *env);
    /* Returns when all ranks are there, or with ZDS_ERR_PEER after the timeout, naming the missing
     * ones. */
    zds_status (*init)(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self);
    void (*finalize)(void *self);
    /* Collective: a communicator of the ranks with the same color, ordered by key, then rank. */
    zds_status (*split)(void *self, int32_t color, int32_t key, void **child);
    /* Collective, same order and same bytes on all ranks: memory of the communicator's device. */
    zds_status (*mem_alloc)(void *self, uint64_t bytes, int32_t kind, zds_region *region);
    void (*mem_free)(void *self, zds_region *region);
    /* Optional, collective: memory that somebody else made (a tier, a caller), so that operations
     * on it need no copy. The same bytes on all ranks; base and device are each rank's own. Fills
     * `region`; its owner frees the memory after mem_unregister. Memory of a kind that it cannot
     * register is ZDS_ERR_UNSUPPORTED, on all ranks, and leaves everything as it was. */
    zds_status (*mem_register)(void *self, void *base, uint64_t bytes, zds_device device,
                               zds_region *region);
    void (*mem_unregister)(void *self, zds_region *region); /* with mem_register */
    /* With NODE_SHARED. Adds 1 to counter `index` of a COUNTERS region, after all that this rank
     * has written before. Does not block. */
    zds_status (*counter_add)(void *self, const zds_region *region, uint64_t index);
    /* With NODE_SHARED. Done when the counter has reached `value`; what the ranks wrote before they
     * added can then be read. Not collective, and no part of the order of operations. Dead and
     * silent peers end it as any operation. `what` as in zds_coll. */
    zds_status (*counter_wait)(void *self, const zds_region *region, uint64_t index, uint64_t value,
                               const char *what, zds_event **done);
    /* count: elements of src and of dst; the same bits on every rank. In place allowed. */
    zds_status (*all_reduce)(void *self, const zds_coll *coll, zds_event **done);
    /* count likewise; dst only on the root, NULL elsewhere. In place allowed. */
    zds_status (*reduce)(void *self, const zds_coll *coll, zds_event **done);
    /* count: elements of dst; src has world_size times as many, rank r's part at r * count. In
     * place allowed: dst = src + rank * count. */
    zds_status (*reduce_scatter)(void *self, const zds_coll *coll, zds_event **done);
    /* count: elements of src; dst has world_size times as many. In place allowed: src = dst + rank
     * * count. Where dst lies in SHARED memory and is in place, nothing is copied: done means that
     * every rank has issued it. */
    zds_status (*all_gather)(void *self, const zds_coll *coll, zds_event **done);
    /* count: elements. In place (src = dst) on the root; in SHARED memory nothing is copied. */
    zds_status (*broadcast)(void *self, const zds_coll *coll, zds_event **done);
    /* count: elements for each rank. Not in place. */
    zds_status (*all_to_all)(void *self, const zds_coll *coll, zds_event **done);
    /* Optional, both or neither. */
    zds_status (*send)(void *self, const zds_coll *coll, zds_event **done);
    zds_status (*recv)(void *self, const zds_coll *coll, zds_event **done);
    /* Of `coll` only tag, what, waits and stream count. */
    zds_status (*barrier)(void *self, const zds_coll *coll, zds_event **done);
    /* Optional, both or neither: operations between the two may be sent as one; their events are
     * valid after group_end. */
    zds_status (*group_begin)(void *self);
    zds_status (*group_end)(void *self);
    /* Moves operations in flight forward without blocking. Optional with AUTO_PROGRESS. */
    zds_status (*progress)(void *self);
    /* From any thread: makes waits of all ranks fail with ZDS_ERR_PEER. `reason` may reach the
     * peers' messages. */
    void (*abort)(void *self, const char *reason);
};
#define ZDS_COMM_OPS_1_0 ZDS_SIZE_THROUGH(zds_comm_ops, abort)

ZDS_END_DECLS
#endif

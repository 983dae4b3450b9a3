/* All of zds for those who link the core, and what belongs to no part: version, log, the list of
 * plugins. */
#ifndef ZDS_H
#define ZDS_H

#include "zds/config.h"
#include "zds/engine.h"
#include "zds/status.h"

ZDS_BEGIN_DECLS

/* Who this process is, as its launcher says in the environment (see zds_engine_options): before
 * there is an engine to ask. The caller sets env->struct_size; the rest is filled as a comm plugin
 * of the host gets it; local_rank and local_world_size are 0 where the launcher does not say who
 * shares this node. Rank 0 of 1 if there is no launcher, and with ZDS_ERR_INVALID, where a variable
 * makes no sense: the text names it, and zds_engine_create reports it too. The strings belong to
 * the environment. */
zds_status zds_launched_as(zds_comm_env *env, zds_error *error);

/* The first exchange between the ranks of `env`, for a program that opens a communication plugin
 * without an engine: goes into env.bootstrap for `init`. Nothing happens before its first
 * all_gather. Close it when the communicator is gone. */
zds_status zds_bootstrap_open(const zds_comm_env *env, const zds_bootstrap **out, zds_error *error);
void zds_bootstrap_close(const zds_bootstrap *bootstrap);

const char *zds_version(void); /* "MAJOR.MINOR.PATCH" */

/* The lines of the core and of plugins go to `sink`, or to stderr if it is NULL (the default).
 * `level`: ZDS_LOG_...; lines above it are dropped (default ZDS_LOG_INFO, or ZDS_LOG of the
 * environment: error, warning, info, debug). Any thread may call these, at any time: the sink gets
 * one line at a time, and when zds_log_to returns the one before it is not in use any more. */
typedef void (*zds_log_fn)(void *user, int32_t level, const char *line);
void zds_log_to(zds_log_fn sink, void *user);
void zds_log_level(int32_t level);

/* === the list of plugins === */

typedef struct zds_plugin_list zds_plugin_list;

typedef struct zds_plugin_entry {
    size_t struct_size; /* written by the library, as of config.h's structs */
    const char *kind;   /* "optim", "sched", "offload", "comm"; "" for a file that could not be read
                           that far */
    const char *name;   /* "" likewise */
    const char *aliases; /* comma separated; "" */
    const char *version;
    const char *doc;
    const char *abi;    /* "1.0" */
    const char *file;   /* "" for one linked into the program */
    const char *status; /* "ok", "shadowed", "rejected" */
    const char *reason; /* why, for all but "ok" */
    /* Its descriptor while the list lives; NULL unless this process has loaded it. */
    const zds_plugin *plugin;
} zds_plugin_entry;

/* Looks through `path` (folders separated by ':', may be NULL), ZDS_PLUGIN_PATH and the install's
 * plugin folder, in this order. Files are opened in a child process, so that one that crashes is an
 * entry with a reason. */
zds_status zds_plugin_list_create(const char *path, zds_plugin_list **list, zds_error *error);
void zds_plugin_list_destroy(zds_plugin_list *list);
/* Entry i; false past the last. Strings live as long as the list. */
bool zds_plugin_list_entry_sized(const zds_plugin_list *list, size_t i, zds_plugin_entry *entry,
                                 size_t size);
static inline bool zds_plugin_list_entry(const zds_plugin_list *list_, size_t i_,
                                         zds_plugin_entry *entry_)
{
    return zds_plugin_list_entry_sized(list_, i_, entry_, sizeof *entry_);
}
/* The options table of a plugin (name, alias or path of a .so) as JSON text: name, kind, doc,
 * version, file, options [{name, type, default, min, max, choices, auto_from, required, doc}]. The
 * caller frees it. ZDS_ERR_NOT_FOUND lists the nearest names. */
zds_status zds_plugin_info(const char *path, const char *name, char **json, zds_error *error);

/* === schedules === */

/* What holds in one optimizer step. The library is told the size, as of config.h's structs. */
typedef struct zds_schedule_point {
    double lr;
    double beta1, beta2; /* NaN where the optimizer has none */
    double beta3;        /* NaN where it has no third */
} zds_schedule_point;

/* The first `count` steps of the schedule that an engine would run with this config and these
 * options: the config's, else `options->scheduler` (both NULL: a constant rate); for matrices that
 * no group of zds.param_groups takes, or where those take all, of the one that takes the rest.
 * `metrics`: [count], what zds_observe gets after each
 * step, NaN for none; NULL unless the schedule follows a metric, needed where it does and count is
 * above 1. `points`: [count]. *moves_betas: whether the schedule sets betas too. Errors as of
 * zds_engine_create. */
zds_status zds_schedule_points_sized(const zds_config *config, const zds_engine_options *options,
                                     const double *metrics, size_t count,
                                     zds_schedule_point *points, size_t stride, bool *moves_betas,
                                     zds_error *error);
static inline zds_status zds_schedule_points(const zds_config *config_,
                                             const zds_engine_options *options_,
                                             const double *metrics_, size_t count_,
                                             zds_schedule_point *points_, bool *moves_betas_,
                                             zds_error *error_)
{
    return zds_schedule_points_sized(config_, options_, metrics_, count_, points_, sizeof *points_,
                                     moves_betas_, error_);
}

ZDS_END_DECLS
#endif

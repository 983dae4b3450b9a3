/* Whether the node has room for a run. Pages come when they are touched, and where there are none
 * the system ends the process: what will be too much is told before, and what would fit. */
#include <math.h>
#include <stdlib.h>

#include "engine/internal.h"
#include "host/proc.h"

enum { GIB = 1 << 30, SMALL = 64 << 20 /* fits anywhere */ };

/* Of all ranks of the node, in the host's memory. */
static double bytes_here(const zds_engine *e)
{
    zds_memory_row row;
    double ranks = e->launch.local_world_size > 0 ? e->launch.local_world_size : 1, bytes = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        if (tiers_are_here(e, row.tier))
            bytes += (double)(row.bytes - row.shared) * ranks + (double)row.shared;
    return bytes;
}

/* From what is nearest to what costs most time; with files at stage 3, as DeepSpeed has them. */
static const struct {
    settings_instead settings;
    const char *name;
} choices[] = {
    {{.stage = 1}, "zero_optimization.stage 1"},
    {{.stage = 2}, "zero_optimization.stage 2"},
    {{.stage = 3}, "zero_optimization.stage 3"},
    {{.stage = 3, .states = "nvme"},
     "zero_optimization.stage 3 with offload_optimizer.device nvme"},
    {{.stage = 3, .states = "nvme", .params = "nvme", .live = 100000000},
     "zero_optimization.stage 3 with offload_optimizer.device and offload_param.device nvme, "
     "offload_param.max_in_cpu 0 and stage3_max_live_parameters 1e8"},
};

/* What the same run would take; INFINITY where it cannot be. */
static double bytes_with(const zds_engine *e, const zds_model *model, const zds_engine_options *o,
                         const settings_instead *instead)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_engine *plan = engine_empty(e->config, o);
    double bytes = INFINITY;
    if (plan) {
        plan->planned = true;
        plan->instead = instead;
        bytes = engine_build(plan, model, o, &error) ? INFINITY : bytes_here(plan);
    }
    zds_engine_destroy(plan);
    zds_error_clear(&error);
    return bytes;
}

char *room_text(const zds_engine *e, const zds_model *model, const zds_engine_options *o,
                double left)
{
    double bytes = bytes_here(e), with = INFINITY;
    size_t i = 0, count = sizeof choices / sizeof *choices;
    bool one_node = e->launch.local_world_size == e->launch.world_size;
    if (bytes < SMALL)
        return NULL;
    left = left < 0 ? proc_memory_left("") : left;
    if (bytes <= left)
        return NULL;
    for (; one_node && i < count; i++) {
        if (choices[i].settings.stage < e->set.stage)
            continue;
        with = bytes_with(e, model, o, &choices[i].settings);
        if (with <= left)
            break;
    }
    char *fits = with <= left ? text_format("%s takes %.2f GiB", choices[i].name, with / GIB)
                              : text_format("no stage or offload on this machine takes less than "
                                            "that: use more machines");
    char *text = text_format(
        "%d rank(s) of this run take %.2f GiB of this machine's memory, of which %.2f GiB are "
        "left: the system may end them; %s",
        e->launch.local_world_size > 0 ? e->launch.local_world_size : 1, bytes / GIB, left / GIB,
        fits ? fits : "");
    free(fits);
    return text;
}

/* The check of an optimizer's own reduction between ranks: each in a process of its own with other
 * gradients, connected through shared memory, and all must come to the same weights. */
#include <string.h>

#include "numbers.h"
#include "optim.h"
#include "plugin/fault.h"
#include "plugin/registry.h"
#include "ranks.h"
#include "rig.h"

enum { STEPS = 6, WORLD = 2 };

/* The first fault: of a rank that died, which the others can but miss; then as they were found. */
static char *ranks_fault(bench *b, twin *const *twins, rig *rigs)
{
    char *first = NULL;
    int64_t first_at = 0;
    for (int32_t k = 0; k < WORLD; k++) {
        char *fault = bench_within(twin_load(twins[k], &rigs[k], b), "rank %d", (int)k);
        const int64_t at = twin_fault_at(twins[k]);
        if (!fault || twin_stopped(twins[k]) || (first && at >= first_at)) {
            fault_free(fault);
            continue;
        }
        fault_free(first);
        first = fault;
        first_at = at;
    }
    return first;
}

static char *same_bits(const area *a, const area *b, zds_dtype dtype)
{
    const size_t size = zds_dtype_size(dtype);
    for (size_t i = 0; i < a->bytes; i += size)
        if (memcmp(a->data + i, b->data + i, size) != 0)
            return fault_format("the ranks end with other weights: element %zu of the %s is %.9g "
                                "on rank 0 and %.9g on rank 1",
                                i / size, a->what, number_read(a->data, dtype, i / size),
                                number_read(b->data, dtype, i / size));
    return NULL;
}

/* Weights, what is rounded of them, and states that are not a rank's own. */
static char *compare_ranks(const rig *a, const rig *b)
{
    char *fault = NULL;
    for (size_t i = 0; i < RIG_PARAMS && !fault; i++) {
        const rig_param *p = &a->params[i], *q = &b->params[i];
        fault = same_bits(p->master, q->master, a->setup.master);
        if (!fault && p->output->bytes)
            fault = same_bits(p->output, q->output, a->setup.output);
        for (uint32_t s = 0; s < p->needs.state_count && !fault; s++) {
            const zds_state_spec *spec = &p->needs.states[s];
            if (spec->kind == ZDS_STATE_ELEMENT && spec->scope == ZDS_SCOPE_SHARDED)
                fault = same_bits(p->states[s], q->states[s], spec->dtype);
        }
    }
    return fault;
}

static char *reduce_together(bench *b, const rig_setup *setup)
{
    twin *twins[WORLD];
    rig rigs[WORLD] = {0};
    rig_setup of_rank = *setup;
    zds_optim_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    of_rank.world = WORLD;
    of_rank.port = ranks_port();
    for (int32_t k = 0; k < WORLD; k++) {
        of_rank.rank = k;
        twins[k] = twin_start(b, &of_rank, STEPS);
    }
    twins_wait(twins, WORLD);
    char *fault = ranks_fault(b, twins, rigs);
    if (!fault && !(ops.flags & ZDS_OPTIM_PARAMS_DIVERGE))
        fault = compare_ranks(&rigs[0], &rigs[1]);
    for (int32_t k = 0; k < WORLD; k++) {
        b->collectives += twin_collectives(twins[k]);
        rig_close(&rigs[k]);
        twin_free(twins[k]);
    }
    return bench_within(fault, "%d ranks", WORLD);
}

char *optim_collective_ranks(bench *b)
{
    zds_optim_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    if (!ops.reduction_mode) {
        b->skipped = fault_format("it leaves that to the host");
        return NULL;
    }
    char *fault = rig_each_once(b, reduce_together);
    if (!fault && !b->collectives)
        b->note = fault_format("no step that was tried is one of ZDS_REDUCE_LOCAL");
    else if (!fault && (ops.flags & ZDS_OPTIM_PARAMS_DIVERGE))
        b->note = fault_format("weights of ranks may differ, by ZDS_OPTIM_PARAMS_DIVERGE, and were "
                               "not compared");
    return fault;
}

/* What an optimizer asks for a parameter: whether it makes sense. */
#include "plugin/needs.h"

#include <math.h>
#include <string.h>

#include "plugin/descriptor.h"
#include "plugin/fault.h"

enum { MOST_NORMS = 4, MOST_GRANULARITY = 1 << 20, MOST_BLOCK = 1 << 30, LONGEST_NAME = 63 };
static const uint64_t most_bytes = (uint64_t)1 << 48;

static const uint32_t element_dtypes = ZDS_DTYPE_BIT(ZDS_F32) | ZDS_DTYPE_BIT(ZDS_F16) |
                                       ZDS_DTYPE_BIT(ZDS_BF16) | ZDS_DTYPE_BIT(ZDS_I8) |
                                       ZDS_DTYPE_BIT(ZDS_U8);

static char *element_fault(const zds_state_spec *s)
{
    if (s->dtype < 0 || s->dtype >= ZDS_DTYPE_COUNT || !(element_dtypes & ZDS_DTYPE_BIT(s->dtype)))
        return fault_format("element state \"%s\" has dtype %d (%s); it must be F32, F16, BF16, I8 "
                            "or U8",
                            s->name, s->dtype,
                            dtype_name(s->dtype) ? dtype_name(s->dtype) : "unknown");
    if (!isfinite(s->initial))
        return fault_format("state \"%s\" starts as %g", s->name, s->initial);
    return NULL;
}

static char *state_fault(const zds_param_needs *n, const zds_state_spec *s)
{
    if (!s->name || !*s->name || strlen(s->name) > LONGEST_NAME)
        return fault_format("state %zu has no name of 1 to %d letters", (size_t)(s - n->states),
                            LONGEST_NAME);
    for (const zds_state_spec *other = n->states; other < s; other++)
        if (strcmp(other->name, s->name) == 0)
            return fault_format("state \"%s\" is described twice", s->name);
    if (s->scope != ZDS_SCOPE_SHARDED && s->scope != ZDS_SCOPE_RANK_LOCAL)
        return fault_format("state \"%s\" has the unknown scope %d", s->name, s->scope);
    if (s->kind < ZDS_STATE_ELEMENT || s->kind > ZDS_STATE_CONSTANT)
        return fault_format("state \"%s\" has the unknown kind %d", s->name, s->kind);
    if (s->starts != ZDS_STARTS_AS_VALUE &&
        (s->starts != ZDS_STARTS_AS_PARAM || s->kind != ZDS_STATE_ELEMENT))
        return fault_format("state \"%s\" starts as %d, which is none of ZDS_STARTS_AS_... of its "
                            "kind",
                            s->name, s->starts);
    if (s->kind == ZDS_STATE_ELEMENT || s->kind == ZDS_STATE_CONSTANT)
        return element_fault(s);
    if (s->kind == ZDS_STATE_BLOCK &&
        (!s->block || (n->granularity ? n->granularity : 1) % s->block))
        return fault_format("state \"%s\" has blocks of %u elements and granularity is %u, so that "
                            "a tile could cut a block; make it a multiple",
                            s->name, s->block, n->granularity);
    if (s->kind == ZDS_STATE_BLOCK && (s->bytes == 0 || s->bytes > MOST_BLOCK))
        return fault_format("state \"%s\" has %llu bytes a block; it must have 1 to %d", s->name,
                            (unsigned long long)s->bytes, MOST_BLOCK);
    if (s->kind != ZDS_STATE_BLOCK && s->bytes > most_bytes) /* 0: of a tensor without elements */
        return fault_format("state \"%s\" has %llu bytes; it may have %llu", s->name,
                            (unsigned long long)s->bytes, (unsigned long long)most_bytes);
    return NULL;
}

char *needs_fault(const zds_optim_ops *ops, const zds_param_needs *n)
{
    char *fault = NULL;
    if (n->state_count > ZDS_MAX_STATES)
        return fault_format("it describes %u states; %d is the most", n->state_count,
                            ZDS_MAX_STATES);
    if (n->tensor_norms > MOST_NORMS)
        return fault_format("it asks for %u tensor_norms; %d is the most", n->tensor_norms,
                            MOST_NORMS);
    if (n->tensor_norms && !ops->norms)
        return fault_format("it asks for tensor_norms, but its norms function is NULL");
    if (n->whole_tensor && n->tensor_norms)
        return fault_format("it asks for whole_tensor and for tensor_norms, which it can add up "
                            "itself where it has the tensor whole");
    if (n->whole_tensor && ops->reduction_mode)
        return fault_format("it asks for whole_tensor, and has a reduction_mode: whoever reduces "
                            "gradients itself gets them cut");
    if (!isfinite(n->cost) || n->cost < 0)
        return fault_format("it says that a step costs %g", n->cost);
    if (n->granularity > MOST_GRANULARITY)
        return fault_format("it asks for a granularity of %u; %d is the most", n->granularity,
                            MOST_GRANULARITY);
    for (uint32_t s = 0; !fault && s < n->state_count; s++)
        fault = state_fault(n, &n->states[s]);
    if (!fault && n->eval_state &&
        (n->eval_state > n->state_count || n->states[n->eval_state - 1].kind != ZDS_STATE_ELEMENT ||
         n->states[n->eval_state - 1].scope != ZDS_SCOPE_SHARDED))
        fault = fault_format("its eval_state is %u, which is no 1 + index of a sharded element "
                             "state",
                             n->eval_state);
    return fault;
}

char *needs_hyper_fault(const zds_hyper *before, const zds_hyper *after)
{
    const double was[] = {before->lr,       before->beta1,        before->beta2,
                          before->momentum, before->weight_decay, before->beta3};
    const double is[] = {after->lr,       after->beta1,        after->beta2,
                         after->momentum, after->weight_decay, after->beta3};
    static const char *const names[] = {"lr",       "beta1",        "beta2",
                                        "momentum", "weight_decay", "beta3"};
    for (size_t k = 0; k < sizeof is / sizeof *is; k++)
        if (isfinite(was[k]) && !isfinite(is[k]) && (k == 0 || !isnan(is[k])))
            return fault_format("describe sets %s to %g", names[k], is[k]);
    return NULL;
}

/* Keys that an engine cannot honour: known but not done yet, or refused for good. */
#include <stdio.h>
#include <string.h>

#include "config/internal.h"

/* The reason of the row or of the nearest section above it that has one. */
static const char *reason_of(const zds_config *c, int row)
{
    for (; row >= 0; row = field_parent(&c->index, row))
        if (field_at((size_t)row)->reason)
            return field_at((size_t)row)->reason;
    return "it means nothing to a training engine in C";
}

/* A section that is switched off, by its own or an outer "enabled": false, does nothing. */
static bool switched_off(const zds_config *c, int row)
{
    for (row = field_parent(&c->index, row); row >= 0; row = field_parent(&c->index, row)) {
        int enabled = field_find(&c->index, field_at((size_t)row), "enabled");
        if (enabled >= 0 && !c->values[enabled].boolean)
            return true;
    }
    return false;
}

/* Keys that this stage of ZeRO does not read change nothing, in DeepSpeed too. */
static bool is_idle(const field *f, int64_t stage)
{
    return f->stages && !(f->stages & 1u << stage);
}

static bool is_planned(const zds_config *c, const field *f, const value *v)
{
    char text[32];
    if (!f->planned || v->null || (f->flags & FIELD_OR_TIER && config_tier(c, v->string)))
        return false;
    snprintf(text, sizeof text, "%lld", (long long)v->integer);
    return field_has_choice(f->planned, f->type == FIELD_INT ? text : v->string, true);
}

void config_require_implemented(const zds_config *c, problems *all)
{
    size_t count = field_count();
    int64_t stage = value_of(c, "zero_optimization.stage")->integer;
    for (size_t i = 0; i < count; i++) {
        const field *f = field_at(i);
        const value *v = &c->values[i];
        char message[512], shown[128];
        if (!v->node || v->bad || v->null || (f->type == FIELD_OBJECT && !(f->flags & FIELD_OPEN)))
            continue;
        bool refused = f->support == FIELD_REFUSED;
        bool planned =
            f->support == FIELD_PLANNED || (f->support == FIELD_DONE && is_planned(c, f, v));
        if ((!refused && !planned) || value_is_default(f, v) || is_idle(f, stage) ||
            switched_off(c, (int)i))
            continue;
        tree_show(v->node, shown, sizeof shown);
        if (refused)
            snprintf(message, sizeof message, "%s is refused: %s; delete the key", shown,
                     reason_of(c, (int)i));
        else
            snprintf(message, sizeof message,
                     "%s is known, but not implemented yet in this version of zds; delete the key "
                     "or change its value",
                     shown);
        config_note(c, all, ZDS_PROBLEM_ERROR, f->path, message);
    }
}

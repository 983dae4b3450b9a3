#include "engine/scale.h"

static const double FACTOR = 2;

static bool shrink(loss_scale *s)
{
    if (s->hysteresis > 1 && s->patience > 1) {
        s->patience--;
        return true;
    }
    if (s->value <= s->least)
        return false;
    s->value = s->value / FACTOR > s->least ? s->value / FACTOR : s->least;
    return true;
}

bool loss_scale_update(loss_scale *s, bool overflow)
{
    bool possible = true;
    if (!s->dynamic)
        return true;
    if (overflow) {
        possible = shrink(s);
        s->last_overflow = s->steps;
    } else {
        int64_t before = s->steps - s->last_overflow - 1; /* without overflow, up to this one */
        bool grows = before > 0 && before % s->window == 0;
        if (s->refills || grows)
            s->patience = s->hysteresis;
        if (grows)
            s->value *= FACTOR;
    }
    s->steps++;
    return possible;
}

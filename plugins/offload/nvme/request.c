/* A request: a piece of a copy on its way from a file, to a file, or from one to the other, in as
 * many transfers as the system takes for it. */
#include <errno.h>

#include "nvme.h"

/* So often a transfer may move less than the alignment, which the next begins at again. */
enum { MOST_STUCK = 16 };

static bool is_bounced(const request *r)
{
    return r->bounce >= 0;
}

int request_fd(const request *r)
{
    return r->writing ? r->op->to->fd : r->op->from->fd;
}

uint64_t request_offset(const request *r)
{
    return (r->writing ? r->op->to_offset : r->op->from_offset) + r->first + r->moved;
}

static void begin_writing(request *r)
{
    r->writing = true;
    r->moved = 0;
    r->stuck = 0;
    if (is_bounced(r))
        memset(r->address + r->bytes, 0, r->length - r->bytes);
}

void request_begin(const tier *t, request *r)
{
    const op *o = r->op;
    if (is_bounced(r))
        r->address = t->bounces + (uint64_t)r->bounce * t->bounce_bytes;
    else
        r->address = o->memory + r->first;
    if (o->from)
        return;
    if (is_bounced(r))
        memcpy(r->address, o->memory + r->first, r->bytes);
    begin_writing(r);
}

static step failed(request *r, int error, bool ended)
{
    r->error = error;
    r->ended = ended;
    return STEP_DONE;
}

/* All is read. */
static step read_over(request *r)
{
    const op *o = r->op;
    if (o->to) {
        begin_writing(r);
        return STEP_ON;
    }
    if (is_bounced(r))
        memcpy(o->memory + r->first, r->address, r->bytes);
    return STEP_DONE;
}

step request_moved(const tier *t, request *r, int64_t result)
{
    const uint64_t left = r->length - r->moved;
    if (result == -EINTR || result == -EAGAIN)
        return STEP_LATER;
    if (result < 0)
        return failed(r, (int)-result, false);
    uint64_t moved = r->moved + ((uint64_t)result < left ? (uint64_t)result : left);
    if (moved >= (r->writing ? r->length : r->bytes))
        return r->writing ? STEP_DONE : read_over(r);
    if (t->traits.direct) /* which goes on at a boundary alone */
        moved -= moved % t->traits.alignment;
    if (moved > r->moved)
        r->stuck = 0;
    else if (result == 0 || ++r->stuck > MOST_STUCK)
        return r->writing ? failed(r, EIO, false) : failed(r, 0, true);
    r->moved = moved;
    return STEP_ON;
}

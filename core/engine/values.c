/* An engine's first values, and copies between memories. */
#include <stdlib.h>

#include "engine/internal.h"

/* Every rank has read its own: all of them did, and what they can compare is the same. */
static zds_status agree_on_values(zds_engine *e, zds_status mine, const uint64_t *hashes)
{
    static const char call[] = "zds_set_values";
    zds_error error = ZDS_ERROR_INIT;
    const void *all;
    zds_status status = peers_gather(e->control, &mine, sizeof mine, &all, call);
    for (int32_t r = 0; !status && r < e->launch.world_size; r++) {
        zds_status theirs = ((const zds_status *)all)[r];
        if (theirs)
            return engine_fail(e, theirs, "initial values could not be read on rank %d (%s)", r,
                               zds_status_name(theirs));
    }
    if (!status && (status = agree_on_hashes(e, hashes, &error)) != ZDS_OK) {
        if (!e->failure.broken)
            engine_fail(e, status, "%s", error.text);
        if (status == ZDS_ERR_DIVERGED)
            e->failure.broken = true; /* as on all ranks */
        else
            engine_give_up(e, status);
    }
    zds_error_clear(&error);
    return status;
}

static zds_status read_everywhere(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status read_status = ZDS_OK;
    uint64_t *hashes = calloc(e->model->param_count + (size_t)1, sizeof *hashes);
    if (!hashes)
        return engine_give_up(e, engine_fail(e, ZDS_ERR_MEMORY, "no memory to compare values"));
    zds_status status = zero_read_everywhere(e->zero, read, user, hashes, &read_status);
    if (!status)
        status = agree_on_values(e, read_status, hashes);
    free(hashes);
    return status;
}

static zds_status read_from_first(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status read_status = ZDS_OK, status = zero_read_values(e->zero, read, user, &read_status);
    if (status)
        return status;
    zds_status common = peers_agree(e->control, read_status, "zds_set_values");
    return !common || e->failure.broken
               ? common
               : engine_fail(e, common, "initial values could not be read on rank 0 (%s)",
                             zds_status_name(common));
}

static zds_status set_values(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status status = engine_usable(e);
    if (status)
        return status;
    if (!read && (e->launch.rank == 0 || e->values_everywhere))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_values needs a function to read from");
    if (engine_in_step(e))
        return engine_fail(e, ZDS_ERR_INVALID, "zds_set_values in the middle of an optimizer step");
    if (e->steps)
        return engine_fail(e, ZDS_ERR_INVALID,
                           "zds_set_values after %lld steps: optimizer states belong to the values "
                           "that they come from; create a new engine",
                           (long long)e->steps);
    e->values_set = false; /* till all of them are there */
    /* Nobody reads shared pages any more. */
    status = peers_agree(e->control, ZDS_OK, "zds_set_values");
    if (!status)
        status =
            e->values_everywhere ? read_everywhere(e, read, user) : read_from_first(e, read, user);
    if (status)
        return status;
    status = zero_start(e->zero);
    e->values_set = !status;
    return status;
}

zds_status zds_set_values(zds_engine *e, zds_read_fn read, void *user)
{
    return engine_why(e, set_values(e, read, user));
}

static zds_status check_copy(zds_engine *e, const char *call, const void *to, const void *from,
                             uint64_t bytes)
{
    zds_status status = engine_usable(e);
    if (!status && bytes && (!to || !from))
        status = engine_fail(e, ZDS_ERR_INVALID, "%s: %s is NULL", call, to ? "from" : "to");
    return status;
}

zds_status zds_copy_in(zds_engine *e, void *to, const void *from, uint64_t bytes)
{
    zds_status status = check_copy(e, "zds_copy_in", to, from, bytes);
    return status || !bytes ? status : zero_copy_in(e->zero, to, from, bytes);
}

zds_status zds_copy_out(zds_engine *e, void *to, const void *from, uint64_t bytes)
{
    zds_status status = check_copy(e, "zds_copy_out", to, from, bytes);
    return status || !bytes ? status : zero_copy_out(e->zero, to, from, bytes);
}

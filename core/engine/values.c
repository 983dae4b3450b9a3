/* An engine's first values, and copies between memories. */
#include "engine/internal.h"

zds_status zds_set_values(zds_engine *e, zds_read_fn read, void *user)
{
    zds_status status = engine_usable(e), read_status = ZDS_OK;
    if (status)
        return status;
    if (!read)
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
        status = zero_read_values(e->zero, read, user, &read_status);
    if (status)
        return status;
    zds_status common = peers_agree(e->control, read_status, "zds_set_values");
    if (common)
        return e->failure.broken
                   ? common
                   : engine_fail(e, common, "initial values could not be read on rank 0 (%s)",
                                 zds_status_name(common));
    status = zero_start(e->zero);
    e->values_set = !status;
    return status;
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

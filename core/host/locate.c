/* Which ranks share this machine, where the launcher does not say. */
#include "host/locate.h"

#include <stdlib.h>

#include "host/error.h"

zds_status locate_ranks(launch *l, bootstrap *b, const char *identity, zds_error *error)
{
    if (l->local_world_size)
        return ZDS_OK;
    char *all = malloc((size_t)l->world_size * LAUNCH_HOST);
    if (!all)
        return error_set(error, ZDS_ERR_MEMORY, "no memory to find %d ranks", (int)l->world_size);
    zds_status status = bootstrap_gather(b, identity, LAUNCH_HOST, all, error);
    if (!status)
        launch_place_locally(l, all, LAUNCH_HOST);
    free(all);
    return status;
}

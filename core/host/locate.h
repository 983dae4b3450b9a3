/* Which ranks share this machine, where the launcher does not say. */
#ifndef CORE_HOST_LOCATE_H
#define CORE_HOST_LOCATE_H

#include "host/bootstrap.h"
#include "host/launch.h"

/* Collective: fills in the local numbers where they are not known, from what each rank says of its
 * machine. `identity`: LAUNCH_HOST bytes of launch_host_identity. */
zds_status locate_ranks(launch *l, bootstrap *b, const char *identity, zds_error *error);

#endif

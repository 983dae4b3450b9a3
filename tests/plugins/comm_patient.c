/* Waits an hour for those that do not come, whatever the timeout. */
#include "borrowed_comm.h"

static zds_status init(const zds_host *host, const void *options, const zds_comm_env *env,
                       void **self)
{
    zds_comm_env patient = *env;
    patient.timeout_ms = 3600 * 1000;
    return borrowed_init(host, options, &patient, self);
}

static void spoil(void)
{
    ops.init = init;
}

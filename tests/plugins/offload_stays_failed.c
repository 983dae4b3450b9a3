/* Never uses a stream again on which something failed. */
#include "device_tier.h"

static zds_status stream_sync(void *self, const zds_stream *stream)
{
    const device *d = self;
    (void)stream;
    return d->failed ? d->host->fail(d->host, d->failed, "something has failed here once") : ZDS_OK;
}

DEVICE_BUT(.stream_sync = stream_sync);

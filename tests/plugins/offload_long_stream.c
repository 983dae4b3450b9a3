/* Writes fields of zds_stream that the host does not have. */
#include "device_tier.h"

static zds_status stream_create(void *self, zds_stream *stream)
{
    memset((char *)stream + stream->struct_size, 0, sizeof(uint64_t));
    return device_stream_create(self, stream);
}

DEVICE_BUT(.stream_create = stream_create);

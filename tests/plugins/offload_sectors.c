/* A memory tier that is right, and moves whole sectors alone. */
#include "heap_tier.h"

enum { SECTOR = 512 };

static zds_status query(void *self, zds_offload_info *info)
{
    zds_status status = heap_query(self, info);
    info->alignment = SECTOR;
    info->request_bytes = 1 << 20;
    info->request_depth = 2;
    return status;
}

static zds_status copy(void *self, const zds_copy *c, zds_event **done)
{
    const heap *h = self;
    const zds_end *end = c->from.block ? &c->from : &c->to;
    if (end->offset % SECTOR || (c->bytes % SECTOR && end->offset + c->bytes != end->block->bytes))
        return h->host->fail(h->host, ZDS_ERR_INVALID, "%llu bytes at %llu are no sectors",
                             (unsigned long long)c->bytes, (unsigned long long)end->offset);
    return heap_copy(self, c, done);
}

HEAP_BUT(.query = query, .copy = copy);

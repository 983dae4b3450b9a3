/* Communication plugins that count: one whose ranks share no pages, and one whose ranks do. */
#include "count.h"

static zds_status counter_add(void *self, const zds_region *region, uint64_t index)
{
    return inner->counter_add(self, region, index);
}

static zds_status counter_wait(void *self, const zds_region *region, uint64_t index, uint64_t value,
                               const char *what, zds_event **done)
{
    return inner->counter_wait(self, region, index, value, what, done);
}

static const zds_comm_ops shared_ops = {
    COUNT_OPS, .flags = ZDS_COMM_DETERMINISTIC | ZDS_COMM_COPIES | ZDS_COMM_NODE_SHARED,
    .counter_add = counter_add, .counter_wait = counter_wait};
static const zds_plugin shared_plugin = {.struct_size = sizeof shared_plugin,
                                         .kind = ZDS_KIND_COMM,
                                         .name = "count_shared",
                                         .version = "1",
                                         .doc = "counts what ranks of shared pages still send",
                                         .ops = &shared_ops};

ZDS_PLUGINS(&counting_plugin, &shared_plugin);

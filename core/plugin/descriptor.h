/* What a plugin says of itself: whether it fits this host, and the facts as JSON. */
#ifndef CORE_PLUGIN_DESCRIPTOR_H
#define CORE_PLUGIN_DESCRIPTOR_H

#include "zds/plugin.h"

struct cJSON;

const char *kind_name(int64_t kind);   /* "optim", ...; NULL for an unknown kind */
int32_t kind_number(const char *name); /* 0 for an unknown one */
const char *space_name(int64_t space); /* "host", ...; NULL */
bool space_is_device(int64_t space);   /* a memory that the host's code cannot point into */
const char *dtype_name(int64_t dtype); /* "f32", ...; NULL */

/* Finds zds_plugin_v1 with `find` (dlsym or its like). Returns why there is none, as a
 * fault; NULL if *plugins was set. */
char *descriptor_symbol(void *(*find)(void *handle, const char *symbol), void *handle,
                        const zds_plugin *const **plugins);

/* Why the plugin cannot be used by this host, as a fault; NULL if it can. */
char *descriptor_fault(const zds_plugin *plugin);

/* An array with an object for each plugin: kind, name, aliases [..], version, doc, abi, reason
 * (null, or why it is refused), options [..] and, of optimizers, spaces, grad_dtypes,
 * master_dtypes, output_dtypes [..], of backends spaces, reduce_dtypes [..], least_ranks,
 * most_ranks, one_node (0 or 1). Strings are never null but for reason. The caller deletes it;
 * NULL without memory. */
struct cJSON *descriptor_facts(const zds_plugin *const *plugins);

#endif

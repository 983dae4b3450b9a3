/* An array of plugins without one. */
#include "zds/plugin.h"

ZDS_EXPORT const zds_plugin *const zds_plugin_v1[] = {0};

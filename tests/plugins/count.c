/* A communication plugin that counts. */
#include "count.h"

ZDS_PLUGINS(&counting_plugin);

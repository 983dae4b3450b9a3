/* Right in every way. */
#include "anchor.h"

ZDS_PLUGINS(&anchor_plugin);

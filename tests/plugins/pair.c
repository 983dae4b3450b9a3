/* Two optimizers and a faulty third in one file. */
#include "sample.h"

static const zds_plugin first = {SAMPLE_PLUGIN, .name = "PairFirst"};
static const zds_plugin second = {SAMPLE_PLUGIN, .name = "PairSecond"};
static const zds_plugin third = {SAMPLE_PLUGIN, .name = "PairThird", .ops = 0};
ZDS_PLUGINS(&first, &second, &third);

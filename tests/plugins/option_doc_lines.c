/* An option's doc of two lines. */
#include "sample.h"

static const zds_option table[] = {{.name = "lr",
                                    .type = ZDS_OPTION_FLOAT,
                                    .offset = offsetof(sample_options, lr),
                                    .max = 1,
                                    .default_value = "1e-3",
                                    .doc = "learning rate\nof all groups"}};
static const zds_plugin plugin = {SAMPLE_PLUGIN, .options = table, .option_count = 1};
ZDS_PLUGINS(&plugin);

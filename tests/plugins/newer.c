/* A plugin of a later minor ABI: every struct is longer than this host knows. */
#include "sample.h"

typedef struct longer_option {
    zds_option option;
    const char *later;
} longer_option;
typedef struct longer_ops {
    zds_optim_ops ops;
    uint64_t later;
} longer_ops;
typedef struct longer_plugin {
    zds_plugin plugin;
    uint64_t later;
} longer_plugin;

static const longer_option table[] = {{{.name = "lr",
                                        .type = ZDS_OPTION_FLOAT,
                                        .offset = offsetof(sample_options, lr),
                                        .default_value = "0.5",
                                        .min = 0,
                                        .max = 1},
                                       "later"},
                                      {{.name = "steps",
                                        .type = ZDS_OPTION_INT,
                                        .offset = offsetof(sample_options, steps),
                                        .default_value = "7",
                                        .min = 1,
                                        .max = 10},
                                       "later"}};
static const longer_ops ops = {{SAMPLE_OPS, .struct_size = sizeof ops}, 1};
static const longer_plugin plugin = {{SAMPLE_PLUGIN, .struct_size = sizeof plugin, .name = "Newer",
                                      .abi_minor = ZDS_ABI_MINOR + 3, .options = &table[0].option,
                                      .option_stride = sizeof table[0], .ops = &ops},
                                     1};
ZDS_PLUGINS(&plugin.plugin);

/* A plugin of a later major ABI alone. */
extern const void *const zds_plugin_v2[];
__attribute__((visibility("default"))) const void *const zds_plugin_v2[] = {0};

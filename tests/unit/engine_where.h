/* Where a test's engines are: on the host or, with ZDS_TEST_DEVICE, on the island, a device without
 * hardware. Every program of the engine's runs on both. */
#ifndef TESTS_UNIT_ENGINE_WHERE_H
#define TESTS_UNIT_ENGINE_WHERE_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zds/zds.h"

static inline bool on_island(void)
{
    return getenv("ZDS_TEST_DEVICE") != NULL;
}

#define ON_HOST_ALONE(why)                                                                         \
    do {                                                                                           \
        if (on_island())                                                                           \
            cr_skip_test(why);                                                                     \
    } while (0)

static inline void where_search(void)
{
    setenv("ZDS_PLUGIN_PATH",
           on_island() ? TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island"
                       : TEST_BINARY_DIR "/lib/zds/plugins",
           1);
}

/* The config with its device, until the next call; at stage 3 nothing is kept whole unless it says
 * what is. */
static inline const char *where_config(const char *json)
{
    enum { ROOM = 2048 };
    static char text[ROOM];
    static const char stage3[] = "\"stage\": 3",
                      keep[] = ", \"stage3_param_persistence_threshold\": 0";
    const char *at = strstr(json, stage3);
    size_t used = at ? (size_t)(at - json) + strlen(stage3) : 0;
    bool adds = at && !strstr(json, "persistence_threshold");
    char kept[ROOM];
    if (snprintf(kept, ROOM, "%.*s%s%s", (int)used, json, adds ? keep : "", json + used) >= ROOM)
        abort();
    const char *zds = strstr(kept, "\"zds\":"), *rest = strchr(zds ? zds : kept, '{') + 1;
    const char *comma = rest[strspn(rest, " ")] == '}' ? "" : ", ";
    bool device = on_island() && !strstr(kept, "\"device\": \"test\"");
    int length = !device ? snprintf(text, ROOM, "%s", kept)
                         : snprintf(text, ROOM,
                                    zds ? "%.*s\"device\": \"test\"%s%s"
                                        : "%.*s\"zds\": {\"device\": \"test\"}%s%s",
                                    (int)(rest - kept), kept, comma, rest);
    if (length < 0 || length >= ROOM)
        abort();
    return text;
}

/* Optimizers that are linked into the test, as the island wraps them. */
static inline const zds_plugin *const *where_plugins(const zds_plugin *const *linked)
{
    enum { MOST = 8 };
    static const zds_plugin *wrapped[MOST + 1];
    if (!on_island())
        return linked;
    void *file = dlopen(TEST_BINARY_DIR "/tests/island/island.so", RTLD_NOW | RTLD_LOCAL);
    const zds_plugin *(*wrap)(const zds_plugin *);
    void *found = file ? dlsym(file, "island_wrap") : NULL;
    if (!found)
        abort();
    memcpy(&wrap, &found, sizeof wrap);
    for (size_t i = 0; linked[i] && !wrapped[i] && i < MOST; i++)
        wrapped[i] = linked[i]->kind == ZDS_KIND_OPTIM ? wrap(linked[i]) : linked[i];
    return wrapped;
}

#endif

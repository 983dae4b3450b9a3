/* For unit tests of tiers: opens plugins by their files, as tiers of a ledger and a pool. */
#ifndef TESTS_TIER_HARNESS_H
#define TESTS_TIER_HARNESS_H

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "host/pool.h"
#include "memory/ledger.h"
#include "memory/tier.h"
#include "plugin/options.h"

#define TIER_FN static __attribute__((unused))

#define CPU     "lib/zds/plugins/offload_cpu"
#define FILES   "tests/plugins/offload_good"    /* in space FILE, on the heap */
#define SECTORS "tests/plugins/offload_sectors" /* likewise, aligned to 512 bytes */
#define DEVICE  "tests/plugins/offload_device"  /* in space TEST, and at once */
#define ISLAND  "tests/island/island"           /* in space TEST, late and out of order */

typedef struct world {
    ledger *memory;
    pool *threads;
    char folder[32];
} world;

TIER_FN world world_make(void)
{
    world w = {.memory = ledger_create(), .folder = "/tmp/zds-tier-XXXXXX"};
    cr_assert_not_null(w.memory);
    cr_assert_not_null(mkdtemp(w.folder));
    cr_assert_eq(pool_create(2, NULL, &w.threads, NULL), ZDS_OK);
    return w;
}

TIER_FN uint64_t counted(const world *w, const char *purpose, const char *tier_name)
{
    zds_memory_row row;
    uint64_t bytes = 0;
    for (size_t i = 0; ledger_row(w->memory, i, &row); i++)
        if ((!purpose || strcmp(row.purpose, purpose) == 0) && strcmp(row.tier, tier_name) == 0)
            bytes += row.bytes;
    return bytes;
}

/* What options_make has made; world_end frees them. */
enum { MOST_OPTIONS = 256 };
static void *options_made[MOST_OPTIONS];
static int options_count;

/* All tiers are closed, and nothing is left of them. */
TIER_FN void world_end(world *w)
{
    zds_memory_row row;
    for (size_t i = 0; ledger_row(w->memory, i, &row); i++)
        cr_expect_eq(row.bytes, 0, "%s in %s", row.purpose, row.tier);
    while (options_count)
        options_destroy(options_made[--options_count]);
    pool_destroy(w->threads);
    ledger_destroy(w->memory);
    cr_expect_eq(rmdir(w->folder), 0);
}

TIER_FN const zds_plugin *plugin_of(const char *file, int kind, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.so", TEST_BINARY_DIR, file);
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(so, "%s", dlerror());
    const zds_plugin *const *list = dlsym(so, "zds_plugin_v1");
    cr_assert_not_null(list, "%s exports no zds_plugin_v1", path);
    for (; *list; list++)
        if ((*list)->kind == (uint32_t)kind && (!name || strcasecmp((*list)->name, name) == 0))
            return *list;
    cr_assert_fail("%s has no plugin %s of kind %d", path, name ? name : "", kind);
    return NULL;
}

/* Options from JSON text, or the defaults. */
TIER_FN void options_refused(void *user, const char *key, const char *message)
{
    (void)user;
    cr_assert_fail("option %s: %s", key, message);
}

TIER_FN const void *options_make(const zds_plugin *plugin, const char *json)
{
    cJSON *values = cJSON_Parse(json ? json : "{}");
    cr_assert_not_null(values, "%s", json);
    void *made = options_create(plugin, values, options_refused, NULL);
    cJSON_Delete(values);
    cr_assert_lt(options_count, MOST_OPTIONS);
    options_made[options_count++] = made;
    return made;
}

/* `json`: the tier's options; NULL: their defaults. */
TIER_FN tier *tier_make(const world *w, const char *name, const char *file, const char *json)
{
    const zds_plugin *plugin = plugin_of(file, ZDS_KIND_OFFLOAD, NULL);
    const zds_offload_env env = {
        .struct_size = sizeof env, .device = strcmp(file, DEVICE) ? -1 : 0, .path = w->folder};
    zds_error error = ZDS_ERROR_INIT;
    tier *t;
    zds_status status = tier_open(name, plugin, options_make(plugin, json), &env, w->memory,
                                  w->threads, &t, &error);
    cr_assert_eq(status, ZDS_OK, "%s", error.text);
    return t;
}

TIER_FN slab slab_make(tier *t, uint64_t bytes)
{
    slab s;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(tier_alloc(t, "test", bytes, &s, &error), ZDS_OK, "%s", error.text);
    return s;
}

#define OK(call)                                                                                   \
    do {                                                                                           \
        zds_error error_of_it = ZDS_ERROR_INIT, *error = &error_of_it;                             \
        zds_status status_of_it = (call);                                                          \
        cr_assert_eq(status_of_it, ZDS_OK, "%s: %s", #call,                                        \
                     error_of_it.text ? error_of_it.text : "");                                    \
    } while (0)

/* `call` uses `error`; its text must hold `part`. */
#define REFUSED(call, wanted, part)                                                                \
    do {                                                                                           \
        zds_error error_of_it = ZDS_ERROR_INIT, *error = &error_of_it;                             \
        cr_assert_eq((call), (wanted), "%s", #call);                                               \
        cr_assert(error_of_it.text &&strstr(error_of_it.text, part), "%s: %s", #call,              \
                  error_of_it.text ? error_of_it.text : "no text");                                \
        zds_error_clear(&error_of_it);                                                             \
    } while (0)

#endif

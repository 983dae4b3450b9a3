/* The names and options of optimizer and scheduler, held against the plugins that there are. */
#include "config/plugins.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "plugin/table.h"

char *config_plugin_path(const zds_config *c)
{
    const cJSON *list = value_of(c, "zds.plugin_path")->list, *item;
    char *path = NULL;
    cJSON_ArrayForEach(item, list)
    {
        char *longer = text_format("%s%s%s", path ? path : "", path ? ":" : "", item->valuestring);
        free(path);
        path = longer;
    }
    return path;
}

/* === options in other places === */

typedef struct search {
    const char *name;
    const zds_plugin *plugin; /* out */
    const zds_option *option;
} search;

/* True if `words`, separated by ", ", have this one. */
static bool has_word(const char *words, const char *word)
{
    size_t length = strlen(word);
    for (const char *p = words; p; p = strchr(p, ','), p = p ? p + 1 + strspn(p + 1, " ") : NULL)
        if (strncmp(p, word, length) == 0 && (!p[length] || p[length] == ','))
            return true;
    return false;
}

/* By its own name, or by that of the training argument that fills it. */
static bool search_in(void *user, const zds_plugin *plugin, const char *file)
{
    search *s = user;
    (void)file;
    for (size_t i = 0; !s->option && i < plugin->option_count; i++) {
        const zds_option *option = table_row(plugin, i);
        if (strcmp(option->name, s->name) != 0 &&
            !(option->auto_from && has_word(option->auto_from, s->name)))
            continue;
        s->plugin = plugin;
        s->option = option;
    }
    return !s->option;
}

static char *option_place(const search *s, const char *section, bool named)
{
    if (strcmp(s->option->name, s->name) != 0)
        return text_format("it is a training argument, called %s.%s here", section,
                           s->option->name);
    return text_format("it is an option of %s%s and belongs in %s",
                       named                               ? ""
                       : s->plugin->kind == ZDS_KIND_OPTIM ? "optimizers such as "
                                                           : "schedules such as ",
                       s->plugin->name, section);
}

char *config_option_place(const zds_config *c, registry *plugins, const char *path,
                          const char *name)
{
    static const struct {
        int32_t kind;
        const char *type, *section;
    } kinds[] = {{ZDS_KIND_OPTIM, "optimizer.type", "optimizer.params"},
                 {ZDS_KIND_SCHED, "scheduler.type", "scheduler.params"}};
    for (size_t i = 0; i < 2; i++) {
        const char *type = value_of(c, kinds[i].type)->string, *file;
        size_t length = strlen(kinds[i].section);
        const zds_plugin *plugin;
        search s = {.name = name};
        if ((strncmp(path, kinds[i].section, length) == 0 && path[length] == '.') ||
            strcmp(name, MAX_GRAD_NORM) == 0)
            continue;
        if (!type)
            registry_each(plugins, kinds[i].kind, NULL, search_in, &s, NULL);
        else if (registry_find_of_config(plugins, kinds[i].kind, type, NULL, &plugin, &file,
                                         NULL) == ZDS_OK)
            search_in(&s, plugin, file);
        if (s.option)
            return option_place(&s, kinds[i].section, type);
    }
    return NULL;
}

/* === options in their place === */

typedef struct reporter {
    zds_config *c;
    registry *plugins;
    const char *section; /* "optimizer.params" */
    const zds_plugin *plugin;
} reporter;

static void report(void *user, const char *key, const char *message)
{
    reporter *r = user;
    char path[256];
    snprintf(path, sizeof path, "%s.%.128s", r->section, key);
    const cJSON *node = tree_find(r->c->resolved, path);
    bool known = options_find(r->plugin, key);
    if (strcmp(path, "optimizer.params." MAX_GRAD_NORM) == 0 || (known && tree_is_auto(node)))
        return; /* told by the rules, with what to write instead */
    if (tree_is_auto(node))
        problem_retract(r->c, path); /* no value helps */
    char *place = known || !node ? NULL : stray_place(r->c, r->plugins, path, node);
    if (place)
        problem_add_node(r->c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path, node, true,
                         "is no option of %s; %s", r->plugin->name, place);
    else
        problem_add_node(r->c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path, node, !known, "%s", message);
    free(place);
}

/* DeepSpeed's flag is about optimizers that it does not know; zds's are those of others. */
static void check_untested(zds_config *c, const registry *plugins, const zds_plugin *plugin,
                           const char *file)
{
    const value *allow = value_of(c, "zero_allow_untested_optimizer");
    int64_t stage = value_of(c, "zero_optimization.stage")->integer;
    if (allow->node && !allow->bad && !allow->boolean && stage >= 1 &&
        !registry_is_own(plugins, file))
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, "zero_allow_untested_optimizer",
                    "%s: false, but %s does not come with zds (%s), and the stage is %d; write "
                    "true, or delete the key",
                    zds_config_combination(c), plugin->name, file, (int)stage);
}

typedef struct group_reporter {
    zds_config *c;
    const cJSON *group;
    size_t number;
    const zds_plugin *plugin;
} group_reporter;

/* What the table of keys has told already is not told again. */
static void report_group(void *user, const char *key, const char *message)
{
    const group_reporter *r = user;
    char path[256];
    snprintf(path, sizeof path, "zds.param_groups.*.%.128s", key);
    int row = field_find_path(&r->c->index, path);
    value scratch;
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(r->group, key);
    snprintf(path, sizeof path, "zds.param_groups.%zu.%.128s", r->number, key);
    if (row >= 0 && value_read(field_at((size_t)row), node, &scratch) == NULL)
        problem_add_node(r->c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, path, node,
                         !options_find(r->plugin, key), "%s", message);
}

static void check_groups(zds_config *c, const zds_plugin *optim)
{
    const cJSON *group;
    size_t i = 0;
    cJSON_ArrayForEach(group, value_of(c, "zds.param_groups")->list)
    {
        group_reporter r = {c, group, i++, optim};
        if (cJSON_IsObject(group))
            options_group(optim, group, NULL, report_group, &r);
    }
}

static void check_one(zds_config *c, registry *plugins, int32_t kind, const char *type,
                      const char *section)
{
    const char *name = value_of(c, type)->string, *file;
    const zds_plugin *plugin = NULL;
    zds_error error = ZDS_ERROR_INIT;
    if (!name)
        return;
    zds_status status = registry_find_of_config(plugins, kind, name, NULL, &plugin, &file, &error);
    if (status == ZDS_ERR_MEMORY)
        c->found.failed = true;
    else if (status)
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, type, "%s",
                    error.text ? error.text : "there is no such plugin");
    else if (!value_of(c, section)->bad &&
             options_check(plugin, value_of(c, section)->node, report,
                           &(reporter){c, plugins, section, plugin}) > 0 &&
             !value_of(c, section)->node && kind == ZDS_KIND_SCHED)
        problem_retract(c, "scheduler"); /* it has no params: what is missing is told */
    if (plugin && kind == ZDS_KIND_OPTIM) {
        check_untested(c, plugins, plugin, file);
        check_groups(c, plugin);
    }
    zds_error_clear(&error);
}

void config_check_plugins(zds_config *c, bool trusts)
{
    registry *plugins = NULL;
    zds_error error = ZDS_ERROR_INIT;
    char *path = config_plugin_path(c);
    zds_status status = registry_create(path, NULL, trusts, &plugins, &error);
    if (status == ZDS_ERR_MEMORY) {
        c->found.failed = true;
    } else if (status) {
        problem_add(c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ZDS, "zds.plugin_path", "%s",
                    error.text ? error.text : "plugins cannot be searched");
    } else {
        check_one(c, plugins, ZDS_KIND_OPTIM, "optimizer.type", "optimizer.params");
        check_one(c, plugins, ZDS_KIND_SCHED, "scheduler.type", "scheduler.params");
    }
    strays_report(c, plugins);
    registry_destroy(plugins);
    zds_error_clear(&error);
    free(path);
}

/* One plugin looked up by its name or by the path of its file. */
#include "plugin/lookup.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "host/error.h"
#include "host/log.h"
#include "host/nearest.h"
#include "plugin/descriptor.h"

/* What was passed over on the way, for the error. */
typedef struct findings {
    char *refused;  /* files and plugins with their reasons */
    char *unfit;    /* plugins of the name that do not accept the match */
    bool by_name;   /* one of those refused has the name, or its file is called so */
    bool no_memory; /* nothing is known of a file: the search has ended */
} findings;

static const char *shown_path(const plugin_file *file)
{
    return file->path[0] ? file->path : "(linked)";
}

static const char *kind_word(int32_t kind)
{
    return kind ? kind_name(kind) : "";
}

static int32_t number(const cJSON *fact, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(fact, key);
    return cJSON_IsNumber(value) ? value->valueint : 0;
}

/* A backend, for these ranks and this space. */
static bool connects(const cJSON *fact, const registry_match *match)
{
    const char *space = space_name(match->space);
    int32_t most = number(fact, "most_ranks");
    return space && fact_lists(fact, "spaces", space) &&
           match->ranks >= number(fact, "least_ranks") && (!most || match->ranks <= most) &&
           (match->local_ranks == match->ranks || !number(fact, "one_node"));
}

bool lookup_accepts(const cJSON *fact, const registry_match *match)
{
    if (match && strcmp(fact_text(fact, "kind"), kind_name(ZDS_KIND_COMM)) == 0)
        return connects(fact, match);
    if (!match || strcmp(fact_text(fact, "kind"), kind_name(ZDS_KIND_OPTIM)) != 0)
        return true;
    const char *space = space_name(match->space), *grad = dtype_name(match->grad_dtype);
    const char *master = dtype_name(match->master_dtype), *out = dtype_name(match->output_dtype);
    return space && grad && master && out && fact_lists(fact, "spaces", space) &&
           fact_lists(fact, "grad_dtypes", grad) && fact_lists(fact, "master_dtypes", master) &&
           fact_lists(fact, "output_dtypes", out);
}

static char *join(const cJSON *fact, const char *key)
{
    char *list = NULL;
    const cJSON *item, *array = cJSON_GetObjectItemCaseSensitive(fact, key);
    cJSON_ArrayForEach(item, array)
        text_append(&list, "|", "%s", cJSON_IsString(item) ? item->valuestring : "?");
    return list;
}

static void note_unfit(findings *found, const plugin_file *file, const cJSON *fact)
{
    char *spaces = join(fact, "spaces"), *grad = join(fact, "grad_dtypes");
    char *master = join(fact, "master_dtypes"), *out = join(fact, "output_dtypes");
    text_append(&found->unfit, "; ",
                "%s in %s computes on %s, with gradients in %s, master weights in %s, "
                "output in %s",
                fact_text(fact, "name"), shown_path(file), spaces, grad, master, out);
    free(spaces);
    free(grad);
    free(master);
    free(out);
}

static void note_refused_file(findings *found, const lookup *look, const char *name,
                              const plugin_file *file)
{
    text_append(&found->refused, "; ", "%s: %s", shown_path(file), file->reason);
    found->by_name = found->by_name || file_is_likely(file, look->kind, name);
}

/* True if the file has the plugin; look->file and index are set. */
static bool try_file(lookup *look, const char *name, plugin_file *file, findings *found)
{
    file_open(look->files, file, false);
    int count = file->facts ? cJSON_GetArraySize(file->facts) : 0;
    for (int i = 0; i < count && !file->reason; i++) {
        const cJSON *fact = cJSON_GetArrayItem(file->facts, i);
        bool nameless = fact_reason(fact) && !*fact_text(fact, "name");
        if (!nameless && !fact_is(fact, look->kind, name))
            continue;
        if (!fact_reason(fact) && !lookup_accepts(fact, look->match)) {
            note_unfit(found, file, fact);
            continue;
        }
        if (!fact_reason(fact) && look->load) {
            file_load(file); /* makes new facts */
            fact = cJSON_GetArrayItem(file->facts, i);
            if (file->reason)
                break;
            if (!fact || !fact_is(fact, look->kind, name)) {
                text_append(&found->refused, "; ",
                            "%s: holds other plugins in this process than in the "
                            "child that tried it",
                            shown_path(file));
                found->by_name = true;
                break;
            }
        }
        if (!fact_reason(fact)) {
            look->file = file;
            look->index = (size_t)i;
            return true;
        }
        text_append(&found->refused, "; ", "%s: %s", shown_path(file), fact_reason(fact));
        found->by_name = found->by_name || !nameless || file_is_likely(file, look->kind, name);
    }
    found->no_memory = file->no_memory;
    if (file->reason)
        note_refused_file(found, look, name, file);
    return false;
}

/* Where the run wanted something else than what the plugins of that name do. */
static zds_status unfit_error(const lookup *look, const char *name, const char *unfit,
                              zds_error *error)
{
    const registry_match *match = look->match;
    const char *space = space_name(match->space), *grad = dtype_name(match->grad_dtype);
    const char *master = dtype_name(match->master_dtype), *out = dtype_name(match->output_dtype);
    return error_set(error, ZDS_ERR_UNSUPPORTED,
                     "optimizer \"%s\" is there, but not for this run, which computes on %s, with "
                     "gradients in %s, master weights in %s, output in %s: %s",
                     name, space ? space : "an unknown space", grad ? grad : "an unknown type",
                     master ? master : "an unknown type", out ? out : "an unknown type", unfit);
}

static bool is_listed(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *p = list; p && (p = strstr(p, name)) != NULL; p += length)
        if ((p == list || p[-1] == ' ') && strchr(", ", p[length]))
            return true;
    return false;
}

/* Names of usable plugins: those near `name`, or all. */
static char *known_names(const lookup *look, const char *name, bool near_only)
{
    char *list = NULL;
    for (size_t i = 0; i < look->files->count; i++) {
        const cJSON *fact, *facts = look->files->file[i]->facts;
        size_t index = 0;
        cJSON_ArrayForEach(fact, facts)
        {
            const char *by, *known = fact_text(fact, "name");
            if (!fact_reason(fact) && fact_is(fact, look->kind, known) &&
                (!near_only || name_is_near(name, known)) && !is_listed(list, known) &&
                !files_shadowed(look->files, look->files->file[i], index, &by))
                text_append(&list, near_only ? " or " : ", ", "%s", known);
            index++;
        }
    }
    return list;
}

static char *searched_folders(const plugin_files *files)
{
    char *list = NULL;
    for (size_t i = 0; i < files->folder_count; i++)
        text_append(&list, ", ", "%s", files->folder[i]);
    return list;
}

/* The first usable plugin of look->kind and the name, in the order of the search; false without one
 * or without memory. */
static bool search(lookup *look, const char *name, findings *found, plugin_file ***order)
{
    *order = files_order(look->files, look->kind, name);
    for (size_t i = 0; *order && (*order)[i] && !look->file && !found->no_memory; i++)
        if (file_may_hold((*order)[i], look->kind))
            try_file(look, name, (*order)[i], found);
    return look->file != NULL;
}

/* The plugin's own name where there is one of that kind and name. */
static const char *name_known(const lookup *look, int32_t kind, const char *name)
{
    lookup other = {.files = look->files, .kind = kind, .name = name};
    findings found = {0};
    plugin_file **order;
    bool known = search(&other, name, &found, &order);
    free(order);
    free(found.refused);
    free(found.unfit);
    return known ? fact_text(cJSON_GetArrayItem(other.file->facts, (int)other.index), "name")
                 : NULL;
}

/* A name that says how something is computed, as torch, transformers and bitsandbytes have them
 * ("adamw_torch_fused", "paged_adamw_8bit"), is about what comes first. */
static const char *name_meant(const lookup *look)
{
    const char *name = look->name, *meant = NULL;
    char base[64];
    if (strncasecmp(name, "paged_", 6) == 0)
        name += 6;
    size_t all = strlen(name), length = strcspn(name, "_");
    if (!length || length == all || length > sizeof base - sizeof "8bit")
        return NULL;
    if (all > 4 && strcasecmp(name + all - 4, "8bit") == 0) {
        snprintf(base, sizeof base, "%.*s8bit", (int)length, name);
        meant = name_known(look, look->kind, base);
    }
    snprintf(base, sizeof base, "%.*s", (int)length, name);
    return meant ? meant : name_known(look, look->kind, base);
}

/* What else the name stands for, and where it would be written; NULL. */
static const char *named_instead(const lookup *look)
{
    static const struct {
        int32_t kind;
        const char *text;
    } kinds[] = {{ZDS_KIND_OPTIM, "an optimizer (optimizer.type of a config)"},
                 {ZDS_KIND_SCHED, "a schedule (scheduler.type of a config)"},
                 {ZDS_KIND_OFFLOAD, "a memory tier (offload_optimizer.device of a config)"},
                 {ZDS_KIND_COMM, "a way for ranks to communicate (zds.comm of a config)"}};
    for (size_t i = 0; look->kind && i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].kind != look->kind && name_known(look, kinds[i].kind, look->name))
            return kinds[i].text;
    return NULL;
}

static zds_status name_error(const lookup *look, const findings *found, zds_error *error)
{
    if (found->unfit)
        return unfit_error(look, look->name, found->unfit, error);
    if (found->by_name)
        return error_set(error, ZDS_ERR_PLUGIN, "%s%splugin \"%s\" was refused: %s",
                         kind_word(look->kind), look->kind ? " " : "", look->name, found->refused);
    const char *other = named_instead(look);
    if (other)
        return error_set(error, ZDS_ERR_NOT_FOUND, "there is no %s plugin \"%s\"; that names %s",
                         kind_word(look->kind), look->name, other);
    const char *meant = name_meant(look);
    char *near = meant ? strdup(meant) : known_names(look, look->name, true),
         *all = known_names(look, look->name, false);
    char *folders = searched_folders(look->files);
    error_set(error, ZDS_ERR_NOT_FOUND, "there is no %s%splugin \"%s\"; %s%s (searched: %s)%s%s",
              kind_word(look->kind), look->kind ? " " : "", look->name,
              near  ? "did you mean "
              : all ? "there are "
                    : "there are none at all",
              near  ? near
              : all ? all
                    : "",
              folders ? folders : "no folder; set ZDS_PLUGIN_PATH",
              found->refused ? "; refused: " : "", found->refused ? found->refused : "");
    free(near);
    free(all);
    free(folders);
    return ZDS_ERR_NOT_FOUND;
}

/* Tells once of files that could have come first but were refused. */
static void warn_of_refused(plugin_file **order, const plugin_file *end, int32_t kind)
{
    for (; *order && *order != end; order++)
        if ((*order)->reason && !(*order)->warned && file_may_hold(*order, kind)) {
            (*order)->warned = true;
            log_line(ZDS_LOG_WARNING, -1, NULL, "plugin refused: %s: %s", shown_path(*order),
                     (*order)->reason);
        }
}

static zds_status by_name(lookup *look, zds_error *error)
{
    findings found = {0};
    plugin_file **order;
    zds_status status = ZDS_OK;
    if (search(look, look->name, &found, &order))
        warn_of_refused(order, look->file, look->kind);
    else if (order && !found.no_memory)
        status = name_error(look, &found, error);
    else
        status = error_set(error, ZDS_ERR_MEMORY, "there is no memory to look up plugin \"%s\"",
                           look->name);
    free(order);
    free(found.refused);
    free(found.unfit);
    return status;
}

static bool is_path(const char *name)
{
    size_t length = strlen(name);
    return strchr(name, '/') || strstr(name, ".so:") ||
           (length > 3 && strcmp(name + length - 3, ".so") == 0);
}

/* The one name among the plugins of the kind in the file. NULL: there are several names, or none;
 * `all` lists what there is. */
static const char *only_name(const lookup *look, const plugin_file *file, char **all, size_t *names)
{
    const char *name = NULL;
    const cJSON *fact;
    *names = 0;
    cJSON_ArrayForEach(fact, file->facts)
    {
        const char *own = fact_text(fact, "name");
        text_append(all, ", ", "%s %s", fact_text(fact, "kind"), own);
        if ((look->kind && kind_number(fact_text(fact, "kind")) != look->kind) ||
            (name && strcasecmp(own, name) == 0))
            continue;
        name = own;
        ++*names;
    }
    return *names == 1 ? name : NULL;
}

static zds_status in_file(lookup *look, plugin_file *file, const char *member, zds_error *error)
{
    file_open(look->files, file, false);
    if (file->no_memory)
        return error_set(error, ZDS_ERR_MEMORY, "there is no memory to open %s", file->path);
    if (file->reason)
        return error_set(error, ZDS_ERR_PLUGIN, "plugin %s was refused: %s", file->path,
                         file->reason);
    findings found = {0};
    char *all = NULL, *name;
    size_t names;
    const char *only = only_name(look, file, &all, &names);
    zds_status status = ZDS_OK;
    name = strdup(member ? member : only ? only : ""); /* loading makes new facts */
    if (!name) {
        status = error_set(error, ZDS_ERR_MEMORY, "there is no memory to open %s", file->path);
    } else if (!member && names > 1) {
        status = error_set(error, ZDS_ERR_INVALID,
                           "%s holds several plugins (%s); write %s:NAME to choose one", file->path,
                           all, file->path);
    } else if (!try_file(look, name, file, &found)) {
        if (found.no_memory)
            status = error_set(error, ZDS_ERR_MEMORY, "there is no memory to open %s", file->path);
        else if (found.unfit)
            status = unfit_error(look, look->name, found.unfit, error);
        else if (found.refused)
            status = error_set(error, ZDS_ERR_PLUGIN, "the plugin was refused: %s", found.refused);
        else
            status = error_set(error, ZDS_ERR_NOT_FOUND, "%s holds no %s%splugin%s%s; it holds %s",
                               file->path, kind_word(look->kind), look->kind ? " " : "",
                               member ? " " : "", member ? member : "", all ? all : "none");
    }
    free(name);
    free(all);
    free(found.refused);
    free(found.unfit);
    return status;
}

static zds_status by_path(lookup *look, zds_error *error)
{
    const char *colon = strrchr(look->name, ':');
    bool whole = !colon || access(look->name, F_OK) == 0;
    char *path = whole ? strdup(look->name) : strndup(look->name, (size_t)(colon - look->name));
    zds_status status;
    bool there = path && access(path, F_OK) == 0,
         refused = there && look->wary && !files_searched(look->files, path);
    plugin_file *file = there && !refused ? files_named(look->files, path) : NULL;
    if (refused)
        status =
            error_set(error, ZDS_ERR_PLUGIN,
                      "%s is in none of the folders that are searched; " LOOKUP_NOT_TRUSTED, path);
    else if (file)
        status = in_file(look, file, whole ? NULL : colon + 1, error);
    else if (!path || there)
        status = error_set(error, ZDS_ERR_MEMORY, "there is no memory to open %s", look->name);
    else
        status = error_set(error, ZDS_ERR_NOT_FOUND, "there is no plugin file %s", path);
    free(path);
    return status;
}

zds_status lookup_run(lookup *look, zds_error *error)
{
    look->file = NULL;
    return is_path(look->name) ? by_path(look, error) : by_name(look, error);
}

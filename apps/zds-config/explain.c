/* zds-config explain: what a key does, its default, who fills "auto", where it was set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/fail.h"
#include "common/output.h"

/* True if `path` is the key, part by part: '*' is any name, and the last part may be an alias. */
static bool is_key(const zds_config_key *key, const char *path)
{
    const char *p = key->path;
    for (;;) {
        size_t n = strcspn(p, "."), m = strcspn(path, ".");
        bool last = !p[n] && !path[m];
        bool same = (n == m && strncmp(p, path, n) == 0) || (n == 1 && *p == '*') ||
                    (last && m && strlen(key->aliases) == m && strncmp(key->aliases, path, m) == 0);
        if (!same || !p[n] != !path[m])
            return false;
        if (last)
            return true;
        p += n + 1;
        path += m + 1;
    }
}

typedef struct spelling {
    char path[256]; /* out: with the sections' own names in place of aliases */
    bool found;
} spelling;

static bool take_own_name(void *user, const zds_config_key *key)
{
    spelling *s = user;
    s->found = is_key(key, s->path);
    if (s->found && !strchr(key->path, '*'))
        snprintf(s->path, sizeof s->path, "%s", key->path);
    return !s->found;
}

/* "tensor_parallel.tensor_parallel.tp_size" is tensor_parallel.tp.tp_size. */
static void spell_out(const char *path, spelling *s)
{
    *s = (spelling){0};
    for (const char *part = path; *part; part += strcspn(part, "."), part += *part == '.') {
        size_t used = strlen(s->path), length = strcspn(part, ".");
        snprintf(s->path + used, sizeof s->path - used, "%s%.*s", used ? "." : "", (int)length,
                 part);
        if (part[length])
            zds_config_keys(take_own_name, s);
    }
}

/* === facts === */

/* What is known of one key, or of one option of a plugin, as an object. */
static cJSON *key_facts(const zds_config_key *key)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "path", key->path);
    cJSON_AddStringToObject(row, "doc", key->doc);
    cJSON_AddStringToObject(row, "type", key->expects);
    if (key->fallback)
        cJSON_AddItemToObject(row, "default", cJSON_CreateRaw(key->fallback));
    if (key->auto_from)
        cJSON_AddStringToObject(row, "auto", key->auto_from);
    if (*key->aliases)
        cJSON_AddStringToObject(row, "also", key->aliases);
    if (key->successor)
        cJSON_AddStringToObject(row, "use", key->successor);
    cJSON_AddStringToObject(row, "in_zds", key->support);
    if (key->planned)
        cJSON_AddStringToObject(row, "not_yet", key->planned);
    if (key->reason)
        cJSON_AddStringToObject(row, "reason", key->reason);
    return row;
}

static cJSON *option_facts(const char *path, const char *plugin, const cJSON *option)
{
    static const char *const names[][2] = {
        {"doc", "doc"}, {"type", "type"}, {"choices", "choices"}, {"auto_from", "auto"}};
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "path", path);
    cJSON_AddStringToObject(row, "plugin", plugin);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const cJSON *fact = cJSON_GetObjectItem(option, names[i][0]);
        if (cJSON_IsString(fact))
            cJSON_AddStringToObject(row, names[i][1], fact->valuestring);
    }
    if (!cJSON_IsTrue(cJSON_GetObjectItem(option, "required")))
        cJSON_AddItemToObject(row, "default",
                              cJSON_Duplicate(cJSON_GetObjectItem(option, "default"), true));
    cJSON_AddStringToObject(
        row, "in_zds",
        cJSON_IsTrue(cJSON_GetObjectItem(option, "no_effect")) ? "without effect" : "implemented");
    return row;
}

static void print_short(const cJSON *row, int width, const char *lead)
{
    printf("%s%-*s %s\n", lead, width, cJSON_GetObjectItem(row, "path")->valuestring,
           cJSON_GetObjectItem(row, "doc")->valuestring);
}

/* Sections whose keys are options of plugins. */
static bool is_params(const char *path)
{
    return strcmp(path, "optimizer.params") == 0 || strcmp(path, "scheduler.params") == 0;
}

static void print_facts(const cJSON *row)
{
    static const struct {
        const char *name, *shown, *missing; /* missing NULL: then there is no line */
    } lines[] = {{"type", "type", NULL},       {"default", "default", "absent"},
                 {"choices", "choices", NULL}, {"auto", "\"auto\"", "nothing fills it"},
                 {"also", "also", NULL},       {"use", "use", NULL},
                 {"in_zds", "in zds", NULL},   {"not_yet", "not yet", NULL},
                 {"reason", "because", NULL}};
    const cJSON *plugin = cJSON_GetObjectItem(row, "plugin");
    printf("%s%s%s\n  %s\n", cJSON_GetObjectItem(row, "path")->valuestring, plugin ? " of " : "",
           plugin ? plugin->valuestring : "", cJSON_GetObjectItem(row, "doc")->valuestring);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const cJSON *fact = cJSON_GetObjectItem(row, lines[i].name);
        char *text = !fact || cJSON_IsString(fact) ? NULL : cJSON_PrintUnformatted(fact);
        const char *shown = text ? text : fact ? fact->valuestring : lines[i].missing;
        if (shown)
            printf("  %s:%*s%s\n", lines[i].shown, (int)(9 - strlen(lines[i].shown)), "", shown);
        cJSON_free(text);
    }
    const cJSON *keys = cJSON_GetObjectItem(row, "keys"), *key;
    if (keys)
        puts("  keys:");
    cJSON_ArrayForEach(key, keys)
    {
        print_short(key, 40, "    ");
    }
    if (is_params(cJSON_GetObjectItem(row, "path")->valuestring))
        puts("  its keys: zds-plugins --info NAME");
}

/* === keys === */

typedef struct question {
    const char *path; /* NULL: all keys */
    cJSON *found;     /* an array */
    cJSON *keys;      /* of the section that was found */
} question;

static cJSON *short_facts(const zds_config_key *key, const char *path)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "path", path);
    cJSON_AddStringToObject(row, "doc", key->doc);
    return row;
}

static bool visit(void *user, const zds_config_key *key)
{
    question *q = user;
    size_t length = q->path ? strlen(q->path) : 0;
    if (!q->path) {
        cJSON_AddItemToArray(q->found, short_facts(key, key->path));
    } else if (!q->found->child && is_key(key, q->path)) {
        cJSON *row = key_facts(key);
        cJSON_AddItemToArray(q->found, row);
        if (strcmp(key->type, "section") != 0)
            return false;
        q->keys = cJSON_CreateArray();
    } else if (q->keys) {
        if (strncmp(key->path, q->path, length) != 0 || key->path[length] != '.')
            return false;
        cJSON_AddItemToArray(q->keys, short_facts(key, key->path + length + 1));
    }
    return true;
}

/* === options of plugins === */

/* Adds the option of a plugin, if it has it. */
static zds_status add_option(cJSON *found, const char *folders, const char *plugin,
                             const char *path, zds_error *error)
{
    const char *name = path + strlen("optimizer.params.");
    char *json = NULL;
    zds_status status = zds_plugin_info(folders, plugin, &json, error);
    cJSON *info = status ? NULL : cJSON_Parse(json);
    const cJSON *option;
    cJSON_ArrayForEach(option, cJSON_GetObjectItem(info, "options"))
    {
        if (strcmp(cJSON_GetObjectItem(option, "name")->valuestring, name) == 0)
            cJSON_AddItemToArray(
                found, option_facts(path, cJSON_GetObjectItem(info, "name")->valuestring, option));
    }
    cJSON_Delete(info);
    free(json);
    return status;
}

/* zds.plugin_path, joined by ':'; the caller frees it. */
static char *folders_of(const zds_config *config)
{
    cJSON *list = config ? take_json(zds_config_node(config, "zds.plugin_path")) : NULL;
    const cJSON *item;
    char *path = NULL;
    cJSON_ArrayForEach(item, list)
    {
        char *longer = NULL;
        if (cJSON_IsString(item) &&
            asprintf(&longer, "%s%s%s", path ? path : "", path ? ":" : "", item->valuestring) < 0)
            longer = NULL;
        if (longer) {
            free(path);
            path = longer;
        }
    }
    cJSON_Delete(list);
    return path;
}

/* An option of the plugin that the config names, or of all plugins that have it. */
static zds_status add_options(cJSON *found, const char *path, const zds_config *config,
                              zds_error *error)
{
    bool optim = strncmp(path, "optimizer", 9) == 0;
    const char *type =
        config ? zds_config_string(config, optim ? "optimizer.type" : "scheduler.type") : NULL;
    char *folders = folders_of(config);
    const char *said = getenv("ZDS_TRUST_PLUGINS");
    zds_status status = ZDS_OK;
    if ((folders || (type && strstr(type, ".so"))) && !(said && strcmp(said, "1") == 0)) {
        status = fail(error, ZDS_ERR_PLUGIN,
                      "the config names plugins by their place (%s), which are opened only with "
                      "--trust_plugins",
                      folders ? folders : type);
    } else if (type) {
        status = add_option(found, folders, type, path, error);
    } else {
        zds_plugin_list *list = NULL;
        zds_plugin_entry entry;
        status = zds_plugin_list_create(folders, &list, error);
        for (size_t i = 0; !status && zds_plugin_list_entry(list, i, &entry); i++)
            if (strcmp(entry.kind, optim ? "optim" : "sched") == 0 &&
                strcmp(entry.status, "ok") == 0)
                status = add_option(found, folders, entry.name, path, error);
        zds_plugin_list_destroy(list);
    }
    if (!status && !found->child)
        status =
            fail(error, ZDS_ERR_NOT_FOUND, "%s has %soption %s; zds-plugins --info NAME lists them",
                 type    ? type
                 : optim ? "no optimizer"
                         : "no schedule",
                 type ? "no " : "the ", path + strlen("optimizer.params."));
    free(folders);
    return status;
}

static bool is_option(const char *path)
{
    return strncmp(path, "optimizer.params.", 17) == 0 ||
           strncmp(path, "scheduler.params.", 17) == 0;
}

/* === the answer === */

zds_status no_key(const char *path, zds_error *error)
{
    const char *near = zds_config_nearest_key(path);
    return near ? fail(error, ZDS_ERR_NOT_FOUND, "there is no key %s; did you mean %s?", path, near)
                : fail(error, ZDS_ERR_NOT_FOUND,
                       "there is no key %s; zds-config explain lists them", path);
}

static zds_status answer(question *q, const zds_config *config, zds_error *error)
{
    zds_config_keys(visit, q);
    if (q->keys && q->keys->child)
        cJSON_AddItemToObject(q->found->child, "keys", q->keys);
    else
        cJSON_Delete(q->keys);
    q->keys = NULL;
    if (q->found->child)
        return ZDS_OK;
    if (is_option(q->path))
        return add_options(q->found, q->path, config, error);
    return no_key(q->path, error);
}

/* Where the file sets it, and what comes out. */
static void add_value(cJSON *out, const char *path, const zds_config *config)
{
    bool set = zds_config_is_set(config, path);
    cJSON *value = take_json(zds_config_value(config, path));
    cJSON_AddItemToObject(out, "set_at",
                          set ? cJSON_CreateString(zds_config_place(config, path))
                              : cJSON_CreateNull());
    if (value)
        cJSON_AddItemToObject(out, "value", value);
    if (strncmp(path, "optimizer", 9) == 0 || strncmp(path, "scheduler", 9) == 0)
        cJSON_AddStringToObject(out, "combination", zds_config_combination(config));
}

static void print_value(const cJSON *out, const char *file)
{
    const cJSON *place = cJSON_GetObjectItem(out, "set_at"),
                *value = cJSON_GetObjectItem(out, "value"),
                *combination = cJSON_GetObjectItem(out, "combination");
    if (cJSON_IsString(place))
        printf("  set at:   %s\n", place->valuestring);
    else
        printf("  not set in %s\n", file);
    char *text = value && !cJSON_IsObject(value) ? cJSON_PrintUnformatted(value) : NULL;
    if (text)
        printf("  value:    %s\n", text);
    cJSON_free(text);
    if (combination)
        printf("  in use:   %s\n", combination->valuestring);
}

/* Takes the answer over. */
static int print_answer(cJSON *found, const char *path, const char *file, const zds_config *config,
                        bool json)
{
    problem_list all = {0};
    if (config)
        problems_of_config(config, &all);
    int status = config ? problems_code(config, &all) : EXIT_DONE;
    cJSON *out = report_json(status, &all);
    const cJSON *row;
    if (config)
        add_value(out, path, config);
    cJSON_ArrayForEach(row, found)
    {
        if (!json && path)
            print_facts(row);
        else if (!json)
            print_short(row, 64, "");
    }
    if (!json && config)
        print_value(out, file);
    int code;
    cJSON_AddItemToObject(out, "keys", found);
    if (json) {
        code = output_json(out);
    } else {
        cJSON_Delete(out);
        code = output_end();
        if (config)
            tell_problems(config);
    }
    problems_release(&all);
    return code == EXIT_DONE ? status : code;
}

int command_explain(int argc, char **argv)
{
    context_args context = {0};
    bool json = false;
    args_option options[CONTEXT_OPTIONS + 1] = {
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"}};
    context_options(&context, options + 1);
    const args_program program = {
        .usage = "explain [--json]\nexplain KEY [FILE [ctx]] [--json]",
        .doc = "Says what a key does, its default and what fills \"auto\"; with FILE also where it "
               "is set and to what, and the\nerrors of FILE, which make the exit status 1. Without "
               "KEY: all keys.",
        .options = options,
        .option_count = CONTEXT_OPTIONS + 1,
        .max_words = 2};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO || (code = context_read(&context)) != ARGS_GO)
        return code;
    for (size_t i = 1; i <= CONTEXT_OPTIONS; i++)
        if (options[i].given && words.count < 2)
            return args_wrong("--%s goes with FILE", options[i].name);
    const char *file = words.count == 2 ? words.word[1] : NULL;
    zds_config *config = file ? load_config(file, &context, json) : NULL;
    if (file && !config)
        return EXIT_FAILED;
    spelling own;
    spell_out(words.count ? words.word[0] : "", &own);
    question q = {.path = words.count ? own.path : NULL, .found = cJSON_CreateArray()};
    zds_error error = ZDS_ERROR_INIT;
    if (answer(&q, config, &error) == ZDS_OK) {
        code = print_answer(q.found, q.path, file, config, json);
    } else {
        code = failed(&error, json);
        cJSON_Delete(q.found);
    }
    zds_error_clear(&error);
    zds_config_destroy(config);
    return code;
}

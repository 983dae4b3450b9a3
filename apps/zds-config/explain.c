/* zds-config explain: what a key does, its default, who fills "auto", where it was set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/output.h"

typedef struct question {
    const char *path;
    bool all, found;
} question;

/* True if `path` is the key, part by part: '*' is any name, and the last part may be an alias. */
static bool is_key(const zds_config_key *key, const char *path)
{
    const char *p = key->path;
    for (;;) {
        size_t n = strcspn(p, "."), m = strcspn(path, ".");
        bool last = !p[n] && !path[m];
        bool same = (n == m && strncmp(p, path, n) == 0) || (n == 1 && *p == '*') ||
                    (last && strlen(key->aliases) == m && strncmp(key->aliases, path, m) == 0);
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

static void print_key(const zds_config_key *key)
{
    printf("%s\n  %s\n  type:     %s\n", key->path, key->doc, key->expects);
    printf("  default:  %s\n", key->fallback ? key->fallback : "absent");
    printf("  \"auto\":   %s\n", key->auto_from ? key->auto_from : "nothing fills it");
    if (*key->aliases)
        printf("  also:     %s\n", key->aliases);
    if (key->successor)
        printf("  use:      %s\n", key->successor);
    printf("  in zds:   %s%s%s%s%s\n", key->support, key->planned ? ", but not " : "",
           key->planned ? key->planned : "", key->reason ? ": " : "",
           key->reason ? key->reason : "");
}

static bool visit(void *user, const zds_config_key *key)
{
    question *q = user;
    size_t length = q->path ? strlen(q->path) : 0;
    if (q->all) {
        printf("%-64s %s\n", key->path, key->doc);
    } else if (!q->found && is_key(key, q->path)) {
        q->found = true;
        print_key(key);
        if (strcmp(key->type, "section") != 0)
            return false;
        puts(!key->open ? "  keys:"
             : strcmp(q->path, "optimizer.params") == 0 || strcmp(q->path, "scheduler.params") == 0
                 ? "  its keys: zds-plugins --info NAME"
                 : "  keys, and others that are not read:");
    } else if (q->found) {
        if (strncmp(key->path, q->path, length) != 0 || key->path[length] != '.')
            return false;
        printf("    %-40s %s\n", key->path + length + 1, key->doc);
    }
    return true;
}

/* === options of plugins === */

static void print_option(const char *plugin, const cJSON *option)
{
    static const struct {
        const char *name, *shown;
    } facts[] = {{"type", "type:"},
                 {"default", "default:"},
                 {"choices", "choices:"},
                 {"auto_from", "\"auto\":"}};
    printf("%s\n  %s\n", plugin, cJSON_GetObjectItem(option, "doc")->valuestring);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        const cJSON *fact = cJSON_GetObjectItem(option, facts[i].name);
        char *text = cJSON_IsString(fact) ? NULL : cJSON_PrintUnformatted(fact);
        if (!cJSON_IsNull(fact) || strcmp(facts[i].name, "default") == 0)
            printf("  %-9s %s\n", facts[i].shown, text ? text : fact->valuestring);
        cJSON_free(text);
    }
    if (cJSON_IsTrue(cJSON_GetObjectItem(option, "no_effect")))
        puts("  has no effect in zds");
}

/* Prints the option at `path` of a plugin, if it has one. */
static bool print_if_there(const char *plugin, const char *path)
{
    const char *name = path + strlen("optimizer.params.");
    char *json = NULL;
    bool found = false;
    cJSON *info = zds_plugin_info(NULL, plugin, &json, NULL) == ZDS_OK ? cJSON_Parse(json) : NULL;
    const cJSON *option;
    cJSON_ArrayForEach(option, cJSON_GetObjectItem(info, "options"))
    {
        if (strcmp(cJSON_GetObjectItem(option, "name")->valuestring, name) != 0)
            continue;
        printf("%s of ", path);
        print_option(cJSON_GetObjectItem(info, "name")->valuestring, option);
        found = true;
    }
    cJSON_Delete(info);
    free(json);
    return found;
}

/* The name of the plugin in the file's section; the caller frees it. NULL: none. */
static char *type_in(const char *file, const char *path)
{
    context_args context = {0};
    char *type = NULL, key[32];
    snprintf(key, sizeof key, "%.9s.type", path);
    zds_config *config =
        context_read(&context) == ARGS_GO ? load_config(file, &context, false) : NULL;
    const char *named = config ? zds_config_string(config, key) : NULL;
    if (named)
        type = strdup(named);
    zds_config_destroy(config);
    return type;
}

/* An option of the plugin that `file` names, or of all plugins that have it. False after telling
 * that there is none. */
static bool explain_option(const char *path, const char *kind, const char *file)
{
    char *type = file ? type_in(file, path) : NULL;
    bool found = false;
    if (type) {
        found = print_if_there(type, path);
    } else {
        zds_plugin_list *list = NULL;
        zds_plugin_entry entry;
        if (zds_plugin_list_create(NULL, &list, NULL) != ZDS_OK)
            return output_error("plugins cannot be listed"), false;
        for (size_t i = 0; zds_plugin_list_entry(list, i, &entry); i++)
            if (strcmp(entry.kind, kind) == 0 && strcmp(entry.status, "ok") == 0)
                found |= print_if_there(entry.name, path);
        zds_plugin_list_destroy(list);
    }
    if (!found)
        output_error("%s has %soption %s; zds-plugins --info NAME lists them",
                     type                         ? type
                     : strcmp(kind, "optim") == 0 ? "no optimizer"
                                                  : "no schedule",
                     type ? "no " : "the ", path + strlen("optimizer.params."));
    free(type);
    return found;
}

/* Where the file sets it, and what comes out. */
static int explain_file(const char *path, const char *file)
{
    context_args context = {0};
    int code = context_read(&context);
    zds_config *config = code == ARGS_GO ? load_config(file, &context, false) : NULL;
    code = EXIT_FAILED;
    if (config) {
        cJSON *value = zds_config_value(config, path);
        char *text = value ? cJSON_PrintUnformatted(value) : NULL;
        if (zds_config_is_set(config, path))
            printf("  set at:   %s\n", zds_config_place(config, path));
        else
            printf("  not set in %s\n", file);
        if (text && !cJSON_IsObject(value))
            printf("  value:    %s\n", text);
        if (strncmp(path, "optimizer", 9) == 0 || strncmp(path, "scheduler", 9) == 0)
            printf("  in use:   %s\n", zds_config_combination(config));
        cJSON_free(text);
        cJSON_Delete(value);
        code = output_end();
        int status = tell_problems(config);
        code = code == EXIT_DONE ? status : code;
    }
    zds_config_destroy(config);
    return code;
}

int command_explain(int argc, char **argv)
{
    const args_program program = {
        .usage = "explain\nexplain KEY [FILE]",
        .doc = "Says what a key does, its default and what fills \"auto\"; with FILE also where it "
               "is set and to what, and the errors of FILE, which make the exit status 1.\nWithout "
               "KEY: all "
               "keys.",
        .max_words = 2};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO)
        return code;
    spelling own;
    spell_out(words.count ? words.word[0] : "", &own);
    question q = {.path = own.path, .all = words.count == 0};
    zds_config_keys(visit, &q);
    if (q.all)
        return output_end();
    for (size_t i = 0; i < 2 && !q.found; i++) {
        static const char *const sections[] = {"optimizer.params.", "scheduler.params."};
        if (strncmp(q.path, sections[i], strlen(sections[i])) != 0)
            continue;
        if (!explain_option(q.path, i ? "sched" : "optim", words.count == 2 ? words.word[1] : NULL))
            return EXIT_FAILED;
        q.found = true;
    }
    if (!q.found) {
        const char *near = zds_config_nearest_key(q.path);
        return near ? output_error("there is no key %s; did you mean %s?", q.path, near)
                    : output_error("there is no key %s; zds-config explain lists them", q.path);
    }
    return words.count == 2 ? explain_file(q.path, words.word[1]) : output_end();
}

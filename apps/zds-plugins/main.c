/* zds-plugins: which plugins there are, what options one has, and whether a file is a good one. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "common/args.h"
#include "common/output.h"
#include "new.h"
#include "zds/zds.h"

static const char *const kinds[] = {"optim", "sched", "offload", "comm"};

static bool is_kind(const char *kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i], kind) == 0)
            return true;
    return false;
}

/* === --list === */

enum { COLUMNS = 6 };

/* A file that is refused as a whole may hold any kind. */
static bool is_wanted(const zds_plugin_entry *entry, const char *kind)
{
    return !kind || !*entry->kind || strcmp(entry->kind, kind) == 0;
}

static cJSON *entry_json(const zds_plugin_entry *entry)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "kind", entry->kind);
    cJSON_AddStringToObject(object, "name", entry->name);
    cJSON *aliases = cJSON_AddArrayToObject(object, "aliases");
    for (const char *alias = entry->aliases; *alias;) {
        size_t length = strcspn(alias, ",");
        char *word = strndup(alias, length);
        cJSON_AddItemToArray(aliases, cJSON_CreateString(word ? word : ""));
        free(word);
        alias += length + (alias[length] == ',');
    }
    cJSON_AddStringToObject(object, "version", entry->version);
    cJSON_AddStringToObject(object, "doc", entry->doc);
    cJSON_AddStringToObject(object, "abi", entry->abi);
    cJSON_AddStringToObject(object, "status", entry->status);
    cJSON_AddStringToObject(object, "reason", entry->reason);
    cJSON_AddStringToObject(object, "file", entry->file);
    return object;
}

static void fill_cells(const zds_plugin_entry *entry, const char *cells[COLUMNS])
{
    const char *row[COLUMNS] = {entry->kind, entry->name,   entry->version,
                                entry->abi,  entry->status, entry->file};
    for (size_t c = 0; c < COLUMNS; c++)
        cells[c] = *row[c] ? row[c] : "-";
}

static void print_row(const char *const cells[COLUMNS], const int width[COLUMNS])
{
    for (size_t c = 0; c + 1 < COLUMNS; c++)
        printf("%-*s  ", width[c], cells[c]);
    puts(cells[COLUMNS - 1]);
}

static void print_list(const zds_plugin_list *list, const char *kind)
{
    const char *const head[COLUMNS] = {"KIND", "NAME", "VERSION", "ABI", "STATUS", "FILE"};
    const char *cells[COLUMNS];
    int width[COLUMNS];
    zds_plugin_entry entry;
    for (size_t c = 0; c < COLUMNS; c++)
        width[c] = (int)strlen(head[c]);
    for (size_t i = 0; zds_plugin_list_entry(list, i, &entry); i++) {
        fill_cells(&entry, cells);
        for (size_t c = 0; c < COLUMNS && is_wanted(&entry, kind); c++)
            width[c] = (int)fmax(width[c], (double)strlen(cells[c]));
    }
    print_row(head, width);
    for (size_t i = 0; zds_plugin_list_entry(list, i, &entry); i++) {
        if (!is_wanted(&entry, kind))
            continue;
        fill_cells(&entry, cells);
        print_row(cells, width);
        if (*entry.reason)
            printf("    %s: %s\n", entry.status, entry.reason);
    }
}

static int list_plugins(const char *kind, bool json)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_plugin_list *list;
    if (zds_plugin_list_create(NULL, &list, &error)) {
        output_error("%s", error.text);
        zds_error_clear(&error);
        return EXIT_FAILED;
    }
    int code;
    if (json) {
        cJSON *array = cJSON_CreateArray();
        zds_plugin_entry entry;
        for (size_t i = 0; zds_plugin_list_entry(list, i, &entry); i++)
            if (is_wanted(&entry, kind))
                cJSON_AddItemToArray(array, entry_json(&entry));
        code = output_json(array);
    } else {
        print_list(list, kind);
        code = output_end();
    }
    zds_plugin_list_destroy(list);
    return code;
}

/* === --info === */

static const cJSON *field(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const char *text_of(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(field(object, key));
    return text ? text : "";
}

static void print_words(const char *label, const cJSON *array)
{
    if (!cJSON_GetArraySize(array))
        return;
    printf("%s:", label);
    const cJSON *item;
    cJSON_ArrayForEach(item, array) printf(" %s", item->valuestring);
    puts("");
}

static void print_bound(const char *words, const cJSON *bound)
{
    if (cJSON_IsNumber(bound))
        printf("%s %.10g", words, bound->valuedouble);
}

static void print_option(const cJSON *option)
{
    bool required = cJSON_IsTrue(field(option, "required"));
    char *preset = cJSON_PrintUnformatted(field(option, "default"));
    printf("  %s\n      %s", text_of(option, "name"), text_of(option, "type"));
    if (field(option, "count"))
        printf("[%d]", field(option, "count")->valueint);
    print_bound(cJSON_IsTrue(field(option, "above_min")) ? ", above" : ", at least",
                field(option, "min"));
    print_bound(cJSON_IsTrue(field(option, "below_max")) ? ", below" : ", at most",
                field(option, "max"));
    if (cJSON_IsTrue(field(option, "nullable")))
        printf(", or null");
    if (required)
        printf(", required");
    else
        printf(", default %s", preset ? preset : "?");
    if (*text_of(option, "auto_from"))
        printf(", \"auto\" takes %s", text_of(option, "auto_from"));
    puts("");
    const cJSON *choice, *choices = field(option, "choices");
    if (cJSON_GetArraySize(choices)) {
        printf("      one of");
        cJSON_ArrayForEach(choice, choices) printf(" %s", choice->valuestring);
        puts("");
    }
    if (cJSON_IsTrue(field(option, "no_effect")))
        puts("      accepted, without effect");
    if (*text_of(option, "doc"))
        printf("      %s\n", text_of(option, "doc"));
    cJSON_free(preset);
}

static void print_info(const cJSON *info)
{
    printf("%s %s\n%s\n\nkind: %s\nABI: %s\nfile: %s\n", text_of(info, "name"),
           text_of(info, "version"), text_of(info, "doc"), text_of(info, "kind"),
           text_of(info, "abi"), text_of(info, "file"));
    print_words("aliases", field(info, "aliases"));
    print_words(strcmp(text_of(info, "kind"), "comm") == 0 ? "moves memory of" : "computes on",
                field(info, "spaces"));
    print_words("reduces", field(info, "reduce_dtypes"));
    print_words("gradients in", field(info, "grad_dtypes"));
    print_words("master weights in", field(info, "master_dtypes"));
    print_words("output in", field(info, "output_dtypes"));
    const cJSON *option, *options = field(info, "options");
    puts(cJSON_GetArraySize(options) ? "\noptions:" : "\nno options");
    cJSON_ArrayForEach(option, options) print_option(option);
}

static int show_info(const char *name, bool json)
{
    zds_error error = ZDS_ERROR_INIT;
    char *text;
    if (zds_plugin_info(NULL, name, &text, &error)) {
        output_error("%s", error.text);
        zds_error_clear(&error);
        return EXIT_FAILED;
    }
    if (json) {
        puts(text);
    } else {
        cJSON *info = cJSON_Parse(text);
        print_info(info);
        cJSON_Delete(info);
    }
    free(text);
    return output_end();
}

int main(int argc, char **argv)
{
    bool list = false, json = false;
    const char *kind = NULL, *info = NULL, *check = NULL, *made = NULL;
    args_option options[] = {
        {.name = "list", .type = ARGS_FLAG, .value = &list, .doc = "list all plugins"},
        {.name = "kind",
         .type = ARGS_STRING,
         .value = &kind,
         .meta = "KIND",
         .doc = "with --list: optim, sched, offload or comm"},
        {.name = "info",
         .type = ARGS_STRING,
         .value = &info,
         .meta = "NAME",
         .doc = "options of a plugin: type, default, range, doc"},
        {.name = "check",
         .type = ARGS_STRING,
         .value = &check,
         .meta = "FILE.so",
         .doc = "hold a plugin against what zds/plugin.h asks of it, in child processes"},
        {.name = "new",
         .type = ARGS_STRING,
         .value = &made,
         .meta = "KIND",
         .doc = "write a plugin that works into a new folder: optim, sched or offload"},
        {.name = "json", .type = ARGS_FLAG, .value = &json, .doc = "print JSON"},
    };
    const args_program program = {
        .usage = "--list [--kind KIND] [--json]\n--info NAME [--json]\n--check FILE.so [--json]\n"
                 "--new KIND NAME [DIR]",
        .doc = "Shows the plugins in ZDS_PLUGIN_PATH and in the install's own folder. NAME is a "
               "name, an alias,\nor the path of a .so. A plugin may take 10 s to be opened, and "
               "for each "
               "check, or\nZDS_PLUGIN_TIMEOUT seconds.",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .max_words = 2};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO)
        return code;
    if (list + (info != NULL) + (check != NULL) + (made != NULL) != 1)
        return args_wrong("one of --list, --info, --check and --new is needed");
    if (made && (words.count == 0 || json))
        return args_wrong("--new KIND NAME [DIR]");
    if (made)
        return new_plugin(made, words.word[0], words.count > 1 ? words.word[1] : NULL);
    if (words.count)
        return args_wrong("what is \"%s\"?", words.word[0]);
    if (kind && !list)
        return args_wrong("--kind goes with --list");
    if (kind && !is_kind(kind))
        return args_wrong("--kind is optim, sched, offload or comm, not \"%s\"", kind);
    return list ? list_plugins(kind, json) : info ? show_info(info, json) : check_file(check, json);
}

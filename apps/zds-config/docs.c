/* zds-config docs: the reference page of all keys, docs/config.md. */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "common/output.h"

static const char *const head =
    "# Keys of ds_config\n"
    "\n"
    "Every key that DeepSpeed 0.19.8 reads, and zds's own. This page is made by `zds-config docs`: "
    "do not\nedit it by hand. `zds-config explain KEY` shows one of them.\n"
    "\n"
    "- **default**: the value of a key that is absent, or null.\n"
    "- **auto**: what fills the word `\"auto\"`; where nothing is said, nothing does.\n"
    "- **zds**: *implemented*; *planned*: known, an error when an engine is created with another "
    "value than\n  the default; *without effect*: read and used by nothing, in DeepSpeed too; "
    "*refused*: for PyTorch,\n  Python or inference, other values than the default are errors; "
    "*deprecated*: another key replaces it;\n  *removed*: an error.\n"
    "\n"
    "Files are JSON or Hjson: comments, keys without quotes and trailing commas are allowed.\n"
    "Options of optimizers (`optimizer.params`) and schedules (`scheduler.params`) belong to the "
    "plugins:\n`zds-plugins --info NAME` shows them.\n"
    "\n"
    "With `zds-config schema > ds_config.schema.json` and `\"$schema\": "
    "\"./ds_config.schema.json\"` in a\nds_config an editor completes and checks all keys, the "
    "names of optimizers and schedules, and their options.\n";

static void cell(const char *text)
{
    for (; *text; text++)
        printf(*text == '|' ? "\\|" : *text == '*' ? "\\*" : "%c", *text);
}

/* The list of DeepSpeed's leaf modules is too wide for a table. */
static const char *shown_default(const zds_config_key *key)
{
    if (!key->fallback)
        return "absent";
    return strlen(key->fallback) > 40 ? "[...]" : key->fallback;
}

static bool print_row(void *user, const zds_config_key *key)
{
    char *section = user; /* the top-level key whose table is open; "" for none */
    size_t length = strcspn(key->path, ".");
    bool in_table = *section && strlen(section) == length && !strncmp(section, key->path, length);
    bool is_section = !strcmp(key->type, "section") && !key->path[length];
    if (is_section || (!in_table && strcmp(section, "-") != 0)) {
        if (is_section) {
            printf("\n## %s\n\n", key->path);
            cell(key->doc);
            printf(" (%s%s%s)\n", key->support, key->reason ? ": " : "",
                   key->reason ? key->reason : "");
            snprintf(section, 64, "%.*s", (int)length, key->path);
        } else {
            printf("\n## %s\n", "At the top level");
            strcpy(section, "-");
        }
        printf("\n| key | value | default | auto | zds | what it does |\n"
               "| --- | --- | --- | --- | --- | --- |\n");
        if (is_section)
            return true;
    }
    printf("| `%s` | ", in_table ? key->path + length + 1 : key->path);
    cell(key->expects);
    printf(" | ");
    cell(shown_default(key));
    printf(" | ");
    cell(key->auto_from ? key->auto_from : "");
    printf(" | %s%s%s", key->support, key->planned ? ", but " : "",
           key->planned ? key->planned : "");
    if (key->successor)
        printf(": `%s`", key->successor);
    printf(" | ");
    cell(key->doc);
    if (*key->aliases)
        printf(" Also `%s`.", key->aliases);
    if (key->reason && strcmp(key->support, "implemented") != 0) {
        printf(" *");
        cell(key->reason);
        printf("*");
    }
    printf(" |\n");
    return true;
}

int command_docs(int argc, char **argv)
{
    const args_program program = {
        .usage = "docs",
        .doc = "Prints the reference page of all keys in Markdown (docs/config.md)."};
    char section[64] = "";
    int code = args_parse(&program, argc, argv, NULL);
    if (code != ARGS_GO)
        return code;
    fputs(head, stdout);
    zds_config_keys(print_row, section);
    return output_end();
}

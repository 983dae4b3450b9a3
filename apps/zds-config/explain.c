/* zds-config explain: what a key does, its default, who fills "auto", where it was set. */
#include <stdio.h>
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
        puts(key->open ? "  its keys are not in this table" : "  keys:");
    } else if (q->found) {
        if (strncmp(key->path, q->path, length) != 0 || key->path[length] != '.')
            return false;
        printf("    %-40s %s\n", key->path + length + 1, key->doc);
    }
    return true;
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
    }
    zds_config_destroy(config);
    context_release(&context);
    return code;
}

int command_explain(int argc, char **argv)
{
    const args_program program = {
        .usage = "explain\nexplain KEY [FILE]",
        .doc = "Says what a key does, its default and what fills \"auto\"; with FILE also where it "
               "is set and to what.\nWithout KEY: all keys.",
        .max_words = 2};
    args_words words;
    int code = args_parse(&program, argc, argv, &words);
    if (code != ARGS_GO)
        return code;
    question q = {.path = words.count ? words.word[0] : NULL, .all = words.count == 0};
    zds_config_keys(visit, &q);
    if (q.all)
        return output_end();
    if (!q.found && (strncmp(q.path, "optimizer.params.", 17) == 0 ||
                     strncmp(q.path, "scheduler.params.", 17) == 0)) {
        printf("%s\n  an option of the plugin that %.9s.type names: zds-plugins --info NAME\n",
               q.path, q.path);
        q.found = true;
    }
    if (!q.found) {
        const char *near = zds_config_nearest_key(q.path);
        return near ? output_error("there is no key %s; did you mean %s?", q.path, near)
                    : output_error("there is no key %s; zds-config explain lists them", q.path);
    }
    return words.count == 2 ? explain_file(q.path, words.word[1]) : output_end();
}

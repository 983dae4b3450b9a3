/* zds-plugins --check FILE.so: has zds-plugin-check check the file, so that this program survives
 * whatever the plugin does, and shows the results. */
#include "check.h"

#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/output.h"
#include "host/error.h"
#include "plugin/child.h"
#include "plugin/fault.h"
#include "plugin/place.h"

static const char *text_of(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    return text ? text : "";
}

static void add_result(cJSON *results, const char *plugin, const char *check, const char *status,
                       const char *text)
{
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "plugin", plugin);
    cJSON_AddStringToObject(result, "check", check);
    cJSON_AddStringToObject(result, "status", status);
    cJSON_AddStringToObject(result, "text", text);
    cJSON_AddItemToArray(results, result);
}

/* Adds the helper's lines, each of which is a result. */
static void add_lines(cJSON *results, char *output)
{
    char *rest = output;
    for (char *text = strsep(&rest, "\n"); text; text = strsep(&rest, "\n")) {
        cJSON *line = *text ? cJSON_Parse(text) : NULL;
        if (line)
            cJSON_AddItemToArray(results, line);
    }
}

/* Runs the helper. Returns 0, or the exit code after an error. */
static int run_helper(const char *path, cJSON *results)
{
    char *folder = place_install(dlsym(RTLD_DEFAULT, "zds_version"));
    char *helper = folder ? text_format("%s/zds-plugin-check", folder) : NULL;
    free(folder);
    if (!helper)
        return output_error("zds/zds-plugin-check is not beside libzds.so; install zds whole");
    char *argv[] = {helper, (char *)path, NULL};
    char *output;
    /* The helper sees to it that each check ends in time, and never opens the file itself. */
    char *ended = child_run(argv, INT_MAX, false, &output);
    if (output)
        add_lines(results, output);
    if (ended)
        add_result(results, "", "the helper", "failed", ended);
    fault_free(ended);
    free(output);
    free(helper);
    return EXIT_DONE;
}

static size_t count_status(const cJSON *results, const char *status)
{
    size_t count = 0;
    const cJSON *result;
    cJSON_ArrayForEach(result, results) count += strcmp(text_of(result, "status"), status) == 0;
    return count;
}

static void print_results(const char *path, const cJSON *results)
{
    const cJSON *result;
    cJSON_ArrayForEach(result, results)
    {
        const char *plugin = text_of(result, "plugin"), *text = text_of(result, "text");
        printf("%-8s %s%s%s%s%s\n", text_of(result, "status"), plugin, *plugin ? ": " : "",
               text_of(result, "check"), *text ? ": " : "", text);
    }
    printf("%s: %zu ok, %zu failed, %zu skipped. Whether the plugin computes what it is meant to, "
           "zds-replay shows.\n",
           path, count_status(results, "ok") + count_status(results, "note"),
           count_status(results, "failed"), count_status(results, "skipped"));
}

int check_file(const char *path, bool json)
{
    cJSON *results = cJSON_CreateArray();
    char *real = realpath(path, NULL); /* dlopen would search for a name without a slash */
    int code = EXIT_DONE;
    if (!real) {
        cJSON_Delete(results);
        return output_error("there is no plugin file %s", path);
    }
    char *fault = place_fault(path, false);
    add_result(results, "", "owner and permissions", fault ? "failed" : "ok", fault ? fault : "");
    if (!fault)
        code = run_helper(real, results);
    fault_free(fault);
    free(real);
    if (code) {
        cJSON_Delete(results);
        return code;
    }
    bool failed = count_status(results, "failed") > 0;
    if (json) {
        code = output_json(results);
    } else {
        print_results(path, results);
        cJSON_Delete(results);
        code = output_end();
    }
    return failed ? EXIT_FAILED : code;
}

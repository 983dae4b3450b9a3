/* Opens a plugin's file in a child process, so that one that crashes or hangs harms nobody. */
#include "plugin/probe.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#include "host/error.h"
#include "plugin/child.h"
#include "plugin/fault.h"
#include "plugin/json.h"

cJSON *probe_file(const char *install, const char *path, char **reason)
{
    char *helper = install ? text_format("%s/zds-plugin-probe", install) : NULL;
    if (install && !helper) {
        *reason = fault_no_memory();
        return NULL;
    }
    if (!helper) {
        *reason = fault_format("cannot be tried in a child process, since zds/zds-plugin-probe is "
                               "not beside libzds.so; install zds whole");
        return NULL;
    }
    char *argv[] = {helper, (char *)path, NULL};
    char *output;
    char *ended = child_run(argv, child_limit_ms(), true, &output);
    bool no_memory = fault_is_memory(ended);
    cJSON *told = !ended && output ? json_parse(output, &no_memory) : NULL;
    cJSON *plugins = cJSON_DetachItemFromObjectCaseSensitive(told, "plugins");
    const char *why = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(told, "reason"));
    if (plugins)
        *reason = NULL;
    else if (no_memory)
        *reason = fault_no_memory();
    else if (why)
        *reason = fault_format("%s", why);
    else
        *reason = fault_format("%s while it was opened", ended ? ended : "told nothing");
    cJSON_Delete(told);
    fault_free(ended);
    free(output);
    free(helper);
    return plugins;
}

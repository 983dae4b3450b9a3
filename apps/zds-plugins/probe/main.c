/* zds-plugin-probe FILE: opens a plugin's file and prints its facts as JSON, on behalf of a process
 * that must not be harmed if that crashes or hangs. Not for people: zds-plugins is. */
#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <stdio.h>

#include "plugin/child.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"

/* {"plugins": [..]}, or {"reason": why not}. */
static cJSON *look_into(const char *path)
{
    cJSON *answer = cJSON_CreateObject();
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        cJSON_AddStringToObject(answer, "reason", fault_of_loader(path));
        return answer;
    }
    const zds_plugin *const *plugins;
    char *fault = descriptor_symbol(dlsym, handle, &plugins);
    if (!fault && !*plugins)
        fault = fault_format("its zds_plugin_v1 holds no plugin");
    if (fault)
        cJSON_AddStringToObject(answer, "reason", fault);
    else
        cJSON_AddItemToObject(answer, "plugins", descriptor_facts(plugins));
    fault_free(fault);
    dlclose(handle); /* before the answer is given: a destructor may crash as well */
    return answer;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }
    FILE *out = child_begin();
    if (!out)
        return 1;
    cJSON *answer = look_into(argv[1]);
    char *text = cJSON_PrintUnformatted(answer);
    fputs(text ? text : "{}", out);
    cJSON_free(text);
    cJSON_Delete(answer);
    child_done(out);
}

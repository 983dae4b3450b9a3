/* zds-plugin-probe FILE: opens a plugin's file and prints its facts as JSON, on behalf of a process
 * that must not be harmed if that crashes or hangs. Not for people: zds-plugins is. */
#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
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

/* Keeps the real stdout for the answer: what a plugin prints goes to stderr. */
static FILE *take_stdout(void)
{
    int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (fd < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return NULL;
    return fdopen(fd, "w");
}

int main(int argc, char **argv)
{
    bool check = argc == 3 && strcmp(argv[1], "--check") == 0;
    if (!check && argc != 2) {
        fprintf(stderr, "usage: %s [--check] FILE\n", argv[0]);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    FILE *out = take_stdout();
    if (!out)
        return 1;
    if (check) {
        check_file(argv[2], out);
    } else {
        cJSON *answer = look_into(argv[1]);
        char *text = cJSON_PrintUnformatted(answer);
        fputs(text ? text : "{}", out);
        cJSON_free(text);
        cJSON_Delete(answer);
    }
    fputs(CHILD_DONE, out);
    fflush(out);
    _exit(0); /* the answer is given: nothing of the plugin runs after it */
}

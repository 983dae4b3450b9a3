/* Holds a plugin against what its own descriptor and the header promise: each check in a forked
 * child with a time limit, so that this process, which never opens the file, survives them all. */
#include "check.h"

#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "area.h"
#include "bench.h"
#include "folder.h"
#include "host/error.h"
#include "plugin/child.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "printed.h"
#include "strays.h"
#include "ways.h"

enum { MOST_ANSWER = 1 << 16 };

/* The file under check, as the children see it. */
typedef struct subject {
    const char *path;
    size_t index;       /* of the plugin in the file */
    const check *check; /* NULL: the file as a whole */
} subject;

static void add_result(cJSON *answer, const char *status, const char *text)
{
    cJSON_AddStringToObject(answer, "status", status);
    cJSON_AddStringToObject(answer, "text", text);
}

static const char *text_of(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    return text ? text : "";
}

/* === in the child === */

static void answer_with(int fd, cJSON *answer)
{
    char *text = cJSON_PrintUnformatted(answer);
    if (text)
        dprintf(fd, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(answer);
}

/* Undoes what that does to this thread's way of computing, as the engine does. *note, if asked for:
 * what it does. */
static const zds_plugin *const *open_file(const char *path, void **handle, char **fault,
                                          char **note)
{
    const zds_plugin *const *plugins = NULL;
    const ways usual = ways_now();
    fenv_t computing;
    fegetenv(&computing);
    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (note)
        *note = ways_changed(&usual);
    fesetenv(&computing);
    *fault = *handle ? descriptor_symbol(dlsym, *handle, &plugins)
                     : fault_format("%s", fault_of_loader(path));
    if (!*fault && !*plugins)
        *fault = fault_format("its array of plugins is empty");
    return *fault ? NULL : plugins;
}

/* The file as a whole: {"status", "text", "plugins": [{"name", "kind", "text": its fault or null}]}
 */
static void look_at_file(const subject *s, int fd)
{
    void *handle;
    char *fault, *note;
    const zds_plugin *const *plugins = open_file(s->path, &handle, &fault, &note);
    note = bench_within(note, "when it is loaded");
    cJSON *answer = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(answer, "plugins");
    for (size_t i = 0; plugins && plugins[i]; i++) {
        cJSON *item = cJSON_CreateObject();
        char *wrong = descriptor_fault(plugins[i]);
        cJSON_AddStringToObject(item, "name", wrong ? "" : plugins[i]->name);
        cJSON_AddNumberToObject(item, "kind", wrong ? 0 : plugins[i]->kind);
        if (wrong)
            cJSON_AddStringToObject(item, "text", wrong);
        fault_free(wrong);
        cJSON_AddItemToArray(list, item);
    }
    add_result(answer, fault ? "failed" : note ? "note" : "ok", fault ? fault : note ? note : "");
    fault_free(fault);
    fault_free(note);
    answer_with(fd, answer);
}

/* A destructor may crash as well. */
static void close_file(const subject *s, int fd)
{
    void *handle;
    char *fault;
    open_file(s->path, &handle, &fault, NULL);
    fault_free(fault);
    if (handle)
        dlclose(handle);
    cJSON *answer = cJSON_CreateObject();
    add_result(answer, "ok", "");
    answer_with(fd, answer);
}

static void run_check(const subject *s, int fd)
{
    void *handle;
    char *fault;
    bench b = {0};
    const zds_plugin *const *plugins = open_file(s->path, &handle, &fault, NULL);
    area_catch(fd);
    if (plugins) {
        bench_init(&b, plugins[s->index]);
        fault = s->check->run(&b);
    }
    cJSON *answer = cJSON_CreateObject();
    const char *told = fault ? fault : b.skipped ? b.skipped : b.note ? b.note : "";
    add_result(answer, fault ? "failed" : b.skipped ? "skipped" : b.note ? "note" : "ok", told);
    answer_with(fd, answer);
}

/* === in the parent === */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Reads one line. False if the time was up first. */
static bool read_line(int fd, char *line, int limit_ms)
{
    const int64_t end = now_ms() + limit_ms;
    size_t length = 0;
    bool late = false;
    for (;;) {
        int64_t left = end - now_ms();
        struct pollfd wait = {fd, POLLIN, 0};
        int ready = left > 0 ? poll(&wait, 1, (int)left) : 0;
        late = ready == 0;
        ssize_t got = ready > 0 ? read(fd, line + length, MOST_ANSWER - 1 - length) : -1;
        if (late || got == 0 || (got < 0 && errno != EINTR))
            break;
        length += got > 0 ? (size_t)got : 0;
        if (length && line[length - 1] == '\n')
            break;
        if (length == MOST_ANSWER - 1)
            break;
    }
    line[length] = '\0';
    return !late;
}

/* The answer of a child that died in the middle of something. */
static cJSON *death(const char *how)
{
    cJSON *answer = cJSON_CreateObject();
    char *text = fault_format("%s%s%s", bench_where, *bench_where ? ": " : "", how);
    add_result(answer, "failed", text);
    fault_free(text);
    return answer;
}

/* Runs `work` in a child. Its answer, or one that says how it ended without one. */
static cJSON *in_child(const subject *s, void (*work)(const subject *s, int fd), int limit_ms)
{
    int ends[2];
    static char line[MOST_ANSWER];
    cJSON *answer = NULL;
    pid_t pid = -1;
    *bench_where = '\0';
    folder_make();
    if (pipe2(ends, O_CLOEXEC) == 0) {
        pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            strays_adopt();
            printed_take();
            setpgid(0, 0);
            close(ends[0]);
            work(s, ends[1]);
            _exit(0);
        }
        close(ends[1]);
        if (pid > 0)
            setpgid(pid, pid); /* whoever of the two comes first */
        else
            close(ends[0]);
    }
    if (pid < 0) {
        folder_remove();
        answer = cJSON_CreateObject();
        add_result(answer, "failed", "no process could be made for it");
        return answer;
    }
    const bool in_time = read_line(ends[0], line, limit_ms);
    answer = *line ? cJSON_Parse(line) : NULL;
    char *ended = child_finish(pid, !answer && in_time, limit_ms);
    close(ends[0]);
    strays_end();
    folder_remove();
    printed_show(s->check ? s->check->name : "open");
    if (answer && strcmp(text_of(answer, "status"), "died") == 0) {
        cJSON *told = answer;
        answer = death(text_of(told, "text"));
        cJSON_Delete(told);
    } else if (!answer && !in_time) {
        char *late = fault_format("did not come to an end within %g s", (double)limit_ms / 1000);
        answer = death(late);
        fault_free(late);
    } else if (!answer) {
        answer = death(ended);
    }
    fault_free(ended);
    return answer;
}

/* === the report === */

/* Prints a line; false if it is of a failure. */
static bool say(FILE *out, const char *plugin, const char *name, const char *status,
                const char *text)
{
    cJSON *line = cJSON_CreateObject();
    cJSON_AddStringToObject(line, "plugin", plugin);
    cJSON_AddStringToObject(line, "check", name);
    add_result(line, status, text);
    char *shown = cJSON_PrintUnformatted(line);
    fprintf(out, "%s\n", shown ? shown : "{}");
    fflush(out);
    cJSON_free(shown);
    cJSON_Delete(line);
    return strcmp(status, "failed") != 0;
}

static void check_plugin(subject *s, const char *name, int32_t kind, int limit_ms, FILE *out)
{
    static const check *const tables[] = {[ZDS_KIND_OPTIM] = checks_optim,
                                          [ZDS_KIND_SCHED] = checks_sched,
                                          [ZDS_KIND_OFFLOAD] = checks_offload,
                                          [ZDS_KIND_COMM] = checks_comm};
    const char *stopped = NULL;
    for (const check *c = tables[kind]; c->name; c++) {
        if (stopped) {
            char *why = fault_format("not possible without: %s", stopped);
            say(out, name, c->name, "skipped", why);
            fault_free(why);
            continue;
        }
        s->check = c;
        cJSON *answer = in_child(s, run_check, limit_ms);
        const char *status = text_of(answer, "status");
        bool good = say(out, name, c->name, status, text_of(answer, "text"));
        if (c->gate && (!good || strcmp(status, "skipped") == 0))
            stopped = c->name;
        cJSON_Delete(answer);
    }
}

void check_file(const char *path, FILE *out)
{
    const int limit_ms = child_limit_ms();
    bench_where =
        mmap(NULL, BENCH_WHERE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bench_where == MAP_FAILED) {
        say(out, "", "open", "failed", "there is no memory to check it");
        return;
    }
    strays_adopt();
    printed_open();
    subject s = {.path = path};
    cJSON *answer = in_child(&s, look_at_file, limit_ms);
    bool opened = say(out, "", "open", text_of(answer, "status"), text_of(answer, "text"));
    const cJSON *plugin, *plugins = cJSON_GetObjectItemCaseSensitive(answer, "plugins");
    cJSON_ArrayForEach(plugin, plugins)
    {
        char *label = text_format("plugin %zu of the file", s.index);
        const char *name = text_of(plugin, "name"), *fault = text_of(plugin, "text");
        const char *shown = *name ? name : label ? label : "";
        if (say(out, shown, "descriptor", *fault ? "failed" : "ok", fault))
            check_plugin(&s, shown, cJSON_GetObjectItemCaseSensitive(plugin, "kind")->valueint,
                         limit_ms, out);
        free(label);
        s.index++;
    }
    cJSON_Delete(answer);
    if (opened) {
        answer = in_child(&s, close_file, limit_ms);
        say(out, "", "close", text_of(answer, "status"), text_of(answer, "text"));
        cJSON_Delete(answer);
        char *printed = printed_fault();
        say(out, "", "prints nothing", printed ? "note" : "ok", printed ? printed : "");
        fault_free(printed);
    }
}

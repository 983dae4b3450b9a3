/* The kernel's files: /proc for ancestors, their processors and memory, control groups for limits.
 */
#include "host/proc.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"

enum { PATH_MOST = 4095, ANCESTORS_MOST = 64 };

static FILE *open_at(const char *root, const char *path, const char *name)
{
    char *full = text_format("%s%s%s", root, path, name);
    FILE *f = full ? fopen(full, "re") : NULL;
    free(full);
    return f;
}

/* Whether `name` is one of a list with commas. */
static bool listed(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *p = list; (p = strstr(p, name)) != NULL; p += length)
        if ((p == list || p[-1] == ',') && (!p[length] || p[length] == ','))
            return true;
    return false;
}

/* === control groups === */

typedef struct mount {
    char root[PATH_MOST + 1];  /* the group that is seen at `point` */
    char point[PATH_MOST + 1]; /* where it is mounted */
} mount;

/* The hierarchy of version 1 that has the controller; that of version 2 where it is NULL. */
static bool find_mount(const char *root, const char *controller, mount *out)
{
    FILE *f = open_at(root, "/proc/self/mountinfo", "");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (f && !found && getline(&line, &size, f) > 0) {
        char type[64], options[PATH_MOST + 1];
        const char *rest = strstr(line, " - ");
        found = rest && sscanf(rest, " - %63s %*s %4095s", type, options) == 2 &&
                strcmp(type, controller ? "cgroup" : "cgroup2") == 0 &&
                (!controller || listed(options, controller)) &&
                sscanf(line, "%*s %*s %*s %4095s %4095s", out->root, out->point) == 2;
    }
    free(line);
    if (f)
        fclose(f);
    return found;
}

static double time_in(const char *root, const char *folder)
{
    long long quota, period;
    double limit = INFINITY;
    FILE *f = open_at(root, folder, "/cpu.max");
    if (f) { /* "max 100000" where there is none */
        if (fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0)
            limit = (double)quota / (double)period;
        fclose(f);
        return limit;
    }
    f = open_at(root, folder, "/cpu.cfs_quota_us");
    FILE *g = open_at(root, folder, "/cpu.cfs_period_us");
    if (f && g && fscanf(f, "%lld", &quota) == 1 && fscanf(g, "%lld", &period) == 1 && quota > 0 &&
        period > 0) /* -1 where there is none */
        limit = (double)quota / (double)period;
    if (f)
        fclose(f);
    if (g)
        fclose(g);
    return limit;
}

/* The first number in a file; -1: there is none. */
static double number_in(const char *root, const char *folder, const char *name)
{
    double number;
    FILE *f = open_at(root, folder, name);
    if (!f || fscanf(f, "%lf", &number) != 1)
        number = -1;
    if (f)
        fclose(f);
    return number;
}

/* "key number", among lines; 0: it is not there. */
static double line_in(const char *root, const char *path, const char *name, const char *key)
{
    FILE *f = open_at(root, path, name);
    char *line = NULL;
    size_t size = 0, length = strlen(key);
    double number = 0;
    while (f && getline(&line, &size, f) > 0)
        if (strncmp(line, key, length) == 0 && sscanf(line + length, "%lf", &number) == 1)
            break;
    free(line);
    if (f)
        fclose(f);
    return number;
}

/* What a group may still take, with what it would give up. */
static double memory_in(const char *root, const char *folder)
{
    double limit = number_in(root, folder, "/memory.max"),
           used = number_in(root, folder, "/memory.current"),
           spare = line_in(root, folder, "/memory.stat", "inactive_file ");
    if (limit < 0) {
        limit = number_in(root, folder, "/memory.limit_in_bytes");
        used = number_in(root, folder, "/memory.usage_in_bytes");
        spare = line_in(root, folder, "/memory.stat", "total_inactive_file ");
    }
    return limit < 0 || used < 0 ? INFINITY : fmax(limit - used + spare, 0);
}

typedef double (*limit_in)(const char *root, const char *folder);

/* From the group up to the topmost that is seen: each may limit those below. */
static double limit_of(const char *root, const char *controller, const char *group, limit_in in)
{
    mount m;
    if (!find_mount(root, controller, &m))
        return INFINITY;
    size_t above = strcmp(m.root, "/") == 0 ? 0 : strlen(m.root);
    bool under = strncmp(group, m.root, above) == 0 && group[above] == '/' && !strstr(group, "/..");
    char *folder = text_format("%s%s", m.point, under ? group + above : "");
    double limit = INFINITY;
    while (folder && strlen(folder) >= strlen(m.point)) {
        limit = fmin(limit, in(root, folder));
        char *last = strrchr(folder, '/');
        if (!last)
            break;
        *last = '\0';
    }
    free(folder);
    return limit;
}

/* Of all groups of this process that have the controller. */
static double least_limit(const char *root, const char *controller, limit_in in)
{
    FILE *f = open_at(root, "/proc/self/cgroup", "");
    char *line = NULL;
    size_t size = 0;
    double limit = INFINITY;
    while (f && getline(&line, &size, f) > 0) { /* "4:cpu,cpuacct:/path", "0::/path" */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        controllers++;
        if (!*controllers)
            limit = fmin(limit, limit_of(root, NULL, group, in));
        else if (listed(controllers, controller))
            limit = fmin(limit, limit_of(root, controller, group, in));
    }
    free(line);
    if (f)
        fclose(f);
    return limit;
}

double proc_cpu_limit(const char *root)
{
    return least_limit(root, "cpu", time_in);
}

double proc_memory_left(const char *root)
{
    double kib = line_in(root, "/proc/meminfo", "", "MemAvailable:");
    return fmin(kib > 0 ? kib * 1024 : INFINITY, least_limit(root, "memory", memory_in));
}

/* === ancestors === */

typedef struct process {
    long parent; /* 0: none that can be seen */
    char *cpus;
} process;

/* `who`: "self" or a number. False where it cannot be read. */
static bool read_status(const char *root, const char *who, process *out)
{
    *out = (process){0};
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/status", who);
    FILE *f = open_at(root, path, "");
    char *line = NULL;
    size_t size = 0;
    static const char cpus[] = "Cpus_allowed_list:";
    while (f && getline(&line, &size, f) > 0) {
        sscanf(line, "PPid: %ld", &out->parent);
        if (!out->cpus && strncmp(line, cpus, sizeof cpus - 1) == 0) {
            char *list = line + sizeof cpus - 1;
            list += strspn(list, " \t");
            out->cpus = strndup(list, strcspn(list, "\n"));
        }
    }
    free(line);
    if (f)
        fclose(f);
    return out->cpus != NULL;
}

/* False where it cannot be read, too: a launcher may be another user's, a rank's shell is not. */
static bool was_told(const char *root, const char *who, const char *told)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/environ", who);
    FILE *f = open_at(root, path, "");
    char *entry = NULL;
    size_t size = 0;
    bool found = false;
    while (f && !found && getdelim(&entry, &size, '\0', f) > 0)
        found = strcmp(entry, told) == 0;
    free(entry);
    if (f)
        fclose(f);
    return found;
}

char *proc_launcher_cpus(const char *root, const char *told)
{
    process p;
    char who[32] = "self";
    for (int i = 0; i < ANCESTORS_MOST && read_status(root, who, &p); i++) {
        if (i > 0 && !(told && was_told(root, who, told)))
            return p.cpus;
        free(p.cpus);
        if (p.parent <= 0)
            return NULL;
        snprintf(who, sizeof who, "%ld", p.parent);
    }
    return NULL;
}

/* The kernel's files, as copied from machines of each kind: limits of control groups, and what the
 * launcher of a rank may use. */
#include <criterion/criterion.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/error.h"
#include "host/proc.h"

/* A file of a tree; '|' in its text stands for the byte 0. */
typedef struct file {
    const char *path, *text;
} file;

static char root[] = "/tmp/zds-proc-XXXXXX";

static void write_file(const file *f)
{
    char *path = text_format("%s%s", root, f->path);
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    FILE *out = fopen(path, "we");
    cr_assert(out, "%s", path);
    for (const char *c = f->text; *c; c++)
        fputc(*c == '|' ? 0 : *c, out);
    fclose(out);
    free(path);
}

static int unlink_one(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)s;
    (void)type;
    (void)f;
    return remove(path);
}

static void remove_tree(void)
{
    nftw(root, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void plant(const file *files, size_t n)
{
    strcpy(root, "/tmp/zds-proc-XXXXXX");
    cr_assert(mkdtemp(root));
    for (size_t i = 0; i < n && files[i].path; i++)
        write_file(&files[i]);
}

#define CGROUP  "/proc/self/cgroup"
#define MOUNTS  "/proc/self/mountinfo"
#define MOUNT_2 "35 25 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"

static const struct {
    const char *what;
    double limit;
    file files[10];
} limits[] = {
    {"no control groups",
     INFINITY,
     {{CGROUP, ""}, {MOUNTS, "1 1 0:1 / / rw - ext4 /dev/sda rw\n"}}},
    {"nothing to read", INFINITY, {{"/proc/x", ""}}},
    {"version 2, a container that sees its own group as the topmost",
     1.5,
     {{CGROUP, "0::/\n"}, {MOUNTS, MOUNT_2}, {"/sys/fs/cgroup/cpu.max", "150000 100000\n"}}},
    {"version 2, no limit",
     INFINITY,
     {{CGROUP, "0::/\n"}, {MOUNTS, MOUNT_2}, {"/sys/fs/cgroup/cpu.max", "max 100000\n"}}},
    {"version 2, a batch system: the job is limited, the step is not",
     8,
     {{CGROUP, "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"},
      {MOUNTS, MOUNT_2},
      {"/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/cpu.max", "800000 100000\n"},
      {"/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/cpu.max", "max 100000\n"},
      {"/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/cpu.max",
       "1600000 100000\n"}}},
    {"version 2, another period",
     2.5,
     {{CGROUP, "0::/a\n"}, {MOUNTS, MOUNT_2}, {"/sys/fs/cgroup/a/cpu.max", "50000 20000\n"}}},
    {"version 1, the controller beside another, a container that sees the host's path",
     3,
     {{CGROUP, "11:cpuset:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"},
      {MOUNTS, "30 29 0:26 /docker/abc /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n"
               "31 29 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:11 - cgroup "
               "cgroup rw,cpu,cpuacct\n"},
      {"/sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "100000\n"},
      {"/sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}}},
    {"version 1, the group above is limited",
     2,
     {{CGROUP, "4:cpu:/kubepods/pod1/c1\n"},
      {MOUNTS, "31 29 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"},
      {"/sys/fs/cgroup/cpu/kubepods/pod1/cpu.cfs_quota_us", "200000\n"},
      {"/sys/fs/cgroup/cpu/kubepods/pod1/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpu/kubepods/pod1/c1/cpu.cfs_quota_us", "-1\n"},
      {"/sys/fs/cgroup/cpu/kubepods/pod1/c1/cpu.cfs_period_us", "100000\n"}}},
    {"version 1 and, without controllers, 2; a group outside of what is mounted",
     0.5,
     {{CGROUP, "4:cpu:/../other\n0::/\n"},
      {MOUNTS, "31 29 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
               "32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"},
      {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"},
      {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/other/cpu.cfs_quota_us", "10000\n"},
      {"/sys/fs/cgroup/other/cpu.cfs_period_us", "100000\n"}}},
    {"files that make no sense",
     INFINITY,
     {{CGROUP, "0::/\nrubbish\n\n::\n4:cpu\n"},
      {MOUNTS, "rubbish - \n" MOUNT_2},
      {"/sys/fs/cgroup/cpu.max", "0 0\n"}}},
};

Test(proc, the_least_limit_of_the_control_groups_counts)
{
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        plant(limits[i].files, sizeof limits[i].files / sizeof *limits[i].files);
        double limit = proc_cpu_limit(root);
        cr_expect(limit == limits[i].limit, "%s: %g instead of %g", limits[i].what, limit,
                  limits[i].limit);
        remove_tree();
    }
}

#define MEMINFO "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    1000 kB\n"

static const struct {
    const char *what;
    double left;
    file files[8];
} memories[] = {
    {"nothing to read", INFINITY, {{"/proc/x", ""}}},
    {"no control groups", 1024000, {{"/proc/meminfo", MEMINFO}}},
    {"version 2, its group has less, and would give up some",
     700,
     {{"/proc/meminfo", MEMINFO},
      {CGROUP, "0::/a/b\n"},
      {MOUNTS, MOUNT_2},
      {"/sys/fs/cgroup/a/memory.max", "5000\n"},
      {"/sys/fs/cgroup/a/memory.current", "4500\n"},
      {"/sys/fs/cgroup/a/memory.stat", "anon 9\ninactive_file 200\nactive_file 7\n"},
      {"/sys/fs/cgroup/a/b/memory.max", "max\n"}}},
    {"version 1, over its limit",
     0,
     {{"/proc/meminfo", MEMINFO},
      {CGROUP, "4:memory:/x\n"},
      {MOUNTS, "31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
      {"/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1000\n"},
      {"/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1300\n"},
      {"/sys/fs/cgroup/memory/x/memory.stat", "inactive_file 900\ntotal_inactive_file 100\n"}}},
    {"version 1, no limit",
     1024000,
     {{"/proc/meminfo", MEMINFO},
      {CGROUP, "4:memory:/\n"},
      {MOUNTS, "31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
      {"/sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n"}}},
};

Test(proc, what_is_left_of_memory_is_the_least)
{
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++) {
        plant(memories[i].files, sizeof memories[i].files / sizeof *memories[i].files);
        double left = proc_memory_left(root);
        cr_expect(left == memories[i].left, "%s: %g instead of %g", memories[i].what, left,
                  memories[i].left);
        remove_tree();
    }
    cr_expect_gt(proc_memory_left(""), 0);
}

#define STATUS(parent, cpus)                                                                       \
    "Name:\tx\nPPid:\t" parent "\nCpus_allowed:\tffff\nCpus_allowed_list:\t" cpus "\n"

static const struct {
    const char *what, *told, *cpus;
    file files[8];
} launchers[] = {
    {"the parent launched",
     "RANK=1",
     "0-15",
     {{"/proc/self/status", STATUS("20", "0-3")},
      {"/proc/self/environ", "A=1|RANK=1|"},
      {"/proc/20/status", STATUS("1", "0-15")},
      {"/proc/20/environ", "A=1|WORLD=2|"},
      {"/proc/1/status", STATUS("0", "0-63")}}},
    {"a shell between the launcher and the rank",
     "RANK=1",
     "0-7,16-23",
     {{"/proc/self/status", STATUS("30", "0-3")},
      {"/proc/30/status", STATUS("20", "0-3")},
      {"/proc/30/environ", "RANK=1|A=1|"},
      {"/proc/20/status", STATUS("1", "0-7,16-23")},
      {"/proc/20/environ", "XRANK=1|RANK=12|RANK=|"}}},
    {"a launcher whose environment cannot be read",
     "SLURM_PROCID=0",
     "0-31",
     {{"/proc/self/status", STATUS("30", "0-3")}, {"/proc/30/status", STATUS("1", "0-31")}}},
    {"no variable says the rank",
     NULL,
     "5",
     {{"/proc/self/status", STATUS("30", "0-3")},
      {"/proc/30/status", STATUS("20", "5")},
      {"/proc/30/environ", "RANK=1|"},
      {"/proc/20/status", STATUS("1", "0-7")}}},
    {"the first process of a container", "RANK=1", NULL, {{"/proc/self/status", STATUS("0", "0")}}},
    {"a parent that cannot be seen", "RANK=1", NULL, {{"/proc/self/status", STATUS("9", "0")}}},
    {"no /proc", "RANK=1", NULL, {{"/x", ""}}},
};

Test(proc, the_launcher_is_who_was_not_told_the_rank)
{
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        plant(launchers[i].files, sizeof launchers[i].files / sizeof *launchers[i].files);
        char *cpus = proc_launcher_cpus(root, launchers[i].told);
        bool good = launchers[i].cpus ? cpus && strcmp(cpus, launchers[i].cpus) == 0 : !cpus;
        cr_expect(good, "%s: %s", launchers[i].what, cpus ? cpus : "not known");
        free(cpus);
        remove_tree();
    }
}

/* This program's own ancestors, by the true files. */
Test(proc, this_system_names_a_launcher)
{
    char *cpus = proc_launcher_cpus("", NULL);
    if (access("/proc/self/status", R_OK) != 0 || getppid() == 0)
        cr_skip_test("this process sees no parent");
    cr_expect(cpus && strspn(cpus, "0123456789,-") == strlen(cpus) && *cpus, "%s",
              cpus ? cpus : "not known");
    free(cpus);
    cr_expect_gt(proc_cpu_limit(""), 0);
}

/* What the kernel's files say of processors and memory: which the launcher of this process may use,
 * how much of their time the control groups grant, and how much memory is left. `root` stands
 * before every path: "" but in tests. */
#ifndef CORE_HOST_PROC_H
#define CORE_HOST_PROC_H

/* The least number of processors' worth of time that a control group of this process, or one above
 * it, grants: cpu.max (version 2), cpu.cfs_quota_us over cpu.cfs_period_us (version 1). INFINITY
 * where there is no limit. */
double proc_cpu_limit(const char *root);

/* Bytes that can be taken without swapping, on this machine and in the control groups of this
 * process (memory.max, or memory.limit_in_bytes, less what they use and cannot give up). INFINITY
 * where it cannot be told. */
double proc_memory_left(const char *root);

/* The processors that this process's launcher may use, as a list like "0-3,8", which the caller
 * frees; NULL where it cannot be told. The launcher is the nearest ancestor that was not started
 * with `told` ("RANK=3", or NULL) in its environment, so that a shell or taskset between it and
 * this process is passed over. What it may use, all ranks that it started have unless it bound
 * them. */
char *proc_launcher_cpus(const char *root, const char *told);

#endif

/* The processors that the ranks share, and each rank's part of them. */
#include <stdlib.h>

#include "run.h"

/* Cores and NUMA nodes are all that is asked for: the plugins that look for devices would load the
 * libraries of displays and OpenCL before each start. Who has set them means it. */
static bool load(hwloc_topology_t *topology)
{
    bool ours = !getenv("HWLOC_COMPONENTS") && !getenv("HWLOC_PLUGINS_PATH");
    if (ours) {
        setenv("HWLOC_COMPONENTS", "linux,stop", 1);
        setenv("HWLOC_PLUGINS_PATH", "/dev/null", 1);
    }
    bool opened = hwloc_topology_init(topology) == 0;
    bool good = opened && hwloc_topology_load(*topology) == 0;
    if (ours) { /* not for the ranks' programs */
        unsetenv("HWLOC_COMPONENTS");
        unsetenv("HWLOC_PLUGINS_PATH");
    }
    if (opened && !good)
        hwloc_topology_destroy(*topology);
    return good;
}

bool machine_open(machine *m)
{
    *m = (machine){0};
    if (!load(&m->topology))
        return false;
    hwloc_cpuset_t allowed = hwloc_bitmap_alloc();
    /* Started under taskset or a batch system's mask, only that part is ours. */
    if (allowed && hwloc_get_cpubind(m->topology, allowed, HWLOC_CPUBIND_PROCESS) == 0)
        (void)hwloc_topology_restrict(m->topology, allowed, 0);
    hwloc_bitmap_free(allowed);
    m->cores = hwloc_get_nbobjs_by_type(m->topology, HWLOC_OBJ_CORE);
    if (m->cores < 1) /* some virtual machines show no cores */
        m->cores = hwloc_get_nbobjs_by_type(m->topology, HWLOC_OBJ_PU);
    m->nodes = hwloc_get_nbobjs_by_type(m->topology, HWLOC_OBJ_NUMANODE);
    m->cores = m->cores < 1 ? 1 : m->cores;
    m->nodes = m->nodes < 1 ? 1 : m->nodes;
    return true;
}

void machine_close(machine *m)
{
    hwloc_topology_destroy(m->topology);
}

static hwloc_obj_t core_at(const machine *m, int i)
{
    hwloc_obj_t core = hwloc_get_obj_by_type(m->topology, HWLOC_OBJ_CORE, (unsigned)i);
    return core ? core : hwloc_get_obj_by_type(m->topology, HWLOC_OBJ_PU, (unsigned)i);
}

/* Neighbouring cores to one rank, all cores used; where ranks outnumber cores they take turns. */
static void share_of_cores(const machine *m, int rank, int ranks, hwloc_cpuset_t set)
{
    int first = rank % m->cores, end = first + 1;
    if (ranks <= m->cores) {
        first = (int)((int64_t)rank * m->cores / ranks);
        end = (int)(((int64_t)rank + 1) * m->cores / ranks);
    }
    for (int i = first; i < end; i++) {
        hwloc_obj_t core = core_at(m, i);
        if (core)
            hwloc_bitmap_or(set, set, core->cpuset);
    }
}

bool machine_bind(const machine *m, bind_mode mode, int rank, int ranks)
{
    if (mode == BIND_NONE)
        return true;
    hwloc_cpuset_t set = hwloc_bitmap_alloc();
    if (!set)
        return false;
    if (mode == BIND_CORE) {
        share_of_cores(m, rank, ranks, set);
    } else {
        int node = ranks <= m->nodes ? (int)((int64_t)rank * m->nodes / ranks)
                                     : (int)((int64_t)rank * m->nodes / ranks) % m->nodes;
        hwloc_obj_t at = hwloc_get_obj_by_type(m->topology, HWLOC_OBJ_NUMANODE, (unsigned)node);
        if (at)
            hwloc_bitmap_copy(set, at->cpuset);
    }
    bool good =
        hwloc_bitmap_iszero(set) || hwloc_set_cpubind(m->topology, set, HWLOC_CPUBIND_PROCESS) == 0;
    hwloc_bitmap_free(set);
    return good;
}

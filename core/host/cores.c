/* The choice of processors.
 *
 * A container's cpuset and a batch system's control group are common to all ranks of the node, a
 * binding by the launcher is one rank's; both only look like a set of allowed processors. What
 * tells them apart is the launcher: a rank that may use exactly what its launcher may use was not
 * bound, whatever narrowed both; nor was one that may use all that its control group allows. Where
 * the launcher cannot be seen (another user's under hidepid, the first process of a container) only
 * the second is known, and a rank that has less is held to be bound.
 *
 * A launcher may bind several ranks to one socket or NUMA node. They are more in sum than there are
 * processors, so some must be shared; by which ranks is not known, and each takes its part of the
 * time there without binding single threads. */
#include "host/cores.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "host/error.h"
#include "host/proc.h"

typedef struct list {
    int32_t count;
    hwloc_cpuset_t *sets;
} list;

static void list_free(list *l)
{
    for (int32_t i = 0; i < l->count; i++)
        hwloc_bitmap_free(l->sets[i]);
    free(l->sets);
    *l = (list){0};
}

/* Cores, or else processors, of a set, in the machine's order: neighbours are near. A core of which
 * a part is allowed counts with that part; some virtual machines have processors alone. */
static bool split(hwloc_topology_t topology, hwloc_const_cpuset_t set, hwloc_obj_type_t type,
                  list *out)
{
    if (hwloc_get_nbobjs_by_type(topology, type) < 1)
        type = HWLOC_OBJ_PU;
    int objects = hwloc_get_nbobjs_by_type(topology, type);
    *out = (list){.sets = calloc((size_t)objects + 1, sizeof(hwloc_cpuset_t))};
    for (int i = 0; out->sets && i < objects; i++) {
        hwloc_obj_t object = hwloc_get_obj_by_type(topology, type, (unsigned)i);
        if (!hwloc_bitmap_intersects(object->cpuset, set))
            continue;
        hwloc_cpuset_t part = hwloc_bitmap_alloc();
        if (!part || hwloc_bitmap_and(part, object->cpuset, set) != 0) {
            hwloc_bitmap_free(part);
            list_free(out);
            return false;
        }
        out->sets[out->count++] = part;
    }
    return out->sets != NULL;
}

/* === what belongs to this rank === */

typedef struct home {
    hwloc_cpuset_t set;
    int32_t ranks; /* that run in it */
    bool bound;    /* by the launcher */
    char *why;
} home;

/* How many ranks share a set that the launcher bound this one to: 1 unless all of that size would
 * be more than there is. An uneven division gives some ranks one more than others. */
static int32_t ranks_in(const cores_facts *f, int32_t local_world)
{
    int64_t mine = hwloc_bitmap_weight(f->process);
    int64_t all = hwloc_bitmap_weight(hwloc_topology_get_topology_cpuset(f->topology));
    if (all < 1 || mine <= (all + local_world - 1) / local_world)
        return 1;
    return (int32_t)((2 * mine * local_world + all) / (2 * all));
}

static bool is_bound(const cores_facts *f)
{
    if (hwloc_bitmap_isequal(f->process, hwloc_topology_get_topology_cpuset(f->topology)))
        return false;
    return !f->launcher || !hwloc_bitmap_isequal(f->process, f->launcher);
}

/* The contiguous share of one rank; false where there is not one for each. */
static bool take_share(hwloc_cpuset_t set, const list *all, int32_t rank, int32_t world)
{
    if (all->count < world)
        return false;
    int32_t first = (int32_t)((int64_t)all->count * rank / world), count = all->count / world;
    hwloc_bitmap_zero(set);
    for (int32_t i = first; i < first + count; i++)
        hwloc_bitmap_or(set, set, all->sets[i]);
    return true;
}

static bool share_out(home *h, const cores_facts *f, int32_t rank, int32_t world)
{
    list cores_here, processors = {0};
    if (!split(f->topology, f->process, HWLOC_OBJ_CORE, &cores_here))
        return false;
    bool shared = take_share(h->set, &cores_here, rank, world);
    bool good = shared || split(f->topology, f->process, HWLOC_OBJ_PU, &processors);
    if (good && !shared && !take_share(h->set, &processors, rank, world))
        h->ranks = world;
    list_free(&cores_here);
    list_free(&processors);
    return good;
}

static bool find_home(home *h, const cores_facts *f, int32_t rank, int32_t world)
{
    *h = (home){.set = hwloc_bitmap_dup(f->process), .ranks = 1};
    if (!h->set)
        return false;
    char *all = NULL;
    if (hwloc_bitmap_list_asprintf(&all, f->process) < 0)
        return false;
    bool good = true;
    if (world <= 1) {
        h->why = text_format("for the only rank here");
    } else if (is_bound(f)) {
        h->bound = true;
        h->ranks = ranks_in(f, world);
        h->why = h->ranks > 1 ? text_format("to which the launcher bound about %d of %d ranks here",
                                            h->ranks, world)
                              : text_format("to which the launcher bound this rank");
    } else {
        good = share_out(h, f, rank, world);
        h->why = h->ranks > 1
                     ? text_format("fewer than the %d ranks here", world)
                     : text_format("the share of local rank %d of %d in %s", rank, world, all);
    }
    free(all);
    return good && h->why;
}

/* === threads in it === */

/* The processors of each core in turn, so that threads meet in a core only when all have one. */
static bool deal(hwloc_topology_t topology, const list *cores_here, list *out)
{
    size_t processors = 0;
    for (int32_t i = 0; i < cores_here->count; i++)
        processors += (size_t)hwloc_bitmap_weight(cores_here->sets[i]);
    *out = (list){.sets = calloc(processors + 1, sizeof(hwloc_cpuset_t))};
    for (unsigned k = 0; out->sets && (size_t)out->count < processors; k++)
        for (int32_t i = 0; i < cores_here->count; i++) {
            hwloc_obj_t pu =
                hwloc_get_obj_inside_cpuset_by_type(topology, cores_here->sets[i], HWLOC_OBJ_PU, k);
            if (!pu)
                continue;
            hwloc_cpuset_t set = hwloc_bitmap_dup(pu->cpuset);
            if (!set) {
                list_free(out);
                return false;
            }
            out->sets[out->count++] = set;
        }
    return out->sets != NULL;
}

/* Thread i gets places[i], but that the caller keeps the place where it is bound already; without
 * places all get `anywhere`. */
static bool assign(cores *out, const list *places, hwloc_const_cpuset_t anywhere,
                   hwloc_const_cpuset_t caller)
{
    out->sets = calloc((size_t)out->threads, sizeof *out->sets);
    int32_t kept = 0;
    for (int32_t i = 0; places && i < out->threads; i++)
        if (hwloc_bitmap_isincluded(caller, places->sets[i]))
            kept = i;
    for (int32_t i = 0; out->sets && i < out->threads; i++) {
        int32_t at = i == 0 ? kept : i == kept ? 0 : i;
        out->sets[i] = hwloc_bitmap_dup(places ? places->sets[at] : anywhere);
        if (!out->sets[i])
            return false;
    }
    return out->sets != NULL;
}

static int32_t count_threads(int32_t asked, const cores_facts *f, int32_t cores_here, const home *h,
                             int32_t local_world)
{
    if (asked)
        return asked;
    double count = floor((double)cores_here / h->ranks);
    count = fmin(count, floor(f->limit / local_world));
    return (int32_t)fmin(fmax(count, 1), CORES_MOST);
}

/* Whether somebody who looks at the machine, at what the launcher bound this rank to, or at what
 * was asked for would be surprised. */
static bool surprises(const cores *chosen, int32_t asked, const list *cores_here,
                      int32_t processors, const cores_facts *f, const home *h, int32_t local_world)
{
    if (h->ranks > 1 || !hwloc_bitmap_isequal(f->caller, f->process))
        return true;
    if (asked)
        return asked > processors || asked > f->limit / local_world;
    return chosen->threads < (h->bound ? cores_here->count : f->machine);
}

static bool describe(cores *out, const home *h, const char *binding, const cores_facts *f,
                     const list *cores_here, int32_t local_world)
{
    char *at = NULL, *here = NULL, *caller = NULL, *limit = NULL, *allowed = NULL, *siblings = NULL;
    int32_t may = hwloc_bitmap_weight(f->process), in_home = hwloc_bitmap_weight(h->set);
    if (hwloc_bitmap_list_asprintf(&at, h->set) >= 0 &&
        hwloc_bitmap_list_asprintf(&here, f->caller) >= 0) {
        if (out->threads == cores_here->count && cores_here->count < in_home)
            siblings =
                text_format("; %d cores have %d processors", (int)cores_here->count, (int)in_home);
        if (!h->bound && may < f->machine)
            allowed = text_format("; this process may use %d of the machine's %d processors",
                                  (int)may, (int)f->machine);
        if (!hwloc_bitmap_isequal(f->caller, f->process))
            caller =
                text_format("; the calling thread alone is bound to %s, as by OMP_PROC_BIND", here);
        if (isfinite(f->limit))
            limit = text_format("; its control group grants the time of %.4g to %d rank%s",
                                f->limit, local_world, local_world > 1 ? "s" : "");
        out->why =
            text_format("%d thread%s on processors %s (%s), %s%s%s%s%s", out->threads,
                        out->threads > 1 ? "s" : "", at, h->why, binding, siblings ? siblings : "",
                        allowed ? allowed : "", limit ? limit : "", caller ? caller : "");
    }
    free(at);
    free(here);
    free(caller);
    free(limit);
    free(allowed);
    free(siblings);
    return out->why != NULL;
}

static bool choose(cores *out, int32_t asked, int32_t local_world, const cores_facts *f,
                   const home *h)
{
    list cores_here, dealt = {0};
    if (!split(f->topology, h->set, HWLOC_OBJ_CORE, &cores_here) ||
        !deal(f->topology, &cores_here, &dealt)) {
        list_free(&cores_here);
        return false;
    }
    out->threads = count_threads(asked, f, cores_here.count, h, local_world);
    bool crowded = out->threads > dealt.count;
    /* Whoever has a limit instead of a cpuset has neighbours that may run on any processor; bound
     * to the first ones, all of them would meet there. */
    bool limited = f->limit < hwloc_bitmap_weight(f->process);
    const list *places = NULL;
    if (!crowded && h->ranks == 1 && !limited)
        places = out->threads <= cores_here.count ? &cores_here : &dealt;
    const char *binding = "not bound to these";
    if (out->threads == 1)
        binding = "which is the calling one, left as it is";
    else if (crowded)
        binding = "not bound to these, which are fewer";
    else if (places)
        binding = places == &dealt ? "all but the calling one bound to a processor each"
                                   : "all but the calling one bound to a core each";
    out->surprising = surprises(out, asked, &cores_here, dealt.count, f, h, local_world);
    bool good = assign(out, places, f->process, f->caller) &&
                describe(out, h, binding, f, &cores_here, local_world);
    list_free(&cores_here);
    list_free(&dealt);
    return good;
}

bool cores_choose(cores *out, int32_t threads, int32_t local_rank, int32_t local_world,
                  const cores_facts *f)
{
    *out = (cores){0};
    home h;
    bool good = find_home(&h, f, local_rank, local_world < 1 ? 1 : local_world) &&
                choose(out, threads, local_world < 1 ? 1 : local_world, f, &h);
    hwloc_bitmap_free(h.set);
    free(h.why);
    if (!good)
        cores_release(out);
    return good;
}

/* === this machine === */

static hwloc_topology_t load(void)
{
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return NULL;
    /* Cores and processors are all that is asked for. */
    hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    unsigned long flags = 0;
#if HWLOC_API_VERSION >= 0x00020800 /* else it may visit every processor to ask what it is */
    flags = HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING | HWLOC_TOPOLOGY_FLAG_NO_DISTANCES |
            HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS | HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS;
#endif
    if (hwloc_topology_set_flags(topology, flags) == 0 && hwloc_topology_load(topology) == 0)
        return topology;
    hwloc_topology_destroy(topology);
    return NULL;
}

/* An OpenMP runtime that was told to bind has bound the first thread before main, when there was no
 * other whose binding would show what the process may use. The runtime has looked before that. */
static void add_openmp_places(hwloc_bitmap_t set)
{
    int (*count)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "omp_get_num_places");
    int (*size)(int) = (int (*)(int))dlsym(RTLD_DEFAULT, "omp_get_place_num_procs");
    void (*read)(int, int *) = (void (*)(int, int *))dlsym(RTLD_DEFAULT, "omp_get_place_proc_ids");
    int places = count && size && read ? count() : 0;
    for (int i = 0; i < places; i++) {
        int n = size(i);
        int *ids = n > 0 ? calloc((size_t)n, sizeof *ids) : NULL;
        if (ids)
            read(i, ids);
        for (int k = 0; ids && k < n; k++)
            if (ids[k] >= 0)
                hwloc_bitmap_set(set, (unsigned)ids[k]);
        free(ids);
    }
}

typedef struct sets {
    hwloc_bitmap_t process, caller, launcher;
} sets;

static bool look(sets *s, hwloc_topology_t topology)
{
    hwloc_const_cpuset_t all = hwloc_topology_get_topology_cpuset(topology);
    if (!s->process || !s->caller || !s->launcher)
        return false;
    /* Of a process these are the processors of any of its threads. */
    if (hwloc_get_cpubind(topology, s->process, HWLOC_CPUBIND_PROCESS) != 0 ||
        hwloc_bitmap_iszero(s->process))
        hwloc_bitmap_copy(s->process, all);
    if (hwloc_get_cpubind(topology, s->caller, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_copy(s->caller, s->process);
    if (!hwloc_bitmap_isequal(s->caller, all))
        add_openmp_places(s->process);
    hwloc_bitmap_and(s->process, s->process, all);
    return !hwloc_bitmap_iszero(s->process);
}

static bool look_and_choose(cores *out, int32_t threads, const launch *l, hwloc_topology_t topology)
{
    sets s = {hwloc_bitmap_alloc(), hwloc_bitmap_alloc(), hwloc_bitmap_alloc()};
    bool good = look(&s, topology);
    if (good) {
        cores_facts f = {.topology = topology,
                         .process = s.process,
                         .caller = s.caller,
                         .limit = proc_cpu_limit(""),
                         .machine = (int32_t)sysconf(_SC_NPROCESSORS_ONLN)};
        char *told = launch_rank_told(), *launcher = NULL;
        if (l && l->local_world_size > 1)
            launcher = proc_launcher_cpus("", told);
        if (launcher && hwloc_bitmap_list_sscanf(s.launcher, launcher) == 0) {
            hwloc_bitmap_and(s.launcher, s.launcher, hwloc_topology_get_topology_cpuset(topology));
            f.launcher = s.launcher;
        }
        good = cores_choose(out, threads, l ? l->local_rank : 0, l ? l->local_world_size : 1, &f);
        free(told);
        free(launcher);
    }
    hwloc_bitmap_free(s.process);
    hwloc_bitmap_free(s.caller);
    hwloc_bitmap_free(s.launcher);
    return good;
}

bool cores_find(cores *out, int32_t threads, const launch *l)
{
    *out = (cores){.threads = threads};
    if (threads == 1)
        return true;
    if (threads == 0 && sysconf(_SC_NPROCESSORS_ONLN) == 1) {
        out->threads = 1;
        return true;
    }
    hwloc_topology_t topology = load();
    if (!topology) {
        out->threads = threads ? threads : 1;
        out->why = text_format("%d thread%s, not bound, since hwloc cannot read this machine's "
                               "topology",
                               out->threads, out->threads > 1 ? "s" : "");
        return out->why != NULL;
    }
    if (!look_and_choose(out, threads, l, topology)) {
        hwloc_topology_destroy(topology);
        return false;
    }
    out->topology = topology;
    return true;
}

void cores_release(cores *c)
{
    for (int32_t i = 0; c->sets && i < c->threads; i++)
        hwloc_bitmap_free(c->sets[i]);
    free(c->sets);
    free(c->why);
    if (c->topology)
        hwloc_topology_destroy(c->topology);
    *c = (cores){0};
}

void cores_bind(const cores *c, int32_t i, pthread_t thread)
{
    if (c->topology)
        (void)hwloc_set_thread_cpubind(c->topology, thread, c->sets[i], 0);
}

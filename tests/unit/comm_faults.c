/* What goes wrong: ranks that die, leave, disagree, give up, never come, or belong to another job.
 * Each survivor must get the right status, the rank by name, and within a second. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "comm_ranks.h"

enum { LARGE = 1 << 22 };

static zds_coll floats(const void *src, void *dst, uint64_t count, uint64_t tag)
{
    return (zds_coll){
        .struct_size = sizeof(zds_coll), .tag = tag, .src = src, .dst = dst, .count = count};
}

/* An error of this status that names the rank. */
static void need_error(zds_status status, zds_status wanted, const char *text)
{
    NEED(status == wanted, "status %d, not %d", (int)status, (int)wanted);
    NEED(strstr(last_error, text), "the text must say \"%s\"", text);
}

static int ended_badly(const world_run *w, int32_t except)
{
    int bad = 0;
    for (int32_t r = 0; r < w->size; r++)
        bad += r != except && w->status[r] != 0;
    return bad;
}

/* === death === */

typedef struct death {
    int32_t victim;
    bool private; /* through pipes: in the middle of an operation */
} death;

static void killed_in_the_middle(rank *me, void *arg)
{
    const death *d = arg;
    zds_region region = {.struct_size = sizeof region};
    NEED(!me->ops->mem_alloc(me->self, LARGE, ZDS_MEM_SYMMETRIC, &region), "alloc");
    float *src = d->private ? host_alloc(NULL, LARGE, 0) : region.base;
    float *dst = host_alloc(NULL, LARGE, 0);
    zds_coll c = floats(src, dst, LARGE / 4, 9);
    zds_event *done = NULL;
    for (int i = 0; i < 3; i++)
        NEED(!me->ops->all_reduce(me->self, &c, &done) && !finish(done), "before");
    if (me->rank == d->victim) {
        if (d->private) { /* begin it, push some pieces, die */
            NEED(!me->ops->all_reduce(me->self, &c, &done), "issue");
            me->ops->progress(me->self);
        }
        usleep(100000);
        kill(getpid(), SIGKILL);
    }
    double start = seconds();
    zds_status status = me->ops->all_reduce(me->self, &c, &done);
    status = status ? status : finish(done);
    char name[32];
    snprintf(name, sizeof name, "rank %d", (int)d->victim);
    need_error(status, ZDS_ERR_PEER, name);
    NEED(seconds() - start < 1.1, "%g s", seconds() - start);
    need_error(me->ops->barrier(me->self, &c, &done), ZDS_ERR_PEER, name); /* it stays so */
}

Test(comm_faults, a_killed_rank_is_named_by_all, .timeout = 60)
{
    for (int k = 0; k < 6; k++) {
        death d = {.victim = k % 3, .private = k >= 3};
        world_run w = {.plugin = "shm",
                       .size = 3,
                       .timeout_ms = 20000,
                       .body = killed_in_the_middle,
                       .arg = &d};
        run_world(&w);
        cr_expect_eq(ended_badly(&w, d.victim), 0, "victim %d private %d", (int)d.victim,
                     d.private);
        cr_expect(WIFSIGNALED(w.status[d.victim]) && WTERMSIG(w.status[d.victim]) == SIGKILL);
    }
}

/* A rank that gives up takes its memory back; who comes late must not take what is left of it for
 * data. */
static void gives_up_and_frees(rank *me, void *arg)
{
    (void)arg;
    zds_region region = {.struct_size = sizeof region};
    NEED(!me->ops->mem_alloc(me->self, LARGE, ZDS_MEM_SYMMETRIC, &region), "alloc");
    float *src = region.base, *dst = host_alloc(NULL, 2 * LARGE, 0);
    for (size_t i = 0; i < LARGE / sizeof *src; i++)
        src[i] = 1;
    zds_coll c = floats(src, dst, LARGE / sizeof *src, 9);
    zds_event *done = NULL;
    NEED(!me->ops->all_gather(me->self, &c, &done), "issue");
    if (me->rank == 0) {
        usleep(100000);
        me->ops->abort(me->self, "it has waited for long enough");
        done->ops->release(done);
        me->ops->mem_free(me->self, &region);
        return;
    }
    usleep(500000);
    need_error(finish(done), ZDS_ERR_PEER, "waited for long enough");
}

Test(comm_faults, a_rank_that_gave_up_leaves_no_zeros, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 2, .timeout_ms = 20000, .body = gives_up_and_frees};
    cr_expect_eq(run_world(&w), 0);
}

/* One that ends in good order is no fault for those who need it no more. */
static void leaves_early(rank *me, void *arg)
{
    (void)arg;
    unsigned char byte = 1, got = 0;
    zds_event *done = NULL;
    if (me->rank == 2)
        return;
    usleep(200000);
    zds_coll c = {.struct_size = sizeof c,
                  .src = &byte,
                  .dst = &got,
                  .count = 1,
                  .src_dtype = ZDS_U8,
                  .dst_dtype = ZDS_U8,
                  .peer = 1 - me->rank};
    NEED(!(me->rank ? me->ops->recv : me->ops->send)(me->self, &c, &done) && !finish(done),
         "between the two that stay");
    usleep(300000); /* a failure is everybody's: let the other finish first */
    double start = seconds();
    zds_status status = me->ops->barrier(me->self, &c, &done);
    need_error(status ? status : finish(done), ZDS_ERR_PEER, "rank 2 closed the communicator");
    NEED(seconds() - start < 1, "%g s", seconds() - start);
}

Test(comm_faults, a_rank_that_left, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 3, .timeout_ms = 20000, .body = leaves_early};
    cr_expect_eq(run_world(&w), 0);
}

/* A counter's wait notices dead and silent peers as any operation does, by wait and by test. */
static void waits_for_a_count(rank *me, void *arg)
{
    const int kind = *(int *)arg;
    zds_region counters = {.struct_size = sizeof counters};
    NEED(!me->ops->mem_alloc(me->self, 64, ZDS_MEM_COUNTERS, &counters), "alloc");
    NEED(!counters.base && !counters.read_only, "no memory to look at");
    zds_event *done = NULL;
    NEED(!me->ops->counter_add(me->self, &counters, 7), "add");
    need_error(me->ops->counter_add(me->self, &counters, 8), ZDS_ERR_INVALID, "no counter 8");
    NEED(!me->ops->counter_wait(me->self, &counters, 7, 3, NULL, &done) && !finish(done), "wait");
    if (me->rank == 1) {
        usleep(100000);
        if (kind != 2)
            kill(getpid(), SIGKILL);
        usleep(1500000);
        _exit(0);
    }
    const double start = seconds();
    NEED(!me->ops->counter_add(me->self, &counters, 3), "add");
    NEED(!me->ops->counter_wait(me->self, &counters, 3, 3, "the last use of h.0", &done), "issue");
    NEED(done && done->ops->flags & ZDS_EVENT_ANY_THREAD, "to be tested from any thread");
    zds_status status = ZDS_OK;
    int32_t over = 0;
    while (kind == 1 && !status && !over && seconds() - start < 5) {
        status = done->ops->test(done, &over);
        usleep(1000);
    }
    if (kind != 1)
        status = done->ops->wait(done);
    need_error(status, ZDS_ERR_PEER, kind == 2 ? "rank(s) 1 silent" : "rank 1");
    NEED(strstr(last_error, "the last use of h.0"), "what is waited for");
    NEED(seconds() - start < 1.4, "%g s", seconds() - start);
    done->ops->release(done);
}

Test(comm_faults, counts_that_do_not_come, .timeout = 30)
{
    for (int kind = 0; kind < 3; kind++) {
        world_run w = {.plugin = "shm",
                       .size = 3,
                       .timeout_ms = kind == 2 ? 500 : 20000,
                       .body = waits_for_a_count,
                       .arg = &kind};
        run_world(&w);
        cr_expect_eq(ended_badly(&w, 1), 0, "kind %d", kind);
    }
}

/* What a rank has counted stays when it goes. */
static void counts_and_leaves(rank *me, void *arg)
{
    (void)arg;
    zds_region counters = {.struct_size = sizeof counters};
    zds_event *done = NULL;
    NEED(!me->ops->mem_alloc(me->self, 64, ZDS_MEM_COUNTERS, &counters), "alloc");
    NEED(!me->ops->counter_add(me->self, &counters, 7), "add");
    if (me->rank == 0)
        usleep(200000); /* the others give theirs back meanwhile, and are gone */
    if (me->rank == 0)
        NEED(!me->ops->counter_wait(me->self, &counters, 7, 3, "x", &done) &&
                 (!done || !finish(done)),
             "%s", last_error);
    me->ops->mem_free(me->self, &counters);
}

Test(comm_faults, counts_of_ranks_that_left, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 3, .timeout_ms = 20000, .body = counts_and_leaves};
    cr_expect_eq(run_world(&w), 0);
}

static void silent(rank *me, void *arg)
{
    (void)arg;
    zds_event *done = NULL;
    zds_coll c = {.struct_size = sizeof c, .tag = 4};
    if (me->rank == 1) {
        usleep(1500000);
        _exit(0);
    }
    double start = seconds();
    NEED(!me->ops->barrier(me->self, &c, &done), "issue");
    need_error(finish(done), ZDS_ERR_PEER, "rank(s) 1 silent");
    NEED(seconds() - start > 0.4 && seconds() - start < 1, "%g s", seconds() - start);
}

Test(comm_faults, a_silent_rank, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 2, .timeout_ms = 500, .body = silent};
    cr_expect_eq(run_world(&w), 0);
}

/* Ranks 0 and 1 wait for rank 2, which sleeps in its program: nobody blames the other that waits.
 */
static void waits_for_the_third(rank *me, void *arg)
{
    const int kind = *(int *)arg;
    float src[3] = {0}, dst[3];
    zds_event *done = NULL;
    zds_region counters = {.struct_size = sizeof counters};
    zds_coll c = floats(src, dst, 1, 4);
    NEED(!me->ops->mem_alloc(me->self, 64, ZDS_MEM_COUNTERS, &counters), "alloc");
    NEED(!me->ops->barrier(me->self, &c, &done) && !finish(done), "all are there");
    if (me->rank == 2) {
        usleep(1500000);
        _exit(0);
    }
    zds_status (*const calls[])(void *, const zds_coll *, zds_event **) = {
        me->ops->barrier, me->ops->all_reduce, me->ops->all_gather, me->ops->reduce_scatter,
        me->ops->all_to_all};
    zds_status status = ZDS_OK;
    if (kind == 5 && me->rank == 0) /* of a rank that waits in an operation */
        status = me->ops->counter_wait(me->self, &counters, 0, 2, "a count", &done);
    else if (kind == 6 && me->rank == 0) {
        c.peer = 1;
        status = me->ops->recv(me->self, &c, &done);
    } else {
        status = calls[kind % 5](me->self, &c, &done);
    }
    NEED(!status, "issue");
    need_error(finish(done), ZDS_ERR_PEER, "rank(s) 2 silent");
}

Test(comm_faults, a_rank_that_all_wait_for, .timeout = 60)
{
    for (int kind = 0; kind < 7; kind++) {
        world_run w = {.plugin = "shm",
                       .size = 3,
                       .timeout_ms = 500,
                       .body = waits_for_the_third,
                       .arg = &kind};
        cr_expect_eq(run_world(&w), 0, "kind %d", kind);
    }
}

/* Computing for longer than the timeout is no silence of the others. */
static void busy(rank *me, void *arg)
{
    (void)arg;
    zds_event *done = NULL;
    zds_coll c = {.struct_size = sizeof c};
    NEED(!me->ops->barrier(me->self, &c, &done), "issue");
    usleep(me->rank == 0 ? 1200000 : 800000);
    NEED(!finish(done), "wait");
}

Test(comm_faults, a_busy_rank, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 3, .timeout_ms = 700, .body = busy};
    cr_expect_eq(run_world(&w), 0);
}

/* === disagreement === */

/* Nobody is in init any more. */
static void meet(rank *me)
{
    zds_event *done = NULL;
    const zds_coll c = {.struct_size = sizeof c};
    NEED(!me->ops->barrier(me->self, &c, &done), "issue");
    NEED(!finish(done), "wait");
}

static void diverges(rank *me, void *arg)
{
    int kind = *(int *)arg;
    meet(me);
    float src[8] = {0}, dst[64];
    zds_event *done = NULL;
    bool odd = me->rank == 1;
    zds_coll c = floats(src, dst, 2, 7);
    zds_status (*call)(void *, const zds_coll *, zds_event **) = me->ops->all_gather;
    if (odd && kind == 0)
        c.tag = 8;
    if (odd && kind == 1)
        c.count = 1;
    if (odd && kind == 2)
        c.src_dtype = c.dst_dtype = ZDS_I32;
    if (odd && kind == 3)
        call = me->ops->barrier;
    if (kind == 5)
        c.what = odd ? "gradients of module h.1" : "gradients of module h.0";
    if (kind == 5 && odd)
        c.tag = 8;
    zds_region region = {.struct_size = sizeof region};
    zds_status status;
    if (kind == 4) {
        status = me->ops->mem_alloc(me->self, odd ? 100 : 200, ZDS_MEM_SYMMETRIC, &region);
    } else {
        status = call(me->self, &c, &done);
        status = status ? status : finish(done);
    }
    need_error(status, ZDS_ERR_DIVERGED, "rank 1");
    if (kind == 0) {
        NEED(strstr(last_error, "tag 7"), "both tags");
        NEED(strstr(last_error, "tag 8"), "both tags");
    }
    if (kind == 2) {
        NEED(strstr(last_error, "2 elements of I32"), "what differs");
        NEED(strstr(last_error, "2 elements of F32"), "what differs");
    }
    if (kind == 5) {
        NEED(strstr(last_error, "all_gather (gradients of module h.1)"), "both names");
        NEED(strstr(last_error, "all_gather (gradients of module h.0)"), "both names");
        NEED(!strstr(last_error, "tag"), "the names say it");
    }
}

Test(comm_faults, ranks_that_disagree, .timeout = 30)
{
    for (int kind = 0; kind < 6; kind++) {
        world_run w = {
            .plugin = "shm", .size = 3, .timeout_ms = 10000, .body = diverges, .arg = &kind};
        cr_expect_eq(run_world(&w), 0, "kind %d", kind);
    }
}

static void diverging_message(rank *me, void *arg)
{
    (void)arg;
    meet(me);
    float x[4] = {0};
    zds_event *done = NULL;
    zds_coll c = floats(x, x, 4, 5 + (uint64_t)me->rank);
    c.peer = 1 - me->rank;
    NEED(!(me->rank ? me->ops->recv : me->ops->send)(me->self, &c, &done), "issue");
    need_error(finish(done), ZDS_ERR_DIVERGED, "rank 0 sends a message (tag 5");
}

Test(comm_faults, messages_that_disagree, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 2, .timeout_ms = 10000, .body = diverging_message};
    cr_expect_eq(run_world(&w), 0);
}

static void gives_up(rank *me, void *arg)
{
    (void)arg;
    zds_event *done = NULL;
    zds_coll c = {.struct_size = sizeof c};
    if (me->rank == 0) {
        usleep(100000);
        me->ops->abort(me->self, "the disk is full");
    }
    NEED(!me->ops->barrier(me->self, &c, &done), "issue");
    zds_status status = me->rank == 0 ? ZDS_ERR_PEER : finish(done);
    if (me->rank)
        need_error(status, ZDS_ERR_PEER, "rank 0 gave up: the disk is full");
    else
        usleep(500000);
}

Test(comm_faults, abort_reaches_all, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 4, .timeout_ms = 10000, .body = gives_up};
    cr_expect_eq(run_world(&w), 0);
}

static void refuses(rank *me, void *arg)
{
    (void)arg;
    float x[8] = {0}, y[8];
    zds_event *done = NULL;
    zds_coll c = floats(x, y, 4, 0);
    c.dst_dtype = ZDS_F16;
    need_error(me->ops->all_gather(me->self, &c, &done), ZDS_ERR_INVALID, "differ");
    c.src_dtype = 99;
    need_error(me->ops->all_reduce(me->self, &c, &done), ZDS_ERR_INVALID, "99");
    c = floats(x, y, 1, 0);
    c.struct_size = 0;
    need_error(me->ops->all_reduce(me->self, &c, &done), ZDS_ERR_INVALID, "struct_size");
    need_error(me->ops->barrier(me->self, &c, &done), ZDS_ERR_INVALID, "struct_size");
    c = floats(x, y, 1, 0);
    c.op = 5;
    need_error(me->ops->all_reduce(me->self, &c, &done), ZDS_ERR_INVALID, "operation 5");
    c.op = 0;
    c.peer = me->size;
    need_error(me->ops->broadcast(me->self, &c, &done), ZDS_ERR_INVALID, "no rank");
    zds_segment crossing[2] = {{2, 2}, {3, 1}};
    double sums[2];
    zds_fused fused = {.struct_size = sizeof fused,
                       .segments = crossing,
                       .segment_stride = sizeof *crossing,
                       .segment_count = 2,
                       .chunk_sums = sums};
    c = floats(x, y, 4, 0);
    c.fused = &fused;
    need_error(me->ops->reduce_scatter(me->self, &c, &done), ZDS_ERR_INVALID, "segment 1");
    fused.segment_stride = 8;
    need_error(me->ops->reduce_scatter(me->self, &c, &done), ZDS_ERR_INVALID, "segment_stride");
    fused.struct_size = 0;
    need_error(me->ops->reduce_scatter(me->self, &c, &done), ZDS_ERR_INVALID, "zds_fused");
    need_error(me->ops->all_reduce(me->self, &c, &done), ZDS_ERR_INVALID, "");
    /* After refusals the communicator works as before. */
    c = floats(x, y, 1, 0);
    NEED(!me->ops->all_reduce(me->self, &c, &done) && !finish(done), "all_reduce");
}

Test(comm_faults, wrong_arguments_are_refused, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 2, .timeout_ms = 10000, .body = refuses};
    cr_expect_eq(run_world(&w), 0);
    w = (world_run){.plugin = "self", .size = 1, .timeout_ms = 10000, .body = refuses};
    cr_expect_eq(run_world(&w), 0);
}

/* === the start === */

static zds_status start(int32_t r, int32_t n, int port, int32_t timeout_ms)
{
    void *self = NULL;
    const zds_comm_ops *ops = open_plugin("shm");
    zds_comm_env env = rank_env(r, n, port, timeout_ms);
    bootstrap *b = bootstrap_open(&env);
    env.bootstrap = bootstrap_offer(b);
    zds_status status = ops->init(&test_host, NULL, &env, &self);
    bootstrap_finish(b);
    if (!status) {
        usleep(700000);
        ops->finalize(self);
    }
    bootstrap_close(b);
    return status;
}

/* Runs `code` in a child; its exit status. */
#define IN_CHILD(pid, code)                                                                        \
    do {                                                                                           \
        fflush(NULL);                                                                              \
        pid = fork();                                                                              \
        if (pid == 0) {                                                                            \
            alarm(30);                                                                             \
            code;                                                                                  \
            _exit(0);                                                                              \
        }                                                                                          \
    } while (0)

static int exit_of(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

Test(comm_faults, missing_ranks_are_named, .timeout = 30)
{
    int port = test_port();
    pid_t pid[2];
    double began = seconds();
    for (int32_t r = 0; r < 2; r++) /* of 4: 2 and 3 never come */
        IN_CHILD(pid[r], need_error(start(r, 4, port, 600), ZDS_ERR_PEER, "2, 3"));
    cr_expect_eq(exit_of(pid[0]), 0);
    cr_expect_eq(exit_of(pid[1]), 0);
    cr_expect_lt(seconds() - began, 2);
    IN_CHILD(pid[0], need_error(start(1, 2, port, 300), ZDS_ERR_PEER, "rank 0 did not come"));
    cr_expect_eq(exit_of(pid[0]), 0);
}

Test(comm_faults, a_rank_that_dies_at_the_start, .timeout = 30)
{
    int port = test_port();
    pid_t pid[3];
    IN_CHILD(pid[0], need_error(start(0, 3, port, 20000), ZDS_ERR_PEER, "rank 1"));
    IN_CHILD(pid[1], start(1, 3, port, 20000));
    usleep(300000);
    kill(pid[1], SIGKILL);
    cr_expect_neq(exit_of(pid[1]), 0);
    cr_expect_eq(exit_of(pid[0]), 0);
}

Test(comm_faults, two_jobs_on_one_port, .timeout = 30)
{
    int port = test_port();
    pid_t first[2], second, third;
    for (int32_t r = 0; r < 2; r++)
        IN_CHILD(first[r], NEED(!start(r, 2, port, 5000), "the first job"));
    usleep(100000);
    IN_CHILD(second, need_error(start(0, 2, port, 3000), ZDS_ERR_IO, "another job"));
    IN_CHILD(third, need_error(start(1, 2, port, 300), ZDS_ERR_PEER, "MASTER_PORT"));
    cr_expect_eq(exit_of(second), 0);
    cr_expect_eq(exit_of(third), 0);
    cr_expect_eq(exit_of(first[0]), 0, "the first job must not notice");
    cr_expect_eq(exit_of(first[1]), 0, "the first job must not notice");
    /* The name is free again. */
    for (int32_t r = 0; r < 2; r++)
        IN_CHILD(first[r], NEED(!start(r, 2, port, 5000), "the same port again"));
    cr_expect_eq(exit_of(first[0]), 0);
    cr_expect_eq(exit_of(first[1]), 0);
}

/* Connections of something else, and ranks of a job of another size. */
static void disturb(int port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "zds-meet-%u-127.0.0.1-%d",
                     (unsigned)geteuid(), port);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    char junk[64];
    memset(junk, 0x5a, sizeof junk);
    for (int i = 0; i < 40; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&address, length) == 0 && i % 2)
            (void)!send(fd, junk, i % 4 == 1 ? sizeof junk : 24, MSG_NOSIGNAL);
        if (i % 3)
            close(fd);
        usleep(2000);
    }
}

Test(comm_faults, strangers_are_refused, .timeout = 30)
{
    int port = test_port();
    pid_t pid[2], stranger, other;
    IN_CHILD(pid[0], NEED(!start(0, 2, port, 8000), "rank 0"));
    usleep(100000);
    IN_CHILD(stranger, disturb(port));
    IN_CHILD(other, need_error(start(1, 3, port, 3000), ZDS_ERR_INVALID, "2 ranks"));
    cr_expect_eq(exit_of(stranger), 0);
    cr_expect_eq(exit_of(other), 0);
    IN_CHILD(pid[1], NEED(!start(1, 2, port, 8000), "rank 1"));
    cr_expect_eq(exit_of(pid[0]), 0);
    cr_expect_eq(exit_of(pid[1]), 0);
}

static int files_in_shm(void)
{
    DIR *d = opendir("/dev/shm");
    int n = 0;
    struct dirent *e;
    while (d && (e = readdir(d)))
        n += strstr(e->d_name, "zds") != NULL;
    if (d)
        closedir(d);
    return n;
}

static void descriptors(rank *me, void *arg)
{
    (void)arg;
    zds_region region = {.struct_size = sizeof region};
    NEED(!me->ops->mem_alloc(me->self, 1 << 20, ZDS_MEM_SHARED, &region), "alloc");
    NEED(files_in_shm() == 0, "a name in /dev/shm");
    for (int fd = 3; fd < 256; fd++) {
        char link[64], path[64] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "zds"))
            NEED(fcntl(fd, F_GETFD) & FD_CLOEXEC, "%s would survive exec", path);
    }
    kill(getpid(), SIGKILL);
}

Test(comm_faults, nothing_is_left_behind, .timeout = 30)
{
    world_run w = {.plugin = "shm", .size = 2, .timeout_ms = 10000, .body = descriptors};
    run_world(&w);
    for (int r = 0; r < 2; r++)
        cr_expect(WIFSIGNALED(w.status[r]));
    cr_expect_eq(files_in_shm(), 0);
}

/* The first exchange between ranks: by unix socket and by TCP, several at once, with strangers,
 * dead and missing ranks, and another job at the same place. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "comm_ranks.h"
#include "host/error.h"
#include "host/meet.h"
#include "zds/zds.h"

enum { UNIX_SOCKET = 0, TCP4 = 1, TCP6 = 2, WAYS = 3 };

static zds_error trouble = ZDS_ERROR_INIT;

/* All ranks of one node, or each of its own. */
static zds_comm_env env_by(int way, int32_t r, int32_t n, int port, int32_t timeout_ms)
{
    zds_comm_env env = rank_env(r, n, port, timeout_ms);
    if (way != UNIX_SOCKET) {
        env.local_rank = 0;
        env.local_world_size = 1;
        env.master_addr = way == TCP4 ? "127.0.0.1" : "::1";
    }
    return env;
}

/* A run of ports that nobody has. */
static int free_port(int run)
{
    for (int tries = 0;; tries++) {
        int base = 20000 + (getpid() * 64 + tries * 31 + test_port() % 7) % 12000, good = 0;
        for (; good < run; good++) {
            struct sockaddr_in at = {.sin_family = AF_INET,
                                     .sin_addr.s_addr = htonl(INADDR_ANY),
                                     .sin_port = htons((uint16_t)(base + good))};
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            bool bound = bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
            close(fd);
            if (!bound)
                break;
        }
        if (good == run)
            return base;
    }
}

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

/* Gathers `bytes` of each rank, that say whose they are. */
static zds_status exchange(bootstrap *b, int32_t r, int32_t n, size_t bytes)
{
    unsigned char *mine = malloc(bytes), *all = malloc(bytes * (size_t)n);
    memset(mine, r + 1, bytes);
    zds_status status = bootstrap_gather(b, mine, bytes, all, &trouble);
    for (size_t i = 0; i < bytes * (size_t)n && !status; i++)
        NEED(all[i] == i / bytes + 1, "byte %zu of rank %d", i, (int)r);
    free(mine);
    free(all);
    return status;
}

static void need_failure(zds_status status, zds_status wanted, const char *text)
{
    NEED(status == wanted, "status %d, not %d: %s", (int)status, (int)wanted,
         trouble.text ? trouble.text : "");
    NEED(trouble.text && strstr(trouble.text, text), "\"%s\" must say \"%s\"", trouble.text, text);
}

static void gather_sizes(int way, int32_t r, int32_t n, int port)
{
    zds_comm_env env = env_by(way, r, n, port, 20000);
    bootstrap *b = bootstrap_open(&env);
    static const size_t sizes[] = {1, 16, ZDS_BOOTSTRAP_MOST, 3};
    for (size_t i = 0; i < 4; i++)
        NEED(!exchange(b, r, n, sizes[i]), "%s", trouble.text);
    need_failure(exchange(b, r, n, ZDS_BOOTSTRAP_MOST + 1), ZDS_ERR_INVALID, "4096");
    bootstrap_finish(b);
    need_failure(exchange(b, r, n, 1), ZDS_ERR_INVALID, "init");
    bootstrap_close(b);
}

static bool has_ipv6(void)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    if (fd >= 0)
        close(fd);
    return has;
}

Test(bootstrap, gathers, .timeout = 60)
{
    for (int way = 0; way < WAYS; way++)
        for (int32_t n = 1; n <= 5 && (way != TCP6 || has_ipv6()); n += n == 1 ? 1 : 3) {
            pid_t pid[5];
            int port = free_port(1);
            for (int32_t r = n - 1; r >= 0; r--) {
                IN_CHILD(pid[r], gather_sizes(way, r, n, port));
                usleep(r == 1 ? 50000 : 0);
            }
            for (int32_t r = 0; r < n; r++)
                cr_expect_eq(exit_of(pid[r]), 0, "way %d rank %d of %d", way, (int)r, (int)n);
        }
}

/* The same for programs. */
Test(bootstrap, of_a_program)
{
    zds_comm_env env = env_by(UNIX_SOCKET, 0, 1, 0, 1000);
    const zds_bootstrap *b = NULL;
    int32_t mine = 7, all = 0;
    cr_assert_eq(zds_bootstrap_open(&env, &b, &trouble), ZDS_OK);
    cr_expect_eq(b->all_gather(b, &test_host, &mine, sizeof mine, &all), ZDS_OK);
    cr_expect_eq(all, 7);
    cr_expect_eq(b->all_gather(b, &test_host, &mine, 0, &all), ZDS_ERR_INVALID);
    cr_expect(strstr(last_error, "4096"), "%s", last_error);
    zds_bootstrap_close(b);
    zds_bootstrap_close(NULL);
    env.rank = 1;
    cr_expect_eq(zds_bootstrap_open(&env, &b, &trouble), ZDS_ERR_INVALID);
    env.rank = 0;
    env.struct_size = 0;
    cr_expect_eq(zds_bootstrap_open(&env, &b, &trouble), ZDS_ERR_INVALID);
    cr_expect(strstr(trouble.text, "struct_size"), "%s", trouble.text);
    cr_expect_null(b);
}

/* Nothing happens before the first gather: a plugin that needs none waits for nobody. */
Test(bootstrap, waits_for_nobody_unasked)
{
    zds_comm_env env = env_by(UNIX_SOCKET, 0, 4096, free_port(1), 100);
    bootstrap *b = bootstrap_open(&env);
    cr_assert(b);
    bootstrap_finish(b);
    bootstrap_close(b);
}

/* Engines of one process after each other and at once, with ranks of different speed. */
static void many_lives(int way, int32_t r, int port)
{
    bootstrap *alive[4];
    for (int32_t i = 0; i < 4; i++) {
        zds_comm_env env = env_by(way, r, 2, port, 20000);
        alive[i] = bootstrap_open(&env);
        NEED(!exchange(alive[i], r, 2, 8), "%s", trouble.text);
        usleep(i % 2 == r ? 20000 : 0);
        bootstrap_finish(alive[i]);
    }
    for (int32_t i = 0; i < 4; i++)
        bootstrap_close(alive[i]);
    zds_comm_env env = env_by(way, r, 2, port, 20000);
    alive[0] = bootstrap_open(&env);
    NEED(!exchange(alive[0], r, 2, 8), "after all: %s", trouble.text);
    bootstrap_close(alive[0]);
}

Test(bootstrap, several_in_one_process, .timeout = 60)
{
    for (int way = UNIX_SOCKET; way <= TCP4; way++) {
        pid_t pid[2];
        int port = free_port(1);
        for (int32_t r = 0; r < 2; r++)
            IN_CHILD(pid[r], many_lives(way, r, port));
        for (int32_t r = 0; r < 2; r++)
            cr_expect_eq(exit_of(pid[r]), 0, "way %d rank %d", way, (int)r);
    }
}

static zds_status meet_once(int way, int32_t r, int32_t n, int port, int32_t timeout_ms,
                            int linger_ms)
{
    zds_comm_env env = env_by(way, r, n, port, timeout_ms);
    bootstrap *b = bootstrap_open(&env);
    zds_status status = exchange(b, r, n, 8);
    bootstrap_finish(b);
    usleep((unsigned)linger_ms * 1000);
    bootstrap_close(b);
    return status;
}

Test(bootstrap, names_who_is_missing, .timeout = 60)
{
    for (int way = UNIX_SOCKET; way <= TCP4; way++) {
        pid_t pid[2];
        int port = free_port(1);
        for (int32_t r = 0; r < 2; r++)
            IN_CHILD(pid[r], need_failure(meet_once(way, r, 4, port, 500, 0), ZDS_ERR_PEER,
                                          "rank(s) 2, 3 did not come"));
        cr_expect_eq(exit_of(pid[0]), 0, "way %d", way);
        cr_expect_eq(exit_of(pid[1]), 0, "way %d", way);
        IN_CHILD(pid[0], need_failure(meet_once(way, 1, 2, port, 300, 0), ZDS_ERR_PEER,
                                      "rank 0 did not come within 300 ms"));
        cr_expect_eq(exit_of(pid[0]), 0, "way %d", way);
    }
}

/* Rank 1 has come and is silent, or dies, when the others want more of it. */
static void falters(int way, int32_t r, int port, bool dies)
{
    zds_comm_env env = env_by(way, r, 3, port, 600);
    bootstrap *b = bootstrap_open(&env);
    NEED(!exchange(b, r, 3, 8), "%s", trouble.text);
    if (r == 1) {
        if (dies)
            _exit(0);
        sleep(2);
        _exit(0);
    }
    need_failure(exchange(b, r, 3, 8), ZDS_ERR_PEER, dies ? "rank 1 (pid" : "rank(s) 1 silent");
    need_failure(exchange(b, r, 3, 8), ZDS_ERR_PEER, "1"); /* it stays so */
    bootstrap_close(b);
}

Test(bootstrap, names_who_falters, .timeout = 60)
{
    for (int k = 0; k < 4; k++) {
        pid_t pid[3];
        int port = free_port(1);
        for (int32_t r = 0; r < 3; r++)
            IN_CHILD(pid[r], falters(k / 2, r, port, k % 2));
        for (int32_t r = 0; r < 3; r++)
            cr_expect_eq(exit_of(pid[r]), 0, "case %d rank %d", k, (int)r);
    }
}

Test(bootstrap, a_rank_that_dies_early, .timeout = 60)
{
    for (int way = UNIX_SOCKET; way <= TCP4; way++) {
        int port = free_port(1);
        pid_t pid[2];
        IN_CHILD(pid[0],
                 need_failure(meet_once(way, 0, 3, port, 20000, 0), ZDS_ERR_PEER, "rank 1"));
        IN_CHILD(pid[1], meet_once(way, 1, 3, port, 20000, 0));
        usleep(400000);
        kill(pid[1], SIGKILL);
        cr_expect_neq(exit_of(pid[1]), 0);
        cr_expect_eq(exit_of(pid[0]), 0, "way %d", way);
    }
}

/* Ranks that give different things. */
static void differs(int32_t r, int port)
{
    zds_comm_env env = env_by(UNIX_SOCKET, r, 2, port, 5000);
    bootstrap *b = bootstrap_open(&env);
    need_failure(exchange(b, r, 2, 8 + (size_t)r), ZDS_ERR_DIVERGED, "rank 1 9");
    bootstrap_close(b);
}

Test(bootstrap, ranks_that_disagree, .timeout = 30)
{
    pid_t pid[2];
    int port = free_port(1);
    for (int32_t r = 0; r < 2; r++)
        IN_CHILD(pid[r], differs(r, port));
    cr_expect_eq(exit_of(pid[0]), 0);
    cr_expect_eq(exit_of(pid[1]), 0);
}

/* === what ranks were told of their machines === */

typedef struct told {
    int32_t rank, size; /* local */
} told;

static void meet_as(const told *t, int32_t r, int32_t n, int port, const char *text)
{
    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "1", 1);
    setenv("LOCAL_RANK", "0", 1); /* its name is told */
    zds_comm_env env = rank_env(r, n, port, 10000);
    env.local_rank = t[r].rank;
    env.local_world_size = t[r].size;
    bootstrap *b = bootstrap_open(&env);
    zds_status status = exchange(b, r, n, 8);
    if (text)
        need_failure(status, ZDS_ERR_INVALID, text);
    else
        NEED(!status, "%s", trouble.text);
    bootstrap_close(b);
}

Test(bootstrap, local_ranks_that_cannot_be, .timeout = 60)
{
    static const struct {
        told told[3];
        const char *text;
    } cases[] = {
        {{{0, 3}, {1, 3}, {1, 3}}, "ranks 1 and 2 run on one machine and both have LOCAL_RANK 1"},
        {{{0, 3}, {0, 3}, {0, 3}}, "ranks 0 and 1 run on one machine and both have LOCAL_RANK 0"},
        {{{0, 2}, {1, 2}, {1, 2}}, NULL}, /* nodes that are played here */
        {{{0, 1}, {0, 1}, {0, 1}}, NULL},
        {{{0, 3}, {0, 0}, {2, 3}}, "rank(s) 0, 2 have LOCAL_RANK and"},
        {{{0, 3}, {0, 0}, {2, 3}}, "rank(s) 1 have not"},
        {{{0, 0}, {1, 3}, {2, 3}}, "rank(s) 0 have not"},
        {{{0, 0}, {1, 2}, {0, 1}}, "rank(s) 0 have not"},
        {{{0, 2}, {1, 2}, {0, 0}}, "rank(s) 2 have not"},
        {{{0, 0}, {0, 0}, {0, 0}}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t pid[3];
        int port = free_port(1);
        for (int32_t r = 0; r < 3; r++)
            IN_CHILD(pid[r], meet_as(cases[i].told, r, 3, port, cases[i].text));
        for (int32_t r = 0; r < 3; r++)
            cr_expect_eq(exit_of(pid[r]), 0, "case %zu rank %d", i, (int)r);
    }
}

/* === other jobs === */

Test(bootstrap, another_job_of_the_node, .timeout = 30)
{
    int port = free_port(1);
    pid_t first[2], second;
    for (int32_t r = 0; r < 2; r++)
        IN_CHILD(first[r], NEED(!meet_once(UNIX_SOCKET, r, 2, port, 5000, 1500), "the first"));
    usleep(200000);
    IN_CHILD(second, need_failure(meet_once(UNIX_SOCKET, 0, 2, port, 5000, 0), ZDS_ERR_IO,
                                  "another job of this user runs with MASTER_ADDR 127.0.0.1"));
    cr_expect_eq(exit_of(second), 0);
    cr_expect_eq(exit_of(first[0]), 0, "the first does not notice");
    cr_expect_eq(exit_of(first[1]), 0, "the first does not notice");
}

/* Both gather at once: the launcher's name keeps them apart, or the port does. */
static void in_job(const char *job, int way, int32_t r, int32_t n, int port)
{
    setenv("TORCHELASTIC_RUN_ID", job, 1);
    NEED(!meet_once(way, r, n, port, 8000, 300), "%s", trouble.text);
}

Test(bootstrap, two_jobs_by_tcp, .timeout = 60)
{
    int port = free_port(2);
    pid_t pid[5];
    for (int32_t r = 0; r < 2; r++) {
        IN_CHILD(pid[r], in_job("one", TCP4, r, 2, port));
        IN_CHILD(pid[2 + r], in_job("two", TCP4, r, 2, port));
    }
    for (int k = 0; k < 4; k++)
        cr_expect_eq(exit_of(pid[k]), 0, "process %d", k);
    /* Jobs without a name: the second is told while the first gathers. */
    IN_CHILD(pid[0], NEED(!meet_once(TCP4, 0, 2, port, 8000, 0), "%s", trouble.text));
    usleep(300000);
    IN_CHILD(pid[4], need_failure(meet_once(TCP4, 0, 2, port, 8000, 0), ZDS_ERR_IO, "another job"));
    cr_expect_eq(exit_of(pid[4]), 0);
    IN_CHILD(pid[1], NEED(!meet_once(TCP4, 1, 2, port, 8000, 0), "%s", trouble.text));
    cr_expect_eq(exit_of(pid[0]), 0);
    cr_expect_eq(exit_of(pid[1]), 0);
}

static void wrong_size(int way, int port)
{
    need_failure(meet_once(way, 1, 3, port, 3000, 0), ZDS_ERR_INVALID, "has 2 ranks");
}

Test(bootstrap, a_rank_of_another_size, .timeout = 30)
{
    for (int way = UNIX_SOCKET; way <= TCP4; way++) {
        int port = free_port(1);
        pid_t pid[3];
        IN_CHILD(pid[0], NEED(!meet_once(way, 0, 2, port, 8000, 0), "%s", trouble.text));
        IN_CHILD(pid[2], wrong_size(way, port));
        cr_expect_eq(exit_of(pid[2]), 0, "way %d", way);
        IN_CHILD(pid[1], NEED(!meet_once(way, 1, 2, port, 8000, 0), "%s", trouble.text));
        cr_expect_eq(exit_of(pid[0]), 0, "way %d", way);
        cr_expect_eq(exit_of(pid[1]), 0, "way %d", way);
    }
}

/* === strangers === */

/* What has MASTER_PORT, and says nothing (a launcher's store), or what is none of ours. It must
 * hear nothing from a rank. */
static void squat(int port, bool talks, int ready)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_ANY),
                             .sin_port = htons((uint16_t)port)};
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    NEED(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 64) == 0, "the port");
    NEED(write(ready, "", 1) == 1, "ready");
    for (;;) {
        int with = accept(fd, NULL, NULL);
        char heard;
        if (talks)
            (void)!send(with,
                        "HTTP/1.1 400 Bad Request\r\nserver: something\r\n\r\nand so on and on"
                        " and on and on and on and on and on",
                        96, MSG_NOSIGNAL);
        NEED(recv(with, &heard, 1, MSG_DONTWAIT) <= 0, "a rank talks to a stranger");
        if (talks)
            close(with);
    }
}

Test(bootstrap, somebody_has_the_port, .timeout = 60)
{
    for (int talks = 0; talks < 2; talks++) {
        int port = free_port(2), ready[2];
        pid_t pid[2], squatter;
        char byte;
        cr_assert_eq(pipe(ready), 0);
        IN_CHILD(squatter, squat(port, talks, ready[1]));
        cr_assert_eq(read(ready[0], &byte, 1), 1);
        for (int32_t r = 0; r < 2; r++)
            IN_CHILD(pid[r], NEED(!meet_once(TCP4, r, 2, port, 15000, 0), "%s", trouble.text));
        for (int32_t r = 0; r < 2; r++)
            cr_expect_eq(exit_of(pid[r]), 0, "talks %d rank %d", talks, (int)r);
        kill(squatter, SIGTERM);
        cr_expect(WIFSIGNALED(exit_of(squatter)), "it heard nothing");
        close(ready[0]);
        close(ready[1]);
    }
}

/* Connections that say nothing, too little, junk, or nearly the right thing; most stay open. */
static void disturb(int port, int ready)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)port)};
    char junk[8192];
    memset(junk, 0x5a, sizeof junk);
    uint64_t magic = MEET_MAGIC;
    memcpy(junk + 4096, &magic, sizeof magic);
    for (int i = 0; i < 80; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0 && i % 4)
            (void)!send(fd, i % 4 == 3 ? junk + 4096 : junk, i % 3 ? 4000 : 20, MSG_NOSIGNAL);
        if (i % 5 == 0)
            close(fd);
        usleep(1000);
    }
    NEED(write(ready, "", 1) == 1, "ready");
    pause();
}

Test(bootstrap, strangers_do_no_harm, .timeout = 60)
{
    int port = free_port(1), ready[2];
    pid_t pid[2], stranger;
    char byte;
    cr_assert_eq(pipe(ready), 0);
    IN_CHILD(pid[0], NEED(!meet_once(TCP4, 0, 2, port, 15000, 0), "%s", trouble.text));
    usleep(200000);
    IN_CHILD(stranger, disturb(port, ready[1]));
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    IN_CHILD(pid[1], NEED(!meet_once(TCP4, 1, 2, port, 15000, 0), "%s", trouble.text));
    cr_expect_eq(exit_of(pid[0]), 0);
    cr_expect_eq(exit_of(pid[1]), 0);
    kill(stranger, SIGTERM);
    cr_expect(WIFSIGNALED(exit_of(stranger)));
    close(ready[0]);
    close(ready[1]);
}

/* More ranks than descriptors: told at once, not as ranks that did not come. */
static void without_descriptors(int port)
{
    const rlim_t next = (rlim_t)dup(0);
    const struct rlimit few = {next + 6, next + 6};
    NEED(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
    need_failure(meet_once(UNIX_SOCKET, 0, 12, port, 8000, 0), ZDS_ERR_IO, "ulimit -n");
}

Test(bootstrap, too_few_descriptors, .timeout = 60)
{
    int port = free_port(1);
    pid_t pid[12];
    IN_CHILD(pid[0], without_descriptors(port));
    usleep(200000);
    for (int32_t r = 1; r < 12; r++)
        IN_CHILD(pid[r],
                 need_failure(meet_once(UNIX_SOCKET, r, 12, port, 8000, 0), ZDS_ERR_IO, ""));
    cr_expect_eq(exit_of(pid[0]), 0);
    for (int32_t r = 1; r < 12; r++) {
        kill(pid[r], SIGKILL);
        exit_of(pid[r]);
    }
}

/* A rank 0 that is none: its answers are believed in nothing. */
static void pretend(int port, int kind)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)port)};
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    NEED(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 8) == 0, "the port");
    int with = accept(fd, NULL, NULL);
    meet_greeting greeting = {.magic = MEET_MAGIC, .version = MEET_VERSION, .world_size = 2};
    meet_frame frame = {.magic = MEET_MAGIC, .number = 1, .bytes = 16};
    if (kind == 0)
        frame.bytes = UINT64_MAX - 100;
    if (kind == 1)
        frame = (meet_frame){.magic = MEET_MAGIC, .status = 12345, .bytes = 5};
    if (kind == 2)
        frame = (meet_frame){.magic = MEET_MAGIC, .status = ZDS_ERR_IO, .bytes = 1 << 30};
    if (kind == 3)
        frame.magic++;
    if (kind == 4)
        frame.number = 77;
    (void)!send(with, &greeting, sizeof greeting, MSG_NOSIGNAL);
    (void)!send(with, &frame, sizeof frame, MSG_NOSIGNAL);
    sleep(1);
}

Test(bootstrap, a_false_rank_0, .timeout = 60)
{
    unsetenv("TORCHELASTIC_RUN_ID");
    for (int kind = 0; kind < 5; kind++) {
        int port = free_port(1);
        pid_t pid, other;
        IN_CHILD(other, pretend(port, kind));
        IN_CHILD(pid, need_failure(meet_once(TCP4, 1, 2, port, 5000, 0), ZDS_ERR_PEER,
                                   "is not rank 0 of this job"));
        cr_expect_eq(exit_of(pid), 0, "kind %d", kind);
        exit_of(other);
    }
}

/* No descriptor survives exec, and none stays. */
static void descriptors(int32_t r, int port)
{
    zds_comm_env env = env_by(UNIX_SOCKET, r, 2, port, 5000);
    bool open_before[64];
    for (int fd = 0; fd < 64; fd++)
        open_before[fd] = fcntl(fd, F_GETFD) >= 0;
    bootstrap *b = bootstrap_open(&env);
    NEED(!exchange(b, r, 2, 8), "%s", trouble.text);
    for (int fd = 0; fd < 64; fd++)
        NEED(open_before[fd] || fcntl(fd, F_GETFD) < 0 || fcntl(fd, F_GETFD) & FD_CLOEXEC, "fd %d",
             fd);
    bootstrap_close(b);
    for (int fd = 0; fd < 64; fd++)
        NEED(open_before[fd] == (fcntl(fd, F_GETFD) >= 0), "fd %d", fd);
}

Test(bootstrap, descriptors_are_its_own, .timeout = 30)
{
    pid_t pid[2];
    int port = free_port(1);
    for (int32_t r = 0; r < 2; r++)
        IN_CHILD(pid[r], descriptors(r, port));
    cr_expect_eq(exit_of(pid[0]), 0);
    cr_expect_eq(exit_of(pid[1]), 0);
}

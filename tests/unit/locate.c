/* Ranks whose launcher says RANK and WORLD_SIZE alone find out which of them share a machine. */
#include <criterion/criterion.h>

#include "comm_ranks.h"
#include "host/error.h"
#include "host/locate.h"

typedef struct wanted {
    const char *host;
    int32_t local_rank, local_world_size;
} wanted;

static void locate(int32_t r, int32_t n, int port, const wanted *w)
{
    char identity[LAUNCH_HOST] = "";
    zds_error error = ZDS_ERROR_INIT;
    launch l = {.rank = r, .world_size = n};
    zds_comm_env env = rank_env(r, n, port, 20000);
    env.local_rank = env.local_world_size = 0;
    bootstrap *b = bootstrap_open(&env);
    if (w->host)
        snprintf(identity, sizeof identity, "%s", w->host);
    else
        launch_host_identity(identity, sizeof identity);
    NEED(locate_ranks(&l, b, identity, &error) == ZDS_OK, "%s", error.text);
    NEED(l.local_rank == w->local_rank && l.local_world_size == w->local_world_size,
         "rank %d is %d of %d here", (int)r, (int)l.local_rank, (int)l.local_world_size);
    /* The plugin of one node takes them only if they are. */
    void *self = NULL;
    const zds_comm_ops *shm = open_plugin("shm");
    env.local_rank = l.local_rank;
    env.local_world_size = l.local_world_size;
    env.bootstrap = bootstrap_offer(b);
    zds_status status = shm->init(&test_host, NULL, &env, &self);
    if (l.local_world_size == n) {
        NEED(status == ZDS_OK, "shm");
        shm->finalize(self);
    } else {
        NEED(status == ZDS_ERR_UNSUPPORTED && strstr(last_error, "of one node"), "shm refuses");
    }
    bootstrap_close(b);
}

static void run(const wanted *w, int32_t n)
{
    pid_t pid[4];
    int port = 20000 + (getpid() * 17 + test_port()) % 10000;
    fflush(NULL);
    for (int32_t r = 0; r < n; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            alarm(30);
            locate(r, n, port, &w[r]);
            _exit(0);
        }
    }
    for (int32_t r = 0; r < n; r++) {
        int status = -1;
        waitpid(pid[r], &status, 0);
        cr_expect_eq(status, 0, "rank %d of %d", (int)r, (int)n);
    }
}

Test(locate, ranks_of_this_machine, .timeout = 60)
{
    run((const wanted[]){{NULL, 0, 2}, {NULL, 1, 2}}, 2);
    run((const wanted[]){{NULL, 0, 3}, {NULL, 1, 3}, {NULL, 2, 3}}, 3);
}

Test(locate, ranks_of_two_machines, .timeout = 60)
{
    run((const wanted[]){{"a", 0, 1}, {"b", 0, 1}}, 2);
    run((const wanted[]){{"a", 0, 2}, {"b", 0, 1}, {"a", 1, 2}}, 3);
}

/* Who knows asks nobody. */
Test(locate, what_is_known_stays)
{
    launch l = {.rank = 3, .world_size = 8, .local_rank = 1, .local_world_size = 2};
    cr_expect_eq(locate_ranks(&l, NULL, NULL, NULL), ZDS_OK);
    cr_expect(l.local_rank == 1 && l.local_world_size == 2);
}

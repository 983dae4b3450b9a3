/* Who a process is, by the variables of each launcher. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/launch.h"
#include "zds/zds.h"

typedef struct variable {
    const char *name, *value;
} variable;

enum { MOST = 5 };

/* What a launcher sets; `slurm`: SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_NODEID. */
typedef struct surroundings {
    const char *slurm[4];
    variable set[MOST];
} surroundings;

static void enter(const surroundings *s)
{
    static const char *const names[] = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID",
                                        "SLURM_NODEID"};
    clearenv();
    for (size_t i = 0; i < 4 && s->slurm[i]; i++)
        setenv(names[i], s->slurm[i], 1);
    for (size_t i = 0; i < MOST && s->set[i].name; i++)
        setenv(s->set[i].name, s->set[i].value, 1);
}

static const struct {
    int32_t rank, world_size, local_rank, local_world_size;
    surroundings in;
} samples[] = {
    {0, 1, 0, 1, {.set = {{"PATH", "/"}}}},
    {3,
     4,
     1,
     2,
     {.set = {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}}}},
    /* 0 of 0: who shares this node is not said, or half of it */
    {3, 4, 0, 0, {.set = {{"RANK", "3"}, {"WORLD_SIZE", "4"}}}},
    {3, 4, 0, 0, {.set = {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}}}},
    {3, 4, 0, 0, {.set = {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "2"}}}},
    {3, 4, 3, 4, {.set = {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "4"}}}},
    {0, 1, 0, 1, {.set = {{"RANK", "0"}, {"WORLD_SIZE", "1"}}}},
    {5, 8, 0, 0, {.set = {{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}}}},
    {5,
     8,
     1,
     4,
     {.set = {{"OMPI_COMM_WORLD_RANK", "5"},
              {"OMPI_COMM_WORLD_SIZE", "8"},
              {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
              {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}}}},
    {5,
     8,
     1,
     4,
     {.set = {{"PMI_RANK", "5"},
              {"PMI_SIZE", "8"},
              {"MPI_LOCALRANKID", "1"},
              {"MPI_LOCALNRANKS", "4"}}}},
    /* zds-run within a Slurm job: the inner launcher counts */
    {1, 2, 0, 0, {{"0", "1", "0", "0"}, {{"RANK", "1"}, {"WORLD_SIZE", "2"}}}},
    /* nodes of 2, 2, 2 and 1 tasks, with and without --ntasks-per-node */
    {3, 7, 1, 2, {{"3", "7", "1", "1"}, {{"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"}}}},
    {6, 7, 0, 1, {{"6", "7", "0", "3"}, {{"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"}}}},
    {6,
     7,
     0,
     1,
     {{"6", "7", "0", "3"},
      {{"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"}, {"SLURM_NTASKS_PER_NODE", "2"}}}},
    {2, 4, 0, 2, {{"2", "4", "0", "1"}, {{"SLURM_TASKS_PER_NODE", "2,2"}}}},
    /* a step of two tasks in a job of eight: the job's list says nothing of the step */
    {1, 2, 0, 0, {{"1", "2", "1", "0"}, {{"SLURM_TASKS_PER_NODE", "4(x2)"}}}},
    {1,
     2,
     1,
     2,
     {{"1", "2", "1", "0"},
      {{"SLURM_STEP_TASKS_PER_NODE", "2"}, {"SLURM_TASKS_PER_NODE", "4(x2)"}}}},
    {3, 4, 1, 2, {{"3", "4", "1", "1"}, {{"SLURM_NTASKS_PER_NODE", "2"}}}},
    {1, 2, 1, 2, {{"1", "2", "1", "0"}, {{"SLURM_NTASKS_PER_NODE", "8"}}}},
};

Test(launch, says_who_we_are)
{
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        zds_comm_env env = {.struct_size = sizeof env};
        zds_error error = ZDS_ERROR_INIT;
        enter(&samples[i].in);
        cr_assert_eq(zds_launched_as(&env, &error), ZDS_OK, "sample %zu: %s", i, error.text);
        cr_expect(env.rank == samples[i].rank && env.world_size == samples[i].world_size &&
                      env.local_rank == samples[i].local_rank &&
                      env.local_world_size == samples[i].local_world_size,
                  "sample %zu: rank %d of %d, local %d of %d", i, env.rank, env.world_size,
                  env.local_rank, env.local_world_size);
        cr_expect_str_eq(env.master_addr, "127.0.0.1");
        cr_expect_eq(env.timeout_ms, 1800000);
        cr_expect((env.master_port == 0) == (env.world_size == 1), "sample %zu", i);
    }
}

Test(launch, takes_address_port_and_patience)
{
    const surroundings in = {.set = {{"RANK", "0"},
                                     {"WORLD_SIZE", "2"},
                                     {"MASTER_ADDR", "node7"},
                                     {"MASTER_PORT", "1234"},
                                     {"ZDS_TIMEOUT", "5"}}};
    zds_comm_env env = {.struct_size = sizeof env};
    enter(&in);
    cr_assert_eq(zds_launched_as(&env, NULL), ZDS_OK);
    cr_expect_str_eq(env.master_addr, "node7");
    cr_expect_eq(env.master_port, 1234);
    cr_expect_eq(env.timeout_ms, 5000);
}

/* The text names the variable; the caller goes on alone. */
Test(launch, refuses_what_makes_no_sense)
{
    static const struct {
        const char *named;
        surroundings in;
    } faults[] = {
        {"RANK", {.set = {{"RANK", "2"}, {"WORLD_SIZE", "2"}}}},
        {"WORLD_SIZE", {.set = {{"RANK", "0"}, {"WORLD_SIZE", "two"}}}},
        {"MASTER_PORT", {.set = {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "0"}}}},
        {"SLURM_STEP_TASKS_PER_NODE",
         {{"0", "4", "0", "0"}, {{"SLURM_STEP_TASKS_PER_NODE", "2(x2"}}}},
        {"SLURM_TASKS_PER_NODE", {{"0", "4", "0", "0"}, {{"SLURM_TASKS_PER_NODE", "2,,2"}}}},
        {"SLURM_TASKS_PER_NODE", {{"0", "4", "0", "0"}, {{"SLURM_TASKS_PER_NODE", "-4"}}}},
        {"SLURM_TASKS_PER_NODE", {{"0", "4", "0", "0"}, {{"SLURM_TASKS_PER_NODE", "4,"}}}},
        {"SLURM_LOCALID", {{"3", "4", "2", "1"}, {{"SLURM_TASKS_PER_NODE", "2(x2)"}}}},
        {"LOCAL_RANK", {.set = {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "2"}}}},
        {"LOCAL_WORLD_SIZE",
         {.set = {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "3"}}}},
        {"SLURM_NODEID", {.slurm = {"0", "4", "0", "x"}}},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        zds_comm_env env = {.struct_size = sizeof env};
        zds_error error = ZDS_ERROR_INIT;
        enter(&faults[i].in);
        cr_assert_eq(zds_launched_as(&env, &error), ZDS_ERR_INVALID, "fault %zu", i);
        cr_expect(error.text && strstr(error.text, faults[i].named), "fault %zu: %s", i,
                  error.text);
        cr_expect(env.rank == 0 && env.world_size == 1 && env.local_world_size == 1, "fault %zu",
                  i);
        zds_error_clear(&error);
    }
}

/* A program built against an older header has a smaller struct. */
Test(launch, writes_no_more_than_the_caller_has)
{
    zds_comm_env env;
    memset(&env, 0x55, sizeof env);
    env.struct_size = offsetof(zds_comm_env, local_rank);
    enter(&(const surroundings){.set = {{"RANK", "1"}, {"WORLD_SIZE", "2"}}});
    cr_assert_eq(zds_launched_as(&env, NULL), ZDS_OK);
    cr_expect_eq(env.rank, 1);
    cr_expect_eq(env.local_rank, 0x55555555);
    zds_error error = ZDS_ERROR_INIT;
    env.struct_size = 0;
    cr_expect_eq(zds_launched_as(&env, &error), ZDS_ERR_INVALID);
    cr_expect(error.text && strstr(error.text, "struct_size"), "%s", error.text);
    zds_error_clear(&error);
}

/* Seven ranks of three nodes, the middle one's placed round about. */
Test(launch, local_numbers_come_from_the_hosts_of_all_ranks)
{
    enum { STRIDE = 16 };
    static const char hosts[7][STRIDE] = {"boot1 a", "boot2 a", "boot1 a", "boot1 a",
                                          "boot2 a", "boot1 b", "boot2 a"};
    static const int32_t local[7][2] = {{0, 3}, {0, 3}, {1, 3}, {2, 3}, {1, 3}, {0, 1}, {2, 3}};
    for (int32_t r = 0; r < 7; r++) {
        launch l = {.rank = r, .world_size = 7};
        launch_place_locally(&l, hosts[0], STRIDE);
        cr_expect(l.local_rank == local[r][0] && l.local_world_size == local[r][1],
                  "rank %d: local %d of %d", r, l.local_rank, l.local_world_size);
    }
}

Test(launch, names_that_fill_their_room_are_compared_whole)
{
    launch l = {.rank = 1, .world_size = 3};
    launch_place_locally(&l, "abcXabcYabcY", 4);
    cr_expect_eq(l.local_rank, 0);
    cr_expect_eq(l.local_world_size, 2);
}

Test(launch, a_host_is_its_boot_and_its_name)
{
    char first[LAUNCH_HOST], second[LAUNCH_HOST], boot[64] = "", name[65] = "";
    memset(first, 0x55, sizeof first);
    memset(second, 0xaa, sizeof second);
    launch_host_identity(first, sizeof first);
    launch_host_identity(second, sizeof second);
    cr_expect_eq(memcmp(first, second, sizeof first), 0);
    cr_assert_eq(gethostname(name, sizeof name - 1), 0);
    cr_expect(strstr(first, name), "\"%s\" has no \"%s\"", first, name);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f)
        cr_skip_test("this system has no boot id");
    cr_assert(fgets(boot, sizeof boot, f));
    fclose(f);
    boot[strcspn(boot, "\n")] = '\0';
    cr_expect(strstr(first, boot), "\"%s\" has no \"%s\"", first, boot);
    char little[8];
    launch_host_identity(little, sizeof little);
    cr_expect_eq(strncmp(little, first, sizeof little - 1), 0);
    cr_expect_eq(little[sizeof little - 1], '\0');
}

Test(launch, one_node_is_assumed_only_where_nothing_is_known)
{
    launch known = {.rank = 3, .world_size = 4, .local_rank = 1, .local_world_size = 2};
    launch_assume_one_node(&known);
    cr_expect(known.local_rank == 1 && known.local_world_size == 2);
    launch unknown = {.rank = 3, .world_size = 4};
    launch_assume_one_node(&unknown);
    cr_expect(unknown.local_rank == 3 && unknown.local_world_size == 4);
}

Test(launch, knows_by_which_variable_it_was_told_its_rank)
{
    enter(&(const surroundings){.set = {{"RANK", "1"}}}); /* without WORLD_SIZE */
    cr_expect_null(launch_rank_told());
    enter(&(const surroundings){.slurm = {"5", "8", "1", "0"}});
    char *told = launch_rank_told();
    cr_expect_str_eq(told, "SLURM_PROCID=5");
    free(told);
}

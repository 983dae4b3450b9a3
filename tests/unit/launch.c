/* Who a process is, by the variables of each launcher. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    {3, 4, 3, 4, {.set = {{"RANK", "3"}, {"WORLD_SIZE", "4"}}}},
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
    {1, 2, 1, 2, {{"0", "1", "0", "0"}, {{"RANK", "1"}, {"WORLD_SIZE", "2"}}}},
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
    {1, 2, 1, 2, {{"1", "2", "1", "0"}, {{"SLURM_TASKS_PER_NODE", "4(x2)"}}}},
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
        cr_expect_eq(env.timeout_ms, 60000);
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
}

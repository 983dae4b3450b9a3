/* What an engine of one rank refuses, protects, and takes of memory. */
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_descent.h"

Test(engine_limits, calls_out_of_order_are_refused_and_change_nothing)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1,\"gradient_clipping\":0}");
    zds_engine *e = f.engine;
    zds_view v;
    cr_assert_eq(zds_step(e, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID);
    cr_assert_eq(zds_acquire(e, 9, ZDS_FORWARD, NULL, &v), ZDS_ERR_INVALID);
    cr_assert_eq(zds_grad_ready(e, 0, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_micro_begin(e, 7), ZDS_ERR_INVALID);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_OK);
    cr_assert_eq(zds_micro_begin(e, ZDS_BOUNDARY_AUTO), ZDS_ERR_INVALID);
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 1, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID);
    cr_assert_eq(zds_step(e, NULL), ZDS_ERR_INVALID);
    cr_assert_eq(zds_grad_none(e, 0, 99), ZDS_ERR_INVALID);
    cr_assert_eq(zds_grad_none(e, 0, 0), ZDS_OK);
    cr_assert_eq(zds_grad_none(e, 0, 1), ZDS_OK);
    cr_assert_eq(zds_grad_ready(e, 0, NULL), ZDS_OK);
    cr_assert_eq(zds_acquire(e, 1, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID,
                 "module 1 after module 0");
    cr_assert_eq(zds_acquire(e, 0, ZDS_BACKWARD, NULL, &v), ZDS_ERR_INVALID, "module 0 twice");
    cr_assert_eq(zds_step(e, NULL), ZDS_OK);
    for (uint32_t p = 0; p < PARAMS; p++)
        cr_assert_eq(check(e, p, NULL, moved, 0), 0);
    close_engine(f);
}

Test(engine_limits, pages_of_stage_1_are_read_only_for_callers)
{
    ON_HOST_ALONE("only pages of the host's are protected");
    fixture f =
        open_engine("{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{\"stage\":1}}");
    zds_view v;
    int zeros = open("/dev/zero", O_RDONLY); /* the kernel writes, or says that it may not */
    cr_assert_eq(zds_acquire(f.engine, 0, ZDS_FORWARD, NULL, &v), ZDS_OK);
    cr_assert_eq(read(zeros, (void *)(uintptr_t)v.slots[0].data, 4), -1);
    cr_assert_eq(errno, EFAULT);
    close(zeros);
    close_engine(f);
}

Test(engine_limits, a_forked_child_is_refused)
{
    fixture f = open_engine("{\"train_micro_batch_size_per_gpu\":1}");
    pid_t pid = fork();
    if (pid == 0)
        _exit(zds_micro_begin(f.engine, ZDS_BOUNDARY_AUTO) == ZDS_ERR_INVALID &&
                      zds_barrier(f.engine) == ZDS_ERR_INVALID
                  ? 42
                  : 1);
    int state;
    waitpid(pid, &state, 0);
    cr_assert_eq(WEXITSTATUS(state), 42);
    close_engine(f);
}

static double row(const zds_engine *e, const char *purpose)
{
    zds_memory_row r;
    for (size_t i = 0; zds_memory_report(e, i, &r); i++)
        if (strcmp(r.purpose, purpose) == 0)
            return (double)r.bytes;
    return 0;
}

/* Design: what ZeRO must save, with one rank; padding is under 64 bytes a parameter and state, and
 * under two pages each for parameters that are trained and that are not. */
Test(engine_limits, memory_is_what_the_formulas_say)
{
    const double psi = SIZE_A + SIZE_B + 70000, total = psi + 5, slack = 4 * 4096;
    static const struct {
        const char *json;
        double params, grads, master;
    } rows[] = {
        {"{\"train_micro_batch_size_per_gpu\":1}", 4, 4, 0},
        {"{\"train_micro_batch_size_per_gpu\":1,\"zero_optimization\":{\"stage\":2}}", 4, 4, 0},
        {"{\"train_micro_batch_size_per_gpu\":1,\"bf16\":{\"enabled\":true}}", 2, 2, 4},
        {"{\"train_micro_batch_size_per_gpu\":1,\"bf16\":{\"enabled\":true},\"gradient_"
         "accumulation_steps\":2}",
         2, 4, 4},
        {"{\"train_micro_batch_size_per_gpu\":1,\"bf16\":{\"enabled\":true},\"zero_optimization\":{"
         "\"stage\":2}}",
         2, 2, 4},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        fixture f = open_engine(rows[k].json);
        cr_log_info("%s: parameters %.0f gradients %.0f master %.0f states %.0f", rows[k].json,
                    row(f.engine, "parameters"), row(f.engine, "gradients"),
                    row(f.engine, "master weights"), row(f.engine, "optimizer states"));
        cr_assert(fabs(row(f.engine, "parameters") - rows[k].params * total) < slack);
        cr_assert(fabs(row(f.engine, "gradients") - rows[k].grads * psi) < slack);
        cr_assert(fabs(row(f.engine, "master weights") - rows[k].master * psi) < slack);
        cr_assert(fabs(row(f.engine, "optimizer states") - 4 * psi) < slack);
        close_engine(f);
    }
}

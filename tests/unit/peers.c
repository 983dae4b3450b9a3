/* Operations of the ranks that move while nobody waits for them. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "peers_fake.h"

static const zds_coll nothing = {.struct_size = sizeof nothing};
static fake f;
static ledger *memory;
static pool *threads;
static zds_event *event;

static void begin(void)
{
    memory = ledger_create();
    cr_assert_eq(pool_create(2, NULL, &threads, NULL), ZDS_OK);
    fake_open(&f, memory, threads);
}

static void end(void)
{
    fake_close(&f);
    pool_destroy(threads);
    ledger_destroy(memory);
}

static void issue(void)
{
    cr_assert_eq(peers_issue(&f.peers, f.ops.barrier, &nothing, "a test", &event), ZDS_OK);
}

/* Longer than from one look to the next. */
static void pause_body(void *arg, size_t i, int32_t thread)
{
    (void)arg, (void)i, (void)thread;
    usleep(100);
}

TestSuite(peers, .init = begin, .fini = end, .timeout = 60);

Test(peers, a_tick_moves_what_is_in_flight_and_nothing_else)
{
    pool_tick_set(threads, fake_tick, &f.peers);
    pool_run(threads, 8, pause_body, NULL);
    cr_assert_eq(f.calls, 0, "%ld calls with nothing in flight", f.calls);
    issue();
    pool_run(threads, 64, pause_body, NULL);
    cr_assert(f.calls >= f.needed && f.left == 0, "%ld calls", f.calls);
    cr_assert_eq(peers_wait(&f.peers, &event, "a test"), ZDS_OK);
    long calls = f.calls;
    pool_run(threads, 8, pause_body, NULL);
    cr_assert_eq(f.calls, calls);
}

/* One that the operation's own bodies bring about must not enter it anew. */
Test(peers, no_tick_within_an_operation)
{
    pool_tick_set(threads, fake_tick, &f.peers);
    issue();
    cr_assert_eq(peers_enter(&f.peers, "a test"), ZDS_OK);
    pool_run(threads, 8, pause_body, NULL);
    cr_assert_eq(f.calls, 0);
    cr_assert_eq(peers_leave(&f.peers, ZDS_OK, NULL), ZDS_OK);
    cr_assert_eq(peers_wait(&f.peers, &event, "a test"), ZDS_OK);
    cr_assert_eq(f.calls, f.needed);
}

/* It is told once somebody can hear it, and nothing moves after it. */
Test(peers, what_a_tick_failed_with_is_told_by_the_next_call)
{
    pool_tick_set(threads, fake_tick, &f.peers);
    f.needed = 1000;
    f.fails_at = 2;
    issue();
    pool_run(threads, 64, pause_body, NULL);
    cr_assert_eq(f.calls, 2);
    cr_assert(!f.failure.broken && !f.failure.text);
    cr_assert_eq(peers_wait(&f.peers, &event, "gradients of m"), ZDS_ERR_PEER);
    cr_assert(f.failure.broken);
    cr_assert(strstr(f.failure.text, "gradients of m") && strstr(f.failure.text, "rank 1 is gone"),
              "%s", f.failure.text);
    cr_assert_eq(peers_progress(&f.peers), ZDS_ERR_PEER);
    cr_assert_eq(f.calls, 2);
    f.left = 0;
    peers_drop(&f.peers, &event);
    cr_assert_null(event);
}

/* The thread works while there is something in flight, alone, and sleeps else. */
Test(peers, the_thread)
{
    cr_assert_eq(peers_move(&f.peers, NULL), ZDS_OK);
    usleep(20000);
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(peers_enter(&f.peers, "a test"), ZDS_OK);
        long before = f.calls, left = 1;
        peers_leave(&f.peers, ZDS_OK, NULL);
        issue();
        for (int i = 0; i < 1000 && left; i++) {
            usleep(1000);
            peers_enter(&f.peers, "a test");
            left = f.left;
            peers_leave(&f.peers, ZDS_OK, NULL);
        }
        cr_assert_eq(left, 0, "nothing has moved");
        cr_assert_eq(peers_wait(&f.peers, &event, "a test"), ZDS_OK);
        peers_enter(&f.peers, "a test");
        long after = f.calls;
        peers_leave(&f.peers, ZDS_OK, NULL);
        cr_assert(after >= before + f.needed);
        usleep(20000);
        peers_enter(&f.peers, "a test");
        cr_assert_eq(f.calls, after, "it went on");
        peers_leave(&f.peers, ZDS_OK, NULL);
    }
}

Test(peers, what_the_thread_failed_with)
{
    f.needed = 1000;
    f.fails_at = 1;
    cr_assert_eq(peers_move(&f.peers, NULL), ZDS_OK);
    issue();
    zds_status status = ZDS_OK;
    for (int i = 0; i < 1000 && !status; i++) {
        usleep(1000);
        status = peers_enter(&f.peers, "a test");
        if (!status)
            peers_leave(&f.peers, ZDS_OK, NULL);
    }
    cr_assert_eq(status, ZDS_ERR_PEER);
    f.left = 0;
    peers_drop(&f.peers, &event);
}

/* Among some of the ranks: moved to its end, or left under way where it moves by itself. */
Test(peers, an_operation_of_a_cell)
{
    const peer_cell cell = {.self = &f, .size = 1};
    cr_assert_eq(peers_issue_in(&f.peers, &cell, f.ops.barrier, &nothing, "a test", &event),
                 ZDS_OK);
    cr_assert_null(event);
    cr_assert_eq(f.calls, f.needed);
    f.ops.flags |= ZDS_COMM_AUTO_PROGRESS;
    cr_assert_eq(peers_issue_in(&f.peers, &cell, f.ops.barrier, &nothing, "a test", &event),
                 ZDS_OK);
    cr_assert_eq(f.calls, f.needed);
    cr_assert_eq(peers_wait(&f.peers, &event, "a test"), ZDS_OK);
    cr_assert_eq(f.calls, 2 * f.needed);
    f.ops.flags = 0;
    f.fails_at = f.calls + 2;
    cr_assert_eq(peers_issue_in(&f.peers, &cell, f.ops.barrier, &nothing, "a test", &event),
                 ZDS_ERR_PEER);
    cr_assert_null(event);
    cr_assert(f.failure.broken && f.aborts == 1);
}

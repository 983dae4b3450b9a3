/* Files as a tier: what they hold, the folder that they are in, and what is left of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "plugin_harness.h"

enum { RANK = 3 };

typedef struct tier {
    harness h;
    const zds_plugin *plugin;
    const zds_offload_ops *ops;
    void *options, *self;
    char folder[64];
    zds_offload_info info;
} tier;

/* `json`: the plugin's options. */
static zds_status try_open(tier *t, const char *path, const char *json)
{
    harness_init(&t->h);
    t->plugin = plugin_open("offload_nvme", "nvme");
    t->ops = t->plugin->ops;
    t->options = options_from(t->plugin, json);
    const zds_offload_env env = {
        .struct_size = sizeof env, .rank = RANK, .device = -1, .path = path};
    zds_status status = t->ops->open(&t->h.host, t->options, &env, &t->self);
    if (status)
        options_destroy(t->options);
    return status;
}

static void open_in(tier *t, const char *path, const char *json)
{
    cr_assert_eq(try_open(t, path, json), ZDS_OK, "%s", t->h.error);
    t->info = (zds_offload_info){.struct_size = sizeof t->info};
    cr_assert_eq(t->ops->query(t->self, &t->info), ZDS_OK);
}

static void make_folder(char *folder, const char *where)
{
    snprintf(folder, 64, "%s/zds-test-XXXXXX", where);
    cr_assert_not_null(mkdtemp(folder));
}

static void open_new(tier *t, const char *json)
{
    make_folder(t->folder, "/tmp");
    open_in(t, t->folder, json);
}

static void close_it(tier *t)
{
    t->ops->close(t->self);
    options_destroy(t->options);
    cr_assert_eq(t->h.live, 0);
}

/* The folder that a test has made holds nothing. */
static void close_new(tier *t)
{
    close_it(t);
    cr_assert_eq(rmdir(t->folder), 0, "%s", strerror(errno));
}

static zds_block take(tier *t, uint64_t bytes)
{
    zds_block block = {.struct_size = sizeof block};
    cr_assert_eq(t->ops->alloc(t->self, bytes, &block), ZDS_OK, "%s", t->h.error);
    return block;
}

static zds_end in(const zds_block *block, uint64_t offset)
{
    return (zds_end){.block = block, .offset = offset, .device = block->device};
}

static zds_end at(void *memory)
{
    return (zds_end){.pointer = memory, .device = {.space = ZDS_SPACE_HOST}};
}

static zds_event *begin(tier *t, zds_end from, zds_end to, uint64_t bytes, zds_event *wait)
{
    zds_event *waits[] = {wait, NULL}, *done = NULL;
    const zds_copy copy = {.struct_size = sizeof copy,
                           .from = from,
                           .to = to,
                           .bytes = bytes,
                           .waits = waits,
                           .wait_count = 2};
    cr_assert_eq(t->ops->copy(t->self, &copy, &done), ZDS_OK, "%s", t->h.error);
    return done;
}

static zds_status end(zds_event *event)
{
    zds_status status = event ? event->ops->wait(event) : ZDS_OK;
    if (event)
        event->ops->release(event);
    return status;
}

static void move(tier *t, zds_end from, zds_end to, uint64_t bytes)
{
    cr_assert_eq(end(begin(t, from, to, bytes, NULL)), ZDS_OK, "%s", t->h.error);
}

static unsigned char value(uint64_t i, uint64_t seed)
{
    return (unsigned char)((i * 2654435761u + seed * 97) >> 7);
}

static void put_values(void *memory, uint64_t bytes, uint64_t seed)
{
    unsigned char *m = memory;
    for (uint64_t i = 0; i < bytes; i++)
        m[i] = value(i, seed);
}

static void expect_values(const void *memory, uint64_t bytes, uint64_t seed)
{
    const unsigned char *m = memory;
    for (uint64_t i = 0; i < bytes; i++)
        cr_assert_eq(m[i], value(i, seed), "byte %" PRIu64 " of %" PRIu64, i, bytes);
}

/* The one name in a folder that begins with `prefix`, as a path. */
static void find(const char *folder, const char *prefix, char *path, size_t size)
{
    DIR *all = opendir(folder);
    int found = 0;
    cr_assert_not_null(all);
    for (const struct dirent *e; (e = readdir(all));)
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0) {
            cr_assert_lt((size_t)snprintf(path, size, "%s/%s", folder, e->d_name), size);
            found++;
        }
    closedir(all);
    cr_assert_eq(found, 1, "%d of %s in %s", found, prefix, folder);
}

/* The tier's own folder, and the file of its first block. */
static void find_file(const tier *t, char own[256], char path[300])
{
    find(t->folder, "zds-nvme-", own, 256);
    cr_assert_lt(snprintf(path, 300, "%s/block-1", own), 300);
}

/* === what it says === */

Test(offload_nvme, says_what_it_is)
{
    tier t;
    open_new(&t, "{\"block_size\": 1000, \"queue_depth\": 5, \"intra_op_parallelism\": 3}");
    cr_assert_eq(t.ops->space, ZDS_SPACE_FILE);
    cr_assert_eq(t.ops->flags & ZDS_OFFLOAD_DIRECT, 0);
    cr_assert_eq(t.info.device.space, ZDS_SPACE_FILE);
    cr_assert_eq(t.info.reaches,
                 ZDS_SPACE_BIT(ZDS_SPACE_HOST) | ZDS_SPACE_BIT(ZDS_SPACE_HOST_PINNED));
    cr_assert_gt(t.info.free_bytes, 0);
    cr_assert_leq(t.info.free_bytes, t.info.total_bytes);
    cr_assert_eq(t.info.request_depth, 15);
    cr_assert_eq(t.info.request_bytes % t.info.alignment, 0);
    cr_assert_geq(t.info.request_bytes, 1000);
    cr_assert_lt(t.info.request_bytes, 1000 + t.info.alignment);
    char path[300];
    snprintf(path, sizeof path, "%s/probe", t.folder);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    struct statx s = {0};
    cr_assert_eq(statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &s), 0);
    if (s.stx_mask & STATX_DIOALIGN && s.stx_dio_offset_align)
        cr_assert_eq(t.info.alignment % s.stx_dio_offset_align, 0);
    close(fd);
    unlink(path);
    close_new(&t);
}

Test(offload_nvme, defaults_are_deepspeeds)
{
    tier t;
    open_new(&t, "{}");
    cr_assert_eq(t.info.request_bytes, 1 << 20);
    cr_assert_eq(t.info.request_depth, 8);
    close_new(&t);
}

Test(offload_nvme, a_folder_that_cannot_be_used_is_refused)
{
    tier t;
    char folder[64], path[128];
    make_folder(folder, "/tmp");
    cr_assert_eq(try_open(&t, NULL, "{}"), ZDS_ERR_CONFIG);
    cr_assert(strstr(t.h.error, "nvme_path"), "%s", t.h.error);
    snprintf(path, sizeof path, "%s/none", folder);
    cr_assert_eq(try_open(&t, path, "{}"), ZDS_ERR_NOT_FOUND);
    cr_assert(strstr(t.h.error, path) && strstr(t.h.error, "rank 3"), "%s", t.h.error);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    cr_assert_eq(try_open(&t, path, "{}"), ZDS_ERR_IO);
    cr_assert(strstr(t.h.error, path) && strstr(t.h.error, "Not a directory"), "%s", t.h.error);
    unlink(path);
    cr_assert_eq(try_open(&t, folder, "{\"queue_depth\":32766,\"intra_op_parallelism\":2}"),
                 ZDS_ERR_CONFIG);
    cr_assert(strstr(t.h.error, "65532"), "%s", t.h.error);
    chmod(folder, 0555);
    cr_assert(geteuid() || seteuid(65534) == 0);
    cr_assert_eq(try_open(&t, folder, "{}"), ZDS_ERR_IO);
    cr_assert(strstr(t.h.error, folder) && strstr(t.h.error, "ermission denied"), "%s", t.h.error);
    cr_assert(getuid() || seteuid(0) == 0);
    cr_assert_eq(t.h.live, 0);
    cr_assert_eq(rmdir(folder), 0);
}

/* === what it keeps === */

static const char *const ways[] = {
    "{}", "{\"block_size\": 1, \"queue_depth\": 1}",
    "{\"block_size\": 70000, \"queue_depth\": 3, \"intra_op_parallelism\": 2}",
    "{\"block_size\": 8192, \"single_submit\": true}",
    "{\"block_size\": 8192, \"queue_depth\": 4, \"overlap_events\": false}"};
enum { WAYS = sizeof ways / sizeof *ways };

/* Memory of any alignment, and a block whose end is none. */
static void round_trips(tier *t)
{
    static const uint64_t sizes[] = {1, 511, 4096, 100001, (3 << 20) + 7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int shift = 0; shift < 3; shift++) {
            const uint64_t n = sizes[i];
            char *memory = aligned_alloc(4096, (n + 8192) / 4096 * 4096);
            char *m = memory + (shift == 2 ? 512 : shift);
            zds_block block = take(t, n), other = take(t, n);
            memset(m, 1, n);
            move(t, in(&block, 0), at(m), n);
            for (uint64_t k = 0; k < n; k++)
                cr_assert_eq(m[k], 0, "a fresh block");
            put_values(m, n, i);
            move(t, at(m), in(&block, 0), n);
            move(t, in(&block, 0), in(&other, 0), n);
            memset(m, 0, n);
            m[n] = 77;
            move(t, in(&other, 0), at(m), n);
            expect_values(m, n, i);
            cr_assert_eq(m[n], 77, "a byte too many was written");
            t->ops->free(t->self, &block);
            t->ops->free(t->self, &other);
            free(memory);
        }
}

Test(offload_nvme, what_is_written_is_read)
{
    for (int way = 0; way < WAYS; way++) {
        tier t;
        open_new(&t, ways[way]);
        round_trips(&t);
        close_new(&t);
    }
}

Test(offload_nvme, what_is_written_is_read_in_memorys_file_system)
{
    for (int way = 0; way < WAYS; way++) {
        tier t;
        make_folder(t.folder, "/dev/shm");
        open_in(&t, t.folder, ways[way]);
        round_trips(&t);
        close_new(&t);
    }
}

/* Hundreds of copies in flight, in chains from memory to the file and back: each waits for the one
 * before, whose bytes it takes on to a place that holds zeros. */
Test(offload_nvme, chains_are_kept_in_order)
{
    enum { CHAINS = 12, LINKS = 40, BYTES = 12288 };
    for (int way = 0; way < WAYS; way++) {
        tier t;
        open_new(&t, ways[way]);
        const uint64_t record = t.info.alignment * (BYTES / t.info.alignment + 1);
        const uint64_t chain = (LINKS + 1) * record;
        zds_block block = take(&t, CHAINS * chain);
        char *memory = calloc(CHAINS, chain);
        zds_event *event[CHAINS][LINKS];
        for (uint64_t c = 0; c < CHAINS; c++)
            put_values(memory + c * chain, record, c);
        for (uint64_t k = 0; k < LINKS; k++)
            for (uint64_t c = 0; c < CHAINS; c++) {
                const uint64_t here = c * chain + k * record;
                zds_end file = in(&block, here - k % 2 * record);
                zds_end place = at(memory + here + k % 2 * record);
                event[c][k] = begin(&t, k % 2 ? file : place, k % 2 ? place : file, record,
                                    k ? event[c][k - 1] : NULL);
            }
        for (int c = CHAINS - 1; c >= 0; c--)
            for (int k = LINKS - 1; k >= 0; k--)
                cr_assert_eq(end(event[c][k]), ZDS_OK, "%s", t.h.error);
        for (uint64_t c = 0; c < CHAINS; c++)
            expect_values(memory + c * chain + LINKS * record, record, c);
        free(memory);
        t.ops->free(t.self, &block);
        close_new(&t);
    }
}

/* Bounce buffers are fewer than requests may be: others wait till one is free. */
Test(offload_nvme, memory_of_no_alignment_takes_turns)
{
    enum { BYTES = 72 << 20, PARTS = 3 };
    tier t;
    open_new(&t, "{\"block_size\": 4194304, \"queue_depth\": 32}");
    zds_block block = take(&t, BYTES);
    char *memory = malloc(BYTES + 1) /* for the shift */, *m = memory + 1;
    zds_event *events[PARTS];
    const uint64_t part = BYTES / PARTS;
    for (int way = 0; way < 2; way++) {
        if (way)
            memset(m, 0, BYTES);
        else
            put_values(m, BYTES, 1);
        for (uint64_t i = 0; i < PARTS; i++)
            events[i] = way ? begin(&t, in(&block, i * part), at(m + i * part), part, NULL)
                            : begin(&t, at(m + i * part), in(&block, i * part), part, NULL);
        for (int i = 0; i < PARTS; i++)
            cr_assert_eq(end(events[i]), ZDS_OK, "%s", t.h.error);
    }
    expect_values(m, BYTES, 1);
    free(memory);
    t.ops->free(t.self, &block);
    close_new(&t);
}

Test(offload_nvme, nothing_to_copy_is_done)
{
    tier t;
    open_new(&t, "{}");
    zds_block block = take(&t, 4096), empty = take(&t, 0);
    char byte;
    cr_assert_eq(end(begin(&t, at(&byte), in(&block, 4096), 0, NULL)), ZDS_OK);
    cr_assert_eq(end(begin(&t, in(&empty, 0), at(&byte), 0, NULL)), ZDS_OK);
    t.ops->free(t.self, &empty);
    t.ops->free(t.self, &block);
    close_new(&t);
}

Test(offload_nvme, what_lies_outside_a_block_is_refused)
{
    static const struct {
        uint64_t offset, bytes;
    } wrong[] = {{0, 8193}, {1, 1}, {8192, 1}, {0, 1}, {UINT64_MAX - 4095, 4096}};
    tier t;
    open_new(&t, "{}");
    zds_block block = take(&t, 8192);
    char memory[8193];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        zds_event *done;
        const zds_copy copy = {.struct_size = sizeof copy,
                               .from = at(memory),
                               .to = in(&block, wrong[i].offset),
                               .bytes = wrong[i].bytes};
        cr_assert_eq(t.ops->copy(t.self, &copy, &done), ZDS_ERR_INVALID, "%zu", i);
    }
    t.ops->free(t.self, &block);
    close_new(&t);
}

/* === events of others === */

typedef struct late {
    zds_event base;
    atomic_int asked, done;
    zds_status status;
} late;

static zds_status late_test(zds_event *event, int32_t *done)
{
    late *l = (late *)(void *)event;
    atomic_fetch_add(&l->asked, 1);
    *done = atomic_load(&l->done);
    return *done ? l->status : ZDS_OK;
}

static const zds_event_ops late_ops = {
    .struct_size = sizeof late_ops, .flags = ZDS_EVENT_ANY_THREAD, .test = late_test};

Test(offload_nvme, waits_for_events_of_others_and_holds_up_nobody)
{
    tier t;
    open_new(&t, "{}");
    zds_block block = take(&t, 8192);
    char first[4096], second[4096], back[8192];
    late a = {.base = {&late_ops}}, b = {.base = {&late_ops}, .status = ZDS_ERR_PEER};
    zds_event *held = begin(&t, at(first), in(&block, 0), 4096, &a.base);
    zds_event *failing = begin(&t, at(first), in(&block, 0), 4096, &b.base);
    zds_event *behind = begin(&t, in(&block, 0), at(back), 4096, failing);
    put_values(second, 4096, 2);
    move(&t, at(second), in(&block, 4096), 4096); /* passes them */
    int32_t done = 0;
    while (atomic_load(&a.asked) < 3)
        sched_yield();
    cr_assert_eq(held->ops->test(held, &done), ZDS_OK);
    cr_assert_eq(done, 0);
    put_values(first, 4096, 1);
    atomic_store(&b.done, 1);
    cr_assert_eq(end(behind), ZDS_ERR_PEER);
    cr_assert_eq(end(failing), ZDS_ERR_PEER);
    cr_assert(strstr(t.h.error, "had to wait for"), "%s", t.h.error);
    atomic_store(&a.done, 1);
    cr_assert_eq(end(held), ZDS_OK);
    move(&t, in(&block, 0), at(back), 8192);
    expect_values(back, 4096, 1);
    expect_values(back + 4096, 4096, 2);
    t.ops->free(t.self, &block);
    close_new(&t);
}

/* === files === */

Test(offload_nvme, the_folder_and_its_files_are_the_users_alone)
{
    tier t;
    char own[256], path[300];
    struct stat s;
    umask(0);
    open_new(&t, "{}");
    zds_block block = take(&t, (5 << 20) + 1), empty = take(&t, 0);
    find_file(&t, own, path);
    cr_assert(stat(own, &s) == 0 && (s.st_mode & 07777) == 0700);
    cr_assert(stat(path, &s) == 0 && (s.st_mode & 07777) == 0600);
    cr_assert_geq(s.st_blocks * 512, (5 << 20) + 1, "the file has no room on the disk");
    cr_assert_null(empty.pointer);
    t.ops->free(t.self, &empty);
    t.ops->free(t.self, &block);
    cr_assert_neq(stat(path, &s), 0);
    close_new(&t);
}

Test(offload_nvme, a_file_that_was_cut_short_is_an_error_that_stays)
{
    enum { CHAIN = 20000 };
    static zds_event *chain[CHAIN];
    tier t;
    char own[256], path[300], memory[8192];
    open_new(&t, "{}");
    zds_block block = take(&t, 1 << 20);
    find_file(&t, own, path);
    cr_assert_eq(truncate(path, 5000), 0);
    move(&t, in(&block, 0), at(memory), 4096);
    zds_event *read = begin(&t, in(&block, 4096), at(memory), 4096, NULL), *last = read;
    for (int i = 0; i < CHAIN; i++)
        last = chain[i] = begin(&t, at(memory), in(&block, 0), 4096, last);
    cr_assert_eq(end(last), ZDS_ERR_IO);
    for (int i = CHAIN - 2; i >= 0; i--)
        cr_assert_eq(end(chain[i]), ZDS_ERR_IO);
    t.h.error[0] = '\0';
    cr_assert_eq(read->ops->wait(read), ZDS_ERR_IO);
    cr_assert_eq(end(read), ZDS_ERR_IO);
    cr_assert(strstr(t.h.error, path) && strstr(t.h.error, "rank 3") &&
                  strstr(t.h.error, "4096 bytes at 4096"),
              "%s", t.h.error);
    move(&t, in(&block, 0), at(memory), 4096); /* others are not touched by that */
    t.ops->free(t.self, &block);
    close_new(&t);
}

static void expect_no_room(tier *t, uint64_t bytes, const char *part)
{
    zds_block block = {.struct_size = sizeof block};
    char size[32];
    snprintf(size, sizeof size, "%" PRIu64, bytes);
    cr_assert_eq(t->ops->alloc(t->self, bytes, &block), ZDS_ERR_IO);
    cr_assert(strstr(t->h.error, part) && strstr(t->h.error, size) &&
                  strstr(t->h.error, "rank 3") && strstr(t->h.error, t->folder),
              "%s", t->h.error);
}

Test(offload_nvme, more_than_there_is_is_an_error)
{
    tier t;
    open_new(&t, "{}");
    expect_no_room(&t, t.info.total_bytes + 1, "No space left");
    expect_no_room(&t, UINT64_MAX, "too large");
    expect_no_room(&t, UINT64_MAX / 2, "");
    close_new(&t);
}

Test(offload_nvme, the_processs_limit_is_an_error_and_no_signal)
{
    tier t;
    open_new(&t, "{}");
    struct rlimit limit = {1 << 20, 1 << 20};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    expect_no_room(&t, (1 << 20) + 1, "ulimit -f");
    zds_block block = take(&t, 1 << 20);
    /* Lowered later, when the file is there. */
    limit.rlim_cur = 4096;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    char memory[4096];
    put_values(memory, 4096, 1);
    zds_event *written = begin(&t, at(memory), in(&block, 8192), 4096, NULL);
    cr_assert_eq(end(written), ZDS_ERR_IO);
    cr_assert(strstr(t.h.error, "ulimit -f"), "%s", t.h.error);
    t.ops->free(t.self, &block);
    close_new(&t);
}

Test(offload_nvme, a_full_file_system_is_an_error)
{
    tier t;
    make_folder(t.folder, "/tmp");
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("zds", t.folder, "tmpfs", 0, "size=4m") != 0) {
        rmdir(t.folder);
        cr_skip_test("a small file system cannot be mounted: %s", strerror(errno));
    }
    open_in(&t, t.folder, "{}");
    zds_block half = take(&t, 2 << 20);
    expect_no_room(&t, 3 << 20, "No space left");
    zds_block rest = take(&t, 1 << 20); /* what failed has taken nothing */
    t.ops->free(t.self, &rest);
    t.ops->free(t.self, &half);
    close_it(&t);
    cr_assert_eq(umount(t.folder), 0);
    cr_assert_eq(rmdir(t.folder), 0);
}

/* === what is left behind === */

/* Opens, writes without end, and is killed meanwhile. */
static void leave_behind(const char *folder)
{
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        enum { BYTES = 4 << 20 };
        tier t;
        open_in(&t, folder, "{}");
        zds_block block = take(&t, BYTES);
        char *memory = calloc(1, BYTES);
        for (int i = 0;; i++) {
            move(&t, at(memory), in(&block, 0), BYTES);
            if (i == 1 && write(ready[1], "x", 1) != 1)
                _exit(1);
        }
    }
    char byte;
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
}

static int count_in(const char *folder)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, NULL);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return count - 2;
}

Test(offload_nvme, what_was_left_is_removed_and_nothing_else)
{
    tier t, beside;
    char path[256], target[128];
    make_folder(t.folder, "/tmp");
    leave_behind(t.folder);
    leave_behind(t.folder); /* the second removes what the first has left */
    cr_assert_eq(count_in(t.folder), 1);
    char left[256];
    find(t.folder, "zds-nvme-", left, sizeof left);

    snprintf(target, sizeof target, "%s/target", t.folder);
    static const struct {
        const char *name, *file; /* in it; NULL: `name` is a file */
        mode_t mode;
    } others[] = {{"target", "block-1", 0700},
                  {"zds-nvme-0123456789abcdex", "block-1", 0700},
                  {"zds-nvme-0123456789abcde", "lock", 0700},
                  {"zds-nvme-0123456789abcdef0", "lock", 0700},
                  {"zds-nvme-mine", "lock", 0700},
                  {"zds-nvme-0000000000000001", "notes.txt", 0700},
                  {"zds-nvme-0000000000000002", "lock", 0755},
                  {"zds-nvme-0000000000000003", "block-", 0700},
                  {"zds-nvme-0000000000000004", NULL, 0}};
    enum { OTHERS = sizeof others / sizeof *others };
    for (int i = 0; i < OTHERS; i++) {
        snprintf(path, sizeof path, "%s/%s", t.folder, others[i].name);
        if (others[i].file) {
            mkdir(path, others[i].mode);
            chmod(path, others[i].mode);
            snprintf(path, sizeof path, "%s/%s/%s", t.folder, others[i].name, others[i].file);
        }
        close(open(path, O_WRONLY | O_CREAT, 0600));
    }
    /* Links: to a folder, in the place of a file, and of two names. */
    snprintf(path, sizeof path, "%s/zds-nvme-0000000000000005", t.folder);
    cr_assert_eq(symlink(target, path), 0);
    snprintf(path, sizeof path, "%s/zds-nvme-0000000000000006", t.folder);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/zds-nvme-0000000000000006/lock", t.folder);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    snprintf(path, sizeof path, "%s/zds-nvme-0000000000000006/block-1", t.folder);
    cr_assert_eq(symlink("../target/block-1", path), 0);
    snprintf(path, sizeof path, "%s/zds-nvme-0000000000000007", t.folder);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/zds-nvme-0000000000000007/lock", t.folder);
    char linked[256];
    snprintf(linked, sizeof linked, "%s/block-1", target);
    cr_assert_eq(link(linked, path), 0);
    /* And one that died before it had a lock. */
    snprintf(path, sizeof path, "%s/zds-nvme-0000000000000008", t.folder);
    mkdir(path, 0700);

    open_in(&t, t.folder, "{}");
    cr_assert_neq(access(left, F_OK), 0, "%s is there still", left);
    cr_assert_neq(access(path, F_OK), 0, "%s is there still", path);
    open_in(&beside, t.folder, "{}"); /* which leaves the first one alone */
    zds_block block = take(&t, 4096);
    close_it(&beside);
    char memory[4096];
    put_values(memory, 4096, 1);
    move(&t, at(memory), in(&block, 0), 4096);
    t.ops->free(t.self, &block);
    close_it(&t);
    cr_assert_eq(count_in(t.folder), OTHERS + 3);
    for (int i = 0; i < OTHERS; i++) {
        snprintf(path, sizeof path, "%s/%s%s%s", t.folder, others[i].name,
                 others[i].file ? "/" : "", others[i].file ? others[i].file : "");
        cr_assert_eq(access(path, F_OK), 0, "%s was removed", path);
    }
    snprintf(path, sizeof path, "rm -r %s", t.folder);
    cr_assert_eq(system(path), 0);
}

/* Ranks that begin at once where others were killed. */
Test(offload_nvme, many_open_one_path_at_once)
{
    enum { RANKS = 6, ROUNDS = 8 };
    char folder[64];
    make_folder(folder, "/tmp");
    for (int k = 0; k < ROUNDS; k++) {
        pid_t ranks[RANKS];
        for (int i = 0; i < RANKS; i++)
            if ((ranks[i] = fork()) == 0) {
                tier t;
                char memory[4096], back[4096];
                open_in(&t, folder, "{}");
                zds_block block = take(&t, 4096);
                put_values(memory, 4096, (uint64_t)i);
                move(&t, at(memory), in(&block, 0), 4096);
                move(&t, in(&block, 0), at(back), 4096);
                expect_values(back, 4096, (uint64_t)i);
                if (i % 2) /* dies with its files */
                    kill(getpid(), SIGKILL);
                t.ops->free(t.self, &block);
                close_it(&t);
                _exit(0);
            }
        for (int i = 0; i < RANKS; i++) {
            int how;
            cr_assert_eq(waitpid(ranks[i], &how, 0), ranks[i]);
            cr_assert(i % 2 ? WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL : how == 0,
                      "rank %d of round %d: %d", i, k, how);
        }
    }
    tier last;
    open_in(&last, folder, "{}");
    cr_assert_eq(count_in(folder), 1);
    close_it(&last);
    cr_assert_eq(rmdir(folder), 0);
}

Test(offload_nvme, a_forked_child_is_refused_and_takes_nothing_away)
{
    tier t;
    char memory[4096];
    open_new(&t, "{}");
    zds_block block = take(&t, 4096);
    late never = {.base = {&late_ops}};
    zds_event *event = begin(&t, at(memory), in(&block, 0), 4096, &never.base);
    put_values(memory, 4096, 1);
    pid_t child = fork();
    if (child == 0) {
        zds_event *done = NULL;
        int32_t over = 0;
        zds_block other = {.struct_size = sizeof other};
        const zds_copy copy = {
            .struct_size = sizeof copy, .from = at(memory), .to = in(&block, 0), .bytes = 4096};
        alarm(20);
        if (t.ops->copy(t.self, &copy, &done) != ZDS_ERR_INVALID || !strstr(t.h.error, "forked") ||
            t.ops->alloc(t.self, 1, &other) != ZDS_ERR_INVALID ||
            event->ops->test(event, &over) != ZDS_ERR_INVALID || !over ||
            event->ops->wait(event) != ZDS_ERR_INVALID)
            _exit(1);
        event->ops->release(event);
        t.ops->free(t.self, &block);
        t.ops->close(t.self);
        _exit(0);
    }
    int how;
    waitpid(child, &how, 0);
    cr_assert_eq(how, 0);
    atomic_store(&never.done, 1);
    cr_assert_eq(end(event), ZDS_OK);
    memset(memory, 0, 4096);
    move(&t, in(&block, 0), at(memory), 4096);
    expect_values(memory, 4096, 1);
    t.ops->free(t.self, &block);
    close_new(&t);
}

/* Offload nvme as the core uses it: copies to and from every other tier, fills, events of a device,
 * memory that is counted, and what an error says by the time it is the core's. */
#include <dirent.h>

#include "tier_harness.h"

#define NVME "lib/zds/plugins/offload_nvme"

enum { BYTES = (9 << 20) + 77, AT = 65536 };

static unsigned char *bytes_make(void)
{
    unsigned char *bytes = malloc(BYTES);
    cr_assert_not_null(bytes);
    for (uint64_t i = 0; i < BYTES; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 8);
    return bytes;
}

Test(offload_nvme_tier, copies_to_and_from_every_tier)
{
    static const char *const others[] = {CPU, FILES, SECTORS, DEVICE, ISLAND, NVME};
    world w = world_make();
    unsigned char *source = bytes_make(), *back = malloc(BYTES);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        tier *t = tier_make(&w, "nvme", NVME, NULL),
             *other = tier_make(&w, "other", others[i], NULL);
        slab here = slab_make(t, AT + BYTES), there = slab_make(other, AT + BYTES);
        memset(back, 0, BYTES);
        OK(tier_copy(tier_in(&here, AT), tier_at(source), BYTES, NULL, NULL, error));
        OK(tier_copy(tier_in(&there, AT), tier_in(&here, AT), BYTES, NULL, NULL, error));
        OK(tier_fill(tier_in(&here, 0), ZDS_U8, 9, AT + BYTES, NULL, NULL, error));
        OK(tier_copy(tier_in(&here, AT), tier_in(&there, AT), BYTES, NULL, NULL, error));
        OK(tier_copy(tier_at(back), tier_in(&here, AT), BYTES, NULL, NULL, error));
        cr_assert_eq(memcmp(back, source, BYTES), 0, "%s", others[i]);
        OK(tier_copy(tier_at(back), tier_in(&here, 0), AT, NULL, NULL, error));
        for (int k = 0; k < AT; k++)
            cr_assert_eq(back[k], 9, "what was filled, before what was copied");
        tier_free(&here);
        tier_free(&there);
        tier_close(t);
        tier_close(other);
    }
    free(source);
    free(back);
    world_end(&w);
}

/* From a device's stream to memory, from there to a file: the file's copy waits for the stream. */
Test(offload_nvme_tier, waits_for_a_devices_stream)
{
    enum { N = 1 << 20 };
    world w = world_make();
    tier *t = tier_make(&w, "nvme", NVME, NULL), *device = tier_make(&w, "device", ISLAND, NULL);
    slab file = slab_make(t, N), there = slab_make(device, N);
    unsigned char *memory = calloc(1, N), *back = calloc(1, N);
    zds_stream *stream;
    zds_event *copied, *written, *read;
    OK(tier_stream_create(device, &stream, error));
    const tier_order streamed = {.stream = stream};
    OK(tier_fill(tier_in(&there, 0), ZDS_U8, 7, N, &streamed, NULL, error));
    OK(tier_copy(tier_at(memory), tier_in(&there, 0), N, &streamed, &copied, error));
    zds_event *first[] = {copied};
    OK(tier_copy(tier_in(&file, 0), tier_at(memory), N,
                 &(tier_order){.waits = first, .wait_count = 1}, &written, error));
    zds_event *second[] = {written};
    OK(tier_copy(tier_at(back), tier_in(&file, 0), N,
                 &(tier_order){.waits = second, .wait_count = 1}, &read, error));
    OK(tier_wait(t, &read, error));
    OK(tier_wait(t, &written, error));
    OK(tier_wait(device, &copied, error));
    for (int i = 0; i < N; i++)
        cr_assert_eq(back[i], 7, "byte %d", i);
    tier_stream_destroy(device, stream);
    tier_free(&file);
    tier_free(&there);
    tier_close(t);
    tier_close(device);
    free(memory);
    free(back);
    world_end(&w);
}

Test(offload_nvme_tier, is_counted_as_files)
{
    world w = world_make();
    tier *t = tier_make(&w, "nvme", NVME, NULL);
    slab s = slab_make(t, 1 << 20);
    cr_expect_eq(counted(&w, "test", "nvme"), 1 << 20);
    cr_expect_lt(counted(&w, NULL, "host"), 1 << 20, "it takes memory of the host for a file");
    tier_free(&s);
    cr_expect_eq(counted(&w, "test", "nvme"), 0);
    tier_close(t);
    world_end(&w);
}

Test(offload_nvme_tier, an_error_is_the_cores)
{
    char memory[8192], path[300];
    world w = world_make();
    tier *t = tier_make(&w, "nvme", NVME, NULL);
    slab s = slab_make(t, 1 << 20);
    struct dirent **entries;
    cr_assert_eq(scandir(w.folder, &entries, NULL, alphasort), 3); /* . and .. too */
    snprintf(path, sizeof path, "%s/%.200s/block-1", w.folder, entries[2]->d_name);
    cr_assert_eq(truncate(path, 4096), 0, "%s", path);
    REFUSED(tier_copy(tier_at(memory), tier_in(&s, 0), 8192, NULL, NULL, error), ZDS_ERR_IO,
            "memory tier nvme: an operation has failed: rank 0: a read of 4096 bytes at 4096 of "
            "/tmp/zds-tier-");
    slab none;
    REFUSED(tier_alloc(t, "states", UINT64_C(1) << 60, &none, error), ZDS_ERR_IO,
            "memory tier nvme: 1152921504606846976 bytes for states: rank 0: a file of ");
    for (int i = 0; i < 3; i++)
        free(entries[i]);
    free(entries);
    tier_free(&s);
    tier_close(t);
    world_end(&w);
}

/* The memory tiers that a config names: another's holds masters and states as zds's own would, and
 * is told what the config says of them; what cannot be used, and a name that nothing reads, is
 * refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "small_model.h"

enum { STEPS = 3 };

#define LENDS  TEST_BINARY_DIR "/tests/plugins/offload_lends.so"
#define HEAP   TEST_BINARY_DIR "/tests/plugins/offload_good.so"
#define DEVICE TEST_BINARY_DIR "/tests/plugins/offload_device.so"
#define ISLAND TEST_BINARY_DIR "/tests/island/island.so:test"

/* `zero`: of zero_optimization, after its stage; `zds`: of the section. */
static zds_status try_create(const char *more, const char *zero, const char *zds, zds_engine **e,
                             zds_error *error)
{
    char json[2048];
    zds_config_context context = {.struct_size = sizeof context, .world_size = 1};
    zds_engine_options o = {.struct_size = sizeof o, .threads = 2, .seed = 5};
    zds_config *config = NULL;
    zds_model *m = NULL;
    snprintf(json, sizeof json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"optimizer\": {\"type\": \"AdamW\"}, %s"
             "\"zero_optimization\": {\"stage\": 1%s}, \"zds\": {%s}}",
             more, zero, zds);
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    cr_assert_eq(zds_config_load(json, &context, &config, error), ZDS_OK, "%s", error->text);
    cr_assert_eq(small_model(&m), ZDS_OK);
    zds_status status = zds_engine_create(config, m, &o, e, error);
    zds_model_destroy(m);
    if (status)
        zds_config_destroy(config);
    return status; /* the config of an engine stays as long as the process */
}

static zds_engine *create(const char *more, const char *zero, const char *zds)
{
    zds_engine *e = NULL;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(try_create(more, zero, zds, &e, &error), ZDS_OK, "%s", error.text);
    cr_assert_eq(zds_set_values(e, small_values, NULL), ZDS_OK, "%s", zds_engine_error(e));
    return e;
}

static uint64_t bytes_in(const zds_engine *e, const char *tier)
{
    zds_memory_row row;
    uint64_t bytes = 0;
    for (size_t i = 0; zds_memory_report(e, i, &row); i++)
        if (strcmp(row.tier, tier) == 0 && (strcmp(row.purpose, "optimizer states") == 0 ||
                                            strcmp(row.purpose, "master weights") == 0))
            bytes += row.bytes;
    return bytes;
}

/* The hash of the result; *held: bytes of masters and states that rest in `tier`. */
static uint64_t trained(const char *more, const char *zero, const char *zds, const char *tier,
                        uint64_t *held)
{
    zds_engine *e = create(more, zero, zds);
    small_sum sum;
    for (uint64_t i = 0; i < STEPS; i++)
        cr_assert_eq(small_micro(e, ZDS_BOUNDARY_AUTO, i, NULL), ZDS_OK, "%s", zds_engine_error(e));
    cr_assert_eq(small_hash(e, &sum), ZDS_OK, "%s", zds_engine_error(e));
    *held = bytes_in(e, tier);
    zds_engine_destroy(e);
    return sum.hash;
}

#define OFFLOAD(name)    ", \"offload_optimizer\": {\"device\": \"" name "\"}"
#define TIER(name, type) "\"tiers\": {\"" name "\": {\"type\": \"" type "\"}}"

Test(engine_tiers, one_of_anothers_holds_masters_and_states_as_cpu_does)
{
    static const struct {
        const char *name, *zero, *zds;
    } rows[] = {{"lent", OFFLOAD("lent"), TIER("lent", LENDS ":lends")},
                {"lent", OFFLOAD("lent"), TIER("lent", LENDS ":lends_pinned")},
                {"nvme", OFFLOAD("nvme"), TIER("nvme", LENDS ":lends")},
                {"a.b", OFFLOAD("a.b"), TIER("a.b", LENDS ":lends")},
                {"lent", OFFLOAD("lent"), "\"device\": \"test\", " TIER("lent", LENDS ":lends")},
                {"near", OFFLOAD("near"), "\"device\": \"test\", " TIER("near", ISLAND)},
                /* Where parameters are anyway: nothing moves. */
                {"host", OFFLOAD("host"), TIER("host", LENDS ":lends")}};
    static const char *const more[] = {"", "\"bf16\": {\"enabled\": true}, "};
    small_width = 160;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t k = 0; k < 2; k++) {
            uint64_t held, by_cpu;
            cr_expect_eq(trained(more[k], rows[i].zero, rows[i].zds, rows[i].name, &held),
                         trained(more[k], OFFLOAD("cpu"), "", "cpu", &by_cpu), "%s", rows[i].zds);
            cr_expect(held >= by_cpu && by_cpu, "%s holds %llu bytes, cpu %llu", rows[i].name,
                      (unsigned long long)held, (unsigned long long)by_cpu);
        }
}

static void expect_refused(const char *zero, const char *zds, zds_status wanted, const char *where,
                           const char *why)
{
    zds_engine *e = NULL;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = try_create("", zero, zds, &e, &error);
    cr_expect_eq(status, wanted, "%s: %s", zds, error.text);
    cr_expect(error.text && strstr(error.text, where) && strstr(error.text, why), "%s: %s", zds,
              error.text);
    zds_error_clear(&error);
    if (!status)
        zds_engine_destroy(e);
}

Test(engine_tiers, what_cannot_hold_them_is_refused)
{
    expect_refused(OFFLOAD("heap"), TIER("heap", HEAP), ZDS_ERR_IO, "heap", "a folder is needed");
    expect_refused(OFFLOAD("far"), TIER("far", LENDS ":lends_copies"), ZDS_ERR_UNSUPPORTED,
                   "zds.tiers.far.type", "ZDS_OFFLOAD_DIRECT");
    expect_refused(OFFLOAD("cpu"), TIER("cpu", LENDS ":lends_copies"), ZDS_ERR_UNSUPPORTED,
                   "zds.tiers.cpu.type", "ZDS_OFFLOAD_DIRECT");
    expect_refused(OFFLOAD("far"), TIER("far", DEVICE), ZDS_ERR_UNSUPPORTED, "zds.tiers.far.type",
                   "in the host's memory");
    expect_refused(OFFLOAD("far"), "\"device\": \"test\", " TIER("far", LENDS ":lends_copies"),
                   ZDS_ERR_UNSUPPORTED, "zds.tiers.far.type", "ZDS_OFFLOAD_DIRECT");
    expect_refused(OFFLOAD("heap"), "\"device\": \"test\", " TIER("heap", HEAP), ZDS_ERR_IO, "heap",
                   "a folder is needed");
    expect_refused(OFFLOAD("far"),
                   "\"device\": \"test\", \"tiers\": {\"test\": {\"type\": \"" DEVICE
                   "\"}, \"far\": {\"type\": \"" LENDS ":lends_pinned\"}}",
                   ZDS_ERR_UNSUPPORTED, "zds.tiers.far.type", "does not reach");
    expect_refused("", TIER("host", DEVICE), ZDS_ERR_UNSUPPORTED, "zds.tiers.host.type", "host");
    expect_refused("", "\"device\": \"test\", " TIER("test", LENDS ":lends"), ZDS_ERR_UNSUPPORTED,
                   "zds.tiers.test.type", "test");
    expect_refused(OFFLOAD("none-such"), "\"tiers\": {\"none-such\": {}}", ZDS_ERR_NOT_FOUND,
                   "zds.tiers.none-such", "none-such");
}

Test(engine_tiers, a_name_that_nothing_reads_is_refused)
{
    expect_refused("", TIER("hots", "/nowhere/x.so"), ZDS_ERR_CONFIG, "zds.tiers.hots",
                   "host, cpu and what zero_optimization.offload_optimizer.device");
    expect_refused("", "\"device\": \"test\", " TIER("cuda", "x"), ZDS_ERR_CONFIG, "zds.tiers.cuda",
                   "host, cpu, test and");
    expect_refused("", TIER("none", "cpu"), ZDS_ERR_CONFIG, "zds.tiers.none", "host");
    expect_refused("", TIER("nvme", "cpu"), ZDS_ERR_CONFIG, "zds.tiers.nvme", "host");
    zds_engine_destroy(create("", "", TIER("cpu", "cpu")));
    zds_engine_destroy(create("", "", "\"tiers\": {\"host\": {}}"));
    zds_engine_destroy(create("", "", "\"device\": \"test\", \"tiers\": {\"test\": {}}"));
}

/* "path: message" of each, a line each. */
static void add_problem(void *user, const zds_problem *p)
{
    char *text = user;
    size_t used = strlen(text);
    snprintf(text + used, 1024 - used, "%s: %s\n", p->path, p->message);
}

static void expect_checked(const char *zds, const char *wanted)
{
    char json[1024], seen[1024] = "";
    zds_config *config = NULL;
    zds_error error = ZDS_ERROR_INIT;
    snprintf(json, sizeof json,
             "{\"train_batch_size\": 1, \"optimizer\": {\"type\": \"AdamW\"}, \"zds\": {%s}}", zds);
    setenv("ZDS_PLUGIN_PATH", TEST_BINARY_DIR "/lib/zds/plugins:" TEST_BINARY_DIR "/tests/island",
           1);
    cr_assert_eq(zds_config_load(json, NULL, &config, &error), ZDS_OK, "%s", error.text);
    zds_status status = zds_engine_check(config, NULL, add_problem, seen, &error);
    cr_expect_eq(status, *wanted ? ZDS_ERR_CONFIG : ZDS_OK, "%s: %s", zds, error.text);
    cr_expect(*wanted ? strstr(seen, wanted) != NULL : !*seen, "%s: %s", zds, seen);
    zds_error_clear(&error);
    zds_config_destroy(config);
}

Test(engine_tiers, a_check_tells_what_creation_refuses_of_a_device)
{
    expect_checked("\"device\": \"test\"", "");
    expect_checked("\"device\": \"test\", \"comm\": \"island\"", "");
    expect_checked("\"device\": \"test\", \"comm\": \"shm\"",
                   "zds.comm: shm does not move memory of this device");
    expect_checked("\"device\": \"test\", \"tiers\": {\"test\": {\"params\": {\"sede\": 1}}}",
                   "zds.tiers.test.params.sede: ");
    expect_checked("\"device\": \"sycl\"", "zds.device: there is no memory tier for sycl");
    expect_checked("\"device\": \"test\", \"tiers\": {\"cuda\": {}}", "zds.tiers.cuda: nothing");
}

/* What the tier wrote down when it was opened. */
static void expect_told(const char *file, const char *zero, const char *zds, int pin,
                        const char *path, bool hinted)
{
    FILE *seen;
    int device, pinned;
    unsigned long long hint;
    char folder[64];
    zds_engine *e = create("\"bf16\": {\"enabled\": true}, ", zero, zds);
    uint64_t held = bytes_in(e, "lent");
    cr_assert_not_null(seen = fopen(file, "r"));
    cr_assert_eq(fscanf(seen, "%d %d %llu %63s", &device, &pinned, &hint, folder), 4);
    fclose(seen);
    cr_expect_eq(device, -1);
    cr_expect_eq(pinned, pin, "%s", zero);
    cr_expect_str_eq(folder, path, "%s", zero);
    if (hinted)
        cr_expect(hint <= held && (double)hint > 0.98 * (double)held, "%llu of %llu", hint,
                  (unsigned long long)held);
    else
        cr_expect_eq(hint, 0);
    zds_engine_destroy(e);
}

Test(engine_tiers, one_is_told_what_the_config_says_of_it)
{
    char file[] = "/tmp/zds-env-XXXXXX";
    int fd = mkstemp(file);
    cr_assert_geq(fd, 0);
    close(fd);
    small_width = 160;
    setenv("ZDS_TEST_TIER_ENV", file, 1);
    expect_told(file, OFFLOAD("lent"), TIER("lent", LENDS ":lends"), 1, "-", true);
    expect_told(file,
                ", \"offload_optimizer\": {\"device\": \"lent\", \"pin_memory\": false, "
                "\"nvme_path\": \"/tmp\"}",
                TIER("lent", LENDS ":lends"), 0, "/tmp", true);
    expect_told(file, OFFLOAD("lent"), "\"device\": \"test\", " TIER("lent", LENDS ":lends"), 1,
                "-", true);
    /* No offload section speaks of where parameters are. */
    expect_told(file, "", TIER("host", LENDS ":lends"), 0, "-", false);
    unlink(file);
}

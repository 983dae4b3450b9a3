/* The registry: search order, aliases, paths, shadowing, and each refusal with a real shared object
 * built for it (tests/plugins). */
#include <criterion/criterion.h>
#include <fenv.h>
#include <ftw.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/error.h"
#include "plugin/registry.h"
#include "zds/zds.h"

static char folder[64]; /* of this test, in /tmp: nobody else can write it, whatever the umask */

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static void set_up(void)
{
    strcpy(folder, "/tmp/zds-registry-XXXXXX");
    cr_assert(mkdtemp(folder));
    cr_assert_eq(setenv("ZDS_PLUGIN_PATH", folder, 1), 0);
    zds_log_level(ZDS_LOG_ERROR); /* refusals are told by errors here */
}

static void tear_down(void)
{
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(registry, .init = set_up, .fini = tear_down, .timeout = 120);

/* The path of a file in the test's folder; valid until the 32nd next call. */
static const char *path_of(const char *name)
{
    static char paths[32][256];
    static size_t next;
    char *path = paths[next++ % 32];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Copies tests/plugins/SAMPLE.so into the folder as `name`. */
static const char *put(const char *sample, const char *name)
{
    char source[512];
    snprintf(source, sizeof source, "%s/tests/plugins/%s.so", TEST_BINARY_DIR, sample);
    FILE *in = fopen(source, "rb");
    cr_assert(in, "%s is not built", source);
    FILE *out = fopen(path_of(name), "wb");
    cr_assert(out);
    char bytes[65536];
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        cr_assert_eq(fwrite(bytes, 1, n, out), n);
    cr_assert_eq(fclose(out), 0);
    fclose(in);
    cr_assert_eq(chmod(path_of(name), 0755), 0);
    return path_of(name);
}

static const char *sub_folder(const char *name)
{
    cr_assert_eq(mkdir(path_of(name), 0755), 0);
    cr_assert_eq(chmod(path_of(name), 0755), 0);
    return path_of(name);
}

static registry *open_registry(const char *path, const zds_plugin *const *linked)
{
    registry *reg;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(registry_create(path, linked, true, &reg, &error), ZDS_OK, "%s", error.text);
    return reg;
}

static const zds_plugin *found(registry *reg, const char *name, const char **file)
{
    const zds_plugin *plugin = NULL;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = registry_find(reg, ZDS_KIND_OPTIM, name, NULL, &plugin, file, &error);
    cr_assert_eq(status, ZDS_OK, "%s: %s", name, error.text);
    return plugin;
}

/* `name` must not be found, with this status and a text that holds `part`. */
static void not_found(registry *reg, const char *name, const registry_match *match,
                      zds_status expected, const char *part)
{
    const zds_plugin *plugin;
    zds_error error = ZDS_ERROR_INIT;
    zds_status status = registry_find(reg, ZDS_KIND_OPTIM, name, match, &plugin, NULL, &error);
    cr_assert_eq(status, expected, "%s: status %s, text %s", name, zds_status_name(status),
                 error.text ? error.text : "none");
    cr_assert(strstr(error.text, part), "\"%s\" is not in \"%s\"", part, error.text);
    zds_error_clear(&error);
}

Test(registry, finds_by_name_and_alias_without_case)
{
    put("sample", "anything.so");
    registry *reg = open_registry(NULL, NULL);
    const char *file;
    const zds_plugin *plugin = found(reg, "sAMPLE", &file);
    cr_assert_str_eq(plugin->name, "Sample");
    cr_assert_str_eq(file, path_of("anything.so"));
    cr_assert_eq(found(reg, "EXAMPLE", NULL), plugin);
    registry_destroy(reg);
}

Test(registry, works_in_this_process)
{
    put("sample", "anything.so");
    registry *reg = open_registry(NULL, NULL);
    zds_optim_ops ops;
    plugin_ops(found(reg, "Sample", NULL), &ops, sizeof ops);
    float master[2] = {1, 2}, grad[2] = {10, 20};
    zds_hyper hyper = {.struct_size = sizeof hyper, .lr = 0.5};
    zds_tile tile = {
        .struct_size = sizeof tile, .hyper = &hyper, .count = 2, .master = master, .grad = grad};
    zds_tiles tiles = {sizeof tiles, 1, sizeof tile, &tile};
    zds_step_ctx ctx = {.struct_size = sizeof ctx, .grad_scale = 0.1};
    cr_assert_eq(ops.step(NULL, &tiles, &ctx), ZDS_OK);
    cr_assert_float_eq(master[0], 0.5, 1e-6); /* 1 - 0.5 * 0.1 * 10 */
    cr_assert_float_eq(master[1], 1.0, 1e-6);
    registry_destroy(reg);
}

Test(registry, not_found_names_the_nearest)
{
    put("sample", "a.so");
    put("pair", "b.so");
    registry *reg = open_registry("/no/such/folder", NULL);
    not_found(reg, "Sampel", NULL, ZDS_ERR_NOT_FOUND, "did you mean Sample (searched: /no/such");
    not_found(reg, "Zzz", NULL, ZDS_ERR_NOT_FOUND, "Sample, PairFirst, PairSecond");
    not_found(reg, "Sampel", NULL, ZDS_ERR_NOT_FOUND, "/no/such/folder (cannot be found)");
    registry_destroy(reg);
}

/* transformers and bitsandbytes put into a name how it is computed. */
Test(registry, not_found_names_what_a_longer_name_is_about)
{
    put("sample", "a.so");
    registry *reg = open_registry(NULL, NULL);
    const char *longer[] = {"sample_torch_fused", "SAMPLE_8bit", "paged_sample_32bit"};
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++)
        not_found(reg, longer[i], NULL, ZDS_ERR_NOT_FOUND, "did you mean Sample (searched: ");
    const char *other[] = {"galore_sample", "sampler_of_gradients_x", "paged_", "x_"};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        not_found(reg, other[i], NULL, ZDS_ERR_NOT_FOUND, "there are ");
    registry_destroy(reg);
}

Test(registry, first_match_wins_along_the_path)
{
    const char *first = sub_folder("first"), *second = sub_folder("second");
    put("sample", "first/x.so");
    put("sample", "second/y.so");
    put("sample", "z.so");
    char path[256];
    const char *file;
    snprintf(path, sizeof path, "%s:%s", second, first);
    registry *reg = open_registry(path, NULL);
    found(reg, "Sample", &file);
    cr_assert_str_eq(file, path_of("second/y.so"));
    registry_destroy(reg);
    reg = open_registry(NULL, NULL); /* ZDS_PLUGIN_PATH */
    found(reg, "Sample", &file);
    cr_assert_str_eq(file, path_of("z.so"));
    registry_destroy(reg);
}

Test(registry, file_of_the_name_is_asked_first)
{
    put("sample", "a.so");
    put("sample", "optim_Sam_ple.so");
    registry *reg = open_registry(NULL, NULL);
    const char *file;
    found(reg, "Sample", &file);
    cr_assert_str_eq(file, path_of("optim_Sam_ple.so"));
    registry_destroy(reg);
}

static zds_status linked_create(const zds_host *host, const void *options, const zds_optim_env *env,
                                void **self)
{
    (void)host, (void)options, (void)env, (void)self;
    return ZDS_OK;
}
static void linked_destroy(void *self)
{
    (void)self;
}
static zds_status linked_describe(void *self, const zds_param *param, zds_param_needs *needs)
{
    (void)self, (void)param, (void)needs;
    return ZDS_OK;
}
static zds_status linked_step(void *self, const zds_tiles *tiles, const zds_step_ctx *ctx)
{
    (void)self, (void)tiles, (void)ctx;
    return ZDS_OK;
}
static const zds_optim_ops linked_ops = {.struct_size = sizeof linked_ops,
                                         .spaces = 1,
                                         .grad_dtypes = 1,
                                         .master_dtypes = 1,
                                         .output_dtypes = 1,
                                         .create = linked_create,
                                         .destroy = linked_destroy,
                                         .describe = linked_describe,
                                         .step = linked_step};
static const zds_plugin linked_plugin = {.struct_size = sizeof linked_plugin,
                                         .kind = ZDS_KIND_OPTIM,
                                         .name = "Sample",
                                         .version = "linked",
                                         .doc = "",
                                         .ops = &linked_ops};

Test(registry, linked_plugins_come_first)
{
    put("sample", "optim_sample.so");
    zds_plugin faulty = linked_plugin;
    faulty.name = "Faulty";
    faulty.ops = NULL;
    const zds_plugin *linked[] = {&linked_plugin, &faulty, NULL};
    registry *reg = open_registry(NULL, linked);
    const char *file;
    cr_assert_eq(found(reg, "sample", &file), &linked_plugin);
    cr_assert_str_eq(file, "");
    not_found(reg, "faulty", NULL, ZDS_ERR_PLUGIN, "(linked): ops is NULL");
    registry_destroy(reg);
}

Test(registry, paths)
{
    registry *reg = open_registry(NULL, NULL);
    sub_folder("elsewhere");
    const char *file, *sample = put("sample", "elsewhere/sample.so");
    cr_assert_str_eq(found(reg, sample, &file)->name, "Sample");
    cr_assert_str_eq(file, sample);
    not_found(reg, "Sample", NULL, ZDS_ERR_NOT_FOUND, "no optim plugin \"Sample\"");

    char pair[256], name[300];
    snprintf(pair, sizeof pair, "%s", put("pair", "elsewhere/pair.so"));
    not_found(reg, pair, NULL, ZDS_ERR_INVALID,
              "holds several plugins (optim PairFirst, optim PairSecond, optim PairThird)");
    snprintf(name, sizeof name, "%s:pairsecond", pair);
    cr_assert_str_eq(found(reg, name, NULL)->name, "PairSecond");
    snprintf(name, sizeof name, "%s:PairThird", pair);
    not_found(reg, name, NULL, ZDS_ERR_PLUGIN, "ops is NULL");
    snprintf(name, sizeof name, "%s:Other", pair);
    not_found(reg, name, NULL, ZDS_ERR_NOT_FOUND, "holds no optim plugin Other; it holds optim");
    not_found(reg, path_of("none.so"), NULL, ZDS_ERR_NOT_FOUND, "there is no plugin file");
    not_found(reg, path_of("none.so:Sample"), NULL, ZDS_ERR_NOT_FOUND, "no plugin file");
    const zds_plugin *plugin;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(registry_find(reg, ZDS_KIND_COMM, sample, NULL, &plugin, NULL, &error),
                 ZDS_ERR_NOT_FOUND);
    cr_assert(strstr(error.text, "holds no comm plugin; it holds optim Sample"), "%s", error.text);
    zds_error_clear(&error);
    registry_destroy(reg);
}

Test(registry, relative_path)
{
    put("sample", "sample.so");
    cr_assert_eq(unsetenv("ZDS_PLUGIN_PATH"), 0);
    cr_assert_eq(chdir(folder), 0);
    registry *reg = open_registry(NULL, NULL);
    cr_assert_str_eq(found(reg, "sample.so", NULL)->name, "Sample");
    cr_assert_str_eq(found(reg, "./sample.so:Example", NULL)->name, "Sample");
    registry_destroy(reg);
}

/* A refusal: the file is called as its plugin, so that the refusal is what the lookup tells. */
static void refused(const char *sample, const char *name, const char *part)
{
    put(sample, "optim_sample.so");
    registry *reg = open_registry(NULL, NULL);
    not_found(reg, name, NULL, ZDS_ERR_PLUGIN, part);
    not_found(reg, path_of("optim_sample.so"), NULL, ZDS_ERR_PLUGIN, part);
    registry_destroy(reg);
}

#define REFUSED(test, sample, part)                                                                \
    Test(registry, refuses_##test)                                                                 \
    {                                                                                              \
        refused(sample, "Sample", part);                                                           \
    }

REFUSED(later_major_abi, "abi_2", "is made for plugin ABI 2, and this zds has ABI 1.0")
REFUSED(file_without_symbol, "no_symbol", "has no symbol zds_plugin_v1")
REFUSED(empty_array, "empty", "holds no plugin")
REFUSED(short_descriptor, "short_descriptor", "struct_size of its zds_plugin is 64")
REFUSED(descriptor_without_size, "no_size", "struct_size of its zds_plugin is 0")
REFUSED(unknown_kind, "kind_unknown", "is of kind 99, which this zds does not know")
REFUSED(host_too_old, "too_new", "needs a host of ABI 1.1, and this zds has 1.0")
REFUSED(unknown_requirement, "required_bits", "requires features (bits 0x10000000000)")
REFUSED(bad_name, "name_bad", "its name is not 1 to 63 letters")
REFUSED(doc_of_several_lines, "doc_lines", "its doc is not one line of text")
REFUSED(option_of_several_lines, "option_doc_lines",
        "option \"lr\" has a doc that is not one line of text")
REFUSED(missing_vtable, "no_ops", "ops is NULL")
REFUSED(null_operation, "null_step", "step of its zds_optim_ops is NULL, and it is not optional")
REFUSED(short_vtable, "short_ops", "struct_size of its zds_optim_ops is ")
REFUSED(vtable_without_size, "no_size_ops", "struct_size of its zds_optim_ops is 0")
REFUSED(no_dtypes, "no_dtypes", "grad_dtypes of its zds_optim_ops is 0")
REFUSED(missing_table, "no_table", "option_count is 2, but options is NULL")
REFUSED(short_stride, "short_stride", "option_stride is 8")
REFUSED(offset_outside, "offset_outside", "option \"steps\" lies at offset 8 with 8 bytes")
REFUSED(default_that_is_no_json, "default_text", "option \"lr\" has a default that is not JSON")
REFUSED(default_out_of_range, "default_range", "must be at least 0 and at most 1, not 3")
REFUSED(missing_default, "default_missing", "option \"lr\" has no default")
REFUSED(undefined_function, "undefined", "undefined symbol: zds_function_that_exists_nowhere")
REFUSED(crash_when_opened, "crash", "crashed: Aborted while it was opened")
REFUSED(crash_when_closed, "crash_at_close", "crashed: Aborted while it was opened")
REFUSED(end_of_the_process, "quits", "ended its process with exit code 0 while it was opened")

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

Test(registry, refuses_hang_and_remembers_it)
{
    cr_assert_eq(setenv("ZDS_PLUGIN_TIMEOUT", "0.5", 1), 0);
    put("hang", "optim_sample.so");
    registry *reg = open_registry(NULL, NULL);
    double start = seconds();
    not_found(reg, "Sample", NULL, ZDS_ERR_PLUGIN,
              "did not come to an end within 0.5 s while it was opened");
    double first = seconds() - start;
    start = seconds();
    not_found(reg, "Sample", NULL, ZDS_ERR_PLUGIN, "within 0.5 s");
    cr_assert(first >= 0.5, "%g s", first);
    cr_assert(seconds() - start < 0.4, "asked again after %g s", seconds() - start);
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
    registry_destroy(reg);
}

Test(registry, bad_files_do_not_hide_good_ones)
{
    put("crash", "a.so");
    put("no_symbol", "b.so");
    put("chatty", "c.so");
    FILE *text = fopen(path_of("d.so"), "w");
    cr_assert(text);
    fputs("no shared object", text);
    fclose(text);
    cr_assert_eq(symlink("/no/such/file", path_of("e.so")), 0);
    cr_assert_eq(mkfifo(path_of("f.so"), 0600), 0);
    registry *reg = open_registry(NULL, NULL);
    const char *file;
    found(reg, "Sample", &file);
    cr_assert_str_eq(file, path_of("c.so"));
    not_found(reg, "Zzz", NULL, ZDS_ERR_NOT_FOUND, "d.so: ");
    not_found(reg, "Zzz", NULL, ZDS_ERR_NOT_FOUND, "f.so is neither a file nor a folder");
    registry_destroy(reg);
}

Test(registry, loading_leaves_the_threads_way_of_computing)
{
    put("rounds_at_open", "a.so");
    registry *reg = open_registry(NULL, NULL);
    found(reg, "Sample", NULL);
    cr_assert_eq(fegetround(), FE_TONEAREST);
    registry_destroy(reg);
}

/* A user's own group, of the same name and without other members, has nobody else in it. */
static bool group_is_private(void)
{
    const struct passwd *user = getpwuid(geteuid());
    const struct group *group = getgrgid(getegid());
    return geteuid() != 0 && user && group && user->pw_gid == getegid() &&
           strcmp(user->pw_name, group->gr_name) == 0 && !group->gr_mem[0];
}

/* The modes of the file and its folder, and what must be said of them. */
static void mode(mode_t file, mode_t dir, const char *part)
{
    put("crash", "optim_sample.so"); /* opening it would be told as a crash */
    cr_assert_eq(chmod(path_of("optim_sample.so"), file), 0);
    cr_assert_eq(chmod(folder, dir), 0);
    registry *reg = open_registry(NULL, NULL);
    not_found(reg, path_of("optim_sample.so"), NULL, ZDS_ERR_PLUGIN, part);
    const bool looked_into = dir == 0755 || (dir == 0775 && group_is_private());
    not_found(reg, "Sample", NULL, looked_into ? ZDS_ERR_PLUGIN : ZDS_ERR_NOT_FOUND, part);
    registry_destroy(reg);
    chmod(folder, 0755);
}

Test(registry, refuses_what_others_can_write)
{
    const bool alone = group_is_private();
    mode(0775, 0755,
         alone ? "crashed"
               : "can be written by its group, who could put anything into it; run chmod g-w");
    mode(0757, 0755, "can be written by everyone, who could put anything into it; run chmod o-w");
    mode(0777, 0755, alone ? "run chmod o-w" : "run chmod go-w");
    mode(0755, 0775, alone ? "crashed" : "can be written by its group");
    mode(0755, 01777, "is a folder that everyone can put files into; keep plugins in a folder of");
    mode(0755, 0755, "crashed");
}

/* As root sees a file of the user daemon's that its group can write. */
static void group_of(const char *name, const char *part)
{
    const struct passwd *daemon = getpwnam("daemon");
    const struct group *group = getgrnam(name);
    if (geteuid() != 0 || !daemon || !group || daemon->pw_gid == 0)
        return;
    put("crash", "optim_sample.so");
    cr_assert_eq(chown(path_of("optim_sample.so"), daemon->pw_uid, group->gr_gid), 0);
    cr_assert_eq(chmod(path_of("optim_sample.so"), 0775), 0);
    registry *reg = open_registry(NULL, NULL);
    not_found(reg, path_of("optim_sample.so"), NULL, ZDS_ERR_PLUGIN, part);
    registry_destroy(reg);
}

Test(registry, a_group_of_the_owner_alone_is_the_owner)
{
    group_of("daemon", "neither to root nor to you");
    group_of("bin", "can be written by its group");
}

Test(registry, refuses_link_to_what_others_can_write)
{
    sub_folder("target");
    put("sample", "target/real.so");
    cr_assert_eq(symlink(path_of("target/real.so"), path_of("optim_sample.so")), 0);
    registry *reg = open_registry(NULL, NULL);
    found(reg, "Sample", NULL);
    registry_destroy(reg);
    cr_assert_eq(chmod(path_of("target"), 0777), 0);
    reg = open_registry(NULL, NULL);
    not_found(reg, "Sample", NULL, ZDS_ERR_PLUGIN, "target can be written by everyone");
    registry_destroy(reg);
}

Test(registry, refuses_what_belongs_to_a_third_user)
{
    put("crash", "optim_sample.so");
    if (chown(path_of("optim_sample.so"), 12345, (gid_t)-1) != 0)
        cr_skip_test("only root can give files away");
    registry *reg = open_registry(NULL, NULL);
    not_found(reg, "Sample", NULL, ZDS_ERR_PLUGIN, "belongs to user 12345, neither to root nor");
    registry_destroy(reg);
}

Test(registry, matches_space_and_dtypes)
{
    put("device", "a.so");
    put("sample", "b.so");
    registry *reg = open_registry(NULL, NULL);
    registry_match host = {.space = ZDS_SPACE_HOST};
    registry_match device = host, pinned = host, bf16 = host;
    device.space = ZDS_SPACE_CUDA;
    pinned.space = ZDS_SPACE_HOST_PINNED;
    bf16.grad_dtype = ZDS_BF16;
    const zds_plugin *plugin;
    cr_assert_eq(registry_find(reg, ZDS_KIND_OPTIM, "Sample", &host, &plugin, NULL, NULL), ZDS_OK);
    cr_assert_str_eq(plugin->version, "1.0");
    cr_assert_eq(registry_find(reg, ZDS_KIND_OPTIM, "Sample", &device, &plugin, NULL, NULL),
                 ZDS_OK);
    cr_assert_str_eq(plugin->version, "device");
    cr_assert_str_eq(found(reg, "Sample", NULL)->version, "device");
    not_found(reg, "Sample", &pinned, ZDS_ERR_UNSUPPORTED, "a.so computes on cuda, with gradients");
    not_found(reg, "Sample", &bf16, ZDS_ERR_UNSUPPORTED, "gradients in bf16");
    registry_destroy(reg);
}

Test(registry, plugin_of_the_first_abi_works)
{
    put("old_abi_1_0", "x.so");
    registry *reg = open_registry(NULL, NULL);
    zds_optim_ops ops;
    plugin_ops(found(reg, "Old", NULL), &ops, sizeof ops);
    cr_assert(ops.create && ops.step && !ops.begin_step);
    registry_destroy(reg);
}

Test(registry, plugin_of_a_later_minor_abi_works)
{
    put("newer", "x.so");
    registry *reg = open_registry(NULL, NULL);
    const zds_plugin *plugin = found(reg, "Newer", NULL);
    struct {
        zds_optim_ops ops;
        unsigned char guard[8];
    } copy;
    memset(&copy, 0x5a, sizeof copy);
    plugin_ops(plugin, &copy.ops, sizeof copy.ops);
    cr_assert_eq(copy.ops.struct_size, sizeof copy.ops);
    cr_assert(copy.ops.step && copy.guard[0] == 0x5a);
    char *json;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(zds_plugin_info(NULL, "Newer", &json, &error), ZDS_OK, "%s", error.text);
    cr_assert(strstr(json, "\"steps\"") && strstr(json, "\"1.3\""), "%s", json);
    free(json);
    registry_destroy(reg);
}

Test(registry, older_vtable_ends_in_zeros)
{
    size_t known = offsetof(zds_optim_ops, end_step);
    zds_optim_ops ops, older = linked_ops;
    older.struct_size = known;
    older.reduction_mode = (int32_t(*)(void *, int64_t))(void *)1; /* past what it has */
    zds_plugin plugin = linked_plugin;
    plugin.ops = &older;
    memset(&ops, 0xff, sizeof ops);
    plugin_ops(&plugin, &ops, sizeof ops);
    cr_assert(ops.step == linked_step && !ops.end_step && !ops.reduction_mode);
    cr_assert_eq(ops.struct_size, known);
}

static bool gather(void *user, const zds_plugin *plugin, const char *file)
{
    char *all = user;
    snprintf(all + strlen(all), 256 - strlen(all), "%s@%s ", plugin->name,
             file + (strrchr(file, '/') ? strrchr(file, '/') + 1 - file : 0));
    return strlen(all) < 60;
}

Test(registry, each_visits_in_order_and_skips_shadowed_ones)
{
    put("sample", "a.so");
    put("pair", "b.so");
    put("sample", "c.so");
    put("crash", "d.so");
    put("old_abi_1_0", "e.so");
    const zds_plugin *linked[] = {&linked_plugin, NULL};
    registry *reg = open_registry(NULL, linked);
    char all[256] = "";
    cr_assert_eq(registry_each(reg, ZDS_KIND_OPTIM, NULL, gather, all, NULL), ZDS_OK);
    cr_assert(strncmp(all, "Sample@ PairFirst@b.so PairSecond@b.so Old@e.so ", 48) == 0, "%s", all);
    cr_assert_eq(registry_each(reg, 9, NULL, gather, all, NULL), ZDS_ERR_INVALID);
    registry_destroy(reg);
}

static bool is_loaded(const char *file)
{
    char line[512];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        found = found || strstr(line, path_of(file));
    fclose(maps);
    return found;
}

/* Backends whose facts say that they cannot connect the ranks are not loaded. */
Test(registry, each_loads_only_what_can_serve)
{
    put("comm_cuts", "a.so");   /* for a world of one */
    put("comm_copies", "b.so"); /* many nodes; and one node, with another name */
    static const struct {
        registry_match match;
        const char *all;
        bool a, b;
    } runs[] = {
        {{.ranks = 4, .local_ranks = 4, .space = ZDS_SPACE_CUDA}, "", false, false},
        {{.ranks = 4, .local_ranks = 2}, "copies@b.so ", false, true},
        {{.ranks = 4, .local_ranks = 4}, "copies@b.so copies_node@b.so ", false, true},
        {{.ranks = 1, .local_ranks = 1}, "Cuts@a.so copies@b.so copies_node@b.so ", true, true},
    };
    for (size_t i = 0; i < 4; i++) {
        registry *reg = open_registry(NULL, NULL);
        char all[256] = "", *own;
        cr_assert_eq(registry_each(reg, ZDS_KIND_COMM, &runs[i].match, gather, all, NULL), ZDS_OK);
        /* The install's come after the folder's. */
        own = strstr(all, "self@") ? strstr(all, "self@") : strstr(all, "shm@");
        if (own)
            *own = '\0';
        cr_expect_str_eq(all, runs[i].all, "run %zu", i);
        cr_expect_eq(is_loaded("a.so"), runs[i].a, "run %zu", i);
        cr_expect_eq(is_loaded("b.so"), runs[i].b, "run %zu", i);
        registry_destroy(reg);
    }
}

Test(registry, list_tells_all)
{
    put("sample", "a.so");
    put("sample", "b.so");
    put("pair", "c.so");
    put("crash", "d.so");
    zds_plugin_list *list;
    zds_plugin_entry entry;
    zds_error error = ZDS_ERROR_INIT;
    cr_assert_eq(zds_plugin_list_create(NULL, &list, &error), ZDS_OK, "%s", error.text);
    static const char *const expected[][4] = {
        {"optim", "Sample", "a.so", "ok"},          {"optim", "Sample", "b.so", "shadowed"},
        {"optim", "PairFirst", "c.so", "ok"},       {"optim", "PairSecond", "c.so", "ok"},
        {"optim", "PairThird", "c.so", "rejected"}, {"", "", "d.so", "rejected"}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cr_assert(zds_plugin_list_entry(list, i, &entry) && entry.struct_size == sizeof entry);
        cr_assert_str_eq(entry.kind, expected[i][0]);
        cr_assert_str_eq(entry.name, expected[i][1]);
        cr_assert_str_eq(entry.file, path_of(expected[i][2]));
        cr_assert_str_eq(entry.status, expected[i][3]);
        cr_assert_eq(*entry.reason == '\0', strcmp(entry.status, "ok") == 0);
    }
    cr_assert(zds_plugin_list_entry(list, 0, &entry) && strcmp(entry.aliases, "Example") == 0);
    cr_assert_not(zds_plugin_list_entry(list, 1000, &entry));
    zds_plugin_list_destroy(list);
}

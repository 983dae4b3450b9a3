/* Holds a plugin against what its own descriptor and table promise: opens it, judges the
 * descriptor, then creates and destroys an instance with the defaults, and with each value at the
 * edge of what the table allows. */
#include "check.h"

#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "plugin/table.h"

/* What is under check, and the host that it sees. */
typedef struct bench {
    FILE *out;
    const zds_plugin *plugin;
    const char *name; /* for the output: "" while the file as a whole is under check */
    char label[32];   /* stands for the name while the descriptor is not known to be sound */
    zds_host host;
    char *error;        /* text of the last host->fail */
    size_t allocations; /* of host->alloc, not freed yet */
} bench;

static void say(bench *b, const char *check, const char *status, const char *text)
{
    cJSON *line = cJSON_CreateObject();
    cJSON_AddStringToObject(line, "plugin", b->name);
    cJSON_AddStringToObject(line, "check", check);
    cJSON_AddStringToObject(line, "status", status);
    cJSON_AddStringToObject(line, "text", text);
    char *shown = cJSON_PrintUnformatted(line);
    fprintf(b->out, "%s\n", shown ? shown : "{}");
    fflush(b->out);
    cJSON_free(shown);
    cJSON_Delete(line);
}

/* The end of a check: failed if there is a `fault`, which is taken over. */
static bool conclude(bench *b, const char *check, char *fault)
{
    bool ok = !fault;
    say(b, check, ok ? "ok" : "failed", ok ? "" : fault);
    fault_free(fault);
    return ok;
}

/* === the host === */

static void host_log(const zds_host *host, int32_t level, const char *format, ...)
{
    (void)host;
    va_list args;
    va_start(args, format);
    if (level <= ZDS_LOG_WARNING) {
        fputs("plugin: ", stderr);
        vfprintf(stderr, format, args);
        fputc('\n', stderr);
    }
    va_end(args);
}

static zds_status host_fail(const zds_host *host, zds_status status, const char *format, ...)
{
    bench *b = host->context;
    va_list args;
    va_start(args, format);
    free(b->error);
    b->error = text_formatv(format, args);
    va_end(args);
    return status;
}

static void *host_alloc(const zds_host *host, size_t bytes, size_t align)
{
    bench *b = host->context;
    void *memory = NULL;
    if (posix_memalign(&memory, align < 64 ? 64 : align, bytes ? bytes : 1) != 0)
        return NULL;
    b->allocations++;
    return memset(memory, 0, bytes);
}

static void host_free(const zds_host *host, void *pointer)
{
    bench *b = host->context;
    b->allocations -= pointer != NULL;
    free(pointer);
}

static void host_parallel_for(const zds_host *host, size_t n, void (*body)(void *arg, size_t i),
                              void *arg)
{
    (void)host;
    for (size_t i = 0; i < n; i++)
        body(arg, i);
}

/* === create === */

static int32_t lowest_bit(uint32_t mask)
{
    return __builtin_ctz(mask); /* descriptor_fault has refused 0 */
}

static zds_status create_optim(bench *b, const void *options, void **self)
{
    zds_optim_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    zds_optim_env env = {.struct_size = sizeof env,
                         .space = lowest_bit(ops.spaces),
                         .master_dtype = lowest_bit(ops.master_dtypes),
                         .grad_dtype = lowest_bit(ops.grad_dtypes),
                         .output_dtype = lowest_bit(ops.output_dtypes),
                         .state_dtype = ZDS_F32,
                         .world_size = 1,
                         .seed = 42};
    zds_status status = ops.create(&b->host, options, &env, self);
    if (status == ZDS_OK)
        ops.destroy(*self);
    return status;
}

static zds_status create_sched(bench *b, const void *options, void **self)
{
    zds_sched_ops ops;
    plugin_ops(b->plugin, &ops, sizeof ops);
    zds_hyper base = {sizeof base, 1e-3, 0.9, 0.999, 0.9, 0};
    zds_sched_env env = {.struct_size = sizeof env,
                         .group_count = 1,
                         .hyper_stride = sizeof base,
                         .base = &base,
                         .total_steps = 100,
                         .warmup_steps = -1};
    zds_status status = ops.create(&b->host, options, &env, self);
    if (status == ZDS_OK)
        ops.destroy(*self);
    return status;
}

static void keep_problem(void *user, const char *key, const char *message)
{
    char **text = user;
    free(*text);
    *text = text_format("%s %s", key, message);
}

/* Creates and destroys an instance. `must`: these values have to be accepted. */
static void try_create(bench *b, const char *check, const cJSON *params, bool must)
{
    char *problem = NULL;
    say(b, check, "begun", "");
    void *options = options_create(b->plugin, params, keep_problem, &problem);
    if (!options) {
        conclude(b, check, fault_format("%s", problem ? problem : "there is no memory for it"));
        free(problem);
        return;
    }
    void *self = NULL;
    free(b->error);
    b->error = NULL;
    zds_status status = b->plugin->kind == ZDS_KIND_OPTIM ? create_optim(b, options, &self)
                                                          : create_sched(b, options, &self);
    options_destroy(options);
    if (status && !b->error)
        conclude(b, check,
                 fault_format("create returned \"%s\" without calling host->fail",
                              zds_status_name(status)));
    else if (status && must)
        conclude(b, check, fault_format("create refused what its own table says: %s", b->error));
    else if (status)
        say(b, check, "note", b->error);
    else if (b->allocations)
        conclude(
            b, check,
            fault_format("%zu pieces of host->alloc were not freed by destroy", b->allocations));
    else
        conclude(b, check, NULL);
    b->allocations = 0; /* each check counts its own */
}

/* A number inside the range of the option. */
static double inner_number(const zds_option *option)
{
    bool low = isfinite(option->min), high = isfinite(option->max);
    double step = option->type == ZDS_OPTION_INT ? 1000 : 1;
    double number = low && high ? (option->min + option->max) / 2
                    : low       ? option->min + step
                    : high      ? option->max - step
                                : step;
    return option->type == ZDS_OPTION_INT ? floor(number) : number;
}

/* A value for an option that has no default. */
static cJSON *inner_value(const zds_option *option)
{
    switch (option->type) {
    case ZDS_OPTION_BOOL:
        return cJSON_CreateTrue();
    case ZDS_OPTION_STRING:
        return cJSON_CreateString("text");
    case ZDS_OPTION_ENUM: {
        char *first = strndup(option->choices, strcspn(option->choices, "|"));
        cJSON *value = cJSON_CreateString(first ? first : "");
        free(first);
        return value;
    }
    case ZDS_OPTION_FLOATS: {
        cJSON *array = cJSON_CreateArray();
        for (uint32_t i = 0; i < option->count; i++)
            cJSON_AddItemToArray(array, cJSON_CreateNumber(inner_number(option)));
        return array;
    }
    default:
        return cJSON_CreateNumber(inner_number(option));
    }
}

static cJSON *required_values(const zds_plugin *plugin)
{
    cJSON *params = cJSON_CreateObject();
    for (size_t i = 0; i < plugin->option_count; i++) {
        const zds_option *option = table_row(plugin, i);
        if (option->flags & ZDS_OPTION_REQUIRED)
            cJSON_AddItemToObject(params, option->name, inner_value(option));
    }
    return params;
}

/* Takes over `value`. */
static void try_value(bench *b, const zds_option *option, cJSON *value)
{
    char *shown = cJSON_PrintUnformatted(value);
    char *check = text_format("create with %s = %s", option->name, shown ? shown : "?");
    cJSON *params = required_values(b->plugin);
    cJSON_DeleteItemFromObjectCaseSensitive(params, option->name);
    cJSON_AddItemToObject(params, option->name, value);
    if (check)
        try_create(b, check, params, false);
    cJSON_Delete(params);
    cJSON_free(shown);
    free(check);
}

static void try_bound(bench *b, const zds_option *option, double bound, bool excluded)
{
    if (!isfinite(bound) || excluded || option->type == ZDS_OPTION_FLOAT_LIST ||
        option->type == ZDS_OPTION_FLOATS)
        return;
    if (option->type == ZDS_OPTION_INT && fabs(bound) > 0x1p53)
        return;
    try_value(b, option, cJSON_CreateNumber(bound));
}

/* Each value at the edge of what the table allows for one option, the others at their defaults. */
static void try_option(bench *b, const zds_option *option)
{
    if (option->flags & ZDS_OPTION_NULLABLE)
        try_value(b, option, cJSON_CreateNull());
    if (option->type == ZDS_OPTION_BOOL) {
        try_value(b, option, cJSON_CreateFalse());
        try_value(b, option, cJSON_CreateTrue());
    } else if (option->type == ZDS_OPTION_ENUM) {
        for (const char *choice = option->choices; choice;) {
            size_t length = strcspn(choice, "|");
            char *word = strndup(choice, length);
            try_value(b, option, cJSON_CreateString(word ? word : ""));
            free(word);
            choice = choice[length] ? choice + length + 1 : NULL;
        }
    } else if (option->type != ZDS_OPTION_STRING) {
        try_bound(b, option, option->min, option->flags & ZDS_OPTION_ABOVE_MIN);
        try_bound(b, option, option->max, option->flags & ZDS_OPTION_BELOW_MAX);
    }
}

static void check_plugin(bench *b, size_t index)
{
    snprintf(b->label, sizeof b->label, "plugin %zu of the file", index);
    b->name = b->label;
    say(b, "descriptor", "begun", "");
    char *fault = descriptor_fault(b->plugin);
    b->name = fault ? b->label : b->plugin->name;
    bool sound = conclude(b, "descriptor", fault);
    if (!sound)
        return;
    if (b->plugin->kind != ZDS_KIND_OPTIM && b->plugin->kind != ZDS_KIND_SCHED) {
        say(b, "create", "skipped", "instances of this kind need a device, a path or peers");
        return;
    }
    cJSON *params = required_values(b->plugin);
    try_create(b, "create with the defaults", params, true);
    cJSON_Delete(params);
    for (size_t i = 0; i < b->plugin->option_count; i++)
        try_option(b, table_row(b->plugin, i));
}

void check_file(const char *path, FILE *out)
{
    bench b = {.out = out,
               .name = "",
               .host = {.struct_size = sizeof(zds_host),
                        .abi_minor = ZDS_ABI_MINOR,
                        .threads = 1,
                        .context = &b,
                        .log = host_log,
                        .fail = host_fail,
                        .alloc = host_alloc,
                        .free = host_free,
                        .parallel_for = host_parallel_for}};
    say(&b, "open", "begun", "");
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    conclude(&b, "open", handle ? NULL : fault_format("%s", dlerror()));
    if (!handle)
        return;
    const zds_plugin *const *plugins = NULL;
    say(&b, "symbol", "begun", "");
    char *fault = descriptor_symbol(dlsym, handle, &plugins);
    if (!fault && !*plugins)
        fault = fault_format("its array of plugins is empty");
    bool ok = conclude(&b, "symbol", fault);
    for (size_t i = 0; ok && plugins[i]; i++) {
        b.plugin = plugins[i];
        check_plugin(&b, i);
    }
    b.name = "";
    say(&b, "close", "begun", "");
    dlclose(handle);
    conclude(&b, "close", NULL);
    free(b.error);
}

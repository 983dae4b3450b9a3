/* What a plugin says of itself: whether it fits this host, and the facts as JSON. */
#include "plugin/descriptor.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/fault.h"
#include "plugin/json.h"
#include "plugin/options.h"
#include "plugin/registry.h"
#include "plugin/table.h"

enum { LONGEST_NAME = 63, NEWEST_MAJOR_ASKED = 9 };

static const char *const kinds[] = {[ZDS_KIND_OPTIM] = "optim",
                                    [ZDS_KIND_SCHED] = "sched",
                                    [ZDS_KIND_OFFLOAD] = "offload",
                                    [ZDS_KIND_COMM] = "comm"};
static const char *const spaces[] = {
    [ZDS_SPACE_HOST] = "host", [ZDS_SPACE_HOST_PINNED] = "host_pinned",
    [ZDS_SPACE_CUDA] = "cuda", [ZDS_SPACE_FILE] = "file",
    [ZDS_SPACE_HIP] = "hip",   [ZDS_SPACE_SYCL] = "sycl",
    [ZDS_SPACE_TEST] = "test"};
static const char *const dtypes[ZDS_DTYPE_COUNT] = {
    [ZDS_F32] = "f32", [ZDS_F16] = "f16", [ZDS_BF16] = "bf16", [ZDS_F64] = "f64",
    [ZDS_I8] = "i8",   [ZDS_U8] = "u8",   [ZDS_I32] = "i32",   [ZDS_I64] = "i64"};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char *name_at(const char *const *names, size_t count, int64_t i)
{
    return i >= 0 && (size_t)i < count ? names[i] : NULL;
}

const char *kind_name(int64_t kind)
{
    return name_at(kinds, COUNT(kinds), kind);
}

int32_t kind_number(const char *name)
{
    for (size_t i = 1; i < COUNT(kinds); i++)
        if (strcmp(kinds[i], name) == 0)
            return (int32_t)i;
    return 0;
}

const char *space_name(int64_t space)
{
    return name_at(spaces, COUNT(spaces), space);
}

bool space_is_device(int64_t space)
{
    return space == ZDS_SPACE_CUDA || space == ZDS_SPACE_HIP || space == ZDS_SPACE_SYCL ||
           space == ZDS_SPACE_TEST;
}

const char *dtype_name(int64_t dtype)
{
    return name_at(dtypes, COUNT(dtypes), dtype);
}

char *descriptor_symbol(void *(*find)(void *handle, const char *symbol), void *handle,
                        const zds_plugin *const **plugins)
{
    char name[32];
    snprintf(name, sizeof name, "zds_plugin_v%d", ZDS_ABI_MAJOR);
    const void *symbol = find(handle, name);
    *plugins = symbol;
    if (symbol)
        return NULL;
    for (int major = 1; major <= NEWEST_MAJOR_ASKED; major++) {
        snprintf(name, sizeof name, "zds_plugin_v%d", major);
        if (find(handle, name))
            return fault_format("is made for plugin ABI %d, and this zds has ABI %d.%d; build it "
                                "against this zds's zds/plugin.h",
                                major, ZDS_ABI_MAJOR, ZDS_ABI_MINOR);
    }
    return fault_format("has no symbol zds_plugin_v%d; a plugin defines it with ZDS_PLUGINS(...)",
                        ZDS_ABI_MAJOR);
}

/* === the vtable === */

/* One row of a vtable's checks: a function that must be there, if what `when` says holds. */
typedef struct operation {
    const char *name;
    size_t offset;
    bool (*when)(const void *ops); /* NULL: always */
} operation;

#define OPERATION(type, field, when)                                                               \
    {                                                                                              \
#field, offsetof(type, field), when                                                        \
    }

typedef void (*any_function)(void);

static bool has(const void *ops, size_t offset)
{
    any_function function;
    memcpy(&function, (const char *)ops + offset, sizeof function);
    return function != NULL;
}

static bool reduces_itself(const void *ops)
{
    return has(ops, offsetof(zds_optim_ops, reduction_mode));
}

static bool is_created(const void *ops)
{
    return has(ops, offsetof(zds_optim_ops, create));
}

static bool is_destroyed(const void *ops)
{
    return has(ops, offsetof(zds_optim_ops, destroy));
}

static bool keeps_state(const void *ops)
{
    return has(ops, offsetof(zds_sched_ops, state_bytes));
}

static bool in_file(const void *ops)
{
    return ((const zds_offload_ops *)ops)->space == ZDS_SPACE_FILE;
}

static bool not_in_file(const void *ops)
{
    return !in_file(ops);
}

static bool on_device(const void *ops)
{
    return space_is_device(((const zds_offload_ops *)ops)->space);
}

/* Where the host cannot move the bytes itself. */
static bool is_copied(const void *ops)
{
    return on_device(ops) || !(((const zds_offload_ops *)ops)->flags & ZDS_OFFLOAD_DIRECT);
}

static bool registers(const void *ops)
{
    return has(ops, offsetof(zds_comm_ops, mem_register));
}

static bool unregisters(const void *ops)
{
    return has(ops, offsetof(zds_comm_ops, mem_unregister));
}

static bool shares_node(const void *ops)
{
    return ((const zds_comm_ops *)ops)->flags & ZDS_COMM_NODE_SHARED;
}

static bool sends(const void *ops)
{
    return has(ops, offsetof(zds_comm_ops, send));
}

static bool receives(const void *ops)
{
    return has(ops, offsetof(zds_comm_ops, recv));
}

static bool groups(const void *ops)
{
    return has(ops, offsetof(zds_comm_ops, group_begin));
}

static bool ends_groups(const void *ops)
{
    return has(ops, offsetof(zds_comm_ops, group_end));
}

static bool needs_pushing(const void *ops)
{
    return !(((const zds_comm_ops *)ops)->flags & ZDS_COMM_AUTO_PROGRESS);
}

static bool observes(const void *ops)
{
    return ((const zds_sched_ops *)ops)->flags & ZDS_SCHED_OBSERVES;
}

static const operation optim_operations[] = {
    OPERATION(zds_optim_ops, create, is_destroyed),
    OPERATION(zds_optim_ops, destroy, is_created),
    OPERATION(zds_optim_ops, describe, NULL),
    OPERATION(zds_optim_ops, step, NULL),
    OPERATION(zds_optim_ops, step_collective, reduces_itself),
};
static const operation sched_operations[] = {
    OPERATION(zds_sched_ops, create, NULL),      OPERATION(zds_sched_ops, destroy, NULL),
    OPERATION(zds_sched_ops, at, NULL),          OPERATION(zds_sched_ops, save, keeps_state),
    OPERATION(zds_sched_ops, load, keeps_state), OPERATION(zds_sched_ops, observe, observes),
};
static const operation offload_operations[] = {
    OPERATION(zds_offload_ops, open, NULL),
    OPERATION(zds_offload_ops, close, NULL),
    OPERATION(zds_offload_ops, query, NULL),
    OPERATION(zds_offload_ops, alloc, NULL),
    OPERATION(zds_offload_ops, free, NULL),
    OPERATION(zds_offload_ops, adopt, not_in_file),
    OPERATION(zds_offload_ops, copy, is_copied),
    OPERATION(zds_offload_ops, fill, on_device),
    OPERATION(zds_offload_ops, convert, on_device),
    OPERATION(zds_offload_ops, accumulate, on_device),
    OPERATION(zds_offload_ops, chunk_sums, on_device),
    OPERATION(zds_offload_ops, stream_create, on_device),
    OPERATION(zds_offload_ops, stream_destroy, on_device),
    OPERATION(zds_offload_ops, stream_record, on_device),
    OPERATION(zds_offload_ops, stream_sync, on_device),
};
static const operation comm_operations[] = {
    OPERATION(zds_comm_ops, suits, NULL),
    OPERATION(zds_comm_ops, init, NULL),
    OPERATION(zds_comm_ops, finalize, NULL),
    OPERATION(zds_comm_ops, split, NULL),
    OPERATION(zds_comm_ops, mem_alloc, NULL),
    OPERATION(zds_comm_ops, mem_free, NULL),
    OPERATION(zds_comm_ops, mem_register, unregisters),
    OPERATION(zds_comm_ops, mem_unregister, registers),
    OPERATION(zds_comm_ops, counter_add, shares_node),
    OPERATION(zds_comm_ops, counter_wait, shares_node),
    OPERATION(zds_comm_ops, all_reduce, NULL),
    OPERATION(zds_comm_ops, reduce, NULL),
    OPERATION(zds_comm_ops, reduce_scatter, NULL),
    OPERATION(zds_comm_ops, all_gather, NULL),
    OPERATION(zds_comm_ops, broadcast, NULL),
    OPERATION(zds_comm_ops, all_to_all, NULL),
    OPERATION(zds_comm_ops, send, receives),
    OPERATION(zds_comm_ops, recv, sends),
    OPERATION(zds_comm_ops, barrier, NULL),
    OPERATION(zds_comm_ops, group_begin, ends_groups),
    OPERATION(zds_comm_ops, group_end, groups),
    OPERATION(zds_comm_ops, progress, needs_pushing),
    OPERATION(zds_comm_ops, abort, NULL),
};

/* By kind. `size`: of the vtable in ABI 1.0, which every plugin fills at least. */
static const struct {
    const operation *operations;
    size_t count, size;
} vtables[] = {
    [ZDS_KIND_OPTIM] = {optim_operations, COUNT(optim_operations), ZDS_OPTIM_OPS_1_0},
    [ZDS_KIND_SCHED] = {sched_operations, COUNT(sched_operations), ZDS_SCHED_OPS_1_0},
    [ZDS_KIND_OFFLOAD] = {offload_operations, COUNT(offload_operations), ZDS_OFFLOAD_OPS_1_0},
    [ZDS_KIND_COMM] = {comm_operations, COUNT(comm_operations), ZDS_COMM_OPS_1_0},
};

void plugin_ops(const zds_plugin *plugin, void *ops, size_t size)
{
    size_t theirs;
    memcpy(&theirs, plugin->ops, sizeof theirs);
    size_t common = theirs < size ? theirs : size;
    memcpy(ops, plugin->ops, common);
    memset((char *)ops + common, 0, size - common);
    memcpy(ops, &common, sizeof common); /* fields past it are zero, not the plugin's */
}

static char *ability_fault(const zds_plugin *plugin)
{
    if (plugin->kind == ZDS_KIND_OPTIM) {
        const zds_optim_ops *ops = plugin->ops;
        const struct {
            const char *name;
            uint32_t mask;
        } masks[] = {{"spaces", ops->spaces},
                     {"grad_dtypes", ops->grad_dtypes},
                     {"master_dtypes", ops->master_dtypes},
                     {"output_dtypes", ops->output_dtypes}};
        for (size_t i = 0; i < COUNT(masks); i++)
            if (!masks[i].mask)
                return fault_format("%s of its zds_optim_ops is 0: it could never be used",
                                    masks[i].name);
    } else if (plugin->kind == ZDS_KIND_OFFLOAD) {
        const zds_offload_ops *ops = plugin->ops;
        if (!space_name(ops->space))
            return fault_format("space of its zds_offload_ops is the unknown %d", ops->space);
        if (in_file(ops) && ops->flags & ZDS_OFFLOAD_DIRECT)
            return fault_format("flags of its zds_offload_ops say DIRECT, but its blocks are in "
                                "files, which no code can point to");
    } else if (plugin->kind == ZDS_KIND_COMM) {
        const zds_comm_ops *ops = plugin->ops;
        if (!ops->spaces)
            return fault_format("spaces of its zds_comm_ops is 0: it could never be used");
        if (!(ops->reduce_dtypes & ZDS_DTYPE_BIT(ZDS_F32)))
            return fault_format("reduce_dtypes of its zds_comm_ops lacks ZDS_F32, which every "
                                "backend reduces");
        if (ops->least_ranks < 1 || (ops->most_ranks && ops->most_ranks < ops->least_ranks))
            return fault_format("least_ranks and most_ranks of its zds_comm_ops are %d and %d: from"
                                " 1 on, and 0 for any number",
                                ops->least_ranks, ops->most_ranks);
    }
    return NULL;
}

static char *vtable_fault(const zds_plugin *plugin)
{
    const char *kind = kind_name(plugin->kind);
    if (!plugin->ops)
        return fault_format("ops is NULL");
    size_t size;
    memcpy(&size, plugin->ops, sizeof size);
    if (size < vtables[plugin->kind].size)
        return fault_format("struct_size of its zds_%s_ops is %zu, less than the %zu of ABI %d.0",
                            kind, size, vtables[plugin->kind].size, ZDS_ABI_MAJOR);
    for (size_t i = 0; i < vtables[plugin->kind].count; i++) {
        const operation *check = &vtables[plugin->kind].operations[i];
        if ((!check->when || check->when(plugin->ops)) && !has(plugin->ops, check->offset))
            return fault_format("%s of its zds_%s_ops is NULL, and it is not optional%s",
                                check->name, kind, check->when ? " here" : "");
    }
    return ability_fault(plugin);
}

/* === the descriptor === */

static bool is_name(const char *name)
{
    size_t length = name ? strnlen(name, LONGEST_NAME + 1) : 0;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '_' && name[i] != '-')
            return false;
    return length > 0 && length <= LONGEST_NAME;
}

static bool is_readable(const zds_plugin *plugin)
{
    return plugin->struct_size >= ZDS_PLUGIN_1_0;
}

char *descriptor_fault(const zds_plugin *plugin)
{
    if (!is_readable(plugin))
        return fault_format("struct_size of its zds_plugin is %zu, less than the %zu of ABI %d.0",
                            plugin->struct_size, ZDS_PLUGIN_1_0, ZDS_ABI_MAJOR);
    if (!kind_name(plugin->kind))
        return fault_format("is of kind %u, which this zds does not know", plugin->kind);
    if (!is_name(plugin->name))
        return fault_format("its name is not 1 to %d letters, digits, _ and -", LONGEST_NAME);
    for (const char *const *alias = plugin->aliases; alias && *alias; alias++)
        if (!is_name(*alias))
            return fault_format("an alias is not 1 to %d letters, digits, _ and -", LONGEST_NAME);
    if (!table_is_line(plugin->version))
        return fault_format("its version is not one line of text");
    if (!table_is_line(plugin->doc))
        return fault_format("its doc is not one line of text");
    if (plugin->min_host_minor > ZDS_ABI_MINOR)
        return fault_format("needs a host of ABI %d.%u, and this zds has %d.%d; a newer zds is "
                            "needed",
                            ZDS_ABI_MAJOR, plugin->min_host_minor, ZDS_ABI_MAJOR, ZDS_ABI_MINOR);
    if (plugin->required)
        return fault_format("requires features (bits %#llx) that this zds does not know; a newer "
                            "zds is needed",
                            (unsigned long long)plugin->required);
    char *fault = vtable_fault(plugin);
    return fault ? fault : table_fault(plugin);
}

static bool add_mask(cJSON *object, const char *name, uint32_t mask,
                     const char *(*name_of)(int64_t))
{
    cJSON *array = cJSON_CreateArray();
    bool whole = array != NULL;
    for (int32_t i = 0; i < 32 && whole; i++)
        if (mask >> i & 1 && name_of(i))
            whole = json_append(array, cJSON_CreateString(name_of(i)));
    return json_add(object, name, json_whole(array, whole));
}

static bool add_number(cJSON *object, const char *name, double number)
{
    return json_add(object, name, cJSON_CreateNumber(number));
}

/* What the search has to know of a kind before it opens one. */
static bool add_abilities(cJSON *facts, const zds_plugin *plugin)
{
    if (plugin->kind == ZDS_KIND_OPTIM) {
        const zds_optim_ops *ops = plugin->ops;
        return add_mask(facts, "spaces", ops->spaces, space_name) &&
               add_mask(facts, "grad_dtypes", ops->grad_dtypes, dtype_name) &&
               add_mask(facts, "master_dtypes", ops->master_dtypes, dtype_name) &&
               add_mask(facts, "output_dtypes", ops->output_dtypes, dtype_name);
    }
    if (plugin->kind == ZDS_KIND_COMM) {
        const zds_comm_ops *ops = plugin->ops;
        return add_mask(facts, "spaces", ops->spaces, space_name) &&
               add_mask(facts, "reduce_dtypes", ops->reduce_dtypes, dtype_name) &&
               add_number(facts, "least_ranks", ops->least_ranks) &&
               add_number(facts, "most_ranks", ops->most_ranks) &&
               add_number(facts, "one_node", (ops->flags & ZDS_COMM_ONE_NODE) != 0);
    }
    return true;
}

static bool add_text(cJSON *object, const char *name, const char *text)
{
    return json_add(object, name, cJSON_CreateString(text ? text : ""));
}

static cJSON *names(const char *const *list)
{
    cJSON *array = cJSON_CreateArray();
    bool whole = array != NULL;
    for (; list && *list && whole; list++)
        whole = json_append(array, cJSON_CreateString(*list));
    return json_whole(array, whole);
}

/* NULL without memory: what is left out would pass for another fact. */
static cJSON *facts_of(const zds_plugin *plugin)
{
    char *fault = descriptor_fault(plugin);
    if (fault_is_memory(fault))
        return NULL;
    cJSON *facts = cJSON_CreateObject();
    bool readable = is_readable(plugin);
    const char *kind = readable ? kind_name(plugin->kind) : NULL;
    bool named = kind && is_name(plugin->name);
    char abi[32];
    snprintf(abi, sizeof abi, "%d.%u", ZDS_ABI_MAJOR, readable ? plugin->abi_minor : 0);
    bool whole =
        add_text(facts, "kind", kind) && add_text(facts, "name", named ? plugin->name : NULL) &&
        json_add(facts, "aliases", names(named ? plugin->aliases : NULL)) &&
        add_text(facts, "version", named ? plugin->version : NULL) &&
        add_text(facts, "doc", named ? plugin->doc : NULL) &&
        add_text(facts, "abi", readable ? abi : NULL) &&
        json_add(facts, "reason", fault ? cJSON_CreateString(fault) : cJSON_CreateNull()) &&
        (fault || add_abilities(facts, plugin)) &&
        json_add(facts, "options", fault ? cJSON_CreateArray() : options_describe(plugin));
    fault_free(fault);
    return json_whole(facts, whole);
}

cJSON *descriptor_facts(const zds_plugin *const *plugins)
{
    cJSON *all = cJSON_CreateArray();
    bool whole = all != NULL;
    for (; whole && *plugins; plugins++)
        whole = json_append(all, facts_of(*plugins));
    return json_whole(all, whole);
}

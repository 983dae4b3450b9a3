/* The effective form as JSON, under the names of DeepSpeedConfig's attributes. */
#include <string.h>

#include "config/internal.h"

static cJSON *section(const zds_config *c, const field *parent);

/* The default of a list or of anything else, as JSON; null if there is none. */
static cJSON *fallback_node(const field *f)
{
    cJSON *node = f->fallback ? cJSON_Parse(f->fallback) : cJSON_CreateNull();
    return node ? node : cJSON_CreateString(f->fallback);
}

static cJSON *value_node(const zds_config *c, size_t row)
{
    const field *f = field_at(row);
    const value *v = &c->values[row];
    if (v->as_auto)
        return cJSON_CreateString("auto");
    if (v->null)
        return cJSON_CreateNull();
    if (f->flags & FIELD_OR_AUTO && !v->node)
        return cJSON_CreateString(f->fallback);
    switch (f->type) {
    case FIELD_BOOL:
        return cJSON_CreateBool(v->boolean);
    case FIELD_INT:
    case FIELD_FLOAT:
        return cJSON_CreateNumber(v->number);
    case FIELD_STRING:
    case FIELD_ENUM:
        return cJSON_CreateString(v->string);
    case FIELD_OBJECT:
        if (f->flags & (FIELD_OPEN | FIELD_MAP))
            return cJSON_IsObject(v->node) ? cJSON_Duplicate(v->node, true) : cJSON_CreateObject();
        return section(c, f);
    case FIELD_STRINGS:
    case FIELD_INTS:
    case FIELD_FLOATS:
    case FIELD_SECTIONS:
    case FIELD_ANY:
        return v->list ? cJSON_Duplicate(v->list, true) : fallback_node(f);
    }
    return NULL;
}

/* Deletes the tree. */
static char *as_text(cJSON *tree)
{
    char *text = tree_text(tree);
    cJSON_Delete(tree);
    return text;
}

char *zds_config_value(const zds_config *c, const char *path)
{
    int row = field_find_path(&c->index, path);
    if (row >= 0 && !strchr(field_at((size_t)row)->path, '*')) /* such rows have no value */
        return as_text(value_node(c, (size_t)row));
    return zds_config_node(c, path);
}

/* DeepSpeed's attribute for a key: without the prefix that its alias does not have. */
static const char *attribute(const field *f)
{
    return f->alias && strncmp(field_name(f), "stage3_", 7) == 0 ? f->alias : field_name(f);
}

static bool is_child(const field *f, const char *parent, size_t length)
{
    return strncmp(f->path, parent, length) == 0 && f->path[length] == '.' &&
           !strchr(f->path + length + 1, '.');
}

static cJSON *section(const zds_config *c, const field *parent)
{
    cJSON *object = cJSON_CreateObject();
    size_t length = strlen(parent->path), count = field_count();
    for (size_t i = 0; object && i < count; i++) {
        const field *f = field_at(i);
        if (is_child(f, parent->path, length) && f->support != FIELD_REMOVED)
            cJSON_AddItemToObject(object, attribute(f), value_node(c, i));
    }
    return object;
}

static void put(cJSON *out, const zds_config *c, const char *name, const char *path)
{
    cJSON_AddItemToObject(out, name, value_node(c, (size_t)field_find_path(&c->index, path)));
}

/* A lower-case name where DeepSpeed compares without case. */
static cJSON *optimizer_name(const zds_config *c)
{
    static const char *const own = "adagrad|adam|adamw|lamb|lion|muon|muadam|muadamw|musgd";
    const char *type = value_of(c, "optimizer.type")->string;
    cJSON *node = type ? cJSON_CreateString(type) : cJSON_CreateNull();
    if (node && type && field_has_choice(own, type, true))
        for (char *p = node->valuestring; *p; p++)
            *p |= *p >= 'A' && *p <= 'Z' ? 0x20 : 0;
    return node;
}

/* The params as they are in the file, if there is a type. */
static cJSON *params(const zds_config *c, const char *type, const char *path)
{
    const cJSON *node = value_of(c, type)->string ? tree_find(c->resolved, path) : NULL;
    return node ? cJSON_Duplicate(node, true) : cJSON_CreateNull();
}

static cJSON *communication_type(const zds_config *c)
{
    const char *name = value_of(c, "communication_data_type")->string;
    if (!name)
        return cJSON_CreateNull();
    return cJSON_CreateString(strcasecmp(name, "fp16") == 0   ? "float16"
                              : strcasecmp(name, "bf16") == 0 ? "bfloat16"
                                                              : "float32");
}

static cJSON *lower(const char *text)
{
    cJSON *node = cJSON_CreateString(text);
    for (char *p = node ? node->valuestring : NULL; p && *p; p++)
        *p |= *p >= 'A' && *p <= 'Z' ? 0x20 : 0;
    return node;
}

char *zds_config_effective(const zds_config *c)
{
    static const char *const same[] = {"train_batch_size",
                                       "train_micro_batch_size_per_gpu",
                                       "gradient_accumulation_steps",
                                       "managed_gradient_accumulation",
                                       "gradient_clipping",
                                       "steps_per_print",
                                       "wall_clock_breakdown",
                                       "memory_breakdown",
                                       "dump_state",
                                       "prescale_gradients",
                                       "gradient_predivide_factor",
                                       "zero_allow_untested_optimizer",
                                       "zero_force_ds_cpu_optimizer",
                                       "dataloader_drop_last",
                                       "disable_allgather",
                                       "log_level",
                                       "zero_optimization",
                                       "fp16",
                                       "bf16",
                                       "activation_checkpointing",
                                       "csv_monitor",
                                       "tensorboard",
                                       "comms_logger",
                                       "flops_profiler",
                                       "timers",
                                       "zds"};
    cJSON *out = cJSON_CreateObject();
    if (!out)
        return NULL;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        put(out, c, same[i], same[i]);
    put(out, c, "zero_optimization_stage", "zero_optimization.stage");
    put(out, c, "aio_config", "aio");
    put(out, c, "grad_accum_dtype", "data_types.grad_accum_dtype");
    put(out, c, "param_dtype", "data_types.param_dtype");
    put(out, c, "load_universal_checkpoint", "checkpoint.load_universal");
    put(out, c, "use_node_local_storage", "checkpoint.use_node_local_storage");
    cJSON_AddItemToObject(out, "gradient_allreduce_op",
                          lower(value_of(c, "gradient_allreduce_op")->string));
    cJSON_AddItemToObject(out, "communication_data_type", communication_type(c));
    cJSON_AddItemToObject(out, "optimizer_name", optimizer_name(c));
    cJSON_AddItemToObject(out, "optimizer_params", params(c, "optimizer.type", "optimizer.params"));
    put(out, c, "scheduler_name", "scheduler.type");
    cJSON_AddItemToObject(out, "scheduler_params", params(c, "scheduler.type", "scheduler.params"));
    const char *validation = value_of(c, "checkpoint.tag_validation")->string;
    cJSON_AddBoolToObject(out, "checkpoint_tag_validation_enabled",
                          strcasecmp(validation, "ignore") != 0);
    cJSON_AddBoolToObject(out, "checkpoint_tag_validation_fail",
                          strcasecmp(validation, "fail") == 0);
    return as_text(out);
}

/* HfTrainerDeepSpeedConfig of transformers 5.23 (integrations/deepspeed.py): trainer_config_process
 * and trainer_config_finalize, in their order. A field that the arguments do not hold fills "auto"
 * with TrainingArguments' default, or with what the file itself says, and never mismatches. */
#include "config/resolve.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct resolver {
    zds_config *c;
    const cJSON *arguments;
    int64_t hidden_size, steps;
    bool find_batch_size;
} resolver;

static const cJSON *argument(const resolver *r, const char *name)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(r->arguments, name);
    return cJSON_IsNull(node) ? NULL : node;
}

static bool is_given(const resolver *r, const char *name)
{
    return argument(r, name) != NULL;
}

static double number_argument(const resolver *r, const char *name, double fallback)
{
    const cJSON *node = argument(r, name);
    if (cJSON_IsBool(node))
        return cJSON_IsTrue(node);
    return cJSON_IsNumber(node) ? node->valuedouble : fallback;
}

static bool flag_argument(const resolver *r, const char *name)
{
    return number_argument(r, name, 0) != 0;
}

/* The object that holds the last key of `path`, or NULL if it is not there. A section on the way
 * that is no object is reported once, as transformers fails there. */
static cJSON *parent_of(resolver *r, const char *path, const char **key)
{
    cJSON *node = r->c->resolved;
    const char *part = path;
    for (const char *dot; (dot = strchr(part, '.')) != NULL; part = dot + 1) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(dot - part), part);
        node = cJSON_GetObjectItemCaseSensitive(node, name);
        if (!node || !cJSON_IsObject(node))
            return NULL;
    }
    *key = part;
    return node;
}

static cJSON *item_at(resolver *r, const char *path)
{
    const char *key;
    cJSON *parent = parent_of(r, path, &key);
    return parent ? cJSON_GetObjectItemCaseSensitive(parent, key) : NULL;
}

static bool is_auto(resolver *r, const char *path)
{
    return tree_is_auto(item_at(r, path));
}

/* Python's ==: booleans are numbers. */
static bool equal(const cJSON *a, const cJSON *b)
{
    bool a_number = cJSON_IsNumber(a) || cJSON_IsBool(a),
         b_number = cJSON_IsNumber(b) || cJSON_IsBool(b);
    if (a_number && b_number)
        return (cJSON_IsNumber(a) ? a->valuedouble : cJSON_IsTrue(a)) ==
               (cJSON_IsNumber(b) ? b->valuedouble : cJSON_IsTrue(b));
    if (cJSON_IsArray(a) && cJSON_IsArray(b)) {
        const cJSON *x = a->child, *y = b->child;
        for (; x && y; x = x->next, y = y->next)
            if (!equal(x, y))
                return false;
        return !x && !y;
    }
    return cJSON_Compare(a, b, true);
}

/* Fills "auto" with `filling`, which is taken over; else, if `must_match`, reports a difference. */
static void fill(resolver *r, const char *path, cJSON *filling, const char *name, bool must_match)
{
    const char *key;
    cJSON *parent = parent_of(r, path, &key);
    cJSON *item = parent ? cJSON_GetObjectItemCaseSensitive(parent, key) : NULL;
    if (!filling) {
        r->c->failed = true;
    } else if (tree_is_auto(item)) {
        if (cJSON_ReplaceItemInObjectCaseSensitive(parent, key, filling))
            return;
        r->c->failed = true;
    } else if (must_match && item && !cJSON_IsNull(item) && !equal(item, filling)) {
        char has[128], wants[128];
        tree_show(item, has, sizeof has);
        tree_show(filling, wants, sizeof wants);
        problem_add(r->c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ARGUMENTS, path,
                    "%s, but the training arguments say %s=%s; write \"auto\", or change one of "
                    "them",
                    has, name, wants);
        config_mismatch(r->c, path, item, name, filling);
    }
    cJSON_Delete(filling);
}

static void fill_number(resolver *r, const char *path, double x, const char *name, bool must_match)
{
    fill(r, path, cJSON_CreateNumber(x), name, must_match);
}

/* An argument that is not given is what the file says, if that is a number. */
static double batch_argument(resolver *r, const char *name, const char *path, double fallback)
{
    const cJSON *item = item_at(r, path);
    return number_argument(r, name, cJSON_IsNumber(item) ? item->valuedouble : fallback);
}

static void fill_batch(resolver *r)
{
    static const char *const per_device = "per_device_train_batch_size",
                             *const steps = "gradient_accumulation_steps";
    double micro = batch_argument(r, per_device, "train_micro_batch_size_per_gpu", 8),
           gas = batch_argument(r, steps, "gradient_accumulation_steps", 1);
    fill_number(r, "train_micro_batch_size_per_gpu", micro, per_device,
                is_given(r, per_device) && !r->find_batch_size);
    fill_number(r, "gradient_accumulation_steps", gas, steps, is_given(r, steps));
    fill_number(r, "train_batch_size", (double)r->c->world_size * micro * gas,
                "train_batch_size (calculated)",
                is_given(r, per_device) && is_given(r, steps) && !r->find_batch_size);
}

static void fill_optimizer(resolver *r)
{
    double b[] = {number_argument(r, "adam_beta1", 0.9), number_argument(r, "adam_beta2", 0.999)};
    double rate = number_argument(r, "learning_rate", 5e-5);
    fill_number(r, "gradient_clipping", number_argument(r, "max_grad_norm", 1.0), "max_grad_norm",
                is_given(r, "max_grad_norm"));
    fill_number(r, "optimizer.params.lr", rate, "learning_rate", is_given(r, "learning_rate"));
    fill(r, "optimizer.params.betas", cJSON_CreateDoubleArray(b, 2), "adam_beta1+adam_beta2",
         is_given(r, "adam_beta1") || is_given(r, "adam_beta2"));
    fill_number(r, "optimizer.params.eps", number_argument(r, "adam_epsilon", 1e-8), "adam_epsilon",
                is_given(r, "adam_epsilon"));
    fill_number(r, "optimizer.params.weight_decay", number_argument(r, "weight_decay", 0),
                "weight_decay", is_given(r, "weight_decay"));
    fill_number(r, "scheduler.params.warmup_min_lr", 0, "", false);
    fill_number(r, "scheduler.params.warmup_max_lr", rate, "learning_rate",
                is_given(r, "learning_rate"));
}

static void save_on_each_node(resolver *r)
{
    cJSON *checkpoint = cJSON_GetObjectItemCaseSensitive(r->c->resolved, "checkpoint");
    if (!flag_argument(r, "save_on_each_node"))
        return;
    if (!checkpoint)
        checkpoint = cJSON_AddObjectToObject(r->c->resolved, "checkpoint");
    if (!cJSON_IsObject(checkpoint))
        return; /* reported as a section that is none */
    cJSON_DeleteItemFromObjectCaseSensitive(checkpoint, "use_node_local_storage");
    if (!cJSON_AddTrueToObject(checkpoint, "use_node_local_storage"))
        r->c->failed = true;
}

static void fill_precision(resolver *r)
{
    static const char *const flags[][2] = {{"fp16", "fp16_full_eval"}, {"bf16", "bf16_full_eval"}};
    static const char *const paths[] = {"fp16.enabled", "bf16.enabled"};
    static const char *const names[] = {"fp16|fp16_full_eval", "bf16|bf16_full_eval"};
    for (size_t i = 0; i < 2; i++)
        fill(r, paths[i],
             cJSON_CreateBool(flag_argument(r, flags[i][0]) || flag_argument(r, flags[i][1])),
             names[i], is_given(r, flags[i][0]) || is_given(r, flags[i][1]));
}

static void fill_hidden_size(resolver *r)
{
    static const char *const keys[] = {"zero_optimization.reduce_bucket_size",
                                       "zero_optimization.stage3_prefetch_bucket_size",
                                       "zero_optimization.stage3_param_persistence_threshold"};
    double h = (double)r->hidden_size;
    const cJSON *stage = item_at(r, "zero_optimization.stage");
    if (h <= 0) {
        for (size_t i = 0; i < 3; i++)
            if (is_auto(r, keys[i]))
                problem_add(r->c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ARGUMENTS, keys[i],
                            "\"auto\" is filled from the model's hidden size, which is not known; "
                            "write a number");
        return;
    }
    fill_number(r, keys[0], h * h, "", false);
    if (cJSON_IsNumber(stage) && stage->valuedouble == 3) {
        fill_number(r, keys[1], trunc(0.9 * h * h), "", false);
        fill_number(r, keys[2], 10 * h, "", false);
    }
}

/* A count from 1 on, a ratio below. warmup_ratio is its older spelling. */
static double warmup_steps(const resolver *r)
{
    double w = number_argument(r, "warmup_steps", 0);
    if (w == 0)
        w = number_argument(r, "warmup_ratio", 0);
    return w >= 1 ? trunc(w) : ceil((double)r->steps * w);
}

static void fill_schedule(resolver *r)
{
    double warmup = warmup_steps(r);
    bool given = is_given(r, "warmup_steps") || is_given(r, "warmup_ratio");
    if (r->steps > 0)
        fill_number(r, "scheduler.params.total_num_steps", (double)r->steps,
                    "num_training_steps (calculated)", true);
    else if (is_auto(r, "scheduler.params.total_num_steps"))
        problem_add(r->c, ZDS_PROBLEM_ERROR, ZDS_CHECK_ARGUMENTS,
                    "scheduler.params.total_num_steps",
                    "\"auto\" is filled with the number of training steps, which is not known; "
                    "write a number");
    fill_number(r, "scheduler.params.warmup_num_steps", warmup > 1 ? warmup : 1, "warmup_steps",
                given);
}

void config_resolve(zds_config *c, const zds_config_context *context)
{
    if (!context || !context->arguments)
        return;
    resolver r = {c, context->arguments, context->hidden_size, context->num_training_steps,
                  context->auto_find_batch_size};
    fill_batch(&r);
    fill_optimizer(&r);
    save_on_each_node(&r);
    fill_precision(&r);
    fill_hidden_size(&r);
    fill_schedule(&r);
}

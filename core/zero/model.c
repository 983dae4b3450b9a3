/* The caller's description of a model: modules in forward order, parameters at home in one of them,
 * further uses. */
#include "zero/model.h"

#include <search.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "host/error.h"
#include "host/sized.h"

zds_model *zds_model_create(void)
{
    return calloc(1, sizeof(zds_model));
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void keep(void *name)
{
    (void)name; /* its parameter frees it */
}

void zds_model_destroy(zds_model *model)
{
    if (!model)
        return;
    tdestroy(model->names, keep);
    for (uint32_t i = 0; i < model->module_count; i++) {
        free(model->modules[i].name);
        free(model->modules[i].params);
    }
    for (uint32_t i = 0; i < model->param_count; i++)
        free(model->params[i].name);
    free(model->modules);
    free(model->params);
    free(model->error);
    free(model);
}

const char *zds_model_error(const zds_model *model)
{
    if (!model)
        return "the model is NULL: make one by zds_model_create";
    return model->error ? model->error : "";
}

static zds_status fail(zds_model *model, zds_status status, const char *format, ...)
    ZDS_PRINTF(3, 4);

static zds_status fail(zds_model *model, zds_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = text_formatv(format, args);
    va_end(args);
    free(model->error);
    model->error = text;
    return status;
}

/* What earlier calls said is not of this one. False where there is no model to say anything. */
static bool begin(zds_model *model)
{
    if (!model)
        return false;
    free(model->error);
    model->error = NULL;
    return true;
}

/* Room for one more element; arrays grow by powers of two. */
static bool reserve(void *array, size_t count, size_t size)
{
    void **pointer = array;
    if (count & (count - 1))
        return true;
    void *grown = realloc(*pointer, (count ? 2 * count : 1) * size);
    if (grown)
        *pointer = grown;
    return grown != NULL;
}

zds_status zds_model_add_module(zds_model *model, const char *name, uint32_t *module)
{
    if (!begin(model))
        return ZDS_ERR_INVALID;
    if (!name)
        return fail(model, ZDS_ERR_INVALID, "module %u: its name is NULL", model->module_count);
    char *copy = strdup(name);
    if (!copy || !reserve(&model->modules, model->module_count, sizeof *model->modules)) {
        free(copy);
        return fail(model, ZDS_ERR_MEMORY, "module %s: no memory", name);
    }
    model->modules[model->module_count] = (model_module){.name = copy};
    if (module)
        *module = model->module_count;
    model->module_count++;
    return ZDS_OK;
}

static zds_status check_param(zds_model *model, uint32_t module, const zds_param_desc *desc,
                              uint64_t *numel)
{
    if (!desc)
        return fail(model, ZDS_ERR_INVALID, "parameter %u: its desc is NULL", model->param_count);
    const size_t least = ZDS_SIZE_THROUGH(zds_param_desc, fan_out_mult);
    if (!sized_reaches(desc, least))
        return fail(model, ZDS_ERR_INVALID, "parameter %u: " SIZED_TOO_SHORT, model->param_count,
                    "zds_param_desc", desc->struct_size, least);
    if (!desc->name || !*desc->name)
        return fail(model, ZDS_ERR_INVALID, "parameter %u: it has no name", model->param_count);
    if (module >= model->module_count)
        return fail(model, ZDS_ERR_INVALID, "parameter %s: there is no module %u, only %u of them",
                    desc->name, module, model->module_count);
    if (desc->ndim > MODEL_MAX_NDIM || (desc->ndim && !desc->shape))
        return fail(model, ZDS_ERR_INVALID, "parameter %s: %u dimensions; 0 to %d are possible",
                    desc->name, desc->ndim, MODEL_MAX_NDIM);
    if (!(desc->width_mult >= 0) || !(desc->fan_out_mult >= 0))
        return fail(model, ZDS_ERR_INVALID,
                    "parameter %s: width_mult and fan_out_mult must be positive", desc->name);
    *numel = 1;
    for (uint32_t i = 0; i < desc->ndim; i++) {
        if (desc->shape[i] < 0 || __builtin_mul_overflow(*numel, (uint64_t)desc->shape[i], numel) ||
            *numel > (uint64_t)1 << 48)
            return fail(model, ZDS_ERR_INVALID,
                        "parameter %s: extent %lld of dimension %u is negative or too large",
                        desc->name, (long long)desc->shape[i], i);
    }
    if (tfind(desc->name, &model->names, by_name))
        return fail(model, ZDS_ERR_INVALID, "parameter %s: the name is taken", desc->name);
    return ZDS_OK;
}

/* Appends a parameter's index to a module's list. */
static zds_status list(zds_model *model, uint32_t module, uint32_t param)
{
    model_module *m = &model->modules[module];
    if (!reserve(&m->params, (size_t)m->home_count + m->use_count, sizeof *m->params))
        return fail(model, ZDS_ERR_MEMORY, "module %s: no memory", m->name);
    m->params[m->home_count + m->use_count] = param;
    return ZDS_OK;
}

zds_status zds_model_add_param(zds_model *model, uint32_t module, const zds_param_desc *desc,
                               uint32_t *param)
{
    uint64_t numel = 0;
    if (!begin(model))
        return ZDS_ERR_INVALID;
    zds_status status = check_param(model, module, desc, &numel);
    if (status)
        return status;
    if (model->modules[module].use_count)
        return fail(model, ZDS_ERR_INVALID,
                    "parameter %s: add a module's own parameters before its uses of others'",
                    desc->name);
    char *name = strdup(desc->name);
    if (!name || !reserve(&model->params, model->param_count, sizeof *model->params) ||
        list(model, module, model->param_count) || !tsearch(name, &model->names, by_name)) {
        free(name);
        return fail(model, ZDS_ERR_MEMORY, "parameter %s: no memory", desc->name);
    }
    model_param *p = &model->params[model->param_count];
    *p = (model_param){.name = name,
                       .ndim = desc->ndim,
                       .role = desc->role,
                       .frozen = desc->frozen,
                       .fp32 = desc->fp32,
                       .group = desc->group,
                       .width_mult = desc->width_mult > 0 ? desc->width_mult : 1,
                       .fan_out_mult = desc->fan_out_mult,
                       .numel = numel,
                       .home = module,
                       .last_use = module};
    if (p->fan_out_mult == 0)
        p->fan_out_mult = p->role == ZDS_ROLE_MATRIX ? p->width_mult : 1;
    if (desc->ndim)
        memcpy(p->shape, desc->shape, desc->ndim * sizeof *desc->shape);
    model->modules[module].home_count++;
    if (param)
        *param = model->param_count;
    model->param_count++;
    return ZDS_OK;
}

zds_status zds_model_add_use(zds_model *model, uint32_t module, uint32_t param)
{
    if (!begin(model))
        return ZDS_ERR_INVALID;
    if (module >= model->module_count || param >= model->param_count)
        return fail(model, ZDS_ERR_INVALID,
                    "use of parameter %u by module %u: there are %u parameters and %u modules",
                    param, module, model->param_count, model->module_count);
    model_param *p = &model->params[param];
    if (module <= p->home)
        return fail(model, ZDS_ERR_INVALID,
                    "use of %s by module %s: its home, %s, must come before; make the first module "
                    "that uses "
                    "it its home",
                    p->name, model->modules[module].name, model->modules[p->home].name);
    const model_module *m = &model->modules[module];
    bool later = module > p->last_use; /* than all that have it listed */
    for (uint32_t i = 0; !later && i < m->home_count + m->use_count; i++)
        if (m->params[i] == param)
            return fail(model, ZDS_ERR_INVALID, "use of %s by module %s is declared twice", p->name,
                        m->name);
    zds_status status = list(model, module, param);
    if (status)
        return status;
    model->modules[module].use_count++;
    if (module > p->last_use)
        p->last_use = module;
    return ZDS_OK;
}

zds_model *model_copy(const zds_model *model)
{
    zds_model *copy = zds_model_create();
    if (!copy)
        return NULL;
    copy->modules = calloc(model->module_count + (size_t)1, sizeof *copy->modules);
    copy->params = calloc(model->param_count + (size_t)1, sizeof *copy->params);
    if (!copy->modules || !copy->params)
        goto failed;
    for (uint32_t i = 0; i < model->param_count; i++) {
        copy->params[i] = model->params[i];
        copy->params[i].name = strdup(model->params[i].name);
        copy->param_count++;
        if (!copy->params[i].name)
            goto failed;
    }
    for (uint32_t m = 0; m < model->module_count; m++) {
        const model_module *from = &model->modules[m];
        size_t bytes = ((size_t)from->home_count + from->use_count) * sizeof *from->params;
        copy->modules[m] = *from;
        copy->modules[m].name = strdup(from->name);
        copy->modules[m].params = malloc(bytes + 1);
        copy->module_count++;
        if (!copy->modules[m].name || !copy->modules[m].params)
            goto failed;
        if (bytes)
            memcpy(copy->modules[m].params, from->params, bytes);
    }
    return copy;
failed:
    zds_model_destroy(copy);
    return NULL;
}

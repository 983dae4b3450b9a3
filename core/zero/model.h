/* The caller's description of a model: modules in forward order, parameters at home in one of them,
 * further uses. */
#ifndef CORE_ZERO_MODEL_H
#define CORE_ZERO_MODEL_H

#include "zds/engine.h"

enum { MODEL_MAX_NDIM = 8 };

typedef struct model_param {
    char *name;
    int64_t shape[MODEL_MAX_NDIM];
    uint32_t ndim;
    int32_t role;
    bool frozen, fp32;
    uint32_t group;
    double width_mult, fan_out_mult;
    uint64_t numel;
    uint32_t home;     /* module */
    uint32_t last_use; /* the highest module that uses it: in backward the first */
} model_param;

typedef struct model_module {
    char *name;
    uint32_t *params; /* [home_count] at home, then [use_count] uses */
    uint32_t home_count, use_count;
} model_module;

struct zds_model {
    model_module *modules;
    uint32_t module_count;
    model_param *params;
    uint32_t param_count;
    void *names; /* those of the parameters, as tsearch keeps them */
    char *error;
};

/* To be read only: it does not know its parameters by name. NULL without memory. */
zds_model *model_copy(const zds_model *model);

#endif

/* The parameters of a GPT-2: names, shapes, modules, and the values they start with. */
#ifndef ZDS_TRAIN_PARAMS_H
#define ZDS_TRAIN_PARAMS_H

#include "common/safetensors.h"
#include "config.h"
#include "zds/engine.h"

enum { WTE, WPE, FIRST_BLOCK_PARAM }; /* then BLOCK_PARAMS a layer, then ln_f, then lm_head */

enum { GROUP_DECAY = 0, GROUP_NO_DECAY = 1 };

typedef struct param {
    char name[64]; /* as GPT2LMHeadModel saves it: "transformer.h.0.ln_1.weight" */
    int64_t shape[2];
    uint32_t ndim;
    int32_t role;
    uint32_t group;
    uint32_t module; /* 0: embeddings; then one a layer; then the final norm and the head */
    double std;      /* fresh weights: normal with this deviation, or constant where it is 0 */
    double constant;
} param;

typedef struct params {
    param *list;
    size_t count;
    int64_t layers;
    bool tied; /* the head is wte */
} params;

zds_status params_create(const gpt2_config *config, params *p, zds_error *error);
void params_destroy(params *p);
uint64_t param_elements(const param *p);

/* Modules and parameters, in the order of the list; in the final module's view the norm comes
 * first, then the head. */
zds_status params_describe(const params *p, zds_model *model, zds_error *error);

/* Where initial values come from: a file whose tensors have been matched, or random numbers. */
typedef struct source {
    const params *params;
    safetensors *file;                  /* NULL: fresh */
    const safetensors_tensor **tensors; /* (count) */
    uint64_t seed;
    zds_error error; /* of the last read */
} source;

/* Opens the weights of a model's folder and holds names and shapes against the config. */
zds_status source_open(const char *folder, const params *p, source *s, zds_error *error);
void source_close(source *s);
/* A zds_read_fn with a source as its user. */
zds_status source_read(void *user, uint32_t index, uint64_t first, uint64_t count, float *out);

#endif

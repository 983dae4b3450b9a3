/* The inside of a zds_hf_config. */
#ifndef CORE_CONFIG_HF_H
#define CORE_CONFIG_HF_H

#include <cjson/cJSON.h>

#include "zds/config.h"

struct zds_hf_config {
    cJSON *tree;       /* changes with every fill */
    cJSON *mismatches; /* [{ds_key, ds_value, hf_key, hf_value}] */
    cJSON *errors;     /* [{path, message}] */
    double stage;      /* -1: not given, NaN: no number */
    bool offload;
    const char *dtype; /* NULL before process */
    bool failed;       /* out of memory */
};

/* Takes the tree over; NULL if there is no memory. */
zds_hf_config *hf_create(cJSON *tree);
void hf_read_stage(zds_hf_config *hf); /* after the stage or an offload device changed */
void hf_error(zds_hf_config *hf, const char *path, const char *message);
/* accelerate's part, between process and finalize. */
void hf_accelerate(zds_hf_config *hf, const zds_config_context *context);
/* process and finalize without turning what they found into a status. */
void hf_process(zds_hf_config *hf, const zds_config_context *context);
void hf_finalize(zds_hf_config *hf, const zds_config_context *context);

#endif

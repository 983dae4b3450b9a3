/* The inside of a zds_hf_config. */
#ifndef CORE_CONFIG_HF_H
#define CORE_CONFIG_HF_H

#include <cjson/cJSON.h>

#include "config/problems.h"

typedef struct hf_mismatch {
    char *ds_key, *hf_key;
    char *ds_value, *hf_value; /* JSON text */
    char *says;                /* "2, but the training arguments say learning_rate=3" */
} hf_mismatch;

struct zds_hf_config {
    cJSON *tree;             /* changes with every fill */
    hf_mismatch *mismatches; /* [mismatch_count] */
    size_t mismatch_count;
    problems errors; /* that have no place yet */
    double stage;    /* -1: not given, NaN: no number */
    bool offload;
    const char *dtype; /* NULL before process */
    bool failed;       /* out of memory */
};

/* Takes the tree over; NULL if there is no memory. */
zds_hf_config *hf_create(cJSON *tree);
void hf_read_stage(zds_hf_config *hf); /* after the stage or an offload device changed */
void hf_error(zds_hf_config *hf, const char *path, const char *message);
/* What zds_hf_config_find_node and zds_hf_config_value are the text of. */
const cJSON *hf_find(const zds_hf_config *hf, const char *path, const char **key);
const cJSON *hf_value(const zds_hf_config *hf, const char *path);
/* zds_hf_config_fill_match with a node, which is copied. */
void hf_fill(zds_hf_config *hf, const char *path, const cJSON *filling, const char *hf_key,
             bool must_match);
/* Forgets the mismatches after the first `count`. */
void hf_forget(zds_hf_config *hf, size_t count);
/* accelerate's part, between process and finalize. */
void hf_accelerate(zds_hf_config *hf, const zds_config_context *context, const cJSON *arguments);
/* process and finalize without turning what they found into a status. */
void hf_process(zds_hf_config *hf, const zds_config_context *context, const cJSON *arguments);
void hf_finalize(zds_hf_config *hf, const zds_config_context *context, const cJSON *arguments);

#endif

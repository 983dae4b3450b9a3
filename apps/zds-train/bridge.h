/* Between the model and the engine: modules are acquired, computed with, reported. */
#ifndef ZDS_TRAIN_BRIDGE_H
#define ZDS_TRAIN_BRIDGE_H

#include "data.h"
#include "gpt2.h"
#include "mirror.h"
#include "params.h"
#include "zds/engine.h"

typedef struct bridge {
    zds_engine *engine;
    gpt2 *model;
    const dataset *data;
    const params *params;
    const kernels *k;
    uint64_t seed;
    int64_t step;     /* of the run, from 0 */
    uint32_t *tokens; /* (B, T + 1) */
    float *weights;   /* a block's, converted from 16 bits; NULL in fp32 */
    size_t weights_bytes;
    mirror mirror;
    float *norm; /* (2, D): the final norm's, likewise */
    int64_t batch, length, width;
    zds_error error; /* of the program's own part of a callback */
} bridge;

zds_status bridge_create(zds_engine *engine, const gpt2_config *config, const params *p,
                         const dataset *data, uint64_t seed, bridge *b, zds_error *error);
void bridge_destroy(bridge *b);

/* Callbacks of zds_train_batch, with a bridge as their user. */
extern const zds_model_ops bridge_ops;

/* Collective. The scores (V) of the token after tokens[0..end), of which the first `done` have been
 * seen by the call before. */
zds_status bridge_scores(bridge *b, const uint32_t *tokens, size_t done, size_t end, float *scores);

#endif

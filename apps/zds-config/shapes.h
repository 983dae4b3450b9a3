/* The shapes of a model, as the engine wants them described: of a folder in transformers' format,
 * or of so many parameters. */
#ifndef APPS_ZDS_CONFIG_SHAPES_H
#define APPS_ZDS_CONFIG_SHAPES_H

#include "zds/engine.h"

typedef struct shapes {
    zds_model *model;
    double parameters; /* elements of all */
    double largest;    /* of the largest module */
} shapes;

/* From the headers of the safetensors files in `folder`; where there are none, from its
 * config.json. Layers become modules, with a module of embeddings before and one of the rest after
 * them. To be released in any case. */
zds_status shapes_read(const char *folder, shapes *out, zds_error *error);
/* `parameters` in 32 layers of the same size, each a matrix that is nearly square and, where it
 * does not come out even, a vector. */
zds_status shapes_layers(int64_t parameters, shapes *out, zds_error *error);
void shapes_release(shapes *s);

#endif

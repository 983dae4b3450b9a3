/* Between Adafactor's plugin and its kernels. */
#ifndef OPTIM_ADAFACTOR_H
#define OPTIM_ADAFACTOR_H

#include "common/elementwise.h"

/* One matrix of a parameter, (rows, columns); a vector is a matrix of one row. */
typedef struct adafactor_matrix {
    size_t rows, columns;
    size_t first; /* element of the tile where the matrix starts */
    const zds_tile *tile;
    float *row;      /* (rows) running mean of the squares of each row; NULL: a vector */
    float *column;   /* (columns) of each column; of a vector of each element */
    bool stochastic; /* round bfloat16 weights at random.. */
    uint32_t key;    /* ..as elementwise's are */
    float grad_scale;
    float fresh; /* weight of this step's squares: step^beta2_decay */
    float least; /* eps1^2, under the root */
    float inverse_row_mean;
    float keep; /* 1 - lr * weight_decay */
    float rate; /* of the update as adafactor_scale left it */
} adafactor_matrix;

/* All work on rows, or columns, [first, first + count), and may run at once on disjoint ones. */
typedef struct adafactor_kernels {
    /* Moves `row`; returns the sum of the squares of the weights, before decay. */
    double (*rows)(const adafactor_matrix *m, size_t first, size_t count);
    /* Moves `column`. */
    void (*columns)(const adafactor_matrix *m, size_t first, size_t count);
    /* The sum of the squares of the update. */
    double (*norm)(const adafactor_matrix *m, size_t first, size_t count);
    /* Decays the weights, and takes the update times `rate` from them. */
    void (*apply)(const adafactor_matrix *m, size_t first, size_t count);
} adafactor_kernels;

extern const adafactor_kernels adafactor_scalar, adafactor_avx2, adafactor_avx512;

#endif

/* The model of the example programs: y = W2 tanh(W1 x + b1) + b2, fitted to a function of two
 * variables. Two modules of two parameters each; zds owns their memory. C11, and C++20 as well. */
#ifndef MLP_H
#define MLP_H

#include <zds/zds.h>

/* zds's structs start as zeros: set the size and what you mean. As C++, g++ -Wextra would name each
 * field that such an initialiser leaves out. */
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif

enum { INPUTS = 2, HIDDEN = 64 };

typedef struct mlp {
    zds_config *config; /* must outlive the engine */
    zds_engine *engine;
    int64_t batch; /* rows of a micro step: B */
    float *x;      /* (B, INPUTS) */
    float *target; /* (B) */
    float *h;      /* (B, HIDDEN), after tanh */
    float *error;  /* (B), output - target */
} mlp;

/* Loads the ds_config at `path`, makes the engine and sets the initial values. On an error says why
 * on stderr and returns false. */
bool mlp_open(mlp *m, const char *path);
void mlp_close(mlp *m);

/* Draws the rows of micro step `micro` of optimizer step `step` (both from 0) for this rank: x and
 * target. */
void mlp_draw(mlp *m, int64_t step, int64_t micro);
/* Draws them and runs forward: *loss is the mean squared error of these rows. */
zds_status mlp_forward(mlp *m, int64_t step, int64_t micro, double *loss);
/* Backward of the same, starting from loss_scale x the gradient of that loss. */
zds_status mlp_backward(mlp *m, double loss_scale);

#endif

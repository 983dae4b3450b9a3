/* Reduction kernels for any processor. */
#define SET      reduce_scalar
#define SET_NAME "scalar"
#include "common/reduce_body.h"

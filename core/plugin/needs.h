/* What an optimizer asks for a parameter: whether it makes sense. */
#ifndef CORE_PLUGIN_NEEDS_H
#define CORE_PLUGIN_NEEDS_H

#include "zds/plugin.h"

/* What is wrong with what `describe` filled in, as a fault; NULL if nothing is. What makes sense
 * may still be more than a host can give. */
char *needs_fault(const zds_optim_ops *ops, const zds_param_needs *needs);
/* The same of the hyperparameters before and after describe. */
char *needs_hyper_fault(const zds_hyper *before, const zds_hyper *after);

#endif

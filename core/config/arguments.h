/* The training arguments beside a ds_config: fields of transformers' TrainingArguments. */
#ifndef CORE_CONFIG_ARGUMENTS_H
#define CORE_CONFIG_ARGUMENTS_H

#include <cjson/cJSON.h>
#include <stdbool.h>

/* Called for each thing that is wrong with the arguments: with the node it is about, and whether
 * its name is wrong, not its value. */
typedef void (*arguments_problem_fn)(void *user, const cJSON *node, bool at_name,
                                     const char *message);

/* A new object of the arguments in `tree`, an object, that are given and right: no unknown name, no
 * wrong type, no value out of range, no null. All that is wrong is reported. `report` may be NULL.
 * NULL if there is no memory. */
cJSON *arguments_read(const cJSON *tree, arguments_problem_fn report, void *user);

/* Whether TrainingArguments has a field of this name. */
bool arguments_have(const char *name);

#endif

/* What is wrong with a plugin, as text. A function that returns a fault returns NULL for "nothing
 * is wrong", so that a lack of memory for the text must not look like that. */
#ifndef CORE_PLUGIN_FAULT_H
#define CORE_PLUGIN_FAULT_H

#include <stdbool.h>

#include "zds/plugin.h"

/* The text; where there is no memory for it, a text that says so. Never NULL. */
char *fault_format(const char *format, ...) ZDS_PRINTF(1, 2) __attribute__((returns_nonnull));
/* The one that says that there is no memory, and whether a fault is that. */
char *fault_no_memory(void) __attribute__((returns_nonnull));
bool fault_is_memory(const char *fault);
void fault_free(char *fault); /* NULL is allowed */
/* What dlopen(path) said last, without the path in front, which whoever tells it says, too. Valid
 * until the next call of dlopen and its like. */
const char *fault_of_loader(const char *path) __attribute__((returns_nonnull));

#endif

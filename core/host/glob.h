/* Names chosen by patterns, as shells choose files. */
#ifndef CORE_HOST_GLOB_H
#define CORE_HOST_GLOB_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the whole name is as the pattern says: '*' stands for any characters, dots included, '?'
 * for one, [abc], [a-z] and [!a-z] for one that is, or is not, of a set; a character in brackets
 * stands for itself. Case matters. Time is at most proportional to the product of the lengths. */
bool glob_match(const char *pattern, const char *name);
/* What is wrong with a pattern, or NULL. */
const char *glob_fault(const char *pattern);
/* How many letters of the name would have to be others, more or fewer for it to match; '*' costs
 * nothing. SIZE_MAX where there is no memory. */
size_t glob_distance(const char *pattern, const char *name);

#endif

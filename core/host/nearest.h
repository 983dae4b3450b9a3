/* "Did you mean ...?": the name that a misspelt one was probably meant to be. */
#ifndef CORE_HOST_NEAREST_H
#define CORE_HOST_NEAREST_H

#include <stdbool.h>
#include <stddef.h>

/* How many letters must be inserted, removed, replaced or swapped with their neighbour to make one
 * from the other; case counts for nothing. Words longer than 63 letters are all far apart. */
size_t name_distance(const char *a, const char *b);
/* True if the distance is small enough for a word of this length to be a slip. */
bool name_is_near(const char *wanted, const char *candidate);

#endif

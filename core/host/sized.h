/* Filling structs that start with struct_size, for callers whose header may be older or newer. */
#ifndef CORE_HOST_SIZED_H
#define CORE_HOST_SIZED_H

#include <string.h>

/* Copies what both sides know of a struct, writes that size into its struct_size, and zeroes what
 * only the caller, who has `size` bytes there, knows. */
static inline void sized_fill(void *to, size_t size, const void *from, size_t own_size)
{
    size_t known = size < own_size ? size : own_size;
    memset(to, 0, size);
    memcpy(to, from, known);
    memcpy(to, &known, sizeof known < size ? sizeof known : size);
}

#endif

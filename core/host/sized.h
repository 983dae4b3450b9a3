/* Structs that start with struct_size, for callers whose header may be older or newer. */
#ifndef CORE_HOST_SIZED_H
#define CORE_HOST_SIZED_H

#include <stdbool.h>
#include <stddef.h>
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

/* Whether its maker has said how long it is: 0 is an oversight, not a struct of which nothing is
 * set. SIZED_NOT_SET is the text of the error, of the struct's name and struct_size. */
static inline bool sized_is_set(const void *given)
{
    size_t size = 0;
    if (given)
        memcpy(&size, given, sizeof size);
    return size >= sizeof size;
}
#define SIZED_NOT_SET "struct_size of the %s is %zu; set it to sizeof"

#endif

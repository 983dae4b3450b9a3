/* Structs that start with struct_size, for callers whose header may be older or newer. One that
 * comes in and is read has at least what it had in ABI 1.0 (sized_reaches), and what it has beyond
 * the reader's own is not looked at (sized_read). One that is filled for a caller has at least its
 * struct_size (sized_is_set), and gets what fits (sized_fill). */
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

/* What its maker says of its size; 0 where there is none. */
static inline size_t sized_told(const void *given)
{
    size_t size = 0;
    if (given)
        memcpy(&size, given, sizeof size);
    return size;
}

/* Whether its maker has said how long it is: 0 is an oversight, not a struct of which nothing is
 * set. SIZED_NOT_SET is the text of the error, of the struct's name and struct_size. */
static inline bool sized_is_set(const void *given)
{
    return sized_told(given) >= sizeof(size_t);
}
#define SIZED_NOT_SET "struct_size of the %s is %zu; set it to sizeof"

/* SIZED_TOO_SHORT is the text of the error, of the struct's name, struct_size and `least`. */
static inline bool sized_reaches(const void *given, size_t least)
{
    return sized_told(given) >= least;
}
#define SIZED_TOO_SHORT                                                                            \
    "struct_size of the %s is %zu, less than the %zu of ABI 1.0; set it to sizeof"

/* What both sides know; the rest of `to` stays. */
static inline void sized_read(void *to, size_t own_size, const void *given)
{
    size_t size = sized_told(given);
    memcpy(to, given, size < own_size ? size : own_size);
}

#endif

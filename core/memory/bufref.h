/* Places in memory that are named before they are used: only when something is about to be read or
 * written is an address made of one. */
#ifndef CORE_MEMORY_BUFREF_H
#define CORE_MEMORY_BUFREF_H

#include "memory/tier.h"

typedef struct bufref {
    const slab *slab; /* NULL: there is nothing */
    uint64_t offset;  /* bytes */
    zds_dtype dtype;
} bufref;

/* Elements from `first` of a slab that is an array. */
static inline bufref bufref_of(const slab *of, uint64_t first, zds_dtype dtype)
{
    return (bufref){of, first * zds_dtype_size(dtype), dtype};
}

/* The address in the slab's space, `bytes` further on; NULL if there is nothing, or in a file. */
static inline void *bufref_at(bufref b, uint64_t bytes)
{
    char *base = b.slab ? b.slab->block.pointer : NULL;
    return base ? base + b.offset + bytes : NULL;
}
static inline void *bufref_element(bufref b, uint64_t element)
{
    return bufref_at(b, element * zds_dtype_size(b.dtype));
}

/* So many elements further on. */
static inline bufref bufref_moved(bufref b, uint64_t elements)
{
    b.offset += elements * zds_dtype_size(b.dtype);
    return b;
}

#endif

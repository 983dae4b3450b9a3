/* Memory that is named before it is used: a slab is one allocation, a bufref a place in one. Only
 * when something is about to be read or written is an address made of it. */
#ifndef CORE_MEMORY_SLAB_H
#define CORE_MEMORY_SLAB_H

#include "zds/plugin.h"

typedef struct slab {
    void *base;            /* where its space reads and writes it; NULL: in a plan, or none */
    const void *read_only; /* the same bytes without the right to write, where that is possible */
    uint64_t bytes;
    uint64_t shared; /* of these, in pages that ranks of the node have in common */
    zds_device device;
    const char *purpose; /* as the ledger has it */
    zds_region region;   /* of the comm plugin that gave it; its base is NULL: the ledger did */
} slab;

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

/* The address, in the slab's space, `bytes` further on; NULL if there is nothing. */
static inline void *bufref_at(bufref b, uint64_t bytes)
{
    return b.slab && b.slab->base ? (char *)b.slab->base + b.offset + bytes : NULL;
}
static inline void *bufref_element(bufref b, uint64_t element)
{
    return bufref_at(b, element * zds_dtype_size(b.dtype));
}

#endif

/* The ledger of an engine's memory: every allocation has a purpose and a tier, and the report adds
 * them up. */
#ifndef CORE_HOST_MEMORY_H
#define CORE_HOST_MEMORY_H

#include "zds/engine.h"

/* Streams that an update walks along together must not lie a multiple of a large power of two
 * apart: they meet in the same memory banks and sets of the caches, and a processor that finds a
 * line of its first cache by a hash of the address (AMD's, of bits 12 to 27: Lipp et al. 2020,
 * "Take A Way") takes one for the other; four streams 256 MiB apart had a sixth of the speed.
 * Mappings lie one behind the other, so what is MEMORY_LARGE or larger is followed by a gap. */
enum { MEMORY_LARGE = 2 << 20, MEMORY_STAGGER = 65536 + 64 };

typedef struct memory memory;

memory *memory_create(void);
void memory_destroy(memory *m); /* frees what memory_alloc gave and nobody freed */

/* Zeroed bytes, in huge pages where they are large; NULL if there are none. `align`: a power of
 * two, or 0 for 64. `purpose` must outlive the ledger. Thread-safe. */
void *memory_alloc(memory *m, const char *purpose, size_t bytes, size_t align);
/* Likewise, entered under another tier than "host"; `tier` must outlive the ledger. */
void *memory_alloc_in(memory *m, const char *purpose, const char *tier, size_t bytes, size_t align);
void memory_free(memory *m, void *pointer);

/* From now on large blocks are promised without looking whether there is that much memory: for a
 * plan, which does not touch them. Before the ledger is shared. */
void memory_expect_untouched(memory *m);

/* Counts bytes that somebody else allocated; `shared` of them are in pages common to the node's
 * ranks. Negative numbers take away. */
void memory_note(memory *m, const char *purpose, const char *tier, int64_t bytes, int64_t shared);

bool memory_row(const memory *m, size_t i, zds_memory_row *row);

#endif

/* The ledger of an engine's memory: every allocation has a purpose and a tier, and the report adds
 * them up. */
#ifndef CORE_MEMORY_LEDGER_H
#define CORE_MEMORY_LEDGER_H

#include "zds/engine.h"

/* Streams that an update walks along together must not lie a multiple of a large power of two
 * apart: they meet in the same memory banks and sets of the caches, and a processor that finds a
 * line of its first cache by a hash of the address (AMD's, of bits 12 to 27: Lipp et al. 2020,
 * "Take A Way") takes one for the other; four streams 256 MiB apart had a sixth of the speed.
 * Mappings lie one behind the other, so what is LEDGER_LARGE or larger is followed by a gap. */
enum { LEDGER_LARGE = 2 << 20, LEDGER_STAGGER = 65536 + 64 };

typedef struct ledger ledger;

ledger *ledger_create(void);
void ledger_destroy(ledger *m); /* frees what ledger_alloc gave and nobody freed */

/* Zeroed bytes, in huge pages where they are large; NULL if there are none. `align`: a power of
 * two, or 0 for 64. `purpose` must outlive the ledger. Thread-safe. */
void *ledger_alloc(ledger *m, const char *purpose, size_t bytes, size_t align);
/* Likewise, entered under another tier than "host"; `tier` must outlive the ledger. */
void *ledger_alloc_in(ledger *m, const char *purpose, const char *tier, size_t bytes, size_t align);
void ledger_free(ledger *m, void *pointer);

/* From now on large blocks are counted but have no memory: their addresses fault. For a plan, which
 * does not touch them. Before the ledger is shared. False without memory for that. */
bool ledger_count_only(ledger *m);

/* Counts bytes that somebody else allocated; `shared` of them are in pages common to the node's
 * ranks. Negative numbers take away. */
void ledger_note(ledger *m, const char *purpose, const char *tier, int64_t bytes, int64_t shared);

bool ledger_row(const ledger *m, size_t i, zds_memory_row *row);

#endif

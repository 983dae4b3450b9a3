/* Memory between pages that cannot be touched, which remembers what it is, so that a plugin that
 * reaches beyond it is told where. */
#ifndef ZDS_PLUGIN_PROBE_AREA_H
#define ZDS_PLUGIN_PROBE_AREA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct area {
    char what[64]; /* "gradient of block.weight" */
    char *data;    /* [bytes]; zeroed; NULL if there are none */
    size_t bytes;
    char *map;
    size_t map_bytes;
    bool sealed, retired;
} area;

/* `tight`: its end touches the forbidden page, else its beginning does, at a page's start; the rest
 * of its pages is filled with a pattern. Ends the process without memory. */
area *area_make(size_t bytes, bool tight, const char *what, const char *owner);
/* Areas that are made from now on lie from that address on, where there is room. */
void area_begin_at(uintptr_t address);
void area_free(area *a); /* NULL is allowed */
/* Forbids writing to its pages, or allows it again. */
void area_seal(area *a, bool sealed);
/* Forbids all use of it for good, as what was valid until a call returned. */
void area_retire(area *a);
/* What was written outside `data` on the area's own pages, as a fault; NULL if nothing was. */
char *area_fault(const area *a);

/* From now on a SIGSEGV or SIGBUS says on `fd`, as a result of the check, which area it was in. */
void area_catch(int fd);

#endif

/* Leaves a file in its folder. */
#include "heap_tier.h"

#include <stdio.h>

static void close_tier(void *self)
{
    const heap *h = self;
    char path[300];
    snprintf(path, sizeof path, "%s/left", h->folder);
    FILE *file = fopen(path, "w");
    if (file)
        fclose(file);
    heap_close(self);
}

HEAP_BUT(.close = close_tier);

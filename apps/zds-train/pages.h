/* Large blocks of memory. */
#ifndef ZDS_TRAIN_PAGES_H
#define ZDS_TRAIN_PAGES_H

#include <stddef.h>

/* Zeros on huge pages where the system has them: a matrix product walks over many rows at a time,
 * each on a page of its own. Pages come when they are first used. NULL without memory. */
void *pages_take(size_t bytes);
void pages_give(void *pages, size_t bytes); /* NULL is nothing */

#endif

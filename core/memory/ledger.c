/* The ledger of an engine's memory: every allocation has a purpose and a tier, and the report adds
 * them up. */
#include "memory/ledger.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    MAX_ROWS = 48,
    COUNTED_BYTES = 1 << 20, /* of addresses for blocks that are only counted, */
    COUNTED_STEP = 64        /* so far apart */
};

typedef struct block {
    struct block *next;
    void *pointer;
    size_t bytes, mapped_bytes; /* mapped_bytes: 0 where malloc gave it, */
    bool counted;               /* or nobody did */
    const char *purpose, *tier;
} block;

struct ledger {
    pthread_mutex_t lock;
    zds_memory_row rows[MAX_ROWS];
    size_t row_count;
    block *blocks;
    char *counted; /* [COUNTED_BYTES] without rights; NULL: blocks have memory */
    size_t counted_used;
};

ledger *ledger_create(void)
{
    ledger *m = calloc(1, sizeof *m);
    if (m)
        pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void release(block *b)
{
    if (b->counted)
        ; /* nothing is behind it */
    else if (b->mapped_bytes)
        munmap(b->pointer, b->mapped_bytes);
    else
        free(b->pointer);
    free(b);
}

void ledger_destroy(ledger *m)
{
    if (!m)
        return;
    for (block *b = m->blocks; b;) {
        block *next = b->next;
        release(b);
        b = next;
    }
    if (m->counted)
        munmap(m->counted, COUNTED_BYTES);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void note(ledger *m, const char *purpose, const char *tier, int64_t bytes, int64_t shared)
{
    size_t i = 0;
    while (i < m->row_count &&
           (strcmp(m->rows[i].purpose, purpose) != 0 || strcmp(m->rows[i].tier, tier) != 0))
        i++;
    if (i == MAX_ROWS)
        i--; /* the last row takes what has no room of its own */
    else if (i == m->row_count)
        m->rows[m->row_count++] =
            (zds_memory_row){.struct_size = sizeof *m->rows, .purpose = purpose, .tier = tier};
    zds_memory_row *row = &m->rows[i];
    row->bytes += (uint64_t)bytes;
    row->shared += (uint64_t)shared;
    if (row->bytes > row->peak)
        row->peak = row->bytes;
}

bool ledger_count_only(ledger *m)
{
    void *base = mmap(NULL, COUNTED_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m->counted = base == MAP_FAILED ? NULL : base;
    return m->counted != NULL;
}

/* Each has an address of its own, so that it can be given back. */
static void *count_only(ledger *m)
{
    if (m->counted_used == COUNTED_BYTES)
        return NULL;
    m->counted_used += COUNTED_STEP;
    return m->counted + m->counted_used - COUNTED_STEP;
}

void ledger_note(ledger *m, const char *purpose, const char *tier, int64_t bytes, int64_t shared)
{
    pthread_mutex_lock(&m->lock);
    note(m, purpose, tier, bytes, shared);
    pthread_mutex_unlock(&m->lock);
}

void *ledger_alloc(ledger *m, const char *purpose, size_t bytes, size_t align)
{
    return ledger_alloc_in(m, purpose, "host", bytes, align);
}

void *ledger_alloc_in(ledger *m, const char *purpose, const char *tier, size_t bytes, size_t align)
{
    align = align < 64 ? 64 : align;
    size_t size = bytes ? (bytes + align - 1) & ~(align - 1) : align;
    block *b = calloc(1, sizeof *b);
    if (size < bytes || size > SIZE_MAX / 2 || !b) {
        free(b);
        return NULL;
    }
    *b = (block){.bytes = size, .purpose = purpose, .tier = tier};
    if (size >= LEDGER_LARGE && m->counted) {
        b->counted = true;
        b->pointer = count_only(m);
    } else if (size >= LEDGER_LARGE && align <= 4096) {
        b->mapped_bytes = size + LEDGER_STAGGER;
        b->pointer =
            mmap(NULL, b->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (b->pointer == MAP_FAILED)
            b->pointer = NULL;
        else
            madvise(b->pointer, b->mapped_bytes, MADV_HUGEPAGE);
    } else {
        b->pointer = aligned_alloc(align, size);
        if (b->pointer)
            memset(b->pointer, 0, size);
    }
    if (!b->pointer) {
        free(b);
        return NULL;
    }
    pthread_mutex_lock(&m->lock);
    b->next = m->blocks;
    m->blocks = b;
    note(m, purpose, tier, (int64_t)size, 0);
    pthread_mutex_unlock(&m->lock);
    return b->pointer;
}

void ledger_free(ledger *m, void *pointer)
{
    if (!pointer)
        return;
    pthread_mutex_lock(&m->lock);
    for (block **link = &m->blocks; *link; link = &(*link)->next)
        if ((*link)->pointer == pointer) {
            block *b = *link;
            *link = b->next;
            note(m, b->purpose, b->tier, -(int64_t)b->bytes, 0);
            release(b);
            break;
        }
    pthread_mutex_unlock(&m->lock);
}

bool ledger_row(const ledger *m, size_t i, zds_memory_row *row)
{
    if (i >= m->row_count)
        return false;
    *row = m->rows[i];
    return true;
}
